//! The gate: a full log, a full disk, and what is counted until when.

use super::super::needs::DISK_MARGIN_BYTES;
use super::*;

fn budget(free_bytes: u64) -> SpaceBudget {
    SpaceBudget {
        total_bytes: 1 << 40,
        free_bytes,
        available_bytes: free_bytes,
        total_inodes: 1000,
        free_inodes: 1000,
        likely_inodes: 1000,
        metadata: None,
    }
}

fn peer(at: Lsn, space: SpaceBudget) -> Option<PeerSpace> {
    Some(PeerSpace { counted: at, applied: at, space })
}

fn open_gate(capacity: u64) -> Arc<Gate> {
    let gate = Gate::new(capacity, 0, Lsn(0));
    gate.set_local_space(Lsn(0), budget(1 << 40));
    gate.open();
    gate
}

#[test]
fn a_full_log_makes_clients_wait_and_a_trim_lets_them_on() {
    let gate = open_gate(1 << 20);
    let waiting = {
        let gate = gate.clone();
        std::thread::spawn(move || gate.admit(Ask::growing(4096), || Lsn(1 << 20), || ()).map(|_| ()))
    };
    std::thread::sleep(Duration::from_millis(20));
    assert!(!waiting.is_finished(), "there is no room");
    gate.set_floor(Lsn(1 << 20));
    assert_eq!(waiting.join().unwrap(), Ok(()));
}

#[test]
fn memory_that_is_taken_slows_clients_as_a_log_that_fills() {
    let gate = open_gate(1 << 20);
    let try_one = || gate.try_admit(Ask::growing(1), &mut Progress::default(), || Lsn(0), || ()).unwrap();
    assert!(matches!(try_one(), Step::In(_)));
    gate.set_unapplied_memory(3 << 30, 4 << 30);
    assert!(matches!(try_one(), Step::Wait(Hindrance::SlowedDown { .. })));
    gate.set_unapplied_memory(4 << 30, 4 << 30);
    let Step::Wait(full @ Hindrance::LogFull { .. }) = try_one() else { panic!("there is no memory") };
    assert!(gate.holds_back(&full, Lsn(0)));
    gate.set_unapplied_memory(1 << 30, 4 << 30);
    assert!(!gate.holds_back(&full, Lsn(0)));
    assert!(matches!(try_one(), Step::In(_)));
}

#[test]
fn a_full_log_is_not_asked_about_at_every_wake_up() {
    let gate = open_gate(1 << 20);
    let asked = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let waiting = {
        let (gate, asked) = (gate.clone(), asked.clone());
        let ask = move || {
            asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        };
        std::thread::spawn(move || gate.admit(Ask::growing(4096), || Lsn(1 << 20), ask).map(|_| ()))
    };
    // Consistency points that find nothing to do: the partner is what holds the log.
    let begun = Instant::now();
    for _ in 0..100 {
        gate.nothing_sealed(|| false, budget(1 << 40));
        std::thread::sleep(Duration::from_millis(1));
    }
    let may = begun.elapsed().as_millis() as u64 / ASK_AGAIN.as_millis() as u64 + 1;
    gate.set_floor(Lsn(1 << 20));
    assert_eq!(waiting.join().unwrap(), Ok(()));
    let asked = asked.load(std::sync::atomic::Ordering::Relaxed);
    assert!((1..=may).contains(&asked), "asked {asked} times, and {may} were enough");
}

#[test]
fn what_a_partner_still_needs_counts_as_used() {
    let gate = open_gate(1 << 20);
    gate.set_floor(Lsn(1 << 20));
    gate.set_hold(Some(Lsn(0)));
    let waiting = {
        let gate = gate.clone();
        std::thread::spawn(move || gate.admit(Ask::growing(4096), || Lsn(1 << 20), || ()).map(|_| ()))
    };
    std::thread::sleep(Duration::from_millis(20));
    assert!(!waiting.is_finished(), "trimmed, but the partner has not got it");
    gate.set_hold(None);
    assert_eq!(waiting.join().unwrap(), Ok(()));
}

