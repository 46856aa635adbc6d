//! How much of the partner's messages may wait for the executor.
//!
//! Who reads a link waits for room before it reads on, so that a partner which sends faster than its messages can be
//! carried out fills its own socket, and costs this node no more memory than this, over how many links it may send. Everything
//! else that is told to the executor is bounded by who tells it: one answer of the witness, one outcome of each task.

use runtime::{Condvar, Instant, Mutex};
use std::sync::Arc;
use std::time::Duration;

/// Messages of a pair that is well take a few KiB. One message always fits.
const ROOM_BYTES: usize = 4 << 20;
/// What a message costs beside its bytes.
const MESSAGE_BYTES: usize = 128;

/// The room of one volume.
#[derive(Default)]
pub(super) struct Inbox {
    taken_bytes: Mutex<usize>,
    given_back: Condvar,
}

/// Given back when it is dropped.
pub(super) struct Place {
    inbox: Arc<Inbox>,
    bytes: usize,
}

impl Inbox {
    /// Takes room for one message of so many bytes; `None`: there was none for so long.
    pub fn enter(self: &Arc<Inbox>, len_bytes: usize, wait: Duration) -> Option<Place> {
        let (until, bytes) = (Instant::now() + wait, len_bytes.saturating_add(MESSAGE_BYTES));
        let mut taken = self.taken_bytes.lock();
        while *taken > 0 && taken.saturating_add(bytes) > ROOM_BYTES {
            if self.given_back.wait_until(&mut taken, until).timed_out() {
                return None;
            }
        }
        *taken = taken.saturating_add(bytes);
        Some(Place { inbox: self.clone(), bytes })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.inbox.taken_bytes.lock() -= self.bytes;
        self.inbox.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_floods_waits_for_room() {
        let inbox = Arc::new(Inbox::default());
        let now = Duration::ZERO;
        let small: Vec<Place> = std::iter::from_fn(|| inbox.enter(0, now)).take(1 << 20).collect();
        assert_eq!(small.len(), ROOM_BYTES / MESSAGE_BYTES, "they cost something, too");
        assert!(inbox.enter(0, Duration::from_millis(1)).is_none(), "one more than there is room for");
        let waiting = {
            let inbox = inbox.clone();
            std::thread::spawn(move || inbox.enter(0, Duration::from_secs(30)).is_some())
        };
        drop(small);
        assert!(waiting.join().unwrap(), "whatever is carried out lets the next one in");
        let large = inbox.enter(2 * ROOM_BYTES, now);
        assert!(large.is_some() && inbox.enter(0, now).is_none(), "one always fits, and nothing beside it");
        drop(large);
        assert!(inbox.enter(ROOM_BYTES - MESSAGE_BYTES, now).is_some());
    }
}
