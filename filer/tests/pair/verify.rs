//! What the two base trees hold: compared on demand, and after each consistency point.

use crate::harness::{Cluster, Load, Side, Spec, check_all, twinfiler};
use admin_api::control::{Answer, Request};
use admin_api::status::{Mode, VerifyFinding, VerifyResult, VolumeStatus};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

fn verify(pair: &Cluster, side: Side, more: &[&str]) -> Output {
    let config = pair.config(side).display().to_string();
    let mut arguments = vec!["--config", &config, "verify", "v"];
    arguments.extend(more);
    twinfiler(&arguments)
}

/// Runs it on node A, checks the exit code, and returns the result.
fn run(pair: &Cluster, more: &[&str], code: i32) -> VerifyResult {
    run_on(pair, Side::A, more, code)
}

pub fn run_on(pair: &Cluster, side: Side, more: &[&str], code: i32) -> VerifyResult {
    let output = verify(pair, side, more);
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{said}\n{}", pair.diagnosis());
    let result = pair.volume(side).unwrap().verify.unwrap().last.unwrap();
    for finding in &result.found {
        assert!(said.contains(&finding.what), "{said}");
    }
    result
}

fn applied(pair: &Cluster) {
    for side in Side::BOTH {
        let answer = pair.ask(side, &Request::ConsistencyPoint { volume: "v".to_owned() });
        assert!(matches!(answer, Ok(Answer::ConsistencyPoint(_))), "{answer:?}");
    }
}

fn write_tree(root: &Path) {
    std::fs::create_dir(root).unwrap();
    for name in ["content", "mode", "gone", "xattr", "moved"] {
        std::fs::write(root.join(name), name.repeat(3_000)).unwrap();
    }
    std::fs::write(root.join("large"), vec![7; (3 << 20) + 5]).unwrap();
    std::fs::create_dir(root.join("directory")).unwrap();
    rustix::fs::setxattr(root.join("xattr"), "user.k", b"value", rustix::fs::XattrFlags::empty()).unwrap();
}

/// Flips a bit and gives the file its times back: nothing but the content tells.
fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.set_times(std::fs::FileTimes::new().set_modified(modified)).unwrap();
}

fn names(found: &[VerifyFinding]) -> Vec<(&str, &str)> {
    let mut names: Vec<_> =
        found.iter().map(|finding| (finding.path.as_deref().unwrap_or("?"), finding.what.as_str())).collect();
    names.sort_unstable();
    names
}

fn has_fault(volume: &VolumeStatus, text: &str) -> bool {
    volume.faults.iter().any(|fault| fault.what.contains(text))
}

#[test]
fn a_healthy_pair_is_the_same_under_load() {
    let mut pair = Cluster::start(Spec::default());
    write_tree(&pair.mount(Side::A).join("tree"));
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(20);
    let until = Instant::now() + Duration::from_secs(12);
    let mut runs = 0;
    while Instant::now() < until || runs < 3 {
        let result = run(&pair, &[], 0);
        assert_eq!((result.differing, &result.error), (0, &None), "{result:?}");
        assert!(result.objects >= 8, "{result:?}");
        runs += 1;
    }
    load.wait_for(20);
    let outcomes = load.finish();
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()), "{outcomes:?}");
    check_all(&pair.mount(Side::A), &outcomes);
    for side in Side::BOTH {
        let volume = pair.volume(side).unwrap();
        assert!(volume.faults.is_empty() && volume.mode == Mode::Mirrored, "{:?}", volume.faults);
    }
    let metrics = pair.diagnosis();
    pair.check_trees_equal();
    assert!(runs >= 3, "{metrics}");
}

