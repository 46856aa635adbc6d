//! Executes the pair's commands: the one thread of a volume that owns the state machine.
//!
//! Invariants: the rule of order of [`pair::command`]: every command is complete before the next, every
//! event's commands before the next event; answers to commands come before anything that others tell. What
//! can go wrong: a command fails (the rest of its batch is dropped and the pair is told), a link dies at any
//! moment (its parts are given up).

mod acts;
mod lease;
mod log_device;
mod opening;
mod resync;
mod split;
pub(super) mod watch;

use super::NodeError;
use super::event::{NodeEvent, WitnessQuestion};
use super::front::Front;
use super::peer::Peer;
use super::receiver::Landing;
use super::resync::Resync;
use super::shared::Shared;
use super::split::talk::Talk;
use super::standing::StandingFaults;
use super::verify;
use super::write_behind;
use admin_api::control::{ControlError, ErrorKind};
use admin_api::status::FaultKind;
use ids::Lsn;
use opening::Opening;
use pair::{
    Command, Event, FailedPart, LinkId, LogSummary, Message, MonoMs, Operator, Pair, PairMode, PairStatus,
    Vitals,
};
use runtime::channel::{Receiver, RecvTimeoutError, Sender};
use runtime::{Instant, mark};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How often something that is waited for by looking is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(1);
/// How long operations that are inside may take to leave after serving stopped.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Executor {
    shared: Arc<Shared>,
    pair: Pair,
    inbox: Receiver<NodeEvent>,
    witness: Sender<WitnessQuestion>,
    front: Front,
    answers: VecDeque<Event>,
    peer: Option<Peer>,
    await_peer: Option<(LinkId, Lsn)>,
    resync: Resync,
    draining: bool,
    /// It is to serve, and has more to apply first than fits into memory.
    opening: Option<Opening>,
    progress: watch::Progress,
    log_device: log_device::LogDevice,
    standing: StandingFaults,
    /// The pair's, after the last event.
    mode: PairMode,
    /// Why the newest claim began.
    reason: &'static str,
    /// How long the read lease is that is in force, as far as it was told.
    lease_ms: u64,
    tick_at: Instant,
    /// When it was last said that this thread is late.
    said_late: Option<Instant>,
    stop_wanted: bool,
    stopped: bool,
}

impl Executor {
    /// An executor that has carried out `first`, the pair's first commands.
    pub fn new(
        shared: Arc<Shared>,
        pair: Pair,
        first: Vec<Command>,
        inbox: Receiver<NodeEvent>,
        witness: Sender<WitnessQuestion>,
        front: Front,
    ) -> Executor {
        let status = pair.status(MonoMs(shared.now_ms()));
        let resync = Resync::new(shared.clone());
        let mut executor = Executor {
            shared,
            mode: status.mode,
            pair,
            inbox,
            witness,
            front,
            answers: VecDeque::new(),
            peer: None,
            resync,
            await_peer: None,
            draining: false,
            opening: None,
            progress: watch::Progress::default(),
            log_device: log_device::LogDevice::default(),
            standing: StandingFaults::default(),
            reason: FORCED,
            lease_ms: 0,
            tick_at: Instant::now(),
            said_late: None,
            stop_wanted: false,
            stopped: false,
        };
        executor.carry_out(first);
        *executor.shared.pair.lock() = Some(status);
        executor
    }

    /// Runs until the pair has stopped.
    pub fn run(mut self) {
        runtime::be_vital();
        while !self.stopped {
            self.watch();
            if let Some(answer) = self.answers.pop_front() {
                self.apply(answer);
                continue;
            }
            let due = Instant::now() + self.next_look();
            match self.inbox.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(event) => self.heard(event),
                Err(RecvTimeoutError::Timeout) => self.note_lateness(due),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = Instant::now();
            self.begin_resync();
            if now >= self.tick_at || self.now() >= self.pair.next_deadline() {
                self.tick_at = now + self.shared.config.timers.heartbeat;
                self.look_around();
                let status = self.pair.status(self.now());
                self.standing.look(&self.shared, &status);
                let vitals = Vitals { log_is_slow: self.log_device.is_slow(), ..self.shared.vitals() };
                self.apply(Event::Tick { vitals });
            }
        }
        self.close_peer();
        self.front.end();
    }

