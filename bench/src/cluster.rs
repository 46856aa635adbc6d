//! Two nodes and a witness as real processes on this machine, as an operator would configure them, with emulated
//! logs in memory. Dropping it ends and removes everything that it made, and nothing else.

use crate::disk::run;
use crate::node::{Daemon, Files};
use admin_api::status::{Mode, Role};
use anyhow::{Context, Result, bail};
use rustix::mount::UnmountFlags;
use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The name of the one volume.
pub const VOLUME: &str = "bench";
/// Its id.
pub const VOLUME_ID: &str = "7461696c2d77696e6466696c65720002";
const NAMES: [&str; 2] = ["a", "b"];
const MEMORY_DIR: &str = "/dev/shm";
/// The longest time for any state of the pair.
pub const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(1);

/// See the module.
pub struct Cluster {
    program: PathBuf,
    nodes: [(Files, Option<Daemon>); 2],
    metrics: [SocketAddr; 2],
    witness: Option<Daemon>,
    witness_address: SocketAddr,
    dir: TempDir,
    _memory: TempDir,
}

impl Cluster {
    /// Makes both volumes on `disk` and starts everything; returns when the pair is mirrored.
    pub fn start(program: &Path, disk: &Path, log_bytes: u64) -> Result<Cluster> {
        Cluster::start_with(program, disk, log_bytes, "")
    }

    /// Likewise, with some more lines about the volume in both configurations.
    pub fn start_with(program: &Path, disk: &Path, log_bytes: u64, more: &str) -> Result<Cluster> {
        let dir = tempfile::Builder::new().prefix("pair-").permissions(closed()).tempdir_in(disk)?;
        let memory = tempfile::Builder::new().prefix("twinfiler-bench-").tempdir_in(MEMORY_DIR)?;
        let addresses = free_addresses()?;
        let nodes = NAMES.map(|name| {
            let log = memory.path().join(format!("{name}.log"));
            (Files { dir: dir.path().join(name), log }, None)
        });
        let mut cluster = Cluster {
            program: program.to_owned(),
            nodes,
            metrics: [addresses[3], addresses[4]],
            witness: None,
            witness_address: addresses[2],
            dir,
            _memory: memory,
        };
        let keys = cluster.make_keys()?;
        for index in 0..2 {
            cluster.prepare(index, &addresses, &keys, log_bytes, more)?;
        }
        cluster.start_witness()?;
        cluster.start_node(0)?;
        cluster.start_node(1)?;
        cluster.wait_mirrored()?;
        Ok(cluster)
    }

    /// Makes the keys of both nodes and of the witness, as users have them; gives the public ones.
    fn make_keys(&self) -> Result<[String; 3]> {
        let files = [&self.files(0).dir, &self.files(1).dir, &self.dir.path().join("witness")];
        let mut keys = [const { String::new() }; 3];
        for (dir, key) in files.into_iter().zip(&mut keys) {
            std::fs::create_dir_all(dir)?;
            let made = Command::new(&self.program).arg("keygen").arg(dir.join("key")).output()?;
            if !made.status.success() {
                bail!("keygen: {}", String::from_utf8_lossy(&made.stderr));
            }
            *key = String::from_utf8_lossy(&made.stdout).trim().to_owned();
        }
        std::fs::write(self.dir.path().join("witness/nodes"), format!("{} *\n{} *\n", keys[0], keys[1]))?;
        Ok(keys)
    }

    fn prepare(
        &self,
        index: usize,
        addresses: &[SocketAddr; 5],
        keys: &[String; 3],
        log_bytes: u64,
        more: &str,
    ) -> Result<()> {
        let (files, _) = &self.nodes[index];
        for dir in [files.base(), files.mount()] {
            std::fs::create_dir_all(dir)?;
        }
        let other = 1 - index;
        let (name, partner) = (NAMES[index], NAMES[other]);
        let (listen, peer, witness, metrics) =
            (addresses[index], addresses[other], addresses[2], self.metrics[index]);
        let (control, base, mount) = (files.control(), files.base(), files.mount());
        let (control, base, mount, log) =
            (control.display(), base.display(), mount.display(), files.log.display());
        let capacity = format!("{}KiB", log_bytes / 1024);
        let key = files.dir.join("key");
        let (key, [witness_key, peer_key]) = (key.display(), [2, other].map(|index| &keys[index]));
        let text = format!(
            "[node]\nname = \"{name}\"\nlisten = \"{listen}\"\ncontrol = \"{control}\"\n\
             metrics_listen = \"{metrics}\"\nprivate_key = \"{key}\"\n\n\
             [witness]\naddresses = [\"{witness}\"]\npublic_key = \"{witness_key}\"\n\n\
             [[volume]]\nname = \"{VOLUME}\"\nid = \"{VOLUME_ID}\"\nbase = \"{base}\"\n\
             preferred_primary = \"{}\"\n\
             peer = {{ name = \"{partner}\", address = \"{peer}\", public_key = \"{peer_key}\" }}\n\
             log = {{ kind = \"emulated\", path = \"{log}\", capacity = \"{capacity}\" }}\n\
             fuse = {{ mount = \"{mount}\" }}\n{more}",
            NAMES[0],
        );
        std::fs::write(files.config(), text)?;
        let mut init = Command::new(&self.program);
        init.args(["init", "--name", VOLUME, "--volume-id", VOLUME_ID, "--log-kind", "emulated"]);
        init.args(["--capacity", &capacity, "--base"]).arg(files.base()).arg("--log").arg(&files.log);
        run(&mut init)
    }

