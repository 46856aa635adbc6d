//! What a volume over RDMA needs of this machine: the library, a device with an active port, a log whose memory can
//! be registered, and the right to lock it.
//!
//! Devices and ports are looked up in sysfs, which needs no device to be opened; the directory is a parameter, so
//! that tests can show another machine. What only the device can tell (GIDs, windows, modes of persistence) is told
//! when the volume opens it.

use super::{ExitCode, Preflight};
use config::{LogKind, VolumeConfig};
use std::path::Path;

const DEVICES: &str = "/sys/class/infiniband";
/// As the kernel writes the state of a port that carries traffic.
const ACTIVE: &str = "ACTIVE";
const MAKE_A_DEVICE: &str = "load the adapter's driver and `modprobe ib_uverbs`; without an adapter `modprobe rdma_rxe; \
                             rdma link add rxe0 type rxe netdev INTERFACE` makes one of an Ethernet port (`rdma link` \
                             must list it)";
/// Bit of CAP_IPC_LOCK in the kernel's capability masks.
const CAP_IPC_LOCK: u32 = 14;

pub(super) fn check(found: &mut Preflight, volume: &VolumeConfig) {
    check_library(found, volume);
    let name = volume.name.as_str();
    for (what, remedy) in device_problems(Path::new(DEVICES), volume) {
        found.add(ExitCode::Unavailable, format!("volume {name}: {what}"), &remedy);
    }
    check_memory(found, volume);
    check_limit(found, volume);
}

#[cfg(feature = "verbs")]
fn check_library(found: &mut Preflight, volume: &VolumeConfig) {
    if let Err(error) = rdma_transport::verbs::library_available() {
        found.add(
            ExitCode::Unavailable,
            format!("volume {}: {error}", volume.name),
            "apt-get install libibverbs1 ibverbs-providers (rdma-core has the tools)",
        );
    }
}

/// The configuration has refused the transport already.
#[cfg(not(feature = "verbs"))]
fn check_library(_found: &mut Preflight, _volume: &VolumeConfig) {}

/// What is wrong with the devices below `devices`, and what to do.
fn device_problems(devices: &Path, volume: &VolumeConfig) -> Vec<(String, String)> {
    let present = names(devices);
    let Some(wanted) = &volume.rdma.device else {
        if present.is_empty() {
            return vec![("this machine has no RDMA device".to_owned(), MAKE_A_DEVICE.to_owned())];
        }
        let ports: Vec<String> =
            present.iter().flat_map(|device| port_states(devices, device, volume.rdma.port)).collect();
        if ports.iter().any(|port| port.ends_with(ACTIVE)) {
            return Vec::new();
        }
        let what = format!("no RDMA port is active ({})", listed(&ports));
        return vec![(
            what,
            "check cable, switch and `ip link`; InfiniBand needs a subnet manager".to_owned(),
        )];
    };
    if !present.contains(wanted) {
        let what = format!("there is no RDMA device {wanted:?}; there is: {}", listed(&present));
        let remedy = format!("correct `rdma.device`, or {MAKE_A_DEVICE}");
        return vec![(what, remedy)];
    }
    let ports = port_states(devices, wanted, volume.rdma.port);
    if ports.is_empty() {
        let what = format!("RDMA device {wanted:?} has no port {}", volume.rdma.port.unwrap_or(1));
        return vec![(
            what,
            format!("correct `rdma.port`; it has: {}", listed(&port_states(devices, wanted, None))),
        )];
    }
    if ports.iter().any(|port| port.ends_with(ACTIVE)) {
        return Vec::new();
    }
    let what = format!("no port of RDMA device {wanted:?} is active ({})", listed(&ports));
    vec![(what, "check cable, switch and `ip link`; InfiniBand needs a subnet manager".to_owned())]
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// "mlx5_0/1 ACTIVE" for each port of a device, or the wanted one alone.
fn port_states(devices: &Path, device: &str, wanted: Option<u8>) -> Vec<String> {
    let ports = devices.join(device).join("ports");
    names(&ports)
        .into_iter()
        .filter(|port| wanted.is_none_or(|wanted| *port == wanted.to_string()))
        .map(|port| {
            let state = std::fs::read_to_string(ports.join(&port).join("state")).unwrap_or_default();
            // "4: ACTIVE"
            let state = state.trim().rsplit(' ').next().unwrap_or_default().to_owned();
            format!("{device}/{port} {}", if state.is_empty() { "unknown" } else { &state })
        })
        .collect()
}

fn listed(items: &[String]) -> String {
    if items.is_empty() { "nothing".to_owned() } else { items.join(", ") }
}

/// A NIC keeps using the pages it was given: a filesystem that may write them elsewhere cannot lend them.
fn check_memory(found: &mut Preflight, volume: &VolumeConfig) {
    if volume.log.kind != LogKind::Emulated {
        return; // devdax is memory, a block log's image is anonymous memory, fsdax was refused with the file
    }
    let Some(path) = volume.log.path.exists().then_some(&volume.log.path) else { return };
    if let Some(file_system) = disk_file_system(path) {
        let what = format!(
            "volume {}: the log {} is a file on {file_system}, whose cached pages RDMA cannot rely on: kernels since \
             6.5 refuse to register them (EFAULT), older ones accept and the file may never see what was written; and \
             it would not survive power",
            volume.name,
            path.display()
        );
        let remedy = "for tests put an emulated log on tmpfs or hugetlbfs (/dev/shm); for real use a devdax log \
                      (`ndctl create-namespace -m devdax`), or a `block` log, or transport = \"tcp\"";
        found.add(ExitCode::Config, what, remedy);
    }
}

/// The filesystem that holds `path`, unless it lives in memory.
fn disk_file_system(path: &Path) -> Option<String> {
    let magic = rustix::fs::statfs(path).ok()?.f_type as u64;
    match magic {
        0x0102_1994 | 0x8584_58F6 | 0x9584_58F6 => None, // tmpfs, ramfs, hugetlbfs
        0xEF53 => Some("ext4".to_owned()),
        0x5846_5342 => Some("XFS".to_owned()),
        0x9123_683E => Some("btrfs".to_owned()),
        0x794C_7630 => Some("overlayfs".to_owned()),
        other => Some(format!("a filesystem of type {other:#x}")),
    }
}

/// The kernel counts registered memory against the limit of locked memory, unless the process may exceed it.
fn check_limit(found: &mut Preflight, volume: &VolumeConfig) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(limit_bytes) = limit
        && limit_bytes < volume.log.capacity_bytes
        && !may_lock(&status)
    {
        let what = format!(
            "volume {}: the limit of locked memory is {limit_bytes} bytes, below the log's {}",
            volume.name, volume.log.capacity_bytes
        );
        let remedy =
            "raise it (systemd: LimitMEMLOCK=infinity; shell: `ulimit -l unlimited`), or give CAP_IPC_LOCK";
        found.add(ExitCode::Unavailable, what, remedy);
    }
}

