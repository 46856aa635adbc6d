//! scratch
mod interrupt;
mod load;
mod oracle;
mod packages;
mod random;
mod steps;
mod tidy;
mod tree;
mod workspace;
fn main() {}
