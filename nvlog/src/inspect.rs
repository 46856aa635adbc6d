//! Inspection (being filled in).
/// Bounds of an inspection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InspectOptions { /// Records listed at most.
    pub max_records: usize }
/// What a log looks like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inspection {}
impl std::fmt::Display for Inspection { fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { Ok(()) } }
/// Why it can not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError { /// The path can not be read.
    #[error("{path}: {source}")] Io { /// The path.
        path: std::path::PathBuf, /// The kernel's answer.
        source: std::io::Error } }
/// Inspects with the default bounds.
pub fn inspect(path: &std::path::Path) -> Result<Inspection, InspectError> { inspect_with(path, InspectOptions { max_records: 64 }) }
/// Inspects.
pub fn inspect_with(_path: &std::path::Path, _options: InspectOptions) -> Result<Inspection, InspectError> { todo!() }
