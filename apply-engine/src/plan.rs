//! The decisions of a consistency point: from what is there and what is wanted to steps in phases. Pure.
//!
//! 1. `stage`: directories that no touched slot holds, wherever an earlier attempt left them, go to staging.
//! 2. `vacate`: every touched slot that holds the wrong thing is emptied. Directories that live on always pass
//!    through staging, so that at any moment every edge of the tree is either staging's or a final one, and no
//!    move can make a cycle. Other objects go straight to their new slot in phase 4 unless somebody wants the
//!    slot they hold.
//! 3. `directories`: born directories are made, level by level.
//! 4. `place`: everything else goes to its slot or is made there; then `links`: further names of it.
//! 5. contents and attributes (decided per object by the executor), times of directories last.
//! 6. `cleanup`: dead directories and junk, when everything alive has left them.
//!
//! Steps of one phase are independent of each other. No object loses its last name before it has another one,
//! whichever part of the steps a crash lets survive: a sole name is only ever moved, never linked and removed.
//! Where an object can only be reached by handle its old name lies in junk; then a barrier precedes phase 6.
//!
//! What can go wrong: a tree that is not the one the records were made for; see [`ApplyError`].

use ids::Oid;
use std::collections::{BTreeMap, HashMap};

use crate::attributes::ObjectKind;
use crate::consistency::ApplyError;
use crate::delta::{Delta, ObjectState};
use crate::name::Name;
use crate::survey::Survey;
use crate::tree::{Occupant, Parent, Place};

/// One step on names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Moves a name to an empty slot.
    Rename { from: Place, to: Place },
    /// Gives an object one more name in an empty slot.
    Link { oid: Oid, to: Place },
    /// Makes a born object.
    Create { oid: Oid, at: Place },
    /// Takes a name away.
    Remove { at: Place, kind: ObjectKind },
    /// Takes a name away with all that is below it.
    RemoveAll { at: Place },
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Plan {
    pub stage: Vec<Oid>,
    pub vacate: Vec<Step>,
    pub directories: Vec<Vec<Step>>,
    pub place: Vec<Step>,
    pub links: Vec<Step>,
    pub barrier: bool,
    pub cleanup: Vec<Step>,
    /// Objects that end with all their names; whatever the index knows of them is forgotten. One that keeps a name
    /// which nobody asked to take away (a resync from a source that goes on describes it later) must stay known:
    /// else that name would lead to something that nobody can account for.
    pub dead: Vec<Oid>,
}

/// Where one object is and has to be.
#[derive(Default)]
struct Whereabouts {
    kind: Option<ObjectKind>,
    local_nlink: u64,
    keeps: usize,
    /// Slots that it must leave, and whether another object wants them.
    loses: Vec<(Place, bool)>,
    gains: Vec<Place>,
}

