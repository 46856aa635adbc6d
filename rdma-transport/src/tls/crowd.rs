//! Who gives way when too many callers stand at a door that have not shown who they are.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Where a caller comes from: an address, of IPv6 the network (a machine has many addresses in it).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A process of this host.
    ThisHost,
    /// An address.
    V4([u8; 4]),
    /// The first half of an address.
    V6([u8; 8]),
}

impl Source {
    /// The source of a caller at `address`.
    pub fn of_address(address: SocketAddr) -> Source {
        match address.ip() {
            IpAddr::V4(address) => Source::V4(address.octets()),
            IpAddr::V6(address) => Source::V6(crate::handshake::array_at(&address.octets(), 0)),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::ThisHost => f.write_str("this host"),
            Source::V4(address) => IpAddr::from(*address).fmt(f),
            Source::V6(network) => {
                let mut address = [0; 16];
                address[..8].copy_from_slice(network);
                write!(f, "{}/64", IpAddr::from(address))
            }
        }
    }
}

/// Of `callers`, oldest first, each with its source and whether it has said anything: the index of the one that
/// gives way. The source that has most of them loses one, who has said nothing before who has, the older before
/// the newer; so a flood pushes itself out and not a caller from elsewhere. 0 when there are none.
pub fn who_gives_way(callers: &[(Source, bool)]) -> usize {
    let of_source = |source: Source| callers.iter().filter(|(other, _)| *other == source).count();
    let most = callers.iter().map(|(source, _)| of_source(*source)).max();
    let greedy = |source: Source| Some(of_source(source)) == most;
    let silent = callers.iter().position(|(source, spoke)| greedy(*source) && !spoke);
    silent.or_else(|| callers.iter().position(|(source, _)| greedy(*source))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greedy_source_loses_its_oldest_silent_caller() {
        let (flood, partner) = (Source::V4([10, 0, 0, 66]), Source::V4([10, 0, 0, 2]));
        assert_eq!(who_gives_way(&[(partner, false), (flood, true), (flood, false), (flood, false)]), 2);
        assert_eq!(who_gives_way(&[(partner, false), (flood, true), (flood, true)]), 1);
        assert_eq!(who_gives_way(&[(partner, true), (partner, false)]), 1);
        assert_eq!(who_gives_way(&[]), 0);
    }

    #[test]
    fn a_machine_with_many_addresses_is_one_source() {
        let of = |text: &str| Source::of_address(text.parse().unwrap());
        assert_eq!(of("[2001:db8::1]:5"), of("[2001:db8::2:3]:6"));
        assert_ne!(of("[2001:db8::1]:5"), of("[2001:db8:0:1::1]:5"));
        assert_eq!(of("[2001:db8::1]:5").to_string(), "2001:db8::/64");
        assert_ne!(of("10.0.0.1:1"), of("10.0.0.2:1"));
    }
}
