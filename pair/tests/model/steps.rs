//! What becomes of a state when an action happens to it.

use crate::actions::Action;
use crate::canary::Canary;
use crate::disk::Record;
use crate::executor::Executor;
use crate::faults::Kind;
use crate::state::{Breach, Link};
use pair::witness::{Answer, Request, swap};
use pair::{Event, LinkId, Message, Operator, WitnessOutcome};
use std::collections::VecDeque;

impl Executor<'_> {
    #[expect(clippy::too_many_lines, reason = "one arm for each action")]
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
                    if self.canary == Some(Canary::BrokenLinkIsProof) {
                        self.apply(node, Event::Message { link, message: Message::Goodbye });
                    }
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
            Action::Rollback(index) => {
                self.state.faults.spend(Kind::Rollback);
                self.state.register = Some(self.state.backups[index].clone());
                self.state.rolled_back = true;
            }
            Action::Switchover(node) => {
                self.state.faults.spend(Kind::Operator);
                self.apply(node, Event::Operator(Operator::Switchover));
            }
            Action::Withdraw(node) => self.apply(node, Event::Withdrawn(Operator::Switchover)),
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
        n.disk.log.push(Record { epoch: n.epoch, id });
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
