//! Equal trees are equal however they came about, and whatever is changed behind our back is named.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use ids::{Lsn, Oid, VolumeId};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::part::part;
use super::{Applied, Finding, Key, PIECE_BYTES, Part, applied, compare, differing, object};
use crate::base::Base;
use crate::base::tests::{FILESYSTEMS, Image};
use crate::consistency::apply_to;
use crate::delta::{Delta, RecordPosition, Vanished};
use crate::oracle::{Generator, MemoryLog, Step};
use crate::resync::site::Site;
use crate::resync::tests::real::{fill, site};
use crate::simulation::{Refusing, SimDisk};
use crate::tree::Tree;
use crate::view::BaseReader;

/// All parts of two trees; both sides cut where they like.
fn findings(ours: &impl Site, theirs: &impl Site, max_bytes: u64) -> Vec<(Oid, Finding)> {
    let (mut found, mut from) = (std::collections::BTreeMap::new(), Some(Key::FIRST));
    while let Some(key) = from {
        let one = part(ours, key, 5, max_bytes).expect("walks");
        let other = part(theirs, key, 5, max_bytes).expect("walks");
        let compared = compare(&one, &other);
        found.extend(compared.found);
        assert!(compared.next.is_none_or(|next| next > key), "a walk that does not move");
        from = compared.next;
    }
    found.into_iter().collect()
}

fn delta_of(steps: &[(RecordPosition, Step)], vanished: Vanished) -> Delta {
    let mut delta = Delta::new(steps.first().map_or(Lsn::ZERO, |(at, _)| at.lsn), vanished);
    steps.iter().for_each(|(at, step)| delta.absorb(*at, &step.operation()));
    delta
}

fn apply(tree: &impl Site, delta: &Delta) -> Applied {
    apply_to(tree, delta).expect("nothing fails");
    applied::applied(tree, delta)
}

