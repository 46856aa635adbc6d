//! What this machine lacks of what the configuration names, all at once, before anything is opened.
//!
//! Only looks, changes nothing. What it cannot see without opening (a log, a lock, an index) is found
//! by the crates that open, with typed errors of their own. A check here may be outrun by a change right after; then
//! that opening fails, only less clearly.

mod log;
mod places;
mod rdma;

use super::exit::ExitCode;
use admin_api::control::Request;
use admin_api::status::bytes;
use apply_engine::base::{Base, EnclosureError, OpenError, how_to_close};
use config::{LogKind, NodeConfig, TransportKind, VolumeConfig};
use rdma_transport::tls::PrivateKey;
use runtime::memory;
use rustix::io::Errno;
use std::fmt;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;
use witness::WitnessKeeper;
use witness::etcd::Etcd;

/// Time for a daemon to say that it is there.
const QUICK_LIMIT: Duration = Duration::from_secs(5);

/// What is missing.
#[derive(Debug, Default)]
pub struct Preflight {
    problems: Vec<(ExitCode, String)>,
}

impl std::error::Error for Preflight {}

impl fmt::Display for Preflight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<&str> = self.problems.iter().map(|(_, text)| text.as_str()).collect();
        f.write_str(&texts.join("\n"))
    }
}

impl Preflight {
    /// The code of the first problem; they are ordered by how much they explain.
    pub fn code(&self) -> ExitCode {
        self.problems.first().map_or(ExitCode::Ok, |(code, _)| *code)
    }

    fn add(&mut self, code: ExitCode, what: String, remedy: &str) {
        self.problems.push((code, format!("{what}\n    remedy: {remedy}")));
    }
}

/// The daemon must be root.
///
/// # Errors
/// One clear line, when it is not.
pub fn require_root() -> Result<(), Preflight> {
    let mut preflight = Preflight::default();
    if !rustix::process::geteuid().is_root() {
        preflight.add(
            ExitCode::NoPermission,
            "twinfiler must run as root: it keeps other people's ownership and opens files by handle"
                .to_owned(),
            "start it as root or by its systemd unit",
        );
        return Err(preflight);
    }
    Ok(())
}

/// Looks whether this machine has what `config` names.
///
/// # Errors
/// Everything that it lacks.
pub fn preflight(config: &NodeConfig) -> Result<(), Preflight> {
    let mut found = require_root().err().unwrap_or_default();
    check_key(&mut found, config);
    check_etcd(&mut found, config);
    let listens =
        [Some(("node.listen", config.listen)), config.metrics_listen.map(|at| ("node.metrics_listen", at))];
    listens.into_iter().flatten().for_each(|(key, address)| check_address(&mut found, key, address));
    for volume in &config.volumes {
        check_log(&mut found, volume);
        if volume.transport == TransportKind::Verbs {
            rdma::check(&mut found, volume);
        }
        check_directory(&mut found, volume, "base directory", &volume.base);
        check_enclosed(&mut found, volume);
        check_base(&mut found, volume);
        if let Some(mount) = &volume.fuse.mount {
            check_mount_point(&mut found, volume, mount);
        }
        if let Some(floating) = &volume.floating_ip
            && !Path::new("/sys/class/net").join(&floating.interface).exists()
        {
            let what =
                format!("volume {}: there is no network interface {}", volume.name, floating.interface);
            found.add(ExitCode::Unavailable, what, "correct `floating_ip.interface` (`ip link` lists them)");
        }
        for hook in [&volume.hooks.on_primary, &volume.hooks.on_demote].into_iter().flatten() {
            if !hook.program.is_file() {
                let what = format!("volume {}: there is no hook {}", volume.name, hook.program.display());
                found.add(ExitCode::NoInput, what, "install it, or remove the hook");
            }
        }
    }
    places::check(&mut found, config);
    if config.volumes.iter().any(|volume| volume.fuse.mount.is_some()) {
        check_fuse_device(&mut found);
    }
    if config.volumes.iter().any(|volume| volume.transport == TransportKind::Tcp) {
        check_io_uring(&mut found, rdma_transport::tcp::probe());
    }
    check_memory(&mut found, image_bytes(config), memory::available_bytes());
    if found.problems.is_empty() { Ok(()) } else { Err(found) }
}

