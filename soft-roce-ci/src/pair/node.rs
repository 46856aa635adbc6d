//! One node in its guest: filesystem, configuration, daemon, and a watch on its status.

use super::clock::ClockCheck;
use super::followed::{Followed, Over};
use super::keys::Doors;
use super::plan::{BASE, CONFIG, CONTROL, Plan, VOLUME};
use super::primaries::Primaries;
use super::view::View;
use crate::agent::protocol::{End, Stream};
use crate::lab::{Guest, Side};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Making and mounting filesystems, making a log.
const PREPARE_LIMIT: Duration = Duration::from_secs(90);

/// Any other command of the node.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// Pause between two questions for its status.
const WATCH_INTERVAL_MS: u64 = 150;

/// The last lines of a log that are shown with an error.
const TAIL_LINES: usize = 25;

/// The exit code for a configuration that cannot be.
const CONFIGURATION: i32 = 78;

/// The signal that ends a daemon cleanly.
const SIGTERM: i32 = 15;

/// The paths of programs in a guest that is started without a shell's settings.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A status and when it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What the node said.
    pub view: View,
    /// When it arrived here. It was said a moment before.
    pub at: Instant,
}

#[derive(Default)]
struct Watched {
    last: Option<Seen>,
    answers: bool,
    clock: ClockCheck,
}

/// See the module.
pub struct Node {
    side: Side,
    program: PathBuf,
    logs: PathBuf,
    daemon: Option<Followed>,
    watch: Option<Followed>,
    watched: Arc<Mutex<Watched>>,
}

impl Node {
    /// A node whose guest has nothing yet.
    pub fn new(side: Side, program: &Path, logs: &Path) -> Node {
        let (program, logs) = (program.to_owned(), logs.to_owned());
        Node { side, program, logs, daemon: None, watch: None, watched: Arc::default() }
    }

    /// Makes filesystems, log and local tree in a new guest.
    pub fn make(&self, guest: &Guest, plan: &Plan, doors: &Doors) -> Result<()> {
        shell(guest, &plan.format_script())?;
        self.mount(guest, plan, doors)?;
        self.init(guest, plan)
    }

    /// Makes a log, and the local tree if there is none yet.
    pub fn init(&self, guest: &Guest, plan: &Plan) -> Result<()> {
        let mut argv = vec![self.program()?.to_owned()];
        argv.extend(plan.init_arguments());
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        guest.run(&argv, PREPARE_LIMIT)?.ok().map(drop)
    }

    /// Mounts the filesystems and writes the configuration: after each boot.
    pub fn mount(&self, guest: &Guest, plan: &Plan, doors: &Doors) -> Result<()> {
        shell(guest, &plan.mount_script())?;
        guest.write_file(CONFIG, plan.configuration(self.side, doors).as_bytes())
    }

    /// Starts the daemon and the watch on it.
    pub fn start(&mut self, guest: &Guest, harness: &str, primaries: &Arc<Mutex<Primaries>>) -> Result<()> {
        let serve = guest.start(&[self.program()?, "serve", "--config", CONFIG], None)?;
        let mut log = File::options().create(true).append(true).open(self.log_path())?;
        // A full disk of the host shows in what the scenario itself writes.
        let keep = move |_: Stream, text: &str| drop(log.write_all(text.as_bytes()));
        let name = format!("node-{}", self.side.name());
        self.daemon = Some(Followed::start(&name, serve, keep)?);
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = Watched::default();
        let interval = WATCH_INTERVAL_MS.to_string();
        let watch = [harness, "watch", "--control", CONTROL, "--interval-ms", &interval];
        let (watched, primaries, side) = (Arc::clone(&self.watched), Arc::clone(primaries), self.side);
        let mut history = History::open(&self.logs.join(format!("{name}-status.log")))?;
        let take = move |stream: Stream, text: &str| {
            if stream == Stream::Stderr {
                return;
            }
            let view = View::of_line(text);
            history.note(view.as_ref());
            let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
            watched.answers = view.is_some();
            if let Some(view) = view {
                primaries.lock().unwrap_or_else(PoisonError::into_inner).observe(side, &view);
                let at = Instant::now();
                if let Some(clock) = view.clock() {
                    watched.clock.observe(clock, at);
                }
                watched.last = Some(Seen { view, at });
            }
        };
        self.watch = Some(Followed::start(&format!("{name}-status"), guest.spawn(&watch)?, take)?);
        Ok(())
    }

