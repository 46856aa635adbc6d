//! Why RDMA cannot be used here, and what to do about it.

use super::settings::Persistence;
use std::io;

/// Why a [`Domain`](super::Domain) could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum VerbsError {
    /// The verbs library is not there.
    #[error(
        "the RDMA library libibverbs.so.1 cannot be loaded: install it with its drivers (Debian: apt install \
         libibverbs1 ibverbs-providers), or use transport = \"tcp\""
    )]
    NoLibrary,
    /// No RDMA device.
    #[error(
        "this machine has no RDMA device: load its driver (modprobe mlx5_ib, ...; modprobe ib_uverbs), or make a \
         Soft-RoCE one (modprobe rdma_rxe; rdma link add rxe0 type rxe netdev eth0); `rdma link` must list it{}",
        detail(.0)
    )]
    NoDevice(Option<io::Error>),
    /// The named device is not there.
    #[error("there is no RDMA device {name:?}; there is: {}: correct rdma.device", list(.available))]
    DeviceMissing {
        /// As configured.
        name: String,
        /// What there is.
        available: Vec<String>,
    },
    /// The device could not be opened.
    #[error(
        "RDMA device {name:?} cannot be opened: {source}: check that ib_uverbs is loaded and that this process \
         may open /dev/infiniband/uverbs*"
    )]
    Open {
        /// The device.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The named port is not there.
    #[error("RDMA device {device:?} has no port {port}; it has ports 1 to {ports}: correct rdma.port")]
    PortMissing {
        /// The device.
        device: String,
        /// As configured.
        port: u8,
        /// How many it has.
        ports: u8,
    },
    /// The port does not carry traffic.
    #[error(
        "port {port} of RDMA device {device:?} is {state}, not active: check cable, switch and `ip link` (InfiniBand: \
         a subnet manager must run)"
    )]
    PortDown {
        /// The device.
        device: String,
        /// The port.
        port: u8,
        /// What it is instead.
        state: &'static str,
    },
    /// No device has an active port.
    #[error("no RDMA port is active ({}): check cable, switch and `ip link`", list(.ports))]
    NoActivePort {
        /// The ports and their states.
        ports: Vec<String>,
    },
    /// The GID index names no GID.
    #[error(
        "port {port} of RDMA device {device:?} has no GID at index {index}; it has: {}: correct rdma.gid_index",
        list(.available)
    )]
    GidMissing {
        /// The device.
        device: String,
        /// The port.
        port: u8,
        /// As configured.
        index: u8,
        /// What there is.
        available: Vec<String>,
    },
    /// An Ethernet port without a RoCEv2 GID.
    #[error(
        "port {port} of RDMA device {device:?} has no RoCEv2 GID: give its network interface an IP address; it has: {}",
        list(.available)
    )]
    NoGid {
        /// The device.
        device: String,
        /// The port.
        port: u8,
        /// What there is.
        available: Vec<String>,
    },
    /// The log's memory is of a kind that no adapter can use for long.
    #[error(
        "the log's memory cannot be registered with {device:?}: it is a file on a DAX filesystem (fsdax), which \
         the kernel refuses for RDMA; use the device itself (log kind devdax, `ndctl create-namespace -m devdax`), \
         or transport = \"tcp\""
    )]
    MemoryFsdax {
        /// The device.
        device: String,
    },
    /// The log is a mapped file of an ordinary filesystem.
    #[error(
        "the log's memory cannot be registered with {device:?}: it is a mapped file of an ordinary filesystem, \
         which kernels since 6.5 refuse for RDMA; use a devdax log, or transport = \"tcp\""
    )]
    MemoryFile {
        /// The device.
        device: String,
    },
    /// More memory than may be locked.
    #[error(
        "the log's {bytes} bytes cannot be locked for {device:?} ({source}): raise the limit of locked memory \
         (systemd: LimitMEMLOCK=infinity; shell: ulimit -l unlimited)"
    )]
    MemoryLimit {
        /// The device.
        device: String,
        /// How much it would be.
        bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// The persistence mode cannot be honoured.
    #[error("persistence = \"{mode}\" cannot be had: {reason}")]
    ModeRefused {
        /// The mode.
        mode: Persistence,
        /// What is missing.
        reason: String,
    },
    /// The device is too small for a link.
    #[error("RDMA device {device:?} offers {offered} {what}, a link needs {needed}: use another device")]
    Limit {
        /// The device.
        device: String,
        /// Of what.
        what: &'static str,
        /// How many it has.
        offered: u64,
        /// How many are needed.
        needed: u64,
    },
    /// The library or the kernel refused something.
    #[error("RDMA: {what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// The answer.
        source: io::Error,
    },
}

fn detail(source: &Option<io::Error>) -> String {
    source.as_ref().map(|source| format!(" (the library says: {source})")).unwrap_or_default()
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "nothing".to_owned() } else { items.join(", ") }
}
