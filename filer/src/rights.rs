//! What the daemon may do, of all that root may: the rest is given up before the first thread starts.
//!
//! Invariants: nothing that was given up comes back, not by a hook either (the bounding set and `no_new_privs` hold
//! for every program that is started); [`NODE`] is what `contrib/twinfiler.service` grants, which a test compares. What
//! can go wrong: a container has taken more away than this; then what needs it fails and says so itself.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

/// What a node keeps, and what for.
pub const NODE: [(CapabilitySet, &str); 18] = [
    (CapabilitySet::CHOWN, "other people's files get their owners"),
    (CapabilitySet::DAC_OVERRIDE, "other people's files and directories are written"),
    (CapabilitySet::DAC_READ_SEARCH, "open_by_handle_at"),
    (CapabilitySet::FOWNER, "modes, times and ACLs of other people's files"),
    (CapabilitySet::FSETID, "set-group-ID bits stay where they are"),
    (CapabilitySet::IPC_LOCK, "the daemon stays in memory; RDMA locks the log there"),
    (CapabilitySet::KILL, "hooks that take too long, whoever they run as"),
    (CapabilitySet::LINUX_IMMUTABLE, "flags that somebody set on a base go where they hold a name fast"),
    (CapabilitySet::MKNOD, "devices in a volume"),
    (CapabilitySet::NET_ADMIN, "the floating address"),
    (CapabilitySet::NET_BIND_SERVICE, "a port below 1024"),
    (CapabilitySet::NET_RAW, "telling the neighbours of the floating address"),
    (CapabilitySet::SETFCAP, "security.capability of other people's programs"),
    (CapabilitySet::SETGID, "hooks that run as somebody else"),
    (CapabilitySet::SETUID, "hooks that run as somebody else"),
    (
        CapabilitySet::SYS_ADMIN,
        "trusted.* attributes, mounts, a mount namespace to free names that something is mounted over",
    ),
    (CapabilitySet::SYS_NICE, "the threads that keep the pair alive are real-time"),
    (
        CapabilitySet::SYS_RESOURCE,
        "blocks that a filesystem reserves for root: applying may take the last ones",
    ),
];

/// The highest number that a capability may have: the set has 64.
const CAPABILITIES: u32 = 64;

/// Everything that a node keeps.
pub fn of_node() -> CapabilitySet {
    NODE.iter().fold(CapabilitySet::empty(), |all, (one, _)| all | *one)
}

