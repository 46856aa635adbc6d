//! From captures to a Delta, and through a consistency point into the tree.
//!
//! An object that is there already keeps its inode. One whose OID belongs to another object at the source (both
//! sides of a split volume gave it away) makes way: it gets an OID that nobody uses, and is dead. So does one without
//! a name here that has names there, because nothing gives such an object a name again.
//!
//! What can go wrong: captures that cannot all be true. What a consistency point would panic about is looked for
//! before.

use ids::{Lsn, Oid};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::capture::{Capture, Surveyed};
use super::site::Site;
use super::{FIRST_CAST_OUT, INCOMPLETE, ObjectLabel, ResyncError};
use crate::attributes::{AttrPatch, ObjectKind};
use crate::base::is_reserved_in_root;
use crate::consistency::{ApplyReport, apply_to};
use crate::delta::{Birth, Delta, ObjectDelta, ObjectState, Slot, Target};
use crate::executor::uring::PayloadSource;
use crate::name::Name;
use crate::plan::junk_place;
use crate::pool;
use crate::remainder::tolerant::Tolerant;
use crate::tree::{Parent, Place, oid_of_name};

/// Captures point to no log.
pub(crate) struct NoPayload;

#[cfg(any(test, feature = "simulation"))]
impl crate::view::LogBytes for NoPayload {
    fn copy_out(&self, lsn: Lsn, _dst: &mut [u8]) -> Result<(), crate::view::Overwritten> {
        Err(crate::view::Overwritten { lsn })
    }
}

impl PayloadSource for NoPayload {
    type Bytes = nvlog::LogSlice;
    fn bytes(&self, _from: Lsn, _len_bytes: usize) -> Result<nvlog::LogSlice, Errno> {
        Err(Errno::STALE)
    }
    fn copy(&self, _from: Lsn, _len_bytes: usize) -> Result<Vec<u8>, Errno> {
        Err(Errno::STALE)
    }
}

/// See [`super::install_names`].
pub(super) fn names(site: &impl Site, survey: &[Surveyed]) -> Result<ApplyReport, ResyncError> {
    let mut wanted: BTreeMap<Oid, &Capture> = BTreeMap::new();
    let mut making = Making { site, delta: Delta::new(Lsn::ZERO, crate::Vanished::Keep) };
    let mut gone = Vec::new();
    for surveyed in survey {
        match surveyed {
            Surveyed::Here(capture) => drop(wanted.insert(capture.oid, capture)),
            Surveyed::Gone(oid) => {
                check_gone(*oid)?;
                gone.push(*oid);
            }
        }
    }
    // Those are for the gradual way.
    if let Some(capture) = wanted.values().find(|capture| capture.parts > 0) {
        return Err(ResyncError::Contradiction(capture.oid));
    }
    check(&wanted)?;
    let orphans = orphans(site)?;
    let mut dead = making.gone(&gone)?;
    let captures: Vec<&Capture> = wanted.values().copied().collect();
    let found = pool::map(&captures, |capture| making.stands(capture, &orphans))?;
    let mut born = HashSet::new();
    for (capture, stands) in captures.iter().zip(found) {
        match stands {
            Stands::Same => {}
            Stands::Absent => drop(born.insert(capture.oid)),
            Stands::Other => {
                dead.push(making.cast_out(capture.oid, orphans.contains(&capture.oid))?);
                born.insert(capture.oid);
            }
        }
    }
    if dead.iter().any(|(oid, _)| *oid >= FIRST_CAST_OUT) {
        // Before anything else gets that OID, also in a crash.
        site.barrier()?;
    }
    for capture in &captures {
        making.describe(capture, born.contains(&capture.oid))?;
    }
    for (oid, kind) in dead {
        making.bury(oid);
        if kind.is_directory() {
            making.slots(oid, &BTreeMap::new())?;
        }
    }
    for capture in captures.iter().filter(|capture| capture.kind.is_directory()) {
        making.directory(capture, born.contains(&capture.oid))?;
    }
    Ok(apply_to(site, &making.delta)?)
}