/// One node applies in other steps than its partner, crashes in between, and applies again; maybe its disk refuses some.
fn the_same_digests(seed: u64, before: usize, count: usize, cut: usize, refusing: Option<Refusing>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let log = Arc::new(MemoryLog::default());
    let mut generator = Generator::new(seed);
    let mut steps = |count: usize| -> Vec<(RecordPosition, Step)> {
        generator.steps(count).into_iter().map(|step| (log.append(&step), step)).collect()
    };
    let (first, second) = (steps(before), steps(count));
    let (straight, crashing) = (SimDisk::new().tree(log.clone()), SimDisk::new().tree(log.clone()));
    crashing.set_refusing(refusing);
    let (early, late) = first.split_at(cut.min(first.len()));
    apply_to(&straight, &delta_of(&first, Vanished::Forget)).expect("nothing fails");
    apply_to(&crashing, &delta_of(early, Vanished::Forget)).expect("nothing fails");
    apply_to(&crashing, &delta_of(late, Vanished::Forget)).expect("nothing fails");
    crashing.sync();
    assert!(findings(&straight, &crashing, 1).is_empty());

    let ours = apply(&straight, &delta_of(&second, Vanished::Forget));
    crashing.crash_after(rng.random_range(0..count * 4));
    let _cut_off = apply_to(&crashing, &delta_of(&second, Vanished::Forget));
    crashing.restart(&mut rng, 0.5);
    let theirs = apply(&crashing, &delta_of(&second, Vanished::Keep));
    assert_eq!(&ours, &theirs);
    assert!(findings(&straight, &crashing, 100_000).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn the_same_records_give_the_same_digests(seed: u64, before in 0..60usize, count in 1..60usize, cut in 0..60usize) {
        the_same_digests(seed, before, count, cut, None);
    }

    /// What one node's disk refuses is no difference.
    #[test]
    fn what_one_disk_refuses_is_no_difference(
        seed: u64, before in 0..60usize, count in 1..60usize, cut in 0..60usize, one_in in 2..10u64,
    ) {
        the_same_digests(seed, before, count, cut, Some(Refusing { seed, one_in }));
    }

    /// A consistency point that leaves out, or does wrong, what one object should get is told from a right one.
    #[test]
    fn an_apply_fault_is_seen_and_named(seed: u64, before in 1..40usize, count in 1..40usize) {
        let log = Arc::new(MemoryLog::default());
        let mut generator = Generator::new(seed);
        let mut steps = |count: usize| -> Vec<(RecordPosition, Step)> {
            generator.steps(count).into_iter().map(|step| (log.append(&step), step)).collect()
        };
        let (first, second) = (steps(before), steps(count));
        let (right, wrong) = (SimDisk::new().tree(log.clone()), SimDisk::new().tree(log.clone()));
        for tree in [&right, &wrong] {
            apply_to(tree, &delta_of(&first, Vanished::Forget)).expect("nothing fails");
        }
        let delta = delta_of(&second, Vanished::Forget);
        let ours = apply(&right, &delta);
        apply_to(&wrong, &delta).expect("nothing fails");
        let alive: Vec<Oid> = ours.objects.iter().map(|(oid, _)| *oid).collect();
        prop_assume!(!alive.is_empty());
        let victim = alive[seed as usize % alive.len()];
        let mode = wrong.attributes(victim).expect("is there").label.mode;
        wrong.set_owner(victim, 4711, 4712).expect("nothing fails");
        wrong.set_mode(victim, mode).expect("nothing fails");
        let theirs = applied::applied(&wrong, &delta);
        prop_assert_ne!(ours.digest, theirs.digest);
        prop_assert_eq!(differing(&ours.objects, &theirs.objects), vec![victim]);
        prop_assert_eq!(findings(&right, &wrong, 1 << 20), vec![(victim, Finding::Differs)]);
    }

    #[test]
    fn a_comparison_goes_on_where_the_shorter_part_ends(
        ours in proptest::collection::btree_map(1..40_u64, 1..3_u64, 0..20),
        theirs in proptest::collection::btree_map(1..40_u64, 1..3_u64, 0..20),
        one_end in proptest::option::of(1..40_u64),
        other_end in proptest::option::of(1..40_u64),
    ) {
        let key = |oid: u64| Key { oid: Oid(oid), piece: 0 };
        let part = |all: &std::collections::BTreeMap<u64, u64>, end: Option<u64>| Part {
            seen: all.iter().filter(|(oid, _)| end.is_none_or(|end| **oid < end))
                .map(|(oid, digest)| (key(*oid), *digest)).collect(),
            next: end.map(key),
            read_bytes: 0,
        };
        let compared = compare(&part(&ours, one_end), &part(&theirs, other_end));
        let end = one_end.unwrap_or(99).min(other_end.unwrap_or(99));
        prop_assert_eq!(compared.next, (end < 99).then(|| key(end)));
        for oid in 1..40 {
            let (one, other) = (ours.get(&oid), theirs.get(&oid));
            let expected = match (one, other) {
                _ if oid >= end => None,
                (Some(_), None) => Some(Finding::OnlyHere),
                (None, Some(_)) => Some(Finding::OnlyThere),
                (one, other) => (one != other).then_some(Finding::Differs),
            };
            prop_assert_eq!(compared.found.get(&Oid(oid)).copied(), expected);
        }
    }
}

/// So many objects that only some are looked at: the same ones on both sides, whatever each remembers of what vanished.
#[test]
fn of_many_objects_both_sides_look_at_the_same_ones() {
    for seed in 0..4 {
        let log = Arc::new(MemoryLog::default());
        let mut generator = Generator::new(seed);
        let steps: Vec<(RecordPosition, Step)> =
            generator.steps(3_000).into_iter().map(|step| (log.append(&step), step)).collect();
        let trees = [SimDisk::new().tree(log.clone()), SimDisk::new().tree(log.clone())];
        let ours = apply(&trees[0], &delta_of(&steps, Vanished::Forget));
        let theirs = apply(&trees[1], &delta_of(&steps, Vanished::Keep));
        assert_eq!(ours, theirs);
        let objects = generator.model().nodes.len();
        assert!(objects > 256, "{objects} are not many");
        assert!((8..objects / 2).contains(&ours.objects.len()), "{} of {objects}", ours.objects.len());
        // A fault that hits everything is seen.
        for (oid, _) in &ours.objects {
            trees[1].set_owner(*oid, 4711, 4712).expect("nothing fails");
        }
        let spoilt = applied::applied(&trees[1], &delta_of(&steps, Vanished::Keep));
        assert_ne!(ours.digest, spoilt.digest);
    }
}

const VOLUME: VolumeId = VolumeId([8; 16]);

fn oid_of(path: &Path) -> Oid {
    let mut label = [0; crate::base::LABEL_BYTES];
    rustix::fs::lgetxattr(path, crate::base::LABEL_XATTR, &mut label[..]).expect("a label");
    crate::base::Label::decode(&label).expect("a good label").oid
}

/// Flips one bit, and gives the file the times it had.
fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("opens");
    let before = file.metadata().expect("stats");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("reads");
    file.write_all_at(&[byte[0] ^ 4], at).expect("writes");
    let times = std::fs::FileTimes::new().set_modified(before.modified().expect("has a time"));
    file.set_times(times).expect("sets the time");
}

