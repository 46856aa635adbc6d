//! Random sequences of valid operations, reproducible from a seed.

use super::Model;
use crate::attributes::Timestamp;
use crate::name::Name;
use crate::op::Operation;
use ids::Oid;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;

/// One operation as it stands in a record's payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The encoded operation.
    pub head: Vec<u8>,
    /// What a write writes, else empty.
    pub data: Vec<u8>,
}

impl Step {
    /// The operation, decoded.
    ///
    /// # Panics
    /// When the bytes are no operation: the codec is broken.
    pub fn operation(&self) -> Operation<'_> {
        let payload_len_bytes = (self.head.len() + self.data.len()) as u64;
        Operation::decode(&self.head, payload_len_bytes).expect("an encoded operation decodes")
    }
}

/// Makes one valid operation after another and keeps the model of what they lead to.
pub struct Generator {
    pub(super) rng: StdRng,
    pub(super) model: Model,
    pub(super) next_oid: Oid,
    clock: Timestamp,
    /// What belongs to the last step.
    pub(super) next: Option<Step>,
}

impl Generator {
    /// Longest file it makes.
    pub const MAX_FILE_BYTES: u64 = 48 << 10;
    /// Different names in a directory, few so that names are used again often.
    const NAMES: u32 = 8;

    /// Starts from an empty volume.
    pub fn new(seed: u64) -> Generator {
        Generator::over(seed, Model::new(), Oid::FIRST_FREE)
    }

    /// Starts from `model`; new objects get OIDs from `next_oid` on.
    pub fn over(seed: u64, model: Model, next_oid: Oid) -> Generator {
        let clock = Timestamp { secs: 1_700_000_000, nanos: 0 };
        Generator { rng: StdRng::seed_from_u64(seed), model, next_oid, clock, next: None }
    }

    /// What all steps so far lead to.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// No OID from here on has been given to an object.
    pub fn first_unused(&self) -> Oid {
        self.next_oid
    }

    /// The next operation, already applied to the model.
    pub fn step(&mut self) -> Step {
        // Each try can meet a directory without a fitting entry; creating in the root nearly never fails.
        const MAX_TRIES: usize = 10_000;
        let next = self.next.take();
        let step = next.or_else(|| (0..MAX_TRIES).find_map(|_| self.intend()));
        let step = step.expect("a valid operation exists");
        self.model.apply(&step.operation(), &step.data);
        step
    }

    /// The next `count` operations, and one more where that belongs to the last.
    pub fn steps(&mut self, count: usize) -> Vec<Step> {
        let mut steps: Vec<Step> = (0..count).map(|_| self.step()).collect();
        while self.next.is_some() {
            steps.push(self.step());
        }
        steps
    }

    pub(super) fn tick(&mut self) -> Timestamp {
        let nanos = self.clock.nanos + self.rng.random_range(1..400_000_000);
        self.clock.secs += i64::from(nanos / Timestamp::NANOS_PER_SECOND);
        self.clock.nanos = nanos % Timestamp::NANOS_PER_SECOND;
        self.clock
    }

    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    pub(super) fn fresh_oid(&mut self) -> Oid {
        let oid = self.next_oid;
        self.next_oid = Oid(oid.0 + 1);
        oid
    }

    pub(super) fn pick<T>(&mut self, mut choices: Vec<T>) -> Option<T> {
        if choices.is_empty() {
            return None;
        }
        let index = self.rng.random_range(0..choices.len());
        Some(choices.swap_remove(index))
    }

    /// Any object that passes `test`, orphans included.
    pub(super) fn any(&mut self, test: impl Fn(&super::Node) -> bool) -> Option<Oid> {
        let fitting = self.model.nodes.iter().filter(|(_, node)| test(node)).map(|(&oid, _)| oid).collect();
        self.pick(fitting)
    }

    /// A directory that has a name.
    pub(super) fn directory(&mut self) -> Option<Oid> {
        self.any(|node| node.attributes.kind.is_directory() && node.attributes.nlink > 0)
    }

    /// A name that is free in `directory`.
    pub(super) fn free_name(&mut self, directory: Oid) -> Option<Name> {
        let taken = &self.model.node(directory).entries;
        let names = (0..Self::NAMES).filter_map(|n| Name::new(format!("n{n}").as_bytes()).ok());
        let free = names.filter(|name| !taken.contains_key(name)).collect();
        self.pick(free)
    }

    /// An entry somewhere: its directory, name and object.
    pub(super) fn entry(&mut self) -> Option<(Oid, Name, Oid)> {
        let directory = self.directory()?;
        let entries = &self.model.node(directory).entries;
        let entries = entries.iter().map(|(name, &oid)| (directory, name.clone(), oid)).collect();
        self.pick(entries)
    }

    /// `directory` and all above it.
    pub(super) fn lineage(&self, mut directory: Oid) -> BTreeSet<Oid> {
        let mut seen = BTreeSet::from([directory]);
        while directory != Oid::ROOT {
            directory = self.model.node(directory).parent;
            seen.insert(directory);
        }
        seen
    }
}
