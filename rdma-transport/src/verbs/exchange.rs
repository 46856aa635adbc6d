//! What two nodes tell each other before their queue pairs are connected: 80 bytes each way, then one word when
//! both are ready to receive.
//!
//! ```text
//!  0 magic "TWINVERB"        16 gid [16]            48 ring address u64
//!  8 version u16             32 outgoing qp u32     56 ring capacity u64
//! 10 link layer u8           36 outgoing psn u32    64 16 bytes zero
//! 11 persistence u8          40 incoming qp u32
//! 12 mtu u8                  44 incoming psn u32
//! 13 reads answered u8
//! 14 lid u16
//! ```
//!
//! Little endian, of fixed length, read by a deadline: whoever is at the other end makes nobody wait or allocate.
//! What is well formed can still be a lie: it is held against the ring's capacity and this node's settings, and an
//! address or a number that is wrong reaches nothing but the peer's own adapter.

use super::port::mtu_bytes;
use super::settings::{LinkLayer, Persistence};
use crate::handshake::{array_at, u64_at};
use crate::socket::OpeningError;
use crate::tls::Stream;
use crate::{LinkError, LinkParams};
use std::time::Instant;

pub(super) const ENDPOINT_BYTES: usize = 80;
const MAGIC: &[u8; 8] = b"TWINVERB";
const VERSION: u16 = 1;
const READY: &[u8; 8] = b"TWVREADY";

/// One side of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Endpoint {
    pub layer: LinkLayer,
    pub persistence: Persistence,
    /// `enum ibv_mtu`.
    pub mtu: u8,
    pub reads_answered: u8,
    pub lid: u16,
    pub gid: [u8; 16],
    pub outgoing: Address,
    pub incoming: Address,
    pub ring_address: u64,
    pub capacity_bytes: u64,
}

/// One queue pair: its number, and where its packets start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Address {
    pub number: u32,
    pub psn: u32,
}

/// Queue pair numbers and packet sequence numbers have 24 bits.
const BITS_24: u32 = 0xff_ffff;

impl Endpoint {
    pub(super) fn encode(&self) -> [u8; ENDPOINT_BYTES] {
        let mut out = [0; ENDPOINT_BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10] = match self.layer {
            LinkLayer::Infiniband => 1,
            LinkLayer::Roce => 2,
        };
        out[11] = match self.persistence {
            Persistence::Message => 1,
            Persistence::Read => 2,
            Persistence::Flush => 3,
        };
        out[12] = self.mtu;
        out[13] = self.reads_answered;
        out[14..16].copy_from_slice(&self.lid.to_le_bytes());
        out[16..32].copy_from_slice(&self.gid);
        let numbers = [self.outgoing.number, self.outgoing.psn, self.incoming.number, self.incoming.psn];
        for (place, number) in out[32..48].chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        out[48..56].copy_from_slice(&self.ring_address.to_le_bytes());
        out[56..64].copy_from_slice(&self.capacity_bytes.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8; ENDPOINT_BYTES]) -> Result<Endpoint, String> {
        if bytes[..8] != MAGIC[..] {
            return Err("no RDMA address where one should be".into());
        }
        let version = u16::from_le_bytes(array_at(bytes, 8));
        if version != VERSION {
            return Err(format!("its RDMA addresses have version {version}, this node's {VERSION}"));
        }
        let address = |at: usize| {
            let number = |at| u32::from_le_bytes(array_at(bytes, at));
            let address = Address { number: number(at), psn: number(at + 4) };
            let fits = address.number <= BITS_24 && address.psn <= BITS_24;
            fits.then_some(address).ok_or_else(|| "a queue pair's number has more than 24 bits".to_owned())
        };
        let endpoint = Endpoint {
            layer: match bytes[10] {
                1 => LinkLayer::Infiniband,
                2 => LinkLayer::Roce,
                other => return Err(format!("link layer {other} is unknown")),
            },
            persistence: match bytes[11] {
                1 => Persistence::Message,
                2 => Persistence::Read,
                3 => Persistence::Flush,
                other => return Err(format!("persistence mode {other} is unknown")),
            },
            mtu: bytes[12],
            reads_answered: bytes[13],
            lid: u16::from_le_bytes(array_at(bytes, 14)),
            gid: array_at(bytes, 16),
            outgoing: address(32)?,
            incoming: address(40)?,
            ring_address: u64_at(bytes, 48),
            capacity_bytes: u64_at(bytes, 56),
        };
        if !(1..=5).contains(&endpoint.mtu) {
            return Err(format!("MTU number {} is unknown", endpoint.mtu));
        }
        if endpoint.ring_address.checked_add(endpoint.capacity_bytes).is_none() {
            return Err("its ring passes the end of memory".into());
        }
        Ok(endpoint)
    }

    /// Whether these two can make a link.
    pub(super) fn agree(&self, theirs: &Endpoint) -> Result<(), LinkError> {
        let differ = |what, mine: &dyn ToString, theirs: &dyn ToString| {
            Err(LinkError::SettingsDiffer { what, mine: mine.to_string(), theirs: theirs.to_string() })
        };
        if self.persistence != theirs.persistence {
            return differ("rdma.persistence", &self.persistence, &theirs.persistence);
        }
        if self.layer != theirs.layer {
            return differ("the RDMA link layer", &self.layer, &theirs.layer);
        }
        if self.capacity_bytes != theirs.capacity_bytes {
            return Err(LinkError::Protocol("the peer's ring has another length than it said".into()));
        }
        Ok(())
    }

    /// The MTU of a link between the two.
    pub(super) fn link_mtu_bytes(&self, theirs: &Endpoint) -> u32 {
        mtu_bytes(self.mtu.min(theirs.mtu))
    }
}

