//! First copies and changes on real filesystems.

use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use ids::{Lsn, Oid, VolumeId};
use rustix::fs::OFlags;

use super::{all_labels, pass, suspects};
use crate::attributes::ObjectKind;
use crate::base::Base;
use crate::base::tests::room::{NOW, point};
use crate::base::tests::{FILESYSTEMS, Image};
use crate::executor::base_tree::BaseTree;
use crate::name::NameRef;
use crate::op::{Displaced, Operation, Other};
use crate::oracle::MemoryLog;
use crate::resync::install::NoPayload;
use crate::resync::{capture, install_names};
use crate::view::BaseReader;

const VOLUME: VolumeId = VolumeId([9; 16]);
const SPARSE_BYTES: u64 = 40 << 20;

pub(crate) fn fill(root: &Path) {
    std::fs::create_dir_all(root.join("a/b/c")).expect("makes");
    std::fs::write(root.join("a/one"), vec![7; 300_000]).expect("writes");
    std::fs::hard_link(root.join("a/one"), root.join("a/b/again")).expect("links");
    symlink("nowhere", root.join("a/link")).expect("links");
    std::fs::write(root.join("a/b/c/empty"), b"").expect("writes");
    let sparse = std::fs::File::create(root.join("sparse")).expect("creates");
    sparse.set_len(SPARSE_BYTES).expect("grows");
    sparse.write_all_at(&[3; 70_000], 20 << 20).expect("writes");
    let path = |name: &str| root.join(name);
    rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, 0o640.into(), 0)
        .expect("makes");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("null"),
        rustix::fs::FileType::CharacterDevice,
        0o666.into(),
        0x103,
    )
    .expect("makes");
    let xattrs = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(path("a/one"), "user.k", b"value", xattrs).expect("sets");
    rustix::fs::setxattr(path("a"), "user.d", b"", xattrs).expect("sets");
    std::os::unix::fs::chown(path("a/b"), Some(12), Some(34)).expect("changes the owner");
    rustix::fs::chmod(path("a/one"), 0o4751.into()).expect("changes the mode");
}

fn shown(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(at) = waiting.pop() {
        let meta = std::fs::symlink_metadata(&at).expect("stats");
        let content = match meta.file_type() {
            kind if kind.is_file() => {
                format!("{:x}", super::content::digest(&std::fs::read(&at).expect("reads")))
            }
            kind if kind.is_symlink() => format!("{:?}", std::fs::read_link(&at).expect("reads")),
            _ => format!("{}", meta.rdev()),
        };
        let mut names = vec![0; 4096];
        let len = rustix::fs::llistxattr(&at, &mut names[..]).expect("lists");
        let mut names: Vec<&[u8]> =
            names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        let size = if meta.is_dir() { 0 } else { meta.size() };
        let links = if meta.is_dir() { 0 } else { meta.nlink() };
        let name = at.strip_prefix(root).expect("is below").display().to_string();
        if !name.is_empty() {
            let owner = (meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec());
            lines.push(format!("{name} {:o} {owner:?} {size} {links} {content} {names:?}", meta.mode()));
        }
        if meta.is_dir() {
            for entry in std::fs::read_dir(&at).expect("lists") {
                let path = entry.expect("lists").path();
                if !path.ends_with(".twinfiler") && !path.ends_with("lost+found") {
                    waiting.push(path);
                }
            }
        }
    }
    lines.sort_unstable();
    lines
}

pub(crate) fn site(base: &Base) -> BaseTree<'_, NoPayload> {
    BaseTree::new(base, &NoPayload)
}

