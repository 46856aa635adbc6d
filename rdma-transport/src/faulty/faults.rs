//! What is wrong with a link right now, and what will be.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Seen from the node whose link is wrapped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// What this node sends.
    ToPeer,
    /// What the peer sends.
    FromPeer,
}

/// One change of the weather.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing passes in this direction until healed.
    Cut(Direction),
    /// Nothing passes at all until healed.
    CutBoth,
    /// Ends cuts, and the loss of acknowledgements; what was held back is delivered.
    Heal,
    /// Every operation that moves something takes this much longer. Zero ends it.
    Delay(Duration),
    /// This node's acknowledgements are lost until healed.
    DropAcknowledgements,
    /// The link ends.
    Close,
}

/// A fault at a moment that is counted, not timed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// After so many operations on the wrapped link (messages, writes, acknowledgements sent and received).
    pub after_operations: u64,
    /// What happens.
    pub fault: Fault,
}

#[derive(Default)]
struct State {
    cut_to_peer: bool,
    cut_from_peer: bool,
    drop_acknowledgements: bool,
    delay: Duration,
    operations: u64,
    script: VecDeque<Step>,
    /// Seed and the longest delay that it draws.
    jitter: Option<(u64, Duration)>,
    dropped_acknowledgements: u64,
}

/// The faults of one wrapped link, shared with whoever steers them.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<State>>);

/// What the wrapper must do about one operation.
pub(super) struct Verdict {
    pub cut: bool,
    pub close: bool,
    pub drop_acknowledgement: bool,
    pub delay: Duration,
}

impl Faults {
    /// A link without faults, for now.
    pub fn none() -> Faults {
        Faults::default()
    }

    /// Faults that happen by themselves, in this order.
    pub fn scripted(steps: impl IntoIterator<Item = Step>) -> Faults {
        let faults = Faults::default();
        faults.0.lock().script.extend(steps);
        faults
    }

    /// Each operation is delayed by a time below `most`, drawn from `seed`.
    pub fn jitter(seed: u64, most: Duration) -> Faults {
        let faults = Faults::default();
        faults.0.lock().jitter = Some((seed, most));
        faults
    }

    /// Makes `fault` happen now. [`Fault::Close`] takes effect with the link's next operation.
    pub fn set(&self, fault: Fault) {
        let mut state = self.0.lock();
        if fault == Fault::Close {
            let after_operations = state.operations;
            state.script.push_front(Step { after_operations, fault });
        } else {
            state.set(&fault);
        }
    }

    /// Whether nothing passes in this direction.
    pub fn is_cut(&self, direction: Direction) -> bool {
        let state = self.0.lock();
        match direction {
            Direction::ToPeer => state.cut_to_peer,
            Direction::FromPeer => state.cut_from_peer,
        }
    }

    /// Operations so far: what scripts count.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// Acknowledgements that were lost.
    pub fn dropped_acknowledgements(&self) -> u64 {
        self.0.lock().dropped_acknowledgements
    }

    /// Counts one operation and says what becomes of it.
    pub(super) fn operation(&self, direction: Direction, is_acknowledgement: bool) -> Verdict {
        let mut state = self.0.lock();
        let now = state.operations;
        state.operations += 1;
        let mut close = false;
        while state.script.front().is_some_and(|step| step.after_operations <= now) {
            let Some(step) = state.script.pop_front() else { break };
            close |= step.fault == Fault::Close;
            state.set(&step.fault);
        }
        let drop_acknowledgement = is_acknowledgement && state.drop_acknowledgements;
        state.dropped_acknowledgements += u64::from(drop_acknowledgement);
        let delay = state.delay + state.draw();
        let cut = match direction {
            Direction::ToPeer => state.cut_to_peer,
            Direction::FromPeer => state.cut_from_peer,
        };
        Verdict { cut, close, drop_acknowledgement, delay }
    }
}

impl State {
    fn set(&mut self, fault: &Fault) {
        match fault {
            Fault::Cut(Direction::ToPeer) => self.cut_to_peer = true,
            Fault::Cut(Direction::FromPeer) => self.cut_from_peer = true,
            Fault::CutBoth => (self.cut_to_peer, self.cut_from_peer) = (true, true),
            Fault::Heal => {
                (self.cut_to_peer, self.cut_from_peer, self.drop_acknowledgements) = (false, false, false)
            }
            Fault::Delay(delay) => self.delay = *delay,
            Fault::DropAcknowledgements => self.drop_acknowledgements = true,
            Fault::Close => {}
        }
    }

    /// The next delay of the seed (SplitMix64, Steele et al. 2014).
    fn draw(&mut self) -> Duration {
        let Some((seed, most)) = &mut self.jitter else { return Duration::ZERO };
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let most_ns = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos((z ^ (z >> 31)) % most_ns.max(1))
    }
}
