//! A node of the simulation: the machine, and around it what the runtime would hold.

use crate::disk::{Disk, RECORD_BYTES, VOLUME};
use ids::{AckRule, Epoch, LogPoint, Lsn, NodeName, VolumeId};
use pair::{CallOff, Command, Config, DurableState, Lease, LinkId, LogSummary, MonoMs, Pair, Vitals};

pub struct Node {
    pub name: NodeName,
    pub config: Config,
    pub disk: Disk,
    pub volume: VolumeId,
    pub capacity_bytes: u64,
    pub pair: Option<Pair>,
    pub incarnation: u64,
    /// Clock rate in thousandths, and offset: clocks drift and never agree.
    pub rate_permille: u64,
    pub offset_ms: u64,
    /// The process stands still (SIGSTOP) until then.
    pub paused_until_ms: u64,
    // What the runtime holds in memory.
    pub rule: AckRule,
    pub lease: Lease,
    pub serving: bool,
    pub draining: bool,
    pub stopped: bool,
    pub called_off: Option<CallOff>,
    pub epoch: Epoch,
    pub mirroring: Option<(LinkId, usize)>,
    pub receiving: Option<LinkId>,
    pub granted: Option<LinkId>,
    pub peer_durable: usize,
    pub durable_len: usize,
    pub committed: usize,
    pub await_peer: Option<(LinkId, Lsn)>,
    /// A session that replaces its tree by the primary's.
    pub resyncing: bool,
    /// Records kept behind the end; older joiners are refused.
    pub retained: usize,
}

impl Node {
    pub fn new(me: &str, peer: &str, witness: bool) -> Node {
        let name: NodeName = me.parse().unwrap();
        let mut config = Config::new(name.clone(), peer.parse().unwrap());
        config.witness = witness;
        config.timers.barrier_lag_bytes = 8 * RECORD_BYTES;
        let disk = Disk::formatted();
        Node {
            name,
            config,
            disk,
            volume: VOLUME,
            capacity_bytes: 1 << 20,
            pair: None,
            incarnation: 0,
            rate_permille: 1000,
            offset_ms: 0,
            paused_until_ms: 0,
            rule: AckRule::Nobody,
            lease: Lease::None,
            serving: false,
            draining: false,
            stopped: false,
            called_off: None,
            epoch: Epoch(0),
            mirroring: None,
            receiving: None,
            granted: None,
            peer_durable: 0,
            durable_len: 0,
            committed: 0,
            await_peer: None,
            resyncing: false,
            retained: usize::MAX,
        }
    }

    pub fn clock(&self, time_ms: u64) -> MonoMs {
        MonoMs(time_ms * self.rate_permille / 1000 + self.offset_ms)
    }

    pub fn start(&mut self, time_ms: u64) -> Vec<Command> {
        self.incarnation += 1;
        self.durable_len = self.disk.log.len();
        (self.committed, self.peer_durable) = (0, 0);
        let state = DurableState::decode(&self.disk.state).unwrap();
        let (pair, commands) =
            Pair::new(self.config.clone(), state, self.summary(), self.clock(time_ms)).unwrap();
        self.pair = Some(pair);
        commands
    }

    /// Power or process lost: what was not durable goes, and everything in memory.
    pub fn crash(&mut self) {
        self.pair = None;
        self.disk.log.truncate(self.durable_len);
        (self.rule, self.lease) = (AckRule::Nobody, Lease::None);
        (self.serving, self.draining, self.resyncing) = (false, false, false);
        (self.mirroring, self.receiving, self.granted, self.await_peer) = (None, None, None, None);
    }

    pub fn point(&self, len: usize) -> LogPoint {
        self.disk.point(len)
    }

    pub fn summary(&self) -> LogSummary {
        self.disk.summary(self.volume, self.capacity_bytes, self.committed)
    }

    pub fn vitals(&self) -> Vitals {
        let lsn = |len: usize| Lsn(len as u64 * RECORD_BYTES);
        Vitals {
            committed: lsn(self.committed),
            end: lsn(self.disk.log.len()),
            peer_durable: lsn(self.peer_durable),
            ..Vitals::default()
        }
    }

    pub fn lease_valid(&self, time_ms: u64) -> bool {
        match self.lease {
            Lease::None => false,
            Lease::Until { end, .. } => self.clock(time_ms) < end,
            Lease::Forever => true,
        }
    }

    pub fn open_epoch(&mut self, epoch: Epoch, id: u64) {
        self.epoch = epoch;
        self.disk.open_epoch(epoch, id);
        self.durable_len = self.disk.log.len();
    }

    /// Another boot of a machine whose log was in volatile memory.
    pub fn lose_log(&mut self) {
        self.disk =
            Disk { state: self.disk.state.clone(), survived: false, base_empty: false, ..Disk::formatted() };
        self.durable_len = 0;
    }

    /// What the acknowledgement rule releases. `early`: a planted bug.
    pub fn releasable(&self, early: bool) -> usize {
        match self.rule {
            AckRule::Nobody => self.committed,
            AckRule::Local => self.durable_len,
            AckRule::Both if early => self.durable_len,
            AckRule::Both | AckRule::Memory => self.durable_len.min(self.peer_durable),
        }
    }
}
