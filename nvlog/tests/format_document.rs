//! Holds docs/nvlog-format.md and the constants together.

use nvlog::RecordKind;
use nvlog::format::{self, header, superblock};

const DOCUMENT: &str = include_str!("../../docs/nvlog-format.md");

// The variable parts of a superblock do not overlap.
const _: () = assert!(superblock::HISTORY + ids::EpochHistory::MAX_ENTRIES * 16 <= superblock::ROLE_STATE);
const _: () = assert!(superblock::ROLE_STATE + format::MAX_ROLE_STATE_BYTES <= superblock::CRC);

/// The offsets in the table under `heading`: lines of `| offset | NAME | …`.
fn offsets(heading: &str) -> Vec<(usize, String)> {
    let section = DOCUMENT.split("\n## ").find(|section| section.starts_with(heading)).expect("the section");
    let rows = section.lines().filter_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let offset = cells.next()?.parse().ok()?;
        Some((offset, cells.next()?.to_owned()))
    });
    rows.collect()
}

macro_rules! constants {
    ($module:ident: $($name:ident),*) => { vec![$(($module::$name, stringify!($name).to_owned())),*] };
}

#[test]
fn the_superblock_is_as_documented() {
    let constants = constants!(superblock: MAGIC, VERSION, FLAGS, HISTORY_COUNT, GENERATION, VOLUME, CAPACITY, TAIL_LSN,
        TAIL_CRC, ROLE_STATE_LEN, BOOT_ID, DURABLE_END, APPLYING_END, HISTORY, ROLE_STATE, CRC);
    assert_eq!(offsets("A superblock copy"), constants);
    assert!(DOCUMENT.contains(&format!("A superblock copy, {} bytes", format::SUPERBLOCK_BYTES)));
    assert!(DOCUMENT.contains(&format!("`{}`", String::from_utf8_lossy(&format::SUPERBLOCK_MAGIC))));
}

#[test]
fn the_record_is_as_documented() {
    let constants = constants!(header: MAGIC, VERSION, KIND, RESERVED_BYTE, LSN, EPOCH, PAYLOAD_LEN, PAYLOAD_CRC,
        RESERVED, CHAIN_CRC);
    assert_eq!(offsets("A record"), constants);
    assert_eq!(header::CHAIN_CRC + 4, format::HEADER_BYTES);
    assert!(
        DOCUMENT.contains(&format!("`{}`", String::from_utf8_lossy(&format::RECORD_MAGIC.to_le_bytes())))
    );
    let names = ["data", "pad", "no-op", "epoch"];
    let kinds = RecordKind::ALL.iter().zip(names).map(|(kind, name)| format!("{} {name}", *kind as u8));
    assert!(DOCUMENT.contains(&kinds.collect::<Vec<_>>().join(", ")));
    assert!(DOCUMENT.contains(&format::MAX_PAYLOAD_BYTES.to_string()));
}

#[test]
fn the_region_is_as_documented() {
    let picture =
        DOCUMENT.lines().find(|line| line.starts_with("0 ") && line.contains("8192")).expect("the picture");
    let marks: Vec<u64> = picture.split_whitespace().map(|mark| mark.parse().expect("an offset")).collect();
    let [first, second] = format::SUPERBLOCK_OFFSETS;
    let end = second + format::SUPERBLOCK_BYTES as u64;
    assert_eq!(marks, [first, second, end, format::RING_OFFSET_BYTES]);
    let words = format!(
        "multiple of {} bytes long and at least {}",
        format::CAPACITY_ALIGN_BYTES,
        format::MIN_CAPACITY_BYTES
    );
    assert!(DOCUMENT.contains(&words));
    assert!(DOCUMENT.contains(&format!("format version {}", format::FORMAT_VERSION)));
}