/// See [`super::seal`].
pub(super) fn seal(site: &impl Site, objects: &[ObjectLabel]) -> Result<(), ResyncError> {
    let work = |object: &ObjectLabel| -> Result<(), ResyncError> {
        let label = site.attributes(object.oid)?.label;
        if label.generation != object.generation {
            return Err(ResyncError::Contradiction(object.oid));
        }
        let label = crate::base::Label { last_lsn: object.last_lsn, ..label };
        Ok(Tolerant(site).set_label(object.oid, &label)?)
    };
    pool::map(objects, work).map(drop)
}

/// The root is there, also when the source says otherwise.
pub(super) fn check_gone(oid: Oid) -> Result<(), ResyncError> {
    if oid == Oid::ROOT { Err(ResyncError::Contradiction(oid)) } else { Ok(()) }
}

/// Every directory stands in one slot at most, none is its own ancestor, and names are legal and used once, each by an
/// object that may have one.
pub(super) fn check(wanted: &BTreeMap<Oid, &Capture>) -> Result<(), ResyncError> {
    let mut parents: HashMap<Oid, Oid> = HashMap::new();
    for capture in wanted.values() {
        let mut names = HashSet::new();
        for entry in &capture.entries {
            let reserved = capture.oid == Oid::ROOT && is_reserved_in_root(&entry.name);
            let kind = wanted.get(&entry.oid).map_or(entry.kind, |target| target.kind);
            let twice = entry.kind.is_directory() && parents.insert(entry.oid, capture.oid).is_some();
            let nameless = wanted.get(&entry.oid).is_some_and(|target| target.nlink == 0);
            let never = entry.oid == Oid::ROOT || entry.oid >= FIRST_CAST_OUT;
            let bad = reserved || twice || kind != entry.kind || nameless || never;
            if bad || !names.insert(&entry.name) || Name::new(&entry.name).is_err() {
                return Err(ResyncError::Contradiction(entry.oid));
            }
        }
        let root_is_none = capture.oid == Oid::ROOT && (capture.nlink == 0 || !capture.kind.is_directory());
        let holds = capture.kind.is_directory() || (capture.entries.is_empty() && capture.parts == 0);
        let holds = holds && (capture.parts == 0 || capture.entries.is_empty());
        if capture.oid >= FIRST_CAST_OUT || root_is_none || !holds {
            return Err(ResyncError::Contradiction(capture.oid));
        }
    }
    let mut sound: HashSet<Oid> = HashSet::new();
    for &start in parents.keys() {
        let mut chain = BTreeSet::new();
        let mut at = start;
        while sound.insert(at) {
            chain.insert(at);
            match parents.get(&at) {
                Some(above) if chain.contains(above) => return Err(ResyncError::Contradiction(at)),
                Some(above) => at = *above,
                None => break,
            }
        }
    }
    Ok(())
}

/// Objects without a name, each under the name that its label says: an object that was being cast out when a crash
/// came may have only one of both.
pub(super) fn orphans(site: &impl Site) -> Result<HashSet<Oid>, ResyncError> {
    refused(site)?;
    let mut orphans = HashSet::new();
    for name in site.list(&Parent::Orphans)? {
        let at = Place::new(Parent::Orphans, name);
        let Some(occupant) = site.occupant(&at)? else { continue };
        let Some(label) = occupant.label else {
            // Made just before a crash, for an object that the source may not have any more.
            site.remove(&at, occupant.kind)?;
            continue;
        };
        if oid_of_name(&at.name).is_some_and(|named| named != label.oid) {
            site.rename(&at, &Place::orphan(label.oid))?;
        }
        orphans.insert(label.oid);
    }
    Ok(orphans)
}

