//! Giving the peer the right to write into this node's ring, and taking it away.
//!
//! See [`window`](super::window) for what the right is. Invariants: the key leaves this node only after the adapter
//! honours it, and over the control channel alone; after `revoke` returned `Ok` the adapter refuses the key. What
//! can go wrong: granting fails (the link ends); the kernel does not take a right back: then the queue pair is
//! stopped, which ends the link, and only if that fails too nothing is guaranteed.

use super::answers::Answers;
use super::grant::frame;
use super::shared::Shared;
use super::window::Right;
use crate::ending::End;
use crate::{Fence, FenceError};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long the adapter may take to bind a window.
const BIND_LIMIT: Duration = Duration::from_secs(1);

pub(super) struct VerbsFence {
    link: Arc<Shared>,
    answers: Arc<Mutex<Answers>>,
    right: Mutex<Option<Right>>,
}

impl VerbsFence {
    pub(super) fn new(link: Arc<Shared>, answers: Arc<Mutex<Answers>>) -> VerbsFence {
        VerbsFence { link, answers, right: Mutex::new(None) }
    }

    /// Makes a right that the adapter honours. An error has ended the link.
    fn make(&self) -> Result<Right, crate::LinkError> {
        let link = &*self.link;
        link.ending.check()?;
        let right = link.domain.right(&link.incoming).map_err(|error| {
            link.ending.end(End::Rdma(format!("the right to write could not be made: {error}")))
        })?;
        if let Some(work) = right.bind(link.domain.peer_reads()) {
            let deadline = Instant::now() + BIND_LIMIT;
            if !self.answers.lock().carry_out(link, work, deadline)? {
                return Err(link.ending.end(End::PeerDead(BIND_LIMIT)));
            }
        }
        Ok(right)
    }
}

impl Fence for VerbsFence {
    fn grant(&self) {
        let mut right = self.right.lock();
        if right.is_some() {
            return;
        }
        // On an error the link has ended, and every part of it says why.
        let Ok(made) = self.make() else { return };
        let key = made.key();
        *right = Some(made);
        self.link.granted.store(true, Ordering::SeqCst);
        if let Err(error) = self.link.control.send_private(&frame(key)) {
            tracing::info!(%error, "the peer could not be told that it may write");
        }
    }

    fn revoke(&self) -> Result<(), FenceError> {
        let mut right = self.right.lock();
        self.link.granted.store(false, Ordering::SeqCst);
        let Some(given) = right.as_mut() else { return Ok(()) };
        match given.withdraw().and_then(|()| self.link.domain.device.settle()) {
            Ok(()) => {
                *right = None;
                self.link.domain.keep_refusing(&self.link.incoming);
                Ok(())
            }
            Err(errno) => {
                tracing::warn!(%errno, "the peer's right to write was not taken back cleanly; its queue pair is stopped");
                self.link.ending.end(End::Revoked);
                self.link.incoming.stop().map_err(|errno| FenceError::Device { source: errno.into() })
            }
        }
    }

    fn is_granted(&self) -> bool {
        self.link.granted.load(Ordering::SeqCst)
    }
}
