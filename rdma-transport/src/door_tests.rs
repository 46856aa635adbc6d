//! Who comes to a door that wants keys: the partner, strangers of all kinds, and very many of them.

use crate::common::{TestMemory, VOLUME, WAIT, params};
use crate::door::{MAX_CALLERS, OPENING_LIMIT, processor_time, rest_after};
use crate::handshake::{ChannelKind, PROTOCOL_VERSION, Preamble};
use crate::tls::{DoorKeys, LinkKeys, PrivateKey, TlsError};
use crate::{Acceptor, LinkError, LinkParams, Refusal, SessionId, tcp};
use ids::VolumeId;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const RING: u64 = 64 << 10;

struct Server {
    own: PrivateKey,
    /// Of the partner of another volume.
    other: PrivateKey,
    listener: tcp::Listener,
    acceptor: Acceptor,
    partner: LinkParams,
}

/// A node "b" that expects "a", with keys.
fn server() -> Server {
    let [own, key, other] = [(); 3].map(|()| PrivateKey::generate().unwrap());
    let mut partner = params("a", "b");
    partner.keys = Some(LinkKeys { own: key.clone(), peer: own.public() });
    let door = DoorKeys { own: own.clone(), partners: vec![key.public(), other.public()] };
    let listener = tcp::Listener::bind_with("127.0.0.1:0", Some(door)).unwrap();
    let mut params = params("b", "a");
    params.keys = Some(LinkKeys { own: own.clone(), peer: key.public() });
    let acceptor = listener.register(params, TestMemory::new(RING)).unwrap();
    Server { own, other, listener, acceptor, partner }
}

impl Server {
    fn connect(&self, params: &LinkParams) -> Result<crate::Link, LinkError> {
        tcp::connect(&self.listener.local_addr().to_string(), params, TestMemory::new(RING))
    }

    fn knock(&self) -> TcpStream {
        let stream = TcpStream::connect(self.listener.local_addr()).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream
    }

    fn partner_gets_in(&self) {
        let link = self.connect(&self.partner).unwrap();
        let accepted = self.acceptor.accept(WAIT).unwrap().unwrap();
        assert_eq!(accepted.peer.session, link.peer.session);
        link.control.send(b"hello").unwrap();
        assert_eq!(accepted.control.recv(WAIT).unwrap().as_deref(), Some(&b"hello"[..]));
    }
}

/// All that is answered until the connection ends. A reset after bytes that nobody read is an end too.
fn answered(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    bytes
}

fn plain_preamble() -> Vec<u8> {
    let (from, to) = ("a".parse().unwrap(), "b".parse().unwrap());
    let session = SessionId([1; 16]);
    let kind = ChannelKind::Control;
    Preamble { kind, session, volume: VOLUME, capacity_bytes: RING, from, to }.encode().to_vec()
}

#[test]
fn strangers_get_nothing_and_the_partner_gets_in() {
    let server = server();
    let mut older = plain_preamble();
    older[8] = PROTOCOL_VERSION as u8 - 1;
    for words in
        [b"GET / HTTP/1.1\r\nHost: filer\r\n\r\n".to_vec(), plain_preamble(), older, vec![0xff; 100_000]]
    {
        let mut stream = server.knock();
        // The server hangs up in the middle of the long one.
        let _ = stream.write_all(&words);
        assert_eq!(answered(stream), b"", "{:?}", &words[..8]);
    }
    server.partner_gets_in();
}

