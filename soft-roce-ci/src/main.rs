//! `soft-roce-ci`: runs scenarios, or whatever you like, in guests with Soft-RoCE.
//!
//! Exit codes: 0 all passed, 1 something failed, 2 wrong arguments, 3 guests cannot run on this machine. `exec` ends
//! with its command's own code.

mod cli;

use clap::Parser;

fn main() {
    std::process::exit(cli::run(cli::Arguments::parse()));
}
