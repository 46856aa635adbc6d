//! Faults that come from the state of a node: each is made on real nodes, told everywhere, and over by itself.

use crate::faults::{wait_fault, wait_over};
use crate::harness::{ANSWER_LIMIT, Cluster, Interface, Side, Spec, run, twinfiler, within};
use admin_api::control::{Answer, Request};
use admin_api::status::{Fault, FaultKind, Mode, Role};
use ids::Lsn;
use rustix::process::Signal;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// Longer than a partner or a witness may be away without a fault.
const NEARLY_AWAY: Duration = Duration::from_secs(50);

/// Nodes whose metrics can be asked for at these ports.
fn with_metrics(spec: Spec) -> (Spec, [u16; 2]) {
    let ports =
        [0, 1].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
    let node = ports.map(|port| format!("metrics_listen = \"127.0.0.1:{port}\"\n"));
    (Spec { node, ..spec }, ports)
}

/// Waits until the metrics count so many faults of this kind.
fn wait_metric(pair: &mut Cluster, ports: [u16; 2], side: Side, kind: FaultKind, count: u32) {
    let line = format!("twinfiler_fault{{volume=\"v\",kind=\"{}\"}} {count}", kind.as_str());
    let url = format!("http://127.0.0.1:{}/metrics", ports[side.index()]);
    pair.wait(&line, |_| run("curl", &["-sS", "--max-time", "20", &url]).contains(&line).then_some(()));
}

/// The fault, once status and metrics tell it.
fn wait_raised(pair: &mut Cluster, ports: [u16; 2], side: Side, kind: FaultKind) -> Fault {
    let fault = wait_fault(pair, side, kind);
    wait_metric(pair, ports, side, kind, 1);
    fault
}

/// Neither tells it any more.
fn wait_cleared(pair: &mut Cluster, ports: [u16; 2], side: Side, kind: FaultKind) {
    wait_over(pair, side, kind);
    wait_metric(pair, ports, side, kind, 0);
}

#[test]
fn a_lost_partner_and_a_lost_witness_are_faults() {
    let (spec, ports) = with_metrics(Spec::default());
    let mut pair = Cluster::start(spec);
    pair.kill(Side::B);
    pair.wait_mode(Side::A, Mode::Solo);
    pair.kill_witness();
    // For less than a restart takes it is none.
    std::thread::sleep(NEARLY_AWAY);
    let alone = wait_raised(&mut pair, ports, Side::A, FaultKind::Alone);
    assert!(alone.what.contains("on this node only") && alone.remedy.contains("partner"), "{alone:?}");
    let unwitnessed = wait_raised(&mut pair, ports, Side::A, FaultKind::NoWitness);
    assert!(unwitnessed.remedy.contains("bring the witness back"), "{unwitnessed:?}");
    pair.start_witness();
    wait_cleared(&mut pair, ports, Side::A, FaultKind::NoWitness);
    pair.start_node(Side::B);
    pair.wait_mirrored();
    wait_cleared(&mut pair, ports, Side::A, FaultKind::Alone);
}

/// It is the partner that will need it.
#[test]
fn a_partner_that_the_witness_does_not_answer_says_so() {
    let mut pair = Cluster::start(Spec::default());
    pair.kill_witness();
    pair.wait_volume(Side::B, "a partner that cannot take over", |volume| !volume.eligible);
    std::thread::sleep(NEARLY_AWAY);
    Side::BOTH.iter().for_each(|side| drop(wait_fault(&mut pair, *side, FaultKind::NoWitness)));
    pair.start_witness();
    Side::BOTH.iter().for_each(|side| wait_over(&mut pair, *side, FaultKind::NoWitness));
    pair.wait_volume(Side::B, "a partner that can", |volume| volume.eligible);
}

