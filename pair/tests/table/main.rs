//! State × event as a golden file: what each state makes of each event, in one line each. A change of the
//! machine shows as a change of `golden.txt`; `BLESS=1 cargo test -p pair --test table` writes it anew.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod bench;
mod memory;
mod timers;

use bench::*;
use ids::{AckRule, BaseLimits, Epoch};
use pair::witness::Mode;
use pair::*;
use std::fmt::Write;

fn events(bench: &Bench) -> Vec<(&'static str, Event)> {
    let end = bench.log.end;
    let request = bench.request.unwrap_or(RequestId(999));
    let said = |outcome| Event::WitnessAnswer { request, outcome };
    let other = log(&[(2, 0), (9, 640)], 704);
    vec![
        ("link up", Event::LinkUp { link: LinkId(7), log: bench.log.clone() }),
        ("link down", Event::LinkDown { link: LINK }),
        ("stale link down", Event::LinkDown { link: LinkId(0) }),
        ("mirror lost", Event::MirrorLost { link: LINK }),
        ("partner stalls", Event::PartnerStalls { link: LINK }),
        ("hello: waiting", hello(9, Posture::Waiting, log(&[(2, 0)], 640))),
        ("hello: primary of 9", hello(9, Posture::Primary(Epoch(9)), other)),
        ("late hello", hello(0, Posture::Primary(Epoch(9)), log(&[(9, 0)], 64))),
        ("join 4", message(Message::Join { epoch: Epoch(4), at: end })),
        ("in sync 4", message(Message::InSync { epoch: Epoch(4) })),
        ("mark in sync 3", message(Message::MarkInSync { epoch: Epoch(3) })),
        ("hand over 3 to 4", message(Message::HandOver { from: Epoch(3), epoch: Epoch(4), end })),
        ("goodbye", message(Message::Goodbye)),
        ("want switchover", message(Message::WantSwitchover)),
        ("switchover off", message(Message::SwitchoverOff(CallOff::Witness))),
        ("swapped to me", said(WitnessOutcome::Swapped(register(6, "a", Mode::Solo, 8)))),
        ("conflict: peer solo", said(WitnessOutcome::Conflict(Some(register(7, "b", Mode::Solo, 9))))),
        (
            "conflict: peer mirrored",
            said(WitnessOutcome::Conflict(Some(register(7, "b", Mode::Mirrored, 9)))),
        ),
        ("conflict: absent", said(WitnessOutcome::Conflict(None))),
        ("unreachable, not sent", said(WitnessOutcome::Unreachable { maybe_applied: false })),
        ("unreachable, in doubt", said(WitnessOutcome::Unreachable { maybe_applied: true })),
        ("rule set", Event::RuleSet { rule: AckRule::Both, committed: end.lsn }),
        ("peer reached", Event::PeerReached { link: LINK, lsn: end.lsn }),
        ("drained", Event::Drained { end }),
        ("switchover", Event::Operator(Operator::Switchover)),
        ("force", Event::Operator(Operator::ForceTakeover)),
        ("discard", Event::Operator(Operator::DiscardLocal)),
        ("resync", Event::Operator(Operator::Resync { by_content: true })),
        ("local fault", Event::LocalFault(LocalFault::BaseIo)),
        ("trees differ", Event::TreesDiffer(true)),
        ("shutdown", Event::Shutdown),
        ("command failed", Event::CommandFailed { part: FailedPart::Log, error: "EIO".to_owned() }),
    ]
}

fn short(command: &Command) -> String {
    let text = match command {
        Command::Send { message, .. } => return short_name("send ", &format!("{message:?}")),
        Command::SetAckRule(_) | Command::StopServing { .. } => format!("{command:?}"),
        Command::OpenEpoch { epoch } | Command::StartServing { epoch } => {
            return format!("{}({epoch})", short_name("", &format!("{command:?}")));
        }
        other => return short_name("", &format!("{other:?}")),
    };
    text.replace("StopServing { reason: ", "StopServing(").replace(" }", ")")
}

fn short_name(prefix: &str, text: &str) -> String {
    let end = text.find(['(', ' ', '{']).unwrap_or(text.len());
    format!("{prefix}{}", &text[..end])
}

/// The old primary's `Hello` tells of the register before its `HandOver` comes: that is no reason to claim.
#[test]
fn a_switchover_that_the_register_announces_first_is_still_one() {
    let mut partner = state("mirrored partner");
    partner.give(message(Message::RegisterIs(register(4, "a", Mode::Mirrored, 6))));
    assert!(partner.mode().ends_with("partner"), "{}", partner.mode());
    let end = partner.log.end;
    partner.give(message(Message::HandOver { from: Epoch(3), epoch: Epoch(4), end }));
    assert!(partner.mode().ends_with("primary"), "it opens the epoch at once: {}", partner.mode());
    assert_eq!(partner.pair.status(partner.now).epoch, Epoch(4));
}

