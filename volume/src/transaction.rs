//! One change of the volume: validate, reserve, absorb under the lock; copy and wait without it.
//!
//! Invariants: records enter the log in the order in which they are absorbed (the stack's writer lock spans
//! both); an answer, good or bad, is given only when everything it is based on is committed; the base is not asked
//! anything meanwhile ([`super::asked`]).
//!
//! What can go wrong: the log refuses a reservation in the middle of a change of two records. An admission
//! covers all records of a change, so that is a program error; it is answered with EIO and the first record
//! stands, which by itself is a valid state.

use super::asked::{self, Answer, Asked, Question};
use super::errno::{Errno, Result};
use super::principal::Principal;
use super::state::{Inode, State};
use super::{Volume, acl};
use apply_engine::{Attributes, Layers, NameRef, Operation, RecordPosition, Target, Timestamp};
use commit::stack::Writer;
use commit::{Ask, NotServing, Room};
use ids::{Lsn, Oid};
use nvlog::Slot;
use runtime::RwLockWriteGuard;
use std::cell::{Cell, OnceCell};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

thread_local! {
    /// Encoded heads of the thread's current transaction; kept so that a write allocates nothing.
    static HEADS: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Links of a directory that holds none.
const EMPTY_DIRECTORY_NLINK: u32 = 2;
/// Heads longer than this are not kept for the next transaction.
const MAX_KEPT_HEAD_BYTES: usize = 4096;

/// A record that has its place in the log and not yet its bytes.
struct Unfilled<'a> {
    slot: Slot<'a>,
    head: Range<usize>,
    data: &'a [u8],
}

/// A change under way. Holds every lock of the volume.
pub(super) struct Transaction<'a> {
    volume: &'a Volume,
    writer: Writer<'a>,
    /// What the base said before, and the newest state over that.
    asked: OnceCell<Arc<Asked>>,
    merged: OnceCell<Layers>,
    pub state: RwLockWriteGuard<'a, State>,
    /// The time of everything in it.
    pub at: Timestamp,
    heads: Vec<u8>,
    first: Option<Unfilled<'a>>,
    more: Vec<Unfilled<'a>>,
    /// The object that lost set-id bits.
    dropped: Option<Oid>,
}

impl Volume {
    /// Runs `act` with the right to what it asks for, and answers when it is safe to.
    pub(super) fn transact<'a, T>(
        &'a self,
        ask: Ask,
        act: impl Fn(&mut Transaction<'a>) -> Result<T>,
    ) -> Result<T> {
        self.transact_asked(ask, None, act)
    }

    /// The same, with what the base was `asked` before. Whatever else the change has to know of it is asked as well,
    /// without a lock, and the change begun again; `act` must find that out before it records anything.
    pub(super) fn transact_asked<'a, T>(
        &'a self,
        ask: Ask,
        asked: Option<Arc<Asked>>,
        act: impl Fn(&mut Transaction<'a>) -> Result<T>,
    ) -> Result<T> {
        let (outcome, end) = self.transact_uncommitted(ask, asked, act)?;
        match outcome {
            Ok(_) => self.journal.commit(end)?,
            Err(_) => self.journal.wait_answerable(end)?,
        }
        outcome
    }

    /// A change that may find room where it goes, for when there is none elsewhere ([`Room`]). `may` tells so without a
    /// lock; it is asked only then. `act` is told whether it has to go where there is room, and gives `None` when there is
    /// none after all, before it records anything.
    pub(super) fn transact_in_place<'a, T>(
        &'a self,
        ask: Ask,
        asked: Option<Arc<Asked>>,
        may: impl FnOnce() -> Result<bool>,
        act: impl Fn(&mut Transaction<'a>, bool) -> Result<Option<T>>,
    ) -> Result<T> {
        let run = |room, asked| {
            self.transact_asked(Ask { room, ..ask }, asked, |transaction| {
                act(transaction, room == Room::There)
            })
        };
        let mut outcome = run(Room::Perhaps, asked.clone());
        if outcome.as_ref().is_err_and(|error| *error == Errno::ENOSPC) {
            outcome = match may()? {
                true => run(Room::There, asked.clone()),
                false => Ok(None),
            };
        }
        match outcome? {
            Some(done) => Ok(done),
            None => run(Room::New, asked)?.ok_or(Errno::ENOSPC),
        }
    }

    /// Like [`Volume::transact`] without the wait: for changes that nobody waits for.
    pub(super) fn transact_uncommitted<'a, T>(
        &'a self,
        ask: Ask,
        mut asked: Option<Arc<Asked>>,
        act: impl Fn(&mut Transaction<'a>) -> Result<T>,
    ) -> Result<(Result<T>, Lsn)> {
        for _ in 0..asked::MAX_ROUNDS {
            match self.try_transact(ask, asked.take(), &act)? {
                Tried::Done(outcome, end) => return Ok((outcome, end)),
                Tried::Missing(missing) => asked = Some(self.ask_again(&missing)?),
            }
        }
        Err(Errno::EBUSY)
    }

