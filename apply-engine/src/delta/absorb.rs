//! What each operation does to a Delta.
//!
//! Cost of a small write into a known object: one hash lookup and one B-tree insert.

use super::{Birth, Delta, ObjectDelta, ObjectState, RecordPosition, Slot, Target, Vanished, memory};
use crate::attributes::{AttrPatch, Timestamp};
use crate::extents::{Extent, Source};
use crate::name::NameRef;
use crate::op::codec::WRITE_HEAD_BYTES;
use crate::op::{Displaced, NewKind, NewObject, Operation, Other};
use ids::{Lsn, Oid};

impl Delta {
    /// Takes in the operation of the record at `at`. Records come in log order.
    pub fn absorb(&mut self, at: RecordPosition, operation: &Operation<'_>) {
        self.records += 1;
        self.end = self.end.max(at.end);
        self.logged_data_bytes += operation.data_len_bytes();
        self.made += u64::from(operation.given_oid().is_some());
        self.allocated_bytes = self.allocated_bytes.saturating_add(operation.allocated_bytes());
        match operation {
            Operation::Write { .. }
            | Operation::Truncate { .. }
            | Operation::Allocate { .. }
            | Operation::PunchHole { .. }
            | Operation::ZeroRange { .. } => self.absorb_content(at, operation),
            Operation::Create { parent, name, object, parent_nlink, at: when } => {
                self.make(at.lsn, *parent, object, *when);
                let target = Target { oid: object.oid, kind: object.kind.kind() };
                self.fill(*parent, *name, target, false);
                self.touch_directory(at.lsn, *parent, Some(*parent_nlink), *when);
            }
            Operation::Link { object, parent, name, at: when } => {
                self.relink(at.lsn, object, *when).state = ObjectState::Linked;
                self.fill(*parent, *name, Target { oid: object.oid, kind: object.kind }, false);
                self.touch_directory(at.lsn, *parent, None, *when);
            }
            Operation::Unlink { parent, name, object, reap, parent_nlink, at: when } => {
                self.clear(*parent, *name);
                self.lose_name(at.lsn, object, *reap, *when);
                self.touch_directory(at.lsn, *parent, Some(*parent_nlink), *when);
            }
            Operation::Rename { .. } => self.absorb_rename(at.lsn, operation),
            Operation::SetAttr { oid, patch } => {
                let object = self.touch(*oid, at.lsn);
                object.attrs = object.attrs.then(patch);
            }
            Operation::SetXattr { oid, name, value, mode, at: when } => {
                self.set_xattr(at.lsn, *oid, name, Some(value), *mode, *when);
            }
            Operation::RemoveXattr { oid, name, mode, at: when } => {
                self.set_xattr(at.lsn, *oid, name, None, *mode, *when);
            }
            Operation::Reap { oid } => self.bury(*oid, at.lsn),
        }
    }

    /// Notes that records without an operation (padding, epochs) reach up to `end`.
    pub fn skip_to(&mut self, end: Lsn) {
        self.end = self.end.max(end);
    }

    fn touch(&mut self, oid: Oid, lsn: Lsn) -> &mut ObjectDelta {
        let memory_bytes = &mut self.memory_bytes;
        let object = self.objects.entry(oid).or_insert_with(|| {
            *memory_bytes += memory::of_object();
            Box::new(ObjectDelta::untouched(lsn))
        });
        object.last_lsn = lsn;
        object
    }

