//! A disk in memory that crashes where a test wants it to, and then keeps any part of what was not flushed.
//!
//! Fault model: after the last barrier or flush every single effect survives a power cut or not, independently; one
//! whose ground did not survive (its directory, its inode, a slot that should have been emptied) is lost too. That
//! is harsher than ext4, xfs and btrfs, which keep namespace changes in order. The index survives as of the last
//! flush, so it does not know later inodes, and knows some that are gone; likewise the records of what was refused. A disk
//! can also be full, fail, take its time ([`SimDisk::set_pace`]), and refuse some of what it is asked
//! ([`SimDisk::set_refusing`]).
//!
//! Invariant: a crash makes a disk of its own, so what a dying node still does to the old one changes nothing.
//! For tests of this crate and of others; nothing in production uses it.

mod reader;
mod state;
#[cfg(test)]
mod tests;
pub(crate) mod tree;

pub use reader::Shown;

use std::collections::BTreeMap;
use std::sync::Arc;

use ids::{BaseLimits, LogPoint, Lsn, Oid, XattrRoom};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::io::Errno;

use self::state::{Effect, Node, State};
use self::tree::SimTree;
use crate::attributes::{ObjectKind, Timestamp};
use crate::base::{BaseSpace, Label, TreeError};
use crate::remainder::Remainder;
use crate::remainder::holders::Holder;
use crate::remainder::refused::Refused;
use crate::view::LogBytes;

const ROOT: u64 = 1;
const STAGING: u64 = 2;
const ORPHANS: u64 = 3;
/// Holds directories of refused names, as many as need be for each directory.
const REFUSED: u64 = 4;
/// What an inode takes, and the granularity of contents.
pub const BLOCK_BYTES: u64 = 4096;
/// What a simulated disk can hold: as much as ext4 with blocks of that size.
pub const LIMITS: BaseLimits = BaseLimits {
    max_name_bytes: 255,
    max_symlink_bytes: 4095,
    max_links: 65_000,
    max_subdirectories: u32::MAX,
    max_file_bytes: BLOCK_BYTES * ((1 << 32) - 1),
    max_allocate_bytes: BLOCK_BYTES * ((1 << 32) - 1),
    allocates: true,
    punches: true,
    max_device: (0xFFF, 0xF_FFFF),
    seconds: (-(1 << 31), 15_032_385_535),
    max_xattr_value_bytes: 4040,
    max_xattr_bytes: 4044,
    max_acl_entries: 507,
    xattr_room: Some(XattrRoom { block_bytes: 4060, inode_bytes: 0, outside_from_bytes: None }),
};
/// The most names that a directory of refused names takes, where the disk refuses anything.
const MAX_HELD_NAMES: u64 = 4;
/// Size of a disk that nobody made smaller.
const ROOMY_BYTES: u64 = 1 << 40;

/// What is about to take the disk's time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskWork {
    /// One change.
    Effect,
    /// A flush of so many changes.
    Flush {
        /// Changes since the last one.
        effects: usize,
    },
}

/// Called before the disk does something, outside of every lock: it may wait.
pub type Pace = Arc<dyn Fn(DiskWork) + Send + Sync>;

/// How a node ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskCrash {
    /// The process died: the kernel keeps every change, and may still lose it later.
    Process,
    /// Power was lost.
    Power {
        /// Decides what survives.
        seed: u64,
    },
}

struct Sim {
    now: State,
    durable: State,
    since: Vec<Effect>,
    next_inode: u64,
    /// Effects until the crash.
    fuse: Option<usize>,
    total_bytes: u64,
    /// Every change and flush fails with it.
    failing: Option<Errno>,
    /// What it refuses for good.
    refusing: Option<Refusing>,
    /// Records of what was refused, as of the last flush.
    records: BTreeMap<Oid, Refused>,
}

/// What a disk refuses: decided by a seed for each object, slot and sort of change, so that it is the same every time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusing {
    /// Decides.
    pub seed: u64,
    /// One in so many.
    pub one_in: u64,
}

impl Refusing {
    /// What real filesystems answer.
    const ERRNOS: [Errno; 7] = [
        Errno::NOSPC,
        Errno::FBIG,
        Errno::OPNOTSUPP,
        Errno::TOOBIG,
        Errno::PERM,
        Errno::NAMETOOLONG,
        Errno::MLINK,
    ];

