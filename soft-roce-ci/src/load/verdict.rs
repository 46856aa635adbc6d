//! Which of a writer's states does a directory show?
//!
//! The answer is a [`Point`]: so many operations, and perhaps the first blocks of the next one. Nothing else is
//! allowed: not an operation without one before it, no content that the sequence did not write.

use super::content::Writer;
use super::model::{Seen, differences, is_equal};
use super::sequence::Sequence;
use anyhow::{Context, Result};
use std::fmt;
use std::str::FromStr;

/// A state of a writer's directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Point {
    /// The first operations of the sequence, this many.
    pub operations: u64,
    /// And so many blocks of the write that comes next.
    pub blocks: u64,
}

impl Point {
    /// Exactly this many operations.
    pub fn after(operations: u64) -> Point {
        Point { operations, blocks: 0 }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.operations, self.blocks)
    }
}

impl FromStr for Point {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Point> {
        let (operations, blocks) = text.split_once('.').context("a point is OPERATIONS.BLOCKS")?;
        Ok(Point { operations: operations.parse()?, blocks: blocks.parse()? })
    }
}

/// What a directory may show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowed {
    /// Whose directory.
    pub writer: Writer,
    /// At least this: it was acknowledged, or seen before.
    pub from: Point,
    /// At most this.
    pub to: Point,
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.writer.run, self.writer.thread, self.from, self.to)
    }
}

impl FromStr for Allowed {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Allowed> {
        let mut words = text.split(':');
        let mut word = || words.next().with_context(|| format!("{text:?} is not RUN:THREAD:FROM:TO"));
        Ok(Allowed {
            writer: Writer { run: word()?.parse()?, thread: word()?.parse()? },
            from: word()?.parse()?,
            to: word()?.parse()?,
        })
    }
}

/// Finds the state that the directory shows, or says what is wrong with it.
pub fn judge(allowed: &Allowed, seen: &Seen) -> Result<Point, Vec<String>> {
    if let Some(point) = find(allowed.writer, allowed.from, allowed.to, seen) {
        return Ok(point);
    }
    if let Some(point) = find(allowed.writer, Point::default(), allowed.from, seen) {
        let lost = allowed.from.operations - point.operations;
        return Err(vec![format!(
            "LOST: shows the state {point}, but {} was acknowledged or seen before ({lost} operations lost)",
            allowed.from
        )]);
    }
    let beyond = Point::after(allowed.to.operations + BEYOND);
    if let Some(point) = find(allowed.writer, allowed.to, beyond, seen) {
        return Err(vec![format!(
            "shows the state {point}, but nothing beyond {} was ever begun",
            allowed.to
        )]);
    }
    let mut sequence = Sequence::new(allowed.writer);
    (0..allowed.from.operations).for_each(|_| sequence.advance());
    let mut lines = differences(&sequence.model_with(allowed.from.blocks), seen);
    let next = sequence.next();
    lines.push(format!("(compared with the state {}; the next operation is {next:?})", allowed.from));
    Err(lines)
}

/// How far beyond what is allowed it is looked, to tell a wrong state from a state that came too late.
const BEYOND: u64 = 64;

/// The first state in `from..=to` that the directory shows.
fn find(writer: Writer, from: Point, to: Point, seen: &Seen) -> Option<Point> {
    let mut sequence = Sequence::new(writer);
    while sequence.done() < from.operations {
        sequence.advance();
    }
    let mut blocks = from.blocks;
    loop {
        while blocks < sequence.splits() {
            let point = Point { operations: sequence.done(), blocks };
            if point > to {
                return None;
            }
            let shown = match blocks {
                0 => is_equal(sequence.model(), seen),
                _ => is_equal(&sequence.model_with(blocks), seen),
            };
            if shown {
                return Some(point);
            }
            blocks += 1;
        }
        blocks = 0;
        sequence.advance();
    }
}