#[test]
fn who_speaks_without_a_key_or_with_a_wrong_one_is_told_apart() {
    let server = server();
    let without = LinkParams { keys: None, ..server.partner.clone() };
    assert!(matches!(server.connect(&without), Err(LinkError::Stranger { .. })));
    let keys = server.partner.keys.clone().unwrap();
    let other = PrivateKey::generate().unwrap();
    let unknown = LinkKeys { own: other.clone(), ..keys.clone() };
    let unknown = LinkParams { keys: Some(unknown), ..server.partner.clone() };
    let refused = server.connect(&unknown).unwrap_err();
    assert!(matches!(refused, LinkError::Untrusted { why: TlsError::KeyRefused, .. }), "{refused:?}");
    let mistaken = LinkKeys { peer: other.public(), ..keys };
    let mistaken = LinkParams { keys: Some(mistaken), ..server.partner.clone() };
    let refused = server.connect(&mistaken).unwrap_err();
    assert!(matches!(refused, LinkError::Untrusted { why: TlsError::WrongKey, .. }), "{refused:?}");
    // The other way round: this node has keys, the other has none.
    let plain = tcp::Listener::bind("127.0.0.1:0").unwrap();
    let address = plain.local_addr().to_string();
    let refused = tcp::connect(&address, &server.partner, TestMemory::new(RING)).unwrap_err();
    assert!(matches!(refused, LinkError::Untrusted { why: TlsError::NotTls, .. }), "{refused:?}");
    server.partner_gets_in();
}

/// The partner of one volume is a stranger to another: it does not even learn that it exists.
#[test]
fn a_key_opens_its_own_volume_only() {
    let server = server();
    let own = server.partner.keys.as_ref().unwrap();
    let other_key = server.other.clone();
    let mut other = params("b", "c");
    other.volume = VolumeId([8; 16]);
    other.keys = Some(LinkKeys { own: server.own.clone(), peer: other_key.public() });
    let _acceptor = server.listener.register(other, TestMemory::new(RING)).unwrap();
    let mut wrong = params("c", "b");
    wrong.volume = VolumeId([8; 16]);
    wrong.keys = Some(own.clone());
    for volume in [VolumeId([8; 16]), VolumeId([9; 16])] {
        let refused = server.connect(&LinkParams { volume, ..wrong.clone() }).unwrap_err();
        assert!(matches!(refused, LinkError::Refused(Refusal::UnknownVolume)), "{refused:?}");
    }
    let mut right = wrong;
    right.keys = Some(LinkKeys { own: other_key, peer: own.peer });
    assert!(server.connect(&right).is_ok());
    server.partner_gets_in();
}

/// A node that starts or stops does not serve the volume; its partner's key is none the worse for that.
#[test]
fn a_partner_whose_volume_is_not_served_hears_that_and_nothing_about_its_key() {
    let server = server();
    let other = LinkKeys { own: server.other.clone(), peer: server.own.public() };
    let mut not_yet = params("c", "b");
    not_yet.volume = VolumeId([8; 16]);
    not_yet.keys = Some(other);
    let refused = server.connect(&not_yet).unwrap_err();
    assert!(matches!(refused, LinkError::Refused(Refusal::UnknownVolume)), "{refused:?}");
    server.partner_gets_in();
    drop(server.acceptor);
    let (address, memory) = (server.listener.local_addr().to_string(), TestMemory::new(RING));
    let refused = tcp::connect(&address, &server.partner, memory).unwrap_err();
    assert!(matches!(refused, LinkError::Refused(Refusal::UnknownVolume)), "{refused:?}");
}

/// Takes every word that the partner says at the door, lets it in, and says them again.
#[test]
fn a_replayed_handshake_gets_nothing() {
    let server = server();
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let through = proxy.local_addr().unwrap().to_string();
    let target = server.listener.local_addr();
    let recording = std::thread::spawn(move || {
        let (mut from, _) = proxy.accept().unwrap();
        let mut to = TcpStream::connect(target).unwrap();
        let (mut back, mut forth) = (to.try_clone().unwrap(), from.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut back, &mut forth));
        let mut words = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            words.extend(&buffer[..len]);
            to.write_all(&buffer[..len]).unwrap();
        }
        // Ends the copying thread too.
        let _ = to.shutdown(std::net::Shutdown::Both);
        words
    });
    let socket: OwnedFd = TcpStream::connect(&through).unwrap().into();
    let (session, deadline) = (SessionId::random().unwrap(), Instant::now() + WAIT);
    let kind = ChannelKind::Control;
    let stream =
        crate::rendezvous::introduce(socket, kind, session, &server.partner, RING, deadline, &through)
            .unwrap();
    drop(stream);
    let words = recording.join().unwrap();
    assert!(words.len() > 400);
    let mut replayed = server.knock();
    replayed.write_all(&words).unwrap();
    let answer = answered(replayed);
    // The server's own flight, for a hello is a hello; then nothing: 0x17 records of it would be longer.
    assert!(answer.len() < 1024, "{}", answer.len());
    assert!(server.acceptor.accept(Duration::from_millis(100)).unwrap().is_none());
    server.partner_gets_in();
}

