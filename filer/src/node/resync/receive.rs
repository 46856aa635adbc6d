//! The receiver's side: asks, installs, checks, and begins its log anew.
//!
//! Order: compare labels → names of what differs → flushed → contents → flushed → labels; again for what changed
//! meanwhile, until little is left; once more while the source stands still; then all labels must sum up to what the
//! source says, and only then this node's log begins anew at the source's point. Until the pair has heard of that and
//! stored it, this node is inconsistent and says so, whatever happens here.
//!
//! What can go wrong: the link or the source ends ([`ReceiveError::Ended`], [`ReceiveError::Refused`]); this node's
//! disk ([`ReceiveError::Tree`]); labels that do not sum up ([`ReceiveError::Differs`]: the next attempt compares
//! everything by content). Nothing is undone: the next attempt compares what is there.

use super::state::Progress;
use super::wire::{
    Answer, Finished, MAX_ASKED, MAX_CONTENT_BYTES, MAX_ITEMS, MAX_MESSAGE_BYTES, MAX_RANGES, Piece,
    PieceAnswer, Question, WireError,
};
use crate::node::event::NodeEvent;
use crate::node::shared::Shared;
use crate::runtime::channel::Receiver;
use crate::runtime::planted;
use crate::status::ResyncSide;
use apply_engine::resync::{self, Capture, MAX_PIECE_BYTES, ResyncError, Surveyed};
use apply_engine::{ObjectKind, TreeError};
use ids::Oid;
use rdma_transport::Control;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest wait for an answer: the source may have to wait for its disk.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Rounds after which the last one begins, however much is left.
const MAX_ROUNDS: u32 = 8;
/// A round with less than this is followed by the last one.
const LITTLE_BYTES: u64 = 16 << 20;
const LITTLE_OBJECTS: u64 = 4096;
/// Files whose contents are under way at once.
const FILES_AT_ONCE: usize = 256;
/// Files that wait for a flush before their labels are set.
const FILES_PER_FLUSH: usize = 4096;
/// Longest survey that is taken; the source has a lower limit.
const MAX_SURVEY_BYTES: usize = 1 << 30;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    /// The link is gone, or this node stops.
    #[error("the link to the primary ended")]
    Ended,
    /// No answer.
    #[error("the primary did not answer within {0:?}")]
    Silent(Duration),
    /// The source can not go on.
    #[error("{0}")]
    Refused(String),
    /// Damaged, or not what was asked for.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It answers something else.
    #[error("the primary answered something else than was asked; run the same program on both nodes")]
    Answer,
    /// This node's tree.
    #[error(transparent)]
    Tree(#[from] ResyncError),
    /// This node's disk.
    #[error(transparent)]
    Disk(#[from] TreeError),
    /// This node's log.
    #[error("this node's log could not begin anew: {0}")]
    Log(String),
    /// After all that.
    #[error(
        "{ours} objects with other labels than the primary's {theirs}: everything is compared by content"
    )]
    Differs {
        /// Here.
        ours: u64,
        /// There.
        theirs: u64,
    },
}

/// What a receiver needs.
pub(super) struct Receive {
    pub shared: Arc<Shared>,
    pub link: u64,
    pub session: u32,
    pub control: Arc<dyn Control>,
    pub inbox: Receiver<Vec<u8>>,
    pub stop: Arc<AtomicBool>,
    /// The index may not know everything that is in the tree.
    pub reindex: bool,
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

    fn receive(&self) -> Result<ids::LogPoint, ReceiveError> {
        let base = &self.shared.base;
        if self.reindex {
            resync::reindex(base)?;
        }
        let suspects = self.compare()?;
        self.shared.resync.note(|progress| progress.doing = "receiving");
        for chunk in suspects.chunks(MAX_RANGES) {
            self.ask_one(&Question::Suspects { oids: chunk.to_vec() }, |answer| match answer {
                Answer::Noted => Some(()),
                _ => None,
            })?;
        }
        let mut last = false;
        for round in 1.. {
            let (objects, bytes) = self.round(last)?;
            if last {
                break;
            }
            last = round >= MAX_ROUNDS || (objects <= LITTLE_OBJECTS && bytes <= LITTLE_BYTES);
        }
        let finished = self.ask_one(&Question::Finish, |answer| match answer {
            Answer::Finished(finished) => Some(finished),
            _ => None,
        })?;
        self.shared.resync.note(|progress| progress.doing = "checking");
        self.check(&finished)?;
        base.raise_next_oid(finished.next_oid);
        base.sync()?;
        let log = |error: &dyn std::fmt::Display| ReceiveError::Log(error.to_string());
        self.shared.log.reset(finished.point).map_err(|error| log(&error))?;
        let Finished { point, history, .. } = finished;
        self.shared
            .log
            .update_superblock(|superblock| {
                superblock.epoch_history = history;
                superblock.memory_lost = false;
            })
            .map_err(|error| log(&error))?;
        self.shared.resync.distrust.store(false, Ordering::Release);
        Ok(point)
    }

