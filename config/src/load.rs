//! From the text of the file to a [`NodeConfig`], noting every problem on the way.
//!
//! What must hold between values is checked here too, while their lines are known: names, ids, paths and
//! addresses that may stand only once, paths that may not lie in each other, timers that depend on each other.

use super::claims::{BASE_KIND, Claims};
use super::doors::Doors;
use super::error::Problem;
use super::fields::InterfaceName;
use super::link::{self, LinkConfig, RdmaConfig};
use super::model::*;
use super::section::{Located, Section, Source};
use super::units::{ByteSize, HumanDuration};
use super::witness::witness;
use ids::AnswerFrom;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeTable;

/// Most volumes of one node.
const MAX_VOLUMES: usize = 256;
/// Most threads of one mount.
const MAX_FUSE_THREADS: usize = 64;
/// Smallest log that is worth running.
const MIN_LOG_BYTES: u64 = 1 << 20;
/// Devices and direct I/O want whole pages.
const LOG_GRANULE_BYTES: u64 = 4096;
/// The pair counts whole milliseconds.
const MIN_TIMER: Duration = Duration::from_millis(1);

const DEFAULT_CONTROL: &str = "/run/twinfiler/control.sock";

pub(super) fn parse(text: &str) -> Result<NodeConfig, Vec<Problem>> {
    let source = Source::new(text);
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    for error in syntax_errors {
        let line = error.span().map_or(1, |span| source.line_at(span.start));
        source.problem(
            line,
            format!("not TOML: {}", error.message()),
            "correct the syntax (toml.io describes it)",
        );
    }
    if source.has_problems() {
        return Err(source.into_problems());
    }
    let config = file(Section::root(&source, document.get_ref()));
    match config {
        Some(config) if !source.has_problems() => Ok(config),
        _ => Err(source.into_problems()),
    }
}

fn file(mut root: Section<'_, '_>) -> Option<NodeConfig> {
    let mut claims = Claims::default();
    let mut doors = Doors::default();
    let node = root.required_table("node").and_then(|section| node(section, &mut claims, &mut doors));
    let witness = root.table("witness").map(|section| witness(section, &mut claims, &doors));
    let sections = root.tables("volume");
    if sections.is_empty() {
        root.problem(1, "it has no volume", "add one with `[[volume]]` (`twinfiler init` prints it ready)");
    }
    if sections.len() > MAX_VOLUMES {
        root.problem(1, format!("more than {MAX_VOLUMES} volumes"), "spread them over several daemons");
    }
    let own = node.as_ref();
    let volumes: Vec<Option<VolumeConfig>> =
        sections.into_iter().map(|section| volume(section, own, &mut claims, &doors)).collect();
    claims.check_salvages(&root);
    root.finish();
    let witness = match witness {
        Some(witness) => Some(witness?),
        None => None,
    };
    Some(NodeConfig { witness, volumes: volumes.into_iter().collect::<Option<_>>()?, ..node? })
}

fn node(mut section: Section<'_, '_>, claims: &mut Claims, doors: &mut Doors) -> Option<NodeConfig> {
    *doors = Doors::of_node(&mut section);
    let name = section.required("name");
    let listen = section.required::<SocketAddr>("listen");
    let control = section.or("control", PathBuf::from(DEFAULT_CONTROL));
    let metrics = section.optional::<SocketAddr>("metrics_listen");
    let log_level = section.optional::<String>("log_level");
    let log_format = section.or("log_format", LogFormat::default());
    if let Some(level) = &log_level
        && let Err(error) = level.value.parse::<tracing_subscriber::EnvFilter>()
    {
        section.problem(
            level.line,
            format!("`log_level`: {:?} is no filter: {error}", level.value),
            "write error, warn, info, debug or trace, or a list like \"info,node=debug\"",
        );
    }
    if let Some(listen) = &listen {
        claims.claim(&section, "address", listen.value.to_string(), listen.line);
        doors.check_address(&section, listen.line, "`listen`", listen.value);
    }
    if let Some(metrics) = &metrics {
        claims.claim(&section, "address", metrics.value.to_string(), metrics.line);
        if !metrics.value.ip().is_loopback() {
            section.problem(
                metrics.line,
                format!("`metrics_listen`: {} is not a loopback address", metrics.value.ip()),
                format!("metrics have no access control: write \"127.0.0.1:{}\"", metrics.value.port()),
            );
        }
    }
    section.finish();
    Some(NodeConfig {
        name: name?.value,
        listen: listen?.value,
        control,
        metrics_listen: metrics.map(|located| located.value),
        log_level: log_level.map_or_else(|| "info".to_owned(), |located| located.value),
        log_format,
        private_key: doors.private_key.clone(),
        plaintext: doors.plaintext,
        witness: None,
        volumes: Vec::new(),
    })
}

