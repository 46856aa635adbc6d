//! The volume: what every POSIX operation means, over the Delta and base layers.
//!
//! A change is admitted (the log has room), validated against the newest merged state, given its place in the
//! log and absorbed into the active Delta under one lock; then its bytes are copied into the log, and it is
//! answered when the record is committed (`transaction`). A read looks through the layers and is answered
//! when what it saw is committed. Front doors (FUSE, later NFS) translate; permissions to call are theirs.
//!
//! Invariants:
//! - nothing enters the log that a base filesystem of the pair could refuse: names, sizes, links, xattrs
//!   ([`limits`]) and free space are checked before;
//! - an answer shows nothing that could be undone: it waits for the commit of what it shows (the `gate`
//!   of each object), errors included;
//! - an object without a name lives exactly as long as somebody has it open.
//!
//! What can go wrong: the node stops being primary in the middle ([`commit::NotServing`]); then
//! nothing is answered but an error, and whoever made the `Volume` drops it.
//!
//! atime is set at creation and by `utimensat` only, as under `noatime`: a read would otherwise cost a
//! mirrored record.

pub mod acl;
mod allocate;
mod asked;
mod attributes;
mod data;
mod directory;
mod errno;
mod ghosts;
pub mod limits;
mod namespace;
mod principal;
mod rename;
mod serve;
pub mod solo;
mod state;
mod transaction;
mod xattrs;

pub use allocate::{AllocateMode, SeekTo};
pub use attributes::{SetAttributes, SetTime};
pub use data::{Access, WriteAt};
pub use directory::DirectoryStream;
pub use errno::{Errno, Result};
pub use namespace::{Node, NodeKind};
pub use principal::{Principal, Root};
pub use rename::RenameMode;
pub use xattrs::XattrMode;

use apply_engine::{Attributes, ObjectKind, ViewError};
use commit::stack::DeltaStack;
use commit::{Journal, SpaceBudget};
use directory::Listings;
use ids::{BaseLimits, Lsn, Oid};
use runtime::RwLock;
use state::{InBase, Inode, State, gate_of};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often an object is looked at again that changes while it is being read.
const MAX_WARM_ATTEMPTS: usize = 4;

/// Whether a disk may be waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MayAsk {
    TheBase,
    /// Only what is known is told.
    Nothing,
}

/// Who is told of changed attributes.
type AttributesWatch = Arc<dyn Fn(Oid) + Send + Sync>;

