//! What can happen next, and what becomes of it.
//!
//! Time passes in ticks, for both clocks at once, and only when everything that is on its way has arrived; to
//! be late is a fault (a held direction, a paused process, a lost answer), so the bounds on faults bound the
//! search, and what is not a fault may take as long as it likes: a partition lasts until `Connect`, a crash
//! until `Restart`. Within a tick, events come in every order.

use crate::executor::Executor;
use crate::faults::Kind;
use crate::state::{Breach, Link, State};
use pair::witness::{Answer, Request, swap};
use pair::{Event, LinkId, Message, Operator, WitnessOutcome};
use std::collections::VecDeque;

/// Longest queue of a held direction; before that someone has given the link up.
const MAX_HELD_MESSAGES: usize = 12;
/// Operations in flight.
const MAX_IN_FLIGHT: usize = 1;

/// An event of the world. A number is a node: whose event it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Time passes; until it does again, this node is the quicker one.
    Tick(usize),
    /// A message arrives.
    Message(usize),
    /// A batch of records arrives in this node's log.
    Data(usize),
    /// The partner's acknowledgement arrives.
    Acknowledgement(usize),
    /// The witness takes the request and its answer arrives.
    Witness(usize),
    /// A client writes.
    Write(usize),
    /// The node learns that its link broke.
    Notice(usize),
    Connect,
    Restart(usize),
    Resume(usize),
    Release(usize),
    WitnessBack,
    /// A swap that was given up arrives after all.
    LateSwap(usize),

    Crash {
        node: usize,
        torn: bool,
    },
    Cut,
    Hold(usize),
    Pause(usize),
    WitnessAway,
    /// The request is lost, or late, and the node does not know which.
    LoseRequest(usize),
    /// The witness did it, and the node does not know.
    LoseAnswer(usize),
    Forget,
    Switchover(usize),
    Shutdown(usize),
    Force(usize),
}

impl State {
    pub fn can_read(&self, node: usize) -> bool {
        let queued = |link: &Link| link.open[node] && !link.held[node] && !link.messages[node].is_empty();
        self.nodes[node].awake() && self.link.as_ref().is_some_and(queued)
    }

    pub fn can_take_acknowledgement(&self, node: usize) -> bool {
        let queued = |link: &Link| link.open[node] && !link.held[node] && link.acknowledged[node].is_some();
        self.nodes[node].awake() && self.link.as_ref().is_some_and(queued)
    }

    /// Data arrives whatever the processors do, unless it is held up on the way.
    pub fn can_land(&self, node: usize) -> bool {
        let Some(batch) = &self.wire[node] else { return false };
        let held = self.link.as_ref().is_some_and(|link| link.id == batch.link && link.held[node]);
        !held && (self.nodes[node].awake() || self.nodes[node].pair.is_none())
    }

    pub fn can_notice(&self, node: usize) -> bool {
        self.nodes[node].awake() && self.link.as_ref().is_some_and(|link| link.cut && link.open[node])
    }

    pub fn can_connect(&self) -> bool {
        let free = self.link.as_ref().is_none_or(|link| link.cut);
        free && self.nodes.iter().all(|node| node.awake() && !node.stopped)
    }

    pub fn can_restart(&self, node: usize) -> bool {
        self.nodes[node].pair.is_none() || self.nodes[node].stopped
    }

    fn can_write(&self, node: usize) -> bool {
        let n = &self.nodes[node];
        let room = n.disk.log.len() < n.committed + MAX_IN_FLIGHT;
        self.writes_left > 0 && n.awake() && n.serving && !n.gate_closed && room
    }

    /// Something has arrived at this node, or would, that is not late.
    fn has_something(&self, node: usize) -> bool {
        let asks = self.nodes[node].awake() && self.nodes[node].ask.is_some();
        asks || self.can_land(node) || self.can_read(node) || self.can_take_acknowledgement(node)
    }

    /// Nothing is on its way but what a broken link may lose.
    pub fn can_tick(&self) -> bool {
        let lively = self.link.as_ref().is_some_and(|link| !link.cut);
        let asks = |node: &usize| self.nodes[*node].awake() && self.nodes[*node].ask.is_some();
        let busy = |node: &usize| if lively { self.has_something(*node) } else { asks(node) };
        let full = self
            .link
            .as_ref()
            .is_some_and(|link| link.messages.iter().any(|messages| messages.len() > MAX_HELD_MESSAGES));
        !full && ![0, 1].iter().any(busy)
    }

