//! A partner whose log cannot bring it up to date gets the primary's tree, and is as good as any partner then.

use crate::faults::{wait_fault, wait_over};
use crate::harness::{ANSWER_LIMIT, Cluster, Frozen, Load, Side, Spec, check_all, twinfiler, within};
use admin_api::control::{Answer, Request};
use admin_api::status::{FaultKind, Mode, ResyncSide, ResyncStatus, Role, VolumeStatus};
use std::os::unix::fs::FileExt;
use std::path::Path;

const CAPACITY_BYTES: u64 = 2 << 20;

fn small_log() -> Spec {
    Spec { capacity: "2MiB", ..Spec::default() }
}

/// So slow that a test can step in.
fn slow() -> Spec {
    let rate = || "[volume.resync]\nmin_rate = \"1MiB\"\nmax_rate = \"1MiB\"\n".to_owned();
    Spec { more: [rate(), rate()], ..small_log() }
}

/// Waits until everything that was in the primary's log has been overwritten.
fn go_once_around(pair: &mut Cluster) {
    let volume = pair.wait_mode(Side::A, Mode::Solo);
    let left = volume.cursors.unwrap().reserved().0;
    let scratch = pair.mount(Side::A).join("scratch");
    for _ in 0..4 {
        std::fs::write(&scratch, vec![1; CAPACITY_BYTES as usize / 2]).unwrap();
    }
    std::fs::remove_file(scratch).unwrap();
    pair.wait_volume(Side::A, "a log that went once around", |volume| {
        volume.cursors.is_some_and(|cursors| cursors.trimmed().0 > left + CAPACITY_BYTES)
    });
    let applied = pair.ask(Side::A, &Request::ConsistencyPoint { volume: "v".to_owned() });
    assert!(matches!(applied, Ok(Answer::ConsistencyPoint(_))), "{applied:?}");
}

fn sent_bytes(pair: &Cluster, side: Side) -> u64 {
    pair.volume(side).unwrap().transport.resync_sent_bytes
}

fn receives(volume: &VolumeStatus) -> bool {
    volume
        .resync
        .as_ref()
        .is_some_and(|resync| resync.side == Some(ResyncSide::Receiving) && resync.bytes_done > 1 << 20)
}

fn write_files(root: &Path, count: usize, len_bytes: usize) {
    std::fs::create_dir(root).unwrap();
    for number in 0..count {
        let bytes: Vec<u8> = (0..len_bytes).map(|at| (at * 7 + number * 13) as u8).collect();
        std::fs::write(root.join(format!("file{number}")), bytes).unwrap();
    }
}

#[test]
fn a_partner_away_for_longer_than_the_log_reaches_comes_back_under_load() {
    let mut pair = Cluster::start(small_log());
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    load.wait_for(20);
    pair.kill(Side::B);
    go_once_around(&mut pair);
    pair.start_node(Side::B);
    assert_eq!(pair.wait_mirrored(), Side::A);
    load.wait_for(50);
    let outcomes = load.finish();
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()), "{outcomes:?}");
    check_all(&pair.mount(Side::A), &outcomes);
    pair.check_trees_equal();
    // As good as any partner: it takes over, and has everything.
    pair.wait_volume(Side::B, "an eligible partner", |volume| volume.eligible);
    pair.kill(Side::A);
    pair.wait_serving(Side::B);
    check_all(&pair.mount(Side::B), &outcomes);
}

