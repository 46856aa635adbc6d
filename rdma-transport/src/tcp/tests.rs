//! Strangers at the port, refusals, and a partner that lies.

use super::*;
use crate::common::{TestMemory, VOLUME, WAIT, params, pattern, point};
use crate::frame::Frame;
use crate::handshake::{ANSWER_BYTES, PROTOCOL_VERSION, Preamble, decode_answer};
use crate::{FenceError, MAX_CONTROL_BYTES, Refusal};
use ids::{LogPoint, Lsn, VolumeId};
use std::io::{Read, Write};
use std::time::Duration;

const RING: u64 = 64 << 10;

struct Server {
    listener: Listener,
    acceptor: Acceptor,
    memory: Arc<TestMemory>,
}

fn server(change: impl Fn(&mut LinkParams)) -> Server {
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let memory = TestMemory::new(RING);
    let mut params = params("b", "a");
    change(&mut params);
    let acceptor = listener.register(params, memory.clone()).unwrap();
    Server { listener, acceptor, memory }
}

impl Server {
    fn address(&self) -> String {
        self.listener.local_addr().to_string()
    }

    fn knock(&self) -> TcpStream {
        let stream = TcpStream::connect(self.listener.local_addr()).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream
    }

    fn partner_gets_in(&self) {
        let link = connect(&self.address(), &params("a", "b"), TestMemory::new(RING)).unwrap();
        let accepted = self.acceptor.accept(WAIT).unwrap().unwrap();
        assert_eq!(accepted.peer.session, link.peer.session);
        assert_eq!((accepted.peer.node.as_str(), link.peer.node.as_str()), ("a", "b"));
    }

    /// A partner that speaks the protocol by hand: control, its bytes, the server's bytes.
    fn raw_partner(&self) -> ([TcpStream; 3], Link) {
        let session = SessionId::random().unwrap();
        let sockets = CHANNELS.map(|kind| {
            let socket: OwnedFd = self.knock().into();
            let deadline = deadline_after(WAIT);
            let stream =
                rendezvous::introduce(socket, kind, session, &params("a", "b"), RING, deadline, "test");
            TcpStream::from(stream.unwrap().socket)
        });
        let mut link = self.acceptor.accept(WAIT).unwrap().unwrap();
        link.sender.start(point(0)).unwrap();
        link.receiver.start(point(0)).unwrap();
        link.fence.grant();
        (sockets, link)
    }
}

fn answer_of(stream: &mut TcpStream) -> Result<(), Refusal> {
    let mut answer = [0; ANSWER_BYTES];
    stream.read_exact(&mut answer).unwrap();
    decode_answer(&answer).unwrap()
}

fn data(from: u64, to: u64) -> [u8; HEAD_BYTES] {
    Frame::Data { from: Lsn(from), to: point(to) }.encode()
}

#[test]
fn strangers_are_sent_away_and_the_partner_still_gets_in() {
    let server = server(|_| {});
    let mut http = server.knock();
    http.write_all(b"GET / HTTP/1.1\r\nHost: filer\r\n\r\n").unwrap();
    assert_eq!(answer_of(&mut http), Err(Refusal::Malformed));
    let mut flood = server.knock();
    // The server hangs up in the middle of it.
    let _ = (0..64).try_for_each(|_| flood.write_all(&[0xff; 64 << 10]));
    let silent: Vec<_> = (0..200).map(|_| server.knock()).collect();
    server.partner_gets_in();
    let mut slow = server.knock();
    slow.write_all(b"TWINF").unwrap();
    let began = Instant::now();
    // The end of a ring's work in this thread may interrupt a read; read_to_end goes on.
    let answered = slow.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(answered, 0, "who does not finish is dropped");
    assert!(began.elapsed() < Duration::from_secs(4));
    drop(silent);
    server.partner_gets_in();
}

