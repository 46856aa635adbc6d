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

    /// The private key.
    pub fn key(&self) -> PathBuf {
        self.dir.join("key")
    }

    /// What the daemon prints.
    pub fn output(&self) -> PathBuf {
        self.dir.join("twinfiler.out")
    }
}

/// The public keys of everybody.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// Of both nodes.
    pub nodes: [String; 2],
    /// Of the witness.
    pub witness: String,
}

/// The configuration file of a node.
pub fn node(files: &NodeFiles, keys: &Keys, transport: &str, log_bytes: u64) -> String {
    let NodeFiles { side, log, listen, peer, witness, .. } = files;
    let (name, partner) = (side.name(), side.other().name());
    let (control, base, mount, log) = (files.control(), files.base(), files.mount(), log.display());
    format!(
        "[node]\n\
         name = \"{name}\"\n\
         listen = \"{listen}\"\n\
         control = \"{control}\"\n\
         private_key = \"{key}\"\n\
         log_level = \"info\"\n\
         \n\
         [witness]\n\
         addresses = [\"{witness}\"]\n\
         public_key = \"{witness_key}\"\n\
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
         public_key = \"{peer_key}\"\n\
         \n\
         [volume.log]\n\
         kind = \"emulated\"\n\
         path = \"{log}\"\n\
         capacity = \"{capacity}\"\n\
         \n\
         [volume.fuse]\n\
         mount = \"{mount}\"\n",
        control = control.display(),
        key = files.key().display(),
        witness_key = keys.witness,
        peer_key = keys.nodes[side.other().index()],
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

/// Arguments that make a private key; the public one is printed.
pub fn keygen_arguments(file: &Path) -> Vec<OsString> {
    vec!["keygen".into(), file.into()]
}

/// Arguments that run the witness, whose files lie in `dir`.
pub fn witness_arguments(listen: &SocketAddr, dir: &Path) -> Vec<OsString> {
    let mut arguments = words(&["witness", "--listen", &listen.to_string()]);
    for (flag, file) in [("--state", "state"), ("--private-key", "key"), ("--nodes", "nodes")] {
        arguments.extend([flag.into(), dir.join(file).into()]);
    }
    arguments
}

/// The file that tells the witness whom to let in.
pub fn witness_nodes(keys: &Keys) -> String {
    keys.nodes.iter().map(|key| format!("{key} *\n")).collect()
}
