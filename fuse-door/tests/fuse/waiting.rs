//! Requests that have to wait, on a mount with two threads: however many they are, the rest is served, and a client that
//! is killed dies.

use admin_api::metrics::Metrics;
use apply_engine::delta::Vanished;
use apply_engine::{Base, Delta, Layers};
use commit::stack::DeltaStack;
use commit::{CommitEvents, CommitPath, Gate, Journal, SpaceBudget};
use fuse_door::{MountHandle, MountOptions, mount};
use ids::{AckRule, Cursors, VolumeId};
use nvlog::{FormatOptions, Log};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use volume::Volume;

const VOLUME: VolumeId = VolumeId([6; 16]);
const LOG_BYTES: u64 = 64 << 20;
/// What clients may use of the log: less than it holds, so that a test decides what room there is.
const ROOM_BYTES: u64 = 4 << 20;
const CLIENTS: usize = 200;
/// Nothing here may ever take longer.
const NEVER: Duration = Duration::from_secs(30);

struct Silent;

impl CommitEvents for Silent {
    fn mirror_lost(&self, _link: u64, _error: rdma_transport::LinkError) {}
    fn log_failed(&self, error: String) {
        panic!("the log failed: {error}");
    }
    fn want_consistency_point(&self) {}
}

struct Mounted {
    path: Arc<CommitPath>,
    gate: Arc<Gate>,
    handle: Option<MountHandle>,
    threads: Vec<JoinHandle<()>>,
    dir: TempDir,
}

