//! The witness: the real rule of the register, reached over a network that loses questions and answers.
//!
//! It is the built-in one, which carries a question out at once, or of etcd's kind: there a node first reads the key, and
//! writes it some time later if nobody has modified it since.
//!
//! It forgets: what it kept some changes ago is brought back, or nothing is. With a backup of etcd its revisions begin
//! anew from there, too, and are given a second time.
//!
//! Invariant: a question that may have arrived is never said not to have. A question may be carried out long after
//! its asker gave up, or died.

use ::witness::{Reply, WitnessClient};
use ids::VolumeId;
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

/// Which kind of witness it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keeper {
    /// `twinfiler witness`.
    BuiltIn,
    /// A cluster of etcd.
    Etcd,
}

/// What is kept at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Kept {
    registers: BTreeMap<VolumeId, Register>,
    /// Raised by each change.
    revision: u64,
}

struct State {
    keeper: Keeper,
    kept: Kept,
    /// What was kept after each change, oldest first.
    backups: Vec<Kept>,
    reachable: [bool; 2],
    latency: Range<Duration>,
    /// No question is answered in vain.
    reliable: bool,
}

impl State {
    fn register(&self, volume: VolumeId) -> Option<&Register> {
        self.kept.registers.get(&volume)
    }

    fn put(&mut self, register: Register) {
        scheduler::trace(|| format!("witness: {register:?}"));
        self.kept.registers.insert(register.volume, register);
        self.kept.revision += 1;
        self.backups.push(self.kept.clone());
    }
}

/// See the module. Clones are the same witness.
#[derive(Clone)]
pub struct Witness(Arc<Mutex<State>>);

/// What etcd is to write, and what was read before.
struct Second {
    register: Register,
    read: Kept,
}

/// An answer on its way back.
type OnItsWay = Arc<(Mutex<Option<Answer>>, Condvar)>;

impl Witness {
    /// It knows nothing yet, and everybody reaches it.
    pub fn new(keeper: Keeper) -> Witness {
        let latency = Duration::from_micros(100)..Duration::from_millis(3);
        let (kept, backups) = (Kept::default(), Vec::new());
        let state = State { keeper, kept, backups, reachable: [true; 2], latency, reliable: false };
        Witness(Arc::new(Mutex::new(state)))
    }

    /// Asks for the process on `host`.
    pub fn client(&self, host: usize) -> Box<dyn WitnessClient> {
        Box::new(From { witness: self.clone(), host })
    }

    /// Whether `host` reaches it.
    pub fn set_reachable(&self, host: usize, reachable: bool) {
        self.0.lock().reachable[host] = reachable;
    }

    /// From now on a question, and an answer, take so long.
    pub fn set_latency(&self, latency: Range<Duration>) {
        self.0.lock().latency = latency;
    }

    /// Whether `host` reaches it.
    pub fn is_reachable(&self, host: usize) -> bool {
        self.0.lock().reachable[host]
    }

    /// From now on no question is answered in vain, or some are again.
    pub fn set_reliable(&self, reliable: bool) {
        self.0.lock().reliable = reliable;
    }

    /// The only volume's register.
    pub fn register(&self) -> Option<Register> {
        self.0.lock().kept.registers.values().next().cloned()
    }

    /// The only volume's register as it was so many changes ago, if there were so many.
    pub fn backup(&self, back: usize) -> Option<Register> {
        let state = self.0.lock();
        let kept = state.backups.iter().rev().nth(back)?;
        kept.registers.values().next().cloned()
    }

    /// It is as it was so many changes ago.
    pub fn restore(&self, back: usize) {
        let mut state = self.0.lock();
        if let Some(kept) = state.backups.iter().rev().nth(back).cloned() {
            state.kept = kept;
        }
    }

    /// It knows nothing any more.
    pub fn empty(&self) {
        self.0.lock().kept = Kept::default();
    }

    /// Carries a question out, or its first part: etcd's second part is left then.
    fn answer(&self, request: &Request) -> Result<Answer, Second> {
        let mut state = self.0.lock();
        let (expected, new) = match request {
            Request::Read { volume } => {
                return Ok(Answer::Is { register: state.register(*volume).cloned() });
            }
            Request::CompareAndSwap { expected, new } => (expected, new),
        };
        match (swap(state.register(new.volume), expected.as_ref(), new), state.keeper) {
            (Ok(register), Keeper::BuiltIn) => {
                state.put(register.clone());
                Ok(Answer::Swapped { register })
            }
            (Ok(register), Keeper::Etcd) => Err(Second { register, read: state.kept.clone() }),
            (Err(answer), _) => Ok(answer),
        }
    }

    /// Writes, if the key was neither modified since it was read nor has another value.
    fn second(&self, second: Second) -> Answer {
        let mut state = self.0.lock();
        if state.kept != second.read {
            return Answer::Conflict { register: state.register(second.register.volume).cloned() };
        }
        state.put(second.register.clone());
        Answer::Swapped { register: second.register }
    }

    /// Carries a question out, from its arrival on; `done` takes the answer.
    fn carry_out(&self, request: &Request, done: impl FnOnce(Answer) + Send + 'static) {
        match self.answer(request) {
            Ok(answer) => done(answer),
            Err(second) => {
                let witness = self.clone();
                scheduler::at(self.latency(), move || done(witness.second(second)));
            }
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

impl WitnessClient for From {
    fn ask(&mut self, request: &Request) -> Reply {
        let until = Instant::now() + TIMEOUT;
        if self.is_cut() {
            // Refused at once, or silence.
            if scheduler::chance(500) {
                scheduler::sleep(TIMEOUT);
            }
            return Reply::none(false, "cut off".to_owned());
        }
        let lost = scheduler::chance(LOST_PERMILLE) && !self.witness.0.lock().reliable;
        // A question that is answered in vain may also be late.
        let there = if lost {
            TIMEOUT.mul_f64(scheduler::random(300) as f64 / 100.0)
        } else {
            self.witness.latency()
        };
        let back = self.witness.latency();
        let reply: OnItsWay = Arc::default();
        let (witness, request, replying, host) =
            (self.witness.clone(), request.clone(), reply.clone(), self.host);
        scheduler::at(there, move || {
            let asked = witness.clone();
            asked.carry_out(&request, move |answer| {
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
        });
        let mut answer = reply.0.lock();
        loop {
            if let Some(answer) = answer.take() {
                return Reply::to(answer);
            }
            if reply.1.wait_until(&mut answer, until).timed_out() && answer.is_none() {
                return Reply::none(true, "no answer in time".to_owned());
            }
        }
    }
}