    /// Survey, names, contents. Returns how much it was about.
    fn round(&self, last: bool) -> Result<(u64, u64), ReceiveError> {
        let (objects, content_bytes) = self.ask_one(&Question::Survey { last }, |answer| match answer {
            Answer::Surveyed { objects, content_bytes } => Some((objects, content_bytes)),
            _ => None,
        })?;
        self.shared.resync.note(|progress| {
            progress.begin_round(objects, content_bytes);
            progress.doing = if last { "last round" } else { "receiving" };
        });
        let survey = self.survey()?;
        let base = &self.shared.base;
        resync::install_names(base, &survey)?;
        base.sync()?;
        let here = survey.iter().filter_map(|surveyed| match surveyed {
            Surveyed::Here(capture) => Some(&**capture),
            Surveyed::Gone(_) => None,
        });
        let (files, others): (Vec<&Capture>, Vec<&Capture>) =
            here.partition(|capture| capture.kind == ObjectKind::File);
        let labels =
            |captures: &[&Capture]| captures.iter().map(|capture| capture.label()).collect::<Vec<_>>();
        resync::seal(base, &labels(&others))?;
        self.shared.resync.note(|progress| progress.objects_done += (survey.len() - files.len()) as u64);
        for flushed in files.chunks(FILES_PER_FLUSH) {
            for batch in flushed.chunks(FILES_AT_ONCE) {
                self.contents(batch)?;
                self.shared.resync.note(|progress| progress.objects_done += batch.len() as u64);
            }
            base.sync()?;
            resync::seal(base, &labels(flushed))?;
        }
        Ok((objects, content_bytes))
    }

    fn survey(&self) -> Result<Vec<Surveyed>, ReceiveError> {
        let mut bytes = Vec::new();
        loop {
            let (chunk, last) = self.ask_one(&Question::More, |answer| match answer {
                Answer::Chunk { bytes, last } => Some((bytes, last)),
                _ => None,
            })?;
            if bytes.len() + chunk.len() > MAX_SURVEY_BYTES || (chunk.is_empty() && !last) {
                return Err(ReceiveError::Answer);
            }
            bytes.extend(chunk);
            if last {
                break;
            }
        }
        let (mut survey, mut rest) = (Vec::new(), bytes.as_slice());
        while !rest.is_empty() {
            let (surveyed, after) = postcard::take_from_bytes(rest).map_err(|_| ReceiveError::Answer)?;
            survey.push(surveyed);
            rest = after;
        }
        Ok(survey)
    }

    /// Makes the contents of these files the source's.
    fn contents(&self, files: &[&Capture]) -> Result<(), ReceiveError> {
        let base = &self.shared.base;
        let mut todo: VecDeque<(Oid, u64)> = files.iter().map(|file| (file.oid, 0)).collect();
        while !todo.is_empty() {
            let asked: Vec<(Oid, u64)> = todo.iter().copied().collect();
            let maps = self.ask_one(&Question::Maps { files: asked.clone() }, |answer| match answer {
                Answer::Maps { maps } if !maps.is_empty() && maps.len() <= asked.len() => Some(maps),
                _ => None,
            })?;
            let mut pieces = Vec::new();
            for map in maps {
                let Some((oid, from)) = todo.pop_front() else { return Err(ReceiveError::Answer) };
                let own_size = resync::data_map(base, oid, 0, 0)?.size;
                let mut at = from;
                for &(offset, len_bytes) in &map.data {
                    let end = offset.checked_add(len_bytes).filter(|end| *end <= map.end);
                    let (Some(end), true) = (end, offset >= at) else { return Err(ReceiveError::Answer) };
                    hole(base, oid, at, offset, own_size)?;
                    pieces.push(Range { oid, at: offset, end, own_size });
                    at = end;
                }
                hole(base, oid, at, map.end, own_size)?;
                if map.end < map.size {
                    if map.end <= from {
                        return Err(ReceiveError::Answer);
                    }
                    todo.push_front((oid, map.end));
                }
            }
            self.exchange(pieces)?;
        }
        for file in files {
            resync::finish_file(base, file)?;
        }
        Ok(())
    }

