//! The partner's side of a walk: it waits until its tree stands where the primary's stands, and tells what it holds.
//!
//! Each question stands on its own: nothing is kept between two of them, so nothing has to be given up when a link or
//! the primary ends. What can go wrong: this tree never stands there (this node applied in other steps); the primary
//! then asks again at its next consistency point.

use super::super::event::NodeEvent;
use super::super::shared::Shared;
use super::wire::{Described, MAX_NAMES_BYTES, MAX_OBJECTS, MAX_PART_BYTES, MAX_REPAIRED, Word};
use apply_engine::verify::{self, Key, Part, UNREADABLE};
use ids::{Lsn, Oid};
use pair::Operator;
use runtime::Instant;
use runtime::channel::bounded;
use std::time::Duration;

/// Longest wait for the consistency point that ends there. The primary gives up earlier when its log fills.
const THERE_LIMIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(1);

/// Answers a question of the primary's walk.
pub(super) fn answer(shared: &Shared, word: Word) {
    match word {
        Word::Compare { asked, at, from, max_objects } => {
            let part = at_lsn(shared, at, || part(shared, from, max_objects));
            let answer = match part {
                Ok(part) => Word::Part { asked, part },
                Err(why) => Word::NotThere { asked, why },
            };
            shared.verify.say(&answer);
        }
        Word::Describe { asked, at, oids } => {
            let described = at_lsn(shared, at, || Ok(describe(shared, &oids)));
            let answer = match described {
                Ok(described) => Word::Descriptions { asked, described },
                Err(why) => Word::NotThere { asked, why },
            };
            shared.verify.say(&answer);
        }
        Word::Locate { asked, oids } => {
            let found = verify::paths(&shared.base, &oids.into_iter().collect()).unwrap_or_default();
            let (mut paths, mut room) = (Vec::new(), MAX_NAMES_BYTES);
            for (oid, path) in found {
                room = room.saturating_sub(path.len() + 16);
                if room == 0 {
                    break;
                }
                paths.push((oid, path));
            }
            shared.verify.say(&Word::Located { asked, paths });
        }
        Word::Repair { oids, more } => repair(shared, oids, more),
        _ => {}
    }
}

/// A part of what this tree holds.
pub(super) fn part(shared: &Shared, from: Key, max_objects: usize) -> Result<Part, String> {
    let part = verify::part(&shared.base, from, max_objects, MAX_PART_BYTES);
    let part = part.map_err(|error| error.to_string())?;
    if part.seen.iter().any(|(_, digest)| *digest == UNREADABLE) {
        // One object of a disk that works, or the disk? That is no difference between trees.
        shared.base.answers().map_err(|error| format!("the disk fails: {error}"))?;
    }
    Ok(part)
}

/// Does something while the tree stands at `at`.
fn at_lsn<T>(shared: &Shared, at: Lsn, act: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let deadline = Instant::now() + THERE_LIMIT;
    loop {
        if shared.path.cursors().applied() >= at {
            let _stands = shared.applier.exclusive();
            let applied = shared.path.cursors().applied();
            if applied == at && !shared.applier.is_half_applied() && !shared.resync.is_replacing() {
                return act();
            }
            if applied > at {
                return Err(format!("the tree stands at {applied} and not at {at}"));
            }
        }
        if shared.is_stopping() || Instant::now() > deadline {
            return Err(format!("the tree did not get to {at} in time"));
        }
        runtime::sleep(LOOK);
    }
}

/// What these are like, with the names that directories hold.
pub(super) fn describe(shared: &Shared, oids: &[Oid]) -> Vec<Described> {
    let mut room = MAX_NAMES_BYTES;
    let one = |oid: &Oid| {
        let aspects = verify::aspects(&shared.base, *oid).ok().flatten();
        let names = verify::names(&shared.base, *oid).ok().flatten().filter(|names| {
            let len = names.iter().map(|(name, _)| name.len() + 16).sum::<usize>();
            let fits = len <= room && names.len() <= MAX_OBJECTS;
            room -= if fits { len } else { 0 };
            fits
        });
        Described { aspects, names }
    };
    oids.iter().map(one).collect()
}

/// Collects what the primary wants repaired, and asks the pair for a resync in which all of it is compared by content.
fn repair(shared: &Shared, oids: Vec<Oid>, more: bool) {
    {
        let mut extra = shared.resync.extra.lock();
        extra.extend(oids);
        // No primary of ours asks for more.
        while extra.len() > MAX_REPAIRED {
            extra.pop_last();
        }
    }
    if more {
        return;
    }
    let (answer, answered) = bounded(1);
    shared.tell(NodeEvent::Operator { wish: Operator::Resync { by_content: false }, answer });
    if let Ok(Err(why)) = answered.recv_timeout(THERE_LIMIT) {
        tracing::warn!(volume = shared.name(), %why, "the repair was refused");
    }
}
