//! What the runtime does with a machine's commands, and the planted bugs.

use crate::canary::Canary;
use crate::disk::Disk;
use crate::invariants;
use crate::world::World;
use ids::Lsn;
use pair::{Command, Event, LogSummary, Message};

impl World {
    fn truncate(&mut self, node: usize, to: Lsn) -> LogSummary {
        let n = &mut self.nodes[node];
        invariants::committed_stays::truncated(n, Disk::len(to));
        if self.canary == Some(Canary::RejoinWithoutTruncation) {
            let mut summary = n.summary();
            summary.history.truncate(to);
            summary.end = n.point(Disk::len(to));
            return summary;
        }
        n.disk.cut(to);
        n.durable_len = n.disk.log.len();
        n.summary()
    }

    pub fn apply(&mut self, node: usize, event: Event) {
        let clock = self.nodes[node].clock(self.time_ms);
        let Some(pair) = &mut self.nodes[node].pair else { return };
        if self.trace
            && !matches!(
                event,
                Event::Tick { .. }
                    | Event::Message {
                        message: Message::Heartbeat { .. } | Message::HeartbeatAnswer { .. },
                        ..
                    }
            )
        {
            eprintln!("{:>6} {} < {event:?}", self.time_ms, self.nodes[node].name);
        }
        let commands = pair.apply(clock, event);
        self.execute(node, commands);
    }

    pub fn execute(&mut self, node: usize, commands: Vec<Command>) {
        for command in commands {
            let quiet = matches!(
                command,
                Command::SetLease(_)
                    | Command::PeerVitals { .. }
                    | Command::Send {
                        message: Message::Heartbeat { .. } | Message::HeartbeatAnswer { .. },
                        ..
                    }
            );
            if self.trace && !quiet {
                eprintln!("{:>6} {} > {command:?}", self.time_ms, self.nodes[node].name);
            }
            self.execute_one(node, command);
        }
    }

    pub fn execute_one(&mut self, node: usize, command: Command) {
        let n = &mut self.nodes[node];
        match command {
            Command::Store(state) => n.disk.state = state.encode(),
            Command::Send { link, message } => self.send(node, link, message),
            Command::AskWitness { request, ask } => self.ask(node, request, ask),
            Command::Grant { link } => n.granted = Some(link),
            Command::Revoke => {
                if self.canary != Some(Canary::TakeoverWithoutRevoke) {
                    n.granted = None;
                }
                n.receiving = None;
                let log = n.summary();
                self.deliver(0, node, Event::Revoked { log });
            }
            Command::SetAckRule(rule) => {
                n.rule = rule;
                self.commit(node);
                let committed = self.nodes[node].vitals().committed;
                self.deliver(0, node, Event::RuleSet { rule, committed });
            }
            Command::SetLease(lease) => n.lease = lease,
            Command::OpenEpoch { epoch } => {
                n.open_epoch(epoch, self.next_record);
                self.next_record += 1;
                let log = n.summary();
                self.deliver(0, node, Event::EpochOpened { log });
            }
            Command::StartServing { .. } => n.serving = true,
            Command::StopServing { .. } => (n.serving, n.draining) = (false, false),
            Command::TruncateLog { to } => {
                let log = self.truncate(node, to);
                self.deliver(0, node, Event::Truncated { result: Ok(log) });
            }
            Command::CheckPoint { link, point } => {
                let verdict = n.disk.verdict(point, n.retained);
                self.deliver(0, node, Event::PointChecked { link, point, verdict });
            }
            Command::StartMirroring { link, from } => {
                n.mirroring = Some((link, Disk::len(from.lsn)));
                n.peer_durable = Disk::len(from.lsn);
                self.mirror(node);
            }
            Command::StopMirroring => (n.mirroring, n.await_peer, n.peer_durable) = (None, None, 0),
            Command::AwaitPeer { link, lsn } => {
                n.await_peer = Some((link, lsn));
                self.tell_peer_reached(node);
            }
            Command::StartReceiving { link, at } => {
                let cut = self.canary != Some(Canary::RejoinWithoutTruncation);
                assert!(!cut || at == n.disk.end(), "receiving starts at the log's end");
                n.receiving = Some(link);
            }
            Command::PeerVitals { committed: Some(lsn), .. } => {
                let to = Disk::len(lsn).min(n.disk.log.len()).max(n.committed);
                self.oracle.applied_by(&n.name, n.committed, &n.disk.log[n.committed..to]);
                n.committed = to;
            }
            Command::CalledOff(why) => n.called_off = Some(why),
            Command::PeerVitals { committed: None, .. } | Command::SetHold(_) => {}
            Command::Drain => n.draining = true,
            Command::Undrain => n.draining = false,
            Command::DropLink { link } => {
                if self.link == Some(link) {
                    self.cut();
                }
            }
            Command::Stopped => n.stopped = true,
        }
    }
}
