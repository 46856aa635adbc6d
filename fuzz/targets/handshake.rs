//! What a stranger at the port may say, before anybody knows who it is, and what a partner may say right behind that.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rdma_transport::fuzzing;

fuzz_target!(|input: &[u8]| {
    fuzzing::opening_messages(input);
    fuzzing::strangers(input);
    fuzzing::records(input);
});
