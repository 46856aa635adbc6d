//! Real commands, and a real address in a network namespace of its own.

use super::*;
use config::{CommandLine, FloatingIpConfig, NodeConfig};
use std::process::Command;
use std::time::{Duration, Instant};

fn shell(script: &str) -> CommandLine {
    CommandLine { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] }
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn output_and_environment() {
    let environment = [("TWINFILER_ROLE", "primary".to_owned())];
    let said = run(&shell("echo $TWINFILER_ROLE; echo err >&2; pwd"), &environment, LONG).unwrap();
    assert!(said.contains("primary") && said.contains("err"), "{said}");
}

#[test]
fn failures_say_how() {
    let error = run(&shell("echo broken; exit 3"), &[], LONG).unwrap_err().to_string();
    assert_eq!(error, "/bin/sh ended with status 3: broken");
    let error = run(&shell("kill -TERM $$"), &[], LONG).unwrap_err().to_string();
    assert_eq!(error, "/bin/sh was ended by signal 15");
    let missing = CommandLine { program: "/nowhere/hook".into(), arguments: Vec::new() };
    assert!(matches!(run(&missing, &[], LONG), Err(CommandError::NotStarted { .. })));
}

#[test]
fn the_time_limit_ends_the_whole_group() {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("alive");
    let script = format!("(sleep 0.6; touch {}) & sleep 30", mark.display());
    let started = Instant::now();
    let error = run(&shell(&script), &[], Duration::from_millis(200)).unwrap_err();
    assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
    std::thread::sleep(Duration::from_millis(800));
    assert!(!mark.exists(), "a child outlived its hook");
}

#[test]
fn what_a_good_command_leaves_behind_is_ended_too() {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("alive");
    run(&shell(&format!("(sleep 0.3; touch {}) &", mark.display())), &[], LONG).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(!mark.exists(), "a child outlived its hook");
}

#[test]
fn a_flood_of_output_is_bounded() {
    let said = run(&shell("head -c 10000000 /dev/zero | tr '\\0' x"), &[], LONG).unwrap();
    assert_eq!(said.len(), 4096);
}

#[test]
fn the_outcome_is_in_the_status() {
    let hooks = hooks_of(
        r#"hooks = { on_primary = ["/bin/sh", "-c", "test $TWINFILER_VOLUME-$TWINFILER_ROLE-$TWINFILER_EPOCH = home-primary-7"], on_demote = ["/bin/false"] }"#,
    );
    hooks.became_primary(Epoch(7));
    hooks.ceased_to_be_primary(Role::Partner, Epoch(8));
    hooks.became_primary(Epoch(7));
    hooks.end();
    let status = hooks.status();
    let shown: Vec<_> = status.iter().map(|h| (h.hook.as_str(), h.succeeded, h.outcome.as_str())).collect();
    assert_eq!(
        shown,
        [("on_demote", false, "/bin/false ended with status 1"), ("on_primary", true, "succeeded")]
    );
    assert_eq!(hooks.address_status(), None);
}

/// Those of a volume with these lines.
fn hooks_of(lines: &str) -> RoleHooks {
    let text = r#"
        [node]
        name = "a"
        listen = "10.0.0.1:7400"
        plaintext = true
        [[volume]]
        name = "home"
        id = "00112233445566778899aabbccddeeff"
        base = "/base"
        peer = { name = "b", address = "10.0.0.2:7400" }
        log = { kind = "emulated", path = "/dev/shm/home", capacity = "64MiB" }
    "#;
    let config = NodeConfig::parse(&format!("{text}{lines}"), "f").unwrap();
    RoleHooks::new(&config.volumes[0])
}

/// A file that a script writes when it has begun, one that it writes when nobody has ended it, and a hook that does so.
fn long_hook(place: &std::path::Path) -> (std::path::PathBuf, std::path::PathBuf, String) {
    let (begun, ended) = (place.join("begun"), place.join("ended"));
    let script = format!("touch {}; sleep 15; touch {}", begun.display(), ended.display());
    (begun, ended, format!("[\"/bin/sh\", \"-c\", \"{script}\"]"))
}

