//! A partner on this host that lies, hands over nothing, or stands still.

use super::*;
use crate::FenceError;
use crate::common::{TestMemory, WAIT, params, point};
use exchange::{Theirs, swap};
use std::io::Write;
use std::sync::atomic::Ordering;

const RING: u64 = 64 << 10;

fn with_listener(test: impl FnOnce(&Path, &Acceptor, &TestMemory)) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("link.sock");
    let listener = Listener::bind(&path).unwrap();
    let memory = TestMemory::new(RING);
    let acceptor = listener.register(params("b", "a"), memory.clone()).unwrap();
    test(&path, &acceptor, &memory);
}

fn introduced(path: &Path) -> Stream {
    let socket: OwnedFd = UnixStream::connect(path).unwrap().into();
    let session = SessionId::random().unwrap();
    let deadline = deadline_after(WAIT);
    let kind = ChannelKind::Shared;
    rendezvous::introduce(socket, kind, session, &params("a", "b"), RING, deadline, "test").unwrap()
}

/// A partner that holds the other side's memory in its hands.
fn raw_partner(path: &Path, acceptor: &Acceptor) -> (Stream, Page, Theirs, Link) {
    let mut socket = introduced(path);
    std::thread::scope(|scope| {
        let accepting = scope.spawn(|| acceptor.accept(WAIT).unwrap().unwrap());
        let (page, fd) = Page::create().unwrap();
        let memory = TestMemory::new(RING);
        let theirs =
            swap(&mut socket, &*memory, fd, deadline_after(WAIT), "test", &params("a", "b")).unwrap();
        let mut link = accepting.join().unwrap();
        link.sender.start(point(0)).unwrap();
        link.receiver.start(point(64)).unwrap();
        (socket, page, theirs, link)
    })
}

#[test]
fn claims_past_the_ring_or_back_end_the_link() {
    for claim in [0, 63, 64 + RING + 1, u64::MAX] {
        with_listener(|path, acceptor, _| {
            let (_socket, _page, theirs, mut link) = raw_partner(path, acceptor);
            theirs.page.words().arrivals.put(point(claim));
            assert!(matches!(link.receiver.next(WAIT), Err(LinkError::Protocol(_))), "{claim}");
            assert!(matches!(link.control.recv(WAIT), Err(LinkError::Protocol(_))));
        });
    }
    with_listener(|path, acceptor, _| {
        let (_socket, _page, theirs, mut link) = raw_partner(path, acceptor);
        theirs.page.words().answers.put(point(64));
        assert!(matches!(link.sender.poll(WAIT), Err(LinkError::Protocol(_))), "nothing was written");
    });
}

#[test]
fn a_partner_that_stands_still_in_a_write_is_named() {
    with_listener(|path, acceptor, _| {
        let (_socket, _page, theirs, link) = raw_partner(path, acceptor);
        link.fence.grant();
        theirs.page.words().writing.store(1, Ordering::SeqCst);
        let stuck = link.fence.revoke().unwrap_err();
        let this_process = std::process::id() as i32;
        assert!(matches!(stuck, FenceError::PeerStuck { peer_pid, .. } if peer_pid == this_process));
        theirs.page.words().writing.store(0, Ordering::SeqCst);
        link.fence.revoke().unwrap();
    });
}

#[test]
fn a_partner_without_descriptors_or_with_too_little_memory_is_refused() {
    with_listener(|path, acceptor, _| {
        let mut stream = UnixStream::from(introduced(path).socket);
        let mut hello = [0; 16];
        hello[8..].copy_from_slice(&RING.to_le_bytes());
        stream.write_all(&hello).unwrap();
        assert!(matches!(acceptor.accept(WAIT), Err(LinkError::Protocol(_))));
        // A page that is shorter than the words on it.
        let mut stream = introduced(path);
        std::thread::scope(|scope| {
            let accepting = scope.spawn(|| acceptor.accept(WAIT));
            let empty = rustix::fs::memfd_create("empty", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            let memory = TestMemory::new(RING);
            let _ = swap(&mut stream, &*memory, empty, deadline_after(WAIT), "test", &params("a", "b"));
            assert!(matches!(accepting.join().unwrap(), Err(LinkError::Protocol(_))));
        });
        drop(introduced(path));
        assert!(matches!(acceptor.accept(WAIT), Err(LinkError::PeerClosed | LinkError::Io { .. })));
    });
}

#[test]
fn a_socket_left_behind_is_replaced_and_a_living_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("link.sock");
    drop(UnixListener::bind(&path).unwrap());
    let listener = Listener::bind(&path).unwrap();
    assert!(matches!(Listener::bind(&path).map(drop), Err(LinkError::Address { .. })));
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn a_mailbox_that_is_left_half_written_is_not_read() {
    let (page, fd) = Page::create().unwrap();
    let other = Page::map(fd).unwrap();
    let (mut seen, mailbox) = (0, &page.words().arrivals);
    assert_eq!(mailbox.get(&mut seen), None);
    other.words().arrivals.put(point(64));
    other.words().arrivals.put(point(128));
    assert_eq!(mailbox.get(&mut seen), Some(point(128)), "only the newest");
    assert_eq!(mailbox.get(&mut seen), None);
}
