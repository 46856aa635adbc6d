//! What the threads of a volume share about a resync: what changed meanwhile, whether the base tree is being replaced,
//! and how far it is.

use super::progress::Progress;
use admin_api::status::ResyncStatus;
use apply_engine::Delta;
use ids::Oid;
use runtime::{Instant, Mutex};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct ResyncState {
    pub tracker: Tracker,
    /// The base tree belongs to no point of this node's log: nothing of the log may be applied to it.
    replacing: AtomicBool,
    /// Compare everything by content: labels that should have agreed did not.
    pub distrust: AtomicBool,
    /// A session of this process has walked the whole tree: since then the index knows everything that is in it.
    pub indexed: AtomicBool,
    pub progress: Mutex<Option<Progress>>,
    /// Why the last attempt ended.
    pub error: Mutex<Option<String>>,
    /// File content that was sent to the partner since the process began.
    pub sent_bytes: AtomicU64,
    /// File content that was received from it.
    pub received_bytes: AtomicU64,
    /// The same in messages of all kinds, as they went over the link.
    pub sent_wire_bytes: AtomicU64,
    /// Answers are being compressed.
    pub packs: AtomicBool,
    /// Objects that are compared whatever their labels say, until a session has succeeded.
    pub extra: Mutex<BTreeSet<Oid>>,
    /// Where what only this node held was kept aside, last.
    pub salvaged: Mutex<Option<String>>,
}

impl ResyncState {
    pub fn is_replacing(&self) -> bool {
        self.replacing.load(Ordering::Acquire)
    }

    /// A session goes on at this moment.
    pub fn is_under_way(&self) -> bool {
        self.progress.lock().is_some()
    }

    /// Why the last attempt ended, if none has succeeded since.
    pub fn failure(&self) -> Option<String> {
        self.error.lock().clone()
    }

    pub fn set_replacing(&self, replacing: bool) {
        self.replacing.store(replacing, Ordering::Release);
    }

    /// A message of this length goes out.
    pub fn note_sent(&self, len_bytes: usize, packs: bool) {
        self.sent_wire_bytes.fetch_add(len_bytes as u64, Ordering::Relaxed);
        self.packs.store(packs, Ordering::Relaxed);
    }

    /// Notes progress, if a session is under way.
    pub fn note(&self, change: impl FnOnce(&mut Progress)) {
        if let Some(progress) = &mut *self.progress.lock() {
            change(progress);
        }
    }

    /// So much more of it is done.
    pub fn done(&self, objects: u64, bytes: u64) {
        self.note(|progress| progress.done(objects, bytes, Instant::now()));
    }

    /// For status and metrics. `None` when nothing is under way and nothing went wrong.
    pub fn status(&self) -> Option<ResyncStatus> {
        let progress = self.progress.lock().clone();
        let error = self.error.lock().clone();
        match (progress, error) {
            (Some(progress), error) => {
                let compressed = self.packs.load(Ordering::Relaxed);
                Some(ResyncStatus { compressed, ..progress.status(error, Instant::now()) })
            }
            (None, Some(error)) => Some(ResyncStatus { error: Some(error), ..ResyncStatus::default() }),
            (None, None) => None,
        }
    }
}

/// The objects that consistency points have changed since it was started, or drained.
///
/// In memory only: it lives as long as a session, and the next session compares everything again.
#[derive(Debug, Default)]
pub(crate) struct Tracker(Mutex<Tracked>);

#[derive(Debug, Default)]
struct Tracked {
    /// Which start it was; 0 when it is stopped.
    running: u64,
    started: u64,
    changed: BTreeSet<Oid>,
}

impl Tracker {
    /// Starts anew. No consistency point may be under way.
    pub fn start(&self) -> u64 {
        let mut tracked = self.0.lock();
        tracked.changed.clear();
        tracked.started += 1;
        tracked.running = tracked.started;
        tracked.running
    }

    /// Ends what [`Tracker::start`] began, unless somebody else has started it since.
    pub fn stop(&self, started: u64) {
        let mut tracked = self.0.lock();
        if tracked.running == started {
            tracked.running = 0;
            tracked.changed.clear();
        }
    }

    /// This Delta is about to be applied.
    pub fn note(&self, delta: &Delta) {
        let mut tracked = self.0.lock();
        if tracked.running > 0 {
            tracked.changed.extend(delta.objects().map(|(oid, _)| oid));
            tracked.changed.extend(delta.directories());
        }
    }

    /// What changed so far.
    pub fn drain(&self) -> BTreeSet<Oid> {
        std::mem::take(&mut self.0.lock().changed)
    }
}
