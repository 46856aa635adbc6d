//! Two nodes, a witness, and everything that a test does to them.

use super::config::{self, Places, Spec};
use super::disk::Disk;
use super::process::{Process, tail, twinfiler};
use super::{differences, snapshot};
use admin_api::control::{Answer, Request, call};
use admin_api::status::{Mode, NodeStatus, Role, VolumeStatus};
use rdma_transport::tls::{PrivateKey, PublicKey};
use rustix::process::Signal;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest wait for a state of the pair.
const MODE_LIMIT: Duration = Duration::from_secs(60);
/// How long one request to a node may take.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// How often a state is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// Ports of test nodes: below those that the kernel gives to outgoing connections.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// One of the two nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    A,
    B,
}

impl Side {
    pub const BOTH: [Side; 2] = [Side::A, Side::B];

    pub fn name(self) -> &'static str {
        ["a", "b"][self.index()]
    }

    pub fn index(self) -> usize {
        self as usize
    }

    pub fn other(self) -> Side {
        Side::BOTH[1 - self.index()]
    }
}

/// A pair under test.
pub struct Cluster {
    pub spec: Spec,
    nodes: [Option<Process>; 2],
    witness: Option<Process>,
    disks: [Option<Disk>; 2],
    ports: [Port; 3],
    /// Of both nodes and of the witness.
    keys: [PublicKey; 3],
    logs: TempDir,
    dir: TempDir,
}

impl Cluster {
    /// Makes volumes and configuration files of both nodes; starts only the witness.
    pub fn prepare(spec: Spec) -> Cluster {
        super::require_root_and_fuse();
        let dir = tempfile::Builder::new().prefix("twinfiler-test-").tempdir_in("/var/tmp").unwrap();
        let logs = tempfile::Builder::new().prefix("twinfiler-test-").tempdir_in("/dev/shm").unwrap();
        let keys = ["a/key", "b/key", "witness.key"].map(|file| {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            PrivateKey::create(&path).unwrap().public()
        });
        std::fs::write(dir.path().join("witness.nodes"), format!("{} * # a\n{} * # b\n", keys[0], keys[1]))
            .unwrap();
        let mut cluster = Cluster {
            spec,
            nodes: [None, None],
            witness: None,
            disks: [None, None],
            ports: free_ports(),
            keys,
            logs,
            dir,
        };
        for side in Side::BOTH {
            std::fs::create_dir_all(cluster.disk_path(side)).unwrap();
            if let Some(mib) = cluster.spec.disk_mib_of(side) {
                let kind = cluster.spec.filesystem[side.index()];
                let (image, at) = (cluster.image(side), cluster.disk_path(side));
                let disk = Disk::make(kind, cluster.spec.mkfs[side.index()], &image, mib, &at);
                cluster.disks[side.index()] = Some(disk);
            }
            for volume in cluster.spec.volumes.clone() {
                std::fs::create_dir_all(cluster.node_dir(side).join("mount").join(volume.name)).unwrap();
                cluster.init(side, volume.name, volume.id, cluster.spec.capacity);
            }
            cluster.write_config(side);
        }
        if cluster.spec.witness {
            cluster.start_witness();
        }
        cluster
    }

    /// Prepares, starts both, and waits until every volume is mirrored.
    pub fn start(spec: Spec) -> Cluster {
        let mut cluster = Cluster::prepare(spec);
        for side in Side::BOTH {
            cluster.start_node(side);
        }
        cluster.wait_mirrored();
        cluster
    }

    // ---- places ----

    pub fn node_dir(&self, side: Side) -> PathBuf {
        self.dir.path().join(side.name())
    }

    pub fn disk_path(&self, side: Side) -> PathBuf {
        self.node_dir(side).join("disk")
    }

    pub fn image(&self, side: Side) -> PathBuf {
        self.node_dir(side).join("image")
    }

    /// The local tree of the first volume.
    pub fn base(&self, side: Side) -> PathBuf {
        self.disk_path(side).join(self.spec.volumes[0].name)
    }

    /// Where the first volume is mounted.
    pub fn mount(&self, side: Side) -> PathBuf {
        self.mount_of(side, self.spec.volumes[0].name)
    }

