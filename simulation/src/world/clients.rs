//! Clients: each changes a directory of its own, one thing after the other, through whichever node serves, and knows
//! what every answer must be.
//!
//! An operation that fails, or whose node dies in the middle, may have been done or not: the client looks, through
//! whichever node serves next, and what it has seen once must stay.

use super::World;
use super::files::{self, Change, Files};
use crate::invariants::acknowledged_stays;
use ids::{AnswerFrom, Epoch, Oid};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use scheduler::channel;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use volume::{Errno, Node, NodeKind, Root, Volume};

/// How often a client without a server looks for one.
const LOOK: Duration = Duration::from_millis(5);
/// How long a client waits for an answer before it asks around.
const PATIENCE: Duration = Duration::from_millis(20);
/// A client looks at all that it has after so many changes.
const CHANGES_PER_LOOK: u32 = 40;

/// How many changes an fsync follows, where answers come out of memory.
const FSYNC_PART: f64 = 0.3;

/// What all clients have in common.
#[derive(Default)]
pub struct Counters {
    /// Changes that were acknowledged.
    pub acknowledged: AtomicU64,
    /// Changes that were cut off, and had been made; or not.
    pub cut_off: [AtomicU64; 2],
    /// Fsyncs that were answered.
    pub synced: AtomicU64,
    /// How often what was in memory only may have been lost with both nodes, and how many changes were.
    pub losses: AtomicU64,
    pub lost: AtomicU64,
    /// Nobody begins another change.
    pub stop: AtomicBool,
}

/// One client.
pub struct Client {
    world: Arc<World>,
    name: String,
    rng: StdRng,
    files: Files,
    /// What its directory was before each change since it last had an fsync answered, where answers come out of memory.
    unsynced: Vec<Files>,
    /// How often both nodes' memory may have been lost when it last saw that nothing was.
    losses_seen: u64,
    home: Option<Oid>,
    /// Whom it asked last.
    server: usize,
}

impl Client {
    pub fn new(world: &Arc<World>, number: usize) -> Client {
        let rng = StdRng::seed_from_u64(world.plan.seed ^ (number as u64 + 1) << 32);
        let name = format!("c{number}");
        Client {
            world: world.clone(),
            name,
            rng,
            files: Files::default(),
            unsynced: Vec::new(),
            losses_seen: 0,
            home: None,
            server: number % 2,
        }
    }

    /// Changes things until it is told to stop, then looks a last time.
    pub fn run(mut self) {
        let mut since_look = 0;
        while !self.world.counters.stop.load(Ordering::Relaxed) {
            let think = self.rng.random_range(0..=self.world.plan.think_us);
            scheduler::sleep(Duration::from_micros(think));
            self.change();
            since_look += 1;
            if since_look >= CHANGES_PER_LOOK {
                since_look = 0;
                self.look(None);
            }
        }
        self.look(None);
    }

    fn change(&mut self) {
        if self.answers_from_memory() && self.may_have_lost() {
            // What comes next has to fit what is there.
            self.look(None);
        }
        let home = self.home();
        let change = self.files.draw(&mut self.rng);
        scheduler::trace(|| format!("{} {change}", self.name));
        let made = {
            let change = change.clone();
            self.ask_of_this_state(move |volume| change.make(volume, home))
        };
        match made {
            Some(Ok(())) => {
                self.world.counters.acknowledged.fetch_add(1, Ordering::Relaxed);
                self.remember();
                self.files.apply(&change);
                self.sync_sometimes();
                match self.rng.random_range(0..20) {
                    0 => self.look(None),
                    1..4 => self.glimpse(),
                    _ => {}
                }
            }
            Some(Err(error)) => {
                acknowledged_stays::refused(&self.name, &change, error);
                self.look(Some(change));
            }
            None => self.look(Some(change)),
        }
    }

    fn answers_from_memory(&self) -> bool {
        self.world.plan.answer() == AnswerFrom::Memory
    }

    /// May both nodes have lost what was in memory only, since it was last seen that nothing was?
    fn may_have_lost(&self) -> bool {
        self.world.counters.losses.load(Ordering::Relaxed) != self.losses_seen
    }

    /// Before a change that was answered: until the next fsync it may be undone.
    fn remember(&mut self) {
        if self.answers_from_memory() {
            self.unsynced.push(self.files.clone());
        }
    }

    /// Asks for an fsync now and then. Once it was answered, nothing before it may be lost.
    fn sync_sometimes(&mut self) {
        if !self.answers_from_memory() || !self.rng.random_bool(FSYNC_PART) {
            return;
        }
        if let Some(Ok(())) = self.ask_of_this_state(Volume::sync) {
            scheduler::trace(|| format!("{} fsync", self.name));
            self.world.counters.synced.fetch_add(1, Ordering::Relaxed);
            self.unsynced.clear();
        }
    }

    /// Is what was seen an earlier state that a loss of both nodes' memory may have brought back? Then it counts from
    /// now on.
    fn lost_with_both(&mut self, losses: u64, seen: &files::Tree) -> bool {
        // Both may have been lost while it waited for this answer.
        if !self.may_have_lost() {
            return false;
        }
        self.losses_seen = losses;
        let same = |files: &Files| files::difference(seen, &files.tree()).is_none();
        let Some(back) = self.unsynced.iter().rposition(same) else { return false };
        self.world.counters.lost.fetch_add((self.unsynced.len() - back) as u64, Ordering::Relaxed);
        self.files = self.unsynced[back].clone();
        self.unsynced.truncate(back);
        true
    }

