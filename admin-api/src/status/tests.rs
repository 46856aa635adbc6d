//! The rendered page, exactly, and the model's way over the wire.

use super::*;
use ids::{AckRule, Cursors, Durability, Epoch, LogPoint, Lsn};

const NOW_UNIX_MS: u64 = 1_700_000_000_000;

/// A node with everything that can be shown.
#[expect(clippy::too_many_lines, reason = "everything that can be shown")]
pub(crate) fn sample() -> NodeStatus {
    let mut cursors = Cursors::new(1 << 30, Lsn(1024), Lsn(4096), Lsn(8192)).unwrap();
    cursors.set_rule(AckRule::Both).unwrap();
    cursors.set_peer_durable(LogPoint { lsn: Lsn(6144), ..LogPoint::default() }).unwrap();
    NodeStatus {
        node: "a".parse().unwrap(),
        version: "0.1.0".into(),
        pid: 4711,
        uptime_s: 7300,
        now_unix_ms: NOW_UNIX_MS,
        volumes: vec![VolumeStatus {
            name: "home".into(),
            id: "00112233445566778899aabbccddeeff".parse().unwrap(),
            role: Role::Primary,
            mode: Mode::Mirrored,
            detail: "waits for nothing".into(),
            eligible: true,
            epoch: Epoch(7),
            cursors: Some(cursors),
            acknowledgement: Some(AckLevel { local: Durability::Process, peer: Some(Durability::Process) }),
            synced: Some(AckLevel { local: Durability::Process, peer: Some(Durability::Process) }),
            apply_lag: Lag { operations: 12, bytes: 3072, seconds: 0.4 },
            partner_lag: Some(Lag::default()),
            log: LogStatus {
                kind: "emulated".into(),
                path: "/dev/shm/home.log".into(),
                durability: Durability::Process,
                capacity_bytes: 1 << 30,
                used_bytes: 128 << 20,
                lost_at_boot: true,
            },
            mounted_at: Some("/srv/home".into()),
            writeback_cache: false,
            last_consistency_point: Some(ConsistencyPointStatus {
                at_unix_ms: NOW_UNIX_MS - 600,
                duration_us: 12_345,
                objects: 42,
                bytes: 1 << 20,
                applied: Lsn(1024),
            }),
            space: Some(SpaceStatus {
                total_bytes: 1 << 40,
                free_bytes: 1 << 39,
                free_inodes: Some(1_000_000),
            }),
            replay: Some(ReplayStatus { done_bytes: 12 << 20, total_bytes: 1 << 30 }),
            verify: Some(VerifyStatus {
                running: Some(VerifyProgress {
                    doing: "comparing".to_owned(),
                    round: 1,
                    objects_done: 1_000,
                    objects_total: 5_000,
                    bytes_done: 1 << 30,
                    bytes_total: Some(5 << 30),
                    bytes_per_s: 100 << 20,
                    differing: 1,
                    eta_s: Some(40),
                }),
                last: Some(VerifyResult {
                    at_unix_ms: NOW_UNIX_MS - 30_000,
                    differing: 2,
                    repaired: 3,
                    ..VerifyResult::default()
                }),
            }),
            resync: Some(ResyncStatus {
                side: Some(ResyncSide::Sending),
                doing: "sending".into(),
                round: 2,
                objects_done: 300,
                objects_total: 1200,
                bytes_done: 3 << 20,
                bytes_total: 12 << 20,
                bytes_per_s: 1 << 20,
                eta_s: Some(9),
                compressed: true,
                error: Some("the link to the primary ended".into()),
            }),
            salvaged: Some("/var/lib/twinfiler/home/.twinfiler/salvage/20261122T190311Z".into()),
            partner: PartnerView {
                name: "b".parse().unwrap(),
                address: "10.0.0.2:7400".into(),
                connected: true,
                heard_ms_ago: Some(12),
                role: Some(Role::Partner),
                epoch: Some(Epoch(7)),
                committed: Some(Lsn(6144)),
                applied: Some(Lsn(1024)),
                log_fill: Some(0.125),
                free_bytes: Some(1 << 39),
                fault: Some("no space left\x1b[2J".into()),
            },
            witness: Some(WitnessStatus {
                address: "10.0.0.3:7402".into(),
                reachable: false,
                epoch: Some(Epoch(7)),
                primary: Some("a".parse().unwrap()),
                mode: Some(Mode::Mirrored),
                error: Some("connection refused".into()),
            }),
            lease: Some(LeaseStatus { valid: true, remaining_ms: Some(250) }),
            transport: TransportCounters {
                kind: "verbs".into(),
                tls: true,
                persistence: "message".into(),
                rdma: Some(RdmaStatus {
                    device: "mlx5_0".into(),
                    port: 1,
                    gid_index: 3,
                    gid: "::ffff:10.0.0.1".into(),
                    link_layer: "roce".into(),
                    mtu_bytes: 4096,
                    fencing: "memory window".into(),
                }),
                sent_bytes: 5 << 20,
                sent_batches: 900,
                ..Default::default()
            },
            commit_latency: Some(LatencySummary {
                count: 900,
                p50_us: 45.0,
                p99_us: 120.0,
                p999_us: 900.0,
                max_us: 2500.0,
            }),
            commit_latency_recent: Some(RecentLatency {
                seconds: 58.6,
                latency: LatencySummary {
                    count: 90,
                    p50_us: 41.0,
                    p99_us: 97.0,
                    p999_us: 110.0,
                    max_us: 110.0,
                },
            }),
            commit_stages: vec![StageLatency {
                stage: "durable-there".into(),
                latency: LatencySummary { count: 14, p50_us: 9.0, p99_us: 31.0, p999_us: 31.0, max_us: 31.0 },
            }],
            last_takeover: Some(TakeoverTiming {
                at_unix_ms: NOW_UNIX_MS - 60_000,
                reason: "partner lost".into(),
                epoch: Epoch(7),
                detection_us: 400_000,
                fencing_us: 20_000,
                witness_us: 3_000,
                first_served_us: 17_000,
            }),
            hooks: vec![HookStatus {
                hook: "on_primary".into(),
                at_unix_ms: NOW_UNIX_MS - 59_000,
                duration_ms: 20,
                succeeded: true,
                outcome: "succeeded".into(),
            }],
            floating_ip: Some(FloatingIpStatus {
                address: "10.0.0.9/24".into(),
                interface: "eth0".into(),
                held: true,
                error: None,
            }),
            faults: vec![Fault {
                kind: FaultKind::Other,
                since_unix_ms: NOW_UNIX_MS - 5_000,
                what: "the base filesystem is full".into(),
                remedy: "free space below /base".into(),
            }],
        }],
    }
}

