//! Answers that are ready and wait for a commit, given by whoever advances it.
//!
//! Invariant: every answer is given exactly once: adding one comes before the last look at what is committed and at
//! whether anybody is served, and both change before the list is looked through. What can go wrong: nothing commits
//! for long; then only memory is held, and a client that was killed is let go.

use super::patience::{Answer, Client, Denied};
use ids::Lsn;
use runtime::{Instant, Mutex};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

struct Owed {
    client: Client,
    since: Instant,
    answer: Answer,
}

/// The answers of one volume, by the position that has to be committed.
#[derive(Default)]
pub(super) struct Answers {
    list: Mutex<BTreeMap<(Lsn, u64), Owed>>,
    count: AtomicUsize,
    next: AtomicU64,
}

impl Answers {
    /// Keeps one until everything before `lsn` is committed.
    pub fn add(&self, lsn: Lsn, client: Client, answer: Answer) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut list = self.list.lock();
        list.insert((lsn, number), Owed { client, since: Instant::now(), answer });
        self.count.store(list.len(), Ordering::SeqCst);
    }

    /// Waits no answer?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// The last position that one waits for.
    pub fn last(&self) -> Option<Lsn> {
        self.list.lock().last_key_value().map(|((lsn, _), _)| *lsn)
    }

    /// Gives those whose records are all `committed`.
    #[inline]
    pub fn give(&self, committed: Lsn) {
        if !self.is_empty() {
            self.give_some(committed);
        }
    }

    fn give_some(&self, committed: Lsn) {
        let given = {
            let mut list = self.list.lock();
            let later = list.split_off(&(committed.plus(1), 0));
            let given = std::mem::replace(&mut *list, later);
            self.count.store(list.len(), Ordering::SeqCst);
            given
        };
        for owed in given.into_values() {
            (owed.answer)(Ok(()));
        }
    }

    /// Tells all why there is none.
    pub fn deny_all(&self, why: Denied) {
        let denied = {
            let mut list = self.list.lock();
            self.count.store(0, Ordering::SeqCst);
            std::mem::take(&mut *list)
        };
        for owed in denied.into_values() {
            (owed.answer)(Err(why));
        }
    }

    /// Lets those go that have waited for `patience` and whose clients take no answer any more. Asks the clients
    /// without holding anything.
    pub fn let_go(&self, patience: Duration) {
        let asked: Vec<_> = {
            let list = self.list.lock();
            let waited = list.iter().filter(|(_, owed)| owed.since.elapsed() >= patience);
            waited.map(|(key, owed)| (*key, owed.client)).collect()
        };
        for (key, client) in asked {
            if (client.gave_up)(client.id)
                && let Some(owed) = self.take(key)
            {
                (owed.answer)(Err(Denied::Interrupted));
            }
        }
    }

    fn take(&self, key: (Lsn, u64)) -> Option<Owed> {
        let mut list = self.list.lock();
        let taken = list.remove(&key);
        self.count.store(list.len(), Ordering::SeqCst);
        taken
    }
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answers").field("waiting", &self.len()).finish_non_exhaustive()
    }
}
