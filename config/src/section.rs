//! Walks one table of the parsed file: takes the known keys out, and complains about everything else.
//!
//! Invariant: a problem never stops the walk; it is noted, and the value counts as missing. A key that is
//! there but wrong is reported once, not also as missing.

use super::error::Problem;
use super::fields::{Field, kind_of};
use std::cell::RefCell;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The text of the file and the problems found so far.
pub(super) struct Source<'t> {
    text: &'t str,
    problems: RefCell<Vec<Problem>>,
}

impl<'t> Source<'t> {
    pub(super) fn new(text: &'t str) -> Source<'t> {
        Source { text, problems: RefCell::new(Vec::new()) }
    }

    /// The line of the byte at `offset`, counted from 1.
    pub(super) fn line_at(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().iter().take(offset);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    pub(super) fn problem(&self, line: usize, what: impl Into<String>, remedy: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { line, what: what.into(), remedy: remedy.into() });
    }

    pub(super) fn has_problems(&self) -> bool {
        !self.problems.borrow().is_empty()
    }

    /// All problems, by line.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line);
        problems
    }
}

/// A value and the line it stands on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) line: usize,
}

/// One table.
pub(super) struct Section<'s, 't> {
    source: &'s Source<'t>,
    table: &'s DeTable<'t>,
    /// As errors name it: "[volume.log]".
    title: String,
    /// Dotted path without brackets, empty for the file itself.
    path: String,
    line: usize,
    known: Vec<&'static str>,
}

impl<'s, 't> Section<'s, 't> {
    pub(super) fn root(source: &'s Source<'t>, table: &'s DeTable<'t>) -> Section<'s, 't> {
        Section { source, table, title: "the file".into(), path: String::new(), line: 1, known: Vec::new() }
    }

    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// Notes a problem of this table as a whole.
    pub(super) fn problem(&self, line: usize, what: impl AsRef<str>, remedy: impl Into<String>) {
        self.problem_of(&self.title, line, what, remedy);
    }

    /// Notes a problem of another table of the file, by its title.
    pub(super) fn problem_of(
        &self,
        title: &str,
        line: usize,
        what: impl AsRef<str>,
        remedy: impl Into<String>,
    ) {
        self.source.problem(line, format!("{title}: {}", what.as_ref()), remedy);
    }

    /// As errors name it.
    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// Names the table in errors after something the user chose: `volume "home"`.
    pub(super) fn rename(&mut self, title: String) {
        self.title = title;
    }

    fn take(&mut self, key: &'static str) -> Option<(&'s Spanned<DeValue<'t>>, usize)> {
        self.known.push(key);
        let (name, value) = self.table.iter().find(|(name, _)| name.get_ref() == key)?;
        Some((value, self.source.line_at(name.span().start)))
    }

    fn missing(&self, key: &str, example: &str) {
        self.problem(
            self.line,
            format!("`{key}` is missing"),
            format!(
                "add a line `{key} = {example}` below {}",
                if self.path.is_empty() { "it" } else { "this line" }
            ),
        );
    }

    /// Whether `key` is there, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.iter().any(|(name, _)| name.get_ref() == key)
    }

    /// The value of `key`, or `None` when it is absent or wrong.
    pub(super) fn optional<T: Field>(&mut self, key: &'static str) -> Option<Located<T>> {
        let (value, line) = self.take(key)?;
        match T::read(value.get_ref()) {
            Ok(value) => Some(Located { value, line }),
            Err(why) => {
                self.problem(
                    line,
                    format!("`{key}`: {why}"),
                    format!("write {}: `{key} = {}`", T::WANTED, T::EXAMPLE),
                );
                None
            }
        }
    }

    /// The value of `key`, which must be there.
    pub(super) fn required<T: Field>(&mut self, key: &'static str) -> Option<Located<T>> {
        if !self.table.keys().any(|name| name.get_ref() == key) {
            self.known.push(key);
            self.missing(key, T::EXAMPLE);
            return None;
        }
        self.optional(key)
    }

    /// The value of `key`, or `default`.
    pub(super) fn or<T: Field>(&mut self, key: &'static str, default: T) -> T {
        self.optional(key).map_or(default, |located| located.value)
    }

    /// The table `key`, if it is there.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Section<'s, 't>> {
        let (value, line) = self.take(key)?;
        let path = self.child_path(key);
        let Some(table) = value.get_ref().as_table() else {
            let found = kind_of(value.get_ref());
            self.problem(line, format!("`{key}` is {found}"), format!("make it a table: `[{path}]`"));
            return None;
        };
        // A table's own span starts at its header or brace; a dotted key has only the key's.
        let line = line.max(self.source.line_at(value.span().start));
        let title = if self.title.starts_with('[') || self.path.is_empty() {
            format!("[{path}]")
        } else {
            format!("{} [{path}]", self.title)
        };
        Some(Section { source: self.source, table, title, path, line, known: Vec::new() })
    }

    /// The table `key`, which must be there.
    pub(super) fn required_table(&mut self, key: &'static str) -> Option<Section<'s, 't>> {
        if !self.table.keys().any(|name| name.get_ref() == key) {
            self.known.push(key);
            let path = self.child_path(key);
            self.problem(
                self.line,
                format!("the table [{path}] is missing"),
                format!("add a table `[{path}]`"),
            );
            return None;
        }
        self.table(key)
    }

    /// The tables of the array `[[key]]`.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Section<'s, 't>> {
        let Some((value, line)) = self.take(key) else { return Vec::new() };
        let path = self.child_path(key);
        let remedy = || format!("write each one as a table with a double bracket: `[[{path}]]`");
        let Some(array) = value.get_ref().as_array() else {
            self.problem(
                line,
                format!("`{key}` is {}, not a list of tables", kind_of(value.get_ref())),
                remedy(),
            );
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in array.iter() {
            let line = self.source.line_at(item.span().start);
            match item.get_ref().as_table() {
                Some(table) => sections.push(Section {
                    source: self.source,
                    table,
                    title: format!("[[{path}]]"),
                    path: path.clone(),
                    line,
                    known: Vec::new(),
                }),
                None => self.problem(line, format!("`{key}` holds {}", kind_of(item.get_ref())), remedy()),
            }
        }
        sections
    }

    fn child_path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Complains about every key that was not asked for.
    pub(super) fn finish(self) {
        for (name, _) in self.table {
            let key: &str = name.get_ref();
            if self.known.contains(&key) {
                continue;
            }
            let line = self.source.line_at(name.span().start);
            let remedy = match nearest(key, &self.known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("remove it; known here: {}", self.known.join(", ")),
            };
            self.problem(line, format!("unknown key `{key}`"), remedy);
        }
    }
}

/// The known name that `key` was most likely meant to be.
pub(super) fn nearest<'n>(key: &str, known: &[&'n str]) -> Option<&'n str> {
    let lower = key.to_lowercase().replace('-', "_");
    let distance = |name: &str| strsim::damerau_levenshtein(&lower, name);
    let best = known.iter().min_by_key(|name| distance(name))?;
    let allowed = best.len().max(3) / 3;
    let contained = lower.len() >= 4 && (best.contains(&lower) || lower.contains(*best));
    (distance(best) <= allowed || contained).then_some(*best)
}