    /// What happens by itself, in an order that is fair: the run that it makes must end well.
    pub fn next_without_fault(&self) -> Option<Action> {
        let held = |node: &usize| self.link.as_ref().is_some_and(|link| link.held[*node]);
        let first = |can: &dyn Fn(&usize) -> bool, action: fn(usize) -> Action| {
            [0, 1].into_iter().find(|node| can(node)).map(action)
        };
        (!self.witness_up)
            .then_some(Action::WitnessBack)
            .or_else(|| first(&|node| self.nodes[*node].paused, Action::Resume))
            .or_else(|| first(&held, Action::Release))
            .or_else(|| first(&|node| self.can_restart(*node), Action::Restart))
            .or_else(|| first(&|node| self.can_notice(*node), Action::Notice))
            .or_else(|| first(&|node| self.can_land(*node), Action::Data))
            .or_else(|| first(&|node| self.can_take_acknowledgement(*node), Action::Acknowledgement))
            .or_else(|| first(&|node| self.can_read(*node), Action::Message))
            .or_else(|| first(&|node| self.nodes[*node].ask.is_some(), Action::Witness))
            .or_else(|| (!self.late.is_empty()).then_some(Action::LateSwap(0)))
            .or_else(|| self.can_connect().then_some(Action::Connect))
            .or_else(|| self.can_tick().then_some(Action::Tick(0)))
    }

    pub fn actions(&self, actions: &mut Vec<Action>) {
        if self.breach.is_some() {
            return;
        }
        let mut when = |can: bool, action| {
            if can {
                actions.push(action);
            }
        };
        let lively = self.link.as_ref().is_some_and(|link| !link.cut);
        let calm = self.can_tick();
        when(calm, Action::Tick(0));
        when(calm, Action::Tick(1));
        when(self.can_connect(), Action::Connect);
        when(calm && !self.witness_up, Action::WitnessBack);
        let left = |kind| self.faults.left(kind);
        when(lively && left(Kind::Cut), Action::Cut);
        when(self.witness_up && left(Kind::Witness), Action::WitnessAway);
        when(self.register.is_some() && left(Kind::Forget), Action::Forget);
        for index in 0..self.late.len() {
            when(true, Action::LateSwap(index));
        }
        for node in 0..2 {
            let n = &self.nodes[node];
            let up = n.pair.is_some();
            let asks = n.awake() && n.ask.is_some();
            let held = lively && self.link.as_ref().is_some_and(|link| link.held[node]);
            let turn = node == self.quick || !self.has_something(self.quick);
            when(turn && self.can_read(node), Action::Message(node));
            when(turn && self.can_land(node), Action::Data(node));
            when(turn && self.can_take_acknowledgement(node), Action::Acknowledgement(node));
            when(turn && asks, Action::Witness(node));
            when(self.can_write(node), Action::Write(node));
            when(self.can_notice(node), Action::Notice(node));
            when(calm && self.can_restart(node), Action::Restart(node));
            when(calm && n.paused, Action::Resume(node));
            when(calm && held, Action::Release(node));

            when(up && !n.stopped && left(Kind::Crash), Action::Crash { node, torn: false });
            let torn = n.durable < n.disk.log.len();
            when(up && torn && left(Kind::Crash), Action::Crash { node, torn: true });
            when(lively && !held && left(Kind::Hold), Action::Hold(node));
            when(n.awake() && !n.stopped && left(Kind::Pause), Action::Pause(node));
            when(asks && self.witness_up && left(Kind::Witness), Action::LoseRequest(node));
            when(asks && self.witness_up && left(Kind::Witness), Action::LoseAnswer(node));
            let Some(pair) = n.pair.as_ref().filter(|_| n.awake() && !n.stopped) else { continue };
            let primary = pair.status(self.now).role == pair::RoleName::Primary;
            let switch = primary && pair.can(Operator::Switchover).is_ok();
            when(switch && left(Kind::Operator), Action::Switchover(node));
            when(left(Kind::Operator), Action::Shutdown(node));
            let force = pair.can(Operator::ForceTakeover).is_ok();
            when(force && left(Kind::Force), Action::Force(node));
        }
    }
}