/// Looks also into the logs, as only somebody may who does not serve them a moment later: each is opened exclusively when
/// no daemon of this configuration runs.
///
/// # Errors
/// Everything that this machine lacks.
pub fn preflight_with_logs(config: &NodeConfig) -> Result<(), Preflight> {
    let mut found = preflight(config).err().unwrap_or_default();
    let running = admin_api::control::call(&config.control, &Request::Status, QUICK_LIMIT).is_ok();
    for volume in &config.volumes {
        log::check(&mut found, volume, running);
    }
    if found.problems.is_empty() { Ok(()) } else { Err(found) }
}

fn image_bytes(config: &NodeConfig) -> u64 {
    let images = config.volumes.iter().filter(|volume| volume.log.kind == LogKind::Block);
    images.map(|volume| volume.log.capacity_bytes).fold(0, u64::saturating_add)
}

/// At so many times `consistency_point.memory` clients wait; and applying takes about as much again as one Delta.
const DELTAS: u64 = 5;

/// What memory the volumes of this node may take, also to replay full logs, in a line for people.
pub fn memory_needed(config: &NodeConfig) -> String {
    needed_text(
        image_bytes(config),
        config.volumes.iter().map(|volume| volume.consistency_point.memory).fold(0, u64::saturating_add),
        memory::available_bytes(),
    )
}

fn needed_text(image_bytes: u64, delta_bytes: u64, available_bytes: Option<u64>) -> String {
    let deltas = delta_bytes.saturating_mul(DELTAS);
    let needed = image_bytes.saturating_add(deltas);
    let enough = match available_bytes {
        Some(available) if available < needed => {
            format!(", but {} are available: lower `consistency_point.memory`", bytes(available))
        }
        Some(available) => format!("; {} are available", bytes(available)),
        None => String::new(),
    };
    format!(
        "the volumes may take {} of memory, also to replay their logs ({} for images of logs of the kind `block`, {} for \
         what the trees do not hold yet){enough}",
        bytes(needed),
        bytes(image_bytes),
        bytes(deltas)
    )
}

/// A log of the kind `block` has an image of its whole capacity in memory.
fn check_memory(found: &mut Preflight, image_bytes: u64, available_bytes: Option<u64>) {
    if let Some(available) = available_bytes.filter(|available| *available < image_bytes) {
        let what = format!(
            "logs of the kind `block` are kept in memory too: they take {}, and {} are available",
            bytes(image_bytes),
            bytes(available)
        );
        let remedy = "make the logs shorter on both nodes (docs/operations.md, \"another length for the logs\"), or give this machine or its service more memory";
        found.add(ExitCode::Unavailable, what, remedy);
    }
}

fn check_key(found: &mut Preflight, config: &NodeConfig) {
    let own = match config.private_key.as_deref().map(PrivateKey::load) {
        None => return,
        Some(Ok(own)) => own.public(),
        Some(Err(error)) => {
            let error = anyhow::Error::from(error);
            let remedy = "set that right; partners and the witness must have the public half of a key that is made anew";
            return found.add(super::exit::exit_code_of(&error), error.to_string(), remedy);
        }
    };
    let of_witness = config.witness.as_ref().map(|witness| ("[witness]".to_owned(), witness.public_key));
    let of_partners = config.volumes.iter().map(|volume| {
        let place = format!("volume {} [volume.peer]", volume.name);
        (place, volume.peer.public_key)
    });
    for (place, _) in of_witness.into_iter().chain(of_partners).filter(|(_, key)| *key == Some(own)) {
        let what = format!("{place}: `public_key` is this node's own");
        found.add(ExitCode::Config, what, "write what `twinfiler keygen --show` prints on the other machine");
    }
}

