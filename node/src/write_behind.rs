//! What the two nodes of a volume that answers out of memory tell each other about their logs' devices.
//!
//! The partner acknowledges what it holds in memory over the mirror, and tells here what its log has durably; the primary
//! tells for what somebody waits. Both nodes have to want that: the stronger of both configurations counts.
//!
//! Invariants: a word counts for the link that it came over and no other; the partner tells of a link only what it wrote
//! while it received over that. What can go wrong: a word is lost with its link; what it was about is asked anew.

use super::shared::Shared;
use admin_api::status::FaultKind;
use config::VolumeConfig;
use ids::{AnswerFrom, LogPoint, Lsn};
use pair::LogSummary;
use rdma_transport::Control;
use runtime::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How each of these messages begins; none of the others does. The last byte is their version.
const MAGIC: &[u8; 5] = b"TwWb\x01";

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Word {
    /// (to the primary) My log has everything before this durably.
    Durable(LogPoint),
    /// (to the partner) Somebody waits until you have everything before this durably.
    Wanted(Lsn),
}

impl Word {
    fn encode(self) -> Vec<u8> {
        postcard::to_extend(&self, MAGIC.to_vec()).expect("plain data always encodes")
    }

    fn decode(bytes: &[u8]) -> Option<Word> {
        postcard::from_bytes(bytes.strip_prefix(MAGIC)?).ok()
    }
}

/// A link, and where messages go out.
pub(super) type Way = (u64, Arc<dyn Control>);

/// See the module: what a volume's threads share about it.
#[derive(Default)]
pub(super) struct WriteBehind {
    peer: Mutex<Option<Way>>,
    /// The partner of the link wants answers out of memory, as this node does.
    agreed: AtomicBool,
    /// The link over which this node receives, and acknowledges out of memory; 0: none.
    receiving: AtomicU64,
}

impl WriteBehind {
    /// Another link, or none; nothing is agreed yet.
    pub fn set_peer(&self, peer: Option<Way>) {
        self.agreed.store(false, Ordering::SeqCst);
        self.receiving.store(0, Ordering::SeqCst);
        *self.peer.lock() = peer;
    }

    /// What answers wait for while the partner of the link has everything.
    pub fn agreed(&self) -> AnswerFrom {
        match self.agreed.load(Ordering::SeqCst) {
            true => AnswerFrom::Memory,
            false => AnswerFrom::Power,
        }
    }

    /// This node receives over `link` from now on, and acknowledges out of memory if that is agreed.
    pub fn receives(&self, link: u64) -> AnswerFrom {
        let agreed = self.agreed();
        self.receiving.store(if agreed == AnswerFrom::Memory { link } else { 0 }, Ordering::SeqCst);
        agreed
    }

    /// It does not any more.
    pub fn receives_no_more(&self) {
        self.receiving.store(0, Ordering::SeqCst);
    }

    /// Who has to hear what this node's log has durably.
    pub fn listener(&self) -> Option<Way> {
        let link = self.receiving.load(Ordering::SeqCst);
        self.peer.lock().clone().filter(|(id, _)| *id == link)
    }

    /// Tells the partner that somebody waits for it.
    pub fn want(&self, lsn: Lsn) {
        if let Some(way) = self.peer.lock().clone() {
            send(&way, Word::Wanted(lsn));
        }
    }
}

fn send((link, control): &Way, word: Word) {
    if let Err(error) = control.send(&word.encode()) {
        tracing::debug!(link, %error, "a word about the log's device was not sent");
    }
}

/// What the partner's configuration is, before anything is sent to it.
pub(super) fn heard_hello(shared: &Shared, theirs: &LogSummary) {
    let (own, other) = (shared.config.answer, theirs.answer_from);
    // The stronger counts.
    shared.write_behind.agreed.store(own.max(other) == AnswerFrom::Memory, Ordering::SeqCst);
    if own == other {
        shared.faults.clear(FaultKind::AnswerDiffers);
        return;
    }
    let what = format!(
        "the nodes disagree on `answer`: {own} here, {other} at the partner; the stronger counts, so an answer waits \
         for both logs"
    );
    let remedy = "write the same on both nodes, and restart the one that was changed";
    shared.faults.raise(FaultKind::AnswerDiffers, &what, remedy);
}

/// Whether these bytes are such a message.
pub(super) fn is_about(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// The partner at the other end of `link` said something. Waits for nothing.
pub(super) fn heard(shared: &Shared, link: u64, bytes: &[u8]) {
    match Word::decode(bytes) {
        Some(Word::Durable(point)) => shared.path.partner_is_durable(link, point),
        Some(Word::Wanted(lsn)) => shared.path.want_durable(lsn),
        None => tracing::debug!(link, "a word about the log's device is damaged; it is passed over"),
    }
}

/// The thread that writes behind answers, where this node's configuration lets there be any.
pub(super) fn run(shared: &Shared) {
    let mut told = (0, Lsn::ZERO);
    shared.path.flush_behind(
        || shared.write_behind.listener(),
        |way, durable| {
            if (way.0, durable.lsn) != told {
                told = (way.0, durable.lsn);
                send(&way, Word::Durable(durable));
            }
        },
    );
}

/// Whether a volume has that thread.
pub(super) fn is_for(config: &VolumeConfig) -> bool {
    config.answer == AnswerFrom::Memory
}

/// See `fuzzing`.
#[cfg(fuzzing)]
pub(super) fn try_message(bytes: &[u8]) {
    if let Some(word) = Word::decode(bytes) {
        assert_eq!(Word::decode(&word.encode()), Some(word));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ids::ChainCrc;

    #[test]
    fn a_word_is_told_from_others_and_comes_back() {
        for word in [Word::Durable(LogPoint { lsn: Lsn(640), crc: ChainCrc(7) }), Word::Wanted(Lsn(64))] {
            let bytes = word.encode();
            assert!(is_about(&bytes) && !is_about(&pair::Message::Goodbye.encode()));
            assert_eq!(Word::decode(&bytes), Some(word));
            assert_eq!(Word::decode(&bytes[..bytes.len() - 1]), None);
        }
    }
}
