//! The primary's side: answers what a receiver asks, out of the base tree.
//!
//! Labels and contents are read while consistency points go on; what those change is noted by the tracker, which is
//! started before anything is read, and told when the receiver asks what changed. A description is made while no
//! consistency point runs and none is half done, so that it is the tree of one moment; the receiver asks for so few
//! objects at a time that the moment is short. In the last round consistency points stay away from `Changed` until
//! `Finish`, where the log is held, before they go on, from the point that the tree stands at. Clients go on all the
//! time; the log takes what they write, and slows them when it fills.
//!
//! What can go wrong: this node's own disk (the receiver is told why, and tries again), a receiver that goes silent, or
//! has all of it and does not join while the log fills behind what is held for it (the session ends, and everything it
//! kept), the end of this node's role or link (likewise).

use super::packing::{Packing, Wish};
use super::progress::Progress;
use super::throttle::Throttle;
use super::wire::{
    self, Answer, Finished, MAX_CHUNK_BYTES, MAX_ITEMS, MAX_MAP_RANGES, MAX_RANGES, Piece, PieceAnswer,
    Question, RANGE_OIDS, STEP,
};
use crate::applier::Exclusive;
use crate::event::NodeEvent;
use crate::progress;
use crate::shared::Shared;
use admin_api::status::ResyncSide;
use apply_engine::BaseReader;
use apply_engine::resync::{self, ENTRIES_AT_ONCE, LabelSums, ObjectLabel, Part};
use ids::{EpochHistory, Lsn, Oid};
use pair::PairMode;
use rdma_transport::Control;
use runtime::Instant;
use runtime::channel::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest wait for the next question: the receiver's disk may take its time, and waiting costs nothing here.
const IDLE_LIMIT: Duration = Duration::from_secs(600);
/// The same while no consistency point is taken.
const FROZEN_LIMIT: Duration = Duration::from_secs(15);
/// How long the log may be held for a receiver that has all of it and has not joined, while that fills more than half
/// of the log: clients feel it, as with a disk that is too slow.
const HELD_LIMIT: Duration = Duration::from_secs(5);
/// How often that is looked at: nobody tells of a receiver that does nothing.
const HELD_LOOK: Duration = Duration::from_millis(100);
/// Longest wait for a moment at which no consistency point is half done.
const FREEZE_LIMIT: Duration = Duration::from_secs(30);
/// Longest description of the objects of one question: what has many names is told in parts, and xattrs are bounded.
const MAX_SURVEY_BYTES: usize = 512 << 20;
/// What is only read, in pieces of many files' worth, costs clients of the disk this part of what is sent.
const READ_SHARE: u64 = 8;
/// How often a wait looks.
const LOOK: Duration = Duration::from_millis(20);

/// What a source needs.
pub(super) struct Source {
    pub shared: Arc<Shared>,
    pub link: u64,
    pub control: Arc<dyn Control>,
    pub inbox: Receiver<Vec<u8>>,
    pub stop: Arc<AtomicBool>,
    /// The log is held for the receiver.
    pub held: Arc<AtomicBool>,
}

