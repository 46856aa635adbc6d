//! Any text as a configuration: accepted, or refused with reasons.

#![no_main]

use config::NodeConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Err(error) = NodeConfig::parse(text, "twinfiler.toml") {
        assert!(!error.to_string().is_empty());
    }
});
