//! How a volume's two nodes are connected: `[volume.link]`, for every transport, and `[volume.rdma]`.
//!
//! Invariant: a mode of persistence that the log of this node could not honour is refused here, where the line is
//! known; the nodes compare their modes when they meet, so what one may promise holds on the other. What only
//! the machine can tell (devices, ports, limits) is in `cli::preflight`.

use super::fields::{DeviceName, Field, kind_of};
use super::model::{LogKind, TransportKind};
use super::section::{Located, Section};
use super::units::HumanDuration;
use std::fmt;
use std::time::Duration;
use toml::de::DeValue;

/// Polling longer than this is a waste on every network.
const MAX_SPIN: Duration = Duration::from_millis(10);
/// Keepalive counts whole seconds.
const MIN_DEAD_PEER_TIMEOUT: Duration = Duration::from_secs(1);
/// How many failure timeouts a peer that takes no byte is given, and how long at least, unless the file says otherwise.
const DEAD_PEER_TIMEOUTS: u32 = 4;
const PATIENT_DEAD_PEER_TIMEOUT: Duration = Duration::from_millis(1600);

/// What a link's waits are bounded by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkConfig {
    /// How long a thread polls for the partner's answer before it sleeps.
    pub spin: Duration,
    /// Longest time to make a link.
    pub handshake_timeout: Duration,
    /// A partner that takes no byte for so long is dead; `None`: four times `timers.peer_timeout`, at least 1.6 s.
    pub dead_peer_timeout: Option<Duration>,
}

impl Default for LinkConfig {
    fn default() -> LinkConfig {
        let tuning = rdma_transport::Tuning::default();
        LinkConfig { spin: tuning.spin, handshake_timeout: tuning.handshake_timeout, dead_peer_timeout: None }
    }
}

impl LinkConfig {
    /// For the transport.
    pub fn tuning(&self, peer_timeout: Duration) -> rdma_transport::Tuning {
        let patient = (peer_timeout * DEAD_PEER_TIMEOUTS).max(PATIENT_DEAD_PEER_TIMEOUT);
        let dead = self.dead_peer_timeout.unwrap_or(patient);
        rdma_transport::Tuning {
            spin: self.spin,
            handshake_timeout: self.handshake_timeout,
            dead_peer_timeout: dead.max(MIN_DEAD_PEER_TIMEOUT),
        }
    }
}

/// What makes bytes durable that were written into the partner's memory, in librpma's terms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Persistence {
    /// The partner's processor writes them back and says so (GPSPM).
    #[default]
    Message,
    /// A READ behind the WRITE (APM); only where DMA bypasses the processor's caches.
    Read,
    /// The native FLUSH of newer devices.
    Flush,
}

impl Persistence {
    /// Every mode with its name in the file.
    pub const ALL: [(&'static str, Persistence); 3] =
        [("message", Persistence::Message), ("read", Persistence::Read), ("flush", Persistence::Flush)];

    /// The sender knows by itself, without a word of the partner's processor.
    pub fn is_one_sided(self) -> bool {
        self != Persistence::Message
    }
}

impl fmt::Display for Persistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Persistence::ALL.iter().find(|(_, mode)| mode == self).map_or("?", |(name, _)| name);
        f.write_str(name)
    }
}

impl Field for Persistence {
    const WANTED: &'static str = "one of \"message\", \"read\", \"flush\"";
    const EXAMPLE: &'static str = "\"message\"";
    fn read(value: &DeValue<'_>) -> Result<Persistence, String> {
        super::fields::choice(value, &Persistence::ALL)
    }
}

/// RDMA. Every `None` is an automatic choice.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RdmaConfig {
    /// The device, like "mlx5_0" or "rxe0".
    pub device: Option<String>,
    /// Its port, counted from 1.
    pub port: Option<u8>,
    /// Entry of the port's GID table.
    pub gid_index: Option<u8>,
    /// Traffic class of the packets (RoCE: the IP header's DSCP and ECN bits).
    pub traffic_class: u8,
    /// See [`Persistence`].
    pub persistence: Persistence,
    /// Declared by the operator: on both nodes DMA bypasses the processor's caches.
    pub ddio_off: bool,
}

impl Field for u8 {
    const WANTED: &'static str = "a whole number from 0 to 255";
    const EXAMPLE: &'static str = "1";
    fn read(value: &DeValue<'_>) -> Result<u8, String> {
        let number = value.as_integer().ok_or_else(|| format!("it is {}", kind_of(value)))?;
        u8::from_str_radix(number.as_str(), number.radix())
            .map_err(|_| format!("{} is out of range", number.as_str()))
    }
}

