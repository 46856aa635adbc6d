//! What one call of a gradual installation works on, and what of it is not yet as it should be.

use ids::Oid;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::super::ResyncError;
use super::super::capture::{Capture, Surveyed};
use super::super::install::{Making, Stands};
use super::super::site::Site;
use super::{PARKING, Telling, empty_delta, name_parked};
use crate::base::is_reserved_in_root;
use crate::consistency::apply_to;
use crate::delta::Target;
use crate::name::Name;
use crate::pool;
use crate::tree::{Occupant, Parent, Place};

/// A slot that is not as it should be.
pub(super) struct Item {
    pub directory: Oid,
    pub name: Name,
    pub now: Option<Occupant>,
    pub target: Option<Target>,
}

/// What one call works on.
pub(super) struct Work {
    pub wanted: BTreeMap<Oid, Capture>,
    pub orphans: HashSet<Oid>,
    /// Of those, what is in the tree.
    pub here: HashSet<Oid>,
    /// Directories with a slot that could not be made right.
    pub incomplete: HashSet<Oid>,
    /// Directories that were just made: their slots are next.
    pub next: Vec<Oid>,
}

/// Those of some slots of a directory that are not as wanted.
pub(super) fn differing_some(
    site: &impl Site,
    directory: Oid,
    mut wanted: BTreeMap<Name, Target>,
    some: &dyn Fn(&[u8]) -> bool,
) -> Result<Vec<Item>, ResyncError> {
    let hidden = |name: &[u8]| directory == Oid::ROOT && is_reserved_in_root(name);
    let here = site.seen_some_names(directory, &|name| some(name) && !hidden(name))?;
    let place = |name: &Name| Place::new(Parent::Object(directory), name.clone());
    let found = pool::map(&here, |name| site.seen(&place(name)))?;
    let mut items = Vec::new();
    for (name, now) in here.into_iter().zip(found) {
        let target = wanted.remove(&name);
        let oid = now.and_then(|occupant| occupant.label).map(|label| label.oid);
        if oid.is_none() || oid != target.map(|target| target.oid) {
            items.push(Item { directory, name, now, target });
        }
    }
    let missing = |(name, target)| Item { directory, name, now: None, target: Some(target) };
    items.extend(wanted.into_iter().map(missing));
    Ok(items)
}

impl Work {
    /// Attributes and xattrs of what is here; orphans of the source are made.
    pub fn attributes(&mut self, site: &impl Site) -> Result<(), ResyncError> {
        let mut making = Making { site, delta: empty_delta() };
        let captures: Vec<&Capture> = self.wanted.values().collect();
        let found = pool::map(&captures, |capture| making.stands(capture, &self.orphans))?;
        let mut way = false;
        for (capture, stands) in captures.into_iter().zip(found) {
            let born = match stands {
                Stands::Same => false,
                Stands::Absent => true,
                Stands::Other => {
                    making.cast_out(capture.oid, self.orphans.contains(&capture.oid))?;
                    way = true;
                    true
                }
            };
            if !born || capture.nlink == 0 {
                making.describe(capture, born)?;
                self.here.insert(capture.oid);
            }
        }
        if way {
            site.barrier()?;
            name_parked(site)?;
        }
        apply_to(site, &making.delta)?;
        Ok(())
    }

    /// Slots of a directory that are not as described; of one that is not described, all.
    pub fn differing(&self, site: &impl Site, directory: Oid) -> Result<Vec<Item>, ResyncError> {
        let mut wanted = BTreeMap::new();
        for entry in self.wanted.get(&directory).map_or(&[][..], |capture| &capture.entries) {
            let name = Name::new(&entry.name).map_err(|_| ResyncError::Contradiction(directory))?;
            wanted.insert(name, Target { oid: entry.oid, kind: entry.kind });
        }
        differing_some(site, directory, wanted, &|_| true)
    }

    /// In how many parts what a directory holds is told.
    pub fn parts(&self, directory: Oid) -> u32 {
        self.wanted.get(&directory).map_or(0, |capture| capture.parts)
    }

    /// Descriptions of what these slots want, that is not here, and that the caller did not bring.
    pub fn missing_children<E: From<ResyncError>>(
        &self,
        site: &impl Site,
        items: &[Item],
        telling: &mut dyn Telling<E>,
    ) -> Result<HashMap<Oid, Capture>, E> {
        let targets: BTreeSet<Oid> = items
            .iter()
            .filter_map(|item| Some(item.target?.oid))
            .filter(|oid| !self.wanted.contains_key(oid))
            .collect();
        let targets: Vec<Oid> = targets.into_iter().collect();
        let found = pool::map(&targets, |oid| Ok::<_, ResyncError>(site.find(*oid)?.is_some()))?;
        let missing: Vec<Oid> =
            targets.into_iter().zip(found).filter(|(_, found)| !found).map(|(oid, _)| oid).collect();
        let described = if missing.is_empty() { Vec::new() } else { telling.describe(&missing)? };
        let here = described.into_iter().filter_map(|surveyed| match surveyed {
            Surveyed::Here(capture) => Some((capture.oid, *capture)),
            Surveyed::Gone(_) => None,
        });
        Ok(here.collect())
    }

    /// Can this object be placed there now?
    pub fn fits(
        &self,
        site: &impl Site,
        directory: Oid,
        target: Target,
        children: &HashMap<Oid, Capture>,
        parents: &HashMap<Oid, Oid>,
    ) -> Result<bool, ResyncError> {
        let capture = self.wanted.get(&target.oid).or_else(|| children.get(&target.oid));
        if capture.is_some_and(|capture| capture.kind != target.kind || capture.nlink == 0) {
            return Ok(false);
        }
        let Some(found) = site.find(target.oid)? else { return Ok(capture.is_some()) };
        if found.kind != target.kind || self.orphans.contains(&target.oid) {
            return Ok(false);
        }
        if !target.kind.is_directory() {
            return Ok(true);
        }
        // Nothing may become its own ancestor, and nothing stands in two places.
        if parents.contains_key(&target.oid) {
            return Ok(false);
        }
        let (mut at, mut seen) = (directory, HashSet::new());
        while at != Oid::ROOT && at != PARKING && seen.insert(at) {
            if at == target.oid {
                return Ok(false);
            }
            at = match parents.get(&at) {
                Some(above) => *above,
                None => match site.reader().parent(at) {
                    Ok(above) => above,
                    // It waits, or was just made.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
                    Err(error) => return Err(ResyncError::Read(at, error)),
                },
            };
        }
        Ok(at != target.oid)
    }
}
