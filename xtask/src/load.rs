//! Load on a volume whose every acknowledged operation is remembered outside of it and checked by content.
//!
//! A [`Load`] works through one mount until that is lost, then checks everything it was ever acknowledged on the
//! next mount before it goes on. [`drive`] is the loop that every load's thread runs; the [`Route`] tells it which
//! mount serves; [`Progress`] is what a watcher sees.
//!
//! What can go wrong: an error while the mount is alive is a finding, not a lost connection. Loads never give up
//! by themselves: bounds on time are the business of whoever steers them.

pub mod archive;
pub mod blocks;
pub mod fleet;
pub mod git;
pub mod route;
pub mod sqlite;

#[cfg(test)]
mod tests;

pub use route::{Route, Visit};

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A client of the volume with a memory of what it was promised.
pub trait Load: Send {
    /// For people.
    fn name(&self) -> String;

    /// Checks on `mount` everything that was acknowledged so far, and makes ready to go on there. Gives how many
    /// things were compared. The one operation that an earlier mount left in doubt may show or not.
    fn arrive(&mut self, mount: &Path) -> io::Result<Checked>;

    /// One unit of work. Gives the number of operations that were acknowledged by it.
    fn step(&mut self, mount: &Path) -> io::Result<u64>;

    /// Compares another copy of the tree, such as a node's local one, with what was promised.
    fn check_copy(&mut self, _tree: &Path) -> io::Result<Checked> {
        Ok(Checked::default())
    }
}

/// What a check compared and what was wrong.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Things compared.
    pub compared: u64,
    /// What is not as it was promised, one line each.
    pub lost: Vec<String>,
}

/// What a load's thread and its watcher share.
#[derive(Default)]
pub struct Progress {
    /// Operations that the file system has acknowledged.
    pub acknowledged: AtomicU64,
    /// Things compared after a change of mounts.
    pub checked: AtomicU64,
    /// The newest route where everything promised was found.
    pub verified_route: AtomicU64,
    /// The newest route on which the connection was lost.
    pub lost_route: AtomicU64,
    lost: Mutex<Vec<String>>,
    errors: Mutex<Vec<String>>,
}

impl Progress {
    /// What was promised and is not there.
    pub fn lost(&self) -> Vec<String> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Errors that clients must not see: the mount was alive when they happened.
    pub fn errors(&self) -> Vec<String> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A load that runs in its own thread.
pub struct Running {
    /// For people.
    pub name: String,
    /// What it has done so far.
    pub progress: Arc<Progress>,
    thread: JoinHandle<Box<dyn Load>>,
}

impl Running {
    /// Starts a load; it works as soon as the route is open.
    pub fn start(load: Box<dyn Load>, route: &Arc<Route>) -> io::Result<Running> {
        let (route, progress) = (Arc::clone(route), Arc::<Progress>::default());
        let (name, watched) = (load.name(), Arc::clone(&progress));
        let thread =
            std::thread::Builder::new().name(name.clone()).spawn(move || drive(load, &route, &progress))?;
        Ok(Running { name, progress: watched, thread })
    }

    /// Waits for its end (the route must have been stopped) and gives the load back.
    pub fn join(self) -> io::Result<Box<dyn Load>> {
        self.thread.join().map_err(|_| io::Error::other(format!("the load {} panicked", self.name)))
    }
}

/// Works through whatever mount the route names until it says stop.
fn drive(mut load: Box<dyn Load>, route: &Route, progress: &Progress) -> Box<dyn Load> {
    let mut seen = 0;
    while let Some(visit) = route.newer_than(seen) {
        seen = visit.generation();
        let kind = kind_of(visit.mount());
        match load.arrive(visit.mount()) {
            Ok(checked) => {
                progress.checked.fetch_add(checked.compared, Ordering::Relaxed);
                if !checked.lost.is_empty() {
                    progress.lost.lock().unwrap_or_else(PoisonError::into_inner).extend(checked.lost);
                    return load;
                }
            }
            Err(error) => {
                disturbed(load.as_ref(), progress, route, &visit, kind, &error);
                continue;
            }
        }
        progress.verified_route.store(seen, Ordering::SeqCst);
        while route.is_current(&visit) {
            match load.step(visit.mount()) {
                Ok(operations) => {
                    progress.acknowledged.fetch_add(operations, Ordering::Relaxed);
                }
                Err(error) => {
                    disturbed(load.as_ref(), progress, route, &visit, kind, &error);
                    break;
                }
            }
        }
    }
    load
}

fn disturbed(
    load: &dyn Load,
    progress: &Progress,
    route: &Route,
    visit: &Visit<'_>,
    kind: Option<i64>,
    error: &io::Error,
) {
    // Asked before the watcher can see that the connection is lost, and so before it unmounts anything.
    let refused = route.may_refuse() && says_refused(error);
    let expected = refused || is_lost_connection(error) || kind.is_none() || kind_of(visit.mount()) != kind;
    if !expected {
        let line = format!("{}: {error}", load.name());
        progress.errors.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
    progress.lost_route.fetch_max(visit.generation(), Ordering::SeqCst);
}

/// True for the errors that a client sees when the node that serves it is gone or no longer the primary.
pub fn is_lost_connection(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let lost = [Errno::NOTCONN, Errno::CONNABORTED, Errno::IO, Errno::STALE, Errno::SHUTDOWN, Errno::PIPE];
    error.kind() == io::ErrorKind::WriteZero
        || error.raw_os_error().is_some_and(|code| lost.iter().any(|errno| errno.raw_os_error() == code))
}

/// True for what a client says that was told of a full disk, or sqlite3 of any error: it says so in its log and ends.
fn says_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::UnexpectedEof)
}

/// What lies at the mount point, while a daemon answers behind it: statfs is never answered from a cache. A node that
/// is deposed takes its mount away, and the directory below it answers.
fn kind_of(mount: &Path) -> Option<i64> {
    rustix::fs::statfs(mount).ok().map(|found| found.f_type)
}
