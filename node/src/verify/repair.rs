//! The partner takes what differs from this node, by a resync of the named objects.
//!
//! What can go wrong: the partner does not begin, or the pair comes to another state meanwhile; then it is said so, and
//! what differs is still known to.

use super::progress::Doing;
use super::session::{ANSWER_LIMIT, LOOK, Session};
use super::wire::{MAX_OBJECTS, Word};
use admin_api::status::{Mode, Role};
use ids::Oid;
use runtime::Instant;
use std::collections::BTreeSet;
use std::time::Duration;

/// Longest wait for a repair.
const REPAIR_LIMIT: Duration = Duration::from_secs(24 * 3600);

impl Session<'_> {
    /// Lets the partner take these from this node, by a resync, and waits until it is as good as any partner.
    pub(super) fn repair(&mut self, found: &BTreeSet<Oid>) -> Result<(), String> {
        self.tell(Doing::Repairing);
        for word in repair_words(found) {
            self.say(&word)?;
        }
        let deadline = Instant::now() + REPAIR_LIMIT;
        let mut left_mirrored = false;
        let began = Instant::now();
        loop {
            let mirrored = {
                let pair = self.shared.pair.lock();
                let pair = pair.as_ref().ok_or("the volume has stopped")?;
                // Without its partner it goes on alone in an epoch of its own, which it takes over first.
                if pair.role != Role::Primary && pair.mode != Mode::TakingOver {
                    return Err("this node is no primary any more".to_owned());
                }
                pair.mode == Mode::Mirrored
            };
            left_mirrored |= !mirrored;
            if left_mirrored && mirrored {
                return Ok(());
            }
            if !left_mirrored && began.elapsed() > ANSWER_LIMIT {
                return Err(
                    "the partner did not begin to take what differs: see its log and status".to_owned()
                );
            }
            if self.shared.is_stopping() || Instant::now() > deadline {
                return Err("the repair did not end in time".to_owned());
            }
            runtime::sleep(LOOK);
        }
    }
}

/// What the partner is to take from this node. It asks for a resync once it has heard all of it: what came after that
/// began would not be compared.
fn repair_words(found: &BTreeSet<Oid>) -> Vec<Word> {
    let all: Vec<Oid> = found.iter().copied().collect();
    let mut lists = all.chunks(MAX_OBJECTS).peekable();
    let mut words = Vec::new();
    while let Some(oids) = lists.next() {
        words.push(Word::Repair { oids: oids.to_vec(), more: lists.peek().is_some() });
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::wire::MAX_REPAIRED;
    use super::*;

    #[test]
    fn the_last_word_of_a_repair_says_so_and_all_of_them_may_wait_at_the_partner() {
        let words = repair_words(&(1..=MAX_REPAIRED as u64).map(Oid).collect());
        assert!(words.len() < super::super::MAX_WAITING);
        let told = words.iter().map(|word| match Word::decode(&word.encode()) {
            Ok(Word::Repair { oids, more }) => (oids.len(), more),
            other => panic!("{other:?}"),
        });
        let (lens, more): (Vec<usize>, Vec<bool>) = told.unzip();
        assert_eq!(lens.iter().sum::<usize>(), MAX_REPAIRED);
        assert_eq!(more.iter().position(|more| !more), Some(words.len() - 1));
        assert_eq!(
            repair_words(&BTreeSet::from([Oid(2)])),
            [Word::Repair { oids: vec![Oid(2)], more: false }]
        );
    }
}
