//! The commit path over real logs and a real loopback link, partner's side included.

mod memory;

use super::*;
use admin_api::metrics::Metrics;
use ids::{AckRule, AnswerFrom, Cursors, LogPoint, NodeName, VolumeId};
use nvlog::{FormatOptions, Log};
use parking_lot::Mutex;
use rdma_transport::{Link, LinkError, LinkParams, tcp};
use runtime::{Instant, Uptime};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const VOLUME: VolumeId = VolumeId([7; 16]);
const CAPACITY_BYTES: u64 = 1 << 20;

#[derive(Default)]
struct Heard {
    lost: Mutex<Vec<u64>>,
    /// Up to where the partner was told to be durable.
    wanted: Mutex<Vec<Lsn>>,
}

struct Events(Arc<Heard>);

impl CommitEvents for Events {
    fn mirror_lost(&self, link: u64, _error: LinkError) {
        self.0.lost.lock().push(link);
    }
    fn log_failed(&self, error: String) {
        panic!("the emulated log failed: {error}");
    }
    fn want_consistency_point(&self) {}
    fn want_partner_durable(&self, lsn: Lsn) {
        self.0.wanted.lock().push(lsn);
    }
}

fn log() -> Arc<Log> {
    let region = nvlog::region::anonymous(CAPACITY_BYTES + (1 << 20)).unwrap();
    let options = FormatOptions { volume: VOLUME, capacity_bytes: CAPACITY_BYTES, overwrite: true };
    Arc::new(Log::format(region, options).unwrap())
}

