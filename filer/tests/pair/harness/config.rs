//! What a test's nodes are like, and the configuration files that say so.

use super::cluster::Side;
use rdma_transport::tls::PublicKey;
use std::fmt::Write;
use std::path::Path;

/// One volume of the pair.
#[derive(Clone, Debug)]
pub struct VolumeSpec {
    /// Its name.
    pub name: &'static str,
    /// Its identity.
    pub id: &'static str,
    /// Who begins.
    pub preferred: Side,
}

/// What the nodes are like.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Is there a witness?
    pub witness: bool,
    /// Is it a member of etcd instead of the built-in one?
    pub etcd: bool,
    /// Do nodes and witness have keys?
    pub keys: bool,
    /// Length of the log.
    pub capacity: &'static str,
    /// Lines of `[volume.timers]`.
    pub timers: &'static str,
    /// Lines of `[volume.consistency_point]`.
    pub consistency_point: &'static str,
    /// More tables of a volume, per node.
    pub more: [String; 2],
    /// Lines of `[node]`.
    pub node: [String; 2],
    /// Size of the node's own filesystem; `None`: a plain directory, unless the other node has one.
    pub disk_mib: [Option<u64>; 2],
    /// Its kind.
    pub filesystem: [&'static str; 2],
    /// More arguments of its mkfs.
    pub mkfs: [&'static [&'static str]; 2],
    /// The volumes.
    pub volumes: Vec<VolumeSpec>,
}

/// Patient: a busy test machine must not look like a dead node.
const CALM: &str = "heartbeat = \"100ms\"\npeer_timeout = \"2s\"\nlease = \"1500ms\"\n";

impl Default for Spec {
    fn default() -> Spec {
        Spec {
            witness: true,
            etcd: false,
            keys: true,
            capacity: "32MiB",
            timers: CALM,
            consistency_point: "interval = \"300ms\"\n",
            more: Default::default(),
            node: Default::default(),
            disk_mib: [None, None],
            filesystem: ["ext4", "ext4"],
            mkfs: [&[], &[]],
            volumes: vec![VolumeSpec {
                name: "v",
                id: "00112233445566778899aabbccddeeff",
                preferred: Side::A,
            }],
        }
    }
}

/// Size of a filesystem that is there only because the partner has one.
const ROOMY_MIB: u64 = 4096;

impl Spec {
    /// The nodes of a pair lie on the same kind of filesystem: where one has its own, the other has too.
    pub fn disk_mib_of(&self, side: Side) -> Option<u64> {
        let any = self.disk_mib.iter().any(Option::is_some);
        self.disk_mib[side.index()].or(any.then_some(ROOMY_MIB))
    }
}

/// Where one node keeps what, and where it listens.
#[derive(Clone, Debug)]
pub struct Places<'a> {
    pub side: Side,
    pub dir: &'a Path,
    pub logs: &'a Path,
    pub ports: &'a [u16; 3],
    /// The public keys of both nodes and of the witness.
    pub keys: &'a [PublicKey; 3],
}

impl Places<'_> {
    /// A line for the public key with this index, if there are keys.
    fn public_key(&self, spec: &Spec, index: usize) -> String {
        if spec.keys { format!("public_key = \"{}\"", self.keys[index]) } else { String::new() }
    }
}

/// The configuration file of one node.
pub fn text(spec: &Spec, places: &Places<'_>) -> String {
    let Places { side, dir, logs, ports, .. } = places;
    let (me, peer) = (side.name(), side.other().name());
    let (listen, peer_port) = (ports[side.index()], ports[side.other().index()]);
    let mut text = format!(
        "[node]\nname = \"{me}\"\nlisten = \"127.0.0.1:{listen}\"\ncontrol = \"{}/control.sock\"\n\
         log_level = \"info,node=debug,commit=debug,volume=debug,fuse_door=debug,witness=debug,hooks=debug\"\n{}",
        dir.display(),
        spec.node[side.index()],
    );
    if spec.keys {
        let _ = writeln!(text, "private_key = \"{}/key\"", dir.display());
    }
    match (spec.witness, spec.etcd) {
        (false, _) => {}
        (true, false) => {
            let key = places.public_key(spec, 2);
            let _ = writeln!(text, "[witness]\naddresses = [\"127.0.0.1:{}\"]\n{key}", ports[2]);
        }
        (true, true) => {
            let _ = writeln!(text, "[witness]\netcd = {{ endpoints = \"http://127.0.0.1:{}\" }}", ports[2]);
        }
    }
    for VolumeSpec { name, id, preferred } in &spec.volumes {
        let _ = writeln!(
            text,
            "[[volume]]\nname = \"{name}\"\nid = \"{id}\"\nbase = \"{dir}/disk/{name}\"\n\
             preferred_primary = \"{preferred}\"\n\
             peer.name = \"{peer}\"\npeer.address = \"127.0.0.1:{peer_port}\"\n{peer_key}\
             log = {{ kind = \"emulated\", path = \"{logs}/{me}-{name}.log\", capacity = \"{capacity}\" }}\n\
             fuse = {{ mount = \"{dir}/mount/{name}\" }}\n\
             [volume.timers]\n{timers}[volume.consistency_point]\n{points}{more}",
            peer_key = match places.public_key(spec, side.other().index()).as_str() {
                "" => String::new(),
                line => format!("peer.{line}\n"),
            },
            dir = dir.display(),
            preferred = preferred.name(),
            logs = logs.display(),
            capacity = spec.capacity,
            timers = spec.timers,
            points = spec.consistency_point,
            more = spec.more[side.index()],
        );
    }
    text
}
