//! The wrapped parts of a link.
//!
//! Nothing runs in the background: what was held back is delivered by the next call on the part that held it, and
//! waiting calls look every [`LOOK_INTERVAL`] whether they may.

use super::{Direction, Faults, MAX_HELD};
use crate::socket::deadline_after;
use crate::{Arrival, Closer, Control, Link, LinkError, MirrorReceiver, MirrorSender};
use ids::LogPoint;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Puts `faults` around `link`.
pub fn wrap(link: Link, faults: Faults) -> Link {
    let weather = || Weather { faults: faults.clone(), closer: link.closer.clone() };
    let control = FaultyControl { weather: weather(), held: Mutex::default(), inner: link.control };
    let sender = FaultySender { weather: weather(), held: VecDeque::new(), inner: link.sender };
    let receiver = FaultyReceiver { weather: weather(), held: None, inner: link.receiver };
    Link { control: Box::new(control), sender: Box::new(sender), receiver: Box::new(receiver), ..link }
}

struct Weather {
    faults: Faults,
    closer: Closer,
}

impl Weather {
    /// Something is about to be sent: waits the delay out. True when it must be held back.
    fn send(&self, is_acknowledgement: bool) -> Sending {
        let verdict = self.faults.operation(Direction::ToPeer, is_acknowledgement);
        self.suffer(verdict.delay, verdict.close);
        match (verdict.drop_acknowledgement, verdict.cut) {
            (true, _) => Sending::Lose,
            (false, true) => Sending::Hold,
            (false, false) => Sending::Pass,
        }
    }

    /// Something has come.
    fn received(&self) {
        let verdict = self.faults.operation(Direction::FromPeer, false);
        self.suffer(verdict.delay, verdict.close);
    }

    fn suffer(&self, delay: Duration, close: bool) {
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        if close {
            self.closer.close();
        }
    }

    /// Waits for something from the peer: asks `inner` in small steps, and not at all while cut off.
    fn wait<T>(
        &self,
        wait: Duration,
        mut inner: impl FnMut(Duration) -> Result<Option<T>, LinkError>,
    ) -> Result<Option<T>, LinkError> {
        let deadline = deadline_after(wait);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let step = left.min(LOOK_INTERVAL);
            if self.faults.is_cut(Direction::FromPeer) {
                if self.closer.is_closed() {
                    return Err(LinkError::Closed);
                }
                std::thread::sleep(step);
            } else if let Some(news) = inner(step)? {
                self.received();
                return Ok(Some(news));
            }
            if left.is_zero() {
                return Ok(None);
            }
        }
    }
}

enum Sending {
    Pass,
    Hold,
    Lose,
}

struct FaultyControl {
    weather: Weather,
    held: Mutex<VecDeque<Vec<u8>>>,
    inner: Box<dyn Control>,
}

impl FaultyControl {
    fn deliver(&self) -> Result<(), LinkError> {
        let mut held = self.held.lock();
        while !self.weather.faults.is_cut(Direction::ToPeer) {
            let Some(message) = held.pop_front() else { break };
            self.inner.send(&message)?;
        }
        Ok(())
    }
}

impl Control for FaultyControl {
    fn send(&self, message: &[u8]) -> Result<(), LinkError> {
        let sending = self.weather.send(false);
        let mut held = self.held.lock();
        if held.len() >= MAX_HELD {
            self.weather.closer.close();
            return Err(LinkError::Closed);
        }
        if message.len() > crate::MAX_CONTROL_BYTES || matches!(sending, Sending::Pass) && held.is_empty() {
            return self.inner.send(message);
        }
        held.push_back(message.to_vec());
        drop(held);
        self.deliver()
    }

    fn recv(&self, wait: Duration) -> Result<Option<Vec<u8>>, LinkError> {
        self.weather.wait(wait, |step| {
            self.deliver()?;
            self.inner.recv(step)
        })
    }

    fn close(&self) {
        self.inner.close();
    }
}

struct FaultySender {
    weather: Weather,
    held: VecDeque<LogPoint>,
    inner: Box<dyn MirrorSender>,
}

impl FaultySender {
    fn deliver(&mut self) -> Result<(), LinkError> {
        while !self.weather.faults.is_cut(Direction::ToPeer) {
            let Some(to) = self.held.pop_front() else { break };
            self.inner.write(to)?;
        }
        Ok(())
    }
}

impl MirrorSender for FaultySender {
    fn start(&mut self, from: LogPoint) -> Result<(), LinkError> {
        match self.in_flight() {
            0 => self.inner.start(from),
            in_flight => Err(LinkError::InFlight(in_flight)),
        }
    }

    fn write(&mut self, to: LogPoint) -> Result<(), LinkError> {
        let sending = self.weather.send(false);
        if matches!(sending, Sending::Pass) {
            self.deliver()?;
            return self.inner.write(to);
        }
        if self.in_flight() >= crate::MAX_IN_FLIGHT {
            return Err(LinkError::InFlight(self.in_flight()));
        }
        self.held.push_back(to);
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.held.len()
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<LogPoint>, LinkError> {
        let FaultySender { weather, held, inner, .. } = self;
        weather.wait(wait, |step| {
            while !weather.faults.is_cut(Direction::ToPeer) {
                let Some(to) = held.pop_front() else { break };
                inner.write(to)?;
            }
            inner.poll(step)
        })
    }
}

struct FaultyReceiver {
    weather: Weather,
    held: Option<LogPoint>,
    inner: Box<dyn MirrorReceiver>,
}

impl MirrorReceiver for FaultyReceiver {
    fn start(&mut self, at: LogPoint) -> Result<(), LinkError> {
        self.held = None;
        self.inner.start(at)
    }

    fn next(&mut self, wait: Duration) -> Result<Option<Arrival>, LinkError> {
        let FaultyReceiver { weather, held, inner } = self;
        weather.wait(wait, |step| {
            if !weather.faults.is_cut(Direction::ToPeer)
                && let Some(durable) = held.take()
            {
                inner.acknowledge(durable)?;
            }
            inner.next(step)
        })
    }

    fn acknowledge(&mut self, durable: LogPoint) -> Result<(), LinkError> {
        match self.weather.send(true) {
            Sending::Lose => Ok(()),
            // Acknowledgements are cumulative: only the newest need be kept.
            Sending::Hold => {
                self.held = Some(durable);
                Ok(())
            }
            Sending::Pass => {
                self.held = None;
                self.inner.acknowledge(durable)
            }
        }
    }
}
