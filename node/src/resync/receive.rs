//! The receiver's side: asks, installs, checks, and begins its log anew.
//!
//! Order: what only this node holds is kept aside, if there may be such → compare labels → is there room → names of what
//! differs → flushed → contents → flushed → labels, so many objects at a time; again for what changed meanwhile, until
//! little is left; all labels summed up; once more while the source stands still; then all labels must sum up to what
//! the source says, and only then this node's log begins anew at the source's point. Until the pair has heard of that
//! and stored it, this node is inconsistent and says so, whatever happens here.
//!
//! What can go wrong: the link or the source ends ([`ReceiveError::Ended`], [`ReceiveError::Refused`]); this node's
//! disk ([`ReceiveError::Tree`]) or its room ([`ReceiveError::Space`]); labels that do not sum up
//! ([`ReceiveError::Differs`]: the next attempt compares everything by content). Nothing is undone: the next attempt
//! compares what is there.

use super::asking::{ANSWER_LIMIT, MAX_SURVEY_BYTES};
use super::error::ReceiveError;
use super::packing::Judge;
use super::progress::{Doing, Progress};
use super::wire::{Answer, Finished, MAX_RANGES, Question};
use crate::event::NodeEvent;
use crate::shared::Shared;
use admin_api::status::ResyncSide;
use apply_engine::resync::{
    self, Capture, Identity, Installing, LabelSums, ObjectLabel, ResyncError, Surveyed,
};
use apply_engine::{BaseReader, ObjectKind};
use ids::{LogPoint, Oid};
use rdma_transport::Control;
use runtime::channel::Receiver;
use runtime::{Instant, mark};
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the source hears of a node that is busy with its own disk.
const PATIENCE: Duration = Duration::from_secs(5);
/// Rounds after which the last one begins, however much is left.
const MAX_ROUNDS: u32 = 8;
/// A round with less than this is followed by the last one.
const LITTLE_BYTES: u64 = 16 << 20;
const LITTLE_OBJECTS: usize = 4096;
/// Objects whose names are installed as one. Memory is needed for so many, not for all that differ.
const OBJECTS_AT_ONCE: usize = 8192;
/// What clients change in this time is left to the last round.
const SUMMED_QUICKLY: Duration = Duration::from_secs(2);
/// Files whose contents are under way at once.
const FILES_AT_ONCE: usize = 256;
/// Files, and content in them, that wait for a flush before their labels are set.
const FILES_PER_FLUSH: usize = 4096;
const BYTES_PER_FLUSH: u64 = 1 << 30;
/// Most objects that a source may say have changed since it was last asked.
const MAX_CHANGED: u64 = 64 << 20;
/// Room that a new object takes beside its content, at most, and what is left free in all.
const OBJECT_BYTES: u64 = 4 << 10;
const SPARE_BYTES: u64 = 8 << 20;

/// What a receiver needs.
pub(super) struct Receive {
    pub shared: Arc<Shared>,
    pub link: u64,
    pub session: u32,
    pub control: Arc<dyn Control>,
    pub inbox: Receiver<Vec<u8>>,
    pub stop: Arc<AtomicBool>,
    /// What only this node holds has to be kept aside first; then it is asked here whether the tree may change.
    pub leave: Option<Receiver<bool>>,
    /// What is to be packed.
    pub judge: RefCell<Judge>,
    /// When the source was last told how far this node is.
    pub told: Cell<Option<Instant>>,
    /// Where hashing of names begins: nobody who makes names knows the CRC of a log.
    pub seed: u64,
    /// Questions that were asked, and answers that came.
    pub asked: Cell<u32>,
    pub answered: Cell<u32>,
}

/// What a round was about.
struct Round {
    objects: usize,
    bytes: u64,
    /// What could not be placed, because the source's tree changed between two descriptions.
    left: Vec<Oid>,
}

impl Receive {
    /// Runs the whole session and tells the executor how it ended.
    pub fn run(self) {
        let shared = self.shared.clone();
        *shared.resync.progress.lock() = Some(Progress::new(ResyncSide::Receiving));
        let result = self.receive();
        *shared.resync.progress.lock() = None;
        if matches!(result, Err(ReceiveError::Differs { .. })) {
            shared.resync.distrust.store(true, Ordering::Release);
        }
        let result = result.map_err(|error| error.to_string());
        shared.tell(NodeEvent::ResyncEnded { link: self.link, result });
    }

