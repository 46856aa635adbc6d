//! The open device and the log's ring in it.

use super::device::{Device, DeviceList, library_available};
use super::error::VerbsError;
use super::pieces;
use super::port::{Choice, choose, mtu_bytes, survey, survey_open};
use super::queue_pair::{Depths, QueuePair};
use super::registration::{ProtectionDomain, Purpose, Registration};
use super::settings::{DeviceInfo, Fencing, Persistence, Settings};
use super::window::Right;
use super::work::RECEIVE_CHAIN;
use super::{answers, budget};
use crate::MAX_IN_FLIGHT;
use ids::LogMemory;
use parking_lot::Mutex;
use rustix::io::Errno;
use std::io;
use std::sync::Arc;

/// Acknowledgements that the peer may send before one is taken: one for each batch under way, and those whose place
/// is not free again yet.
pub(super) const ANSWER_SLOTS: u32 = 2 * MAX_IN_FLIGHT as u32;
/// Reads that are under way at once, at most.
const MOST_READS: u8 = 16;

/// An open RDMA device and one log's ring, registered with it. Lives as long as the log is open; each link of
/// the volume uses it.
pub struct Domain {
    pub(super) ring: Arc<Registration>,
    pub(super) protection: Arc<ProtectionDomain>,
    pub(super) device: Arc<Device>,
    choice: Mutex<Choice>,
    /// As configured, with the device and port that were chosen.
    settings: Settings,
    pub(super) memory: Arc<dyn LogMemory>,
    fencing: Fencing,
    refusing: Mutex<Option<Arc<QueuePair>>>,
}

impl Domain {
    /// Opens the device that `settings` choose and registers `memory` with it.
    ///
    /// # Errors
    /// Each [`VerbsError`] says what to do.
    pub fn open(settings: &Settings, memory: Arc<dyn LogMemory>) -> Result<Arc<Domain>, VerbsError> {
        Domain::open_fenced(settings, memory, |device| {
            if device.limits.windows { Fencing::MemoryWindow } else { Fencing::Registration }
        })
    }

    /// As [`open`](Self::open), with the peer's right made as `fencing` says.
    pub(super) fn open_fenced(
        settings: &Settings,
        memory: Arc<dyn LogMemory>,
        fencing: impl FnOnce(&Device) -> Fencing,
    ) -> Result<Arc<Domain>, VerbsError> {
        library_available()?;
        check_mode(settings, None)?;
        let list = DeviceList::read()?;
        let choice = choose(&survey(&list, settings)?, settings)?;
        let device = Arc::new(list.open(choice.device)?);
        check_mode(settings, Some(&device))?;
        let depths = Sizes::of(memory.capacity_bytes());
        depths.check(&device, choice.port.max_message_bytes)?;
        let protection = Arc::new(ProtectionDomain::new(Arc::clone(&device))?);
        let fencing = fencing(&device);
        let purpose = Purpose::Local { windows: fencing == Fencing::MemoryWindow };
        let ring = Registration::of_log(&protection, Arc::clone(&memory), purpose)
            .map_err(|source| memory_refused(&device.name, memory.capacity_bytes(), source))?;
        Ok(Arc::new(Domain {
            ring: Arc::new(ring),
            protection,
            settings: Settings {
                device: Some(device.name.clone()),
                port: Some(choice.port.number),
                ..settings.clone()
            },
            device,
            choice: Mutex::new(choice),
            memory,
            fencing,
            refusing: Mutex::new(None),
        }))
    }

    /// What is used.
    pub fn describe(&self) -> DeviceInfo {
        let choice = self.choice.lock();
        DeviceInfo {
            device: self.device.name.clone(),
            port: choice.port.number,
            gid_index: choice.gid.index,
            gid: choice.gid.text(),
            link_layer: choice.port.layer,
            mtu_bytes: mtu_bytes(choice.port.mtu),
            persistence: self.persistence(),
            fencing: self.fencing,
        }
    }

    pub(super) fn capacity_bytes(&self) -> u64 {
        self.memory.capacity_bytes()
    }

    /// Port and GID as they are now: addresses come and go while a log is open.
    pub(super) fn choose_again(&self) -> Result<Choice, VerbsError> {
        let choice = choose(&[survey_open(&self.device)?], &self.settings)?;
        *self.choice.lock() = choice.clone();
        Ok(choice)
    }

    pub(super) fn persistence(&self) -> Persistence {
        self.settings.persistence
    }

    pub(super) fn traffic_class(&self) -> u8 {
        self.settings.traffic_class
    }

    /// The peer must also read the ring.
    pub(super) fn peer_reads(&self) -> bool {
        self.persistence() == Persistence::Read
    }

    pub(super) fn reads_asked(&self) -> u8 {
        self.device.limits.reads_asked.clamp(1, MOST_READS)
    }

    pub(super) fn reads_answered(&self) -> u8 {
        self.device.limits.reads_answered.clamp(1, MOST_READS)
    }

    pub(super) fn sizes(&self) -> Sizes {
        Sizes::of(self.capacity_bytes())
    }

    /// Keeps the queue pair of a peer whose right was taken away, beyond the end of its link and until the next one is
    /// kept. A deposed peer that knows nothing yet writes on: so its adapter tells it at once that it may not (remote
    /// access error), where a queue pair that is gone would leave it waiting for an answer.
    pub(super) fn keep_refusing(&self, incoming: &Arc<QueuePair>) {
        *self.refusing.lock() = Some(Arc::clone(incoming));
    }

