//! A client on each mount that writes and reads all the time: for how long did nobody serve, and was anything that
//! had been read or acknowledged ever undone?
//!
//! Each has a file with a number that only grows, and reads both. What a read gives must not be older than what
//! anybody had been told before the read began, on whichever mount. A client on a mount that hangs hangs with it; the
//! other one goes on.
//!
//! What can go wrong: the mount point is looked at while nothing is mounted. Its directory is held open and its kind
//! of filesystem asked first, so that nothing is ever written below a mount point.

use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two writes.
const PAUSE: Duration = Duration::from_millis(2);

/// Longest wait for the end of a client whose mount is alive or gone.
const END_LIMIT: Duration = Duration::from_secs(60);

/// What `statfs` says of a FUSE mount.
const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;

struct Shared {
    stop: AtomicBool,
    /// The newest number of each file that anybody was told, as written or as read.
    told: [AtomicU64; 2],
    /// Since the last reset: the last answer, and the longest time between two.
    service: Mutex<(Instant, Duration)>,
    wrong: Mutex<Vec<String>>,
    reads: AtomicU64,
}

/// See the module.
pub struct Probe {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Probe {
    /// Starts a client on each mount point.
    pub fn start(mounts: [PathBuf; 2]) -> Result<Probe> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            told: Default::default(),
            service: Mutex::new((Instant::now(), Duration::ZERO)),
            wrong: Mutex::default(),
            reads: AtomicU64::new(0),
        });
        let mut threads = Vec::new();
        for (own, mount) in mounts.into_iter().enumerate() {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("probe-{own}"));
            threads
                .push(thread.spawn(move || client(&shared, &mount, own)).context("cannot start a thread")?);
        }
        Ok(Probe { shared, threads })
    }

    /// Forgets how long nobody served until now.
    pub fn reset(&self) {
        *self.shared.service.lock().unwrap_or_else(PoisonError::into_inner) =
            (Instant::now(), Duration::ZERO);
    }

    /// The longest time without an answer since then.
    pub fn without_service(&self) -> Duration {
        let (last, longest) = *self.shared.service.lock().unwrap_or_else(PoisonError::into_inner);
        longest.max(last.elapsed())
    }

    /// How many reads were compared.
    pub fn reads(&self) -> u64 {
        self.shared.reads.load(Ordering::Relaxed)
    }

    /// An error when a read gave what had been overwritten before it began.
    pub fn check(&self) -> Result<()> {
        let wrong = self.shared.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if !wrong.is_empty() {
            bail!("what had been acknowledged or read was undone:\n{}", wrong.join("\n"));
        }
        Ok(())
    }

    /// Ends both clients.
    pub fn stop(mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let threads = std::mem::take(&mut self.threads);
        let ended = crate::interrupt::poll(END_LIMIT, PAUSE, || {
            threads.iter().all(JoinHandle::is_finished).then_some(())
        })?;
        ended.context("a client hangs in a mount")?;
        self.check()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

fn client(shared: &Shared, mount: &Path, own: usize) {
    while !shared.stop.load(Ordering::SeqCst) {
        // Not mounted, or no answer: it looks again.
        if let Ok(Some(root)) = mounted(mount) {
            let _no_answer = visit(shared, &root, own);
        }
        std::thread::sleep(PAUSE);
    }
}

fn mounted(mount: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(mount, flags, Mode::empty())?;
    let kind = rustix::fs::fstatfs(&root)?.f_type as u64;
    Ok((kind == FUSE_SUPER_MAGIC).then_some(root))
}

fn file(number: usize) -> &'static str {
    ["probe-a", "probe-b"][number]
}

fn visit(shared: &Shared, root: &OwnedFd, own: usize) -> io::Result<()> {
    let next = shared.told[own].load(Ordering::SeqCst) + 1;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let written = rustix::fs::openat(root, file(own), flags, Mode::RUSR | Mode::WUSR)?;
    if rustix::io::pwrite(&written, &next.to_le_bytes(), 0)? != size_of::<u64>() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    shared.told[own].fetch_max(next, Ordering::SeqCst);
    shared.served();
    for number in 0..2 {
        let told = shared.told[number].load(Ordering::SeqCst);
        let mut bytes = [0; size_of::<u64>()];
        let read =
            match rustix::fs::openat(root, file(number), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
                Err(rustix::io::Errno::NOENT) => 0,
                opened => rustix::io::pread(opened?, &mut bytes, 0)?,
            };
        let found = if read == bytes.len() { u64::from_le_bytes(bytes) } else { 0 };
        shared.reads.fetch_add(1, Ordering::Relaxed);
        if found < told {
            let line = format!("{}: {found}, after {told} had been told; read on mount {own}", file(number));
            shared.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
        shared.told[number].fetch_max(found, Ordering::SeqCst);
    }
    Ok(())
}

impl Shared {
    fn served(&self) {
        let mut service = self.service.lock().unwrap_or_else(PoisonError::into_inner);
        let gap = service.0.elapsed();
        *service = (Instant::now(), service.1.max(gap));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_where_nothing_is_mounted_and_older_content_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(mounted(dir.path()).unwrap().is_none(), "not a volume");
        let shared = Shared {
            stop: AtomicBool::new(false),
            told: Default::default(),
            service: Mutex::new((Instant::now(), Duration::ZERO)),
            wrong: Mutex::default(),
            reads: AtomicU64::new(0),
        };
        let root = rustix::fs::open(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3 {
            visit(&shared, &root, 0).unwrap();
        }
        assert!(shared.wrong.lock().unwrap().is_empty());
        std::fs::write(dir.path().join("probe-a"), 1_u64.to_le_bytes()).unwrap();
        visit(&shared, &root, 1).unwrap();
        let wrong = shared.wrong.lock().unwrap();
        assert!(wrong.len() == 1 && wrong[0].starts_with("probe-a: 1, after 3"), "{wrong:?}");
    }
}
