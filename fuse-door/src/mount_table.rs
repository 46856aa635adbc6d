//! The kernel's table of mounts (mountinfo, proc(5)): what is mounted where, without asking any filesystem, for one that
//! stands still never answers.

use std::path::Path;

pub(super) const TABLE: &str = "/proc/self/mountinfo";

/// One line of the table.
#[derive(Debug)]
pub(super) struct Mount<'a> {
    id: u32,
    parent: u32,
    pub device: u64,
    place: Vec<u8>,
    options: &'a str,
    pub kind: &'a str,
    /// What is mounted, in the words of who did it.
    pub source: Vec<u8>,
    super_options: &'a str,
}

impl Mount<'_> {
    /// Refuses writers, in this place or everywhere.
    pub fn is_read_only(&self) -> bool {
        [self.options, self.super_options]
            .iter()
            .any(|options| options.split(',').any(|option| option == "ro"))
    }

    fn is_at(&self, place: &Path) -> bool {
        self.place == place.as_os_str().as_encoded_bytes()
    }

    /// Would a path that leads to `place` lead over the root of this mount?
    fn is_on_the_way_to(&self, place: &[u8]) -> bool {
        match place.strip_prefix(self.place.as_slice()) {
            Some(rest) => rest.is_empty() || rest.starts_with(b"/") || self.place == b"/",
            None => false,
        }
    }
}

/// The table as it was at one moment.
#[derive(Debug)]
pub(super) struct MountTable(String);

impl MountTable {
    pub fn read() -> std::io::Result<MountTable> {
        std::fs::read_to_string(TABLE).map(MountTable)
    }

    /// The mount of this device at `mountpoint`, perhaps under something else.
    pub fn find(&self, mountpoint: &Path, device: u64) -> Option<Mount<'_>> {
        self.mounts().find(|mount| mount.device == device && mount.is_at(mountpoint))
    }

    /// What a path to `mount` leads to instead: something mounted over it, or over a directory above it.
    pub fn hides(&self, mount: &Mount<'_>) -> Option<Mount<'_>> {
        let mut way = vec![mount.id];
        let mut parent = mount.parent;
        while !way.contains(&parent) {
            way.push(parent);
            let Some(above) = self.mounts().find(|other| other.id == parent) else { break };
            parent = above.parent;
        }
        self.mounts().find(|other| {
            !way.contains(&other.id) && way.contains(&other.parent) && other.is_on_the_way_to(&mount.place)
        })
    }

    fn mounts(&self) -> impl DoubleEndedIterator<Item = Mount<'_>> {
        self.0.lines().filter_map(parse)
    }
}

/// Device number of what is mounted last at `mountpoint`.
pub(super) fn mounted_device(mountpoint: &Path) -> Option<u64> {
    topmost_mount(mountpoint).map(|(device, _)| device)
}

/// Device number and type of what is mounted last at `mountpoint`.
pub(super) fn topmost_mount(mountpoint: &Path) -> Option<(u64, String)> {
    let table = MountTable::read().ok()?;
    let topmost = table.mounts().rev().find(|mount| mount.is_at(mountpoint))?;
    Some((topmost.device, topmost.kind.to_owned()))
}

fn parse(line: &str) -> Option<Mount<'_>> {
    let (fields, filesystem) = line.split_once(" - ")?;
    let mut fields = fields.split(' ');
    let id = fields.next()?.parse().ok()?;
    let parent = fields.next()?.parse().ok()?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let place = unescape(fields.nth(1)?);
    let options = fields.next()?;
    let mut filesystem = filesystem.split(' ');
    Some(Mount {
        id,
        parent,
        device: libc::makedev(major.parse().ok()?, minor.parse().ok()?),
        place,
        options,
        kind: filesystem.next()?,
        source: unescape(filesystem.next()?),
        super_options: filesystem.next().unwrap_or_default(),
    })
}

/// The table writes blanks, tabs, newlines and backslashes as three octal digits.
fn unescape(field: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| first == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_blanks_are_found_in_the_kernel_table() {
        assert_eq!(unescape(r"/a\040b\134c"), b"/a b\\c");
        assert_eq!(unescape(r"/a\04"), br"/a\04");
        assert!(mounted_device(Path::new("/proc")).is_some());
        assert_eq!(mounted_device(Path::new("/no/such/mount")), None);
    }

    /// What hides the volume of device 0:50 at `/srv/vol` among these mounts.
    fn hides(others: &str) -> Option<String> {
        let volume = "90 60 0:50 / /srv/vol rw,noatime shared:7 - fuse.twinfiler twinfiler:v rw,user_id=0\n";
        let root = "1 0 8:1 / / rw - ext4 /dev/a rw\n60 1 8:2 / /srv rw - xfs /dev/b rw\n";
        let table = MountTable(format!("{root}{volume}{others}"));
        let volume = table.find(Path::new("/srv/vol"), libc::makedev(0, 50)).unwrap();
        table.hides(&volume).map(|other| other.kind.to_owned())
    }

    #[test]
    fn what_hides_a_mount_is_found() {
        assert_eq!(hides(""), None);
        assert_eq!(hides("91 90 0:51 / /srv/vol rw - tmpfs none rw\n").as_deref(), Some("tmpfs"), "over it");
        assert_eq!(
            hides("91 60 0:51 / /srv rw - tmpfs none rw\n").as_deref(),
            Some("tmpfs"),
            "over its parent"
        );
        assert_eq!(hides("91 1 0:51 / / rw - tmpfs none rw\n").as_deref(), Some("tmpfs"), "over the root");
        assert_eq!(hides("91 90 0:51 / /srv/vol/sub rw - tmpfs none rw\n"), None, "in it");
        assert_eq!(hides("91 60 0:51 / /srv/volume rw - tmpfs none rw\n"), None, "beside it");
        assert_eq!(hides("91 92 0:51 / /srv/vol rw - tmpfs none rw\n"), None, "in what is not on the way");
    }

    #[test]
    fn read_only_may_be_the_mount_or_the_filesystem() {
        let read_only = |line| parse(line).unwrap().is_read_only();
        assert!(!read_only("9 1 0:5 / /v rw,noatime - fuse.twinfiler twinfiler:ro rw,user_id=0"));
        assert!(read_only("9 1 0:5 / /v ro,noatime - fuse.twinfiler twinfiler:v rw,user_id=0"));
        assert!(read_only("9 1 0:5 / /v rw,noatime - fuse.twinfiler twinfiler:v ro,user_id=0"));
    }
}
