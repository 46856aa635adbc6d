//! Both nodes acknowledged what the other lacks: shown, settled by the operator, and nothing of it is lost.

use crate::harness::{ANSWER_LIMIT, Cluster, Side, Spec, twinfiler, within};
use admin_api::control::{Answer, Request};
use admin_api::status::{Mode, Role, SplitReport};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

fn takeover(pair: &Cluster, side: Side) {
    let forced = pair.ask(side, &Request::Takeover { volume: "v".to_owned(), force: true });
    assert_eq!(forced, Ok(Answer::Done));
}

fn consistency_point(pair: &Cluster, side: Side) {
    let applied = pair.ask(side, &Request::ConsistencyPoint { volume: "v".to_owned() });
    assert!(matches!(applied, Ok(Answer::ConsistencyPoint(_))), "{applied:?}");
}

/// Does something on a node's mount that may block.
fn on(pair: &Cluster, side: Side, what: impl FnOnce(PathBuf) + Send + 'static) {
    let mount = pair.mount(side);
    within(ANSWER_LIMIT, "clients of one side", move || what(mount));
}

fn run(pair: &Cluster, side: Side, arguments: &[&str]) -> (i32, String, String) {
    let config = pair.config(side).display().to_string();
    let output = twinfiler(&[&["--config", &config], arguments].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn shown(pair: &Cluster, side: Side) -> SplitReport {
    let (code, out, err) = run(pair, side, &["split", "show", "v", "--json"]);
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

/// Whole salvages of a node, by default where its base is.
fn salvages(pair: &Cluster, side: Side) -> Vec<PathBuf> {
    let Ok(found) = std::fs::read_dir(pair.base(side).join(".twinfiler/salvage")) else { return Vec::new() };
    let mut found: Vec<PathBuf> = found.map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn spec() -> Spec {
    Spec { witness: false, ..Spec::default() }
}

/// Leaves a pair in which B, alone, did `theirs`, died, and A, alone, did `ours`, and serves. B is down.
fn part(
    spec: Spec,
    before: impl FnOnce(PathBuf) + Send + 'static,
    theirs: impl FnOnce(PathBuf) + Send + 'static,
    ours: impl FnOnce(PathBuf) + Send + 'static,
) -> Cluster {
    let mut pair = Cluster::start(spec);
    on(&pair, Side::A, before);
    pair.check_trees_equal();
    pair.kill(Side::A);
    pair.wait_mode(Side::B, Mode::Frozen);
    takeover(&pair, Side::B);
    pair.wait_serving(Side::B);
    on(&pair, Side::B, theirs);
    pair.kill(Side::B);
    pair.start_node(Side::A);
    pair.wait_volume(Side::A, "waiting", |volume| volume.role == Role::None);
    takeover(&pair, Side::A);
    pair.wait_serving(Side::A);
    on(&pair, Side::A, ours);
    pair
}

fn paths(report: &admin_api::status::SplitSide) -> Vec<&str> {
    report.changed.iter().map(|object| object.path.as_str()).collect()
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story from its beginning to its end")]
fn both_sides_of_a_split_are_shown_and_the_discarded_one_is_kept_aside() {
    let mut pair = part(
        spec(),
        |mount| {
            std::fs::create_dir(mount.join("dir")).unwrap();
            for name in ["common", "dir/gone", "dir/kept", "untouched"] {
                std::fs::write(mount.join(name), format!("{name} before")).unwrap();
            }
        },
        |mount| {
            std::fs::write(mount.join("on-b"), vec![7; 300_000]).unwrap();
            std::fs::write(mount.join("common"), "common as of b").unwrap();
            std::fs::create_dir_all(mount.join("dir/new/deep")).unwrap();
            std::fs::write(mount.join("dir/new/deep/file"), "deep").unwrap();
            std::fs::set_permissions(mount.join("dir/kept"), PermissionsExt::from_mode(0o640)).unwrap();
            rustix::fs::setxattr(mount.join("dir/kept"), "user.k", b"v", rustix::fs::XattrFlags::empty())
                .unwrap();
            std::fs::hard_link(mount.join("on-b"), mount.join("second name")).unwrap();
            symlink("on-b", mount.join("link")).unwrap();
            std::fs::remove_file(mount.join("dir/gone")).unwrap();
        },
        |mount| {
            std::fs::write(mount.join("on-a"), "only here").unwrap();
            std::fs::write(mount.join("common"), "common as of a").unwrap();
        },
    );
    pair.start_node(Side::B);
    let b = pair.wait_volume(Side::B, "a split", |volume| volume.mode == Mode::Split);
    assert!(!b.eligible && b.detail.contains("split show"), "{}", b.detail);
    pair.wait_volume(Side::A, "a split", |volume| volume.detail.contains("split discard"));

    for side in Side::BOTH {
        let report = shown(&pair, side);
        assert!(report.common_end.is_some() && report.there_error.is_none(), "{report:?}");
        let there = report.there.as_ref().unwrap();
        let (a, b) = if side == Side::A { (&report.here, there) } else { (there, &report.here) };
        assert!(a.serves && !b.serves);
        for path in ["on-b", "common", "dir/new/deep/file", "dir/kept", "second name", "link"] {
            assert!(paths(b).contains(&path), "{path} of b, seen from {side:?}: {b:?}");
        }
        assert!(paths(a).contains(&"on-a") && paths(a).contains(&"common"), "{a:?}");
        for (report, path) in [(a, "on-b"), (b, "on-a"), (a, "untouched"), (b, "untouched")] {
            assert!(!paths(report).contains(&path), "{path}: {report:?}");
        }
        assert_eq!((b.removed.as_slice(), b.removed_names), (&["dir/gone".to_owned()][..], 1));
        assert!(b.removed_is_all, "its log holds all that it did alone");
        let both: Vec<&str> = [a, b]
            .iter()
            .flat_map(|side| &side.changed)
            .filter(|o| o.on_both_sides)
            .map(|o| o.path.as_str())
            .collect();
        assert_eq!(both, ["common", "common"], "{report:?}");
    }
    let (_, page, _) = run(&pair, Side::A, &["split", "show", "v"]);
    assert!(page.lines().any(|line| line.starts_with("! file") && line.ends_with("  common")), "{page}");
    let (_, few, _) = run(&pair, Side::A, &["split", "show", "v", "--limit", "1"]);
    assert!(few.contains("more (--limit)"), "{few}");

    // Nothing happens by itself, nor to the side that serves, nor unasked.
    let (code, _, said) = run(&pair, Side::A, &["split", "discard", "a", "--yes"]);
    assert!(code == 75 && said.contains("serves clients"), "{code}: {said}");
    let (code, _, said) = run(&pair, Side::A, &["split", "discard", "b"]);
    assert!(code == 64 && said.contains("--yes"), "{code}: {said}");
    let (code, _, said) = run(&pair, Side::B, &["resync", "v"]);
    assert!(code == 75 && said.contains("split discard"), "{code}: {said}");
    assert!(salvages(&pair, Side::B).is_empty());

    // From the other node, and without the volume's name.
    let (code, said, why) = run(&pair, Side::A, &["split", "discard", "b", "--yes"]);
    assert!(code == 0 && why.contains("salvage"), "{said}{why}");
    assert_eq!(pair.wait_mirrored(), Side::A);
    pair.check_trees_equal();

    // One side is served, the other is in the salvage directory.
    let mount = pair.mount(Side::A);
    assert_eq!(std::fs::read_to_string(mount.join("on-a")).unwrap(), "only here");
    assert_eq!(std::fs::read_to_string(mount.join("common")).unwrap(), "common as of a");
    assert!(mount.join("dir/gone").exists() && !mount.join("on-b").exists());
    let found = salvages(&pair, Side::B);
    let [salvage] = found.as_slice() else { panic!("{found:?}") };
    let tree = salvage.join("tree");
    assert_eq!(std::fs::read(tree.join("on-b")).unwrap(), vec![7; 300_000]);
    assert_eq!(std::fs::read_to_string(tree.join("common")).unwrap(), "common as of b");
    assert_eq!(std::fs::read_to_string(tree.join("dir/new/deep/file")).unwrap(), "deep");
    let inode = |name: &str| std::fs::metadata(tree.join(name)).unwrap().ino();
    assert_eq!(inode("on-b"), inode("second name"), "hard links stay");
    assert_eq!(std::fs::read_link(tree.join("link")).unwrap(), PathBuf::from("on-b"));
    let kept = std::fs::metadata(tree.join("dir/kept")).unwrap();
    assert_eq!(kept.mode() & 0o7777, 0o640);
    let mut value = [0; 8];
    let len = rustix::fs::getxattr(tree.join("dir/kept"), "user.k", &mut value[..]).unwrap();
    assert_eq!(&value[..len], b"v");
    assert!(!tree.join("untouched").exists() && !tree.join("on-a").exists());
    assert_eq!(std::fs::read_to_string(salvage.join("removed")).unwrap(), "dir/gone\n");
    let about = std::fs::read_to_string(salvage.join("about")).unwrap();
    assert!(about.contains("node b"), "{about}");
    let volume = pair.volume(Side::B).unwrap();
    assert_eq!(volume.salvaged, Some(salvage.display().to_string()));
    // As good as any partner of a pair without a witness: who takes over is an operator's word.
    assert!(volume.mode == Mode::Mirrored && !volume.eligible, "{volume:?}");
}

/// Consistency points have let go of the records that said what was removed.
#[test]
fn a_split_says_where_a_log_no_longer_tells_what_was_removed() {
    let mut pair = part(
        spec(),
        |mount| {
            for name in ["gone", "old name"] {
                std::fs::write(mount.join(name), name).unwrap();
            }
        },
        |mount| {
            std::fs::remove_file(mount.join("gone")).unwrap();
            std::fs::rename(mount.join("old name"), mount.join("new name")).unwrap();
        },
        |mount| std::fs::write(mount.join("old name"), "changed here").unwrap(),
    );
    pair.start_node(Side::B);
    pair.wait_volume(Side::B, "a split", |volume| volume.mode == Mode::Split);
    // As long as its log tells: what is gone, what has another name, and what both have changed, seen from either side.
    for side in Side::BOTH {
        let report = shown(&pair, side);
        let there = report.there.as_ref().unwrap();
        let (a, b) = if side == Side::A { (&report.here, there) } else { (there, &report.here) };
        assert_eq!(
            (b.removed.as_slice(), b.removed_is_all),
            (&["gone", "old name"].map(str::to_owned)[..], true)
        );
        let marked = |side: &admin_api::status::SplitSide, path: &str| {
            side.changed.iter().any(|object| object.path == path && object.on_both_sides)
        };
        assert!(marked(b, "new name") && marked(a, "old name"), "{report:?}");
    }
    // It serves, applies, and trims.
    takeover(&pair, Side::B);
    pair.wait_serving(Side::B);
    consistency_point(&pair, Side::B);
    pair.wait_volume(Side::A, "a split", |volume| volume.mode == Mode::Split);
    let told = shown(&pair, Side::A).there.unwrap();
    assert!(!told.removed_is_all, "{told:?}");
    let (_, page, _) = run(&pair, Side::A, &["split", "show", "v"]);
    let b = page.lines().find(|line| line.starts_with("b (serves clients)")).unwrap_or_default();
    assert!(b.contains("its log tells no more") && !b.contains("0 names removed"), "{page}");
}

/// The other choice: the side that waited serves, and the one that served gives up its own.
#[test]
fn the_side_that_serves_can_be_discarded_after_the_other_was_forced() {
    let mut pair = part(
        spec(),
        |_| {},
        |mount| std::fs::write(mount.join("on-b"), "b").unwrap(),
        |mount| std::fs::write(mount.join("on-a"), "a").unwrap(),
    );
    consistency_point(&pair, Side::A);
    pair.start_node(Side::B);
    pair.wait_volume(Side::B, "a split", |volume| volume.mode == Mode::Split);
    takeover(&pair, Side::B);
    pair.wait_serving(Side::B);
    pair.wait_volume(Side::A, "a split", |volume| volume.mode == Mode::Split);
    let (code, _, why) = run(&pair, Side::A, &["split", "discard", "a", "v", "--yes"]);
    assert_eq!(code, 0, "{why}");
    assert_eq!(pair.wait_mirrored(), Side::B);
    pair.check_trees_equal();
    assert_eq!(std::fs::read_to_string(pair.mount(Side::B).join("on-b")).unwrap(), "b");
    let found = salvages(&pair, Side::A);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(std::fs::read_to_string(found[0].join("tree/on-a")).unwrap(), "a");
}

/// Neither side serves: the register says that A was alone, and A has heard from B that B was too.
#[test]
fn a_split_whose_sides_both_wait_is_shown_and_settled() {
    let mut pair = Cluster::start(Spec::default());
    on(&pair, Side::A, |mount| std::fs::write(mount.join("before"), "both have it").unwrap());
    pair.check_trees_equal();
    pair.kill(Side::B);
    pair.wait_mode(Side::A, Mode::Solo);
    on(&pair, Side::A, |mount| std::fs::write(mount.join("on-a"), "a").unwrap());
    pair.kill(Side::A);
    pair.start_node(Side::B);
    pair.wait_mode(Side::B, Mode::Outdated);
    // The witness never hears of what the operator forces.
    pair.kill_witness();
    takeover(&pair, Side::B);
    pair.wait_serving(Side::B);
    on(&pair, Side::B, |mount| std::fs::write(mount.join("on-b"), "b").unwrap());
    pair.start_node(Side::A);
    pair.wait_mode(Side::A, Mode::Split);
    for side in Side::BOTH {
        pair.kill(side);
    }
    pair.start_witness();
    for side in Side::BOTH {
        pair.start_node(side);
    }
    for side in Side::BOTH {
        let volume = pair.wait_mode(side, Mode::Split);
        assert!(volume.role == Role::None && volume.detail.contains("split show"), "{volume:?}");
    }
    for side in Side::BOTH {
        let report = shown(&pair, side);
        assert!(report.common_end.is_some() && report.there_error.is_none(), "{report:?}");
        let there = report.there.as_ref().unwrap();
        let (a, b) = if side == Side::A { (&report.here, there) } else { (there, &report.here) };
        assert!(!a.serves && !b.serves, "{report:?}");
        assert!(paths(a).contains(&"on-a") && !paths(a).contains(&"on-b"), "{a:?}");
        assert!(paths(b).contains(&"on-b") && !paths(b).contains(&"on-a"), "{b:?}");
    }
    // What was answered to the operator holds: a node that stood still gives up nothing when it goes on.
    pair.signal(Side::B, rustix::process::Signal::STOP);
    let (code, _, why) = run(&pair, Side::A, &["split", "discard", "b", "--yes"]);
    assert!(code != 0 && why.contains("does not answer"), "{code} {why}");
    pair.signal(Side::B, rustix::process::Signal::CONT);
    pair.wait("both linked again", |pair| shown(pair, Side::A).there_error.is_none().then_some(()));
    assert_eq!(pair.volume(Side::B).unwrap().mode, Mode::Split);
    let (code, _, why) = run(&pair, Side::A, &["split", "discard", "b", "--yes"]);
    assert_eq!(code, 0, "{why}");
    // Nobody knows of a primary: that the other side is the right one is said by making it serve.
    pair.wait_mode(Side::B, Mode::NeedsResync);
    assert!(salvages(&pair, Side::B).is_empty(), "nothing changes before a primary is there");
    takeover(&pair, Side::A);
    assert_eq!(pair.wait_mirrored(), Side::A);
    pair.check_trees_equal();
    let mount = pair.mount(Side::A);
    assert_eq!(std::fs::read_to_string(mount.join("on-a")).unwrap(), "a");
    assert!(mount.join("before").exists() && !mount.join("on-b").exists());
    let found = salvages(&pair, Side::B);
    let [salvage] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(std::fs::read_to_string(salvage.join("tree/on-b")).unwrap(), "b");
}

#[test]
fn a_node_killed_while_it_keeps_its_side_aside_begins_that_again() {
    const FILES: usize = 24;
    let content = |number: usize| vec![number as u8 + 1; 1 << 20];
    let mut pair = part(
        spec(),
        |_| {},
        move |mount| {
            for number in 0..FILES {
                std::fs::write(mount.join(format!("f{number}")), content(number)).unwrap();
            }
        },
        |mount| std::fs::write(mount.join("on-a"), "a").unwrap(),
    );
    pair.start_node(Side::B);
    pair.wait_volume(Side::B, "a split", |volume| volume.mode == Mode::Split);
    let (code, _, why) = run(&pair, Side::B, &["split", "discard", "b", "--yes"]);
    assert_eq!(code, 0, "{why}");
    for _ in 0..3 {
        // The first look at which something is there: most likely it is not whole.
        pair.wait("a salvage", |pair| salvages(pair, Side::B).first().cloned());
        pair.kill(Side::B);
        pair.start_node(Side::B);
    }
    assert_eq!(pair.wait_mirrored(), Side::A);
    pair.check_trees_equal();
    let found = salvages(&pair, Side::B);
    assert!(!found.is_empty() && found.iter().all(|path| path.extension().is_none()), "{found:?}");
    for number in 0..FILES {
        let name = format!("tree/f{number}");
        let kept = found.iter().find_map(|salvage| std::fs::read(salvage.join(&name)).ok());
        assert!(kept == Some(content(number)), "{name} is in none of {found:?}, or not whole");
    }
}

#[test]
fn without_room_for_what_it_holds_a_side_is_not_given_up() {
    let disks = [Some(256), Some(160)];
    let mut pair = part(
        Spec { disk_mib: disks, ..spec() },
        |_| {},
        |mount| std::fs::write(mount.join("on-b"), vec![3; 20 << 20]).unwrap(),
        |mount| std::fs::write(mount.join("on-a"), "a").unwrap(),
    );
    let ballast = pair.disk_path(Side::B).join("ballast");
    std::fs::write(&ballast, vec![1; 60 << 20]).unwrap();
    pair.start_node(Side::B);
    pair.wait_volume(Side::B, "a split", |volume| volume.mode == Mode::Split);
    let (code, _, why) = run(&pair, Side::B, &["split", "discard", "b", "--yes"]);
    assert_eq!(code, 0, "{why}");
    let told = pair.wait_volume(Side::B, "the reason", |volume| {
        volume.resync.as_ref().and_then(|resync| resync.error.as_ref()).is_some()
    });
    let error = told.resync.unwrap().error.unwrap();
    assert!(error.contains("make room") && error.contains("salvage"), "{error}");
    // Nothing was touched; the operator may still choose this side.
    assert!(salvages(&pair, Side::B).iter().all(|path| path.extension().is_some()));
    assert!(!pair.base(Side::B).join("on-a").exists());
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(pair.wait_mirrored(), Side::A);
    pair.check_trees_equal();
    let found = salvages(&pair, Side::B);
    assert_eq!(std::fs::read(found[0].join("tree/on-b")).unwrap(), vec![3; 20 << 20]);
}
