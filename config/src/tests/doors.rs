//! Keys, and what is refused without.

use super::*;

/// [`GOOD`] without a line that has this in it.
fn without(text: &str, part: &str) -> String {
    assert!(text.contains(part), "{part}");
    text.lines().filter(|line| !line.contains(part)).map(|line| format!("{line}\n")).collect()
}

/// [`MINIMAL`] with these addresses of node and partner, and nothing said about keys.
fn silent(listen: &str, peer: &str) -> String {
    without(MINIMAL, "plaintext").replace("10.0.0.1", listen).replace("10.0.0.2", peer)
}

#[test]
fn keys_are_read() {
    let config = NodeConfig::parse(GOOD, "f").unwrap();
    assert_eq!(config.private_key, Some("/etc/twinfiler/node.key".into()));
    assert!(!config.plaintext);
    let key = config.volumes[0].peer.public_key.unwrap();
    assert_eq!(key.to_string(), "ed25519:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=");
    assert_ne!(config.witness.unwrap().public_key, Some(key));
    assert!(NodeConfig::parse(MINIMAL, "f").unwrap().plaintext);
}

#[test]
fn without_keys_nothing_leaves_the_machine_unless_the_file_says_so() {
    for (listen, peer) in [("127.0.0.1", "127.0.0.2"), ("[::1]", "127.0.0.1")] {
        NodeConfig::parse(&silent(listen, peer), "f").unwrap();
    }
    for (listen, peer, key) in [
        ("10.0.0.1", "127.0.0.1", "`listen`"),
        ("127.0.0.1", "10.0.0.2", "`address`"),
        ("0.0.0.0", "[::1]", "`listen`"),
    ] {
        let found = problems(&silent(listen, peer));
        assert!(
            found.len() == 1 && found[0].contains(key) && found[0].contains("twinfiler keygen"),
            "{found:?}"
        );
    }
    let witness = silent("127.0.0.1", "127.0.0.2") + "[witness]\naddresses = \"10.0.0.3:7402\"\n";
    let found = problems(&witness);
    assert!(found.len() == 1 && found[0].contains("[witness]: `addresses`: 10.0.0.3:7402"), "{found:?}");
}

/// The keys of the nodes protect nothing that goes to etcd: it has TLS of its own, or is meant to be in the clear.
#[test]
fn etcd_in_the_clear_must_be_meant() {
    let etcd = |url: &str, more: &str| format!("[witness]\netcd = {{ endpoints = \"{url}\"{more} }}\n");
    let silent = silent("127.0.0.1", "127.0.0.2");
    let with_keys = GOOD.replace(&format!("[witness]\n{BUILT_IN}\ntimeout = \"250ms\"\n"), "");
    assert!(!with_keys.contains("[witness]"), "{with_keys}");
    for node in [silent.as_str(), &with_keys] {
        let open = format!("{node}\n{}", etcd("http://10.0.0.3:2379", ""));
        let found = problems(&open);
        assert!(
            found.len() == 1 && found[0].contains("http://10.0.0.3:2379 is reached over a network"),
            "{found:?}"
        );
        assert!(found[0].contains("plaintext = true"), "{found:?}");
        for good in [
            etcd("http://10.0.0.3:2379", ", plaintext = true"),
            etcd("http://127.0.0.1:2379", ""),
            etcd("https://10.0.0.3:2379", ", ca = \"/etc/ca.pem\""),
        ] {
            NodeConfig::parse(&format!("{node}\n{good}"), "f").unwrap();
        }
    }
    // The whole node is meant to be in the clear.
    NodeConfig::parse(&format!("{MINIMAL}\n{}", etcd("http://10.0.0.3:2379", "")), "f").unwrap();
}

#[test]
fn with_a_key_everybody_is_named_by_theirs() {
    let found = problems(&without(GOOD, "AgICAgI"));
    assert!(found.len() == 1 && found[0].contains("[volume.peer]: `public_key` is missing"), "{found:?}");
    let found = problems(&without(GOOD, "AQEBAQE"));
    assert!(found.len() == 1 && found[0].contains("[witness]: `public_key` is missing"), "{found:?}");
}

#[test]
fn half_a_door_is_refused() {
    let both = GOOD.replace("[witness]", "plaintext = true\n[witness]");
    let found = problems(&both);
    assert!(found.len() == 1 && found[0].contains("`plaintext` beside `private_key`"), "{found:?}");
    let found = problems(&without(GOOD, "private_key").replace("[witness]", "plaintext = true\n[witness]"));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found.iter().all(|problem| problem.contains("`public_key` without a `private_key`")),
        "{found:?}"
    );
    let bad = GOOD.replace("ed25519:AgIC", "ed25519:AgI");
    let found = problems(&bad);
    assert!(found[0].contains("is not a public key"), "{found:?}");
    let etcd = BUILT_IN.split_once('\n').unwrap().1;
    let etcd = GOOD.replace(
        BUILT_IN,
        &format!("{etcd}\netcd = {{ endpoints = \"https://10.0.0.3:2379\", ca = \"/x\" }}"),
    );
    let found = problems(&etcd);
    assert!(found.len() == 1 && found[0].contains("`public_key` beside `etcd`"), "{found:?}");
}
