//! What single commands of the pair mean for this node's log, path and front door.

use super::{Executor, LEAVE_WITHIN, WATCH_INTERVAL};
use crate::NodeError;
use crate::event::NodeEvent;
use crate::peer::Peer;
use crate::shared::MAX_REASON_CHARS;
use apply_engine::MetadataSpace;
use commit::{Journal, NotServing, PeerSpace, SpaceBudget};
use ids::{AckRule, Epoch, LogPoint, Lsn};
use nvlog::UpdateError;
use pair::{CallOff, DurableState, Event, LinkId, LogSummary, PointVerdict, StopReason, Vitals};
use runtime::{Instant, mark, planted};

impl Executor {
    /// Writes the epoch's first record. A primary that goes on in a new epoch has clients inside: newcomers are
    /// held back, and those who are writing their records are waited for.
    pub(super) fn open_epoch(&mut self, epoch: Epoch) -> Result<(), NodeError> {
        let shared = &self.shared;
        shared.path.pause();
        let deadline = Instant::now() + LEAVE_WITHIN;
        let opened = loop {
            match shared.log.append_epoch_record(epoch, &[]) {
                Err(UpdateError::Epoch { now, .. }) if now < epoch && Instant::now() < deadline => {
                    runtime::sleep(WATCH_INTERVAL);
                }
                result => break result,
            }
        };
        if !self.draining {
            shared.gate.resume();
        }
        opened?;
        shared.path.persist_all();
        self.answers.push_back(Event::EpochOpened { log: shared.log_summary() });
        Ok(())
    }

    pub(super) fn set_rule(&mut self, rule: AckRule) -> Result<(), NodeError> {
        let shared = &self.shared;
        shared.path.set_rule(rule)?;
        if !rule.waits_for_partner() {
            shared.gate.set_peer_space(None);
        }
        shared.path.update(|_| Ok(()))?;
        let (answers, syncs) = shared.levels(rule);
        shared.metrics.set_level(answers, syncs);
        // What was answered is what the partner has to hold, wherever it is here.
        self.answers.push_back(Event::RuleSet { rule, committed: shared.path.answerable() });
        Ok(())
    }

    pub(super) fn stop_serving(&mut self, reason: StopReason) -> Result<(), NodeError> {
        self.resync.stop_sending();
        self.opening = None;
        let shared = &self.shared;
        self.draining = false;
        shared.path.close(match reason {
            StopReason::Stopping => NotServing::Stopping,
            StopReason::Failed => NotServing::LogFailed,
            StopReason::HandedOver | StopReason::Deposed => NotServing::NotPrimary,
        });
        let volume = shared.volume.lock().clone();
        if let Some(volume) = &volume {
            volume.leave();
        }
        // Before anybody else may serve: the kernel answers from its pages without asking. Calls that waited have
        // just been answered, so nothing holds this up for long.
        let cache = shared.kernel_cache.lock().clone();
        if cache.is_some_and(|cache| !cache.forget()) {
            tracing::warn!(volume = shared.name(), "the kernel still holds pages of open files");
        }
        self.front.leave(reason);
        if reason == StopReason::Failed {
            // Nothing more is done with the log, and who is inside may wait for it without end.
            return Ok(());
        }
        let deadline = Instant::now() + LEAVE_WITHIN;
        while !shared.gate.is_empty() {
            if Instant::now() > deadline {
                return Err(NodeError::StillInside);
            }
            runtime::sleep(WATCH_INTERVAL);
        }
        // What it gave may be in no tree yet, when this node serves again.
        if let Some(volume) = volume {
            shared.follower.given_before(volume.next_oid());
        }
        match reason {
            StopReason::Deposed => {
                shared.path.persist_all();
                shared.rebuild()?;
            }
            _ => shared.follower.stop_serving(shared.log.end()),
        }
        Ok(())
    }

    /// Cuts this log; tells what it is like then.
    pub(super) fn truncate(&self, to: Lsn) -> Result<LogSummary, NodeError> {
        let shared = &self.shared;
        let point = shared.log.point_at(to).ok_or(NodeError::NoRecordBoundary { lsn: to })?;
        if point.lsn < shared.log.end().lsn {
            mark!("records cut off");
        }
        shared.path.persist_all();
        if planted!(RejoinWithoutTruncation) {
            return Ok(LogSummary { end: point, ..shared.log_summary() });
        }
        {
            let _no_consistency_point = shared.applier.exclusive();
            shared.path.check_truncation(to)?;
            shared.log.truncate(point)?;
            shared.path.truncated(point)?;
        }
        shared.follower.truncated(to);
        Ok(shared.log_summary())
    }

    pub(super) fn store(&self, state: &DurableState) -> Result<(), NodeError> {
        // What it says of this log is to be true of the log's device.
        self.shared.path.persist_all();
        self.shared.log.update_superblock(|superblock| {
            superblock.role_state = state.encode();
            superblock.memory_lost &= !state.in_sync;
        })?;
        Ok(())
    }

    /// Does this node's log go on from a point of the partner's?
    pub(super) fn verdict_on(&self, point: LogPoint) -> PointVerdict {
        match &self.shared.log {
            log if point.lsn < log.oldest_retained() => PointVerdict::TooOld,
            log if log.continues_from(point) => PointVerdict::Continues,
            _ => PointVerdict::Differs,
        }
    }

    pub(super) fn start_mirroring(&mut self, link: LinkId, from: LogPoint) {
        mark!("mirroring began");
        let shared = self.shared.clone();
        if let Some(sender) = self.peer_of(link).and_then(Peer::lend_sender)
            && let Err(error) = shared.path.start_mirror(link.0, sender, from, shared.write_behind.agreed())
        {
            shared.tell(NodeEvent::MirrorLost { id: link.0, reason: error.to_string() });
        }
    }

    pub(super) fn stop_mirroring(&mut self) {
        self.await_peer = None;
        if let Some((link, sender)) = self.shared.path.stop_mirror()
            && let Some(peer) = self.peer_of(LinkId(link))
        {
            peer.take_back_sender(sender);
        }
    }

    /// Whoever asked for the switchover hears why.
    pub(super) fn called_off(&self, why: &CallOff) {
        // Some of it is the partner's word.
        let why = why.to_string().chars().filter(|c| !c.is_control()).take(MAX_REASON_CHARS).collect();
        let mut called_off = self.shared.called_off.lock();
        *called_off = (called_off.0 + 1, why);
    }

    pub(super) fn peer_vitals(&mut self, vitals: Vitals, committed: Option<Lsn>) -> Result<(), NodeError> {
        let shared = &self.shared;
        shared.path.update(|cursors| cursors.set_peer_trimmed(vitals.trimmed))?;
        if let Some(committed) = committed {
            shared.path.committed_by_primary(committed)?;
        } else if shared.path.cursors().rule().waits_for_partner() {
            let metadata = vitals
                .free_metadata_bytes
                .map(|(free_bytes, unallocated_bytes)| MetadataSpace { free_bytes, unallocated_bytes });
            let here = shared.known_space();
            let space = SpaceBudget::of_partner(
                vitals.free_bytes,
                (vitals.free_inodes, vitals.likely_inodes),
                metadata,
                here,
            );
            let (counted, applied) = (vitals.counted, vitals.applied);
            shared.gate.set_peer_space(Some(PeerSpace { counted, applied, space }));
        }
        Ok(())
    }
}
