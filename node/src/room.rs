//! What the primary asks its partner when a full volume is written to: has your tree blocks for this range of a file?
//!
//! The answer stays right for as long as no record takes those blocks away, and the primary sees every record. What can
//! go wrong: the partner does not answer in time (its disk hangs, it is of an older version, the link ends), or many
//! questions are open there; then there is no room, which is what the client would have heard without asking.

use super::shared::Shared;
use super::verify::Word;
use ids::{Lsn, Oid};
use rdma_transport::Control;
use runtime::channel::{Sender, bounded};
use runtime::{Instant, Mutex};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Longest wait for the partner's answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// How long what the primary has committed may take to be absorbed, and how often it is looked for.
const ABSORBED_WITHIN: Duration = Duration::from_millis(500);
const ABSORB_POLL: Duration = Duration::from_millis(5);
/// Questions that are looked into at once; each may hang with the disk.
const MAX_OPEN: usize = 4;

/// See the module: what a volume's threads share about it.
#[derive(Default)]
pub(super) struct RoomState {
    peer: Mutex<Option<Arc<dyn Control>>>,
    waiting: Mutex<Waiting>,
    open: AtomicUsize,
}

#[derive(Default)]
struct Waiting {
    asked: u64,
    answers: HashMap<u64, Sender<bool>>,
}

impl RoomState {
    /// Another link, or none.
    pub fn set_peer(&self, peer: Option<Arc<dyn Control>>) {
        *self.peer.lock() = peer;
    }

    /// Asks the partner, and waits for its answer for a bounded time.
    pub fn ask(&self, at: Lsn, oid: Oid, range: Range<u64>) -> bool {
        let Some(control) = self.peer.lock().clone() else { return false };
        let (answer, answered) = bounded(1);
        let asked = {
            let mut waiting = self.waiting.lock();
            waiting.asked += 1;
            let asked = waiting.asked;
            waiting.answers.insert(asked, answer);
            asked
        };
        let question = Word::Allocated { asked, at, oid, range };
        let has =
            control.send(&question.encode()).is_ok() && answered.recv_timeout(ANSWER_LIMIT).unwrap_or(false);
        self.waiting.lock().answers.remove(&asked);
        has
    }

    /// The partner answered. One that comes too late is for nobody.
    pub fn answered(&self, asked: u64, has: bool) {
        if let Some(answer) = self.waiting.lock().answers.remove(&asked) {
            let _nobody_waits_any_more = answer.try_send(has);
        }
    }
}

/// Answers the primary, from a thread of its own: the disk may hang.
pub(super) fn answer(shared: &Arc<Shared>, asked: u64, at: Lsn, oid: Oid, range: Range<u64>) {
    let no = |shared: &Shared| shared.verify.say(&Word::IsAllocated { asked, is: false });
    if shared.room.open.fetch_add(1, Ordering::AcqRel) >= MAX_OPEN {
        shared.room.open.fetch_sub(1, Ordering::AcqRel);
        no(shared);
        return;
    }
    let looks = shared.clone();
    let spawned = runtime::spawn("room", move || {
        let is = is_allocated(&looks, at, oid, range);
        looks.room.open.fetch_sub(1, Ordering::AcqRel);
        looks.verify.say(&Word::IsAllocated { asked, is });
    });
    if let Err(error) = spawned {
        tracing::warn!(volume = shared.name(), %error, "no thread for a question of the partner");
        shared.room.open.fetch_sub(1, Ordering::AcqRel);
        no(shared);
    }
}

/// Looks again when what the primary had committed has been absorbed, for the room may have been made by it.
fn is_allocated(shared: &Shared, at: Lsn, oid: Oid, range: Range<u64>) -> bool {
    let until = Instant::now() + ABSORBED_WITHIN;
    loop {
        let Some(absorbed) = shared.follower.absorbed() else { return false };
        let is = shared.stack.snapshot().is_allocated(oid, range.clone()).unwrap_or(false);
        if is || absorbed >= at || Instant::now() >= until {
            return is;
        }
        runtime::sleep(ABSORB_POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdma_transport::LinkError;

    struct Answers(Box<dyn Fn(Word) + Send + Sync>);

    impl Control for Answers {
        fn send(&self, message: &[u8]) -> Result<(), LinkError> {
            (self.0)(Word::decode(message).unwrap());
            Ok(())
        }
        fn recv(&self, _wait: Duration) -> Result<Option<Vec<u8>>, LinkError> {
            Ok(None)
        }
        fn close(&self) {}
    }

    #[test]
    fn a_partner_that_does_not_answer_has_no_room() {
        let state = Arc::new(RoomState::default());
        assert!(!state.ask(Lsn(1), Oid(5), 0..10), "there is none");
        state.set_peer(Some(Arc::new(Answers(Box::new(|_| ())))));
        assert!(!state.ask(Lsn(1), Oid(5), 0..10), "it says nothing");
        for is in [true, false] {
            let hears = state.clone();
            let answers = move |word| match word {
                Word::Allocated { asked, at: Lsn(1), oid: Oid(5), range: Range { start: 0, end: 10 } } => {
                    hears.answered(asked + 1, !is);
                    hears.answered(asked, is);
                }
                word => panic!("{word:?}"),
            };
            state.set_peer(Some(Arc::new(Answers(Box::new(answers)))));
            assert_eq!(state.ask(Lsn(1), Oid(5), 0..10), is);
        }
        assert!(state.waiting.lock().answers.is_empty());
    }
}