    /// Fetches what differs of these ranges, with several questions under way.
    fn exchange(&self, ranges: Vec<Range>) -> Result<(), ReceiveError> {
        let mut pieces = ranges.into_iter().flat_map(Range::pieces).peekable();
        let mut asked: VecDeque<Vec<Piece>> = VecDeque::new();
        loop {
            while asked.len() < MAX_ASKED && pieces.peek().is_some() {
                let (mut batch, mut bytes): (Vec<Piece>, u64) = (Vec::new(), 0);
                while let Some((piece, own)) = pieces.next_if(|(piece, _)| {
                    bytes + piece.len_bytes <= MAX_CONTENT_BYTES && batch.len() < MAX_ITEMS
                }) {
                    bytes += piece.len_bytes;
                    let digest = match own {
                        true => {
                            let own = resync::read(
                                &self.shared.base,
                                piece.oid,
                                piece.offset,
                                piece.len_bytes as usize,
                            )?;
                            (own.len() as u64 == piece.len_bytes).then(|| resync::digest(&own))
                        }
                        false => None,
                    };
                    batch.push(Piece { digest, ..piece });
                }
                self.send(&Question::Pieces { pieces: batch.clone() })?;
                asked.push_back(batch);
            }
            let Some(batch) = asked.pop_front() else { return Ok(()) };
            let Answer::Pieces { pieces: answers } = self.answer()? else { return Err(ReceiveError::Answer) };
            if answers.len() != batch.len() {
                return Err(ReceiveError::Answer);
            }
            for (piece, answer) in batch.iter().zip(answers) {
                match answer {
                    PieceAnswer::Same if piece.digest.is_some() => {}
                    PieceAnswer::Bytes(bytes) if bytes.len() as u64 <= piece.len_bytes => {
                        resync::write(&self.shared.base, piece.oid, piece.offset, &bytes)?;
                        self.shared.resync.received_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    }
                    _ => return Err(ReceiveError::Answer),
                }
                self.shared.resync.note(|progress| progress.bytes_done += piece.len_bytes);
            }
        }
    }

    /// Are all labels of this node's tree those of the source?
    fn check(&self, finished: &Finished) -> Result<(), ReceiveError> {
        let (mut objects, mut digest) = (0, 0_u128);
        self.own_labels(Oid(0), None, |label| {
            objects += 1;
            digest = digest.wrapping_add(label.digest());
        })?;
        match (objects, digest) == (finished.objects, finished.digest) {
            true => Ok(()),
            false => Err(ReceiveError::Differs { ours: objects, theirs: finished.objects }),
        }
    }

    pub(super) fn ask_one<T>(
        &self,
        question: &Question,
        expected: impl FnOnce(Answer) -> Option<T>,
    ) -> Result<T, ReceiveError> {
        self.send(question)?;
        expected(self.answer()?).ok_or(ReceiveError::Answer)
    }

    fn send(&self, question: &Question) -> Result<(), ReceiveError> {
        self.check_alive()?;
        self.control.send(&question.encode(self.session)).map_err(|_| ReceiveError::Ended)
    }

    fn answer(&self) -> Result<Answer, ReceiveError> {
        let bytes = self.inbox.recv_timeout(ANSWER_LIMIT).map_err(|error| match error.is_timeout() {
            true => ReceiveError::Silent(ANSWER_LIMIT),
            false => ReceiveError::Ended,
        })?;
        debug_assert!(bytes.len() <= 2 * MAX_MESSAGE_BYTES);
        match Answer::decode(&bytes)? {
            Answer::Refused { why } => Err(ReceiveError::Refused(why)),
            answer => Ok(answer),
        }
    }

    pub(super) fn check_alive(&self) -> Result<(), ReceiveError> {
        match self.stop.load(Ordering::Acquire) || self.shared.is_stopping() {
            true => Err(ReceiveError::Ended),
            false => Ok(()),
        }
    }
}

/// A range with data at the source.
struct Range {
    oid: Oid,
    at: u64,
    end: u64,
    /// Length of the file here.
    own_size: u64,
}

impl Range {
    /// In pieces, each with whether there is something here to compare it with.
    fn pieces(self) -> impl Iterator<Item = (Piece, bool)> {
        let Range { oid, mut at, mut end, own_size } = self;
        end -= u64::from(planted!(ResyncCursorOffByOne));
        std::iter::from_fn(move || {
            (at < end).then(|| {
                // Cut at the same places every time, whatever a range begins with.
                let len_bytes = (MAX_PIECE_BYTES - at % MAX_PIECE_BYTES).min(end - at);
                let piece = Piece { oid, offset: at, len_bytes, digest: None };
                at += len_bytes;
                (piece, own_size >= at)
            })
        })
    }
}

/// A range that is a hole at the source; past the end here there is nothing to do.
fn hole(base: &apply_engine::Base, oid: Oid, from: u64, to: u64, own_size: u64) -> Result<(), ResyncError> {
    match from < to.min(own_size) {
        true => resync::punch(base, oid, from, to.min(own_size) - from),
        false => Ok(()),
    }
}