#[test]
fn what_was_changed_behind_the_partner_s_back_is_named_and_repaired() {
    let mut pair = Cluster::start(Spec::default());
    let mount = pair.mount(Side::A);
    write_tree(&mount.join("tree"));
    applied(&pair);
    assert_eq!(run(&pair, &[], 0).differing, 0);
    let base = pair.base(Side::B).join("tree");
    flip(&base.join("content"), 4_711);
    flip(&base.join("large"), 2 << 20);
    std::fs::set_permissions(base.join("mode"), std::fs::Permissions::from_mode(0o666)).unwrap();
    std::fs::remove_file(base.join("gone")).unwrap();
    rustix::fs::setxattr(base.join("xattr"), "user.k", b"other", rustix::fs::XattrFlags::empty()).unwrap();
    std::fs::write(base.join("directory/stranger"), "?").unwrap();
    let load = Load::start(&mount, "c", 1);
    load.wait_for(5);
    let result = run(&pair, &[], 1);
    let expected = [
        ("/tree", "attributes, names differ: \"gone\" on a"),
        ("/tree/content", "contents differ"),
        ("/tree/directory", "attributes, names differ: \"stranger\" on b, no object of the volume"),
        ("/tree/gone", "only on a"),
        ("/tree/large", "contents differ"),
        ("/tree/mode", "attributes differ"),
        ("/tree/xattr", "xattrs differ"),
    ];
    assert_eq!(names(&result.found), expected, "{result:?}");
    for side in Side::BOTH {
        let volume = pair.wait_volume(side, "the fault", |volume| has_fault(volume, "verify found"));
        assert!(has_fault(&volume, "/tree/content") && volume.mode == Mode::Mirrored, "{:?}", volume.faults);
        let base = pair.base(side).display().to_string();
        let told = |words: &[&str]| {
            volume.faults.iter().any(|fault| words.iter().all(|word| fault.remedy.contains(word)))
        };
        // Whose clients read, where both can be seen, and which command keeps which side.
        assert!(told(&["what a holds, the primary", "nobody but you", &base]), "{:?}", volume.faults);
        assert!(told(&["gives b its objects", "`twinfiler switchover v` first"]), "{:?}", volume.faults);
    }
    let repaired = run(&pair, &["--repair", "--yes"], 0);
    assert_eq!((repaired.differing, repaired.repaired), (0, 7), "{repaired:?}");
    for side in Side::BOTH {
        pair.wait_volume(side, "no fault", |volume| volume.faults.is_empty());
    }
    assert_eq!(pair.wait_mirrored(), Side::A);
    load.wait_for(5);
    let outcomes = load.finish();
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()), "{outcomes:?}");
    check_all(&mount, &outcomes);
    pair.check_trees_equal();
    pair.wait_volume(Side::B, "an eligible partner", |volume| volume.eligible);
}

#[test]
fn what_was_changed_behind_the_primary_s_back_is_named_and_the_partner_s_can_be_kept() {
    let mut pair = Cluster::start(Spec::default());
    write_tree(&pair.mount(Side::A).join("tree"));
    applied(&pair);
    flip(&pair.base(Side::A).join("tree/content"), 9);
    let result = run(&pair, &["--max-rate", "100MiB"], 1);
    assert_eq!(names(&result.found), [("/tree/content", "contents differ")]);
    // The partner's is right: it serves, and then this node gets what it holds.
    let moved = pair.ask(Side::A, &Request::Switchover { volume: "v".to_owned(), timeout_ms: 30_000 });
    assert_eq!(moved, Ok(Answer::Done));
    pair.wait_serving(Side::B);
    assert_eq!(pair.wait_mirrored(), Side::B);
    let refused = verify(&pair, Side::A, &[]);
    assert_eq!(refused.status.code(), Some(75), "only the primary compares");
    let repaired = verify(&pair, Side::B, &["--repair", "--yes"]);
    assert_eq!(repaired.status.code(), Some(0), "{repaired:?}\n{}", pair.diagnosis());
    assert_eq!(pair.wait_mirrored(), Side::B);
    pair.check_trees_equal();
    let kept = std::fs::read(pair.base(Side::A).join("tree/content")).unwrap();
    assert_eq!(kept, "content".repeat(3_000).into_bytes());
}

#[test]
fn a_tree_that_went_wrong_is_told_at_once_and_its_node_does_not_take_over() {
    let mut pair = Cluster::start(Spec::default());
    let mount = pair.mount(Side::A);
    std::fs::write(mount.join("before"), "all is well").unwrap();
    std::fs::write(mount.join("victim"), vec![4; 10_000]).unwrap();
    applied(&pair);
    // Two points of the same records, so that what follows is compared.
    for turn in 0..3 {
        std::fs::write(mount.join("before"), format!("all is well {turn}")).unwrap();
        std::thread::sleep(Duration::from_millis(700));
    }
    // As if a consistency point had gone wrong there; the next one that touches it reads it back.
    let wrong = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(pair.base(Side::B).join("victim"), wrong).unwrap();
    std::fs::write(mount.join("victim"), vec![5; 10_000]).unwrap();
    for side in Side::BOTH {
        pair.wait_volume(side, "a fault that names the object", |volume| {
            has_fault(volume, "the base trees of the two nodes differ: /victim")
        });
    }
    pair.wait_volume(Side::B, "a partner that is not eligible", |volume| !volume.eligible);
    // Clients have lost nothing, and read what they wrote.
    assert_eq!(std::fs::read(mount.join("victim")).unwrap(), vec![5; 10_000]);
    pair.kill(Side::A);
    std::thread::sleep(Duration::from_secs(5));
    let volume = pair.volume(Side::B).unwrap();
    assert!(volume.mounted_at.is_none() && volume.detail.contains("differ"), "{volume:?}");
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::A);
    let repaired = run(&pair, &["--repair", "--yes"], 0);
    assert_eq!((repaired.differing, repaired.repaired), (0, 1), "{repaired:?}");
    pair.wait_volume(Side::B, "an eligible partner", |volume| volume.eligible && volume.faults.is_empty());
    pair.check_trees_equal();
}

