//! How many of the partner's messages may wait for the executor.
//!
//! Who reads a link waits for a place before it reads on, so that a partner which sends faster than its messages can be
//! carried out fills its own socket, and costs this node no more memory than these. Everything else that is told to the
//! executor is bounded by who tells it: one answer of the witness, one outcome of each task.

use runtime::{Condvar, Instant, Mutex};
use std::sync::Arc;
use std::time::Duration;

/// Messages of one link. A pair that is well has a handful under way.
const PLACES: usize = 256;

/// The places of one link.
#[derive(Default)]
pub(super) struct Inbox {
    taken: Mutex<usize>,
    given_back: Condvar,
}

/// Given back when it is dropped.
pub(super) struct Place(Arc<Inbox>);

impl Inbox {
    /// Takes a place; `None`: there was none for so long.
    pub fn enter(self: &Arc<Inbox>, wait: Duration) -> Option<Place> {
        let until = Instant::now() + wait;
        let mut taken = self.taken.lock();
        while *taken >= PLACES {
            if self.given_back.wait_until(&mut taken, until).timed_out() {
                return None;
            }
        }
        *taken += 1;
        Some(Place(self.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.taken.lock() -= 1;
        self.0.given_back.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_floods_waits_for_a_place() {
        let inbox = Arc::new(Inbox::default());
        let now = Duration::ZERO;
        let places: Vec<Place> = (0..PLACES).map_while(|_| inbox.enter(now)).collect();
        assert_eq!(places.len(), PLACES);
        assert!(inbox.enter(Duration::from_millis(1)).is_none(), "one more than there are");
        let waiting = {
            let inbox = inbox.clone();
            std::thread::spawn(move || inbox.enter(Duration::from_secs(30)).is_some())
        };
        drop(places);
        assert!(waiting.join().unwrap(), "whoever carries one out lets the next one in");
        assert!(inbox.enter(now).is_some());
    }
}