impl Source {
    /// Answers until the receiver has all it wants, or something ends the session.
    pub fn run(self) {
        let shared = self.shared.clone();
        let tracked = {
            let _no_consistency_point = shared.applier.exclusive();
            shared.resync.tracker.start()
        };
        *shared.resync.progress.lock() = Some(Progress::new(ResyncSide::Sending));
        let (now, rates) = (Instant::now(), &shared.config.resync);
        let mut answering = Answering {
            shared: &shared,
            stop: &self.stop,
            held: &self.held,
            sums: LabelSums::default(),
            survey: Vec::new(),
            given: 0,
            packing: Packing::new(rates.compress),
            frozen: None,
            last: false,
            held_from: None,
            throttle: Throttle::new(rates.min_rate_bytes, rates.max_rate_bytes, shared.log.end().lsn, now),
        };
        let mut asked = 0_u32;
        while let Some(bytes) = self.next(&answering) {
            let Some(tag) = wire::envelope(&bytes).map(|envelope| envelope.tag) else { break };
            let question = Question::decode(&bytes).map_err(|error| error.to_string());
            asked = asked.wrapping_add(1);
            let answer = match asked == tag.number {
                true => question.and_then(|question| answering.answer(question)),
                false => Err("a question of the resync was lost or came twice; it is tried again".to_owned()),
            };
            let refused = answer.as_ref().err().cloned();
            if matches!(answer, Ok(Answer::Finished(_))) {
                // The receiver has all of it. This thread waits on only to hold the log until it joins.
                *shared.resync.progress.lock() = None;
            }
            let answer = answer.unwrap_or_else(|why| Answer::Refused { why });
            let bytes = answering.packing.encode(&answer, tag);
            shared.resync.note_sent(bytes.len(), answering.packing.is_on());
            if self.stop.load(Ordering::Acquire) || self.control.send(&bytes).is_err() {
                break;
            }
            if let Some(why) = refused {
                tracing::warn!(volume = shared.name(), why, "the resync of the partner ended");
                break;
            }
        }
        drop(answering);
        shared.resync.tracker.stop(tracked);
        *shared.resync.progress.lock() = None;
        shared.tell(NodeEvent::ResyncSourceEnded { link: self.link });
    }

    /// The next question, if it comes in time.
    fn next(&self, answering: &Answering<'_>) -> Option<Vec<u8>> {
        let Some(held_from) = answering.held_from else {
            let limit = if answering.frozen.is_some() { FROZEN_LIMIT } else { IDLE_LIMIT };
            return self.inbox.recv_timeout(limit).ok();
        };
        let (until, mut filling) = (Instant::now() + IDLE_LIMIT, None);
        while Instant::now() < until && !self.holds_too_long(held_from, &mut filling) {
            match self.inbox.recv_timeout(HELD_LOOK) {
                Err(RecvTimeoutError::Timeout) => {}
                news => return news.ok(),
            }
        }
        None
    }

    /// Has the receiver, which has all of it, joined, or does it keep clients waiting instead? `filling`: since when.
    fn holds_too_long(&self, held_from: Lsn, filling: &mut Option<Instant>) -> bool {
        let shared = &self.shared;
        let (joined, silent_ms) = match &*shared.pair.lock() {
            Some(pair) => (has_joined(pair.mode), pair.peer_silent_ms.unwrap_or(0)),
            None => (false, 0),
        };
        let cursors = shared.path.cursors();
        let half_full = shared.log.reserved().since(held_from) > cursors.capacity_bytes() / 2;
        *filling = half_full.then(|| filling.unwrap_or_else(Instant::now));
        let limit = shared.config.link.tuning(shared.config.timers.peer_timeout).dead_peer_timeout;
        let silent = Duration::from_millis(silent_ms) >= limit;
        let too_long = silent || filling.is_some_and(|since| since.elapsed() >= HELD_LIMIT);
        if too_long && !joined {
            tracing::warn!(
                volume = shared.name(),
                silent_ms,
                "the partner has the whole tree and does not join: its link is given up, and the log kept for it no longer"
            );
        }
        // What a partner that has joined keeps of the log is the pair's affair.
        joined || too_long
    }
}

/// Has the pair taken the partner in, and holds the log itself?
fn has_joined(mode: PairMode) -> bool {
    matches!(mode, PairMode::CatchingUp | PairMode::Mirrored | PairMode::HandingOver)
}

struct Answering<'a> {
    shared: &'a Shared,
    stop: &'a AtomicBool,
    held: &'a AtomicBool,
    sums: LabelSums,
    /// The answer to the last `Describe`, `Entries` or `Changed`.
    survey: Vec<u8>,
    /// How much of the survey was sent.
    given: usize,
    /// While set, the base tree stands still.
    frozen: Option<Exclusive<'a>>,
    /// It does so until `Finish`.
    last: bool,
    /// The log is held for the receiver, which has all of it, from here on.
    held_from: Option<Lsn>,
    throttle: Throttle,
    packing: Packing,
}

