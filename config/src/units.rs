//! Sizes, durations and addresses as people write them.
//!
//! A size is a whole number and a unit ("64MiB", "1GB"); a bare number would leave open what it counts, so it is
//! refused. The same holds for durations ("250ms", "2s"). Nothing here rounds.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

/// A text that is no size, duration or address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnitError {
    /// Not a size.
    #[error("{0:?} is not a size")]
    Size(String),
    /// Not a duration.
    #[error("{0:?} is not a duration")]
    Duration(String),
    /// Not an address with a prefix length.
    #[error("{0:?} is not an IP address with a prefix length")]
    Prefix(String),
}

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

const DURATION_UNITS: [(&str, u64); 5] =
    [("us", 1), ("ms", 1_000), ("min", 60_000_000), ("s", 1_000_000), ("h", 3_600_000_000)];

/// Longest duration that a file may ask for.
const MAX_DURATION_US: u64 = 24 * 3_600_000_000;

fn split(text: &str) -> Option<(u64, &str)> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit())?;
    let number = text[..digits_end].parse().ok()?;
    Some((number, text[digits_end..].trim_start()))
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = split(text.trim())?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

/// A number of bytes, written like "64MiB".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<ByteSize, UnitError> {
        scaled(text, &SIZE_UNITS).map(ByteSize).ok_or_else(|| UnitError::Size(text.to_owned()))
    }
}

impl fmt::Display for ByteSize {
    /// In the largest binary unit that holds it exactly, so that the text reads back as the same size.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact =
            SIZE_UNITS[..4].iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        let (name, factor) = exact.unwrap_or(&("B", 1));
        write!(f, "{}{name}", self.0 / factor)
    }
}

/// A duration, written like "250ms".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HumanDuration(pub Duration);

impl FromStr for HumanDuration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<HumanDuration, UnitError> {
        scaled(text, &DURATION_UNITS)
            .filter(|us| (1..=MAX_DURATION_US).contains(us))
            .map(|us| HumanDuration(Duration::from_micros(us)))
            .ok_or_else(|| UnitError::Duration(text.to_owned()))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0.as_micros();
        match us {
            _ if us.is_multiple_of(1_000_000) => write!(f, "{}s", us / 1_000_000),
            _ if us.is_multiple_of(1_000) => write!(f, "{}ms", us / 1_000),
            _ => write!(f, "{us}us"),
        }
    }
}

/// An IP address and the length of its network prefix, written like "10.0.0.9/24".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AddressPrefix {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network part.
    pub prefix_bits: u8,
}

impl FromStr for AddressPrefix {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<AddressPrefix, UnitError> {
        let refused = || UnitError::Prefix(text.to_owned());
        let (address, bits) = text.split_once('/').ok_or_else(refused)?;
        let address: IpAddr = address.parse().map_err(|_| refused())?;
        let prefix_bits: u8 = bits.parse().map_err(|_| refused())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let usable = !address.is_unspecified() && !address.is_multicast() && !address.is_loopback();
        if prefix_bits == 0 || prefix_bits > most || !usable {
            return Err(refused());
        }
        Ok(AddressPrefix { address, prefix_bits })
    }
}

impl fmt::Display for AddressPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let size = |text: &str| text.parse::<ByteSize>().ok().map(|s| s.0);
        assert_eq!(size("1GiB"), Some(1 << 30));
        assert_eq!(size("64 MiB"), Some(64 << 20));
        assert_eq!(size("1GB"), Some(1_000_000_000));
        assert_eq!(size("0B"), Some(0));
        for bad in
            ["", "1", "GiB", "1.5GiB", "-1GiB", "1gib", "1GiBs", "99999999TiB", "184467440737095516160B"]
        {
            assert_eq!(size(bad), None, "{bad}");
        }
        for text in ["1GiB", "1536KiB", "17B", "3TiB"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn durations() {
        let us = |text: &str| text.parse::<HumanDuration>().ok().map(|d| d.0.as_micros());
        assert_eq!(us("250ms"), Some(250_000));
        assert_eq!(us("2s"), Some(2_000_000));
        assert_eq!(us("1min"), Some(60_000_000));
        for bad in ["", "5", "0s", "1.5s", "-1s", "25h", "1m", "9999999999999h"] {
            assert_eq!(us(bad), None, "{bad}");
        }
        for text in ["250ms", "2s", "17us"] {
            assert_eq!(text.parse::<HumanDuration>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn prefixes() {
        for good in ["10.0.0.9/24", "2001:db8::9/64"] {
            assert_eq!(good.parse::<AddressPrefix>().unwrap().to_string(), good);
        }
        for bad in
            ["10.0.0.9", "10.0.0.9/33", "10.0.0/24", "0.0.0.0/24", "127.0.0.1/8", "10.0.0.9/0", "ff02::1/64"]
        {
            assert!(bad.parse::<AddressPrefix>().is_err(), "{bad}");
        }
    }
}
