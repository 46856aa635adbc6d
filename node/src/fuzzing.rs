//! What the fuzz targets reach of this module's inside. Not there in an ordinary build.

use super::split::talk::Talk;
use super::{resync, verify, write_behind};

/// Takes bytes as each kind of message that the two nodes exchange beside the pair's: decoded or refused, and what was
/// decoded comes back as it was.
pub fn partners_messages(bytes: &[u8]) {
    resync::try_messages(bytes);
    verify::try_message(bytes);
    write_behind::try_message(bytes);
    if let Some(talk) = Talk::decode(bytes) {
        assert_eq!(Talk::decode(&talk.encode()), Some(talk));
    }
}