/// Both apply the same records: clients are granted what both bases hold, over restarts too.
#[test]
fn the_weaker_of_two_bases_counts() {
    let weaker = BaseLimits { max_symlink_bytes: 1023, ..BaseLimits::LINUX };
    let mut bench = Bench::new(true, log(&[(2, 0)], 640), in_sync(2));
    assert_eq!(bench.pair.client_limits(), BaseLimits::LINUX);
    bench.give(Event::LinkUp { link: LINK, log: bench.log.clone() });
    let commands = bench.give(with_limits(hello(1, Posture::Waiting, log(&[(2, 0)], 640)), "xfs", weaker));
    let stored =
        |command: &Command| matches!(command, Command::Store(state) if state.granted == Some(weaker));
    assert!(commands.iter().any(stored), "{commands:?}");
    assert_eq!((bench.pair.client_limits(), bench.pair.status(bench.now).refusal), (weaker, None));
}

/// What was answered may be in the tree: a base that cannot hold it must not become the other half.
#[test]
fn a_base_that_holds_less_than_was_granted_is_refused() {
    let state = DurableState { granted: Some(BaseLimits::LINUX), ..in_sync(2) };
    let mut bench = Bench::new(true, log(&[(2, 0)], 640), state);
    bench.give(Event::LinkUp { link: LINK, log: bench.log.clone() });
    let weaker = BaseLimits { max_symlink_bytes: 1023, ..BaseLimits::LINUX };
    let commands = bench.give(with_limits(hello(1, Posture::Waiting, log(&[(2, 0)], 640)), "xfs", weaker));
    let refusal = bench.pair.status(bench.now).refusal.expect("told to the operator");
    let message = Message::Refused(refusal.clone());
    assert!(commands.contains(&Command::Send { link: LINK, message }), "and to the other: {commands:?}");
    assert!(commands.contains(&Command::DropLink { link: LINK }), "{commands:?}");
    let text = refusal.to_string();
    assert!(text.contains("of b lies on xfs") && text.contains("at most 1023 bytes, and 4095"), "{text}");
    assert_eq!(bench.pair.client_limits(), BaseLimits::LINUX);
}

fn with_limits(mut event: Event, filesystem: &str, limits: BaseLimits) -> Event {
    if let Event::Message { message: Message::Hello(hello), .. } = &mut event {
        hello.base_filesystem = filesystem.to_owned();
        hello.base_limits = limits;
    }
    event
}

/// A partner whose ring holds bytes that break the chain, while its primary may have acknowledged them.
#[test]
fn wrong_bytes_make_a_partner_unfit() {
    let mut partner = state("mirrored partner");
    assert!(partner.pair.status(partner.now).eligible);
    let commands = partner.give(Event::ReceivedWrong { link: LINK });
    let stored = |command: &Command| matches!(command, Command::Store(state) if !state.in_sync);
    assert!(stored(&commands[0]), "remembered before anything else: {commands:?}");
    assert!(commands.contains(&Command::DropLink { link: LINK }), "{commands:?}");
    assert!(!partner.pair.status(partner.now).eligible);
    partner.wait(5_000);
    let mode = partner.mode();
    assert!(mode.starts_with("outdated"), "it does not take over: {mode}");
    // Over another link, or for a primary, it says nothing.
    let mut stale = state("mirrored partner");
    stale.give(Event::ReceivedWrong { link: LinkId(0) });
    let mut primary = state("mirrored primary");
    primary.give(Event::ReceivedWrong { link: LINK });
    for bench in [stale, primary] {
        assert!(bench.pair.status(bench.now).eligible);
    }
}

/// An order ends with its command on both nodes; what this node's own operator wants the partner cannot take back.
#[test]
fn a_switchover_that_the_partner_asked_for_is_withdrawn_there_too() {
    let mut partner = state("mirrored partner");
    partner.give(Event::TreesDiffer(false));
    partner.give(message(Message::MarkInSync { epoch: Epoch(3) }));
    partner.give(Event::Operator(Operator::Switchover));
    let said = partner.give(Event::Withdrawn(Operator::Switchover));
    let sent =
        |command: &Command| matches!(command, Command::Send { message: Message::SwitchoverWithdrawn, .. });
    assert!(said.iter().any(sent), "{said:?}");
    let mut primary = state("mirrored primary");
    primary.give(message(Message::WantSwitchover));
    assert_eq!(primary.mode(), "handing-over primary");
    primary.give(message(Message::SwitchoverWithdrawn));
    assert_eq!(primary.mode(), "mirrored primary");
    primary.give(Event::Operator(Operator::Switchover));
    primary.give(message(Message::SwitchoverWithdrawn));
    assert_eq!(primary.mode(), "handing-over primary");
}

