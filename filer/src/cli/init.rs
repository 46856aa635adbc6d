//! `twinfiler init`: makes a volume on this node.
//!
//! Invariants: nothing that is there is overwritten; an interrupted run can be repeated with the same volume id
//! and goes on where it stopped. The base is labelled before the log is formatted, so a log without its tree
//! never exists. Nobody but root reaches the tree on this machine: a closed directory is above it.
//! What can go wrong: a directory with files in it, a log or a label of something else (all
//! refused, nothing changed), a filesystem that cannot hold a volume.

use super::args::InitArguments;
use super::commands::{remark, say};
use super::exit::{ExitCode, Failure};
use super::paths::{resolved, resolved_but_name};
use super::preflight::require_root;
use anyhow::Context;
use apply_engine::base::{Base, EnclosureError, OpenError, check_enclosed, is_for_tree_alone};
use config::{ByteSize, LogKind, NodeConfig, VolumeName};
use ids::VolumeId;
use nvlog::region::{self, OpenMode};
use nvlog::{FormatOptions, Log, RegionError};
use std::fmt::Write;
use std::fs::Permissions;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Length of a log that nobody has said anything else of.
const DEFAULT_CAPACITY: ByteSize = ByteSize(1 << 30);
/// What a log on a device lets an administrator choose, the stronger one first.
const ANSWER_CHOICE: &str = "\
    # \"power\": what is answered survives a loss of power on both nodes. \"memory\": it survives the loss of one node, and\n\
    # only what an fsync waited for that of both; answers do not wait for the devices. The same on both nodes.\n\
    answer = \"power\"\n";
/// What nodes and keys are called in what is printed, before anybody knows.
const PLACEHOLDERS: [(&str, &str); 2] = [("filer-a", "10.0.0.1:7400"), ("filer-b", "10.0.0.2:7400")];
const KEY_PLACEHOLDER: &str = "ed25519:...";
/// Mode of the directory that keeps other users out of a base.
const CLOSED: u32 = 0o700;

/// Makes the volume and prints what comes next.
pub(super) fn init(arguments: &InitArguments, config: &Path) -> anyhow::Result<()> {
    let name: VolumeName = arguments
        .name
        .parse()
        .map_err(|why: String| Failure::new(ExitCode::Usage, format!("--name {why}")))?;
    let (base, adopt) = match (&arguments.adopt, &arguments.base) {
        (Some(adopt), _) => (followed("--adopt", adopt, resolved)?, true),
        (None, Some(base)) => (followed("--base", base, resolved)?, false),
        (None, None) => {
            return Err(Failure::new(ExitCode::Usage, "name a directory: --base or --adopt").into());
        }
    };
    let log = followed("--log", &arguments.log, resolved_but_name)?;
    if followed("--log", &log, resolved)?.starts_with(&base) {
        let message = format!("the log {} lies in the base directory {}", log.display(), base.display());
        return Err(Failure::new(ExitCode::Usage, format!("{message}; choose another place for it")).into());
    }
    require_root()?;
    if adopt && !base.is_dir() {
        let message = format!("there is no directory {} to adopt; for a new tree say --base", base.display());
        return Err(Failure::new(ExitCode::NoInput, message).into());
    }
    let capacity = place_for_log(arguments, &log)?;
    let enclosure = Enclosure::of(&base)?;
    let volume = match arguments.volume_id {
        Some(volume) => volume,
        None => random_volume_id().context("making a volume id")?,
    };
    enclosure.make(&base)?;
    make_base(&base, volume, adopt)?;
    make_log(arguments.log_kind, &log, volume, capacity).with_context(|| {
        format!("the tree is ready; repeat with `--volume-id {volume}` once the log can be made")
    })?;
    let partner = NodeConfig::load(config).ok();
    let (kind, joins) = (arguments.log_kind, arguments.volume_id.is_some());
    let made = Made { name, volume, base, log, kind, capacity, joins };
    say(&made.next_steps(partner.as_ref()))
}

/// What is checked, made and printed is the place itself, not a way to it: a link or a `..` that is changed later leads
/// nowhere else.
fn followed(
    option: &str,
    path: &Path,
    follow: fn(&Path) -> std::io::Result<PathBuf>,
) -> anyhow::Result<PathBuf> {
    follow(path).with_context(|| format!("{option} {}; nothing was changed", path.display()))
}

