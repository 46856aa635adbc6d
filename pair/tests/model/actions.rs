//! What can happen next; what becomes of it is in `steps`.
//!
//! Time passes in ticks, for both clocks at once, and only when everything that is on its way has arrived; to
//! be late is a fault (a held direction, a paused process, a lost answer), so the bounds on faults bound the
//! search, and what is not a fault may take as long as it likes: a partition lasts until `Connect`, a crash
//! until `Restart`. Within a tick, events come in every order.

use crate::faults::Kind;
use crate::state::{Link, State};
use pair::Operator;
use pair::witness::Request;

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
    /// The witness comes back with this one of its backups.
    Rollback(usize),
    Switchover(usize),
    /// The command that asked for it ends.
    Withdraw(usize),
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

    /// Every node that runs has asked since the register changed last, and nothing is under way: to restore a backup
    /// takes longer than the pause between two questions, and the connections to the witness end. What is granted and
    /// forgotten within that pause, nobody can know.
    fn is_register_known(&self) -> bool {
        self.late.is_empty()
            && self.nodes.iter().all(|node| {
                let known = |pair: &pair::Pair| pair.status(self.now).register == self.register;
                let swaps = matches!(node.ask, Some((_, Request::CompareAndSwap { .. })));
                !swaps && !node.paused && node.pair.as_ref().is_none_or(|pair| node.stopped || known(pair))
            })
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

    /// What happens by itself, in an order that is fair: the run that it makes must end well. Who is `away` does not
    /// come back.
    pub fn next_without_fault(&self, away: Option<usize>) -> Option<Action> {
        let held = |node: &usize| self.link.as_ref().is_some_and(|link| link.held[*node]);
        let first = |can: &dyn Fn(&usize) -> bool, action: fn(usize) -> Action| {
            [0, 1].into_iter().find(|node| can(node)).map(action)
        };
        (!self.witness_up)
            .then_some(Action::WitnessBack)
            .or_else(|| first(&|node| self.nodes[*node].paused, Action::Resume))
            .or_else(|| first(&held, Action::Release))
            .or_else(|| first(&|node| Some(*node) != away && self.can_restart(*node), Action::Restart))
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
        for index in 0..self.backups.len() {
            let other = self.register.as_ref() != Some(&self.backups[index]);
            when(other && self.is_register_known() && left(Kind::Rollback), Action::Rollback(index));
        }
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
            let handing_over = pair.status(self.now).mode == pair::PairMode::HandingOver;
            when(handing_over, Action::Withdraw(node));
            when(left(Kind::Operator), Action::Shutdown(node));
            let force = pair.can(Operator::ForceTakeover).is_ok();
            when(force && left(Kind::Force), Action::Force(node));
        }
    }
}
