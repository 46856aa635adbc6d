//! File operations, their net effect, merged reads, and consistency points onto a local filesystem.
//!
//! - [`op`]: one logged operation, absolute and self-contained, and its bytes in a log record.
//! - [`delta`]: the net effect of a run of records, in memory, pointing into the log for file contents.
//! - [`view`]: reads that look through the active Delta, the sealed ones, and the base.
//! - [`base`]: the local tree by OID.
//! - [`consistency`]: applying a sealed Delta to the base; it looks (`survey`), decides (`plan`), acts (`executor`).
//! - [`remainder`]: what the base refuses, kept beside it and read with it.
//! - [`resync`]: bringing a base to the state of the partner's: compare labels, capture, install.
//! - [`verify`]: comparing two bases that stand at the same LSN, object by object, by digest.
//!
//! Nothing in `op`, `delta`, `extents` and `view` touches a disk; the base is behind [`view::BaseReader`].

pub mod attributes;
pub mod base;
pub mod consistency;
pub mod delta;
mod executor;
pub mod extents;
mod holes;
pub mod name;
mod oid_map;
pub mod op;
#[cfg(any(test, feature = "oracle"))]
#[doc(hidden)]
pub mod oracle;
mod plan;
mod pool;
pub mod remainder;
pub mod resync;
#[cfg(any(test, feature = "simulation"))]
#[doc(hidden)]
pub mod simulation;
mod survey;
mod tree;
pub mod verify;
pub mod view;

pub use attributes::{AttrPatch, Attributes, ObjectKind, Timestamp};
pub use base::{Base, BaseSpace, FULL_BYTES, FULL_METADATA_BYTES, MetadataSpace, OpenError, TreeError};
pub use consistency::{ApplyError, ApplyReport, apply};
pub use delta::{Birth, Delta, DeltaStats, ObjectDelta, ObjectState, RecordPosition, Slot, Target, Vanished};
pub use extents::{Extent, ExtentMap, RangeSet, Source};
pub use ids::Oid;
pub use name::{Name, NameError, NameRef};
pub use oid_map::{OidHasher, OidMap};
pub use op::{DecodeError, Displaced, NewKind, NewObject, Operation, Other};
pub use view::{BaseEntry, BaseReader, Layers, LogBytes, Overwritten, ViewError};
