//! The archive that a kernel unpacks as its first root: cpio in its "newc" form (kernel documentation,
//! `driver-api/early-userspace/buffer-format.rst`). Only what our guests need: directories and regular files.

/// Mode bits of a directory and of a regular file.
const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_000;

/// An archive in the making.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory. Its parent must be there already.
    pub fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY, &[]);
    }

    /// Adds a file with these permissions.
    pub fn file(&mut self, name: &str, permissions: u32, contents: &[u8]) {
        self.entry(name, FILE | permissions, contents);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(contents.len()).expect("files of a first root are smaller than 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("names are short");
        let links = 1;
        // inode, mode, uid, gid, links, mtime, size, device major and minor, rdev major and minor, name size, check
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    /// Names and contents end on a multiple of four bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn an_entry_has_the_documented_form() {
        let mut archive = Archive::default();
        archive.file("init", 0o755, b"hello");
        let bytes = archive.finish();
        let header = "070701000000010000\
                      81ed00000000000000000000000100000000000000050000000000000000000000000000000000000005000000\
                      00";
        assert_eq!(&bytes[..110], header.replace(' ', "").as_bytes());
        assert_eq!(&bytes[110..116], b"init\0\0".get(..6).unwrap());
        assert_eq!(&bytes[116..124], b"hello\0\0\0");
        assert_eq!(bytes.len() % 4, 0);
    }

    /// busybox is one of the harness's own needs; a build machine may lack it.
    #[test]
    fn busybox_unpacks_what_we_pack() {
        let target = tempfile::tempdir().unwrap();
        let unpack = Command::new("busybox")
            .args(["cpio", "-i", "-d"])
            .current_dir(target.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut unpack) = unpack else { return };
        let mut archive = Archive::default();
        archive.directory("bin");
        archive.file("bin/tool", 0o755, &[7; 1001]);
        archive.file("empty", 0o644, b"");
        unpack.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        assert!(unpack.wait().unwrap().success());
        assert_eq!(std::fs::read(target.path().join("bin/tool")).unwrap(), [7; 1001]);
        assert_eq!(std::fs::read(target.path().join("empty")).unwrap(), b"");
    }
}
