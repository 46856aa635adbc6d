//! Bulk work of a node beside what keeps the pair alive.

use crate::harness::{Cluster, Side, Spec, twinfiler};
use admin_api::control::{Answer, Request};
use admin_api::status::Mode;
use std::fs::{self, File};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The timers of the product, not those that are patient with a busy test machine.
const SHIPPED: &str = "";

/// What changes whenever a pair leaves `mirrored`: epochs, links made, links broken.
fn ties(pair: &Cluster) -> Vec<(u64, u64, u64)> {
    let tie = |side| {
        let volume = pair.volume(side).expect("it answers");
        assert_eq!(volume.mode, Mode::Mirrored, "{}", pair.diagnosis());
        (volume.epoch.0, volume.transport.connects, volume.transport.breaks)
    };
    Side::BOTH.into_iter().map(tie).collect()
}

#[test]
fn verify_of_sparse_files_costs_no_pair_its_mirror() {
    const FILES: usize = 6;
    const LEN_BYTES: u64 = 2 << 30;
    let pair = Cluster::start(Spec { timers: SHIPPED, ..Spec::default() });
    for number in 0..FILES {
        File::create(pair.mount(Side::A).join(format!("sparse-{number}")))
            .unwrap()
            .set_len(LEN_BYTES)
            .unwrap();
    }
    for side in Side::BOTH {
        let answer = pair.ask(side, &Request::ConsistencyPoint { volume: "v".to_owned() });
        assert!(matches!(answer, Ok(Answer::ConsistencyPoint(_))), "{answer:?}");
    }
    let before = ties(&pair);
    let output = twinfiler(&["--config", &pair.config(Side::A).display().to_string(), "verify", "v"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{}", pair.diagnosis());
    assert_eq!(ties(&pair), before, "{}", pair.diagnosis());
    let result = pair.volume(Side::A).unwrap().verify.unwrap().last.unwrap();
    assert_eq!((result.differing, result.bytes, result.error), (0, 0, None), "a hole was read");
}

/// Of each thread of a node: its name, its niceness, its scheduling class.
fn classes(pair: &mut Cluster, side: Side) -> Vec<(String, i64, u32)> {
    let tasks = format!("/proc/{}/task", pair.node(side).pid().as_raw_nonzero());
    let stats = fs::read_dir(tasks)
        .unwrap()
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let class = |stat: String| {
        let (head, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // proc(5): niceness is field 19, the policy field 41; the name is the second.
        Some((
            head.split_once('(')?.1.to_owned(),
            fields.get(16)?.parse().ok()?,
            fields.get(38)?.parse().ok()?,
        ))
    };
    stats.filter_map(class).collect()
}

#[test]
fn what_keeps_the_pair_alive_goes_before_bulk_work() {
    const OTHER: u32 = 0;
    const ROUND_ROBIN: u32 = 2;
    const BATCH: u32 = 3;
    let mut pair = Cluster::start(Spec::default());
    for side in Side::BOTH {
        let classes = classes(&mut pair, side);
        let has = |name: &str, is: &dyn Fn(i64, u32) -> bool| {
            let found = classes.iter().any(|(called, nice, policy)| called == name && is(*nice, *policy));
            assert!(found, "{name} on {}: {classes:?}", side.name());
        };
        for vital in ["pair", "control", "witness"] {
            has(vital, &|_, policy| policy == ROUND_ROBIN);
        }
        // As nice as the tests themselves.
        let own = classes.iter().find(|(name, ..)| name == "twinfiler").expect("its first thread").1;
        has("apply", &|nice, policy| nice == own && policy == OTHER);
        has("verify", &|nice, policy| nice == own.max(10) && policy == BATCH);
        let real_time = classes.iter().filter(|(_, _, policy)| *policy == ROUND_ROBIN);
        let allowed = ["pair", "control", "witness", "receive"];
        let strangers: Vec<_> = real_time.filter(|(name, ..)| !allowed.contains(&name.as_str())).collect();
        assert!(strangers.is_empty(), "inherited by accident: {strangers:?}");
    }
}

#[test]
fn a_busy_machine_costs_no_pair_its_mirror() {
    stay_mirrored_on_a_busy_machine(Duration::from_secs(10));
}

/// `cargo xtask test --long` runs it.
#[test]
#[ignore = "takes an hour"]
fn a_machine_that_is_busy_for_an_hour_costs_no_pair_its_mirror() {
    stay_mirrored_on_a_busy_machine(Duration::from_secs(3600));
}

fn stay_mirrored_on_a_busy_machine(spell: Duration) {
    const BUSY_THREADS: usize = 20;
    const FILES: usize = 4;
    const FILE_BYTES: usize = 64 << 20;
    // Disks of their own: whoever else writes on this machine is waited for by no flush.
    let disk_mib = [Some(1024); 2];
    let pair = Cluster::start(Spec { timers: SHIPPED, capacity: "128MiB", disk_mib, ..Spec::default() });
    let mount = pair.mount(Side::A);
    for number in 0..FILES {
        fs::write(mount.join(format!("dense-{number}")), vec![number as u8 + 1; FILE_BYTES]).unwrap();
    }
    let before = ties(&pair);
    let (over, busy) = (AtomicBool::new(false), || std::hint::spin_loop());
    let (verified, written) = std::thread::scope(|scope| {
        for _ in 0..BUSY_THREADS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    busy();
                }
            });
        }
        let verify = scope.spawn(|| {
            let (mut verified, config) = (0, pair.config(Side::A).display().to_string());
            while !over.load(Ordering::Relaxed) {
                let output = twinfiler(&["--config", &config, "verify", "v"]);
                verified += usize::from(output.status.success());
            }
            verified
        });
        let until = Instant::now() + spell;
        let mut written = Ok(());
        while Instant::now() < until && written.is_ok() {
            written = fs::write(mount.join("small"), format!("{:?}", until - Instant::now()));
        }
        over.store(true, Ordering::Relaxed);
        (verify.join().unwrap(), written)
    });
    assert!(written.is_ok(), "{written:?}\n{}", pair.diagnosis());
    assert_eq!(ties(&pair), before, "{}", pair.diagnosis());
    assert!(verified > 0, "{}", pair.diagnosis());
}
