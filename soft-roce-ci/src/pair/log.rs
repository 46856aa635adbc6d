//! Two logs compared by what `twinfiler log inspect` says of them.
//!
//! Each record's CRC is chained to the one before it, so that two logs which list the same record with the same CRC
//! hold the same bytes up to there. Where both list a record of one LSN they must list the same; and unless one
//! has been emptied further than the other reaches there must be such records.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;

/// A log as it was listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    /// Everything before this is in the local tree.
    pub tail: u64,
    /// Where the chain of records ends.
    pub end: u64,
    /// For each record by its LSN what is listed of it: epoch, kind, length, chained CRC.
    pub records: BTreeMap<u64, String>,
}

impl Listing {
    /// Reads what `twinfiler log inspect` printed.
    ///
    /// # Errors
    /// No usable superblock, or fewer records listed than there are.
    pub fn parse(text: &str) -> Result<Listing> {
        let point = |label: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(label)?.split_whitespace().next());
            let digits = line.with_context(|| format!("no line {label:?} in {text}"))?;
            let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().with_context(|| format!("no LSN after {label:?} in {text}"))
        };
        let (tail, end, count) = (point("tail ")?, point("end ")?, point("records ")?);
        let mut records = BTreeMap::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [lsn, rest @ ..] = words.as_slice()
                && rest.len() == 4
                && let Ok(lsn) = lsn.parse()
            {
                records.insert(lsn, rest.join(" "));
            }
        }
        if records.len() as u64 != count {
            bail!("{} records are listed of {count}", records.len());
        }
        Ok(Listing { tail, end, records })
    }
}

/// The number of records that both logs list, all of them alike.
///
/// # Errors
/// The first record that differs, or two logs that do not overlap although they should.
pub fn common_records(one: &Listing, other: &Listing) -> Result<u64> {
    let mut common = 0;
    for (lsn, record) in &one.records {
        match other.records.get(lsn) {
            Some(twin) if twin == record => common += 1,
            Some(twin) => bail!("the record at LSN {lsn} is {record} in one log and {twin} in the other"),
            None if *lsn >= other.tail && *lsn < other.end => {
                bail!("a record begins at LSN {lsn} in one log and not in the other");
            }
            None => {}
        }
    }
    Ok(common)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
log            /dev/dax0.0 (67108864 bytes)
superblock 0   generation 3, valid
epoch          1 from LSN 0
tail           128/0000abcd
end            512/00001234 (no record)
records        3, Data 2, Epoch 1, Pad 0
beyond the end 0 intact-looking headers
             LSN     epoch  kind     payload  chained CRC
             128         1  Epoch          0  00000001
             192         1  Data         100  00000002
             384         1  Data          60  00000003
";

    #[test]
    fn a_listing_is_read() {
        let listing = Listing::parse(TEXT).unwrap();
        assert_eq!((listing.tail, listing.end), (128, 512));
        assert_eq!(listing.records[&192], "1 Data 100 00000002");
        let shortened = TEXT.replace("             192         1  Data         100  00000002\n", "");
        assert!(Listing::parse(&shortened).is_err());
        assert!(Listing::parse("not usable     damaged").is_err());
    }

    #[test]
    fn differing_missing_and_shifted_records_are_found() {
        let one = Listing::parse(TEXT).unwrap();
        assert_eq!(common_records(&one, &one).unwrap(), 3);
        let mut shorter = one.clone();
        shorter.records.remove(&384);
        shorter.end = 384;
        assert_eq!(common_records(&one, &shorter).unwrap(), 2);
        assert_eq!(common_records(&shorter, &one).unwrap(), 2);
        let mut holed = one.clone();
        holed.records.remove(&192);
        assert!(common_records(&one, &holed).is_err());
        let mut changed = one.clone();
        changed.records.insert(192, "1 Data 100 99999999".to_owned());
        assert!(common_records(&one, &changed).is_err());
    }
}
