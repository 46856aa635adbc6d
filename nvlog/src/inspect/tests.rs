//! Inspection of good, damaged and foreign files.

use super::*;
use crate::region::{OpenMode, RegionKind, open};
use crate::{FormatOptions, Log};
use ids::VolumeId;
use std::os::unix::fs::FileExt;

fn log_file() -> (tempfile::TempDir, PathBuf, LogPoint) {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("log");
    let mode = OpenMode::Create { len_bytes: RING_OFFSET_BYTES + 128 * 1024 };
    let options = FormatOptions { volume: VolumeId([3; 16]), capacity_bytes: 128 * 1024, overwrite: false };
    let log = Log::format(open(RegionKind::Emulated, &path, mode).unwrap(), options).unwrap();
    log.append_epoch_record(Epoch(5), b"").unwrap();
    for n in 0..20 {
        log.reserve(n * 10).unwrap().publish(&[&vec![1; n * 10]]);
        log.seal_and_persist().unwrap();
    }
    let end = log.end();
    // Inspecting works while the daemon holds the lock.
    assert_eq!(inspect(&path).unwrap().walk.unwrap().end, end);
    (directory, path, end)
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

#[test]
fn a_whole_log_is_counted_and_described() {
    let (_directory, path, end) = log_file();
    let before = std::fs::read(&path).unwrap();
    let found = inspect_with(&path, InspectOptions { max_records: 4 }).unwrap();
    let walk = found.walk.clone().unwrap();
    assert_eq!((walk.records, walk.end, walk.by_kind), (21, end, [20, 0, 0, 1]));
    assert_eq!(found.listed.len(), 4);
    assert_eq!((found.listed[0].kind, found.stray), (Some(RecordKind::Epoch), 0));
    let text = found.to_string();
    for words in ["epoch          5 from LSN 0", "records        21", &end.to_string(), "Data 20"] {
        assert!(text.contains(words), "{words:?} is missing in\n{text}");
    }
    assert!(std::fs::read(&path).unwrap() == before, "nothing was changed");
}

#[test]
fn damage_is_a_finding() {
    let (_directory, path, _) = log_file();
    overwrite(&path, RING_OFFSET_BYTES + 320, &[0xFF; 8]);
    let found = inspect(&path).unwrap();
    let walk = found.walk.clone().unwrap();
    assert!(walk.records < 21 && walk.cut != CutReason::NoRecord);
    assert!(found.stray > 10, "{found}");
    overwrite(&path, 20, b"rot");
    overwrite(&path, SUPERBLOCK_OFFSETS[1] + 20, b"rot");
    let found = inspect(&path).unwrap();
    assert!(found.refused.is_some() && found.walk.is_none());
    assert!(found.stray >= 20 && !found.listed.is_empty(), "records are found without a superblock");
    assert!(found.to_string().contains("damaged"));
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    for len_bytes in [RING_OFFSET_BYTES + 100, 5000, 100, 0] {
        file.set_len(len_bytes).unwrap();
        assert!(inspect(&path).unwrap().walk.is_none());
    }
    assert!(inspect(Path::new("/nonexistent")).is_err());
    assert!(inspect(Path::new("/tmp")).is_err());
}
