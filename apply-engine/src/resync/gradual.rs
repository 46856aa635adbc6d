//! Installing the names of more objects than memory should hold descriptions of: some at a time, in any order.
//!
//! ```text
//! make_way   objects whose OID belongs to another object at the source get an OID that nobody uses
//! some …     attributes of these objects; every slot of the directories among them; what is missing is made in its slot
//! end        what is gone is removed
//! ```
//!
//! An object that loses its last name before it is known where it belongs waits in the *parking* directory: an
//! ordinary directory of the tree without a name of its own, so every step is an ordinary consistency point. Something
//! that cannot be placed yet (its directory is not there, or a move would close a cycle) is deferred: the caller comes
//! again with it. When the source stands still, each pass over the deferred takes every wrong name away, so the next one
//! places more.
//!
//! Invariants: as in [`super::install`]; and a directory is named only when each of its slots is right. What can go
//! wrong: the source changes between two calls; what could not be placed then is told, and comes again when the source
//! says that it changed.

mod work;

use ids::{Lsn, Oid};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::capture::{Capture, Entry, Surveyed};
use super::install::{Making, check, check_gone, orphans};
use super::parts::{self, MAX_PARTS, Part};
use super::site::Site;
use super::{FIRST_CAST_OUT, INCOMPLETE, ResyncError};
use crate::attributes::{ObjectKind, Timestamp};
use crate::base::Label;
use crate::consistency::apply_to;
use crate::delta::{Birth, Delta, Slot, Target, Vanished};
use crate::plan::junk_place;
use crate::pool;
use crate::remainder::tolerant::Tolerant;
use crate::tree::{Occupant, Parent, Place, oid_of_name};
use work::{Item, Work, differing_some};

/// The directory in which objects wait for their slot.
const PARKING: Oid = Oid(u64::MAX - 1);
/// Slots that one consistency point changes.
const SLOTS_AT_ONCE: usize = 8192;
/// Dead objects that are taken away by one.
const DEAD_AT_ONCE: usize = 1024;

/// What became of the objects of one call.
#[derive(Debug, Default)]
pub struct Installed {
    /// Names, attributes and xattrs are in place.
    pub named: Vec<Capture>,
    /// Not yet: come again with them.
    pub deferred: Vec<Oid>,
}

/// What the source says an OID is.
pub type Identity = (Oid, Option<(ObjectKind, u64)>);