fn volume(
    mut section: Section<'_, '_>,
    own: Option<&NodeConfig>,
    claims: &mut Claims,
    doors: &Doors,
) -> Option<VolumeConfig> {
    let name = section.required::<VolumeName>("name");
    if let Some(name) = &name {
        claims.claim(&section, "volume name", name.value.to_string(), name.line);
        section.rename(format!("volume {:?}", name.value.as_str()));
    }
    let id = section.required::<ids::VolumeId>("id");
    if let Some(id) = &id {
        claims.claim(&section, "volume id", id.value.to_string(), id.line);
    }
    let base = section.required::<PathBuf>("base");
    if let Some(base) = &base {
        claims.claim_tree(&section, BASE_KIND, &base.value, base.line);
    }
    let transport = section.optional::<TransportKind>("transport");
    let peer = section.required_table("peer").and_then(|section| peer(section, own, claims, doors));
    let preferred = section.optional::<ids::NodeName>("preferred_primary");
    if let (Some(preferred), Some(peer), Some(own)) = (&preferred, &peer, own)
        && preferred.value != peer.name
        && preferred.value != own.name
    {
        section.problem(
            preferred.line,
            format!("`preferred_primary`: {} is neither node of the pair", preferred.value),
            format!("write {:?} or {:?}, the same on both nodes", own.name.as_str(), peer.name.as_str()),
        );
    }
    let answer = section.optional::<AnswerFrom>("answer");
    let log = section.required_table("log").and_then(|section| log(section, claims));
    if let (Some(Located { value: AnswerFrom::Memory, line }), Some(log)) = (&answer, &log) {
        check_answer_from_memory(&section, *line, log.kind);
    }
    let fuse = section.table("fuse").map_or_else(FuseConfig::default, |section| fuse(section, claims));
    let timers = section.table("timers").map_or_else(TimerConfig::default, timers);
    let chosen = link::Chosen {
        transport: transport.map_or(TransportKind::default(), |located| located.value),
        line: transport.map_or(section.line(), |located| located.line),
        log: log.as_ref().map(|log| log.kind),
    };
    link::check_transport(&section, &chosen);
    let rdma = section.table("rdma").map_or_else(RdmaConfig::default, |section| link::rdma(section, &chosen));
    let link = section.table("link").map_or_else(LinkConfig::default, link::link);
    let log_bytes = log.as_ref().map(|log| log.capacity_bytes);
    let resync = section.table("resync").map_or_else(ResyncConfig::default, |section| {
        resync(section, claims, name.as_ref().map(|name| &name.value))
    });
    let consistency_point = match section.table("consistency_point") {
        Some(section) => consistency_point(section, log_bytes),
        None => ConsistencyPointConfig::default(),
    };
    let hooks = section.table("hooks").map_or_else(HooksConfig::default, hooks);
    let fixed = [
        own.map(|own| ("`node.listen`", own.listen)),
        peer.as_ref().map(|peer| ("`peer.address`", peer.address)),
    ];
    let floating_ip = section.table("floating_ip").map(|section| floating_ip(section, claims, fixed));
    section.finish();
    Some(VolumeConfig {
        name: name?.value,
        id: id?.value,
        base: base?.value,
        peer: peer?,
        transport: chosen.transport,
        rdma,
        link,
        log: log?,
        answer: answer.map_or(AnswerFrom::default(), |located| located.value),
        fuse,
        timers,
        consistency_point,
        resync,
        hooks,
        floating_ip: match floating_ip {
            Some(floating_ip) => Some(floating_ip?),
            None => None,
        },
        preferred_primary: preferred.map(|located| located.value),
    })
}