/// Before the tree is touched: what is there already, or in use, is not going to become a log. Tells how long the log is.
fn place_for_log(arguments: &InitArguments, path: &Path) -> anyhow::Result<ByteSize> {
    if let Some(parent) = path.parent().filter(|parent| !parent.is_dir()) {
        let what = format!("there is no directory {} for the log", parent.display());
        return Err(unchanged(ExitCode::NoInput, &what, "correct --log, or make the directory").into());
    }
    let room = match region::probe(arguments.log_kind.into(), path) {
        Err(RegionError::Exists { .. }) => {
            let remedy = "choose another --log, or look what it is with `twinfiler log inspect`";
            return Err(unchanged(ExitCode::Exists, &format!("{} exists", path.display()), remedy).into());
        }
        Err(RegionError::Missing { .. }) => {
            let remedy = "correct --log (`lsblk` lists block devices, `ndctl list` persistent memory)";
            return Err(
                unchanged(ExitCode::NoInput, &format!("there is no {}", path.display()), remedy).into()
            );
        }
        room => room?.map(|len_bytes| len_bytes.saturating_sub(nvlog::format::RING_OFFSET_BYTES)),
    };
    let room = room.map(|bytes| bytes - bytes % nvlog::format::CAPACITY_ALIGN_BYTES);
    let default = ByteSize(room.map_or(DEFAULT_CAPACITY.0, |room| room.min(DEFAULT_CAPACITY.0)));
    let capacity = arguments.capacity.unwrap_or(default);
    match room {
        Some(room) if room < capacity.0.max(nvlog::format::MIN_CAPACITY_BYTES) => {
            let device = path.display();
            let message = format!(
                "{device} has room for a log of {}, not of {capacity}; nothing was changed. Choose another device, or a \
                 smaller --capacity",
                ByteSize(room)
            );
            Err(Failure::new(ExitCode::Data, message).into())
        }
        _ => Ok(capacity),
    }
}

fn unchanged(code: ExitCode, what: &str, remedy: &str) -> Failure {
    Failure::new(code, format!("{what}; nothing was changed\n    remedy: {remedy}"))
}

/// How the tree is going to be closed to the other users of the machine.
enum Enclosure {
    /// Something above it is closed.
    There,
    /// The directories that are missing above it are made closed.
    New,
    /// The directory above it is root's and holds nothing else: it is closed.
    Close(PathBuf),
    /// That one holds other things too: who knows what they are closes it, before the volume can be served.
    Later(EnclosureError),
}

impl Enclosure {
    fn of(base: &Path) -> anyhow::Result<Enclosure> {
        let Some(parent) = base.parent() else { return Err(no_root_as_base().into()) };
        if !parent.exists() {
            return Ok(Enclosure::New);
        }
        match check_enclosed(base) {
            Ok(()) => Ok(Enclosure::There),
            Err(EnclosureError::Open { .. }) if is_for_tree_alone(parent, base) => {
                Ok(Enclosure::Close(parent.to_owned()))
            }
            Err(error @ EnclosureError::Open { .. }) => Ok(Enclosure::Later(error)),
            Err(error) => Err(OpenError::from(error).into()),
        }
    }

    fn make(&self, base: &Path) -> anyhow::Result<()> {
        match self {
            Enclosure::There => Ok(()),
            Enclosure::New => {
                let parent = base.parent().unwrap_or(base);
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(CLOSED)
                    .create(parent)
                    .with_context(|| format!("creating {}", parent.display()))?;
                remark(&format!(
                    "{} was not there; it is now, closed to other users (mode 700)",
                    parent.display()
                ));
                Ok(())
            }
            Enclosure::Close(parent) => {
                std::fs::set_permissions(parent, Permissions::from_mode(CLOSED))
                    .with_context(|| format!("closing {}", parent.display()))?;
                remark(&format!("{} is closed to other users now (mode 700)", parent.display()));
                Ok(())
            }
            Enclosure::Later(error) => {
                remark(&format!("NOT YET: {error}. The volume is not served before that"));
                Ok(())
            }
        }
    }
}

fn no_root_as_base() -> Failure {
    Failure::new(ExitCode::Usage, "the root directory cannot be a base")
}

fn random_volume_id() -> std::io::Result<VolumeId> {
    let mut id = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut id)?;
    Ok(VolumeId(id))
}

fn make_base(base: &Path, volume: VolumeId, adopt: bool) -> anyhow::Result<()> {
    if adopt {
        return match Base::adopt(base, volume) {
            Ok((_, report)) => {
                remark(&format!(
                    "adopted {} objects ({} directories) in {}",
                    report.objects,
                    report.directories,
                    base.display()
                ));
                Ok(())
            }
            Err(OpenError::Exists { found, .. }) if found == volume => Ok(Base::forget_applied(base)?),
            Err(error) => Err(error.into()),
        };
    }
    match std::fs::create_dir(base) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("creating {}", base.display()));
        }
        _ => {}
    }
    match Base::create(base, volume) {
        Ok(_) => Ok(()),
        // An earlier run with this id came as far as this, or the log was lost.
        Err(OpenError::Exists { found, .. }) if found == volume => Ok(Base::forget_applied(base)?),
        Err(error) => Err(error.into()),
    }
}

