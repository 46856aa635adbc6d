//! The wire with sockets in place of emulators.

use super::*;

const LONG: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_millis(100);

struct Ends {
    directory: LabDirectory,
    _parent: tempfile::TempDir,
    wire: Wire,
    a: UnixDatagram,
    b: UnixDatagram,
}

impl Ends {
    fn new() -> Ends {
        let parent = tempfile::tempdir().unwrap();
        let directory = LabDirectory::create(parent.path()).unwrap();
        let wire = Wire::start(&directory, WireKind::Relayed).unwrap();
        let (a, b) = (end(&directory, Side::A), end(&directory, Side::B));
        Ends { directory, _parent: parent, wire, a, b }
    }

    fn send_from_a(&self, text: &str) {
        self.a.send_to(text.as_bytes(), self.directory.socket("a.relay")).unwrap();
    }

    /// A datagram is counted a moment after it was passed on.
    fn expect_counts(&self, expected: [(u64, u64); 2]) {
        let deadline = Instant::now() + LONG;
        while self.wire.counts() != expected && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(self.wire.counts(), expected);
    }

    fn send_from_b(&self, text: &str) {
        self.b.send_to(text.as_bytes(), self.directory.socket("b.relay")).unwrap();
    }
}

fn end(directory: &LabDirectory, side: Side) -> UnixDatagram {
    let path = directory.socket(&format!("{}.wire", side.name()));
    let _ = std::fs::remove_file(&path);
    UnixDatagram::bind(path).unwrap()
}

fn received(socket: &UnixDatagram, limit: Duration) -> Option<String> {
    socket.set_read_timeout(Some(limit)).unwrap();
    let mut buffer = [0; 100];
    socket.recv(&mut buffer).ok().map(|len| String::from_utf8_lossy(&buffer[..len]).into_owned())
}

#[test]
fn datagrams_pass_in_both_directions_and_in_order() {
    let ends = Ends::new();
    for number in 0..100 {
        ends.send_from_a(&format!("a{number}"));
        ends.send_from_b(&format!("b{number}"));
        assert_eq!(received(&ends.b, LONG).unwrap(), format!("a{number}"));
        assert_eq!(received(&ends.a, LONG).unwrap(), format!("b{number}"));
    }
    ends.expect_counts([(100, 0), (100, 0)]);
}

#[test]
fn a_cut_in_one_direction_leaves_the_other_and_healing_brings_both_back() {
    let ends = Ends::new();
    ends.wire.cut(Cut::AtoB);
    ends.send_from_a("lost");
    ends.send_from_b("comes");
    assert_eq!(received(&ends.a, LONG).unwrap(), "comes");
    assert_eq!(received(&ends.b, SILENCE), None);
    ends.wire.cut(Cut::BtoA);
    ends.send_from_a("comes");
    ends.send_from_b("lost");
    assert_eq!(received(&ends.b, LONG).unwrap(), "comes");
    assert_eq!(received(&ends.a, SILENCE), None);
    ends.wire.cut(Cut::Both);
    ends.send_from_a("lost");
    assert_eq!(received(&ends.b, SILENCE), None);
    ends.wire.heal();
    ends.send_from_a("again");
    assert_eq!(received(&ends.b, LONG).unwrap(), "again");
    ends.expect_counts([(2, 2), (1, 1)]);
}

#[test]
fn tcp_alone_can_be_lost() {
    let ends = Ends::new();
    // An Ethernet frame of IPv4 from the ethertype on; the protocol is its tenth byte.
    let frame = |protocol: char| format!("to....from..\u{8}\0E........{protocol}the rest");
    let (tcp, udp) = (frame('\u{6}'), frame('\u{11}'));
    ends.wire.cut_tcp();
    ends.send_from_a(&tcp);
    ends.send_from_a(&udp);
    ends.send_from_b(&tcp);
    assert_eq!(received(&ends.b, LONG).unwrap(), udp);
    assert_eq!(received(&ends.a, SILENCE), None);
    ends.wire.heal();
    ends.send_from_b(&tcp);
    assert_eq!(received(&ends.a, LONG).unwrap(), tcp);
    ends.expect_counts([(1, 1), (1, 1)]);
}

#[test]
fn a_delay_holds_for_both_directions_and_keeps_the_order() {
    let ends = Ends::new();
    let delay = Duration::from_millis(150);
    ends.wire.delay(delay);
    let started = Instant::now();
    ends.send_from_a("one");
    ends.send_from_a("two");
    ends.send_from_b("three");
    assert_eq!(received(&ends.b, LONG).unwrap(), "one");
    assert!(started.elapsed() >= delay);
    assert_eq!(received(&ends.b, LONG).unwrap(), "two");
    assert_eq!(received(&ends.a, LONG).unwrap(), "three");
}

#[test]
fn what_is_under_way_is_lost_when_the_link_is_cut() {
    let ends = Ends::new();
    ends.wire.delay(Duration::from_millis(200));
    ends.send_from_a("under way");
    std::thread::sleep(Duration::from_millis(20));
    ends.wire.cut(Cut::Both);
    std::thread::sleep(Duration::from_millis(20));
    ends.wire.heal();
    assert_eq!(received(&ends.b, Duration::from_millis(400)), None);
}

#[test]
fn a_guest_that_takes_nothing_gets_what_was_queued_in_order_and_the_newest_is_lost() {
    let ends = Ends::new();
    let sent = MAX_QUEUED + 1000;
    for number in 0..sent {
        ends.send_from_a(&number.to_string());
    }
    for number in 0..MAX_QUEUED {
        assert_eq!(received(&ends.b, LONG).unwrap(), number.to_string());
    }
    while received(&ends.b, SILENCE).is_some() {}
    let [(passed, lost), _] = ends.wire.counts();
    assert!(lost > 0 && passed + lost == sent as u64, "{passed} passed, {lost} lost");
}

#[test]
fn a_guest_that_is_off_loses_and_one_that_came_back_receives() {
    let Ends { directory, _parent, wire, a, b } = Ends::new();
    let send = |text: &str| a.send_to(text.as_bytes(), directory.socket("a.relay")).unwrap();
    send("first");
    assert_eq!(received(&b, LONG).unwrap(), "first");
    drop(b);
    send("nobody there");
    while wire.counts()[0].1 == 0 {
        std::thread::yield_now();
    }
    let b = end(&directory, Side::B);
    send("back");
    assert_eq!(received(&b, LONG).unwrap(), "back");
}
