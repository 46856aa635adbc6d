//! The volume over a real base directory and a log in memory that commits at once.

mod bases;
mod contents;
mod differential;
mod directories;
mod disks;
mod full;
mod gates;
mod names;
mod ownership;

use super::solo::Solo;
use super::*;
use tempfile::TempDir;

/// Log of a test: small, so that large writes are split.
const LOG_BYTES: u64 = 4 << 20;

struct Fixture {
    solo: Solo,
    dir: TempDir,
}

impl std::ops::Deref for Fixture {
    type Target = Volume;
    fn deref(&self) -> &Volume {
        &self.solo.volume
    }
}

fn volume_id() -> ids::VolumeId {
    ids::VolumeId([7; 16])
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let solo = Solo::start(dir.path(), volume_id(), LOG_BYTES, None).unwrap();
    Fixture { solo, dir }
}

impl Fixture {
    fn checkpoint(&self) {
        self.solo.checkpoint().unwrap();
    }

    fn file(&self, name: &str) -> Oid {
        self.node(Oid::ROOT, name, NodeKind::File).unwrap().oid
    }

    fn directory(&self, name: &str) -> Oid {
        self.node(Oid::ROOT, name, NodeKind::Directory).unwrap().oid
    }

    fn node(&self, parent: Oid, name: &str, kind: NodeKind<'_>) -> Result<Attributes> {
        let mode = if kind == NodeKind::Directory { 0o777 } else { 0o666 };
        self.create(&Root, parent, name.as_bytes(), Node { kind, mode, umask: 0o022, open: false })
    }

    fn put(&self, oid: Oid, offset: u64, data: &[u8]) {
        assert_eq!(self.write(oid, WriteAt::Offset(offset), data, None), Ok(data.len()));
    }

    fn get(&self, oid: Oid) -> Vec<u8> {
        let mut data = vec![0xEE; self.getattr(oid).unwrap().size as usize];
        assert_eq!(self.read(oid, 0, &mut data), Ok(data.len()));
        data
    }

    fn names(&self, oid: Oid) -> Vec<String> {
        let stream = self.open_directory(oid).unwrap();
        let mut names = Vec::new();
        self.read_directory(&stream, 0, |entry| {
            names.push(String::from_utf8(entry.name.to_vec()).unwrap());
            false
        })
        .unwrap();
        self.close_directory(&stream);
        names.sort();
        names
    }

    fn mode(&self, oid: Oid) -> u32 {
        self.getattr(oid).unwrap().mode
    }
}

/// Somebody without any privilege.
#[derive(Clone, Copy)]
struct Nobody;

impl Principal for Nobody {
    fn uid(&self) -> u32 {
        65_534
    }
    fn gid(&self) -> u32 {
        65_534
    }
    fn keeps_set_ids(&self) -> bool {
        false
    }
    fn in_group(&self, gid: u32) -> bool {
        gid == 65_534
    }
    fn sees_trusted(&self) -> bool {
        false
    }
    fn acts_as_owner(&self) -> bool {
        false
    }
}
