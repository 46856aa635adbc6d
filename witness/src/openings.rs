//! Connections whose callers have not shown yet who they are: they are few, they are given little time, and when
//! there are too many the one gives way that the listener's door would choose too ([`who_gives_way`]).

use parking_lot::Mutex;
use rdma_transport::tls::{Source, who_gives_way};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};

/// So many at the same time.
pub(super) const MAX_OPENINGS: usize = 64;

struct Opening {
    id: u64,
    source: Source,
    /// The same socket, to shut it down under the thread that waits in it.
    socket: TcpStream,
}

/// See the module.
#[derive(Default)]
pub(super) struct Openings {
    state: Mutex<(u64, Vec<Opening>)>,
}

impl Openings {
    /// Notes a new connection, and makes room for it.
    pub fn add(&self, socket: &TcpStream, peer: SocketAddr) -> io::Result<u64> {
        let socket = socket.try_clone()?;
        let (last_id, openings) = &mut *self.state.lock();
        if openings.len() >= MAX_OPENINGS {
            // Whether they have said anything is not known here: the older give way.
            let all: Vec<_> = openings.iter().map(|opening| (opening.source, false)).collect();
            let out = openings.remove(who_gives_way(&all));
            // It may have left by itself.
            let _ = out.socket.shutdown(Shutdown::Both);
        }
        *last_id += 1;
        openings.push(Opening { id: *last_id, source: Source::of_address(peer), socket });
        Ok(*last_id)
    }

    /// It is known now who it is, or it has gone. False when it had to give way.
    pub fn remove(&self, id: u64) -> bool {
        let (_, openings) = &mut *self.state.lock();
        let at = openings.iter().position(|opening| opening.id == id);
        at.map(|at| openings.remove(at)).is_some()
    }
}
