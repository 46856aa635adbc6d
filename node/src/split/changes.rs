//! What one node changed since a point of its log: found by labels in its base and by what its log holds beyond that.
//!
//! Invariant: whatever was acknowledged on this node after the point is found, applied or not, for a record's objects
//! are in the Delta until the base carries their labels. An object that was changed before the point may be shown too
//! (one that a resync left incomplete). What can go wrong: the base cannot be read; a walk that goes on while clients
//! change the tree leaves out what goes away meanwhile.

use apply_engine::resync::{self, ResyncError};
use apply_engine::{Base, Layers, ObjectKind, Operation, ViewError};
use config::ByteSize;
use ids::{Lsn, Oid};
use nvlog::{Log, RecordKind};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Labels that are looked at before it is asked whether to go on.
const LABELS_AT_ONCE: usize = 4096;
/// Removed names that are remembered; more are counted.
const MAX_REMOVED: usize = 100_000;
/// Removed directories inside removed directories that a path is followed through.
const MAX_DEPTH: usize = 256;

/// Why the changes cannot be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangesError {
    /// The tree.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The labels.
    #[error(transparent)]
    Labels(#[from] ResyncError),
    /// What the log holds does not fit.
    #[error(
        "to look at the {} of this node's log that its tree does not hold yet takes more than {} of memory, which is what \
         can be spared here: free memory, or raise the limit of the service, and try again; nothing was changed",
        ByteSize(*.log_bytes), ByteSize(*.spare_bytes)
    )]
    Memory { log_bytes: u64, spare_bytes: u64 },
    /// Nobody wants to know any more.
    #[error("it was ended")]
    Ended,
}

/// Asked now and then whether to go on.
pub(crate) type GoOn<'a> = &'a dyn Fn() -> bool;

/// A name that leads to a changed object.
pub(crate) struct Entry {
    /// From the volume's root, without a slash before it.
    pub path: Vec<u8>,
    pub oid: Oid,
    pub kind: ObjectKind,
}

/// A node's tree as clients of it would see it, and what of it was changed.
pub(crate) struct Changes<'a> {
    /// The newest state; taken for each look anew, because a state that is kept holds consistency points up.
    layers: Box<dyn Fn() -> Arc<Layers> + 'a>,
    /// `None`: whatever there is.
    changed: Option<HashSet<Oid>>,
}

impl<'a> Changes<'a> {
    /// Looks for what was changed at or after `since`; `None` takes everything for changed.
    pub fn find(
        base: &Base,
        layers: impl Fn() -> Arc<Layers> + 'a,
        since: Option<Lsn>,
        go_on: GoOn<'_>,
    ) -> Result<Changes<'a>, ChangesError> {
        let Some(since) = since else { return Ok(Changes { layers: Box::new(layers), changed: None }) };
        let mut changed = HashSet::new();
        {
            // Before the labels: what is applied meanwhile is found in either.
            let now = layers();
            let active = Arc::clone(&now.active.read());
            for delta in now.sealed.iter().chain([&active]) {
                let late = delta.objects().filter(|(_, object)| object.last_lsn >= since);
                changed.extend(late.map(|(oid, _)| oid));
            }
        }
        let mut at = Some(Oid(0));
        while let Some(oid) = at {
            if !go_on() {
                return Err(ChangesError::Ended);
            }
            let (labels, next) = resync::labels(base, oid, LABELS_AT_ONCE)?;
            changed.extend(labels.iter().filter(|label| label.last_lsn >= since).map(|label| label.oid));
            at = next;
        }
        Ok(Changes { layers: Box::new(layers), changed: Some(changed) })
    }

    /// The newest state. Not to be kept for long on a node that serves.
    pub fn layers(&self) -> Arc<Layers> {
        (self.layers)()
    }

    /// Shows every name of every changed object but the root, directories before what is in them; and the path of
    /// every directory in `parents` is added to `paths`.
    pub fn walk<E: From<ChangesError>>(
        &self,
        go_on: GoOn<'_>,
        parents: &HashSet<Oid>,
        paths: &mut HashMap<Oid, Vec<u8>>,
        mut show: impl FnMut(&Layers, Entry) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut waiting = vec![(Oid::ROOT, Vec::new())];
        while let Some((directory, path)) = waiting.pop() {
            if !go_on() {
                return Err(ChangesError::Ended.into());
            }
            if parents.contains(&directory) {
                paths.insert(directory, path.clone());
            }
            let listing = match self.layers().listing(directory) {
                Ok(listing) => listing,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(ChangesError::View(error).into()),
            };
            let mut entries = listing.entries().to_vec();
            entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            let mut below = Vec::new();
            for entry in entries {
                let mut path = path.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend(entry.name.as_bytes());
                if entry.kind.is_directory() {
                    below.push((entry.oid, path.clone()));
                }
                if self.changed.as_ref().is_none_or(|changed| changed.contains(&entry.oid)) {
                    let layers = self.layers();
                    show(&layers, Entry { path, oid: entry.oid, kind: entry.kind })?;
                }
            }
            waiting.extend(below.into_iter().rev());
        }
        Ok(())
    }
}

