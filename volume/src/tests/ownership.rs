//! Modes, set-id bits, ACLs, xattrs.

use super::*;
use apply_engine::Timestamp;

fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

const NONE: u32 = u32::MAX;

fn named_user_acl() -> Vec<u8> {
    acl(&[(1, 7, NONE), (2, 6, 1000), (4, 5, NONE), (16, 7, NONE), (32, 1, NONE)])
}

fn chmod(v: &Fixture, oid: Oid, mode: u32) {
    v.setattr(&Root, oid, SetAttributes { mode: Some(mode), ..Default::default() }).unwrap();
}

#[test]
fn changes_of_contents_take_privileges_away() {
    let v = fixture();
    let oid = v.file("f");
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let arm = || {
        chmod(&v, oid, 0o6777);
        v.set_xattr(&Root, oid, b"security.capability", &capability, XattrMode::Set).unwrap();
    };
    let has_capability = || v.xattr(oid, b"security.capability").is_ok();
    arm();
    v.put(oid, 0, b"x");
    assert_eq!((v.mode(oid), has_capability()), (0o6777, false), "a privileged writer keeps set-id bits");
    arm();
    assert_eq!(v.write(oid, WriteAt::End, b"x", Some(&Nobody)), Ok(1));
    assert_eq!((v.mode(oid), has_capability()), (0o777, false));
    arm();
    v.setattr(&Nobody, oid, SetAttributes { size: Some(0), ..Default::default() }).unwrap();
    assert_eq!((v.mode(oid), has_capability()), (0o777, false));
    arm();
    v.setattr(&Root, oid, SetAttributes { uid: Some(1), ..Default::default() }).unwrap();
    assert_eq!((v.mode(oid), has_capability()), (0o777, false), "a new owner, even by root");
    chmod(&v, oid, 0o6767);
    assert_eq!(v.write(oid, WriteAt::End, b"x", Some(&Nobody)), Ok(1));
    assert_eq!(v.mode(oid), 0o767, "a stranger's write takes the mark without group execute, too");
    let gid = Some(65_534);
    v.setattr(&Root, oid, SetAttributes { gid, mode: Some(0o6767), ..Default::default() }).unwrap();
    v.open(oid, Access::Write).unwrap();
    let before_a_change = v.set_nothing(&Nobody, oid, None).unwrap().mode;
    assert_eq!(before_a_change, 0o2767, "it stays for members of the group");
    v.checkpoint();
    assert_eq!(v.mode(oid), 0o2767);
}

/// Applying it is a write like any other to the base, which takes them away there.
#[test]
fn capabilities_outlive_a_write_back_that_is_applied() {
    let v = fixture();
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let name = b"security.capability";
    let file = |name: &str| {
        let oid = v.file(name);
        v.open(oid, Access::Write).unwrap();
        oid
    };
    let with_a_time = |oid| {
        let mtime = Some(SetTime::To(Timestamp { secs: 5, nanos: 0 }));
        v.setattr(&Root, oid, SetAttributes { mtime, ..Default::default() }).unwrap();
    };
    let (known, forgotten) = (file("known"), file("forgotten"));
    for oid in [known, forgotten] {
        v.set_xattr(&Root, oid, name, &capability, XattrMode::Set).unwrap();
    }
    v.checkpoint();
    with_a_time(known);
    v.state.write().inodes.remove(&forgotten);
    for oid in [known, forgotten] {
        assert_eq!(v.write(oid, WriteAt::Cached(0), b"stored", None), Ok(6));
        assert_eq!(v.xattr(oid, name).as_deref(), Ok(&capability[..]));
    }
    v.checkpoint();
    v.state.write().inodes.clear();
    for oid in [known, forgotten] {
        assert_eq!((v.get(oid), v.xattr(oid, name)), (b"stored".to_vec(), Ok(capability.to_vec())));
    }
    assert_eq!(v.getattr(known).unwrap().mtime.secs, 5);
}

/// Nothing is known of it but what the base says.
#[test]
fn a_new_owner_takes_everything_at_once_from_what_was_never_looked_at() {
    let v = fixture();
    let oid = v.file("f");
    v.set_xattr(&Root, oid, super::super::acl::ACCESS, &named_user_acl(), XattrMode::Set).unwrap();
    chmod(&v, oid, 0o6777);
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    v.set_xattr(&Root, oid, b"security.capability", &capability, XattrMode::Set).unwrap();
    v.checkpoint();
    let acl = v.xattr(oid, super::super::acl::ACCESS);
    v.state.write().inodes.clear();
    let changed = v.setattr(&Root, oid, SetAttributes { uid: Some(1), ..Default::default() });
    assert_eq!(changed.map(|changed| (changed.mode, changed.uid)), Ok((0o777, 1)));
    assert_eq!(v.xattr(oid, b"security.capability"), Err(Errno::ENODATA));
    assert_eq!(v.xattr(oid, super::super::acl::ACCESS), acl);
}

