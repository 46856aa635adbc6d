//! What a takeover finds in the ring: a link whose bytes land without a word, and a right that cannot be taken.

use super::*;
use crate::peer::Peer;
use admin_api::metrics::Metrics;
use commit::{CommitEvents, Gate};
use ids::{Cursors, VolumeId};
use nvlog::FormatOptions;
use rdma_transport::{Arrival, Fence, FenceError, Link, LinkError, LinkParams, shm};
use runtime::Uptime;
use runtime::channel::unbounded;

const VOLUME: VolumeId = VolumeId([7; 16]);
const CAPACITY_BYTES: u64 = 1 << 20;

struct Nobody;

impl CommitEvents for Nobody {
    fn mirror_lost(&self, _link: u64, _error: LinkError) {}
    fn log_failed(&self, error: String) {
        panic!("the emulated log failed: {error}");
    }
    fn want_consistency_point(&self) {}
}

fn log() -> Arc<Log> {
    let region = nvlog::region::anonymous(CAPACITY_BYTES + (1 << 20)).unwrap();
    let options = FormatOptions { volume: VOLUME, capacity_bytes: CAPACITY_BYTES, overwrite: true };
    Arc::new(Log::format(region, options).unwrap())
}

fn landing(log: &Arc<Log>, one_sided: bool) -> (Landing, runtime::channel::Receiver<NodeEvent>) {
    let (tail, end) = (log.tail().lsn, log.end().lsn);
    let cursors = Cursors::new(CAPACITY_BYTES, tail, tail, end).unwrap();
    let gate = Gate::new(CAPACITY_BYTES, 64 << 10, tail);
    let metrics = Metrics::new().volume("v");
    let path = CommitPath::new(log.clone(), cursors, gate, metrics.clone(), Box::new(Nobody), Uptime::now());
    let (events, heard) = unbounded();
    let landing = Landing {
        log: log.clone(),
        path: Arc::new(path),
        metrics,
        events,
        one_sided,
        write_behind: Arc::default(),
        from_memory: false,
    };
    (landing, heard)
}

/// Both ends of a link over shared memory, which is one-sided as RDMA is.
fn links(a: &Log, b: &Log) -> (Link, Link) {
    let name = |text: &str| text.parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("link.sock");
    let listener = shm::Listener::bind(&socket).unwrap();
    let acceptor = listener.register(LinkParams::new(VOLUME, name("b"), name("a")), b.memory()).unwrap();
    std::thread::scope(|scope| {
        let connecting =
            scope.spawn(|| shm::connect(&socket, &LinkParams::new(VOLUME, name("a"), name("b")), a.memory()));
        let at_b = acceptor.accept(Duration::from_secs(5)).unwrap().expect("the link was made");
        (connecting.join().unwrap().unwrap(), at_b)
    })
}

fn append(log: &Log, payload: &[u8]) -> LogPoint {
    let slot = log.reserve(payload.len()).unwrap();
    slot.publish(&[payload]);
    log.seal()
}

/// Says nothing of what has landed until it is told to: an arrival that is still on its way to this processor.
struct Silent(Box<dyn MirrorReceiver>);

impl MirrorReceiver for Silent {
    fn start(&mut self, at: LogPoint) -> Result<(), LinkError> {
        self.0.start(at)
    }
    fn next(&mut self, wait: Duration) -> Result<Option<Arrival>, LinkError> {
        std::thread::sleep(wait.min(Duration::from_millis(1)));
        Ok(None)
    }
    fn acknowledge(&mut self, durable: LogPoint) -> Result<(), LinkError> {
        self.0.acknowledge(durable)
    }
}

/// A right that cannot be taken away.
struct Stuck(Arc<dyn Fence>);

impl Fence for Stuck {
    fn grant(&self) {
        self.0.grant();
    }
    fn revoke(&self) -> Result<(), FenceError> {
        Err(FenceError::TransferStuck { waited: Duration::ZERO })
    }
    fn is_granted(&self) -> bool {
        true
    }
}

