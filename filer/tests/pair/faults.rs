//! States in which somebody must act are faults: in status, with what to do, in the metrics, and in the log.

use crate::harness::{ANSWER_LIMIT, Cluster, Side, Spec, within};
use admin_api::control::{Answer, Request};
use admin_api::status::{Fault, FaultKind, Mode, Role, VolumeStatus};
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn fault(volume: &VolumeStatus, kind: FaultKind) -> Option<&Fault> {
    volume.faults.iter().find(|fault| fault.kind == kind)
}

pub fn wait_fault(pair: &mut Cluster, side: Side, kind: FaultKind) -> Fault {
    let volume = pair.wait_volume(side, kind.as_str(), |volume| fault(volume, kind).is_some());
    let found = fault(&volume, kind).expect("it was waited for").clone();
    let log = fs::read_to_string(pair.output(side)).unwrap();
    let logged = log.lines().any(|line| line.contains("ERROR") && line.contains(&found.what));
    assert!(logged, "{found:?} in the log of {}", side.name());
    found
}

/// It is over, and the log says so.
pub fn wait_over(pair: &mut Cluster, side: Side, kind: FaultKind) {
    pair.wait_volume(side, "the fault is over", |volume| fault(volume, kind).is_none());
    assert!(fs::read_to_string(pair.output(side)).unwrap().contains("fault is over"));
}

fn takeover(pair: &Cluster, side: Side) {
    let forced = pair.ask(side, &Request::Takeover { volume: "v".to_owned(), force: true });
    assert_eq!(forced, Ok(Answer::Done));
}

fn write_on(pair: &Cluster, side: Side, name: &'static str) {
    let path = pair.mount(side).join(name);
    within(ANSWER_LIMIT, "a client", move || fs::write(path, name).unwrap());
}

#[test]
fn a_frozen_volume_and_a_split_are_faults() {
    let mut pair = Cluster::start(Spec { witness: false, ..Spec::default() });
    pair.kill(Side::A);
    let frozen = wait_fault(&mut pair, Side::B, FaultKind::Frozen);
    assert!(frozen.remedy.contains("takeover VOLUME --force"), "{frozen:?}");
    takeover(&pair, Side::B);
    pair.wait_serving(Side::B);
    wait_over(&mut pair, Side::B, FaultKind::Frozen);
    write_on(&pair, Side::B, "theirs");
    pair.kill(Side::B);
    pair.start_node(Side::A);
    pair.wait_volume(Side::A, "waiting", |volume| volume.role == Role::None);
    takeover(&pair, Side::A);
    pair.wait_serving(Side::A);
    write_on(&pair, Side::A, "ours");
    pair.start_node(Side::B);
    for side in Side::BOTH {
        let split = wait_fault(&mut pair, side, FaultKind::Split);
        assert!(split.remedy.contains("split show"), "{split:?}");
    }
    assert_eq!(
        pair.ask(Side::B, &Request::SplitDiscard { volume: "v".to_owned(), here: true }),
        Ok(Answer::Done)
    );
    pair.wait_mirrored();
    for side in Side::BOTH {
        wait_over(&mut pair, side, FaultKind::Split);
    }
}

#[test]
fn a_hook_that_fails_is_a_fault() {
    let place = tempfile::tempdir().unwrap();
    let script = place.path().join("hook");
    fs::write(&script, "#!/bin/sh\necho no such cluster; exit 3\n").unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let hooks = format!("[volume.hooks]\non_primary = [\"{}\"]\n", script.display());
    let mut pair = Cluster::start(Spec { more: [hooks.clone(), hooks], ..Spec::default() });
    let failed = wait_fault(&mut pair, Side::A, FaultKind::Hook);
    assert!(failed.what.contains("on_primary") && failed.what.contains("no such cluster"), "{failed:?}");
    assert_eq!(pair.volume(Side::B).unwrap().faults, [], "it did not run there");
    assert!(pair.terminate(Side::A).success());
    wait_fault(&mut pair, Side::B, FaultKind::Hook);
}

#[test]
fn a_full_volume_is_a_fault_until_there_is_room() {
    let mut pair = Cluster::start(Spec { disk_mib: [Some(64), Some(96)], ..Spec::default() });
    let mount = pair.mount(Side::A);
    let fill = mount.clone();
    within(ANSWER_LIMIT, "a client fills the volume", move || {
        let full =
            (0..64).find_map(|number| fs::write(fill.join(format!("f{number}")), vec![7; 1 << 20]).err());
        assert_eq!(full.and_then(|error| error.raw_os_error()), Some(28), "ENOSPC");
    });
    let full = wait_fault(&mut pair, Side::A, FaultKind::VolumeFull);
    assert!(full.what.contains("of this node"), "{full:?}");
    assert_eq!(pair.volume(Side::A).unwrap().mode, Mode::Mirrored);
    within(ANSWER_LIMIT, "a client makes room", move || {
        (0..16).for_each(|number| fs::remove_file(mount.join(format!("f{number}"))).unwrap());
    });
    wait_over(&mut pair, Side::A, FaultKind::VolumeFull);
}