#[test]
fn access_acl_and_mode_agree() {
    let v = fixture();
    let oid = v.file("f");
    v.set_xattr(&Root, oid, super::super::acl::ACCESS, &named_user_acl(), XattrMode::Set).unwrap();
    assert_eq!(v.mode(oid), 0o771);
    chmod(&v, oid, 0o640);
    let after = acl(&[(1, 6, NONE), (2, 6, 1000), (4, 5, NONE), (16, 4, NONE), (32, 0, NONE)]);
    assert_eq!(v.xattr(oid, super::super::acl::ACCESS), Ok(after.clone()));
    v.checkpoint();
    assert_eq!((v.mode(oid), v.xattr(oid, super::super::acl::ACCESS)), (0o640, Ok(after)));
    // An ACL that a mode can say is a mode.
    let plain = acl(&[(1, 6, NONE), (4, 6, NONE), (32, 6, NONE)]);
    v.set_xattr(&Root, oid, super::super::acl::ACCESS, &plain, XattrMode::Set).unwrap();
    assert_eq!(v.mode(oid), 0o666);
    assert_eq!(v.xattr(oid, super::super::acl::ACCESS), Err(Errno::ENODATA));
    v.checkpoint();
    assert_eq!(v.xattr(oid, super::super::acl::ACCESS), Err(Errno::ENODATA));
    let default = super::super::acl::DEFAULT;
    assert_eq!(v.set_xattr(&Root, oid, default, &named_user_acl(), XattrMode::Set), Err(Errno::EACCES));
}

#[test]
fn setting_an_acl_from_outside_the_group_clears_set_group_id() {
    let v = fixture();
    let oid = v.file("f");
    chmod(&v, oid, 0o2770);
    v.set_xattr(&Nobody, oid, super::super::acl::ACCESS, &named_user_acl(), XattrMode::Set).unwrap();
    assert_eq!(v.mode(oid), 0o771);
}

#[test]
fn default_acls_are_inherited_instead_of_the_umask() {
    let v = fixture();
    let dir = v.directory("d");
    let default = super::super::acl::DEFAULT;
    v.set_xattr(&Root, dir, default, &named_user_acl(), XattrMode::Set).unwrap();
    for round in 0..2 {
        let file = v.node(dir, &format!("f{round}"), NodeKind::File).unwrap();
        assert_eq!(file.mode, 0o660);
        let access = acl(&[(1, 6, NONE), (2, 6, 1000), (4, 5, NONE), (16, 6, NONE), (32, 0, NONE)]);
        assert_eq!(v.xattr(file.oid, super::super::acl::ACCESS), Ok(access.clone()));
        let below = v.node(dir, &format!("d{round}"), NodeKind::Directory).unwrap();
        assert_eq!(v.xattr(below.oid, default), Ok(named_user_acl()));
        let link = v.node(dir, &format!("l{round}"), NodeKind::Symlink(b"x")).unwrap();
        assert_eq!(link.mode, 0o777);
        v.checkpoint();
        assert_eq!(v.mode(file.oid), 0o660);
        assert_eq!(v.xattr(file.oid, super::super::acl::ACCESS), Ok(access));
        assert_eq!(v.xattr(below.oid, default), Ok(named_user_acl()));
    }
    v.remove_xattr(&Root, dir, default).unwrap();
    v.checkpoint();
    let plain = v.node(dir, "plain", NodeKind::File).unwrap();
    assert_eq!(plain.mode, 0o644);
    v.checkpoint();
    assert_eq!(v.mode(plain.oid), 0o644);
    assert_eq!(v.xattr(plain.oid, super::super::acl::ACCESS), Err(Errno::ENODATA));
}

#[test]
fn a_set_group_id_directory_gives_its_group() {
    let v = fixture();
    let dir = v.directory("d");
    v.setattr(&Root, dir, SetAttributes { gid: Some(50), mode: Some(0o2777), ..Default::default() }).unwrap();
    let made = |name: &[u8], kind| {
        v.create(&Nobody, dir, name, Node { kind, mode: 0o755, umask: 0, open: false }).unwrap()
    };
    let file = made(b"f", NodeKind::File);
    assert_eq!((file.uid, file.gid, file.mode), (65_534, 50, 0o755));
    assert_eq!(made(b"d", NodeKind::Directory).mode, 0o2755);
}

