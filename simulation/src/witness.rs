//! The witness: the real rule of the register, reached over a network that loses questions and answers.
//!
//! Invariant: a question that may have arrived is never said not to have. A question may be carried out long after
//! its asker gave up, or died.

use filer::witness::{Ask, Asker};
use ids::VolumeId;
use pair::WitnessOutcome;
use pair::witness::{Answer, Register, Request, swap};
use scheduler::{Condvar, Instant, Mutex};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// How long a node waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// So many of a thousand questions are answered in vain.
const LOST_PERMILLE: u64 = 20;

struct State {
    registers: BTreeMap<VolumeId, Register>,
    reachable: [bool; 2],
    latency: Range<Duration>,
}

/// See the module. Clones are the same witness.
#[derive(Clone)]
pub struct Witness(Arc<Mutex<State>>);

/// An answer on its way back.
type Reply = Arc<(Mutex<Option<Answer>>, Condvar)>;

impl Default for Witness {
    fn default() -> Witness {
        Witness::new()
    }
}

impl Witness {
    /// It knows nothing yet, and everybody reaches it.
    pub fn new() -> Witness {
        let latency = Duration::from_micros(100)..Duration::from_millis(3);
        Witness(Arc::new(Mutex::new(State { registers: BTreeMap::new(), reachable: [true; 2], latency })))
    }

    /// Asks for the process on `host`.
    pub fn asker(&self, host: usize) -> Asker {
        Asker::given(Box::new(From { witness: self.clone(), host }), TIMEOUT)
    }

    /// Whether `host` reaches it.
    pub fn set_reachable(&self, host: usize, reachable: bool) {
        self.0.lock().reachable[host] = reachable;
    }

    /// From now on a question, and an answer, take so long.
    pub fn set_latency(&self, latency: Range<Duration>) {
        self.0.lock().latency = latency;
    }

    /// The only volume's register.
    pub fn register(&self) -> Option<Register> {
        self.0.lock().registers.values().next().cloned()
    }

    fn answer(&self, request: &Request) -> Answer {
        let mut state = self.0.lock();
        let (expected, new) = match request {
            Request::Read { volume } => return Answer::Is { register: state.registers.get(volume).cloned() },
            Request::CompareAndSwap { expected, new } => (expected, new),
        };
        match swap(state.registers.get(&new.volume), expected.as_ref(), new) {
            Ok(register) => {
                scheduler::trace(|| format!("witness: {register:?}"));
                state.registers.insert(register.volume, register.clone());
                Answer::Swapped { register }
            }
            Err(answer) => answer,
        }
    }

    fn latency(&self) -> Duration {
        let Range { start, end } = self.0.lock().latency.clone();
        start + Duration::from_nanos(scheduler::random((end - start).as_nanos() as u64))
    }
}

/// One host's way to it.
struct From {
    witness: Witness,
    host: usize,
}

impl From {
    fn is_cut(&self) -> bool {
        !self.witness.0.lock().reachable[self.host]
    }
}

impl Ask for From {
    fn ask(&mut self, request: &Request, timeout: Duration) -> WitnessOutcome {
        let until = Instant::now() + timeout;
        if self.is_cut() {
            // Refused at once, or silence.
            if scheduler::chance(500) {
                scheduler::sleep(timeout);
            }
            return WitnessOutcome::Unreachable { maybe_applied: false };
        }
        let lost = scheduler::chance(LOST_PERMILLE);
        // A question that is answered in vain may also be late.
        let there = if lost {
            timeout.mul_f64(scheduler::random(300) as f64 / 100.0)
        } else {
            self.witness.latency()
        };
        let back = self.witness.latency();
        let reply: Reply = Arc::default();
        let (witness, request, replying, host) =
            (self.witness.clone(), request.clone(), reply.clone(), self.host);
        scheduler::at(there, move || {
            let answer = witness.answer(&request);
            if lost {
                return;
            }
            scheduler::at(back, move || {
                if witness.0.lock().reachable[host] {
                    *replying.0.lock() = Some(answer);
                    replying.1.notify_all();
                }
            });
        });
        let mut answer = reply.0.lock();
        loop {
            match answer.take() {
                Some(Answer::Is { register }) => return WitnessOutcome::Is(register),
                Some(Answer::Swapped { register }) => return WitnessOutcome::Swapped(register),
                Some(Answer::Conflict { register }) => return WitnessOutcome::Conflict(register),
                Some(Answer::Refused { .. }) => return WitnessOutcome::Unreachable { maybe_applied: false },
                None => {}
            }
            if reply.1.wait_until(&mut answer, until).timed_out() && answer.is_none() {
                return WitnessOutcome::Unreachable { maybe_applied: true };
            }
        }
    }
}