#[test]
fn both_nodes_show_the_same_progress_and_it_never_goes_back() {
    const FILES: u64 = 1_000;
    let mut pair = Cluster::start(slow());
    pair.kill(Side::B);
    pair.wait_mode(Side::A, Mode::Solo);
    let mount = pair.mount(Side::A);
    write_files(&mount.join("small"), FILES as usize, 100);
    write_files(&mount.join("large"), 1, 2 << 20);
    let sparse = std::fs::File::create(mount.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(&[7; 100_000], 32 << 20).unwrap();
    go_once_around(&mut pair);
    pair.start_node(Side::B);
    let (mut last, mut alike, mut estimated) = ([(0, 0); 2], false, false);
    pair.wait("a resync whose progress both nodes show alike", |pair| {
        let shown = Side::BOTH.map(|side| pair.volume(side).and_then(|volume| volume.resync));
        for resync in shown.iter().flatten().filter(|resync| resync.side.is_some()) {
            assert!(resync.objects_done <= resync.objects_total && resync.bytes_done <= resync.bytes_total);
            assert_ne!(resync.eta_s, Some(0), "{resync:?}");
        }
        let [Some(a), Some(b)] = &shown else {
            return pair.volume(Side::A).filter(|volume| alike && volume.mode == Mode::Mirrored);
        };
        if a.round == 0 || b.round == 0 {
            return None;
        }
        for (side, resync) in [a, b].into_iter().enumerate() {
            let done = (resync.objects_done, resync.bytes_done);
            assert!(done.0 >= last[side].0 && done.1 >= last[side].1, "{:?}, then {resync:?}", last[side]);
            last[side] = done;
        }
        estimated |= a.eta_s.is_some() && b.eta_s.is_some();
        let numbers = |resync: &ResyncStatus| (resync.objects_total, resync.bytes_total, resync.objects_done);
        alike |= numbers(a) == numbers(b) && a.objects_done > 0;
        // No hole counts, nor does what the filesystem allocates for 100 bytes.
        assert!(a.bytes_total < 4 << 20 && a.objects_total >= FILES, "{a:?}");
        None
    });
    assert!(estimated, "nobody said how long it takes");
    pair.check_trees_equal();
    for side in Side::BOTH {
        assert_eq!(pair.volume(side).unwrap().resync, None, "it is over on {}", side.name());
    }
}

#[test]
fn only_what_changed_is_sent() {
    const CHANGED_BYTES: u64 = 4 * (128 << 10);
    let mut pair = Cluster::start(small_log());
    let mount = pair.mount(Side::A);
    write_files(&mount.join("many"), 300, 3_000);
    write_files(&mount.join("large"), 1, 6 << 20);
    pair.check_trees_equal();
    pair.kill(Side::B);
    pair.wait_mode(Side::A, Mode::Solo);
    let large = std::fs::OpenOptions::new().write(true).open(mount.join("large/file0")).unwrap();
    for piece in 0..4 {
        large.write_all_at(&[0xee; 128 << 10], piece * (1 << 20)).unwrap();
    }
    std::fs::rename(mount.join("many/file7"), mount.join("renamed")).unwrap();
    std::fs::remove_file(mount.join("many/file8")).unwrap();
    go_once_around(&mut pair);
    pair.start_node(Side::B);
    assert_eq!(pair.wait_mirrored(), Side::A);
    pair.check_trees_equal();
    let sent = sent_bytes(&pair, Side::A);
    assert!((CHANGED_BYTES..CHANGED_BYTES * 11 / 10).contains(&sent), "{sent} bytes for {CHANGED_BYTES}");
}

#[test]
fn a_partner_whose_log_was_lost_is_compared_by_content() {
    let mut pair = Cluster::start(small_log());
    let mount = pair.mount(Side::A);
    write_files(&mount.join("files"), 50, 20_000);
    pair.check_trees_equal();
    pair.kill(Side::B);
    go_once_around(&mut pair);
    std::fs::remove_file(pair.log(Side::B)).unwrap();
    pair.init(Side::B, "v", "00112233445566778899aabbccddeeff", "2MiB");
    std::fs::write(pair.base(Side::B).join("files/file3"), "changed behind its back").unwrap();
    pair.start_node(Side::B);
    assert_eq!(pair.wait_mirrored(), Side::A);
    pair.check_trees_equal();
    assert!(sent_bytes(&pair, Side::A) < 100_000, "what was there was not sent again");
}

#[test]
fn an_adopted_tree_is_copied_to_an_empty_partner() {
    let mut pair = Cluster::prepare(small_log());
    let base = pair.base(Side::A);
    std::fs::remove_dir_all(&base).unwrap();
    std::fs::remove_file(pair.log(Side::A)).unwrap();
    std::fs::create_dir(&base).unwrap();
    write_files(&base.join("old"), 40, 5_000);
    std::fs::hard_link(base.join("old/file1"), base.join("second name")).unwrap();
    std::os::unix::fs::symlink("old/file2", base.join("link")).unwrap();
    pair.init_adopting(Side::A, "v", "00112233445566778899aabbccddeeff", "2MiB");
    for side in Side::BOTH {
        pair.start_node(side);
    }
    assert_eq!(pair.wait_mirrored(), Side::A);
    std::fs::write(pair.mount(Side::A).join("old/file3"), "new").unwrap();
    pair.check_trees_equal();
    assert!(pair.base(Side::B).join("old/file39").exists());
}

/// Leaves a pair whose partner has begun to receive 8 MiB, slowly.
fn in_the_middle() -> Cluster {
    let mut pair = Cluster::start(slow());
    pair.kill(Side::B);
    pair.wait_mode(Side::A, Mode::Solo);
    write_files(&pair.mount(Side::A).join("files"), 64, 128 << 10);
    go_once_around(&mut pair);
    pair.start_node(Side::B);
    pair.wait_volume(Side::B, "a resync under way", receives);
    pair
}

#[test]
fn a_receiver_killed_in_the_middle_goes_on_and_serves_nobody_before() {
    let mut pair = in_the_middle();
    let volume = pair.volume(Side::B).unwrap();
    assert!(volume.mode == Mode::NeedsResync && !volume.eligible, "{volume:?}");
    let forced = pair.ask(Side::B, &Request::Takeover { volume: "v".to_owned(), force: true });
    assert!(!matches!(forced, Ok(Answer::Done)), "{forced:?}");
    pair.kill(Side::B);
    let before = sent_bytes(&pair, Side::A);
    pair.start_node(Side::B);
    assert_eq!(pair.wait_mirrored(), Side::A);
    pair.check_trees_equal();
    let after = sent_bytes(&pair, Side::A);
    assert!(after < 9 << 20, "what had arrived was not sent again: {before} bytes, then {after}");
}

#[test]
fn a_source_killed_in_the_middle_comes_back_and_goes_on() {
    let mut pair = in_the_middle();
    pair.kill(Side::A);
    // The only good node is gone: the other one waits, whatever happens.
    std::thread::sleep(std::time::Duration::from_secs(4));
    let volume = pair.volume(Side::B).unwrap();
    assert!(volume.role == Role::None && volume.mounted_at.is_none() && !volume.eligible, "{volume:?}");
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::A);
    pair.check_trees_equal();
}

