//! The command that runs in a guest and looks, through a mount or in a local tree, whether everything is there.

use super::content::Writer;
use super::directory::Root;
use super::verdict::{Allowed, Point, judge};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Arguments of the hidden command `check`.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// The mounted volume, or a local tree
    #[arg(long)]
    pub tree: PathBuf,
    /// It is no mount but a local tree
    #[arg(long)]
    pub local: bool,
    /// RUN:THREAD:FROM:TO of each directory to look at
    pub allowed: Vec<Allowed>,
}

/// What was found in one directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Found {
    /// Whose directory: the run.
    pub run: u32,
    /// And the thread.
    pub thread: u32,
    /// The state that it shows; `None` when it shows none that is allowed.
    pub point: Option<(u64, u64)>,
    /// What is wrong.
    pub wrong: Vec<String>,
}

impl Found {
    /// Whose directory.
    pub fn writer(&self) -> Writer {
        Writer { run: self.run, thread: self.thread }
    }

    /// The state that it shows.
    pub fn point(&self) -> Option<Point> {
        self.point.map(|(operations, blocks)| Point { operations, blocks })
    }
}

/// Looks, and prints one line of JSON for each directory.
pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.allowed.is_empty() {
        bail!("nothing to look at: name the directories");
    }
    let root = match arguments.local {
        true => Root::of_tree(&arguments.tree)?,
        false => Root::of_mount(&arguments.tree)?,
    };
    for allowed in &arguments.allowed {
        println!("{}", serde_json::to_string(&look(&root, allowed)?)?);
    }
    Ok(())
}

fn look(root: &Root, allowed: &Allowed) -> Result<Found> {
    let Writer { run, thread } = allowed.writer;
    let seen = root.read(allowed.writer).with_context(|| format!("reading the directory of {allowed}"))?;
    Ok(match judge(allowed, &seen) {
        Ok(point) => Found { run, thread, point: Some((point.operations, point.blocks)), wrong: Vec::new() },
        Err(wrong) => Found { run, thread, point: None, wrong },
    })
}
