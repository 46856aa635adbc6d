//! The primary's side of `twinfiler verify`: holds its tree still for a moment, asks the partner for the same objects at
//! the same LSN, compares, lets the applier go on, and so on to the last object.
//!
//! A moment is at most [`STILL_LIMIT`] long, and ends at once when the log fills; clients' records gather in the log
//! meanwhile, as between any two consistency points. A part that the partner could not tell at that LSN is asked for
//! again at another one, so every object is compared, and only ever in the same state.
//!
//! What can go wrong: the pair stops being mirrored (the walk ends and says so), the partner never gets to the LSN
//! ([`MAX_ATTEMPTS`]), this node's disk.

use super::super::applier::{self, Exclusive};
use super::super::resync::throttle::Throttle;
use super::super::shared::Shared;
use super::answer;
use super::points::{self, named_as};
use super::progress::{Doing, Progress};
use super::wire::{MAX_DESCRIBED, MAX_OBJECTS, MAX_REPAIRED, Word};
use admin_api::control::{ControlError, ErrorKind};
use admin_api::status::{Mode, Role, VerifyFinding, VerifyResult};
use apply_engine::verify::{Finding, Key, Part, compare};
use ids::{AckRule, Oid};
use runtime::Instant;
use runtime::channel::{Receiver, bounded};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Longest time that consistency points wait for a comparison, beside one part.
const STILL_LIMIT: Duration = Duration::from_millis(300);
/// Longest wait for the partner's answer. It may have to apply before.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(12);
/// The tree is not held still while more of the log than this is in use, in thousandths.
const MAX_FILL_PERMILLE: u64 = 400;
/// Consistency points at which one part is tried.
const MAX_ATTEMPTS: u32 = 100;
/// Longest wait for a consistency point between two moments.
const POINT_LIMIT: Duration = Duration::from_secs(30);
/// Objects that a result names.
pub(super) const MAX_LISTED: usize = 1000;
const CAN_NOT_APPLY: &str = "this node cannot apply to its base filesystem: see its faults";
/// How often a wait looks.
pub(super) const LOOK: Duration = Duration::from_millis(10);

/// What an operator wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Give the partner what differs.
    pub repair: bool,
    /// Bytes per second that are read at most, on each side.
    pub max_rate_bytes: Option<u64>,
}

/// Begins a walk. Returns its number, which its result carries.
pub(crate) fn begin(shared: &Arc<Shared>, options: Options) -> Result<u64, ControlError> {
    let refused = |why: &str| ControlError::new(ErrorKind::Refused, why);
    let pair = shared.pair.lock().clone();
    if !pair.is_some_and(|pair| pair.role == Role::Primary && pair.mode == Mode::Mirrored) {
        return Err(refused(
            "only the primary of a mirrored pair compares; see `twinfiler status` for which node that is",
        ));
    }
    if shared.verify.running.swap(true, Ordering::AcqRel) {
        return Err(refused("the volume is being compared already; see `twinfiler status`"));
    }
    let run = shared.verify.runs.fetch_add(1, Ordering::Relaxed) + 1;
    *shared.verify.progress.lock() = Some(Progress::default());
    let (answers, to_session) = bounded(4);
    *shared.verify.answers.lock() = Some(answers);
    let s = shared.clone();
    let started = runtime::spawn("verify-walk", move || {
        runtime::be_bulk();
        Session::new(&s, to_session, options).run(run);
        *s.verify.answers.lock() = None;
        s.verify.running.store(false, Ordering::Release);
    });
    match started {
        Ok(_thread) => Ok(run),
        Err(error) => {
            *shared.verify.progress.lock() = None;
            shared.verify.running.store(false, Ordering::Release);
            Err(ControlError::new(ErrorKind::Failed, format!("no thread for it: {error}")))
        }
    }
}

pub(super) struct Session<'a> {
    pub(super) shared: &'a Shared,
    answers: Receiver<Word>,
    options: Options,
    throttle: Throttle,
    began: Instant,
    /// Compared in the first round: another one is about some of them again.
    objects: u64,
    read_bytes: u64,
    pub(super) found: BTreeMap<Oid, VerifyFinding>,
    pub(super) asked: u64,
}

/// A part that was compared.
struct Compared {
    /// Where the next one begins.
    next: Option<Key>,
    objects: u64,
    read_bytes: u64,
}

