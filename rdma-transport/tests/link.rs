//! What every transport must do, run over each.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Ends, Kind, WAIT, kinds, link, pattern, point};
use rdma_transport::{Control, Link, LinkError, MAX_CONTROL_BYTES, MAX_IN_FLIGHT, MirrorReceiver};
use std::time::{Duration, Instant};

const NOW: Duration = Duration::ZERO;
const SHORT: Duration = Duration::from_millis(30);
const RING: u64 = 64 << 10;

/// Receives until `to` has arrived.
fn receive_until(receiver: &mut dyn MirrorReceiver, to: u64) {
    loop {
        let arrival = receiver.next(WAIT).unwrap().expect("bytes arrive in time");
        if arrival.to == point(to) {
            return;
        }
        assert!(arrival.to.lsn.0 < to, "{arrival:?} is past {to}");
    }
}

/// Sends `[at, to)` from a to b, acknowledges it, and compares the rings.
fn mirror(ends: &mut Ends, at: u64, to: u64) {
    ends.memory_a.put(at, &pattern(at, (to - at) as usize));
    let Link { sender, .. } = &mut ends.a;
    let Link { receiver, .. } = &mut ends.b;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            receive_until(&mut **receiver, to);
            receiver.acknowledge(point(to)).unwrap();
        });
        sender.write(point(to)).unwrap();
        assert_eq!(sender.poll(WAIT).unwrap(), Some(point(to)));
    });
    assert_eq!(sender.in_flight(), 0);
    assert_eq!(ends.memory_b.get(at, (to - at) as usize), pattern(at, (to - at) as usize));
}

#[test]
fn bytes_land_at_the_same_offset_also_past_the_rings_end() {
    for kind in kinds() {
        let mut ends = link(kind, RING, |_| {}).started(RING * 7 - 640);
        let mut at = RING * 7 - 640;
        // Small, past the ring's end, longer than the receiver takes at once, the whole ring, and past again.
        for len in [64, 64 + 1024, 20 << 10, RING, 40 << 10, 40 << 10] {
            mirror(&mut ends, at, at + len);
            at += len;
        }
        assert_eq!(ends.memory_a.get(0, RING as usize), ends.memory_b.get(0, RING as usize));
        let (sent, received) = (ends.params_a.counters.snapshot(), ends.params_b.counters.snapshot());
        assert_eq!((sent.writes, sent.bytes_sent, sent.links), (6, at - (RING * 7 - 640), 1));
        assert_eq!(received.bytes_received, sent.bytes_sent);
        assert_eq!(sent.round_trip_us.iter().sum::<u64>(), 6);
        assert_eq!(received.acknowledgements, 6);
    }
}

#[test]
fn both_directions_work_at_once_with_writes_in_flight() {
    const WRITES: u64 = 2000;
    for kind in kinds() {
        let Ends { a, b, memory_a, memory_b, .. } = link(kind, RING, |_| {}).started(0);
        let run = |mut link: Link, memory: &std::sync::Arc<common::TestMemory>| {
            let (mut sent, mut landed) = (0u64, 0u64);
            memory.put(0, &pattern(0, RING as usize));
            while sent < WRITES || link.sender.in_flight() > 0 || landed < WRITES * 192 {
                if sent < WRITES && link.sender.in_flight() < MAX_IN_FLIGHT {
                    sent += 1;
                    link.sender.write(point(sent * 192)).unwrap();
                }
                link.sender.poll(NOW).unwrap();
                if let Some(arrival) = link.receiver.next(NOW).unwrap() {
                    assert_eq!(arrival.to, point(arrival.to.lsn.0));
                    landed = arrival.to.lsn.0;
                    link.receiver.acknowledge(arrival.to).unwrap();
                }
            }
            link
        };
        std::thread::scope(|scope| {
            let one = scope.spawn(|| run(a, &memory_a));
            let other = scope.spawn(|| run(b, &memory_b));
            (one.join().unwrap(), other.join().unwrap())
        });
    }
}

