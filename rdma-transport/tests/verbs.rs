//! What holds for RDMA beyond what every transport must do. The tests with a device run where `TWINFILER_RDMA=1`
//! promises one, and fail there without it; the others run everywhere.

#![cfg(feature = "verbs")]
#![allow(clippy::unwrap_used)]

mod common;

use common::{Ends, Kind, TestMemory, WAIT, domain, has_rdma, link, params, pattern, point, verbs_link};
use rdma_transport::verbs::{self, Domain, Fencing, LinkLayer, Persistence, Settings, VerbsError};
use rdma_transport::{Link, LinkError, MirrorReceiver};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const RING: u64 = 64 << 10;
/// Names the network interface below the RDMA device, which a test may take down.
const INTERFACE: &str = "TWINFILER_RDMA_INTERFACE";
/// Set in the process that runs without the RDMA library.
const WITHOUT_LIBRARY: &str = "VERBS_TEST_WITHOUT_LIBRARY";

fn refusal(settings: &Settings) -> VerbsError {
    match Domain::open(settings, TestMemory::new(RING)) {
        Ok(domain) => panic!("opened {:?}", domain.describe()),
        Err(error) => error,
    }
}

/// Two links' ends that know nothing of each other yet.
struct Pair {
    memory: [Arc<TestMemory>; 2],
    domains: [Arc<Domain>; 2],
}

impl Pair {
    fn new(settings: &Settings, capacity_bytes: u64) -> Pair {
        let memory = [TestMemory::new(capacity_bytes), TestMemory::new(capacity_bytes)];
        let domains = [domain(settings, &memory[0]), domain(settings, &memory[1])];
        Pair { memory, domains }
    }

    /// A link whose both directions start at `lsn` and may be written.
    fn link(&self, lsn: u64) -> Ends {
        let (params_a, params_b) = (params("a", "b"), params("b", "a"));
        let (a, b) = verbs_link((&params_a, &params_b), (&self.domains[0], &self.domains[1]));
        let [memory_a, memory_b] = self.memory.clone();
        let ends = Ends { a: a.unwrap(), b: b.unwrap().unwrap(), memory_a, memory_b, params_a, params_b };
        ends.started(lsn)
    }
}

fn receive_until(receiver: &mut dyn MirrorReceiver, to: u64) {
    loop {
        let arrival = receiver.next(WAIT).unwrap().expect("bytes arrive in time");
        receiver.acknowledge(arrival.to).unwrap();
        if arrival.to == point(to) {
            return;
        }
    }
}

/// Mirrors `[at, to)` from a to b.
fn mirror(ends: &mut Ends, at: u64, to: u64) {
    let bytes = pattern(at, (to - at) as usize);
    ends.memory_a.put(at, &bytes);
    ends.a.sender.write(point(to)).unwrap();
    receive_until(&mut *ends.b.receiver, to);
    while ends.a.sender.in_flight() > 0 {
        assert!(ends.a.sender.poll(WAIT).unwrap().is_some(), "acknowledged in time");
    }
    assert!(ends.memory_b.get(at, bytes.len()) == bytes);
}

