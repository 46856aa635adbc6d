//! Which Debian packages a command needs, and how they get there: by asking for a program or file that each
//! provides, and one `apt-get install` for all that is missing, announced before it runs.
//!
//! What can go wrong: not root, no apt-get (another distribution), no network. Each is an error that names the
//! packages to install by hand.

use crate::steps;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The longest time that apt-get may take for everything.
const INSTALL_LIMIT: Duration = Duration::from_secs(900);

/// Where programs are looked for besides PATH: root's PATH is sometimes a user's, without the sbin directories.
const SYSTEM_DIRS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Something that must exist and the package that brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    sign: Sign,
    package: &'static str,
}

/// What shows that a package is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// A program.
    Program(&'static str),
    /// libclang.so, of any version: bindgen loads it, and no program comes with it.
    Libclang,
    /// A file.
    File(&'static str),
}

const fn program(program: &'static str, package: &'static str) -> Need {
    Need { sign: Sign::Program(program), package }
}

/// Programs that the demo's workload runs.
pub const WORKLOAD: &[Need] =
    &[program("git", "git"), program("sqlite3", "sqlite3"), program("tar", "tar"), program("gzip", "gzip")];

/// What builds our dependencies. The last two are for the RDMA library's bindings (cargo feature `verbs`).
pub const BUILD: &[Need] = &[
    program("cc", "gcc"),
    program("c++", "g++"),
    program("cmake", "cmake"),
    Need { sign: Sign::Libclang, package: "libclang-14-dev" },
];

/// Programs that the tests set the product beside, and what they make networks and terminals with.
pub const TESTS: &[Need] =
    &[program("etcd", "etcd-server"), program("ip", "iproute2"), program("script", "bsdutils")];

/// What makes disks hang.
pub const FAULTS: &[Need] = &[program("qemu-storage-daemon", "qemu-utils")];

/// What the guests of `soft-roce-ci` are made of. Their root is this machine's, so what runs in them is here.
pub const GUESTS: &[Need] = &[
    program("qemu-system-x86_64", "qemu-system-x86"),
    program("busybox", "busybox-static"),
    program("apt-get", "apt"),
    program("dpkg", "dpkg"),
    program("depmod", "kmod"),
    program("xz", "xz-utils"),
    program("ip", "iproute2"),
    program("rdma", "iproute2"),
    program("ndctl", "ndctl"),
    program("dmsetup", "dmsetup"),
    program("setpriv", "util-linux"),
    program("ibv_devinfo", "ibverbs-utils"),
    // libibverbs comes with its drivers, which no program shows.
    Need { sign: Sign::File("/etc/libibverbs.d/rxe.driver"), package: "ibverbs-providers" },
];

const MOUNT: Need = program("mount", "mount");
const EXT4: &[Need] = &[program("mkfs.ext4", "e2fsprogs"), MOUNT];
const XFS: &[Need] = &[program("mkfs.xfs", "xfsprogs"), MOUNT];
const BTRFS: &[Need] = &[program("mkfs.btrfs", "btrfs-progs"), MOUNT];

/// Programs that make and mount one kind of local filesystem.
pub fn for_filesystem(name: &str) -> &'static [Need] {
    match name {
        "ext4" => EXT4,
        "xfs" => XFS,
        "btrfs" => BTRFS,
        _ => &[],
    }
}

/// Where a program is, if anywhere.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_DIRS.iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

impl Sign {
    fn is_there(self) -> bool {
        match self {
            Sign::Program(name) => find_program(name).is_some(),
            Sign::File(path) => Path::new(path).exists(),
            Sign::Libclang => libclang_dirs().iter().any(|dir| holds_libclang(dir)),
        }
    }
}

/// Where bindgen looks for libclang: where it is told to, in Debian's directories of LLVM versions, and where
/// other distributions keep libraries.
fn libclang_dirs() -> Vec<PathBuf> {
    let told = std::env::var_os("LIBCLANG_PATH").map(PathBuf::from);
    let versions = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let llvm = versions
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm-"))
        .map(|entry| entry.path().join("lib"));
    let others = ["/usr/lib64", "/usr/lib", "/usr/local/lib"].map(PathBuf::from);
    told.into_iter().chain(llvm).chain(others).collect()
}

/// `libclang.so` or one with a version: `libclang-14.so.1`. The C++ library libclang-cpp is another one.
fn holds_libclang(dir: &Path) -> bool {
    std::fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libclang") && name.contains(".so") && !name.starts_with("libclang-cpp")
    })
}

/// The packages that bring what is missing, each once, in the order asked.
fn missing(needs: &[Need], exists: impl Fn(Sign) -> bool) -> Vec<&'static str> {
    let mut packages = Vec::new();
    for need in needs {
        if !exists(need.sign) && !packages.contains(&need.package) {
            packages.push(need.package);
        }
    }
    packages
}

/// Installs what is missing and says so. Nothing missing: silent.
pub fn ensure(needs: &[Need], log_dir: &Path) -> Result<()> {
    let packages = missing(needs, Sign::is_there);
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if find_program("apt-get").is_none() {
        bail!(
            "missing: {list}. There is no apt-get here to install them: use your system's package manager."
        );
    }
    if !rustix::process::geteuid().is_root() {
        bail!("missing: {list}. Run as root, or install them first: sudo apt-get install {list}");
    }
    eprintln!("installing with apt-get: {list}");
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        command
    };
    let install: Vec<&str> =
        ["install", "-y", "-q", "--no-install-recommends"].into_iter().chain(packages).collect();
    if steps::run(log_dir, "apt-install", &mut apt(&install), INSTALL_LIMIT).is_ok() {
        return Ok(());
    }
    // A fresh image has no package lists yet; a stale one names versions that are gone.
    steps::run(log_dir, "apt-update", &mut apt(&["update", "-q"]), INSTALL_LIMIT)?;
    steps::run(log_dir, "apt-install", &mut apt(&install), INSTALL_LIMIT)
        .map(drop)
        .with_context(|| format!("cannot install {list}; install them by hand and try again"))
}

/// What a node needs from the machine besides packages.
pub fn require_root_and_fuse() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("this command mounts file systems: run it as root");
    }
    if !Path::new("/dev/fuse").exists() {
        bail!("/dev/fuse is missing: load it with `modprobe fuse` (in a container: pass --device /dev/fuse)");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_named_and_each_once() {
        let needs = [program("a", "one"), program("b", "two"), program("c", "two")];
        assert_eq!(missing(&needs, |sign| sign == Sign::Program("a")), ["two"]);
        assert!(missing(&needs, |_| true).is_empty());
    }

    #[test]
    fn libclang_is_known_by_its_file() {
        let dir = tempfile::tempdir().unwrap();
        for other in ["libclang-cpp.so.14", "libclangBasic.a", "libclang-14.txt"] {
            std::fs::write(dir.path().join(other), "").unwrap();
        }
        assert!(!holds_libclang(dir.path()));
        std::fs::write(dir.path().join("libclang-14.so.1"), "").unwrap();
        assert!(holds_libclang(dir.path()));
    }

    #[test]
    fn programs_outside_of_path_are_found() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
    }
}