impl<'a> Answering<'a> {
    fn answer(&mut self, question: Question) -> Result<Answer, String> {
        let base = &self.shared.base;
        let failed = |error: resync::ResyncError| error.to_string();
        match question {
            Question::Begin { version, .. } if version != wire::VERSION => Err(format!(
                "the nodes' resync versions differ ({version} and {}): run the same program on both",
                wire::VERSION
            )),
            Question::Begin { history, end, survived, .. } => {
                let ours = self.shared.log.superblock().epoch_history;
                let common = history.common_end(end, &ours, Lsn(u64::MAX)).filter(|_| survived);
                Ok(Answer::Begun { trusted_below: common.unwrap_or(Lsn::ZERO) })
            }
            Question::Digests { from } => self.digests(from),
            Question::Labels { range, from } => {
                let first = Oid(range.saturating_mul(RANGE_OIDS));
                let (mut labels, next) = resync::labels(base, from.max(first), MAX_ITEMS).map_err(failed)?;
                let within = |oid: Oid| oid.0 / RANGE_OIDS == range;
                labels.retain(|label| within(label.oid));
                Ok(Answer::Labels { labels, next: next.filter(|oid| within(*oid)) })
            }
            Question::Describe { oids, more } => self.describe(&oids, more),
            Question::Entries { directory, part } => self.entries(directory, part),
            Question::Changed { last } => self.changed(last),
            Question::Weigh { oids } => Ok(self.weigh(&oids)),
            Question::Identities { oids } => {
                let known = oids.iter().map(|oid| self.shared.base.attributes(*oid).ok());
                let known = known.map(|found| found.map(|found| (found.kind, found.generation))).collect();
                Ok(Answer::Identities { known })
            }
            Question::Sum => self.sum(STEP).map(|done| Answer::Summed { done }),
            Question::Patience => Ok(Answer::Noted),
            Question::More => {
                let end = (self.given + MAX_CHUNK_BYTES).min(self.survey.len());
                let bytes = self.survey[self.given..end].to_vec();
                self.given = end;
                let last = end == self.survey.len();
                if last {
                    self.survey = Vec::new();
                    self.given = 0;
                }
                Ok(Answer::Chunk { bytes, last })
            }
            Question::Maps { files } => {
                let (mut maps, mut room) = (Vec::new(), MAX_MAP_RANGES);
                for (oid, from) in files {
                    let map = resync::data_map(base, oid, from, room.max(1)).map_err(failed)?;
                    room = room.saturating_sub((map.data.len() + map.reserved.len()).max(1));
                    maps.push(map);
                    if room == 0 {
                        break;
                    }
                }
                Ok(Answer::Maps { maps })
            }
            Question::Pieces { pieces, pack } => {
                self.packing.wished(if pack { Wish::Pack } else { Wish::Plain });
                self.pieces(&pieces)
            }
            Question::Finish => self.finish(),
        }
    }

    fn digests(&self, from: u64) -> Result<Answer, String> {
        let mut ranges: Vec<(u64, u128)> = Vec::new();
        let mut at = Some(Oid(from.saturating_mul(RANGE_OIDS)));
        let until = Instant::now() + STEP;
        while let Some(oid) = at {
            self.check()?;
            let (labels, next) = resync::labels(&self.shared.base, oid, RANGE_OIDS as usize)
                .map_err(|error| error.to_string())?;
            for label in labels {
                add(&mut ranges, &label);
            }
            at = next;
            // The newest one may be incomplete: it is the next answer's first.
            let enough = ranges.len() > MAX_RANGES || (ranges.len() > 1 && Instant::now() > until);
            if at.is_some()
                && enough
                && let Some((range, _)) = ranges.pop()
            {
                return Ok(Answer::Digests { ranges, next: Some(range) });
            }
        }
        Ok(Answer::Digests { ranges, next: None })
    }

