//! How a pair is configured: the only place that knows the spelling of configuration files and commands.

use super::keys::Doors;
use crate::lab::Side;
use std::time::Duration;

/// The name of the one volume.
pub const VOLUME: &str = "vol";

/// Its id.
const VOLUME_ID: &str = "7461696c2d77696e6466696c65720003";

/// The port of each node on the wire.
const PORT: u16 = 7400;

/// Where a node's filesystem for its local tree is mounted.
pub const DISK: &str = "/srv/disk";

/// The local tree.
pub const BASE: &str = "/srv/disk/closed/base";

/// Where the primary mounts the volume.
pub const MOUNT: &str = "/srv/volume";

/// The configuration file.
pub const CONFIG: &str = "/srv/twinfiler.toml";

/// The control socket.
pub const CONTROL: &str = "/run/twinfiler.sock";

/// Where a filesystem with direct access is mounted, for a log that is a file.
pub const PMEM: &str = "/srv/pmem";

/// The name of the device mapper's device that lies between a filesystem and a disk that can be made to hang.
pub const SUSPENDABLE: &str = "suspendable";

/// Lease and failure timeout of a patient node.
const PATIENCE: [Duration; 2] = [Duration::from_secs(20), Duration::from_secs(25)];

/// What the log lies in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogPlace {
    /// The NVDIMM as a character device.
    Devdax,
    /// A file on ext4 with direct access on the NVDIMM.
    Fsdax,
    /// An ordinary file on the node's disk, mapped.
    PlainFile,
}

impl LogPlace {
    /// The kind as configuration files name it.
    pub fn kind(self) -> &'static str {
        match self {
            LogPlace::Devdax => "devdax",
            LogPlace::Fsdax => "fsdax",
            LogPlace::PlainFile => "emulated",
        }
    }

    /// Device or file in the guest.
    pub fn path(self) -> &'static str {
        match self {
            LogPlace::Devdax => "/dev/dax0.0",
            LogPlace::Fsdax => "/srv/pmem/log",
            LogPlace::PlainFile => "/srv/disk/log",
        }
    }
}

/// How a pair is configured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// "verbs" or "tcp".
    pub transport: &'static str,
    /// More lines of the volume's `[volume.rdma]` section.
    pub rdma: String,
    /// What the logs lie in.
    pub log: LogPlace,
    /// Length of each log.
    pub capacity_mib: u32,
    /// Silence after which the partner counts as lost. Emulated machines stand still for hundreds of milliseconds
    /// when the host is busy, so that this and the times below are longer than the defaults.
    pub peer_timeout: Duration,
    /// A node that waits much longer, as if its clock stood nearly still: hearing nothing, it goes on. (Its reads
    /// are then not protected by anything. Its writes must be.)
    pub patient: Option<Side>,
    /// How long reads are served on the partner's last answer.
    pub lease: Duration,
    /// Between two signs of life.
    pub heartbeat: Duration,
    /// Longest time between two consistency points.
    pub consistency_interval: Duration,
    /// Whether the disks can be made to hang ([`SUSPENDABLE`]).
    pub disks_can_hang: bool,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            transport: "verbs",
            rdma: String::new(),
            log: LogPlace::Devdax,
            capacity_mib: 64,
            peer_timeout: Duration::from_millis(1500),
            patient: None,
            lease: Duration::from_millis(1200),
            heartbeat: Duration::from_millis(100),
            consistency_interval: Duration::from_secs(1),
            disks_can_hang: false,
        }
    }
}

impl Plan {
    /// The same over TCP.
    pub fn over_tcp() -> Plan {
        Plan { transport: "tcp", ..Plan::default() }
    }

