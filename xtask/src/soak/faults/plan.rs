//! Which faults a pair goes through, decided beforehand by the seed alone.

use crate::cluster::disk::Filesystem;
use crate::random::Random;
use crate::soak::plan::Round;
use anyhow::{Context, Result};
use std::time::Duration;

/// Whom a fault befalls, by its role when it begins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Whom {
    /// The node that serves.
    Primary,
    /// The node that mirrors.
    Partner,
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Processes are killed, and started again.
    Killed(Round),
    /// A process stands still (SIGSTOP), and goes on.
    Stopped(Whom),
    /// The witness stands still, and goes on.
    WitnessStopped,
    /// A node is told to end (SIGTERM), and is started again.
    Ended(Whom),
    /// A switchover, asked of the primary.
    Switchover,
    /// The link between the nodes is cut.
    Cut,
    /// The link takes bytes and carries none.
    Silent,
    /// Somebody else takes all the space of a node's disk.
    Full(Whom),
    /// Whoever writes to a node's disk waits.
    Hangs(Whom),
    /// Whoever reads a node's disk waits too.
    Suspended(Whom),
    /// Files and directories of a node's tree are made immutable or mounted over; then the node is started again.
    Refused(Whom),
    /// A node's disk answers nothing but EIO; it is repaired while the node is down.
    Broken(Whom),
    /// A node is killed, and its index removed or overwritten while it is down.
    IndexLost {
        /// Whose.
        whom: Whom,
        /// Overwritten by noise instead of removed.
        noise: bool,
    },
    /// The partner is killed, and its log made anew while it is down.
    LogLost,
    /// The partner is killed, and an older copy of its log put in place of it.
    LogOld,
    /// Somebody unmounts the volume.
    Unmounted,
    /// Somebody aborts the mount's connection, under its clients.
    Aborted,
    /// A file lies below the partner's mount point when it takes over.
    Stray,
}

impl Kind {
    /// For people.
    pub fn name(&self) -> String {
        let of = |what: &str, whom: &Whom| match whom {
            Whom::Primary => format!("{what}: primary"),
            Whom::Partner => format!("{what}: partner"),
        };
        match self {
            Kind::Killed(round) => format!("killed: {}", round.victim.name()),
            Kind::Stopped(whom) => of("stopped", whom),
            Kind::WitnessStopped => "stopped: witness".to_owned(),
            Kind::Ended(whom) => of("ended", whom),
            Kind::Switchover => "switchover".to_owned(),
            Kind::Cut => "link cut".to_owned(),
            Kind::Silent => "link silent".to_owned(),
            Kind::Full(whom) => of("disk full", whom),
            Kind::Hangs(whom) => of("disk hangs", whom),
            Kind::Suspended(whom) => of("device hangs", whom),
            Kind::Refused(whom) => of("object refused", whom),
            Kind::Broken(whom) => of("disk broken", whom),
            Kind::IndexLost { whom, noise: true } => of("index overwritten", whom),
            Kind::IndexLost { whom, noise: false } => of("index removed", whom),
            Kind::LogLost => "log lost: partner".to_owned(),
            Kind::LogOld => "older log: partner".to_owned(),
            Kind::Unmounted => "unmounted".to_owned(),
            Kind::Aborted => "mount aborted".to_owned(),
            Kind::Stray => "stray file below the mount".to_owned(),
        }
    }

    fn choose(random: &mut Random, filesystem: Filesystem) -> Kind {
        let whom = if random.chance(50) { Whom::Primary } else { Whom::Partner };
        let noise = random.chance(50);
        let round = Round::choose(random);
        match random.below(KINDS) {
            0..=4 => Kind::Killed(round),
            5 | 6 => Kind::Stopped(whom),
            7 => Kind::WitnessStopped,
            8 => Kind::Ended(whom),
            9 => Kind::Switchover,
            10 => Kind::Cut,
            11 => Kind::Silent,
            12 => Kind::Full(whom),
            13 => Kind::Hangs(whom),
            // btrfs cannot be shut down.
            14 if filesystem == Filesystem::Btrfs => Kind::Hangs(whom),
            14 => Kind::Broken(whom),
            15 => Kind::IndexLost { whom, noise },
            16 => Kind::LogLost,
            17 => Kind::LogOld,
            18 => Kind::Suspended(whom),
            19 => Kind::Unmounted,
            20 => Kind::Aborted,
            21 => Kind::Refused(whom),
            _ => Kind::Stray,
        }
    }
}

/// Into how many parts chance is divided; the first ones are kills.
const KINDS: u64 = 23;

/// One fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What goes wrong.
    pub kind: Kind,
    /// Work before it.
    pub work: Duration,
    /// How long it lasts.
    pub lasts: Duration,
}

/// How many faults are thrown away in a row before it is certain that none has the wanted name.
const MAX_UNWANTED: usize = 10_000;

/// `count` faults, those whose name begins with `only`.
pub fn faults(
    random: &mut Random,
    count: u64,
    filesystem: Filesystem,
    only: Option<&str>,
) -> Result<Vec<Fault>> {
    (0..count)
        .map(|_| {
            let wanted = |kind: &Kind| only.is_none_or(|only| kind.name().starts_with(only));
            let mut kinds = (0..MAX_UNWANTED).map(|_| Kind::choose(random, filesystem));
            let kind = kinds.find(wanted).with_context(|| format!("no fault is called {only:?}"))?;
            let work = Duration::from_millis(50 + random.below(700));
            // Shorter and longer than the failure timeout.
            let longest_ms = if random.chance(50) { 350 } else { 3_000 };
            Ok(Fault { kind, work, lasts: Duration::from_millis(20 + random.below(longest_ms)) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_seed_always_gives_the_same_faults_and_in_the_end_every_kind() {
        let plan = |seed| faults(&mut Random::new(seed), 1000, Filesystem::Ext4, None).unwrap();
        assert_eq!(plan(3), plan(3));
        assert_ne!(plan(3), plan(4));
        let names: BTreeSet<String> = plan(3).iter().map(|fault| fault.kind.name()).collect();
        // Six kinds of kills, seven kinds that befall either node, two ways to lose an index, nine others.
        assert_eq!(names.len(), 6 + 2 * 7 + 2 * 2 + 9, "{names:?}");
    }

    #[test]
    fn only_faults_of_the_wanted_name_are_chosen() {
        let only = |name| faults(&mut Random::new(3), 20, Filesystem::Ext4, Some(name));
        assert!(only("disk").unwrap().iter().all(|fault| fault.kind.name().starts_with("disk ")));
        assert!(only("no such fault").is_err());
    }
}
