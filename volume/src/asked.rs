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
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use runtime::Mutex;

/// How often a change is begun again because something had to be asked.
pub(super) const MAX_ROUNDS: usize = 256;
/// Directories nest no deeper than a path can be long; a walk up that takes longer found a cycle.
const MAX_DEPTH: usize = 1 << 16;

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
    /// All directories above this one, and itself.
    Above(Oid),
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
    Above(Arc<BTreeSet<Oid>>, u64),
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
            Question::Above(oid) => self.ask_above(oid),
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

    fn ask_above(&self, directory: Oid) -> Result<Answer> {
        let moves = self.state.read().moves;
        let mut above = BTreeSet::new();
        let mut at = directory;
        while above.insert(at) && at != Oid::ROOT {
            if above.len() > MAX_DEPTH {
                tracing::error!(%directory, "a directory has no way up to the root");
                return Err(Errno::EIO);
            }
            at = self.stack.snapshot().parent(at)?;
        }
        if at == Oid::ROOT || self.state.read().moves != moves {
            return Ok(Answer::Above(Arc::new(above), moves));
        }
        tracing::error!(%directory, "a directory stands below itself");
        Err(Errno::EIO)
    }
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
            Question::Empty(_) | Question::Above(_) => Ok(Answer::Gone),
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
