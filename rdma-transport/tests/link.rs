//! What every transport must do, run over each.

mod common;
use common::*;

#[test]
fn x() {
    let _ = link(Kind::Tcp, 1 << 16, |_| {});
}