/// Only a log on a device is slower than memory.
fn check_answer_from_memory(section: &Section<'_, '_>, line: usize, kind: LogKind) {
    let why = match kind {
        LogKind::Block => return,
        LogKind::Emulated => {
            "every answer comes out of memory already, and an fsync has nothing stronger to wait for"
        }
        LogKind::FsDax | LogKind::DevDax => {
            "persistent memory is as fast as memory, and every answer survives power"
        }
    };
    section.problem(
        line,
        format!("`answer`: \"memory\" changes nothing with a log of kind \"{kind}\": {why}"),
        "remove it, or choose a log of kind \"block\"",
    );
}

fn peer(
    mut section: Section<'_, '_>,
    own: Option<&NodeConfig>,
    claims: &Claims,
    doors: &Doors,
) -> Option<PeerConfig> {
    let name = section.required::<ids::NodeName>("name");
    let address = section.required::<SocketAddr>("address");
    if let (Some(name), Some(own)) = (&name, own)
        && name.value == own.name
    {
        section.problem(
            name.line,
            format!("`name`: {} is this node's own name", name.value),
            "name the other node of the pair",
        );
    }
    if let (Some(address), Some(own)) = (&address, own)
        && address.value == own.listen
    {
        section.problem(
            address.line,
            format!("`address`: {} is this node's own `listen`", address.value),
            "write the `listen` address of the other node",
        );
    } else if let Some(address) = &address
        && let Some(line) = claims.line_of("address", &address.value.to_string())
    {
        section.problem(
            address.line,
            format!("`address`: {} is in line {line} already", address.value),
            "write the `listen` address of the other node: something else answers there",
        );
    }
    let public_key = doors.key(&mut section);
    if let Some(address) = &address {
        doors.check_address(&section, address.line, "`address`", address.value);
    }
    section.finish();
    Some(PeerConfig { name: name?.value, address: address?.value, public_key })
}

fn log(mut section: Section<'_, '_>, claims: &mut Claims) -> Option<LogConfig> {
    let kind = section.required::<LogKind>("kind");
    let path = section.required::<PathBuf>("path");
    let capacity = section.required::<ByteSize>("capacity");
    if let Some(path) = &path {
        claims.claim_tree(&section, "log", &path.value, path.line);
    }
    if let Some(Located { value: ByteSize(bytes), line }) = capacity {
        if bytes < MIN_LOG_BYTES {
            section.problem(
                line,
                format!("`capacity`: {} is too small for a log", ByteSize(bytes)),
                format!(
                    "at least {}; 1GiB holds some seconds of writes at full speed",
                    ByteSize(MIN_LOG_BYTES)
                ),
            );
        } else if bytes % LOG_GRANULE_BYTES != 0 {
            section.problem(
                line,
                format!("`capacity`: {bytes} bytes are not whole pages"),
                format!(
                    "a multiple of {}: \"{}\"",
                    ByteSize(LOG_GRANULE_BYTES),
                    ByteSize(bytes / LOG_GRANULE_BYTES * LOG_GRANULE_BYTES)
                ),
            );
        }
    }
    section.finish();
    Some(LogConfig { kind: kind?.value, path: path?.value, capacity_bytes: capacity?.value.0 })
}

