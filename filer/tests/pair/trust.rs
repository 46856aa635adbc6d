//! What is not believed: an older log that was brought back, a damaged superblock, a witness from a backup; and orders
//! whose command has ended.

use crate::harness::{Cluster, Side, Spec, twinfiler};
use admin_api::status::{Mode, Role, VolumeStatus};
use rustix::process::Signal;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Longer than all timers of these nodes: who has not served by then does not by itself.
const LONG: Duration = Duration::from_secs(12);

/// A partner's tree has all that its primary has committed, of which it may not have heard yet.
fn applied(pair: &mut Cluster, partner: Side) {
    let end = pair.volume(partner.other()).unwrap().cursors.unwrap().committed();
    let applied = |volume: &VolumeStatus| volume.cursors.is_some_and(|cursors| cursors.applied() >= end);
    pair.wait_volume(partner, "everything applied", applied);
}

fn write_files(mount: &Path, prefix: &str) {
    for number in 0..20 {
        std::fs::write(mount.join(format!("{prefix}{number}")), vec![number; 5_000]).unwrap();
    }
}

fn check_files(mount: &Path, prefix: &str) {
    for number in 0..20 {
        assert_eq!(std::fs::read(mount.join(format!("{prefix}{number}"))).unwrap(), vec![number; 5_000]);
    }
}

fn has_fault(volume: &VolumeStatus, text: &str) -> bool {
    volume.faults.iter().any(|fault| fault.what.contains(text))
}

fn does_not_serve(pair: &mut Cluster, side: Side) -> VolumeStatus {
    std::thread::sleep(LONG);
    let volume = pair.volume(side).unwrap();
    assert!(volume.mounted_at.is_none() && volume.role != Role::Primary, "{volume:?}\n{}", pair.diagnosis());
    volume
}

#[test]
fn an_older_log_that_was_brought_back_is_not_served() {
    let mut pair = Cluster::start(Spec::default());
    let mount = pair.mount(Side::A);
    write_files(&mount, "early");
    applied(&mut pair, Side::B);
    pair.terminate(Side::B);
    let copy = std::fs::read(pair.log(Side::B)).unwrap();
    pair.start_node(Side::B);
    pair.wait_mirrored();
    write_files(&mount, "late");
    applied(&mut pair, Side::B);
    pair.kill(Side::B);
    pair.kill(Side::A);
    std::fs::write(pair.log(Side::B), copy).unwrap();
    pair.start_node(Side::B);
    pair.wait_volume(Side::B, "the fault", |volume| has_fault(volume, "an older log was brought back"));
    let volume = does_not_serve(&mut pair, Side::B);
    assert!(!volume.eligible && volume.log.lost_at_boot, "{volume:?}");
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::A);
    check_files(&mount, "early");
    check_files(&mount, "late");
    pair.wait_volume(Side::B, "a partner as good as any", |volume| {
        volume.eligible && volume.faults.is_empty()
    });
    pair.check_trees_equal();
}

#[test]
fn a_damaged_copy_of_the_superblock_is_told_and_costs_nothing() {
    for copy in 0..2 {
        let mut pair = Cluster::start(Spec { capacity: "1MiB", ..Spec::default() });
        let mount = pair.mount(Side::A);
        // More than a lap of the log.
        for turn in 0..20 {
            write_files(&mount, &format!("{turn}-"));
        }
        pair.kill(Side::A);
        pair.kill(Side::B);
        let log = std::fs::OpenOptions::new().write(true).open(pair.log(Side::A)).unwrap();
        log.write_all_at(b"rot", nvlog::format::SUPERBLOCK_OFFSETS[copy] + 30).unwrap();
        for side in Side::BOTH {
            pair.start_node(side);
        }
        pair.wait_mirrored();
        pair.wait_volume(Side::A, "the fault", |volume| has_fault(volume, "superblock was damaged"));
        let said = std::fs::read_to_string(pair.output(Side::A)).unwrap();
        let logged = |line: &str| line.contains("ERROR") && line.contains("superblock was damaged");
        assert!(said.lines().any(logged), "{said}");
        for turn in 0..20 {
            let serving = pair.wait_mirrored();
            check_files(&pair.mount(serving), &format!("{turn}-"));
        }
        pair.check_trees_equal();
        // The copy was written anew many times since; that it is good, the next start sees, and says nothing more.
        assert!(has_fault(&pair.volume(Side::A).unwrap(), "superblock was damaged"));
        pair.terminate(Side::A);
        pair.start_node(Side::A);
        pair.wait_mirrored();
        assert_eq!(pair.volume(Side::A).unwrap().faults, []);
    }
}

