//! What a stranger at the port may say, before anybody knows who it is.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| rdma_transport::fuzzing::opening_messages(input));