/// One side's socket while the link is being made.
pub(super) struct Meeting<'a> {
    pub stream: &'a mut Stream,
    pub deadline: Instant,
    pub address: &'a str,
    pub params: &'a LinkParams,
}

impl Meeting<'_> {
    /// Sends this side's endpoint and receives the peer's.
    pub(super) fn swap(&mut self, mine: &Endpoint) -> Result<Endpoint, LinkError> {
        self.send(&mine.encode())?;
        let mut theirs = [0; ENDPOINT_BYTES];
        self.receive(&mut theirs)?;
        let theirs = Endpoint::decode(&theirs).map_err(LinkError::Protocol)?;
        mine.agree(&theirs)?;
        Ok(theirs)
    }

    /// Waits until both sides can receive: what is sent before would be lost and only tried again much later.
    pub(super) fn both_ready(&mut self) -> Result<(), LinkError> {
        self.send(READY)?;
        let mut theirs = [0; READY.len()];
        self.receive(&mut theirs)?;
        if &theirs == READY {
            Ok(())
        } else {
            Err(LinkError::Protocol("the peer did not become ready for RDMA".into()))
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        self.stream.send(bytes, self.params.tuning.handshake_timeout).map_err(|_| LinkError::PeerClosed)
    }

    fn receive(&mut self, bytes: &mut [u8]) -> Result<(), LinkError> {
        self.stream.receive_exact(bytes, self.deadline).map_err(|error| match error {
            OpeningError::Timeout => LinkError::HandshakeTimeout {
                address: self.address.to_owned(),
                limit: self.params.tuning.handshake_timeout,
            },
            OpeningError::Ended => LinkError::PeerClosed,
            OpeningError::Os(errno) if errno == rustix::io::Errno::CONNRESET => LinkError::PeerClosed,
            OpeningError::Os(errno) => LinkError::os("receiving the peer's RDMA address")(errno),
            OpeningError::Record(_) => LinkError::PeerClosed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;

    fn endpoint() -> impl Strategy<Value = Endpoint> {
        let layer = prop_oneof![Just(LinkLayer::Roce), Just(LinkLayer::Infiniband)];
        let mode = prop_oneof![Just(Persistence::Message), Just(Persistence::Read), Just(Persistence::Flush)];
        let address = || (0..=BITS_24, 0..=BITS_24).prop_map(|(number, psn)| Address { number, psn });
        let ring = (any::<u64>(), any::<u64>()).prop_map(|(base, len)| (base, len.min(u64::MAX - base)));
        let port = (layer, mode, 1..=5u8, any::<u8>(), any::<u16>(), any::<[u8; 16]>());
        (port, address(), address(), ring).prop_map(|(port, outgoing, incoming, ring)| Endpoint {
            layer: port.0,
            persistence: port.1,
            mtu: port.2,
            reads_answered: port.3,
            lid: port.4,
            gid: port.5,
            outgoing,
            incoming,
            ring_address: ring.0,
            capacity_bytes: ring.1,
        })
    }

    proptest! {
        #[test]
        fn endpoints_round_trip(endpoint in endpoint()) {
            prop_assert_eq!(Endpoint::decode(&endpoint.encode()), Ok(endpoint));
        }

        /// Whatever comes is decoded to something within bounds, or refused.
        #[test]
        fn any_bytes_are_decoded_or_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), ENDPOINT_BYTES),
            good_start: bool,
        ) {
            if good_start {
                bytes[..8].copy_from_slice(MAGIC);
                let good = [1, 0, 1 + bytes[10] % 2, 1 + bytes[11] % 3, 1 + bytes[12] % 5];
                bytes[8..13].copy_from_slice(&good);
            }
            if let Ok(endpoint) = Endpoint::decode(&array_at(&bytes, 0)) {
                prop_assert!(endpoint.outgoing.number <= BITS_24 && endpoint.incoming.psn <= BITS_24);
                prop_assert!((1..=5).contains(&endpoint.mtu));
                prop_assert!(endpoint.ring_address.checked_add(endpoint.capacity_bytes).is_some());
                prop_assert_eq!(Endpoint::decode(&endpoint.encode()), Ok(endpoint));
            }
        }

        /// One changed byte is refused or names another endpoint: nothing is silently taken for the same.
        #[test]
        fn a_changed_byte_is_noticed(endpoint in endpoint(), at in 0..64usize, flip in 1..=255u8) {
            let mut bytes = endpoint.encode();
            bytes[at] ^= flip;
            prop_assert_ne!(Endpoint::decode(&bytes), Ok(endpoint));
        }

        /// Two sides find the same answer about each other.
        #[test]
        fn both_sides_agree_whether_they_agree(one in endpoint(), other in endpoint()) {
            prop_assert_eq!(one.agree(&other).is_ok(), other.agree(&one).is_ok());
            prop_assert_eq!(one.link_mtu_bytes(&other), other.link_mtu_bytes(&one));
        }
    }

    #[test]
    fn differing_modes_are_named() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let one = endpoint().new_tree(&mut runner).unwrap().current();
        let mine = Endpoint { persistence: Persistence::Message, ..one };
        let theirs = Endpoint { persistence: Persistence::Read, ..one };
        let text = mine.agree(&theirs).unwrap_err().to_string();
        assert_eq!(text, "rdma.persistence is message on this node and read on the peer: set both alike");
        let other = if one.layer == LinkLayer::Roce { LinkLayer::Infiniband } else { LinkLayer::Roce };
        let theirs = Endpoint { layer: other, ..mine };
        assert!(mine.agree(&theirs).unwrap_err().to_string().contains("link layer"));
        let theirs = Endpoint { capacity_bytes: one.capacity_bytes ^ 1, ..mine };
        assert!(matches!(mine.agree(&theirs), Err(LinkError::Protocol(_))));
    }
}
