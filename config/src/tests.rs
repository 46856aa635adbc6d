//! Good and bad files, with the exact messages.

use super::*;
use ::witness::WitnessKeeper;
use std::time::Duration;

mod doors;
mod link;
mod salvage;

const GOOD: &str = r#"
[node]
name = "a"
listen = "10.0.0.1:7400"
control = "/run/twinfiler/a.sock"
metrics_listen = "127.0.0.1:7401"
log_level = "info,node=debug"
log_format = "json"
private_key = "/etc/twinfiler/node.key"

[witness]
addresses = ["10.0.0.3:7402", "10.1.0.3:7402"]
public_key = "ed25519:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
timeout = "250ms"

[[volume]]
name = "home"
id = "00112233445566778899aabbccddeeff"
base = "/var/lib/twinfiler/home"
transport = "tcp"
preferred_primary = "b"

[volume.peer]
name = "b"
address = "10.0.0.2:7400"
public_key = "ed25519:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="

[volume.log]
kind = "block"
path = "/var/lib/twinfiler/home.log"
capacity = "1GiB"

[volume.fuse]
mount = "/srv/home"
writeback_cache = true
threads = 8
allow_other = false

[volume.timers]
heartbeat = "20ms"
peer_timeout = "200ms"
lease = "100ms"
reconnect = "1s"
handover = "5s"

[volume.consistency_point]
interval = "2s"
bytes = "32MiB"

[volume.hooks]
on_primary = ["/usr/local/bin/announce", "up"]
on_demote = ["/usr/local/bin/announce", "down"]
time_limit = "3s"

[volume.floating_ip]
address = "10.0.0.9/24"
interface = "eth0"

[volume.link]
spin = "50us"
handshake_timeout = "3s"
dead_peer_timeout = "4s"

[volume.resync]
min_rate = "1MiB"
max_rate = "100MiB"
"#;

/// What stands in a file whose nodes have RDMA.
const RDMA: &str = r#"
[volume.rdma]
device = "mlx5_0"
port = 1
gid_index = 3
traffic_class = 106
persistence = "read"
ddio_off = true
"#;

const MINIMAL: &str = r#"
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

