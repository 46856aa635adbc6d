//! A peer's adapter that is silent, queue pairs that fail, a peer that lies, and a device without windows: what
//! cannot be had through the public interface. They run where `TWINFILER_RDMA=1` promises a device.

use super::assemble::assemble_shared;
use super::shared::Shared;
use super::work::{Remote, Request, RingRange, Work};
use super::{CHANNELS, Domain, Fencing, Settings};
use crate::common::{TestMemory, WAIT, has_rdma, params, pattern, point};
use crate::{Acceptor, Link, LinkError, LinkParams, tcp};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

const RING: u64 = 64 << 10;
/// Short, so that a silent peer is given up while the test runs.
const DEAD_AFTER: Duration = Duration::from_secs(1);

/// One end of a link, and what it is made of.
struct End {
    link: Link,
    shared: Arc<Shared>,
    memory: Arc<TestMemory>,
    params: LinkParams,
}

fn domains(fencing: Option<Fencing>) -> [(Arc<TestMemory>, Arc<Domain>); 2] {
    [(), ()].map(|()| {
        let memory = TestMemory::new(RING);
        let settings = Settings::default();
        let domain = match fencing {
            Some(fencing) => Domain::open_fenced(&settings, memory.clone(), |_| fencing),
            None => Domain::open(&settings, memory.clone()),
        };
        (memory, domain.expect("TWINFILER_RDMA=1 promises an RDMA device"))
    })
}

/// A link between the two: `a` may write from LSN 0.
fn ends([(memory_a, domain_a), (memory_b, domain_b)]: &[(Arc<TestMemory>, Arc<Domain>); 2]) -> (End, End) {
    let tuned = |local, peer| {
        let mut params = params(local, peer);
        params.tuning.dead_peer_timeout = DEAD_AFTER;
        params
    };
    let (params_a, params_b) = (tuned("a", "b"), tuned("b", "a"));
    let listener = tcp::Listener::bind("127.0.0.1:0").unwrap();
    let (give, take) = mpsc::channel();
    let accepted = domain_b.clone();
    let assemble = move |complete, params: &LinkParams| {
        let (link, shared) = assemble_shared(complete, params, accepted.clone())?;
        give.send(shared).expect("the test waits for it");
        Ok(link)
    };
    let acceptor: Acceptor =
        listener.rendezvous().register(params_b.clone(), RING, &CHANNELS, Box::new(assemble)).unwrap();
    let address = listener.local_addr().to_string();
    let (mut a, mut b) = std::thread::scope(|scope| {
        let accepting = scope.spawn(|| acceptor.accept(WAIT).unwrap().unwrap());
        let complete = tcp::open_channels(&address, &params_a, RING, &CHANNELS).unwrap();
        let (link, shared) = assemble_shared(complete, &params_a, domain_a.clone()).unwrap();
        let a = End { link, shared, memory: memory_a.clone(), params: params_a.clone() };
        let link = accepting.join().unwrap();
        let b =
            End { link, shared: take.recv().unwrap(), memory: memory_b.clone(), params: params_b.clone() };
        (a, b)
    });
    a.link.sender.start(point(0)).unwrap();
    b.link.receiver.start(point(0)).unwrap();
    b.link.fence.grant();
    b.link.control.send(b"granted").unwrap();
    assert!(a.link.control.recv(WAIT).unwrap().is_some());
    (a, b)
}

fn mirror(a: &mut End, b: &mut End, at: u64, to: u64) {
    let bytes = pattern(at, (to - at) as usize);
    a.memory.put(at, &bytes);
    a.link.sender.write(point(to)).unwrap();
    assert_eq!(b.link.receiver.next(WAIT).unwrap().unwrap().to, point(to));
    b.link.receiver.acknowledge(point(to)).unwrap();
    assert_eq!(a.link.sender.poll(WAIT).unwrap(), Some(point(to)));
    assert!(b.memory.get(at, bytes.len()) == bytes);
}

#[test]
fn without_windows_a_registration_is_dropped_and_renewed() {
    if !has_rdma("without_windows_a_registration_is_dropped_and_renewed") {
        return;
    }
    let domains = domains(Some(Fencing::Registration));
    assert_eq!(domains[0].1.describe().fencing, Fencing::Registration);
    for _ in 0..2 {
        let (mut a, mut b) = ends(&domains);
        mirror(&mut a, &mut b, 0, 640);
        b.link.fence.revoke().unwrap();
        b.link.fence.grant();
        b.link.control.send(b"granted").unwrap();
        a.link.control.recv(WAIT).unwrap().unwrap();
        mirror(&mut a, &mut b, 640, 1280);
        b.link.fence.revoke().unwrap();
        let before = b.memory.get(0, RING as usize);
        a.memory.put(1280, &[0xee; 640]);
        a.link.sender.write(point(1920)).unwrap();
        assert!(matches!(a.link.sender.poll(WAIT), Err(LinkError::NotGranted)));
        assert!(b.memory.get(0, RING as usize) == before);
    }
}

