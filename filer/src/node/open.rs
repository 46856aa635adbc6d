//! Opens what a volume has on this node, before anything runs or is changed.

use super::NodeError;
use super::rdma::Rdma;
use crate::config::{NodeConfig, VolumeConfig};
use crate::volume::Limits;
use apply_engine::Base;
use apply_engine::base::OpenError;
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
    pub base_filesystem: BaseFilesystem,
    pub role_state: DurableState,
}

/// What a base tree lies on.
#[derive(Clone, Copy)]
pub(super) struct BaseFilesystem {
    magic: u64,
    block_bytes: u64,
}

impl BaseFilesystem {
    fn of(base: &Path) -> std::io::Result<BaseFilesystem> {
        let found = rustix::fs::statfs(base)?;
        Ok(BaseFilesystem { magic: found.f_type as u64, block_bytes: found.f_bsize as u64 })
    }

    /// As this says.
    #[cfg(feature = "simulation")]
    pub fn given(magic: u64, block_bytes: u64) -> BaseFilesystem {
        BaseFilesystem { magic, block_bytes }
    }

    /// What it can hold.
    pub fn limits(self) -> Limits {
        Limits::of_filesystem(self.magic, self.block_bytes)
    }

    /// In words that both nodes must agree on.
    pub fn describe(self) -> String {
        Limits::describe(self.magic, self.block_bytes)
    }
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
    let region = nvlog::region::open(config.log.kind.into(), &config.log.path, OpenMode::Existing)
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
    let base_filesystem = BaseFilesystem::of(&config.base)
        .map_err(|source| NodeError::Statfs { volume: config.name.to_string(), source })?;
    let rdma = Rdma::open(config, log.memory())?;
    Ok(Opened { config: config.clone(), log, recovery, rdma, base, base_filesystem, role_state })
}