/// The register names a node that has known a later epoch since, in which the other one acknowledged what it lacks.
#[test]
fn a_witness_from_a_backup_does_not_decide() {
    let mut pair = Cluster::start(Spec::default());
    let backup = std::fs::read(pair.witness_state()).unwrap();
    pair.kill(Side::A);
    pair.wait_serving(Side::B);
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::B);
    pair.kill(Side::A);
    pair.wait_mode(Side::B, Mode::Solo);
    write_files(&pair.mount(Side::B), "alone");
    pair.kill(Side::B);
    pair.kill_witness();
    std::fs::write(pair.witness_state(), backup).unwrap();
    pair.start_witness();
    pair.start_node(Side::A);
    pair.wait_volume(Side::A, "the fault", |volume| has_fault(volume, "register is older"));
    let volume = does_not_serve(&mut pair, Side::A);
    assert!(!volume.eligible && volume.detail.contains("takeover VOLUME --force"), "{volume:?}");
    pair.start_node(Side::B);
    let serving = pair.wait_mirrored();
    check_files(&pair.mount(serving), "alone");
    pair.wait_volume(Side::A, "no fault", |volume| volume.faults.is_empty());
    pair.check_trees_equal();
}

/// A primary that serves alone tells a witness that was rolled back what it has forgotten.
#[test]
fn a_serving_node_repairs_a_witness_from_a_backup() {
    let mut pair = Cluster::start(Spec::default());
    let backup = std::fs::read(pair.witness_state()).unwrap();
    pair.kill(Side::B);
    pair.wait_mode(Side::A, Mode::Solo);
    let newest = std::fs::read(pair.witness_state()).unwrap();
    pair.kill_witness();
    std::fs::write(pair.witness_state(), &backup).unwrap();
    pair.start_witness();
    let state = pair.witness_state();
    pair.wait("the register written anew", |_| {
        let now = String::from_utf8(std::fs::read(&state).ok()?).ok()?;
        (now.contains("\"solo\"") && now.as_bytes() != backup).then_some(())
    });
    assert!(String::from_utf8(newest).unwrap().contains("\"solo\""));
    write_files(&pair.mount(Side::A), "after");
    pair.start_node(Side::B);
    assert_eq!(pair.wait_mirrored(), Side::A);
    pair.check_trees_equal();
}

fn force(pair: &Cluster, side: Side) -> std::process::Output {
    let config = pair.config(side).display().to_string();
    twinfiler(&["--config", &config, "takeover", "v", "--force"])
}

#[test]
fn force_works_when_primary_and_witness_are_gone() {
    let mut pair = Cluster::start(Spec::default());
    write_files(&pair.mount(Side::A), "both");
    pair.kill(Side::A);
    pair.kill(Side::B);
    pair.kill_witness();
    pair.start_node(Side::B);
    pair.wait_volume(Side::B, "the remedy", |volume| volume.detail.contains("takeover VOLUME --force"));
    let output = force(&pair, Side::B);
    assert!(output.status.success(), "{output:?}\n{}", pair.diagnosis());
    pair.wait_serving(Side::B);
    check_files(&pair.mount(Side::B), "both");
    pair.start_witness();
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::B);
    pair.check_trees_equal();
    // Where it serves there is nothing to force, and nothing to warn of.
    let output = force(&pair, Side::B);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(75) && !said.contains("diverge"), "{output:?}");
}