    /// The guest was switched off.
    pub fn forget(&mut self) {
        self.daemon = None;
        self.watch = None;
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = Watched::default();
    }

    /// The last status, while the node answers.
    pub fn seen(&self) -> Option<Seen> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.answers { watched.last.clone() } else { None }
    }

    /// A status that arrived after `since`.
    pub fn view_since(&self, since: Instant) -> Option<View> {
        self.seen().filter(|seen| seen.at > since).map(|seen| seen.view)
    }

    /// An error when the daemon ended by itself, or the guest's clock runs at a rate of its own.
    pub fn check(&self) -> Result<()> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wrong) = watched.clock.wrong() {
            bail!("the guest of node {} is of no use: {wrong}", self.side.name());
        }
        drop(watched);
        match self.daemon.as_ref().and_then(Followed::over) {
            Some(Over::Ended(end)) => {
                bail!("twinfiler on node {} ended by itself: {end:?}\n{}", self.side.name(), self.tail())
            }
            Some(Over::GuestGone) => bail!("the guest of node {} is gone", self.side.name()),
            None => Ok(()),
        }
    }

    /// SIGTERM; the daemon must end cleanly.
    pub fn stop(&mut self) -> Result<()> {
        let daemon = self.daemon.take().context("the node was not started")?;
        daemon.signal(SIGTERM)?;
        match daemon.wait_over(COMMAND_LIMIT)? {
            Over::Ended(End::Exited(0)) => {}
            other => bail!("node {} ended with {other:?} after SIGTERM\n{}", self.side.name(), self.tail()),
        }
        if let Some(watch) = self.watch.take() {
            watch.signal(SIGTERM)?;
        }
        self.forget();
        Ok(())
    }

    /// Starts the daemon, which must refuse to run: with the exit code for a wrong configuration, and an error that has
    /// these words in it.
    pub fn expect_refusal(&self, guest: &Guest, words: &[&str]) -> Result<()> {
        let refused = guest.run(&[self.program()?, "serve", "--config", CONFIG], COMMAND_LIMIT)?;
        let said = format!("{}{}", refused.stdout, refused.stderr);
        if refused.end != End::Exited(CONFIGURATION) {
            bail!("twinfiler should have refused to run, but: {:?}\n{said}", refused.end);
        }
        match words.iter().find(|word| !said.contains(**word)) {
            Some(word) => bail!("the refusal does not say {word:?}:\n{said}"),
            None => Ok(()),
        }
    }

    /// Runs `twinfiler` with these arguments and the node's configuration; it must succeed. Gives its output.
    pub fn command(&self, guest: &Guest, arguments: &[&str]) -> Result<String> {
        let mut argv = vec![self.program()?, "--config", CONFIG];
        argv.extend(arguments);
        guest.run(&argv, COMMAND_LIMIT)?.ok()
    }

    /// Brings the local tree up to date.
    pub fn consistency_point(&self, guest: &Guest) -> Result<()> {
        self.command(guest, &["consistency-point", VOLUME]).map(drop)
    }

    /// Describes the local tree.
    pub fn local_tree(&self, guest: &Guest, harness: &str) -> Result<String> {
        guest.run(&[harness, "tree", BASE], COMMAND_LIMIT)?.ok()
    }

    /// The file on the host that holds what the daemon said.
    pub fn log_path(&self) -> PathBuf {
        self.logs.join(format!("node-{}.log", self.side.name()))
    }

    /// Everything that the daemon said so far, in all its lives.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// The last of it.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn program(&self) -> Result<&str> {
        self.program.to_str().context("the path of the program is not UTF-8")
    }
}

/// Runs a shell script in a guest; it must succeed.
pub fn shell(guest: &Guest, script: &str) -> Result<String> {
    guest.run(&["env", PATH, "sh", "-c", script], PREPARE_LIMIT)?.ok()
}

/// A file with each change of the status, in brief: the first thing to read when a scenario fails.
struct History {
    file: File,
    last: String,
    started: Instant,
}

impl History {
    fn open(path: &Path) -> Result<History> {
        let file = File::options().create(true).append(true).open(path)?;
        Ok(History { file, last: String::new(), started: Instant::now() })
    }

    fn note(&mut self, view: Option<&View>) {
        let brief = view.map_or_else(|| "no answer".to_owned(), View::brief);
        if brief != self.last {
            // As above: not to be noticed here.
            let _ = writeln!(self.file, "{:9.3} {brief}", self.started.elapsed().as_secs_f64());
            self.last = brief;
        }
    }
}
