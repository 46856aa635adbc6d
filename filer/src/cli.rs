//! The command line of `twinfiler`.
//!
//! Invariants: every failure ends in one message that says what to do, on standard error, and in an exit code
//! of [`ExitCode`]; what a script wants to read goes to standard output and nothing else does. What can go
//! wrong: everything that an operator can mistype; nothing of it may panic or overwrite.

mod args;
mod commands;
mod exit;
mod init;
mod keys;
mod logging;
mod paths;
mod preflight;
mod release;
mod serve;
mod split;
mod unblocked;
mod verify;

pub use args::{Arguments, Command};
pub use exit::{ExitCode, Failure, exit_code_of};
pub use preflight::{Preflight, preflight};

use clap::Parser;
use std::ffi::OsString;
use std::io::Write;

/// Runs the command of `arguments` (the program's name first) and returns the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Also --help and --version come this way; a closed pipe is no reason to complain.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::Usage } else { ExitCode::Ok };
        }
    };
    match commands::carry_out(arguments) {
        Ok(()) => ExitCode::Ok,
        Err(error) => {
            // Nothing is left to be told when standard error is closed.
            let _ = writeln!(std::io::stderr(), "twinfiler: {}", told_once(&error));
            exit_code_of(&error)
        }
    }
}

/// The error and its causes, without those that the text before them quotes already.
fn told_once(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text {
        text if text.is_empty() => cause,
        text if text.contains(&cause) => text,
        text => format!("{text}: {cause}"),
    })
}
