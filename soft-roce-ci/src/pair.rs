//! A pair of nodes in the two guests of a lab, with its witness on the host, and the loads that were put on it.
//!
//! Every wait has a bound, and the error of one that was too long shows both nodes' status and the ends of their
//! logs. All statuses that arrive, also between waits, are held against "one primary in an epoch".
//!
//! - [`plan`]: configuration files and command lines
//! - [`node`]: one node in its guest
//! - [`witness`]: the third party, a process of the host
//! - [`client`]: a run of the load
//! - [`watch`], [`view`], [`primaries`], [`clock`]: the nodes' status as it comes, and what it must never show
//! - [`tree`], [`log`]: local trees and logs, compared
//! - [`settle`]: everything held against the other node and against the oracle

pub mod client;
pub mod clock;
pub mod followed;
pub mod keys;
pub mod log;
pub mod node;
pub mod plan;
pub mod primaries;
pub mod settle;
pub mod tree;
pub mod view;
pub mod watch;
pub mod witness;

use crate::lab::{Guest, Lab, Side};
use crate::scenario::Context as Run;
use anyhow::{Context, Result, anyhow, bail};
use client::Load;
use node::Node;
use plan::{CONFIG, Plan};
use primaries::Primaries;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use view::View;
use witness::Witness;

/// The longest time for any state of the pair that needs no boot. Emulated machines are slow, so this is many times
/// what it takes.
pub const LIMIT: Duration = Duration::from_secs(60);

/// How often states are looked at.
const POLL: Duration = Duration::from_millis(20);

/// See the module.
pub struct Pair<'lab> {
    lab: &'lab Lab,
    plan: Plan,
    harness: String,
    /// The third party.
    pub witness: Witness,
    nodes: [Node; 2],
    primaries: Arc<Mutex<Primaries>>,
    loads: Vec<Arc<Load>>,
}