    fn hash(&self, about: &[u8]) -> u64 {
        xxhash_rust::xxh3::xxh3_64_with_seed(about, self.seed)
    }

    /// How many names a directory of refused names takes before it refuses more.
    fn takes_names(&self, holder: Holder) -> usize {
        1 + (self.hash(holder.to_string().as_bytes()) % MAX_HELD_NAMES) as usize
    }

    fn answer(&self, about: &[u8]) -> Result<(), Errno> {
        let hash = self.hash(about);
        match hash.is_multiple_of(self.one_in) {
            true => Err(Refusing::ERRNOS[(hash >> 32) as usize % Refusing::ERRNOS.len()]),
            false => Ok(()),
        }
    }
}

struct Shared {
    sim: Mutex<Sim>,
    pace: Mutex<Option<Pace>>,
    remainder: Remainder,
}

/// See the module. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Shared>);

impl Default for SimDisk {
    fn default() -> SimDisk {
        SimDisk::new()
    }
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimDisk").field("unflushed", &self.effects()).finish_non_exhaustive()
    }
}

impl SimDisk {
    /// An empty volume whose root is like that of the oracle's model.
    pub fn new() -> SimDisk {
        let mut root = Node::new(ObjectKind::Directory);
        (root.mode, root.atime, root.mtime) = (0o755, Timestamp::default(), Timestamp::default());
        let ctime = Timestamp::default();
        root.label =
            Some(Label { oid: Oid::ROOT, generation: 0, nlink: 2, mode: 0o755, ctime, last_lsn: Lsn::ZERO });
        let hidden = || Node::new(ObjectKind::Directory);
        let nodes =
            BTreeMap::from([(ROOT, root), (STAGING, hidden()), (ORPHANS, hidden()), (REFUSED, hidden())]);
        let next_oid = Oid::FIRST_FREE.0;
        let now = State { nodes, index: BTreeMap::from([(Oid::ROOT, ROOT)]), next_oid, applied: None };
        SimDisk::with(Sim {
            durable: now.clone(),
            now,
            since: Vec::new(),
            next_inode: 100,
            fuse: None,
            total_bytes: ROOMY_BYTES,
            failing: None,
            refusing: None,
            records: BTreeMap::new(),
        })
    }

    fn with(sim: Sim) -> SimDisk {
        let remainder = Remainder::default();
        sim.load(&remainder);
        SimDisk(Arc::new(Shared { sim: Mutex::new(sim), pace: Mutex::new(None), remainder }))
    }

    /// What this disk has refused.
    pub(crate) fn remainder(&self) -> &Remainder {
        &self.0.remainder
    }

    /// From now on it refuses this, or nothing.
    pub fn set_refusing(&self, refusing: Option<Refusing>) {
        self.0.sim.lock().refusing = refusing;
    }

    /// Whether it refuses a sort of change of an object.
    fn refuses(&self, sort: &str, oid: Oid, about: &[u8]) -> Result<(), TreeError> {
        let Some(refusing) = self.0.sim.lock().refusing else { return Ok(()) };
        let all = [sort.as_bytes(), &oid.0.to_le_bytes(), about].concat();
        refusing.answer(&all).map_err(TreeError::at("do what is refused to", oid))
    }

    /// How many names a directory of refused names takes.
    fn takes_names(&self, holder: Holder) -> usize {
        self.0.sim.lock().refusing.map_or(usize::MAX, |refusing| refusing.takes_names(holder))
    }

    pub(crate) fn is_refusal(&self, error: &TreeError, needs_bytes: u64) -> bool {
        crate::remainder::is_refusal(error.errno, || {
            let sim = self.0.sim.lock();
            let free = sim.total_bytes.saturating_sub(sim.now.used_bytes());
            free >= needs_bytes.saturating_add(crate::base::FULL_BYTES)
        })
    }

    /// Who decides how long things take.
    pub fn set_pace(&self, pace: Option<Pace>) {
        *self.0.pace.lock() = pace;
    }

    /// From now on every change and flush fails with EIO, or does no more.
    pub fn set_failing(&self, failing: bool) {
        self.0.sim.lock().failing = failing.then_some(Errno::IO);
    }

