//! A node of the simulation: the machine, and around it what the runtime would do, over a log that is a
//! vector of record ids.

use ids::{
    AckRule, ChainCrc, Durability, Epoch, EpochHistory, EpochStart, LogPoint, Lsn, NodeName, VolumeId,
};
use pair::{Command, Config, DurableState, Lease, LinkId, LogSummary, MonoMs, Pair, Vitals};

pub const VOLUME: VolumeId = VolumeId([7; 16]);
pub const RECORD_BYTES: u64 = 64;

/// A record: who wrote it, in which epoch, and a number that is never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    pub epoch: Epoch,
    pub id: u64,
}

/// What survives a crash.
#[derive(Clone)]
pub struct Disk {
    pub state: Vec<u8>,
    pub log: Vec<Record>,
    pub history: EpochHistory,
    pub survived: bool,
    pub base_empty: bool,
}

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
    // What the runtime holds in memory.
    pub rule: AckRule,
    pub lease: Lease,
    pub serving: bool,
    pub draining: bool,
    pub stopped: bool,
    pub epoch: Epoch,
    pub mirroring: Option<(LinkId, usize)>,
    pub receiving: Option<LinkId>,
    pub granted: Option<LinkId>,
    pub peer_durable: usize,
    pub durable_len: usize,
    pub committed: usize,
    pub await_peer: Option<(LinkId, Lsn)>,
    /// Records kept behind the end; older joiners are refused.
    pub retained: usize,
}

impl Node {
    pub fn new(me: &str, peer: &str, witness: bool) -> Node {
        let name: NodeName = me.parse().unwrap();
        let mut config = Config::new(name.clone(), peer.parse().unwrap());
        config.witness = witness;
        config.timers.barrier_lag_bytes = 8 * RECORD_BYTES;
        let disk = Disk {
            state: Vec::new(),
            log: Vec::new(),
            history: EpochHistory::default(),
            survived: true,
            base_empty: true,
        };
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
            rule: AckRule::Nobody,
            lease: Lease::None,
            serving: false,
            draining: false,
            stopped: false,
            epoch: Epoch(0),
            mirroring: None,
            receiving: None,
            granted: None,
            peer_durable: 0,
            durable_len: 0,
            committed: 0,
            await_peer: None,
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
        (self.serving, self.draining) = (false, false);
        (self.mirroring, self.receiving, self.granted, self.await_peer) = (None, None, None, None);
    }

    pub fn point(&self, len: usize) -> LogPoint {
        let crc = self.disk.log[..len].iter().fold(17u32, |crc, record| {
            crc.rotate_left(5).wrapping_mul(31).wrapping_add((record.id * 1000 + record.epoch.0) as u32)
        });
        LogPoint { lsn: Lsn(len as u64 * RECORD_BYTES), crc: ChainCrc(crc) }
    }

    pub fn summary(&self) -> LogSummary {
        LogSummary {
            volume: self.volume,
            capacity_bytes: self.capacity_bytes,
            tail: self.point(0),
            end: self.point(self.disk.log.len()),
            committed: Lsn(self.committed as u64 * RECORD_BYTES),
            history: self.disk.history.clone(),
            survived: self.disk.survived,
            durability: Durability::Power,
            base_empty: self.disk.base_empty,
        }
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
            Lease::Until(until) => self.clock(time_ms) < until,
            Lease::Forever => true,
        }
    }

    pub fn open_epoch(&mut self, epoch: Epoch, id: u64) {
        self.epoch = epoch;
        let first_lsn = Lsn(self.disk.log.len() as u64 * RECORD_BYTES);
        self.disk.history.push(EpochStart { epoch, first_lsn }).expect("epochs ascend");
        self.disk.log.push(Record { epoch, id });
        self.durable_len = self.disk.log.len();
    }

    pub fn truncate(&mut self, to: Lsn) -> Result<LogSummary, String> {
        let len = (to.0 / RECORD_BYTES) as usize;
        assert!(len >= self.committed, "{} cuts at {len} what is committed to {}", self.name, self.committed);
        self.disk.log.truncate(len);
        self.disk.history.truncate(to);
        self.durable_len = len;
        Ok(self.summary())
    }

    /// What the acknowledgement rule releases.
    pub fn releasable(&self) -> usize {
        match self.rule {
            AckRule::Nobody => self.committed,
            AckRule::Local => self.durable_len,
            AckRule::Both => self.durable_len.min(self.peer_durable),
        }
    }
}
