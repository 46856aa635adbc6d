//! Resync and first copy: a partner whose log does not meet the primary's any more gets its base tree from the
//! primary's, object by object, while the primary serves.
//!
//! Compare, do not track: nothing is remembered about what a partner that is away misses, so nothing can be lost, and an
//! interruption costs no more than another comparison. The *receiver* begins by itself when the pair says that it needs
//! a resync and a primary is there; it asks, the *source* answers ([`wire`]). Each side runs in a thread of its own, on
//! the link's control channel; the link's end ends both.
//!
//! What only the receiver holds (one side of a split, a log without a common point) is kept aside by the session before
//! anything of its tree changes; until then the operator may still choose this side.
//!
//! What can go wrong: whatever ends a session is told in status, and the receiver tries again at growing intervals. It
//! is inconsistent, not eligible, and says so durably from before the first change of its tree until the tree is the
//! primary's at a point of the log from which it then joins as any partner that was away.

mod asking;
mod compare;
mod contents;
mod error;
mod packing;
mod progress;
mod receive;
mod salvage;
mod source;
pub(super) mod state;
pub(super) mod throttle;
mod wire;

#[cfg(fuzzing)]
pub(super) use wire::try_messages;

use super::NodeError;
use super::shared::Shared;
use rdma_transport::Control;
use receive::Receive;
use runtime::channel::{Sender, TrySendError, bounded};
use runtime::{Instant, mark};
use source::Source;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Messages that may wait for a session's thread: more than a well-behaved side has open.
const MAX_WAITING: usize = 2 * wire::MAX_ASKED;
/// First and longest pause before the next attempt.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// A session of this node.
struct Running {
    link: u64,
    session: u32,
    inbox: Option<Sender<Vec<u8>>>,
    stop: Arc<AtomicBool>,
    /// A receiver waits here for the word that its tree may change.
    leave: Option<Sender<bool>>,
    /// The source has held the log.
    held: Arc<AtomicBool>,
}

impl Running {
    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.inbox = None;
    }
}

/// The executor's view of both sides.
pub(super) struct Resync {
    shared: Arc<Shared>,
    receiving: Option<Running>,
    sending: Option<Running>,
    sessions: u32,
    retry: Duration,
    retry_at: Instant,
}

impl Resync {
    pub fn new(shared: Arc<Shared>) -> Resync {
        let (retry, retry_at) = (RETRY_MIN, Instant::now());
        Resync { shared, receiving: None, sending: None, sessions: 0, retry, retry_at }
    }

    /// Whether a control message is one of a resync.
    pub fn is_about(bytes: &[u8]) -> bool {
        wire::envelope(bytes).is_some()
    }

    /// May a session be begun now? Not before the end of the last one was heard, whatever became of its link: until
    /// then it may still change the tree.
    pub fn may_begin(&self) -> bool {
        self.receiving.is_none() && Instant::now() >= self.retry_at
    }

    /// Begins to receive over `link`. What only this node holds is kept aside first if `salvages`; then the tree is not
    /// touched before [`Resync::give_leave`].
    pub fn begin(
        &mut self,
        link: u64,
        control: Arc<dyn Control>,
        salvages: bool,
        compares_all: bool,
    ) -> Result<(), NodeError> {
        if compares_all {
            self.shared.resync.distrust.store(true, Ordering::Release);
        }
        if !salvages {
            self.replace();
        }
        self.sessions += 1;
        let (told, inbox) = bounded(MAX_WAITING);
        let (leave, waits) = bounded(1);
        let (stop, session) = (Arc::new(AtomicBool::new(false)), self.sessions);
        let receive = Receive {
            shared: self.shared.clone(),
            link,
            session,
            control,
            inbox,
            stop: stop.clone(),
            leave: salvages.then_some(waits),
            judge: RefCell::default(),
            told: Cell::new(None),
            seed: u64::from(self.shared.log.end().crc.0) << 32 | u64::from(session),
            asked: Cell::new(0),
            answered: Cell::new(0),
        };
        runtime::spawn("resync", move || {
            runtime::be_bulk();
            receive.run();
        })
        .map_err(NodeError::Thread)?;
        let held = Arc::new(AtomicBool::new(false));
        self.receiving = Some(Running { link, session, inbox: Some(told), stop, leave: Some(leave), held });
        Ok(())
    }

    /// The base tree belongs to no point of this node's log any more: what the log holds is not applied to it.
    fn replace(&self) {
        let shared = &self.shared;
        shared.resync.set_replacing(true);
        let _no_consistency_point = shared.applier.exclusive();
        let tail = shared.log.tail();
        shared.stack.reset(shared.fresh_layers(tail.lsn));
        shared.applier.begin_anew();
        shared.gate.forget_pending();
        shared.follower.restart_at(tail, tail.lsn);
    }

