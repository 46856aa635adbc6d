//! Exit codes, after sysexits(3), and which error gets which.

use admin_api::control::{ClientError, ControlError, ErrorKind, SocketError};
use admin_api::metrics::ServeError;
use config::ConfigError;
use node::NodeError;
use rdma_transport::tls::KeyError;
use std::io;
use witness::NodesError;
use witness::etcd::EtcdError;

/// How the program ended. docs/configuration.md tells operators the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Ok = 0,
    /// `verify` found objects that differ.
    Differs = 1,
    /// The command line is wrong.
    Usage = 64,
    /// A log or a tree is damaged, of another version, or belongs to another volume.
    Data = 65,
    /// A file that was named does not exist.
    NoInput = 66,
    /// Something that is needed is not there: the daemon, a device, /dev/fuse, an address.
    Unavailable = 69,
    /// A bug.
    Internal = 70,
    /// Something is there already and is not overwritten.
    Exists = 73,
    /// Input or output failed.
    Io = 74,
    /// Not now: a lock is held, the pair's state does not allow it, time is over.
    TryAgain = 75,
    /// Not root, or not allowed.
    NoPermission = 77,
    /// The configuration is wrong.
    Config = 78,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> std::process::ExitCode {
        std::process::ExitCode::from(code as u8)
    }
}

/// An error with its exit code, for what has no typed error of its own.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// How the program ends.
    pub code: ExitCode,
    /// What happened and what to do.
    pub message: String,
}

impl Failure {
    /// A failure.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into() }
    }
}

/// The exit code for `error`: that of the first error in its chain that has one.
pub fn exit_code_of(error: &anyhow::Error) -> ExitCode {
    error.chain().find_map(code_of_one).unwrap_or(ExitCode::Internal)
}

fn code_of_one(error: &(dyn std::error::Error + 'static)) -> Option<ExitCode> {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return Some(failure.code);
    }
    if let Some(preflight) = error.downcast_ref::<super::Preflight>() {
        return Some(preflight.code());
    }
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        return Some(match error {
            ConfigError::Unreadable { source, .. } => of_io(source),
            ConfigError::TooLong { .. } | ConfigError::Invalid { .. } => ExitCode::Config,
        });
    }
    if let Some(error) = error.downcast_ref::<ClientError>() {
        return Some(match error {
            ClientError::NotRunning { .. } => ExitCode::Unavailable,
            ClientError::NotAllowed { .. } => ExitCode::NoPermission,
            ClientError::NoAnswer { .. } => ExitCode::TryAgain,
            ClientError::Garbled { .. } => ExitCode::Internal,
        });
    }
    if let Some(error) = error.downcast_ref::<ControlError>() {
        return Some(match error.kind {
            ErrorKind::BadRequest => ExitCode::Internal,
            ErrorKind::NotAllowed => ExitCode::NoPermission,
            ErrorKind::UnknownVolume => ExitCode::Usage,
            ErrorKind::Refused | ErrorKind::TimedOut | ErrorKind::Busy => ExitCode::TryAgain,
            ErrorKind::Failed => ExitCode::Io,
        });
    }
    if let Some(error) = error.downcast_ref::<SocketError>() {
        return Some(match error {
            SocketError::InUse(_) => ExitCode::TryAgain,
            SocketError::Occupied(_) => ExitCode::Exists,
            SocketError::Io { source, .. } => of_io(source),
        });
    }
    if let Some(error) = error.downcast_ref::<NodeError>() {
        // A variant that wraps another error is judged by that one.
        return match error {
            NodeError::Listen { .. } => Some(ExitCode::Unavailable),
            NodeError::Pair { .. } | NodeError::Capacity { .. } => Some(ExitCode::Config),
            NodeError::Thread(_) => Some(ExitCode::TryAgain),
            // Their own text is that of the error within, so the chain shows that only here.
            NodeError::Key(error) => code_of_one(error),
            NodeError::Witness(error) => code_of_one(error),
            _ => None,
        };
    }
    of_witness_and_keys(error)
        .or_else(|| of_doors(error))
        .or_else(|| of_storage(error))
        .or_else(|| error.downcast_ref::<io::Error>().map(of_io))
}

