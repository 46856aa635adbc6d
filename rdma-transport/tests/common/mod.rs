//! Memory for a ring, two ends of a link, and bytes that can be told apart. Shared by tests.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use ids::{ChainCrc, LogMemory, LogPoint, Lsn, VolumeId};
#[cfg(feature = "verbs")]
use rdma_transport::LinkError;
use rdma_transport::tls::{DoorKeys, LinkKeys, PrivateKey};
#[cfg(feature = "verbs")]
use rdma_transport::verbs;
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
        assert!(bytes.len() as u64 <= self.len_bytes);
        let offset = (at % self.len_bytes) as usize;
        let (first, second) = bytes.split_at(bytes.len().min(self.len_bytes as usize - offset));
        // SAFETY: both parts lie inside the mapping, as is asserted.
        unsafe {
            self.base.add(offset).copy_from_nonoverlapping(first.as_ptr(), first.len());
            self.base.copy_from_nonoverlapping(second.as_ptr(), second.len());
        }
    }

    pub fn get(&self, at: u64, len: usize) -> Vec<u8> {
        assert!(len as u64 <= self.len_bytes);
        let offset = (at % self.len_bytes) as usize;
        let mut bytes = vec![0; len];
        let (first, second) = bytes.split_at_mut(len.min(self.len_bytes as usize - offset));
        // SAFETY: both parts lie inside the mapping.
        unsafe {
            self.base.add(offset).copy_to_nonoverlapping(first.as_mut_ptr(), first.len());
            self.base.copy_to_nonoverlapping(second.as_mut_ptr(), second.len());
        }
        bytes
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
    let words = at / 8..(at + len as u64).div_ceil(8);
    let bytes: Vec<u8> =
        words.flat_map(|word| (word + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()).collect();
    bytes[(at % 8) as usize..][..len].to_vec()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Tcp,
    /// With keys: TLS.
    TcpKeys,
    Shm,
    ShmKeys,
    #[cfg(feature = "verbs")]
    Verbs,
    #[cfg(feature = "verbs")]
    VerbsKeys,
}

impl Kind {
    pub fn has_keys(self) -> bool {
        match self {
            Kind::Tcp | Kind::Shm => false,
            Kind::TcpKeys | Kind::ShmKeys => true,
            #[cfg(feature = "verbs")]
            Kind::Verbs => false,
            #[cfg(feature = "verbs")]
            Kind::VerbsKeys => true,
        }
    }

    /// Gives both their keys, for the kinds that have some.
    fn give_keys(self, a: &mut LinkParams, b: &mut LinkParams) {
        if self.has_keys() {
            let (own_a, own_b) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
            let (public_a, public_b) = (own_a.public(), own_b.public());
            a.keys = Some(LinkKeys { own: own_a, peer: public_b });
            b.keys = Some(LinkKeys { own: own_b, peer: public_a });
        }
    }
}

/// The keys that a listener for these parameters has.
pub fn door_keys(params: &LinkParams) -> Option<DoorKeys> {
    params.keys.clone().map(DoorKeys::from)
}

/// Says that the tests shall use this machine's RDMA device, and fail where there is none.
pub const RDMA: &str = "TWINFILER_RDMA";

/// Whether tests that need an RDMA device run here; says so when they do not.
pub fn has_rdma(test: &str) -> bool {
    let wanted = std::env::var_os(RDMA).is_some_and(|value| value == "1");
    if !wanted {
        eprintln!("SKIPPED over verbs: {test} ({RDMA}=1 is not set: no RDMA device is promised here)");
    }
    wanted
}

/// The transports that can be tested here.
pub fn kinds() -> Vec<Kind> {
    #[allow(unused_mut)]
    let mut kinds = vec![Kind::Tcp, Kind::TcpKeys, Kind::Shm, Kind::ShmKeys];
    #[cfg(feature = "verbs")]
    if has_rdma(std::thread::current().name().unwrap_or("this test")) {
        kinds.extend([Kind::Verbs, Kind::VerbsKeys]);
    }
    kinds
}

/// A ring in the RDMA device that is chosen without configuration.
#[cfg(feature = "verbs")]
pub fn domain(settings: &verbs::Settings, memory: &Arc<TestMemory>) -> Arc<verbs::Domain> {
    match verbs::Domain::open(settings, memory.clone()) {
        Ok(domain) => domain,
        Err(error) => panic!("{RDMA}=1 promises an RDMA device: {error}"),
    }
}

/// A link between two rings in RDMA devices of this machine; `a` connects.
#[cfg(feature = "verbs")]
pub fn verbs_link(
    (params_a, params_b): (&LinkParams, &LinkParams),
    (domain_a, domain_b): (&Arc<verbs::Domain>, &Arc<verbs::Domain>),
) -> (Result<Link, LinkError>, Result<Option<Link>, LinkError>) {
    let listener = tcp::Listener::bind_with("127.0.0.1:0", door_keys(params_b)).unwrap();
    let acceptor = verbs::register(&listener, params_b.clone(), domain_b.clone()).unwrap();
    std::thread::scope(|scope| {
        let accepting = scope.spawn(|| acceptor.accept(WAIT));
        let a = verbs::connect(&listener.local_addr().to_string(), params_a, domain_a.clone());
        (a, accepting.join().unwrap())
    })
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
    kind.give_keys(&mut params_a, &mut params_b);
    change(&mut params_a);
    change(&mut params_b);
    let (a, b) = match kind {
        Kind::Tcp | Kind::TcpKeys => {
            let listener = tcp::Listener::bind_with("127.0.0.1:0", door_keys(&params_b)).unwrap();
            let acceptor = listener.register(params_b.clone(), memory_b.clone()).unwrap();
            let a = tcp::connect(&listener.local_addr().to_string(), &params_a, memory_a.clone()).unwrap();
            (a, acceptor.accept(WAIT).unwrap().unwrap())
        }
        Kind::Shm | Kind::ShmKeys => {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("link.sock");
            let listener = shm::Listener::bind_with(&path, door_keys(&params_b)).unwrap();
            let acceptor = listener.register(params_b.clone(), memory_b.clone()).unwrap();
            std::thread::scope(|scope| {
                let accepting = scope.spawn(|| acceptor.accept(WAIT).unwrap().unwrap());
                let a = shm::connect(&path, &params_a, memory_a.clone()).unwrap();
                (a, accepting.join().unwrap())
            })
        }
        #[cfg(feature = "verbs")]
        Kind::Verbs | Kind::VerbsKeys => {
            let settings = verbs::Settings::default();
            let (domain_a, domain_b) = (domain(&settings, &memory_a), domain(&settings, &memory_b));
            let (a, b) = verbs_link((&params_a, &params_b), (&domain_a, &domain_b));
            (a.unwrap(), b.unwrap().unwrap())
        }
    };
    Ends { a, b, memory_a, memory_b, params_a, params_b }
}

impl Ends {
    /// Lets both know that the other has done what it did: a right to write is relied on only after a message.
    pub fn told(&self) {
        for (from, to) in [(&self.a, &self.b), (&self.b, &self.a)] {
            from.control.send(b"done").unwrap();
            assert_eq!(to.control.recv(WAIT).unwrap().as_deref(), Some(&b"done"[..]));
        }
    }

    /// Both directions positioned at `lsn`, both fences open.
    pub fn started(mut self, lsn: u64) -> Ends {
        for link in [&mut self.a, &mut self.b] {
            link.sender.start(point(lsn)).unwrap();
            link.receiver.start(point(lsn)).unwrap();
            link.fence.grant();
        }
        self.told();
        self
    }
}
