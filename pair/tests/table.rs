//! State × event as a golden file: what each state makes of each event, in one line each. A change of the
//! machine shows as a change of `table.golden`; `BLESS=1 cargo test -p pair --test table` writes it anew.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use ids::{
    AckRule, AnswerFrom, BaseLimits, ChainCrc, Durability, Epoch, EpochHistory, EpochStart, LogPoint, Lsn,
    NodeName, VolumeId,
};
use pair::witness::{Mode, Register};
use pair::*;
use std::fmt::Write;

const VOLUME: VolumeId = VolumeId([1; 16]);
const LINK: LinkId = LinkId(1);
const BASE: &str = "ext4";

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn log(epochs: &[(u64, u64)], end: u64) -> LogSummary {
    let starts = epochs.iter().map(|&(e, l)| EpochStart { epoch: Epoch(e), first_lsn: Lsn(l) });
    LogSummary {
        volume: VOLUME,
        capacity_bytes: 1 << 20,
        tail: LogPoint::default(),
        end: LogPoint { lsn: Lsn(end), crc: ChainCrc(end as u32) },
        committed: Lsn(0),
        history: EpochHistory::new(starts.collect()).unwrap(),
        survived: true,
        durability: Durability::Power,
        answer_from: AnswerFrom::Power,
        base_empty: true,
    }
}

fn register(epoch: u64, primary: &str, mode: Mode, generation: u64) -> Register {
    Register { volume: VOLUME, epoch: Epoch(epoch), primary: name(primary), mode, generation }
}

fn hello(number: u64, posture: Posture, log: LogSummary) -> Event {
    let epoch_seen = log.history.last().map_or(Epoch(0), |last| last.epoch);
    message(Message::Hello(Box::new(Hello {
        number,
        node: name("b"),
        log,
        posture,
        register: None,
        epoch_seen,
        in_sync: true,
        solo: None,
        origin_empty: true,
        base_filesystem: BASE.to_owned(),
        base_limits: BaseLimits::LINUX,
    })))
}

fn message(message: Message) -> Event {
    Event::Message { link: LINK, message }
}

/// A node `a` that is driven by hand.
#[derive(Clone)]
struct Bench {
    pair: Pair,
    now: MonoMs,
    request: Option<RequestId>,
    log: LogSummary,
}

impl Bench {
    fn new(witness: bool, log: LogSummary, state: DurableState) -> Bench {
        let config =
            Config { witness, base_filesystem: BASE.to_owned(), ..Config::new(name("a"), name("b")) };
        let now = MonoMs(10_000);
        let (pair, commands) = Pair::new(config, state, log.clone(), now).unwrap();
        let mut bench = Bench { pair, now, request: None, log };
        bench.answer(commands);
        bench
    }

    /// Gives an event, and the answers that a runtime gives at once.
    fn give(&mut self, event: Event) -> Vec<Command> {
        let commands = self.pair.apply(self.now, event);
        self.answer(commands.clone());
        commands
    }

    fn answer(&mut self, commands: Vec<Command>) {
        for command in commands {
            let event = match command {
                Command::AskWitness { request, .. } => {
                    self.request = Some(request);
                    continue;
                }
                Command::Revoke => Event::Revoked { log: self.log.clone() },
                Command::SetAckRule(rule) => Event::RuleSet { rule, committed: self.log.end.lsn },
                Command::OpenEpoch { epoch } => {
                    let first_lsn = self.log.end.lsn;
                    self.log.history.push(EpochStart { epoch, first_lsn }).unwrap();
                    self.log.end.lsn = first_lsn.plus(64);
                    Event::EpochOpened { log: self.log.clone() }
                }
                Command::TruncateLog { to } => {
                    self.log.history.truncate(to);
                    self.log.end.lsn = to;
                    Event::Truncated { result: Ok(self.log.clone()) }
                }
                Command::CheckPoint { link, point } => {
                    Event::PointChecked { link, point, verdict: PointVerdict::Continues }
                }
                _ => continue,
            };
            self.give(event);
        }
    }

    fn wait(&mut self, wait_ms: u64) -> Vec<Command> {
        self.now = self.now.plus(wait_ms);
        let vitals = Vitals {
            end: self.log.end.lsn,
            peer_durable: self.log.end.lsn,
            committed: self.log.end.lsn,
            ..Vitals::default()
        };
        self.give(Event::Tick { vitals })
    }

    fn witness(&mut self, outcome: WitnessOutcome) {
        let request = self.request.take().expect("a request");
        self.give(Event::WitnessAnswer { request, outcome });
    }