fn of_witness_and_keys(error: &(dyn std::error::Error + 'static)) -> Option<ExitCode> {
    if let Some(error) = error.downcast_ref::<witness::ServeError>() {
        use witness::{ServeError, StoreError};
        return Some(match error {
            ServeError::Listen { .. } => ExitCode::Unavailable,
            ServeError::Tls(_) => ExitCode::Internal,
            ServeError::Store(StoreError::Damaged { .. }) => ExitCode::Data,
            ServeError::Store(StoreError::Locked(_)) => ExitCode::TryAgain,
            ServeError::Store(StoreError::Io { source, .. }) => of_io(source),
            ServeError::Store(StoreError::Full) => ExitCode::Unavailable,
        });
    }
    if let Some(error) = error.downcast_ref::<KeyError>() {
        return Some(match error {
            KeyError::Malformed(_) | KeyError::NoKey { .. } => ExitCode::Config,
            KeyError::File { source, .. } | KeyError::Make { source, .. } => of_io(source),
            KeyError::Exists(_) => ExitCode::Exists,
            KeyError::Readable { .. } | KeyError::Owner { .. } => ExitCode::NoPermission,
            KeyError::Random => ExitCode::Unavailable,
        });
    }
    if let Some(error) = error.downcast_ref::<EtcdError>() {
        return match error {
            EtcdError::File { source, .. } => Some(of_io(source)),
            EtcdError::Pem { .. } => Some(ExitCode::Config),
            EtcdError::Key(error) => of_witness_and_keys(error),
            EtcdError::NoAnswer { .. } => Some(ExitCode::Unavailable),
            EtcdError::Foreign { .. } => Some(ExitCode::Data),
        };
    }
    if let Some(error) = error.downcast_ref::<NodesError>() {
        return Some(match error {
            NodesError::Unreadable { source, .. } => of_io(source),
            NodesError::Line { .. } => ExitCode::Config,
        });
    }
    None
}

fn of_doors(error: &(dyn std::error::Error + 'static)) -> Option<ExitCode> {
    if error.downcast_ref::<ServeError>().is_some() {
        return Some(ExitCode::Unavailable);
    }
    #[cfg(feature = "verbs")]
    if let Some(error) = error.downcast_ref::<rdma_transport::verbs::VerbsError>() {
        use rdma_transport::verbs::VerbsError;
        return Some(match error {
            VerbsError::MemoryFsdax { .. }
            | VerbsError::MemoryFile { .. }
            | VerbsError::ModeRefused { .. } => ExitCode::Config,
            _ => ExitCode::Unavailable,
        });
    }
    None
}

fn of_storage(error: &(dyn std::error::Error + 'static)) -> Option<ExitCode> {
    use nvlog::{FormatError, OpenError as LogError, RegionError};
    if let Some(error) = error.downcast_ref::<RegionError>() {
        return Some(of_region(error));
    }
    if let Some(error) = error.downcast_ref::<LogError>() {
        return Some(match error {
            // Its own text is the region's, so the chain shows the region error only here.
            LogError::Region(region) => return of_storage(region),
            LogError::Io(source) => of_io(source),
            _ => ExitCode::Data,
        });
    }
    if let Some(error) = error.downcast_ref::<FormatError>() {
        return Some(match error {
            FormatError::HoldsLog { .. } | FormatError::NotEmpty => ExitCode::Exists,
            FormatError::BadCapacity { .. } => ExitCode::Usage,
            FormatError::RegionTooSmall { .. } => ExitCode::Data,
            FormatError::Io(source) => of_io(source),
        });
    }
    error.downcast_ref::<apply_engine::base::OpenError>().map(of_base)
}

pub(super) fn of_region(error: &nvlog::RegionError) -> ExitCode {
    use nvlog::RegionError;
    match error {
        RegionError::Locked { .. } | RegionError::InUse { .. } => ExitCode::TryAgain,
        RegionError::Missing { .. } | RegionError::ReadOnly { .. } => ExitCode::Unavailable,
        RegionError::Exists { .. } | RegionError::Occupied { .. } => ExitCode::Exists,
        RegionError::NotOurs { .. } => ExitCode::NoPermission,
        RegionError::TooSmall { .. } => ExitCode::Data,
        RegionError::WrongKind { .. } | RegionError::NoMapSync { .. } | RegionError::NotDurable { .. } => {
            ExitCode::Config
        }
        RegionError::Io { source, .. } => of_io(source),
    }
}

pub(super) fn of_base(error: &apply_engine::base::OpenError) -> ExitCode {
    use apply_engine::base::{OpenError, limits::Lack};
    match error {
        OpenError::NotRoot => ExitCode::NoPermission,
        OpenError::Root { errno, .. } => of_io(&io::Error::from(*errno)),
        OpenError::NotEmpty { .. } | OpenError::Exists { .. } => ExitCode::Exists,
        OpenError::Locked { .. } => ExitCode::TryAgain,
        OpenError::Lacks { lack: Lack::Busy, .. } => ExitCode::TryAgain,
        OpenError::Lacks { lack: Lack::Room, .. } => ExitCode::Unavailable,
        OpenError::Unsuitable { .. } | OpenError::Lacks { .. } => ExitCode::Config,
        OpenError::NotEnclosed(_) | OpenError::NotOurs { .. } => ExitCode::NoPermission,
        _ => ExitCode::Data,
    }
}

fn of_io(error: &io::Error) -> ExitCode {
    match error.kind() {
        io::ErrorKind::NotFound => ExitCode::NoInput,
        io::ErrorKind::PermissionDenied => ExitCode::NoPermission,
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable | io::ErrorKind::ConnectionRefused => {
            ExitCode::Unavailable
        }
        io::ErrorKind::AlreadyExists => ExitCode::Exists,
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ExitCode::TryAgain,
        _ => ExitCode::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For the unit: what is not there may come, what is wrong does not mend itself.
    #[test]
    fn a_file_of_etcd_s_that_is_missing_is_not_a_wrong_one() {
        let code = |error: EtcdError| exit_code_of(&NodeError::from(error).into());
        let (path, what) = (std::path::PathBuf::from("/ca.pem"), "certificate");
        let source = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(code(EtcdError::File { path: path.clone(), what, source }), ExitCode::NoInput);
        assert_eq!(code(EtcdError::Pem { path: path.clone(), what, why: "empty".into() }), ExitCode::Config);
        let readable = rdma_transport::tls::KeyError::Readable { path, mode: 0o644 };
        assert_eq!(code(EtcdError::Key(readable)), ExitCode::NoPermission);
    }

    #[test]
    fn the_chain_is_searched() {
        let error = anyhow::Error::new(io::Error::from(io::ErrorKind::NotFound)).context("reading something");
        assert_eq!(exit_code_of(&error), ExitCode::NoInput);
        let error = anyhow::Error::new(Failure::new(ExitCode::Exists, "there")).context("making something");
        assert_eq!(exit_code_of(&error), ExitCode::Exists);
        assert_eq!(exit_code_of(&anyhow::anyhow!("what?")), ExitCode::Internal);
    }
}
