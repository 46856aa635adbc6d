//! Making, opening, and refusing.

use super::Image;
use crate::attributes::ObjectKind;
use crate::base::{Base, OpenError};
use crate::name::NameRef;
use crate::view::BaseReader;
use ids::{Oid, VolumeId};

const VOLUME: VolumeId = VolumeId([7; 16]);
const OTHER: VolumeId = VolumeId([8; 16]);

#[test]
fn what_is_not_ours_is_refused_and_left_alone() {
    let image = Image::new("ext4");
    let path = image.directory("volume");
    assert!(matches!(Base::open(&path, VOLUME), Err(OpenError::NotAVolume { .. })));
    assert!(matches!(Base::open(&path.join("absent"), VOLUME), Err(OpenError::Root { .. })));
    std::fs::write(path.join("precious"), "mine").expect("writes");
    assert!(matches!(Base::create(&path, VOLUME), Err(OpenError::NotEmpty { .. })));
    assert_eq!(std::fs::read_dir(&path).expect("lists").count(), 1, "nothing was made");
    std::fs::remove_file(path.join("precious")).expect("removes");

    let base = Base::create(&path, VOLUME).expect("creates");
    assert!(matches!(Base::open(&path, VOLUME), Err(OpenError::Locked { .. })));
    drop(base);
    assert!(matches!(Base::create(&path, VOLUME), Err(OpenError::Exists { found: VOLUME, .. })));
    assert!(matches!(
        Base::open(&path, OTHER),
        Err(OpenError::Foreign { found: VOLUME, expected: OTHER, .. })
    ));
    assert!(matches!(Base::adopt(&path, OTHER), Err(OpenError::Foreign { .. })));

    let label = path.join(".twinfiler/label");
    let text = std::fs::read_to_string(&label).expect("reads");
    std::fs::write(&label, text.replace("version 1", "version 9")).expect("writes");
    assert!(matches!(Base::open(&path, VOLUME), Err(OpenError::BadLabel { .. })));
}

#[test]
fn the_root_of_a_fresh_filesystem_can_be_a_volume() {
    let image = Image::new("ext4");
    let base = Base::create(&image.path(), VOLUME).expect("lost+found is no obstacle");
    let mut shown = Vec::new();
    base.readdir(Oid::ROOT, &mut |entry| {
        shown.push(entry.name.to_name());
        std::ops::ControlFlow::Continue(())
    })
    .expect("lists");
    assert!(shown.is_empty(), "{shown:?}");
    for hidden in [&b".twinfiler"[..], b"lost+found"] {
        let name = NameRef::new(hidden).expect("legal");
        assert_eq!(base.lookup(Oid::ROOT, name).expect("looks"), None);
    }
    let root = base.attributes(Oid::ROOT).expect("stats");
    assert_eq!((root.kind, root.nlink, root.size), (ObjectKind::Directory, 2, 0));
}

#[test]
fn given_oids_are_remembered_although_their_objects_are_gone() {
    let image = Image::new("ext4");
    let path = image.directory("volume");
    let base = Base::create(&path, VOLUME).expect("creates");
    base.raise_next_oid(Oid(5000));
    base.sync().expect("syncs");
    drop(base);
    image.remount();
    let index = path.join(".twinfiler/index.redb");
    assert_eq!(Base::open(&path, VOLUME).expect("opens").next_oid(), Oid(5000));
    std::fs::write(&index, b"not an index at all").expect("writes");
    let base = Base::open(&path, VOLUME).expect("rebuilds the index");
    assert_eq!(base.next_oid(), Oid(5000));
    assert_eq!(base.object_count().expect("counts"), 1);
}

#[test]
fn an_object_put_there_behind_our_back_is_neither_shown_nor_replaced() {
    let image = Image::new("ext4");
    let path = image.directory("volume");
    let base = Base::create(&path, VOLUME).expect("creates");
    std::fs::write(path.join("stranger"), "mine").expect("writes");
    assert!(base.lookup(Oid::ROOT, NameRef::new(b"stranger").expect("legal")).is_err());
}