/// A partner that would serve something else than its primary served.
#[test]
fn a_partner_whose_tree_differs_does_not_take_over_by_itself() {
    let mut partner = state("mirrored partner");
    partner.give(Event::TreesDiffer(true));
    assert!(!partner.pair.status(partner.now).eligible);
    assert_eq!(partner.give(Event::TreesDiffer(true)), [], "told again, it is stored already");
    let mut healed = partner.clone();
    partner.wait(5_000);
    partner.wait(5_000);
    let status = partner.pair.status(partner.now);
    assert!(!status.serving && status.mode != PairMode::TakingOver, "{status:?}");
    assert!(status.detail.contains("takeover VOLUME --force"), "{status:?}");
    assert_eq!(partner.pair.can(Operator::ForceTakeover), Ok(()));
    // When the trees are known to be the same again, it is as good as any.
    healed.give(Event::TreesDiffer(false));
    assert!(healed.pair.status(healed.now).eligible);
    healed.wait(5_000);
    assert_eq!(healed.pair.status(healed.now).mode, PairMode::TakingOver);
    // A resync that goes by labels finds no contents that differ; one that compares contents leaves none.
    for by_content in [false, true] {
        let known = DurableState {
            tree_differs: true,
            resync: true,
            compare_all: by_content,
            in_sync: false,
            ..in_sync(2)
        };
        let mut receiver = Bench::new(true, log(&[(2, 0)], 640), known);
        receiver.give(Event::Resynced { log: log(&[(2, 0)], 640) });
        let status = receiver.pair.status(receiver.now);
        assert_eq!((status.needs_resync, status.tree_differs), (None, !by_content));
    }
    // What a primary serves is what its clients saw.
    let mut primary = state("mirrored primary");
    primary.give(Event::TreesDiffer(true));
    assert!(primary.pair.status(primary.now).eligible);
}

/// A pair that was mirrored before anything was written: its partner holds all there is, which is nothing.
#[test]
fn an_empty_log_that_is_in_sync_may_be_forced() {
    let mirrored = DurableState { register: Some(register(1, "b", Mode::Mirrored, 1)), ..in_sync(1) };
    let mut partner = Bench::new(false, log(&[], 0), mirrored.clone());
    assert_eq!(partner.pair.can(Operator::ForceTakeover), Ok(()));
    partner.give(Event::Operator(Operator::ForceTakeover));
    partner.wait(5_000);
    assert_eq!(partner.mode(), "solo primary");
    // A log that is not in sync was made anew.
    let anew = Bench::new(false, log(&[], 0), DurableState { in_sync: false, ..mirrored });
    assert!(anew.pair.can(Operator::ForceTakeover).unwrap_err().contains("empty"));
}