    /// The disk is this big from now on; what is there stays. `None`: as big as ever.
    pub fn set_total_bytes(&self, total_bytes: Option<u64>) {
        self.0.sim.lock().total_bytes = total_bytes.unwrap_or(ROOMY_BYTES);
    }

    /// What the objects take.
    pub fn used_bytes(&self) -> u64 {
        self.0.sim.lock().now.used_bytes()
    }

    /// What a restart finds. This disk goes on unharmed.
    pub fn crash(&self, crash: DiskCrash) -> SimDisk {
        let sim = self.0.sim.lock();
        let (now, durable, since) = match crash {
            DiskCrash::Process => {
                let now = State { index: sim.durable.index.clone(), ..sim.now.clone() };
                (now, sim.durable.clone(), sim.since.clone())
            }
            DiskCrash::Power { seed } => {
                let mut rng = StdRng::seed_from_u64(seed);
                let survival = [0.0, 0.2, 0.5, 0.8, 1.0][rng.random_range(0..5)];
                let state = sim.surviving(&mut rng, survival);
                (state.clone(), state, Vec::new())
            }
        };
        let (next_inode, total_bytes, refusing) = (sim.next_inode, sim.total_bytes, sim.refusing);
        let records = sim.records.clone();
        let (fuse, failing) = (None, None);
        SimDisk::with(Sim { now, durable, since, next_inode, fuse, total_bytes, failing, refusing, records })
    }

    /// Number of objects that the index knows.
    pub fn object_count(&self) -> u64 {
        self.0.sim.lock().now.index.len() as u64
    }

    /// The next OID that was kept.
    pub(crate) fn next_oid(&self) -> Oid {
        Oid(self.0.sim.lock().now.next_oid)
    }

    /// Where in the log it stood when that was last kept.
    pub(crate) fn applied(&self) -> Option<LogPoint> {
        self.0.sim.lock().now.applied
    }

    pub(crate) fn space(&self) -> Result<BaseSpace, TreeError> {
        let sim = self.0.sim.lock();
        if let Some(errno) = sim.failing {
            return Err(TreeError::at("get the free space of", "the simulated disk")(errno));
        }
        Ok(BaseSpace {
            metadata: None,
            total_bytes: sim.total_bytes,
            free_bytes: sim.total_bytes.saturating_sub(sim.now.used_bytes()),
            total_inodes: None,
            free_inodes: None,
            certain_inodes: None,
            block_bytes: BLOCK_BYTES as u32,
        })
    }

    /// The disk with the log that file contents come from.
    pub(crate) fn tree<S: LogBytes>(&self, log: S) -> SimTree<S> {
        SimTree::new(self.clone(), log)
    }

    /// Everything is durable.
    pub(crate) fn flush(&self, next_oid: Oid, applied: Option<LogPoint>) -> Result<(), TreeError> {
        let kept = Effect::Kept { next_oid: next_oid.0, applied };
        self.perform("the next object id", |_, _| Ok(vec![kept]))?;
        let effects = self.effects();
        self.wait(DiskWork::Flush { effects });
        let sim = &mut *self.0.sim.lock();
        sim.check("flush")?;
        sim.make_durable();
        // Only now: what a record gave up to the tree is durable there.
        sim.burn().map_err(TreeError::at("store records on", "the simulated disk"))?;
        sim.store(&self.0.remainder);
        Ok(())
    }

    /// Effects since the last flush.
    pub fn effects(&self) -> usize {
        self.0.sim.lock().since.len()
    }

    /// Finds every labelled object again, as a walk over a real tree does.
    pub(crate) fn reindex(&self) {
        let state = &mut self.0.sim.lock().now;
        let found = state.nodes.iter().filter_map(|(inode, node)| Some((node.label?.oid, *inode)));
        state.index = found.collect();
    }

    /// Whether nothing waits in staging.
    pub fn staging_is_empty(&self) -> bool {
        self.0.sim.lock().now.nodes[&STAGING].children.is_empty()
    }

    /// Every inode that has a name, with its OID.
    pub fn oids(&self) -> Vec<Option<Oid>> {
        let sim = self.0.sim.lock();
        let holders = sim.now.nodes[&REFUSED].children.values();
        let hidden: Vec<u64> = holders.copied().chain([STAGING, ORPHANS, REFUSED]).collect();
        let shown = sim.now.nodes.iter().filter(|(inode, _)| !hidden.contains(inode));
        shown.map(|(_, node)| node.label.map(|label| label.oid)).collect()
    }

