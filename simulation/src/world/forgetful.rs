//! A witness that comes back with an older state.
//!
//! What no protocol with one witness prevents is left out (docs/failures.md has a row): who was granted the newest epoch
//! cannot ask, and who asks cannot know of it. So a register is brought back only while everybody who runs knows the
//! newest one and its holder can ask, and nothing more fails until the holder must have asked; or, when the holder is
//! down, only one that is older than what the other node's own log tells.

use super::World;
use super::host::NAMES;
use node::simulation::Observed;
use nvlog::Log;
use pair::PairMode;
use pair::witness::Register;
use runtime::marks;
use std::sync::Arc;
use std::time::Duration;

/// Nothing else fails for so long: longer than a node that waits looks at a register before it believes it.
const CALM: Duration = Duration::from_secs(3);

impl World {
    /// Brings the register of some changes ago back, where a protocol can stand that.
    pub fn restore_witness(self: &Arc<World>, back: usize) {
        let (Some(newest), Some(old)) = (self.witness.register(), self.witness.backup(back)) else { return };
        let holder = NAMES.iter().position(|name| newest.primary.as_str() == *name).unwrap_or_default();
        let both = [0, 1].map(|host| self.seen(host));
        let running = [0, 1].map(|host| self.hosts.lock()[host].life.is_some());
        let asks = |host: usize| both[host].as_ref().is_some_and(|seen| self.asks(host, seen, &newest));
        let all_know = asks(holder) && (!running[1 - holder] || asks(1 - holder));
        let other_knows_better = !running[holder] && self.log_knows_more_than(1 - holder, &old);
        if !all_know && !other_knows_better {
            return marks::note("witness not restored: nobody could know");
        }
        scheduler::trace(|| format!("witness restored from {newest:?} to {old:?}"));
        marks::note(if back == 1 { "witness rolled back" } else { "witness from a backup" });
        if !all_know {
            marks::note("witness restored while its primary is down");
        }
        self.witness.restore(back);
        if all_know {
            self.witness.set_reliable(true);
            scheduler::sleep(CALM);
            self.witness.set_reliable(false);
            self.assert_written_anew(holder, both[holder].as_ref(), &newest);
        }
    }

    /// Whoever serves has written anew what the witness forgot.
    fn assert_written_anew(&self, holder: usize, before: Option<&Observed>, forgotten: &Register) {
        let serves = |seen: Option<&Observed>| {
            let pair = seen.and_then(|seen| seen.pair.clone());
            pair.filter(|pair| matches!(pair.mode, PairMode::Solo | PairMode::Mirrored) && pair.serving)
                .map(|pair| pair.epoch)
        };
        let now = self.seen(holder);
        if serves(before).is_some() && serves(before) == serves(now.as_ref()) {
            let register = self.witness.register();
            assert!(
                register.as_ref().is_some_and(|register| register.epoch >= forgotten.epoch),
                "{} serves, and the witness has forgotten {forgotten:?}: {register:?}",
                NAMES[holder]
            );
        }
    }

    fn seen(&self, host: usize) -> Option<Observed> {
        let sim = self.hosts.lock()[host].life.clone().and_then(|life| life.sim);
        sim.map(|sim| sim.observe())
    }

    /// Can this node ask the witness, and does it know what that says?
    fn asks(&self, host: usize, seen: &Observed, newest: &Register) -> bool {
        let awake = self.hosts.lock()[host].busy_until <= scheduler::virtual_now();
        let knows = seen.pair.as_ref().is_some_and(|pair| pair.register.as_ref() == Some(newest));
        awake && knows && self.witness.is_reachable(host)
    }

    /// Does this node know, or will it when it starts, by its own log that the register is an old one?
    fn log_knows_more_than(&self, host: usize, old: &Register) -> bool {
        let (life, region) = {
            let hosts = self.hosts.lock();
            (hosts[host].life.clone(), hosts[host].region.clone())
        };
        let epoch = match life {
            Some(life) => life.sim.and_then(|sim| sim.epoch()),
            None => {
                let opened = Log::open(Box::new(region.crash_losing_all()), None);
                let (log, _) = opened.expect("the log of a process that has ended opens");
                log.superblock().epoch_history.last().map(|last| last.epoch)
            }
        };
        epoch.is_some_and(|epoch| epoch > old.epoch)
    }
}
