//! A wire between two nodes that can be cut, or swallow one kind of answer.

use super::cluster::{Cluster, Side};
use super::config::Spec;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The sockets of one link, in the order in which they are connected: control messages, the connecting node's log
/// bytes with the listening one's acknowledgements, and the other way round.
const SOCKETS: usize = 3;
const LOG_OF_CONNECTOR: usize = 1;
/// How often a wire that swallows looks whether it still should.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Shared {
    cut: AtomicBool,
    swallows: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

/// See the module: it forwards connections to a port.
pub struct Wire {
    port: u16,
    shared: Arc<Shared>,
}

impl Wire {
    /// Starts a pair whose nodes speak through a wire. The lower name connects, so it is the only way between them.
    pub fn between(spec: Spec) -> (Cluster, Wire) {
        let mut pair = Cluster::prepare(spec);
        let wire = Wire::to(pair.port(Side::B));
        let text = std::fs::read_to_string(pair.config(Side::A)).unwrap();
        let direct = format!("127.0.0.1:{}", pair.port(Side::B));
        assert!(text.contains(&direct));
        let through = format!("127.0.0.1:{}", wire.port);
        std::fs::write(pair.config(Side::A), text.replace(&direct, &through)).unwrap();
        for side in Side::BOTH {
            pair.start_node(side);
        }
        (pair, wire)
    }

    fn to(target: u16) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::<Shared>::default();
        let relay = shared.clone();
        std::thread::spawn(move || {
            let mut carried = 0;
            for near in listener.incoming().flatten() {
                // What nobody took at the other end was no socket of a link.
                carried += usize::from(relay.carry(carried % SOCKETS, near, target));
            }
        });
        Wire { port, shared }
    }

    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
        for stream in self.shared.connections.lock().unwrap().drain(..) {
            let _ended_already = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.shared.cut.store(false, Ordering::SeqCst);
    }

    /// What node B answers to node A's log bytes is kept back, on this link and on those that follow.
    pub fn swallow_acknowledgements(&self, swallow: bool) {
        self.shared.swallows.store(swallow, Ordering::SeqCst);
    }
}

impl Shared {
    fn carry(self: &Arc<Shared>, socket: usize, near: TcpStream, target: u16) -> bool {
        if self.cut.load(Ordering::SeqCst) {
            return false;
        }
        let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else { return false };
        for stream in [&near, &far] {
            stream.set_nodelay(true).unwrap();
            self.connections.lock().unwrap().push(stream.try_clone().unwrap());
        }
        let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
        for (answers, (from, to)) in [(false, (near, far)), (socket == LOG_OF_CONNECTOR, back)] {
            let shared = self.clone();
            std::thread::spawn(move || shared.forward(from, to, answers));
        }
        true
    }

    fn forward(&self, mut from: TcpStream, mut to: TcpStream, answers: bool) {
        let mut buffer = vec![0; 64 << 10];
        // The first bytes of a socket say whose it is.
        let mut introduced = false;
        while let Ok(got @ 1..) = from.read(&mut buffer) {
            while answers && introduced && self.swallows.load(Ordering::SeqCst) {
                std::thread::sleep(LOOK);
            }
            introduced = true;
            if to.write_all(&buffer[..got]).is_err() {
                break;
            }
        }
        for end in [&from, &to] {
            let _ended_already = end.shutdown(Shutdown::Both);
        }
    }
}