pub(super) fn link(mut section: Section<'_, '_>) -> LinkConfig {
    let default = LinkConfig::default();
    let spin = section.optional::<HumanDuration>("spin");
    if let Some(Located { value: HumanDuration(spin), line }) = spin
        && spin > MAX_SPIN
    {
        section.problem(
            line,
            format!("`spin` ({}) keeps a processor busy for nothing", HumanDuration(spin)),
            format!("at most {}; how long below that is right is measured", HumanDuration(MAX_SPIN)),
        );
    }
    let dead = section.optional::<HumanDuration>("dead_peer_timeout");
    if let Some(Located { value: HumanDuration(timeout), line }) = dead
        && timeout < MIN_DEAD_PEER_TIMEOUT
    {
        section.problem(
            line,
            format!("`dead_peer_timeout` ({}) is too short", HumanDuration(timeout)),
            format!(
                "at least {}; `timers.peer_timeout` decides how soon a lost partner is noticed",
                HumanDuration(MIN_DEAD_PEER_TIMEOUT)
            ),
        );
    }
    let handshake_timeout = section.or("handshake_timeout", HumanDuration(default.handshake_timeout)).0;
    section.finish();
    LinkConfig {
        spin: spin.map_or(default.spin, |located| located.value.0),
        handshake_timeout,
        dead_peer_timeout: dead.map(|located| located.value.0),
    }
}

/// What the file says about the transport, with the lines of problems.
pub(super) struct Chosen {
    pub(super) transport: TransportKind,
    pub(super) line: usize,
    pub(super) log: Option<LogKind>,
}

pub(super) fn rdma(mut section: Section<'_, '_>, chosen: &Chosen) -> RdmaConfig {
    if chosen.transport != TransportKind::Verbs {
        section.problem(
            section.line(),
            format!("this volume's transport is \"{}\", which uses no RDMA", chosen.transport),
            "write `transport = \"verbs\"` in the volume, or remove this table",
        );
    }
    let device = section.optional::<DeviceName>("device");
    let port = section.optional::<u8>("port");
    if let Some(Located { value: 0, line }) = port {
        section.problem(line, "`port`: 0", "ports are counted from 1: `port = 1`");
    }
    let gid_index = section.optional::<u8>("gid_index");
    let traffic_class = section.or("traffic_class", 0);
    let persistence = section.optional::<Persistence>("persistence");
    let ddio_off = section.or("ddio_off", false);
    if let Some(Located { value, line }) = persistence {
        check_persistence(&section, value, line, ddio_off, chosen.log);
    }
    section.finish();
    RdmaConfig {
        device: device.map(|located| located.value.0),
        port: port.map(|located| located.value),
        gid_index: gid_index.map(|located| located.value),
        traffic_class,
        persistence: persistence.map_or(Persistence::default(), |located| located.value),
        ddio_off,
    }
}

fn check_persistence(
    section: &Section<'_, '_>,
    mode: Persistence,
    line: usize,
    ddio_off: bool,
    log: Option<LogKind>,
) {
    if mode == Persistence::Read && !ddio_off {
        section.problem(
            line,
            "`persistence`: \"read\" is only true where DMA bypasses the processor's caches: a READ brings \
             written bytes into the caches or the memory controller, and what is in a cache dies with the power",
            "turn DDIO off on both nodes (docs/rdma.md tells how) and declare it with `ddio_off = true`, or write \
             `persistence = \"message\"`",
        );
    }
    if mode.is_one_sided() && log == Some(LogKind::Block) {
        section.problem(
            line,
            format!(
                "`persistence`: \"{mode}\" cannot hold for a `block` log: RDMA reaches only its image in memory, \
                 and the disk is written by the partner's processor"
            ),
            "write `persistence = \"message\"`, or use a `devdax` log on both nodes",
        );
    }
}

/// What must hold between the transport and the rest of a volume.
pub(super) fn check_transport(section: &Section<'_, '_>, chosen: &Chosen) {
    if chosen.transport != TransportKind::Verbs {
        return;
    }
    if !cfg!(feature = "verbs") {
        section.problem(
            chosen.line,
            "`transport`: \"verbs\" (RDMA) is not part of this program: it was built without the cargo feature `verbs`",
            "build it with default features (needs cmake and libclang), or write `transport = \"tcp\"`",
        );
    }
    if chosen.log == Some(LogKind::FsDax) {
        section.problem(
            chosen.line,
            "`transport`: \"verbs\" cannot mirror an `fsdax` log: every kernel refuses to register files of a DAX \
             filesystem with a NIC (EOPNOTSUPP), because the filesystem may move their blocks at any time",
            "give the namespace to the log as a device (`ndctl create-namespace -f -e NAMESPACE -m devdax`, \
             `kind = \"devdax\"`), or write `transport = \"tcp\"`",
        );
    }
}
