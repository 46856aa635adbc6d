//! Reads records out of the log into the active Delta: on a partner as they are committed, on every node when
//! it recovers, and on a new primary up to the end of what it took over.
//!
//! Invariant: a record is absorbed once and in order; after a restart nothing is sealed until everything that
//! the node may have applied before is absorbed, so that one Delta covers it. A Delta that takes as much memory as it may
//! takes no further record: it has to be sealed and applied first, so a log of any length is absorbed in pieces. What can go
//! wrong: a record that this program cannot decode (a newer partner); then the node stops following and says so.

use super::NodeError;
use apply_engine::{Operation, RecordPosition};
use commit::stack::DeltaStack;
use ids::{LogPoint, Lsn, Oid};
use nvlog::{Log, RecordKind};
use runtime::Mutex;

#[derive(Debug)]
struct Position {
    at: LogPoint,
    /// Sealing before everything up to here is absorbed would split what may be half applied.
    seal_from: Lsn,
    /// The volume absorbs its own records; nothing is read from the log.
    serving: bool,
    /// There was more to absorb than a Delta may hold, and there still is.
    in_pieces: bool,
    /// One past the highest OID that an absorbed record gave.
    next_oid: Oid,
    buffer: Vec<u8>,
}

/// Whether the volume absorbs what it writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Serving {
    /// From now on.
    Begun,
    /// It did already (in a new epoch of the same primary).
    Already,
    /// Not yet: a Delta of what is left would take more memory than it may.
    NotYet,
}

/// Memory that a Delta may take before it is sealed, when nothing bounds it.
pub(super) const UNBOUNDED: usize = usize::MAX;

/// See the module.
#[derive(Debug)]
pub(super) struct Follower(Mutex<Position>);

impl Follower {
    /// Nothing before `at` needs absorbing; everything before `seal_from` may have been applied.
    pub fn new(at: LogPoint, seal_from: Lsn) -> Follower {
        Follower(Mutex::new(Position {
            at,
            seal_from,
            serving: false,
            in_pieces: false,
            next_oid: Oid(0),
            buffer: Vec::new(),
        }))
    }

    /// Begins anew.
    pub fn restart_at(&self, at: LogPoint, seal_from: Lsn) {
        let mut position = self.0.lock();
        position.at = at;
        position.seal_from = seal_from;
        position.serving = false;
        position.in_pieces = false;
    }

    /// Absorbs everything before `end`, unless a Delta of it takes more than `memory`; from then on this node's volume
    /// absorbs what it writes.
    pub fn start_serving(
        &self,
        log: &Log,
        stack: &DeltaStack,
        end: Lsn,
        memory: usize,
    ) -> Result<Serving, NodeError> {
        let mut position = self.0.lock();
        if position.serving {
            return Ok(Serving::Already);
        }
        if !absorb(&mut position, log, stack, end, memory)? {
            return Ok(Serving::NotYet);
        }
        position.serving = true;
        position.in_pieces = false;
        Ok(Serving::Begun)
    }

    /// The volume wrote, and absorbed, its last record before `end`.
    pub fn stop_serving(&self, end: LogPoint) {
        let mut position = self.0.lock();
        if std::mem::take(&mut position.serving) {
            position.at = end;
        }
    }

    /// The volume that served here until now has given every OID before `next`.
    pub fn given_before(&self, next: Oid) {
        let mut position = self.0.lock();
        position.next_oid = position.next_oid.max(next);
    }

    /// One past the highest OID that an absorbed record gave, or this node's own volume.
    pub fn next_oid(&self) -> Oid {
        self.0.lock().next_oid
    }

    /// Records at and after `end` were cut off.
    pub fn truncated(&self, end: Lsn) {
        let mut position = self.0.lock();
        position.seal_from = position.seal_from.min(end);
    }

    /// Everything before this is in the Deltas or in the base; `None` while the volume absorbs what it writes.
    pub fn absorbed(&self) -> Option<Lsn> {
        let position = self.0.lock();
        (!position.serving).then_some(position.at.lsn)
    }

    /// May the active Delta be sealed?
    pub fn may_seal(&self) -> bool {
        let position = self.0.lock();
        position.at.lsn >= position.seal_from
    }

    /// Absorbs what lies before `to`, unless the volume does it. False: the active Delta takes `memory` now, and has to be
    /// sealed before more is absorbed.
    pub fn absorb(&self, log: &Log, stack: &DeltaStack, to: Lsn, memory: usize) -> Result<bool, NodeError> {
        let mut position = self.0.lock();
        if position.serving {
            return Ok(true);
        }
        let all = absorb(&mut position, log, stack, to, memory)?;
        position.in_pieces = !all;
        Ok(all)
    }

    /// Is there more to absorb than fits into one Delta? Serving would have to wait for consistency points.
    pub fn is_in_pieces(&self) -> bool {
        self.0.lock().in_pieces
    }
}

fn absorb(
    position: &mut Position,
    log: &Log,
    stack: &DeltaStack,
    to: Lsn,
    memory: usize,
) -> Result<bool, NodeError> {
    let is_full =
        |position: &Position| position.at.lsn >= position.seal_from && stack.active_memory() >= memory;
    if position.at.lsn >= to {
        return Ok(true);
    }
    if is_full(position) {
        return Ok(false);
    }
    let mut buffer = std::mem::take(&mut position.buffer);
    let mut all = true;
    for record in log.records(position.at, to) {
        let unreadable = |lsn: Lsn, why: String| NodeError::Unreadable { lsn, why };
        let record = record.map_err(|error| unreadable(position.at.lsn, error.to_string()))?;
        if record.kind == RecordKind::Data {
            let at_lsn = record.payload_lsn;
            let overwritten = |error: nvlog::Trimmed| unreadable(record.lsn, error.to_string());
            // A write's data stays where it is: only its head is needed.
            let mut first = [0];
            log.copy_out(at_lsn, &mut first[..record.payload_len.min(1)]).map_err(overwritten)?;
            buffer.resize(Operation::head_bytes_needed(first[0], record.payload_len), 0);
            log.copy_out(at_lsn, &mut buffer).map_err(overwritten)?;
            let operation = Operation::decode(&buffer, record.payload_len as u64)
                .map_err(|error| unreadable(record.lsn, error.to_string()))?;
            let at = RecordPosition { lsn: record.lsn, end: record.end, payload_lsn: record.payload_lsn };
            if let Some(given) = operation.given_oid() {
                position.next_oid = position.next_oid.max(Oid(given.0 + 1));
            }
            stack.writer().absorb(at, &operation);
        }
        position.at = record.point_after;
        if record.kind == RecordKind::Data && position.at.lsn < to && is_full(position) {
            all = false;
            break;
        }
    }
    position.buffer = buffer;
    Ok(all)
}