fn problems(text: &str) -> Vec<String> {
    match NodeConfig::parse(text, "f") {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(ConfigError::Invalid { problems, .. }) => {
            problems.iter().map(|p| format!("{}: {} => {}", p.line, p.what, p.remedy)).collect()
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn every_key_is_read() {
    let config = NodeConfig::parse(GOOD, "f").unwrap();
    assert_eq!(config.name.as_str(), "a");
    assert_eq!(config.listen.to_string(), "10.0.0.1:7400");
    assert_eq!(config.control.to_str(), Some("/run/twinfiler/a.sock"));
    assert_eq!(config.metrics_listen.map(|a| a.port()), Some(7401));
    assert_eq!((config.log_level.as_str(), config.log_format), ("info,node=debug", LogFormat::Json));
    let witness = config.witness.as_ref().unwrap();
    assert_eq!(witness.timeout, Duration::from_millis(250));
    let addresses = ["10.0.0.3:7402", "10.1.0.3:7402"].map(|address| address.parse().unwrap());
    assert_eq!(witness.keeper, WitnessKeeper::BuiltIn(addresses.to_vec()));
    let volume = config.volume("home").unwrap();
    assert_eq!(volume.id.to_string(), "00112233445566778899aabbccddeeff");
    assert_eq!(
        (volume.transport, volume.preferred_primary.as_ref().unwrap().as_str()),
        (TransportKind::Tcp, "b")
    );
    assert_eq!((volume.log.kind, volume.log.capacity_bytes), (LogKind::Block, 1 << 30));
    let fuse = FuseConfig {
        mount: Some("/srv/home".into()),
        writeback_cache: true,
        threads: 8,
        allow_other: false,
        nosuid: true,
        nodev: true,
        read_only: false,
    };
    assert_eq!(volume.fuse, fuse);
    assert_eq!(volume.timers.handover, Duration::from_secs(5));
    assert_eq!(volume.consistency_point.bytes, 32 << 20);
    assert_eq!((volume.resync.min_rate_bytes, volume.resync.max_rate_bytes), (1 << 20, 100 << 20));
    assert_eq!(volume.hooks.on_primary.as_ref().unwrap().arguments, ["up"]);
    assert_eq!(volume.hooks.time_limit, Duration::from_secs(3));
    assert_eq!(volume.floating_ip.as_ref().unwrap().address.to_string(), "10.0.0.9/24");
    assert_eq!(volume.pair(&config.name, true, String::new(), ids::BaseLimits::LINUX).check(), Ok(()));
    assert_eq!(
        volume.pair(&config.name, true, String::new(), ids::BaseLimits::LINUX).timers.failure_timeout_ms,
        200
    );
    let tuning = volume.link.tuning(volume.timers.peer_timeout);
    assert_eq!((tuning.spin, tuning.handshake_timeout), (Duration::from_micros(50), Duration::from_secs(3)));
    assert_eq!(tuning.dead_peer_timeout, Duration::from_secs(4));
    assert_eq!((volume.persistence(), &volume.rdma), (Persistence::Message, &RdmaConfig::default()));
}

#[test]
fn little_is_needed_and_the_defaults_suit_the_pair() {
    let config = NodeConfig::parse(MINIMAL, "f").unwrap();
    assert_eq!(config.witness, None);
    let volume = &config.volumes[0];
    assert_eq!(volume.timers, TimerConfig::default());
    let pair = volume.pair(&config.name, false, String::new(), ids::BaseLimits::LINUX);
    assert_eq!(pair.check(), Ok(()));
    let defaults = pair::Timers::default();
    assert_eq!(pair.timers, defaults, "the defaults here are those of the pair");
    let dead = |peer_timeout| volume.link.tuning(peer_timeout).dead_peer_timeout;
    assert_eq!(dead(volume.timers.peer_timeout), Duration::from_millis(1600));
    assert_eq!(dead(Duration::from_secs(2)), Duration::from_secs(8));
    let mut short = volume.clone();
    short.timers.lease = Duration::from_millis(60);
    let pair = short.pair(&config.name, false, String::new(), ids::BaseLimits::LINUX);
    assert_eq!(pair.timers.link_grace_ms, 36, "the primary's turn comes before the end of its lease");
}

#[test]
fn an_empty_file_says_what_it_needs() {
    assert_eq!(
        problems(""),
        [
            "1: the file: the table [node] is missing => add a table `[node]`",
            "1: the file: it has no volume => add one with `[[volume]]` (`twinfiler init` prints it ready)",
        ]
    );
}

#[test]
fn syntax_errors_have_lines() {
    let found = problems("[node]\nname = \"a\nlisten = 5\n");
    assert!(found[0].starts_with("2: not TOML: "), "{found:?}");
    let found = problems("[node]\nname = \"a\"\nname = \"b\"\n");
    assert!(found[0].starts_with("3: not TOML: duplicate key"), "{found:?}");
}

/// One line of [`MINIMAL`] or [`GOOD`] is replaced; the problems that follow, exactly.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn bad_lines_and_their_messages() {
    const CASES: &[(&str, &str, &str)] = &[
        (
            "name = \"a\"",
            "nmae = \"a\"",
            "2: [node]: `name` is missing => add a line `name = \"filer-a\"` below this line\n3: [node]: unknown key `nmae` => did you mean `name`?",
        ),
        (
            "name = \"a\"",
            "name = \"a b\"",
            "3: [node]: `name`: node name \"a b\" must be 1 to 63 letters, digits, '-', '_' or '.' => write a node name: `name = \"filer-a\"`",
        ),
        (
            "name = \"a\"",
            "name = 5",
            "3: [node]: `name`: it is an integer => write a node name: `name = \"filer-a\"`",
        ),
        (
            "listen = \"10.0.0.1:7400\"",
            "listen = \"filer-a:7400\"",
            "4: [node]: `listen`: \"filer-a:7400\" is not an IP address and a port => write an IP address and a port: `listen = \"10.0.0.1:7400\"`",
        ),
        (
            "metrics_listen = \"127.0.0.1:7401\"",
            "metrics_listen = \"0.0.0.0:7401\"",
            "6: [node]: `metrics_listen`: 0.0.0.0 is not a loopback address => metrics have no access control: write \"127.0.0.1:7401\"",
        ),
        (
            "control = \"/run/twinfiler/a.sock\"",
            "control = \"a.sock\"",
            "5: [node]: `control`: \"a.sock\" is not an absolute path => write an absolute path without `..`: `control = \"/var/lib/twinfiler/home\"`",
        ),
        (
            "control = \"/run/twinfiler/a.sock\"",
            "control = \"/run/x/../a.sock\"",
            "5: [node]: `control`: \"/run/x/../a.sock\" has `..` in it => write an absolute path without `..`: `control = \"/var/lib/twinfiler/home\"`",
        ),
        (
            "log_format = \"json\"",
            "log_format = \"jsn\"",
            "8: [node]: `log_format`: \"jsn\" is not known here; did you mean \"json\"? => write one of \"text\", \"json\": `log_format = \"text\"`",
        ),
        (
            "addresses = [\"10.0.0.3:7402\", \"10.1.0.3:7402\"]",
            "addresses = []",
            "12: [witness]: `addresses`: the list is empty => write an IP address and a port: `addresses = \"10.0.0.1:7400\"`",
        ),
        (
            "timeout = \"250ms\"",
            "timeout = 250",
            "14: [witness]: `timeout`: it is an integer => write a whole number and a unit (us, ms, s, min, h; at most 24h): `timeout = \"500ms\"`",
        ),
        (
            "id = \"00112233445566778899aabbccddeeff\"",
            "id = \"0011\"",
            "18: volume \"home\": `id`: volume id \"0011\" is not 32 hexadecimal digits (dashes allowed) => write the volume id that `twinfiler init` printed: `id = \"00112233445566778899aabbccddeeff\"`",
        ),
        (
            "transport = \"tcp\"",
            "transport = \"verb\"",
            "20: volume \"home\": `transport`: \"verb\" is not known here; did you mean \"verbs\"? => write one of \"tcp\", \"verbs\", \"shm\": `transport = \"tcp\"`",
        ),
        (
            "preferred_primary = \"b\"",
            "preferred_primary = \"c\"",
            "21: volume \"home\": `preferred_primary`: c is neither node of the pair => write \"a\" or \"b\", the same on both nodes",
        ),
        (
            "name = \"b\"",
            "name = \"a\"",
            "21: volume \"home\": `preferred_primary`: b is neither node of the pair => write \"a\" or \"a\", the same on both nodes\n24: volume \"home\" [volume.peer]: `name`: a is this node's own name => name the other node of the pair",
        ),
        (
            "address = \"10.0.0.2:7400\"",
            "address = \"10.0.0.1:7400\"",
            "25: volume \"home\" [volume.peer]: `address`: 10.0.0.1:7400 is this node's own `listen` => write the `listen` address of the other node",
        ),
        (
            "kind = \"block\"",
            "kind = \"blok\"",
            "29: volume \"home\" [volume.log]: `kind`: \"blok\" is not known here; did you mean \"block\"? => write one of \"emulated\", \"block\", \"fsdax\", \"devdax\": `kind = \"block\"`",
        ),
        (
            "capacity = \"1GiB\"",
            "capacity = \"1GB\"",
            "31: volume \"home\" [volume.log]: `capacity`: 1000000000 bytes are not whole pages => a multiple of 4KiB: \"976560KiB\"",
        ),
        (
            "capacity = \"1GiB\"",
            "capacity = \"64KiB\"",
            "31: volume \"home\" [volume.log]: `capacity`: 64KiB is too small for a log => at least 1MiB; 1GiB holds some seconds of writes at full speed\n48: volume \"home\" [volume.consistency_point]: `bytes`: 32MiB does not fit the log of 64KiB => write more than zero and at most the log's capacity; a log that is half full triggers one anyway",
        ),
        (
            "path = \"/var/lib/twinfiler/home.log\"",
            "path = \"/var/lib/twinfiler/home/log\"",
            "30: volume \"home\" [volume.log]: the log /var/lib/twinfiler/home/log overlaps with the base directory /var/lib/twinfiler/home => line 19 uses it: choose paths that do not lie in each other",
        ),
        (
            "mount = \"/srv/home\"",
            "mount = \"/var/lib/twinfiler/home\"",
            "34: volume \"home\" [volume.fuse]: the mount point /var/lib/twinfiler/home is also the base directory /var/lib/twinfiler/home => line 19 uses it: choose paths that do not lie in each other",
        ),
        (
            "writeback_cache = true",
            "writeback-cache = true",
            "35: volume \"home\" [volume.fuse]: unknown key `writeback-cache` => did you mean `writeback_cache`?",
        ),
        (
            "writeback_cache = true",
            "colour = true",
            "35: volume \"home\" [volume.fuse]: unknown key `colour` => remove it; known here: mount, threads, writeback_cache, allow_other, nosuid, nodev, ro",
        ),
        (
            "threads = 8",
            "threads = 0",
            "36: volume \"home\" [volume.fuse]: `threads`: 0 => write a number from 1 to 64",
        ),
        (
            "threads = 8",
            "threads = -1",
            "36: volume \"home\" [volume.fuse]: `threads`: -1 is out of range => write a whole number: `threads = 4`",
        ),
        (
            "lease = \"100ms\"",
            "lease = \"190ms\"",
            "42: volume \"home\" [volume.timers]: `lease` (190ms) is too long for `peer_timeout` (200ms) => keep it more than 10ms (what clocks may differ by) below `peer_timeout`",
        ),
        (
            "heartbeat = \"20ms\"",
            "heartbeat = \"50ms\"",
            "40: volume \"home\" [volume.timers]: `heartbeat` (50ms) is too long for `lease` (100ms) => at least 3 heartbeats must fit in a lease",
        ),
        (
            "heartbeat = \"20ms\"",
            "heartbeat = \"20us\"",
            "40: volume \"home\" [volume.timers]: `heartbeat` (20us) is too short => at least 1ms",
        ),
        (
            "on_demote = [\"/usr/local/bin/announce\", \"down\"]",
            "on_demote = \"announce down\"",
            "52: volume \"home\" [volume.hooks]: `on_demote`: it is a string => write a list: the program's absolute path, then its arguments: `on_demote = [\"/usr/local/bin/announce\", \"--fast\"]`",
        ),
        (
            "time_limit = \"3s\"",
            "time_limit = \"31s\"",
            "53: volume \"home\" [volume.hooks]: `time_limit` (31s) is too long => at most 30s; what takes longer a hook starts as a service of its own (`systemctl start`)",
        ),
        (
            "addresses = [\"10.0.0.3:7402\", \"10.1.0.3:7402\"]",
            "addresses = [\"10.0.0.1:7400\"]",
            "12: [witness]: the address 10.0.0.1:7400 is used twice => line 4 has it already: give one of them another",
        ),
        (
            "address = \"10.0.0.2:7400\"",
            "address = \"10.0.0.3:7402\"",
            "25: volume \"home\" [volume.peer]: `address`: 10.0.0.3:7402 is in line 12 already => write the `listen` address of the other node: something else answers there",
        ),
        (
            "address = \"10.0.0.9/24\"",
            "address = \"10.0.0.9\"",
            "56: volume \"home\" [volume.floating_ip]: `address`: \"10.0.0.9\" is not an IP address with a prefix length => write the address and the length of its network prefix: `address = \"10.0.0.9/24\"`",
        ),
        (
            "address = \"10.0.0.9/24\"",
            "address = \"10.0.0.2/24\"",
            "56: volume \"home\" [volume.floating_ip]: `address`: 10.0.0.2 is the address of `peer.address` => choose one that no machine has by itself: it goes from node to node with the volume, and clients use it",
        ),
        (
            "address = \"10.0.0.9/24\"",
            "address = \"10.0.0.1/24\"",
            "56: volume \"home\" [volume.floating_ip]: `address`: 10.0.0.1 is the address of `node.listen` => choose one that no machine has by itself: it goes from node to node with the volume, and clients use it",
        ),
        (
            "interface = \"eth0\"",
            "interface = \"a-name-that-is-too-long\"",
            "57: volume \"home\" [volume.floating_ip]: `interface`: \"a-name-that-is-too-long\" cannot name an interface => write the name of a network interface: `interface = \"eth0\"`",
        ),
        (
            "min_rate = \"1MiB\"",
            "min_rate = \"1GiB\"",
            "66: volume \"home\" [volume.resync]: `min_rate` 1GiB and `max_rate` 100MiB => write sizes per second, `min_rate` at least 64KiB and `max_rate` not below it",
        ),
        (
            "[volume.hooks]",
            "[volume.hoks]",
            "50: volume \"home\": unknown key `hoks` => did you mean `hooks`?",
        ),
        (
            "[[volume]]",
            "[volume]",
            "16: the file: `volume` is a table, not a list of tables => write each one as a table with a double bracket: `[[volume]]`\n1: the file: it has no volume => add one with `[[volume]]` (`twinfiler init` prints it ready)",
        ),
    ];
    for (from, to, expected) in CASES {
        assert!(GOOD.contains(from), "{from}");
        let found = problems(&GOOD.replacen(from, to, 1));
        let mut expected: Vec<&str> = expected.lines().collect();
        expected.sort_by_key(|line| line.split(':').next().and_then(|n| n.parse::<usize>().ok()));
        assert_eq!(found, expected, "{from} -> {to}");
    }
}

#[test]
fn answers_come_out_of_memory_only_where_a_device_is_slower() {
    let with = |answer: &str| {
        GOOD.replacen("transport = \"tcp\"", &format!("transport = \"tcp\"\nanswer = \"{answer}\""), 1)
    };
    let chosen = |text: &str| NodeConfig::parse(text, "f").unwrap().volumes[0].answer;
    assert_eq!(chosen(GOOD), ids::AnswerFrom::Power, "the stronger one, if nothing is said");
    assert_eq!(chosen(&with("power")), ids::AnswerFrom::Power);
    assert_eq!(chosen(&with("memory")), ids::AnswerFrom::Memory);
    assert!(problems(&with("disk"))[0].contains("write one of \"power\", \"memory\""));
    for kind in ["emulated", "fsdax", "devdax"] {
        let found = problems(&with("memory").replacen("kind = \"block\"", &format!("kind = \"{kind}\""), 1));
        let expected = format!(
            "21: volume \"home\": `answer`: \"memory\" changes nothing with a log of kind \"{kind}\""
        );
        assert!(found.len() == 1 && found[0].starts_with(&expected), "{found:?}");
        assert!(found[0].ends_with("=> remove it, or choose a log of kind \"block\""), "{found:?}");
    }
}

#[test]
fn what_may_stand_only_once() {
    let second =
        MINIMAL.split_once("[[volume]]").map(|(_, volume)| format!("{MINIMAL}[[volume]]{volume}")).unwrap();
    let found = problems(&second);
    let whats: Vec<&str> = found.iter().filter_map(|line| line.split(" => ").next()).collect();
    assert_eq!(
        whats,
        [
            "13: [[volume]]: the volume name home is used twice",
            "14: volume \"home\": the volume id 00112233445566778899aabbccddeeff is used twice",
            "15: volume \"home\": the base directory /base is also the base directory /base",
            "17: volume \"home\" [volume.log]: the log /dev/shm/home is also the log /dev/shm/home",
        ]
    );
}

#[test]
fn all_problems_are_told_at_once_and_in_order() {
    let text = GOOD
        .replacen("name = \"a\"", "name = \"\"", 1)
        .replacen("timeout = \"250ms\"", "timeot = \"250ms\"", 1)
        .replacen("threads = 8", "threads = 8.5", 1);
    let error = NodeConfig::parse(&text, "twinfiler.toml").unwrap_err();
    assert_eq!(
        error.to_string(),
        "twinfiler.toml:3: [node]: `name`: node name \"\" must be 1 to 63 letters, digits, '-', '_' or '.'\n    \
         remedy: write a node name: `name = \"filer-a\"`\n\
         twinfiler.toml:14: [witness]: unknown key `timeot`\n    remedy: did you mean `timeout`?\n\
         twinfiler.toml:36: volume \"home\" [volume.fuse]: `threads`: it is a float\n    \
         remedy: write a whole number: `threads = 4`\n\
         3 problems in twinfiler.toml"
    );
}

#[test]
fn any_text_is_answered() {
    use proptest::prelude::*;
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::default());
    let damage = (0..GOOD.len(), "[ -~]{0,3}");
    runner
        .run(&damage, |(at, insert)| {
            let mut text = GOOD.to_owned();
            text.replace_range(at..(at + 1), &insert);
            if let Err(ConfigError::Invalid { problems, .. }) = NodeConfig::parse(&text, "f") {
                prop_assert!(!problems.is_empty());
                prop_assert!(problems.iter().all(|p| p.line >= 1 && p.line <= text.lines().count() + 1));
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn files_that_can_not_be_read() {
    let error = NodeConfig::load(std::path::Path::new("/nowhere/twinfiler.toml")).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("long");
    std::fs::File::create(&path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
    assert!(matches!(NodeConfig::load(&path).unwrap_err(), ConfigError::TooLong { .. }));
}

/// Every key that the program knows is described, and the example in the documentation is a good file.
#[test]
fn the_documentation_describes_every_key() {
    let documentation = include_str!("../../docs/configuration.md");
    for line in GOOD.lines().chain(RDMA.lines()) {
        let key = line.split('=').next().unwrap_or_default().trim();
        if !key.is_empty() {
            assert!(documentation.contains(&format!("`{key}`")), "docs/configuration.md lacks `{key}`");
        }
    }
    let example = documentation.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    if let Err(error) = NodeConfig::parse(example, "docs/configuration.md") {
        panic!("{error}");
    }
}

const BUILT_IN: &str = "addresses = [\"10.0.0.3:7402\", \"10.1.0.3:7402\"]\n\
                        public_key = \"ed25519:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\"";

#[test]
fn etcd_can_be_the_witness() {
    let etcd = "etcd = { endpoints = [\"https://10.0.0.3:2379\", \"https://[fd00::3]:2379/\"], prefix = \"/rack7/\", \
                ca = \"/etc/ca.pem\", certificate = \"/etc/node.pem\", key = \"/etc/node.key\" }";
    let config = NodeConfig::parse(&GOOD.replace(BUILT_IN, etcd), "f").unwrap();
    let WitnessKeeper::Etcd(settings) = config.witness.unwrap().keeper else { panic!("not etcd") };
    let endpoints: Vec<String> = settings.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(endpoints, ["https://10.0.0.3:2379", "https://[fd00::3]:2379"]);
    assert_eq!((settings.prefix.as_str(), settings.ca), ("/rack7/", Some("/etc/ca.pem".into())));
    assert_eq!(settings.client, Some(("/etc/node.pem".into(), "/etc/node.key".into())));

    let plain = "etcd = { endpoints = \"http://10.0.0.3:2379\", plaintext = true }";
    let config = NodeConfig::parse(&GOOD.replace(BUILT_IN, plain), "f").unwrap();
    let WitnessKeeper::Etcd(settings) = config.witness.unwrap().keeper else { panic!("not etcd") };
    assert_eq!((settings.prefix.as_str(), settings.ca, settings.client), ("/twinfiler/", None, None));
}

#[test]
fn an_etcd_that_can_not_be_asked_is_refused() {
    let cases = [
        (
            "etcd = { endpoints = \"etcd-1:2379\" }",
            "no `http://` or `https://` with an IP address and a port",
        ),
        (
            "etcd = { endpoints = \"http://etcd-1:2379\" }",
            "no `http://` or `https://` with an IP address and a port",
        ),
        ("etcd = { endpoints = \"https://10.0.0.3:2379\" }", "`ca` is missing"),
        (
            "etcd = { endpoints = \"http://10.0.0.3:2379\", ca = \"/x\" }",
            "`ca` without an `https://` endpoint",
        ),
        (
            "etcd = { endpoints = \"http://10.0.0.3:2379\", key = \"/x\" }",
            "`certificate` and `key` belong together",
        ),
        ("etcd = { prefix = \"/x/\" }", "`endpoints` is missing"),
        (
            "addresses = \"10.0.0.3:7402\"\netcd = { endpoints = \"http://10.0.0.3:2379\" }",
            "`addresses` beside `etcd`",
        ),
    ];
    for (line, wanted) in cases {
        let problems = NodeConfig::parse(&GOOD.replace(BUILT_IN, line), "f").unwrap_err().to_string();
        assert!(problems.contains(wanted), "{line}: {problems}");
    }
}
