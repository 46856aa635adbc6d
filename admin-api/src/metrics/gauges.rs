//! Gauges, read from the status at the moment of a scrape.

use crate::status::{AckLevel, FaultKind, Mode, NodeStatus, Role, VolumeStatus, role_name};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use std::fmt;

/// The newest status.
#[derive(Debug, Default)]
pub(super) struct StatusGauges(Mutex<Option<NodeStatus>>);

impl StatusGauges {
    pub(super) fn set(&self, status: NodeStatus) {
        *self.0.lock() = Some(status);
    }
}

type Read = fn(&VolumeStatus) -> Option<f64>;

/// Name, help, and how to read it from a volume's status; a gauge that is not known is left out.
const GAUGES: &[(&str, &str, Read)] = &[
    ("epoch", "Epoch of the volume", |v| Some(v.epoch.0 as f64)),
    ("reserved_lsn_bytes", "Log position: space given to records", |v| Some(v.cursors?.reserved().0 as f64)),
    ("answerable_lsn_bytes", "Log position: acknowledged", |v| Some(v.cursors?.answerable().0 as f64)),
    ("committed_lsn_bytes", "Log position: durable as an fsync is", |v| {
        Some(v.cursors?.committed().0 as f64)
    }),
    ("applied_lsn_bytes", "Log position: in the local tree", |v| Some(v.cursors?.applied().0 as f64)),
    ("trimmed_lsn_bytes", "Log position: reusable before", |v| Some(v.cursors?.trimmed().0 as f64)),
    ("apply_lag_operations", "Operations committed and not in the local tree", |v| {
        Some(v.apply_lag.operations as f64)
    }),
    ("apply_lag_bytes", "Log bytes committed and not in the local tree", |v| Some(v.apply_lag.bytes as f64)),
    ("apply_lag_seconds", "Age of the oldest operation that is not in the local tree", |v| {
        Some(v.apply_lag.seconds)
    }),
    ("partner_lag_operations", "Operations that the partner's log lacks", |v| {
        Some(v.partner_lag?.operations as f64)
    }),
    ("partner_lag_bytes", "Log bytes that the partner's log lacks", |v| Some(v.partner_lag?.bytes as f64)),
    ("partner_lag_seconds", "How long the partner's log has lacked something", |v| {
        Some(v.partner_lag?.seconds)
    }),
    ("log_capacity_bytes", "Length of the log", |v| Some(v.log.capacity_bytes as f64)),
    ("log_used_bytes", "Log space that cannot be reused yet", |v| Some(v.log.used_bytes as f64)),
    ("free_bytes", "Space that clients can still fill", |v| Some(v.space?.free_bytes as f64)),
    ("free_inodes", "Objects that clients can still create", |v| Some(v.space?.free_inodes? as f64)),
    ("partner_connected", "1 while a link to the partner stands", |v| {
        Some(f64::from(u8::from(v.partner.connected)))
    }),
    ("lease_valid", "1 while reads are served", |v| Some(f64::from(u8::from(v.lease?.valid)))),
    ("witness_reachable", "1 while the witness answers", |v| {
        Some(f64::from(u8::from(v.witness.as_ref()?.reachable)))
    }),
    ("faults", "Things that are wrong now", |v| Some(v.faults.len() as f64)),
    ("resync_round", "Round of the resync that is under way", |v| Some(f64::from(v.resync.as_ref()?.round))),
    ("resync_done_objects", "Objects that the resync has brought", |v| {
        Some(v.resync.as_ref()?.objects_done as f64)
    }),
    ("resync_objects", "Objects that it is about", |v| Some(v.resync.as_ref()?.objects_total as f64)),
    ("resync_done_bytes", "File content compared or sent", |v| Some(v.resync.as_ref()?.bytes_done as f64)),
    ("resync_total_bytes", "File content that it is about, without holes", |v| {
        Some(v.resync.as_ref()?.bytes_total as f64)
    }),
    ("resync_eta_seconds", "Time until that is brought, by the pace of late", |v| {
        Some(v.resync.as_ref()?.eta_s? as f64)
    }),
    ("resync_compressed", "1 while what a resync sends is compressed", |v| {
        Some(f64::from(u8::from(v.resync.as_ref()?.compressed)))
    }),
    ("resync_sent_bytes", "File content that resyncs sent since the start", |v| {
        Some(v.transport.resync_sent_bytes as f64)
    }),
    ("resync_sent_wire_bytes", "All that resyncs sent since the start, as it went over the link", |v| {
        Some(v.transport.resync_sent_wire_bytes as f64)
    }),
    ("verify_objects_done", "Objects that the comparison under way has done in its round", |v| {
        Some(v.verify.as_ref()?.running.as_ref()?.objects_done as f64)
    }),
    ("verify_objects_total", "Objects that it is about", |v| {
        Some(v.verify.as_ref()?.running.as_ref()?.objects_total as f64)
    }),
    ("verify_eta_seconds", "Time until its round ends, at the pace of late", |v| {
        Some(v.verify.as_ref()?.running.as_ref()?.eta_s? as f64)
    }),
    ("verify_last_differing", "Objects that the last comparison found to differ", |v| {
        Some(v.verify.as_ref()?.last.as_ref()?.differing as f64)
    }),
    ("verify_last_unix_seconds", "When the last comparison ended", |v| {
        Some(v.verify.as_ref()?.last.as_ref()?.at_unix_ms as f64 / 1e3)
    }),
    ("last_takeover_seconds", "Length of the last takeover by this node", |v| {
        Some(v.last_takeover.as_ref()?.total_us() as f64 / 1e6)
    }),
];

