//! What lies where the log of a volume should, and who else uses it.
//!
//! What can go wrong: a daemon that starts at this very moment finds the log in use by this look, and tries again.

use super::Preflight;
use crate::cli::exit::{ExitCode, of_region};
use config::VolumeConfig;
use nvlog::RegionError;

/// Looks into the log of a volume. `running`: this configuration's daemon has it open.
pub fn check(found: &mut Preflight, volume: &VolumeConfig, running: bool) {
    let (name, path) = (&volume.name, &volume.log.path);
    // What is not there, or is no file or device, has been told already.
    let Ok(superblock) = nvlog::superblock_of(path) else { return };
    match superblock {
        Err(why) => found.add(
            ExitCode::Data,
            format!("volume {name}: {} holds no log: {why}", path.display()),
            "correct `log.path`, or make the log; `twinfiler log inspect` shows what is there",
        ),
        Ok(superblock) if superblock.volume != volume.id => found.add(
            ExitCode::Data,
            format!(
                "volume {name}: the log {} belongs to volume {}, not to {}",
                path.display(),
                superblock.volume,
                volume.id
            ),
            "correct `log.path` or `id`",
        ),
        Ok(superblock) if superblock.capacity_bytes != volume.log.capacity_bytes => found.add(
            ExitCode::Config,
            format!(
                "volume {name}: the log {} has a capacity of {} bytes, the configuration says {}",
                path.display(),
                superblock.capacity_bytes,
                volume.log.capacity_bytes
            ),
            "correct `log.capacity`",
        ),
        Ok(_) => {}
    }
    let free = if running { Ok(()) } else { nvlog::region::check_free(path) };
    if let Err(
        error @ (RegionError::Locked { .. } | RegionError::InUse { .. } | RegionError::ReadOnly { .. }),
    ) = free
    {
        found.add(
            of_region(&error),
            format!("volume {name}: the log cannot be had: {error}"),
            "no daemon of this configuration runs: find out who uses it (`fuser`, `lsblk`)",
        );
    }
}