#[test]
fn what_was_admitted_and_not_logged_needs_no_disk_after_all() {
    let gate = open_gate(1 << 20);
    gate.set_local_space(Lsn(0), budget(DISK_MARGIN_BYTES + 100_000));
    drop(gate.admit(Ask::growing(50_000), || Lsn(0), || ()).unwrap());
    assert!(gate.space().free_bytes < 50_000, "counted until it is known");
    gate.nothing_sealed(|| false, budget(DISK_MARGIN_BYTES + 100_000));
    assert!(gate.space().free_bytes < 50_000, "it may have been logged");
    gate.nothing_sealed(|| true, budget(DISK_MARGIN_BYTES + 100_000));
    assert_eq!(gate.space().free_bytes, 100_000);
    // Space that somebody freed outside of the volume is seen too.
    gate.nothing_sealed(|| true, budget(DISK_MARGIN_BYTES + 200_000));
    assert_eq!(gate.space().free_bytes, 200_000);
}

#[test]
fn what_has_room_already_takes_half_of_the_margin_and_no_more() {
    let gate = open_gate(1 << 30);
    gate.set_local_space(Lsn(0), budget(DISK_MARGIN_BYTES));
    gate.set_peer_space(peer(Lsn(0), budget(1 << 40)));
    let asked = std::cell::Cell::new(false);
    let admit = |room, payload| {
        let ask = Ask { content: true, room, ..Ask::growing(payload) };
        gate.admit(ask, || Lsn(0), || asked.set(true)).map(drop)
    };
    // Nobody waits to hear that there is no room for it as something new.
    assert_eq!(admit(Room::Perhaps, 1 << 20), Err(Refused::NoSpace));
    assert!(!asked.get());
    let taken = (0..10_000).take_while(|_| admit(Room::There, 1 << 20).is_ok()).count() as u64;
    assert_eq!(taken, DISK_MARGIN_BYTES / 2 / 4096, "a block for each, whatever it brings");
    assert_eq!(gate.space().free_bytes, 0);
    gate.sealed(Lsn(64));
    gate.set_local_space(Lsn(64), budget(DISK_MARGIN_BYTES));
    assert_eq!(admit(Room::There, 1 << 20), Err(Refused::NoSpace), "the partner has not applied it");
    gate.set_peer_space(peer(Lsn(64), budget(DISK_MARGIN_BYTES)));
    assert_eq!(admit(Room::There, 1 << 20), Ok(()));
    gate.set_peer_space(peer(Lsn(64), budget(DISK_MARGIN_BYTES / 2)));
    assert_eq!(admit(Room::There, 1 << 20), Err(Refused::NoSpace), "the other half is for what gives room");
}

#[test]
fn what_is_pending_is_the_sum_of_its_parts_whatever_happens() {
    let gate = open_gate(1 << 30);
    gate.set_peer_space(peer(Lsn(0), budget(1 << 40)));
    let mut end = 0;
    // More seals than spans are remembered, and a partner that lags behind by some of them.
    for round in 0..3 * MAX_PENDING_SPANS as u64 {
        drop(gate.admit(Ask::growing(round as usize * 100), || Lsn(0), || ()).unwrap());
        match round % 5 {
            0..3 => {
                end += 64;
                gate.sealed(Lsn(end));
            }
            3 => gate.nothing_sealed(|| round % 2 == 0, budget(1 << 40)),
            _ => gate.set_local_space(Lsn(end), budget(1 << 40)),
        }
        if round % 400 == 399 {
            gate.set_peer_space(peer(Lsn(end / 2), budget(1 << 40)));
        }
        let state = gate.state.lock();
        let mut sum = state.open;
        state.spans.iter().for_each(|span| sum.add(span.needs));
        assert_eq!(state.pending, sum, "round {round}");
    }
    gate.forget_pending();
    assert_eq!(gate.state.lock().pending, Needs::default());
}

#[test]
fn closing_wakes_those_who_wait() {
    let gate = open_gate(1 << 20);
    let waiting = {
        let gate = gate.clone();
        std::thread::spawn(move || gate.admit(Ask::growing(4096), || Lsn(1 << 20), || ()).map(|_| ()))
    };
    gate.close(NotServing::Stopping);
    assert_eq!(waiting.join().unwrap(), Err(Refused::NotServing(NotServing::Stopping)));
}

/// Other clients come and go, and wake everybody who waits.
#[test]
fn a_delay_lasts_although_others_are_let_in_and_out() {
    const USED: u64 = 900 << 10;
    let gate = open_gate(1 << 20);
    let client = {
        let gate = gate.clone();
        std::thread::spawn(move || {
            let begun = Instant::now();
            let admission = gate.admit(Ask::growing(4096), || Lsn(USED), || ()).unwrap();
            assert!(admission.slowed);
            begun.elapsed()
        })
    };
    while !client.is_finished() {
        gate.give_back(0);
        std::thread::yield_now();
    }
    let delay = gate.delay(USED);
    assert!(client.join().unwrap() >= delay && !delay.is_zero());
}