fn path(log: &Arc<Log>, heard: &Arc<Heard>) -> Arc<CommitPath> {
    let (tail, end) = (log.tail().lsn, log.end().lsn);
    let cursors = Cursors::new(CAPACITY_BYTES, tail, tail, end).unwrap();
    let gate = Gate::new(CAPACITY_BYTES, 64 << 10, tail);
    let metrics = Metrics::new().volume("v");
    let roomy = SpaceBudget {
        total_bytes: 1 << 40,
        free_bytes: 1 << 40,
        available_bytes: 1 << 40,
        ..Default::default()
    };
    gate.set_local_space(tail, roomy);
    let path =
        CommitPath::new(log.clone(), cursors, gate, metrics, Box::new(Events(heard.clone())), Uptime::now());
    path.open();
    Arc::new(path)
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn links(a: &Log, b: &Log) -> (Link, Link) {
    let listener = tcp::Listener::bind("127.0.0.1:0").unwrap();
    let to_a = LinkParams::new(VOLUME, name("b"), name("a"));
    let acceptor = listener.register(to_a, b.memory()).unwrap();
    let address = listener.local_addr().to_string();
    let at_a = tcp::connect(&address, &LinkParams::new(VOLUME, name("a"), name("b")), a.memory()).unwrap();
    let at_b = acceptor.accept(Duration::from_secs(5)).unwrap().expect("the link was made");
    (at_a, at_b)
}

/// A partner that takes in everything until it is told to stop.
struct Partner {
    log: Arc<Log>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Partner {
    fn start(log: Arc<Log>, link: Link, at: LogPoint) -> Partner {
        Partner::taking_in(log, link, at, true)
    }

    /// One that acknowledges what it has in memory.
    fn start_unpersisted(log: Arc<Log>, link: Link, at: LogPoint) -> Partner {
        Partner::taking_in(log, link, at, false)
    }

    fn taking_in(log: Arc<Log>, link: Link, at: LogPoint, persists: bool) -> Partner {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, partner_log) = (stop.clone(), log.clone());
        let thread = std::thread::spawn(move || {
            let mut link = link;
            link.fence.grant();
            link.receiver.start(at).unwrap();
            while !stopped.load(Ordering::SeqCst) {
                let Ok(arrival) = link.receiver.next(Duration::from_millis(10)) else { return };
                let Some(arrival) = arrival else { continue };
                let before = partner_log.end().lsn;
                let landed = partner_log.ingest(arrival.to.lsn).unwrap();
                assert_eq!(landed, arrival.to);
                if persists {
                    partner_log.persist(before, landed.lsn).unwrap();
                }
                if link.receiver.acknowledge(landed).is_err() {
                    return;
                }
            }
        });
        Partner { log, stop, thread: Some(thread) }
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().map(std::thread::JoinHandle::join).transpose().unwrap();
    }
}

fn append(path: &CommitPath, payload: &[u8]) -> Lsn {
    let _admission = path.admit(super::Ask::growing(payload.len())).unwrap();
    let slot = path.log().reserve(payload.len()).unwrap();
    let end = slot.end_lsn();
    slot.publish(&[payload]);
    end
}

#[test]
fn many_clients_commit_on_both_logs() {
    let (a, b) = (log(), log());
    let path = path(&a, &Arc::default());
    let (at_a, at_b) = links(&a, &b);
    let mut partner = Partner::start(b, at_b, a.end());
    path.set_rule(AckRule::Both).unwrap();
    path.start_mirror(1, at_a.sender, a.end(), AnswerFrom::Power).unwrap();
    std::thread::scope(|scope| {
        for client in 0..6u8 {
            let path = &path;
            scope.spawn(move || {
                for size in 0..150 {
                    let end = append(path, &vec![client; size]);
                    path.wait_answerable(end).unwrap();
                    assert!(path.committed() >= end);
                }
            });
        }
    });
    assert_eq!(partner.log.end(), a.end(), "what was answered is on both logs");
    partner.stop();
}

#[test]
fn many_clients_commit_alone() {
    let a = log();
    let path = path(&a, &Arc::default());
    path.set_rule(AckRule::Local).unwrap();
    std::thread::scope(|scope| {
        for client in 0..6u8 {
            let path = &path;
            scope.spawn(move || {
                for size in 0..250 {
                    let end = append(path, &vec![client; size % 100]);
                    path.wait_answerable(end).unwrap();
                }
            });
        }
    });
    assert_eq!(path.committed(), a.end().lsn);
}

#[test]
fn nothing_is_answered_without_the_partner_until_the_rule_says_so() {
    let (a, b) = (log(), log());
    let heard = Arc::new(Heard::default());
    let path = path(&a, &heard);
    let (at_a, at_b) = links(&a, &b);
    path.set_rule(AckRule::Both).unwrap();
    path.start_mirror(9, at_a.sender, a.end(), AnswerFrom::Power).unwrap();
    drop(at_b);
    let waiting = {
        let path = path.clone();
        std::thread::spawn(move || {
            let end = append(&path, b"alone");
            path.wait_answerable(end).map(|()| end)
        })
    };
    let begun = Instant::now();
    while heard.lost.lock().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the broken link was never told");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(*heard.lost.lock(), [9]);
    path.set_rule(AckRule::Nobody).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    assert!(!waiting.is_finished(), "frozen: nobody is answered");
    assert_eq!(path.committed(), Lsn(0));
    path.set_rule(AckRule::Local).unwrap();
    let end = waiting.join().unwrap().unwrap();
    assert!(path.committed() >= end);
}

#[test]
fn a_partner_that_comes_back_gets_what_it_misses_and_then_counts() {
    let (a, b) = (log(), log());
    let path = path(&a, &Arc::default());
    path.set_rule(AckRule::Local).unwrap();
    let from = b.end();
    for n in 0..200u32 {
        let end = append(&path, &n.to_le_bytes().repeat(100));
        path.wait_answerable(end).unwrap();
    }
    let (at_a, at_b) = links(&a, &b);
    let mut partner = Partner::start(b, at_b, from);
    path.start_mirror(2, at_a.sender, from, AnswerFrom::Power).unwrap();
    path.set_rule(AckRule::Both).unwrap();
    let end = append(&path, b"behind the barrier");
    path.wait_answerable(end).unwrap();
    assert_eq!(partner.log.end(), a.end());
    partner.stop();
}

/// A partner that is lost after an hour without a write does not lack anything since an hour.
#[test]
fn what_a_partner_lacks_counts_from_when_it_began_to_lack_it() {
    let a = log();
    let path = path(&a, &Arc::default());
    path.set_rule(AckRule::Local).unwrap();
    assert_eq!(path.partner_lag(), (0, 0, Duration::ZERO));
    std::thread::sleep(Duration::from_millis(60));
    let idle = Instant::now();
    path.look_at_partner();
    let end = append(&path, b"the first that it lacks");
    path.wait_answerable(end).unwrap();
    path.look_at_partner();
    let (operations, bytes, behind) = path.partner_lag();
    assert_eq!((operations, bytes), (1, end.0));
    assert!(Duration::ZERO < behind && behind <= idle.elapsed(), "{behind:?}");
}

/// What this node took in came from the other, which does not lack it.
#[test]
fn an_old_primary_lacks_nothing_of_what_it_sent() {
    let (a, b) = (log(), log());
    let primary = path(&a, &Arc::default());
    let partner = path(&b, &Arc::default());
    let (at_a, mut at_b) = links(&a, &b);
    primary.set_rule(AckRule::Local).unwrap();
    primary.start_mirror(1, at_a.sender, a.end(), AnswerFrom::Power).unwrap();
    at_b.fence.grant();
    at_b.receiver.start(b.end()).unwrap();
    let end = append(&primary, b"sent");
    primary.wait_answerable(end).unwrap();
    primary.pump();
    let arrival = at_b.receiver.next(Duration::from_secs(5)).unwrap().unwrap();
    let landed = b.ingest(arrival.to.lsn).unwrap();
    partner.extended(landed).unwrap();
    assert_eq!(partner.partner_lag(), (0, 0, Duration::ZERO));
}

#[test]
fn closing_answers_everybody_who_waits() {
    let a = log();
    let path = path(&a, &Arc::default());
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            // Let in before the path is closed, however slow the thread starts; it may wait before or after.
            let (path, end) = (path.clone(), append(&path, b"x"));
            std::thread::spawn(move || path.wait_answerable(end))
        })
        .collect();
    std::thread::sleep(Duration::from_millis(20));
    path.close(NotServing::NotPrimary);
    for waiting in waiting {
        assert_eq!(waiting.join().unwrap(), Err(NotServing::NotPrimary));
    }
    assert!(path.check_lease().is_err());
}