const ROLES: [Role; 3] = [Role::Primary, Role::Partner, Role::None];
const MODES: [Mode; 13] = [
    Mode::Starting,
    Mode::Mirrored,
    Mode::CatchingUp,
    Mode::Solo,
    Mode::Frozen,
    Mode::TakingOver,
    Mode::HandingOver,
    Mode::Deposed,
    Mode::Outdated,
    Mode::NeedsResync,
    Mode::Split,
    Mode::Failed,
    Mode::Stopped,
];

impl Collector for StatusGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = self.0.lock();
        let Some(status) = status.as_ref() else { return Ok(()) };
        for (name, help, read) in GAUGES {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for volume in &status.volumes {
                let Some(value) = read(volume) else { continue };
                let (durability, nodes) = level_labels(volume.acknowledgement);
                let labels = [("volume", volume.name.as_str()), ("durability", durability), ("nodes", nodes)];
                metric.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        let mut metric = encoder.encode_descriptor(
            "transport_info",
            "1 for what mirrors the log, and what makes it durable at the partner",
            None,
            MetricType::Gauge,
        )?;
        for volume in &status.volumes {
            let link = &volume.transport;
            let rdma = link.rdma.as_ref();
            let (port, mtu) = (
                rdma.map_or(String::new(), |rdma| rdma.port.to_string()),
                rdma.map_or(String::new(), |rdma| rdma.mtu_bytes.to_string()),
            );
            let labels = [
                ("volume", volume.name.as_str()),
                ("transport", link.kind.as_str()),
                ("persistence", link.persistence.as_str()),
                ("device", rdma.map_or("", |rdma| rdma.device.as_str())),
                ("port", port.as_str()),
                ("gid", rdma.map_or("", |rdma| rdma.gid.as_str())),
                ("mtu_bytes", mtu.as_str()),
                ("fencing", rdma.map_or("", |rdma| rdma.fencing.as_str())),
            ];
            metric.encode_family(&labels)?.encode_gauge(&1i64)?;
        }
        let mut metric = encoder.encode_descriptor(
            "fault",
            "How many things of this kind are wrong now; `twinfiler status` names them",
            None,
            MetricType::Gauge,
        )?;
        for volume in &status.volumes {
            for kind in FaultKind::ALL.iter().copied() {
                let count = volume.faults.iter().filter(|fault| fault.kind == kind).count() as i64;
                let labels = [("volume", volume.name.as_str()), ("kind", kind.as_str())];
                metric.encode_family(&labels)?.encode_gauge(&count)?;
            }
        }
        let roles = ROLES.map(|role| (role_name(role).to_owned(), role));
        state(&mut encoder, status, "role", "1 for the role of this node", &roles, |v| v.role)?;
        let modes = MODES.map(|mode| (mode.to_string(), mode));
        state(&mut encoder, status, "mode", "1 for the mode of the volume", &modes, |v| v.mode)
    }
}

/// One gauge for each value that a state can have: 1 for the one it has, 0 for the others.
fn state<T: PartialEq>(
    encoder: &mut DescriptorEncoder<'_>,
    status: &NodeStatus,
    name: &str,
    help: &str,
    values: &[(String, T)],
    read: fn(&VolumeStatus) -> T,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for volume in &status.volumes {
        for (text, value) in values {
            let labels = [("volume", volume.name.as_str()), (name, text.as_str())];
            metric.encode_family(&labels)?.encode_gauge(&i64::from(read(volume) == *value))?;
        }
    }
    Ok(())
}

fn level_labels(level: Option<AckLevel>) -> (&'static str, &'static str) {
    let Some(level) = level else { return ("none", "0") };
    let durability = match level.weakest() {
        ids::Durability::Memory => "memory",
        ids::Durability::Process => "process",
        ids::Durability::Power => "power",
    };
    (durability, if level.nodes() == 1 { "1" } else { "2" })
}
