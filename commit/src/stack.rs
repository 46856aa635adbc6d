//! The one stack of Deltas of a volume, and the order in which records enter it.
//!
//! A primary's operations enter through [`DeltaStack::writer`]: validate, reserve and absorb happen under one
//! lock, so the order of records in the log is the order in which they were absorbed. A partner absorbs what
//! its primary committed through the same door. Readers take a [`DeltaStack::snapshot`] and never wait.
//!
//! Invariants: a Delta changes the base only after every snapshot in which it was not yet sealed is gone; log
//! space is freed only after every snapshot that could read it is gone ([`Retired`]). What can go
//! wrong: a reader that hangs with the disk holds consistency points up, which hang with it; when the stack is begun
//! anew it is left behind, and what it reads from the log then is not given to anybody.

use apply_engine::{Delta, Layers, Operation, RecordPosition};
use runtime::{Instant, Mutex, MutexGuard, RwLock};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often it is looked whether a retired state is still being read.
pub const RETIRED_POLL: Duration = Duration::from_micros(200);

/// Who reads for so long hangs with the disk.
const HUNG_AFTER: Duration = Duration::from_millis(500);

/// See the module.
pub struct DeltaStack {
    current: RwLock<Arc<Layers>>,
    order: Mutex<()>,
    base_version: AtomicU64,
    resets: AtomicU64,
}

/// The right to add records, one at a time. Keep it short: every other writer waits.
pub struct Writer<'a> {
    layers: Arc<Layers>,
    base_version: u64,
    _order: MutexGuard<'a, ()>,
}

/// A state that was replaced and may still be read.
#[derive(Debug)]
pub struct Retired(Weak<Layers>);

impl std::fmt::Debug for DeltaStack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeltaStack").field("sealed", &self.snapshot().sealed.len()).finish_non_exhaustive()
    }
}

impl DeltaStack {
    /// A stack that begins as `layers`.
    pub fn new(layers: Layers) -> DeltaStack {
        DeltaStack {
            current: RwLock::new(Arc::new(layers)),
            order: Mutex::new(()),
            base_version: AtomicU64::new(0),
            resets: AtomicU64::new(0),
        }
    }

    /// The state for one read. Hold it for that read and no longer.
    pub fn snapshot(&self) -> Arc<Layers> {
        Arc::clone(&self.current.read())
    }

    /// The right to validate against the newest state and to add to it.
    pub fn writer(&self) -> Writer<'_> {
        let order = self.order.lock();
        Writer { layers: self.snapshot(), base_version: self.base_version(), _order: order }
    }

    /// Changes whenever the base shows something that a Delta hid before. An answer of the base that no Delta has
    /// anything to say to is right as long as this stays the same. Read it before asking.
    pub fn base_version(&self) -> u64 {
        self.base_version.load(Ordering::SeqCst)
    }

    /// How often it was begun anew. Log bytes that were read in a state from before the last time may be others by now.
    pub fn resets(&self) -> u64 {
        self.resets.load(Ordering::SeqCst)
    }

    /// Whether the active Delta spans no record.
    pub fn is_fresh(&self) -> bool {
        let layers = self.snapshot();
        let active = layers.active.read();
        active.end() == active.first()
    }

    /// Memory that the active Delta takes.
    pub fn active_memory(&self) -> usize {
        self.current.read().active.read().stats().memory_bytes
    }

    /// Seals the active Delta. `None` when it spans no record. The sealed Delta may be applied when everything
    /// before its end is committed and the retired state is not read any more.
    pub fn seal(&self) -> Option<(Arc<Delta>, Retired)> {
        let _order = self.order.lock();
        let old = self.snapshot();
        if old.active.read().end() == old.active.read().first() {
            return None;
        }
        let new = old.seal();
        let sealed = Arc::clone(new.sealed.last()?);
        Some((sealed, self.publish(new)))
    }

    /// Drops the oldest sealed Delta, which the base now holds. Its log space may be freed when the retired
    /// state is not read any more.
    pub fn drop_oldest(&self) -> Retired {
        let _order = self.order.lock();
        let new = self.snapshot().without_oldest();
        self.base_version.fetch_add(1, Ordering::SeqCst);
        self.publish(new)
    }

    /// Begins anew as `layers`: after a restart, a truncation, or being deposed. Readers of the old state are waited for
    /// a moment. One that hangs with the disk is not: it finds out afterwards ([`DeltaStack::resets`]).
    pub fn reset(&self, layers: Layers) {
        let retired = self.begin_anew(layers);
        let until = Instant::now() + HUNG_AFTER;
        while retired.is_read() && Instant::now() < until {
            runtime::sleep(RETIRED_POLL);
        }
        if retired.is_read() {
            tracing::warn!("somebody still reads what was replaced: the base filesystem hangs");
        }
    }

    fn begin_anew(&self, layers: Layers) -> Retired {
        let _order = self.order.lock();
        self.resets.fetch_add(1, Ordering::SeqCst);
        self.base_version.fetch_add(1, Ordering::SeqCst);
        self.publish(layers)
    }

    fn publish(&self, layers: Layers) -> Retired {
        let old = std::mem::replace(&mut *self.current.write(), Arc::new(layers));
        Retired(Arc::downgrade(&old))
    }
}

impl Writer<'_> {
    /// The state to validate against.
    pub fn layers(&self) -> &Arc<Layers> {
        &self.layers
    }

    /// [`DeltaStack::base_version`], which does not change meanwhile.
    pub fn base_version(&self) -> u64 {
        self.base_version
    }

    /// Adds the record at `at`.
    pub fn absorb(&self, at: RecordPosition, operation: &Operation<'_>) {
        self.layers.absorb(at, operation);
    }
}

impl Retired {
    /// Does somebody still read it?
    pub fn is_read(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Waits until nobody reads the state any more.
    pub fn wait(&self) {
        while self.is_read() {
            runtime::sleep(RETIRED_POLL);
        }
    }
}
