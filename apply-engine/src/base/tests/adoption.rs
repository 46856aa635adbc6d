//! Taking over a tree that exists.

use super::{FILESYSTEMS, Image};
use crate::base::{AdoptReport, Base, LABEL_XATTR, OpenError};
use crate::name::NameRef;
use crate::view::BaseReader;
use ids::{Oid, VolumeId};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

const VOLUME: VolumeId = VolumeId([9; 16]);

fn fill(root: &Path) {
    let script = r#"
        mkdir -p a/b/c d && echo one > a/one && echo two > a/b/two && ln a/one d/also-one && ln a/one third
        ln -s nowhere a/symlink && mkfifo a/fifo && mknod a/null c 1 3 && chown 1000:1001 a/b/two
        chmod 4755 a/b/two && touch -d '2001-02-03 04:05:06.789' a/b/two a/b d && setfattr -n user.k -v v a/one
        python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("a/socket")'
    "#;
    let output = Command::new("sh").args(["-ec", script]).current_dir(root).output().expect("sh runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Everything that adoption must not change.
fn look(root: &Path) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let stat = path.symlink_metadata().expect("stats");
        let times = (stat.atime(), stat.atime_nsec(), stat.mtime(), stat.mtime_nsec());
        let size = if stat.is_dir() { 0 } else { stat.size() };
        let about =
            format!("{:o} {} {} {size} {times:?} {}", stat.mode(), stat.uid(), stat.gid(), stat.rdev());
        seen.insert(path.display().to_string(), about);
        if stat.is_dir() {
            let children =
                std::fs::read_dir(&path).expect("lists").map(|entry| entry.expect("an entry").path());
            waiting.extend(children.filter(|child| !child.ends_with(".twinfiler")));
        }
    }
    seen
}

fn resolve(base: &Base, path: &str) -> Oid {
    path.split('/').fold(Oid::ROOT, |parent, name| {
        let name = NameRef::new(name.as_bytes()).expect("legal");
        base.lookup(parent, name).expect("looks").unwrap_or_else(|| panic!("no {path}")).oid
    })
}

#[test]
fn every_object_gets_an_identity_and_nothing_else_changes() {
    for filesystem in FILESYSTEMS {
        let image = Image::new(filesystem);
        let path = image.directory("volume");
        fill(&path);
        look(&path);
        // Listing has moved the directories' atimes; what counts is from here on.
        let before = look(&path);
        let (base, report) = Base::adopt(&path, VOLUME).expect("adopts");
        assert_eq!(look(&path), before, "{filesystem}");
        assert_eq!(report, AdoptReport { objects: 11, directories: 5, extra_links: 2 }, "{filesystem}");

        let one = resolve(&base, "a/one");
        assert_eq!((resolve(&base, "third"), resolve(&base, "d/also-one")), (one, one), "{filesystem}");
        let attributes = base.attributes(one).expect("stats");
        assert_eq!((attributes.nlink, attributes.size), (3, 4));
        assert_eq!(base.xattr_names(one).expect("lists"), [b"user.k".to_vec()], "the label is hidden");
        assert_eq!(base.xattr(one, LABEL_XATTR.as_bytes()).expect("reads"), None);
        assert_eq!(base.readlink(resolve(&base, "a/symlink")).expect("reads"), b"nowhere");
        assert_eq!(base.attributes(resolve(&base, "a/null")).expect("stats").rdev, 0x103);
        assert_eq!(base.attributes(resolve(&base, "a")).expect("stats").nlink, 3);
        assert_eq!(base.parent(resolve(&base, "a/b")).expect("stats"), resolve(&base, "a"));
        let two = base.attributes(resolve(&base, "a/b/two")).expect("stats");
        assert_eq!((two.mode, two.uid, two.gid, two.mtime.nanos), (0o4755, 1000, 1001, 789_000_000));
        assert!(two.ctime.secs > two.mtime.secs);
        let mut bytes = [0; 16];
        assert_eq!(base.read_at(one, 1, &mut bytes).expect("reads"), 3);
        assert_eq!(&bytes[..3], b"ne\n");
        drop(base);

        // The same OIDs, without the index too.
        image.remount();
        std::fs::remove_file(path.join(".twinfiler/index.redb")).expect("removes");
        let base = Base::open(&path, VOLUME).expect("opens");
        assert_eq!(base.attributes(one).expect("stats"), attributes, "{filesystem}");
        assert_eq!(base.object_count().expect("counts"), report.objects);
        assert_eq!(resolve(&base, "third"), one);
    }
}