/// Names that were refused in a directory that was being cast out when a crash came are those of the OID that it has.
/// Those of one that a crash has taken away wait in staging.
fn refused(site: &impl Site) -> Result<(), ResyncError> {
    if site.remainder().is_empty() {
        return Ok(());
    }
    let is_directory =
        |oid| Ok::<_, ResyncError>(site.find(oid)?.is_some_and(|found| found.kind.is_directory()));
    let mut moved = false;
    for directory in site.remainder().directories() {
        if is_directory(directory)? {
            continue;
        }
        moved = true;
        let other = Oid(directory.0 | FIRST_CAST_OUT.0);
        if other != directory && is_directory(other)? && !site.remainder().has_names(other) {
            site.move_refused(directory, other)?;
            continue;
        }
        for name in site.list(&Parent::Refused(directory))? {
            let at = Place::new(Parent::Refused(directory), name);
            let Some(occupant) = site.occupant(&at)? else { continue };
            match occupant.label.map(|label| Place::staged(label.oid)) {
                Some(staged) if site.occupant(&staged)?.is_none() => site.rename(&at, &staged)?,
                None if occupant.kind.is_directory() => site.rename(&at, &junk_place(occupant.inode))?,
                // Without a label, or with a name elsewhere.
                _ => site.remove(&at, occupant.kind)?,
            }
        }
    }
    if moved {
        // Before that OID is given to anything else, also in a crash.
        site.barrier()?;
    }
    Ok(site.prune_refused()?)
}

/// What the receiver has under an OID.
pub(super) enum Stands {
    Absent,
    Same,
    Other,
}

pub(super) struct Making<'a, S> {
    pub site: &'a S,
    pub delta: Delta,
}