    fn now(&self) -> MonoMs {
        MonoMs(self.shared.now_ms())
    }

    fn next_look(&self) -> Duration {
        if self.draining || self.await_peer.is_some() || self.opening.is_some() {
            return WATCH_INTERVAL;
        }
        let deadline = Duration::from_millis(self.pair.next_deadline().since(self.now()));
        deadline.min(self.tick_at.saturating_duration_since(Instant::now())).max(WATCH_INTERVAL)
    }

    fn apply(&mut self, event: Event) {
        let before = self.mode;
        let reason = takeover_reason(&event, before);
        let commands = self.pair.apply(self.now(), event);
        // Commands do not change it: one status for each event is enough.
        let after = self.pair.status(self.now());
        self.mode = after.mode;
        if after.mode == PairMode::TakingOver && (before != after.mode || reason == FORCED) {
            self.reason = reason;
        }
        if after.mode != before {
            let (from, to, epoch) = (before.to_string(), after.mode.to_string(), after.epoch.0);
            tracing::info!(volume = self.shared.name(), from, to, epoch, detail = after.detail, "pair");
            if after.mode == PairMode::Mirrored {
                for kind in [FaultKind::WrongBytes, FaultKind::LogAndTreeDiffer, FaultKind::NoThread] {
                    self.shared.faults.clear(kind);
                }
            }
        }
        self.report_register(&after);
        self.carry_out(commands);
        // A failed pair says no more; there is nothing to hand over.
        self.stopped |= self.stop_wanted && after.mode == PairMode::Failed;
        *self.shared.pair.lock() = Some(after);
    }

    /// A witness that was rolled back has to be told of before it is needed, also by a pair that lives without it.
    fn report_register(&self, now: &PairStatus) {
        let told = self.shared.faults.has(FaultKind::WitnessRolledBack);
        if now.register_stale.is_some() && !told {
            mark!("old register told");
        }
        match &now.register_stale {
            Some(register) if !told => self.shared.faults.raise(
                FaultKind::WitnessRolledBack,
                &format!(
                    "the witness's register is older than what was granted: it tells of epoch {} ({} {}), and this node knows epoch {}: its state came from a \
                     backup, or was rolled back; it does not decide",
                    register.epoch, register.primary, register.mode, now.epoch
                ),
                "a node that serves, or the pair once it is mirrored, writes it anew by itself; otherwise bring the other \
                 node back, or, if that is gone for good: `twinfiler takeover VOLUME --force`",
            ),
            None if told && now.witness_reachable == Some(true) => {
                self.shared.faults.clear(FaultKind::WitnessRolledBack);
            }
            _ => {}
        }
    }

    fn carry_out(&mut self, commands: Vec<Command>) {
        for command in commands {
            tracing::debug!(volume = self.shared.name(), ?command, "command");
            if let Err(error) = self.execute(command) {
                self.answers.push_front(failed(&error));
                break;
            }
        }
    }