/// Asks the source.
pub trait Telling<E> {
    /// Descriptions, in the order of the OIDs.
    ///
    /// # Errors
    /// Whatever can go wrong between the two.
    fn describe(&mut self, oids: &[Oid]) -> Result<Vec<Surveyed>, E>;
    /// A part of what a directory holds; `None`: it is another one now.
    ///
    /// # Errors
    /// Likewise.
    fn entries(&mut self, directory: Oid, part: Part) -> Result<Option<Vec<Entry>>, E>;
    /// Where hashing of names begins.
    fn seed(&self) -> u64;
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Gradual {
    gone: BTreeSet<Oid>,
    slots_at_once: usize,
}

fn parked(oid: Oid) -> Place {
    Place::new(Parent::Object(PARKING), Place::staged(oid).name)
}

fn empty_delta() -> Delta {
    Delta::new(Lsn::ZERO, Vanished::Keep)
}

/// Everything in the parking directory is named after its label, whether the tree has taken that name or not: some of it
/// may have got another OID.
fn name_parked(site: &impl Site) -> Result<(), ResyncError> {
    for parent in [Parent::Object(PARKING), Parent::Refused(PARKING)] {
        for name in site.list(&parent)? {
            let at = Place::new(parent.clone(), name);
            let Some(label) = site.occupant(&at)?.and_then(|occupant| occupant.label) else { continue };
            let wanted = parked(label.oid);
            if at.name != wanted.name && site.seen(&wanted)?.is_none() {
                Tolerant(site).rename(&at, &wanted)?;
            }
        }
    }
    Ok(())
}

/// A directory that a crash left without its label, though what was made in it has labels: those wait, it goes.
fn empty_junk(site: &impl Site, at: Place) -> Result<(), ResyncError> {
    let staged = |at: Place, inode: u64| -> Result<Place, ResyncError> {
        let to = junk_place(inode);
        if at != to {
            site.rename(&at, &to)?;
        }
        Ok(to)
    };
    let Some(top) = site.occupant(&at)? else { return Ok(()) };
    let mut waiting = vec![staged(at, top.inode)?];
    while let Some(directory) = waiting.pop() {
        let above = Parent::Staged(directory.name.clone());
        for name in site.list(&above)? {
            let child = Place::new(above.clone(), name);
            let Some(occupant) = site.occupant(&child)? else { continue };
            match occupant.label {
                Some(label) if site.seen(&parked(label.oid))?.is_none() => {
                    Tolerant(site).rename(&child, &parked(label.oid))?;
                }
                None if occupant.kind.is_directory() => waiting.push(staged(child, occupant.inode)?),
                _ => site.remove(&child, occupant.kind)?,
            }
        }
        site.remove(&directory, ObjectKind::Directory)?;
    }
    Ok(site.barrier()?)
}

/// Objects here that are others at the source.
pub(super) fn make_way(site: &impl Site, identities: &[Identity]) -> Result<(), ResyncError> {
    let others = pool::map(identities, |(oid, theirs)| {
        let found = site.find(*oid)?;
        let ours = found.and_then(|found| Some((found.kind, found.label?.generation)));
        Ok::<_, ResyncError>(matches!((ours, theirs), (Some(ours), Some(theirs)) if ours != *theirs))
    })?;
    if !others.contains(&true) {
        return Ok(());
    }
    let (orphans, making) = (orphans(site)?, Making { site, delta: empty_delta() });
    for ((oid, _), _) in identities.iter().zip(others).filter(|(_, other)| *other) {
        making.cast_out(*oid, orphans.contains(oid))?;
    }
    Ok(site.barrier()?)
}

impl Gradual {
    pub fn begin(site: &impl Site) -> Result<Gradual, ResyncError> {
        Gradual::with(site, SLOTS_AT_ONCE)
    }

    pub fn with(site: &impl Site, slots_at_once: usize) -> Result<Gradual, ResyncError> {
        // Takes away what a crash left without its label, and puts into staging what was refused in directories that are gone.
        orphans(site)?;
        // Its own removal may have been cut off on the way.
        for name in site.list(&Parent::Staging)? {
            let at = Place::new(Parent::Staging, name);
            let label = site.occupant(&at)?.and_then(|occupant| occupant.label);
            if label.is_some_and(|label| label.oid == PARKING) {
                site.rename(&at, &Place::orphan(PARKING))?;
                site.bind(PARKING, &Place::orphan(PARKING))?;
            }
        }
        if site.find(PARKING)?.is_none() {
            let kind = ObjectKind::Directory;
            let birth = Birth { kind, generation: 0, rdev: 0, target: Box::default() };
            let label = Label {
                oid: PARKING,
                generation: 0,
                nlink: 0,
                mode: 0o700,
                ctime: Timestamp::default(),
                last_lsn: INCOMPLETE,
            };
            site.create(&Place::orphan(PARKING), &birth, &label)?;
            site.barrier()?;
        }
        name_parked(site)?;
        let mut delta = empty_delta();
        // What an attempt that was cut off had on its way waits like anything whose slot is not known.
        for name in site.list(&Parent::Staging)? {
            let at = Place::new(Parent::Staging, name);
            let Some(occupant) = site.occupant(&at)? else { continue };
            match occupant.label {
                None if occupant.kind.is_directory() => empty_junk(site, at)?,
                None => {}
                Some(label) => {
                    let target = Some(Target { oid: label.oid, kind: occupant.kind });
                    let slot = Slot { target, occupied_below: false };
                    delta.describe_slot(PARKING, parked(label.oid).name, slot);
                }
            }
        }
        apply_to(site, &delta)?;
        Ok(Gradual { gone: BTreeSet::new(), slots_at_once })
    }

