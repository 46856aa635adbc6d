//! How much memory this process may still take: the machine's, or what its control group has left, whichever is less.
//!
//! What can go wrong: the system does not tell (no /proc); then nobody knows, and nothing is refused because of it.

use std::path::Path;

/// Bytes that can be had without pushing anybody out.
pub fn available_bytes() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(of_meminfo);
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = unified(&groups).and_then(|path| of_group(&Path::new("/sys/fs/cgroup").join(path)));
    match (machine, group) {
        (Some(machine), Some(group)) => Some(machine.min(group)),
        (machine, group) => machine.or(group),
    }
}

/// Bytes that something which can be left undone may take: most of those, and not all.
pub fn spare_bytes() -> Option<u64> {
    available_bytes().map(|bytes| bytes - bytes / 4)
}

fn of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The path of the process in the unified hierarchy, below its mount.
fn unified(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::/"))
}

/// What a group, and those above it, have left.
fn of_group(group: &Path) -> Option<u64> {
    let number = |path: &Path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let left = |group: &Path| {
        // "max" is no number: no limit.
        let limit = number(&group.join("memory.max"))?;
        Some(limit.saturating_sub(number(&group.join("memory.current"))?))
    };
    group.ancestors().filter_map(left).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_by_the_machine_and_by_the_group() {
        assert_eq!(of_meminfo("MemTotal:  9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(of_meminfo("MemTotal:  9 kB\n"), None);
        assert_eq!(
            unified("4:memory:/x\n0::/system.slice/twinfiler.service\n"),
            Some("system.slice/twinfiler.service")
        );
        let groups = tempfile::tempdir().unwrap();
        let service = groups.path().join("system.slice/twinfiler.service");
        std::fs::create_dir_all(&service).unwrap();
        let write = |path: &Path, name: &str, text: &str| std::fs::write(path.join(name), text).unwrap();
        write(&service, "memory.max", "max\n");
        write(&service, "memory.current", "100\n");
        assert_eq!(of_group(&service), None, "no limit");
        write(service.parent().unwrap(), "memory.max", "1000\n");
        write(service.parent().unwrap(), "memory.current", "300\n");
        assert_eq!(of_group(&service), Some(700), "the one above has");
        assert!(available_bytes().is_some());
    }
}