#[test]
fn a_receiver_killed_again_and_again_under_load_loses_nothing() {
    let mut pair = in_the_middle();
    let load = Load::start(&pair.mount(Side::A), "c", 2);
    for _ in 0..3 {
        load.wait_for(30);
        pair.kill(Side::B);
        pair.start_node(Side::B);
        pair.wait_volume(Side::B, "a resync under way", |volume| {
            volume.resync.as_ref().is_some_and(|resync| resync.side == Some(ResyncSide::Receiving))
                || volume.mode == Mode::Mirrored
        });
    }
    assert_eq!(pair.wait_mirrored(), Side::A);
    let outcomes = load.finish();
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()), "{outcomes:?}");
    check_all(&pair.mount(Side::A), &outcomes);
    pair.check_trees_equal();
}

fn resync(pair: &Cluster, side: Side) -> (i32, String) {
    let config = pair.config(side).display().to_string();
    let output = twinfiler(&["--config", &config, "resync", "v"]);
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn last_error(volume: &VolumeStatus) -> Option<String> {
    volume.resync.as_ref()?.error.clone()
}

/// What no label shows is found by content; clients notice nothing.
#[test]
fn a_resync_that_the_operator_wants_compares_everything_by_content() {
    let mut pair = Cluster::start(slow());
    let mount = pair.mount(Side::A);
    // So much that it is still under way when it is asked for again.
    write_files(&mount.join("files"), 150, 128 << 10);
    pair.check_trees_equal();
    let damaged =
        std::fs::OpenOptions::new().write(true).open(pair.base(Side::B).join("files/file7")).unwrap();
    let modified = damaged.metadata().unwrap().modified().unwrap();
    damaged.write_all_at(b"behind its back", 1000).unwrap();
    damaged.set_modified(modified).unwrap();
    assert_eq!(crate::verify::run_on(&pair, Side::A, &[], 1).differing, 1);
    // Also by a node that was not there when it was found.
    assert!(pair.terminate(Side::B).success());
    pair.start_node(Side::B);
    assert_eq!(pair.wait_mirrored(), Side::A);
    Side::BOTH.iter().for_each(|side| drop(wait_fault(&mut pair, *side, FaultKind::TreesDiffer)));
    let (code, said) = resync(&pair, Side::A);
    assert!(code == 75 && said.contains("is primary"), "{code}: {said}");
    let (code, said) = resync(&pair, Side::B);
    assert_eq!(code, 0, "{said}");
    // At its first moment nobody knows the pace.
    let estimated = |volume: &VolumeStatus| volume.resync.as_ref().is_some_and(|told| told.eta_s.is_some());
    let volume = pair.wait_volume(Side::B, "a resync under way, and how long it takes", |volume| {
        receives(volume) && estimated(volume)
    });
    assert!(!volume.eligible && volume.mode == Mode::NeedsResync, "{volume:?}");
    assert!(
        volume.detail.contains("operator asked") && volume.detail.contains("not take over"),
        "{}",
        volume.detail
    );
    let (code, said) = resync(&pair, Side::B);
    assert!(code == 75 && said.contains("under way"), "{code}: {said}");
    // Clients go on meanwhile.
    std::fs::write(mount.join("meanwhile"), "answered").unwrap();
    assert_eq!(pair.wait_mirrored(), Side::A);
    pair.check_trees_equal();
    let sent = sent_bytes(&pair, Side::A);
    assert!((100_000..1 << 20).contains(&sent), "what was the same was not sent again: {sent} bytes");
    Side::BOTH.iter().for_each(|side| wait_over(&mut pair, *side, FaultKind::TreesDiffer));
    pair.wait_volume(Side::B, "an eligible partner", |volume| volume.eligible);
}

/// A label that changes behind the comparison is found by the sum at the end, and then nothing is believed.
#[test]
fn labels_that_do_not_sum_up_are_found_and_everything_is_compared_again() {
    let mut pair = Cluster::start(slow());
    write_files(&pair.mount(Side::A).join("before"), 3, 1000);
    pair.check_trees_equal();
    pair.kill(Side::B);
    pair.wait_mode(Side::A, Mode::Solo);
    write_files(&pair.mount(Side::A).join("files"), 64, 128 << 10);
    go_once_around(&mut pair);
    pair.start_node(Side::B);
    pair.wait_volume(Side::B, "a resync under way", receives);
    // Compared already; now its label names another last change, and nobody was told.
    let (victim, name) = (pair.base(Side::B).join("before/file1"), apply_engine::base::LABEL_XATTR);
    let mut label = [0; apply_engine::base::LABEL_BYTES];
    rustix::fs::getxattr(&victim, name, &mut label[..]).unwrap();
    label[40..48].copy_from_slice(&64_u64.to_le_bytes());
    rustix::fs::setxattr(&victim, name, &label, rustix::fs::XattrFlags::empty()).unwrap();
    let told = pair.wait_volume(Side::B, "the reason", |volume| {
        last_error(volume).is_some_and(|error| error.contains("other labels"))
    });
    assert!(!told.eligible);
    assert_eq!(pair.wait_mirrored(), Side::A);
    pair.check_trees_equal();
}

#[test]
fn a_receiver_without_room_says_what_it_needs_and_goes_on_when_there_is() {
    let mut pair = Cluster::start(Spec { disk_mib: [Some(256), Some(96)], ..small_log() });
    pair.kill(Side::B);
    pair.wait_mode(Side::A, Mode::Solo);
    write_files(&pair.mount(Side::A).join("files"), 40, 512 << 10);
    go_once_around(&mut pair);
    let ballast = pair.disk_path(Side::B).join("ballast");
    std::fs::write(&ballast, vec![1; 66 << 20]).unwrap();
    pair.start_node(Side::B);
    let told = pair.wait_volume(Side::B, "the reason", |volume| last_error(volume).is_some());
    let error = last_error(&told).unwrap();
    assert!(error.contains("make room") && error.contains("needs 2"), "{error}");
    // Of this alone, and while it is tried again and again.
    let fault = wait_fault(&mut pair, Side::B, FaultKind::ResyncFails);
    assert!(fault.what.contains("make room"), "{fault:?}");
    for _ in 0..100 {
        let kinds: Vec<_> = pair.volume(Side::B).unwrap().faults.iter().map(|fault| fault.kind).collect();
        assert_eq!(kinds, [FaultKind::ResyncFails]);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(!pair.base(Side::B).join("files").exists(), "nothing was begun");
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(pair.wait_mirrored(), Side::A);
    pair.check_trees_equal();
}

/// Somebody else takes the room while the contents come.
#[test]
fn a_disk_that_fills_up_in_the_middle_stops_the_resync_until_there_is_room() {
    let slow = slow();
    let mut pair = Cluster::start(Spec { disk_mib: [Some(256), Some(96)], ..slow });
    pair.kill(Side::B);
    pair.wait_mode(Side::A, Mode::Solo);
    write_files(&pair.mount(Side::A).join("files"), 16, 512 << 10);
    go_once_around(&mut pair);
    pair.start_node(Side::B);
    pair.wait_volume(Side::B, "a resync under way", receives);
    let ballast = pair.disk_path(Side::B).join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    for len in [1 << 20, 4 << 10] {
        while std::io::Write::write_all(&mut file, &vec![1; len]).is_ok() {}
    }
    let _nothing_left = file.sync_all();
    drop(file);
    let told = pair.wait_volume(Side::B, "the reason", |volume| {
        last_error(volume).is_some_and(|error| error.contains("space") || error.contains("make room"))
    });
    assert!(!told.eligible && told.mode == Mode::NeedsResync, "{told:?}");
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(pair.wait_mirrored(), Side::A);
    pair.check_trees_equal();
}

#[test]
fn a_link_cut_in_the_middle_costs_a_comparison_and_nothing_else() {
    let mut pair = in_the_middle();
    // Stopped for so long that the primary gives the link up.
    for _ in 0..2 {
        pair.signal(Side::B, rustix::process::Signal::STOP);
        std::thread::sleep(std::time::Duration::from_secs(10));
        pair.signal(Side::B, rustix::process::Signal::CONT);
        pair.wait_volume(Side::B, "a resync under way, or its end", |volume| {
            volume.mode == Mode::Mirrored || receives(volume)
        });
    }
    assert_eq!(pair.wait_mirrored(), Side::A);
    pair.check_trees_equal();
    let sent = sent_bytes(&pair, Side::A);
    assert!(sent < 9 << 20, "what had arrived was not sent again: {sent} bytes");
}

/// Leaves a pair whose partner has got all of the tree, and does not join: its disk hangs just before.
fn all_but_joined() -> (Cluster, Frozen) {
    let Spec { capacity, more, .. } = slow();
    let more = more.map(|text| text + "[volume.link]\ndead_peer_timeout = \"1600ms\"\n");
    let mut pair = Cluster::start(Spec { disk_mib: [None, Some(256)], capacity, more, ..Spec::default() });
    for attempt in 0..8 {
        pair.kill(Side::B);
        pair.wait_mode(Side::A, Mode::Solo);
        write_files(&pair.mount(Side::A).join(format!("files{attempt}")), 16, 128 << 10);
        go_once_around(&mut pair);
        pair.start_node(Side::B);
        pair.wait_volume(Side::B, "a resync under way", receives);
        let slow = pair.disk(Side::B).as_ref().unwrap().crawl();
        // The last that it does is to flush its tree.
        let all_sent = pair.wait_volume(Side::A, "the end of what is sent", |volume| {
            volume.resync.as_ref().is_none_or(|resync| resync.side.is_none())
        });
        let hung = slow.hang();
        let there = pair.volume(Side::B).unwrap();
        let alone = |volume: Option<VolumeStatus>| volume.is_some_and(|volume| volume.mode == Mode::Solo);
        let receives = there.resync.is_some_and(|resync| resync.side == Some(ResyncSide::Receiving));
        if receives && alone(Some(all_sent)) && alone(pair.volume(Side::A)) {
            return (pair, hung);
        }
        // It was quicker.
        drop(hung);
        pair.wait_mirrored();
    }
    panic!("it joins before it is met between two steps, however slow its disk is");
}

/// The log is held for it, from which clients need room.
#[test]
fn clients_go_on_while_a_receiver_does_not_join() {
    for stopped in [false, true] {
        let (mut pair, hung) = all_but_joined();
        if stopped {
            pair.signal(Side::B, rustix::process::Signal::STOP);
        }
        let scratch = pair.mount(Side::A).join("scratch");
        for round in 0..8 {
            let scratch = scratch.clone();
            within(ANSWER_LIMIT, &format!("half a log, round {round}"), move || {
                std::fs::write(scratch, vec![round; CAPACITY_BYTES as usize / 2]).unwrap();
            });
        }
        if stopped {
            pair.signal(Side::B, rustix::process::Signal::CONT);
        }
        drop(hung);
        assert_eq!(pair.wait_mirrored(), Side::A);
        pair.check_trees_equal();
    }
}

#[test]
fn what_compresses_is_compressed_when_that_is_configured() {
    let compress = || "[volume.resync]\ncompress = \"always\"\n".to_owned();
    let mut pair = Cluster::start(Spec { more: [compress(), compress()], ..small_log() });
    pair.kill(Side::B);
    pair.wait_mode(Side::A, Mode::Solo);
    let text = "all work and no play makes Jack a dull boy\n".repeat(20_000);
    std::fs::create_dir(pair.mount(Side::A).join("text")).unwrap();
    for number in 0..8 {
        std::fs::write(pair.mount(Side::A).join(format!("text/{number}")), &text).unwrap();
    }
    go_once_around(&mut pair);
    pair.start_node(Side::B);
    assert_eq!(pair.wait_mirrored(), Side::A);
    pair.check_trees_equal();
    let transport = pair.volume(Side::A).unwrap().transport;
    let content = 8 * text.len() as u64;
    assert!(transport.resync_sent_bytes >= content, "{transport:?}");
    assert!(transport.resync_sent_wire_bytes < content / 10, "{transport:?}");
}

/// More objects than are installed as one: names come in parts, what moves between them waits.
#[test]
fn a_first_copy_of_very_many_objects_comes_in_parts() {
    let mut pair = Cluster::prepare(Spec { capacity: "8MiB", ..Spec::default() });
    let base = pair.base(Side::A);
    std::fs::remove_dir_all(&base).unwrap();
    std::fs::remove_file(pair.log(Side::A)).unwrap();
    std::fs::create_dir(&base).unwrap();
    for directory in 0..20 {
        let at = base.join(format!("d{directory}/deeper"));
        std::fs::create_dir_all(&at).unwrap();
        for file in 0..500 {
            std::fs::write(at.join(format!("f{file}")), format!("{directory} {file}")).unwrap();
        }
        std::fs::hard_link(at.join("f7"), base.join(format!("linked{directory}"))).unwrap();
    }
    pair.init_adopting(Side::A, "v", "00112233445566778899aabbccddeeff", "8MiB");
    for side in Side::BOTH {
        pair.start_node(side);
    }
    assert_eq!(pair.wait_mirrored(), Side::A);
    pair.check_trees_equal();
    let waiting = pair.base(Side::B).join(".twinfiler/orphans").read_dir().unwrap().count();
    assert_eq!(waiting, 0, "nothing waits for its place any more");
}

/// More names than the source tells of one directory at once: they come in parts.
#[test]
fn a_directory_of_very_many_names_comes_in_parts() {
    const FILES: usize = 20;
    const NAMES: usize = 3_500;
    let mut pair = Cluster::prepare(Spec { capacity: "16MiB", ..Spec::default() });
    let base = pair.base(Side::A);
    std::fs::remove_dir_all(&base).unwrap();
    std::fs::remove_file(pair.log(Side::A)).unwrap();
    std::fs::create_dir_all(base.join("many")).unwrap();
    for file in 0..FILES {
        let first = base.join(format!("file{file}"));
        std::fs::write(&first, format!("{file}")).unwrap();
        for name in 0..NAMES {
            std::fs::hard_link(&first, base.join(format!("many/{file}-{name}"))).unwrap();
        }
    }
    const { assert!(FILES * NAMES > apply_engine::resync::ENTRIES_AT_ONCE) };
    pair.init_adopting(Side::A, "v", "00112233445566778899aabbccddeeff", "16MiB");
    for side in Side::BOTH {
        pair.start_node(side);
    }
    assert_eq!(pair.wait_mirrored(), Side::A);
    pair.check_trees_equal();
    // Nobody knows any more what is the same: all of it is compared again, in parts too.
    pair.kill(Side::B);
    for name in 0..10 {
        std::fs::remove_file(pair.mount(Side::A).join(format!("many/3-{name}"))).unwrap();
    }
    std::fs::rename(pair.mount(Side::A).join("many/4-0"), pair.mount(Side::A).join("elsewhere")).unwrap();
    std::fs::remove_file(pair.log(Side::B)).unwrap();
    std::fs::remove_dir_all(pair.base(Side::B)).unwrap();
    std::fs::create_dir(pair.base(Side::B)).unwrap();
    pair.init(Side::B, "v", "00112233445566778899aabbccddeeff", "16MiB");
    pair.start_node(Side::B);
    pair.wait_mirrored();
    pair.check_trees_equal();
}
