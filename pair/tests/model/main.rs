//! The pair and its witness, searched exhaustively in a small scope: every order of events, with every choice of a
//! bounded number of faults, over the real machine.
//!
//! What is searched is `pair::Pair` itself, twice, with the rules of its runtime around it (`executor`), a log
//! of a few records, and a network and a witness that fail (`actions`). The bounds are in `faults`; what must
//! never happen is in [`state::Breach`]; and from every state, once nothing fails any more, the pair must be
//! mirrored again within a bounded time ([`scope::Scope::heals`]).
//!
//! What a search does not see: more faults than the bound, more records, clocks that drift (both tick
//! together), one clock's tick inside the other's; the random simulation next door does those.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod actions;
#[path = "../sim/canary.rs"]
mod canary;
#[path = "../sim/disk.rs"]
mod disk;
mod executor;
mod faults;
mod scope;
mod state;
mod steps;

use canary::Canary;
use faults::Faults;
use scope::Scope;

/// All kinds, one of each.
const EVERY: Faults = Faults {
    total: 1,
    crashes: 1,
    cuts: 1,
    holds: 1,
    pauses: 1,
    witness: 1,
    operator: 1,
    forces: 1,
    forgets: 1,
    rollbacks: 1,
};
const NONE: Faults = Faults {
    total: 0,
    crashes: 0,
    cuts: 0,
    holds: 0,
    pauses: 0,
    witness: 0,
    operator: 0,
    forces: 0,
    forgets: 0,
    rollbacks: 0,
};

fn search(scopes: Vec<(&str, Scope)>) {
    let mut failed = false;
    for (name, scope) in scopes {
        let outcome = scope.search();
        println!("{name}: {outcome}");
        failed |= outcome.failed.is_some();
    }
    assert!(!failed, "a property does not hold; the shortest way there is printed above");
}

#[test]
fn model_check() {
    let some = Scope::default;
    let two = Faults { total: 2, ..NONE };
    search(vec![
        ("two formatted logs, one fault", Scope { faults: EVERY, mirrored: false, writes: 0, ..some() }),
        ("a mirrored pair, one write, one fault", Scope { faults: EVERY, writes: 1, ..some() }),
        (
            "two of: crash, cut, witness",
            Scope { faults: Faults { crashes: 2, cuts: 2, witness: 2, ..two }, writes: 0, ..some() },
        ),
        (
            "two of: crash, pause, switchover or stop",
            Scope { faults: Faults { crashes: 1, pauses: 1, operator: 1, ..two }, writes: 0, ..some() },
        ),
        (
            "two of: switchover or stop, witness",
            Scope { faults: Faults { operator: 1, witness: 1, ..two }, writes: 0, ..some() },
        ),
        (
            "without a witness, two of every kind",
            Scope { faults: Faults { total: 2, ..EVERY }, witness: false, writes: 0, ..some() },
        ),
    ]);
}

#[test]
fn model_check_of_a_witness_that_forgets() {
    let two = Faults { total: 2, ..NONE };
    search(vec![(
        "two of: cut, crash, forced takeover, register lost",
        Scope {
            faults: Faults { crashes: 1, cuts: 1, forces: 1, forgets: 1, ..two },
            writes: 0,
            ..Scope::default()
        },
    )]);
}

/// The witness comes back with any older value that the register had, beside another fault. What no node can know is
/// left out: see `State::is_register_known`, and more than one fault beside it.
#[test]
fn model_check_of_a_witness_from_a_backup() {
    let two = Faults { total: 2, rollbacks: 1, ..NONE };
    search(vec![
        (
            "a backup of the witness, and a crash or a cut",
            Scope { faults: Faults { crashes: 1, cuts: 1, ..two }, writes: 0, ..Scope::default() },
        ),
        (
            "a backup of the witness, and a switchover or stop, or a register that is lost",
            Scope { faults: Faults { operator: 1, forgets: 1, ..two }, writes: 0, ..Scope::default() },
        ),
    ]);
}

/// Minutes, and some gigabytes: `cargo test -p pair --test model -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes"]
fn model_check_large() {
    let two = Faults { total: 2, ..EVERY };
    search(vec![
        (
            "two formatted logs, one write, one fault",
            Scope { faults: EVERY, mirrored: false, ..Scope::default() },
        ),
        (
            "a mirrored pair, one write, two of: crash, witness",
            Scope { faults: Faults { total: 2, crashes: 2, witness: 1, ..NONE }, ..Scope::default() },
        ),
        (
            "a backup of the witness, one write, and a crash, a cut, a held direction or a pause",
            Scope {
                faults: Faults { total: 2, rollbacks: 1, crashes: 1, cuts: 1, holds: 1, pauses: 1, ..NONE },
                ..Scope::default()
            },
        ),
        ("a mirrored pair, two faults of every kind", Scope { faults: two, writes: 0, ..Scope::default() }),
        (
            "without a witness, one write, two faults of every kind",
            Scope { faults: two, witness: false, ..Scope::default() },
        ),
    ]);
}

/// A search that finds nothing is worth something only if it would.
#[test]
fn every_canary_is_found() {
    for canary in Canary::ALL {
        let faults = match canary {
            // Data must be late while messages are not: else it always arrives before the register changes.
            Canary::BarrierWaitSkipped => Faults { total: 2, cuts: 1, holds: 1, ..NONE },
            _ => Faults { total: 1, cuts: 1, crashes: 1, ..NONE },
        };
        let writes = u8::from(canary != Canary::BarrierWaitSkipped);
        let outcome = Scope { faults, writes, canary: Some(canary), ..Scope::default() }.search();
        println!("{canary:?}: {outcome}");
        assert!(outcome.failed.is_some(), "{canary:?} was not found in {} states", outcome.states);
    }
}
