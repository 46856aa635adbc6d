//! A witness with keys: nodes, strangers, and very many strangers.

use super::*;
use ids::{Epoch, VolumeId};
use pair::witness::{Answer, Mode, Register, Request};
use rdma_transport::tls::{LinkKeys, PrivateKey};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(5);
const VOLUME: VolumeId = VolumeId([3; 16]);
const OTHER: VolumeId = VolumeId([4; 16]);

struct Keyed {
    witness: PrivateKey,
    /// May ask for everything.
    node: PrivateKey,
    /// May ask for [`OTHER`] alone.
    narrow: PrivateKey,
}

impl Keyed {
    fn client(&self, address: SocketAddr, own: &PrivateKey) -> Client {
        Client::new(address.to_string(), Some(LinkKeys { own: own.clone(), peer: self.witness.public() }))
    }
}

fn with_server<T>(test: impl FnOnce(SocketAddr, &Keyed) -> T) -> T {
    let [witness, node, narrow] = [(); 3].map(|()| PrivateKey::generate().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("nodes");
    std::fs::write(&file, format!("{} *\n{} {OTHER}\n", node.public(), narrow.public())).unwrap();
    let access = Access::Keys { own: witness.clone(), nodes: Nodes::load(&file).unwrap() };
    let (stop, keyed) = (AtomicBool::new(false), Keyed { witness, node, narrow });
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let (stop, state) = (&stop, directory.path().join("state"));
        let server = scope.spawn(move || {
            let ready = |address| sender.send(address).unwrap();
            serve("127.0.0.1:0".parse().unwrap(), &state, access, ready, stop)
        });
        let address = receiver.recv_timeout(TIMEOUT).expect("the server starts");
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(address, &keyed)));
        stop.store(true, Ordering::SeqCst);
        server.join().unwrap().unwrap();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn read(volume: VolumeId) -> Request {
    Request::Read { volume }
}

#[test]
fn nodes_ask_by_their_keys_and_for_their_volumes() {
    with_server(|address, keyed| {
        let mut node = keyed.client(address, &keyed.node);
        for volume in [VOLUME, OTHER, VOLUME] {
            assert_eq!(node.request(&read(volume), TIMEOUT).unwrap(), Answer::Is { register: None });
        }
        let mut narrow = keyed.client(address, &keyed.narrow);
        assert_eq!(narrow.request(&read(OTHER), TIMEOUT).unwrap(), Answer::Is { register: None });
        let new = Register {
            volume: VOLUME,
            epoch: Epoch(1),
            primary: "a".parse().unwrap(),
            mode: Mode::Solo,
            generation: 1,
        };
        let swap = Request::CompareAndSwap { expected: None, new };
        assert!(matches!(narrow.request(&swap, TIMEOUT).unwrap(), Answer::Refused { .. }));
        assert_eq!(
            node.request(&read(VOLUME), TIMEOUT).unwrap(),
            Answer::Is { register: None },
            "nothing was swapped"
        );
    });
}

/// Whatever is wrong with the keys, the question certainly was not carried out, and both sides say what to compare.
#[test]
fn who_has_no_key_or_another_one_is_told_nothing() {
    with_server(|address, keyed| {
        let stranger = PrivateKey::generate().unwrap();
        let unknown = keyed.client(address, &stranger).request(&read(VOLUME), TIMEOUT).unwrap_err();
        assert!(matches!(unknown, WitnessError::Untrusted { .. }) && !unknown.maybe_applied(), "{unknown:?}");
        let keys = LinkKeys { own: keyed.node.clone(), peer: stranger.public() };
        let mistaken =
            Client::new(address.to_string(), Some(keys)).request(&read(VOLUME), TIMEOUT).unwrap_err();
        assert!(
            matches!(mistaken, WitnessError::Untrusted { .. }) && !mistaken.maybe_applied(),
            "{mistaken:?}"
        );
        let plain = Client::new(address.to_string(), None).request(&read(VOLUME), TIMEOUT).unwrap_err();
        assert!(matches!(plain, WitnessError::NoAnswer { .. }), "{plain:?}");
        assert!(keyed.client(address, &keyed.node).request(&read(VOLUME), TIMEOUT).is_ok());
    });
}

/// A node with keys at a witness without.
#[test]
fn a_witness_without_keys_is_not_believed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let talking = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // The client hangs up when it sees that this is no TLS.
        let _ = write_frame(&mut stream, b"{\"is\":{\"register\":null}}");
    });
    let (own, peer) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap().public());
    let mut client = Client::new(address.to_string(), Some(LinkKeys { own, peer }));
    let refused = client.request(&read(VOLUME), TIMEOUT).unwrap_err();
    assert!(!refused.maybe_applied(), "{refused:?}");
    talking.join().unwrap();
}

#[test]
fn who_trickles_is_dropped_in_time() {
    use std::io::{Read, Write};
    with_server(|address, _| {
        let mut slow = TcpStream::connect(address).unwrap();
        slow.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let began = Instant::now();
        // A record's head, then its bytes one by one.
        let _ = slow.write_all(&[22, 3, 1, 2, 0]);
        let ended = || {
            let mut slow = &slow;
            slow.write_all(&[1]).is_err() || matches!(slow.read(&mut [0; 8]), Ok(0))
        };
        while !ended() {
            assert!(began.elapsed() < super::server::OPENING_LIMIT * 2, "still there");
        }
        assert!(began.elapsed() > Duration::from_millis(500));
    });
}

/// Silent connections, many more than there are places, from the node's own address and while it asks.
#[test]
fn a_flood_keeps_no_node_out() {
    with_server(|address, keyed| {
        let mut silent = Vec::new();
        for _ in 0..5 {
            silent
                .extend((0..2 * super::openings::MAX_OPENINGS).map(|_| TcpStream::connect(address).unwrap()));
            let mut node = keyed.client(address, &keyed.node);
            assert_eq!(node.request(&read(VOLUME), TIMEOUT).unwrap(), Answer::Is { register: None });
        }
    });
}
