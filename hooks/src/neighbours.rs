//! Tells the neighbours on the wire that an address has moved here: a gratuitous ARP request (IPv4,
//! RFC 5227 section 3) or an unsolicited neighbour advertisement (IPv6, RFC 4861 section 7.2.6).
//!
//! The frames are built here and sent through a packet socket. Invariant: building is pure and tested byte by byte.

use pnet_datalink::{Channel, NetworkInterface};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::IntoRawFd;

const BROADCAST: [u8; 6] = [0xff; 6];
/// 33:33:00:00:00:01, the Ethernet form of ff02::1.
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const NEXT_HEADER_ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// "Override": replace what you have cached. Not "solicited", not "router".
const FLAG_OVERRIDE: u8 = 0x20;
const OPTION_TARGET_LINK_LAYER: u8 = 2;
/// The frame needs no more; packet sockets of some drivers refuse shorter ones.
const MIN_FRAME_BYTES: usize = 60;

/// Sends announcements of one address.
pub(super) struct Announcer {
    interface: NetworkInterface,
    frame: Vec<u8>,
    sender: parking_lot::Mutex<Box<dyn pnet_datalink::DataLinkSender>>,
}

impl Announcer {
    /// Opens a packet socket on `interface`, in the network namespace of the calling thread.
    pub(super) fn new(interface: &str, address: IpAddr) -> io::Result<Announcer> {
        let found = pnet_datalink::interfaces().into_iter().find(|candidate| candidate.name == interface);
        let interface = found.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {interface}"))
        })?;
        let mac = interface
            .mac
            .ok_or_else(|| {
                io::Error::new(io::ErrorKind::Unsupported, "the interface has no Ethernet address")
            })?
            .octets();
        let frame = match address {
            IpAddr::V4(address) => gratuitous_arp(mac, address),
            IpAddr::V6(address) => neighbour_advertisement(mac, address),
        };
        // Promiscuous mode is the library's default, and no business of a file server.
        // The library would open a socket that the hooks inherit.
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::PACKET,
            rustix::net::SocketType::RAW,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        let socket_fd = Some(socket.into_raw_fd());
        let config = pnet_datalink::Config { promiscuous: false, socket_fd, ..Default::default() };
        let Channel::Ethernet(sender, _) = pnet_datalink::channel(&interface, config)? else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the interface is no Ethernet"));
        };
        Ok(Announcer { interface, frame, sender: parking_lot::Mutex::new(sender) })
    }

    pub(super) fn announce(&self) -> io::Result<()> {
        let sent = self.sender.lock().send_to(&self.frame, Some(self.interface.clone()));
        sent.unwrap_or_else(|| Err(io::Error::new(io::ErrorKind::InvalidInput, "the frame does not fit")))
    }
}

fn ethernet(to: [u8; 6], from: [u8; 6], kind: [u8; 2]) -> Vec<u8> {
    [&to[..], &from, &kind].concat()
}

/// A broadcast ARP request in which sender and target are both `address`.
fn gratuitous_arp(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, ETHERTYPE_ARP);
    frame.extend([0, 1, 0x08, 0, 6, 4, 0, 1]); // Ethernet, IPv4, lengths 6 and 4, request
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame.resize(MIN_FRAME_BYTES, 0);
    frame
}

/// An unsolicited neighbour advertisement to all nodes.
fn neighbour_advertisement(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let mut icmp = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, FLAG_OVERRIDE, 0, 0, 0];
    icmp.extend(address.octets());
    icmp.extend([OPTION_TARGET_LINK_LAYER, 1]);
    icmp.extend(mac);
    let checksum = icmpv6_checksum(address, ALL_NODES, &icmp);
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = ethernet(ALL_NODES_MAC, mac, ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((icmp.len() as u16).to_be_bytes());
    frame.extend([NEXT_HEADER_ICMPV6, 255]); // hop limit 255: receivers drop anything else
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(icmp);
    frame
}

/// RFC 4443 section 2.3: the ones' complement sum over a pseudo header and the message.
fn icmpv6_checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let mut bytes = [&from.octets()[..], &to.octets()].concat();
    bytes.extend((message.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, NEXT_HEADER_ICMPV6]);
    bytes.extend(message);
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    #[test]
    fn an_arp_frame_names_the_address_twice() {
        let frame = gratuitous_arp(MAC, Ipv4Addr::new(10, 0, 0, 9));
        assert_eq!(frame.len(), MIN_FRAME_BYTES);
        assert_eq!(&frame[..14], &[255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 7, 8, 6]);
        assert_eq!(&frame[14..22], &[0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(&frame[22..42], &[2, 0, 0, 0, 0, 7, 10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 10, 0, 0, 9]);
    }

    #[test]
    fn an_advertisement_has_a_valid_checksum() {
        let address: Ipv6Addr = "2001:db8::9".parse().unwrap();
        let frame = neighbour_advertisement(MAC, address);
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!((frame[20], frame[21]), (NEXT_HEADER_ICMPV6, 255));
        // Over a message that carries its checksum the sum is all ones, so its complement is zero.
        assert_eq!(icmpv6_checksum(address, ALL_NODES, &frame[54..]), 0);
        assert_eq!(&frame[frame.len() - 6..], &MAC);
    }
}