#[test]
fn every_state_and_event_is_as_written_down() {
    let mut table = String::new();
    for (state, bench) in states() {
        writeln!(table, "\n== {state} ({})", bench.mode()).unwrap();
        let mut rows = events(&bench);
        rows.push(("silence", Event::Tick { vitals: Vitals::default() }));
        for (label, event) in rows {
            let mut after = bench.clone();
            if label == "silence" {
                after.now = after.now.plus(2_500);
            }
            let commands: Vec<String> = after.give(event).iter().map(short).collect();
            let mode = after.mode();
            let change = if mode == bench.mode() { "=".to_owned() } else { format!("-> {mode}") };
            let line = format!("{label:<24} {change:<26} {}", commands.join(", "));
            writeln!(table, "{}", line.trim_end()).unwrap();
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/table/golden.txt");
    if std::env::var("BLESS").is_ok() {
        std::fs::write(path, &table).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    for (line, (now, before)) in table.lines().zip(golden.lines()).enumerate() {
        assert_eq!(now, before, "line {} of golden.txt; BLESS=1 writes it anew", line + 1);
    }
    assert_eq!(table.lines().count(), golden.lines().count(), "BLESS=1 writes golden.txt anew");
}

/// Stored before the first change, over a restart, until the tree is whole: it follows nobody and serves nobody.
#[test]
fn a_tree_that_is_being_replaced_is_good_for_nothing_until_it_is_whole() {
    let away = DurableState { in_sync: false, ..in_sync(2) };
    let ahead = || log(&[(9, 640)], 7040);
    let mut bench = Bench::new(true, log(&[(2, 0)], 640), away);
    bench.link(Posture::Primary(Epoch(9)), ahead());
    assert_eq!(bench.pair.status(bench.now).needs_resync, Some(pair::ResyncReason::NoCommonPoint));
    assert!(bench.pair.salvages(), "what only this node has is kept first");
    assert_eq!(bench.pair.wants_resync(), Some(LINK));
    bench.give(Event::ResyncBegan);
    assert!(!bench.pair.salvages(), "once: the tree is not this node's any more");

    let lost = LogSummary { survived: false, ..log(&[(2, 0)], 640) };
    let mut bench = Bench::new(true, lost, DurableState { in_sync: false, ..in_sync(2) });
    bench.link(Posture::Primary(Epoch(9)), ahead());
    assert_eq!(bench.pair.wants_resync(), Some(LINK));
    let commands = bench.give(Event::ResyncBegan);
    let stored = commands.iter().find_map(|command| match command {
        Command::Store(state) => Some(state.clone()),
        _ => None,
    });
    let stored = stored.expect("it is stored");
    assert!(stored.resync && !stored.in_sync);
    assert!(bench.pair.can(Operator::ForceTakeover).is_err());
    bench.wait(60_000);
    assert_eq!(bench.mode(), "needs-resync none", "it joins nobody");

    // A restart changes nothing, though the log is in order now.
    let mut bench = Bench::new(true, ahead(), stored);
    assert_eq!(bench.pair.status(bench.now).needs_resync, Some(pair::ResyncReason::Unfinished));
    bench.link(Posture::Primary(Epoch(9)), ahead());
    bench.wait(60_000);
    assert_eq!(bench.mode(), "needs-resync none");
    assert_eq!(bench.pair.wants_resync(), Some(LINK));
    let whole = ahead();
    let commands = bench.give(Event::Resynced { log: whole });
    assert!(commands.iter().any(|command| matches!(command, Command::Store(state) if !state.resync)));
    assert!(bench.mode().ends_with("partner"), "it joins: {}", bench.mode());
    assert!(!bench.pair.status(bench.now).eligible, "not before the barrier");
}

/// One side of a split is given up by the operator's word alone, and never without being salvaged first.
#[test]
fn a_split_waits_for_the_operator_and_is_salvaged() {
    let (_, mut split) = states().into_iter().find(|(name, _)| *name == "split").unwrap();
    split.wait(60_000);
    assert_eq!(split.pair.wants_resync(), None, "nobody chose");
    assert!(split.pair.can(Operator::Resync { by_content: true }).unwrap_err().contains("split discard"));
    split.give(Event::Operator(Operator::DiscardLocal));
    assert!(split.pair.salvages());
    // Until the tree is touched the operator may change his mind.
    assert_eq!(split.pair.can(Operator::ForceTakeover), Ok(()));
    split.wait(60_000);
    assert_eq!(split.pair.wants_resync(), Some(LINK), "{}", split.mode());
    split.give(Event::ResyncBegan);
    assert!(split.pair.is_resyncing() && split.pair.can(Operator::ForceTakeover).is_err());
}

/// Asked for by the operator: the primary is told at once, a restart forgets nothing, and it ends as any resync.
#[test]
fn a_resync_that_the_operator_asked_for_survives_a_restart() {
    assert!(
        state("mirrored primary")
            .pair
            .can(Operator::Resync { by_content: true })
            .unwrap_err()
            .contains("is primary")
    );
    assert!(
        state("starting").pair.can(Operator::Resync { by_content: true }).unwrap_err().contains("no primary")
    );
    let mut partner = state("mirrored partner");
    let commands = partner.give(Event::Operator(Operator::Resync { by_content: true }));
    assert!(
        matches!(&commands[0], Command::Store(state) if state.compare_all && !state.in_sync),
        "remembered before anybody hears of it: {commands:?}"
    );
    assert!(commands.contains(&Command::Send { link: LINK, message: Message::Goodbye }), "{commands:?}");
    assert!(!partner.pair.status(partner.now).eligible);
    let Command::Store(stored) = &commands[0] else { unreachable!() };
    let mut again = Bench::new(true, log(&[(2, 0), (3, 640)], 704), stored.clone());
    again.link(Posture::Primary(Epoch(3)), log(&[(2, 0), (3, 640)], 704));
    again.wait(60_000);
    assert_eq!(again.mode(), "needs-resync none", "it does not simply join");
    assert!(again.pair.compares_all() && !again.pair.salvages());
    assert_eq!(again.pair.wants_resync(), Some(LINK));
    again.give(Event::ResyncBegan);
    assert!(again.pair.can(Operator::Resync { by_content: true }).unwrap_err().contains("under way"));
    again.give(Event::Resynced { log: log(&[(2, 0), (3, 640)], 704) });
    assert!(!again.pair.compares_all() && again.mode().ends_with("partner"), "{}", again.mode());
}
