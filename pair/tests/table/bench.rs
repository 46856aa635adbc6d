//! A node that is driven by hand, in each of its states.

use ids::{
    AnswerFrom, BaseLimits, ChainCrc, Durability, Epoch, EpochHistory, EpochStart, LogPoint, Lsn, NodeName,
    VolumeId,
};
use pair::witness::{Mode, Register};
use pair::*;

pub const VOLUME: VolumeId = VolumeId([1; 16]);
pub const LINK: LinkId = LinkId(1);
pub const BASE: &str = "ext4";

pub fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

pub fn log(epochs: &[(u64, u64)], end: u64) -> LogSummary {
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

pub fn register(epoch: u64, primary: &str, mode: Mode, generation: u64) -> Register {
    Register { volume: VOLUME, epoch: Epoch(epoch), primary: name(primary), mode, generation }
}

pub fn hello(number: u64, posture: Posture, log: LogSummary) -> Event {
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

pub fn message(message: Message) -> Event {
    Event::Message { link: LINK, message }
}

/// A node `a` that is driven by hand.
#[derive(Clone)]
pub struct Bench {
    pub pair: Pair,
    pub now: MonoMs,
    pub request: Option<RequestId>,
    pub log: LogSummary,
}

impl Bench {
    pub fn new(witness: bool, log: LogSummary, state: DurableState) -> Bench {
        let config =
            Config { witness, base_filesystem: BASE.to_owned(), ..Config::new(name("a"), name("b")) };
        let now = MonoMs(10_000);
        let (pair, commands) = Pair::new(config, state, log.clone(), now).unwrap();
        let mut bench = Bench { pair, now, request: None, log };
        bench.answer(commands);
        bench
    }

    /// Gives an event, and the answers that a runtime gives at once.
    pub fn give(&mut self, event: Event) -> Vec<Command> {
        let commands = self.pair.apply(self.now, event);
        self.answer(commands.clone());
        commands
    }

    pub fn answer(&mut self, commands: Vec<Command>) {
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

    pub fn wait(&mut self, wait_ms: u64) -> Vec<Command> {
        self.now = self.now.plus(wait_ms);
        let vitals = Vitals {
            end: self.log.end.lsn,
            peer_durable: self.log.end.lsn,
            committed: self.log.end.lsn,
            ..Vitals::default()
        };
        self.give(Event::Tick { vitals })
    }

    pub fn witness(&mut self, outcome: WitnessOutcome) {
        let request = self.request.take().expect("a request");
        self.give(Event::WitnessAnswer { request, outcome });
    }

    pub fn link(&mut self, posture: Posture, log: LogSummary) {
        self.give(Event::LinkUp { link: LINK, log: self.log.clone() });
        self.give(hello(1, posture, log));
    }

    pub fn mode(&self) -> String {
        let status = self.pair.status(self.now);
        format!("{} {:?}", status.mode, status.role).to_lowercase()
    }
}

pub fn in_sync(epoch: u64) -> DurableState {
    DurableState {
        epoch_seen: Epoch(epoch),
        in_sync: true,
        origin_empty: Some(true),
        ..DurableState::default()
    }
}

/// The states, each reached by events alone.
pub fn states() -> Vec<(&'static str, Bench)> {
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
    handing.witness(WitnessOutcome::Is(Some(register(4, "a", Mode::Mirrored, 6))));
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
    failed.give(Event::CommandFailed { part: FailedPart::Log, error: "EIO".to_owned() });
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

/// A partner's answer to a heartbeat of epoch 4.
pub fn answer(sent: MonoMs, promised_ms: u64, vitals: Vitals) -> Event {
    message(Message::HeartbeatAnswer { sent, follows: Some(Epoch(4)), promised_ms, vitals })
}

pub fn state(wanted: &str) -> Bench {
    states().into_iter().find(|(name, _)| *name == wanted).unwrap().1
}