/// Whether /proc/self/status shows CAP_IPC_LOCK among the effective capabilities.
fn may_lock(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> CAP_IPC_LOCK & 1 == 1)
}

#[cfg(test)]
#[cfg(feature = "verbs")]
mod tests {
    use super::*;
    use config::NodeConfig;

    fn volume(rdma: &str, log: &Path) -> VolumeConfig {
        let text = format!(
            "[node]\nname = \"a\"\nlisten = \"10.0.0.1:7400\"\nplaintext = true\n[[volume]]\nname = \"home\"\n\
             id = \"00112233445566778899aabbccddeeff\"\nbase = \"/base\"\ntransport = \"verbs\"\n\
             peer = {{ name = \"b\", address = \"10.0.0.2:7400\" }}\n\
             log = {{ kind = \"emulated\", path = \"{}\", capacity = \"64MiB\" }}\nrdma = {{ {rdma} }}\n",
            log.display()
        );
        NodeConfig::parse(&text, "f").unwrap().volumes.remove(0)
    }

    fn port(devices: &Path, device: &str, port: &str, state: &str) {
        let dir = devices.join(device).join("ports").join(port);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("state"), state).unwrap();
    }

    #[test]
    fn devices_and_ports_are_looked_up() {
        let dir = tempfile::tempdir().unwrap();
        let told = |rdma: &str| {
            let problems = device_problems(dir.path(), &volume(rdma, Path::new("/dev/shm/x")));
            problems.into_iter().map(|(what, remedy)| format!("{what}: {remedy}")).collect::<String>()
        };
        assert!(told("").contains("no RDMA device") && told("").contains("rdma_rxe"));
        port(dir.path(), "rxe0", "1", "1: DOWN\n");
        assert!(told("").contains("no RDMA port is active (rxe0/1 DOWN)"), "{}", told(""));
        port(dir.path(), "mlx5_0", "1", "1: DOWN\n");
        port(dir.path(), "mlx5_0", "2", "4: ACTIVE\n");
        assert_eq!(told(""), "");
        assert_eq!(told("device = \"mlx5_0\""), "");
        assert_eq!(told("device = \"mlx5_0\", port = 2"), "");
        assert!(told("device = \"mlx5_0\", port = 1").contains("mlx5_0/1 DOWN"));
        assert!(told("device = \"mlx5_0\", port = 3").contains("has no port 3"));
        assert!(told("device = \"mlx4_0\"").contains("there is: mlx5_0, rxe0"));
    }

    #[test]
    fn an_emulated_log_on_a_disk_is_refused_and_one_in_memory_is_not() {
        let told = |dir: &Path| {
            let log = dir.join(format!("twinfiler-preflight-{}", std::process::id()));
            std::fs::write(&log, "x").unwrap();
            let mut found = Preflight::default();
            check_memory(&mut found, &volume("", &log));
            std::fs::remove_file(&log).unwrap();
            (found.code(), found.to_string())
        };
        let (code, text) = told(Path::new("/var/tmp"));
        assert_eq!(code, ExitCode::Config, "{text}");
        assert!(text.contains("EFAULT") && text.contains("-m devdax"), "{text}");
        assert_eq!(told(Path::new("/dev/shm")).1, "");
    }

    #[test]
    fn the_right_to_lock_memory_is_read_from_the_mask() {
        assert!(may_lock("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(!may_lock("CapEff:\t00000000a80425fb\n"), "what containers give by default");
        assert!(!may_lock(""));
    }
}