impl Executor<'_> {
    pub fn act(&mut self, action: Action) {
        match action {
            Action::Tick(quick) => {
                self.tick();
                self.state.quick = quick;
            }
            Action::Message(node) => self.message(node),
            Action::Data(node) => self.land(node),
            Action::Acknowledgement(node) => self.acknowledgement(node),
            Action::Witness(node) => self.witness(node),
            Action::Write(node) => self.write(node),
            Action::Notice(node) => {
                if let Some(link) = self.state.link.as_ref().map(|link| link.id) {
                    self.close(node, link);
                    self.apply(node, Event::LinkDown { link });
                }
            }
            Action::Connect => self.connect(),
            Action::Restart(node) => {
                self.crash(node, false);
                self.start(node);
            }
            Action::Resume(node) => self.state.nodes[node].paused = false,
            Action::Release(node) => self.hold(node, false),
            Action::WitnessBack => self.state.witness_up = true,
            Action::LateSwap(index) => {
                let request = self.state.late.remove(index);
                self.ask_witness(&request);
            }
            Action::Crash { node, torn } => {
                self.state.faults.spend(Kind::Crash);
                self.crash(node, torn);
            }
            Action::Cut => {
                self.state.faults.spend(Kind::Cut);
                if let Some(link) = &mut self.state.link {
                    link.cut = true;
                }
            }
            Action::Hold(node) => {
                self.state.faults.spend(Kind::Hold);
                self.hold(node, true);
            }
            Action::Pause(node) => {
                self.state.faults.spend(Kind::Pause);
                self.state.nodes[node].paused = true;
            }
            Action::WitnessAway => {
                self.state.faults.spend(Kind::Witness);
                self.state.witness_up = false;
            }
            Action::LoseRequest(node) => self.lose(node, false),
            Action::LoseAnswer(node) => self.lose(node, true),
            Action::Forget => {
                self.state.faults.spend(Kind::Forget);
                self.state.register = None;
            }
            Action::Switchover(node) => {
                self.state.faults.spend(Kind::Operator);
                self.apply(node, Event::Operator(Operator::Switchover));
            }
            Action::Shutdown(node) => {
                self.state.faults.spend(Kind::Operator);
                self.apply(node, Event::Shutdown);
            }
            Action::Force(node) => {
                self.state.faults.spend(Kind::Force);
                self.state.forced = true;
                self.apply(node, Event::Operator(Operator::ForceTakeover));
            }
        }
        self.state.normalise();
        self.check();
    }

    /// A unit of time. Heartbeats that nothing holds up are answered within it.
    fn tick(&mut self) {
        self.state.now = self.state.now.plus(1);
        if let Some(link) = self.state.link.as_mut().filter(|link| link.cut) {
            // What nobody has read by now is lost.
            link.messages.iter_mut().for_each(VecDeque::clear);
            link.acknowledged = [None, None];
        }
        for node in 0..2 {
            if self.state.nodes[node].awake() {
                let n = &mut self.state.nodes[node];
                n.durable = n.disk.log.len();
                self.commit(node);
                let vitals = self.vitals(node);
                self.apply(node, Event::Tick { vitals });
            }
        }
        while let Some(node) = [0, 1].into_iter().find(|node| self.heartbeat_first(*node)) {
            self.message(node);
        }
        for node in 0..2 {
            // To look is to learn what may have changed by then: whenever the answer comes.
            let looks = matches!(self.state.nodes[node].ask, Some((_, Request::Read { .. })));
            if looks && self.state.nodes[node].awake() {
                self.witness(node);
            }
        }
    }

    fn heartbeat_first(&self, node: usize) -> bool {
        let beat = |message: &Message| {
            matches!(message, Message::Heartbeat { .. } | Message::HeartbeatAnswer { .. })
        };
        self.state.can_read(node)
            && self.state.link.as_ref().and_then(|link| link.messages[node].front()).is_some_and(beat)
    }

    fn message(&mut self, node: usize) {
        let Some(link) = &mut self.state.link else { return };
        let Some(message) = link.messages[node].pop_front() else { return };
        let link = link.id;
        self.apply(node, Event::Message { link, message });
    }

    /// One-sided: where the right was granted, the bytes lie in the log's memory; the processor takes in
    /// only what continues the log, and acknowledges only that.
    fn land(&mut self, node: usize) {
        let Some(batch) = self.state.wire[node].take() else { return };
        let id = batch.link;
        let n = &mut self.state.nodes[node];
        if n.granted == Some(id) {
            let end = n.disk.log.len();
            for (index, record) in (batch.first..).zip(&batch.records) {
                if index < end {
                    n.disk.log[index] = *record;
                }
            }
            if n.receiving == Some(id) && batch.first == end {
                n.disk.ingest(&batch.records);
                n.durable = n.disk.log.len();
                let len = n.durable;
                let sender = 1 - node;
                if let Some(link) = &mut self.state.link
                    && link.id == id
                    && !link.cut
                    && link.open[sender]
                {
                    link.acknowledged[sender] = Some(len);
                }
            } else if n.receiving == Some(id) {
                self.apply(node, Event::MirrorLost { link: id });
            }
        }
        self.pump(1 - node);
    }

    fn acknowledgement(&mut self, node: usize) {
        let Some(link) = &mut self.state.link else { return };
        let Some(len) = link.acknowledged[node].take() else { return };
        let id = link.id;
        let n = &mut self.state.nodes[node];
        n.durable = n.disk.log.len();
        if n.mirroring.is_some_and(|(current, _)| current == id) {
            n.peer_durable = n.peer_durable.max(len);
            self.commit(node);
            self.look_around(node);
        }
    }

    fn write(&mut self, node: usize) {
        let id = self.state.next_record;
        self.state.next_record += 1;
        self.state.writes_left -= 1;
        let n = &mut self.state.nodes[node];
        n.disk.log.push(crate::disk::Record { epoch: n.epoch, id });
        if n.rule == ids::AckRule::Local {
            n.durable = n.disk.log.len();
        }
        self.pump(node);
        self.commit(node);
        self.look_around(node);
    }

    fn connect(&mut self) {
        let id = LinkId(self.state.next_link);
        self.state.next_link += 1;
        self.state.link = Some(Link {
            id,
            cut: false,
            open: [true, true],
            held: [false, false],
            messages: [VecDeque::new(), VecDeque::new()],
            acknowledged: [None, None],
        });
        for node in 0..2 {
            // The runtime tears the old link down before it tells of the new one.
            self.state.wire[node] = None;
            let n = &mut self.state.nodes[node];
            (n.receiving, n.granted, n.mirroring) = (None, None, None);
        }
        for node in 0..2 {
            let log = self.summary(node);
            self.apply(node, Event::LinkUp { link: id, log });
        }
    }

    fn crash(&mut self, node: usize, torn: bool) {
        if let Some(link) = self.state.link.as_ref().map(|link| link.id) {
            self.close(node, link);
        }
        let n = &mut self.state.nodes[node];
        if torn {
            n.disk.log.truncate(n.durable);
        }
        if let Some((_, request)) = n.ask.take() {
            // It may have been sent.
            self.state.late.push(request);
        }
        self.state.nodes[node].crash();
    }

    fn hold(&mut self, node: usize, held: bool) {
        if let Some(link) = &mut self.state.link {
            link.held[node] = held;
        }
    }

    fn witness(&mut self, node: usize) {
        let Some((request, ask)) = self.state.nodes[node].ask.take() else { return };
        let outcome = if self.state.witness_up {
            self.ask_witness(&ask)
        } else {
            WitnessOutcome::Unreachable { maybe_applied: false }
        };
        self.apply(node, Event::WitnessAnswer { request, outcome });
    }

    fn lose(&mut self, node: usize, done: bool) {
        self.state.faults.spend(Kind::Witness);
        let Some((request, ask)) = self.state.nodes[node].ask.take() else { return };
        if done {
            self.ask_witness(&ask);
        } else {
            self.state.late.push(ask);
        }
        let outcome = WitnessOutcome::Unreachable { maybe_applied: true };
        self.apply(node, Event::WitnessAnswer { request, outcome });
    }

    fn ask_witness(&mut self, ask: &Request) -> WitnessOutcome {
        let register = &mut self.state.register;
        match ask {
            Request::Read { .. } => WitnessOutcome::Is(register.clone()),
            Request::CompareAndSwap { expected, new } => {
                match swap(register.as_ref(), expected.as_ref(), new) {
                    Ok(new) => {
                        *register = Some(new.clone());
                        WitnessOutcome::Swapped(new)
                    }
                    Err(Answer::Conflict { register }) => WitnessOutcome::Conflict(register),
                    Err(_) => {
                        self.breach(Breach::Machine);
                        WitnessOutcome::Unreachable { maybe_applied: false }
                    }
                }
            }
        }
    }
}