    /// What somebody told becomes an event of the pair.
    fn heard(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::LinkUp { id, link } => {
                self.close_peer();
                let peer = Peer::new(id, *link, Landing::of(&self.shared));
                self.shared.verify.set_peer(Some((id, peer.control())));
                self.shared.room.set_peer(Some(peer.control()));
                self.shared.write_behind.set_peer(Some((id, peer.control())));
                self.peer = Some(peer);
                let log = self.shared.log_summary();
                self.apply(Event::LinkUp { link: LinkId(id), log });
            }
            NodeEvent::LinkDown { id } => {
                if self.peer.as_ref().is_some_and(|peer| peer.id() == id) {
                    self.close_peer();
                    self.apply(Event::LinkDown { link: LinkId(id) });
                }
            }
            NodeEvent::LinkRefused { reason } => self.apply(Event::LinkRefused { reason }),
            NodeEvent::Message { id, bytes, place } => {
                self.on_message(id, bytes);
                drop(place);
            }
            NodeEvent::SplitTalk { talk, answer, until } if Instant::now() < until => {
                self.ask_split(talk, answer);
            }
            NodeEvent::SplitTalk { .. } => {}
            NodeEvent::SplitAnswer { link, talk } => self.answer_split(link, &talk),
            NodeEvent::Salvaged { link, session, end } => self.salvaged(link, session, end),
            NodeEvent::TreesDiffer(differ) => self.apply(Event::TreesDiffer(differ)),
            NodeEvent::ResyncEnded { link, result } => self.resync_ended(link, result),
            NodeEvent::ResyncSourceEnded { link } => self.resync_source_ended(link),
            NodeEvent::MirrorLost { id, reason } => {
                tracing::info!(volume = self.shared.name(), link = id, reason, "mirroring ended");
                self.apply(Event::MirrorLost { link: LinkId(id) });
            }
            NodeEvent::ReceivedWrong { id, reason } => {
                self.shared.faults.raise(
                    FaultKind::WrongBytes,
                    &format!("what the primary wrote does not continue this log: {reason}"),
                    "it catches up again by itself; if this comes back, check memory, NIC and cabling of both nodes",
                );
                self.apply(Event::ReceivedWrong { link: LinkId(id) });
            }
            NodeEvent::Witness { request, outcome } => self.apply(Event::WitnessAnswer { request, outcome }),
            NodeEvent::Operator { wish, answer } => {
                let possible = self.pair.can(wish).map_err(|why| ControlError::new(ErrorKind::Refused, why));
                let go = possible.is_ok();
                let somebody_waits = answer.send(possible).is_ok();
                if go && somebody_waits {
                    self.apply(Event::Operator(wish));
                }
            }
            NodeEvent::Withdrawn(wish) => self.apply(Event::Withdrawn(wish)),
            NodeEvent::Fault(fault) => self.apply(Event::LocalFault(fault)),
            NodeEvent::Healed => self.apply(Event::LocalHealed),
            NodeEvent::LogFailed(error) => {
                self.apply(Event::CommandFailed { part: FailedPart::Log, error });
            }
            NodeEvent::Shutdown => {
                self.stop_wanted = true;
                self.apply(Event::Shutdown);
            }
        }
    }

    /// What the partner told over a link.
    fn on_message(&mut self, id: u64, bytes: Vec<u8>) {
        if Resync::is_about(&bytes) {
            return self.heard_resync(id, bytes);
        }
        if Talk::is_about(&bytes) {
            return self.heard_split(id, &bytes);
        }
        if verify::is_about(&bytes) {
            return verify::heard(&self.shared, id, &bytes);
        }
        let link = LinkId(id);
        self.apply(match Message::decode(&bytes) {
            Ok(message) => {
                if let Message::Hello(hello) = &message {
                    self.heard_hello(&hello.log);
                }
                Event::Message { link, message }
            }
            Err(error) => Event::BadMessage { link, error },
        });
    }

    /// Ends the link. Where the partner's right to write into this log cannot be taken away, this node must
    /// not go on: whatever it would do with the log, the other may write into it.
    fn close_peer(&mut self) {
        self.resync.link_ended();
        self.shared.verify.set_peer(None);
        self.shared.room.set_peer(None);
        self.shared.write_behind.set_peer(None);
        self.shared.split.forget();
        let Some(peer) = self.peer.take() else { return };
        if let Err(error) = peer.close(&self.shared.path) {
            self.apply(failed(&error));
        }
    }

    /// What the partner's log is like, before anything is sent to it.
    fn heard_hello(&self, log: &LogSummary) {
        *self.shared.peer_durability.lock() = Some(log.durability);
        write_behind::heard_hello(&self.shared, log);
        if let Err(error) = self.shared.path.update(|cursors| cursors.set_peer_trimmed(log.tail.lsn)) {
            tracing::warn!(volume = self.shared.name(), %error, "the partner's tail is not believed");
        }
    }

    /// Looks at what is waited for.
    fn watch(&mut self) {
        if let Some((link, lsn)) = self.await_peer
            && self.shared.path.cursors().peer_durable() >= lsn
        {
            self.await_peer = None;
            self.answers.push_back(Event::PeerReached { link, lsn });
        }
        if self.draining && self.shared.path.is_drained() {
            self.draining = false;
            self.answers.push_back(Event::Drained { end: self.shared.log.end() });
        }
        self.watch_opening();
    }

    fn execute(&mut self, command: Command) -> Result<(), NodeError> {
        let shared = self.shared.clone();
        match command {
            Command::Store(state) => self.store(&state)?,
            Command::Send { link, message } => {
                if let Some(peer) = self.peer_of(link) {
                    peer.send(&message);
                }
            }
            Command::AskWitness { request, ask } => {
                let _ended = self.witness.send(WitnessQuestion { request, ask });
            }
            Command::Grant { link } => {
                if let Some(peer) = self.peer_of(link) {
                    peer.grant();
                }
            }
            Command::Revoke => {
                if let Some(peer) = &mut self.peer {
                    peer.revoke()?;
                }
                self.answers.push_back(Event::Revoked { log: shared.log_summary() });
            }
            Command::SetAckRule(rule) => self.set_rule(rule)?,
            Command::SetLease(lease) => self.set_lease(lease),
            Command::OpenEpoch { epoch } => self.open_epoch(epoch)?,
            Command::StartServing { epoch } => {
                let takeover = self.pair.status(self.now()).takeover.map(|times| (times, self.reason));
                self.opening = Some(Opening::new(epoch, takeover));
                self.try_to_serve()?;
            }
            Command::StopServing { reason } => self.stop_serving(reason)?,
            Command::TruncateLog { to } => {
                let result = self.truncate(to).map_err(|error| error.to_string());
                self.answers.push_back(Event::Truncated { result });
            }
            Command::CheckPoint { link, point } => {
                let verdict = self.verdict_on(point);
                self.answers.push_back(Event::PointChecked { link, point, verdict });
            }
            Command::StartMirroring { link, from } => self.start_mirroring(link, from),
            Command::StopMirroring => self.stop_mirroring(),
            Command::AwaitPeer { link, lsn } => self.await_peer = Some((link, lsn)),
            Command::StartReceiving { link, at } => {
                if let Some(peer) = self.peer_of(link) {
                    peer.receive(at)?;
                }
            }
            Command::SetHold(from) => {
                if let Err(error) = shared.path.set_hold(from) {
                    // Overwritten since it was checked: the partner's chain check will find out.
                    tracing::info!(volume = shared.name(), %error, "the log could not be held");
                }
            }
            Command::PeerVitals { vitals, committed } => self.peer_vitals(vitals, committed)?,
            Command::Drain => {
                shared.path.pause();
                self.draining = true;
            }
            Command::Undrain => {
                self.draining = false;
                shared.gate.open();
            }
            Command::CalledOff(why) => self.called_off(&why),
            Command::DropLink { link } => {
                if let Some(peer) = self.peer_of(link) {
                    peer.drop_link();
                }
            }
            Command::Stopped => self.stopped = true,
        }
        Ok(())
    }

    fn peer_of(&mut self, link: LinkId) -> Option<&mut Peer> {
        self.peer.as_mut().filter(|peer| peer.id() == link.0)
    }
}

const FORCED: &str = "forced";

/// Why a claim begins with this event, in the words of [`admin_api::status::TakeoverTiming`].
fn takeover_reason(event: &Event, before: PairMode) -> &'static str {
    match (event, before) {
        (Event::Operator(Operator::ForceTakeover), _) => FORCED,
        (Event::Message { message: Message::HandOver { .. }, .. }, _) => "switchover",
        (_, PairMode::Starting) => "start",
        _ => "partner lost",
    }
}

/// What the pair is told of an error after which this node cannot go on.
fn failed(error: &NodeError) -> Event {
    tracing::error!(%error, "a command of the pair failed");
    let part = match error {
        NodeError::Fence(_) => FailedPart::Fence,
        NodeError::Update(_)
        | NodeError::Persist(_)
        | NodeError::Truncate(_)
        | NodeError::Unreadable { .. } => FailedPart::Log,
        _ => FailedPart::Process,
    };
    Event::CommandFailed { part, error: error.to_string() }
}
