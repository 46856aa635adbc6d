//! What the tree holds in every slot that a Delta touches, before anything is moved.
//!
//! Born directories may be there from an attempt that a crash cut short, so slots are looked at from the top
//! down: a born directory's own slots once it was found. An inode without a label in the slot of a born object
//! was made by such an attempt just before the crash; a directory or a file with one name is labelled now
//! (adopted), the only effect of a survey. An object that is found a second time as another inode (two attempts
//! made it) counts as unlabelled junk: the Delta describes born objects completely.
//!
//! What can go wrong: a directory that the Delta touches is not there, and nothing says where to make it
//! ([`ApplyError::Missing`]).

use ids::Oid;
use std::collections::{BTreeMap, HashMap, HashSet};

use crate::attributes::ObjectKind;
use crate::base::Label;
use crate::consistency::ApplyError;
use crate::delta::{Delta, ObjectDelta, ObjectState};
use crate::name::Name;
use crate::pool;
use crate::tree::{Occupant, Parent, Place, Tree, oid_of_name};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Touched slots and what stands for them, everything in staging, and the orphans that the Delta knows.
    pub slots: BTreeMap<Place, Standing>,
    /// Objects that exist although no surveyed slot holds them, by handle.
    pub elsewhere: HashMap<Oid, Occupant>,
    /// Objects that end although no surveyed slot holds them, and that still have a name somewhere.
    pub dead_elsewhere: HashSet<Oid>,
}

/// One slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Standing {
    /// What it holds now. Junk has no label here.
    pub now: Option<Occupant>,
    /// What it must hold.
    pub wanted: Option<Oid>,
}

/// The label that an object has when the Delta is applied.
pub(crate) fn final_label(oid: Oid, object: &ObjectDelta, before: Option<Label>) -> Label {
    let generation = object.born.as_ref().map(|birth| birth.generation);
    Label {
        oid,
        generation: generation.or(before.map(|label| label.generation)).unwrap_or_default(),
        nlink: object.attrs.nlink.or(before.map(|label| label.nlink)).unwrap_or(1),
        mode: object.attrs.mode.or(before.map(|label| label.mode)).unwrap_or_default(),
        ctime: object.attrs.ctime.or(before.map(|label| label.ctime)).unwrap_or_default(),
        last_lsn: object.last_lsn,
    }
}

impl Survey {
    /// Looks.
    pub fn take(tree: &impl Tree, delta: &Delta) -> Result<Survey, ApplyError> {
        let mut taking = Taking { tree, delta, survey: Survey::default(), inodes: HashMap::new() };
        taking.hidden()?;
        let old: Vec<Oid> = delta.directories().filter(|oid| !is_born(delta, *oid)).collect();
        let found = pool::map(&old, |oid| Ok::<_, ApplyError>(tree.find(*oid)?.is_some()))?;
        let mut open = Vec::new();
        for (oid, found) in old.into_iter().zip(found) {
            match delta.object(oid).map(|object| object.state) {
                _ if found => open.push(oid),
                // An earlier attempt has removed it already.
                Some(ObjectState::Dead) => {}
                _ => return Err(ApplyError::Missing(oid)),
            }
        }
        open.extend(taking.born_directories_in_hidden());
        taking.directories(open)?;
        taking.elsewhere()?;
        Ok(taking.survey)
    }
}

fn is_born(delta: &Delta, oid: Oid) -> bool {
    delta.object(oid).is_some_and(|object| object.born.is_some())
}

struct Taking<'a, T> {
    tree: &'a T,
    delta: &'a Delta,
    survey: Survey,
    /// Which inode an object is.
    inodes: HashMap<Oid, u64>,
}

