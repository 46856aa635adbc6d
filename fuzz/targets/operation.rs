//! An operation's record: decoded or refused; what is decoded says the same when it is written again.

#![no_main]

use apply_engine::Operation;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(operation) = Operation::decode(input, input.len() as u64) else { return };
    let mut head = Vec::new();
    operation.encode_head(&mut head);
    let len_bytes = head.len() as u64 + operation.data_len_bytes();
    let again = Operation::decode(&head, len_bytes).expect("what was decoded can be encoded and decoded");
    assert_eq!(format!("{again:?}"), format!("{operation:?}"));
});
