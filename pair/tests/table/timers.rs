//! What hangs on time: leases, broken links, a partner that is not ready yet.

use crate::bench::{Bench, LINK, answer, hello, log, message, state};
use ids::{AckRule, Epoch, LogPoint, Lsn};
use pair::*;

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

#[test]
fn a_partner_that_replays_is_handed_nothing() {
    let mut primary = state("mirrored primary");
    let mut told = |replays| {
        let vitals = Vitals { healthy: true, replays, ..Vitals::default() };
        let sent = primary.now;
        primary.give(answer(sent, Timers::default().lease_ms, vitals));
        primary.pair.can(Operator::Switchover)
    };
    assert!(told(true).is_err_and(|why| why.contains("replays")));
    assert_eq!(told(false), Ok(()));
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

/// Where the partner's log ends, in `state("solo, partner catching up")`.
const PARTNER_END: Lsn = Lsn(640);

/// For `for_ms` the partner answers every heartbeat and acknowledges nothing, while little is written; it joins again
/// over each new link. Returns how often clients began to wait for it, and how often its link was given up.
fn acknowledge_nothing(primary: &mut Bench, for_ms: u64, log_is_slow: bool) -> (usize, u64) {
    let (timers, until) = (Timers::default(), primary.now.plus(for_ms));
    let (mut link, mut waited) = (LINK, 0);
    let at = LogPoint { lsn: PARTNER_END, ..primary.log.end };
    while primary.now < until {
        primary.now = primary.now.plus(timers.heartbeat_ms);
        let (now, end) = (primary.now, primary.log.end.lsn);
        let vitals =
            Vitals { end, committed: end, peer_durable: PARTNER_END, log_is_slow, ..Vitals::default() };
        let say = |message| Event::Message { link, message };
        let join = Message::Join { epoch: Epoch(4), at };
        let mut commands = primary.give(say(Message::HeartbeatAnswer {
            sent: now,
            follows: Some(Epoch(4)),
            promised_ms: timers.lease_ms,
            vitals: Vitals::default(),
        }));
        commands.extend(primary.give(say(join)));
        commands.extend(primary.give(Event::Tick { vitals }));
        waited += commands.iter().filter(|c| **c == Command::SetAckRule(AckRule::Both)).count();
        if commands.contains(&Command::DropLink { link }) {
            link = LinkId(link.0 + 1);
            link_again(primary, link);
        }
    }
    (waited, link.0 - LINK.0)
}

fn link_again(primary: &mut Bench, link: LinkId) {
    primary.give(Event::LinkUp { link, log: primary.log.clone() });
    if let Event::Message { message, .. } = hello(1, Posture::Waiting, log(&[(2, 0)], PARTNER_END.0)) {
        primary.give(Event::Message { link, message });
    }
}

/// It misses so little that the barrier begins as soon as it has joined.
#[test]
fn a_partner_that_acknowledges_nothing_is_waited_for_seldom() {
    for (minutes, most) in [(1, 3), (60, 16)] {
        let mut primary = state("solo, partner catching up");
        let (waited, _) = acknowledge_nothing(&mut primary, minutes * 60_000, false);
        // At once, after 10 s, after 20 s more; in the end every 320 s.
        assert!((2..=most).contains(&waited), "clients waited for it {waited} times in {minutes} min");
    }
}

/// Nobody hears what a partner acknowledges while this node's own log device takes its time.
#[test]
fn a_partner_is_not_blamed_for_this_nodes_log() {
    let mut primary = state("solo, partner catching up");
    assert_eq!(acknowledge_nothing(&mut primary, 60_000, true), (0, 0));
    assert_eq!(acknowledge_nothing(&mut primary, 100, false), (1, 0), "the barrier has begun");
    assert_eq!(acknowledge_nothing(&mut primary, 60_000, true), (0, 0));
}

/// The log is kept for it from where it ends. That stops clients when it fills, though they do not wait for answers.
#[test]
fn a_partner_that_catches_up_and_takes_nothing_in_is_shut_out() {
    const SHUT_MS: u64 = 10_000;
    let mut primary = state("solo, partner catching up");
    for link in 1..9 {
        let commands = primary.give(Event::PartnerStalls { link: LinkId(link) });
        assert_eq!(primary.mode(), "solo primary");
        assert!(commands.contains(&Command::DropLink { link: LinkId(link) }), "{commands:?}");
        assert!(commands.contains(&Command::SetHold(None)), "the log is let go: {commands:?}");
        let until = primary.now.plus(SHUT_MS);
        let (link, at) = (LinkId(link + 1), LogPoint { lsn: PARTNER_END, ..primary.log.end });
        link_again(&mut primary, link);
        let join = Event::Message { link, message: Message::Join { epoch: Epoch(4), at } };
        primary.now = MonoMs(until.0 - 1);
        let held = Command::SetHold(Some(PARTNER_END));
        assert!(!primary.give(join.clone()).contains(&held), "sooner than after {SHUT_MS} ms");
        let detail = primary.pair.status(primary.now).detail;
        assert!(detail.contains("took nothing in"), "{detail}");
        // However often it has stalled: who repairs it does not wait longer for a copy.
        primary.now = until;
        let commands = primary.give(join);
        assert!(commands.contains(&held), "{commands:?}");
    }
}
