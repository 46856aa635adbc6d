//! Where room is tight on a real ext4: what ends makes room for what comes, within one consistency point.

use ids::{Lsn, Oid, VolumeId};

use super::Image;
use crate::attributes::{AttrPatch, ObjectKind, Timestamp};
use crate::base::Base;
use crate::consistency::apply_to;
use crate::delta::{Delta, Vanished};
use crate::executor::base_tree::BaseTree;
use crate::name::NameRef;
use crate::op::{NewKind, NewObject, Operation, Other};
use crate::oracle::{MemoryLog, Step};
use crate::resync::{Surveyed, capture, install_names};
use crate::view::BaseReader;

pub(crate) const VOLUME: VolumeId = VolumeId([5; 16]);
pub(crate) const NOW: Timestamp = Timestamp { secs: 1_700_000_000, nanos: 5 };

/// One consistency point over these operations, with the bytes of those that write.
pub(crate) fn point(base: &Base, log: &MemoryLog, operations: &[(Operation<'_>, &[u8])]) {
    apply_to(&BaseTree::new(base, log), &delta_of(log, operations)).expect("applies");
    base.sync().expect("syncs");
}

/// The same, logged and not applied.
pub(crate) fn delta_of(log: &MemoryLog, operations: &[(Operation<'_>, &[u8])]) -> Delta {
    let mut delta = Delta::new(Lsn::ZERO, Vanished::Forget);
    for (operation, data) in operations {
        let mut head = Vec::new();
        operation.encode_head(&mut head);
        let step = Step { head, data: data.to_vec() };
        delta.absorb(log.append(&step), &step.operation());
    }
    delta
}

pub(crate) fn create<'a>(oid: Oid, name: &'a [u8], kind: NewKind<'a>) -> Operation<'a> {
    Operation::Create {
        parent: Oid::ROOT,
        name: NameRef::new(name).expect("a name"),
        object: NewObject { oid, kind, mode: 0o644, uid: 0, gid: 0, generation: 1, xattrs: Vec::new() },
        parent_nlink: 2,
        at: NOW,
    }
}

pub(crate) fn set<'a>(oid: Oid, name: &'a [u8], value: &'a [u8]) -> Operation<'a> {
    Operation::SetXattr { oid, name, value, mode: None, at: NOW }
}

pub(crate) fn remove(oid: Oid, name: &[u8]) -> Operation<'_> {
    Operation::RemoveXattr { oid, name, mode: None, at: NOW }
}

pub(crate) fn volume(image: &Image) -> Base {
    Base::create(&image.directory("volume"), VOLUME).expect("creates")
}

const FILE: Oid = Oid(20);

/// A file with these xattrs, and then these changes within one interval.
fn after(first: &[(&[u8], &[u8])], then: &[Operation<'_>]) -> (Image, Base) {
    // Large enough for blocks of 4 KiB.
    let image = Image::with_size("ext4", 600 << 20);
    let (base, log) = (volume(&image), MemoryLog::default());
    let mut operations = vec![(create(FILE, b"file", NewKind::File), &[][..])];
    operations.extend(first.iter().map(|(name, value)| (set(FILE, name, value), &[][..])));
    point(&base, &log, &operations);
    point(&base, &log, &then.iter().cloned().map(|operation| (operation, &[][..])).collect::<Vec<_>>());
    (image, base)
}

fn value(base: &Base, name: &[u8]) -> Option<usize> {
    BaseReader::xattr(base, FILE, name).expect("reads").map(|value| value.len())
}

#[test]
fn an_xattr_that_ends_makes_room_for_another() {
    let big = &[7; 3000][..];
    let then = [remove(FILE, b"user.z"), set(FILE, b"user.a", big)];
    let (_image, base) = after(&[(b"user.z", big)], &then);
    assert_eq!((value(&base, b"user.z"), value(&base, b"user.a")), (None, Some(3000)));
}

#[test]
fn an_xattr_that_shrinks_makes_room_for_one_that_grows() {
    let (big, small) = (&[7; 3000][..], &[8; 100][..]);
    let then = [set(FILE, b"user.z", small), set(FILE, b"user.a", big)];
    let (_image, base) = after(&[(b"user.a", small), (b"user.z", big)], &then);
    assert_eq!((value(&base, b"user.z"), value(&base, b"user.a")), (Some(100), Some(3000)));
}

#[test]
fn a_resync_installs_xattrs_that_were_swapped() {
    let big = &[7; 3000][..];
    let then = [remove(FILE, b"user.z"), set(FILE, b"user.a", big)];
    let (_source_image, source) = after(&[(b"user.z", big)], &then);
    let (_image, base) = after(&[(b"user.z", big)], &[]);
    let Surveyed::Here(capture) = capture(&source, FILE, &mut 9).expect("reads") else {
        panic!("it is there")
    };
    install_names(&base, &[Surveyed::Here(capture)]).expect("installs");
    assert_eq!((value(&base, b"user.z"), value(&base, b"user.a")), (None, Some(3000)));
}

/// Blocks of `len_bytes` in a filesystem with hardly more.
#[test]
fn what_files_lose_makes_room_for_what_others_write() {
    let image = Image::with_size("ext4", 32 << 20);
    let (base, log) = (volume(&image), MemoryLog::default());
    let room = base.space().expect("reads").free_bytes;
    let half = room / 10 * 6;
    let bytes = vec![3; 1 << 20];
    let pieces = half >> 20;
    let write = |oid, piece: u64| {
        let (offset, len_bytes) = (piece << 20, 1 << 20);
        (
            Operation::Write { oid, offset, len_bytes, size_after: offset + (1 << 20), at: NOW },
            bytes.as_slice(),
        )
    };
    // The one that shrinks has the higher OID and the later name: its turn would come after the other's.
    let (grows, shrinks, unlinked) = (Oid(20), Oid(30), Oid(40));
    let mut first = vec![
        (create(grows, b"a", NewKind::File), &[][..]),
        (create(shrinks, b"z", NewKind::File), &[][..]),
        (create(unlinked, b"zz", NewKind::File), &[][..]),
    ];
    first.extend((0..pieces / 2).map(|piece| write(shrinks, piece)));
    first.extend((0..pieces / 2).map(|piece| write(unlinked, piece)));
    point(&base, &log, &first);
    let name = NameRef::new(b"zz").expect("a name");
    let object = Other { oid: unlinked, kind: ObjectKind::File, nlink: 0 };
    let mut then = vec![
        (Operation::Truncate { oid: shrinks, size: 0, at: NOW }, &[][..]),
        (
            Operation::Unlink { parent: Oid::ROOT, name, object, reap: true, parent_nlink: 2, at: NOW },
            &[][..],
        ),
    ];
    then.extend((0..pieces).map(|piece| write(grows, piece)));
    then.push((Operation::SetAttr { oid: grows, patch: AttrPatch::default() }, &[][..]));
    point(&base, &log, &then);
    assert_eq!(BaseReader::attributes(&base, grows).expect("is there").size, pieces << 20);
    assert_eq!(BaseReader::attributes(&base, shrinks).expect("is there").size, 0);
}