    /// Looks at everything until somebody shows it. `cut_off`: what may have been done, too.
    fn look(&mut self, cut_off: Option<Change>) {
        let home = self.home();
        // Whoever says that it serves must show the same, also one that nobody else talks to any more.
        self.server = self.rng.random_range(0..2);
        let (seen, losses) = loop {
            let losses = self.world.counters.losses.load(Ordering::Relaxed);
            match self.ask(move |volume| files::look(volume, home)) {
                Some(Ok(seen)) => break (seen, losses),
                Some(Err(_)) | None => self.elsewhere(),
            }
        };
        let after = cut_off.as_ref().map(|change| {
            let mut after = self.files.clone();
            after.apply(change);
            after
        });
        match cut_off.zip(after) {
            Some((_, after)) if files::difference(&seen, &after.tree()).is_none() => {
                self.world.counters.cut_off[0].fetch_add(1, Ordering::Relaxed);
                self.remember();
                self.files = after;
                self.losses_seen = losses;
            }
            _ if files::difference(&seen, &self.files.tree()).is_some()
                && self.lost_with_both(losses, &seen) => {}
            Some((change, _)) => {
                self.world.counters.cut_off[1].fetch_add(1, Ordering::Relaxed);
                acknowledged_stays::shown(&self.name, &seen, &self.files.tree(), Some(&change));
                self.losses_seen = losses;
            }
            None => {
                acknowledged_stays::shown(&self.name, &seen, &self.files.tree(), None);
                self.losses_seen = losses;
            }
        }
    }

    /// Its directory, made if need be.
    fn home(&mut self) -> Oid {
        while self.home.is_none() {
            let name = self.name.clone();
            let sync = self.answers_from_memory();
            let made = self.ask(move |volume| {
                let home = match volume.lookup(Oid::ROOT, name.as_bytes()) {
                    Err(Errno::ENOENT) => {
                        let node = Node { kind: NodeKind::Directory, mode: 0o755, umask: 0, open: false };
                        volume.create(&Root, Oid::ROOT, name.as_bytes(), node)
                    }
                    other => other,
                }?;
                if sync {
                    volume.sync()?;
                }
                Ok(home)
            });
            match made {
                Some(Ok(found)) => self.home = Some(found.oid),
                Some(Err(_)) | None => self.elsewhere(),
            }
        }
        self.home.expect("it was just made")
    }

    /// Does the other node serve in a later epoch than this?
    fn other_serves_after(&self, epoch: Option<Epoch>) -> bool {
        let other = self.world.hosts.lock()[1 - self.server].life.clone().and_then(|life| life.sim);
        other.is_some_and(|sim| sim.epoch() > epoch && sim.volume().is_some())
    }

    fn elsewhere(&mut self) {
        self.server = 1 - self.server;
        scheduler::sleep(LOOK);
    }

    /// Looks at one thing only.
    fn glimpse(&mut self) {
        if self.answers_from_memory() && self.may_have_lost() {
            // Whether something was lost shows in the whole only.
            return self.look(None);
        }
        let home = self.home();
        let Some(path) = self.files.any(&mut self.rng) else { return };
        self.server = self.rng.random_range(0..2);
        let seen = {
            let path = path.clone();
            self.ask(move |volume| files::look_at(volume, home, &path))
        };
        if let Some(Ok(seen)) = seen
            && !(self.answers_from_memory() && self.may_have_lost())
        {
            acknowledged_stays::glimpsed(
                &self.name,
                &path,
                seen.as_ref(),
                self.files.expected(&path).as_ref(),
            );
        }
    }

    /// Like [`Client::ask`], for what means the state that the client knows: nothing is sent once that may be lost.
    fn ask_of_this_state<T: Send + 'static>(
        &mut self,
        act: impl FnOnce(&Volume) -> Result<T, Errno> + Send + 'static,
    ) -> Option<Result<T, Errno>> {
        self.ask_while(act, |client| !client.answers_from_memory() || !client.may_have_lost())
    }

    /// Runs an operation on a node that serves, in a thread of that node. `None`: it died meanwhile, or takes longer
    /// than the other node takes to serve in a later epoch, which decides what became of it.
    fn ask<T: Send + 'static>(
        &mut self,
        act: impl FnOnce(&Volume) -> Result<T, Errno> + Send + 'static,
    ) -> Option<Result<T, Errno>> {
        self.ask_while(act, |_| true)
    }

    fn ask_while<T: Send + 'static>(
        &mut self,
        act: impl FnOnce(&Volume) -> Result<T, Errno> + Send + 'static,
        may_be_sent: impl Fn(&Client) -> bool,
    ) -> Option<Result<T, Errno>> {
        loop {
            if !may_be_sent(self) {
                return None;
            }
            let life = self.world.hosts.lock()[self.server].life.clone();
            if let Some(life) = life
                && let Some(volume) = life.sim.as_ref().and_then(|sim| sim.volume())
            {
                let epoch = life.sim.and_then(|sim| sim.epoch());
                let (answer, answered) = channel::bounded(1);
                scheduler::spawn_on(life.node, "client", move || {
                    let _client_left = answer.send(act(&volume));
                });
                loop {
                    match answered.recv_timeout(PATIENCE) {
                        Ok(answer) => return Some(answer),
                        Err(channel::RecvTimeoutError::Disconnected) => return None,
                        Err(channel::RecvTimeoutError::Timeout) if self.other_serves_after(epoch) => {
                            self.server = 1 - self.server;
                            return None;
                        }
                        Err(channel::RecvTimeoutError::Timeout) => {}
                    }
                }
            }
            self.elsewhere();
        }
    }
}
