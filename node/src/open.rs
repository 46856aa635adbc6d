//! Opens what a volume has on this node, before anything runs or is changed.

use super::NodeError;
use super::rdma::Rdma;
use apply_engine::Base;
use apply_engine::base::OpenError;
use config::{NodeConfig, TransportKind, VolumeConfig};
use nvlog::{Log, OpenMode, RecoveryReport};
use pair::DurableState;
use std::path::Path;

/// A volume's parts.
pub(super) struct Opened {
    pub config: VolumeConfig,
    pub log: Log,
    pub recovery: RecoveryReport,
    pub rdma: Option<Rdma>,
    pub base: Base,
    /// What the base lies on, in words.
    pub base_filesystem: String,
    pub role_state: DurableState,
}

/// What a base tree lies on, in words.
fn describe(base: &Path) -> std::io::Result<String> {
    let (ext4, xfs, btrfs, tmpfs) = (0xEF53, 0x5846_5342, 0x9123_683E, libc::TMPFS_MAGIC as u64);
    let found = rustix::fs::statfs(base)?;
    Ok(match found.f_type as u64 {
        kind if kind == ext4 => format!("ext4 with blocks of {} bytes", found.f_bsize),
        kind if kind == xfs => "XFS".to_owned(),
        kind if kind == btrfs => "btrfs".to_owned(),
        kind if kind == tmpfs => "tmpfs".to_owned(),
        other => format!("a filesystem of type {other:#x}"),
    })
}

/// Opens all volumes, or none.
pub(super) fn all(config: &NodeConfig) -> Result<Vec<Opened>, NodeError> {
    config.volumes.iter().map(one).collect()
}

fn one(config: &VolumeConfig) -> Result<Opened, NodeError> {
    let volume = config.name.to_string();
    let path = config.log.path.display().to_string();
    let log_error = |source: Box<dyn std::error::Error + Send + Sync>| NodeError::Log {
        volume: volume.clone(),
        path: path.clone(),
        source,
    };
    let base = apply_engine::base::check_enclosed(&config.base)
        .map_err(OpenError::from)
        .and_then(|()| Base::open(&config.base, config.id))
        .map_err(|source| NodeError::Base { volume: volume.clone(), source })?;
    let open = match config.transport {
        TransportKind::Shm => nvlog::region::open_shareable,
        TransportKind::Tcp | TransportKind::Verbs => nvlog::region::open,
    };
    let region = open(config.log.kind.into(), &config.log.path, OpenMode::Existing)
        .map_err(|error| log_error(error.into()))?;
    let (log, recovery) = Log::open(region, Some(config.id)).map_err(|error| log_error(error.into()))?;
    let (actual_bytes, configured_bytes) = (log.capacity_bytes(), config.log.capacity_bytes);
    if actual_bytes != configured_bytes {
        return Err(NodeError::Capacity { volume, path, actual_bytes, configured_bytes });
    }
    let role_state =
        DurableState::decode(&log.superblock().role_state).map_err(|error| log_error(error.into()))?;
    tracing::info!(
        volume, tail = %recovery.tail, end = %recovery.end, records = recovery.records,
        cut = %recovery.cut, memory_lost = recovery.memory_lost, "log opened"
    );
    let base_filesystem = describe(&config.base)
        .map_err(|source| NodeError::Statfs { volume: config.name.to_string(), source })?;
    let rdma = Rdma::open(config, log.memory())?;
    Ok(Opened { config: config.clone(), log, recovery, rdma, base, base_filesystem, role_state })
}
