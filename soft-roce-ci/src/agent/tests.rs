//! The agent without a guest: requests from a byte slice, answers into a file.

use super::*;
use protocol::{End, Stream};
use std::time::Instant;

/// Lets the agent obey the orders and gives its answers once `enough` of them ended a program or answered.
fn answers(orders: Vec<Order>, enough: usize) -> Vec<Event> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let to_host = ToHost(Arc::new(Mutex::new(file.reopen().unwrap())));
    let lines: Vec<String> = (1..)
        .zip(orders)
        .map(|(id, order)| serde_json::to_string(&Request { id, order }).unwrap() + "\n")
        .collect();
    serve_connection(lines.concat().as_bytes(), &to_host).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let text = fs::read_to_string(file.path()).unwrap();
        let events: Vec<Event> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let ended = events.iter().filter(|event| !matches!(event, Event::Output { .. })).count();
        if ended >= enough {
            return events;
        }
        assert!(Instant::now() < deadline, "only {events:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn start(argv: &[&str], limit_ms: Option<u64>) -> Order {
    Order::Start { argv: argv.iter().map(|part| (*part).to_owned()).collect(), limit_ms }
}

#[test]
fn a_program_gives_its_lines_and_then_its_end() {
    let events = answers(vec![start(&["sh", "-c", "echo one; echo two; exit 3"], None)], 1);
    let line = |text: &str| Event::Output { id: 1, stream: Stream::Stdout, text: text.into() };
    assert_eq!(events, [line("one\n"), line("two\n"), Event::Ended { id: 1, end: End::Exited(3) }]);
}

#[test]
fn errors_are_a_stream_of_their_own_and_an_unfinished_line_comes_too() {
    let events = answers(vec![start(&["sh", "-c", "printf x >&2; kill -9 $$"], None)], 1);
    let output = Event::Output { id: 1, stream: Stream::Stderr, text: "x".into() };
    assert_eq!(events, [output, Event::Ended { id: 1, end: End::Signaled(9) }]);
}

#[test]
fn the_time_limit_ends_the_whole_group() {
    let started = Instant::now();
    let events = answers(vec![start(&["sh", "-c", "sleep 30 & wait"], Some(100))], 1);
    assert_eq!(events, [Event::Ended { id: 1, end: End::TimedOut }]);
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_detached_child_that_keeps_the_pipe_does_not_keep_the_end() {
    let started = Instant::now();
    let events = answers(vec![start(&["sh", "-c", "sleep 20 & echo up"], None)], 1);
    assert_eq!(events.last(), Some(&Event::Ended { id: 1, end: End::Exited(0) }));
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[test]
fn output_that_comes_slowly_comes_before_the_end() {
    // The program itself ends at once; what writes on behind it has its pipe.
    let script = "(for n in 1 2 3; do sleep 0.6; echo $n; done) & exit 0";
    let events = answers(vec![start(&["sh", "-c", script], None)], 1);
    let said: Vec<&str> = events
        .iter()
        .filter_map(|event| match event {
            Event::Output { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(said, ["1\n", "2\n", "3\n"]);
    assert!(matches!(events.last(), Some(Event::Ended { .. })), "{events:?}");
}

#[test]
fn a_signal_reaches_the_program() {
    let orders = vec![start(&["sleep", "30"], None), Order::Signal { target: 1, signal: 15 }];
    let events = answers(orders, 2);
    assert!(events.contains(&Event::Done { id: 2 }));
    assert!(events.contains(&Event::Ended { id: 1, end: End::Signaled(15) }));
}

#[test]
fn what_cannot_be_done_is_answered() {
    let orders = vec![
        start(&["/no/such/program"], None),
        start(&[], None),
        Order::Signal { target: 77, signal: 9 },
        Order::Read { path: "/no/such/file".into() },
        Order::Write { path: "/proc/no".into(), hex: "00".into() },
        Order::Write { path: "/tmp/x".into(), hex: "0".into() },
    ];
    let count = orders.len();
    let events = answers(orders, count);
    let failed: Vec<u64> = events
        .iter()
        .filter_map(|event| if let Event::Failed { id, .. } = event { Some(*id) } else { None })
        .collect();
    assert_eq!(failed, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn files_are_written_with_their_directories_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b").to_string_lossy().into_owned();
    let hex = to_hex(&[0, 10, 255]);
    let orders = vec![Order::Write { path: path.clone(), hex: hex.clone() }, Order::Read { path }];
    assert_eq!(answers(orders, 2), [Event::Done { id: 1 }, Event::Contents { id: 2, hex }]);
}