#[test]
fn a_silent_adapter_is_a_dead_peer() {
    if !has_rdma("a_silent_adapter_is_a_dead_peer") {
        return;
    }
    let (mut a, mut b) = ends(&domains(None));
    mirror(&mut a, &mut b, 0, 640);
    b.shared.incoming.stop().unwrap();
    let began = Instant::now();
    a.link.sender.write(point(1280)).unwrap();
    let ended = loop {
        match a.link.sender.poll(WAIT) {
            Ok(news) => assert_eq!(news, None),
            Err(error) => break error,
        }
        assert!(began.elapsed() < 4 * WAIT);
    };
    assert!(matches!(ended, LinkError::PeerDead(limit) if limit < DEAD_AFTER), "{ended:?}");
    assert!(began.elapsed() < WAIT);
    assert_eq!(a.params.counters.snapshot().link_resets, 1);
    // Its own node finds its queue pair failed, whoever looks first.
    let ended = b.link.receiver.next(WAIT).unwrap_err();
    assert!(matches!(ended, LinkError::Rdma(_) | LinkError::PeerClosed), "{ended:?}");
}

#[test]
fn a_failed_queue_pair_ends_every_part_once() {
    if !has_rdma("a_failed_queue_pair_ends_every_part_once") {
        return;
    }
    let (mut a, mut b) = ends(&domains(None));
    mirror(&mut a, &mut b, 0, 640);
    a.shared.outgoing.stop().unwrap();
    let ended = a.link.sender.poll(WAIT).unwrap_err();
    assert!(matches!(ended, LinkError::Rdma(_)), "{ended:?}");
    assert!(matches!(a.link.sender.write(point(1280)), Err(LinkError::Rdma(_))));
    a.link.receiver.start(point(0)).unwrap_err();
    assert!(matches!(a.link.control.recv(WAIT), Err(LinkError::Rdma(_))));
    assert!(matches!(b.link.receiver.next(WAIT), Err(LinkError::PeerClosed)));
    for params in [&a.params, &b.params] {
        assert_eq!(params.counters.snapshot().link_resets, 1);
    }
}

/// Posts one request of a peer that does not keep to the rules, and tells how `b`'s ring and link took it.
fn lie(make: impl FnOnce(&End, &End) -> (bool, Work)) -> (Option<LinkError>, bool) {
    let (mut a, mut b) = ends(&domains(None));
    mirror(&mut a, &mut b, 0, 640);
    let before = b.memory.get(0, RING as usize);
    a.memory.put(0, &[0xee; RING as usize]);
    let (through_outgoing, work) = make(&a, &b);
    let pair = if through_outgoing { &a.shared.outgoing } else { &a.shared.incoming };
    pair.post(&[Request { id: 0, signalled: false, work }]).unwrap();
    let ended = b.link.receiver.next(Duration::from_millis(500)).err();
    (ended, b.memory.get(0, RING as usize) == before)
}

#[test]
fn a_peer_that_lies_ends_the_link_and_writes_nothing_outside_the_ring() {
    if !has_rdma("a_peer_that_lies_ends_the_link_and_writes_nothing_outside_the_ring") {
        return;
    }
    let ring = |a: &End, offset: u64| Remote {
        address: a.shared.ring_address + offset,
        key: a.shared.grant.key().unwrap(),
    };
    let some = RingRange { offset: 0, len_bytes: 1024 };
    let (ended, unchanged) = lie(|a, _| {
        let nothing = RingRange { offset: 0, len_bytes: 0 };
        (true, Work::Write { from: nothing, to: ring(a, 640), immediate: Some(1) })
    });
    assert!(matches!(ended, Some(LinkError::Protocol(_))) && unchanged, "an empty batch: {ended:?}");
    let (ended, unchanged) = lie(|_, _| (true, Work::Send { slot: 0 }));
    assert!(
        matches!(ended, Some(LinkError::Protocol(_) | LinkError::Rdma(_))) && unchanged,
        "a message: {ended:?}"
    );
    let (ended, unchanged) =
        lie(|a, _| (true, Work::Write { from: some, to: ring(a, RING - 512), immediate: Some(1) }));
    assert!(
        matches!(ended, Some(LinkError::Rdma(_) | LinkError::Revoked)) && unchanged,
        "past the end: {ended:?}"
    );
    // The queue pair that acknowledgements come through opens nothing, with whatever key.
    let (_, unchanged) = lie(|a, _| (false, Work::Write { from: some, to: ring(a, 0), immediate: None }));
    assert!(unchanged, "written through the queue pair of acknowledgements");
    // Nor does the key of one link open anything through another's queue pair.
    let other = ends(&domains(None));
    let key = other.0.shared.grant.key().unwrap();
    let (_, unchanged) = lie(|a, _| {
        let to = Remote { address: a.shared.ring_address, key };
        (true, Work::Write { from: some, to, immediate: None })
    });
    assert!(unchanged, "written with the key of another link");
}
