//! The operations of a writer, wholly determined by its run and thread.
//!
//! Because the sequence does not depend on what happens, whoever knows the run, the thread and a count knows what the
//! directory must look like, whether or not a report of the last operations ever arrived. That is what makes a check
//! after a power cut strict: the directory must show the effect of exactly the first N operations, with N not below
//! what was acknowledged.
//!
//! An operation is one system call that changes something, so that it is wholly there or not at all; only a write
//! over several pages may be split by the kernel, at page boundaries.

use super::content::{LINES_PER_BLOCK, Random, Writer};
use super::model::Model;

/// One operation on the writer's directory.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the fields are what the system call takes; lines count 64 bytes
pub enum Operation {
    MakeDirectory,
    Create { name: String },
    Write { name: String, first: u64, count: u64 },
    Truncate { name: String, lines: u64 },
    SetMode { name: String, mode: u32 },
    Mark { name: String },
    Rename { from: String, to: String },
    Unlink { name: String },
    Sync { name: String },
    Read { name: String },
}

/// Blocks that an append writes at most.
const MAX_APPEND_BLOCKS: u64 = 4;

/// A file has at most this many blocks.
const MAX_FILE_BLOCKS: u64 = 16;

/// The permission bits of a new file: no umask takes any of them away.
pub const CREATED_MODE: u32 = 0o600;

/// Different names that are used.
const NAMES: u64 = 12;

/// The operations of one writer, one after the other, and what they lead to.
#[derive(Clone, Debug)]
pub struct Sequence {
    writer: Writer,
    random: Random,
    model: Model,
    done: u64,
    next: Operation,
}

impl Sequence {
    /// Before the first operation.
    pub fn new(writer: Writer) -> Sequence {
        let random = Random::new(u64::from(writer.run) << 32 | u64::from(writer.thread));
        Sequence { writer, random, model: Model::default(), done: 0, next: Operation::MakeDirectory }
    }

    /// Who writes.
    pub fn writer(&self) -> Writer {
        self.writer
    }

    /// How many operations have been done.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// What they have led to.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The next operation, whose number is `done() + 1`.
    pub fn next(&self) -> &Operation {
        &self.next
    }

    /// The next operation has been done.
    pub fn advance(&mut self) {
        self.done += 1;
        self.model.apply(self.done, &self.next, None);
        self.next = choose(&mut self.random, &self.model);
    }

    /// How many blocks of the next operation may be there without the rest of it: `0..` this.
    pub fn splits(&self) -> u64 {
        match &self.next {
            Operation::Write { count, .. } => count.div_ceil(LINES_PER_BLOCK),
            _ => 1,
        }
    }

    /// What it would look like with the first `blocks` blocks of the next operation.
    pub fn model_with(&self, blocks: u64) -> Model {
        let mut model = self.model.clone();
        if blocks > 0 {
            model.apply(self.done + 1, &self.next, Some(blocks));
        }
        model
    }
}

fn choose(random: &mut Random, model: &Model) -> Operation {
    let name = format!("file{}", random.below(NAMES));
    let other = format!("file{}", random.below(NAMES));
    let pick = random.below(100);
    let Some(file) = model.file(&name) else {
        return Operation::Create { name };
    };
    let len = file.lines.len() as u64;
    let blocks = len / LINES_PER_BLOCK;
    match pick {
        0..35 if blocks < MAX_FILE_BLOCKS => {
            let count = 1 + random.below(MAX_APPEND_BLOCKS.min(MAX_FILE_BLOCKS - blocks));
            Operation::Write { name, first: len, count: count * LINES_PER_BLOCK }
        }
        0..60 if blocks > 0 => {
            let first = random.below(blocks) * LINES_PER_BLOCK;
            Operation::Write { name, first, count: LINES_PER_BLOCK }
        }
        60..72 if blocks > 0 => {
            // A part of a block: 64 bytes to a few hundred.
            let from = random.below(LINES_PER_BLOCK - 8);
            let first = random.below(blocks) * LINES_PER_BLOCK + from;
            Operation::Write { name, first, count: 1 + random.below(8) }
        }
        72..75 if blocks > 1 => Operation::Truncate { name, lines: random.below(blocks) * LINES_PER_BLOCK },
        75..79 => Operation::SetMode { name, mode: 0o600 | random.below(0o100) as u32 },
        79..83 => Operation::Mark { name },
        83..88 if other != name => Operation::Rename { from: name, to: other },
        88..90 => Operation::Unlink { name },
        90..95 => Operation::Read { name },
        _ => Operation::Sync { name },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_same_writer_does_the_same_and_another_does_not() {
        let run = |run, thread| {
            let mut sequence = Sequence::new(Writer { run, thread });
            (0..400).for_each(|_| sequence.advance());
            sequence.model().clone()
        };
        assert_eq!(run(1, 1), run(1, 1));
        assert_ne!(run(1, 1), run(1, 2));
        assert_ne!(run(1, 1), run(2, 1));
    }

    #[test]
    fn every_kind_of_operation_occurs_and_fits_the_model() {
        let mut sequence = Sequence::new(Writer { run: 5, thread: 0 });
        let mut kinds = BTreeSet::new();
        for _ in 0..2000 {
            let next = sequence.next().clone();
            let there = |name: &String| sequence.model().file(name).is_some();
            match &next {
                Operation::MakeDirectory => assert_eq!(sequence.done(), 0),
                Operation::Create { name } => assert!(!there(name)),
                Operation::Rename { from, .. } => assert!(there(from)),
                Operation::Write { name, first, count } => {
                    let len = sequence.model().file(name).map(|file| file.lines.len() as u64);
                    assert!(len.is_some_and(|len| *first <= len), "no holes");
                    // One page, or whole pages from a page's beginning on.
                    let inside = first % LINES_PER_BLOCK + count <= LINES_PER_BLOCK;
                    assert!(inside || (first % LINES_PER_BLOCK, count % LINES_PER_BLOCK) == (0, 0));
                }
                Operation::Truncate { name, .. }
                | Operation::SetMode { name, .. }
                | Operation::Mark { name }
                | Operation::Unlink { name }
                | Operation::Sync { name }
                | Operation::Read { name } => assert!(there(name)),
            }
            kinds.insert(format!("{next:?}").split(' ').next().map(str::to_owned));
            sequence.advance();
        }
        assert_eq!(kinds.len(), 10, "{kinds:?}");
    }
}