fn fuse(mut section: Section<'_, '_>, claims: &mut Claims) -> FuseConfig {
    let mount = section.optional::<PathBuf>("mount");
    if let Some(mount) = &mount {
        claims.claim_tree(&section, "mount point", &mount.value, mount.line);
    }
    let threads = section.optional::<usize>("threads");
    if let Some(Located { value, line }) = threads
        && !(1..=MAX_FUSE_THREADS).contains(&value)
    {
        section.problem(
            line,
            format!("`threads`: {value}"),
            format!("write a number from 1 to {MAX_FUSE_THREADS}"),
        );
    }
    let default = FuseConfig::default();
    let fuse = FuseConfig {
        mount: mount.map(|located| located.value),
        writeback_cache: section.or("writeback_cache", default.writeback_cache),
        threads: threads.map_or(default.threads, |located| located.value),
        allow_other: section.or("allow_other", default.allow_other),
        nosuid: section.or("nosuid", default.nosuid),
        nodev: section.or("nodev", default.nodev),
        read_only: section.or("ro", default.read_only),
    };
    section.finish();
    fuse
}

fn timers(mut section: Section<'_, '_>) -> TimerConfig {
    let default = TimerConfig::default();
    let mut get = |key, default| {
        let located = section.optional::<HumanDuration>(key);
        (located.map_or(default, |l| l.value.0), located.map(|l| l.line))
    };
    let (heartbeat, heartbeat_line) = get("heartbeat", default.heartbeat);
    let (peer_timeout, timeout_line) = get("peer_timeout", default.peer_timeout);
    let (lease, lease_line) = get("lease", default.lease);
    let (reconnect, _) = get("reconnect", default.reconnect);
    let (handover, _) = get("handover", default.handover);
    let human = |duration| HumanDuration(duration).to_string();
    let margin = Duration::from_millis(pair::Timers::default().drift_margin_ms);
    if lease + margin >= peer_timeout {
        let line = lease_line.or(timeout_line).unwrap_or(section.line());
        section.problem(
            line,
            format!("`lease` ({}) is too long for `peer_timeout` ({})", human(lease), human(peer_timeout)),
            format!("keep it more than {} (what clocks may differ by) below `peer_timeout`", human(margin)),
        );
    }
    if heartbeat < MIN_TIMER {
        let line = heartbeat_line.unwrap_or(section.line());
        section.problem(line, format!("`heartbeat` ({}) is too short", human(heartbeat)), "at least 1ms");
    }
    let heartbeats = pair::HEARTBEATS_PER_LEASE;
    if heartbeat * heartbeats as u32 > lease {
        let line = heartbeat_line.or(lease_line).unwrap_or(section.line());
        section.problem(
            line,
            format!("`heartbeat` ({}) is too long for `lease` ({})", human(heartbeat), human(lease)),
            format!("at least {heartbeats} heartbeats must fit in a lease"),
        );
    }
    section.finish();
    TimerConfig { heartbeat, peer_timeout, lease, reconnect, handover }
}

fn consistency_point(mut section: Section<'_, '_>, log_bytes: Option<u64>) -> ConsistencyPointConfig {
    let default = ConsistencyPointConfig::default();
    let interval = section.or("interval", HumanDuration(default.interval)).0;
    let bytes = section.optional::<ByteSize>("bytes");
    if let (Some(Located { value: ByteSize(bytes), line }), Some(log_bytes)) = (bytes, log_bytes)
        && (bytes == 0 || bytes > log_bytes)
    {
        section.problem(
            line,
            format!("`bytes`: {} does not fit the log of {}", ByteSize(bytes), ByteSize(log_bytes)),
            "write more than zero and at most the log's capacity; a log that is half full triggers one anyway",
        );
    }
    let memory = section.optional::<ByteSize>("memory");
    if let Some(Located { value: ByteSize(memory), line }) = memory
        && memory < MIN_POINT_MEMORY_BYTES
    {
        section.problem(
            line,
            format!("`memory`: {} is too little", ByteSize(memory)),
            format!(
                "at least {}; each consistency point flushes the filesystem",
                ByteSize(MIN_POINT_MEMORY_BYTES)
            ),
        );
    }
    section.finish();
    ConsistencyPointConfig {
        interval,
        bytes: bytes.map_or(default.bytes, |located| located.value.0),
        memory: memory.map_or(default.memory, |located| located.value.0),
    }
}

