//! What is read from the wire or the superblock is never trusted.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use ids::{BaseLimits, Epoch, VolumeId};
use pair::witness::{Mode, Register};
use pair::{DurableState, MAX_STATE_BYTES, Message, MessageError, MonoMs, StateError, Vitals};
use proptest::prelude::*;

fn largest_state() -> DurableState {
    let register = Register {
        volume: VolumeId([0xff; 16]),
        epoch: Epoch(u64::MAX),
        primary: "n".repeat(63).parse().unwrap(),
        mode: Mode::Solo,
        generation: u64::MAX,
    };
    DurableState {
        epoch_seen: Epoch(u64::MAX),
        register: Some(register),
        in_sync: true,
        solo: Some(Epoch(u64::MAX)),
        origin_empty: Some(true),
        discarded: true,
        resync: true,
        compare_all: true,
        tree_differs: true,
        granted: Some(BaseLimits::LINUX),
        from_memory: true,
    }
}

/// What an older program stored is read; what it did not know was not so.
#[test]
fn states_of_older_versions_are_read() {
    let mut bytes = DurableState { from_memory: false, ..largest_state() }.encode();
    bytes.pop();
    bytes[0] = 5;
    let expected = DurableState { from_memory: false, ..largest_state() };
    assert_eq!(DurableState::decode(&bytes), Ok(expected), "version 5");
    let known = DurableState { granted: None, from_memory: false, ..largest_state() };
    let mut bytes = known.encode();
    bytes.pop();
    for (version, resync, compare_all, tree_differs) in
        [(4, true, true, true), (3, true, true, false), (2, true, false, false), (1, false, false, false)]
    {
        bytes.pop();
        bytes[0] = version;
        let expected = DurableState { resync, compare_all, tree_differs, ..known.clone() };
        assert_eq!(DurableState::decode(&bytes), Ok(expected), "version {version}");
    }
}

#[test]
fn the_largest_state_fits_and_comes_back() {
    let bytes = largest_state().encode();
    assert!(bytes.len() <= MAX_STATE_BYTES);
    assert_eq!(DurableState::decode(&bytes), Ok(largest_state()));
    assert_eq!(DurableState::decode(&[]), Ok(DurableState::default()), "a freshly formatted log");
}

#[test]
fn versions_from_the_future_are_named() {
    let mut state = largest_state().encode();
    state[0] = 9;
    assert_eq!(DurableState::decode(&state), Err(StateError::Version(9)));
    let mut message = Message::Goodbye.encode();
    message[0] = 9;
    assert_eq!(Message::decode(&message), Err(MessageError::Version(9)));
}

#[test]
fn a_heartbeat_comes_back() {
    let vitals = Vitals { free_bytes: 7, healthy: true, ..Vitals::default() };
    let message = Message::Heartbeat { sent: MonoMs(5), epoch: Some(Epoch(3)), vitals };
    assert_eq!(Message::decode(&message.encode()), Ok(message));
}

proptest! {
    #[test]
    fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Message::decode(&bytes);
        let _ = DurableState::decode(&bytes);
        let mut with_version = pair::PROTOCOL_VERSION.to_le_bytes().to_vec();
        with_version.extend(&bytes);
        let _ = Message::decode(&with_version);
    }

    #[test]
    fn a_cut_state_is_refused(keep in 1usize..40) {
        let bytes = largest_state().encode();
        prop_assert!(matches!(DurableState::decode(&bytes[..keep]), Err(StateError::Damaged(_))));
    }
}
