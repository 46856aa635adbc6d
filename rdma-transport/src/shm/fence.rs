//! The right of the peer's process to write into this ring.
//!
//! There is no NIC in between that could refuse a write, and a mapping cannot be taken from another process. So
//! the right is a promise, held by Dekker's order: the writer announces that it writes and then looks whether it
//! may; the owner withdraws the right and then looks whether somebody writes. One of them always sees the other.
//!
//! What can go wrong: the peer's process is stopped in the middle of a copy. Then nothing can be guaranteed, and
//! `revoke` says so ([`FenceError::PeerStuck`]) instead of waiting for ever. A process that is gone writes no
//! more.

use super::Shared;
use crate::{Fence, FenceError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long one chunk of a copy may take the peer.
const STOP_LIMIT: Duration = Duration::from_millis(500);
const LOOK_INTERVAL: Duration = Duration::from_micros(50);

pub(super) struct ShmFence(pub(super) Arc<Shared>);

impl Fence for ShmFence {
    fn grant(&self) {
        self.0.my_page.words().granted.store(1, Ordering::SeqCst);
    }

    fn revoke(&self) -> Result<(), FenceError> {
        self.0.revoke()
    }

    fn is_granted(&self) -> bool {
        self.0.my_page.words().granted.load(Ordering::SeqCst) != 0
    }
}

impl Shared {
    fn revoke(&self) -> Result<(), FenceError> {
        let words = self.my_page.words();
        words.granted.store(0, Ordering::SeqCst);
        let begin = Instant::now();
        while words.writing.load(Ordering::SeqCst) != 0 {
            if self.peer_is_gone() {
                return Ok(());
            }
            if begin.elapsed() > STOP_LIMIT {
                return Err(FenceError::PeerStuck { peer_pid: self.peer_pid(), waited: STOP_LIMIT });
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }
}

/// A link that nobody holds any more leaves no right behind.
impl Drop for Shared {
    fn drop(&mut self) {
        if let Err(error) = self.revoke() {
            tracing::error!(%error, "a link was given up while the peer writes into this ring");
        }
    }
}
