//! What a partner says of trees: resync, verify, and the two sides of a split. Decoded or refused, never a panic.

#![no_main]

use node::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    fuzzing::partners_messages(input);
});
