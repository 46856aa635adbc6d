//! A volume on one node with a log that nobody mirrors: for tests, benches, and trying the front doors.
//!
//! It is the smallest thing that is a node: a [`Journal`] that commits what is persisted locally, and a thread
//! that makes consistency points. No recovery, no partner, no promise beyond the process: the log is anonymous
//! memory, so whatever was not applied when the process died is gone.

use super::Volume;
use apply_engine::delta::Vanished;
use apply_engine::{Base, Delta, Layers, Oid};
use commit::stack::DeltaStack;
use commit::{Admission, Ask, Journal, Needs, NotServing, Refused, Room, SpaceBudget};
use ids::{Lsn, VolumeId};
use nvlog::{FormatOptions, Log};
use runtime::{Instant, JoinHandle, Mutex};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long an admission waits for room.
const ADMISSION_LIMIT: Duration = Duration::from_secs(30);
/// How often the applier looks whether there is something to do.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A journal that commits what this node has persisted.
pub struct SoloJournal {
    log: Arc<Log>,
    base: Arc<Base>,
    committed: AtomicU64,
    sealing: Mutex<()>,
    space: Mutex<(Instant, SpaceBudget)>,
}

/// How old the answer of `statvfs` may be.
const SPACE_AGE: Duration = Duration::from_millis(100);

impl SoloJournal {
    fn new(log: Arc<Log>, base: Arc<Base>) -> SoloJournal {
        let committed = AtomicU64::new(log.end().lsn.0);
        let space = Mutex::new((Instant::now(), measured(&base)));
        SoloJournal { log, base, committed, sealing: Mutex::new(()), space }
    }

    fn measured(&self) -> SpaceBudget {
        let mut space = self.space.lock();
        if space.0.elapsed() > SPACE_AGE {
            *space = (Instant::now(), measured(&self.base));
        }
        space.1
    }
}

fn measured(base: &Base) -> SpaceBudget {
    base.space().map_or_else(|_| SpaceBudget::default(), SpaceBudget::from)
}

impl Journal for SoloJournal {
    fn admit(&self, ask: Ask) -> Result<Admission, Refused> {
        let space = match ask.room {
            // What the log holds of these needs no room either, and is most of it.
            Room::There => self.measured(),
            Room::New | Room::Perhaps => self.space(),
        };
        if ask.grows && !space.for_room(ask.room).holds(Needs::of(&ask)) {
            return Err(Refused::NoSpace);
        }
        // A quarter of the ring is for what other threads were admitted to at the same moment.
        let wanted = ask.payload_bytes + self.log.capacity_bytes() / 4;
        let begun = Instant::now();
        while self.log.free_bytes() < wanted {
            if begun.elapsed() > ADMISSION_LIMIT {
                return Err(NotServing::Frozen.into());
            }
            runtime::sleep(POLL_INTERVAL);
        }
        Ok(Admission::uncounted(ask.payload_bytes))
    }

    fn log(&self) -> &Arc<Log> {
        &self.log
    }

    fn wait_answerable(&self, lsn: Lsn) -> Result<(), NotServing> {
        while self.answerable() < lsn {
            let _one = self.sealing.lock();
            if self.answerable() >= lsn {
                break;
            }
            let sealed = self.log.seal();
            self.log.persist(self.answerable(), sealed.lsn).map_err(|_| NotServing::LogFailed)?;
            self.committed.store(sealed.lsn.0, Ordering::Release);
            if sealed.lsn < lsn {
                // An earlier record is still being filled by another thread.
                std::hint::spin_loop();
            }
        }
        Ok(())
    }

    fn answerable(&self) -> Lsn {
        Lsn(self.committed.load(Ordering::Acquire))
    }

    fn check_lease(&self) -> Result<(), NotServing> {
        Ok(())
    }

    fn space(&self) -> SpaceBudget {
        let logged = self.log.reserved().since(self.log.tail().lsn);
        let space = self.measured();
        SpaceBudget { free_bytes: space.free_bytes.saturating_sub(logged), ..space }
    }
}

/// A volume, its log and its base, and the thread that applies.
pub struct Solo {
    /// The volume.
    pub volume: Arc<Volume>,
    applier: Arc<Applier>,
    thread: Option<JoinHandle<()>>,
}

