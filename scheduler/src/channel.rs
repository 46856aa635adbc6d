//! Channels: crossbeam's, at which a task waits for its turn.

use crate::core::{self, Key};
use crate::threads;
use crossbeam::channel as real;
pub use crossbeam::channel::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Both ends wait here.
#[derive(Clone, Debug)]
struct Meeting(Arc<u8>);

impl Meeting {
    fn key(&self) -> Key {
        Arc::as_ptr(&self.0) as Key
    }
}

/// The sending end.
pub struct Sender<T> {
    /// Gone only while it is being dropped.
    inner: Option<real::Sender<T>>,
    meeting: Meeting,
}

/// The receiving end.
pub struct Receiver<T> {
    /// Gone only while it is being dropped.
    inner: Option<real::Receiver<T>>,
    meeting: Meeting,
}

const THERE: &str = "there until it is dropped";

/// A channel that takes everything.
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    joined(real::unbounded())
}

/// A channel that holds so many.
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    joined(real::bounded(capacity))
}

fn joined<T>((sender, receiver): (real::Sender<T>, real::Receiver<T>)) -> (Sender<T>, Receiver<T>) {
    let meeting = Meeting(Arc::new(0));
    (Sender { inner: Some(sender), meeting: meeting.clone() }, Receiver { inner: Some(receiver), meeting })
}

impl<T> Sender<T> {
    /// Sends; waits while the channel is full.
    ///
    /// # Errors
    /// Nobody receives any more.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        let inner = self.inner.as_ref().expect(THERE);
        if !core::is_simulated() {
            let sent = inner.send(value);
            core::wake(self.meeting.key());
            return sent;
        }
        let mut value = value;
        loop {
            match inner.try_send(value) {
                Ok(()) => {
                    core::wake(self.meeting.key());
                    return Ok(());
                }
                Err(TrySendError::Disconnected(back)) => return Err(SendError(back)),
                Err(TrySendError::Full(back)) if core::is_dying() => return Err(SendError(back)),
                Err(TrySendError::Full(back)) => value = back,
            }
            core::block(Some(self.meeting.key()), None);
        }
    }

    /// Sends, if there is room.
    ///
    /// # Errors
    /// There is none, or nobody receives any more.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        let sent = self.inner.as_ref().expect(THERE).try_send(value);
        core::wake(self.meeting.key());
        sent
    }
}

impl<T> Receiver<T> {
    /// The next; waits for it.
    ///
    /// # Errors
    /// Nobody sends any more.
    pub fn recv(&self) -> Result<T, RecvError> {
        if !core::is_simulated() {
            let received = self.inner.as_ref().expect(THERE).recv();
            core::wake(self.meeting.key());
            return received;
        }
        self.wait(None).map_err(|_| RecvError)
    }

    /// The next; waits for it no longer than `wait`.
    ///
    /// # Errors
    /// None came, or nobody sends any more.
    pub fn recv_timeout(&self, wait: Duration) -> Result<T, RecvTimeoutError> {
        if !core::is_simulated() {
            let received = self.inner.as_ref().expect(THERE).recv_timeout(wait);
            core::wake(self.meeting.key());
            return received;
        }
        self.wait(Some(threads::deadline_ns(wait)))
    }

    /// The next, if it is there.
    ///
    /// # Errors
    /// It is not, or nobody sends any more.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        let received = self.inner.as_ref().expect(THERE).try_recv();
        core::wake(self.meeting.key());
        received
    }

    fn wait(&self, until_ns: Option<u64>) -> Result<T, RecvTimeoutError> {
        loop {
            match self.inner.as_ref().expect(THERE).try_recv() {
                Ok(value) => {
                    core::wake(self.meeting.key());
                    return Ok(value);
                }
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) if core::is_dying() => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => {}
            }
            let late = until_ns.is_some_and(|until_ns| core::with(|state| state.now_ns >= until_ns));
            if late {
                return Err(RecvTimeoutError::Timeout);
            }
            core::block(Some(self.meeting.key()), until_ns);
        }
    }

    /// Everything that comes, until nobody sends any more.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.recv().ok())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender { inner: self.inner.clone(), meeting: self.meeting.clone() }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        Receiver { inner: self.inner.clone(), meeting: self.meeting.clone() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.inner = None;
        core::wake(self.meeting.key());
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.inner = None;
        core::wake(self.meeting.key());
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receiver")
    }
}
