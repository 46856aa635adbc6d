//! Making a log, and opening one: superblock, recovery walk, scrub, boot check.
//!
//! Invariant: until every check has passed nothing is written; then what lies beyond the recovered end is
//! scrubbed before anybody can append.
//! What can go wrong: [`FormatError`], [`OpenError`].

use super::Log;
use super::errors::{FormatError, OpenError};
use super::ingest::note_epoch;
use crate::format::{FORMAT_VERSION, MIN_CAPACITY_BYTES, RING_OFFSET_BYTES, SUPERBLOCK_BYTES};
use crate::record::origin;
use crate::recovery::{CutReason, Depth, Lost, RecoveryReport, SuperblockHealth, Walker};
use crate::region::ring::{Ring, read_region, read_superblock, write_superblock};
use crate::region::{Region, RegionKind};
use crate::superblock::{Chosen, CopyState, Superblock, capacity_is_legal, choose, decode};
use ids::{Durability, Epoch, EpochHistory, Lsn, VolumeId};

/// What a new log is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FormatOptions {
    /// The volume that it belongs to.
    pub volume: VolumeId,
    /// Length of the ring, the same on both nodes: a multiple of 4096, at least 65536. A power of two is a
    /// little quicker. The region must be [`RING_OFFSET_BYTES`] longer.
    pub capacity_bytes: u64,
    /// Discard whatever the region holds. Without it a region that holds anything is refused.
    pub overwrite: bool,
}

impl Log {
    /// Makes an empty log in `region`.
    ///
    /// # Errors
    /// [`FormatError`]; unless the medium failed, nothing was changed.
    pub fn format(region: Box<dyn Region>, options: FormatOptions) -> Result<Log, FormatError> {
        let FormatOptions { volume, capacity_bytes, overwrite } = options;
        if !capacity_is_legal(capacity_bytes) {
            return Err(FormatError::BadCapacity { capacity_bytes });
        }
        let (needs_bytes, has_bytes) = (RING_OFFSET_BYTES + capacity_bytes, region.len_bytes());
        if has_bytes < needs_bytes {
            return Err(FormatError::RegionTooSmall { needs_bytes, has_bytes });
        }
        let copies = read_copies(&*region);
        if !overwrite {
            check_empty(&*region, &copies)?;
        }
        let generations = copies.iter().map(|copy| match copy {
            CopyState::Valid(superblock) => superblock.generation,
            _ => 0,
        });
        let generation = generations.max().unwrap_or(0) + 1;
        let ring = Ring::new(region, capacity_bytes);
        let start = origin(volume);
        // Records of an earlier log of the same volume would continue the new one's chain.
        ring.scrub(start.lsn, start.lsn.plus(capacity_bytes))?;
        let superblock = Superblock {
            volume,
            capacity_bytes,
            tail: start,
            epoch_history: EpochHistory::default(),
            role_state: Vec::new(),
            boot_id: ring.region().boot_id(),
            memory_lost: false,
            generation,
            durable_end: start.lsn,
            applying_end: Some(start.lsn),
            version: FORMAT_VERSION,
        };
        let bytes = superblock.encode();
        (0..2).try_for_each(|copy| write_superblock(ring.region(), copy, &bytes))?;
        Ok(Log::assemble(ring, 1, superblock, start, Epoch(0)))
    }

