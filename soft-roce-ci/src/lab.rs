//! Two virtual machines, the link between them, and everything that is needed to have them.
//!
//! A guest is Debian's kernel with the host's root over 9p, read-only beneath a tmpfs: whatever is built or installed
//! on the host is there under the same path, and nothing that a guest does reaches the host. Hidden are only `/proc`,
//! `/sys`, `/dev` and `/run`, which are the guest's own. In the guest: `rxe0` on `eth0` (GID index 1 is its IPv4
//! RoCEv2 one), the NVDIMM as `/dev/dax0.0` or `/dev/pmem0`, the disk `/dev/vda`, and the host at [`HOST_ADDRESS`].
//!
//! Dropping a [`Lab`] ends everything it started and removes its files but the logs.

mod archive;
mod channel;
mod emulator;
mod first_root;
mod guest;
mod inbox;
mod kernel;
mod process;
mod spec;
mod wire;

pub use channel::{Finished, GuestGone, Moment, Running};
pub use guest::Guest;
pub use process::{HostProcess, INTERRUPTED_EXIT_CODE, LabDirectory, Start, end_with_us};
pub use spec::{GuestSpec, NvdimmMode, Side, Spec, WireKind};
pub use wire::{Cut, Wire};

use anyhow::{Context, Result, bail};
use kernel::Kernel;
use std::ffi::OsString;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Where a guest reaches the host's loopback interface, through its second network interface.
pub const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// The harness's own binary in the lab's directory, so that a new build does not change it under a guest.
const AGENT_FILE: &str = "soft-roce-ci";

/// The program under test.
pub const PROGRAM_NAME: &str = "twinfiler";

const NO_EXECUTABLE: &str = "cannot find this program's own file";

/// What a guest has of its own; a path of the host beneath these is not seen in it.
const HIDDEN: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// Guests cannot run on this machine; the text says why and what to do.
#[derive(Debug)]
pub struct CannotRun(String);

impl CannotRun {
    fn new(reason: String) -> CannotRun {
        CannotRun(reason)
    }
}

impl std::fmt::Display for CannotRun {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "guests cannot run here: {}", self.0)
    }
}

impl std::error::Error for CannotRun {}

/// One test's machines.
pub struct Lab {
    guests: [Guest; 2],
    wire: Wire,
    harness: PathBuf,
}

impl Lab {
    /// Makes the machines and boots them. `logs` gets the consoles and everything that programs in them say.
    pub fn start(spec: &Spec, logs: &Path) -> Result<Lab> {
        let prepared = prepare()?;
        fs::create_dir_all(logs).with_context(|| format!("cannot create {}", logs.display()))?;
        let logs = logs.canonicalize().with_context(|| format!("cannot find {}", logs.display()))?;
        let directory = LabDirectory::create(&prepared.cache.join("labs"))?;
        // Not by its path: a build may have put another program there since we were started.
        let harness = directory.path().join(AGENT_FILE);
        fs::copy("/proc/self/exe", &harness).context("cannot copy this program")?;
        let accelerator = emulator::accelerator(&prepared.cache, directory.path(), &prepared.kernel)?;
        let directory = Arc::new(directory);
        let guest = |side| Guest::create(side, spec, &prepared.kernel, accelerator, &directory, &logs);
        let guests = [guest(Side::A)?, guest(Side::B)?];
        let wire = Wire::start(&directory, spec.wire)?;
        let lab = Lab { guests, wire, harness };
        if spec.only_a {
            lab.guest(Side::A).boot()?;
        } else {
            lab.boot_both()?;
        }
        Ok(lab)
    }

    /// One of the machines.
    pub fn guest(&self, side: Side) -> &Guest {
        &self.guests[side.index()]
    }

    /// Where guests find this program, for commands of ours that are to run in them.
    pub fn harness(&self) -> &Path {
        &self.harness
    }

    /// The link between them.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Boots both at once, which takes little longer than booting one.
    pub fn boot_both(&self) -> Result<()> {
        let [a, b] = &self.guests;
        std::thread::scope(|scope| {
            let other = scope.spawn(|| b.boot());
            let first = a.boot();
            let second = other.join().expect("booting does not panic");
            first.and(second)
        })
    }
}

/// What every lab of a run shares.
struct Prepared {
    cache: PathBuf,
    kernel: Kernel,
}

static CACHE: OnceLock<PathBuf> = OnceLock::new();

/// Keeps kernels and the labs' files in this directory. To be called before the first lab is made.
pub fn use_cache(directory: &Path) {
    let _ = CACHE.set(directory.to_owned());
}

/// Gets what guests need; slow only the first time in a cache. [`Lab::start`] does it too.
pub fn make_ready() -> Result<()> {
    prepare().map(drop)
}

fn prepare() -> Result<&'static Prepared> {
    static PREPARED: OnceLock<Prepared> = OnceLock::new();
    if let Some(prepared) = PREPARED.get() {
        return Ok(prepared);
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(CannotRun::new("the guests are x86-64 machines under Linux".to_owned()).into());
    }
    emulator::require_programs()?;
    let cache = CACHE.get().cloned().map_or_else(default_cache, Ok)?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let cache = cache.canonicalize().with_context(|| format!("cannot find {}", cache.display()))?;
    require_visible(&cache)?;
    let kernel = Kernel::prepare(&cache)?;
    Ok(PREPARED.get_or_init(|| Prepared { cache, kernel }))
}

/// Where kernels and the labs' files are kept.
pub fn cache() -> Result<&'static Path> {
    Ok(&prepare()?.cache)
}

/// A directory beside what cargo builds, so that `cargo clean` removes it.
fn default_cache() -> Result<PathBuf> {
    let target = target_directory().context("say with --cache where to keep kernels")?;
    Ok(target.join("soft-roce-ci"))
}

/// Where cargo built this program.
pub fn target_directory() -> Result<PathBuf> {
    let executable = std::env::current_exe().context(NO_EXECUTABLE)?;
    let profile = executable.ancestors().find(|directory| directory.join(".fingerprint").exists());
    let target = profile.and_then(Path::parent).context("this program is not in cargo's target directory")?;
    Ok(target.to_owned())
}

/// An error when guests do not see a path of the host.
pub fn require_visible(path: &Path) -> Result<()> {
    match HIDDEN.iter().find(|hidden| path.starts_with(hidden)) {
        Some(hidden) => bail!(
            "{} is not seen in guests, which have their own {hidden}: use another place",
            path.display()
        ),
        None => Ok(()),
    }
}

/// Where programs are looked for: besides PATH, where a user's PATH often ends.
fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    // It cannot be joined only when PATH holds what no PATH can.
    std::env::join_paths(std::env::split_paths(&path).chain(system)).unwrap_or(path)
}

/// Puts a program at another place: as a link where that is possible.
pub fn place(program: &Path, target: &Path) -> Result<()> {
    let program = program.canonicalize().with_context(|| format!("cannot find {}", program.display()))?;
    fs::hard_link(&program, target)
        .or_else(|_| fs::copy(&program, target).map(drop))
        .with_context(|| format!("cannot copy {} to {}", program.display(), target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_places_are_refused_and_their_namesakes_are_not() {
        assert!(require_visible(Path::new("/run/x")).is_err());
        assert!(require_visible(Path::new("/dev/shm/x")).is_err());
        assert!(require_visible(Path::new("/running/x")).is_ok());
        assert!(require_visible(Path::new("/tmp/x")).is_ok());
    }
}