    pub fn some<E: From<ResyncError>>(
        &mut self,
        site: &impl Site,
        survey: Vec<Surveyed>,
        telling: &mut dyn Telling<E>,
    ) -> Result<Installed, E> {
        let mut wanted = BTreeMap::new();
        for surveyed in survey {
            match surveyed {
                Surveyed::Here(capture) => drop(wanted.insert(capture.oid, *capture)),
                // Those are this node's own, and seen to at the end.
                Surveyed::Gone(oid) if oid >= FIRST_CAST_OUT => {}
                Surveyed::Gone(oid) => {
                    check_gone(oid)?;
                    self.gone.insert(oid);
                }
            }
        }
        check(&wanted.iter().map(|(oid, capture)| (*oid, capture)).collect())?;
        let mut work = Work {
            wanted,
            orphans: orphans(site)?,
            here: HashSet::new(),
            incomplete: HashSet::new(),
            next: Vec::new(),
        };
        work.attributes(site)?;
        let here = |(oid, capture): &(&Oid, &Capture)| capture.kind.is_directory() && work.here.contains(oid);
        let mut directories: Vec<Oid> = work.wanted.iter().filter(here).map(|(oid, _)| *oid).collect();
        while !directories.is_empty() {
            let (whole, parted): (Vec<Oid>, Vec<Oid>) =
                directories.iter().copied().partition(|oid| work.parts(*oid) == 0);
            let mut items = Vec::new();
            for oid in whole {
                items.extend(work.differing(site, oid)?);
            }
            for some in items.chunks(self.slots_at_once) {
                self.slots(site, some, &mut work, telling)?;
            }
            for oid in parted {
                self.in_parts(site, oid, &mut work, telling)?;
            }
            for capture in directories.iter().filter_map(|oid| work.wanted.get(oid)) {
                let times = (Some(capture.atime), Some(capture.mtime));
                Tolerant(site).set_times(capture.oid, times.0, times.1).map_err(ResyncError::from)?;
            }
            directories = std::mem::take(&mut work.next);
        }
        let Work { wanted, here, incomplete, .. } = work;
        let mut installed = Installed::default();
        for (oid, capture) in wanted {
            match here.contains(&oid) && !incomplete.contains(&oid) {
                true => installed.named.push(capture),
                false => installed.deferred.push(oid),
            }
        }
        Ok(installed)
    }

    /// Takes everything out of a directory, some names at a time.
    fn empty<E: From<ResyncError>>(
        &mut self,
        site: &impl Site,
        directory: Oid,
        work: &mut Work,
        telling: &mut dyn Telling<E>,
    ) -> Result<(), E> {
        let mut before = usize::MAX;
        loop {
            let left = Cell::new(0);
            let some = |_: &[u8]| {
                left.set(left.get() + 1);
                left.get() <= self.slots_at_once
            };
            let items = differing_some(site, directory, BTreeMap::new(), &some)?;
            if items.is_empty() || left.get() >= before {
                return Ok(());
            }
            before = left.get();
            self.slots(site, &items, work, telling)?;
        }
    }

    /// The slots of a directory that has too many for one description.
    fn in_parts<E: From<ResyncError>>(
        &mut self,
        site: &impl Site,
        directory: Oid,
        work: &mut Work,
        telling: &mut dyn Telling<E>,
    ) -> Result<(), E> {
        let (of, seed) = (work.parts(directory), telling.seed());
        if of > MAX_PARTS {
            return Err(ResyncError::Contradiction(directory).into());
        }
        for number in 0..of {
            let part = Part { number, of, seed };
            let Some(entries) = telling.entries(directory, part)? else {
                // It is among what changed.
                work.incomplete.insert(directory);
                return Ok(());
            };
            let wanted = parts::wanted(directory, part, entries)?;
            let items = differing_some(site, directory, wanted, &|name| part.holds(name))?;
            for some in items.chunks(self.slots_at_once) {
                self.slots(site, some, work, telling)?;
            }
        }
        Ok(())
    }

