//! What is open in the kernel's eyes, and answers that are on their way.
//!
//! Invariant: what was counted as open for a client is counted off again, also when the client never hears of it.

use apply_engine::Attributes;
use fuser::FileHandle;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use volume::{Access, DirectoryStream, Errno, Volume};

/// Open directories by the handle that the kernel has of them.
#[derive(Default)]
pub(super) struct Directories {
    open: Mutex<HashMap<u64, Arc<DirectoryStream>>>,
    next: AtomicU64,
}

impl Directories {
    pub fn add(&self, stream: DirectoryStream) -> FileHandle {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(handle, Arc::new(stream));
        FileHandle(handle)
    }

    pub fn get(&self, handle: FileHandle) -> Result<Arc<DirectoryStream>, Errno> {
        self.open.lock().get(&handle.0).cloned().ok_or(Errno::EINVAL)
    }

    /// Closes all; those that were open.
    pub fn remove_all(&self) -> Vec<Arc<DirectoryStream>> {
        self.open.lock().drain().map(|(_, stream)| stream).collect()
    }

    pub fn remove(&self, handle: FileHandle) -> Option<Arc<DirectoryStream>> {
        self.open.lock().remove(&handle.0)
    }
}

/// A file that was opened while it was made. If its answer is never given, the kernel never closes it: this does.
pub(super) struct MadeOpen {
    pub volume: Arc<Volume>,
    pub made: Attributes,
    pub answered: bool,
}

impl Drop for MadeOpen {
    fn drop(&mut self) {
        if !self.answered {
            self.volume.release(self.made.oid, Access::Write);
        }
    }
}

/// An answer that is filled at one place and given at another.
type Filled<R> = Arc<Mutex<Option<R>>>;

/// Both ends of a [`Filled`].
pub(super) fn shared<R>(reply: R) -> (Filled<R>, Filled<R>) {
    let reply = Arc::new(Mutex::new(Some(reply)));
    (reply.clone(), reply)
}