/// Whether its files can be used. Whether it answers is for who asks it: a node starts without its witness.
fn check_etcd(found: &mut Preflight, config: &NodeConfig) {
    let Some(WitnessKeeper::Etcd(settings)) = config.witness.as_ref().map(|witness| &witness.keeper) else {
        return;
    };
    if let Err(error) = Etcd::new(settings) {
        let error = anyhow::Error::from(error);
        let what = format!("[witness.etcd]: {error}");
        found.problems.push((super::exit::exit_code_of(&error), what));
    }
}

/// Whether this machine has the address. Who listens there already is for who listens.
fn check_address(found: &mut Preflight, key: &str, address: SocketAddr) {
    let bound = UdpSocket::bind(SocketAddr::new(address.ip(), 0));
    if let Err(error) = bound
        && error.kind() == ErrorKind::AddrNotAvailable
    {
        let what = format!("`{key}`: this machine has no address {}", address.ip());
        found.add(
            ExitCode::Unavailable,
            what,
            "correct it, or give the machine that address (`ip address` lists those it has)",
        );
    }
}

fn check_fuse_device(found: &mut Preflight) {
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    if let Err(error) = device {
        found.add(
            ExitCode::Unavailable,
            format!("/dev/fuse cannot be used: {error}"),
            "load the module (`modprobe fuse`); in a container, pass the device in",
        );
    }
}

/// Links over TCP are made of it.
fn check_io_uring(found: &mut Preflight, probed: std::io::Result<()>) {
    if let Err(error) = probed {
        let remedy = match Errno::from_io_error(&error) {
            Some(Errno::PERM | Errno::ACCESS | Errno::NOSYS) | None => {
                "allow it (`sysctl kernel.io_uring_disabled=0`; in a container, the three io_uring system calls in its \
                 seccomp profile), or use `transport = \"verbs\"`"
            }
            Some(_) => "raise the service's limits (LimitNOFILE=, LimitMEMLOCK=), or free memory",
        };
        let what = format!("`transport = \"tcp\"` needs io_uring, which this process cannot use: {error}");
        found.add(ExitCode::Unavailable, what, remedy);
    }
}

fn check_directory(found: &mut Preflight, volume: &VolumeConfig, kind: &str, path: &Path) {
    let (name, shown) = (&volume.name, path.display());
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => {
            let what = format!("volume {name}: the {kind} {shown} is no directory");
            found.add(ExitCode::Config, what, "name a directory");
        }
        Err(error) => {
            let what = format!("volume {name}: the {kind} {shown} cannot be used: {error}");
            let remedy = "correct the path if it is a wrong one; mount its filesystem if that is not mounted; else create it";
            found.add(ExitCode::Unavailable, what, remedy);
        }
    }
}

fn check_enclosed(found: &mut Preflight, volume: &VolumeConfig) {
    match apply_engine::base::check_enclosed(&volume.base) {
        // What is not there has been told already.
        Ok(()) | Err(EnclosureError::Unreadable { .. }) => {}
        Err(EnclosureError::Open { parent, .. }) => {
            let (name, base) = (&volume.name, volume.base.display());
            found.add(
                ExitCode::NoPermission,
                format!("volume {name}: other users of this machine can walk into the base directory {base}"),
                &how_to_close(&volume.base, &parent),
            );
        }
    }
}

/// Whether the volume's tree is there, and what else of it a start would refuse, in the words of that. Who else has it open
/// is for who opens it.
fn check_base(found: &mut Preflight, volume: &VolumeConfig) {
    match Base::look(&volume.base, volume.id) {
        // What is not there, or is no directory, has been told already; so has who is not root.
        Ok(()) | Err(OpenError::NotRoot | OpenError::Root { errno: Errno::NOENT | Errno::NOTDIR, .. }) => {}
        Err(error) => {
            let code = super::exit::of_base(&error);
            let what = format!("volume {}: the base directory cannot be used: {error}", volume.name);
            found.problems.push((code, what));
        }
    }
}