    /// Waits until the base tree stands still, and keeps it so.
    fn freeze(&self) -> Result<Exclusive<'a>, String> {
        let deadline = Instant::now() + FREEZE_LIMIT;
        loop {
            let frozen = self.shared.applier.exclusive();
            if !self.shared.applier.is_half_applied() {
                return Ok(frozen);
            }
            drop(frozen);
            self.check()?;
            if Instant::now() > deadline {
                return Err("the primary cannot apply to its own base filesystem: see its status".to_owned());
            }
            self.shared.applier.request();
            runtime::sleep(LOOK);
        }
    }

    /// Describes these objects as of one moment; in the last round that is the one at which everything stands.
    fn describe(&mut self, oids: &[Oid], more: bool) -> Result<Answer, String> {
        if self.frozen.is_none() {
            self.frozen = Some(self.freeze()?);
        }
        let (mut survey, mut room) = (Vec::new(), ENTRIES_AT_ONCE);
        for &oid in oids {
            self.check()?;
            let surveyed =
                resync::capture(&self.shared.base, oid, &mut room).map_err(|error| error.to_string())?;
            survey = postcard::to_extend(&surveyed, survey).map_err(|error| error.to_string())?;
            if survey.len() > MAX_SURVEY_BYTES {
                let limit = MAX_SURVEY_BYTES >> 20;
                return Err(format!("the description of {} objects is longer than {limit} MiB", oids.len()));
            }
        }
        (self.survey, self.given) = (survey, 0);
        if !more && !self.last {
            self.frozen = None;
        }
        Ok(Answer::Surveyed { objects: oids.len() as u64 })
    }

    /// Some of the names of a directory; `Noted`: it is not there any more, or was counted too long ago.
    fn entries(&mut self, directory: Oid, part: Part) -> Result<Answer, String> {
        if self.frozen.is_none() {
            self.frozen = Some(self.freeze()?);
        }
        let entries =
            resync::entries(&self.shared.base, directory, part).map_err(|error| error.to_string())?;
        if !self.last {
            self.frozen = None;
        }
        let Some(entries) = entries else { return Ok(Answer::Noted) };
        let mut survey = Vec::new();
        for entry in &entries {
            survey = postcard::to_extend(entry, survey).map_err(|error| error.to_string())?;
        }
        (self.survey, self.given) = (survey, 0);
        Ok(Answer::Surveyed { objects: entries.len() as u64 })
    }

    fn weigh(&self, oids: &[Oid]) -> Answer {
        // What cannot be read is met again where it is described.
        let found = oids.iter().filter_map(|oid| self.shared.base.attributes(*oid).ok());
        let (mut objects, mut allocated_bytes, mut content_bytes) = (0, 0_u64, 0_u64);
        for attributes in found {
            objects += 1;
            allocated_bytes = allocated_bytes.saturating_add(attributes.blocks_bytes);
            content_bytes =
                content_bytes.saturating_add(progress::content_bytes(&self.shared.base, &attributes));
        }
        Answer::Weighed { objects, allocated_bytes, content_bytes }
    }

    fn changed(&mut self, last: bool) -> Result<Answer, String> {
        self.frozen = None;
        let frozen = self.freeze()?;
        let changed = self.shared.resync.tracker.drain();
        self.sums.changed(changed.iter().copied());
        self.survey = changed.iter().flat_map(|oid| oid.0.to_le_bytes()).collect();
        self.given = 0;
        self.frozen = last.then_some(frozen);
        self.last = last;
        Ok(Answer::Surveyed { objects: changed.len() as u64 })
    }

    /// Sums labels up for at most so long; true when nothing is left to do.
    fn sum(&mut self, limit: Duration) -> Result<bool, String> {
        let until = Instant::now() + limit;
        loop {
            self.check()?;
            if self.sums.step(&self.shared.base).map_err(|error| error.to_string())? {
                return Ok(true);
            }
            if Instant::now() > until {
                return Ok(false);
            }
        }
    }

    fn pieces(&mut self, pieces: &[Piece]) -> Result<Answer, String> {
        let began = Instant::now();
        let (mut answers, mut sent, mut looked_at) = (Vec::with_capacity(pieces.len()), 0, 0);
        for piece in pieces {
            let bytes = resync::read(&self.shared.base, piece.oid, piece.offset, piece.len_bytes as usize)
                .map_err(|error| error.to_string())?;
            looked_at += piece.len_bytes;
            if piece.digest.is_some_and(|theirs| theirs == resync::digest(&bytes)) {
                answers.push(PieceAnswer::Same);
            } else {
                sent += bytes.len() as u64;
                answers.push(PieceAnswer::Bytes(bytes));
            }
        }
        self.shared.resync.sent_bytes.fetch_add(sent, Ordering::Relaxed);
        // In the last round everything waits for its end.
        if !self.last {
            let cost = sent + (looked_at - sent.min(looked_at)) / READ_SHARE;
            let pause = self.throttle.pause(cost, self.shared.log.end().lsn, Instant::now());
            let until = Instant::now() + pause;
            while Instant::now() < until {
                self.check()?;
                runtime::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
            }
        }
        let took_us = began.elapsed().as_micros() as u64;
        Ok(Answer::Pieces { pieces: answers, took_us })
    }

    fn finish(&mut self) -> Result<Answer, String> {
        let frozen = self.frozen.take().filter(|_| self.last).ok_or("the last round was not asked for")?;
        // What changed since the labels were summed up is little: the receiver asked for that first.
        while !self.sum(STEP)? {}
        let (objects, digest) = self.sums.total();
        let point = self.shared.log.tail();
        let applied = self.shared.path.cursors().applied();
        if point.lsn != applied {
            return Err(format!(
                "the primary's log begins at {point}, but its base tree stands at {applied}"
            ));
        }
        let history = history_up_to(&self.shared.log.superblock().epoch_history, point.lsn);
        // The pair takes the hold over when the receiver joins, and whoever ends this link lifts it.
        self.held.store(true, Ordering::Release);
        self.check()?;
        self.shared.path.set_hold(Some(point.lsn)).map_err(|error| error.to_string())?;
        if let Err(ended) = self.check() {
            // Whoever ended it may have looked before the log was held.
            self.shared.path.set_hold(None).map_err(|error| error.to_string())?;
            return Err(ended);
        }
        drop(frozen);
        self.held_from = Some(point.lsn);
        let next_oid = self.shared.next_oid();
        Ok(Answer::Finished(Finished { point, history, next_oid, objects, digest }))
    }

    fn check(&self) -> Result<(), String> {
        match self.stop.load(Ordering::Acquire) || self.shared.is_stopping() {
            true => Err("the primary ended the session".to_owned()),
            false => Ok(()),
        }
    }
}

/// Adds a label to the digest of its range, which is the last of `ranges` or comes after it.
pub(super) fn add(ranges: &mut Vec<(u64, u128)>, label: &ObjectLabel) {
    let range = label.oid.0 / RANGE_OIDS;
    match ranges.last_mut().filter(|last| last.0 == range) {
        Some((_, sum)) => *sum = sum.wrapping_add(label.digest()),
        None => ranges.push((range, label.digest())),
    }
}

/// The epochs that began at or before `end`. One that begins just there has no record before it, but it tells the two
/// logs of a volume whose tree was never empty apart from logs that know nothing of each other.
fn history_up_to(history: &EpochHistory, end: Lsn) -> EpochHistory {
    let entries = history.entries().iter().filter(|entry| entry.first_lsn <= end).copied().collect();
    EpochHistory::new(entries).unwrap_or_default()
}
