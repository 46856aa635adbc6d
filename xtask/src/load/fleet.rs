//! All loads of a run together: started, sent from mount to mount, watched, stopped.

use super::{Load, Route, Running};
use crate::interrupt;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The longest time for one step of every load to end. A dead mount ends them at once, a slow one in seconds.
const DRAIN_LIMIT: Duration = Duration::from_secs(90);

/// The longest time for all loads to check all that they were promised.
const VERIFY_LIMIT: Duration = Duration::from_secs(180);

/// How often loads are looked at.
const PAUSE: Duration = Duration::from_millis(5);

/// See the module. Dropping it tells the loads to stop, but does not wait for them.
pub struct Fleet {
    route: Arc<Route>,
    running: Vec<Running>,
    generation: u64,
}

impl Fleet {
    /// Starts all loads; they wait for a mount.
    pub fn start(loads: Vec<Box<dyn Load>>) -> Result<Fleet> {
        let route = Arc::<Route>::default();
        let running = loads.into_iter().map(|load| Running::start(load, &route)).collect::<Result<_, _>>();
        Ok(Fleet { route, running: running.context("cannot start a thread")?, generation: 0 })
    }

    /// Opens a mount to the loads; they check what they know first.
    pub fn send_to(&mut self, mount: &Path) {
        self.generation = self.route.open(mount);
    }

    /// From now on a full or broken disk is (not) something that clients may be told. Who was told waits for the next
    /// [`Fleet::send_to`], and checks then.
    pub fn expect_refusals(&self, may: bool) {
        self.route.expect_refusals(may);
    }

    /// Lets nobody use any mount, and waits until nobody does.
    pub fn hold(&mut self) -> Result<()> {
        self.route.close();
        if !self.route.drain(DRAIN_LIMIT) {
            bail!("clients still hang {DRAIN_LIMIT:?} after their mount was lost or closed");
        }
        Ok(())
    }

    /// Waits until every load has found everything it was promised, and work has gone on. `alive` ends the wait
    /// with its error, for instance when a process died.
    pub fn wait_verified(&self, mut alive: impl FnMut() -> Result<()>) -> Result<()> {
        let before = self.acknowledged();
        let mut death = None;
        let done = interrupt::poll(VERIFY_LIMIT, PAUSE, || {
            let verified =
                |running: &Running| running.progress.verified_route.load(Ordering::SeqCst) >= self.generation;
            let all = self.running.iter().all(verified) && self.acknowledged() > before;
            death = alive().err();
            (all || death.is_some() || self.check().is_err()).then_some(())
        })?;
        self.check()?;
        if let Some(error) = death {
            return Err(error);
        }
        if done.is_none() {
            let verified =
                |running: &&Running| running.progress.verified_route.load(Ordering::SeqCst) < self.generation;
            let late: Vec<&str> =
                self.running.iter().filter(verified).map(|running| running.name.as_str()).collect();
            bail!("clients were not served within {VERIFY_LIMIT:?}; still waiting: {}", late.join(", "));
        }
        Ok(())
    }

    /// An error that lists everything that any load found wrong.
    pub fn check(&self) -> Result<()> {
        let (lost, errors) = (self.lost(), self.errors());
        if lost.is_empty() && errors.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = lost.into_iter().map(|line| format!("LOST  {line}")).chain(errors).collect();
        bail!("{}", lines.join("\n"))
    }

    /// An error when a load lost its connection although its node was not touched.
    pub fn check_undisturbed(&self) -> Result<()> {
        self.check()?;
        let disturbed =
            |running: &&Running| running.progress.lost_route.load(Ordering::SeqCst) >= self.generation;
        match self.running.iter().find(disturbed) {
            Some(running) => bail!("{}: saw an error although its node was not touched", running.name),
            None => Ok(()),
        }
    }

    /// Waits until work has gone on from now; `alive` as above.
    pub fn wait_progress(&self, mut alive: impl FnMut() -> Result<()>) -> Result<()> {
        let before = self.acknowledged();
        let more = interrupt::poll(VERIFY_LIMIT, PAUSE, || match alive() {
            Err(error) => Some(Err(error)),
            Ok(()) if self.acknowledged() > before => Some(Ok(())),
            // A client that saw an error waits for another mount.
            Ok(()) => self.check().err().map(Err),
        })?;
        more.transpose()?.with_context(|| {
            let waiting =
                |running: &&Running| running.progress.lost_route.load(Ordering::SeqCst) >= self.generation;
            let lost: Vec<&str> =
                self.running.iter().filter(waiting).map(|running| running.name.as_str()).collect();
            format!(
                "no operation was acknowledged for {VERIFY_LIMIT:?}; lost their mount: {}",
                lost.join(", ")
            )
        })
    }

    /// Operations acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.running.iter().map(|running| running.progress.acknowledged.load(Ordering::Relaxed)).sum()
    }

    /// Things compared so far.
    pub fn checked(&self) -> u64 {
        self.running.iter().map(|running| running.progress.checked.load(Ordering::Relaxed)).sum()
    }

    /// What was promised and is not there.
    pub fn lost(&self) -> Vec<String> {
        self.running.iter().flat_map(|running| running.progress.lost()).collect()
    }

    /// Errors that clients must not see.
    pub fn errors(&self) -> Vec<String> {
        self.running.iter().flat_map(|running| running.progress.errors()).collect()
    }

    /// Name and acknowledged operations of each load.
    pub fn per_load(&self) -> Vec<(String, u64)> {
        let count = |running: &Running| running.progress.acknowledged.load(Ordering::Relaxed);
        self.running.iter().map(|running| (running.name.clone(), count(running))).collect()
    }

    /// Ends all loads after their current step and gives them back for further checks.
    pub fn stop(mut self) -> Result<Vec<Box<dyn Load>>> {
        self.route.stop();
        let running = std::mem::take(&mut self.running);
        running.into_iter().map(|running| running.join().map_err(Into::into)).collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.route.stop();
    }
}

/// Checks copies of the tree, such as the nodes' local ones, against what was promised. Gives what was compared.
pub fn check_copies(loads: &mut [Box<dyn Load>], trees: &[&Path]) -> Result<(u64, Vec<String>)> {
    let (mut compared, mut lost) = (0, Vec::new());
    for tree in trees {
        for load in loads.iter_mut() {
            let name = load.name();
            let checked = load.check_copy(tree).with_context(|| format!("{name} on {}", tree.display()))?;
            compared += checked.compared;
            lost.extend(checked.lost);
        }
    }
    Ok((compared, lost))
}
