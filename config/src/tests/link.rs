//! The transport, RDMA and the waits of a link.

use super::*;

/// [`GOOD`] over RDMA.
#[cfg(feature = "verbs")]
fn with_rdma() -> String {
    GOOD.replace("transport = \"tcp\"", "transport = \"verbs\"")
        .replace("kind = \"block\"", "kind = \"devdax\"")
        + RDMA
}

#[cfg(feature = "verbs")]
#[test]
fn rdma_is_read() {
    let config = NodeConfig::parse(&with_rdma(), "f").unwrap();
    let volume = config.volume("home").unwrap();
    assert_eq!((volume.transport, volume.persistence()), (TransportKind::Verbs, Persistence::Read));
    let expected = RdmaConfig {
        device: Some("mlx5_0".into()),
        port: Some(1),
        gid_index: Some(3),
        traffic_class: 106,
        persistence: Persistence::Read,
        ddio_off: true,
    };
    assert_eq!(volume.rdma, expected);
}

#[cfg(feature = "verbs")]
#[test]
fn rdma_that_can_not_be_is_refused_with_its_reason() {
    let refused = |from: &str, to: &str| {
        let text = with_rdma();
        assert!(text.contains(from), "{from}");
        problems(&text.replacen(from, to, 1)).join("\n")
    };
    for (from, to, words) in [
        (
            "transport = \"verbs\"",
            "transport = \"tcp\"",
            ["[volume.rdma]", "which uses no RDMA", "or remove this table"],
        ),
        ("kind = \"devdax\"", "kind = \"fsdax\"", ["20:", "EOPNOTSUPP", "-m devdax"]),
        (
            "kind = \"devdax\"",
            "kind = \"block\"",
            ["persistence", "only its image in memory", "`devdax` log"],
        ),
        (
            "ddio_off = true",
            "ddio_off = false",
            ["persistence", "bypasses the processor's caches", "docs/rdma.md"],
        ),
        (
            "persistence = \"read\"",
            "persistence = \"reed\"",
            ["persistence", "did you mean \"read\"", "one of"],
        ),
        ("port = 1", "port = 0", ["`port`: 0", "counted from 1", "port = 1"]),
        ("gid_index = 3", "gid_index = 300", ["gid_index", "300 is out of range", "0 to 255"]),
        ("device = \"mlx5_0\"", "device = \"../x\"", ["device", "cannot name an RDMA device", "rdma link"]),
    ] {
        let found = refused(from, to);
        for word in words {
            assert!(found.contains(word), "{from} -> {to}: no {word:?} in {found}");
        }
    }
}

#[cfg(not(feature = "verbs"))]
#[test]
fn verbs_names_what_is_missing_in_a_program_without_it() {
    let found = problems(&GOOD.replace("transport = \"tcp\"", "transport = \"verbs\""));
    assert!(found[0].contains("built without the cargo feature `verbs`"), "{found:?}");
    assert!(found[0].contains("build it with default features"), "{found:?}");
}

#[test]
fn waits_of_the_link_have_bounds() {
    let found = problems(&GOOD.replace("spin = \"50us\"", "spin = \"50ms\""));
    assert!(found[0].contains("keeps a processor busy") && found[0].contains("at most 10ms"), "{found:?}");
    let found = problems(&GOOD.replace("dead_peer_timeout = \"4s\"", "dead_peer_timeout = \"4ms\""));
    assert!(found[0].contains("too short") && found[0].contains("at least 1s"), "{found:?}");
}