    /// A new right to write into the ring, through `incoming`.
    pub(super) fn right(&self, incoming: &Arc<QueuePair>) -> io::Result<Right> {
        match self.fencing {
            Fencing::MemoryWindow => Right::window(&self.protection, Arc::clone(incoming)),
            Fencing::Registration => {
                Right::registration(&self.protection, Arc::clone(&self.memory), self.peer_reads())
            }
        }
    }
}

/// How many requests the queue pairs of a link hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sizes {
    /// Pieces of log bytes under way.
    pub pieces: u32,
    pub outgoing: Depths,
    pub incoming: Depths,
}

impl Sizes {
    pub(super) fn of(capacity_bytes: u64) -> Sizes {
        let pieces = pieces::most_in_flight(capacity_bytes);
        let confirmations = MAX_IN_FLIGHT as u32;
        Sizes {
            pieces,
            outgoing: Depths {
                send: pieces + confirmations + 2 * budget::SIGNAL_EVERY,
                receive: ANSWER_SLOTS,
            },
            incoming: Depths { send: answers::SEND_DEPTH, receive: pieces + RECEIVE_CHAIN as u32 },
        }
    }

    fn check(&self, device: &Device, max_message_bytes: u32) -> Result<(), VerbsError> {
        let requests = self.outgoing.send.max(self.incoming.receive);
        let completions = self.outgoing.send + self.outgoing.receive;
        let needs = [
            ("work requests in a queue", device.limits.work_requests, requests),
            ("entries in a completion queue", device.limits.completions, completions),
            ("bytes in a message", max_message_bytes, pieces::PIECE_BYTES as u32),
        ];
        for (what, offered, needed) in needs {
            if offered < needed {
                let (device, offered, needed) = (device.name.clone(), offered.into(), needed.into());
                return Err(VerbsError::Limit { device, what, offered, needed });
            }
        }
        Ok(())
    }
}

/// Whether the persistence mode can be had. `device`: as far as one is known; what needs none is checked without.
fn check_mode(settings: &Settings, device: Option<&Device>) -> Result<(), VerbsError> {
    let refused = |reason: String| Err(VerbsError::ModeRefused { mode: settings.persistence, reason });
    match (settings.persistence, device) {
        (Persistence::Message, _) | (Persistence::Flush, None) => Ok(()),
        (Persistence::Read, _) if settings.peer_ddio_off => Ok(()),
        (Persistence::Read, _) => refused(
            "a read proves that bytes are in the peer's memory only where its adapter writes past the processor's \
             caches; turn DDIO off there (firmware or PCIe root port) and declare it with rdma.peer_ddio_off = \
             true, or use \"message\""
                .to_owned(),
        ),
        // Sending it could not be tested: no library here has it. What was never seen to flush is not called durable.
        (Persistence::Flush, Some(device)) if device.flushes() => refused(format!(
            "RDMA device {:?} offers FLUSH, but this version of Twinfiler does not send it; use \"message\"",
            device.name
        )),
        (Persistence::Flush, Some(device)) => refused(format!(
            "RDMA device {:?} does not offer FLUSH to persistent memory (IB_DEVICE_FLUSH_PERSISTENT; Soft-RoCE has it \
             from kernel 6.2 on, the library from rdma-core 45 on); use \"message\"",
            device.name
        )),
    }
}

/// What the kernel's refusal to register means, and what to do.
fn memory_refused(device: &str, bytes: u64, source: io::Error) -> VerbsError {
    let device = device.to_owned();
    match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::OPNOTSUPP) => VerbsError::MemoryFsdax { device },
        Some(Errno::FAULT) => VerbsError::MemoryFile { device },
        Some(Errno::NOMEM | Errno::AGAIN) => VerbsError::MemoryLimit { device, bytes, source },
        _ => VerbsError::Os { what: "registering the log's memory", source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_that_can_not_be_honoured_are_refused_with_the_reason() {
        let with =
            |persistence, peer_ddio_off| Settings { persistence, peer_ddio_off, ..Settings::default() };
        assert!(check_mode(&with(Persistence::Message, false), None).is_ok());
        assert!(check_mode(&with(Persistence::Read, true), None).is_ok());
        let text = check_mode(&with(Persistence::Read, false), None).unwrap_err().to_string();
        assert!(text.contains("rdma.peer_ddio_off"), "{text}");
    }

    #[test]
    fn each_refusal_of_memory_has_its_remedy() {
        let says = |errno: Errno, what: &str| {
            let text = memory_refused("rxe0", 1 << 30, errno.into()).to_string();
            assert!(text.contains(what) && text.contains("rxe0") != (errno == Errno::PERM), "{text}");
        };
        says(Errno::OPNOTSUPP, "devdax");
        says(Errno::FAULT, "mapped file");
        says(Errno::NOMEM, "LimitMEMLOCK=infinity");
        says(Errno::PERM, "registering the log's memory");
    }

    #[test]
    fn queues_hold_what_may_be_under_way() {
        let small = Sizes::of(64 << 10);
        assert_eq!(small.pieces, MAX_IN_FLIGHT as u32 + 2);
        let large = Sizes::of(1 << 30);
        assert_eq!(large.pieces, MAX_IN_FLIGHT as u32 + 256 + 2);
        assert!(large.outgoing.send >= large.pieces + MAX_IN_FLIGHT as u32 + budget::SIGNAL_EVERY);
    }
}
