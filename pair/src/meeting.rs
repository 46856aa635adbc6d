//! Two logs meet: where they part, who should begin, and whether the volume is split. Pure functions over
//! what the nodes tell each other.

use crate::{Config, Hello, Posture, Refusal, ResyncReason, Split};
use ids::{AnswerFrom, BaseLimits, Epoch, Lsn, NodeName};
use std::cmp::Ordering;

/// What a node that wants to follow has to do with its log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Meeting {
    /// Cut the log here (or not at all, when it ends here), then join.
    JoinAt(Lsn),
    NeedsResync(ResyncReason),
    Split(Split),
}

/// Refuses a node that cannot be the partner.
/// `granted` is what this node's clients were, so that the tree may hold it.
pub(crate) fn refuse(
    config: &Config,
    granted: Option<BaseLimits>,
    ours: &Hello,
    theirs: &Hello,
) -> Result<(), Refusal> {
    if theirs.log.volume != ours.log.volume {
        return Err(Refusal::Volume { ours: ours.log.volume, theirs: theirs.log.volume });
    }
    if theirs.node != config.peer {
        return Err(Refusal::Node(theirs.node.clone()));
    }
    if theirs.log.capacity_bytes != ours.log.capacity_bytes {
        return Err(Refusal::Capacity {
            ours_bytes: ours.log.capacity_bytes,
            theirs_bytes: theirs.log.capacity_bytes,
        });
    }
    match granted.and_then(|granted| theirs.base_limits.lacks_of(&granted)) {
        None => Ok(()),
        Some(holds) => Err(Refusal::BaseFilesystem {
            node: theirs.node.clone(),
            filesystem: theirs.base_filesystem.clone(),
            holds,
        }),
    }
}

/// Where `joiner`'s log and that of the `primary` of `epoch` part.
///
/// The primary's end does not bound its current epoch: whatever the joiner has of that epoch came from this
/// primary, and each start of a primary opens a new epoch. That the chain really continues is checked by CRC
/// when the `Join` comes.
pub(crate) fn meet(joiner: &Hello, primary: &Hello, epoch: Epoch) -> Meeting {
    let end = joiner.log.end.lsn;
    let common = joiner.log.history.common_end(end, &primary.log.history, Lsn(u64::MAX));
    let split = |common_end| {
        Meeting::Split(Split {
            common_end,
            our_end: end,
            their_end: primary.log.end.lsn,
            our_epoch: joiner.solo,
            their_epoch: epoch,
        })
    };
    match common {
        _ if !joiner.log.survived => Meeting::NeedsResync(ResyncReason::LogLost),
        Some(cut) if cut < end && (joiner.solo.is_some() || cut < joiner.log.committed) => split(Some(cut)),
        Some(cut) => Meeting::JoinAt(cut.min(end)),
        None if end == Lsn::ZERO && joiner.log.history.entries().is_empty() => {
            if joiner.log.base_empty && primary.origin_empty {
                Meeting::JoinAt(Lsn::ZERO)
            } else if joiner.log.base_empty {
                Meeting::NeedsResync(ResyncReason::FirstCopy)
            } else {
                Meeting::NeedsResync(ResyncReason::LogLost)
            }
        }
        None if joiner.solo.is_some() => split(None),
        None => Meeting::NeedsResync(ResyncReason::NoCommonPoint),
    }
}

/// Two nodes that both wait, and each acknowledged alone what the other lacks.
pub(crate) fn parted(ours: &Hello, theirs: &Hello) -> Option<Split> {
    let (our_epoch, their_epoch) = (ours.solo?, theirs.solo?);
    let (our_end, their_end) = (ours.log.end.lsn, theirs.log.end.lsn);
    let common_end = ours.log.history.common_end(our_end, &theirs.log.history, their_end);
    let both_go_on = common_end.is_none_or(|common| common < our_end && common < their_end);
    let waits = matches!(theirs.posture, Posture::Waiting | Posture::Unusable);
    (waits && both_go_on && ours.log.survived && theirs.log.survived).then_some(Split {
        common_end,
        our_end,
        their_end,
        our_epoch: Some(our_epoch),
        their_epoch,
    })
}

/// May a node that cannot serve be passed over by the other? It knows that it is behind, was granted nothing that the
/// other does not know of, and holds nothing alone: it waits for a resync, for which the other has to serve.
fn is_only_behind(unusable: &Hello, other: &Hello) -> bool {
    unusable.posture == Posture::Unusable
        && unusable.log.survived
        && !unusable.in_sync
        && unusable.solo.is_none()
        && unusable.epoch_seen <= other.epoch_seen
}

/// Which of two nodes that both wait should open the first epoch, when no register can tell. Both compute
/// the same from the same two `Hello`s; should they not (one was older), both stay frozen and the lower epoch
/// gives way.
pub(crate) fn who_begins(config: &Config, a: &Hello, b: &Hello) -> Option<NodeName> {
    let idle = |hello: &Hello| hello.posture == Posture::Waiting;
    match (idle(a), idle(b)) {
        (true, true) => {}
        (true, false) if is_only_behind(b, a) => {}
        (false, true) if is_only_behind(a, b) => {}
        _ => return None,
    }
    let fresh = |hello: &Hello| {
        !hello.in_sync && hello.register.is_none() && hello.log.end.lsn == Lsn::ZERO && hello.log.survived
    };
    let by_configuration = || config.preferred.clone().unwrap_or_else(|| a.node.clone().min(b.node.clone()));
    let newest = [a, b].into_iter().filter_map(|hello| hello.register.as_ref()).max_by_key(|r| r.epoch);
    // Who was in sync is not, once the other was last known to acknowledge alone.
    let in_sync =
        |hello: &Hello| hello.in_sync && newest.is_none_or(|register| !register.is_alone_beside(&hello.node));
    match (in_sync(a), in_sync(b)) {
        (true, false) => Some(a.node.clone()),
        (false, true) => Some(b.node.clone()),
        (true, true) => {
            // Out of memory more may have been answered than a node that restarted still holds.
            let from_memory = [a, b].iter().any(|hello| hello.log.answer_from == AnswerFrom::Memory);
            match a.log.reach().cmp(&b.log.reach()) {
                Ordering::Greater if from_memory => Some(a.node.clone()),
                Ordering::Less if from_memory => Some(b.node.clone()),
                _ => Some(newest.map_or_else(by_configuration, |register| register.primary.clone())),
            }
        }
        (false, false) if fresh(a) && fresh(b) => match (a.log.base_empty, b.log.base_empty) {
            (false, true) => Some(a.node.clone()),
            (true, false) => Some(b.node.clone()),
            _ => Some(by_configuration()),
        },
        (false, false) => None,
    }
}
