//! What a base has refused of one object, and how a reader sees the object with it.
//!
//! Everything here wins over what the tree says of the same thing. Pieces of content do not overlap; a piece ends where
//! a later write that the tree took begins. Not kept: reservations without content (a base that cannot reserve answers
//! so to nobody).

use ids::Lsn;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::attributes::{Attributes, ObjectKind, Timestamp};
use crate::base::Label;

/// First bytes of a stored record: what it is, and the version of the rest.
const MAGIC: &[u8; 8] = b"TWFREM02";
/// Those of the version before it: the same without what was added at the end.
const MAGIC_1: &[u8; 8] = b"TWFREM01";
/// What those lack: no identity, no label.
const MISSING_1: &[u8] = &[0, 0];
/// Length of a checksum.
const SUM_BYTES: usize = size_of::<u64>();
/// What an entry of any kind costs beside its bytes, in bytes: so that a bound on bytes bounds entries, too.
const ENTRY_BYTES: u64 = 64;

/// A range of content.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Piece {
    /// These bytes: records are copied with each change, and may hold as much as the log did.
    Bytes(#[serde(with = "shared_bytes")] Arc<[u8]>),
    /// So many zeros.
    Zeros(u64),
}

impl Piece {
    pub fn len_bytes(&self) -> u64 {
        match self {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Zeros(len_bytes) => *len_bytes,
        }
    }

    /// The part of it that begins and ends so many bytes from its start.
    fn part(&self, range: Range<u64>) -> Piece {
        match self {
            Piece::Bytes(bytes) => Piece::Bytes(bytes[range.start as usize..range.end as usize].into()),
            Piece::Zeros(_) => Piece::Zeros(range.end - range.start),
        }
    }
}

/// Bytes as they are, without a look at each; as a `Vec<u8>` is encoded.
mod shared_bytes {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::sync::Arc;

    pub(super) fn serialize<S: Serializer>(bytes: &Arc<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<[u8]>, D::Error> {
        <&[u8]>::deserialize(deserializer).map(Arc::from)
    }
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Refused {
    pub mode: Option<u32>,
    /// User and group.
    pub owner: Option<(u32, u32)>,
    pub atime: Option<Timestamp>,
    pub mtime: Option<Timestamp>,
    /// By full name; `None` is removed.
    pub xattrs: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Length of the file.
    pub size: Option<u64>,
    /// By offset.
    pub pieces: BTreeMap<u64, Piece>,
    /// What was refused last, and the number of the error: for people.
    pub why: (String, i32),
    /// Whose values these are. An OID may get another object (a resync after a split), and a crash leave the record.
    pub of: Option<Identity>,
    /// What the label should say.
    pub label: Option<KeptLabel>,
}

/// What changes in a label; OID and generation never do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct KeptLabel {
    nlink: u32,
    mode: u32,
    ctime: Timestamp,
    last_lsn: u64,
}

impl KeptLabel {
    pub fn new(label: &Label) -> KeptLabel {
        let Label { oid: _, generation: _, nlink, mode, ctime, last_lsn } = *label;
        KeptLabel { nlink, mode, ctime, last_lsn: last_lsn.0 }
    }

    /// The label that the tree should hold where it holds this one.
    pub fn over(&self, label: Label) -> Label {
        let KeptLabel { nlink, mode, ctime, last_lsn } = *self;
        Label { nlink, mode, ctime, last_lsn: Lsn(last_lsn), ..label }
    }
}

/// Tells two objects apart that have had the same OID.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub kind: ObjectKind,
    pub generation: u64,
}

impl Identity {
    pub fn new(kind: ObjectKind, label: &Label) -> Identity {
        Identity { kind, generation: label.generation }
    }
}

