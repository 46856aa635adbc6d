//! Role state in the superblock and labels of objects: decoded or refused, and the same when written again.

#![no_main]

use apply_engine::base::Label;
use libfuzzer_sys::fuzz_target;
use pair::DurableState;

fuzz_target!(|input: &[u8]| {
    if let Ok(state) = DurableState::decode(input) {
        let again =
            DurableState::decode(&state.encode()).expect("what was decoded can be encoded and decoded");
        assert_eq!(again, state);
    }
    if let Ok(label) = Label::decode(input) {
        assert_eq!(Label::decode(&label.encode()), Ok(label));
    }
});
