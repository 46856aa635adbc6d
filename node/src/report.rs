//! What `twinfiler status` and the metrics are told of a volume.

use super::rdma::Rdma;
use super::shared::Shared;
use admin_api::status::{
    Lag, LeaseStatus, LogStatus, Mode, PartnerView, Role, SpaceStatus, TransportCounters, VolumeStatus,
    WitnessStatus,
};
use commit::Journal;
use ids::{Cursors, Epoch};
use pair::witness::Mode as RegisterMode;
use pair::{PairStatus, RoleName};
use std::sync::atomic::Ordering;

/// The volume as it is now. Takes only locks that nobody holds across I/O.
pub(super) fn volume(shared: &Shared, witness_address: Option<&str>) -> VolumeStatus {
    let pair = shared.pair.lock().clone();
    let cursors = shared.path.cursors();
    let (acknowledgement, synced) = shared.levels(cursors.rule());
    let space = shared.path.space();
    VolumeStatus {
        name: shared.name().to_owned(),
        id: shared.config.id,
        role: pair.as_ref().map_or(Role::None, |pair| pair.role),
        mode: pair.as_ref().map_or(Mode::Starting, |pair| pair.mode),
        detail: pair.as_ref().map_or(String::new(), |pair| pair.detail.clone()),
        eligible: pair.as_ref().is_some_and(|pair| pair.eligible),
        epoch: pair.as_ref().map_or(Epoch(0), |pair| pair.epoch),
        cursors: Some(cursors),
        acknowledgement,
        synced,
        apply_lag: apply_lag(shared, &cursors),
        partner_lag: partner_lag(shared, pair.as_ref()),
        log: LogStatus {
            kind: shared.config.log.kind.to_string(),
            path: shared.config.log.path.display().to_string(),
            durability: shared.log.durability(),
            capacity_bytes: cursors.capacity_bytes(),
            used_bytes: shared.log.reserved().since(cursors.trimmed()),
            lost_at_boot: shared.log.superblock().memory_lost,
        },
        mounted_at: shared.mounted_at.lock().clone(),
        writeback_cache: shared.config.fuse.writeback_cache,
        last_consistency_point: shared.last_point.lock().clone(),
        space: Some(SpaceStatus {
            total_bytes: space.total_bytes,
            free_bytes: space.free_bytes,
            free_inodes: (space.total_inodes > 0).then_some(space.shown_inodes()),
        }),
        replay: shared.replay.status(shared),
        resync: shared.resync.status(),
        salvaged: shared.resync.salvaged.lock().clone(),
        verify: shared.verify.status(),
        partner: partner(shared, pair.as_ref()),
        witness: witness_address.map(|address| witness(shared, address, pair.as_ref())),
        lease: lease(shared, pair.as_ref()),
        transport: transport(shared),
        commit_latency: shared.metrics.commit.summary(),
        commit_latency_recent: shared.metrics.commit.recent(),
        commit_stages: shared.metrics.stages.summary(),
        last_takeover: shared.last_takeover.lock().clone(),
        hooks: shared.hooks.status(),
        floating_ip: shared.hooks.address_status(),
        faults: shared.faults.all(),
    }
}

fn apply_lag(shared: &Shared, cursors: &Cursors) -> Lag {
    Lag {
        operations: shared.unapplied_records(),
        bytes: cursors.committed().since(cursors.applied()),
        seconds: shared.applier.behind_for().as_secs_f64(),
    }
}

fn partner_lag(shared: &Shared, pair: Option<&PairStatus>) -> Option<Lag> {
    pair.filter(|pair| pair.role == RoleName::Primary)?;
    let (operations, bytes, behind) = shared.path.partner_lag();
    Some(Lag { operations, bytes, seconds: behind.as_secs_f64() })
}

fn partner(shared: &Shared, pair: Option<&PairStatus>) -> PartnerView {
    let heard = pair.and_then(|pair| pair.peer_vitals);
    PartnerView {
        name: shared.config.peer.name.clone(),
        address: shared.config.peer.address.to_string(),
        connected: pair.is_some_and(|pair| pair.linked),
        heard_ms_ago: pair.and_then(|pair| pair.peer_silent_ms),
        role: None,
        epoch: pair.and_then(|pair| pair.register.as_ref()).map(|register| register.epoch),
        committed: heard.map(|vitals| vitals.committed),
        applied: heard.map(|vitals| vitals.applied),
        log_fill: heard.map(|vitals| f64::from(vitals.log_fill_permille) / 1000.0),
        free_bytes: heard.map(|vitals| vitals.free_bytes),
        fault: heard
            .filter(|vitals| !vitals.healthy)
            .map(|_| "it cannot apply to its base filesystem".to_owned()),
    }
}

fn witness(shared: &Shared, address: &str, pair: Option<&PairStatus>) -> WitnessStatus {
    let register = pair.and_then(|pair| pair.register.as_ref());
    WitnessStatus {
        address: address.to_owned(),
        reachable: pair.and_then(|pair| pair.witness_reachable).unwrap_or(false),
        epoch: register.map(|register| register.epoch),
        primary: register.map(|register| register.primary.clone()),
        mode: register.map(|register| match register.mode {
            RegisterMode::Mirrored => Mode::Mirrored,
            RegisterMode::Solo => Mode::Solo,
        }),
        error: shared.witness_error.lock().clone(),
    }
}

fn lease(shared: &Shared, pair: Option<&PairStatus>) -> Option<LeaseStatus> {
    pair.filter(|pair| pair.serving)?;
    let until_ms = shared.path.lease_until_ms();
    let remaining_ms = (until_ms != u64::MAX).then(|| until_ms.saturating_sub(shared.now_ms()));
    Some(LeaseStatus { valid: remaining_ms != Some(0), remaining_ms })
}

fn transport(shared: &Shared) -> TransportCounters {
    let counts = shared.counters.snapshot();
    TransportCounters {
        kind: shared.config.transport.to_string(),
        tls: shared.config.peer.public_key.is_some(),
        persistence: shared.config.persistence().to_string(),
        ddio_off_declared: shared.config.rdma.ddio_off,
        rdma: shared.rdma.as_ref().map(Rdma::status),
        writes: counts.writes,
        acknowledgements: counts.acknowledgements,
        spins: counts.spins,
        sleeps: counts.sleeps,
        sent_bytes: counts.bytes_sent,
        received_bytes: counts.bytes_received,
        sent_batches: counts.batches_sent,
        received_batches: counts.batches_received,
        connects: counts.links,
        breaks: counts.link_resets,
        resync_sent_bytes: shared.resync.sent_bytes.load(Ordering::Relaxed),
        resync_sent_wire_bytes: shared.resync.sent_wire_bytes.load(Ordering::Relaxed),
        resync_received_bytes: shared.resync.received_bytes.load(Ordering::Relaxed),
    }
}
