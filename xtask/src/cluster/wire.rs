//! The wire between two nodes, in our hands: it can be cut, or swallow what is sent.
//!
//! A relay for one port. The lower of two names connects, so one relay carries all that a pair says to each other
//! over TCP. It bounds nothing but its buffers: each direction of a connection is one thread and one buffer.
//!
//! What can go wrong: the target is not there yet; the connection is closed, and whoever connects tries again.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What one direction carries at once.
const BUFFER_BYTES: usize = 64 << 10;

/// What the wire does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It forwards.
    Whole,
    /// Connections are closed, new ones refused.
    Cut,
    /// Bytes are taken, kept, and forwarded when the wire is whole again.
    Silent,
}

struct Shared {
    state: Mutex<(State, Vec<TcpStream>)>,
    changed: Condvar,
    target: SocketAddr,
}

/// See the module. Its threads end with the connections, at the latest when it is dropped; the one that listens
/// stays until the program ends.
pub struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Wire {
    /// A wire to `target`.
    pub fn to(target: SocketAddr) -> Result<Wire> {
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen for a relay")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            state: Mutex::new((State::Whole, Vec::new())),
            changed: Condvar::new(),
            target,
        });
        let relay = Arc::clone(&shared);
        std::thread::Builder::new().name("wire".into()).spawn(move || {
            // A connection that cannot be relayed is closed: both ends try again.
            listener.incoming().flatten().for_each(|near| drop(relay.carry(near)));
        })?;
        Ok(Wire { address, shared })
    }

    /// Where to connect to instead of the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what the wire does.
    pub fn set(&self, state: State) {
        let mut locked = self.shared.locked();
        locked.0 = state;
        if state == State::Cut {
            for stream in locked.1.drain(..) {
                let _ended_already = stream.shutdown(Shutdown::Both);
            }
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.set(State::Cut);
    }
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, (State, Vec<TcpStream>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry(self: &Arc<Shared>, near: TcpStream) -> Result<()> {
        if self.locked().0 == State::Cut {
            return Ok(());
        }
        let far = TcpStream::connect(self.target)?;
        let mut ends = Vec::new();
        for stream in [&near, &far] {
            stream.set_nodelay(true)?;
            ends.push(stream.try_clone()?);
        }
        let ways = [(near.try_clone()?, far.try_clone()?), (far, near)];
        let mut locked = self.locked();
        if locked.0 == State::Cut {
            return Ok(());
        }
        locked.1.extend(ends);
        drop(locked);
        for (from, to) in ways {
            let shared = Arc::clone(self);
            std::thread::Builder::new().name("wire".into()).spawn(move || shared.forward(from, to))?;
        }
        Ok(())
    }

    fn forward(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let got = from.read(&mut buffer).unwrap_or(0);
            let mut state = self.locked();
            while state.0 == State::Silent {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let cut = state.0 == State::Cut;
            drop(state);
            if got == 0 || cut || to.write_all(&buffer[..got]).is_err() {
                break;
            }
        }
        for end in [&from, &to] {
            let _ended_already = end.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_wire_forwards_keeps_quiet_and_can_be_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Wire::to(listener.local_addr().unwrap()).unwrap();
        let mut near = TcpStream::connect(wire.address()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let mut byte = [0];
        near.write_all(b"a").unwrap();
        far.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"a");
        wire.set(State::Silent);
        near.write_all(b"b").unwrap();
        far.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(far.read_exact(&mut byte).is_err(), "nothing arrives");
        wire.set(State::Whole);
        far.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"b", "and nothing is lost");
        wire.set(State::Cut);
        far.set_read_timeout(None).unwrap();
        assert!(matches!(far.read(&mut byte), Ok(0) | Err(_)));
        let mut again = TcpStream::connect(wire.address()).unwrap();
        assert!(matches!(again.read(&mut byte), Ok(0) | Err(_)), "refused");
    }
}