    fn wait(&self, work: DiskWork) {
        let pace = self.0.pace.lock().clone();
        if let Some(pace) = pace {
            pace(work);
        }
    }

    fn read<T>(
        &self,
        at: impl ToString,
        act: impl FnOnce(&mut State) -> Result<T, Errno>,
    ) -> Result<T, TreeError> {
        act(&mut self.0.sim.lock().now).map_err(TreeError::at("read", at.to_string()))
    }

    fn perform(
        &self,
        at: impl ToString,
        decide: impl FnOnce(&State, &mut u64) -> Result<Vec<Effect>, Errno>,
    ) -> Result<(), TreeError> {
        self.wait(DiskWork::Effect);
        let sim = &mut *self.0.sim.lock();
        let effects =
            decide(&sim.now, &mut sim.next_inode).map_err(TreeError::at("decide", at.to_string()))?;
        for effect in effects {
            sim.check("change")?;
            let grows = sim.now.grows_bytes(&effect);
            if grows > 0 && sim.now.used_bytes() + grows > sim.total_bytes {
                return Err(TreeError::at("find room for", at.to_string())(Errno::NOSPC));
            }
            sim.burn().map_err(|errno| TreeError::at("go on after the crash at", at.to_string())(errno))?;
            let performed = sim.now.perform(&effect);
            performed.map_err(|error| TreeError::at("perform", format!("{effect:?}"))(error))?;
            sim.since.push(effect);
        }
        Ok(())
    }

    fn on(&self, oid: Oid, effects: impl FnOnce(u64) -> Vec<Effect>) -> Result<(), TreeError> {
        self.perform(oid, |state, _| Ok(effects(state.find(oid).ok_or(Errno::NOENT)?)))
    }
}

impl Sim {
    /// One step nearer to the crash.
    fn burn(&mut self) -> Result<(), Errno> {
        match &mut self.fuse {
            Some(0) => return Err(Errno::IO),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }

    /// What was refused, as a restart finds it.
    fn load(&self, remainder: &Remainder) {
        remainder.load(self.now.refused_names(), self.records.clone());
        let who = |oid| Ok::<_, std::convert::Infallible>(self.now.identity(oid));
        let Ok(()) = remainder.drop_strangers(who);
    }

    fn store(&mut self, remainder: &Remainder) {
        let unstored = remainder.unstored();
        remainder.stored_now(unstored.iter().map(|(oid, _)| *oid));
        for (oid, refused) in unstored {
            match refused {
                Some(refused) => drop(self.records.insert(oid, Refused::clone(&refused))),
                None => drop(self.records.remove(&oid)),
            }
        }
    }

    fn check(&self, doing: &'static str) -> Result<(), TreeError> {
        self.failing.map_or(Ok(()), |errno| Err(TreeError::at(doing, "the simulated disk")(errno)))
    }

    fn make_durable(&mut self) {
        self.durable = self.now.clone();
        self.since.clear();
    }

    /// What is there when each effect survived with this probability.
    fn surviving(&self, rng: &mut impl Rng, survival: f64) -> State {
        let mut state = self.durable.clone();
        for effect in &self.since {
            if rng.random_bool(survival) {
                // An effect whose ground was lost is lost.
                let _ = state.perform(effect);
            }
        }
        state.collect_garbage();
        state
    }
}

#[cfg(test)]
impl SimDisk {
    /// Everything so far is durable, whatever fails from now on.
    pub(crate) fn sync(&self) {
        let sim = &mut *self.0.sim.lock();
        sim.make_durable();
        sim.store(&self.0.remainder);
    }

    /// Everything after `effects` more effects fails.
    pub(crate) fn crash_after(&self, effects: usize) {
        self.0.sim.lock().fuse = Some(effects);
    }

    /// This disk goes on as a restart finds it when each effect survived with this probability.
    pub(crate) fn restart(&self, rng: &mut impl Rng, survival: f64) {
        let sim = &mut *self.0.sim.lock();
        let state = sim.surviving(rng, survival);
        sim.since.clear();
        sim.now = state.clone();
        sim.durable = state;
        sim.fuse = None;
        sim.load(&self.0.remainder);
    }
}