    fn absorb_content(&mut self, at: RecordPosition, operation: &Operation<'_>) {
        let object = self.touch(operation.oid(), at.lsn);
        let before = memory::of_content(object);
        let (size, when) = match *operation {
            Operation::Write { offset, len_bytes, size_after, at: when, .. } => {
                let source = Source::Log(at.payload_lsn.plus(WRITE_HEAD_BYTES as u64));
                object.extents.insert(Extent { offset, len_bytes: u64::from(len_bytes), source });
                (size_after, when)
            }
            Operation::Truncate { size, at: when, .. } => {
                object.base_valid_below = object.base_valid_below.min(size);
                object.extents.remove(size..u64::MAX);
                object.allocated.remove(size..u64::MAX);
                (size, when)
            }
            Operation::Allocate { offset, len_bytes, size_after, at: when, .. } => {
                object.allocated.insert(offset..offset + len_bytes);
                (size_after, when)
            }
            Operation::PunchHole { offset, len_bytes, size_after, at: when, .. } => {
                let end = offset + len_bytes;
                object.extents.remove(offset..end);
                object.allocated.remove(offset..end);
                // Past `base_valid_below` there is a hole already.
                let masked_from = end.min(object.base_valid_below);
                let len_bytes = masked_from.saturating_sub(offset);
                object.extents.insert(Extent { offset, len_bytes, source: Source::Hole });
                (size_after, when)
            }
            Operation::ZeroRange { offset, len_bytes, size_after, at: when, .. } => {
                object.extents.insert(Extent { offset, len_bytes, source: Source::Zero });
                (size_after, when)
            }
            _ => return,
        };
        object.attrs.size = Some(size);
        object.attrs.mtime = Some(when);
        object.attrs.ctime = Some(when);
        let after = memory::of_content(object);
        self.memory_bytes = self.memory_bytes + after - before;
    }

    fn absorb_rename(&mut self, lsn: Lsn, operation: &Operation<'_>) {
        let Operation::Rename {
            from_parent,
            from_name,
            to_parent,
            to_name,
            moved,
            displaced,
            whiteout,
            from_parent_nlink,
            to_parent_nlink,
            at,
        } = operation
        else {
            return;
        };
        let moved_target = Target { oid: moved.oid, kind: moved.kind };
        let was_occupied = *displaced != Displaced::Nothing;
        match displaced {
            Displaced::Exchanged(other) => {
                let target = Target { oid: other.oid, kind: other.kind };
                self.fill(*from_parent, *from_name, target, true);
                self.relink(lsn, other, *at);
                self.enter(other, *from_parent);
            }
            Displaced::Replaced { object, reap } => self.lose_name(lsn, object, *reap, *at),
            Displaced::Nothing => {}
        }
        if let Some(object) = whiteout {
            self.make(lsn, *from_parent, object, *at);
            let target = Target { oid: object.oid, kind: object.kind.kind() };
            self.fill(*from_parent, *from_name, target, true);
        } else if !matches!(displaced, Displaced::Exchanged(_)) {
            self.clear(*from_parent, *from_name);
        }
        self.fill(*to_parent, *to_name, moved_target, was_occupied);
        self.relink(lsn, moved, *at);
        self.enter(moved, *to_parent);
        self.touch_directory(lsn, *from_parent, Some(*from_parent_nlink), *at);
        self.touch_directory(lsn, *to_parent, Some(*to_parent_nlink), *at);
    }

    fn make(&mut self, lsn: Lsn, parent: Oid, new: &NewObject<'_>, when: Timestamp) {
        let (target, size): (&[u8], u64) = match new.kind {
            NewKind::Symlink(target) => (target, target.len() as u64),
            _ => (&[], 0),
        };
        let kind = new.kind.kind();
        let mut object = ObjectDelta::untouched(lsn);
        object.born =
            Some(Birth { kind, generation: new.generation, rdev: new.kind.rdev(), target: target.into() });
        object.attrs = AttrPatch {
            mode: Some(new.mode),
            uid: Some(new.uid),
            gid: Some(new.gid),
            nlink: Some(if kind.is_directory() { 2 } else { 1 }),
            size: Some(size),
            atime: Some(when),
            mtime: Some(when),
            ctime: Some(when),
        };
        object.xattrs =
            new.xattrs.iter().map(|&(name, value)| (Box::from(name), Some(Box::from(value)))).collect();
        object.base_valid_below = 0;
        object.parent = kind.is_directory().then_some(parent);
        self.put(new.oid, object);
    }