#[test]
fn a_first_copy_and_then_a_small_change_on_real_filesystems() {
    for filesystem in FILESYSTEMS {
        let image = Image::new(filesystem);
        let (from, to) = (image.directory("from"), image.directory("to"));
        fill(&from);
        std::fs::create_dir_all(to.join("a/other/below")).expect("makes");
        std::fs::write(to.join("a/other/below/file"), "not at the source").expect("writes");
        symlink("elsewhere", to.join("sparse")).expect("links");
        let (source, _) = Base::adopt(&from, VOLUME).expect("adopts");
        let (mut receiver, _) = Base::adopt(&to, VOLUME).expect("adopts");
        let flush = || receiver.sync().expect("syncs");
        let sent = pass(&site(&source), &site(&receiver), Lsn::ZERO, &flush).expect(filesystem);
        assert!((370_000..600_000).contains(&sent), "{filesystem}: {sent} bytes of content");
        assert_eq!(shown(&from), shown(&to), "{filesystem}");
        assert!(
            std::fs::metadata(to.join("sparse")).expect("stats").blocks() < 1000,
            "{filesystem}: holes stay holes"
        );
        assert_eq!(all_labels(&site(&source)), all_labels(&site(&receiver)), "{filesystem}");
        assert_eq!(
            std::fs::read_dir(to.join(".twinfiler/staging")).expect("lists").count(),
            0,
            "{filesystem}"
        );

        // As a consistency point would change it: content, a hole, a name, and the labels of both.
        let changed = std::fs::OpenOptions::new().write(true).open(from.join("sparse")).expect("opens");
        changed.write_all_at(&[4; 1000], (20 << 20) + 5).expect("writes");
        changed.write_all_at(&[5; 1000], 1 << 20).expect("writes");
        changed.set_len(SPARSE_BYTES + 7).expect("grows");
        std::fs::rename(from.join("a/b/again"), from.join("moved")).expect("renames");
        for name in ["", "a/b", "sparse", "a/one"] {
            let mut label = [0; crate::base::LABEL_BYTES];
            rustix::fs::getxattr(from.join(name), crate::base::LABEL_XATTR, &mut label[..]).expect("reads");
            label[40..48].copy_from_slice(&64_u64.to_le_bytes());
            rustix::fs::setxattr(
                from.join(name),
                crate::base::LABEL_XATTR,
                &label,
                rustix::fs::XattrFlags::empty(),
            )
            .expect("labels");
        }
        // The receiver starts anew, without its index.
        drop(receiver);
        std::fs::remove_file(to.join(".twinfiler/index.redb")).expect("removes");
        receiver = Base::open(&to, VOLUME).expect("opens");
        crate::resync::reindex(&receiver).expect("walks");
        assert_eq!(suspects(&site(&source), &site(&receiver), Lsn(64)).len(), 4, "{filesystem}");
        let flush = || receiver.sync().expect("syncs");
        let sent = pass(&site(&source), &site(&receiver), Lsn(64), &flush).expect(filesystem);
        assert!(sent <= 300_000, "{filesystem}: {sent} bytes for a small change");
        assert_eq!(shown(&from), shown(&to), "{filesystem}");
        assert!(suspects(&site(&source), &site(&receiver), Lsn(65)).is_empty());
    }
}

/// Deeper than any path can be told: made, as clients make it, through directories that are open.
#[test]
fn a_directory_with_an_endless_path_is_moved() {
    const LEVELS: usize = 18;
    for filesystem in FILESYSTEMS {
        let image = Image::new(filesystem);
        let [from, to] = ["from", "to"].map(|name| image.directory(name));
        let name = "d".repeat(250);
        for root in [&from, &to] {
            let mut at = std::fs::File::open(root).expect("opens");
            for level in 0..=LEVELS {
                let name = if level < LEVELS { &name } else { "x" };
                rustix::fs::mkdirat(&at, name, 0o755.into()).expect("makes");
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                at = rustix::fs::openat(&at, name, flags, 0.into()).expect("opens").into();
            }
        }
        let (source, _) = Base::adopt(&from, VOLUME).expect("adopts");
        let (receiver, _) = Base::adopt(&to, VOLUME).expect("adopts");
        let (x, log) = (Oid(Oid::FIRST_FREE.0 + LEVELS as u64), MemoryLog::default());
        let lowest = Oid(x.0 - 1);
        let moved = Operation::Rename {
            from_parent: lowest,
            from_name: NameRef::new(b"x").expect("a name"),
            to_parent: Oid::ROOT,
            to_name: NameRef::new(b"x").expect("a name"),
            moved: Other { oid: x, kind: ObjectKind::Directory, nlink: 2 },
            displaced: Displaced::Nothing,
            whiteout: None,
            from_parent_nlink: 2,
            to_parent_nlink: 4,
            at: NOW,
        };
        point(&source, &log, &[(moved, &[])]);
        assert!(from.join("x").is_dir(), "{filesystem}");
        // Not of the directory that it leaves, which the source describes later.
        let survey: Vec<_> =
            [Oid::ROOT, x].iter().map(|oid| capture(&source, *oid, &mut 9).expect("reads")).collect();
        install_names(&receiver, &survey).expect(filesystem);
        assert!(to.join("x").is_dir(), "{filesystem}");
        assert_eq!(BaseReader::parent(&receiver, x).expect("is there"), Oid::ROOT, "{filesystem}");
    }
}