#[test]
fn the_page() {
    let page = render(&sample());
    assert_eq!(page, include_str!("page.txt"), "\n{page}");
    assert!(page.lines().all(|line| line.chars().count() <= render::WIDTH));
    assert!(!page.contains('\x1b'), "text from elsewhere moves the cursor");
}

#[test]
fn what_an_acknowledgement_rests_on_is_told() {
    let mut status = sample();
    let mut shown = |persistence: &str, declared: bool| {
        let transport = &mut status.volumes[0].transport;
        (transport.persistence, transport.ddio_off_declared) = (persistence.into(), declared);
        render(&status)
    };
    let page = shown("read", true);
    assert!(page.contains("persistence read") && page.contains("because you declared"), "{page}");
    assert!(!shown("flush", false).contains("declared"));
}

#[test]
fn little_is_shown_of_what_is_not_known() {
    let mut status = sample();
    let volume = &mut status.volumes[0];
    volume.role = Role::None;
    volume.eligible = false;
    volume.mode = Mode::Starting;
    volume.acknowledgement = None;
    (volume.cursors, volume.witness, volume.last_takeover) = (None, None, None);
    volume.partner.heard_ms_ago = None;
    let mut starts = sample();
    let witness = starts.volumes[0].witness.as_mut().unwrap();
    (witness.epoch, witness.primary, witness.mode, witness.error) = (None, None, None, None);
    assert!(render(&starts).contains("10.0.0.3:7402: has not answered yet"), "it has not been asked");
    let page = render(&status);
    assert!(page.contains("nothing is acknowledged") && page.contains("never heard"), "{page}");
    assert!(page.contains("none: a node that loses its partner freezes"), "{page}");
    assert!(page.contains("this node must NOT take over by itself"), "{page}");
    assert!(!page.contains("cursors") && !page.contains("last takeover"), "{page}");
}

#[test]
fn the_model_survives_json_and_newer_fields() {
    let status = sample();
    let mut value = serde_json::to_value(&status).unwrap();
    assert_eq!(serde_json::from_value::<NodeStatus>(value.clone()).unwrap(), status);
    value["volumes"][0]["something_newer"] = true.into();
    assert_eq!(serde_json::from_value::<NodeStatus>(value).unwrap(), status);
}
