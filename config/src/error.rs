//! What is wrong with a configuration file, in words that say what to write instead.
//!
//! Invariant: problems are listed in the order of their lines.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// One thing that is wrong in the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

/// A configuration that cannot be used.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is longer than [`super::MAX_FILE_BYTES`].
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        length_bytes: u64,
    },
    /// The file was read and has problems.
    Invalid {
        /// The file, as the user named it.
        file: String,
        /// All of them, by line.
        problems: Vec<Problem>,
    },
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ConfigError::Unreadable { source, .. } => Some(source),
            ConfigError::TooLong { .. } | ConfigError::Invalid { .. } => None,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unreadable { path, source } => {
                write!(
                    f,
                    "cannot read the configuration {}: {source}\n    remedy: name another file with --config, or \
                     write one (docs/configuration.md; `twinfiler init` prints a start)",
                    path.display()
                )
            }
            ConfigError::TooLong { path, length_bytes } => write!(
                f,
                "the configuration {} has {length_bytes} bytes, more than {}\n    remedy: is it the right file?",
                path.display(),
                super::MAX_FILE_BYTES
            ),
            ConfigError::Invalid { file, problems } => {
                for problem in problems {
                    let Problem { line, what, remedy } = problem;
                    writeln!(f, "{file}:{line}: {what}\n    remedy: {remedy}")?;
                }
                let count = problems.len();
                write!(f, "{count} problem{} in {file}", if count == 1 { "" } else { "s" })
            }
        }
    }
}