#[test]
fn an_interrupted_adoption_goes_on() {
    let image = Image::new("ext4");
    let path = image.directory("volume");
    fill(&path);
    let (base, report) = Base::adopt(&path, VOLUME).expect("adopts");
    let (one, next) = (resolve(&base, "a/one"), base.next_oid());
    drop(base);
    // As if it had stopped before its last step, and one object had lost its label.
    let label = path.join(".twinfiler/label");
    let text = std::fs::read_to_string(&label).expect("reads");
    std::fs::write(&label, text.replace("complete", "adopting")).expect("writes");
    rustix::fs::lremovexattr(path.join("a/symlink"), LABEL_XATTR).expect("removes");
    assert!(matches!(Base::open(&path, VOLUME), Err(OpenError::HalfAdopted { .. })));
    let (base, again) = Base::adopt(&path, VOLUME).expect("goes on");
    assert_eq!(again, report);
    assert_eq!((resolve(&base, "a/one"), resolve(&base, "third")), (one, one));
    assert_eq!(resolve(&base, "a/symlink"), next, "a new object id, none twice");
    assert_eq!(base.attributes(one).expect("stats").nlink, 3);
}

#[test]
fn mount_points_and_foreign_labels_are_refused_before_anything_is_written() {
    let image = Image::new("ext4");
    let path = image.directory("volume");
    let inside = path.join("inside");
    std::fs::create_dir(&inside).expect("makes");
    let status =
        Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&inside).status().expect("mount runs");
    assert!(status.success());
    let refused = Base::adopt(&path, VOLUME);
    let status = Command::new("umount").arg(&inside).status().expect("umount runs");
    assert!(status.success());
    assert!(matches!(refused, Err(OpenError::MountPoint { path }) if path.ends_with("inside")));
    assert!(!path.join(".twinfiler").exists());

    let other = image.directory("other");
    drop(Base::adopt(&path, VOLUME).expect("adopts"));
    std::fs::rename(&inside, other.join("stray")).expect("renames");
    assert!(matches!(Base::adopt(&other, VOLUME), Err(OpenError::AlreadyLabelled { .. })));
    assert!(!other.join(".twinfiler").exists());
}

/// XFS takes more of them than the kernel lists.
#[test]
fn xattrs_that_nobody_can_list_are_refused_before_anything_is_written() {
    let image = Image::new("xfs");
    let path = image.directory("volume");
    let file = path.join("much");
    std::fs::write(&file, "content").expect("writes");
    let set = |number: usize| {
        let name = format!("user.{number:0250}");
        rustix::fs::setxattr(&file, name, b"", rustix::fs::XattrFlags::empty()).expect("sets");
    };
    // With the terminating zeros 255 whole names are 64 KiB less 256 bytes: the label's own has room beside them.
    (0..255).for_each(set);
    Base::adopt(&path, VOLUME).expect("adopts");
    let path = image.directory("another");
    std::fs::rename(&file, path.join("much")).expect("renames");
    let file = path.join("much");
    rustix::fs::removexattr(&file, LABEL_XATTR).expect("removes");
    for number in [255, 256] {
        let name = format!("user.{number:0250}");
        rustix::fs::setxattr(&file, name, b"", rustix::fs::XattrFlags::empty()).expect("sets");
    }
    let refused = Base::adopt(&path, VOLUME).expect_err("it cannot be listed");
    assert!(matches!(&refused, OpenError::XattrList { path } if path.ends_with("much")), "{refused}");
    assert!(!path.join(".twinfiler").exists(), "nothing was written");
}