    pub fn mount_of(&self, side: Side, volume: &str) -> PathBuf {
        self.node_dir(side).join("mount").join(volume)
    }

    /// The log of the first volume.
    pub fn log(&self, side: Side) -> PathBuf {
        self.log_of(side, self.spec.volumes[0].name)
    }

    pub fn log_of(&self, side: Side, volume: &str) -> PathBuf {
        self.logs.path().join(format!("{}-{volume}.log", side.name()))
    }

    /// Where a node listens for its partner.
    pub fn port(&self, side: Side) -> u16 {
        self.ports[side.index()].number
    }

    pub fn config(&self, side: Side) -> PathBuf {
        self.node_dir(side).join("twinfiler.toml")
    }

    pub fn output(&self, side: Side) -> PathBuf {
        self.node_dir(side).join("output")
    }

    pub fn control(&self, side: Side) -> PathBuf {
        self.node_dir(side).join("control.sock")
    }

    pub fn disk(&mut self, side: Side) -> &mut Option<Disk> {
        &mut self.disks[side.index()]
    }

    /// Writes the configuration anew, after a change of the [`Spec`].
    pub fn write_config(&self, side: Side) {
        let (dir, logs) = (self.node_dir(side), self.logs.path());
        let ports = &self.ports.each_ref().map(|port| port.number);
        let text = config::text(&self.spec, &Places { side, dir: &dir, logs, ports, keys: &self.keys });
        std::fs::write(self.config(side), text).unwrap();
    }

    /// Runs `twinfiler init` for one volume of one node.
    pub fn init(&self, side: Side, name: &str, id: &str, capacity: &str) {
        self.init_with(&["--base"], side, name, id, &self.log_of(side, name), capacity);
    }

    /// Likewise, over a tree that is there.
    pub fn init_adopting(&self, side: Side, name: &str, id: &str, capacity: &str) {
        self.init_with(&["--adopt"], side, name, id, &self.log_of(side, name), capacity);
    }