#[test]
fn misuse_is_refused_and_leaves_the_link_usable() {
    for kind in kinds() {
        let mut ends = link(kind, RING, |_| {});
        assert!(matches!(ends.a.sender.write(point(64)), Err(LinkError::NotStarted)));
        assert!(matches!(ends.a.receiver.next(NOW), Err(LinkError::NotStarted)));
        let mut ends = ends.started(128);
        for (to, from) in [(64, 128), (128 + RING + 64, 128)] {
            let refused = ends.a.sender.write(point(to)).unwrap_err();
            assert!(
                matches!(refused, LinkError::BadRange { from: f, .. } if f.0 == from)
                    && refused.is_refused_call()
            );
        }
        let long = vec![0; MAX_CONTROL_BYTES + 1];
        assert!(matches!(ends.a.control.send(&long), Err(LinkError::MessageTooLong { .. })));
        for i in 1..=MAX_IN_FLIGHT as u64 {
            ends.a.sender.write(point(128 + i * 64)).unwrap();
        }
        let end = 128 + MAX_IN_FLIGHT as u64 * 64;
        assert!(matches!(ends.a.sender.write(point(end + 64)), Err(LinkError::InFlight(MAX_IN_FLIGHT))));
        assert!(matches!(ends.a.sender.start(point(0)), Err(LinkError::InFlight(MAX_IN_FLIGHT))));
        receive_until(&mut *ends.b.receiver, end);
        ends.b.receiver.acknowledge(point(end)).unwrap();
        assert_eq!(ends.a.sender.poll(WAIT).unwrap(), Some(point(end)));
        assert_eq!(ends.a.sender.poll(SHORT).unwrap(), None);
        // Both may start again, further back.
        ends.a.sender.start(point(64)).unwrap();
        ends.b.receiver.start(point(64)).unwrap();
        mirror(&mut ends, 64, 256);
    }
}

#[test]
fn control_messages_keep_their_bounds_and_order() {
    for kind in kinds() {
        let ends = link(kind, RING, |_| {});
        let messages = [vec![], vec![1], vec![2; MAX_CONTROL_BYTES], vec![3; 70_000]];
        std::thread::scope(|scope| {
            scope.spawn(|| messages.iter().for_each(|message| ends.a.control.send(message).unwrap()));
            for message in &messages {
                assert!(ends.b.control.recv(WAIT).unwrap().as_ref() == Some(message));
            }
        });
        assert_eq!(ends.b.control.recv(SHORT).unwrap(), None);
        ends.b.control.send(b"back").unwrap();
        assert_eq!(ends.a.control.recv(WAIT).unwrap().as_deref(), Some(&b"back"[..]));
    }
}

#[test]
fn a_new_link_may_not_write_and_a_revoked_one_neither() {
    for kind in kinds() {
        for grant_and_revoke in [false, true] {
            let mut ends = link(kind, RING, |_| {});
            ends.a.sender.start(point(0)).unwrap();
            ends.b.receiver.start(point(0)).unwrap();
            assert!(!ends.b.fence.is_granted());
            if grant_and_revoke {
                ends.b.fence.grant();
                mirror(&mut ends, 0, 640);
                ends.b.fence.revoke().unwrap();
                ends.b.fence.grant();
                ends.told();
                mirror(&mut ends, 640, 1280);
                ends.b.fence.revoke().unwrap();
            }
            let before = ends.memory_b.get(0, RING as usize);
            let at = if grant_and_revoke { 1280 } else { 0 };
            ends.memory_a.put(at, &[0xee; 640]);
            // Whether the writer learns it at once depends on the transport; that nothing lands does not.
            let wrote = ends.a.sender.write(point(at + 640));
            let arrived = ends.b.receiver.next(WAIT).unwrap_err();
            assert!(matches!(arrived, LinkError::Revoked | LinkError::PeerClosed), "{arrived:?}");
            let ended = wrote.and_then(|()| ends.a.sender.poll(WAIT).map(drop)).unwrap_err();
            assert!(matches!(ended, LinkError::PeerClosed | LinkError::NotGranted), "{ended:?}");
            assert!(before == ends.memory_b.get(0, RING as usize));
            assert_eq!(ends.params_b.counters.snapshot().link_resets, 1);
        }
    }
}

/// A peer that writes as fast as it can is cut off at a moment of chance; nothing lands after `revoke`.
#[test]
fn nothing_lands_after_revoke_in_the_middle_of_transfers() {
    const BIG: u64 = 8 << 20;
    for kind in kinds() {
        for round in 0..8u64 {
            let Ends { a, b, memory_a, memory_b, .. } = link(kind, BIG, |_| {}).started(0);
            let (mut sender, mut receiver, fence) = (a.sender, b.receiver, b.fence);
            std::thread::scope(|scope| {
                // It ends by what it is refused, however late its next write comes.
                scope.spawn(move || {
                    let mut end = 0;
                    loop {
                        memory_a.put(end, &end.to_le_bytes());
                        end += BIG;
                        if sender.write(point(end)).is_err() {
                            return;
                        }
                        while sender.in_flight() > 0 {
                            if sender.poll(WAIT).is_err() {
                                return;
                            }
                        }
                    }
                });
                let receiving = scope.spawn(move || {
                    loop {
                        match receiver.next(WAIT) {
                            Ok(Some(arrival)) if receiver.acknowledge(arrival.to).is_ok() => {}
                            Ok(None) => {}
                            Ok(Some(_)) => return LinkError::PeerClosed,
                            Err(error) => return error,
                        }
                    }
                });
                std::thread::sleep(Duration::from_micros(1500 + 700 * round));
                fence.revoke().unwrap();
                // From here on the ring is ours: what we write stays.
                memory_b.put(0, &[0x77; 4096]);
                let before = memory_b.get(0, 64 << 10);
                std::thread::sleep(Duration::from_millis(5));
                assert!(before == memory_b.get(0, 64 << 10), "{kind:?}: bytes landed after revoke");
                let ended = receiving.join().unwrap();
                assert!(matches!(ended, LinkError::Revoked | LinkError::PeerClosed), "{ended:?}");
                assert!(before == memory_b.get(0, 64 << 10));
            });
        }
    }
}