impl Plan {
    /// Decides.
    pub fn make(survey: &Survey, delta: &Delta) -> Result<Plan, ApplyError> {
        let mut plan = Plan::default();
        let mut objects: BTreeMap<Oid, Whereabouts> = BTreeMap::new();
        let mut dead_directories: Vec<(Oid, Step)> = Vec::new();
        // Names that dead objects keep.
        let mut kept: HashMap<Oid, u64> = HashMap::new();
        for (at, slot) in &survey.slots {
            let wanted = slot.wanted.is_some() || stands_for_another(survey, at, slot.now);
            if let Some(occupant) = slot.now {
                match occupant.label.map(|label| label.oid) {
                    None => plan.discard(at, occupant),
                    Some(oid) if is_dead(delta, oid) => {
                        let names = if occupant.kind.is_directory() { 1 } else { occupant.local_nlink };
                        let kept = kept.entry(oid).or_insert(names);
                        *kept = kept.saturating_sub(1);
                        dead_directories.extend(plan.bury(at, wanted, occupant, oid));
                    }
                    Some(oid) => {
                        let object = objects.entry(oid).or_default();
                        object.kind = Some(occupant.kind);
                        object.local_nlink = occupant.local_nlink;
                        match slot.wanted == Some(oid) {
                            true => object.keeps += 1,
                            false => object.loses.push((at.clone(), wanted)),
                        }
                    }
                }
            }
            if let Some(oid) = slot.wanted
                && slot.now.and_then(|occupant| occupant.label).map(|label| label.oid) != Some(oid)
            {
                objects.entry(oid).or_default().gains.push(at.clone());
            }
        }
        let mut created_directories = Vec::new();
        for (oid, mut object) in objects {
            let elsewhere = survey.elsewhere.get(&oid);
            object.kind = object.kind.or(elsewhere.map(|occupant| occupant.kind));
            match object.kind {
                None => plan.make_new(delta, oid, object, &mut created_directories)?,
                Some(ObjectKind::Directory) => plan.move_directory(oid, object)?,
                Some(_) => plan.move_other(oid, object)?,
            }
        }
        plan.directories = by_level(created_directories);
        // Children have higher OIDs more often than not, so most are empty when their turn comes.
        dead_directories.sort_unstable_by_key(|(oid, _)| std::cmp::Reverse(*oid));
        plan.cleanup.extend(dead_directories.into_iter().map(|(_, step)| step));
        let ends =
            |oid: &Oid| kept.get(oid).is_none_or(|kept| *kept == 0) && !survey.dead_elsewhere.contains(oid);
        let dead = delta.objects().filter(|(_, object)| object.state == ObjectState::Dead);
        plan.dead = dead.map(|(oid, _)| oid).filter(ends).collect();
        plan.dead.sort_unstable();
        Ok(plan)
    }

    /// Junk of an interrupted attempt.
    fn discard(&mut self, at: &Place, occupant: Occupant) {
        if !occupant.kind.is_directory() {
            self.vacate.push(Step::Remove { at: at.clone(), kind: occupant.kind });
            return;
        }
        // Out of staging's other places, too: something may be made there.
        let to = junk_place(occupant.inode);
        if *at != to {
            self.vacate.push(Step::Rename { from: at.clone(), to: to.clone() });
        }
        self.cleanup.push(Step::RemoveAll { at: to });
    }

    /// A dead object's name. A directory goes at the end, when it is empty.
    fn bury(&mut self, at: &Place, wanted: bool, occupant: Occupant, oid: Oid) -> Option<(Oid, Step)> {
        if !occupant.kind.is_directory() {
            self.vacate.push(Step::Remove { at: at.clone(), kind: occupant.kind });
            return None;
        }
        if !wanted {
            return Some((oid, Step::RemoveAll { at: at.clone() }));
        }
        let to = junk_place(occupant.inode);
        self.vacate.push(Step::Rename { from: at.clone(), to: to.clone() });
        Some((oid, Step::RemoveAll { at: to }))
    }

    fn make_new(
        &mut self,
        delta: &Delta,
        oid: Oid,
        object: Whereabouts,
        created_directories: &mut Vec<(Oid, Place)>,
    ) -> Result<(), ApplyError> {
        let birth = delta.object(oid).and_then(|object| object.born.as_ref());
        let kind = birth.map(|birth| birth.kind).ok_or(ApplyError::Missing(oid))?;
        let mut gains = object.gains.into_iter();
        let Some(first) = gains.next() else { return Ok(()) };
        match kind {
            ObjectKind::Directory => created_directories.push((oid, first)),
            _ => self.place.push(Step::Create { oid, at: first }),
        }
        self.links.extend(gains.map(|to| Step::Link { oid, to }));
        Ok(())
    }

    fn move_directory(&mut self, oid: Oid, object: Whereabouts) -> Result<(), ApplyError> {
        let staged = Place::staged(oid);
        match (object.loses.into_iter().next(), object.gains.into_iter().next()) {
            (None, None) => {}
            (Some((at, _)), None) => return Err(ApplyError::WouldLose { oid, at: at.to_string() }),
            (lost, Some(to)) => {
                match lost {
                    None => self.stage.push(oid),
                    Some((at, _)) if at == staged => {}
                    Some((from, _)) => self.vacate.push(Step::Rename { from, to: staged.clone() }),
                }
                self.place.push(Step::Rename { from: staged, to });
            }
        }
        Ok(())
    }

