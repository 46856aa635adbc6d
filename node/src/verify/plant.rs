//! A consistency point that goes wrong, in builds for tests only: one byte of what was applied is another one.
//!
//! Where the hidden directory of the base holds [`MARK`]. The object's times and label stay what they should be, so
//! nothing but its content tells. It runs where digests are taken, between applying and flushing.

use super::super::shared::Shared;
use apply_engine::resync::{self, Surveyed};
use apply_engine::{Delta, Source};

/// The file whose presence plants the fault.
const MARK: &str = ".twinfiler/plant-wrong-byte";

/// Spoils the first byte of the lowest object that has new content.
pub(super) fn wrong_byte(shared: &Shared, delta: &Delta) {
    if !shared.base.path().join(MARK).exists() {
        return;
    }
    let written = delta.objects().filter_map(|(oid, object)| {
        let mut extents = object.extents.iter();
        extents.find(|extent| matches!(extent.source, Source::Log(_))).map(|extent| (oid, extent.offset))
    });
    let Some((oid, offset)) = written.min() else { return };
    let spoilt = || {
        let Surveyed::Here(file) = resync::capture(&shared.base, oid, &mut 0)? else { return Ok(()) };
        let byte = resync::read(&shared.base, oid, offset, 1)?;
        resync::write(&shared.base, oid, offset, &[!byte.first().copied().unwrap_or_default()])?;
        resync::finish_file(&shared.base, &file)
    };
    let result: Result<(), resync::ResyncError> = spoilt();
    tracing::warn!(volume = shared.name(), %oid, offset, ?result, "planted a wrong byte");
}
