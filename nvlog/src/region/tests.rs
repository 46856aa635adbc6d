//! Regions on real files, and every way to open a wrong one.

use super::*;
use crate::format::RING_OFFSET_BYTES;
use crate::{FormatOptions, Log};
use ids::VolumeId;

const LEN_BYTES: u64 = RING_OFFSET_BYTES + 128 * 1024;

/// On a disk, where O_DIRECT means something: the build directory.
fn disk_directory() -> tempfile::TempDir {
    let build = std::env::current_exe().unwrap();
    tempfile::tempdir_in(build.parent().unwrap()).unwrap()
}

fn memory_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn round_trip(kind: RegionKind, path: &Path) {
    let options = FormatOptions { volume: VolumeId([3; 16]), capacity_bytes: 128 * 1024, overwrite: false };
    let region = open(kind, path, OpenMode::Create { len_bytes: LEN_BYTES }).unwrap();
    assert_eq!((region.kind(), region.len_bytes()), (kind, LEN_BYTES));
    let log = Log::format(region, options).unwrap();
    assert!(matches!(open(kind, path, OpenMode::Existing), Err(RegionError::Locked { .. })));
    let payloads: Vec<Vec<u8>> = (0..12).map(|n| vec![n as u8; n * 700]).collect();
    for payload in &payloads {
        log.reserve(payload.len()).unwrap().publish(&[payload]);
        log.seal_and_persist().unwrap();
    }
    let end = log.end();
    drop(log);
    let again = open(kind, path, OpenMode::Create { len_bytes: LEN_BYTES });
    assert!(matches!(again, Err(RegionError::Exists { .. })), "an existing log is not made again");
    let (log, report) = Log::open(open(kind, path, OpenMode::Existing).unwrap(), None).unwrap();
    assert_eq!((report.end, report.memory_lost), (end, false));
    for (record, payload) in log.records(log.tail(), end.lsn).zip(&payloads) {
        let record = record.unwrap();
        let mut bytes = vec![0; record.payload_len];
        log.copy_out(record.payload_lsn, &mut bytes).unwrap();
        assert_eq!(&bytes, payload);
    }
}

#[test]
fn an_emulated_log_survives_the_process() {
    round_trip(RegionKind::Emulated, &memory_directory().path().join("log"));
    let region = anonymous(LEN_BYTES).unwrap();
    assert_eq!(region.durability(), Durability::Process);
}

#[test]
fn a_block_log_is_on_the_disk() {
    let directory = disk_directory();
    let path = directory.path().join("log");
    round_trip(RegionKind::Block, &path);
    let region = open(RegionKind::Block, &path, OpenMode::Existing).unwrap();
    assert_eq!(region.durability(), Durability::Power);
    // Longer than one batch would be needs a larger file; odd ranges must still hit the right blocks.
    region.store(RING_OFFSET_BYTES + 5000, &[b"odd"], &mut |_| {});
    region.persist(RING_OFFSET_BYTES + 5001, 1).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(&bytes[RING_OFFSET_BYTES as usize + 5000..][..3], b"odd");
}

#[test]
fn a_block_range_longer_than_one_batch_is_written_whole() {
    let directory = disk_directory();
    let path = directory.path().join("log");
    let len_bytes = 6 << 20;
    let region = open(RegionKind::Block, &path, OpenMode::Create { len_bytes }).unwrap();
    let bytes: Vec<u8> = (0..len_bytes as usize).map(|i| (i / 4096 + i) as u8).collect();
    region.store(0, &[&bytes], &mut |_| {});
    region.persist(0, len_bytes).unwrap();
    assert!(std::fs::read(&path).unwrap() == bytes);
}

#[test]
fn memory_is_not_passed_off_as_a_disk() {
    let path = memory_directory().path().join("log");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let refused = open(RegionKind::Block, &path, OpenMode::Create { len_bytes: LEN_BYTES });
    assert!(matches!(refused, Err(RegionError::NotDurable { .. } | RegionError::Io { .. })));
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn wrong_paths_have_clear_errors_and_leave_nothing_behind() {
    let directory = disk_directory();
    let missing = directory.path().join("missing");
    for kind in [RegionKind::DevDax, RegionKind::FsDax, RegionKind::Block, RegionKind::Emulated] {
        assert!(matches!(open(kind, &missing, OpenMode::Existing), Err(RegionError::Missing { .. })));
        assert!(open(kind, directory.path(), OpenMode::Existing).is_err(), "a directory");
    }
    let create = OpenMode::Create { len_bytes: LEN_BYTES };
    assert!(matches!(open(RegionKind::DevDax, &missing, create), Err(RegionError::Missing { .. })));
    assert!(matches!(
        open(RegionKind::DevDax, Path::new("/dev/null"), create),
        Err(RegionError::WrongKind { .. })
    ));
    // No DAX on this disk: the kernel refuses MAP_SYNC, and the file that was made goes again.
    let refused = open(RegionKind::FsDax, &missing, create).map(drop);
    if let Err(error) = refused {
        assert!(matches!(error, RegionError::NoMapSync { .. }), "{error}");
        assert!(!missing.exists());
    }
    std::fs::write(&missing, b"").unwrap();
    assert!(matches!(
        open(RegionKind::Emulated, &missing, OpenMode::Existing),
        Err(RegionError::TooSmall { .. })
    ));
    assert!("emulated".parse::<RegionKind>().is_ok() && "ramdisk".parse::<RegionKind>().is_err());
}

#[test]
fn stores_are_exact_whichever_way_they_go_and_show_every_byte_once() {
    for region in
        [MappedRegion::anonymous(1 << 20).unwrap(), MappedRegion::anonymous_written_back(1 << 20).unwrap()]
    {
        for len in [0, 1, 4095, 4096, 4097, 8191, 8192, 8300, 70_001] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 13 + len) as u8).collect();
            let mut shown = Vec::new();
            region.store(4096 + 64, &[&bytes[..len / 3], &bytes[len / 3..]], &mut |piece| {
                shown.extend_from_slice(piece)
            });
            region.persist(4096 + 64, len as u64).unwrap();
            let mut read = vec![0; len];
            ring::read_region(&region, 4096 + 64, &mut read);
            assert!(read == bytes && shown == bytes, "{len}");
        }
    }
}

#[test]
fn an_image_can_be_mapped_by_others_only_where_that_is_asked_for() {
    // Direct I/O, which memory filesystems need not have.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name);
    let mode = OpenMode::Create { len_bytes: LEN_BYTES };
    let private = open(RegionKind::Block, &at("private"), mode).unwrap();
    let shareable = open_shareable(RegionKind::Block, &at("shareable"), mode).unwrap();
    assert_eq!((private.shared_fd().is_some(), shareable.shared_fd().is_some()), (false, true));
    for (region, name) in [(private, "private"), (shareable, "shareable")] {
        region.store(8192, &[b"kept"], &mut |_| {});
        region.persist(8192, 4).unwrap();
        drop(region);
        assert_eq!(std::fs::read(at(name)).unwrap()[8192..8196], *b"kept");
    }
}