#[test]
fn the_delay_grows_with_the_fill() {
    let gate = open_gate(1000);
    assert_eq!(gate.delay(500), Duration::ZERO);
    assert!(gate.delay(600) < gate.delay(800));
    assert_eq!(gate.delay(1000), Duration::from_millis(MAX_DELAY_MS));
}

#[test]
fn what_is_admitted_counts_until_both_nodes_have_applied_it() {
    let gate = open_gate(1 << 30);
    gate.set_peer_space(peer(Lsn(0), budget(1 << 30)));
    let before = gate.space().free_bytes;
    drop(gate.admit(Ask::growing(1 << 20), || Lsn(0), || ()).unwrap());
    let after = gate.space().free_bytes;
    assert!(after <= before - (1 << 20), "logged, so it is as good as used");
    gate.sealed(Lsn(2 << 20));
    gate.set_local_space(Lsn(2 << 20), budget(1 << 40));
    assert_eq!(gate.space().free_bytes, after, "the partner has not applied it");
    gate.set_peer_space(peer(Lsn(2 << 20), budget((1 << 30) - (1 << 20))));
    assert_eq!(gate.space().free_bytes, before - (1 << 20));
}

#[test]
fn what_does_not_fit_is_refused_and_takes_nothing_from_others() {
    let gate = open_gate(1 << 20);
    gate.set_local_space(Lsn(0), budget(DISK_MARGIN_BYTES + 100_000));
    let huge = Ask { allocate_bytes: 1 << 40, ..Ask::growing(100) };
    assert_eq!(gate.admit(huge, || Lsn(0), || ()).map(|_| ()), Err(Refused::NoSpace));
    assert_eq!(gate.space().free_bytes, 100_000);
    let first = Ask { allocate_bytes: 70_000, ..Ask::growing(100) };
    drop(gate.admit(first, || Lsn(0), || ()).unwrap());
    // The same again would fit beside what the disk holds, but not beside what it will hold.
    assert_eq!(gate.admit(first, || Lsn(0), || ()).map(|_| ()), Err(Refused::NoSpace));
    drop(gate.admit(Ask::keeping(100), || Lsn(0), || ()).expect("removing works on a full disk"));
}

#[test]
fn inodes_are_taken_by_what_makes_objects_alone() {
    let gate = open_gate(1 << 30);
    gate.set_local_space(Lsn(0), SpaceBudget { free_inodes: 18, ..budget(1 << 40) });
    let makes = Ask { inodes: 1, ..Ask::growing(100) };
    for _ in 0..100 {
        drop(gate.admit(Ask::growing(100), || Lsn(0), || ()).unwrap());
    }
    for _ in 0..2 {
        drop(gate.admit(makes, || Lsn(0), || ()).unwrap());
    }
    assert_eq!(gate.admit(makes, || Lsn(0), || ()).map(|_| ()), Err(Refused::NoSpace));
}

/// What can certainly be made comes again with each consistency point: who needs more waits for them while they come.
#[test]
fn who_lacks_only_certain_inodes_waits_for_consistency_points() {
    let makes = Ask { inodes: 1, ..Ask::growing(100) };
    for (likely_inodes, waits) in [(1000, true), (18, false)] {
        let gate = open_gate(1 << 30);
        let space = SpaceBudget { free_inodes: 18, likely_inodes, ..budget(1 << 40) };
        gate.set_local_space(Lsn(0), space);
        for _ in 0..2 {
            drop(gate.admit(makes, || Lsn(0), || ()).unwrap());
        }
        let mut progress = Progress::default();
        // All of it is logged, and less is applied.
        let mut again = || gate.try_admit(makes, &mut progress, || Lsn(5000), || ());
        assert!(matches!(again(), Ok(Step::Wait(_))), "for a consistency point to begin");
        assert_eq!(matches!(again(), Ok(Step::Wait(_))), waits);
        assert_eq!(matches!(again(), Err(Refused::NoSpace)), !waits);
        gate.set_local_space(Lsn(5000), space);
        assert_eq!(matches!(again(), Err(Refused::NoSpace)), !waits, "it has come to what may be made");
    }
}

