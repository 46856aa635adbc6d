//! Names, links, open objects without a name.

use super::*;

#[test]
fn an_open_file_lives_without_a_name_until_it_is_closed() {
    let v = fixture();
    let oid = v.file("f");
    v.put(oid, 0, b"still here");
    v.open(oid, Access::Read).unwrap();
    v.open(oid, Access::Read).unwrap();
    v.unlink(Oid::ROOT, b"f").unwrap();
    assert_eq!(v.lookup(Oid::ROOT, b"f"), Err(Errno::ENOENT));
    v.checkpoint();
    assert_eq!(v.get(oid), b"still here");
    assert_eq!(v.getattr(oid).unwrap().nlink, 0);
    assert_eq!(v.link(oid, Oid::ROOT, b"again"), Err(Errno::ENOENT));
    v.release(oid, Access::Read);
    v.put(oid, 0, b"S");
    v.release(oid, Access::Read);
    assert_eq!(v.open(oid, Access::Read), Err(Errno::ESTALE));
    v.checkpoint();
    assert_eq!(std::fs::read_dir(v.dir.path().join(".twinfiler/orphans")).unwrap().count(), 0);
}

#[test]
fn orphans_of_an_earlier_primary_are_ended() {
    let dir = tempfile::tempdir().unwrap();
    let solo = Solo::start(dir.path(), volume_id(), LOG_BYTES, None).unwrap();
    let node = Node { kind: NodeKind::File, mode: 0o600, umask: 0, open: true };
    let oid = solo.volume.create(&Root, Oid::ROOT, b"f", node).unwrap().oid;
    solo.volume.unlink(Oid::ROOT, b"f").unwrap();
    // It dies with the file open.
    drop(solo);
    let orphans = dir.path().join(".twinfiler/orphans");
    assert_eq!(std::fs::read_dir(&orphans).unwrap().count(), 1);
    let solo = Solo::start(dir.path(), volume_id(), LOG_BYTES, None).unwrap();
    assert_eq!(solo.volume.open(oid, Access::Read), Err(Errno::ESTALE));
    assert!(solo.volume.next_oid() > oid, "an OID is never given again");
    drop(solo);
    assert_eq!(std::fs::read_dir(&orphans).unwrap().count(), 0);
}

/// Its disk hung until the node served again, by another volume that knows who has the object open.
#[test]
fn a_volume_that_was_left_changes_nothing() {
    let v = fixture();
    let oid = v.file("f");
    v.open(oid, Access::Read).unwrap();
    v.unlink(Oid::ROOT, b"f").unwrap();
    let left = Volume::new(v.stack.clone(), v.journal.clone(), v.limits, v.next_oid());
    let orphans = || v.stack.snapshot().orphans().unwrap();
    left.leave();
    assert_eq!(left.reap_orphans(), Err(Errno::ESHUTDOWN));
    assert_eq!(orphans(), [oid], "its client has it still");
    v.file("g");
    assert_eq!(left.unlink(Oid::ROOT, b"g"), Err(Errno::ESHUTDOWN));
    assert_eq!(v.unlink(Oid::ROOT, b"g"), Ok(()));
}

#[test]
fn a_removed_directory_can_still_be_asked_and_listed() {
    let v = fixture();
    let oid = v.directory("d");
    let stream = v.open_directory(oid).unwrap();
    v.rmdir(Oid::ROOT, b"d").unwrap();
    assert_eq!(v.node(oid, "x", NodeKind::File).map(|a| a.oid), Err(Errno::ENOENT));
    let mut names = Vec::new();
    v.read_directory(&stream, 0, |entry| {
        names.push(entry.name.to_vec());
        false
    })
    .unwrap();
    assert_eq!(names, [b".".to_vec(), b"..".to_vec()]);
    v.close_directory(&stream);
    assert_eq!(v.getattr(oid).map(|a| a.nlink), Ok(0));
    v.forget(oid);
    assert_eq!(v.getattr(oid), Err(Errno::ESTALE));
}

#[test]
fn a_rewound_directory_shows_what_is_new() {
    let v = fixture();
    let dir = v.directory("d");
    let stream = v.open_directory(dir).unwrap();
    let count = || {
        let mut count = 0;
        v.read_directory(&stream, 0, |_| {
            count += 1;
            false
        })
        .unwrap();
        count
    };
    assert_eq!(count(), 2);
    v.node(dir, "x", NodeKind::File).unwrap();
    assert_eq!(count(), 3);
    v.close_directory(&stream);
}