    /// A node's configuration file.
    pub fn configuration(&self, side: Side, doors: &Doors) -> String {
        let (own, partner) = (side.address(), side.other().address());
        let [lease, timeout] = match self.patient {
            Some(patient) if patient == side => PATIENCE,
            _ => [self.lease, self.peer_timeout],
        };
        let rdma = match self.rdma.as_str() {
            "" => String::new(),
            lines => format!("\n[volume.rdma]\n{lines}\n"),
        };
        format!(
            "[node]\n\
             name = \"{name}\"\n\
             listen = \"{own}:{PORT}\"\n\
             control = \"{CONTROL}\"\n\
             private_key = \"{key}\"\n\
             log_level = \"info\"\n\
             \n\
             [witness]\n\
             addresses = [\"{witness}\"]\n\
             public_key = \"{witness_key}\"\n\
             timeout = \"1s\"\n\
             \n\
             [[volume]]\n\
             name = \"{VOLUME}\"\n\
             id = \"{VOLUME_ID}\"\n\
             base = \"{BASE}\"\n\
             transport = \"{transport}\"\n\
             preferred_primary = \"{preferred}\"\n\
             peer = {{ name = \"{peer}\", address = \"{partner}:{PORT}\", public_key = \"{peer_key}\" }}\n\
             log = {{ kind = \"{kind}\", path = \"{log}\", capacity = \"{capacity}MiB\" }}\n\
             fuse = {{ mount = \"{MOUNT}\" }}\n\
             consistency_point = {{ interval = \"{interval}ms\" }}\n\
             \n\
             [volume.timers]\n\
             heartbeat = \"{heartbeat}ms\"\n\
             peer_timeout = \"{timeout}ms\"\n\
             lease = \"{lease}ms\"\n\
             {rdma}",
            name = side.name(),
            key = doors.key(side).display(),
            witness = doors.witness,
            witness_key = doors.public[2],
            peer_key = doors.public[usize::from(side == Side::A)],
            transport = self.transport,
            preferred = Side::A.name(),
            peer = side.other().name(),
            kind = self.log.kind(),
            log = self.log.path(),
            capacity = self.capacity_mib,
            interval = self.consistency_interval.as_millis(),
            heartbeat = self.heartbeat.as_millis(),
            timeout = timeout.as_millis(),
            lease = lease.as_millis(),
        )
    }

    /// The arguments of `twinfiler` that make log and local tree.
    pub fn init_arguments(&self) -> Vec<String> {
        let capacity = format!("{}MiB", self.capacity_mib);
        let words = [
            "init",
            "--name",
            VOLUME,
            "--volume-id",
            VOLUME_ID,
            "--log-kind",
            self.log.kind(),
            "--capacity",
            &capacity,
            "--base",
            BASE,
            "--log",
            self.log.path(),
        ];
        words.map(str::to_owned).to_vec()
    }

    /// A shell script that makes the filesystems of a new guest.
    pub fn format_script(&self) -> String {
        let pmem = match self.log {
            LogPlace::Fsdax => "mkfs.ext4 -q -F -b 4096 /dev/pmem0",
            LogPlace::Devdax | LogPlace::PlainFile => "",
        };
        format!("set -e\nmkfs.ext4 -q -F /dev/vda\n{pmem}\n")
    }

    /// A shell script that mounts them, after each boot.
    pub fn mount_script(&self) -> String {
        let pmem = match self.log {
            LogPlace::Fsdax => format!("mkdir -p {PMEM}\nmount -t ext4 -o dax /dev/pmem0 {PMEM}"),
            LogPlace::Devdax | LogPlace::PlainFile => String::new(),
        };
        let (disk, between) = match self.disks_can_hang {
            // No udev runs here that would make a name for it.
            true => (
                "/dev/dm-0",
                format!(
                    "modprobe -C /dev/null dm-mod\n\
                     dmsetup create --noudevsync --noudevrules {SUSPENDABLE} \
                     --table \"0 $(cat /sys/block/vda/size) linear /dev/vda 0\"\n"
                ),
            ),
            false => ("/dev/vda", String::new()),
        };
        format!(
            "set -e\nmkdir -p {DISK} {MOUNT} /run/lock\n{between}mount -t ext4 {disk} {DISK}\nmkdir -p {BASE}\n{pmem}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_names_the_other_and_both_the_same_volume() {
        let plan = Plan { rdma: "persistence = \"read\"".to_owned(), ..Plan::default() };
        let doors = Doors {
            witness: ([10, 0, 2, 2], 1234).into(),
            dir: "/keys".into(),
            public: ["of-a", "of-b", "of-witness"].map(str::to_owned),
        };
        let [a, b] = Side::BOTH.map(|side| plan.configuration(side, &doors));
        let line = |text: &str, key: &str| text.lines().find(|line| line.starts_with(key)).map(str::to_owned);
        assert_eq!(line(&a, "name"), Some("name = \"a\"".to_owned()));
        assert!(line(&a, "peer = ").is_some_and(|peer| peer.contains("\"b\"") && peer.contains("of-b")));
        assert!(line(&b, "peer = ").is_some_and(|peer| peer.contains("\"a\"") && peer.contains("of-a")));
        assert_eq!(line(&b, "private_key"), Some("private_key = \"/keys/b.key\"".to_owned()));
        assert_eq!(line(&a, "id"), line(&b, "id"));
        assert_eq!(line(&a, "preferred_primary"), line(&b, "preferred_primary"));
        assert!(a.ends_with("\n[volume.rdma]\npersistence = \"read\"\n"));
        assert!(Plan::default().configuration(Side::A, &doors).lines().all(|line| !line.contains("rdma")));
    }
}