    /// Opens the log in `region` and recovers it: the records from the tail to the first that does not continue
    /// the chain. `expect` is the volume that it must belong to.
    ///
    /// # Errors
    /// [`OpenError`]; unless the medium failed, nothing was changed.
    pub fn open(
        region: Box<dyn Region>,
        expect: Option<VolumeId>,
    ) -> Result<(Log, RecoveryReport), OpenError> {
        let has_bytes = region.len_bytes();
        if has_bytes < RING_OFFSET_BYTES + MIN_CAPACITY_BYTES {
            return Err(OpenError::RegionTooSmall { has_bytes });
        }
        let Chosen { index, mut superblock, other_is_bad } = choose(read_copies(&*region))?;
        if let Some(expected) = expect
            && superblock.volume != expected
        {
            return Err(OpenError::OtherVolume { found: superblock.volume, expected });
        }
        let needs_bytes = RING_OFFSET_BYTES + superblock.capacity_bytes;
        if has_bytes < needs_bytes {
            return Err(OpenError::CapacityMismatch { needs_bytes, has_bytes });
        }
        let ring = Ring::new(region, superblock.capacity_bytes);
        let tail = superblock.tail;
        let limit = tail.lsn.plus(superblock.capacity_bytes);
        let mut walker = Walker { at: tail, epoch: Epoch(0), limit };
        let mut records = 0;
        let cut = loop {
            let (lsn, before) = (walker.at.lsn, walker.epoch);
            match walker.step(&ring, Depth::Payload) {
                Ok(link) => {
                    if link.header.epoch > before {
                        note_epoch(&mut superblock.epoch_history, link.header.epoch, lsn);
                    }
                    records += 1;
                }
                Err(cut) => break cut,
            }
        };
        let end = walker.at;
        if cut.is_newer_program() {
            return Err(OpenError::FutureRecord { lsn: end.lsn, what: cut.to_string() });
        }
        // From here on the log is taken over. A record that was only in the caches of a machine that lives on
        // is made durable now, because the process that would have persisted it is gone. (The image of a block
        // region was read from its medium a moment ago.)
        if ring.region().kind() != RegionKind::Block {
            ring.persist(tail.lsn, end.lsn)?;
        }
        let boot_id = ring.region().boot_id();
        let volatile = ring.region().durability() == Durability::Process;
        let lost = if volatile && boot_id != superblock.boot_id {
            Some(Lost::Restart)
        } else {
            lacks(&superblock, other_is_bad.is_some(), end.lsn, cut)
        };
        superblock.memory_lost |= lost.is_some();
        // An epoch whose first record did not survive begins where the log now ends, or it would promise
        // records that do not exist.
        let history = superblock
            .epoch_history
            .entries()
            .iter()
            .map(|entry| ids::EpochStart { first_lsn: entry.first_lsn.min(end.lsn), ..*entry });
        superblock.epoch_history = EpochHistory::new(history.collect()).unwrap_or_default();
        superblock.boot_id = boot_id;
        let mut report = RecoveryReport {
            tail,
            end,
            records,
            cut,
            scrubbed: 0,
            superblock: match other_is_bad {
                None => SuperblockHealth::BothValid,
                Some(why) => SuperblockHealth::OneBad { copy: 1 - index, why },
            },
            memory_lost: superblock.memory_lost,
            lost,
        };
        let log = Log::assemble(ring, index, superblock, end, walker.epoch);
        // Durable at once, and before anything that shows it is scrubbed: that the memory was lost must be known after
        // the next restart too. It also heals a damaged copy.
        let mut stored = log.superblock.lock();
        let new = stored.superblock.clone();
        stored.write(&log.ring, new, end.lsn)?;
        drop(stored);
        report.scrubbed = log.ring.scrub(end.lsn, limit)?;
        Ok((log, report))
    }
}

/// Does a walk that ended there show that the log once held more? What was durable does not tear, and only an older
/// tail leads to what was written a lap later.
fn lacks(superblock: &Superblock, copy_is_bad: bool, end: Lsn, cut: CutReason) -> Option<Lost> {
    let (tail, durable_end) = (superblock.tail.lsn, superblock.durable_end);
    if end == tail && cut == CutReason::LaterLap {
        Some(Lost::LaterLap { tail })
    } else if end < durable_end {
        Some(Lost::EndsEarly { durable_end, end, cut })
    } else if copy_is_bad && superblock.version < FORMAT_VERSION {
        Some(Lost::OlderCopy)
    } else {
        None
    }
}

fn read_copies(region: &dyn Region) -> [CopyState; 2] {
    [0, 1].map(|index| decode(&read_superblock(region, index)))
}

/// Refuses what is not all zeros where the superblocks go: a log, whole or damaged, or somebody else's data.
fn check_empty(region: &dyn Region, copies: &[CopyState; 2]) -> Result<(), FormatError> {
    if copies.iter().any(|copy| *copy != CopyState::Blank) {
        let what = format!("first superblock: {}; second: {}", copies[0], copies[1]);
        return Err(FormatError::HoldsLog { what });
    }
    let mut chunk = [0; SUPERBLOCK_BYTES];
    for offset in (0..RING_OFFSET_BYTES).step_by(SUPERBLOCK_BYTES) {
        read_region(region, offset, &mut chunk);
        if chunk.iter().any(|byte| *byte != 0) {
            return Err(FormatError::NotEmpty);
        }
    }
    Ok(())
}