#[test]
fn who_does_not_fit_is_told_why() {
    let server = server(|_| {});
    let refused = |change: &dyn Fn(&mut LinkParams), capacity_bytes| {
        let mut params = params("a", "b");
        change(&mut params);
        match connect(&server.address(), &params, TestMemory::new(capacity_bytes)) {
            Err(LinkError::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&|p| p.volume = VolumeId([4; 16]), RING), Refusal::UnknownVolume);
    let wrong = refused(&|p| p.local = "mallory".parse().unwrap(), RING);
    assert_eq!(wrong, Refusal::WrongNode { expected: "a".into() });
    let not_me = refused(&|p| p.peer = "c".parse().unwrap(), RING);
    assert_eq!(not_me, Refusal::NotMe { actual: "b".into() });
    assert_eq!(refused(&|_| {}, RING * 2), Refusal::Capacity { theirs_bytes: RING });
    let mut preamble = Preamble {
        kind: ChannelKind::Shared,
        session: SessionId([1; 16]),
        volume: VOLUME,
        capacity_bytes: RING,
        from: "a".parse().unwrap(),
        to: "b".parse().unwrap(),
    };
    let mut stream = server.knock();
    stream.write_all(&preamble.encode()).unwrap();
    assert_eq!(answer_of(&mut stream), Err(Refusal::WrongChannel));
    preamble.kind = ChannelKind::Control;
    let mut newer = preamble.encode().to_vec();
    newer[8] = PROTOCOL_VERSION as u8 + 1;
    newer.extend([0; 500]);
    let mut stream = server.knock();
    stream.write_all(&newer).unwrap();
    assert_eq!(answer_of(&mut stream), Err(Refusal::Version { theirs: PROTOCOL_VERSION }));
    server.partner_gets_in();
    // By name, of which the first address may be another one than the listener's.
    let named = format!("localhost:{}", server.listener.local_addr().port());
    drop(connect(&named, &params("a", "b"), TestMemory::new(RING)).unwrap());
    let again = server.listener.register(params("b", "a"), TestMemory::new(RING));
    assert!(matches!(again.map(drop), Err(LinkError::Registered(VOLUME))));
    let Server { listener, acceptor, .. } = server;
    drop(acceptor);
    let address = listener.local_addr().to_string();
    let gone = connect(&address, &params("a", "b"), TestMemory::new(RING)).unwrap_err();
    assert!(matches!(gone, LinkError::Refused(Refusal::UnknownVolume)));
}

#[test]
fn something_else_at_the_address_is_named() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let mut params = params("a", "b");
    params.tuning.handshake_timeout = Duration::from_millis(100);
    let silent = connect(&address, &params, TestMemory::new(RING)).unwrap_err();
    assert!(matches!(silent, LinkError::HandshakeTimeout { .. }), "{silent:?}");
    let _silent = other.accept().unwrap();
    let talking = std::thread::spawn(move || {
        other.accept().unwrap().0.write_all(&[b'x'; 200]).unwrap();
        other
    });
    params.tuning.handshake_timeout = WAIT;
    let stranger = connect(&address, &params, TestMemory::new(RING)).unwrap_err();
    assert!(matches!(stranger, LinkError::Stranger { .. }), "{stranger:?}");
    drop(talking.join().unwrap());
    let nobody = connect(&address, &params, TestMemory::new(RING)).unwrap_err();
    assert!(matches!(nobody, LinkError::Io { .. }), "{nobody:?}");
    assert!(matches!(connect("no port", &params, TestMemory::new(RING)), Err(LinkError::Address { .. })));
}

#[test]
fn an_unfinished_session_is_no_link_and_a_newer_link_replaces_an_older() {
    let server = server(|_| {});
    let session = SessionId::random().unwrap();
    let deadline = deadline_after(WAIT);
    let _unfinished = [ChannelKind::Control, ChannelKind::Control].map(|kind| {
        let socket: OwnedFd = server.knock().into();
        rendezvous::introduce(socket, kind, session, &params("a", "b"), RING, deadline, "test").unwrap()
    });
    assert!(server.acceptor.accept(Duration::from_millis(50)).unwrap().is_none());
    let old = connect(&server.address(), &params("a", "b"), TestMemory::new(RING)).unwrap();
    let new = connect(&server.address(), &params("a", "b"), TestMemory::new(RING)).unwrap();
    // The last answer is sent just before the session counts as complete.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(server.acceptor.accept(WAIT).unwrap().unwrap().peer.session, new.peer.session);
    assert!(matches!(old.control.recv(WAIT), Err(LinkError::PeerClosed)));
    let Server { listener, acceptor, .. } = server;
    drop(listener);
    assert!(matches!(acceptor.accept(WAIT), Err(LinkError::Closed)));
}

