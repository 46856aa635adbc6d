//! A load of random operations on its own subtree, checked against the model.

use super::model::Model;
use super::operation::{Operation, choose};
use super::perform::{clear_umask, perform};
use super::verify::resolve;
use crate::load::{Checked, Load};
use crate::random::Random;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Operations of one step: between them the writer does not look whether its mount still is the right one.
const OPERATIONS_PER_STEP: u64 = 4;

/// A writer with its subtree's model.
pub struct Writer {
    name: String,
    random: Random,
    model: Model,
    in_doubt: Option<Operation>,
    pause: Duration,
}

impl Writer {
    /// A writer whose subtree is the directory `name` in the mount. `pause` after each step limits the load.
    pub fn new(name: &str, random: Random, pause: Duration) -> Self {
        clear_umask();
        Writer { name: name.to_owned(), random, model: Model::default(), in_doubt: None, pause }
    }

    fn check(&mut self, root: &Path) -> io::Result<Checked> {
        if !root.try_exists()? {
            return Ok(Checked {
                compared: 1,
                lost: vec![format!("{}: the whole subtree is missing", root.display())],
            });
        }
        let outcome = resolve(root, &mut self.model, self.in_doubt.as_ref())?;
        let lost = outcome.err().unwrap_or_default();
        let lost = lost.into_iter().map(|line| format!("{}: {line}", root.display())).collect();
        Ok(Checked { compared: self.model.len() as u64, lost })
    }
}

impl Load for Writer {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn arrive(&mut self, mount: &Path) -> io::Result<Checked> {
        let root = mount.join(&self.name);
        // Only the first arrival, which may itself be interrupted, may find nothing there.
        if self.model.len() == 0 && !root.try_exists()? {
            std::fs::create_dir(&root)?;
        }
        let checked = self.check(&root)?;
        // Kept until a check has come to its end: the check may be interrupted too.
        self.in_doubt = None;
        Ok(checked)
    }

    fn step(&mut self, mount: &Path) -> io::Result<u64> {
        let root = mount.join(&self.name);
        for _ in 0..OPERATIONS_PER_STEP {
            let operation = choose(&mut self.random, &self.model);
            if let Err(error) = perform(&root, &operation) {
                let detailed = format!("{operation:?}: {error}");
                self.in_doubt = Some(operation);
                return Err(match error.raw_os_error() {
                    Some(code) if crate::load::is_lost_connection(&error) => {
                        io::Error::from_raw_os_error(code)
                    }
                    _ => io::Error::new(error.kind(), detailed),
                });
            }
            operation.apply(&mut self.model);
        }
        if !self.pause.is_zero() {
            std::thread::sleep(self.pause);
        }
        Ok(OPERATIONS_PER_STEP)
    }

    fn check_copy(&mut self, tree: &Path) -> io::Result<Checked> {
        self.check(&tree.join(&self.name))
    }
}
