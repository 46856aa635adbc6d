//! The harness's own commands inside guests: started by scenarios through the agent, not by people.

use crate::load::{check, generate};
use crate::pair::{tree, watch};
use anyhow::Result;

/// What can be started in a guest.
#[derive(clap::Subcommand, Debug)]
pub enum GuestCommand {
    /// Put load on a mounted volume and report each answered operation
    #[command(hide = true)]
    Load(generate::Arguments),
    /// Look whether everything that was answered is there
    #[command(hide = true)]
    Check(check::Arguments),
    /// Describe a directory tree, one line for each name
    #[command(hide = true)]
    Tree(tree::Arguments),
    /// Tell a node's status again and again
    #[command(hide = true)]
    Watch(watch::Arguments),
}

impl GuestCommand {
    /// Carries it out.
    pub fn run(&self) -> Result<()> {
        match self {
            GuestCommand::Load(arguments) => generate::run(arguments),
            GuestCommand::Check(arguments) => check::run(arguments),
            GuestCommand::Tree(arguments) => tree::run(arguments),
            GuestCommand::Watch(arguments) => watch::run(arguments),
        }
    }
}
