//! Waiting for completions: a bounded time of polling, then sleep.
//!
//! Before a sleep the completion queue is armed and looked at once more, so nothing is missed. A sleeper is also
//! woken by its bell (the link was ended here, a key came), by the device's events, and by the peer's end of the
//! control channel, and looks at intervals in any case. How long to poll is learnt ([`Spin`]): with one processor
//! and Soft-RoCE, polling keeps the very thread from running that would bring the completion.

use super::completion::CompletionQueue;
use super::grant::Bell;
use super::shared::Shared;
use crate::LinkError;
use crate::counters::count;
use crate::ending::End;
use crate::socket::{FOREVER, timespec};
use crate::spin::Spin;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// How long a sleep lasts at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// One waiting place.
pub(super) struct Waiter {
    bell: Bell,
    spin: Spin,
}

impl Waiter {
    pub(super) fn new(bell: Bell, spin: Spin) -> Waiter {
        Waiter { bell, spin }
    }

    /// Calls `look`, which polls `queue`, until it finds something; `None` when it did not within `wait`. What has
    /// come before the link ended is still found.
    pub(super) fn wait_for<T>(
        &mut self,
        link: &Shared,
        queue: &CompletionQueue,
        wait: Duration,
        mut look: impl FnMut() -> Result<Option<T>, LinkError>,
    ) -> Result<Option<T>, LinkError> {
        let counters = link.ending.counters();
        let mut now = Instant::now();
        let deadline = now + wait.min(FOREVER);
        let limit = if wait.is_zero() { Duration::ZERO } else { self.spin.begin(now) };
        let spin_until = deadline.min(now + limit);
        loop {
            if let Some(found) = look()? {
                count(&counters.spins, 1);
                self.spin.polled(now);
                return Ok(Some(found));
            }
            now = Instant::now();
            if now >= spin_until {
                break;
            }
            std::hint::spin_loop();
        }
        if !limit.is_zero() {
            count(&counters.vain_polls, 1);
            self.spin.gave_up(now);
        }
        loop {
            link.ending.check()?;
            if Instant::now() >= deadline {
                if !wait.is_zero() {
                    self.spin.nothing();
                }
                return Ok(None);
            }
            queue.arm().map_err(|errno| link.ending.end(End::Os("arming a completion queue", errno)))?;
            if let Some(found) = look()? {
                self.spin.slept(Instant::now());
                return Ok(Some(found));
            }
            link.ending.check()?;
            count(&counters.sleeps, 1);
            let hung_up = self.sleep(link, queue, deadline)?;
            if let Some(found) = look()? {
                self.spin.slept(Instant::now());
                return Ok(Some(found));
            }
            if hung_up {
                return Err(link.ending.end(End::PeerClosed));
            }
        }
    }

    /// Sleeps until something may have happened; whether the peer has left the control channel.
    fn sleep(&self, link: &Shared, queue: &CompletionQueue, deadline: Instant) -> Result<bool, LinkError> {
        let left = deadline.saturating_duration_since(Instant::now()).min(LOOK_INTERVAL);
        let device = &link.domain.device;
        let notification = queue.notification_fd().expect("queues that are slept on have a channel");
        let mut fds = [
            PollFd::from_borrowed_fd(notification, PollFlags::IN),
            PollFd::from_borrowed_fd(self.bell.fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(device.events_fd(), PollFlags::IN),
            PollFd::new(&*link.socket, PollFlags::RDHUP),
        ];
        match rustix::event::poll(&mut fds, Some(&timespec(left))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(link.ending.end(End::Os("waiting for completions", errno))),
        }
        let happened = fds.each_ref().map(|fd| !fd.revents().is_empty());
        if happened[0] {
            queue.take_notifications();
        }
        if happened[1] {
            self.bell.quiet();
        }
        if happened[2] {
            device.take_events();
        }
        Ok(happened[3])
    }
}
