//! What a change has to know of the base, asked before it takes the locks.
//!
//! A disk may hang. So nothing asks the base while it holds an admission or a lock of the volume: a change is validated
//! against the Deltas and against answers that were gathered before ([`Asked`]). If one is missing, nothing was changed
//! yet: the change is given up, the question asked without any lock, and the change begun again.
//!
//! Invariants: an answer counts only while the base is as it was: its version changes whenever a Delta that was applied
//! is dropped ([`commit::stack::DeltaStack::base_version`]); before that the Delta hides what applying it changes.
//! Whether a directory is empty, and what lies above it, is asked of all layers, and counts while that directory, or all
//! moves of directories, are at the version that was seen.
//!
//! What can go wrong: what is asked about changes faster than it can be asked. After [`MAX_ROUNDS`] the change is
//! answered with EBUSY, which stops nobody else.

use super::Volume;
use super::errno::{Errno, Result};
use apply_engine::view::{BaseEntry, BaseReader};
use apply_engine::{Attributes, Layers, NameRef, Target, ViewError};
use ids::{Lsn, Oid};
use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use runtime::Mutex;

/// How often a change is begun again because something had to be asked.
pub(super) const MAX_ROUNDS: usize = 256;
/// So many directories are walked up through to see whether one stands below another. Clients nest them as deep as they
/// like, one call for each level; but the walk takes a thread.
const MAX_DEPTH: u64 = 1 << 20;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Question {
    Lookup(Oid, Box<[u8]>),
    Attributes(Oid),
    Xattr(Oid, Box<[u8]>),
    XattrNames(Oid),
    Parent(Oid),
    /// Has the file blocks for these bytes?
    Allocated(Oid, Range<u64>),
    /// Is the directory empty, in all layers?
    Empty(Oid),
    /// Does the first directory stand at or below the second, in all layers?
    Below(Oid, Oid),
}

#[derive(Clone, Debug)]
pub(super) enum Answer {
    Target(Option<Target>),
    Attributes(Box<Attributes>),
    Xattr(Option<Vec<u8>>),
    XattrNames(Vec<Vec<u8>>),
    Parent(Oid),
    Allocated(bool),
    /// At this version of the directory.
    Empty(bool, Lsn),
    /// After so many moves.
    Below(bool, u64),
    /// There is no such object in the base.
    Gone,
}

#[derive(Default)]
struct Known {
    answers: HashMap<Question, Answer>,
    missing: Vec<Question>,
}

/// See the module. As a base it answers what was asked before; while it is open it asks what was not.
pub(super) struct Asked {
    base: Arc<dyn BaseReader>,
    version: u64,
    open: AtomicBool,
    known: Mutex<Known>,
}

impl Volume {
    /// Nothing asked yet; questions are asked as they come, until [`Asked::close`].
    pub(super) fn asking(&self) -> Arc<Asked> {
        let version = self.stack.base_version();
        let base = Arc::clone(&self.stack.snapshot().base);
        Arc::new(Asked { base, version, open: AtomicBool::new(true), known: Mutex::default() })
    }

    /// Asks anew all that was asked, and what was missing.
    pub(super) fn ask_again(&self, before: &Asked) -> Result<Arc<Asked>> {
        let asked = self.asking();
        let questions: HashSet<Question> = {
            let known = before.known.lock();
            known.answers.keys().chain(&known.missing).cloned().collect()
        };
        for question in questions {
            self.ask(&asked, question)?;
        }
        Ok(asked)
    }

    /// Asks one question, of the base or of all layers.
    pub(super) fn ask(&self, asked: &Arc<Asked>, question: Question) -> Result<()> {
        let answer = match question {
            Question::Empty(oid) => self.ask_whether_empty(oid),
            Question::Below(oid, ancestor) => self.ask_whether_below(oid, ancestor),
            _ => return asked.ask_base(&question).map(drop).or_else(gone_is_an_answer),
        };
        let answer = match answer {
            Err(Errno::ESTALE | Errno::ENOENT) => Answer::Gone,
            other => other?,
        };
        asked.known.lock().answers.insert(question, answer);
        Ok(())
    }

    fn ask_whether_empty(&self, oid: Oid) -> Result<Answer> {
        let gate = self.known(oid)?.gate;
        Ok(Answer::Empty(self.stack.snapshot().is_empty_directory(oid)?, gate))
    }