#[test]
fn without_the_library_the_error_names_the_packages() {
    if std::env::var_os(WITHOUT_LIBRARY).is_some() {
        let text = verbs::library_available().unwrap_err().to_string();
        assert!(text.contains("libibverbs1") && text.contains("ibverbs-providers"), "{text}");
        assert!(matches!(refusal(&Settings::default()), VerbsError::NoLibrary));
        return;
    }
    // A library that is none hides the real one.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("libibverbs.so.1"), b"").unwrap();
    let name = "without_the_library_the_error_names_the_packages";
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(WITHOUT_LIBRARY, "1")
        .env("LD_LIBRARY_PATH", dir.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{output:?}");
}

#[test]
fn without_a_device_the_error_says_how_to_get_one() {
    let devices = std::fs::read_dir("/sys/class/infiniband").map_or(0, Iterator::count);
    if devices > 0 || verbs::library_available().is_err() {
        eprintln!("SKIPPED: this machine has an RDMA device, or no library to look for one");
        return;
    }
    let text = refusal(&Settings::default()).to_string();
    assert!(text.contains("modprobe rdma_rxe") && text.contains("rdma link add"), "{text}");
    // A mode that cannot be had is refused before a device is asked for.
    let read = Settings { persistence: Persistence::Read, ..Settings::default() };
    assert!(matches!(refusal(&read), VerbsError::ModeRefused { mode: Persistence::Read, .. }));
}

#[test]
fn the_device_is_chosen_and_described() {
    if !has_rdma("the_device_is_chosen_and_described") {
        return;
    }
    let chosen = domain(&Settings::default(), &TestMemory::new(RING)).describe();
    println!("{chosen:?}");
    assert_eq!((chosen.port, chosen.link_layer), (1, LinkLayer::Roce));
    assert_eq!(chosen.fencing, Fencing::MemoryWindow);
    assert!(chosen.gid.starts_with("::ffff:"), "the RoCEv2 GID of an IPv4 address: {chosen:?}");
    let named = |device: &str, port, gid_index| {
        refusal(&Settings { device: Some(device.into()), port, gid_index, ..Settings::default() }).to_string()
    };
    assert!(named("nothing0", None, None).contains(&format!("there is: {}", chosen.device)));
    assert!(named(&chosen.device, Some(9), None).contains("no port 9"));
    assert!(named(&chosen.device, None, Some(200)).contains(&chosen.gid));
    let text = refusal(&Settings { persistence: Persistence::Flush, ..Settings::default() }).to_string();
    assert!(text.contains(&chosen.device) && text.contains("FLUSH"), "{text}");
}

#[test]
fn a_deposed_peer_is_refused_by_the_adapter_and_a_new_link_uses_the_same_ring() {
    if !has_rdma("a_deposed_peer_is_refused_by_the_adapter_and_a_new_link_uses_the_same_ring") {
        return;
    }
    let pair = Pair::new(&Settings::default(), RING);
    for _ in 0..3 {
        let mut ends = pair.link(0);
        mirror(&mut ends, 0, 640);
        // Not a word is said to the peer: its adapter's key does not open the ring any more.
        ends.b.fence.revoke().unwrap();
        assert!(!ends.b.fence.is_granted());
        let before = ends.memory_b.get(0, RING as usize);
        ends.memory_a.put(640, &[0xee; 640]);
        let began = Instant::now();
        ends.a.sender.write(point(1280)).unwrap();
        let ended = ends.a.sender.poll(WAIT).unwrap_err();
        assert!(matches!(ended, LinkError::NotGranted), "{ended:?}");
        assert!(began.elapsed() < WAIT / 2);
        assert!(matches!(ends.b.receiver.next(WAIT), Err(LinkError::Revoked | LinkError::PeerClosed)));
        assert!(ends.memory_b.get(0, RING as usize) == before);
        for params in [&ends.params_a, &ends.params_b] {
            assert_eq!(params.counters.snapshot().link_resets, 1, "one link, one reset");
        }
    }
}

#[test]
fn a_deposed_peer_is_refused_also_when_the_other_end_has_given_the_link_up() {
    if !has_rdma("a_deposed_peer_is_refused_also_when_the_other_end_has_given_the_link_up") {
        return;
    }
    let pair = Pair::new(&Settings::default(), RING);
    let mut ends = pair.link(0);
    mirror(&mut ends, 0, 640);
    let Ends { mut a, b, memory_a, memory_b, .. } = ends;
    b.fence.revoke().unwrap();
    drop(b);
    let before = memory_b.get(0, RING as usize);
    memory_a.put(640, &[0xee; 640]);
    a.sender.write(point(1280)).unwrap();
    // Nobody reads its control channel, which would tell it too.
    let ended = a.sender.poll(WAIT).unwrap_err();
    assert!(matches!(ended, LinkError::NotGranted), "{ended:?}");
    assert!(memory_b.get(0, RING as usize) == before);
}

#[test]
fn the_right_can_be_given_again_on_the_same_link() {
    if !has_rdma("the_right_can_be_given_again_on_the_same_link") {
        return;
    }
    let mut ends = Pair::new(&Settings::default(), RING).link(0);
    for round in 0..40 {
        mirror(&mut ends, round * 1920, (round + 1) * 1920);
        ends.b.fence.revoke().unwrap();
        ends.b.fence.revoke().unwrap();
        ends.b.fence.grant();
        ends.b.fence.grant();
        assert!(ends.b.fence.is_granted());
        ends.told();
    }
    assert_eq!(ends.params_a.counters.snapshot().link_resets, 0);
}

#[test]
fn batches_of_many_pieces_land_also_past_the_rings_end() {
    if !has_rdma("batches_of_many_pieces_land_also_past_the_rings_end") {
        return;
    }
    const BIG: u64 = 6 << 20;
    const PIECE: u64 = 4 << 20;
    let mut ends = Pair::new(&Settings::default(), BIG).link(BIG - 1024);
    let mut at = BIG - 1024;
    // To the ring's very end, exactly one piece, one piece and a little, the whole ring, and past its end again.
    for len in [1024, PIECE, PIECE + 64, BIG, 64, BIG - 64] {
        mirror(&mut ends, at, at + len);
        at += len;
    }
    assert_eq!(ends.params_b.counters.snapshot().batches_received, 6);
    assert_eq!(ends.params_b.counters.snapshot().bytes_received, at - (BIG - 1024));
}

#[test]
fn a_peer_that_is_gone_ends_the_link_once_and_the_next_one_goes_on() {
    if !has_rdma("a_peer_that_is_gone_ends_the_link_once_and_the_next_one_goes_on") {
        return;
    }
    let pair = Pair::new(&Settings::default(), RING);
    let mut acknowledged = 0;
    for _ in 0..3 {
        let mut ends = pair.link(acknowledged);
        mirror(&mut ends, acknowledged, acknowledged + 4096);
        acknowledged += 4096;
        // Written, and the peer's end is destroyed before it acknowledges.
        ends.a.sender.write(point(acknowledged + 1024)).unwrap();
        drop(ends.b);
        let began = Instant::now();
        let ended = loop {
            match ends.a.sender.poll(WAIT) {
                Ok(news) => assert_eq!(news, None),
                Err(error) => break error,
            }
        };
        assert!(matches!(ended, LinkError::PeerClosed | LinkError::PeerDead(_)), "{ended:?}");
        assert!(began.elapsed() < WAIT);
        assert_eq!(ends.params_a.counters.snapshot().link_resets, 1);
        assert!(ends.a.sender.write(point(acknowledged + 2048)).is_err());
    }
}

/// The cable is pulled, as far as software can: both ends hear of it by themselves, and come back.
#[test]
fn a_port_that_goes_down_ends_its_links_and_the_next_one_goes_on() {
    let Ok(interface) = std::env::var(INTERFACE) else {
        eprintln!("SKIPPED: {INTERFACE} names no network interface that may be taken down");
        return;
    };
    let set = |state: &str| {
        let done = Command::new("ip").args(["link", "set", &interface, state]).status().unwrap();
        assert!(done.success());
    };
    let pair = Pair::new(&Settings::default(), RING);
    let mut ends = pair.link(0);
    mirror(&mut ends, 0, 4096);
    set("down");
    let ended = [ends.b.receiver.next(WAIT).map(drop), ends.a.sender.poll(WAIT).map(drop)];
    set("up");
    for ended in ended {
        let error = ended.unwrap_err();
        assert!(matches!(&error, LinkError::Rdma(what) if what.contains("went down")), "{error:?}");
    }
    for params in [&ends.params_a, &ends.params_b] {
        assert_eq!(params.counters.snapshot().link_resets, 1);
    }
    drop(ends);
    let mut ends = pair.link(4096);
    mirror(&mut ends, 4096, 8192);
}

#[test]
fn both_ends_must_choose_the_same_persistence() {
    if !has_rdma("both_ends_must_choose_the_same_persistence") {
        return;
    }
    let (memory_a, memory_b) = (TestMemory::new(RING), TestMemory::new(RING));
    let read = Settings { persistence: Persistence::Read, peer_ddio_off: true, ..Settings::default() };
    let (domain_a, domain_b) = (domain(&Settings::default(), &memory_a), domain(&read, &memory_b));
    let (a, b) = verbs_link((&params("a", "b"), &params("b", "a")), (&domain_a, &domain_b));
    for (error, mine) in [(a.unwrap_err(), "message"), (b.unwrap_err(), "read")] {
        assert!(matches!(&error, LinkError::SettingsDiffer { what: "rdma.persistence", .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("is {mine} on this node")), "{error}");
    }
}

/// Durable by a read: this adapter tells, the peer's processor is not asked. Its acknowledgements only make room.
#[test]
fn a_read_confirms_what_was_written() {
    if !has_rdma("a_read_confirms_what_was_written") {
        return;
    }
    let read = Settings { persistence: Persistence::Read, peer_ddio_off: true, ..Settings::default() };
    let mut ends = Pair::new(&read, RING).link(RING - 64);
    let bytes = pattern(RING - 64, 4096);
    ends.memory_a.put(RING - 64, &bytes);
    let to = point(RING - 64 + 4096);
    ends.a.sender.write(to).unwrap();
    assert_eq!(ends.a.sender.poll(WAIT).unwrap(), Some(to), "nobody at the peer did anything");
    assert!(ends.memory_b.get(RING - 64, 4096) == bytes);
    receive_until(&mut *ends.b.receiver, to.lsn.0);
    // Many in flight, received and acknowledged as they come; each is told durable once, in order.
    let Link { sender, .. } = &mut ends.a;
    let Link { receiver, .. } = &mut ends.b;
    const WRITES: u64 = 500;
    let end = |write: u64| to.lsn.0 + write * 256;
    std::thread::scope(|scope| {
        scope.spawn(|| receive_until(&mut **receiver, end(WRITES)));
        let (mut written, mut durable) = (0, 0);
        while durable < end(WRITES) {
            if written < WRITES && sender.in_flight() < 32 {
                written += 1;
                sender.write(point(end(written))).unwrap();
            }
            if let Some(news) = sender.poll(Duration::from_millis(1)).unwrap() {
                assert!(news.lsn.0 > durable);
                durable = news.lsn.0;
            }
        }
    });
}

/// A peer that takes nothing in does not lose the link, and what waits for room is sent when there is some.
#[test]
fn acknowledgements_that_nobody_takes_wait() {
    if !has_rdma("acknowledgements_that_nobody_takes_wait") {
        return;
    }
    let Ends { mut a, mut b, .. } = link(Kind::Verbs, RING, |_| {}).started(0);
    a.sender.write(point(64)).unwrap();
    assert_eq!(b.receiver.next(WAIT).unwrap().unwrap().to, point(64));
    // Far more than both send queue and receive queue hold.
    for _ in 0..1000 {
        b.receiver.acknowledge(point(64)).unwrap();
    }
    assert_eq!(a.sender.poll(WAIT).unwrap(), Some(point(64)));
    a.sender.write(point(128)).unwrap();
    let deadline = Instant::now() + WAIT;
    let mut acknowledged = false;
    while a.sender.in_flight() > 0 {
        assert!(Instant::now() < deadline);
        if let Some(arrival) = b.receiver.next(Duration::from_millis(1)).unwrap() {
            b.receiver.acknowledge(arrival.to).unwrap();
            acknowledged = true;
        }
        a.sender.poll(Duration::from_millis(1)).unwrap();
    }
    assert!(acknowledged);
}