    fn try_transact<'a, T>(
        &'a self,
        ask: Ask,
        asked: Option<Arc<Asked>>,
        act: impl Fn(&mut Transaction<'a>) -> Result<T>,
    ) -> Result<Tried<T>> {
        let admission = self.journal.admit(ask)?;
        // Looked at inside: whoever leaves waits for those who were let in before.
        if self.left.load(Ordering::SeqCst) {
            admission.cancel();
            return Err(NotServing::NotPrimary.into());
        }
        let writer = self.stack.writer();
        let counts = |asked: &Arc<Asked>| asked.version() == writer.base_version();
        let mut transaction = Transaction {
            volume: self,
            asked: asked.filter(counts).map_or_else(OnceCell::new, OnceCell::from),
            merged: OnceCell::new(),
            writer,
            state: self.state.write(),
            at: Timestamp::since_epoch(runtime::unix_time()),
            heads: HEADS.take(),
            first: None,
            more: Vec::new(),
            dropped: None,
        };
        let mut outcome = act(&mut transaction);
        let Transaction { writer, asked, state, mut heads, first, more, dropped, .. } = transaction;
        let end = state.end;
        drop(state);
        drop(writer);
        if let Some(asked) = asked.into_inner().filter(|asked| asked.is_missing()) {
            if first.is_none() {
                HEADS.set(heads);
                admission.cancel();
                return Ok(Tried::Missing(asked));
            }
            tracing::error!("a change asked the base after its first record");
            outcome = Err(Errno::EIO);
        }
        if first.is_none() {
            admission.cancel();
            HEADS.set(heads);
            return Ok(Tried::Done(outcome, end));
        }
        for record in first.into_iter().chain(more) {
            record.slot.publish(&[&heads[record.head], record.data]);
        }
        drop(admission);
        if let Some(oid) = dropped {
            self.attributes_changed(oid);
        }
        heads.clear();
        if heads.capacity() <= MAX_KEPT_HEAD_BYTES {
            HEADS.set(heads);
        }
        Ok(Tried::Done(outcome, end))
    }
}

/// What became of a change.
enum Tried<T> {
    Done(Result<T>, Lsn),
    /// Nothing was changed; this has to be asked first.
    Missing(Arc<Asked>),
}

impl<'a> Transaction<'a> {
    /// The newest state, over what the base was asked before.
    pub fn layers(&self) -> &Layers {
        self.merged.get_or_init(|| self.asked().under(self.writer.layers()))
    }

    fn asked(&self) -> &Arc<Asked> {
        let asked = self.asked.get_or_init(|| self.volume.asking());
        asked.close();
        asked
    }

    /// Refuses a directory that is not empty.
    pub fn require_empty(&mut self, directory: Oid) -> Result<()> {
        let question = Question::Empty(directory);
        match self.asked().known(&question) {
            // It was not, at some moment of this call.
            Some(Answer::Empty(false, _)) => Err(Errno::ENOTEMPTY),
            Some(Answer::Empty(true, gate)) if self.inode(directory)?.gate == gate => Ok(()),
            Some(Answer::Gone) => Err(Errno::ENOENT),
            _ => Err(self.asked().miss(question)),
        }
    }

    /// Does `directory` stand at or below `ancestor`?
    pub fn is_at_or_below(&self, directory: Oid, ancestor: Oid) -> Result<bool> {
        let question = Question::Below(directory, ancestor);
        match self.asked().known(&question) {
            Some(Answer::Below(is, moves)) if moves == self.state.moves => Ok(is),
            Some(Answer::Gone) => Err(Errno::ENOENT),
            _ => Err(self.asked().miss(question)),
        }
    }

    /// What stands in a slot.
    pub fn lookup(&self, parent: Oid, name: NameRef<'_>) -> Result<Option<Target>> {
        Ok(self.layers().lookup(parent, name)?)
    }

    /// Appends a record and absorbs it; the end of the record. `data` follows the head in its payload.
    pub fn record(&mut self, operation: &Operation<'_>, data: &'a [u8]) -> Result<Lsn> {
        let start = self.heads.len();
        operation.encode_head(&mut self.heads);
        let head = start..self.heads.len();
        let slot = self.volume.journal.log().reserve(head.len() + data.len()).map_err(|error| {
            tracing::error!(%error, "the log refused a record that had been admitted");
            Errno::EIO
        })?;
        let position =
            RecordPosition { lsn: slot.lsn(), end: slot.end_lsn(), payload_lsn: slot.payload_lsn() };
        self.writer.absorb(position, operation);
        self.state.end = position.end;
        let unfilled = Unfilled { slot, head, data };
        match self.first {
            None => self.first = Some(unfilled),
            Some(_) => self.more.push(unfilled),
        }
        Ok(position.end)
    }

