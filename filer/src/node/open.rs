//! Opens what a volume has on this node, before anything runs or is changed.

use super::NodeError;
use crate::config::{LogKind, NodeConfig, VolumeConfig};
use apply_engine::Base;
use nvlog::{Log, OpenMode, RecoveryReport, RegionKind};
use pair::DurableState;

/// A volume's parts.
pub(super) struct Opened {
    pub config: VolumeConfig,
    pub log: Log,
    pub recovery: RecoveryReport,
    pub base: Base,
    pub role_state: DurableState,
}

/// Opens all volumes, or none.
pub(super) fn all(config: &NodeConfig) -> Result<Vec<Opened>, NodeError> {
    config.volumes.iter().map(one).collect()
}

/// The kind of region a configured log lies in.
pub fn region_kind(kind: LogKind) -> RegionKind {
    match kind {
        LogKind::Emulated => RegionKind::Emulated,
        LogKind::Block => RegionKind::Block,
        LogKind::FsDax => RegionKind::FsDax,
        LogKind::DevDax => RegionKind::DevDax,
    }
}

fn one(config: &VolumeConfig) -> Result<Opened, NodeError> {
    let volume = config.name.to_string();
    let path = config.log.path.display().to_string();
    let log_error = |why: String| NodeError::Log { volume: volume.clone(), path: path.clone(), why };
    let base = Base::open(&config.base, config.id)
        .map_err(|error| NodeError::Base { volume: volume.clone(), why: error.to_string() })?;
    let region = nvlog::region::open(region_kind(config.log.kind), &config.log.path, OpenMode::Existing)
        .map_err(|error| log_error(error.to_string()))?;
    let (log, recovery) = Log::open(region, Some(config.id)).map_err(|error| log_error(error.to_string()))?;
    if log.capacity_bytes() != config.log.capacity_bytes {
        return Err(log_error(format!(
            "its capacity is {} bytes, but log.capacity says {}; correct log.capacity (both nodes must agree)",
            log.capacity_bytes(),
            config.log.capacity_bytes
        )));
    }
    let role_state =
        DurableState::decode(&log.superblock().role_state).map_err(|error| log_error(error.to_string()))?;
    tracing::info!(
        volume, tail = %recovery.tail, end = %recovery.end, records = recovery.records,
        cut = %recovery.cut, memory_lost = recovery.memory_lost, "log opened"
    );
    Ok(Opened { config: config.clone(), log, recovery, base, role_state })
}