/// It has the volume and is lost before it serves; nobody else may decide.
#[test]
fn a_volume_that_was_handed_to_a_node_that_is_lost_is_a_fault() {
    let mut pair = Cluster::start(Spec { witness: false, ..Spec::default() });
    // The epoch's first record, too: nothing is in flight that the switchover would wait for.
    pair.wait_volume(Side::A, "everything committed", |volume| {
        volume
            .cursors
            .is_some_and(|cursors| cursors.reserved() > Lsn(0) && cursors.committed() == cursors.reserved())
    });
    pair.signal(Side::B, Signal::STOP);
    let config = pair.config(Side::A).display().to_string();
    twinfiler(&["--config", &config, "switchover", "v", "--timeout", "1s"]);
    pair.kill(Side::B);
    let fault = wait_fault(&mut pair, Side::A, FaultKind::NotServed);
    assert!(fault.what.contains("takeover VOLUME --force"), "{fault:?}");
    let output = twinfiler(&["--config", &config, "takeover", "v", "--force"]);
    assert!(output.status.success(), "{output:?}");
    pair.wait_serving(Side::A);
}

#[test]
fn a_volume_that_nobody_serves_is_a_fault() {
    let (spec, ports) = with_metrics(Spec::default());
    let mut pair = Cluster::prepare(spec);
    pair.start_node(Side::B);
    let waiting = wait_raised(&mut pair, ports, Side::B, FaultKind::NotServed);
    assert!(waiting.what.contains("not served") && waiting.remedy.contains("other node"), "{waiting:?}");
    pair.start_node(Side::A);
    pair.wait_mirrored();
    wait_cleared(&mut pair, ports, Side::B, FaultKind::NotServed);
}

/// While it stops it does not know the volume any more, and one that dies hangs up: neither is a wrong key or address.
#[test]
fn a_partner_that_was_stopped_refuses_nothing() {
    let mut pair = Cluster::start(Spec::default());
    for stop in [Cluster::terminate, |pair: &mut Cluster, side| {
        pair.kill(side);
        ExitStatus::default()
    }] {
        assert!(stop(&mut pair, Side::B).success());
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            let faults = pair.volume(Side::A).expect("it serves").faults;
            assert!(faults.iter().all(|fault| fault.kind != FaultKind::PartnerRefused), "{faults:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        pair.start_node(Side::B);
        pair.wait_mirrored();
    }
}

#[test]
fn a_partner_that_does_not_go_with_this_node_is_a_fault() {
    let (spec, ports) = with_metrics(Spec::default());
    let mut pair = Cluster::prepare(spec);
    let make_log = |pair: &mut Cluster, capacity: &'static str| {
        std::fs::remove_file(pair.log(Side::B)).unwrap();
        pair.init(Side::B, "v", "00112233445566778899aabbccddeeff", capacity);
        let text = std::fs::read_to_string(pair.config(Side::B)).unwrap();
        let (old, new) = if capacity == "64MiB" { ("32MiB", "64MiB") } else { ("64MiB", "32MiB") };
        let changed = text.replace(&format!("capacity = \"{old}\""), &format!("capacity = \"{new}\""));
        std::fs::write(pair.config(Side::B), changed).unwrap();
    };
    make_log(&mut pair, "64MiB");
    for side in Side::BOTH {
        pair.start_node(side);
    }
    let refused = wait_raised(&mut pair, ports, Side::A, FaultKind::PartnerRefused);
    assert!(
        refused.what.contains("refused") && refused.remedy.contains("make both nodes agree"),
        "{refused:?}"
    );
    assert!(pair.terminate(Side::B).success());
    make_log(&mut pair, "32MiB");
    pair.start_node(Side::B);
    pair.wait_mirrored();
    wait_cleared(&mut pair, ports, Side::A, FaultKind::PartnerRefused);
}

