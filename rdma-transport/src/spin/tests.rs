//! The rules of waiting, fed with measured values under a clock of our own: nothing here is timed.

use super::decide::{Processors, Rules, View};
use std::time::{Duration, Instant};

const MOST: Duration = Duration::from_micros(500);
const US: Duration = Duration::from_micros(1);

/// One end of a link with what it believes of the machine.
struct End {
    rules: Rules,
    begun: Instant,
    limit: Duration,
    believed_wake: Duration,
}

/// Two ends that answer each other; a wake-up takes `wake`, the answer `service` when nobody sleeps.
struct Model {
    now: Instant,
    wake: Duration,
    service: Duration,
    think: Duration,
    processors: Processors,
    near: End,
    far: End,
    polls: u32,
}

impl End {
    fn new(now: Instant, believed_wake: Duration) -> End {
        End { rules: Rules::new(MOST), begun: now, limit: Duration::ZERO, believed_wake }
    }

    fn begin(&mut self, now: Instant, processors: Processors) -> bool {
        self.begun = now;
        self.limit = self.rules.begin(now, View { wake: self.believed_wake, processors });
        !self.limit.is_zero()
    }

    /// When the thread sees what came at `came`.
    fn see(&mut self, came: Instant, wake: Duration, processors: Processors) -> Instant {
        let came = came.max(self.begun);
        if !self.limit.is_zero() {
            // On one processor the other side cannot answer while this one polls.
            if came <= self.begun + self.limit && processors == Processors::Free {
                self.rules.polled(came);
                return came;
            }
            self.rules.gave_up(processors);
        }
        let seen = came + wake;
        self.rules.slept(seen, self.believed_wake);
        seen
    }
}

impl Model {
    fn new(wake: Duration, service: Duration, believed_wake: Duration) -> Model {
        let now = Instant::now();
        Model {
            now,
            wake,
            service,
            think: US,
            processors: Processors::Free,
            near: End::new(now, believed_wake),
            far: End::new(now, believed_wake),
            polls: 0,
        }
    }

    /// One commit; how long it took.
    fn commit(&mut self) -> Duration {
        let sent = self.now;
        self.polls += u32::from(self.near.begin(sent, self.processors));
        let landed = self.far.see(sent + self.service / 2, self.wake, self.processors);
        self.polls += u32::from(self.far.begin(landed, self.processors));
        let seen = self.near.see(landed + self.service / 2, self.wake, self.processors);
        self.now = seen + self.think;
        seen - sent
    }

    fn commits(&mut self, count: u32) -> Duration {
        (0..count).map(|_| self.commit()).last().unwrap_or_default()
    }

    fn pause(&mut self, time: Duration) {
        self.now += time;
        self.far.rules.nothing();
    }

    /// Both ends have slept at each wait for a long time.
    fn asleep(wake: Duration, service: Duration, believed_wake: Duration) -> Model {
        let mut model = Model::new(wake, service, believed_wake);
        model.processors = Processors::One;
        assert_eq!(model.commits(2000), service + 2 * wake, "no processor is free: both sleep");
        assert_eq!(model.polls, 0);
        model.processors = Processors::Free;
        model
    }
}

#[test]
fn two_ends_that_sleep_come_to_poll_whatever_a_wake_up_costs() {
    for wake in [5, 10, 20, 40, 80, 120, 200] {
        for service in [2, 6, 17, 35] {
            let (wake, service) = (wake * US, service * US);
            let mut model = Model::asleep(wake, service, wake);
            assert_eq!(model.commits(40), service, "wake {wake:?}, service {service:?}");
        }
    }
}

#[test]
fn a_wake_up_that_was_measured_wrongly_does_not_keep_them_asleep() {
    for wake in [20, 40, 100, 200] {
        for believed in [wake / 4, wake / 2, wake * 2, 250] {
            let (wake, believed, service) = (wake * US, believed * US, 6 * US);
            let mut model = Model::asleep(wake, service, believed);
            assert_eq!(model.commits(60), service, "wake {wake:?}, believed {believed:?}");
        }
    }
}

#[test]
fn pauses_and_busy_times_leave_nothing_behind() {
    for wake in [5, 40, 200] {
        let (wake, service) = (wake * US, 6 * US);
        let mut model = Model::new(wake, service, wake);
        assert_eq!(model.commits(10), service, "from the start");
        model.pause(Duration::from_secs(1));
        assert_eq!(model.commits(10), service, "after a pause");
        model.processors = Processors::Crowded;
        model.commits(5000);
        model.processors = Processors::Free;
        // What is left of the time for which it stands back.
        model.pause(Duration::from_secs(1));
        assert_eq!(model.commits(40), service, "after others had the processors");
    }
}