    fn ask_whether_below(&self, directory: Oid, ancestor: Oid) -> Result<Answer> {
        let moves = self.state.read().moves;
        let above = |oid| Ok(self.stack.snapshot().parent(oid)?);
        match look_above(directory, ancestor, MAX_DEPTH, above)? {
            Above::Found => Ok(Answer::Below(true, moves)),
            Above::Root => Ok(Answer::Below(false, moves)),
            // Directories were moved meanwhile: it is asked again.
            Above::Cycle if self.state.read().moves != moves => Ok(Answer::Below(false, moves)),
            Above::Cycle => {
                tracing::error!(%directory, "a directory stands below itself");
                Err(Errno::EIO)
            }
            Above::TooDeep => {
                tracing::debug!(%directory, "too deep to look at all that is above it");
                Err(Errno::ENAMETOOLONG)
            }
        }
    }
}

/// What a walk up has met first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Above {
    Found,
    Root,
    /// The same directory twice.
    Cycle,
    TooDeep,
}

/// Walks up from `directory`, itself included, and keeps nothing of what it sees but one directory, whose distance
/// doubles: in a cycle that is met again (Brent's algorithm).
fn look_above(
    directory: Oid,
    ancestor: Oid,
    max_depth: u64,
    mut parent: impl FnMut(Oid) -> Result<Oid>,
) -> Result<Above> {
    let (mut at, mut seen) = (directory, directory);
    for steps in 1..=max_depth {
        if at == ancestor {
            return Ok(Above::Found);
        }
        if at == Oid::ROOT {
            return Ok(Above::Root);
        }
        at = parent(at)?;
        if at == seen {
            return Ok(Above::Cycle);
        }
        if steps.is_power_of_two() {
            seen = at;
        }
    }
    Ok(Above::TooDeep)
}

fn gone_is_an_answer(error: io::Error) -> Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ if error.raw_os_error() == Some(Errno::MUST_WAIT.code()) => Err(Errno::MUST_WAIT),
        _ => {
            tracing::error!(%error, "the base could not be read");
            Err(error.into())
        }
    }
}

impl Asked {
    /// From now on only what was asked is answered.
    pub fn close(&self) {
        self.open.store(false, Ordering::Relaxed);
    }

    /// The version of the base that was asked.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// `layers` over what was asked.
    pub fn under(self: &Arc<Asked>, layers: &Layers) -> Layers {
        Layers { base: self.clone(), ..layers.clone() }
    }

    /// Is there a question that was not asked?
    pub fn is_missing(&self) -> bool {
        !self.known.lock().missing.is_empty()
    }

    /// The answer to a question about all layers, if it was asked.
    pub fn known(&self, question: &Question) -> Option<Answer> {
        self.known.lock().answers.get(question).cloned()
    }

    /// What the base said of an object at the same version.
    pub fn know_attributes(&self, oid: Oid, attributes: Box<Attributes>) {
        self.known.lock().answers.insert(Question::Attributes(oid), Answer::Attributes(attributes));
    }

    /// What it said now, if it was asked.
    pub fn known_attributes(&self, oid: Oid) -> Option<Box<Attributes>> {
        match self.known(&Question::Attributes(oid)) {
            Some(Answer::Attributes(attributes)) => Some(attributes),
            _ => None,
        }
    }

    /// Notes that this has to be asked. What is returned ends the change.
    pub fn miss(&self, question: Question) -> Errno {
        self.known.lock().missing.push(question);
        Errno::MUST_WAIT
    }

    fn ask_base(&self, question: &Question) -> io::Result<Answer> {
        let asked = match question {
            Question::Lookup(parent, name) => match NameRef::new(name) {
                Ok(name) => self.base.lookup(*parent, name).map(Answer::Target),
                Err(_) => Ok(Answer::Target(None)),
            },
            Question::Attributes(oid) => {
                self.base.attributes(*oid).map(|found| Answer::Attributes(Box::new(found)))
            }
            Question::Xattr(oid, name) => self.base.xattr(*oid, name).map(Answer::Xattr),
            Question::XattrNames(oid) => self.base.xattr_names(*oid).map(Answer::XattrNames),
            Question::Parent(oid) => self.base.parent(*oid).map(Answer::Parent),
            Question::Allocated(oid, range) => {
                self.base.is_allocated(*oid, range.clone()).map(Answer::Allocated)
            }
            Question::Empty(_) | Question::Below(..) => Ok(Answer::Gone),
        };
        let answer = match asked {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Answer::Gone,
            other => other?,
        };
        self.known.lock().answers.insert(question.clone(), answer.clone());
        Ok(answer)
    }

    fn answer(&self, question: Question) -> io::Result<Answer> {
        let known = self.known.lock().answers.get(&question).cloned();
        let answer = match known {
            Some(answer) => answer,
            None if self.open.load(Ordering::Relaxed) => self.ask_base(&question)?,
            None => return Err(io::Error::from_raw_os_error(self.miss(question).code())),
        };
        if let Answer::Gone = answer { Err(io::ErrorKind::NotFound.into()) } else { Ok(answer) }
    }
}