/// The longer lease's share for the kernel's caches is more than the whole shorter one: no read was ever answered.
#[test]
fn nodes_with_different_timers_serve_by_the_shorter_lease_and_say_so() {
    const LONG: &str = "heartbeat = \"100ms\"\npeer_timeout = \"5s\"\nlease = \"4s\"\n";
    const SHORT: &str = "heartbeat = \"100ms\"\npeer_timeout = \"2s\"\nlease = \"300ms\"\n";
    let (spec, ports) = with_metrics(Spec { timers: LONG, ..Spec::default() });
    let mut pair = Cluster::prepare(spec);
    let alike = std::fs::read_to_string(pair.config(Side::B)).unwrap();
    assert!(alike.contains(LONG), "{alike}");
    std::fs::write(pair.config(Side::B), alike.replace(LONG, SHORT)).unwrap();
    for side in Side::BOTH {
        pair.start_node(side);
    }
    assert_eq!(pair.wait_mirrored(), Side::A);
    for number in 0..20 {
        let path = pair.mount(Side::A).join(format!("file-{number}"));
        within(ANSWER_LIMIT, "a client", move || {
            std::fs::write(&path, "text").unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"text");
        });
    }
    let fault = wait_raised(&mut pair, ports, Side::A, FaultKind::TimersDiffer);
    assert!(
        fault.what.contains("`lease`: 4000 ms here, 300 ms") && fault.remedy.contains("[volume.timers]"),
        "{fault:?}"
    );
    assert!(pair.terminate(Side::B).success());
    std::fs::write(pair.config(Side::B), alike).unwrap();
    pair.start_node(Side::B);
    pair.wait_mirrored();
    wait_cleared(&mut pair, ports, Side::A, FaultKind::TimersDiffer);
}

#[test]
fn a_floating_address_without_its_interface_is_a_fault() {
    let interface = Interface::new("twf");
    let address = interface.carries("192.0.2.9/24");
    let (spec, ports) = with_metrics(Spec { more: [String::new(), address], ..Spec::default() });
    let mut pair = Cluster::start(spec);
    interface.delete();
    let given = pair.ask(Side::A, &Request::Switchover { volume: "v".to_owned(), timeout_ms: 60_000 });
    assert_eq!(given, Ok(Answer::Done));
    pair.wait_serving(Side::B);
    let failed = wait_raised(&mut pair, ports, Side::B, FaultKind::FloatingAddress);
    assert!(failed.what.contains("192.0.2.9/24") && failed.what.contains(interface.name()), "{failed:?}");
    assert!(failed.remedy.contains("tried again"), "{failed:?}");
    assert_eq!(pair.volume(Side::B).unwrap().role, Role::Primary, "it serves all the same");
    interface.add();
    wait_cleared(&mut pair, ports, Side::B, FaultKind::FloatingAddress);
    assert!(interface.has("192.0.2.9/24"));
}

/// An operator does, a network manager, or the kernel with the first address of a network.
#[test]
fn a_floating_address_that_somebody_moves_is_a_fault_and_moves_back() {
    const ADDRESS: &str = "192.0.2.21/24";
    let interfaces = [Interface::new("twa"), Interface::new("twb")];
    let more = [0, 1].map(|index| interfaces[index].carries(ADDRESS));
    let (spec, ports) = with_metrics(Spec { more, ..Spec::default() });
    let mut pair = Cluster::start(spec);
    for (side, what, says) in [(Side::A, "del", "went away from"), (Side::B, "add", "somebody added it")] {
        let interface = &interfaces[side.index()];
        let before = interface.has(ADDRESS);
        assert_eq!(before, side == Side::A);
        interface.change(what, ADDRESS);
        let moved = wait_raised(&mut pair, ports, side, FaultKind::FloatingAddress);
        assert!(moved.what.contains(says) && moved.what.contains(interface.name()), "{moved:?}");
        assert!(moved.remedy.contains("network manager"), "{moved:?}");
        pair.wait("the address as it was", |_| (interface.has(ADDRESS) == before).then_some(()));
        wait_cleared(&mut pair, ports, side, FaultKind::FloatingAddress);
        assert_eq!(pair.volume(side).unwrap().floating_ip.unwrap().held, before);
    }
}
