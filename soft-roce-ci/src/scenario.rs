//! What a scenario is, and what it is given.

use crate::lab::{Lab, Spec};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A test in guests: short, readable, one file.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows, in one line.
    pub about: &'static str,
    /// What machines `shell` brings up for people.
    pub machines: fn() -> Spec,
    /// Passes or says what is wrong.
    pub run: fn(&Context) -> Result<()>,
}

/// What a running scenario is given.
pub struct Context {
    program: Option<PathBuf>,
    logs: PathBuf,
}

impl Context {
    /// `logs` is this run's own directory.
    pub fn new(program: Option<PathBuf>, logs: PathBuf) -> Context {
        Context { program, logs }
    }

    /// The same once more, with logs of its own.
    pub fn attempt(&self, number: usize) -> Context {
        Context { program: self.program.clone(), logs: self.logs.join(format!("attempt-{number}")) }
    }

    /// The program under test, by a path that holds on the host and in guests.
    pub fn program(&self) -> Result<&Path> {
        self.program.as_deref().context("this scenario needs the program twinfiler: say where with --program")
    }

    /// Where everything that may explain a failure goes.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Brings up machines whose logs are this run's.
    pub fn lab(&self, spec: &Spec) -> Result<Lab> {
        Lab::start(spec, &self.logs)
    }

    /// Keeps a text among the logs.
    pub fn note(&self, name: &str, text: &str) -> Result<()> {
        let path = self.logs.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}