    fn receive(&self) -> Result<LogPoint, ReceiveError> {
        let base = &self.shared.base;
        let begun = self.begin()?;
        if let Some(leave) = &self.leave {
            self.keep_aside(begun.trusted_below)?;
            self.ask_leave(leave)?;
        }
        // A crash may have cut a consistency point off, after which the index does not know all that is in the tree.
        if !self.shared.resync.indexed.load(Ordering::Acquire) {
            resync::reindex(base)?;
            self.shared.resync.indexed.store(true, Ordering::Release);
        }
        let suspects = self.compare(&begun)?;
        self.weigh(&suspects)?;
        let (mut sums, mut round, mut before) = (None, self.round(suspects, false, false)?, u64::MAX);
        for number in 2.. {
            let little = round.objects <= LITTLE_OBJECTS && round.bytes <= LITTLE_BYTES;
            // Clients change as much as is brought: more rounds make the last one no shorter.
            let no_less = round.bytes >= before;
            before = round.bytes;
            if little || no_less || number > MAX_ROUNDS {
                let began = Instant::now();
                if sums.is_none() {
                    sums = Some(self.sum_up()?);
                }
                // What changed while a large tree was summed up is brought before anything stands still.
                if began.elapsed() < SUMMED_QUICKLY {
                    break;
                }
            }
            round = self.next_round(sums.as_mut(), round.left, false)?;
        }
        let mut sums = sums.unwrap_or_default();
        self.sum(&mut sums)?;
        let round = self.next_round(Some(&mut sums), round.left, true)?;
        if let Some(oid) = round.left.first() {
            return Err(ResyncError::Contradiction(*oid).into());
        }
        let finished = self.ask_one(&Question::Finish, |answer| match answer {
            Answer::Finished(finished) => Some(finished),
            _ => None,
        })?;
        self.shared.resync.note(|progress| progress.doing(Doing::Checking));
        while !sums.step(base)? {
            self.check_alive()?;
        }
        let (ours, digest) = sums.total();
        if (ours, digest) != (finished.objects, finished.digest) {
            return Err(ReceiveError::Differs { ours, theirs: finished.objects });
        }
        if finished.next_oid > resync::FIRST_CAST_OUT {
            return Err(ReceiveError::Answer);
        }
        base.raise_next_oid(finished.next_oid);
        base.set_applied(finished.point);
        base.sync()?;
        let log = |error: &dyn std::fmt::Display| ReceiveError::Log(error.to_string());
        self.shared.path.persist_all();
        self.shared.path.reset_log(finished.point).map_err(|error| log(&error))?;
        let Finished { point, history, .. } = finished;
        self.shared
            .log
            .update_superblock(|superblock| {
                superblock.epoch_history = history;
                superblock.memory_lost = false;
            })
            .map_err(|error| log(&error))?;
        self.shared.resync.distrust.store(false, Ordering::Release);
        self.shared.resync.extra.lock().clear();
        Ok(point)
    }

