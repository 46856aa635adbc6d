//! File contents, before and after consistency points.

use super::*;

#[test]
fn what_was_written_is_read_from_log_and_base() {
    let v = fixture();
    let oid = v.file("f");
    v.put(oid, 0, b"hello world");
    v.put(oid, 6, b"there");
    assert_eq!(v.get(oid), b"hello there");
    v.checkpoint();
    assert_eq!(v.get(oid), b"hello there");
    assert_eq!(std::fs::read(v.dir.path().join("f")).unwrap(), b"hello there");
    // A part from the base, a part from the log, a hole between.
    v.put(oid, 20, b"!");
    assert_eq!(v.get(oid), b"hello there\0\0\0\0\0\0\0\0\0!");
    assert_eq!(v.read(oid, 21, &mut [0; 8]), Ok(0));
    assert_eq!(v.read(oid, 1 << 40, &mut [0; 8]), Ok(0));
}

#[test]
fn a_write_larger_than_a_record_is_split() {
    let v = fixture();
    let oid = v.file("f");
    assert!(v.max_data_bytes < 1 << 20, "a chunk takes two records");
    let data: Vec<u8> = (0..3 << 20).map(|i: u32| (i % 251) as u8).collect();
    for chunk in data.chunks(1 << 20) {
        let at = v.getattr(oid).unwrap().size;
        v.put(oid, at, chunk);
        v.checkpoint();
    }
    assert_eq!(v.get(oid), data);
}

#[test]
fn appending_goes_to_the_end_whoever_moved_it() {
    let v = fixture();
    let oid = v.file("f");
    v.put(oid, 0, b"abc");
    assert_eq!(v.write(oid, WriteAt::End, b"def", None), Ok(3));
    assert_eq!(v.get(oid), b"abcdef");
}

#[test]
fn truncating_hides_what_lies_past_the_end_for_good() {
    let v = fixture();
    let oid = v.file("f");
    v.put(oid, 0, &[1; 10_000]);
    v.checkpoint();
    for size in [100, 9_000] {
        v.setattr(&Root, oid, SetAttributes { size: Some(size), ..Default::default() }).unwrap();
    }
    let mut expected = vec![1; 100];
    expected.resize(9_000, 0);
    assert_eq!(v.get(oid), expected);
    v.checkpoint();
    assert_eq!(v.get(oid), expected);
}

#[test]
fn the_largest_file_of_the_base_is_the_limit() {
    let v = fixture();
    let oid = v.file("f");
    let max = v.limits.max_file_bytes;
    assert_eq!(v.write(oid, WriteAt::Offset(max), b"x", None), Err(Errno::EFBIG));
    let size = Some(max + 1);
    assert_eq!(v.setattr(&Root, oid, SetAttributes { size, ..Default::default() }), Err(Errno::EFBIG));
    let reserve = AllocateMode::Reserve { keep_size: false };
    assert_eq!(v.allocate(&Root, oid, reserve, max, 1), Err(Errno::EFBIG));
    assert_eq!(v.allocate(&Root, oid, reserve, u64::MAX, 1), Err(Errno::EFBIG));
    assert_eq!(v.getattr(oid).unwrap().size, 0);
}

#[test]
fn ranges_are_reserved_punched_zeroed_and_copied() {
    let v = fixture();
    let oid = v.file("f");
    v.put(oid, 0, &[7; 12_288]);
    v.allocate(&Root, oid, AllocateMode::PunchHole, 4096, 4096).unwrap();
    assert_eq!(v.seek(oid, 0, SeekTo::Hole), Ok(4096));
    assert_eq!(v.seek(oid, 4096, SeekTo::Data), Ok(8192));
    assert_eq!(v.seek(oid, 12_288, SeekTo::Data), Err(Errno::ENXIO));
    v.allocate(&Root, oid, AllocateMode::Zero { keep_size: true }, 0, 4096).unwrap();
    v.allocate(&Root, oid, AllocateMode::Reserve { keep_size: true }, 0, 1 << 20).unwrap();
    assert_eq!(v.getattr(oid).unwrap().size, 12_288);
    v.allocate(&Root, oid, AllocateMode::Reserve { keep_size: false }, 0, 16_384).unwrap();
    let mut expected = vec![0; 8192];
    expected.extend([7; 4096]);
    expected.extend([0; 4096]);
    assert_eq!(v.get(oid), expected);

    let copy = v.file("copy");
    assert_eq!(v.copy_range(&Root, (oid, 8000), (copy, 10), 1 << 30), Ok(16_384 - 8000));
    assert_eq!(v.get(copy)[10..], expected[8000..]);
    v.checkpoint();
    assert_eq!(v.get(oid), expected);
    assert_eq!(v.get(copy)[10..], expected[8000..]);
    assert_eq!(AllocateMode::from_bits(libc::FALLOC_FL_COLLAPSE_RANGE), Err(Errno::EOPNOTSUPP));
    assert_eq!(AllocateMode::from_bits(libc::FALLOC_FL_INSERT_RANGE), Err(Errno::EOPNOTSUPP));
}

#[test]
fn only_files_have_contents() {
    let v = fixture();
    let dir = v.directory("d");
    let fifo = v.node(Oid::ROOT, "p", NodeKind::Fifo).unwrap().oid;
    assert_eq!(v.read(dir, 0, &mut [0; 1]), Err(Errno::EISDIR));
    assert_eq!(v.write(dir, WriteAt::End, b"x", None), Err(Errno::EISDIR));
    assert_eq!(v.write(fifo, WriteAt::End, b"x", None), Err(Errno::EINVAL));
    assert_eq!(v.read(Oid(999_999), 0, &mut [0; 1]), Err(Errno::ESTALE));
}

#[test]
fn readers_and_writers_see_whole_records_while_consistency_points_go_on() {
    let v = fixture();
    let oid = v.file("f");
    v.put(oid, 0, &[0; 4096]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut data = [0; 4096];
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(v.read(oid, 0, &mut data), Ok(4096));
                    assert!(data.iter().all(|byte| *byte == data[0]), "a torn read");
                }
            });
        }
        for round in 0..400_u32 {
            v.put(oid, 0, &[round as u8; 4096]);
            if round % 40 == 0 {
                v.checkpoint();
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// Room behind the end counts before a change is applied as it does afterwards.
#[test]
fn blocks_behind_the_end_are_counted_until_they_are_given_back() {
    const MIB: u64 = 1 << 20;
    let v = fixture();
    let oid = v.file("f");
    v.allocate(&Root, oid, AllocateMode::Reserve { keep_size: true }, 0, MIB).unwrap();
    v.checkpoint();
    let blocks_bytes = || {
        let at_once = v.getattr(oid).unwrap().blocks_bytes;
        v.checkpoint();
        v.state.write().inodes.clear();
        (at_once, v.getattr(oid).unwrap().blocks_bytes)
    };
    let truncate = |size| {
        v.setattr(&Root, oid, SetAttributes { size: Some(size), ..Default::default() }).unwrap();
    };
    assert_eq!(blocks_bytes(), (MIB, MIB));
    v.put(oid, 0, b"a byte of it");
    assert_eq!(blocks_bytes(), (MIB, MIB));
    truncate(8192);
    assert_eq!(blocks_bytes(), (8192, 8192));
    truncate(8192);
    assert_eq!(blocks_bytes(), (8192, 8192));
    truncate(0);
    assert_eq!(blocks_bytes(), (0, 0));
}