impl<'lab> Pair<'lab> {
    /// Makes logs and local trees, and starts the witness and both nodes.
    pub fn start(run: &Run, lab: &'lab Lab, plan: Plan) -> Result<Pair<'lab>> {
        let mut pair = Pair::make(run, lab, plan)?;
        for side in Side::BOTH {
            pair.start_node(side)?;
        }
        Ok(pair)
    }

    /// As [`Pair::start`], without starting the nodes.
    pub fn make(run: &Run, lab: &'lab Lab, plan: Plan) -> Result<Pair<'lab>> {
        let harness = lab.harness().to_str().context("the path of this program is not UTF-8")?.to_owned();
        let program = run.program()?;
        let witness = Witness::start(program, &run.logs().join("witness"))?;
        let nodes = Side::BOTH.map(|side| Node::new(side, program, run.logs()));
        let pair = Pair { lab, plan, harness, witness, nodes, primaries: Arc::default(), loads: Vec::new() };
        pair.on_both(|side| pair.node(side).make(lab.guest(side), &pair.plan, pair.witness.doors()))?;
        Ok(pair)
    }

    /// Does something for both nodes at once.
    fn on_both<T: Send>(&self, act: impl Fn(Side) -> Result<T> + Sync) -> Result<[T; 2]> {
        std::thread::scope(|scope| {
            let other = scope.spawn(|| act(Side::B));
            let first = act(Side::A);
            let second = other.join().map_err(|_| anyhow!("a thread panicked"))?;
            Ok([first.context("node a")?, second.context("node b")?])
        })
    }

    /// A guest.
    pub fn guest(&self, side: Side) -> &'lab Guest {
        self.lab.guest(side)
    }

    /// A node.
    pub fn node(&self, side: Side) -> &Node {
        &self.nodes[side.index()]
    }

    /// Starts a node (again).
    pub fn start_node(&mut self, side: Side) -> Result<()> {
        let guest = self.lab.guest(side);
        self.nodes[side.index()].start(guest, &self.harness, &self.primaries)
    }

    /// Gives the nodes, which must not run, other configurations.
    pub fn configure(&mut self, plan: Plan) -> Result<()> {
        self.plan = plan;
        for side in Side::BOTH {
            let text = self.plan.configuration(side, self.witness.doors());
            self.lab.guest(side).write_file(CONFIG, text.as_bytes())?;
        }
        Ok(())
    }

    /// Tries to start a node with another configuration: it must end by itself with an error that has these words in
    /// it.
    pub fn expect_refusal(&self, side: Side, plan: Plan, words: &[&str]) -> Result<()> {
        let text = plan.configuration(side, self.witness.doors());
        self.lab.guest(side).write_file(CONFIG, text.as_bytes())?;
        self.node(side).expect_refusal(self.lab.guest(side), words)
    }

    /// Ends both nodes cleanly, first the one that mirrors.
    pub fn stop_nodes(&mut self, primary: Side) -> Result<()> {
        for side in [primary.other(), primary] {
            self.nodes[side.index()].stop()?;
        }
        Ok(())
    }

    /// A power cut of a guest.
    pub fn power_cut(&mut self, side: Side) -> Result<()> {
        self.lab.guest(side).power_cut()?;
        self.nodes[side.index()].forget();
        Ok(())
    }

    /// Boots a guest again after a power cut, and starts its node.
    pub fn boot(&mut self, side: Side) -> Result<()> {
        self.lab.guest(side).boot()?;
        self.mount_and_start(side)
    }

    /// Boots both guests again after a power cut of both, and starts their nodes.
    pub fn boot_both(&mut self) -> Result<()> {
        self.lab.boot_both()?;
        for side in Side::BOTH {
            self.mount_and_start(side)?;
        }
        Ok(())
    }

    fn mount_and_start(&mut self, side: Side) -> Result<()> {
        let witness = self.witness.doors();
        self.node(side).mount(self.lab.guest(side), &self.plan, witness)?;
        self.start_node(side)
    }

    /// Starts a run of the load on a node's mount. Each has its own directories.
    pub fn start_load(&mut self, side: Side) -> Result<Arc<Load>> {
        let run = u32::try_from(self.loads.len()).unwrap_or(u32::MAX) + 1;
        let load = Arc::new(Load::start(self.lab.guest(side), side, self.harness.as_ref(), run)?);
        self.loads.push(Arc::clone(&load));
        Ok(load)
    }

    /// The loads so far.
    pub fn loads(&self) -> &[Arc<Load>] {
        &self.loads
    }

    /// The path of this program in guests.
    pub fn harness(&self) -> &str {
        &self.harness
    }

    // ---- waiting ----

    /// Waits until one node serves and the other mirrors. Gives the primary.
    pub fn wait_mirrored(&self, limit: Duration) -> Result<Side> {
        self.wait("a mirrored pair", limit, |views| {
            Side::BOTH.into_iter().find(|side| {
                let (own, other) = (&views[side.index()], &views[side.other().index()]);
                let serves = own.as_ref().is_some_and(|own| own.serves() && own.mode() == "mirrored");
                let epoch = own.as_ref().map(View::epoch);
                let follows = other.as_ref().is_some_and(|other| other.role() == "partner");
                serves && follows && other.as_ref().map(View::epoch) == epoch
            })
        })
    }

    /// Waits until a node serves alone.
    pub fn wait_solo(&self, side: Side, limit: Duration) -> Result<View> {
        self.wait_view(side, &format!("node {} to serve alone", side.name()), limit, |view| {
            view.serves() && view.mode() == "solo"
        })
    }

    /// Waits until some node serves alone. Gives it.
    pub fn wait_any_solo(&self, limit: Duration) -> Result<Side> {
        self.wait("one node to serve alone", limit, |views| {
            let solo = |view: &View| view.serves() && view.mode() == "solo";
            Side::BOTH.into_iter().find(|side| views[side.index()].as_ref().is_some_and(solo))
        })
    }

    /// Waits until a node's status is as wanted. Gives it.
    pub fn wait_view(
        &self,
        side: Side,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&View) -> bool,
    ) -> Result<View> {
        self.wait(what, limit, |views| views[side.index()].clone().filter(&wanted))
    }

    /// Waits for something that both nodes' statuses show; only those count that arrive from now on.
    pub fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        ready: impl Fn(&[Option<View>; 2]) -> Option<T>,
    ) -> Result<T> {
        let started = Instant::now();
        loop {
            self.check()?;
            let views = Side::BOTH.map(|side| self.node(side).view_since(started));
            if let Some(value) = ready(&views) {
                return Ok(value);
            }
            if started.elapsed() > limit {
                bail!("waited {limit:?} for {what}\n{}", self.diagnosis());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Lets time pass, while what must always hold is looked at.
    pub fn pass(&self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.check()?;
            std::thread::sleep(POLL.min(time));
        }
        Ok(())
    }

    /// An error when a daemon ended by itself, or two nodes were primary of one epoch.
    pub fn check(&self) -> Result<()> {
        for side in Side::BOTH {
            self.node(side).check()?;
        }
        match self.primaries().violation() {
            Some(violation) => bail!("{violation}\n{}", self.diagnosis()),
            None => Ok(()),
        }
    }

    /// Who served as primary so far.
    pub fn primaries(&self) -> MutexGuard<'_, Primaries> {
        self.primaries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both nodes' status and the ends of all logs.
    pub fn diagnosis(&self) -> String {
        let mut text = String::new();
        for side in Side::BOTH {
            let node = self.node(side);
            let said = match node.seen() {
                Some(seen) => format!("{:.1?} ago: {}", seen.at.elapsed(), seen.view.pretty()),
                None => "no answer".to_owned(),
            };
            text.push_str(&format!("=== node {} ===\n{said}\n{}\n", side.name(), node.tail()));
        }
        let witness = std::fs::read_to_string(self.witness.output()).unwrap_or_default();
        text.push_str(&format!("=== witness ===\n{witness}"));
        text
    }
}