/// Gives up everything but `kept`, for this thread and all that it starts: call it before there are others.
///
/// # Errors
/// What the system says; something may have been given up by then, which does no harm.
pub fn keep_only(kept: CapabilitySet) -> Result<(), Errno> {
    for number in 0..CAPABILITIES {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            // The kernel does not know it; or this is not root, who has none to give up.
            Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    let now = capabilities(None)?;
    let kept = CapabilitySets {
        effective: now.effective & kept,
        permitted: now.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, kept)?;
    set_no_new_privs(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ExitCode;
    use rustix::thread::capability_is_in_bounding_set;
    use std::collections::BTreeSet;

    const NODE_UNIT: &str = include_str!("../../contrib/twinfiler.service");
    const WITNESS_UNIT: &str = include_str!("../../contrib/twinfiler-witness.service");

    fn values<'u>(unit: &'u str, key: &str) -> Vec<&'u str> {
        unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
    }

    #[test]
    fn the_unit_grants_what_the_daemon_keeps() {
        let granted: BTreeSet<String> = values(NODE_UNIT, "CapabilityBoundingSet")
            .join(" ")
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        let kept: BTreeSet<String> = of_node().iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
        assert_eq!(granted, kept);
        assert_eq!(values(WITNESS_UNIT, "CapabilityBoundingSet"), [""], "the witness needs nothing");
        for unit in [NODE_UNIT, WITNESS_UNIT] {
            assert_eq!(values(unit, "NoNewPrivileges"), ["yes"]);
        }
    }

    /// What gives a unit mounts of its own would hide the volume's mount from everybody else; what forbids
    /// set-user-ID bits or new devices would refuse them to clients.
    #[test]
    fn the_nodes_unit_does_not_lock_its_clients_out() {
        let keys: Vec<&str> = NODE_UNIT
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .map(|(key, _)| key)
            .collect();
        for key in [
            "ProtectSystem",
            "ProtectHome",
            "PrivateTmp",
            "PrivateDevices",
            "PrivateMounts",
            "ProtectKernelTunables",
            "ProtectKernelModules",
            "ProtectKernelLogs",
            "ProtectControlGroups",
            "ProtectProc",
            "ProcSubset",
            "ReadWritePaths",
            "ReadOnlyPaths",
            "InaccessiblePaths",
            "BindPaths",
            "TemporaryFileSystem",
            "MountFlags",
            "DynamicUser",
            "RestrictSUIDSGID",
            "ProtectClock",
            "RootDirectory",
            "PrivateUsers",
            "PrivateNetwork",
        ] {
            assert!(!keys.contains(&key), "{key} in contrib/twinfiler.service");
        }
    }

    /// A disk, a device or the network may be minutes late at boot: the unit does not give up before they are there, and
    /// what a killed daemon leaves on the network is taken back.
    #[test]
    fn the_units_outlast_a_late_boot_and_clean_up() {
        for unit in [NODE_UNIT, WITNESS_UNIT] {
            assert_eq!(values(unit, "StartLimitIntervalSec"), ["0"]);
            assert_eq!(values(unit, "Restart"), ["on-failure"]);
            assert_eq!(values(unit, "RequiresMountsFor"), ["/var/lib/twinfiler"]);
            let never_again = values(unit, "RestartPreventExitStatus").join(" ");
            let late = [ExitCode::Unavailable, ExitCode::TryAgain, ExitCode::NoInput, ExitCode::Io];
            for code in late {
                assert!(!never_again.split(' ').any(|text| text == (code as u8).to_string()), "{code:?}");
            }
        }
        let never_again = values(NODE_UNIT, "RestartPreventExitStatus").join(" ");
        assert!(!never_again.contains("65"), "an empty base is one whose disk is not mounted yet");
        assert_eq!(values(NODE_UNIT, "ExecStopPost"), ["/usr/local/bin/twinfiler release-address"]);
    }

    /// Each thread has its own rights, so a thread of its own can give them up.
    #[test]
    fn what_is_given_up_is_gone() {
        std::thread::spawn(|| {
            let before = capabilities(None).unwrap();
            keep_only(CapabilitySet::CHOWN).unwrap();
            let after = capabilities(None).unwrap();
            assert_eq!(after.permitted, before.permitted & CapabilitySet::CHOWN);
            assert_eq!(after.effective, before.effective & CapabilitySet::CHOWN);
            assert!(rustix::thread::no_new_privs().unwrap());
            if rustix::process::geteuid().is_root() {
                assert!(!capability_is_in_bounding_set(CapabilitySet::SYS_MODULE).unwrap());
                let program = std::process::Command::new("cat").arg("/proc/self/status").output().unwrap();
                let status = String::from_utf8_lossy(&program.stdout).into_owned();
                let line = |key: &str| {
                    status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned()
                };
                let expected = format!("{:016x}", (before.permitted & CapabilitySet::CHOWN).bits());
                assert_eq!(
                    (line("CapEff:"), line("NoNewPrivs:")),
                    (expected, "1".to_owned()),
                    "a program that was started"
                );
            }
        })
        .join()
        .unwrap();
    }

    /// systemd itself reads the units without complaint, where it is installed.
    #[test]
    fn systemd_takes_the_units() {
        let directory = tempfile::tempdir().unwrap();
        let program = std::env::current_exe().unwrap();
        for (name, unit) in [("twinfiler.service", NODE_UNIT), ("twinfiler-witness.service", WITNESS_UNIT)] {
            let path = directory.path().join(name);
            std::fs::write(&path, unit.replace("/usr/local/bin/twinfiler", &program.display().to_string()))
                .unwrap();
            let Ok(checked) = std::process::Command::new("systemd-analyze").arg("verify").arg(&path).output()
            else {
                eprintln!("SKIPPED: systemd_takes_the_units (no systemd-analyze here)");
                return;
            };
            let said = String::from_utf8_lossy(&checked.stderr).into_owned();
            let ours: Vec<&str> = said.lines().filter(|line| line.contains(name)).collect();
            assert!(ours.is_empty(), "{ours:?}");
        }
    }
}