/// A primary's log of `records` records, written to the partner whose receiver says nothing.
fn mirrored_silently(records: usize) -> (Arc<Log>, Link, Arc<Log>, Peer, Landing, LogPoint) {
    let (a, b) = (log(), log());
    let (mut at_a, mut at_b) = links(&a, &b);
    at_b.receiver = Box::new(Silent(at_b.receiver));
    let (landing, _heard) = landing(&b, true);
    let start = b.end();
    let mut peer = Peer::new(1, at_b, landing.clone());
    peer.grant();
    peer.receive(start).unwrap();
    at_a.sender.start(start).unwrap();
    let mut end = start;
    for record in 0..records {
        end = append(&a, format!("record {record}").as_bytes());
        at_a.sender.write(end).unwrap();
    }
    // The memory is shared: what was written is there when `write` returns.
    assert_eq!(b.end(), start, "nobody has announced anything");
    (a, at_a, b, peer, landing, end)
}

#[test]
fn what_landed_unannounced_is_part_of_the_log_once_the_right_to_write_is_revoked() {
    let (a, mut at_a, b, mut peer, landing, end) = mirrored_silently(3);
    peer.revoke().unwrap();
    assert_eq!(b.end(), end);
    assert_eq!(b.persisted(), end.lsn, "durable before anybody takes over");
    assert_eq!(landing.path.cursors().local_durable(), end.lsn);
    // A deposed primary's later bytes are not.
    let later = append(&a, b"too late");
    let refused = at_a.sender.write(later).and_then(|()| at_a.sender.poll(Duration::from_secs(5)));
    assert!(refused.is_err(), "{refused:?}");
    landing.take_in_the_rest().unwrap();
    assert_eq!(b.end(), end);
}

#[test]
fn a_link_that_ends_leaves_all_that_had_landed() {
    let (_a, at_a, b, peer, landing, end) = mirrored_silently(2);
    drop(at_a);
    peer.close(&landing.path).unwrap();
    assert_eq!((b.end(), b.persisted()), (end, end.lsn));
}

#[test]
fn a_right_that_can_not_be_taken_away_is_told() {
    let (a, b) = (log(), log());
    let (_at_a, mut at_b) = links(&a, &b);
    at_b.fence = Arc::new(Stuck(at_b.fence));
    let (landing, _heard) = landing(&b, false);
    let mut peer = Peer::new(1, at_b, landing.clone());
    assert!(matches!(peer.revoke(), Err(NodeError::Fence(_))));
    assert!(matches!(peer.close(&landing.path), Err(NodeError::Fence(_))), "a takeover must not go on");
}

/// Claims that more has landed than has.
struct Wrong(LogPoint);

impl MirrorReceiver for Wrong {
    fn start(&mut self, _at: LogPoint) -> Result<(), LinkError> {
        Ok(())
    }
    fn next(&mut self, _wait: Duration) -> Result<Option<Arrival>, LinkError> {
        Ok(Some(Arrival { to: self.0 }))
    }
    fn acknowledge(&mut self, _durable: LogPoint) -> Result<(), LinkError> {
        panic!("nothing may be acknowledged")
    }
}

#[test]
fn bytes_that_break_the_chain_are_told_apart_where_the_primary_may_have_acknowledged_them() {
    for one_sided in [false, true] {
        let b = log();
        let (landing, heard) = landing(&b, one_sided);
        let claimed = LogPoint { lsn: b.end().lsn.plus(4096), ..b.end() };
        let receiving = Receiving::start(landing, 5, Box::new(Wrong(claimed)), b.end()).unwrap();
        let told = heard.recv_timeout(Duration::from_secs(5)).unwrap();
        match told {
            NodeEvent::ReceivedWrong { id: 5, .. } => assert!(one_sided),
            NodeEvent::MirrorLost { id: 5, .. } => assert!(!one_sided),
            _ => panic!("another event"),
        }
        assert!(receiving.stop().is_some());
        assert_eq!(b.end().lsn, b.tail().lsn, "nothing was taken in");
    }
}
