//! How far something is that goes over objects and what they hold, and how long it will still take: of a resync and of
//! `verify`.
//!
//! Content is what files hold, holes left out. What is left is estimated by the pace of the last [`WINDOW`], not of all
//! the time so far. It is a pace of work, in which an object counts [`OBJECT_WORK`] beside its content: a million files of a
//! hundred bytes are no 95 MiB of one file.
//!
//! What can go wrong: nobody knows how much there is, or how fast it goes. Then no estimate is made.

use apply_engine::resync::data_map;
use apply_engine::{Attributes, Base, ObjectKind};
use runtime::Instant;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// The pace is that of so long.
const WINDOW: Duration = Duration::from_secs(30);
/// Between two looks at the pace.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// No estimate is made of less.
const ENOUGH: Duration = Duration::from_millis(500);
/// What an object counts, in bytes of content. It only weighs large files against many: while the mix of both stays the
/// same, the estimate does not depend on it.
const OBJECT_WORK: u64 = 32 << 10;
/// Ranges of data of one file that are looked for; what comes after them counts as data.
const MAX_DATA_RANGES: usize = 8192;

/// So much is done, of so much.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Amounts {
    pub objects_done: u64,
    pub objects_total: u64,
    pub bytes_done: u64,
    pub bytes_total: u64,
}

impl Amounts {
    fn work_done(&self) -> u64 {
        self.objects_done.saturating_mul(OBJECT_WORK).saturating_add(self.bytes_done)
    }

    fn work_left(&self) -> u64 {
        let objects = self.objects_total.saturating_sub(self.objects_done);
        let bytes = self.bytes_total.saturating_sub(self.bytes_done);
        objects.saturating_mul(OBJECT_WORK).saturating_add(bytes)
    }
}

/// How fast it goes, and how long it will still take at that pace. `None`: nobody knows, or nothing is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Pace {
    pub bytes_per_s: u64,
    pub eta_s: Option<u64>,
}

/// Counts what is done. See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter {
    amounts: Amounts,
    /// Moments, oldest first, with the work and the bytes that were done by then.
    seen: VecDeque<(Instant, u64, u64)>,
}

impl Counter {
    pub fn amounts(&self) -> Amounts {
        self.amounts
    }

    /// So much more is to be done.
    pub fn add(&mut self, objects: u64, bytes: u64) {
        self.amounts.objects_total = self.amounts.objects_total.saturating_add(objects);
        self.amounts.bytes_total = self.amounts.bytes_total.saturating_add(bytes);
    }

    /// So much more is done.
    pub fn done(&mut self, objects: u64, bytes: u64, now: Instant) {
        let amounts = &mut self.amounts;
        amounts.objects_done = amounts.objects_done.saturating_add(objects);
        amounts.bytes_done = amounts.bytes_done.saturating_add(bytes);
        // Files grow meanwhile.
        amounts.objects_total = amounts.objects_total.max(amounts.objects_done);
        amounts.bytes_total = amounts.bytes_total.max(amounts.bytes_done);
        if self.seen.back().is_none_or(|(at, ..)| now.duration_since(*at) >= LOOK_EVERY) {
            self.seen.push_back((now, amounts.work_done(), amounts.bytes_done));
        }
        while self.seen.front().is_some_and(|(at, ..)| now.duration_since(*at) > WINDOW) {
            self.seen.pop_front();
        }
    }

    /// All that was to be done is done: objects that are gone, and content that has become less, included.
    pub fn end(&mut self) {
        self.amounts.objects_done = self.amounts.objects_total;
        self.amounts.bytes_done = self.amounts.bytes_total;
    }

    pub fn pace(&self, now: Instant) -> Pace {
        let Some((since, work, bytes)) = self.seen.front() else { return Pace::default() };
        let took = now.duration_since(*since);
        if took < ENOUGH {
            return Pace::default();
        }
        let per_s = |done: u64, before: u64| done.saturating_sub(before) as f64 / took.as_secs_f64();
        let (pace, left) = (per_s(self.amounts.work_done(), *work), self.amounts.work_left());
        let eta_s = (pace >= 1.0 && left > 0).then(|| (left as f64 / pace).ceil() as u64);
        Pace { bytes_per_s: per_s(self.amounts.bytes_done, *bytes) as u64, eta_s }
    }
}

/// What an object holds without its holes, as far as that can be told quickly.
pub(crate) fn content_bytes(base: &Base, object: &Attributes) -> u64 {
    if object.kind != ObjectKind::File {
        return 0;
    }
    if object.blocks_bytes >= object.size {
        return object.size;
    }
    // Sparse, or compressed by the filesystem.
    let map = data_map(base, object.oid, 0, MAX_DATA_RANGES).unwrap_or_default();
    map.data.iter().map(|(_, len_bytes)| len_bytes).sum::<u64>() + map.size.saturating_sub(map.end)
}