    /// Makes these slots what they should be, as one consistency point.
    fn slots<E: From<ResyncError>>(
        &mut self,
        site: &impl Site,
        items: &[Item],
        work: &mut Work,
        telling: &mut dyn Telling<E>,
    ) -> Result<(), E> {
        // Other slots of the same call may have moved what was here, or given it more names.
        let place = |item: &Item| Place::new(Parent::Object(item.directory), item.name.clone());
        let now = pool::map(items, |item| site.seen(&place(item)).map_err(ResyncError::from))?;
        let looked = |(item, now): (&Item, _)| Item { name: item.name.clone(), now, ..*item };
        let items: Vec<Item> = items.iter().zip(now).map(looked).collect();
        let items = items.as_slice();
        for item in items {
            if item.now.is_some_and(|now| now.label.is_none() && now.kind.is_directory()) {
                let at = place(item);
                let kept = at.refused().filter(|_| matches!(site.occupant(&at), Ok(None)));
                empty_junk(site, kept.unwrap_or(at))?;
            }
        }
        let children = work.missing_children(site, items, telling)?;
        let mut making = Making { site, delta: empty_delta() };
        let (mut born, mut parents) = (HashSet::new(), HashMap::new());
        let mut accepted: Vec<(&Item, Option<Target>)> = Vec::new();
        for item in items {
            let target = match item.target {
                None => None,
                Some(target) => {
                    let fits = work.fits(site, item.directory, target, &children, &parents)?;
                    if !fits {
                        work.incomplete.insert(item.directory);
                    }
                    fits.then_some(target)
                }
            };
            if let Some(target) = target {
                if target.kind.is_directory() {
                    parents.insert(target.oid, item.directory);
                }
                let capture = work.wanted.get(&target.oid).or_else(|| children.get(&target.oid));
                if let Some(capture) = capture
                    && !work.here.contains(&target.oid)
                    && site.find(target.oid).map_err(ResyncError::from)?.is_none()
                    && born.insert(target.oid)
                {
                    making.describe(capture, true)?;
                    if work.wanted.contains_key(&target.oid) {
                        work.here.insert(target.oid);
                        work.next.extend(target.kind.is_directory().then_some(target.oid));
                    }
                }
            }
            if target.is_some() || item.now.is_some() {
                accepted.push((item, target));
            }
        }
        self.losers(&accepted, &mut making, telling)?;
        for (item, target) in accepted {
            if let Some(target) = target
                && site.seen(&parked(target.oid)).map_err(ResyncError::from)?.is_some()
            {
                let slot = Slot { target: None, occupied_below: true };
                making.delta.describe_slot(PARKING, parked(target.oid).name, slot);
            }
            let slot = Slot { target, occupied_below: true };
            making.delta.describe_slot(item.directory, item.name.clone(), slot);
        }
        apply_to(site, &making.delta).map_err(ResyncError::from)?;
        Ok(())
    }

    /// What loses a name and is not given another one here: dead, or it waits for its slot.
    fn losers<E: From<ResyncError>>(
        &mut self,
        accepted: &[(&Item, Option<Target>)],
        making: &mut Making<'_, impl Site>,
        telling: &mut dyn Telling<E>,
    ) -> Result<(), E> {
        let placed: HashSet<Oid> = accepted.iter().filter_map(|(_, target)| Some((*target)?.oid)).collect();
        let mut lost: BTreeMap<Oid, (Occupant, u64)> = BTreeMap::new();
        for (item, _) in accepted {
            if let Some(occupant) = item.now
                && let Some(label) = occupant.label
                && !placed.contains(&label.oid)
            {
                lost.entry(label.oid).or_insert((occupant, 0)).1 += 1;
            }
        }
        let is_dead = |gone: &BTreeSet<Oid>, oid: &Oid| *oid >= FIRST_CAST_OUT || gone.contains(oid);
        let unknown: Vec<Oid> = lost
            .iter()
            .filter(|(oid, (occupant, _))| !occupant.kind.is_directory() && !is_dead(&self.gone, oid))
            .map(|(oid, _)| *oid)
            .collect();
        if !unknown.is_empty() {
            let described = telling.describe(&unknown)?;
            self.gone.extend(described.iter().filter_map(|surveyed| match surveyed {
                Surveyed::Gone(oid) => Some(*oid),
                Surveyed::Here(_) => None,
            }));
        }
        for (oid, (occupant, names)) in lost {
            let last = occupant.kind.is_directory() || names >= occupant.local_nlink;
            match last {
                // Another name stays.
                false => {}
                true if !occupant.kind.is_directory() && is_dead(&self.gone, &oid) => making.bury(oid),
                true => {
                    let target = Some(Target { oid, kind: occupant.kind });
                    let slot = Slot { target, occupied_below: false };
                    making.delta.describe_slot(PARKING, parked(oid).name, slot);
                }
            }
        }
        Ok(())
    }