    /// Is this the session that waits for leave?
    pub fn waits_for_leave(&self, link: u64, session: u32) -> bool {
        self.receiving.as_ref().is_some_and(|running| running.link == link && running.session == session)
    }

    /// Everything that only this node held is kept aside: may its tree change now?
    pub fn give_leave(&mut self, granted: bool) {
        if granted {
            self.replace();
        }
        if let Some(leave) = self.receiving.as_mut().and_then(|running| running.leave.take()) {
            let _session_has_ended = leave.send(granted);
        }
    }

    /// A session came to its end, well or not.
    pub fn ended(&mut self, failed: Option<&str>) {
        self.receiving = None;
        match failed {
            None => {
                self.retry = RETRY_MIN;
                *self.shared.resync.error.lock() = None;
            }
            Some(why) => {
                mark!("resync refused");
                tracing::warn!(volume = self.shared.name(), why, retry = ?self.retry, "the resync ended");
                *self.shared.resync.error.lock() = Some(why.to_owned());
                self.retry_at = Instant::now() + self.retry;
                self.retry = (self.retry * 2).min(RETRY_MAX);
            }
        }
    }

    /// A message of a resync came over `link`. `serves`: this node may be a source.
    pub fn heard(&mut self, link: u64, bytes: Vec<u8>, control: Option<Arc<dyn Control>>, serves: bool) {
        let Some(envelope) = wire::envelope(&bytes) else { return };
        if envelope.is_told {
            let is_ours = |running: &Running| running.link == link && running.session == envelope.tag.session;
            if let (Some(told), true) =
                (wire::decode_told(&bytes), self.sending.as_ref().is_some_and(is_ours))
            {
                self.shared.resync.note(|progress| progress.heard(told));
            }
            return;
        }
        if !envelope.is_question {
            return pass_on(self.receiving.as_mut(), link, envelope.tag.session, bytes);
        }
        let known = |running: &Running| running.link == link && running.session == envelope.tag.session;
        if !self.sending.as_ref().is_some_and(known) {
            self.stop_sending();
            let Some(control) = control else { return };
            match wire::Question::decode(&bytes) {
                Ok(wire::Question::Begin { .. }) if serves => self.send(link, envelope.tag.session, control),
                Ok(_) | Err(_) => {
                    let why = "the session is not known here, or this node is no primary".to_owned();
                    let refused = wire::Answer::Refused { why }.encode(envelope.tag);
                    let _link_is_gone = control.send(&refused);
                    return;
                }
            }
        }
        pass_on(self.sending.as_mut(), link, envelope.tag.session, bytes);
    }

    fn send(&mut self, link: u64, session: u32, control: Arc<dyn Control>) {
        let (told, inbox) = bounded(MAX_WAITING);
        let (stop, held) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let shared = self.shared.clone();
        let source = Source { shared, link, control, inbox, stop: stop.clone(), held: held.clone() };
        match runtime::spawn("resync", move || {
            runtime::be_bulk();
            source.run();
        }) {
            Ok(_thread) => {
                self.sending = Some(Running { link, session, inbox: Some(told), stop, leave: None, held });
            }
            Err(error) => tracing::error!(%error, "no thread for the partner's resync"),
        }
    }

    /// This node is no source any more: its tree may change, its log goes its own way.
    pub fn stop_sending(&mut self) {
        let Some(mut running) = self.sending.take() else { return };
        running.end();
        if running.held.load(Ordering::Acquire)
            && let Err(error) = self.shared.path.set_hold(None)
        {
            tracing::warn!(volume = self.shared.name(), %error, "the log is still held");
        }
    }

    /// The source's thread has ended. True: it holds the log for a receiver that should have joined since.
    pub fn source_ended(&self, link: u64) -> bool {
        let holds = |running: &Running| running.link == link && running.held.load(Ordering::Acquire);
        self.sending.as_ref().is_some_and(holds)
    }

    /// The link is gone, and every session over it.
    pub fn link_ended(&mut self) {
        self.stop_sending();
        if let Some(running) = &mut self.receiving {
            running.end();
        }
    }
}

/// Hands a message to its session; one that asks too much at once is ended.
fn pass_on(running: Option<&mut Running>, link: u64, session: u32, bytes: Vec<u8>) {
    let Some(running) = running.filter(|running| running.link == link && running.session == session) else {
        return;
    };
    let full = match &running.inbox {
        Some(inbox) => matches!(inbox.try_send(bytes), Err(TrySendError::Full(_))),
        None => false,
    };
    if full {
        running.end();
    }
}