    fn link(&mut self, posture: Posture, log: LogSummary) {
        self.give(Event::LinkUp { link: LINK, log: self.log.clone() });
        self.give(hello(1, posture, log));
    }

    fn mode(&self) -> String {
        let status = self.pair.status(self.now);
        format!("{} {:?}", status.mode, status.role).to_lowercase()
    }
}

fn in_sync(epoch: u64) -> DurableState {
    DurableState {
        epoch_seen: Epoch(epoch),
        in_sync: true,
        origin_empty: Some(true),
        ..DurableState::default()
    }
}

/// The states, each reached by events alone.
fn states() -> Vec<(&'static str, Bench)> {
    let both = || log(&[(2, 0)], 640);
    let starting = Bench::new(true, both(), in_sync(2));
    let mut outdated = starting.clone();
    outdated.witness(WitnessOutcome::Is(Some(register(3, "b", Mode::Solo, 5))));
    let mut claiming = starting.clone();
    claiming.witness(WitnessOutcome::Is(Some(register(2, "a", Mode::Mirrored, 4))));
    // Nothing to compare with: first the partner's time to come, and the witness's to be steady.
    claiming.wait(2_000);
    let mut solo = claiming.clone();
    solo.witness(WitnessOutcome::Swapped(register(4, "a", Mode::Solo, 5)));
    let mut catching = solo.clone();
    catching.link(Posture::Waiting, both());
    let end = catching.log.end;
    catching.give(message(Message::Join { epoch: Epoch(4), at: LogPoint { lsn: Lsn(640), ..end } }));
    let mut barrier = catching.clone();
    barrier.wait(60);
    let mut mirrored = barrier.clone();
    mirrored.give(Event::PeerReached { link: LINK, lsn: end.lsn });
    mirrored.give(message(Message::InSync { epoch: Epoch(4) }));
    let swapping = mirrored.clone();
    mirrored.witness(WitnessOutcome::Swapped(register(4, "a", Mode::Mirrored, 6)));
    let vitals = Vitals { healthy: true, ..Vitals::default() };
    let sent = mirrored.now;
    mirrored.give(answer(sent, Timers::default().lease_ms, vitals));
    let mut frozen = mirrored.clone();
    frozen.give(Event::LinkDown { link: LINK });
    let mut asking = frozen.clone();
    asking.wait(150);
    let mut draining = mirrored.clone();
    draining.give(Event::Operator(Operator::Switchover));
    let mut handing = draining.clone();
    handing.give(Event::Drained { end });
    let mut handed = handing.clone();
    handed.witness(WitnessOutcome::Swapped(register(5, "b", Mode::Mirrored, 7)));
    let mut joining = starting.clone();
    joining.link(Posture::Primary(Epoch(3)), log(&[(2, 0), (3, 640)], 704));
    let mut following = joining.clone();
    following.give(message(Message::RegisterIs(register(3, "b", Mode::Mirrored, 5))));
    let mut split = Bench::new(true, both(), DurableState { solo: Some(Epoch(2)), ..in_sync(2) });
    split.link(Posture::Primary(Epoch(3)), log(&[(2, 0), (3, 512)], 1024));
    let mut unwitnessed = Bench::new(false, both(), in_sync(2));
    unwitnessed.link(Posture::Primary(Epoch(3)), log(&[(2, 0), (3, 640)], 704));
    unwitnessed.wait(500);
    let mut failed = mirrored.clone();
    failed.give(Event::CommandFailed { error: "EIO".to_owned() });
    vec![
        ("starting", starting),
        ("outdated", outdated),
        ("claiming, asked", claiming),
        ("solo", solo),
        ("solo, partner catching up", catching),
        ("barrier", barrier),
        ("barrier, asked for mirrored", swapping),
        ("mirrored primary", mirrored),
        ("frozen", frozen),
        ("frozen, asked", asking),
        ("draining for a switchover", draining),
        ("asked for a switchover", handing),
        ("handed over", handed),
        ("joining partner", joining),
        ("mirrored partner", following),
        ("split", split),
        ("partner frozen without a witness", unwitnessed),
        ("failed", failed),
    ]
}

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
        ("command failed", Event::CommandFailed { error: "EIO".to_owned() }),
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

/// A partner's answer to a heartbeat of epoch 4.
fn answer(sent: MonoMs, promised_ms: u64, vitals: Vitals) -> Event {
    message(Message::HeartbeatAnswer { sent, follows: Some(Epoch(4)), promised_ms, vitals })
}