#[test]
fn xattrs_obey_their_flags_and_the_label_is_hidden() {
    let v = fixture();
    let oid = v.file("f");
    let set = |name: &[u8], value: &[u8], mode| v.set_xattr(&Root, oid, name, value, mode);
    assert_eq!(set(b"user.a", b"1", XattrMode::Replace), Err(Errno::ENODATA));
    set(b"user.a", b"1", XattrMode::Create).unwrap();
    assert_eq!(set(b"user.a", b"2", XattrMode::Create), Err(Errno::EEXIST));
    set(b"trusted.b", b"", XattrMode::Set).unwrap();
    v.checkpoint();
    set(b"user.a", b"3", XattrMode::Replace).unwrap();
    assert_eq!(v.xattr(oid, b"user.a"), Ok(b"3".to_vec()));
    assert_eq!(v.xattr_names(&Root, oid), Ok(b"trusted.b\0user.a\0".to_vec()));
    assert_eq!(v.xattr_names(&Nobody, oid), Ok(b"user.a\0".to_vec()));
    assert_eq!(v.xattr(oid, b"trusted.twinfiler"), Err(Errno::ENODATA));
    assert_eq!(set(b"trusted.twinfiler", b"x", XattrMode::Set), Err(Errno::EPERM));
    assert_eq!(v.remove_xattr(&Root, oid, b"trusted.twinfiler"), Err(Errno::ENODATA));
    assert_eq!(set(b"os2.x", b"x", XattrMode::Set), Err(Errno::EOPNOTSUPP));
    assert_eq!(set(&[&b"user."[..], &[b'x'; 256]].concat(), b"x", XattrMode::Set), Err(Errno::ERANGE));
    assert_eq!(set(b"user.big", &[0; 65_537], XattrMode::Set), Err(Errno::E2BIG));
    v.remove_xattr(&Root, oid, b"user.a").unwrap();
    assert_eq!(v.remove_xattr(&Root, oid, b"user.a"), Err(Errno::ENODATA));
}

#[test]
fn what_does_not_fit_into_the_base_is_refused_and_never_logged() {
    let v = fixture();
    let oid = v.file("f");
    let end = v.state.read().end;
    if v.limits.xattr_room.is_none() {
        return;
    }
    let too_much = vec![1; v.limits.max_xattr_value_bytes as usize + 1];
    assert_eq!(v.set_xattr(&Root, oid, b"user.a", &too_much, XattrMode::Set), Err(Errno::ENOSPC));
    assert_eq!(v.state.read().end, end);
    // As much as is allowed fits, whatever the base spends beside it.
    let mut set = 0;
    while v.set_xattr(&Root, oid, format!("user.{set}").as_bytes(), &[1; 90], XattrMode::Set).is_ok() {
        set += 1;
    }
    assert!(set > 10);
    v.checkpoint();
    assert_eq!(v.xattr(oid, format!("user.{}", set - 1).as_bytes()), Ok(vec![1; 90]));
}

#[test]
fn times_are_kept_to_the_nanosecond_and_clamped_as_the_base_would() {
    let v = fixture();
    let oid = v.file("f");
    let at = |secs, nanos| Timestamp { secs, nanos };
    let set = |atime, mtime| {
        let set = SetAttributes {
            atime: Some(SetTime::To(atime)),
            mtime: Some(SetTime::To(mtime)),
            ..Default::default()
        };
        v.setattr(&Root, oid, set).unwrap()
    };
    let (early, late) = (at(-5, 999_999_999), at(4_000_000_000, 1));
    for round in 0..2 {
        let now = if round == 0 { set(early, late) } else { v.getattr(oid).unwrap() };
        assert_eq!((now.atime, now.mtime), (early, late));
        v.checkpoint();
    }
    let clamped = set(at(i64::MIN / 2, 5), at(i64::MAX / 2, 5));
    v.checkpoint();
    let applied = std::fs::metadata(v.dir.path().join("f")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((clamped.atime.secs, clamped.mtime.secs), (applied.atime(), applied.mtime()));
    assert_eq!(
        (v.getattr(oid).unwrap().mtime, clamped.mtime.nanos),
        (clamped.mtime, applied.mtime_nsec() as u32)
    );
}