impl Refused {
    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        let Refused { mode, owner, atime, mtime, xattrs, size, pieces, label, why: _, of: _ } = self;
        let attributes = mode.is_some() || owner.is_some() || atime.is_some() || mtime.is_some();
        !attributes && xattrs.is_empty() && size.is_none() && pieces.is_empty() && label.is_none()
    }

    /// What it takes, of memory and of the disk, to the nearest entry.
    pub fn cost_bytes(&self) -> u64 {
        let xattrs: u64 = self
            .xattrs
            .iter()
            .map(|(name, value)| (name.len() + value.as_ref().map_or(0, Vec::len)) as u64 + ENTRY_BYTES)
            .sum();
        let piece = |piece: &Piece| match piece {
            Piece::Bytes(bytes) => bytes.len() as u64 + ENTRY_BYTES,
            Piece::Zeros(_) => ENTRY_BYTES,
        };
        xattrs + self.pieces.values().map(piece).sum::<u64>() + ENTRY_BYTES
    }

    pub fn encode(&self) -> Vec<u8> {
        let head = [&MAGIC[..], &[0; SUM_BYTES]].concat();
        let start = head.len();
        let mut bytes = postcard::to_extend(self, head).expect("a record has no type that cannot be encoded");
        let sum = xxhash_rust::xxh3::xxh3_64(&bytes[start..]).to_le_bytes();
        bytes[start - SUM_BYTES..start].copy_from_slice(&sum);
        bytes
    }

    /// Reads a record; the error says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Refused, &'static str> {
        let (rest, missing) = match (bytes.strip_prefix(MAGIC), bytes.strip_prefix(MAGIC_1)) {
            (Some(rest), _) => (rest, &[][..]),
            (None, Some(rest)) => (rest, MISSING_1),
            (None, None) => return Err("it does not begin as such a record does"),
        };
        let (sum, body) = rest.split_first_chunk::<SUM_BYTES>().ok_or("it is cut short")?;
        if u64::from_le_bytes(*sum) != xxhash_rust::xxh3::xxh3_64(body) {
            return Err("its checksum is wrong");
        }
        let decoded = match missing {
            [] => postcard::from_bytes(body),
            missing => postcard::from_bytes(&[body, missing].concat()),
        };
        decoded.map_err(|_| "its checksum is right, and its content makes no sense")
    }

    /// Overwrites what it knows of an object's attributes. Those of the tree come in.
    pub fn patch(&self, attributes: &mut Attributes) {
        attributes.mode = self.mode.unwrap_or(attributes.mode);
        (attributes.uid, attributes.gid) = self.owner.unwrap_or((attributes.uid, attributes.gid));
        attributes.atime = self.atime.unwrap_or(attributes.atime);
        attributes.mtime = self.mtime.unwrap_or(attributes.mtime);
        attributes.size = self.size.unwrap_or(attributes.size);
        if let Some(label) = self.label {
            (attributes.nlink, attributes.ctime) = (label.nlink, label.ctime);
        }
        let bytes = self.pieces.values().filter(|piece| matches!(piece, Piece::Bytes(_)));
        attributes.blocks_bytes += bytes.map(Piece::len_bytes).sum::<u64>().next_multiple_of(512);
    }

    /// Adds the names of its xattrs to those that the tree has, and takes away those that it has as removed.
    pub fn patch_names(&self, names: &mut Vec<Vec<u8>>) {
        names.retain(|name| !self.xattrs.contains_key(name));
        names.extend(self.xattrs.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| name.clone()));
    }

    /// Whether it keeps content or a length.
    pub fn has_content(&self) -> bool {
        self.size.is_some() || !self.pieces.is_empty()
    }

    /// Fills `buf` from `offset`; fewer bytes only at the end. `tree` reads likewise what the tree has, `tree_size` long.
    pub fn read(
        &self,
        tree_size: u64,
        offset: u64,
        buf: &mut [u8],
        tree: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let size = self.size.unwrap_or(tree_size);
        let len = (buf.len() as u64).min(size.saturating_sub(offset)) as usize;
        let buf = &mut buf[..len];
        let got = tree(buf)?;
        buf[got..].fill(0);
        let end = offset + len as u64;
        for (at, piece) in self.within(offset..end) {
            let (from, to) = (at.max(offset), (at + piece.len_bytes()).min(end));
            let into = &mut buf[(from - offset) as usize..(to - offset) as usize];
            match piece {
                Piece::Bytes(bytes) => into.copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]),
                Piece::Zeros(_) => into.fill(0),
            }
        }
        Ok(len)
    }

    /// First byte of data at or past `offset`; `tree` is where the tree has its first one. Zeros that are kept may count.
    pub fn seek_data(&self, tree_size: u64, offset: u64, tree: Option<u64>) -> Option<u64> {
        let size = self.size.unwrap_or(tree_size);
        let kept = self.within(offset..u64::MAX).find(|(_, piece)| matches!(piece, Piece::Bytes(_)));
        let kept = kept.map(|(at, _)| at.max(offset));
        [kept, tree].into_iter().flatten().min().filter(|at| *at < size)
    }

    /// First byte at or past `offset` that is in a hole, the end being one; `tree` asks the tree likewise.
    pub fn seek_hole(
        &self,
        tree_size: u64,
        offset: u64,
        mut tree: impl FnMut(u64) -> io::Result<Option<u64>>,
    ) -> io::Result<Option<u64>> {
        let size = self.size.unwrap_or(tree_size);
        let mut at = offset;
        while at < size {
            // Past its end the tree has nothing.
            let hole = tree(at)?.unwrap_or(at);
            let covering = self.within(hole..hole.saturating_add(1)).next();
            match covering.filter(|(_, piece)| matches!(piece, Piece::Bytes(_))) {
                Some((start, piece)) => at = start + piece.len_bytes(),
                None => return Ok(Some(hole.min(size))),
            }
        }
        Ok((offset < size).then_some(size))
    }

    /// The tree has taken what it holds of a range.
    pub fn cut(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let touched: Vec<u64> = self.within(range.clone()).map(|(at, _)| at).collect();
        for at in touched {
            let Some(piece) = self.pieces.remove(&at) else { continue };
            let end = at + piece.len_bytes();
            if at < range.start {
                self.pieces.insert(at, piece.part(0..range.start - at));
            }
            if end > range.end {
                self.pieces.insert(range.end, piece.part(range.end - at..end - at));
            }
        }
    }

    /// The tree has refused these bytes, and stands as `tree_size`; the object was `size` long before.
    pub fn write(&mut self, offset: u64, bytes: impl Into<Arc<[u8]>>, size: u64, tree_size: u64) {
        let bytes = bytes.into();
        let end = offset + bytes.len() as u64;
        self.cut(offset..end);
        self.pieces.insert(offset, Piece::Bytes(bytes));
        self.set_size(size.max(end), tree_size);
    }

    /// The tree has refused to make a range zeros. Past its end there are none but those.
    pub fn zero(&mut self, range: Range<u64>, tree_size: u64) {
        self.cut(range.clone());
        let end = range.end.min(tree_size);
        if range.start < end {
            self.pieces.insert(range.start, Piece::Zeros(end - range.start));
        }
    }

    /// The tree, `tree_size` long, has refused this length.
    pub fn truncate(&mut self, size: u64, tree_size: u64) {
        self.cut(size..u64::MAX);
        // Else they would be back when it grows again.
        self.zero(size..u64::MAX, tree_size);
        self.set_size(size, tree_size);
    }

    /// The object is so long, and the tree so long.
    pub fn set_size(&mut self, size: u64, tree_size: u64) {
        self.size = (size != tree_size).then_some(size);
    }

    /// Pieces that touch a range, in order.
    fn within(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &Piece)> {
        let before = self.pieces.range(..range.start).next_back().map(|(at, _)| *at);
        let start = before.unwrap_or(range.start).min(range.start);
        let touched = self.pieces.range(start..range.end.max(start));
        touched
            .map(|(at, piece)| (*at, piece))
            .filter(move |(at, piece)| at + piece.len_bytes() > range.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(refused: &Refused, tree: &[u8]) -> Vec<u8> {
        let mut buf = vec![9; 64];
        let read = refused.read(tree.len() as u64, 0, &mut buf, |buf| {
            let len = tree.len().min(buf.len());
            buf[..len].copy_from_slice(&tree[..len]);
            Ok(len)
        });
        buf.truncate(read.expect("reads"));
        buf
    }

    #[test]
    fn what_was_refused_shows_through_until_it_is_taken() {
        let mut refused = Refused::default();
        refused.write(6, b"xyz".to_vec(), 4, 4);
        assert_eq!(shown(&refused, b"abcd"), b"abcd\0\0xyz");
        refused.truncate(2, 4);
        assert_eq!(shown(&refused, b"abcd"), b"ab");
        // It grows again: what the tree still has there must not come back.
        refused.set_size(6, 4);
        assert_eq!(shown(&refused, b"abcd"), b"ab\0\0\0\0");
        refused.cut(3..4);
        assert_eq!(shown(&refused, b"abcd"), b"ab\0d\0\0");
    }

    #[test]
    fn data_and_holes_are_found_through_it() {
        let mut refused = Refused::default();
        refused.write(1000, vec![1; 10], 0, 0);
        assert_eq!(refused.seek_data(0, 3, None), Some(1000));
        assert_eq!(refused.seek_data(0, 1010, None), None);
        assert_eq!(refused.seek_hole(0, 5, |_| Ok(None)).expect("asks"), Some(5));
        assert_eq!(refused.seek_hole(0, 1003, |_| Ok(None)).expect("asks"), Some(1010));
        assert_eq!(refused.seek_hole(0, 1010, |_| Ok(None)).expect("asks"), None);
    }

    #[test]
    fn a_damaged_record_is_told() {
        let mut refused = Refused { mode: Some(0o600), ..Refused::default() };
        refused.xattrs.insert(b"user.k".to_vec(), Some(vec![7; 3000]));
        let bytes = refused.encode();
        assert_eq!(Refused::decode(&bytes), Ok(refused));
        for at in [0, 9, 40, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            Refused::decode(&damaged).expect_err("every bit counts");
        }
        Refused::decode(&bytes[..bytes.len() - 1]).expect_err("cut short");
    }

    #[test]
    fn bytes_are_encoded_as_they_were_before_they_were_shared() {
        let encoded = postcard::to_stdvec(&Piece::Bytes(vec![7; 300].into())).expect("encodes");
        let before = postcard::to_stdvec(&(0_u8, vec![7_u8; 300])).expect("encodes");
        assert_eq!(encoded, before);
    }

    #[test]
    fn a_record_of_the_version_before_is_read() {
        let refused = Refused { size: Some(9), why: ("truncate".into(), 27), ..Refused::default() };
        let body = postcard::to_stdvec(&refused).expect("encodes");
        let body = body.strip_suffix(MISSING_1).expect("they stand at the end");
        let before = [&MAGIC_1[..], &xxhash_rust::xxh3::xxh3_64(body).to_le_bytes(), body].concat();
        assert_eq!(Refused::decode(&before), Ok(refused));
    }
}