fn check_mount_point(found: &mut Preflight, volume: &VolumeConfig, path: &Path) {
    if fuse_door::is_our_mount(path) {
        // A daemon that was killed leaves its mount behind, which may never answer; the next mount takes it away.
        tracing::info!(volume = %volume.name, path = %path.display(), "there is a mount of a daemon that was killed, or of one that runs");
    } else {
        check_directory(found, volume, "mount point", path);
    }
}

fn check_log(found: &mut Preflight, volume: &VolumeConfig) {
    let (name, shown) = (&volume.name, volume.log.path.display());
    let kind = volume.log.kind;
    match std::fs::metadata(&volume.log.path) {
        Ok(metadata) => {
            let file_type = metadata.file_type();
            let (suits, wants) = match kind {
                LogKind::DevDax => (file_type.is_char_device(), "a character device like /dev/dax0.0"),
                LogKind::Block => {
                    (file_type.is_file() || file_type.is_block_device(), "a file or a block device")
                }
                LogKind::Emulated | LogKind::FsDax => (file_type.is_file(), "a file"),
            };
            if !suits {
                let what = format!("volume {name}: the log {shown} is not {wants}");
                found.add(ExitCode::Config, what, "correct `log.kind` or `log.path`");
            }
        }
        Err(error) => {
            let what = format!("volume {name}: the log {shown} cannot be used: {error}");
            let remedy = match kind {
                LogKind::DevDax => "is the namespace in devdax mode? (`ndctl list`)",
                LogKind::Block | LogKind::FsDax | LogKind::Emulated => {
                    "is its device attached (`lsblk`), its filesystem mounted? Make it with `twinfiler init` only if there was none, or if \
                     it is lost for good: what only this log holds is lost then"
                }
            };
            found.add(ExitCode::Unavailable, what, remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_that_a_start_may_take_is_told() {
        let text = needed_text(1 << 30, 256 << 20, Some(64 << 30));
        assert!(text.contains("2.25 GiB") && text.contains("64 GiB are available"), "{text}");
        let text = needed_text(0, 256 << 20, Some(512 << 20));
        assert!(text.contains("1.25 GiB") && text.contains("but 512 MiB are available"), "{text}");
        assert!(text.contains("`consistency_point.memory`"), "{text}");
    }

    #[test]
    fn a_machine_that_forbids_io_uring_has_no_links_over_tcp() {
        let mut found = Preflight::default();
        check_io_uring(&mut found, Ok(()));
        assert_eq!(found.code(), ExitCode::Ok);
        check_io_uring(&mut found, Err(Errno::PERM.into()));
        assert_eq!(found.code(), ExitCode::Unavailable);
        assert!(found.to_string().contains("kernel.io_uring_disabled=0"), "{found}");
        let mut found = Preflight::default();
        check_io_uring(&mut found, Err(Errno::MFILE.into()));
        assert!(found.to_string().contains("LimitNOFILE="), "{found}");
    }

    #[test]
    fn a_block_log_that_does_not_fit_into_memory_is_refused() {
        let problems = |image_bytes, available_bytes| {
            let mut found = Preflight::default();
            check_memory(&mut found, image_bytes, available_bytes);
            (found.code(), found.to_string())
        };
        assert_eq!(problems(0, Some(1)).0, ExitCode::Ok, "no such log");
        assert_eq!(problems(64 << 20, Some(64 << 20)).0, ExitCode::Ok);
        assert_eq!(problems(1 << 40, None).0, ExitCode::Ok, "nobody knows");
        let (code, text) = problems(64 << 30, Some(8 << 30));
        assert_eq!(code, ExitCode::Unavailable);
        assert!(text.contains("64 GiB") && text.contains("8 GiB") && text.contains("remedy"), "{text}");
    }
}