/// With less, flushing would take longer than applying.
const MIN_POINT_MEMORY_BYTES: u64 = 1 << 20;

/// One answer of a source must come within the receiver's patience.
const MIN_RESYNC_RATE_BYTES: u64 = 64 << 10;

fn resync(mut section: Section<'_, '_>, claims: &mut Claims, volume: Option<&VolumeName>) -> ResyncConfig {
    let default = ResyncConfig::default();
    let salvage = section.optional::<PathBuf>("salvage");
    if let (Some(salvage), Some(volume)) = (&salvage, volume) {
        claims.claim_salvage(&section, salvage.value.join(volume.as_str()), salvage.line);
    }
    let min = section.optional::<ByteSize>("min_rate");
    let max = section.optional::<ByteSize>("max_rate");
    let config = ResyncConfig {
        min_rate_bytes: min.map_or(default.min_rate_bytes, |located| located.value.0),
        max_rate_bytes: max.map_or(default.max_rate_bytes, |located| located.value.0),
        compress: section.or("compress", default.compress),
        salvage: salvage.map(|located| located.value),
    };
    if let Some(line) = max.or(min).map(|located| located.line)
        && (config.min_rate_bytes < MIN_RESYNC_RATE_BYTES || config.min_rate_bytes > config.max_rate_bytes)
    {
        section.problem(
            line,
            format!(
                "`min_rate` {} and `max_rate` {}",
                ByteSize(config.min_rate_bytes),
                ByteSize(config.max_rate_bytes)
            ),
            "write sizes per second, `min_rate` at least 64KiB and `max_rate` not below it",
        );
    }
    section.finish();
    config
}

/// A daemon that stops waits for its last hook, and the unit's `TimeoutStopSec=` for the daemon.
const MAX_HOOK_TIME: Duration = Duration::from_secs(30);

fn hooks(mut section: Section<'_, '_>) -> HooksConfig {
    let default = HooksConfig::default();
    let time_limit = section.optional::<HumanDuration>("time_limit");
    if let Some(Located { value, line }) = time_limit.filter(|located| located.value.0 > MAX_HOOK_TIME) {
        section.problem(
            line,
            format!("`time_limit` ({value}) is too long"),
            format!(
                "at most {}; what takes longer a hook starts as a service of its own (`systemctl start`)",
                HumanDuration(MAX_HOOK_TIME)
            ),
        );
    }
    let hooks = HooksConfig {
        on_primary: section.optional("on_primary").map(|located| located.value),
        on_demote: section.optional("on_demote").map(|located| located.value),
        time_limit: time_limit.map_or(default.time_limit, |located| located.value.0),
    };
    section.finish();
    hooks
}

/// `fixed` are addresses that machines have whoever serves: this node would take its own away when it is not primary.
fn floating_ip(
    mut section: Section<'_, '_>,
    claims: &mut Claims,
    fixed: [Option<(&str, SocketAddr)>; 2],
) -> Option<FloatingIpConfig> {
    let address = section.required::<super::AddressPrefix>("address");
    let interface = section.required::<InterfaceName>("interface");
    if let Some(address) = &address {
        claims.claim(&section, "floating address", address.value.address.to_string(), address.line);
        for (key, has) in fixed.into_iter().flatten().filter(|(_, has)| has.ip() == address.value.address) {
            section.problem(
                address.line,
                format!("`address`: {} is the address of {key}", has.ip()),
                "choose one that no machine has by itself: it goes from node to node with the volume, and clients use it",
            );
        }
    }
    section.finish();
    Some(FloatingIpConfig { address: address?.value, interface: interface?.value.0 })
}