#[test]
fn the_bases_own_names_are_not_there() {
    let v = fixture();
    for name in [".twinfiler", "lost+found"] {
        assert_eq!(v.lookup(Oid::ROOT, name.as_bytes()), Err(Errno::ENOENT));
        assert_eq!(v.node(Oid::ROOT, name, NodeKind::Directory).map(|a| a.oid), Err(Errno::EPERM));
        assert_eq!(v.rmdir(Oid::ROOT, name.as_bytes()), Err(Errno::ENOENT));
        let file = v.file("f");
        assert_eq!(v.link(file, Oid::ROOT, name.as_bytes()), Err(Errno::EPERM));
        let ends = ((Oid::ROOT, &b"f"[..]), (Oid::ROOT, name.as_bytes()));
        assert_eq!(v.rename(&Root, ends.0, ends.1, RenameMode::Replace), Err(Errno::EPERM));
        v.unlink(Oid::ROOT, b"f").unwrap();
    }
    let below = v.directory("d");
    assert!(v.node(below, ".twinfiler", NodeKind::File).is_ok(), "only the root has them");
    assert_eq!(v.names(Oid::ROOT), [".", "..", "d"]);
}

#[test]
fn link_counts_stop_where_the_base_stops() {
    let mut v = fixture();
    let oid = v.file("f");
    Arc::get_mut(&mut v.solo.volume).unwrap().limits.max_links = 2;
    v.link(oid, Oid::ROOT, b"g").unwrap();
    assert_eq!(v.link(oid, Oid::ROOT, b"h"), Err(Errno::EMLINK));
    assert_eq!(v.getattr(oid).unwrap().nlink, 2);
}

#[test]
fn a_directory_never_comes_to_stand_below_itself() {
    let v = fixture();
    let a = v.directory("a");
    let b = v.node(a, "b", NodeKind::Directory).unwrap().oid;
    v.checkpoint();
    let c = v.node(b, "c", NodeKind::Directory).unwrap().oid;
    for to in [a, b, c] {
        let moved = v.rename(&Root, (Oid::ROOT, b"a"), (to, b"x"), RenameMode::Replace);
        assert_eq!(moved, Err(Errno::EINVAL));
    }
    let exchanged = v.rename(&Root, (b, b"c"), (Oid::ROOT, b"a"), RenameMode::Exchange);
    assert_eq!(exchanged, Err(Errno::EINVAL));
    v.node(b, "f", NodeKind::File).unwrap();
    for inside in [&b"c"[..], b"f"] {
        let replaced = v.rename(&Root, (b, inside), (Oid::ROOT, b"a"), RenameMode::Replace);
        assert_eq!(replaced, Err(Errno::ENOTEMPTY));
    }
}

#[test]
fn a_whiteout_stays_behind() {
    let v = fixture();
    let oid = v.file("f");
    v.rename(&Root, (Oid::ROOT, b"f"), (Oid::ROOT, b"g"), RenameMode::Whiteout).unwrap();
    assert_eq!(v.lookup(Oid::ROOT, b"g").unwrap().oid, oid);
    let whiteout = v.lookup(Oid::ROOT, b"f").unwrap();
    assert_eq!((whiteout.kind, whiteout.rdev), (apply_engine::ObjectKind::CharDevice, 0));
    v.checkpoint();
    assert_eq!(v.lookup(Oid::ROOT, b"f").unwrap().kind, apply_engine::ObjectKind::CharDevice);
}

#[test]
fn positions_in_a_listing_outlive_changes() {
    let v = fixture();
    let dir = v.directory("d");
    for i in 0..200 {
        v.node(dir, &format!("f{i}"), NodeKind::File).unwrap();
        if i == 100 {
            v.checkpoint();
        }
    }
    let stream = v.open_directory(dir).unwrap();
    let (mut seen, mut position) = (Vec::new(), 0);
    loop {
        let before = seen.len();
        v.read_directory(&stream, position, |entry| {
            if seen.len() - before == 7 {
                return true;
            }
            seen.push(String::from_utf8(entry.name.to_vec()).unwrap());
            position = entry.after;
            false
        })
        .unwrap();
        if seen.len() == before {
            break;
        }
        // Whoever removes what it has read must not make itself skip entries.
        for name in &seen[before..] {
            if name.starts_with('f') {
                v.unlink(dir, name.as_bytes()).unwrap();
            }
        }
    }
    assert_eq!(seen.len(), 202);
    assert_eq!(v.names(dir), [".", ".."]);
    v.close_directory(&stream);
}
