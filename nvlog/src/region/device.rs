//! Devices as logs: whether one may become a log; and of block devices, who else uses one and what it lies on.
//!
//! Invariants: nothing here writes; a device is open exclusively (`O_EXCL`: the kernel then gives it to no mount, no
//! device mapper, no RAID and no other daemon) before anything of it is believed. What can go wrong: the device is in
//! use, read-only, somebody's, or memory that only looks like a disk; each is an error of its own.

use crate::region::signatures::{EDGE_BYTES, Edges, identify};
use crate::region::sys::{Mapping, failed, memory_of};
use crate::region::{RegionError, RegionKind};
use rustix::fs::Dev;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Largest unit that a device may be written in: what a persist writes is aligned to this.
const MAX_SECTOR_BYTES: u32 = 4096;
/// How many layers of devices on devices are looked through.
const MAX_LAYERS: u32 = 8;

/// Refuses a device that survives no power cut, or that cannot be written in our unit.
pub(crate) fn check(fd: BorrowedFd<'_>, path: &Path, dev: Dev) -> Result<(), RegionError> {
    let sector_bytes = rustix::fs::ioctl_blksszget(fd).map_err(failed(path, "asking for the sector size"))?;
    if sector_bytes > MAX_SECTOR_BYTES {
        let needs = "a device with sectors of at most 4096 bytes";
        return Err(RegionError::WrongKind { path: path.to_owned(), kind: RegionKind::Block, needs });
    }
    let Some(device) = sysfs(dev) else { return Ok(()) };
    // The kernel lets it be opened all the same, and refuses each write.
    if std::fs::read_to_string(device.join("ro")).is_ok_and(|text| text.trim() == "1") {
        return Err(RegionError::ReadOnly { path: path.to_owned() });
    }
    match memory_below(&device, MAX_LAYERS) {
        Some(file_system) => Err(RegionError::NotDurable { path: path.to_owned(), file_system }),
        None => Ok(()),
    }
}

/// Refuses a block device that holds anything.
pub(crate) fn check_blank(file: &File, path: &Path, len_bytes: u64) -> Result<(), RegionError> {
    let read = |bytes: &mut [u8], offset| file.read_exact_at(bytes, offset);
    check_edges(read, path, len_bytes, "blkdiscard --force --zeroout")
}

/// Refuses a device of mapped memory that holds anything.
pub(crate) fn check_blank_memory(mapping: &Mapping, path: &Path) -> Result<(), RegionError> {
    let outside = || io::Error::other("beyond the end of the mapping");
    let read = |bytes: &mut [u8], offset| mapping.copy_out(offset, bytes).ok_or_else(outside);
    // It cannot be written but through a mapping, so neither dd nor blkdiscard does it.
    check_edges(read, path, mapping.len_bytes(), "daxio --zero --output")
}

fn check_edges(
    read: impl Fn(&mut [u8], u64) -> io::Result<()>,
    path: &Path,
    len_bytes: u64,
    blank_with: &'static str,
) -> Result<(), RegionError> {
    let edge = EDGE_BYTES.min(len_bytes);
    let edge_at = |offset| {
        let mut bytes = vec![0; edge as usize];
        read(&mut bytes, offset).map(|()| bytes)
    };
    let both = edge_at(0).and_then(|head| Ok((head, edge_at(len_bytes - edge)?)));
    let (head, tail) =
        both.map_err(|source| RegionError::Io { path: path.to_owned(), what: "reading", source })?;
    match identify(&Edges { head: &head, tail: &tail, len_bytes }) {
        Some(what) => Err(RegionError::Occupied { path: path.to_owned(), what, blank_with }),
        None => Ok(()),
    }
}

/// Why the kernel does not give a device away.
pub(crate) fn in_use(path: &Path, dev: Dev) -> RegionError {
    let path = path.to_owned();
    match user_of(dev) {
        Some(by) => RegionError::InUse { path, by },
        // Nobody that shows: a process has it open exclusively.
        None => RegionError::Locked { path },
    }
}

fn user_of(dev: Dev) -> Option<String> {
    if let Some(at) = mounted_at(dev) {
        return Some(format!("it is mounted at {at}"));
    }
    if swaps().contains(&dev) {
        return Some("the system swaps to it".to_owned());
    }
    let device = sysfs(dev)?;
    if let Some(holder) = names_in(&device.join("holders")).next() {
        return Some(format!("{holder} is made of it (device mapper, RAID or the like)"));
    }
    let partition = names_in(&device)
        .map(|name| device.join(name))
        .filter(|part| part.join("partition").exists())
        .find_map(|part| Some((part.file_name()?.to_string_lossy().into_owned(), user_of(dev_of(&part)?)?)));
    partition.map(|(name, by)| format!("its partition {name} is in use: {by}"))
}

/// Where a filesystem of this device is mounted in our view. btrfs shows a device number of its own, so the source counts too.
fn mounted_at(dev: Dev) -> Option<String> {
    let number = format!("{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(2);
        let (found, at) = (mount.next()?, mount.nth(1)?);
        let source = filesystem.split(' ').nth(1)?;
        (found == number || rdev_of(Path::new(source)) == Some(dev)).then(|| at.to_owned())
    })
}

fn swaps() -> Vec<Dev> {
    let text = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    text.lines().filter_map(|line| rdev_of(Path::new(line.split_whitespace().next()?))).collect()
}

fn rdev_of(path: &Path) -> Option<Dev> {
    let found = path.is_absolute().then(|| std::fs::metadata(path).ok()).flatten()?;
    std::os::unix::fs::FileTypeExt::is_block_device(&found.file_type()).then(|| found.rdev())
}

/// What is below a device when that is memory.
fn memory_below(device: &Path, layers: u32) -> Option<&'static str> {
    let disk = if device.join("partition").exists() { device.parent()? } else { device };
    let name = disk.file_name()?.to_str()?;
    let numbered = |prefix| name.strip_prefix(prefix).is_some_and(|rest| rest.parse::<u32>().is_ok());
    if numbered("ram") {
        return Some("a RAM disk");
    }
    if numbered("zram") {
        return Some("zram");
    }
    if let Ok(backing) = std::fs::read_to_string(disk.join("loop/backing_file")) {
        return memory_of(Path::new(backing.trim_end()));
    }
    let below = layers.checked_sub(1)?;
    names_in(&disk.join("slaves"))
        .filter_map(|name| std::fs::canonicalize(disk.join("slaves").join(name)).ok())
        .find_map(|slave| memory_below(&slave, below))
}

/// The directory that tells about a device.
fn sysfs(dev: Dev) -> Option<PathBuf> {
    let link = format!("/sys/dev/block/{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev));
    std::fs::canonicalize(link).ok()
}

fn dev_of(sysfs: &Path) -> Option<Dev> {
    let text = std::fs::read_to_string(sysfs.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

fn names_in(directory: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}
