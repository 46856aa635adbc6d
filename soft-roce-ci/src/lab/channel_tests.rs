//! The channel with a socket pair in place of a guest.

use super::*;

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(20);

fn connected() -> (Arc<Channel>, UnixStream) {
    let (ours, guests) = UnixStream::pair().unwrap();
    (Channel::new(ours, "t", Box::new(|| "kernel panic".to_owned())).unwrap(), guests)
}

fn say(guest: &mut UnixStream, event: &Event) {
    guest.write_all((serde_json::to_string(event).unwrap() + "\n").as_bytes()).unwrap();
}

fn output(id: u64, text: &str) -> Event {
    Event::Output { id, stream: Stream::Stdout, text: text.into() }
}

#[test]
fn the_greeting_is_waited_for() {
    let (channel, mut guest) = connected();
    let error = format!("{:#}", channel.wait_ready(SHORT).unwrap_err());
    assert!(error.contains("did not answer") && error.contains("kernel panic"), "{error}");
    say(&mut guest, &Event::Ready);
    channel.wait_ready(LONG).unwrap();
}

#[test]
fn lines_that_arrived_are_read_before_the_loss_of_the_guest() {
    let (channel, mut guest) = connected();
    let running = channel.start(&["load"], None, OutputFiles::default()).unwrap();
    say(&mut guest, &output(1, "ack 1\n"));
    say(&mut guest, &output(1, "ack 2\n"));
    drop(guest);
    assert_eq!(running.next_line(LONG).unwrap().unwrap(), "ack 1");
    assert_eq!(running.next_line(LONG).unwrap().unwrap(), "ack 2");
    let error = running.next_line(LONG).unwrap_err();
    assert!(error.root_cause().downcast_ref::<GuestGone>().is_some(), "{error:#}");
    assert!(running.is_over());
}

#[test]
fn an_end_by_itself_is_explained_and_a_wanted_one_is_not() {
    for wanted in [false, true] {
        let (channel, guest) = connected();
        if wanted {
            channel.expect_end();
        }
        drop(guest);
        let error = channel.wait_ready(LONG).unwrap_err();
        assert_eq!(format!("{error:#}").contains("kernel panic"), !wanted);
        assert!(error.chain().any(|cause| cause.is::<GuestGone>()));
    }
}

#[test]
fn a_call_that_waits_is_told_of_the_loss_and_so_is_a_later_one() {
    let (channel, guest) = connected();
    let waiting = {
        let channel = Arc::clone(&channel);
        std::thread::spawn(move || channel.call(Order::Read { path: "/x".into() }, LONG))
    };
    std::thread::sleep(SHORT);
    drop(guest);
    let started = Instant::now();
    assert!(waiting.join().unwrap().is_err());
    assert!(channel.call(Order::Read { path: "/x".into() }, LONG).is_err());
    assert!(started.elapsed() < LONG / 2);
}

#[test]
fn a_program_is_collected_with_both_streams() {
    let (channel, mut guest) = connected();
    let running = channel.start(&["x", "y"], None, OutputFiles::default()).unwrap();
    say(&mut guest, &output(1, "out"));
    say(&mut guest, &Event::Output { id: 1, stream: Stream::Stderr, text: "err".into() });
    say(&mut guest, &Event::Ended { id: 1, end: End::Exited(2) });
    let finished = running.wait(LONG).unwrap();
    assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("out", "err"));
    assert_eq!(finished.ok().unwrap_err().to_string(), "x y: Exited(2)\nouterr");
}

#[test]
fn output_with_a_file_goes_there_as_it_comes() {
    let (channel, mut guest) = connected();
    let file = tempfile::NamedTempFile::new().unwrap();
    let files = OutputFiles { stdout: Some(file.reopen().unwrap()), stderr: None };
    let running = channel.start(&["daemon"], None, files).unwrap();
    say(&mut guest, &output(1, "started\n"));
    say(&mut guest, &Event::Ended { id: 1, end: End::Exited(0) });
    assert_eq!(running.wait(LONG).unwrap().stdout, "");
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "started\n");
}

#[test]
fn a_guest_that_says_nonsense_is_lost() {
    let (channel, mut guest) = connected();
    guest.write_all(b"login: \n").unwrap();
    assert!(channel.wait_ready(LONG).unwrap_err().chain().any(|cause| cause.is::<GuestGone>()));
}

#[test]
fn an_answer_that_nobody_waits_for_is_dropped() {
    let (channel, mut guest) = connected();
    drop(channel.start(&["x"], None, OutputFiles::default()).unwrap());
    say(&mut guest, &output(1, "late\n"));
    let waiting = {
        let channel = Arc::clone(&channel);
        std::thread::spawn(move || channel.call(Order::Read { path: "/x".into() }, LONG))
    };
    std::thread::sleep(SHORT);
    say(&mut guest, &Event::Contents { id: 2, hex: "00".into() });
    assert_eq!(waiting.join().unwrap().unwrap(), Event::Contents { id: 2, hex: "00".into() });
}