#[test]
fn a_switchover_that_no_witness_grants_is_one_to_try_again() {
    let mut pair = Cluster::start(Spec::default());
    pair.kill_witness();
    let config = pair.config(Side::A).display().to_string();
    let output = twinfiler(&["--config", &config, "switchover", "v"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(75) && said.contains("the witness"), "{output:?}");
    pair.start_witness();
    assert_eq!(pair.wait_mirrored(), Side::A);
}

/// The witness says nothing for as long as the command lives, and comes back after that.
#[test]
fn an_order_ends_with_its_command() {
    let mut pair = Cluster::start(Spec::default());
    pair.kill(Side::B);
    pair.wait_mode(Side::A, Mode::Solo);
    write_files(&pair.mount(Side::A), "alone");
    pair.kill(Side::A);
    pair.start_node(Side::B);
    pair.wait_mode(Side::B, Mode::Outdated);
    pair.witness().signal(Signal::STOP);
    let config = pair.config(Side::B).display().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_twinfiler"))
        .args(["--config", &config, "takeover", "v", "--force"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    command.kill().unwrap();
    command.wait().unwrap();
    pair.witness().signal(Signal::CONT);
    let volume = does_not_serve(&mut pair, Side::B);
    assert_eq!(volume.mode, Mode::Outdated);
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::A);
    check_files(&pair.mount(Side::A), "alone");
}

#[test]
fn an_empty_replacement_node_is_not_forced() {
    let mut pair = Cluster::start(Spec::default());
    write_files(&pair.mount(Side::A), "data");
    pair.kill(Side::A);
    pair.kill(Side::B);
    std::fs::remove_dir_all(pair.disk_path(Side::B)).unwrap();
    std::fs::create_dir_all(pair.disk_path(Side::B)).unwrap();
    std::fs::remove_file(pair.log(Side::B)).unwrap();
    pair.init(Side::B, "v", pair.spec.volumes[0].id, pair.spec.capacity);
    pair.start_node(Side::B);
    pair.wait_volume(Side::B, "the witness's answer", |volume| {
        volume.witness.as_ref().is_some_and(|witness| witness.epoch.is_some())
    });
    let output = force(&pair, Side::B);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("empty"), "{said}");
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::A);
    check_files(&pair.mount(Side::A), "data");
    pair.check_trees_equal();
}

#[test]
fn both_nodes_notice_a_dead_witness_and_its_return() {
    let mut pair = Cluster::start(Spec::default());
    for alive in [false, true, false] {
        match alive {
            true => pair.start_witness(),
            false => pair.kill_witness(),
        }
        for side in Side::BOTH {
            let witness = pair.wait_volume(side, "the truth about the witness", |volume| {
                volume.witness.as_ref().is_some_and(|witness| witness.reachable == alive)
            });
            let error = witness.witness.and_then(|witness| witness.error);
            assert_eq!(error.is_none(), alive, "{error:?}");
            assert!(
                error.is_none_or(
                    |error| error.contains("cannot be reached") || error.contains("did not answer")
                )
            );
        }
    }
}

#[test]
fn a_partner_that_verify_found_different_does_not_take_over() {
    let mut pair = Cluster::start(Spec::default());
    write_files(&pair.mount(Side::A), "data");
    let config = pair.config(Side::A).display().to_string();
    // Both trees hold everything after that, and nothing writes over what is spoiled.
    let output = twinfiler(&["--config", &config, "verify", "v"]);
    assert!(output.status.success(), "{output:?}");
    std::fs::write(pair.base(Side::B).join("data7"), "spoiled").unwrap();
    let output = twinfiler(&["--config", &config, "verify", "v"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    pair.wait_volume(Side::B, "a partner that is not eligible", |volume| !volume.eligible);
    // A repair says which way it goes, and goes nowhere unasked.
    let output = twinfiler(&["--config", &config, "verify", "v", "--repair"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(64) && said.contains("what differs on b is replaced by what a"),
        "{said}"
    );
    pair.kill(Side::A);
    let volume = does_not_serve(&mut pair, Side::B);
    assert!(volume.detail.contains("differ"), "{}", volume.detail);
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::A);
    let output = twinfiler(&["--config", &config, "verify", "v", "--repair", "--yes"]);
    assert!(output.status.success(), "{output:?}");
    pair.wait_volume(Side::B, "an eligible partner", |volume| volume.eligible);
    pair.check_trees_equal();
}
