//! The configuration files and command lines of the nodes: the only place that knows their spelling.

use super::{Side, VOLUME, VOLUME_ID};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where a node keeps what.
#[derive(Clone, Debug)]
pub struct NodeFiles {
    /// Which node.
    pub side: Side,
    /// Its directory.
    pub dir: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where its partner listens.
    pub peer: SocketAddr,
    /// Where the witness listens.
    pub witness: SocketAddr,
}

impl NodeFiles {
    /// The mount point of the local filesystem.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk")
    }

    /// The local tree.
    pub fn base(&self) -> PathBuf {
        self.disk().join("base")
    }

    /// Where the volume is mounted.
    pub fn mount(&self) -> PathBuf {
        self.dir.join("mount")
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("twinfiler.toml")
    }

    /// The control socket.
    pub fn control(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// What the daemon prints.
    pub fn output(&self) -> PathBuf {
        self.dir.join("twinfiler.out")
    }
}

/// The configuration file of a node.
pub fn node(files: &NodeFiles, transport: &str, log_bytes: u64) -> String {
    let NodeFiles { side, log, listen, peer, witness, .. } = files;
    let (name, partner) = (side.name(), side.other().name());
    let (control, base, mount, log) = (files.control(), files.base(), files.mount(), log.display());
    format!(
        "[node]\n\
         name = \"{name}\"\n\
         listen = \"{listen}\"\n\
         control = \"{control}\"\n\
         log_level = \"info\"\n\
         \n\
         [witness]\n\
         addresses = [\"{witness}\"]\n\
         \n\
         [[volume]]\n\
         name = \"{VOLUME}\"\n\
         id = \"{VOLUME_ID}\"\n\
         base = \"{base}\"\n\
         transport = \"{transport}\"\n\
         preferred_primary = \"{preferred}\"\n\
         \n\
         [volume.peer]\n\
         name = \"{partner}\"\n\
         address = \"{peer}\"\n\
         \n\
         [volume.log]\n\
         kind = \"emulated\"\n\
         path = \"{log}\"\n\
         capacity = \"{capacity}\"\n\
         \n\
         [volume.fuse]\n\
         mount = \"{mount}\"\n",
        control = control.display(),
        base = base.display(),
        mount = mount.display(),
        preferred = Side::A.name(),
        capacity = size(log_bytes),
    )
}

fn words(list: &[&str]) -> Vec<OsString> {
    list.iter().map(OsString::from).collect()
}

/// Arguments that run a node.
pub fn serve_arguments(files: &NodeFiles) -> Vec<OsString> {
    let mut arguments = words(&["serve", "--config"]);
    arguments.push(files.config().into());
    arguments
}

/// Arguments that make an empty log and local tree.
pub fn init_arguments(files: &NodeFiles, log_bytes: u64) -> Vec<OsString> {
    let capacity = size(log_bytes);
    let mut arguments =
        words(&["init", "--name", VOLUME, "--volume-id", VOLUME_ID, "--log-kind", "emulated"]);
    arguments.extend(words(&["--capacity", &capacity, "--base"]));
    arguments.push(files.base().into());
    arguments.push("--log".into());
    arguments.push(files.log.clone().into());
    arguments
}

/// A number of bytes as configuration files write it.
fn size(bytes: u64) -> String {
    format!("{}KiB", bytes / 1024)
}

/// Arguments that run the witness.
pub fn witness_arguments(listen: &SocketAddr, state: &Path) -> Vec<OsString> {
    let mut arguments = words(&["witness", "--listen", &listen.to_string(), "--state"]);
    arguments.push(state.into());
    arguments
}