fn make_log(kind: LogKind, path: &Path, volume: VolumeId, capacity: ByteSize) -> anyhow::Result<()> {
    let capacity_bytes = capacity.0;
    let len_bytes = nvlog::format::RING_OFFSET_BYTES
        .checked_add(capacity_bytes)
        .ok_or_else(|| Failure::new(ExitCode::Usage, "--capacity is too large"))?;
    let region = region::open(kind.into(), path, OpenMode::Create { len_bytes })?;
    Log::format(region, FormatOptions { volume, capacity_bytes, overwrite: false })
        .with_context(|| format!("{}", path.display()))?;
    Ok(())
}

struct Made {
    name: VolumeName,
    volume: VolumeId,
    base: PathBuf,
    log: PathBuf,
    kind: LogKind,
    capacity: ByteSize,
    /// The id was given: another node has the volume already.
    joins: bool,
}

impl Made {
    fn next_steps(&self, config: Option<&NodeConfig>) -> String {
        let Made { name, volume, base, log, kind, capacity, .. } = self;
        let own = config.map(|config| (config.name.to_string(), config.listen.to_string()));
        let [first, second] = PLACEHOLDERS.map(|(name, address)| (name.to_owned(), address.to_owned()));
        let partner = if self.joins { &first } else { &second };
        let mut text = format!(
            "volume id {volume}\n\n\
             # On this node, add to the configuration, with the partner's name, address and key (`twinfiler keygen --show`\n\
             # prints that there):\n{}",
            self.snippet(partner),
        );
        if !self.joins {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\n# On the partner, where an empty tree gets a copy of this one:\n\
                 #   twinfiler init --name {name} --volume-id {volume} --base {} --log-kind {kind} \\\n\
                 #     --log {} --capacity {capacity}\n\n\
                 # On the partner, add to the configuration, with this node's key:\n{}",
                base.display(),
                log.display(),
                self.snippet(&own.unwrap_or(first)),
            );
        }
        text
    }

    fn snippet(&self, (peer, address): &(String, String)) -> String {
        let Made { name, volume, base, log, kind, capacity, .. } = self;
        let answer = if *kind == LogKind::Block { ANSWER_CHOICE } else { "" };
        format!(
            "[[volume]]\n\
             name = \"{name}\"\n\
             id = \"{volume}\"\n\
             base = {}\n\
             peer = {{ name = \"{peer}\", address = \"{address}\", public_key = \"{KEY_PLACEHOLDER}\" }}\n\
             log = {{ kind = \"{kind}\", path = {}, capacity = \"{capacity}\" }}\n\
             {answer}\
             fuse = {{ mount = \"/srv/{name}\" }}\n",
            quoted(base),
            quoted(log),
        )
    }
}

/// A path as a TOML string.
fn quoted(path: &Path) -> String {
    toml::Value::String(path.display().to_string()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdma_transport::tls::PrivateKey;

    #[test]
    fn the_snippets_are_a_valid_configuration() {
        let mut made = Made {
            name: "home".parse().unwrap(),
            volume: VolumeId([7; 16]),
            base: "/var/lib/a \"quoted\" name".into(),
            log: "/dev/shm/log".into(),
            kind: LogKind::Emulated,
            capacity: ByteSize(1 << 30),
            joins: false,
        };
        let key = "[node]\nname = \"filer-a\"\nlisten = \"10.0.0.1:7400\"\nprivate_key = \"/k\"\n";
        let partner = ("filer-b".to_owned(), "10.0.0.2:7400".to_owned());
        let public = PrivateKey::generate().unwrap().public().to_string();
        let whole =
            |made: &Made| format!("{key}{}", made.snippet(&partner)).replace(KEY_PLACEHOLDER, &public);
        let config = NodeConfig::parse(&whole(&made), "snippet").unwrap();
        assert_eq!(config.volumes[0].id, made.volume);
        assert_eq!(config.volumes[0].base, made.base);
        let steps = made.next_steps(Some(&config));
        assert!(!steps.contains("answer"), "there is no choice: {steps}");
        assert!(steps.contains("peer = { name = \"filer-a\", address = \"10.0.0.1:7400\""), "{steps}");
        made.kind = LogKind::Block;
        let text = whole(&made);
        assert!(text.contains("\nanswer = \"power\"\n"), "{text}");
        assert_eq!(NodeConfig::parse(&text, "snippet").unwrap().volumes[0].answer, ids::AnswerFrom::Power);
    }
}
