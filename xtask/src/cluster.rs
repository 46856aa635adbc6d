//! Two nodes and a witness as real processes on this machine, in a temporary directory.
//!
//! A [`Cluster`] owns everything it makes: processes, mounts, loop-mounted disks, log memory. Dropping it removes
//! all of that in the one order that works, also after an error or a panic; with `keep` it leaves them running.
//! Nothing is ever ended that was not started here.
//!
//! - [`config`]: the nodes' configuration files
//! - [`process`]: one daemon
//! - [`control`]: the control socket and what status says
//! - [`device`]: a disk image that can hang
//! - [`disk`]: the local filesystem of a node
//! - [`settle`]: both local trees at the same point, and their comparison
//! - [`wait`]: waiting for states of the pair, with a diagnosis when they do not come
//! - [`wire`]: a relay between the nodes that can be cut

pub mod config;
pub mod control;
pub mod device;
pub mod disk;
pub mod process;
pub mod settle;
pub mod wait;
pub mod wire;

use anyhow::{Context, Result, bail};
use config::{Keys, NodeFiles};
use control::NodeView;
use disk::{Disk, Filesystem};
use process::Daemon;
use rustix::process::Signal;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use wire::Wire;

/// The name of the one volume.
pub const VOLUME: &str = "demo";

/// Its id.
const VOLUME_ID: &str = "7461696c2d77696e6466696c65720001";

/// Memory file system for emulated logs.
const MEMORY_DIR: &str = "/dev/shm";

/// Longest time for `twinfiler init`.
const INIT_LIMIT: Duration = Duration::from_secs(60);

/// Longest time for the clean end of a node.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// One of the two nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Side {
    /// The node that is primary first.
    A,
    /// The other one.
    B,
}

impl Side {
    /// Both.
    pub const BOTH: [Side; 2] = [Side::A, Side::B];

    /// The other one.
    pub fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }

    /// The other one if that is so.
    pub fn other_if(self, so: bool) -> Side {
        if so { self.other() } else { self }
    }

    /// The node's name.
    pub fn name(self) -> &'static str {
        match self {
            Side::A => "a",
            Side::B => "b",
        }
    }

    fn index(self) -> usize {
        match self {
            Side::A => 0,
            Side::B => 1,
        }
    }
}

/// How a cluster is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program `twinfiler`.
    pub program: PathBuf,
    /// What the local trees lie on.
    pub filesystem: Filesystem,
    /// "tcp" or "shm".
    pub transport: String,
    /// Length of each log.
    pub log_bytes: u64,
    /// Leave everything running at the end.
    pub keep: bool,
    /// The nodes speak through a [`Wire`].
    pub wire: bool,
    /// Local trees lie on a [`device::Device`].
    pub suspendable: bool,
}

struct Node {
    files: NodeFiles,
    daemon: Option<Daemon>,
}

/// See the module.
pub struct Cluster {
    options: Options,
    nodes: [Node; 2],
    disks: [Option<Disk>; 2],
    wire: Option<Wire>,
    witness: Option<Daemon>,
    witness_address: SocketAddr,
    dir: PathBuf,
    memory: PathBuf,
}

impl Cluster {
    /// Makes directories and disks, initialises both nodes and starts witness and nodes.
    pub fn start(options: Options) -> Result<Cluster> {
        let dir = tempfile::Builder::new().prefix("twinfiler-").tempdir()?.keep();
        let memory_parent =
            if Path::new(MEMORY_DIR).is_dir() { Path::new(MEMORY_DIR) } else { dir.as_path() };
        let memory = tempfile::Builder::new().prefix("twinfiler-").tempdir_in(memory_parent)?.keep();
        let addresses = free_addresses(3)?;
        let wire = options.wire.then(|| Wire::to(addresses[Side::B.index()])).transpose()?;
        let files = |side: Side| NodeFiles {
            side,
            dir: dir.join(side.name()),
            log: memory.join(format!("{}.log", side.name())),
            listen: addresses[side.index()],
            // The lower name connects: node a.
            peer: match &wire {
                Some(wire) if side == Side::A => wire.address(),
                _ => addresses[side.other().index()],
            },
            witness: addresses[2],
        };
        let nodes = Side::BOTH.map(|side| Node { files: files(side), daemon: None });
        // From here on everything that exists is removed by Drop.
        let mut cluster = Cluster {
            options,
            nodes,
            disks: [None, None],
            wire,
            witness: None,
            witness_address: addresses[2],
            dir,
            memory,
        };
        cluster.prepare()?;
        cluster.start_witness()?;
        for side in Side::BOTH {
            cluster.start_node(side)?;
        }
        Ok(cluster)
    }