#[test]
fn a_slow_stranger_is_dropped_in_time_however_it_trickles() {
    let server = server();
    let mut slow = server.knock();
    slow.set_nonblocking(true).unwrap();
    let began = Instant::now();
    let hello = [22u8, 3, 1, 0, 200];
    let ended = loop {
        let at = began.elapsed().as_millis() as usize / 100;
        let byte = hello.get(at).copied().unwrap_or(1);
        match slow.read(&mut [0; 16]) {
            Ok(0) => break true,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            other => break other.is_err(),
        }
        if slow.write_all(&[byte]).is_err() {
            break true;
        }
        assert!(began.elapsed() < OPENING_LIMIT * 2, "still there");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(ended && began.elapsed() >= Duration::from_millis(300));
    server.partner_gets_in();
}

/// A connection from another loopback address: another source than the partner's.
fn connect_from(source: &str, to: SocketAddr) -> Option<TcpStream> {
    use rustix::net::{AddressFamily, SocketAddrV4, SocketType, bind, connect, socket};
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).ok()?;
    bind(&fd, &SocketAddrV4::new(source.parse().ok()?, 0)).ok()?;
    connect(&fd, &to).ok()?;
    Some(TcpStream::from(fd))
}

/// The first words of a client that knows everything but a key.
fn hello() -> Vec<u8> {
    let (a, b) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let config = crate::tls::client_config(&a, b.public(), crate::tls::Purpose::Link).unwrap();
    let mut out = Vec::new();
    crate::tls::Opening::client(config).unwrap().advance(0, &mut out).unwrap();
    out
}

/// While floods of silent connections and of real first words come from elsewhere, the partner gets in each time,
/// in time; and the flood is held to its few places.
#[test]
fn a_flood_does_not_keep_the_partner_out() {
    let server = server();
    let (to, hello) = (server.listener.local_addr(), hello());
    let (stop, knocked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for (source, words) in [("127.0.0.2", &hello[..]), ("127.0.0.3", &[])] {
            let (stop, knocked) = (&stop, &knocked);
            scope.spawn(move || {
                let mut kept = std::collections::VecDeque::new();
                while !stop.load(Ordering::Relaxed) {
                    let Some(mut stream) = connect_from(source, to) else { continue };
                    knocked.fetch_add(1, Ordering::Relaxed);
                    let _ = stream.write_all(words);
                    kept.push_back(stream);
                    if kept.len() > 2 * MAX_CALLERS {
                        kept.pop_front();
                    }
                }
            });
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while knocked.load(Ordering::Relaxed) < 4 * MAX_CALLERS {
                std::thread::sleep(Duration::from_millis(1));
            }
            for _ in 0..5 {
                server.partner_gets_in();
            }
        }));
        stop.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// A machine may leave the thread at the door standing in the middle of a proof: the partner does not wait three times as long for
/// that.
#[test]
fn a_door_that_stood_still_does_not_rest_for_it() {
    const STOOD_STILL: Duration = Duration::from_millis(300);
    let began = processor_time();
    std::thread::sleep(STOOD_STILL);
    let rest = rest_after(began);
    assert!(rest < STOOD_STILL, "{rest:?}");
}

/// Silent connections from the partner's own address, many more than there are places.
#[test]
fn silence_from_the_partners_own_address_gives_way() {
    let server = server();
    let _silent: Vec<_> = (0..3 * MAX_CALLERS).map(|_| server.knock()).collect();
    server.partner_gets_in();
}