/// Never asked under a lock; a program error, answered as such.
fn not_asked<T>() -> io::Result<T> {
    Err(io::Error::other("a change reads what it may not read under its locks"))
}

impl BaseReader for Asked {
    fn lookup(&self, parent: Oid, name: NameRef<'_>) -> io::Result<Option<Target>> {
        match self.answer(Question::Lookup(parent, name.as_bytes().into()))? {
            Answer::Target(target) => Ok(target),
            _ => not_asked(),
        }
    }

    fn attributes(&self, oid: Oid) -> io::Result<Attributes> {
        match self.answer(Question::Attributes(oid))? {
            Answer::Attributes(found) => Ok(*found),
            _ => not_asked(),
        }
    }

    fn parent(&self, directory: Oid) -> io::Result<Oid> {
        match self.answer(Question::Parent(directory))? {
            Answer::Parent(parent) => Ok(parent),
            _ => not_asked(),
        }
    }

    fn xattr(&self, oid: Oid, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match self.answer(Question::Xattr(oid, name.into()))? {
            Answer::Xattr(value) => Ok(value),
            _ => not_asked(),
        }
    }

    fn xattr_names(&self, oid: Oid) -> io::Result<Vec<Vec<u8>>> {
        match self.answer(Question::XattrNames(oid))? {
            Answer::XattrNames(names) => Ok(names),
            _ => not_asked(),
        }
    }

    fn is_allocated(&self, oid: Oid, range: Range<u64>) -> io::Result<bool> {
        match self.answer(Question::Allocated(oid, range))? {
            Answer::Allocated(is) => Ok(is),
            _ => not_asked(),
        }
    }

    fn read_at(&self, _oid: Oid, _offset: u64, _buf: &mut [u8]) -> io::Result<usize> {
        not_asked()
    }

    fn readdir(
        &self,
        _directory: Oid,
        _visit: &mut dyn FnMut(BaseEntry<'_>) -> ControlFlow<()>,
    ) -> io::Result<()> {
        not_asked()
    }

    fn readlink(&self, _oid: Oid) -> io::Result<Vec<u8>> {
        not_asked()
    }

    fn seek_data(&self, _oid: Oid, _offset: u64) -> io::Result<Option<u64>> {
        not_asked()
    }

    fn seek_hole(&self, _oid: Oid, _offset: u64) -> io::Result<Option<u64>> {
        not_asked()
    }

    fn orphans(&self) -> io::Result<Vec<Oid>> {
        not_asked()
    }
}

/// Does this error only say that something has to be asked?
pub(super) fn is_missing_answer(error: &ViewError) -> bool {
    matches!(error, ViewError::Base { source, .. } if source.raw_os_error() == Some(Errno::MUST_WAIT.code()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directories 2, 3, … each in the next, and the last in the root.
    fn in_a_chain(depth: u64) -> impl Fn(Oid) -> Result<Oid> {
        move |oid| Ok(if oid.0 > depth { Oid::ROOT } else { Oid(oid.0 + 1) })
    }

    #[test]
    fn no_depth_is_taken_for_a_cycle() {
        let (lowest, depth) = (Oid(2), 1_000_000);
        let look = |ancestor, max| look_above(lowest, ancestor, max, in_a_chain(depth));
        for at in [2, 3, 65_600, depth, depth + 1] {
            assert_eq!(look(Oid(at), MAX_DEPTH), Ok(Above::Found), "{at}");
        }
        assert_eq!(look(Oid::ROOT, MAX_DEPTH), Ok(Above::Found));
        assert_eq!(look(Oid(depth + 2), MAX_DEPTH), Ok(Above::Root));
        assert_eq!(look(Oid(depth + 2), depth), Ok(Above::TooDeep));
        assert_eq!(look_above(Oid::ROOT, lowest, MAX_DEPTH, in_a_chain(depth)), Ok(Above::Root));
        let gone = |_| Err(Errno::ESTALE);
        assert_eq!(look_above(lowest, Oid(9), MAX_DEPTH, gone), Err(Errno::ESTALE));
    }

    #[test]
    fn a_cycle_is_found_wherever_it_begins() {
        for (before, length) in [(0, 1), (0, 2), (1, 1), (5, 1), (3, 7), (100, 65_600), (65_600, 3)] {
            let last = 2 + before + length - 1;
            let round = |oid: Oid| Ok(if oid.0 == last { Oid(2 + before) } else { Oid(oid.0 + 1) });
            assert_eq!(
                look_above(Oid(2), Oid(1 << 40), MAX_DEPTH, round),
                Ok(Above::Cycle),
                "{before} {length}"
            );
            assert_eq!(
                look_above(Oid(2), Oid(last), MAX_DEPTH, round),
                Ok(Above::Found),
                "{before} {length}"
            );
        }
    }
}
