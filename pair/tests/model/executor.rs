//! What the runtime does with a machine's commands: the rule of order of `pair::command`, over a log in memory.
//!
//! As in the real runtime, an answer to a command is the next event of that node, before anything from outside.

use crate::canary::Canary;
use crate::disk::Disk;
use crate::state::{Batch, Breach, State, config, name};
use ids::{AckRule, Lsn};
use pair::{Command, Event, LinkId, LogSummary, Message, Pair, Vitals};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// More answers than this to one event: the machine runs in a circle.
const MAX_ANSWERS: usize = 50;

/// Carries one action out on a state.
pub struct Executor<'a> {
    pub state: &'a mut State,
    pub canary: Option<Canary>,
    pub witness: bool,
}

impl Executor<'_> {
    pub fn breach(&mut self, breach: Breach) {
        self.state.breach.get_or_insert(breach);
    }

    pub fn summary(&mut self, node: usize) -> LogSummary {
        let n = &mut self.state.nodes[node];
        n.durable = n.disk.log.len();
        n.disk.summary(crate::disk::VOLUME, 1 << 20, n.committed)
    }

    pub fn vitals(&self, node: usize) -> Vitals {
        let n = &self.state.nodes[node];
        Vitals {
            committed: Disk::lsn(n.committed),
            end: Disk::lsn(n.disk.log.len()),
            peer_durable: Disk::lsn(n.peer_durable),
            ..Vitals::default()
        }
    }

    pub fn start(&mut self, node: usize) {
        let summary = self.summary(node);
        let state = self.state.nodes[node].durable_state();
        let (config, now) = (config(node, self.witness), self.state.now);
        let (pair, commands) = Pair::new(config, state, summary, now).expect("a configuration that works");
        self.state.nodes[node].pair = Some(Box::new(pair));
        let mut answers = VecDeque::new();
        self.carry_out(node, commands, &mut answers);
        self.run(node, answers);
    }

    pub fn apply(&mut self, node: usize, event: Event) {
        self.run(node, VecDeque::from([event]));
    }

    fn run(&mut self, node: usize, mut events: VecDeque<Event>) {
        for _ in 0..MAX_ANSWERS {
            let Some(event) = events.pop_front() else { return };
            let now = self.state.now;
            let Some(pair) = &mut self.state.nodes[node].pair else { return };
            let commands = catch_unwind(AssertUnwindSafe(|| pair.apply(now, event)));
            let Ok(commands) = commands else {
                self.breach(Breach::Machine);
                return self.state.nodes[node].crash();
            };
            self.carry_out(node, commands, &mut events);
            self.watch(node, &mut events);
        }
        self.breach(Breach::Machine);
    }

    fn carry_out(&mut self, node: usize, commands: Vec<Command>, answers: &mut VecDeque<Event>) {
        for command in commands {
            if let Some(answer) = self.execute(node, command) {
                answers.push_back(answer);
            }
        }
    }

    fn execute(&mut self, node: usize, command: Command) -> Option<Event> {
        let canary = self.canary;
        let next_record = self.state.next_record;
        let n = &mut self.state.nodes[node];
        match command {
            Command::Store(state) => n.disk.state = state.encode(),
            Command::Send { link, message } => self.send(node, link, message),
            Command::AskWitness { request, ask } => n.ask = Some((request, ask)),
            Command::Grant { link } => n.granted = Some(link),
            Command::Revoke => {
                if canary != Some(Canary::TakeoverWithoutRevoke) {
                    n.granted = None;
                }
                n.receiving = None;
                return Some(Event::Revoked { log: self.summary(node) });
            }
            Command::SetAckRule(rule) => {
                n.rule = rule;
                n.durable = n.disk.log.len();
                self.commit(node);
                let committed = Disk::lsn(self.state.nodes[node].committed);
                return Some(Event::RuleSet { rule, committed });
            }
            Command::SetLease(lease) => n.lease = lease,
            Command::OpenEpoch { epoch } => {
                n.epoch = epoch;
                n.disk.open_epoch(epoch, next_record);
                self.state.next_record += 1;
                return Some(Event::EpochOpened { log: self.summary(node) });
            }
            Command::StartServing { .. } => n.serving = true,
            Command::StopServing { .. } => {
                (n.serving, n.draining, n.gate_closed) = (false, false, false);
            }
            Command::TruncateLog { to } => return Some(self.truncate(node, to)),
            Command::CheckPoint { link, point } => {
                let verdict = n.disk.verdict(point, usize::MAX);
                return Some(Event::PointChecked { link, point, verdict });
            }
            Command::StartMirroring { link, from } => {
                n.mirroring = Some((link, Disk::len(from.lsn)));
                n.peer_durable = Disk::len(from.lsn);
                self.pump(node);
            }
            Command::StopMirroring => (n.mirroring, n.await_peer, n.peer_durable) = (None, None, 0),
            Command::AwaitPeer { link, lsn } => n.await_peer = Some((link, lsn)),
            Command::StartReceiving { link, at } => {
                n.receiving = Some(link);
                if at != n.disk.end() && canary != Some(Canary::RejoinWithoutTruncation) {
                    self.breach(Breach::Machine);
                }
            }
            Command::PeerVitals { committed: Some(lsn), .. } => self.partner_commits(node, lsn),
            Command::PeerVitals { committed: None, .. } | Command::SetHold(_) | Command::CalledOff(_) => {}
            Command::Drain => (n.draining, n.gate_closed) = (true, true),
            Command::Undrain => (n.draining, n.gate_closed) = (false, false),
            Command::DropLink { link } => self.close(node, link),
            Command::Stopped => n.stopped = true,
        }
        None
    }

    fn truncate(&mut self, node: usize, to: Lsn) -> Event {
        if Disk::len(to) < self.state.nodes[node].committed {
            self.breach(Breach::CommittedUndone);
        }
        if self.canary == Some(Canary::RejoinWithoutTruncation) {
            let mut summary = self.summary(node);
            summary.history.truncate(to);
            summary.end = self.state.nodes[node].disk.point(Disk::len(to));
            return Event::Truncated { result: Ok(summary) };
        }
        self.state.nodes[node].disk.cut(to);
        Event::Truncated { result: Ok(self.summary(node)) }
    }

    /// Up to where the partner may apply, as its primary told.
    fn partner_commits(&mut self, node: usize, lsn: Lsn) {
        let n = &self.state.nodes[node];
        let to = Disk::len(lsn).min(n.disk.log.len()).max(n.committed);
        let told = self.state.acknowledged.get(n.committed..to);
        if !self.state.forced && told != Some(&n.disk.log[n.committed..to]) {
            self.breach(Breach::CommittedUndone);
        }
        self.state.nodes[node].committed = to;
    }

    fn send(&mut self, node: usize, id: LinkId, message: Message) {
        if let Some(link) = &mut self.state.link
            && link.id == id
            && !link.cut
            && link.open[node]
        {
            link.messages[1 - node].push_back(message);
        }
    }

    /// This end closes the link.
    pub fn close(&mut self, node: usize, id: LinkId) {
        if let Some(link) = &mut self.state.link
            && link.id == id
        {
            link.cut = true;
            link.open[node] = false;
            link.messages[node].clear();
            link.acknowledged[node] = None;
        }
    }

    /// Posts what the partner has not been sent, one batch at a time.
    pub fn pump(&mut self, node: usize) {
        let n = &mut self.state.nodes[node];
        let Some((id, sent)) = n.mirroring else { return };
        let carried = self.state.link.as_ref().is_some_and(|link| link.id == id && !link.cut);
        let wire = &mut self.state.wire[1 - node];
        if carried && wire.is_none() && sent < n.disk.log.len() {
            *wire = Some(Batch { link: id, first: sent, records: n.disk.log[sent..].to_vec() });
            n.mirroring = Some((id, n.disk.log.len()));
        }
    }

    /// Acknowledges to clients what the rule releases.
    pub fn commit(&mut self, node: usize) {
        let n = &self.state.nodes[node];
        let early = self.canary == Some(Canary::AckBeforePeerDurable);
        let to = match n.rule {
            AckRule::Nobody => return,
            AckRule::Both if !early => n.durable.min(n.peer_durable),
            AckRule::Memory => n.durable.min(n.peer_durable),
            AckRule::Both | AckRule::Local => n.durable,
        };
        if to <= n.committed {
            return;
        }
        let (epoch, committed) = (n.epoch, n.committed);
        // What landed at the partner before it revoked is in its log, and it acknowledged it in the next epoch:
        // to repeat that late is allowed, and nothing else.
        let known = self.state.acknowledged.get(committed..to) == Some(&n.disk.log[committed..to]);
        match self.state.acknowledgers.last() {
            Some(&(last, other)) if last == epoch && other != node => self.breach(Breach::TwoAcknowledge),
            Some(&(last, _)) if last > epoch && !known && !self.state.forced => {
                self.breach(Breach::DeposedAcknowledges);
            }
            Some(&(last, _)) if last >= epoch => {}
            _ => self.state.acknowledgers.push((epoch, node)),
        }
        for index in committed..to {
            let record = self.state.nodes[node].disk.log[index];
            match self.state.acknowledged.get(index) {
                Some(known) if *known == record => {}
                Some(_) if self.state.forced => {
                    let other = std::mem::replace(&mut self.state.acknowledged[index], record);
                    self.state.set_aside.push(other);
                }
                Some(_) => self.breach(Breach::AcknowledgedMissing),
                None => self.state.acknowledged.push(record),
            }
        }
        self.state.nodes[node].committed = to;
    }

    /// Does what is waited for hold now?
    fn watch(&mut self, node: usize, events: &mut VecDeque<Event>) {
        let skip = self.canary == Some(Canary::BarrierWaitSkipped);
        let n = &mut self.state.nodes[node];
        let reached = Disk::lsn(n.peer_durable);
        if let Some((link, lsn)) = n.await_peer.take_if(|(_, lsn)| skip || *lsn <= reached) {
            events.push_back(Event::PeerReached { link, lsn });
        }
        if n.draining && n.committed == n.disk.log.len() {
            n.draining = false;
            events.push_back(Event::Drained { end: n.disk.end() });
        }
    }

    /// After something came from below the machine: data, an acknowledgement, a client's write.
    pub fn look_around(&mut self, node: usize) {
        let mut events = VecDeque::new();
        self.watch(node, &mut events);
        self.run(node, events);
    }

    /// What holds at every moment, whatever happens next.
    pub fn check(&mut self) {
        let state = &*self.state;
        let kept = |record| state.nodes.iter().any(|node| node.disk.log.contains(record));
        if !state.acknowledged.iter().chain(&state.set_aside).all(kept) {
            return self.breach(Breach::Lost);
        }
        if state.forced {
            return;
        }
        let all = &state.acknowledged;
        let ignored = self.canary == Some(Canary::LeaseIgnored);
        let mut found = None;
        let mut find = |broken: bool, breach| {
            if broken {
                found.get_or_insert(breach);
            }
        };
        let holds = [0, 1].map(|node: usize| state.nodes[node].disk.log.starts_with(all));
        if holds == [true, true] {
            return;
        }
        for (node, complete) in holds.into_iter().enumerate() {
            let n = &state.nodes[node];
            let reads = n.serving && (ignored || n.may_read(state.now));
            find(reads && !complete, Breach::AcknowledgedMissing);
            let named = state.register.as_ref().is_some_and(|register| {
                register.mode == pair::witness::Mode::Mirrored || register.primary == name(node)
            });
            // A register from a backup may name whom it likes: that it decides nothing is what the others show.
            let named = named && !state.rolled_back;
            find(!complete && named && n.durable_state().in_sync, Breach::ClaimantLacks);
        }
        find(holds == [false, false], Breach::Lost);
        if let Some(breach) = found {
            self.breach(breach);
        }
    }
}
