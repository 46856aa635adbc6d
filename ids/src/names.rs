//! Names of volumes and nodes.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A name or identifier that cannot be used, and why.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// Not 32 hexadecimal digits.
    #[error("volume id {0:?} is not 32 hexadecimal digits (dashes allowed)")]
    VolumeId(String),
    /// Empty, too long, or with a character that is not allowed.
    #[error("node name {0:?} must be 1 to 63 letters, digits, '-', '_' or '.'")]
    NodeName(String),
}

/// The identity of a volume: both nodes' logs, both base trees and the witness's register carry it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct VolumeId(pub [u8; 16]);

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeId({self})")
    }
}

impl FromStr for VolumeId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<VolumeId, NameError> {
        let refused = || NameError::VolumeId(text.to_owned());
        let digits: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
        if digits.len() != 32 {
            return Err(refused());
        }
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |d: u8| char::from(d).to_digit(16).ok_or_else(refused);
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(VolumeId(id))
    }
}

impl From<VolumeId> for String {
    fn from(id: VolumeId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for VolumeId {
    type Error = NameError;

    fn try_from(text: String) -> Result<VolumeId, NameError> {
        text.parse()
    }
}

/// The name of a node, unique in its pair.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct NodeName(String);

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<NodeName, NameError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if text.is_empty() || text.len() > 63 || !text.bytes().all(allowed) {
            return Err(NameError::NodeName(text.to_owned()));
        }
        Ok(NodeName(text.to_owned()))
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> String {
        name.0
    }
}

impl TryFrom<String> for NodeName {
    type Error = NameError;

    fn try_from(text: String) -> Result<NodeName, NameError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_ids_round_trip() {
        let id: VolumeId = "0011223344556677-8899aabbccddeeff".parse().unwrap();
        assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
        assert_eq!(id.to_string().parse::<VolumeId>().unwrap(), id);
        assert!("0011".parse::<VolumeId>().is_err());
        assert!("zz112233445566778899aabbccddeeff".parse::<VolumeId>().is_err());
    }

    #[test]
    fn node_names_are_checked() {
        assert!("filer-a.rack1".parse::<NodeName>().is_ok());
        assert!("".parse::<NodeName>().is_err());
        assert!("a b".parse::<NodeName>().is_err());
        assert!("x".repeat(64).parse::<NodeName>().is_err());
    }
}
