//! Messages of the partner, and questions and answers of a witness: decoded or refused, never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pair::{Message, PROTOCOL_VERSION};
use pair::witness::{Answer, Request};

fn message(input: &[u8]) {
    if let Ok(message) = Message::decode(input) {
        let again = Message::decode(&message.encode()).expect("what was decoded can be encoded and decoded");
        assert_eq!(again, message);
    }
}

fuzz_target!(|input: &[u8]| {
    message(input);
    // The corpus outlives versions.
    if let Some((_, rest)) = input.split_first_chunk::<2>() {
        message(&[&PROTOCOL_VERSION.to_le_bytes()[..], rest].concat());
    }
    if let Ok(request) = serde_json::from_slice::<Request>(input) {
        let text = serde_json::to_vec(&request).expect("plain data always encodes");
        assert_eq!(serde_json::from_slice::<Request>(&text).expect("our own text"), request);
    }
    if let Ok(answer) = serde_json::from_slice::<Answer>(input) {
        let text = serde_json::to_vec(&answer).expect("plain data always encodes");
        assert_eq!(serde_json::from_slice::<Answer>(&text).expect("our own text"), answer);
    }
});