/// The object went away, or never came into the base.
fn is_gone(error: &ViewError) -> bool {
    match error {
        ViewError::NoObject(_) => true,
        ViewError::Base { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        ViewError::Log(_) => false,
    }
}

/// Names that records at or after a point took away.
#[derive(Default)]
pub(crate) struct Removed {
    names: BTreeMap<(Oid, Vec<u8>), Oid>,
    beyond: u64,
}

impl Removed {
    /// Reads what of the log was not trimmed yet; a record that cannot be read ends it.
    pub fn read(log: &Log, since: Lsn) -> Removed {
        let (mut removed, mut buffer) = (Removed::default(), Vec::new());
        for record in log.records(log.tail(), log.end().lsn) {
            let Ok(record) = record else { break };
            if record.kind != RecordKind::Data || record.lsn < since {
                continue;
            }
            let mut first = [0];
            if log.copy_out(record.payload_lsn, &mut first[..record.payload_len.min(1)]).is_err() {
                break;
            }
            buffer.resize(Operation::head_bytes_needed(first[0], record.payload_len), 0);
            if log.copy_out(record.payload_lsn, &mut buffer).is_err() {
                break;
            }
            match Operation::decode(&buffer, record.payload_len as u64) {
                Ok(Operation::Unlink { parent, name, object, .. }) => {
                    removed.add(parent, name.as_bytes(), object.oid);
                }
                Ok(Operation::Rename { from_parent, from_name, moved, .. }) => {
                    removed.add(from_parent, from_name.as_bytes(), moved.oid);
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        removed
    }

    /// This name was taken away.
    pub fn add(&mut self, parent: Oid, name: &[u8], object: Oid) {
        match self.names.len() < MAX_REMOVED {
            true => drop(self.names.insert((parent, name.to_vec()), object)),
            false => self.beyond += 1,
        }
    }

    /// The directories that names were taken from.
    pub fn parents(&self) -> HashSet<Oid> {
        self.names.keys().map(|(parent, _)| *parent).collect()
    }

    /// Their paths, without those that have come back, and how many more there are. `paths` tells where the
    /// directories are that are still there.
    pub fn paths(&self, layers: &Layers, paths: &HashMap<Oid, Vec<u8>>) -> (Vec<Vec<u8>>, u64) {
        let from: HashMap<Oid, (Oid, &[u8])> =
            self.names.iter().map(|((parent, name), object)| (*object, (*parent, name.as_slice()))).collect();
        let mut told = Vec::new();
        for (parent, name) in self.names.keys() {
            let back = apply_engine::Name::new(name)
                .is_ok_and(|name| layers.lookup(*parent, name.as_ref()).is_ok_and(|found| found.is_some()));
            if back {
                continue;
            }
            // Directories that were removed themselves stand where their own name stood.
            let (mut path, mut at) = (name.clone(), *parent);
            for _ in 0..MAX_DEPTH {
                if let Some(above) = paths.get(&at) {
                    path = join(above, &path);
                    break;
                }
                let Some((above, name)) = from.get(&at) else {
                    path = join(format!("({at})").as_bytes(), &path);
                    break;
                };
                path = join(name, &path);
                at = *above;
            }
            told.push(path);
        }
        told.sort_unstable();
        (told, self.beyond)
    }
}

fn join(above: &[u8], path: &[u8]) -> Vec<u8> {
    match above.is_empty() {
        true => path.to_vec(),
        false => [above, b"/", path].concat(),
    }
}

/// A path for people and for one line of a list.
pub(crate) fn shown(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => path.escape_ascii().to_string(),
    }
}