    /// `how`: more arguments, whose last one takes the base.
    fn init_with(&self, how: &[&str], side: Side, name: &str, id: &str, log: &Path, capacity: &str) {
        let base = self.disk_path(side).join(name).display().to_string();
        let log = log.display().to_string();
        let mut arguments =
            vec!["init", "--name", name, "--volume-id", id, "--log", &log, "--capacity", capacity];
        arguments.extend(how);
        arguments.push(&base);
        let output = twinfiler(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Gives the first volume of a node that was not started yet a log on a disk of its own, written directly; `settings`: more
    /// lines of the volume. The disk, and its image.
    pub fn use_block_log(&self, side: Side, settings: &str) -> (Disk, PathBuf) {
        let (at, image) = (self.node_dir(side).join("log-disk"), self.node_dir(side).join("log-image"));
        std::fs::create_dir(&at).unwrap();
        let disk = Disk::make("ext4", &[], &image, 128, &at);
        let (volume, log) = (&self.spec.volumes[0], at.join("log"));
        let how = ["--log-kind", "block", "--base"];
        self.init_with(&how, side, volume.name, volume.id, &log, self.spec.capacity);
        let text = std::fs::read_to_string(self.config(side)).unwrap();
        let emulated = format!("log = {{ kind = \"emulated\", path = \"{}\"", self.log(side).display());
        assert!(text.contains(&emulated), "{text}");
        let block = format!("{settings}log = {{ kind = \"block\", path = \"{}\"", log.display());
        std::fs::write(self.config(side), text.replace(&emulated, &block)).unwrap();
        (disk, image)
    }

    // ---- processes ----

    pub fn start_witness(&mut self) {
        let (listen, state) =
            (format!("127.0.0.1:{}", self.ports[2].number), self.dir.path().join("witness"));
        let (state, output) = (state.display().to_string(), self.dir.path().join("witness.output"));
        self.witness = Some(if self.spec.etcd {
            let url = format!("http://{listen}");
            let clients = ["--listen-client-urls", &url, "--advertise-client-urls", &url];
            let alone = ["--data-dir", &state, "--listen-peer-urls", "http://127.0.0.1:0"];
            Process::start_program("etcd", &[&clients[..], &alone[..]].concat(), &output)
        } else {
            let keys =
                ["witness.key", "witness.nodes"].map(|file| self.dir.path().join(file).display().to_string());
            let open = ["witness", "--listen", &listen, "--state", &state];
            let locked = ["--private-key", &keys[0], "--nodes", &keys[1]];
            let locked = if self.spec.keys { &locked[..] } else { &[] };
            Process::start(&[&open[..], locked].concat(), &output)
        });
    }

    pub fn kill_witness(&mut self) {
        self.witness.take().unwrap().kill();
    }

    /// The witness's process.
    pub fn witness(&mut self) -> &mut Process {
        self.witness.as_mut().expect("the test has not killed it")
    }

    /// What the built-in witness keeps.
    pub fn witness_state(&self) -> PathBuf {
        self.dir.path().join("witness/registers.json")
    }

    pub fn start_node(&mut self, side: Side) {
        let config = self.config(side).display().to_string();
        self.nodes[side.index()] = Some(Process::start(&["--config", &config, "serve"], &self.output(side)));
    }

    pub fn node(&mut self, side: Side) -> &mut Process {
        self.nodes[side.index()].as_mut().expect("the test started it")
    }

    /// SIGKILL.
    pub fn kill(&mut self, side: Side) {
        self.nodes[side.index()].take().unwrap().kill();
    }

    pub fn signal(&mut self, side: Side, signal: Signal) {
        self.node(side).signal(signal);
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self, side: Side) -> ExitStatus {
        self.signal(side, Signal::TERM);
        let status = self.node(side).wait(MODE_LIMIT);
        self.nodes[side.index()] = None;
        status
    }

    /// Starts a node that must refuse to run; returns its exit code and what it printed.
    pub fn refused(&mut self, side: Side) -> (i32, String) {
        let _before = std::fs::remove_file(self.output(side));
        self.start_node(side);
        let status = self.node(side).wait(MODE_LIMIT);
        self.nodes[side.index()] = None;
        let text = std::fs::read_to_string(self.output(side)).unwrap();
        assert!(!text.contains("panicked"), "{text}");
        (status.code().expect("it was not killed"), text)
    }

    // ---- asking ----

    pub fn ask(&self, side: Side, request: &Request) -> Result<Answer, String> {
        call(&self.control(side), request, CALL_LIMIT).map_err(|error| error.to_string())
    }

    pub fn status(&self, side: Side) -> Option<NodeStatus> {
        match call(&self.control(side), &Request::Status, Duration::from_secs(2)) {
            Ok(Answer::Status(status)) => Some(*status),
            _ => None,
        }
    }

    /// The first volume of a node.
    pub fn volume(&self, side: Side) -> Option<VolumeStatus> {
        self.status(side)?.volumes.into_iter().next()
    }

    /// Waits for something; fails the test with what both nodes say.
    pub fn wait<T>(&mut self, what: &str, mut look: impl FnMut(&Cluster) -> Option<T>) -> T {
        let deadline = Instant::now() + MODE_LIMIT;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            for side in Side::BOTH {
                if let Some(process) = &mut self.nodes[side.index()]
                    && let Some(status) = process.ended()
                {
                    panic!("node {} ended by itself ({status})\n{}", side.name(), self.diagnosis());
                }
            }
            assert!(Instant::now() < deadline, "waited in vain for: {what}\n{}", self.diagnosis());
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until a node's first volume is as wanted.
    pub fn wait_volume(
        &mut self,
        side: Side,
        what: &str,
        is: impl Fn(&VolumeStatus) -> bool,
    ) -> VolumeStatus {
        let what = format!("node {}: {what}", side.name());
        self.wait(&what, |cluster| cluster.volume(side).filter(|volume| is(volume)))
    }

    pub fn wait_mode(&mut self, side: Side, mode: Mode) -> VolumeStatus {
        self.wait_volume(side, &mode.to_string(), |volume| volume.mode == mode)
    }

    /// Waits until a node serves its mount.
    pub fn wait_serving(&mut self, side: Side) -> VolumeStatus {
        self.wait_volume(side, "serving", |volume| {
            volume.role == Role::Primary && volume.mounted_at.is_some() && volume.acknowledgement.is_some()
        })
    }

    /// Waits until every volume is mirrored and mounted. Returns who is primary of the first.
    pub fn wait_mirrored(&mut self) -> Side {
        self.wait("a mirrored pair", |cluster| {
            let states = [cluster.status(Side::A)?.volumes, cluster.status(Side::B)?.volumes];
            let is_primary = |side: Side, volume: usize| {
                let (own, other) = (&states[side.index()][volume], &states[side.other().index()][volume]);
                own.role == Role::Primary
                    && own.mounted_at.is_some()
                    && own.mode == Mode::Mirrored
                    && other.role == Role::Partner
                    && other.mode == Mode::Mirrored
            };
            let primary_of = |volume| Side::BOTH.into_iter().find(|side| is_primary(*side, volume));
            let primaries: Option<Vec<Side>> = (0..states[0].len()).map(primary_of).collect();
            primaries.and_then(|primaries| primaries.first().copied())
        })
    }

    /// Brings both local trees of the first volume up to date and compares them.
    pub fn check_trees_equal(&mut self) {
        let volume = self.spec.volumes[0].name.to_owned();
        let deadline = Instant::now() + MODE_LIMIT;
        loop {
            for side in Side::BOTH {
                let answer = self.ask(side, &Request::ConsistencyPoint { volume: volume.clone() });
                assert!(
                    matches!(answer, Ok(Answer::ConsistencyPoint(_))),
                    "{answer:?}\n{}",
                    self.diagnosis()
                );
            }
            let cursors = Side::BOTH.map(|side| self.volume(side).and_then(|volume| volume.cursors));
            let all_applied = match &cursors {
                [Some(a), Some(b)] => a.committed() == b.committed() && a.applied() == b.applied(),
                _ => false,
            };
            let found = Side::BOTH.map(|side| snapshot(&self.base(side)).unwrap_or_default());
            let differ = differences(&found[0], &found[1]);
            if all_applied && differ.is_empty() {
                return;
            }
            if Instant::now() > deadline {
                panic!("the local trees differ:\n{}\n{cursors:?}\n{}", differ.join("\n"), self.diagnosis());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// What both nodes say, for a failed test.
    pub fn diagnosis(&self) -> String {
        let mut text = String::new();
        for side in Side::BOTH {
            let status = self.status(side).map(|status| serde_json::to_string_pretty(&status).unwrap());
            text += &format!(
                "==== node {}\n{}\n---- output\n{}\n",
                side.name(),
                status.unwrap_or_else(|| "(no answer)".to_owned()),
                tail(&self.output(side))
            );
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            drop(node.take());
        }
        // What a killed node leaves behind.
        for side in Side::BOTH {
            for volume in &self.spec.volumes {
                let mount = self.mount_of(side, volume.name);
                let _not_mounted = Command::new("umount").arg("-l").arg(&mount).output();
            }
        }
    }
}

/// A port that nobody listens at. For as long as this is held, no other test takes it, in whatever process.
struct Port {
    number: u16,
    _claim: UnixListener,
}

fn free_ports() -> [Port; 3] {
    static USED: AtomicU32 = AtomicU32::new(0);
    let span = u32::from(PORTS.end - PORTS.start);
    let first = std::process::id().wrapping_mul(37) + USED.fetch_add(30, Ordering::Relaxed);
    let claimed = |number: u16| {
        let name = SocketAddr::from_abstract_name(format!("twinfiler-test-port-{number}")).unwrap();
        let claim = UnixListener::bind_addr(&name).ok()?;
        std::net::TcpListener::bind(("127.0.0.1", number)).ok()?;
        Some(Port { number, _claim: claim })
    };
    let mut ports = (0..span).filter_map(|next| claimed(PORTS.start + ((first + next) % span) as u16));
    std::array::from_fn(|_| ports.next().expect("thousands of ports"))
}