    fn relink(&mut self, lsn: Lsn, other: &Other, when: Timestamp) -> &mut ObjectDelta {
        let object = self.touch(other.oid, lsn);
        object.attrs.nlink = Some(other.nlink);
        object.attrs.ctime = Some(when);
        object
    }

    fn enter(&mut self, moved: &Other, parent: Oid) {
        if let (true, Some(object)) = (moved.kind.is_directory(), self.objects.get_mut(&moved.oid)) {
            object.parent = Some(parent);
        }
    }

    fn lose_name(&mut self, lsn: Lsn, other: &Other, reap: bool, when: Timestamp) {
        if other.nlink == 0 && reap {
            self.bury(other.oid, lsn);
            return;
        }
        let object = self.relink(lsn, other, when);
        if other.nlink == 0 {
            object.state = ObjectState::Orphan;
        }
    }

    fn bury(&mut self, oid: Oid, lsn: Lsn) {
        let old = self.objects.remove(&oid);
        self.memory_bytes -= old.as_ref().map_or(0, |old| memory::of_whole(old));
        let born = old.and_then(|old| old.born);
        if born.is_some() && self.vanished == Vanished::Forget {
            let slots = self.directories.remove(&oid).unwrap_or_default();
            self.memory_bytes -= slots.keys().map(|name| memory::of_slot(name.as_bytes())).sum::<usize>();
            return;
        }
        let mut dead = ObjectDelta::untouched(lsn);
        dead.born = born;
        dead.state = ObjectState::Dead;
        self.put(oid, dead);
    }

    fn set_xattr(
        &mut self,
        lsn: Lsn,
        oid: Oid,
        name: &[u8],
        value: Option<&[u8]>,
        mode: Option<u32>,
        at: Timestamp,
    ) {
        let forget = self.vanished == Vanished::Forget;
        let object = self.touch(oid, lsn);
        let (old, added) = match value {
            // Nothing below to take away: what was set here vanishes.
            None if forget && object.born.is_some() => (object.xattrs.remove(name), 0),
            _ => {
                let old = object.xattrs.insert(name.into(), value.map(Box::from));
                (old, memory::of_xattr(name, value))
            }
        };
        let taken = old.map_or(0, |old| memory::of_xattr(name, old.as_deref()));
        object.attrs.mode = mode.or(object.attrs.mode);
        object.attrs.ctime = Some(at);
        self.memory_bytes = self.memory_bytes + added - taken;
    }

    fn touch_directory(&mut self, lsn: Lsn, directory: Oid, nlink: Option<u32>, when: Timestamp) {
        let object = self.touch(directory, lsn);
        object.attrs.nlink = nlink.or(object.attrs.nlink);
        object.attrs.mtime = Some(when);
        object.attrs.ctime = Some(when);
    }

    /// `was_occupied`: the slot held something when the record was made.
    fn fill(&mut self, parent: Oid, name: NameRef<'_>, target: Target, was_occupied: bool) {
        let slots = self.directories.entry(parent).or_default();
        match slots.get_mut(name.as_bytes()) {
            Some(slot) => slot.target = Some(target),
            None => {
                slots.insert(name.to_name(), Slot { target: Some(target), occupied_below: was_occupied });
                self.memory_bytes += memory::of_slot(name.as_bytes());
            }
        }
    }

    fn clear(&mut self, parent: Oid, name: NameRef<'_>) {
        let slots = self.directories.entry(parent).or_default();
        match slots.get_mut(name.as_bytes()) {
            Some(slot) if slot.occupied_below || self.vanished == Vanished::Keep => slot.target = None,
            Some(_) => {
                slots.remove(name.as_bytes());
                self.memory_bytes -= memory::of_slot(name.as_bytes());
                if slots.is_empty() {
                    self.directories.remove(&parent);
                }
            }
            None => {
                slots.insert(name.to_name(), Slot { target: None, occupied_below: true });
                self.memory_bytes += memory::of_slot(name.as_bytes());
            }
        }
    }
}