    /// Removes what is gone. Returns what the source has and nobody placed.
    pub fn end<E: From<ResyncError>>(
        mut self,
        site: &impl Site,
        telling: &mut dyn Telling<E>,
    ) -> Result<Vec<Oid>, E> {
        loop {
            let mut progress = false;
            let mut dead: Vec<Oid> = std::mem::take(&mut self.gone).into_iter().collect();
            dead.extend(cast_out(site)?);
            for some in dead.chunks(DEAD_AT_ONCE) {
                progress |= self.dead(site, some, telling)?;
            }
            let left = pool::map(&dead, |oid| Ok::<_, ResyncError>(site.find(*oid)?.is_some()))?;
            let left = dead.into_iter().zip(left).filter(|(oid, left)| *left && *oid < FIRST_CAST_OUT);
            self.gone.extend(left.map(|(oid, _)| oid));
            if !progress {
                break;
            }
        }
        let (mut left, mut making) = (Vec::new(), Making { site, delta: empty_delta() });
        for name in site.seen_names(PARKING).map_err(ResyncError::from)? {
            let at = Place::new(Parent::Object(PARKING), name);
            let Some(occupant) = site.seen(&at).map_err(ResyncError::from)? else { continue };
            match occupant.kind.is_directory() || occupant.local_nlink < 2 {
                true => left.extend(oid_of_name(&at.name)),
                false => {
                    let slot = Slot { target: None, occupied_below: true };
                    making.delta.describe_slot(PARKING, at.name, slot);
                }
            }
        }
        if left.is_empty() {
            making.bury(PARKING);
        }
        apply_to(site, &making.delta).map_err(ResyncError::from)?;
        Ok(left)
    }

    /// Takes away what of these stands nowhere but in the parking directory or among the orphans. Whether there was any.
    fn dead<E: From<ResyncError>>(
        &mut self,
        site: &impl Site,
        dead: &[Oid],
        telling: &mut dyn Telling<E>,
    ) -> Result<bool, E> {
        self.gone.extend(dead.iter().filter(|oid| **oid < FIRST_CAST_OUT));
        let orphans = orphans(site)?;
        let mut work = Work {
            wanted: BTreeMap::new(),
            orphans,
            here: HashSet::new(),
            incomplete: HashSet::new(),
            next: Vec::new(),
        };
        let (mut making, mut any) = (Making { site, delta: empty_delta() }, false);
        for oid in dead {
            let Some(found) = site.find(*oid).map_err(ResyncError::from)? else { continue };
            let waits = site.seen(&parked(*oid)).map_err(ResyncError::from)?.is_some();
            if !waits && !work.orphans.contains(oid) {
                continue;
            }
            if found.kind.is_directory() {
                self.empty(site, *oid, &mut work, telling)?;
            }
            if waits {
                let slot = Slot { target: None, occupied_below: true };
                making.delta.describe_slot(PARKING, parked(*oid).name, slot);
            }
            making.bury(*oid);
            any = true;
        }
        apply_to(site, &making.delta).map_err(ResyncError::from)?;
        Ok(any)
    }
}

/// What made way for other objects.
fn cast_out(site: &impl Site) -> Result<Vec<Oid>, ResyncError> {
    let (mut found, mut from) = (Vec::new(), FIRST_CAST_OUT);
    loop {
        let some = site.known(from, DEAD_AT_ONCE)?;
        found.extend(some.iter().copied().filter(|oid| *oid != PARKING));
        match some.last() {
            Some(last) if some.len() == DEAD_AT_ONCE && last.0 < u64::MAX => from = Oid(last.0 + 1),
            _ => return Ok(found),
        }
    }
}