fn mounted() -> Mounted {
    assert!(rustix::process::geteuid().is_root(), "this test mounts: run it as root");
    let dir = tempfile::tempdir().unwrap();
    let (base, mountpoint) = (dir.path().join("base"), dir.path().join("mnt"));
    fs::create_dir(&base).unwrap();
    fs::create_dir(&mountpoint).unwrap();
    let region = nvlog::region::anonymous(LOG_BYTES + nvlog::format::RING_OFFSET_BYTES).unwrap();
    let options = FormatOptions { volume: VOLUME, capacity_bytes: LOG_BYTES, overwrite: false };
    let log = Arc::new(Log::format(region, options).unwrap());
    let base = Arc::new(Base::create(&base, VOLUME).unwrap());
    let end = log.end().lsn;
    let gate = Gate::new(ROOM_BYTES, 0, end);
    let roomy = SpaceBudget {
        total_bytes: 1 << 40,
        free_bytes: 1 << 40,
        available_bytes: 1 << 40,
        ..SpaceBudget::default()
    };
    gate.set_local_space(end, roomy);
    let cursors = Cursors::new(LOG_BYTES, end, end, end).unwrap();
    let (metrics, events) = (Metrics::new().volume("v"), Box::new(Silent));
    let path = Arc::new(CommitPath::new(
        log.clone(),
        cursors,
        gate.clone(),
        metrics,
        events,
        runtime::Uptime::now(),
    ));
    path.set_rule(AckRule::Local).unwrap();
    path.set_lease(u64::MAX);
    path.open();
    let layers = Layers::new(Delta::new(end, Vanished::Forget), Vec::new(), base.clone(), log);
    let limits = base.limits();
    let stack = Arc::new(DeltaStack::new(layers));
    let volume = Arc::new(Volume::new(stack, path.clone(), limits, base.next_oid()));
    let drives = path.clone();
    let mut threads = vec![std::thread::spawn(move || drives.drive_for_answers())];
    for _ in 0..2 {
        let serves = path.clone();
        threads.push(std::thread::spawn(move || serves.serve_parked()));
    }
    let options = MountOptions { threads: 2, cache_ttl: Duration::ZERO, ..MountOptions::default() };
    let handle = mount(volume, &mountpoint, &options).unwrap();
    let_go_in_the_end(&path, &handle);
    fs::create_dir(mountpoint.join("quiet")).unwrap();
    fs::write(mountpoint.join("quiet/known"), b"before").unwrap();
    Mounted { path, gate, handle: Some(handle), threads, dir }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.path.close(commit::NotServing::Stopping);
        if let Some(handle) = self.handle.take() {
            handle.abort();
        }
        self.path.end_serving();
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

/// Lets everybody go in the end: a test that failed while its own threads wait for the mount could never end.
fn let_go_in_the_end(path: &Arc<CommitPath>, handle: &MountHandle) {
    let (path, mountpoint) = (Arc::downgrade(path), handle.mountpoint().to_owned());
    std::thread::spawn(move || {
        std::thread::sleep(2 * NEVER);
        if let Some(path) = path.upgrade() {
            path.close(commit::NotServing::Stopping);
            let _gone = rustix::mount::unmount(&mountpoint, rustix::mount::UnmountFlags::FORCE);
        }
    });
}

impl Mounted {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("mnt").join(name)
    }

    /// Clients that each write `bytes` into a file of their own.
    fn writers(&self, bytes: usize) -> Vec<JoinHandle<std::io::Result<()>>> {
        let files: Vec<_> =
            (0..CLIENTS).map(|i| File::create(self.file(&format!("w{i}"))).unwrap()).collect();
        let write = move |file: File| std::thread::spawn(move || file.write_all_at(&vec![7; bytes], 0));
        files.into_iter().map(write).collect()
    }

    /// What a client sees that does not have to wait.
    fn look_around(&self) {
        assert_eq!(fs::read(self.file("quiet/known")).unwrap(), b"before");
        assert!(fs::metadata(self.file("quiet/known")).unwrap().is_file());
        assert_eq!(fs::read_dir(self.file("quiet")).unwrap().count(), 1);
        rustix::fs::statfs(self.file("quiet")).unwrap();
    }

    fn wait_until(&self, what: &str, reached: impl Fn((usize, usize)) -> bool) {
        let deadline = Instant::now() + NEVER;
        while !reached(self.path.waiting()) {
            assert!(Instant::now() < deadline, "{what}: {:?} wait", self.path.waiting());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn writing_process(&self, name: &str) -> Child {
        let to = format!("of={}", self.file(name).display());
        let mut command = Command::new("dd");
        command.args(["if=/dev/zero", "bs=4096", "count=4", "conv=notrunc", &to]);
        command.stderr(Stdio::null()).spawn().unwrap()
    }
}

fn killed_dies(mut client: Child) {
    client.kill().unwrap();
    let deadline = Instant::now() + NEVER;
    loop {
        if let Some(status) = client.try_wait().unwrap() {
            assert_eq!(status.signal(), Some(libc::SIGKILL));
            return;
        }
        assert!(Instant::now() < deadline, "a client that waits cannot be killed");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn who_waits_for_a_commit_holds_no_thread() {
    let m = mounted();
    File::create(m.file("killed")).unwrap();
    let files: Vec<_> = (0..CLIENTS).map(|i| File::create(m.file(&format!("w{i}"))).unwrap()).collect();
    m.path.set_rule(AckRule::Nobody).unwrap();
    let write = |file: File| std::thread::spawn(move || file.write_all_at(&[7; 4096], 0).map(|()| file));
    let writers: Vec<_> = files.into_iter().map(write).collect();
    m.wait_until("no answer is kept for all who write", |(_, owed)| owed == CLIENTS);
    m.look_around();
    let client = m.writing_process("killed");
    m.wait_until("a further client waits", |(_, owed)| owed == CLIENTS + 1);
    killed_dies(client);
    assert!(writers.iter().all(|writer| !writer.is_finished()), "nothing was committed");
    m.path.set_rule(AckRule::Local).unwrap();
    for writer in writers {
        let file = writer.join().unwrap().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 4096);
    }
}

#[test]
fn who_reads_what_is_not_committed_holds_no_thread() {
    let m = mounted();
    let file = File::create(m.file("hot")).unwrap();
    m.path.set_rule(AckRule::Nobody).unwrap();
    let writer = std::thread::spawn(move || file.write_all_at(b"after", 0));
    m.wait_until("the writer waits", |(_, owed)| owed == 1);
    let readers: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let hot = m.file("hot");
            std::thread::spawn(move || fs::read(hot))
        })
        .collect();
    m.wait_until("all readers wait", |(parked, owed)| parked + owed == CLIENTS + 1);
    m.look_around();
    m.path.set_rule(AckRule::Local).unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(fs::read(m.file("hot")).unwrap(), b"after");
    for reader in readers {
        // The kernel may still take the file for empty: the write, though committed, has not returned to it yet.
        let read = reader.join().unwrap().unwrap();
        assert!(read.is_empty() || read == b"after", "{read:?}");
    }
}

#[test]
fn who_waits_for_room_in_the_log_holds_no_thread() {
    let m = mounted();
    File::create(m.file("killed")).unwrap();
    let writers = m.writers(64 << 10);
    // A log that fills slows down all who come; in the end the rest waits for room.
    m.wait_until("the log is full", |(parked, _)| parked > CLIENTS / 2);
    m.look_around();
    let client = m.writing_process("killed");
    m.wait_until("a further client waits", |(parked, _)| parked > CLIENTS / 2);
    killed_dies(client);
    let deadline = Instant::now() + NEVER;
    while writers.iter().any(|writer| !writer.is_finished()) {
        assert!(Instant::now() < deadline, "room was made, and {:?} wait", m.path.waiting());
        m.gate.set_floor(m.path.log().reserved());
        std::thread::sleep(Duration::from_millis(5));
    }
    for writer in writers {
        writer.join().unwrap().unwrap();
    }
    m.wait_until("nobody waits any more", |waiting| waiting == (0, 0));
    assert_eq!(fs::read(m.file("w17")).unwrap(), vec![7; 64 << 10]);
}

#[test]
fn who_waits_for_a_lease_holds_no_thread_and_a_close_ends_it() {
    let m = mounted();
    m.path.set_lease(0);
    let readers: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let known = m.file("quiet/known");
            std::thread::spawn(move || fs::metadata(known))
        })
        .collect();
    m.wait_until("all readers wait", |(parked, _)| parked == CLIENTS);
    m.path.set_lease(u64::MAX);
    for reader in readers {
        reader.join().unwrap().unwrap();
    }
    m.path.set_lease(0);
    let known = m.file("quiet/known");
    let refused = std::thread::spawn(move || fs::metadata(known));
    m.wait_until("it waits", |(parked, _)| parked == 1);
    m.path.close(commit::NotServing::NotPrimary);
    assert_eq!(refused.join().unwrap().unwrap_err().raw_os_error(), Some(libc::ESHUTDOWN));
}