/// A partner whose ring is full: it has everything before `first` and applies nothing, and this node has more to send,
/// up to `last`, than it has room for.
struct FullPartner {
    b: Arc<Log>,
    path: Arc<CommitPath>,
    partner: Partner,
    first: LogPoint,
    last: LogPoint,
}

impl FullPartner {
    fn new() -> FullPartner {
        const RECORD_BYTES: usize = 50_000;
        let (a, b) = (log(), log());
        let path = path(&a, &Arc::default());
        let (at_a, at_b) = links(&a, &b);
        let partner = Partner::start(b.clone(), at_b, b.end());
        path.start_mirror(1, at_a.sender, a.end(), AnswerFrom::Power).unwrap();
        path.set_rule(AckRule::Local).unwrap();
        let write = |count: usize| {
            for _ in 0..count {
                path.wait_answerable(append(&path, &[1; RECORD_BYTES])).unwrap();
            }
            a.end()
        };
        let first = write(12);
        pump_until(&path, &partner, first.lsn);
        // This node applies and trims, the partner does not: together this is more than one ring.
        path.update(|cursors| cursors.set_applied(first.lsn)).unwrap();
        a.advance_tail(first).unwrap();
        path.update(|cursors| cursors.set_trimmed(first.lsn)).unwrap();
        let last = write(12);
        assert!(last.lsn > Lsn(CAPACITY_BYTES));
        for _ in 0..100 {
            path.pump();
        }
        FullPartner { b, path, partner, first, last }
    }
}

fn pump_until(path: &CommitPath, partner: &Partner, end: Lsn) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while partner.log.end().lsn < end && Instant::now() < deadline {
        path.pump();
    }
}

#[test]
fn a_partner_that_catches_up_is_sent_no_more_than_its_ring_has_room_for() {
    let FullPartner { b, path, mut partner, first, last } = FullPartner::new();
    let reached = partner.log.end().lsn;
    assert!(reached > first.lsn && reached <= Lsn(CAPACITY_BYTES), "sent up to {reached}");
    assert_eq!(b.point_at(first.lsn), Some(first), "what the partner has not applied is still there");
    // It applies too, and says so.
    b.advance_tail(first).unwrap();
    b.set_space_floor(first.lsn);
    path.update(|cursors| cursors.set_peer_trimmed(first.lsn)).unwrap();
    pump_until(&path, &partner, last.lsn);
    assert_eq!(partner.log.end(), last);
    partner.stop();
}

/// The client that drives has the seat for as long as its record is not on both logs.
#[test]
fn mirroring_can_be_stopped_while_a_client_waits_for_room_in_the_partners_ring() {
    let FullPartner { path, mut partner, .. } = FullPartner::new();
    path.set_rule(AckRule::Both).unwrap();
    let end = append(&path, b"no room for this there");
    let client = {
        let path = path.clone();
        std::thread::spawn(move || path.wait_answerable(end))
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while path.can_drive() {
        assert!(Instant::now() < deadline, "the client never drove");
        std::thread::yield_now();
    }
    let (stopped, when) = std::sync::mpsc::channel();
    {
        let path = path.clone();
        std::thread::spawn(move || stopped.send(path.stop_mirror().is_some()));
    }
    assert_eq!(when.recv_timeout(Duration::from_secs(20)), Ok(true), "the driver made no way");
    assert!(path.committed() < end);
    path.set_rule(AckRule::Local).unwrap();
    client.join().unwrap().unwrap();
    partner.stop();
}
