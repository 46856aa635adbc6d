//! Processes of the host that must not outlive us: the emulators, a scenario's witness.
//!
//! Three things hold that. Dropping a [`HostProcess`] kills it. A signal that ends us kills all of them first and
//! removes the labs' directories ([`end_with_us`]). And when we are killed outright, the kernel kills them
//! (`setpriv --pdeathsig`). That last one is tied to the *thread* that started the process, so all are started by
//! one thread that lives as long as we do.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// What a shell reports for a program that Ctrl-C ended.
pub const INTERRUPTED_EXIT_CODE: i32 = 130;

/// What is to be started.
pub struct Start {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// Where it runs; here when `None`.
    pub directory: Option<PathBuf>,
    /// Where its output goes, and its errors.
    pub output: fs::File,
}

/// A process of the host. Killed when dropped.
pub struct HostProcess {
    child: Arc<Mutex<Child>>,
    pid: Pid,
}

impl HostProcess {
    /// Starts a process without input.
    pub fn start(start: Start) -> Result<HostProcess> {
        let program = start.argv.first().cloned().unwrap_or_default();
        let child =
            spawner().spawn(start).with_context(|| format!("cannot start {}", program.to_string_lossy()))?;
        let pid = Pid::from_child(&child);
        let child = Arc::new(Mutex::new(child));
        let mut registry = registry();
        registry.children.retain(|known| known.strong_count() > 0);
        registry.children.push(Arc::downgrade(&child));
        Ok(HostProcess { child, pid })
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.lock().try_wait().ok().flatten()
    }

    /// Kills it at once and waits for its end.
    pub fn kill(&self) {
        kill(&mut self.lock());
    }

    /// Stops it, as Ctrl-Z does, until [`HostProcess::proceed`].
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    pub fn proceed(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let mut child = self.lock();
        // Only a child that was not waited for yet is sure to own its number.
        if child.try_wait()?.is_some() {
            anyhow::bail!("the process has ended");
        }
        Ok(rustix::process::kill_process(self.pid, signal)?)
    }

    fn lock(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

fn kill(child: &mut Child) {
    // Errors mean that it has ended and was waited for.
    let _ = child.kill();
    let _ = child.wait();
}

/// A directory that is removed when dropped, and also when a signal ends us.
pub struct LabDirectory {
    path: PathBuf,
    handle: fs::File,
}

impl LabDirectory {
    /// Makes a directory in `parent`, and removes those of runs that were killed.
    pub fn create(parent: &Path) -> Result<LabDirectory> {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        remove_orphans(parent);
        let prefix = format!("{}-", std::process::id());
        let directory = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(parent)
            .with_context(|| format!("cannot create a directory in {}", parent.display()))?;
        let handle =
            fs::File::open(directory.path()).context("cannot open a directory that was just made")?;
        let path = directory.keep();
        registry().directories.push(path.clone());
        Ok(LabDirectory { path, handle })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path to a socket in it that is short enough for a socket's address, wherever the directory is.
    pub fn socket(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.handle.as_raw_fd()))
    }
}

impl Drop for LabDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        registry().directories.retain(|known| *known != self.path);
    }
}

/// Removes the directories of processes that are gone. Their names begin with the process's number.
fn remove_orphans(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|name| name.split('-').next()).and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// What must be ended with us.
#[derive(Default)]
struct Registry {
    children: Vec<Weak<Mutex<Child>>>,
    directories: Vec<PathBuf>,
}

fn registry() -> MutexGuard<'static, Registry> {
    static REGISTRY: OnceLock<Mutex<Registry>> = OnceLock::new();
    REGISTRY.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on SIGINT, SIGTERM and SIGHUP end all processes, remove all directories, call `last`, and end us.
pub fn end_with_us(last: impl Fn() + Send + 'static) -> Result<()> {
    let (mut signals, from_handler) = UnixStream::pair().context("cannot make a socket pair")?;
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        let pipe = from_handler.try_clone().context("cannot share a socket")?;
        signal_hook::low_level::pipe::register(signal, pipe).context("cannot install a signal handler")?;
    }
    std::thread::spawn(move || {
        let mut byte = [0];
        if signals.read_exact(&mut byte).is_err() {
            return;
        }
        let registry = registry();
        for child in registry.children.iter().filter_map(Weak::upgrade) {
            kill(&mut child.lock().unwrap_or_else(PoisonError::into_inner));
        }
        for directory in &registry.directories {
            let _ = fs::remove_dir_all(directory);
        }
        last();
        std::process::exit(INTERRUPTED_EXIT_CODE);
    });
    Ok(())
}

/// The thread that starts processes.
struct Spawner(SyncSender<(Command, SyncSender<std::io::Result<Child>>)>);

fn spawner() -> &'static Spawner {
    static SPAWNER: OnceLock<Spawner> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::sync_channel::<(Command, SyncSender<std::io::Result<Child>>)>(1);
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        });
        Spawner(orders)
    })
}

impl Spawner {
    fn spawn(&self, start: Start) -> Result<Child> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(&start.argv).env("PATH", super::search_path());
        if let Some(directory) = start.directory {
            command.current_dir(directory);
        }
        let errors = start.output.try_clone().context("cannot share the output file")?;
        command.stdin(Stdio::null()).stdout(start.output).stderr(errors);
        let (answer, result) = mpsc::sync_channel(1);
        self.0.send((command, answer)).context("the starting thread is gone")?;
        Ok(result.recv().context("the starting thread is gone")??)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(argv: &[&str]) -> HostProcess {
        let argv = argv.iter().map(OsString::from).collect();
        HostProcess::start(Start { argv, directory: None, output: tempfile::tempfile().unwrap() }).unwrap()
    }

    #[test]
    fn a_process_ends_with_its_owner() {
        let process = start(&["sleep", "60"]);
        let pid = process.pid.as_raw_nonzero();
        assert!(process.ended().is_none());
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_process_started_from_a_thread_that_ended_goes_on() {
        let process = std::thread::spawn(|| start(&["sleep", "60"])).join().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(process.ended().is_none());
    }

    #[test]
    fn an_ended_process_is_not_signalled() {
        let process = start(&["true"]);
        while process.ended().is_none() {
            std::thread::yield_now();
        }
        assert!(process.stop().is_err());
    }

    #[test]
    fn directories_of_dead_runs_are_removed_and_those_of_living_ones_stay() {
        let parent = tempfile::tempdir().unwrap();
        let dead = parent.path().join("4194999-x"); // above the largest process number of Linux, 2^22
        let other = parent.path().join("notes");
        fs::create_dir(&dead).unwrap();
        fs::create_dir(&other).unwrap();
        let first = LabDirectory::create(parent.path()).unwrap();
        let second = LabDirectory::create(parent.path()).unwrap();
        assert!(!dead.exists() && other.exists());
        assert!(first.path().exists() && second.path().exists());
        let path = first.path().to_owned();
        drop(first);
        assert!(!path.exists() && second.path().exists());
    }
}