#[test]
fn what_is_changed_behind_our_back_is_found_on_real_filesystems() {
    for filesystem in FILESYSTEMS {
        let image = Image::new(filesystem);
        let roots = [image.directory("a"), image.directory("b")];
        let bases = roots.clone().map(|root| {
            fill(&root);
            std::fs::write(root.join("large"), vec![9; 3 * PIECE_BYTES as usize + 5]).expect("writes");
            std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755))
                .expect("changes the mode");
            // Written separately: only a copy keeps the times.
            for name in
                ["a", "a/b", "a/b/c", "a/b/c/empty", "a/one", "sparse", "large", "pipe", "null", "a/link"]
            {
                let at = rustix::fs::Timespec { tv_sec: 77, tv_nsec: 5 };
                let times = rustix::fs::Timestamps { last_access: at, last_modification: at };
                let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(rustix::fs::CWD, root.join(name), &times, flags).expect("sets times");
            }
            Base::adopt(&root, VOLUME).expect("adopts").0
        });
        let found = || findings(&site(&bases[0]), &site(&bases[1]), 2 * PIECE_BYTES);
        assert_eq!(found(), vec![], "{filesystem}: equal trees");

        let root = &roots[1];
        let oid = |name: &str| oid_of(&roots[0].join(name));
        let aspect = |oid: Oid| {
            let [one, other] = bases.each_ref().map(|base| object::aspects(&site(base), oid).expect("reads"));
            let (one, other) = (one.expect("is there").0, other.expect("is there").0);
            one.differences(&other).join(" ")
        };
        flip(&root.join("a/one"), 123_456);
        assert_eq!(found(), vec![(oid("a/one"), Finding::Differs)], "{filesystem}");
        assert_eq!(aspect(oid("a/one")), "contents", "{filesystem}");
        flip(&root.join("a/one"), 123_456);

        flip(&root.join("large"), 2 * PIECE_BYTES + 17);
        assert_eq!(found(), vec![(oid("large"), Finding::Differs)], "{filesystem}: in a piece");
        flip(&root.join("large"), 2 * PIECE_BYTES + 17);

        rustix::fs::chmod(root.join("a/b"), 0o700.into()).expect("changes the mode");
        assert_eq!(aspect(oid("a/b")), "attributes", "{filesystem}");
        assert_eq!(found(), vec![(oid("a/b"), Finding::Differs)], "{filesystem}");
        rustix::fs::chmod(root.join("a/b"), 0o755.into()).expect("changes the mode");

        rustix::fs::setxattr(root.join("a"), "user.d", b"x", rustix::fs::XattrFlags::empty()).expect("sets");
        assert_eq!(aspect(oid("a")), "xattrs", "{filesystem}");
        rustix::fs::setxattr(root.join("a"), "user.d", b"", rustix::fs::XattrFlags::empty()).expect("sets");

        let keep = std::fs::metadata(root.join("a/b/c")).expect("stats").modified().expect("has a time");
        std::fs::write(root.join("a/b/c/stranger"), "?").expect("writes");
        std::fs::File::open(root.join("a/b/c"))
            .and_then(|dir| dir.set_modified(keep))
            .expect("sets the time");
        assert_eq!(found(), vec![(oid("a/b/c"), Finding::Differs)], "{filesystem}: added");
        assert_eq!(aspect(oid("a/b/c")), "names", "{filesystem}");
        std::fs::remove_file(root.join("a/b/c/stranger")).expect("removes");

        std::fs::remove_file(root.join("a/b/c/empty")).expect("removes");
        std::fs::File::open(root.join("a/b/c"))
            .and_then(|dir| dir.set_modified(keep))
            .expect("sets the time");
        let expected: BTreeSet<_> =
            [(oid("a/b/c"), Finding::Differs), (oid("a/b/c/empty"), Finding::OnlyHere)].into();
        assert_eq!(found().into_iter().collect::<BTreeSet<_>>(), expected, "{filesystem}: removed");
        let sought: BTreeSet<Oid> = [oid("a/b/c/empty"), oid("large")].into();
        let paths = super::paths(&bases[0], &sought).expect("walks");
        assert_eq!(paths[&oid("a/b/c/empty")], b"/a/b/c/empty", "{filesystem}");
        assert_eq!(paths[&oid("large")], b"/large", "{filesystem}");
    }
}

