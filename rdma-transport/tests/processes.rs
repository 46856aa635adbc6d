//! Two processes, as in life: the partner is this test's own binary, started again. It is stopped and killed.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Kind, TestMemory, WAIT, kinds, params, pattern, point};
#[cfg(feature = "verbs")]
use rdma_transport::verbs;
use rdma_transport::{Acceptor, Link, LinkError, shm, tcp};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const RING: u64 = 1 << 20;
/// Where the partner connects: `tcp ADDRESS`, `verbs ADDRESS` or `shm PATH`.
const ADDRESS: &str = "LINK_TEST_ADDRESS";

/// Not a test of its own: what the partner's process runs. It writes without end.
#[test]
fn partner_process() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    let (kind, address) = address.split_once(' ').unwrap();
    let memory = TestMemory::new(RING);
    memory.put(0, &pattern(0, RING as usize));
    let params = params("a", "b");
    let mut link = match kind {
        "tcp" => tcp::connect(address, &params, memory),
        #[cfg(feature = "verbs")]
        "verbs" => verbs::connect(address, &params, common::domain(&verbs::Settings::default(), &memory)),
        _ => shm::connect(address.as_ref(), &params, memory),
    }
    .unwrap();
    assert_eq!(link.control.recv(WAIT).unwrap().as_deref(), Some(&b"start"[..]));
    link.sender.start(point(0)).unwrap();
    println!("\nwriting");
    for end in (1..).map(|i| i * 192 * 1024) {
        if link.sender.write(point(end)).is_err() {
            return;
        }
        while link.sender.in_flight() > 2 {
            if link.sender.poll(WAIT).is_err() {
                return;
            }
        }
    }
}

struct Partner(Child);

impl Partner {
    fn start(address: &str) -> Partner {
        let this_binary = std::env::current_exe().unwrap();
        let child = Command::new(this_binary)
            .args(["partner_process", "--exact", "--nocapture", "--test-threads=1"])
            .env(ADDRESS, address)
            .stdout(Stdio::piped())
            .spawn();
        Partner(child.unwrap())
    }

    fn wait_until_it_writes(&mut self) {
        let mut lines = BufReader::new(self.0.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "writing"));
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `test` with a link to another process that writes.
fn with_partner(kind: Kind, test: impl FnOnce(&mut Link, &mut Partner, &TestMemory)) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("link.sock");
    let memory = TestMemory::new(RING);
    let run = |acceptor: Acceptor, address: String, memory: Arc<TestMemory>| {
        let mut partner = Partner::start(&address);
        let mut link = acceptor.accept(4 * WAIT).unwrap().unwrap();
        link.receiver.start(point(0)).unwrap();
        link.fence.grant();
        link.control.send(b"start").unwrap();
        partner.wait_until_it_writes();
        test(&mut link, &mut partner, &memory);
    };
    match kind {
        Kind::Tcp => {
            let listener = tcp::Listener::bind("127.0.0.1:0").unwrap();
            let acceptor = listener.register(params("b", "a"), memory.clone()).unwrap();
            run(acceptor, format!("tcp {}", listener.local_addr()), memory);
        }
        Kind::Shm => {
            let listener = shm::Listener::bind(&path).unwrap();
            let acceptor = listener.register(params("b", "a"), memory.clone()).unwrap();
            run(acceptor, format!("shm {}", path.display()), memory);
        }
        #[cfg(feature = "verbs")]
        Kind::Verbs => {
            let listener = tcp::Listener::bind("127.0.0.1:0").unwrap();
            let domain = common::domain(&verbs::Settings::default(), &memory);
            let acceptor = verbs::register(&listener, params("b", "a"), domain).unwrap();
            run(acceptor, format!("verbs {}", listener.local_addr()), memory);
        }
        keyed => unreachable!("{keyed:?}: the other process has no keys"),
    }
}

/// Acknowledges what has landed, so that the partner goes on to write, until the link ends.
fn serve_to_the_end(link: &mut Link) -> Option<LinkError> {
    let began = Instant::now();
    while began.elapsed() < WAIT {
        match link.receiver.next(Duration::from_millis(10)) {
            // It may be gone already; the next receive tells.
            Ok(Some(arrival)) => drop(link.receiver.acknowledge(arrival.to)),
            Ok(None) => {}
            Err(error) => return Some(error),
        }
    }
    None
}

/// Receives and acknowledges for a while, and until something has come.
fn serve(link: &mut Link, time: Duration) -> u64 {
    let began = Instant::now();
    let mut landed = 0;
    while began.elapsed() < time || landed == 0 && began.elapsed() < WAIT {
        if let Some(arrival) = link.receiver.next(Duration::from_millis(1)).unwrap() {
            landed = arrival.to.lsn.0;
            link.receiver.acknowledge(arrival.to).unwrap();
        }
    }
    landed
}

#[test]
fn a_partner_that_is_killed_is_noticed_and_can_be_revoked() {
    for kind in kinds().into_iter().filter(|kind| !kind.has_keys()) {
        with_partner(kind, |link, partner, _| {
            assert!(serve(link, Duration::from_millis(50)) > 0);
            partner.signal(Signal::KILL);
            let ended = serve_to_the_end(link);
            assert!(matches!(ended, Some(LinkError::PeerClosed)), "{ended:?}");
            link.fence.revoke().unwrap();
        });
    }
}

#[test]
fn a_partner_that_is_stopped_is_revoked_in_bounded_time_and_writes_nothing_when_it_wakes() {
    for kind in kinds().into_iter().filter(|kind| !kind.has_keys()) {
        with_partner(kind, |link, partner, memory| {
            assert!(serve(link, Duration::from_millis(50)) > 0);
            partner.signal(Signal::STOP);
            let began = Instant::now();
            let revoked = link.fence.revoke();
            assert!(began.elapsed() < Duration::from_secs(2));
            if revoked.is_err() {
                // Shared memory only, stopped in the very middle of a copy: it was named, and must be ended.
                assert_eq!(kind, Kind::Shm);
                partner.signal(Signal::KILL);
                return;
            }
            memory.put(0, &vec![0x55; RING as usize]);
            partner.signal(Signal::CONT);
            let ended = serve_to_the_end(link);
            assert!(matches!(ended, Some(LinkError::Revoked | LinkError::PeerClosed)), "{ended:?}");
            assert!(memory.get(0, RING as usize) == vec![0x55; RING as usize]);
        });
    }
}