#[test]
fn what_a_new_primary_has_still_to_apply_counts_until_it_is_applied() {
    let gate = open_gate(1 << 30);
    let needs = Needs::of(&Ask::growing(1 << 20));
    gate.begin_with(Lsn(5000), needs);
    gate.set_local_space(Lsn(100), budget(DISK_MARGIN_BYTES + (2 << 20)));
    assert!(gate.space().free_bytes < 1 << 20);
    gate.set_local_space(Lsn(5000), budget(DISK_MARGIN_BYTES + (2 << 20)));
    assert_eq!(gate.space().free_bytes, 2 << 20);
}

/// Room that a consistency point showed may be taken by others before the one who asked for it wakes up: it asks again.
#[test]
fn who_waits_for_room_is_not_refused_because_others_were_quicker() {
    let gate = open_gate(1 << 30);
    let space = budget(DISK_MARGIN_BYTES + 100_000);
    gate.set_local_space(Lsn(0), space);
    drop(gate.admit(Ask::growing(90_000), || Lsn(0), || ()).unwrap());
    let end = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(64));
    let reserved = |end: &std::sync::atomic::AtomicU64| Lsn(end.load(std::sync::atomic::Ordering::SeqCst));
    let waiting = {
        let (gate, end) = (gate.clone(), end.clone());
        std::thread::spawn(move || gate.admit(Ask::growing(50_000), || reserved(&end), || ()).map(|_| ()))
    };
    for round in 1..4 {
        std::thread::sleep(Duration::from_millis(30));
        assert!(!waiting.is_finished(), "there is no room yet");
        // Applied, and as much again logged by somebody else in the same moment.
        let mut state = gate.state.lock();
        end.fetch_add(64, std::sync::atomic::Ordering::SeqCst);
        state.local_applied = Lsn(64 * round);
        drop(state);
        gate.moved.notify_all();
    }
    std::thread::sleep(Duration::from_millis(30));
    assert!(!waiting.is_finished(), "refused although the disk is not full");
    gate.forget_pending();
    gate.set_local_space(Lsn(1 << 20), space);
    assert_eq!(waiting.join().unwrap(), Ok(()));
}

/// What somebody else was let in with is not logged yet, and may come to nothing: until then nobody is refused.
#[test]
fn who_waits_for_room_is_not_refused_while_others_are_inside() {
    let gate = open_gate(1 << 30);
    let ask = Ask::growing(100);
    let space = budget(DISK_MARGIN_BYTES + 3 * Needs::of(&ask).disk_bytes / 2);
    gate.set_local_space(Lsn(0), space);
    let mut progress = Progress::default();
    let inside = gate.admit(ask, || Lsn(64), || ()).expect("there is room for one");
    for _ in 0..3 {
        let Ok(Step::Wait(waits)) = gate.try_admit(ask, &mut progress, || Lsn(64), || ()) else {
            panic!("refused, or let in")
        };
        gate.set_local_space(Lsn(64), space);
        assert!(gate.holds_back(&waits, Lsn(64)), "nothing has been logged");
        // Nobody waits for what cannot come.
        gate.set_local_space(Lsn(64), budget(0));
        assert!(!gate.holds_back(&waits, Lsn(64)));
        gate.set_local_space(Lsn(64), space);
    }
    let Ok(Step::Wait(waits)) = gate.try_admit(ask, &mut progress, || Lsn(64), || ()) else {
        panic!("waits")
    };
    drop(inside);
    assert!(!gate.holds_back(&waits, Lsn(64)), "whoever was inside has left");
    let refused = gate.try_admit(ask, &mut progress, || Lsn(64), || ());
    assert_eq!(refused.map(|_| ()), Err(Refused::NoSpace), "it was logged, and took the room");
}

/// One node of btrfs has used up what it could make room of, and the other has not begun to: each has room enough.
#[test]
fn what_is_scarce_on_one_node_is_not_taken_off_the_other() {
    let gate = open_gate(1 << 30);
    let with = |free_bytes, unallocated_bytes| SpaceBudget {
        metadata: Some(apply_engine::MetadataSpace { free_bytes, unallocated_bytes }),
        ..budget(1 << 40)
    };
    let (emptied, fresh) = (with(90 << 20, 0), with(10 << 20, 1 << 30));
    let lets_in = |local, partner| {
        gate.set_local_space(Lsn(0), local);
        gate.set_peer_space(peer(Lsn(0), partner));
        gate.admit(Ask::growing(100), || Lsn(0), || ()).is_ok()
    };
    assert!(lets_in(emptied, fresh) && lets_in(fresh, emptied));
    assert!(!lets_in(emptied, with(10 << 20, 0)) && !lets_in(with(10 << 20, 0), fresh));
}