fn wait_for(what: &str, mut reached: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !reached() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_hook_of_a_role_that_is_over_is_ended_and_no_fault() {
    let place = tempfile::tempdir().unwrap();
    let (begun, ended, on_primary) = long_hook(place.path());
    let after = place.path().join("after");
    let on_demote = format!("[\"/bin/touch\", \"{}\"]", after.display());
    let hooks = hooks_of(&format!(
        "hooks = {{ on_primary = {on_primary}, on_demote = {on_demote}, time_limit = \"30s\" }}"
    ));
    hooks.became_primary(Epoch(7));
    assert!(!ended.exists(), "nobody waits for it");
    wait_for("it has begun", || begun.exists());
    hooks.stops_serving();
    hooks.ceased_to_be_primary(Role::Partner, Epoch(8));
    hooks.end();
    assert!(after.exists() && !ended.exists());
    let status = hooks.status();
    assert_eq!(status.iter().map(|run| run.hook.as_str()).collect::<Vec<_>>(), ["on_primary", "on_demote"]);
    assert!(status[0].outcome.contains("role has changed again") && !status[0].succeeded, "{status:?}");
    assert!(status[1].succeeded, "{status:?}");
    assert_eq!([true, false].map(|serves| hooks.failure(serves)), [None, None]);
}

#[test]
fn a_hook_that_waits_for_another_is_not_begun_when_its_role_is_over() {
    let place = tempfile::tempdir().unwrap();
    let (begun, ended, on_demote) = long_hook(place.path());
    let other = place.path().join("other");
    let on_primary = format!("[\"/bin/touch\", \"{}\"]", other.display());
    let hooks = hooks_of(&format!(
        "hooks = {{ on_primary = {on_primary}, on_demote = {on_demote}, time_limit = \"1s\" }}"
    ));
    hooks.ceased_to_be_primary(Role::Partner, Epoch(7));
    wait_for("it has begun", || begun.exists());
    hooks.became_primary(Epoch(8));
    hooks.stops_serving();
    wait_for("the first has ended", || !hooks.status().is_empty());
    hooks.end();
    assert!(!other.exists() && !ended.exists());
    assert_eq!(hooks.status().len(), 1);
    assert_eq!(hooks.failure(false), None, "it failed in an earlier term");
}

#[test]
fn a_failure_is_a_fault_of_its_role_only() {
    let hooks = hooks_of("hooks = { on_primary = [\"/bin/false\"] }");
    hooks.became_primary(Epoch(7));
    hooks.end();
    assert!(hooks.failure(true).is_some() && hooks.failure(false).is_none());
    hooks.stops_serving();
    assert_eq!(hooks.failure(true), None, "it is history when the role comes back");
    assert_eq!(hooks.status().len(), 1);
}

/// A network namespace with two ends of a veth pair in it, removed on drop.
struct Namespace(String);

impl Namespace {
    fn new() -> Namespace {
        let name = format!("tf-test-{}", std::process::id());
        let namespace = Namespace(name.clone());
        Namespace::ip(&["netns", "add", &name]);
        namespace.inside(&["link", "add", "here", "type", "veth", "peer", "name", "there"]);
        namespace.inside(&["link", "set", "here", "up"]);
        namespace.inside(&["link", "set", "there", "up"]);
        namespace
    }

    fn ip(arguments: &[&str]) {
        let status = Command::new("ip").args(arguments).status().unwrap();
        assert!(status.success(), "ip {arguments:?}");
    }

    fn inside(&self, arguments: &[&str]) {
        Namespace::ip(&[&["-n", &self.0], arguments].concat());
    }

    /// Runs `work` on a thread that has entered the namespace; its children are there too.
    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = std::fs::File::open(format!("/run/netns/{}", self.0)).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                use std::os::fd::AsFd;
                rustix::thread::move_into_link_name_space(file.as_fd(), None).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Frames that arrive at the other end of the wire, until `wanted` does.
fn wait_for_frame(
    receiver: &mut dyn pnet_datalink::DataLinkReceiver,
    wanted: impl Fn(&[u8]) -> bool,
) -> Vec<u8> {
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        if let Ok(frame) = receiver.next()
            && wanted(frame)
        {
            return frame.to_vec();
        }
    }
    panic!("the announcement did not arrive");
}

/// What a hook finds open beside its own input and output.
fn sockets_of_a_hook() -> String {
    run(&shell("for f in /proc/$$/fd/*; do readlink $f; done | grep socket || true"), &[], LONG).unwrap()
}

#[test]
fn the_address_follows_and_the_neighbours_learn_it() {
    assert!(rustix::process::geteuid().is_root(), "this test makes a network namespace: run it as root");
    let namespace = Namespace::new();
    namespace.run(|| {
        let there = pnet_datalink::interfaces().into_iter().find(|i| i.name == "there").unwrap();
        let config =
            pnet_datalink::Config { read_timeout: Some(Duration::from_millis(200)), ..Default::default() };
        let Ok(pnet_datalink::Channel::Ethernet(_, mut receiver)) = pnet_datalink::channel(&there, config)
        else {
            panic!("no packet socket");
        };
        for (address, target) in [
            ("10.99.0.9/24", vec![10, 99, 0, 9]),
            ("2001:db8::9/64", vec![0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]),
        ] {
            let floating = FloatingIp::new(FloatingIpConfig {
                address: address.parse().unwrap(),
                interface: "here".into(),
            });
            assert!(!floating.is_held().unwrap());
            floating.release().unwrap();
            let before = sockets_of_a_hook();
            floating.take().unwrap();
            assert!(floating.is_held().unwrap());
            // Again and again: the first ones may be lost.
            for _ in 0..5 {
                wait_for_frame(receiver.as_mut(), |frame| match target.len() {
                    4 => frame[12..14] == [8, 6] && frame[28..32] == target && frame[38..42] == target,
                    _ => frame[12..14] == [0x86, 0xdd] && frame[54] == 136 && frame[62..78] == target,
                });
            }
            assert_eq!(sockets_of_a_hook(), before, "a hook has inherited a socket");
            floating.take().unwrap();
            floating.release().unwrap();
            assert!(!floating.is_held().unwrap());
        }
        let nowhere = FloatingIp::new(FloatingIpConfig {
            address: "10.99.0.9/24".parse().unwrap(),
            interface: "gone".into(),
        });
        assert!(matches!(nowhere.take(), Err(FloatingIpError::NoInterface(_))));
    });
}

/// A volume's hooks with this address, as if the volume were served in the namespace.
fn with_address(address: &str, interface: &str) -> RoleHooks {
    hooks_of(&format!("floating_ip = {{ address = \"{address}\", interface = \"{interface}\" }}"))
}

fn held_and_trouble(hooks: &RoleHooks) -> (bool, Option<String>) {
    let status = hooks.address_status().unwrap();
    (status.held, status.error)
}

#[test]
fn an_address_that_somebody_takes_away_or_adds_is_changed_back_and_told() {
    let namespace = Namespace::new();
    namespace.run(|| {
        for address in ["10.99.0.9/24", "2001:db8::9/64"] {
            let hooks = with_address(address, "here");
            let there = || {
                let output =
                    Command::new("ip").args(["-oneline", "address", "show", "dev", "here"]).output().unwrap();
                String::from_utf8_lossy(&output.stdout).contains(address)
            };
            let change = |what| Namespace::ip(&["address", what, address, "dev", "here"]);
            hooks.became_primary(Epoch(7));
            assert_eq!((there(), held_and_trouble(&hooks)), (true, (true, None)));
            hooks.look_at_address(true);
            assert_eq!(held_and_trouble(&hooks), (true, None));
            change("del");
            hooks.look_at_address(false);
            let frozen = "who is cut off may have been taken over";
            assert_eq!((there(), held_and_trouble(&hooks)), (false, (false, None)), "{frozen}");
            hooks.look_at_address(true);
            let (held, trouble) = held_and_trouble(&hooks);
            assert!(there() && held && trouble.unwrap().contains("went away from here"));
            hooks.look_at_address(true);
            assert_eq!(held_and_trouble(&hooks), (true, None));
            hooks.stops_serving();
            assert_eq!((there(), held_and_trouble(&hooks)), (false, (false, None)));
            change("add");
            hooks.look_at_address(true);
            let (held, trouble) = held_and_trouble(&hooks);
            assert!(!there() && !held && trouble.unwrap().contains("somebody added it to here"));
            hooks.look_at_address(true);
            assert_eq!(held_and_trouble(&hooks), (false, None));
        }
    });
}

#[test]
fn an_address_under_a_label_of_its_own_is_seen() {
    let namespace = Namespace::new();
    namespace.run(|| {
        let hooks = with_address("10.99.0.9/24", "here");
        Namespace::ip(&["address", "add", "10.99.0.9/24", "dev", "here", "label", "here:1"]);
        hooks.look_at_address(true);
        assert!(held_and_trouble(&hooks).1.is_some_and(|what| what.contains("somebody added it")));
    });
}

#[test]
fn an_address_is_held_also_when_nobody_can_be_told() {
    let namespace = Namespace::new();
    namespace.run(|| {
        Namespace::ip(&["link", "set", "here", "down"]);
        let hooks = with_address("10.99.0.9/24", "here");
        hooks.became_primary(Epoch(7));
        let (held, trouble) = held_and_trouble(&hooks);
        assert!(held && trouble.unwrap().contains("the neighbours could not be told"));
        Namespace::ip(&["link", "set", "here", "up"]);
        hooks.look_at_address(true);
        assert_eq!(held_and_trouble(&hooks), (true, None));
        hooks.stops_serving();
        assert_eq!(held_and_trouble(&hooks), (false, None));
    });
}

#[test]
fn an_interface_without_neighbours_needs_no_announcement() {
    let namespace = Namespace::new();
    namespace.run(|| {
        Namespace::ip(&["tuntap", "add", "dev", "tunnel", "mode", "tun"]);
        let hooks = with_address("10.99.0.9/24", "tunnel");
        hooks.became_primary(Epoch(7));
        assert_eq!(held_and_trouble(&hooks), (true, None));
    });
}

#[test]
fn a_lost_interface_is_told_also_before_the_address_is_needed() {
    let namespace = Namespace::new();
    namespace.run(|| {
        let hooks = with_address("10.99.0.9/24", "here");
        hooks.clear_leftovers();
        assert_eq!(held_and_trouble(&hooks), (false, None));
        Namespace::ip(&["link", "del", "here"]);
        hooks.look_at_address(true);
        let no_interface = "there is no interface here; correct `floating_ip.interface`";
        assert_eq!(held_and_trouble(&hooks), (false, Some(no_interface.to_owned())));
        Namespace::ip(&["link", "add", "here", "type", "veth", "peer", "name", "there"]);
        hooks.look_at_address(true);
        assert_eq!(held_and_trouble(&hooks), (false, None));
    });
}