/// As while the defaults of a newer program are not those of an older one: a takeover waits out what was promised.
#[test]
fn a_lease_is_no_longer_than_what_the_partner_promised() {
    let lease_ms = Timers::default().lease_ms;
    for (promised_ms, counts_ms) in
        [(lease_ms / 10, lease_ms / 10), (lease_ms - 50, lease_ms - 50), (lease_ms + 50, lease_ms)]
    {
        let mut primary = state("mirrored primary");
        primary.wait(lease_ms);
        let sent = primary.now;
        let commands = primary.give(answer(sent, promised_ms, Vitals::default()));
        let lease = |command: &Command| match command {
            Command::SetLease(Lease::Until { end, lease_ms }) => Some((end.since(sent), *lease_ms)),
            _ => None,
        };
        let expected = Some((counts_ms, counts_ms));
        assert_eq!(commands.iter().find_map(lease), expected, "{promised_ms}: {commands:?}");
        // Reads must not have to wait for the next one.
        let next_ms = primary.pair.next_deadline().since(primary.now);
        assert!(next_ms <= counts_ms / HEARTBEATS_PER_LEASE, "{promised_ms}: after {next_ms} ms");
    }
}

/// The end of a process breaks its links at once; so do things that it outlives. Whatever it was, the lease that was
/// promised ends first, and a primary that lives has its turn with the witness.
#[test]
fn a_broken_link_begins_a_takeover_when_the_lease_has_ended() {
    let timers = Timers::default();
    let lease_ms = timers.lease_ms + timers.drift_margin_ms;
    let heartbeat =
        || message(Message::Heartbeat { sent: MonoMs(1), epoch: Some(Epoch(3)), vitals: Vitals::default() });
    let first_turn_ms = timers.link_grace_ms + timers.heartbeat_ms;
    // The last heartbeat came at the same moment, or before.
    for silent_ms in [0, timers.heartbeat_ms, lease_ms / 2] {
        let begins_ms = (lease_ms - silent_ms).max(first_turn_ms);
        let mut partner = state("mirrored partner");
        partner.give(heartbeat());
        partner.wait(silent_ms);
        partner.give(Event::LinkDown { link: LINK });
        assert!(partner.pair.next_deadline() <= partner.now.plus(begins_ms));
        partner.wait(begins_ms - 1);
        assert_eq!(partner.mode(), "mirrored partner", "{silent_ms}");
        let commands = partner.wait(1);
        assert_eq!(partner.mode(), "taking-over none", "{silent_ms}");
        assert!(commands.contains(&Command::Revoke), "{commands:?}");
    }
    // The primary is back over another link, and has not said yet what it is.
    let mut partner = state("mirrored partner");
    partner.give(heartbeat());
    partner.give(Event::LinkDown { link: LINK });
    partner.give(Event::LinkUp { link: LinkId(2), log: partner.log.clone() });
    partner.wait(timers.failure_timeout_ms - 1);
    assert_eq!(partner.mode(), "mirrored partner");
    // With the link as it was, silence has to last.
    let mut partner = state("mirrored partner");
    partner.give(heartbeat());
    partner.wait(timers.failure_timeout_ms - 1);
    assert_eq!(partner.mode(), "mirrored partner");
    partner.wait(1);
    assert_eq!(partner.mode(), "taking-over none");
}

fn state(wanted: &str) -> Bench {
    states().into_iter().find(|(name, _)| *name == wanted).unwrap().1
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
    assert!(status.detail.contains("takeover --force"), "{status:?}");
    assert_eq!(partner.pair.can(Operator::ForceTakeover), Ok(()));
    // When the trees are known to be the same again, it is as good as any.
    healed.give(Event::TreesDiffer(false));
    assert!(healed.pair.status(healed.now).eligible);
    healed.wait(5_000);
    assert_eq!(healed.pair.status(healed.now).mode, PairMode::TakingOver);
    // What a primary serves is what its clients saw.
    let mut primary = state("mirrored primary");
    primary.give(Event::TreesDiffer(true));
    assert!(primary.pair.status(primary.now).eligible);
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
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/table.golden");
    if std::env::var("BLESS").is_ok() {
        std::fs::write(path, &table).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    for (line, (now, before)) in table.lines().zip(golden.lines()).enumerate() {
        assert_eq!(now, before, "line {} of table.golden; BLESS=1 writes it anew", line + 1);
    }
    assert_eq!(table.lines().count(), golden.lines().count(), "BLESS=1 writes table.golden anew");
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
    assert!(!status.eligible && status.detail.contains("takeover --force"), "{}", status.detail);
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
