//! Extents and ranges against one entry per byte.

use super::*;
use proptest::prelude::*;

const SPAN: u64 = 64;

/// Source and, for log bytes, the exact log position of each byte.
fn bytes_of(map: &ExtentMap) -> Vec<Option<Source>> {
    let mut bytes = vec![None; SPAN as usize * 2];
    for extent in map.iter() {
        assert!(extent.len_bytes > 0);
        for at in extent.offset..extent.end() {
            assert_eq!(bytes[at as usize], None, "extents overlap");
            bytes[at as usize] = Some(extent.source.plus(at - extent.offset));
        }
    }
    bytes
}

fn source() -> impl Strategy<Value = Option<Source>> {
    prop_oneof![
        4 => (0u64..1 << 20).prop_map(|lsn| Some(Source::Log(Lsn(lsn * 64)))),
        1 => Just(Some(Source::Hole)),
        1 => Just(Some(Source::Zero)),
        2 => Just(None),
    ]
}

proptest! {
    #[test]
    fn the_last_writer_of_a_byte_wins(
        changes in prop::collection::vec((0..SPAN, 0..SPAN, source()), 0..40), from in 0..SPAN, len in 0..SPAN,
    ) {
        let mut map = ExtentMap::default();
        let mut bytes = vec![None; SPAN as usize * 2];
        for (offset, len_bytes, source) in changes {
            match source {
                Some(source) => map.insert(Extent { offset, len_bytes, source }),
                None => map.remove(offset..offset + len_bytes),
            }
            for at in 0..len_bytes {
                bytes[(offset + at) as usize] = source.map(|s| s.plus(at));
            }
        }
        prop_assert_eq!(&bytes_of(&map), &bytes);
        let data = bytes.iter().filter(|b| matches!(b, Some(Source::Log(_)))).count() as u64;
        prop_assert_eq!(map.data_bytes(), data);

        let mut clipped = ExtentMap::default();
        for extent in map.within(from..from + len) {
            prop_assert!(extent.offset >= from && extent.end() <= from + len);
            clipped.insert(extent);
        }
        bytes.iter_mut().enumerate().filter(|(at, _)| !(from..from + len).contains(&(*at as u64))).for_each(|(_, b)| *b = None);
        prop_assert_eq!(bytes_of(&clipped), bytes);
    }

    #[test]
    fn a_range_set_is_a_set_of_bytes(changes in prop::collection::vec((0..SPAN, 0..SPAN, any::<bool>()), 0..40)) {
        let mut set = RangeSet::default();
        let mut bytes = vec![false; SPAN as usize * 2];
        for (start, len, add) in changes {
            match add {
                true => set.insert(start..start + len),
                false => set.remove(start..start + len),
            }
            bytes[start as usize..(start + len) as usize].fill(add);
        }
        let mut shown = vec![false; bytes.len()];
        let mut last_end = None;
        for range in set.iter() {
            prop_assert!(last_end < Some(range.start), "neighbours are merged, ranges are not empty");
            shown[range.start as usize..range.end as usize].fill(true);
            last_end = Some(range.end);
        }
        let (from, to) = (SPAN / 3, SPAN);
        let mut in_gap = vec![false; bytes.len()];
        for gap in set.gaps_in(from..to) {
            prop_assert!(from <= gap.start && gap.end <= to && !gap.is_empty());
            in_gap[gap.start as usize..gap.end as usize].fill(true);
        }
        let expected: Vec<bool> = (0..).zip(&bytes).map(|(at, b)| !b && (from..to).contains(&at)).collect();
        prop_assert_eq!(in_gap, expected);
        prop_assert_eq!(set.total_bytes(), bytes.iter().filter(|b| **b).count() as u64);
        prop_assert_eq!(shown, bytes);
    }
}
