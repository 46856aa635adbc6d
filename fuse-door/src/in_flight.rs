//! Reads and writes that are under way: the kernel holds their pages locked until they are answered.
//!
//! Whoever invalidates a file without ending its calls leaves those pages out, and comes back to them: nobody is shown
//! them meanwhile, and waiting for them could take as long as the volume is frozen. (A thread that waits inside this
//! process for an answer of this process cannot even be killed.)
//!
//! Invariant: a call ends here before its answer is sent. So what was not left out is either not there yet, or locked
//! for no longer than it takes to send an answer.

use ids::Oid;
use runtime::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Unit of the kernel's pages.
const PAGE_BYTES: u64 = 4096;

/// A part of a file, in whole pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    /// The file.
    pub file: Oid,
    /// Where it begins.
    pub from: u64,
    /// Its length; 0 for the rest of the file.
    pub len_bytes: u64,
}

impl Part {
    /// All of a file.
    pub fn whole(file: Oid) -> Part {
        Part { file, from: 0, len_bytes: 0 }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct InFlight(Mutex<Calls>);

#[derive(Default)]
struct Calls {
    next: u64,
    parts: HashMap<u64, Part>,
}

/// A call that is under way until this is dropped.
pub(super) struct Call {
    calls: Arc<InFlight>,
    number: u64,
}

impl InFlight {
    /// A call for `len_bytes` from `offset` begins.
    pub fn begin(self: &Arc<Self>, file: Oid, offset: u64, len_bytes: u64) -> Call {
        let from = offset - offset % PAGE_BYTES;
        let end = offset.saturating_add(len_bytes.max(1)).div_ceil(PAGE_BYTES).saturating_mul(PAGE_BYTES);
        let mut calls = self.0.lock();
        calls.next += 1;
        let number = calls.next;
        calls.parts.insert(number, Part { file, from, len_bytes: end - from });
        drop(calls);
        Call { calls: Arc::clone(self), number }
    }

    /// What of these files no call holds, and the calls that hold the rest.
    pub fn gaps(&self, files: &[Oid]) -> (Vec<Part>, Vec<(u64, Part)>) {
        let held: Vec<(u64, Part)> = self.0.lock().parts.iter().map(|(n, part)| (*n, *part)).collect();
        let mut of_file: HashMap<Oid, Vec<Part>> = HashMap::new();
        for (_, part) in &held {
            of_file.entry(part.file).or_default().push(*part);
        }
        let mut gaps = Vec::with_capacity(files.len());
        for file in files {
            let mut parts = of_file.remove(file).unwrap_or_default();
            parts.sort_by_key(|part| part.from);
            let mut free_from = 0;
            for part in parts {
                if part.from > free_from {
                    gaps.push(Part { file: *file, from: free_from, len_bytes: part.from - free_from });
                }
                free_from = free_from.max(part.from + part.len_bytes);
            }
            gaps.push(Part { file: *file, from: free_from, len_bytes: 0 });
        }
        (gaps, held)
    }

    /// Of these calls: the parts of those that have ended, and the ones that have not.
    pub fn answered(&self, owed: Vec<(u64, Part)>) -> (Vec<Part>, Vec<(u64, Part)>) {
        let calls = self.0.lock();
        let (held, ended): (Vec<_>, Vec<_>) =
            owed.into_iter().partition(|(number, _)| calls.parts.contains_key(number));
        (ended.into_iter().map(|(_, part)| part).collect(), held)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.0.lock().parts.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(file: u64, from: u64, len_bytes: u64) -> Part {
        Part { file: Oid(file), from, len_bytes }
    }

    #[test]
    fn pages_of_calls_under_way_are_left_out_until_they_end() {
        let calls = Arc::new(InFlight::default());
        let first = calls.begin(Oid(1), 5000, 10);
        let second = calls.begin(Oid(1), 8192, 4096);
        let _at_the_beginning = calls.begin(Oid(2), 0, 1);
        let (gaps, held) = calls.gaps(&[Oid(1), Oid(2), Oid(3)]);
        assert_eq!(gaps, [part(1, 0, 4096), part(1, 12_288, 0), part(2, 4096, 0), part(3, 0, 0)]);
        assert_eq!(held.len(), 3);
        drop(first);
        let (ended, held) = calls.answered(held);
        assert_eq!((ended, held.len()), (vec![part(1, 4096, 4096)], 2));
        drop(second);
        assert_eq!(calls.gaps(&[Oid(1)]).0, [part(1, 0, 0)]);
    }
}
