//! Clients at work on a mount, who remember exactly what was answered.

use super::{ANSWER_LIMIT, within};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Pause of a client after each step: the machine has other work, and logs in tests are short.
const PAUSE: Duration = Duration::from_millis(3);
/// Longest content of one file.
const MAX_CONTENT_BYTES: u64 = 20_000;

/// What one client was answered.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Files that were acknowledged, with the seed of their content.
    pub there: BTreeMap<String, u64>,
    /// Names that were acknowledged to be gone.
    pub gone: BTreeSet<String>,
    /// Names of the operation that was not answered, or answered with an error.
    pub in_doubt: BTreeSet<String>,
    /// How it ended, when it was not told to.
    pub error: Option<io::Error>,
    /// Longest time between two answers.
    pub longest_wait: Duration,
}

/// Running clients.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<Receiver<Outcome>>,
}

impl Load {
    /// `clients` clients that create, rename and remove files in `mount`, each below a directory of its own that
    /// begins with `prefix`, until they are stopped or answered with an error.
    pub fn start(mount: &Path, prefix: &str, clients: usize) -> Load {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..clients)
            .map(|number| {
                let (told, outcome) = channel();
                let (stop, answered) = (stop.clone(), answered.clone());
                let (mount, dir) = (mount.to_owned(), format!("{prefix}{number}"));
                std::thread::spawn(move || {
                    let client = Client { mount, dir, stop, answered, outcome: Outcome::default() };
                    let _nobody_waits = told.send(client.run());
                });
                outcome
            })
            .collect();
        Load { stop, answered, clients }
    }

    /// Operations answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// Waits until `more` operations were answered.
    pub fn wait_for(&self, more: u64) {
        let (target, deadline) = (self.answered() + more, Instant::now() + ANSWER_LIMIT);
        while self.answered() < target {
            assert!(Instant::now() < deadline, "the load stands still at {}", self.answered());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops the clients and returns what each was answered.
    pub fn finish(self) -> Vec<Outcome> {
        self.stop.store(true, Ordering::SeqCst);
        self.join()
    }

    /// Waits until the clients end with an error.
    pub fn join(self) -> Vec<Outcome> {
        let outcome = |client: Receiver<Outcome>| {
            client.recv_timeout(ANSWER_LIMIT).expect("a client hangs: its operation is not answered")
        };
        self.clients.into_iter().map(outcome).collect()
    }
}

struct Client {
    mount: PathBuf,
    dir: String,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    outcome: Outcome,
}

impl Client {
    fn run(mut self) -> Outcome {
        let dir = self.mount.join(&self.dir);
        let mut last = Instant::now();
        let mut result = fs::create_dir(&dir);
        for number in 0_u64.. {
            if result.is_err() || self.stop.load(Ordering::SeqCst) {
                break;
            }
            result = self.step(number);
            let now = Instant::now();
            self.outcome.longest_wait = self.outcome.longest_wait.max(now - last);
            last = now;
            std::thread::sleep(PAUSE);
        }
        self.outcome.error = result.err();
        self.outcome
    }

    fn step(&mut self, number: u64) -> io::Result<()> {
        let name = format!("{}/f{number}", self.dir);
        self.attempt(&[&name], |mount| fs::write(mount.join(&name), content(number)))?;
        self.outcome.there.insert(name.clone(), number);
        if number % 3 == 1 {
            let new = format!("{}/r{number}", self.dir);
            self.attempt(&[&name, &new], |mount| fs::rename(mount.join(&name), mount.join(&new)))?;
            self.outcome.there.remove(&name);
            self.outcome.gone.insert(name);
            self.outcome.there.insert(new, number);
        }
        if number % 5 == 4 {
            let old = format!("{}/f{}", self.dir, number - 1);
            if self.outcome.there.contains_key(&old) {
                self.attempt(&[&old], |mount| fs::remove_file(mount.join(&old)))?;
                self.outcome.there.remove(&old);
                self.outcome.gone.insert(old);
            }
        }
        Ok(())
    }

    fn attempt(&mut self, names: &[&String], action: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        self.outcome.in_doubt = names.iter().map(|name| (*name).clone()).collect();
        action(&self.mount)?;
        self.outcome.in_doubt.clear();
        self.answered.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// The content of the file number `seed`.
fn content(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let len = state % MAX_CONTENT_BYTES;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Everything that was acknowledged is in `root`, by content; what was removed is not.
pub fn check_all(root: &Path, outcomes: &[Outcome]) {
    let mut wrong = Vec::new();
    for outcome in outcomes {
        for (name, seed) in outcome.there.iter().filter(|(name, _)| !outcome.in_doubt.contains(*name)) {
            let path = root.join(name);
            match within(ANSWER_LIMIT, name, move || fs::read(path)) {
                Ok(bytes) if bytes == content(*seed) => {}
                Ok(bytes) => wrong.push(format!("{name}: other content, {} bytes", bytes.len())),
                Err(error) => wrong.push(format!("{name}: {error}")),
            }
        }
        for name in outcome.gone.iter().filter(|name| !outcome.in_doubt.contains(*name)) {
            if root.join(name).exists() {
                wrong.push(format!("{name}: was removed, and is there"));
            }
        }
    }
    assert!(wrong.is_empty(), "acknowledged and lost:\n{}", wrong.join("\n"));
}
