//! Appends the fields of an operation. Lengths were checked by the volume; a longer one is a program error.

use super::{MAX_BIRTH_XATTRS, MAX_SYMLINK_BYTES, MAX_XATTR_NAME_BYTES, MAX_XATTR_VALUE_BYTES};
use crate::attributes::{AttrPatch, ObjectKind, Timestamp};
use crate::name::NameRef;
use crate::op::{Displaced, NewKind, NewObject, Other};
use ids::Oid;

/// Where the bytes go.
pub(super) struct Writer<'o>(pub(super) &'o mut Vec<u8>);

impl Writer<'_> {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn oid(&mut self, oid: Oid) {
        self.u64(oid.0);
    }

    pub(super) fn time(&mut self, at: Timestamp) {
        self.u64(at.secs as u64);
        self.u32(at.nanos);
    }

    pub(super) fn name(&mut self, name: NameRef<'_>) {
        self.u8(name.as_bytes().len() as u8);
        self.0.extend_from_slice(name.as_bytes());
    }

    pub(super) fn string(&mut self, bytes: &[u8], limit: usize) {
        assert!(bytes.len() <= limit, "a string of {} bytes went past the volume's checks", bytes.len());
        self.u32(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn mode(&mut self, mode: Option<u32>) {
        self.u8(u8::from(mode.is_some()));
        mode.iter().for_each(|bits| self.u32(*bits));
    }

    pub(super) fn kind(&mut self, kind: ObjectKind) {
        self.u8(kind as u8);
    }

    pub(super) fn other(&mut self, other: &Other) {
        self.oid(other.oid);
        self.kind(other.kind);
        self.u32(other.nlink);
    }

    pub(super) fn displaced(&mut self, displaced: &Displaced) {
        match displaced {
            Displaced::Nothing => self.u8(0),
            Displaced::Replaced { object, reap } => {
                self.u8(1);
                self.other(object);
                self.u8(u8::from(*reap));
            }
            Displaced::Exchanged(object) => {
                self.u8(2);
                self.other(object);
            }
        }
    }

    pub(super) fn new_object(&mut self, object: &NewObject<'_>) {
        self.oid(object.oid);
        self.kind(object.kind.kind());
        match object.kind {
            NewKind::Symlink(target) => self.string(target, MAX_SYMLINK_BYTES),
            NewKind::CharDevice(rdev) | NewKind::BlockDevice(rdev) => self.u64(rdev),
            _ => {}
        }
        self.u32(object.mode);
        self.u32(object.uid);
        self.u32(object.gid);
        self.u64(object.generation);
        assert!(object.xattrs.len() <= MAX_BIRTH_XATTRS, "too many xattrs at birth went past the volume");
        self.u8(object.xattrs.len() as u8);
        for (name, value) in &object.xattrs {
            self.string(name, MAX_XATTR_NAME_BYTES);
            self.string(value, MAX_XATTR_VALUE_BYTES);
        }
    }

    pub(super) fn range(&mut self, tag: u8, oid: Oid, numbers: [u64; 3], at: Timestamp) {
        self.u8(tag);
        self.oid(oid);
        numbers.into_iter().for_each(|number| self.u64(number));
        self.time(at);
    }

    /// A bit for each field that is there, then those fields.
    pub(super) fn patch(&mut self, patch: &AttrPatch) {
        assert!(patch.size.is_none() && patch.nlink.is_none(), "other operations set size and nlink");
        let numbers = [patch.mode, patch.uid, patch.gid];
        let times = [patch.atime, patch.mtime, patch.ctime];
        let present = numbers.iter().map(Option::is_some).chain(times.iter().map(Option::is_some));
        self.u8(present.enumerate().map(|(bit, there)| u8::from(there) << bit).sum());
        numbers.into_iter().flatten().for_each(|number| self.u32(number));
        times.into_iter().flatten().for_each(|time| self.time(time));
    }
}
