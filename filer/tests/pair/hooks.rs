//! What runs when the role changes, and what status tells of it.

use crate::harness::{Cluster, Side, Spec};
use admin_api::status::Role;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_hook_inherits_nothing_that_is_open() {
    let place = tempfile::tempdir().unwrap();
    let (script, record) = (place.path().join("hook"), place.path().join("record"));
    let text = format!(
        "#!/bin/sh\nfor f in /proc/$$/fd/*; do readlink $f; done > {0}.new; mv {0}.new {0}\n",
        record.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let hook = format!("[volume.hooks]\non_primary = [\"{}\"]\n", script.display());
    let mut pair = Cluster::start(Spec { more: [hook, String::new()], ..Spec::default() });
    let open = pair.wait("the hook", |_| std::fs::read_to_string(&record).ok());
    let own = |line: &&str| {
        *line == "/dev/null"
            || line.starts_with("pipe:")
            || line.starts_with(&*place.path().to_string_lossy())
    };
    let strange: Vec<&str> = open.lines().filter(|line| !own(line)).collect();
    assert!(strange.is_empty(), "{strange:?} of\n{open}");
}

#[test]
fn hooks_run_on_each_change_of_role() {
    let place = tempfile::tempdir().unwrap();
    let (script, record) = (place.path().join("hook"), place.path().join("record"));
    let text = format!(
        "#!/bin/sh\necho \"$1 $TWINFILER_VOLUME $TWINFILER_ROLE $TWINFILER_EPOCH\" >> {}\n",
        record.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let hooks = |side: &str| {
        format!(
            "[volume.hooks]\non_primary = [\"{0}\", \"{side}-up\"]\non_demote = [\"{0}\", \"{side}-down\"]\n",
            script.display()
        )
    };
    let mut pair = Cluster::start(Spec { more: [hooks("a"), hooks("b")], ..Spec::default() });
    let lines = || std::fs::read_to_string(&record).unwrap_or_default();
    let first = pair.wait("the first hook", |_| Some(lines()).filter(|lines| !lines.is_empty()));
    let epoch = pair.volume(Side::A).unwrap().epoch;
    assert_eq!(first, format!("a-up v primary {epoch}\n"));
    assert!(pair.terminate(Side::A).success());
    pair.wait_serving(Side::B);
    pair.wait("both hooks of the hand-over", |_| {
        let lines = lines();
        (lines.contains("a-down v partner") && lines.contains("b-up v primary ")).then_some(())
    });
    let volume = pair.volume(Side::B).unwrap();
    assert_eq!(volume.role, Role::Primary);
    assert!(
        volume.hooks.iter().any(|hook| hook.hook == "on_primary" && hook.succeeded),
        "{:?}",
        volume.hooks
    );
    let takeover = volume.last_takeover.expect("status tells how it went");
    assert_eq!(takeover.reason, "switchover");
    assert!(lines().contains(&format!("b-up v primary {}", takeover.epoch)), "{}", lines());
}
