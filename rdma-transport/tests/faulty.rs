//! The fault-injecting wrapper breaks what it says, when it says, and nothing else.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Ends, Kind, WAIT, link, pattern, point};
use rdma_transport::LinkError;
use rdma_transport::faulty::{Direction, Fault, Faults, Step, wrap};
use std::time::{Duration, Instant};

const RING: u64 = 64 << 10;
const SHORT: Duration = Duration::from_millis(30);

/// A started link whose end `a` is wrapped.
fn wrapped(faults: &Faults) -> Ends {
    let ends = link(Kind::Tcp, RING, |_| {}).started(0);
    ends.memory_a.put(0, &pattern(0, RING as usize));
    Ends { a: wrap(ends.a, faults.clone()), ..ends }
}

#[test]
fn without_faults_everything_passes() {
    let mut ends = wrapped(&Faults::none());
    ends.a.control.send(b"hello").unwrap();
    assert_eq!(ends.b.control.recv(WAIT).unwrap().as_deref(), Some(&b"hello"[..]));
    ends.a.sender.write(point(640)).unwrap();
    assert_eq!(ends.b.receiver.next(WAIT).unwrap().unwrap().to, point(640));
    ends.b.receiver.acknowledge(point(640)).unwrap();
    assert_eq!(ends.a.sender.poll(WAIT).unwrap(), Some(point(640)));
    ends.a.closer.close();
    assert!(matches!(ends.a.sender.poll(WAIT), Err(LinkError::Closed)));
}

#[test]
fn a_cut_is_silence_and_healing_delivers_in_order() {
    let faults = Faults::none();
    let mut ends = wrapped(&faults);
    faults.set(Fault::Cut(Direction::ToPeer));
    for i in 1..=3u8 {
        ends.a.control.send(&[i]).unwrap();
        ends.a.sender.write(point(u64::from(i) * 640)).unwrap();
    }
    assert_eq!(ends.a.sender.in_flight(), 3);
    assert_eq!(ends.b.control.recv(SHORT).unwrap(), None);
    assert_eq!(ends.b.receiver.next(SHORT).unwrap(), None);
    // The other direction is whole.
    ends.b.control.send(b"still here").unwrap();
    assert_eq!(ends.a.control.recv(WAIT).unwrap().as_deref(), Some(&b"still here"[..]));
    faults.set(Fault::Heal);
    ends.a.control.send(&[4]).unwrap();
    assert_eq!(ends.a.sender.poll(SHORT).unwrap(), None);
    for i in 1..=4u8 {
        assert_eq!(ends.b.control.recv(WAIT).unwrap(), Some(vec![i]));
    }
    while ends.b.receiver.next(WAIT).unwrap().unwrap().to != point(3 * 640) {}
    assert!(ends.memory_b.get(0, 3 * 640) == pattern(0, 3 * 640));
    assert_eq!(ends.a.sender.in_flight(), 3);
}

#[test]
fn a_cut_from_the_peer_keeps_its_news_away() {
    let faults = Faults::none();
    let mut ends = wrapped(&faults);
    ends.a.sender.write(point(640)).unwrap();
    ends.b.receiver.next(WAIT).unwrap().unwrap();
    faults.set(Fault::Cut(Direction::FromPeer));
    ends.b.receiver.acknowledge(point(640)).unwrap();
    ends.b.control.send(b"late").unwrap();
    ends.b.sender.write(point(64)).unwrap();
    assert_eq!(ends.a.sender.poll(SHORT).unwrap(), None);
    assert_eq!(ends.a.control.recv(SHORT).unwrap(), None);
    assert_eq!(ends.a.receiver.next(SHORT).unwrap(), None);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(SHORT);
            faults.set(Fault::Heal);
        });
        assert_eq!(ends.a.sender.poll(WAIT).unwrap(), Some(point(640)));
    });
    assert_eq!(ends.a.control.recv(WAIT).unwrap().as_deref(), Some(&b"late"[..]));
    assert_eq!(ends.a.receiver.next(WAIT).unwrap().unwrap().to, point(64));
}

#[test]
fn acknowledgements_can_be_lost_and_the_next_one_covers_them() {
    let faults = Faults::none();
    let mut ends = wrapped(&faults);
    faults.set(Fault::DropAcknowledgements);
    ends.b.sender.write(point(64)).unwrap();
    ends.a.receiver.next(WAIT).unwrap().unwrap();
    ends.a.receiver.acknowledge(point(64)).unwrap();
    assert_eq!(ends.b.sender.poll(SHORT).unwrap(), None);
    assert_eq!(faults.dropped_acknowledgements(), 1);
    faults.set(Fault::Heal);
    assert_eq!(ends.a.receiver.next(SHORT).unwrap(), None);
    assert_eq!(ends.b.sender.poll(SHORT).unwrap(), None, "lost is lost");
    ends.b.sender.write(point(128)).unwrap();
    ends.a.receiver.next(WAIT).unwrap().unwrap();
    ends.a.receiver.acknowledge(point(128)).unwrap();
    assert_eq!(ends.b.sender.poll(WAIT).unwrap(), Some(point(128)));
    assert_eq!(ends.b.sender.in_flight(), 0);
}

#[test]
fn an_acknowledgement_held_by_a_cut_arrives_after_it() {
    let faults = Faults::none();
    let mut ends = wrapped(&faults);
    ends.b.sender.write(point(64)).unwrap();
    ends.a.receiver.next(WAIT).unwrap().unwrap();
    faults.set(Fault::CutBoth);
    ends.a.receiver.acknowledge(point(64)).unwrap();
    assert_eq!(ends.b.sender.poll(SHORT).unwrap(), None);
    faults.set(Fault::Heal);
    assert_eq!(ends.a.receiver.next(SHORT).unwrap(), None);
    assert_eq!(ends.b.sender.poll(WAIT).unwrap(), Some(point(64)));
}

#[test]
fn scripts_count_operations() {
    let step = |after_operations, fault| Step { after_operations, fault };
    let faults = Faults::scripted([
        step(2, Fault::Cut(Direction::ToPeer)),
        step(4, Fault::Heal),
        step(6, Fault::Close),
    ]);
    let ends = wrapped(&faults);
    for i in 0..6u8 {
        ends.a.control.send(&[i]).unwrap();
        assert_eq!(faults.is_cut(Direction::ToPeer), (2..4).contains(&i));
    }
    assert_eq!(faults.operations(), 6);
    for i in 0..6u8 {
        assert_eq!(ends.b.control.recv(WAIT).unwrap(), Some(vec![i]));
    }
    assert!(matches!(ends.a.control.send(&[6]), Err(LinkError::Closed)));
    assert!(matches!(ends.b.control.recv(WAIT), Err(LinkError::PeerClosed)));
}

#[test]
fn delays_take_their_time_and_a_seed_repeats_them() {
    let faults = Faults::none();
    let ends = wrapped(&faults);
    faults.set(Fault::Delay(SHORT));
    let began = Instant::now();
    ends.a.control.send(b"x").unwrap();
    assert!(began.elapsed() >= SHORT);
    let jittered = wrapped(&Faults::jitter(7, Duration::from_millis(3)));
    for i in 0..20u8 {
        jittered.a.control.send(&[i]).unwrap();
        assert_eq!(jittered.b.control.recv(WAIT).unwrap(), Some(vec![i]));
    }
}
