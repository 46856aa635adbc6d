//! Memory for a ring, two ends of a link, and bytes that can be told apart. Shared by tests.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use ids::{ChainCrc, LogMemory, LogPoint, Lsn, VolumeId};
use rdma_transport::{Link, LinkParams, shm, tcp};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

pub const WAIT: Duration = Duration::from_secs(5);

/// A ring in a memfd.
pub struct TestMemory {
    fd: OwnedFd,
    base: *mut u8,
    len_bytes: u64,
}

// SAFETY: the mapping lives as long as the value, and everybody copies through raw pointers.
unsafe impl Send for TestMemory {}
// SAFETY: as above.
unsafe impl Sync for TestMemory {}
// SAFETY: `base` is a mapping of `len_bytes` that lives as long as the value.
unsafe impl LogMemory for TestMemory {
    fn base(&self) -> *mut u8 {
        self.base
    }
    fn capacity_bytes(&self) -> u64 {
        self.len_bytes
    }
    fn shared_fd(&self) -> Option<(RawFd, u64)> {
        Some((self.fd.as_raw_fd(), 0))
    }
}

impl TestMemory {
    pub fn new(len_bytes: u64) -> Arc<TestMemory> {
        use rustix::mm::{MapFlags, ProtFlags};
        let fd = rustix::fs::memfd_create("test-ring", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, len_bytes).unwrap();
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len_bytes as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &fd,
                0,
            )
        };
        Arc::new(TestMemory { fd, base: base.unwrap().cast(), len_bytes })
    }

    pub fn put(&self, at: u64, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: inside the mapping.
            unsafe { self.base.add(((at + i as u64) % self.len_bytes) as usize).write_volatile(*byte) }
        }
    }

    pub fn get(&self, at: u64, len: usize) -> Vec<u8> {
        // SAFETY: inside the mapping.
        let byte = |i| unsafe { self.base.add(((at + i as u64) % self.len_bytes) as usize).read_volatile() };
        (0..len).map(byte).collect()
    }
}

impl Drop for TestMemory {
    fn drop(&mut self) {
        // SAFETY: nobody holds a pointer into the mapping any more.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.len_bytes as usize) };
    }
}

pub fn point(lsn: u64) -> LogPoint {
    LogPoint { lsn: Lsn(lsn), crc: ChainCrc(lsn as u32 ^ 0x5a5a) }
}

/// Bytes whose place shows.
pub fn pattern(at: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| ((at + i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Tcp,
    Shm,
}

pub struct Ends {
    pub a: Link,
    pub b: Link,
    pub memory_a: Arc<TestMemory>,
    pub memory_b: Arc<TestMemory>,
    pub params_a: LinkParams,
    pub params_b: LinkParams,
}

pub const VOLUME: VolumeId = VolumeId([3; 16]);

pub fn params(local: &str, peer: &str) -> LinkParams {
    LinkParams::new(VOLUME, local.parse().unwrap(), peer.parse().unwrap())
}

/// A link of two nodes in this process; `a` connects.
pub fn link(kind: Kind, capacity_bytes: u64, change: impl Fn(&mut LinkParams)) -> Ends {
    let (memory_a, memory_b) = (TestMemory::new(capacity_bytes), TestMemory::new(capacity_bytes));
    let (mut params_a, mut params_b) = (params("a", "b"), params("b", "a"));
    change(&mut params_a);
    change(&mut params_b);
    let (a, b) = match kind {
        Kind::Tcp => {
            let listener = tcp::Listener::bind("127.0.0.1:0").unwrap();
            let acceptor = listener.register(params_b.clone(), memory_b.clone()).unwrap();
            let a = tcp::connect(&listener.local_addr().to_string(), &params_a, memory_a.clone()).unwrap();
            (a, acceptor.accept(WAIT).unwrap().unwrap())
        }
        Kind::Shm => {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("link.sock");
            let listener = shm::Listener::bind(&path).unwrap();
            let acceptor = listener.register(params_b.clone(), memory_b.clone()).unwrap();
            std::thread::scope(|scope| {
                let accepting = scope.spawn(|| acceptor.accept(WAIT).unwrap().unwrap());
                let a = shm::connect(&path, &params_a, memory_a.clone()).unwrap();
                (a, accepting.join().unwrap())
            })
        }
    };
    Ends { a, b, memory_a, memory_b, params_a, params_b }
}

impl Ends {
    /// Both directions positioned at `lsn`, both fences open.
    pub fn started(mut self, lsn: u64) -> Ends {
        for link in [&mut self.a, &mut self.b] {
            link.sender.start(point(lsn)).unwrap();
            link.receiver.start(point(lsn)).unwrap();
            link.fence.grant();
        }
        self
    }
}