#[test]
fn a_partner_that_lies_ends_the_link_and_writes_nothing() {
    let mut bad_check = data(0, 64);
    bad_check[30] ^= 1;
    let lies: [&[u8]; 6] = [
        &data(64, 128),
        &data(0, RING + 64),
        &data(0, u64::MAX),
        &Frame::Ack { durable: point(0) }.encode(),
        &bad_check,
        &[0xff; 200],
    ];
    for lie in lies {
        let server = server(|_| {});
        let (mut sockets, mut link) = server.raw_partner();
        let before = server.memory.get(0, RING as usize);
        sockets[1].write_all(lie).unwrap();
        sockets[1].write_all(&[0xaa; 4096]).unwrap();
        assert!(matches!(link.receiver.next(WAIT), Err(LinkError::Protocol(_))), "{lie:?}");
        assert!(matches!(link.control.recv(WAIT), Err(LinkError::Protocol(_))), "all parts give the reason");
        assert!(before == server.memory.get(0, RING as usize));
    }
    let ack_lies: [&[u8]; 3] = [&Frame::Ack { durable: point(64) }.encode(), &data(0, 64), &[0; HEAD_BYTES]];
    for lie in ack_lies {
        let (mut sockets, mut link) = server(|_| {}).raw_partner();
        sockets[2].write_all(lie).unwrap();
        assert!(matches!(link.sender.poll(WAIT), Err(LinkError::Protocol(_))), "{lie:?}");
    }
    for head in [*b"TwCt\xff\xff\xff\xff", *b"garbage!"] {
        let (mut sockets, link) = server(|_| {}).raw_partner();
        sockets[0].write_all(&head).unwrap();
        assert!(matches!(link.control.recv(WAIT), Err(LinkError::Protocol(_))));
    }
}

#[test]
fn bytes_that_trickle_in_are_put_together() {
    let server = server(|_| {});
    let (mut sockets, mut link) = server.raw_partner();
    let mut stream = Vec::new();
    for (from, to) in [(0, 64), (64, 64), (64, 64 + 40_000), (40_064, 40_128)] {
        stream.extend(data(from, to));
        stream.extend(pattern(from, (to - from) as usize));
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for part in stream.chunks(777) {
                sockets[1].write_all(part).unwrap();
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let mut landed = LogPoint::default();
        while landed != point(40_128) {
            if let Some(arrival) = link.receiver.next(Duration::from_millis(1)).unwrap() {
                landed = arrival.to;
            }
        }
    });
    assert!(server.memory.get(0, 40_128) == pattern(0, 40_128));
}

#[test]
fn a_partner_that_stops_in_the_middle_is_dead_or_revoked() {
    let stalled = |dead_peer_timeout| {
        let server = server(|params| params.tuning.dead_peer_timeout = dead_peer_timeout);
        let (mut sockets, link) = server.raw_partner();
        sockets[1].write_all(&data(0, 60_000)).unwrap();
        sockets[1].write_all(&[0x11; 30_000]).unwrap();
        (server, sockets, link)
    };
    let (_server, _sockets, mut link) = stalled(Duration::from_millis(150));
    let dead = link.receiver.next(WAIT).unwrap_err();
    assert!(matches!(dead, LinkError::PeerDead(_)), "{dead:?}");

    let (server, mut sockets, mut link) = stalled(Duration::from_secs(60));
    let began = Instant::now();
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| link.receiver.next(WAIT));
        std::thread::sleep(Duration::from_millis(50));
        let revoked: Result<(), FenceError> = link.fence.revoke();
        revoked.unwrap();
        let before = server.memory.get(0, RING as usize);
        // What the partner sends when it wakes up goes nowhere.
        let _ = sockets[1].write_all(&[0x22; 30_000]);
        assert!(matches!(receiving.join().unwrap(), Err(LinkError::Revoked)));
        assert!(before == server.memory.get(0, RING as usize));
    });
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_partner_that_takes_nothing_does_not_block_writes_for_ever() {
    let server = server(|params| params.tuning.dead_peer_timeout = Duration::from_millis(200));
    let (_sockets, mut link) = server.raw_partner();
    link.sender.write(point(RING)).unwrap();
    let message = vec![0; MAX_CONTROL_BYTES];
    let dead = (0..64).find_map(|_| link.control.send(&message).err());
    assert!(matches!(dead, Some(LinkError::PeerDead(_))), "{dead:?}");
    assert!(matches!(link.sender.poll(WAIT), Err(LinkError::PeerDead(_))));
}
