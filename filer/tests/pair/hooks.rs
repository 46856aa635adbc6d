//! What runs when the role changes, and what status tells of it.

use crate::harness::{Cluster, Disk, Interface, Side, Spec};
use admin_api::control::{Answer, Request};
use admin_api::status::{FaultKind, Role};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// An executable script.
fn script(at: &Path, text: &str) {
    std::fs::write(at, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(at, PermissionsExt::from_mode(0o755)).unwrap();
}

fn switch_over(pair: &Cluster) {
    let wish = Request::Switchover { volume: "v".to_owned(), timeout_ms: 30_000 };
    assert_eq!(pair.ask(Side::A, &wish), Ok(Answer::Done), "{}", pair.diagnosis());
}

#[test]
fn a_hook_inherits_nothing_that_is_open() {
    let place = tempfile::tempdir().unwrap();
    let (hook, record) = (place.path().join("hook"), place.path().join("record"));
    let text = "for f in /proc/$$/fd/*; do readlink $f; done";
    script(&hook, &format!("{text} > {0}.new; mv {0}.new {0}", record.display()));
    let hook = format!("[volume.hooks]\non_primary = [\"{}\"]\n", hook.display());
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
    let (hook, record) = (place.path().join("hook"), place.path().join("record"));
    let text = "echo \"$1 $TWINFILER_VOLUME $TWINFILER_ROLE $TWINFILER_EPOCH\"";
    script(&hook, &format!("{text} >> {}", record.display()));
    let hooks = |side: &str| {
        format!(
            "[volume.hooks]\non_primary = [\"{0}\", \"{side}-up\"]\non_demote = [\"{0}\", \"{side}-down\"]\n",
            hook.display()
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

/// Were they held up, the partner would have the address as well.
#[test]
fn address_and_mount_leave_a_node_whose_hook_still_runs() {
    const ADDRESS: &str = "192.0.2.17/24";
    let place = tempfile::tempdir().unwrap();
    let interface = Interface::new("twh");
    let [hook, begun, ended, demoted] =
        ["hook", "begun", "ended", "demoted"].map(|name| place.path().join(name));
    let text =
        format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 20; touch {1}", begun.display(), ended.display());
    script(&hook, &text);
    let more = format!(
        "{}[volume.hooks]\non_primary = [\"{}\"]\non_demote = [\"/bin/touch\", \"{}\"]\ntime_limit = \"30s\"\n",
        interface.carries(ADDRESS),
        hook.display(),
        demoted.display()
    );
    let mut pair = Cluster::start(Spec { more: [more, String::new()], ..Spec::default() });
    let process = pair.wait("the hook", |_| std::fs::read_to_string(&begun).ok());
    assert!(interface.has(ADDRESS));
    switch_over(&pair);
    pair.wait("neither address nor mount", |pair| {
        let mounted = pair.volume(Side::A).is_none_or(|volume| volume.mounted_at.is_some());
        (!mounted && !interface.has(ADDRESS)).then_some(())
    });
    assert!(!ended.exists(), "they have waited for the hook");
    pair.wait("on_demote", |_| demoted.exists().then_some(()));
    assert!(!ended.exists(), "on_demote has waited for a hook of a role that is over");
    assert!(!Path::new("/proc").join(process.trim()).exists(), "the hook has been ended");
    let volume = pair.wait_volume(Side::A, "both in its status", |volume| volume.hooks.len() == 2);
    let first = &volume.hooks[0];
    assert!(!first.succeeded && first.outcome.contains("role has changed again"), "{:?}", volume.hooks);
    assert!(volume.faults.iter().all(|fault| fault.kind != FaultKind::Hook), "{:?}", volume.faults);
}

/// Not even SIGKILL ends what waits for a disk.
#[test]
fn a_hook_that_nothing_ends_holds_nobody_up() {
    let place = tempfile::tempdir().unwrap();
    let [image, disk, hook, begun] = ["image", "disk", "hook", "begun"].map(|name| place.path().join(name));
    std::fs::create_dir(&disk).unwrap();
    let filesystem = Disk::make("ext4", &[], &image, 32, &disk);
    let frozen = filesystem.freeze();
    script(&hook, &format!("touch {}; echo > {}/file", begun.display(), disk.display()));
    let hooks = format!("[volume.hooks]\non_primary = [\"{}\"]\n", hook.display());
    let mut pair = Cluster::start(Spec { more: [hooks, String::new()], ..Spec::default() });
    pair.wait("the hook", |_| begun.exists().then_some(()));
    switch_over(&pair);
    pair.wait_serving(Side::B);
    pair.wait_volume(Side::A, "no mount", |volume| volume.mounted_at.is_none());
    assert!(pair.terminate(Side::A).success(), "a clean stop waits for it no longer than for others");
    drop(frozen);
}