impl<'a> Session<'a> {
    fn new(shared: &'a Shared, answers: Receiver<Word>, options: Options) -> Session<'a> {
        let (now, rates) = (Instant::now(), &shared.config.resync);
        let max_rate = options.max_rate_bytes.unwrap_or(rates.max_rate_bytes);
        let end = shared.log.end().lsn;
        let throttle = Throttle::new(rates.min_rate_bytes.min(max_rate), max_rate, end, now);
        let (objects, read_bytes, asked) = (0, 0, 0);
        Session {
            shared,
            answers,
            options,
            throttle,
            began: now,
            objects,
            read_bytes,
            found: BTreeMap::new(),
            asked,
        }
    }

    fn run(mut self, run: u64) {
        let Options { repair, max_rate_bytes } = self.options;
        tracing::info!(volume = self.shared.name(), run, repair, max_rate_bytes, "both trees are compared");
        let mut repaired = 0;
        // Everything that was acknowledged before it began is compared.
        let mut walked = match applier::apply_all(self.shared, POINT_LIMIT) {
            true => self.round(None),
            false => Err(CAN_NOT_APPLY.to_owned()),
        };
        if walked.is_ok() {
            self.locate();
            self.judge();
            if self.options.repair && !self.found.is_empty() {
                let found: BTreeSet<Oid> = self.found.keys().copied().collect();
                walked = self.repair(&found).and_then(|()| {
                    self.found.clear();
                    self.round(Some(&found))
                });
                if walked.is_ok() {
                    repaired = (found.len() - self.found.len()) as u64;
                    self.locate();
                    self.judge();
                }
            }
        }
        let differing = self.found.len() as u64;
        tracing::info!(
            volume = self.shared.name(),
            run,
            differing,
            repaired,
            error = walked.as_ref().err().map(String::as_str),
            "the comparison ended"
        );
        let mut progress = self.shared.verify.progress.lock();
        *self.shared.verify.last.lock() = Some(VerifyResult {
            run,
            at_unix_ms: runtime::unix_ms(),
            duration_ms: self.began.elapsed().as_millis() as u64,
            objects: self.objects,
            bytes: self.read_bytes,
            differing,
            repaired,
            found: self.found.into_values().take(MAX_LISTED).collect(),
            error: walked.err(),
        });
        *progress = None;
    }

    /// Compares everything, or only these.
    pub(super) fn walk(&mut self, only: Option<&BTreeSet<Oid>>) -> Result<(), String> {
        let first = match only {
            None => Some(Key::FIRST),
            Some(only) => only.first().map(|oid| Key { oid: *oid, piece: 0 }),
        };
        let (mut at, mut attempts) = (first, 0);
        while let Some(from) = at {
            let frozen = self.stand_still()?;
            let until = Instant::now() + STILL_LIMIT;
            let mut here = Some(from);
            while let Some(from) = here {
                let max_objects = if only.is_some() { 1 } else { MAX_OBJECTS };
                match self.part(from, max_objects)? {
                    None => {
                        attempts += 1;
                        if attempts > MAX_ATTEMPTS {
                            return Err("the partner never stood where this node stands".to_owned());
                        }
                        break;
                    }
                    Some(Compared { next, objects, read_bytes }) => {
                        attempts = 0;
                        here = match only {
                            None => next,
                            Some(only) => next_of(only, from, next),
                        };
                        at = here;
                        self.objects += if only.is_none() { objects } else { 0 };
                        self.read_bytes += read_bytes;
                        let (differing, now) = (self.found.len() as u64, Instant::now());
                        self.shared
                            .verify
                            .note(|progress| progress.done(objects, read_bytes, differing, now));
                        let pause = self.throttle.pause(read_bytes, self.shared.log.end().lsn, now);
                        if !pause.is_zero() || Instant::now() > until || self.log_fills() {
                            break;
                        }
                    }
                }
            }
            drop(frozen);
            self.let_apply()?;
        }
        Ok(())
    }

    /// Waits until the tree stands between two consistency points, and keeps it there.
    fn stand_still(&self) -> Result<Exclusive<'a>, String> {
        let deadline = Instant::now() + POINT_LIMIT;
        loop {
            self.check()?;
            let frozen = self.shared.applier.exclusive();
            if !self.shared.applier.is_half_applied() {
                return Ok(frozen);
            }
            drop(frozen);
            if Instant::now() > deadline {
                return Err(CAN_NOT_APPLY.to_owned());
            }
            self.shared.applier.request();
            runtime::sleep(LOOK);
        }
    }

    /// Lets the applier, and whatever the throttle wants, go on.
    fn let_apply(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let pause = self.throttle.pause(0, self.shared.log.end().lsn, began);
        let applied = self.shared.path.cursors().applied();
        loop {
            self.check()?;
            let moved =
                self.shared.path.cursors().applied() > applied || self.shared.unapplied_records() == 0;
            if moved && began.elapsed() >= pause {
                return Ok(());
            }
            if began.elapsed() > POINT_LIMIT.max(pause) {
                return Err(CAN_NOT_APPLY.to_owned());
            }
            runtime::sleep(LOOK);
        }
    }