#[test]
fn closing_wakes_everybody_who_waits() {
    for kind in kinds() {
        let Ends { mut a, b, .. } = link(kind, RING, |_| {}).started(0);
        let closer = a.closer.clone();
        let began = Instant::now();
        let closed = |result: Result<bool, LinkError>| matches!(result, Err(LinkError::Closed));
        std::thread::scope(|scope| {
            let poll = scope.spawn(|| closed(a.sender.poll(WAIT).map(|news| news.is_some())));
            let next = scope.spawn(|| closed(a.receiver.next(WAIT).map(|news| news.is_some())));
            let recv = scope.spawn(|| closed(a.control.recv(WAIT).map(|news| news.is_some())));
            std::thread::sleep(SHORT);
            closer.close();
            assert!(poll.join().unwrap() && next.join().unwrap() && recv.join().unwrap());
        });
        assert!(began.elapsed() < WAIT / 2 && closer.is_closed());
        assert!(matches!(b.control.recv(WAIT), Err(LinkError::PeerClosed)));
        assert!(matches!(b.control.send(b"x"), Err(LinkError::PeerClosed)));
    }
}

#[test]
fn a_peer_that_goes_away_is_noticed_by_every_part() {
    for kind in kinds() {
        let Ends { a, mut b, params_b, .. } = link(kind, RING, |_| {}).started(0);
        a.control.send(b"good bye").unwrap();
        drop(a);
        assert!(matches!(b.receiver.next(WAIT), Err(LinkError::PeerClosed)));
        assert!(matches!(b.sender.poll(WAIT), Err(LinkError::PeerClosed)));
        assert_eq!(b.control.recv(WAIT).unwrap().as_deref(), Some(&b"good bye"[..]), "the last words count");
        assert!(matches!(b.control.recv(WAIT), Err(LinkError::PeerClosed)));
        assert_eq!(params_b.counters.snapshot().link_resets, 1, "one link, one reset");
    }
}

#[test]
fn a_sender_that_is_used_by_many_threads_in_turn_works() {
    for kind in kinds() {
        let Ends { a, mut b, memory_a, memory_b, .. } = link(kind, RING, |_| {}).started(0);
        memory_a.put(0, &pattern(0, RING as usize));
        let closer = a.closer.clone();
        let sender = std::sync::Mutex::new((a.sender, 0));
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| {
                while let Ok(arrival) = b.receiver.next(WAIT) {
                    if let Some(arrival) = arrival {
                        b.receiver.acknowledge(arrival.to).unwrap();
                    }
                }
            });
            // Each of the threads starts a write and ends, and leaves the rest to the next one.
            for _ in 0..100 {
                let writing = scope.spawn(|| {
                    let (sender, end) = &mut *sender.lock().unwrap();
                    while sender.in_flight() > 8 {
                        sender.poll(WAIT).unwrap();
                    }
                    *end += 2048;
                    sender.write(point(*end)).unwrap();
                });
                writing.join().unwrap();
            }
            let (sender, end) = &mut *sender.lock().unwrap();
            while sender.in_flight() > 0 {
                assert!(sender.poll(WAIT).unwrap().is_some_and(|durable| durable.lsn.0 <= *end));
            }
            closer.close();
            serving.join().unwrap();
        });
        assert!(memory_a.get(0, RING as usize) == memory_b.get(0, RING as usize));
    }
}

#[test]
fn the_control_part_can_be_shared() {
    let ends = link(Kind::Tcp, RING, |_| {});
    let control: std::sync::Arc<dyn Control> = std::sync::Arc::from(ends.a.control);
    std::sync::Arc::clone(&control).close();
    assert!(matches!(control.recv(WAIT), Err(LinkError::Closed)));
}