/// Adopts a tree with one file in it, which `write` fills.
fn with_file(image: &Image, name: &str, write: impl FnOnce(&std::fs::File)) -> (std::path::PathBuf, Base) {
    let root = image.directory(name);
    let path = root.join("file");
    let file = std::fs::File::create(&path).expect("creates");
    write(&file);
    file.sync_all().expect("flushes");
    file.set_modified(std::time::UNIX_EPOCH).expect("sets the time");
    std::fs::File::open(&root)
        .and_then(|root| root.set_modified(std::time::UNIX_EPOCH))
        .expect("sets the time");
    let base = Base::adopt(&root, VOLUME).expect("adopts").0;
    (path, base)
}

#[test]
fn a_hole_is_the_same_as_zeros_that_were_written() {
    // No multiple of a block or a piece; data begins and ends within blocks.
    let (len, data_at, data) = (9 * PIECE_BYTES + 1234, 5 * PIECE_BYTES + 777, [3; 9_000]);
    for filesystem in FILESYSTEMS {
        for (len, data_at) in [(len, data_at), (100_000, 50_001)] {
            let image = Image::new(filesystem);
            let (_, sparse) = with_file(&image, "a", |file| {
                file.set_len(len).expect("grows");
                file.write_all_at(&data, data_at).expect("writes");
            });
            let (path, full) = with_file(&image, "b", |file| {
                file.write_all_at(&vec![0; len as usize], 0).expect("writes");
                file.write_all_at(&data, data_at).expect("writes");
            });
            let blocks =
                [&sparse, &full].map(|base| base.attributes(oid_of(&path)).expect("reads").blocks_bytes);
            assert!(blocks[0] < len && len <= blocks[1], "{filesystem}: {blocks:?} of {len}");
            for (one, other) in [(&sparse, &full), (&full, &sparse)] {
                assert_eq!(findings(&site(one), &site(other), PIECE_BYTES), vec![], "{filesystem}");
            }
            for at in [0, data_at - 1, data_at + data.len() as u64, len - 1] {
                flip(&path, at);
                let expected = vec![(oid_of(&path), Finding::Differs)];
                assert_eq!(
                    findings(&site(&sparse), &site(&full), PIECE_BYTES),
                    expected,
                    "{filesystem}: {at}"
                );
                flip(&path, at);
            }
        }
    }
}

#[test]
fn terabytes_of_nothing_are_compared_without_being_read() {
    const LEN_BYTES: u64 = 3 << 40;
    for filesystem in FILESYSTEMS {
        let image = Image::new(filesystem);
        let bases = ["a", "b"].map(|name| {
            with_file(&image, name, |file| {
                file.set_len(LEN_BYTES).expect("grows");
                file.write_all_at(b"end", LEN_BYTES - 3).expect("writes");
            })
            .1
        });
        let [one, other] =
            bases.each_ref().map(|base| part(&site(base), Key::FIRST, 100, 1 << 20).expect("walks"));
        assert_eq!((&one, one.next), (&other, None), "{filesystem}: in one part");
        assert!(one.read_bytes <= 128 << 10, "{filesystem}: {} bytes read", one.read_bytes);
    }
}

#[test]
fn reading_everything_once_leaves_the_page_cache_as_it_was() {
    const LEN_BYTES: u64 = 4 * PIECE_BYTES;
    for filesystem in FILESYSTEMS {
        let image = Image::new(filesystem);
        let (path, base) = with_file(&image, "a", |file| {
            file.write_all_at(&vec![7; LEN_BYTES as usize], 0).expect("writes");
        });
        let file = std::fs::File::open(&path).expect("opens");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("drops");
        // Somebody uses the second piece.
        file.read_exact_at(&mut vec![0; PIECE_BYTES as usize], PIECE_BYTES).expect("reads");
        let cached = |piece: u64| {
            let at = piece * PIECE_BYTES + PIECE_BYTES / 2;
            let mut byte = [0];
            let flags = rustix::io::ReadWriteFlags::NOWAIT;
            rustix::io::preadv2(&file, &mut [std::io::IoSliceMut::new(&mut byte)], at, flags).is_ok()
        };
        assert_eq!([0, 1, 2, 3].map(cached), [false, true, false, false], "{filesystem}: before");
        let walked = part(&site(&base), Key::FIRST, 100, u64::MAX).expect("walks");
        assert_eq!(walked.read_bytes, LEN_BYTES, "{filesystem}");
        assert_eq!([0, 1, 2, 3].map(cached), [false, true, false, false], "{filesystem}: after");
    }
}
