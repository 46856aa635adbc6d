//! How pairs come about, and what they show while all is well.

use crate::harness::{Cluster, Load, Side, Spec, VolumeSpec, check_all, run};
use admin_api::control::{Answer, Request};
use admin_api::status::{Mode, Role};

#[test]
fn pair_forms_from_fresh_logs() {
    let mut pair = Cluster::start(Spec::default());
    let (a, b) = (pair.volume(Side::A).unwrap(), pair.volume(Side::B).unwrap());
    assert_eq!((a.role, b.role), (Role::Primary, Role::Partner), "the preferred node begins");
    assert!(a.eligible && b.eligible);
    assert_eq!(a.acknowledgement.map(|level| level.nodes()), Some(2));
    assert_eq!(a.epoch, b.epoch);
    assert_eq!(a.witness.and_then(|witness| witness.mode), Some(Mode::Mirrored));
    assert!(a.faults.is_empty() && b.faults.is_empty(), "{:?} {:?}", a.faults, b.faults);

    let load = Load::start(&pair.mount(Side::A), "c", 3);
    load.wait_for(200);
    let outcomes = load.finish();
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()), "{outcomes:?}");
    check_all(&pair.mount(Side::A), &outcomes);
    pair.check_trees_equal();
    check_all(&pair.base(Side::B), &outcomes);
}

#[test]
fn several_volumes_with_opposite_primaries() {
    let mut spec = Spec::default();
    spec.volumes.push(VolumeSpec { name: "w", id: "ffeeddccbbaa99887766554433221100", preferred: Side::B });
    let mut pair = Cluster::start(spec);
    let roles = |side: Side, pair: &Cluster| {
        pair.status(side).unwrap().volumes.iter().map(|volume| volume.role).collect::<Vec<_>>()
    };
    assert_eq!(roles(Side::A, &pair), [Role::Primary, Role::Partner]);
    assert_eq!(roles(Side::B, &pair), [Role::Partner, Role::Primary]);
    let loads = [
        Load::start(&pair.mount_of(Side::A, "v"), "c", 2),
        Load::start(&pair.mount_of(Side::B, "w"), "c", 2),
    ];
    loads.iter().for_each(|load| load.wait_for(100));
    // The node goes down with its volume; the other one serves both.
    pair.kill(Side::A);
    pair.wait("node b to serve both volumes", |pair| {
        let volumes = pair.status(Side::B)?.volumes;
        volumes
            .iter()
            .all(|v| v.role == Role::Primary && v.mode == Mode::Solo && v.mounted_at.is_some())
            .then_some(())
    });
    let [v, w] = loads;
    let v = v.join();
    w.wait_for(50);
    let w = w.finish();
    assert!(w.iter().all(|outcome| outcome.error.is_none()), "clients of the healthy node felt it: {w:?}");
    check_all(&pair.mount_of(Side::B, "v"), &v);
    check_all(&pair.mount_of(Side::B, "w"), &w);
    pair.start_node(Side::A);
    pair.wait_mirrored();
}

#[test]
fn metrics_are_served() {
    let mut spec = Spec::default();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    spec.node[0] = format!("metrics_listen = \"127.0.0.1:{port}\"\n");
    let pair = Cluster::start(spec);
    std::fs::write(pair.mount(Side::A).join("file"), "content").unwrap();
    let point = pair.ask(Side::A, &Request::ConsistencyPoint { volume: "v".to_owned() });
    assert!(matches!(point, Ok(Answer::ConsistencyPoint(_))), "{point:?}");
    run(
        env!("CARGO_BIN_EXE_twinfiler"),
        &["--config", &pair.config(Side::A).display().to_string(), "verify", "v"],
    );
    let text = run("curl", &["-sS", "--max-time", "20", &format!("http://127.0.0.1:{port}/metrics")]);
    for what in ["twinfiler_", "volume=\"v\"", "commit", "# EOF"] {
        assert!(text.contains(what), "no {what} in\n{text}");
    }
    let documented = include_str!("../../../docs/operations.md").split('`').skip(1).step_by(2);
    for name in
        documented.filter_map(|name| name.split('{').next()).filter(|name| name.starts_with("twinfiler_"))
    {
        assert!(
            text.contains(&format!("\n{name}{{")),
            "docs/operations.md names {name}, which is not served:\n{text}"
        );
    }
    for what in ["operations", "applied_bytes", "consistency_points", "takeovers", "link_sent_bytes", "links"]
    {
        let line =
            text.lines().find(|line| line.starts_with(&format!("twinfiler_{what}_total{{volume=\"v\"")));
        let value =
            line.and_then(|line| line.rsplit_once(' ')).and_then(|(_, value)| value.parse::<f64>().ok());
        assert!(value.is_some_and(|value| value > 0.0), "{what}: {line:?} in\n{text}");
    }
}
