//! Places in a send queue: a request takes one until a completion at or behind it is seen.
//!
//! Only every [`SIGNAL_EVERY`]th request asks for a completion (selective signalling); a completion frees all
//! places before it, because a queue pair completes in order. Invariant: no more requests are under way than the
//! queue has places, and enough of them are signalled that the places always come back.

/// Requests from one signalled to the next.
pub(super) const SIGNAL_EVERY: u32 = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Budget {
    depth: u32,
    posted: u64,
    done: u64,
    unsignalled: u32,
}

impl Budget {
    pub(super) fn new(depth: u32) -> Budget {
        assert!(
            depth >= 2 * SIGNAL_EVERY,
            "a shorter queue could fill up with requests that are not signalled"
        );
        Budget { depth, posted: 0, done: 0, unsignalled: 0 }
    }

    /// Free places.
    pub(super) fn room(&self) -> u32 {
        self.depth - (self.posted - self.done) as u32
    }

    /// Takes a place: the request's id, and whether it is signalled, which `must` demands.
    pub(super) fn take(&mut self, must: bool) -> (u64, bool) {
        assert!(self.room() > 0, "callers look for room first");
        self.posted += 1;
        self.unsignalled += 1;
        let signalled = must || self.unsignalled >= SIGNAL_EVERY;
        if signalled {
            self.unsignalled = 0;
        }
        (self.posted, signalled)
    }

    /// The request `id` and all before it are done.
    pub(super) fn done(&mut self, id: u64) {
        assert!(id <= self.posted, "completions are of requests");
        self.done = self.done.max(id);
    }

    /// Whether the request `id` is done.
    pub(super) fn is_done(&self, id: u64) -> bool {
        self.done >= id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        /// Against a queue that is only a list: never more than its depth, and never stuck.
        #[test]
        fn places_come_back(depth in 2 * SIGNAL_EVERY..200, steps in proptest::collection::vec((0..40u32, any::<bool>(), 0..9usize), 1..200)) {
            let mut budget = Budget::new(depth);
            let mut signals = VecDeque::new();
            let mut places = 0;
            let mut newest_done = 0;
            for (count, must, completions) in steps {
                for _ in 0..count.min(budget.room()) {
                    let (id, signalled) = budget.take(must);
                    places += 1;
                    prop_assert_eq!(id, newest_done + places);
                    prop_assert!(places <= u64::from(depth));
                    signals.extend(signalled.then_some(id));
                }
                for id in signals.drain(..completions.min(signals.len())) {
                    budget.done(id);
                    places -= id - newest_done;
                    newest_done = id;
                }
                prop_assert_eq!(u64::from(budget.room()), u64::from(depth) - places);
                prop_assert!(budget.room() > 0 || !signals.is_empty(), "stuck");
            }
        }
    }
}
