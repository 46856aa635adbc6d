//! Trees that somebody else has written, and what others than root can do to ours.

use super::Image;
use crate::base::{Base, EnclosureError, OpenError, check_enclosed};
use ids::VolumeId;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

const VOLUME: VolumeId = VolumeId([7; 16]);
const PRECIOUS: &str = "root's own";

/// Puts something into the hidden directory of a tree that is adopted then.
type Trap = fn(&Path, &Path);

fn mkdir(path: &Path, mode: u32) {
    std::fs::create_dir(path).expect("makes");
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("sets the mode");
}

/// What can be put there so that root, who follows it, writes somewhere else or lets somebody in.
const TRAPS: [(&str, Trap); 13] = [
    ("label.new leads elsewhere", |hidden, target| {
        mkdir(hidden, 0o700);
        symlink(target, hidden.join("label.new")).expect("links");
    }),
    ("label leads elsewhere", |hidden, target| {
        mkdir(hidden, 0o700);
        symlink(target, hidden.join("label")).expect("links");
    }),
    ("the index leads elsewhere", |hidden, target| {
        mkdir(hidden, 0o700);
        symlink(target, hidden.join("index.redb")).expect("links");
    }),
    ("the index is another name of something", |hidden, target| {
        mkdir(hidden, 0o700);
        std::fs::hard_link(target, hidden.join("index.redb")).expect("links");
    }),
    ("label.new is another name of something", |hidden, target| {
        mkdir(hidden, 0o700);
        std::fs::hard_link(target, hidden.join("label.new")).expect("links");
    }),
    ("label is a FIFO", |hidden, _| {
        mkdir(hidden, 0o700);
        let made = std::process::Command::new("mkfifo").arg(hidden.join("label")).status();
        assert!(made.is_ok_and(|status| status.success()));
    }),
    ("staging leads elsewhere", |hidden, target| {
        mkdir(hidden, 0o700);
        symlink(target.parent().expect("a parent"), hidden.join("staging")).expect("links");
    }),
    ("orphans is somebody else's", |hidden, _| {
        mkdir(hidden, 0o700);
        mkdir(&hidden.join("orphans"), 0o700);
        chown(hidden.join("orphans"), Some(1000), Some(1000)).expect("gives away");
    }),
    ("something waits in staging", |hidden, _| {
        mkdir(hidden, 0o700);
        mkdir(&hidden.join("staging"), 0o700);
        std::fs::write(hidden.join("staging/17"), "").expect("writes");
    }),
    ("salvage leads elsewhere", |hidden, target| {
        mkdir(hidden, 0o700);
        symlink(target.parent().expect("a parent"), hidden.join("salvage")).expect("links");
    }),
    ("the hidden directory leads elsewhere", |hidden, target| {
        symlink(target.parent().expect("a parent"), hidden).expect("links");
    }),
    ("the hidden directory is somebody else's", |hidden, _| {
        mkdir(hidden, 0o700);
        chown(hidden, Some(1000), Some(1000)).expect("gives away");
    }),
    ("the hidden directory is open", |hidden, _| mkdir(hidden, 0o755)),
];

#[test]
fn a_hostile_tree_makes_root_write_nowhere_else() {
    let image = Image::new("ext4");
    for (number, (what, trap)) in TRAPS.into_iter().enumerate() {
        let outside = image.directory(&format!("outside-{number}"));
        let target = outside.join("precious");
        std::fs::write(&target, PRECIOUS).expect("writes");
        let tree = image.directory(&format!("tree-{number}"));
        std::fs::write(tree.join("file"), "theirs").expect("writes");
        trap(&tree.join(".twinfiler"), &target);
        let adopted = Base::adopt(&tree, VOLUME).map(drop);
        assert_eq!(std::fs::read_to_string(&target).expect("reads"), PRECIOUS, "{what}");
        assert_eq!(std::fs::read_dir(&outside).expect("lists").count(), 1, "{what}");
        match adopted {
            Err(OpenError::NotOurs { path, .. }) => {
                assert!(path.starts_with(tree.join(".twinfiler")), "{what}")
            }
            other => panic!("{what}: {other:?}"),
        }
        let opened = Base::open(&tree, VOLUME).map(drop);
        assert!(opened.is_err(), "{what}");
    }
}

#[test]
fn links_put_into_a_volume_are_refused_at_start() {
    let image = Image::new("ext4");
    let path = image.directory("volume");
    drop(Base::create(&path, VOLUME).expect("creates"));
    let hidden = path.join(".twinfiler");
    let outside = image.directory("outside");
    for name in ["index.redb", "staging", "label", "salvage"] {
        let (place, away) = (hidden.join(name), hidden.join("away"));
        let was_there = std::fs::rename(&place, &away).is_ok();
        symlink(&outside, &place).expect("links");
        let refused = Base::open(&path, VOLUME).map(drop);
        assert!(matches!(refused, Err(OpenError::NotOurs { .. })), "{name}: {refused:?}");
        std::fs::remove_file(&place).expect("removes");
        if was_there {
            std::fs::rename(&away, &place).expect("renames");
        }
    }
    std::fs::set_permissions(&hidden, Permissions::from_mode(0o755)).expect("sets the mode");
    let refused = Base::open(&path, VOLUME).map(drop).expect_err("others may enter").to_string();
    assert!(refused.contains("chmod 700"), "{refused}");
    std::fs::set_permissions(&hidden, Permissions::from_mode(0o700)).expect("sets the mode");
    drop(Base::open(&path, VOLUME).expect("as it was"));
}

#[test]
fn a_tree_is_closed_by_a_directory_above_it() {
    let above = tempfile::tempdir().expect("a directory");
    let parent = above.path().join("parent");
    mkdir(&parent, 0o755);
    let tree = parent.join("tree");
    for exists in [false, true] {
        if exists {
            mkdir(&tree, 0o755);
        }
        for (outer, inner, closed) in [
            (0o755, 0o755, false),
            (0o700, 0o755, true),
            (0o755, 0o700, true),
            (0o711, 0o744, true),
            (0o755, 0o710, false),
        ] {
            std::fs::set_permissions(above.path(), Permissions::from_mode(outer)).expect("sets the mode");
            std::fs::set_permissions(&parent, Permissions::from_mode(inner)).expect("sets the mode");
            assert_eq!(check_enclosed(&tree).is_ok(), closed, "{outer:o} {inner:o}");
        }
    }
    // Its own mode is the volume's, and a directory of somebody else's keeps that one not out.
    std::fs::set_permissions(&parent, Permissions::from_mode(0o755)).expect("sets the mode");
    std::fs::set_permissions(&tree, Permissions::from_mode(0o700)).expect("sets the mode");
    assert!(matches!(check_enclosed(&tree), Err(EnclosureError::Open { .. })));
    std::fs::set_permissions(&parent, Permissions::from_mode(0o700)).expect("sets the mode");
    chown(&parent, Some(1000), Some(1000)).expect("gives away");
    let error = check_enclosed(&tree).expect_err("its owner walks in").to_string();
    assert!(error.contains(&format!("chmod 700 {}", parent.display())), "{error}");
}