    /// May the tree change from here on? The pair stores that first.
    fn ask_leave(&self, leave: &Receiver<bool>) -> Result<(), ReceiveError> {
        let (link, session, end) = (self.link, self.session, self.shared.log.end());
        self.shared.tell(NodeEvent::Salvaged { link, session, end });
        match leave.recv_timeout(ANSWER_LIMIT) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(ReceiveError::NotNow),
        }
    }

    /// Is there room for what is to come? What is here and makes way counts.
    fn weigh(&self, suspects: &[Oid]) -> Result<(), ReceiveError> {
        let (theirs, content_bytes) = self.ask_weight(suspects)?;
        let mut ours = (0_u64, 0_u64);
        for attributes in suspects.iter().filter_map(|oid| self.shared.base.attributes(*oid).ok()) {
            ours = (ours.0 + 1, ours.1.saturating_add(attributes.blocks_bytes));
        }
        self.shared.resync.note(|progress| progress.begin_round(suspects.len() as u64, content_bytes));
        let space = self.shared.local_space();
        let new_objects = theirs.0.saturating_sub(ours.0);
        let needed_bytes =
            theirs.1.saturating_sub(ours.1).saturating_add(new_objects.saturating_mul(OBJECT_BYTES));
        let free_inodes = if space.total_inodes == 0 { u64::MAX } else { space.shown_inodes() };
        let fits = needed_bytes.saturating_add(SPARE_BYTES) <= space.free_bytes && new_objects <= free_inodes;
        // Nothing to bring needs no room: a full filesystem is no reason not to check.
        match fits || needed_bytes == 0 {
            true => Ok(()),
            false => {
                let free_bytes = space.free_bytes;
                Err(ReceiveError::Space { needed_bytes, new_objects, free_bytes, free_inodes })
            }
        }
    }

    /// How many of these objects the source has, and what they take there; and how much of that is content.
    fn ask_weight(&self, oids: &[Oid]) -> Result<((u64, u64), u64), ReceiveError> {
        let (mut all, mut all_bytes) = ((0_u64, 0_u64), 0_u64);
        for some in oids.chunks(MAX_RANGES) {
            let (objects, allocated_bytes, content_bytes) =
                self.ask_one(&Question::Weigh { oids: some.to_vec() }, |answer| match answer {
                    Answer::Weighed { objects, allocated_bytes, content_bytes } => {
                        Some((objects, allocated_bytes, content_bytes))
                    }
                    _ => None,
                })?;
            all = (all.0.saturating_add(objects), all.1.saturating_add(allocated_bytes));
            all_bytes = all_bytes.saturating_add(content_bytes);
        }
        Ok((all, all_bytes))
    }

    /// A round over what changed at the source since it was last asked, and what is left.
    fn next_round(
        &self,
        sums: Option<&mut LabelSums>,
        left: Vec<Oid>,
        last: bool,
    ) -> Result<Round, ReceiveError> {
        let objects = self.ask_surveyed(&Question::Changed { last })?;
        if objects > MAX_CHANGED {
            return Err(ReceiveError::Answer);
        }
        let bytes = self.surveyed_bytes(MAX_SURVEY_BYTES)?;
        let (changed, rest) = bytes.as_chunks();
        if changed.len() as u64 != objects || !rest.is_empty() {
            return Err(ReceiveError::Answer);
        }
        let changed = changed.iter().map(|oid| Oid(u64::from_le_bytes(*oid)));
        // What is left waits in a directory of its own, which only the gradual way takes apart.
        let waits = !left.is_empty();
        let mut oids: Vec<Oid> = changed.chain(left).collect();
        oids.sort_unstable();
        oids.dedup();
        // In the last round the source stands still, and what there is to do is little.
        let bytes = if last { 0 } else { self.ask_weight(&oids)?.1 };
        self.shared.resync.note(|progress| progress.begin_round(oids.len() as u64, bytes));
        let changed = oids.clone();
        let round = self.round(oids, waits, last)?;
        if let Some(sums) = sums {
            sums.changed(changed);
        }
        Ok(round)
    }

    /// Names and contents of these objects; `gradually`, however few they are.
    fn round(&self, oids: Vec<Oid>, gradually: bool, last: bool) -> Result<Round, ReceiveError> {
        let base = &self.shared.base;
        self.shared
            .resync
            .note(|progress| progress.doing(if last { Doing::LastRound } else { Doing::Bringing }));
        let mut round = Round { objects: oids.len(), bytes: 0, left: Vec::new() };
        if oids.len() <= OBJECTS_AT_ONCE && !gradually {
            let survey = self.describe(&oids)?;
            let in_parts = |surveyed: &Surveyed| matches!(surveyed, Surveyed::Here(here) if here.parts > 0);
            match resync::install_names(base, &survey) {
                // A directory has more names than are told at once: the other way asks for them.
                Err(ResyncError::Contradiction(_)) if survey.iter().any(in_parts) => {
                    mark!("resync of a directory in parts");
                }
                // The source goes on: a directory holds what was made after the comparison, or no longer what has
                // moved since, and nobody asked about that. The other way asks. In the last round it stands still,
                // and everything was described.
                Err(ResyncError::Apply(error)) if error.is_other_tree() && !last => {
                    mark!("resync met a newer object");
                }
                installed => {
                    installed?;
                    let here = survey.into_iter().filter_map(|surveyed| match surveyed {
                        Surveyed::Here(capture) => Some(*capture),
                        Surveyed::Gone(_) => None,
                    });
                    round.bytes = round.bytes.saturating_add(self.whole(&here.collect::<Vec<_>>())?);
                    return Ok(round);
                }
            }
        }
        for some in oids.chunks(MAX_RANGES) {
            let identities =
                self.ask_one(&Question::Identities { oids: some.to_vec() }, |answer| match answer {
                    Answer::Identities { known } if known.len() == some.len() => Some(known),
                    _ => None,
                })?;
            let identities: Vec<Identity> = some.iter().copied().zip(identities).collect();
            resync::make_way(base, &identities)?;
        }
        let (mut installing, mut todo, mut first, mut telling) = (Installing::begin(base)?, oids, true, self);
        while !todo.is_empty() {
            let mut deferred = Vec::new();
            for some in todo.chunks(OBJECTS_AT_ONCE) {
                let survey = self.describe(some)?;
                let installed = installing.some(survey, &mut telling)?;
                deferred.extend(installed.deferred);
                round.bytes = round.bytes.saturating_add(self.whole(&installed.named)?);
            }
            // The first pass may do no more than to make way.
            if deferred.len() == todo.len() && !first {
                round.left = deferred;
                break;
            }
            (todo, first) = (deferred, false);
        }
        round.left.extend(installing.end(&mut telling)?);
        self.flush()?;
        Ok(round)
    }

    /// Objects whose names, attributes and xattrs are in place become whole. Returns how long the files are.
    fn whole(&self, captures: &[Capture]) -> Result<u64, ReceiveError> {
        let base = &self.shared.base;
        self.flush()?;
        let (files, others): (Vec<&Capture>, Vec<&Capture>) =
            captures.iter().partition(|capture| capture.kind == ObjectKind::File);
        let labels =
            |captures: &[&Capture]| captures.iter().map(|capture| capture.label()).collect::<Vec<_>>();
        resync::seal(base, &labels(&others))?;
        self.shared.resync.done(others.len() as u64, 0);
        let (mut unflushed, mut unflushed_bytes): (Vec<ObjectLabel>, u64) = (Vec::new(), 0);
        for batch in files.chunks(FILES_AT_ONCE) {
            self.contents(batch)?;
            self.shared.resync.done(batch.len() as u64, 0);
            unflushed.extend(labels(batch));
            unflushed_bytes = unflushed_bytes.saturating_add(content_bytes(batch));
            if unflushed.len() >= FILES_PER_FLUSH || unflushed_bytes >= BYTES_PER_FLUSH {
                self.flush()?;
                resync::seal(base, &unflushed)?;
                (unflushed, unflushed_bytes) = (Vec::new(), 0);
            }
        }
        if !unflushed.is_empty() {
            self.flush()?;
            resync::seal(base, &unflushed)?;
        }
        Ok(content_bytes(&files))
    }

    /// The source hears of this node before and after: a disk may take its time.
    fn flush(&self) -> Result<(), ReceiveError> {
        self.patience()?;
        self.shared.base.sync()?;
        self.patience()
    }

    fn patience(&self) -> Result<(), ReceiveError> {
        self.ask_one(&Question::Patience, |answer| match answer {
            Answer::Noted => Some(()),
            _ => None,
        })
    }

    /// All labels on both sides, in steps.
    fn sum_up(&self) -> Result<LabelSums, ReceiveError> {
        self.shared.resync.note(|progress| {
            progress.end_round();
            progress.doing(Doing::SummingUp);
        });
        let mut sums = LabelSums::default();
        self.sum(&mut sums)?;
        Ok(sums)
    }

    fn sum(&self, sums: &mut LabelSums) -> Result<(), ReceiveError> {
        let (mut theirs, mut ours) = (false, false);
        while !theirs || !ours {
            theirs = self.ask_one(&Question::Sum, |answer| match answer {
                Answer::Summed { done } => Some(done),
                _ => None,
            })?;
            let until = Instant::now() + PATIENCE;
            while !ours && Instant::now() < until {
                self.check_alive()?;
                ours = sums.step(&self.shared.base)?;
            }
        }
        Ok(())
    }
}

/// How long these files are in all, as far as the source is to be believed.
fn content_bytes(files: &[&Capture]) -> u64 {
    files.iter().fold(0, |sum, file| sum.saturating_add(file.size))
}