    /// Starts the witness (again).
    pub fn start_witness(&mut self) -> Result<()> {
        let mut arguments = ["witness", "--listen"].map(OsString::from).to_vec();
        arguments.push(self.witness_address.to_string().into());
        for (flag, file) in [("--state", "state"), ("--private-key", "key"), ("--nodes", "nodes")] {
            arguments.extend([flag.into(), self.dir.path().join("witness").join(file).into()]);
        }
        let output = self.dir.path().join("witness.out");
        self.witness = Some(Daemon::start(&self.program, &arguments, &output)?);
        Ok(())
    }

    /// Starts a node (again). What a killed one left mounted is unmounted first.
    pub fn start_node(&mut self, index: usize) -> Result<()> {
        let (files, daemon) = &mut self.nodes[index];
        unmount(&files.mount());
        let arguments = ["serve".into(), "--config".into(), files.config().into()];
        *daemon = Some(Daemon::start(&self.program, &arguments, &files.dir.join("output"))?);
        Ok(())
    }

    /// SIGKILL to a node; returns when it is gone.
    pub fn kill(&mut self, index: usize) {
        self.nodes[index].1 = None;
    }

    /// A node's files.
    pub fn files(&self, index: usize) -> &Files {
        &self.nodes[index].0
    }

    /// A node's process id.
    pub fn process_id(&self, index: usize) -> Result<u32> {
        self.nodes[index].1.as_ref().map(Daemon::id).context("the node does not run")
    }

    /// Where a node's metrics are.
    pub fn metrics(&self, index: usize) -> SocketAddr {
        self.metrics[index]
    }

    /// Waits until one node serves its mount and the other mirrors; gives the primary.
    pub fn wait_mirrored(&self) -> Result<usize> {
        self.wait("a mirrored pair", || {
            (0..2).find(|index| {
                let partner = self.files(1 - index).status().is_ok_and(|status| status.role == Role::Partner);
                partner
                    && self.files(*index).status().is_ok_and(|status| {
                        status.role == Role::Primary
                            && status.mode == Mode::Mirrored
                            && status.mounted_at.is_some()
                    })
                    && is_mounted(&self.files(*index).mount())
            })
        })
    }

    /// Both local trees hold everything.
    pub fn settle(&self) -> Result<()> {
        (0..2).try_for_each(|index| self.files(index).consistency_point(VOLUME))
    }

    /// Waits until `ready` gives something.
    ///
    /// # Errors
    /// When it does not within a minute: what both daemons printed last.
    pub fn wait<T>(&self, what: &str, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
        let begun = Instant::now();
        while begun.elapsed() < LIMIT {
            if let Some(value) = ready() {
                return Ok(value);
            }
            std::thread::sleep(POLL);
        }
        bail!(
            "waited {LIMIT:?} for {what}\n--- a\n{}\n--- b\n{}",
            self.files(0).output_tail(),
            self.files(1).output_tail()
        )
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for index in 0..2 {
            self.kill(index);
            unmount(&self.files(index).mount());
        }
        self.witness = None;
    }
}

/// True when the volume, and not the directory below it, is at this path. Asks the mount table, not the daemon.
pub fn is_mounted(path: &Path) -> bool {
    std::fs::read_to_string("/proc/self/mounts").is_ok_and(|mounts| {
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).any(|fields| {
            fields.get(1).is_some_and(|at| path.as_os_str() == *at)
                && fields.get(2).is_some_and(|kind| kind.starts_with("fuse"))
        })
    })
}

fn unmount(path: &Path) {
    // Mounted twice, it lies twice. An error: nothing is mounted there any more.
    for _ in 0..4 {
        if rustix::mount::unmount(path, UnmountFlags::DETACH).is_err() {
            return;
        }
    }
}

/// Five addresses on which nothing listens; all are held until all are known.
fn free_addresses() -> Result<[SocketAddr; 5]> {
    let held = (0..5).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    let addresses = held.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    addresses.try_into().ok().context("five listeners")
}

/// Other users stay out of the base trees, as the daemon demands.
fn closed() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o700)
}