    fn move_other(&mut self, oid: Oid, object: Whereabouts) -> Result<(), ApplyError> {
        let kind = object.kind.unwrap_or(ObjectKind::File);
        let (mut loses, mut gains) = (object.loses, object.gains.into_iter());
        let Some(first) = gains.next() else {
            // Whatever names stay were not touched by the Delta.
            if let Some((at, _)) = loses.first()
                && object.local_nlink <= loses.len() as u64
            {
                return Err(ApplyError::WouldLose { oid, at: at.to_string() });
            }
            self.vacate.extend(loses.into_iter().map(|(at, _)| Step::Remove { at, kind }));
            return Ok(());
        };
        let free = loses.iter().position(|(_, wanted)| !wanted).unwrap_or(0);
        match loses.is_empty() {
            true => {
                self.barrier |= object.keeps == 0;
                self.links.push(Step::Link { oid, to: first });
            }
            false => {
                let (from, wanted) = loses.swap_remove(free);
                let from = match wanted {
                    false => from,
                    true => {
                        let staged = Place::staged(oid);
                        self.vacate.push(Step::Rename { from, to: staged.clone() });
                        staged
                    }
                };
                self.place.push(Step::Rename { from, to: first });
            }
        }
        self.vacate.extend(loses.into_iter().map(|(at, _)| Step::Remove { at, kind }));
        self.links.extend(gains.map(|to| Step::Link { oid, to }));
        Ok(())
    }
}

/// Whether another object may have to stand here, because the tree refuses it in the slot that this stands for.
fn stands_for_another(survey: &Survey, at: &Place, now: Option<Occupant>) -> bool {
    let Parent::Refused(directory) = at.parent else { return false };
    let slot = survey.slots.get(&Place::new(Parent::Object(directory), at.name.clone()));
    let wanted = slot.and_then(|slot| slot.wanted);
    wanted.is_some() && wanted != now.and_then(|occupant| occupant.label).map(|label| label.oid)
}

fn is_dead(delta: &Delta, oid: Oid) -> bool {
    delta.object(oid).is_some_and(|object| object.state == ObjectState::Dead)
}

/// Where a directory waits to be taken apart. No object's OID names it.
pub(crate) fn junk_place(inode: u64) -> Place {
    let name = Name::new(format!("junk-{inode}").as_bytes()).expect("letters and digits are a legal name");
    Place::new(Parent::Staging, name)
}

/// Where an object is made that goes to its slot at once. A crash leaves it there as it leaves what is on its way, or without a
/// label, and then it is junk.
pub(crate) fn birth_place(oid: Oid) -> Place {
    let name = Name::new(format!("birth-{}", oid.0).as_bytes()).expect("letters and digits are a legal name");
    Place::new(Parent::Staging, name)
}

/// Directories to be made, in levels: a level's parents are old or in the levels before it.
fn by_level(directories: Vec<(Oid, Place)>) -> Vec<Vec<Step>> {
    let parents: HashMap<Oid, Option<Oid>> = directories
        .iter()
        .map(|(oid, at)| match at.parent {
            Parent::Object(parent) => (*oid, Some(parent)),
            _ => (*oid, None),
        })
        .collect();
    let mut levels: HashMap<Oid, usize> = HashMap::new();
    for (oid, _) in &directories {
        let mut chain = Vec::new();
        let mut at = Some(*oid);
        // Ends: a parent chain is finite, and everything known stops it.
        while let Some(oid) = at.filter(|oid| parents.contains_key(oid) && !levels.contains_key(oid)) {
            assert!(chain.len() <= parents.len(), "a directory is its own ancestor in the Delta: {oid}");
            chain.push(oid);
            at = parents[&oid];
        }
        let lowest = at.and_then(|oid| levels.get(&oid)).map_or(0, |level| level + 1);
        levels.extend(chain.into_iter().rev().zip(lowest..));
    }
    let mut steps: Vec<Vec<Step>> = Vec::new();
    for (oid, at) in directories {
        let level = levels[&oid];
        steps.resize_with(steps.len().max(level + 1), Vec::new);
        steps[level].push(Step::Create { oid, at });
    }
    steps
}