/// A volume of which this node is the primary. Made anew for each time it becomes that.
pub struct Volume {
    stack: Arc<DeltaStack>,
    journal: Arc<dyn Journal>,
    state: RwLock<State>,
    limits: BaseLimits,
    max_data_bytes: usize,
    listings: Listings,
    attributes_watch: RwLock<Option<AttributesWatch>>,
    /// See [`Volume::expect_write_back`].
    writes_come_late: AtomicBool,
    /// See [`Volume::leave`].
    left: AtomicBool,
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Volume {
    /// A volume over `stack` whose records become durable through `journal`. `limits` are what both base filesystems
    /// hold; `next_oid` must be past every OID ever given, in the base and in the log.
    pub fn new(
        stack: Arc<DeltaStack>,
        journal: Arc<dyn Journal>,
        limits: BaseLimits,
        next_oid: Oid,
    ) -> Volume {
        let end = stack.snapshot().active.read().end();
        let payload = journal.log().max_payload_bytes() as usize;
        let largest = payload.saturating_sub(apply_engine::op::codec::WRITE_HEAD_BYTES);
        Volume {
            stack,
            journal,
            state: RwLock::new(State::new(next_oid.max(Oid::FIRST_FREE), end)),
            limits,
            max_data_bytes: largest.min(apply_engine::op::MAX_WRITE_BYTES),
            listings: Listings::default(),
            attributes_watch: RwLock::new(None),
            writes_come_late: AtomicBool::new(false),
            left: AtomicBool::new(false),
        }
    }

    /// Nothing is changed by it any more, also when the node serves again: by another volume then, which knows what has
    /// been given and who has an object open. Calls may come back late, from a disk that hung.
    pub fn leave(&self) {
        self.left.store(true, Ordering::SeqCst);
    }

    /// The first OID that was not given yet.
    pub fn next_oid(&self) -> Oid {
        self.state.read().next_oid
    }

    /// How many objects are open.
    pub fn open_objects(&self) -> usize {
        self.state.read().opens.len()
    }

    /// Every file that is open.
    pub fn open_files(&self) -> Vec<Oid> {
        self.state.read().opens.keys().copied().collect()
    }

    /// How long what is read now may be shown; `None`: without end.
    pub fn lease_left(&self) -> Option<Duration> {
        self.journal.lease_left()
    }

    /// Could the contents of `oid` change where only the kernel of an opener knows it (a shared mapping)?
    pub fn is_open_for_writing(&self, oid: Oid) -> bool {
        self.state.read().is_open_for_writing(oid)
    }

    /// Calls `watch` when attributes of an object change that whoever keeps them in a cache has no reason to ask
    /// for again: set-id bits that a write took away. It is called before that is answered. The last caller is
    /// heard.
    pub fn watch_attributes(&self, watch: impl Fn(Oid) + Send + Sync + 'static) {
        *self.attributes_watch.write() = Some(Arc::new(watch));
    }

    /// From now on a kernel gathers what is written: a file that is open for writing may be longer than is known here, and
    /// its times are the kernel's.
    pub fn expect_write_back(&self) {
        self.writes_come_late.store(true, Ordering::Relaxed);
    }

    fn attributes_changed(&self, oid: Oid) {
        if let Some(watch) = self.attributes_watch.read().clone() {
            watch(oid);
        }
    }

    /// Room for clients: what both nodes have.
    pub fn space(&self) -> Result<SpaceBudget> {
        self.journal.check_lease()?;
        Ok(self.journal.space())
    }

    /// Makes `oid` known, without holding a lock while the base is read.
    fn warm(&self, oid: Oid) -> Result<()> {
        for _ in 0..MAX_WARM_ATTEMPTS {
            if self.state.read().inodes.contains_key(&oid) {
                return Ok(());
            }
            let layers = self.stack.snapshot();
            let gate = gate_of(&layers, oid);
            let attributes = layers.attributes(oid)?;
            let mut state = self.state.write();
            // Nothing was absorbed since: the newest state still is the one that was read.
            if gate_of(&self.stack.snapshot(), oid) == gate {
                if !state.inodes.contains_key(&oid) {
                    state.remember(Inode::new(attributes, gate));
                }
                return Ok(());
            }
        }
        // It changes faster than it can be read: ask the base before, and look at the rest while nobody can change it.
        for _ in 0..asked::MAX_ROUNDS {
            let asked = self.asking();
            asked.under(&self.stack.snapshot()).attributes(oid)?;
            asked.close();
            let writer = self.stack.writer();
            let mut state = self.state.write();
            if writer.base_version() == asked.version() {
                let attributes = match asked.under(writer.layers()).attributes(oid) {
                    // Its Deltas say less than before: a record was undone, which only a rebuilt stack does.
                    Err(error) if asked::is_missing_answer(&error) => continue,
                    found => found?,
                };
                state.remember(Inode::new(attributes, gate_of(writer.layers(), oid)));
                return Ok(());
            }
        }
        Err(Errno::EBUSY)
    }

    /// What is known of `oid`, made known if need be.
    fn known(&self, oid: Oid) -> Result<Inode> {
        self.warm(oid)?;
        self.state.read().inodes.get(&oid).cloned().ok_or(Errno::ESTALE)
    }

    /// Waits until what was shown up to `gate` is committed, and whether reads may be answered.
    fn show(&self, gate: Lsn) -> Result<()> {
        self.journal.check_lease()?;
        if self.journal.answerable() < gate {
            self.journal.wait_answerable(gate)?;
        }
        Ok(())
    }

    /// Attributes as they may be shown.
    fn shown(&self, oid: Oid) -> Result<Attributes> {
        let inode = self.known(oid)?;
        let mut attributes = inode.attributes;
        if inode.blocks_stale {
            attributes.blocks_bytes = self.count_blocks(oid, inode.gate, MayAsk::TheBase)?;
        }
        self.show(inode.gate)?;
        Ok(self.as_shown(attributes))
    }

    /// What a change has left. Blocks that can be counted without a disk are; where they cannot, a file with a length
    /// counts one at least, and [`Volume::knows_blocks`] tells so.
    fn as_left(&self, mut attributes: Attributes) -> Attributes {
        let inode = self.state.read().inodes.get(&attributes.oid).cloned();
        if let Some(inode) = inode.filter(|inode| inode.blocks_stale) {
            match self.count_blocks(attributes.oid, inode.gate, MayAsk::Nothing) {
                Ok(blocks_bytes) => attributes.blocks_bytes = blocks_bytes,
                Err(_) if attributes.kind == ObjectKind::File && attributes.size > 0 => {
                    attributes.blocks_bytes = attributes.blocks_bytes.max(1);
                }
                Err(_) => {}
            }
        }
        self.as_shown(attributes)
    }

    /// Were the blocks of `oid` counted since it was changed? If not, whoever was told of them does well to ask again.
    pub fn knows_blocks(&self, oid: Oid) -> bool {
        self.state.read().inodes.get(&oid).is_none_or(|inode| !inode.blocks_stale)
    }

    /// A file with a length that a writer has open counts a block at least: it may have bytes that only a kernel
    /// knows, and archivers take a file without blocks for zeros. So does one without, if the kernel may know of one.
    fn as_shown(&self, attributes: Attributes) -> Attributes {
        let may_hide_bytes = attributes.blocks_bytes == 0
            && attributes.kind == ObjectKind::File
            && (attributes.size > 0 || self.writes_come_late.load(Ordering::Relaxed))
            && self.is_open_for_writing(attributes.oid);
        Attributes { blocks_bytes: if may_hide_bytes { 1 } else { attributes.blocks_bytes }, ..attributes }
    }

    fn count_blocks(&self, oid: Oid, gate: Lsn, may_ask: MayAsk) -> Result<u64> {
        let (blocks_bytes, in_base) = self.ask_blocks(oid, may_ask)?;
        let mut state = self.state.write();
        let Some(inode) = state.inodes.get_mut(&oid) else { return Ok(blocks_bytes) };
        inode.in_base = in_base;
        if inode.gate == gate {
            inode.attributes.blocks_bytes = blocks_bytes;
            inode.blocks_stale = false;
        }
        Ok(blocks_bytes)
    }

    /// The base is asked once for all records of an interval.
    fn ask_blocks(&self, oid: Oid, may_ask: MayAsk) -> Result<(u64, Option<InBase>)> {
        let asked = self.asking();
        let known = self.state.read().inodes.get(&oid).and_then(|inode| inode.in_base.clone());
        if let Some((version, attributes)) = known
            && version == asked.version()
        {
            asked.know_attributes(oid, attributes);
        }
        if may_ask == MayAsk::Nothing {
            asked.close();
        }
        let blocks_bytes = asked.under(&self.stack.snapshot()).attributes(oid)?.blocks_bytes;
        if self.stack.base_version() != asked.version() {
            if may_ask == MayAsk::Nothing {
                return Err(Errno::MUST_WAIT);
            }
            return Ok((self.stack.snapshot().attributes(oid)?.blocks_bytes, None));
        }
        Ok((blocks_bytes, asked.known_attributes(oid).map(|attributes| (asked.version(), attributes))))
    }
}

impl From<ViewError> for Errno {
    fn from(error: ViewError) -> Errno {
        match error {
            ViewError::NoObject(_) => Errno::ESTALE,
            error if asked::is_missing_answer(&error) => Errno::MUST_WAIT,
            ViewError::Base { oid, source } => {
                tracing::error!(%oid, %source, "the base could not be read");
                Errno::from(source)
            }
            ViewError::Log(error) => {
                tracing::error!(%error, "log bytes were freed too early");
                Errno::EIO
            }
        }
    }
}

#[cfg(test)]
mod tests;
