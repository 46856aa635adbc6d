//! The receiver's questions, and what counts as an answer.
//!
//! Invariant: an answer is taken for the question that it belongs to, or the session ends; what it may hold is bounded
//! before it is kept. What can go wrong: silence, the link's end, and whatever a source may send instead of an answer.

use super::error::ReceiveError;
use super::progress::TELL_EVERY;
use super::receive::Receive;
use super::wire::{self, Answer, MAX_RANGES, Question, Tag};
use crate::shared::MAX_REASON_CHARS;
use apply_engine::resync::{Entry, MAX_PARTS, Part, Surveyed, Telling};
use ids::Oid;
use runtime::Instant;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Longest wait for an answer: the source may have to wait for its disk.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Longest description of what one question named; the source has a lower limit.
pub(super) const MAX_SURVEY_BYTES: usize = 1 << 30;
/// Likewise of a part of a directory: more names than a source puts into one, of the longest that there are.
const MAX_PART_BYTES: usize = 96 << 20;

impl Telling<ReceiveError> for &Receive {
    fn describe(&mut self, oids: &[Oid]) -> Result<Vec<Surveyed>, ReceiveError> {
        Receive::describe(self, oids)
    }

    fn entries(&mut self, directory: Oid, part: Part) -> Result<Option<Vec<Entry>>, ReceiveError> {
        Receive::entries(self, directory, part)
    }

    fn seed(&self) -> u64 {
        self.seed
    }
}

impl Receive {
    /// What the source says of these objects, as of one moment.
    pub(super) fn describe(&self, oids: &[Oid]) -> Result<Vec<Surveyed>, ReceiveError> {
        let mut survey = Vec::with_capacity(oids.len());
        let mut left = oids.len();
        for some in oids.chunks(MAX_RANGES) {
            left -= some.len();
            let question = Question::Describe { oids: some.to_vec(), more: left > 0 };
            let objects = self.ask_surveyed(&question)?;
            if objects == 0 && !some.is_empty() {
                return Err(ReceiveError::Answer);
            }
            let bytes = self.surveyed_bytes(MAX_SURVEY_BYTES)?;
            let mut rest = bytes.as_slice();
            for oid in some {
                let (surveyed, after) =
                    postcard::take_from_bytes::<Surveyed>(rest).map_err(|_| ReceiveError::Answer)?;
                if surveyed.oid() != *oid {
                    return Err(ReceiveError::Answer);
                }
                survey.push(surveyed);
                rest = after;
            }
            if !rest.is_empty() {
                return Err(ReceiveError::Answer);
            }
        }
        Ok(survey)
    }

    /// The parts of a directory, when it has so many.
    pub(super) fn parts_of(&self, of: u32) -> impl Iterator<Item = Part> + use<> {
        let (of, seed) = (of.min(MAX_PARTS), self.seed);
        (0..of).map(move |number| Part { number, of, seed })
    }

    /// A part of what a directory of the source holds. `None`: it is another one by now.
    pub(super) fn entries(&self, directory: Oid, part: Part) -> Result<Option<Vec<Entry>>, ReceiveError> {
        let told = self.ask_one(&Question::Entries { directory, part }, |answer| match answer {
            Answer::Surveyed { objects } => Some(Some(objects)),
            Answer::Noted => Some(None),
            _ => None,
        })?;
        let Some(told) = told else { return Ok(None) };
        let bytes = self.surveyed_bytes(MAX_PART_BYTES)?;
        let (mut entries, mut rest) = (Vec::new(), bytes.as_slice());
        while !rest.is_empty() {
            let (entry, after) =
                postcard::take_from_bytes::<Entry>(rest).map_err(|_| ReceiveError::Answer)?;
            entries.push(entry);
            rest = after;
        }
        match entries.len() as u64 == told {
            true => Ok(Some(entries)),
            false => Err(ReceiveError::Answer),
        }
    }

    pub(super) fn ask_surveyed(&self, question: &Question) -> Result<u64, ReceiveError> {
        self.ask_one(question, |answer| match answer {
            Answer::Surveyed { objects } => Some(objects),
            _ => None,
        })
    }

    /// All parts of the answer to `Describe`, `Entries` or `Changed`, which are at most so many bytes.
    pub(super) fn surveyed_bytes(&self, most: usize) -> Result<Vec<u8>, ReceiveError> {
        let mut bytes = Vec::new();
        loop {
            let (chunk, last) = self.ask_one(&Question::More, |answer| match answer {
                Answer::Chunk { bytes, last } => Some((bytes, last)),
                _ => None,
            })?;
            if bytes.len() + chunk.len() > most || (chunk.is_empty() && !last) {
                return Err(ReceiveError::Answer);
            }
            bytes.extend(chunk);
            if last {
                return Ok(bytes);
            }
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

    pub(super) fn send(&self, question: &Question) -> Result<(), ReceiveError> {
        self.check_alive()?;
        self.tell_progress();
        let number = self.asked.get().wrapping_add(1);
        self.asked.set(number);
        let bytes = question.encode(Tag { session: self.session, number });
        self.control.send(&bytes).map_err(|_| ReceiveError::Ended)
    }

    /// Tells the source how far this node is, if that was not done a moment ago.
    fn tell_progress(&self) {
        let now = Instant::now();
        if self.told.get().is_some_and(|told| now.duration_since(told) < TELL_EVERY) {
            return;
        }
        self.told.set(Some(now));
        self.shared.resync.note(|progress| {
            // One that is lost is followed by another, or by the end of the link.
            let _lost = self.control.send(&wire::encode_told(self.session, &progress.told(now)));
        });
    }

    pub(super) fn answer(&self) -> Result<Answer, ReceiveError> {
        let bytes = self.inbox.recv_timeout(ANSWER_LIMIT).map_err(|error| match error.is_timeout() {
            true => ReceiveError::Silent(ANSWER_LIMIT),
            false => ReceiveError::Ended,
        })?;
        let number = self.answered.get().wrapping_add(1);
        self.answered.set(number);
        let came = wire::envelope(&bytes).map(|envelope| envelope.tag.number);
        match Answer::decode(&bytes)? {
            _ if came != Some(number) => Err(ReceiveError::Answer),
            Answer::Refused { why } => {
                Err(ReceiveError::Refused(why.chars().take(MAX_REASON_CHARS).collect()))
            }
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
