//! What has come of a data channel and was not taken yet.
//!
//! With keys it holds, one behind the other, what was opened and what is still sealed; whole records are opened in
//! place, so nothing that the peer did not seal is ever seen as arrived.

use crate::tls::{LARGEST_RECORD_BYTES, Opener, RecordError, record_bytes};
use std::ops::Range;

/// Records that are received with one call when there are keys.
const RECORDS: usize = 8;

/// See the module.
pub(super) struct Inbox {
    bytes: Box<[u8]>,
    opened: Range<usize>,
    /// Starts where `opened` ends, or later.
    sealed: Range<usize>,
    opener: Option<Opener>,
}

impl Inbox {
    /// Room for so many bytes, or for some records.
    pub fn new(len_bytes: usize, opener: Option<Opener>) -> Inbox {
        let len_bytes = if opener.is_some() { RECORDS * LARGEST_RECORD_BYTES } else { len_bytes };
        Inbox { bytes: vec![0; len_bytes].into_boxed_slice(), opened: 0..0, sealed: 0..0, opener }
    }

    /// Whether what comes must be opened before it is put anywhere.
    pub fn is_sealed(&self) -> bool {
        self.opener.is_some()
    }

    /// What has arrived and was not consumed.
    pub fn arrived(&self) -> &[u8] {
        &self.bytes[self.opened.clone()]
    }

    pub fn consume(&mut self, len: usize) {
        assert!(len <= self.opened.len());
        self.opened.start += len;
    }

    /// Moves what is there to the front: as much room as there can be.
    pub fn make_room(&mut self) {
        let (opened, sealed) = (self.opened.clone(), self.sealed.clone());
        if opened.start > 0 || sealed.start > opened.len() {
            self.bytes.copy_within(opened.clone(), 0);
            self.bytes.copy_within(sealed.clone(), opened.len());
            self.opened = 0..opened.len();
            self.sealed = opened.len()..opened.len() + sealed.len();
        }
    }

    /// Where the next bytes go.
    pub fn room(&mut self) -> &mut [u8] {
        let room = &mut self.bytes[self.sealed.end..];
        assert!(!room.is_empty(), "a full inbox holds a whole head");
        room
    }

    /// So many bytes were put into the room; gives how many have arrived by that.
    pub fn received(&mut self, len: usize) -> Result<usize, RecordError> {
        self.sealed.end += len;
        let before = self.opened.len();
        match &mut self.opener {
            None => {
                self.opened.end = self.sealed.end;
                self.sealed.start = self.sealed.end;
            }
            Some(opener) => {
                while let Some(len) = record_bytes(&self.bytes[self.sealed.clone()])?
                    && len <= self.sealed.len()
                {
                    let record = self.sealed.start..self.sealed.start + len;
                    self.opened.end += opener.open(&mut self.bytes, self.opened.end, record)?;
                    self.sealed.start += len;
                }
            }
        }
        Ok(self.opened.len() - before)
    }
}