    /// An object that must exist. The base is asked if it is not known, so callers [`Volume::warm`] it before.
    pub fn inode(&mut self, oid: Oid) -> Result<&mut Inode> {
        if self.state.inodes.contains_key(&oid) {
            return self.state.inodes.get_mut(&oid).ok_or(Errno::ESTALE);
        }
        let attributes = self.layers().attributes(oid)?;
        let gate = super::state::gate_of(self.writer.layers(), oid);
        Ok(self.state.remember(Inode::new(attributes, gate)))
    }

    /// A directory that can hold names: one that was removed cannot.
    pub fn directory(&mut self, oid: Oid) -> Result<&mut Inode> {
        let inode = self.inode(oid)?;
        match inode.attributes.kind.is_directory() {
            true if inode.attributes.nlink == 0 => Err(Errno::ENOENT),
            true => Ok(inode),
            false => Err(Errno::ENOTDIR),
        }
    }

    /// Changes what is cached of `oid` after a record that ended at `end`.
    pub fn update(&mut self, oid: Oid, end: Lsn, change: impl FnOnce(&mut Inode)) {
        if let Some(inode) = self.state.inodes.get_mut(&oid) {
            inode.gate = end;
            change(inode);
        }
    }

    /// Does it have file capabilities, which any change of its contents or owner takes away?
    pub fn has_capability(&mut self, oid: Oid) -> Result<bool> {
        if let Some(known) = self.inode(oid)?.capability {
            return Ok(known);
        }
        let there = self.layers().xattr(oid, super::xattrs::CAPABILITY)?.is_some();
        self.inode(oid)?.capability = Some(there);
        Ok(there)
    }

    /// Its access ACL.
    pub fn access_acl(&mut self, oid: Oid) -> Result<Option<acl::Acl>> {
        if self.inode(oid)?.access_acl == Some(false) {
            return Ok(None);
        }
        let value = self.layers().xattr(oid, acl::ACCESS)?;
        self.inode(oid)?.access_acl = Some(value.is_some());
        value.map_or(Ok(None), |value| acl::Acl::parse(&value))
    }

    /// A directory's default ACL.
    pub fn default_acl(&mut self, oid: Oid) -> Result<Option<Arc<acl::Acl>>> {
        if let Some(known) = &self.inode(oid)?.default_acl {
            return Ok(known.clone());
        }
        let value = self.layers().xattr(oid, acl::DEFAULT)?;
        let parsed = value.map_or(Ok(None), |value| acl::Acl::parse(&value))?.map(Arc::new);
        self.state.know_default_acl(oid, parsed.clone());
        Ok(parsed)
    }

    /// Takes file capabilities and, if a `stranger` changes the contents, the set-id bits away.
    pub fn drop_privileges(&mut self, oid: Oid, stranger: Option<&dyn Principal>) -> Result<()> {
        let at = self.at;
        if self.has_capability(oid)? {
            let name = super::xattrs::CAPABILITY;
            let end = self.record(&Operation::RemoveXattr { oid, name, mode: None, at }, &[])?;
            self.update(oid, end, |inode| {
                inode.capability = Some(false);
                inode.attributes.ctime = at;
            });
        }
        let Some(stranger) = stranger else { return Ok(()) };
        let Attributes { mode, gid, .. } = self.inode(oid)?.attributes;
        if !super::attributes::has_set_ids(mode) {
            return Ok(());
        }
        // That it keeps none was found out before, by the kernel perhaps, and is not asked again.
        let kept = super::attributes::without_set_ids(mode, || stranger.in_group(gid));
        if kept != mode {
            let patch = apply_engine::AttrPatch { mode: Some(kept), ctime: Some(at), ..Default::default() };
            let end = self.record(&Operation::SetAttr { oid, patch }, &[])?;
            self.update(oid, end, |inode| inode.attributes.apply(&patch));
            self.dropped = Some(oid);
        }
        Ok(())
    }
}

impl Transaction<'_> {
    /// What the weaker base filesystem can hold.
    pub fn limits(&self) -> &ids::BaseLimits {
        &self.volume.limits
    }

    /// Does a kernel bring the times of what it writes back?
    pub fn kernel_keeps_times(&self) -> bool {
        self.volume.writes_come_late.load(Ordering::Relaxed)
    }

    /// One more directory comes into one that has `nlink` links then.
    pub fn require_subdirectory(&self, nlink: u32) -> Result<()> {
        let most = self.limits().max_subdirectories.saturating_add(EMPTY_DIRECTORY_NLINK);
        if nlink > most { Err(Errno::EMLINK) } else { Ok(()) }
    }

    /// The nearest timestamp that both bases can hold.
    pub fn clamp(&self, at: Timestamp) -> Timestamp {
        super::limits::clamp(self.limits(), at)
    }
}