struct Applier {
    base: Arc<Base>,
    journal: Arc<SoloJournal>,
    stack: Arc<DeltaStack>,
    stop: AtomicBool,
    applying: Mutex<()>,
}

impl Solo {
    /// A new volume over the directory `base`, which must be empty or one of this `volume`; applied every
    /// `interval`, or only by [`Solo::checkpoint`] when there is none.
    ///
    /// # Errors
    /// Whatever log or base say.
    pub fn start(
        base: &Path,
        volume: VolumeId,
        log_bytes: u64,
        interval: Option<Duration>,
    ) -> anyhow::Result<Solo> {
        Solo::start_with(base, volume, log_bytes, interval, |journal| journal)
    }

    /// [`Solo::start`] with something between the volume and its journal.
    ///
    /// # Errors
    /// Whatever log or base say.
    pub fn start_with<J: Journal + 'static>(
        base: &Path,
        volume: VolumeId,
        log_bytes: u64,
        interval: Option<Duration>,
        between: impl FnOnce(Arc<SoloJournal>) -> Arc<J>,
    ) -> anyhow::Result<Solo> {
        let region = nvlog::region::anonymous(log_bytes + nvlog::format::RING_OFFSET_BYTES)?;
        let log = Arc::new(Log::format(
            region,
            FormatOptions { volume, capacity_bytes: log_bytes, overwrite: false },
        )?);
        let base = Arc::new(match base.join(apply_engine::base::HIDDEN_NAME).exists() {
            true => Base::open(base, volume)?,
            false => Base::create(base, volume)?,
        });
        let limits = base.limits();
        let layers =
            Layers::new(Delta::new(log.end().lsn, Vanished::Forget), Vec::new(), base.clone(), log.clone());
        let stack = Arc::new(DeltaStack::new(layers));
        let journal = Arc::new(SoloJournal::new(log, Arc::clone(&base)));
        let next_oid: Oid = base.next_oid();
        let volume =
            Arc::new(Volume::new(Arc::clone(&stack), between(Arc::clone(&journal)), limits, next_oid));
        volume.reap_orphans()?;
        let applier = Arc::new(Applier {
            base,
            journal,
            stack,
            stop: AtomicBool::new(false),
            applying: Mutex::new(()),
        });
        let thread = match interval {
            None => None,
            Some(interval) => {
                let applier = Arc::clone(&applier);
                Some(runtime::spawn("applier", move || applier.run(interval))?)
            }
        };
        Ok(Solo { volume, applier, thread })
    }

    /// The tree below.
    pub fn base(&self) -> &Arc<Base> {
        &self.applier.base
    }

    /// Makes a consistency point.
    ///
    /// # Errors
    /// When applying fails.
    pub fn checkpoint(&self) -> anyhow::Result<()> {
        self.applier.checkpoint()
    }
}

impl Drop for Solo {
    fn drop(&mut self) {
        self.applier.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Err(error) = self.applier.checkpoint() {
            tracing::error!(%error, "the last consistency point failed");
        }
    }
}

impl Applier {
    fn run(&self, interval: Duration) {
        let mut last = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            runtime::sleep(POLL_INTERVAL);
            let log = &self.journal.log;
            let half_full = log.free_bytes() < log.capacity_bytes() / 2;
            if half_full || last.elapsed() >= interval {
                if let Err(error) = self.checkpoint() {
                    tracing::error!(%error, "a consistency point failed");
                }
                last = Instant::now();
            }
        }
    }

    fn checkpoint(&self) -> anyhow::Result<()> {
        let _one = self.applying.lock();
        if let Some((_, retired)) = self.stack.seal() {
            retired.wait();
        }
        loop {
            // Not a `while let`: its snapshot would be held to the end of the body, and waited for there.
            let oldest = self.stack.snapshot().sealed.first().cloned();
            let Some(delta) = oldest else { return Ok(()) };
            let log = &self.journal.log;
            self.journal.wait_answerable(delta.end())?;
            apply_engine::apply(&self.base, log, &delta)?;
            self.base.sync()?;
            let end = log.point_at(delta.end()).ok_or_else(|| anyhow::anyhow!("no record ends there"))?;
            self.stack.drop_oldest().wait();
            log.advance_tail(end)?;
            log.set_space_floor(end.lsn);
        }
    }
}
