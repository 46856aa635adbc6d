//! The configuration file: one TOML file per node, checked completely before anything starts.
//!
//! Invariants: a [`NodeConfig`] that exists has passed every check that needs no look at the machine; no key
//! is ignored; every problem of a file is reported at once, with its line and what to write instead. What
//! can go wrong: see [`ConfigError`]. Checks that look at the machine (devices, directories, root) are in
//! `cli::preflight`, because `config check` must also work on another machine.
//!
//! The file is read by walking the parsed table ourselves instead of deriving `Deserialize`: serde stops at
//! the first error, and a person who fixes a file at night wants to see all of them.

mod claims;
mod doors;
mod error;
mod fields;
mod link;
mod load;
mod model;
mod section;
mod units;
mod witness;

#[cfg(test)]
mod tests;

pub use claims::{BASE_KIND, overlaps, salvage_is_endangered};
pub use error::{ConfigError, Problem};
pub use link::{LinkConfig, Persistence, RdmaConfig};
pub use model::{
    CommandLine, Compress, ConsistencyPointConfig, FloatingIpConfig, FuseConfig, HooksConfig, LogConfig,
    LogFormat, LogKind, NodeConfig, PeerConfig, ResyncConfig, TimerConfig, TransportKind, VolumeConfig,
    VolumeName, cache_guard,
};
pub use units::{AddressPrefix, ByteSize, HumanDuration, UnitError};

use std::path::Path;

/// Where the configuration is looked for when the command line names none.
pub const DEFAULT_PATH: &str = "/etc/twinfiler/twinfiler.toml";

/// Longest configuration file that is read.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

impl NodeConfig {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`] when the file cannot be read, [`ConfigError::Invalid`] with every problem in it.
    pub fn load(path: &Path) -> Result<NodeConfig, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let length_bytes = std::fs::metadata(path).map_err(unreadable)?.len();
        if length_bytes > MAX_FILE_BYTES {
            return Err(ConfigError::TooLong { path: path.to_owned(), length_bytes });
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        NodeConfig::parse(&text, &path.display().to_string())
    }

    /// Checks `text`; `file` is the name that errors carry.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every problem in it.
    pub fn parse(text: &str, file: &str) -> Result<NodeConfig, ConfigError> {
        load::parse(text).map_err(|problems| ConfigError::Invalid { file: file.to_owned(), problems })
    }

    /// The volume called `name`.
    pub fn volume(&self, name: &str) -> Option<&VolumeConfig> {
        self.volumes.iter().find(|volume| volume.name.as_str() == name)
    }
}
