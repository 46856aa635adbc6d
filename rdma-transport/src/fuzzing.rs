//! What the fuzz targets reach of this crate's inside. Not there in an ordinary build.

use crate::frame::{Frame, HEAD_BYTES};
use crate::handshake::{ANSWER_BYTES, PREAMBLE_BYTES, Preamble, decode_answer, encode_answer};

/// Takes bytes as each kind of opening message and as a frame's head.
pub fn opening_messages(bytes: &[u8]) {
    if let Some(preamble) = bytes.first_chunk::<PREAMBLE_BYTES>()
        && let Ok(preamble) = Preamble::decode(preamble)
    {
        assert_eq!(Preamble::decode(&preamble.encode()), Ok(preamble));
    }
    if let Some(answer) = bytes.first_chunk::<ANSWER_BYTES>()
        && let Some(answer) = decode_answer(answer)
    {
        assert_eq!(decode_answer(&encode_answer(&answer)), Some(answer));
    }
    if let Some(head) = bytes.first_chunk::<HEAD_BYTES>()
        && let Ok(frame) = Frame::decode(head)
    {
        assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
    }
}
