//! A bounded cache of open descriptors by OID.
//!
//! Two generations instead of a linked list: a hit in the old one moves to the young one, and when the young
//! one is full it becomes the old one, whose contents are closed. Never more than `capacity` inodes are kept;
//! whoever still uses an evicted one holds its own reference.

use ids::Oid;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

use super::inode::Inode;

#[derive(Default)]
struct Generations {
    young: HashMap<Oid, Arc<Inode>>,
    old: HashMap<Oid, Arc<Inode>>,
}

/// See the module.
pub(crate) struct DescriptorCache {
    half: usize,
    generations: Mutex<Generations>,
}

impl DescriptorCache {
    /// Keeps at most `capacity` (at least 2) inodes open.
    pub(crate) fn new(capacity: usize) -> DescriptorCache {
        DescriptorCache { half: (capacity / 2).max(1), generations: Mutex::default() }
    }

    pub(crate) fn get(&self, oid: Oid) -> Option<Arc<Inode>> {
        let mut generations = self.generations.lock();
        if let Some(inode) = generations.young.get(&oid) {
            return Some(inode.clone());
        }
        let inode = generations.old.remove(&oid)?;
        let closed = self.insert_locked(&mut generations, inode.clone());
        drop(generations);
        drop(closed);
        Some(inode)
    }

    pub(crate) fn insert(&self, inode: Arc<Inode>) {
        let closed = self.insert_locked(&mut self.generations.lock(), inode);
        drop(closed);
    }

    pub(crate) fn remove(&self, oid: Oid) {
        let mut generations = self.generations.lock();
        let removed = (generations.young.remove(&oid), generations.old.remove(&oid));
        drop(generations);
        drop(removed);
    }

    /// The evicted ones are returned, so that they are closed outside of the lock.
    fn insert_locked(&self, generations: &mut Generations, inode: Arc<Inode>) -> HashMap<Oid, Arc<Inode>> {
        generations.old.remove(&inode.oid());
        generations.young.insert(inode.oid(), inode);
        match generations.young.len() > self.half {
            true => {
                let young = std::mem::take(&mut generations.young);
                std::mem::replace(&mut generations.old, young)
            }
            false => HashMap::new(),
        }
    }
}
