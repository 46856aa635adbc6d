//! What a writer's directory looks like: as its operations make it, and as it was found.
//!
//! Of each line only the number of the operation that wrote it is kept; [`super::content`] makes the bytes from it.

use super::content::{LINES_PER_BLOCK, Writer};
use super::sequence::{CREATED_MODE, Operation};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A file as it must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct File {
    /// The number of the operation that created it.
    pub id: u64,
    /// For each line, the operation that wrote it.
    pub lines: Vec<u64>,
    /// Permission bits.
    pub mode: u32,
    /// The value of its attribute.
    pub mark: Option<u64>,
}

/// The whole directory; `None` before it is made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Model {
    files: Option<BTreeMap<String, File>>,
}

impl Model {
    /// The files by name; `None` while there is no directory.
    pub fn files(&self) -> Option<&BTreeMap<String, File>> {
        self.files.as_ref()
    }

    /// A file by its name.
    pub fn file(&self, name: &str) -> Option<&File> {
        self.files.as_ref()?.get(name)
    }

    /// Does what operation `number` does, or only its first `blocks` where the kernel may split it.
    pub fn apply(&mut self, number: u64, operation: &Operation, blocks: Option<u64>) {
        if *operation == Operation::MakeDirectory {
            self.files = Some(BTreeMap::new());
            return;
        }
        let Some(files) = &mut self.files else { return };
        match operation {
            Operation::Create { name } => {
                let file = File { id: number, lines: Vec::new(), mode: CREATED_MODE, mark: None };
                files.insert(name.clone(), file);
            }
            Operation::Write { name, first, count } => {
                let count = blocks.map_or(*count, |blocks| (blocks * LINES_PER_BLOCK).min(*count));
                if let Some(file) = files.get_mut(name) {
                    let end = (first + count) as usize;
                    file.lines.resize(file.lines.len().max(end), number);
                    file.lines[*first as usize..end].fill(number);
                }
            }
            Operation::Truncate { name, lines } => {
                if let Some(file) = files.get_mut(name) {
                    file.lines.truncate(*lines as usize);
                }
            }
            Operation::SetMode { name, mode } => {
                if let Some(file) = files.get_mut(name) {
                    file.mode = *mode;
                }
            }
            Operation::Mark { name } => {
                if let Some(file) = files.get_mut(name) {
                    file.mark = Some(number);
                }
            }
            Operation::Rename { from, to } => {
                if let Some(file) = files.remove(from) {
                    files.insert(to.clone(), file);
                }
            }
            Operation::Unlink { name } => {
                files.remove(name);
            }
            Operation::MakeDirectory | Operation::Sync { .. } | Operation::Read { .. } => {}
        }
    }
}

/// A line as it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line {
    /// Written by this operation, for this place of this file.
    Own {
        /// The file.
        file: u64,
        /// The operation.
        operation: u64,
    },
    /// Nothing but zeros.
    Zeros,
    /// A line of the load that belongs elsewhere: to another writer, or to another place.
    Misplaced {
        /// Who wrote it.
        writer: Writer,
        /// For which line.
        line: u64,
    },
    /// Nothing that the load ever wrote.
    Foreign,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Line::Own { file, operation } => write!(f, "what operation {operation} wrote (file {file})"),
            Line::Zeros => f.write_str("zeros"),
            Line::Misplaced { writer, line } => {
                write!(f, "line {line} of writer {} of run {}", writer.thread, writer.run)
            }
            Line::Foreign => f.write_str("what nobody wrote"),
        }
    }
}

/// A file as it was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SeenFile {
    /// Its lines.
    pub lines: Vec<Line>,
    /// Bytes after the last whole line.
    pub rest_bytes: usize,
    /// Permission bits.
    pub mode: u32,
    /// The value of its attribute.
    pub mark: Option<u64>,
}

/// A directory as it was found; `None`: it is not there.
pub type Seen = Option<BTreeMap<String, SeenFile>>;

/// Is the directory as the model says? Cheap, because it is asked for many models.
pub fn is_equal(model: &Model, seen: &Seen) -> bool {
    match (&model.files, seen) {
        (None, None) => true,
        (Some(files), Some(found)) => {
            files.len() == found.len()
                && files.iter().all(|(name, file)| found.get(name).is_some_and(|seen| same_file(file, seen)))
        }
        _ => false,
    }
}

fn same_file(file: &File, seen: &SeenFile) -> bool {
    file.lines.len() == seen.lines.len()
        && seen.rest_bytes == 0
        && file.mode == seen.mode
        && file.mark == seen.mark
        && file
            .lines
            .iter()
            .zip(&seen.lines)
            .all(|(wanted, found)| *found == Line::Own { file: file.id, operation: *wanted })
}

/// What is wrong with one file, if anything.
pub fn difference_of(model: &Model, name: &str, seen: &Seen) -> Option<String> {
    match (model.file(name), seen.as_ref().and_then(|files| files.get(name))) {
        (Some(file), Some(seen)) => file_differences(file, seen).map(|what| format!("{name}: {what}")),
        (None, None) => None,
        (Some(_), None) => Some(format!("{name}: missing")),
        (None, Some(_)) => Some(format!("{name}: there, and must not be")),
    }
}

/// More than this is not told one by one.
const MAX_DIFFERENCES: usize = 8;

/// What is not as the model says, for people.
pub fn differences(model: &Model, seen: &Seen) -> Vec<String> {
    let mut told = Vec::new();
    match (&model.files, seen) {
        (None, None) => {}
        (None, Some(_)) => told.push("the directory is there, and must not be".to_owned()),
        (Some(_), None) => told.push("the whole directory is missing".to_owned()),
        (Some(files), Some(found)) => {
            let names: BTreeSet<&String> = files.keys().chain(found.keys()).collect();
            told.extend(names.into_iter().filter_map(|name| difference_of(model, name, seen)));
        }
    }
    let more = told.len().saturating_sub(MAX_DIFFERENCES);
    if more > 0 {
        told.truncate(MAX_DIFFERENCES);
        told.push(format!("and {more} more"));
    }
    told
}

fn file_differences(file: &File, seen: &SeenFile) -> Option<String> {
    let mut what = Vec::new();
    if file.lines.len() != seen.lines.len() || seen.rest_bytes > 0 {
        let (is, rest) = (seen.lines.len(), seen.rest_bytes);
        what.push(format!("{is} lines and {rest} bytes instead of {} lines", file.lines.len()));
    }
    let wrong = file
        .lines
        .iter()
        .zip(&seen.lines)
        .enumerate()
        .filter(|(_, (wanted, found))| **found != Line::Own { file: file.id, operation: **wanted });
    let (mut count, mut first) = (0, None);
    for (index, (wanted, found)) in wrong {
        count += 1;
        first.get_or_insert((index, *wanted, *found));
    }
    if let Some((index, wanted, found)) = first {
        let id = file.id;
        what.push(format!(
            "{count} wrong lines; line {index} is {found} instead of what operation {wanted} wrote (file {id})"
        ));
    }
    if file.mode != seen.mode {
        what.push(format!("mode {:o} instead of {:o}", seen.mode, file.mode));
    }
    if file.mark != seen.mark {
        what.push(format!("attribute {:?} instead of {:?}", seen.mark, file.mark));
    }
    (!what.is_empty()).then(|| what.join("; "))
}