    fn prepare(&mut self) -> Result<()> {
        let witness = self.dir.join("witness");
        fs::create_dir_all(&witness)?;
        let mut keys = Keys { witness: self.make_key(&witness.join("key"))?, ..Keys::default() };
        for side in Side::BOTH {
            let files = self.files(side);
            fs::create_dir_all(&files.dir)?;
            keys.nodes[side.index()] = self.make_key(&files.key())?;
        }
        fs::write(witness.join("nodes"), config::witness_nodes(&keys))?;
        for side in Side::BOTH {
            let files = &self.nodes[side.index()].files;
            for dir in [files.dir.clone(), files.disk(), files.mount()] {
                fs::create_dir_all(&dir)?;
            }
            let (image, at) = (files.dir.join("disk.img"), files.disk());
            let disk = Disk::make(self.options.filesystem, &image, &at, self.options.suspendable)?;
            self.disks[side.index()] = Some(disk);
            fs::create_dir_all(files.base())?;
            let text = config::node(files, &keys, &self.options.transport, self.options.log_bytes);
            fs::write(files.config(), text).context("cannot write a configuration")?;
            self.init(side)?;
        }
        Ok(())
    }

    /// Makes a private key; gives the public one.
    fn make_key(&self, file: &Path) -> Result<String> {
        let mut keygen = Command::new(&self.options.program);
        let output = keygen.args(config::keygen_arguments(file)).output().context("cannot make a key")?;
        if !output.status.success() {
            bail!("keygen: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Runs `twinfiler init` for a node.
    fn init(&self, side: Side) -> Result<()> {
        let files = self.files(side);
        let mut init = Command::new(&self.options.program);
        init.args(config::init_arguments(files, self.options.log_bytes));
        crate::steps::run(&files.dir, "init", &mut init, INIT_LIMIT).map(drop)
    }

    /// The log of a node that does not run is lost, and made anew.
    pub fn lose_log(&self, side: Side) -> Result<()> {
        fs::remove_file(&self.files(side).log)?;
        self.init(side)
    }

    /// A copy of the log of a node that does not run; [`Cluster::bring_log_back`] takes it.
    pub fn copy_log(&self, side: Side) -> Result<()> {
        let log = &self.files(side).log;
        fs::copy(log, log.with_extension("old")).map(drop).context("cannot copy a log")
    }

    /// The log of a node that does not run is replaced by the copy.
    pub fn bring_log_back(&self, side: Side) -> Result<()> {
        let log = &self.files(side).log;
        fs::copy(log.with_extension("old"), log).map(drop).context("cannot bring a log back")
    }

    /// The index of a node that does not run.
    pub fn index_path(&self, side: Side) -> PathBuf {
        self.files(side).base().join(crate::tree::HIDDEN).join("index.redb")
    }

    /// The wire between the nodes.
    pub fn wire(&self) -> Result<&Wire> {
        self.wire.as_ref().context("this cluster was made without a wire")
    }

    /// The local filesystem of a node.
    pub fn disk(&self, side: Side) -> Result<&Disk> {
        self.disks[side.index()].as_ref().context("the disk is not mounted")
    }

    /// Unmounts the local filesystem of a node that does not run, and mounts it again, which repairs it.
    pub fn mount_again(&mut self, side: Side) -> Result<()> {
        self.disks[side.index()].as_mut().context("the node has no disk")?.mount_again()
    }

    /// Sends a signal to a node that runs.
    pub fn signal(&self, side: Side, signal: Signal) -> Result<()> {
        self.nodes[side.index()].daemon.as_ref().context("the node does not run")?.signal(signal)
    }

    /// Sends a signal to the witness.
    pub fn signal_witness(&self, signal: Signal) -> Result<()> {
        self.witness.as_ref().context("the witness does not run")?.signal(signal)
    }

    /// SIGTERM to a node, which must end cleanly.
    pub fn terminate(&mut self, side: Side) -> Result<()> {
        let daemon = self.nodes[side.index()].daemon.take().context("the node does not run")?;
        daemon.terminate(STOP_LIMIT)
    }

    /// Asks a node to hand over to its partner.
    pub fn switchover(&self, side: Side) -> Result<()> {
        control::switchover(&self.files(side).control(), VOLUME)
    }

    /// What the local trees lie on.
    pub fn filesystem(&self) -> Filesystem {
        self.options.filesystem
    }

    /// Starts the witness (again).
    pub fn start_witness(&mut self) -> Result<()> {
        let dir = self.dir.join("witness");
        let arguments = config::witness_arguments(&self.witness_address, &dir);
        let log = dir.join("witness.out");
        self.witness =
            Some(Daemon::start("witness", &self.options.program, &arguments, &log, self.options.keep)?);
        Ok(())
    }

    /// Starts a node (again). What a killed daemon left mounted is unmounted first.
    pub fn start_node(&mut self, side: Side) -> Result<()> {
        let node = &mut self.nodes[side.index()];
        unmount(&node.files.mount());
        let arguments = config::serve_arguments(&node.files);
        let daemon = Daemon::start(
            side.name(),
            &self.options.program,
            &arguments,
            &node.files.output(),
            self.options.keep,
        )?;
        node.daemon = Some(daemon);
        Ok(())
    }

    /// SIGKILL to a node.
    pub fn kill(&mut self, side: Side) {
        self.nodes[side.index()].daemon = None;
    }

    /// SIGKILL to the witness.
    pub fn kill_witness(&mut self) {
        self.witness = None;
    }

    /// True when the node was started and not killed or stopped by us since.
    pub fn is_started(&self, side: Side) -> bool {
        self.nodes[side.index()].daemon.is_some()
    }

    /// True while the node's process lives.
    pub fn is_running(&mut self, side: Side) -> bool {
        self.nodes[side.index()].daemon.as_mut().is_some_and(Daemon::is_running)
    }

    /// SIGTERM to both nodes, which must end cleanly and take their mounts away: first the one that mirrors, so that
    /// the other one does not hand over to it.
    pub fn stop_cleanly(&mut self, primary: Side) -> Result<()> {
        for side in [primary.other(), primary] {
            if let Some(daemon) = self.nodes[side.index()].daemon.take() {
                daemon.terminate(STOP_LIMIT)?;
            }
            if self.is_mounted(side) {
                bail!("node {} ended and left its mount behind", side.name());
            }
        }
        Ok(())
    }

    /// What a node says about itself.
    pub fn status(&self, side: Side) -> Result<NodeView> {
        control::status(&self.files(side).control())
    }

    /// Brings a node's local tree up to date.
    pub fn consistency_point(&self, side: Side) -> Result<()> {
        control::consistency_point(&self.files(side).control(), VOLUME)
    }

    /// Where a node mounts the volume while it is primary.
    pub fn mount_path(&self, side: Side) -> PathBuf {
        self.files(side).mount()
    }

    /// A node's local tree.
    pub fn base_path(&self, side: Side) -> PathBuf {
        self.files(side).base()
    }

    /// The temporary directory of everything.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of the logs.
    pub fn memory_dir(&self) -> &Path {
        &self.memory
    }

    /// A node's configuration file.
    pub fn config_path(&self, side: Side) -> PathBuf {
        self.files(side).config()
    }

    fn files(&self, side: Side) -> &NodeFiles {
        &self.nodes[side.index()].files
    }

    /// Process ids of everything that runs.
    pub fn process_ids(&self) -> Vec<u32> {
        let nodes = self.nodes.iter().filter_map(|node| node.daemon.as_ref());
        nodes.chain(self.witness.as_ref()).map(Daemon::id).collect()
    }

    /// What there is to see when something went wrong: status of both nodes, last lines of all logs.
    pub fn diagnosis(&self) -> String {
        let mut text = String::new();
        for side in Side::BOTH {
            let said = match self.status(side) {
                Ok(view) => view.pretty(),
                Err(error) => format!("{error:#}"),
            };
            text.push_str(&format!("=== node {} ===\n{said}\n", side.name()));
            text.push_str(&crate::steps::tail(&self.files(side).output()));
            text.push('\n');
        }
        text.push_str(&crate::steps::tail(&self.dir.join("witness/witness.out")));
        text
    }

    /// Copies all logs somewhere that outlives the cluster.
    pub fn save_logs(&self, to: &Path) -> Result<()> {
        fs::create_dir_all(to)?;
        let outputs = Side::BOTH.map(|side| (self.files(side).output(), format!("node-{}.out", side.name())));
        for (from, name) in
            outputs.into_iter().chain([(self.dir.join("witness/witness.out"), "witness.out".into())])
        {
            if from.exists() {
                fs::copy(&from, to.join(name))?;
            }
        }
        fs::write(to.join("diagnosis.txt"), self.diagnosis())?;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.options.keep {
            for daemon in
                self.nodes.iter_mut().filter_map(|node| node.daemon.take()).chain(self.witness.take())
            {
                daemon.leave_running();
            }
            self.disks.iter_mut().filter_map(Option::take).for_each(Disk::leave_mounted);
            return;
        }
        for side in Side::BOTH {
            self.kill(side);
            unmount(&self.mount_path(side));
        }
        self.kill_witness();
        self.disks = [None, None];
        for dir in [&self.memory, &self.dir] {
            if let Err(error) = fs::remove_dir_all(dir) {
                eprintln!("cannot remove {}: {error}", dir.display());
            }
        }
    }
}

/// Takes a mount away from the name space, dead or alive. Not mounted: nothing happens.
fn unmount(path: &Path) {
    // A loop: a mount that was made twice lies twice. EINVAL ends it: nothing is mounted there.
    for _ in 0..4 {
        if rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH).is_err() {
            return;
        }
    }
}

/// Addresses on which nothing listens now.
fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    // All are held until all are known, so that none is given twice.
    let held = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    held.iter().map(|listener| listener.local_addr().context("a listener without address")).collect()
}
