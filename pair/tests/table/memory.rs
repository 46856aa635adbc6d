//! Nodes that answered out of memory, after a restart.

use crate::bench::{Bench, in_sync, log, message, register};
use ids::{AnswerFrom, Epoch};
use pair::witness::Mode;
use pair::*;

/// Out of memory more was answered than the log of a node that restarted may hold: alone it claims nothing.
#[test]
fn a_log_that_answered_out_of_memory_claims_only_beside_one_that_holds_no_more() {
    let state = || DurableState { from_memory: true, ..in_sync(2) };
    let mirrored = || WitnessOutcome::Is(Some(register(2, "a", Mode::Mirrored, 4)));
    let begin = |state| {
        let mut bench = Bench::new(true, log(&[(2, 0)], 640), state);
        bench.witness(mirrored());
        bench
    };
    let mut other = begin(in_sync(2));
    other.wait(60_000);
    assert_eq!(other.mode(), "taking-over none", "every answer of this one is in its log");

    let mut alone = begin(state());
    alone.wait(60_000);
    assert_eq!(alone.mode(), "starting none");
    let status = alone.pair.status(alone.now);
    assert!(!status.eligible && status.detail.contains("takeover VOLUME --force"), "{}", status.detail);
    assert_eq!(alone.pair.can(Operator::ForceTakeover), Ok(()));

    let mut behind = alone.clone();
    behind.link(Posture::Waiting, log(&[(2, 0)], 1280));
    behind.wait(60_000);
    assert_eq!(behind.mode(), "starting none", "the other one holds more: it begins");
    // It may have got more than its word of itself tells, as long as it follows or claims.
    let mut followed = alone.clone();
    followed.link(Posture::Partner(Epoch(2)), log(&[(2, 0)], 320));
    followed.wait(60_000);
    assert_eq!(followed.mode(), "starting none");
    let mut ahead = alone.clone();
    ahead.link(Posture::Waiting, log(&[(2, 0)], 320));
    ahead.wait(60_000);
    assert_eq!(ahead.mode(), "taking-over none");
}

/// As above on the partner's side: until the primary says that it holds everything, it takes over for nobody.
#[test]
fn a_partner_that_answered_out_of_memory_is_no_successor_before_the_barrier() {
    let follows = |state| {
        let mut bench = Bench::new(true, log(&[(3, 0)], 640), state);
        bench.link(Posture::Primary(Epoch(3)), log(&[(3, 0)], 1280));
        bench.give(message(Message::RegisterIs(register(3, "b", Mode::Mirrored, 5))));
        bench
    };
    assert_eq!(follows(in_sync(3)).mode(), "mirrored partner");
    let mut bench = follows(DurableState { from_memory: true, ..in_sync(3) });
    assert_eq!(bench.mode(), "catching-up partner");
    assert!(!bench.pair.status(bench.now).eligible);
    let mut lost = bench.clone();
    lost.wait(500);
    assert_eq!(lost.mode(), "starting none", "it does not claim");
    bench.give(message(Message::MarkInSync { epoch: Epoch(3) }));
    assert!(bench.pair.status(bench.now).eligible);
    bench.wait(500);
    assert_eq!(bench.mode(), "taking-over none");
}

/// No register decides: the longer log begins, where answers come out of memory.
#[test]
fn without_a_witness_the_longer_log_begins_after_answers_out_of_memory() {
    let begins = |answer_from, end, theirs| {
        let summary = |end| LogSummary { answer_from, ..log(&[(2, 0)], end) };
        let mut bench = Bench::new(false, summary(end), in_sync(2));
        bench.link(Posture::Waiting, summary(theirs));
        bench.mode() != "starting none"
    };
    assert!(begins(AnswerFrom::Power, 640, 1280), "by name");
    assert!(!begins(AnswerFrom::Memory, 640, 1280));
    assert!(begins(AnswerFrom::Memory, 1280, 640));
    assert!(begins(AnswerFrom::Memory, 640, 640));
}