impl<S: Site> Making<'_, S> {
    /// Which of these are here, and have to go.
    fn gone(&self, gone: &[Oid]) -> Result<Vec<(Oid, ObjectKind)>, ResyncError> {
        let found = pool::map(gone, |oid| self.site.find(*oid))?;
        let here = gone.iter().zip(found).filter_map(|(oid, found)| Some((*oid, found?.kind)));
        Ok(here.collect())
    }

    pub fn stands(&self, capture: &Capture, orphans: &HashSet<Oid>) -> Result<Stands, ResyncError> {
        let oid = capture.oid;
        let Some(found) = self.site.find(oid)? else { return Ok(Stands::Absent) };
        let failed = |error| ResyncError::Read(oid, error);
        let generation = found.label.map(|label| label.generation);
        let mut same = found.kind == capture.kind && generation == Some(capture.generation);
        same &= capture.nlink == 0 || !orphans.contains(&oid);
        if same && capture.kind == ObjectKind::Symlink {
            same = self.site.reader().readlink(oid).map_err(failed)? == capture.target;
        }
        if same && matches!(capture.kind, ObjectKind::CharDevice | ObjectKind::BlockDevice) {
            same = self.site.reader().attributes(oid).map_err(failed)?.rdev == capture.rdev;
        }
        match same {
            true => Ok(Stands::Same),
            false if oid == Oid::ROOT => Err(ResyncError::Contradiction(oid)),
            false => Ok(Stands::Other),
        }
    }

    /// Takes an object's OID away.
    pub fn cast_out(&self, oid: Oid, orphan: bool) -> Result<(Oid, ObjectKind), ResyncError> {
        if oid == Oid::ROOT || oid >= FIRST_CAST_OUT {
            return Err(ResyncError::Contradiction(oid));
        }
        // An attempt that was cut off may have left one there, which is seen to at the end.
        let mut to = Oid(FIRST_CAST_OUT.0 | oid.0);
        while self.site.find(to)?.is_some() {
            to = Oid(to.0.checked_add(1).ok_or(ResyncError::Contradiction(oid))?);
        }
        let kind = self.site.find(oid)?.ok_or(ResyncError::Contradiction(oid))?.kind;
        self.site.renumber(oid, to)?;
        if self.site.remainder().has_names(oid) {
            // In this order, so that names are never those of a directory that comes after this one.
            self.site.barrier()?;
            self.site.move_refused(oid, to)?;
        }
        self.site.remainder().forget(oid);
        if orphan {
            self.site.rename(&Place::orphan(oid), &Place::orphan(to))?;
        }
        Ok((to, kind))
    }

    pub fn bury(&mut self, oid: Oid) {
        let dead = ObjectDelta { state: ObjectState::Dead, ..ObjectDelta::untouched(INCOMPLETE) };
        self.delta.describe(oid, dead);
    }

    pub fn describe(&mut self, capture: &Capture, born: bool) -> Result<(), ResyncError> {
        let mut object = ObjectDelta::untouched(INCOMPLETE);
        if capture.nlink == 0 {
            object.state = ObjectState::Orphan;
        }
        object.attrs = AttrPatch {
            mode: Some(capture.mode),
            uid: Some(capture.uid),
            gid: Some(capture.gid),
            nlink: Some(capture.nlink),
            size: None,
            atime: Some(capture.atime),
            mtime: Some(capture.mtime),
            ctime: Some(capture.ctime),
        };
        match born {
            true => {
                let target = capture.target.as_slice().into();
                let Capture { kind, generation, rdev, .. } = *capture;
                object.born = Some(Birth { kind, generation, rdev, target });
                object.base_valid_below = 0;
            }
            false => {
                for name in Tolerant(self.site).xattr_names(capture.oid)? {
                    object.xattrs.insert(name.into(), None);
                }
            }
        }
        for (name, value) in &capture.xattrs {
            object.xattrs.insert(name.as_slice().into(), Some(value.as_slice().into()));
        }
        self.delta.describe(capture.oid, object);
        Ok(())
    }

    fn directory(&mut self, capture: &Capture, born: bool) -> Result<(), ResyncError> {
        let mut wanted = BTreeMap::new();
        for entry in &capture.entries {
            let name = Name::new(&entry.name).map_err(|_| ResyncError::Contradiction(capture.oid))?;
            wanted.insert(name, Target { oid: entry.oid, kind: entry.kind });
        }
        match born {
            true => {
                for (name, target) in wanted {
                    let slot = Slot { target: Some(target), occupied_below: true };
                    self.delta.describe_slot(capture.oid, name, slot);
                }
                Ok(())
            }
            false => self.slots(capture.oid, &wanted),
        }
    }

    /// The slots in which a directory that is here differs from what it should hold. What carries no label goes too:
    /// an interrupted attempt made it, and left there it would make its name unusable.
    fn slots(&mut self, oid: Oid, wanted: &BTreeMap<Name, Target>) -> Result<(), ResyncError> {
        let hidden = |name: &Name| oid == Oid::ROOT && is_reserved_in_root(name.as_bytes());
        let here: Vec<Name> = self.site.seen_names(oid)?.into_iter().filter(|name| !hidden(name)).collect();
        let place = |name: &Name| Place::new(Parent::Object(oid), name.clone());
        let found = pool::map(&here, |name| self.site.seen(&place(name)))?;
        let mut right = HashSet::new();
        for (name, occupant) in here.into_iter().zip(found) {
            let now = occupant.and_then(|occupant| occupant.label).map(|label| label.oid);
            let target = wanted.get(&name).copied();
            if now.is_some() && now == target.map(|target| target.oid) {
                right.insert(name);
            } else if target.is_none() {
                self.delta.describe_slot(oid, name, Slot { target: None, occupied_below: true });
            }
        }
        for (name, target) in wanted.iter().filter(|(name, _)| !right.contains(*name)) {
            let slot = Slot { target: Some(*target), occupied_below: true };
            self.delta.describe_slot(oid, name.clone(), slot);
        }
        Ok(())
    }
}
