//! The fence of a transport whose receiving side writes the ring itself (tcp): nothing lands but inside
//! [`Gate::enter`], and `revoke` lets nobody in and waits for who is inside.
//!
//! What can go wrong: the receiver stands inside, waiting for the rest of a transfer that a stopped peer does
//! not send. So `revoke` ends the link first, which wakes the receiver, and then waits.

use crate::ending::{End, Ending};
use crate::{Fence, FenceError};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an interrupted transfer may take to stop. It only has to be woken.
const STOP_LIMIT: Duration = Duration::from_secs(2);

#[derive(Default)]
struct State {
    granted: bool,
    transferring: bool,
}

/// The peer's right to write, of one link.
pub(crate) struct Gate {
    state: Mutex<State>,
    left: Condvar,
    ending: Arc<Ending>,
}

impl Gate {
    pub(crate) fn new(ending: Arc<Ending>) -> Gate {
        Gate { state: Mutex::default(), left: Condvar::new(), ending }
    }

    /// Lets one transfer into the ring; `None` without the right to. The ring may be written until the guard
    /// is dropped.
    pub(crate) fn enter(&self) -> Option<Transfer<'_>> {
        let mut state = self.state.lock();
        assert!(!state.transferring, "one receiver per link");
        state.granted.then(|| {
            state.transferring = true;
            Transfer { gate: self }
        })
    }
}

impl Fence for Gate {
    fn grant(&self) {
        self.state.lock().granted = true;
    }

    fn revoke(&self) -> Result<(), FenceError> {
        let mut state = self.state.lock();
        state.granted = false;
        if state.transferring {
            self.ending.end(End::Revoked);
        }
        let limit = Instant::now() + STOP_LIMIT;
        while state.transferring {
            if self.left.wait_until(&mut state, limit).timed_out() && state.transferring {
                return Err(FenceError::TransferStuck { waited: STOP_LIMIT });
            }
        }
        Ok(())
    }

    fn is_granted(&self) -> bool {
        self.state.lock().granted
    }
}

/// A transfer that may write the ring.
pub(crate) struct Transfer<'a> {
    gate: &'a Gate,
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        self.gate.state.lock().transferring = false;
        self.gate.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Counters;

    fn gate() -> Gate {
        Gate::new(Arc::new(Ending::new(Vec::new(), Arc::new(Counters::default()))))
    }

    #[test]
    fn starts_revoked_and_can_be_granted_again() {
        let gate = gate();
        assert!(gate.enter().is_none());
        gate.grant();
        assert!(gate.enter().is_some());
        gate.revoke().unwrap();
        assert!(gate.enter().is_none() && !gate.is_granted());
        assert!(gate.ending.reason().is_none(), "an idle link stays usable");
        gate.grant();
        assert!(gate.enter().is_some());
    }

    #[test]
    fn revoke_waits_for_who_is_inside_and_ends_the_link() {
        let gate = gate();
        gate.grant();
        let transfer = gate.enter().unwrap();
        std::thread::scope(|scope| {
            let revoking = scope.spawn(|| gate.revoke());
            while gate.ending.reason().is_none() {
                std::thread::yield_now();
            }
            assert!(!revoking.is_finished());
            drop(transfer);
            revoking.join().unwrap().unwrap();
        });
        assert!(matches!(gate.ending.reason(), Some(End::Revoked)));
    }
}