impl<T: Tree> Taking<'_, T> {
    /// Staging and orphans.
    fn hidden(&mut self) -> Result<(), ApplyError> {
        for name in self.tree.list(&Parent::Staging)? {
            self.record(Place::new(Parent::Staging, name), None)?;
        }
        for name in self.tree.list(&Parent::Orphans)? {
            let Some(oid) = oid_of_name(&name) else { continue };
            let Some(object) = self.delta.object(oid) else { continue };
            // `Linked` says that the records did not touch this: nothing gives an orphan a name again.
            let wanted = (object.state != ObjectState::Dead).then_some(oid);
            self.record(Place::new(Parent::Orphans, name), wanted)?;
        }
        self.refused()?;
        for (oid, _) in self.delta.objects().filter(|(_, object)| object.state == ObjectState::Orphan) {
            let slot = self.survey.slots.entry(Place::orphan(oid));
            slot.or_insert(Standing { now: None, wanted: None }).wanted = Some(oid);
        }
        Ok(())
    }

    /// What stands for touched slots that the tree has refused goes to the slot itself, as from any other place: so it is
    /// tried again. Of a directory that is described completely, or is dead, that is everything.
    fn refused(&mut self) -> Result<(), ApplyError> {
        for directory in self.tree.remainder().directories() {
            let object = self.delta.object(directory);
            let all = object.is_some_and(|object| object.born.is_some() || object.state == ObjectState::Dead);
            for name in self.tree.list(&Parent::Refused(directory))? {
                if all || self.delta.slot(directory, name.as_ref()).is_some() {
                    self.record(Place::new(Parent::Refused(directory), name), None)?;
                }
            }
        }
        Ok(())
    }

    fn born_directories_in_hidden(&self) -> Vec<Oid> {
        self.survey.slots.values().filter_map(|slot| self.born_directory(slot.now?)).collect()
    }

    fn born_directory(&self, occupant: Occupant) -> Option<Oid> {
        let oid = occupant.label?.oid;
        (occupant.kind.is_directory() && is_born(self.delta, oid)).then_some(oid)
    }

    fn record(&mut self, at: Place, wanted: Option<Oid>) -> Result<(), ApplyError> {
        let now = self.tree.occupant(&at)?;
        self.record_seen(at, now, wanted)
    }

    fn record_seen(
        &mut self,
        at: Place,
        mut now: Option<Occupant>,
        wanted: Option<Oid>,
    ) -> Result<(), ApplyError> {
        if let Some(occupant) = &mut now
            && let Some(label) = occupant.label
        {
            let known = *self.inodes.entry(label.oid).or_insert(occupant.inode);
            if known != occupant.inode {
                occupant.label = None;
            } else if is_born(self.delta, label.oid) {
                self.tree.bind(label.oid, &at)?;
            }
        }
        self.survey.slots.insert(at, Standing { now, wanted });
        Ok(())
    }

    /// The slots of `open` and of every born directory that is found in them.
    fn directories(&mut self, mut open: Vec<Oid>) -> Result<(), ApplyError> {
        let mut done: HashSet<Oid> = HashSet::new();
        loop {
            let mut slots: Vec<(Place, Option<Oid>)> = Vec::new();
            for oid in open.drain(..).filter(|oid| done.insert(*oid)) {
                self.slots_of(oid, &mut slots)?;
            }
            let tree = self.tree;
            let seen = pool::map(&slots, |(at, _)| Ok::<_, ApplyError>(tree.occupant(at)?))?;
            for ((at, wanted), now) in slots.into_iter().zip(seen) {
                self.record_seen(at.clone(), now, wanted)?;
                let recorded = self.survey.slots.get(&at).and_then(|slot| slot.now);
                open.extend(recorded.and_then(|occupant| self.born_directory(occupant)));
            }
            if open.is_empty() {
                open = self.adopt_next()?;
            }
            if open.is_empty() {
                break;
            }
        }
        self.absent_directories(&done)
    }

    /// A born directory that is nowhere will be made; its slots are empty. Some slot must want it: a source that went
    /// on may have moved it to where nobody asked.
    fn absent_directories(&mut self, done: &HashSet<Oid>) -> Result<(), ApplyError> {
        let absent = |oid: &Oid| is_born(self.delta, *oid) && !done.contains(oid);
        let absent: Vec<Oid> = self.delta.directories().filter(absent).collect();
        for &parent in &absent {
            for (name, slot) in self.delta.slots_of(parent) {
                if let Some(target) = slot.target {
                    let at = Place::new(Parent::Object(parent), name.clone());
                    self.survey.slots.insert(at, Standing { now: None, wanted: Some(target.oid) });
                }
            }
        }
        let wanted: HashSet<Oid> = self.survey.slots.values().filter_map(|slot| slot.wanted).collect();
        let holds = |oid: &Oid| self.delta.slots_of(*oid).any(|(_, slot)| slot.target.is_some());
        match absent.into_iter().find(|oid| holds(oid) && !wanted.contains(oid)) {
            Some(oid) => Err(ApplyError::Missing(oid)),
            None => Ok(()),
        }
    }

    /// Every slot of a directory that has to be looked at: those that the Delta touches, and in a born directory
    /// all others too. The Delta describes it completely, so what else stands there came with an inode that an
    /// earlier attempt had made for another directory, and that was adopted for this one.
    fn slots_of(&self, oid: Oid, slots: &mut Vec<(Place, Option<Oid>)>) -> Result<(), ApplyError> {
        let at = |name: &Name| Place::new(Parent::Object(oid), name.clone());
        let mut touched = HashSet::new();
        for (name, slot) in self.delta.slots_of(oid) {
            touched.insert(name);
            slots.push((at(name), slot.target.map(|target| target.oid)));
        }
        if is_born(self.delta, oid) {
            let there = self.tree.list(&Parent::Object(oid))?;
            slots.extend(there.iter().filter(|name| !touched.contains(name)).map(|name| (at(name), None)));
        }
        Ok(())
    }

    /// Adopts what can be adopted, after everything with a label was found. Returns the directories among it.
    fn adopt_next(&mut self) -> Result<Vec<Oid>, ApplyError> {
        let mut adopted = Vec::new();
        for (at, slot) in &mut self.survey.slots {
            let (Some(occupant), Some(oid)) = (&mut slot.now, slot.wanted) else { continue };
            let Some(object) = self.delta.object(oid) else { continue };
            let adoptable = match occupant.kind {
                ObjectKind::Directory => true,
                ObjectKind::File => occupant.local_nlink == 1,
                _ => false,
            };
            let same_kind = object.born.as_ref().is_some_and(|birth| birth.kind == occupant.kind);
            let ours = adoptable && occupant.fresh;
            if occupant.label.is_some() || !same_kind || !ours || self.inodes.contains_key(&oid) {
                continue;
            }
            let label = final_label(oid, object, None);
            self.tree.adopt(at, &label)?;
            occupant.label = Some(label);
            self.inodes.insert(oid, occupant.inode);
            if occupant.kind.is_directory() {
                adopted.push(oid);
            }
        }
        Ok(adopted)
    }

    /// Wanted and dead objects that no surveyed slot holds.
    fn elsewhere(&mut self) -> Result<(), ApplyError> {
        let missing: HashSet<Oid> = self
            .survey
            .slots
            .values()
            .filter_map(|slot| slot.wanted)
            .filter(|oid| !self.inodes.contains_key(oid) && !is_born(self.delta, *oid))
            .collect();
        let missing: Vec<Oid> = missing.into_iter().collect();
        let found = pool::map(&missing, |oid| Ok::<_, ApplyError>(self.tree.find(*oid)?))?;
        for (oid, found) in missing.into_iter().zip(found) {
            self.survey.elsewhere.insert(oid, found.ok_or(ApplyError::Missing(oid))?);
        }
        let dead = self.delta.objects().filter(|(_, object)| object.state == ObjectState::Dead);
        let unseen: Vec<Oid> =
            dead.map(|(oid, _)| oid).filter(|oid| !self.inodes.contains_key(oid)).collect();
        let found = pool::map(&unseen, |oid| Ok::<_, ApplyError>(self.tree.find(*oid)?))?;
        // One that was just removed may still be found by its handle.
        let named = |occupant: Occupant| occupant.local_nlink > 0;
        let still_there = unseen.into_iter().zip(found).filter(|(_, found)| found.is_some_and(named));
        self.survey.dead_elsewhere = still_there.map(|(oid, _)| oid).collect();
        Ok(())
    }
}
