//! Every operation survives the log; garbage never panics and never becomes something that encodes to
//! something else.

use super::*;
use crate::oracle::Generator;
use codec::{MAX_FILE_BYTES, WRITE_HEAD_BYTES};
use proptest::prelude::*;

const AT: Timestamp = Timestamp { secs: -5, nanos: 999_999_999 };

fn name(bytes: &[u8]) -> NameRef<'_> {
    NameRef::new(bytes).unwrap()
}

fn encoded(operation: &Operation<'_>) -> Vec<u8> {
    let mut head = Vec::new();
    operation.encode_head(&mut head);
    head
}

fn new_object(kind: NewKind<'_>) -> NewObject<'_> {
    let xattrs = vec![(&b"user.a"[..], &b""[..]), (b"system.posix_acl_access", &[0xFF; 300])];
    NewObject { oid: Oid(u64::MAX), kind, mode: 0o7777, uid: u32::MAX, gid: 1, generation: u64::MAX, xattrs }
}

/// One of each operation, and of each variant inside.
fn samples() -> Vec<Operation<'static>> {
    let (oid, at, parent) = (Oid(77), AT, Oid::ROOT);
    let other = Other { oid, kind: ObjectKind::Symlink, nlink: 3 };
    let (offset, len_bytes, size_after) = (5, 7, 12);
    let kinds = [
        NewKind::File,
        NewKind::Directory,
        NewKind::Symlink(b"../there"),
        NewKind::Fifo,
        NewKind::Socket,
        NewKind::CharDevice(0x1_0000_0003),
        NewKind::BlockDevice(9),
    ];
    let create = |kind| Operation::Create {
        parent,
        name: name(b"\xFFn"),
        object: new_object(kind),
        parent_nlink: 9,
        at,
    };
    let rename = |displaced, whiteout| Operation::Rename {
        from_parent: parent,
        from_name: name(b"a"),
        to_parent: Oid(3),
        to_name: name(&[b'z'; 255]),
        moved: other,
        displaced,
        whiteout,
        from_parent_nlink: 2,
        to_parent_nlink: 3,
        at,
    };
    let patch = AttrPatch {
        mode: Some(0o644),
        uid: Some(1),
        gid: Some(2),
        atime: Some(AT),
        mtime: Some(AT),
        ctime: Some(AT),
        ..AttrPatch::default()
    };
    let mut all: Vec<_> = kinds.into_iter().map(create).collect();
    all.extend([
        Operation::Link { object: other, parent, name: name(b"l"), at },
        Operation::Unlink { parent, name: name(b"u"), object: other, reap: true, parent_nlink: 4, at },
        rename(Displaced::Nothing, None),
        rename(Displaced::Nothing, Some(new_object(NewKind::CharDevice(0)))),
        rename(Displaced::Replaced { object: other, reap: false }, None),
        rename(Displaced::Exchanged(other), None),
        Operation::Write { oid, offset, len_bytes: 7, size_after, at },
        Operation::Truncate { oid, size: MAX_FILE_BYTES, at },
        Operation::Allocate { oid, offset, len_bytes, size_after, at },
        Operation::PunchHole { oid, offset, len_bytes, size_after, at },
        Operation::ZeroRange { oid, offset, len_bytes, size_after, at },
        Operation::SetAttr { oid, patch },
        Operation::SetAttr { oid, patch: AttrPatch { gid: Some(0), ..AttrPatch::default() } },
        Operation::SetXattr { oid, name: b"user.x", value: b"\0v", mode: Some(0o7000), at },
        Operation::RemoveXattr { oid, name: b"user.x", mode: None, at },
        Operation::Reap { oid },
    ]);
    all
}

#[test]
fn every_operation_survives_encoding() {
    for operation in samples() {
        let head = encoded(&operation);
        let len = head.len() as u64 + operation.data_len_bytes();
        assert_eq!(Operation::decode(&head, len).as_ref(), Ok(&operation));
        let needed = Operation::head_bytes_needed(head[0], len as usize);
        assert_eq!(needed, head.len(), "exactly the head has to be copied out of the log: {operation:?}");
    }
}

#[test]
fn no_prefix_and_no_longer_record_decodes() {
    for operation in samples() {
        let head = encoded(&operation);
        let len = head.len() as u64 + operation.data_len_bytes();
        for cut in 0..head.len() {
            let refused = Operation::decode(&head[..cut], cut as u64);
            assert!(refused.is_err(), "{operation:?} cut to {cut}");
        }
        assert_eq!(Operation::decode(&head, len + 1), Err(DecodeError::Trailing(1)));
        assert_eq!(Operation::decode(&head, len - 1), Err(DecodeError::Short));
    }
}

#[test]
fn the_data_of_a_write_starts_at_a_fixed_place() {
    let write = Operation::Write { oid: Oid(1), offset: 0, len_bytes: 4096, size_after: 4096, at: AT };
    assert_eq!(encoded(&write).len(), WRITE_HEAD_BYTES);
}

#[test]
fn numbers_that_would_overflow_a_file_are_refused() {
    let (oid, at) = (Oid(1), AT);
    for bad in [
        Operation::Truncate { oid, size: MAX_FILE_BYTES + 1, at },
        Operation::PunchHole { oid, offset: MAX_FILE_BYTES, len_bytes: 1, size_after: 0, at },
        Operation::PunchHole { oid, offset: u64::MAX, len_bytes: u64::MAX, size_after: 0, at },
        Operation::ZeroRange { oid, offset: 0, len_bytes: 0, size_after: 0, at },
        Operation::Write { oid, offset: MAX_FILE_BYTES, len_bytes: 1, size_after: MAX_FILE_BYTES, at },
        Operation::Write { oid, offset: 10, len_bytes: 1, size_after: 10, at },
        Operation::Write { oid, offset: 0, len_bytes: 0, size_after: 10, at },
        Operation::Truncate { oid, size: 0, at: Timestamp { secs: 0, nanos: 1_000_000_000 } },
    ] {
        let head = encoded(&bad);
        let len = head.len() as u64 + bad.data_len_bytes();
        assert!(matches!(Operation::decode(&head, len), Err(DecodeError::Field(_))), "{bad:?}");
    }
    assert_eq!(Operation::decode(&[200], 1), Err(DecodeError::Tag(200)));
}

/// What decodes at all encodes to the same bytes: two nodes cannot read one record differently.
fn decode_is_canonical(head: &[u8], len: u64) -> Result<(), TestCaseError> {
    if let Ok(operation) = Operation::decode(head, len) {
        let again = encoded(&operation);
        prop_assert_eq!(&again[..], &head[..again.len()]);
    }
    Ok(())
}

proptest! {
    #[test]
    fn garbage_is_refused_or_canonical(
        tag in 0u8..20, bytes in prop::collection::vec(any::<u8>(), 0..400), len in 0u64..800,
    ) {
        let head: Vec<u8> = [tag].into_iter().chain(bytes).collect();
        decode_is_canonical(&head, head.len() as u64)?;
        decode_is_canonical(&head, len)?;
    }

    #[test]
    fn damaged_operations_are_refused_or_canonical(seed: u64, at in 0.0..1.0f64, value: u8) {
        for mut step in Generator::new(seed).steps(30) {
            let index = (step.head.len() as f64 * at) as usize;
            step.head[index] = value;
            decode_is_canonical(&step.head, (step.head.len() + step.data.len()) as u64)?;
        }
    }
}
