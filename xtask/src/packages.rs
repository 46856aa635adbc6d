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
    program: &'static str,
    package: &'static str,
}

/// Programs that the demo's workload runs.
pub const WORKLOAD: &[Need] = &[
    Need { program: "git", package: "git" },
    Need { program: "sqlite3", package: "sqlite3" },
    Need { program: "tar", package: "tar" },
    Need { program: "gzip", package: "gzip" },
];

/// Programs that build our dependencies.
pub const BUILD: &[Need] = &[Need { program: "cc", package: "gcc" }];

/// Programs that make and mount one kind of local filesystem.
pub fn for_filesystem(name: &str) -> &'static [Need] {
    match name {
        "ext4" => &[
            Need { program: "mkfs.ext4", package: "e2fsprogs" },
            Need { program: "mount", package: "mount" },
        ],
        "xfs" => {
            &[Need { program: "mkfs.xfs", package: "xfsprogs" }, Need { program: "mount", package: "mount" }]
        }
        "btrfs" => &[
            Need { program: "mkfs.btrfs", package: "btrfs-progs" },
            Need { program: "mount", package: "mount" },
        ],
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

/// The packages that bring what is missing, each once, in the order asked.
pub fn missing(needs: &[Need], exists: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut packages = Vec::new();
    for need in needs {
        if !exists(need.program) && !packages.contains(&need.package) {
            packages.push(need.package);
        }
    }
    packages
}

/// Installs what is missing and says so. Nothing missing: silent.
pub fn ensure(needs: &[Need], log_dir: &Path) -> Result<()> {
    let packages = missing(needs, |program| find_program(program).is_some());
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
        let needs = [
            Need { program: "a", package: "one" },
            Need { program: "b", package: "two" },
            Need { program: "c", package: "two" },
        ];
        assert_eq!(missing(&needs, |program| program == "a"), ["two"]);
        assert!(missing(&needs, |_| true).is_empty());
    }

    #[test]
    fn programs_outside_of_path_are_found() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
    }
}