    /// One part of both sides, compared. `None`: the partner did not stand here.
    fn part(&mut self, from: Key, max_objects: usize) -> Result<Option<Compared>, String> {
        let at = self.shared.path.cursors().applied();
        self.asked += 1;
        let asked = self.asked;
        self.say(&Word::Compare { asked, at, from, max_objects })?;
        let ours = answer::part(self.shared, from, max_objects)?;
        let Some(theirs) = self.answer(asked, |word| match word {
            Word::Part { part, .. } => Some(part),
            _ => None,
        })?
        else {
            return Ok(None);
        };
        let theirs =
            Part { seen: theirs.seen.into_iter().filter(|(key, _)| *key >= from).collect(), ..theirs };
        let compared = compare(&ours, &theirs);
        if compared.next.is_some_and(|next| next <= from) {
            return Err("the partner's walk does not move: run the same program on both nodes".to_owned());
        }
        if self.found.len() + compared.found.len() > MAX_REPAIRED {
            return Err(format!(
                "more than {MAX_REPAIRED} objects differ, which is more than is told one by one: on the partner, \
                 `twinfiler resync VOLUME` compares and repairs everything"
            ));
        }
        let new: Vec<(Oid, Finding)> = compared
            .found
            .iter()
            .map(|(oid, finding)| (*oid, *finding))
            .filter(|(oid, _)| !self.found.contains_key(oid))
            .collect();
        for some in new.chunks(MAX_DESCRIBED) {
            self.describe(at, some)?;
        }
        let (next, objects, read_bytes) = (compared.next, compared.objects, ours.read_bytes);
        Ok(Some(Compared { next, objects, read_bytes }))
    }

    /// What the walk found becomes known, or what was known is over.
    fn judge(&self) {
        match self.found.is_empty() {
            true => points::all_is_the_same(self.shared),
            false => {
                for finding in self.found.values().take(MAX_LISTED) {
                    let name = named_as(Oid(finding.oid), finding.path.as_deref());
                    tracing::error!(volume = self.shared.name(), "{name}: {}", finding.what);
                }
                points::found(self.shared, &self.found);
            }
        }
    }

    pub(super) fn say(&self, word: &Word) -> Result<(), String> {
        self.check()?;
        match self.shared.verify.say(word) {
            true => Ok(()),
            false => Err("the link to the partner ended".to_owned()),
        }
    }

    /// `None`: the partner does not stand there, or this node's log fills meanwhile.
    pub(super) fn answer<T>(
        &self,
        wanted: u64,
        expected: impl Fn(Word) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let deadline = Instant::now() + ANSWER_LIMIT;
        while Instant::now() < deadline && !self.log_fills() {
            self.check()?;
            let Ok(word) = self.answers.recv_timeout(LOOK) else { continue };
            let (Word::Part { asked, .. }
            | Word::Descriptions { asked, .. }
            | Word::NotThere { asked, .. }
            | Word::Located { asked, .. }) = &word
            else {
                continue;
            };
            if *asked != wanted {
                continue;
            }
            if let Word::NotThere { why, .. } = &word {
                tracing::debug!(volume = self.shared.name(), why, "the partner was elsewhere");
                return Ok(None);
            }
            return Ok(expected(word));
        }
        Ok(None)
    }

    fn log_fills(&self) -> bool {
        let cursors = self.shared.path.cursors();
        let used = self.shared.log.reserved().since(cursors.trimmed());
        used * 1000 / cursors.capacity_bytes().max(1) > MAX_FILL_PERMILLE
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.shared.is_stopping() {
            return Err("the node stops".to_owned());
        }
        match self.shared.path.cursors().rule() {
            AckRule::Both | AckRule::Memory => Ok(()),
            _ => Err("the pair is not mirrored any more".to_owned()),
        }
    }

    /// From here on it does this.
    pub(super) fn tell(&self, doing: Doing) {
        self.shared.verify.note(|progress| progress.doing(doing));
    }
}

/// Where a walk over some objects goes on.
fn next_of(only: &BTreeSet<Oid>, from: Key, next: Option<Key>) -> Option<Key> {
    match next {
        Some(next) if next.oid == from.oid => Some(next),
        _ => {
            let above = (Bound::Excluded(from.oid), Bound::Unbounded);
            only.range(above).next().map(|oid| Key { oid: *oid, piece: 0 })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_over_some_objects_ends_also_at_the_last_number() {
        let key = |oid, piece| Key { oid: Oid(oid), piece };
        let only = BTreeSet::from([Oid(3), Oid(u64::MAX)]);
        assert_eq!(next_of(&only, key(3, 0), Some(key(3, 9))), Some(key(3, 9)));
        assert_eq!(next_of(&only, key(3, 9), Some(key(4, 0))), Some(key(u64::MAX, 0)));
        assert_eq!(next_of(&only, key(u64::MAX, 0), None), None, "as a partner may have told");
    }
}