#[test]
fn polling_stops_when_no_processor_is_free() {
    for processors in [Processors::One, Processors::Crowded] {
        let mut model = Model::new(40 * US, 6 * US, 40 * US);
        model.commits(100);
        model.processors = processors;
        model.polls = 0;
        model.commits(1000);
        assert_eq!(model.polls, 0, "{processors:?}");
    }

    // Told only once it has polled in vain (twice, for once may be chance), it tries again after 10, 20, 40 ms and so on.
    let (mut rules, mut now, mut polls) = (Rules::new(MOST), Instant::now(), 0);
    let end = now + Duration::from_secs(1);
    while now < end {
        let limit = rules.begin(now, View { wake: 40 * US, processors: Processors::Free });
        now += limit;
        if !limit.is_zero() {
            polls += 1;
            rules.gave_up(Processors::Crowded);
        }
        now += 80 * US;
        rules.slept(now, 40 * US);
    }
    assert!(polls <= 8, "{polls} polls in vain in one second");
}

/// Links of one process take turns: the poll at the end of one's turn finds the next one at work.
#[test]
fn a_poll_at_the_end_of_a_burst_is_held_against_nobody() {
    for pause in [MOST * 3, Duration::from_millis(10)] {
        let mut model = Model::new(40 * US, 6 * US, 40 * US);
        model.commits(20);
        for _ in 0..50 {
            // The far end polls for what does not come, sleeps, and is woken by the next burst.
            let begun = model.now;
            assert!(model.far.begin(begun, Processors::Free));
            model.far.rules.gave_up(Processors::Crowded);
            model.now = begun + pause;
            model.far.rules.slept(model.now, 40 * US);
            assert_eq!(model.commits(3), 6 * US, "pause {pause:?}");
        }
    }
}

#[test]
fn one_crowded_moment_ends_no_polling() {
    let (mut rules, mut now) = (Rules::new(MOST), Instant::now());
    let view = View { wake: 40 * US, processors: Processors::Free };
    for _ in 0..100 {
        for crowded in [true, false] {
            let limit = rules.begin(now, view);
            assert!(!limit.is_zero());
            now += 6 * US;
            if crowded {
                now += limit + 80 * US;
                rules.gave_up(Processors::Crowded);
                rules.slept(now, view.wake);
            } else {
                rules.polled(now);
            }
        }
    }
}

#[test]
fn a_poller_in_the_way_of_its_peer_stands_back_without_being_told() {
    let mut rules = Rules::new(MOST);
    let (wake, mut now) = (20 * US, Instant::now());
    let mut polls = 0;
    for _ in 0..50_000 {
        let limit = rules.begin(now, View { wake, processors: Processors::Free });
        if !limit.is_zero() {
            polls += 1;
            now += limit;
            rules.gave_up(Processors::Free);
        }
        now += 20 * US;
        rules.slept(now, wake);
    }
    assert!(polls < 100, "{polls} polls in vain in one second");
}

#[test]
fn a_link_without_traffic_sleeps_and_slow_answers_are_not_polled_for() {
    let view = View { wake: 20 * US, processors: Processors::Free };
    let (mut rules, mut now) = (Rules::new(MOST), Instant::now());
    let mut polls = 0;
    for _ in 0..1000 {
        polls += u32::from(!rules.begin(now, view).is_zero());
        now += Duration::from_millis(50);
        rules.nothing();
    }
    assert_eq!(polls, 1, "only the first wait cannot know");

    let (mut rules, mut polls) = (Rules::new(MOST), 0);
    for _ in 0..1000 {
        let limit = rules.begin(now, view);
        now += 400 * US;
        if !limit.is_zero() {
            polls += 1;
            rules.gave_up(Processors::Free);
        }
        rules.slept(now, view.wake);
    }
    assert!(polls < 20, "a disk's answer is slept for: {polls}");
}

#[test]
fn a_limit_of_zero_always_sleeps() {
    let view = View { wake: 20 * US, processors: Processors::Free };
    assert_eq!(Rules::new(Duration::ZERO).begin(Instant::now(), view), Duration::ZERO);
    assert!(Rules::new(30 * US).begin(Instant::now(), view) <= 30 * US, "a constant is the upper bound");
}
