//! The pair and its witness, searched exhaustively in a small scope: every order of events, with every choice of a
//! bounded number of faults, over the real machine.
//!
//! What is searched is `pair::Pair` itself, twice, with the rules of its runtime around it (`executor`), a log
//! of a few records, and a network and a witness that fail (`actions`). The bounds are in `faults`; what must
//! never happen is in [`state::Breach`]; and from every state, once nothing fails any more, the pair must be
//! mirrored again within a bounded time ([`scope::Scope::heals`]).
//!
//! What a search does not see: more faults than the bound, more records, clocks that drift (both tick
//! together), one clock's tick inside the other's; the random simulation next door does those.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod actions;
#[path = "../sim/canary.rs"]
mod canary;
#[path = "../sim/disk.rs"]
mod disk;
mod executor;
mod faults;
mod scope;
mod state;

use canary::Canary;
use faults::Faults;
use scope::Scope;

#[test]
fn probe() {
    let env = |name: &str, or: u8| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(or);
    let total = env("TOTAL", 2);
    let faults = Faults {
        total,
        crashes: env("CRASHES", 2),
        cuts: env("CUTS", 2),
        holds: env("HOLDS", 0),
        pauses: env("PAUSES", 0),
        witness: env("WITNESS", 0),
        operator: env("OPERATOR", 0),
        forces: env("FORCES", 0),
        forgets: env("FORGETS", 0),
    };
    let canary = match env("CANARY", 9) {
        n @ 0..5 => Some(Canary::ALL[n as usize]),
        _ => None,
    };
    let outcome = Scope { faults, writes: env("WRITES", 1), witness: env("NOWITNESS", 0) == 0, canary, ..Scope::default() }.search();
    println!("{outcome}");
}