#[test]
fn an_object_touched_after_it_was_changed_behind_our_back_is_told_and_not_spread() {
    let mut pair = Cluster::start(Spec::default());
    let mount = pair.mount(Side::A);
    for turn in 0..3 {
        std::fs::write(mount.join("file"), format!("{turn}")).unwrap();
        std::thread::sleep(Duration::from_millis(700));
    }
    std::fs::set_permissions(pair.base(Side::B).join("file"), std::fs::Permissions::from_mode(0o600))
        .unwrap();
    let before = std::fs::metadata(mount.join("file")).unwrap().permissions().mode();
    std::fs::OpenOptions::new()
        .append(true)
        .open(mount.join("file"))
        .unwrap()
        .write_all_at(b"more", 1)
        .unwrap();
    for side in Side::BOTH {
        pair.wait_volume(side, "a fault that names the object", |volume| {
            has_fault(volume, "the base trees of the two nodes differ: /file")
        });
    }
    assert_eq!(std::fs::metadata(mount.join("file")).unwrap().permissions().mode(), before);
    assert_eq!(std::fs::metadata(pair.base(Side::A).join("file")).unwrap().permissions().mode(), before);
    assert_eq!(run(&pair, &["--repair", "--yes"], 0).repaired, 1);
    pair.check_trees_equal();
}

/// Somebody works in the base of a node that is down: first of the partner, then of the one that was primary.
#[test]
fn what_was_changed_while_a_node_was_down_is_named_not_spread_and_repaired() {
    let mut pair = Cluster::start(Spec::default());
    write_tree(&pair.mount(Side::A).join("tree"));
    pair.check_trees_equal();
    for (down, primary) in [(Side::B, Side::A), (Side::A, Side::B)] {
        // The first leaves in order; the second leaves its index as a dead process does.
        if down == Side::B {
            assert!(pair.terminate(down).success());
        } else {
            pair.kill(down);
        }
        pair.wait_serving(primary);
        let base = pair.base(down).join("tree");
        flip(&base.join("content"), 4_711);
        std::fs::remove_file(base.join("gone")).unwrap();
        std::fs::write(base.join("directory/stranger"), "?").unwrap();
        std::fs::write(pair.mount(primary).join("meanwhile"), down.name()).unwrap();
        pair.start_node(down);
        assert_eq!(pair.wait_mirrored(), primary);
        let result = run_on(&pair, primary, &[], 1);
        let [here, there] = [primary.name(), down.name()];
        let directory = format!("attributes, names differ: \"stranger\" on {there}, no object of the volume");
        let (gone_from, gone) =
            (format!("attributes, names differ: \"gone\" on {here}"), format!("only on {here}"));
        let expected = [
            ("/tree", gone_from.as_str()),
            ("/tree/content", "contents differ"),
            ("/tree/directory", directory.as_str()),
            ("/tree/gone", gone.as_str()),
        ];
        assert_eq!(names(&result.found), expected, "{result:?}");
        for side in Side::BOTH {
            pair.wait_volume(side, "the fault", |volume| has_fault(volume, "/tree/content"));
        }
        // Nothing of it has come to the other node, nor to clients.
        let other = pair.base(primary).join("tree");
        assert_eq!(std::fs::read(other.join("content")).unwrap(), "content".repeat(3_000).into_bytes());
        assert!(other.join("gone").exists() && !other.join("directory/stranger").exists());
        let mount = pair.mount(primary).join("tree");
        assert_eq!(std::fs::read(mount.join("gone")).unwrap(), "gone".repeat(3_000).into_bytes());
        assert_eq!(std::fs::read_dir(mount.join("directory")).unwrap().count(), 0);
        let repaired = run_on(&pair, primary, &["--repair", "--yes"], 0);
        assert_eq!((repaired.differing, repaired.repaired), (0, 4), "{repaired:?}");
        for side in Side::BOTH {
            pair.wait_volume(side, "no fault", |volume| {
                !has_fault(volume, "verify found") && !has_fault(volume, "base trees")
            });
        }
        pair.check_trees_equal();
    }
}
