//! Whatever two trees are like, and wherever the receiver was cut off before: one pass makes them the same.

mod lying;
pub(crate) mod real;

use std::collections::BTreeSet;
use std::sync::Arc;

use ids::{Lsn, Oid};
use parking_lot::RwLock;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::site::Site;
use super::{
    Capture, Entry, INCOMPLETE, ObjectLabel, Part, ResyncError, Surveyed, Telling, capture, content, gradual,
    install, parts, site,
};
use crate::attributes::ObjectKind;
use crate::consistency::{ApplyError, apply_to};
use crate::delta::{Delta, Vanished};
use crate::oracle::{Generator, MemoryLog, Model, difference};
use crate::simulation::tree::SimTree;
use crate::simulation::{Refusing, SimDisk};
use crate::tree::Tree as _;
use crate::view::Layers;

/// Times that a receiver is cut off before it may come to its end.
const MAX_CUTS: usize = 5;
/// Few, so that walks are continued.
const LABELS_AT_ONCE: usize = 7;

fn all_labels(site: &impl Site) -> Vec<ObjectLabel> {
    let (mut all, mut from) = (Vec::new(), Some(Oid(0)));
    while let Some(oid) = from {
        let (some, next) = site::labels(site, oid, LABELS_AT_ONCE).expect("labels can be read");
        all.extend(some);
        from = next;
    }
    all
}

/// What the receiver cannot know to be the same: labels that differ, or that it has no reason to trust.
fn suspects(source: &impl Site, receiver: &impl Site, trusted_below: Lsn) -> Vec<Oid> {
    let theirs: std::collections::HashSet<ObjectLabel> =
        all_labels(source).into_iter().filter(|label| label.last_lsn < trusted_below).collect();
    let ours: std::collections::HashSet<ObjectLabel> = all_labels(receiver).into_iter().collect();
    let same: std::collections::HashSet<Oid> = theirs.intersection(&ours).map(|label| label.oid).collect();
    let both = all_labels(source).into_iter().chain(all_labels(receiver)).map(|label| label.oid);
    let differing: std::collections::BTreeSet<Oid> = both.filter(|oid| !same.contains(oid)).collect();
    differing.into_iter().collect()
}

/// As a receiver does it over the wire.
fn copy_content(source: &impl Site, receiver: &impl Site, file: &Capture) -> Result<u64, ResyncError> {
    let (mut at, mut sent) = (0, 0);
    content::shrink(receiver, file)?;
    while at < file.size {
        let map = content::data_map(source.reader(), file.oid, at, 2)?;
        for &(offset, len) in &map.data {
            content::punch(receiver, file.oid, at, offset - at)?;
            at = offset;
            while at < offset + len {
                let piece = (offset + len - at).min(content::MAX_PIECE_BYTES) as usize;
                let theirs = content::read(source.reader(), file.oid, at, piece)?;
                if content::digest(&theirs)
                    != content::digest(&content::read(receiver.reader(), file.oid, at, piece)?)
                {
                    content::write(receiver, file.oid, at, &theirs)?;
                    sent += theirs.len() as u64;
                }
                at += piece as u64;
            }
        }
        content::punch(receiver, file.oid, at, map.end - at)?;
        at = map.end;
    }
    content::finish(receiver, file)?;
    Ok(sent)
}

/// So many objects at a time, with all of their names.
const fn whole(at_once: usize) -> Bounds {
    Bounds { at_once, room: usize::MAX }
}

/// How much a receiver has of it at a time.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Objects.
    at_once: usize,
    /// Names that a description holds.
    room: usize,
}

/// A source that tells the truth.
struct Honest<'a, S> {
    source: &'a S,
    room: usize,
}

impl<S: Site> Telling<ResyncError> for Honest<'_, S> {
    fn describe(&mut self, oids: &[Oid]) -> Result<Vec<Surveyed>, ResyncError> {
        let mut room = self.room;
        oids.iter().map(|oid| capture::capture(self.source, *oid, &mut room, self.room)).collect()
    }

    fn entries(&mut self, directory: Oid, part: Part) -> Result<Option<Vec<Entry>>, ResyncError> {
        parts::entries(self.source, directory, part, self.room)
    }

    fn seed(&self) -> u64 {
        self.room as u64
    }
}

/// All of an object, however much it is.
fn capture_whole(site: &impl Site, oid: Oid) -> Result<Surveyed, ResyncError> {
    let mut room = usize::MAX;
    capture::capture(site, oid, &mut room, usize::MAX)
}

/// The same as [`pass`], a few objects at a time.
fn pass_gradually(
    source: &impl Site,
    receiver: &impl Site,
    trusted_below: Lsn,
    at_once: Bounds,
    flush: &dyn Fn(),
) -> Result<u64, ResyncError> {
    let todo = suspects(source, receiver, trusted_below);
    let (sent, left) = bring_gradually(source, receiver, todo, at_once, flush)?;
    assert!(left.is_empty(), "nobody placed {left:?}");
    Ok(sent)
}

/// Brings these objects. Returns how many bytes of content differed, and what has no place yet.
fn bring_gradually(
    source: &impl Site,
    receiver: &impl Site,
    mut todo: Vec<Oid>,
    Bounds { at_once, room }: Bounds,
    flush: &dyn Fn(),
) -> Result<(u64, Vec<Oid>), ResyncError> {
    let mut telling = Honest { source, room };
    let identity = |surveyed: Surveyed| match surveyed {
        Surveyed::Here(capture) => (capture.oid, Some((capture.kind, capture.generation))),
        Surveyed::Gone(oid) => (oid, None),
    };
    let identities: Vec<_> = telling.describe(&todo)?.into_iter().map(identity).collect();
    gradual::make_way(receiver, &identities)?;
    let (mut gradual, mut sent, mut first) = (gradual::Gradual::with(receiver, at_once)?, 0, true);
    while !todo.is_empty() {
        let mut deferred = Vec::new();
        for some in todo.chunks(at_once) {
            let installed = gradual.some(receiver, telling.describe(some)?, &mut telling)?;
            flush();
            let (files, others): (Vec<Capture>, Vec<Capture>) =
                installed.named.into_iter().partition(|capture| capture.kind == ObjectKind::File);
            let labels = |captures: &[Capture]| captures.iter().map(Capture::label).collect::<Vec<_>>();
            install::seal(receiver, &labels(&others))?;
            for file in &files {
                sent += copy_content(source, receiver, file)?;
            }
            flush();
            install::seal(receiver, &labels(&files))?;
            deferred.extend(installed.deferred);
        }
        // The first pass may do no more than to make way.
        if deferred.len() == todo.len() && !first {
            break;
        }
        (todo, first) = (deferred, false);
    }
    todo.extend(gradual.end(receiver, &mut telling)?);
    flush();
    Ok((sent, todo))
}

/// One comparison and all that follows from it. Returns how many bytes of content differed.
fn pass(
    source: &impl Site,
    receiver: &impl Site,
    trusted_below: Lsn,
    flush: &dyn Fn(),
) -> Result<u64, ResyncError> {
    bring(source, receiver, &suspects(source, receiver, trusted_below), flush)
}

/// Brings these objects as one. Returns how many bytes of content differed.
fn bring(
    source: &impl Site,
    receiver: &impl Site,
    todo: &[Oid],
    flush: &dyn Fn(),
) -> Result<u64, ResyncError> {
    let survey: Vec<Surveyed> =
        todo.iter().map(|oid| capture_whole(source, *oid)).collect::<Result<_, _>>()?;
    install::names(receiver, &survey)?;
    let here = survey.iter().filter_map(|surveyed| match surveyed {
        Surveyed::Here(capture) => Some(&**capture),
        Surveyed::Gone(_) => None,
    });
    let (files, others): (Vec<&Capture>, Vec<&Capture>) =
        here.partition(|capture| capture.kind == ObjectKind::File);
    for capture in files.iter().chain(&others) {
        let label = receiver.find(capture.oid)?.and_then(|found| found.label).expect("it was installed");
        assert_eq!(label.last_lsn, INCOMPLETE, "not whole before it is sealed");
    }
    flush();
    let labels = |captures: &[&Capture]| captures.iter().map(|capture| capture.label()).collect::<Vec<_>>();
    install::seal(receiver, &labels(&others))?;
    let mut sent = 0;
    for file in &files {
        sent += copy_content(source, receiver, file)?;
    }
    flush();
    install::seal(receiver, &labels(&files))?;
    Ok(sent)
}

struct Side {
    log: Arc<MemoryLog>,
    tree: SimTree<Arc<MemoryLog>>,
    generator: Generator,
    delta: Delta,
}

impl Side {
    fn new(seed: u64) -> Side {
        let log = Arc::new(MemoryLog::default());
        let tree = SimDisk::new().tree(log.clone());
        let delta = Delta::new(Lsn::ZERO, Vanished::Forget);
        Side { tree, generator: Generator::new(seed), log, delta }
    }

    fn steps(&mut self, count: usize) {
        for step in self.generator.steps(count) {
            self.delta.absorb(self.log.append(&step), &step.operation());
        }
    }

    fn end(&self) -> Lsn {
        self.delta.end()
    }

    fn apply(&mut self) {
        let end = self.end();
        let delta = std::mem::replace(&mut self.delta, Delta::new(end, Vanished::Forget));
        apply_to(&self.tree, &delta).expect("nothing fails");
        self.tree.sync();
    }

    /// From here on this side's operations are others.
    fn part(&mut self, seed: u64) {
        let next = self.generator.first_unused();
        self.generator = Generator::over(seed, self.generator.model().clone(), next);
    }
}

fn check_like(tree: &SimTree<Arc<MemoryLog>>, source: &Side) {
    let layers = Layers {
        active: Arc::new(RwLock::new(Delta::new(Lsn::ZERO, Vanished::Forget).into())),
        sealed: Vec::new(),
        base: Arc::new(SimDisk::clone(tree)),
        log: source.log.clone(),
    };
    let model: &Model = source.generator.model();
    if let Some(found) = difference(&layers, model) {
        panic!("{found}");
    }
    assert!(tree.staging_is_empty(), "something stayed in staging");
    let mut shown = tree.oids();
    shown.sort_unstable();
    let expected: Vec<Option<Oid>> = model.nodes.keys().copied().map(Some).collect();
    assert_eq!(shown, expected, "inodes that the source does not have, or too few");
    assert_eq!(all_labels(tree), all_labels(&source.tree), "labels");
}

/// Two sides with a common past (maybe none) and a different present; the receiver is cut off again and again while
/// the source goes on.
fn bring_together(seed: u64, common: usize, ours: usize, theirs: usize, at_once: Option<Bounds>) {
    bring_together_on(None, seed, common, ours, theirs, at_once);
}

/// The same on disks that refuse one in so many effects for good, each disk others.
fn bring_together_on(
    refused_one_in: Option<u64>,
    seed: u64,
    common: usize,
    ours: usize,
    theirs: usize,
    at_once: Option<Bounds>,
) {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
    let (mut source, mut receiver) = (Side::new(seed), Side::new(if common > 0 { seed } else { !seed }));
    let refusing = |seed| refused_one_in.map(|one_in| Refusing { seed, one_in });
    source.tree.set_refusing(refusing(seed));
    receiver.tree.set_refusing(refusing(!seed));
    source.steps(common);
    receiver.steps(common);
    let trusted_below = if common > 0 { source.end() } else { Lsn::ZERO };
    source.apply();
    receiver.apply();
    source.part(seed ^ 1);
    receiver.part(seed ^ 2);
    source.steps(theirs);
    receiver.steps(ours);
    source.apply();
    receiver.apply();
    let tree = &receiver.tree;
    for _ in 0..rng.random_range(0..=MAX_CUTS) {
        tree.crash_after(rng.random_range(0..(common + ours + theirs) * 4 + 4));
        let passed = match at_once {
            // A session that was cut off may be followed by one of the other kind.
            Some(at_once) if rng.random_bool(0.7) => {
                pass_gradually(&source.tree, tree, trusted_below, at_once, &|| tree.sync())
            }
            _ => pass(&source.tree, tree, trusted_below, &|| tree.sync()),
        };
        match passed {
            Ok(_) => {}
            Err(ResyncError::Apply(ApplyError::Io(_))) => {}
            Err(other) => panic!("{other}"),
        }
        let survival = [0.0, 0.2, 0.5, 0.8, 1.0][rng.random_range(0..5)];
        tree.restart(&mut rng, survival);
        tree.reindex();
        source.steps(rng.random_range(0..=theirs / 2));
        source.apply();
    }
    match at_once {
        Some(at_once) => pass_gradually(&source.tree, tree, trusted_below, at_once, &|| tree.sync()),
        None => pass(&source.tree, tree, trusted_below, &|| tree.sync()),
    }
    .expect("nothing fails any more");
    check_like(tree, &source);
    // What is the same is not sent again, and a second pass changes nothing.
    let everything = pass(&source.tree, tree, Lsn::ZERO, &|| {}).expect("compares by content");
    assert_eq!(everything, 0, "bytes that were the same were sent");
    check_like(tree, &source);
    assert!(suspects(&source.tree, tree, Lsn(u64::MAX)).is_empty());
}

/// Two sides whose source goes on after every comparison, so that what is described is newer than what was compared.
fn bring_together_meanwhile(seed: u64, common: usize, theirs: usize, rounds: &[usize], at_once: Bounds) {
    let (mut source, mut receiver) = (Side::new(seed), Side::new(seed));
    source.steps(common);
    receiver.steps(common);
    let trusted_below = source.end();
    source.apply();
    receiver.apply();
    source.part(seed ^ 1);
    source.steps(theirs);
    source.apply();
    let tree = &receiver.tree;
    let mut todo = suspects(&source.tree, tree, trusted_below);
    let mut waiting = Vec::new();
    for steps in rounds.iter().copied().chain([0, 0]) {
        source.steps(steps);
        let changed: BTreeSet<Oid> =
            source.delta.objects().map(|(oid, _)| oid).chain(source.delta.directories()).collect();
        source.apply();
        let some: BTreeSet<Oid> = todo.iter().chain(&waiting).copied().collect();
        let some: Vec<Oid> = some.into_iter().collect();
        let as_one = if waiting.is_empty() {
            bring(&source.tree, tree, &some, &|| tree.sync())
        } else {
            Err(ApplyError::Missing(some[0]).into())
        };
        waiting = match as_one {
            Ok(_) => Vec::new(),
            Err(ResyncError::Apply(error)) if error.is_other_tree() => {
                bring_gradually(&source.tree, tree, some, at_once, &|| tree.sync()).expect("nothing fails").1
            }
            Err(other) => panic!("{other}"),
        };
        for oid in tree.oids().into_iter().flatten() {
            assert!(
                tree.find(oid).expect("nothing fails").is_some(),
                "{oid} stands in the tree, and nobody knows it"
            );
        }
        todo = changed.into_iter().collect();
    }
    assert!(waiting.is_empty(), "nobody placed {waiting:?}");
    check_like(tree, &source);
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_source_that_goes_on_after_every_comparison_is_caught_up_with(
        seed: u64, common in 1..80usize, theirs in 0..40usize,
        rounds in prop::collection::vec(0..30_usize, 1..5), at_once in 1..12usize, room in 0..20usize,
    ) {
        bring_together_meanwhile(seed, common, theirs, &rounds, Bounds { at_once, room });
    }

    #[test]
    fn related_trees_are_brought_together(seed: u64, common in 1..80usize, ours in 0..40usize, theirs in 0..40usize) {
        bring_together(seed, common, ours, theirs, None);
    }

    #[test]
    fn unrelated_trees_are_brought_together(seed: u64, ours in 0..60usize, theirs in 0..60usize) {
        bring_together(seed, 0, ours, theirs, None);
    }

    #[test]
    fn related_trees_are_brought_together_a_few_objects_at_a_time(
        seed: u64, common in 1..80usize, ours in 0..40usize, theirs in 0..40usize, at_once in 1..12usize,
        room in 0..20usize,
    ) {
        bring_together(seed, common, ours, theirs, Some(Bounds { at_once, room }));
    }

    #[test]
    fn trees_of_which_each_has_refused_something_else_are_brought_together(
        seed: u64, common in 0..60usize, ours in 0..30usize, theirs in 0..30usize, at_once in 0..12usize, one_in in 2..10u64,
        room in 0..20usize,
    ) {
        bring_together_on(Some(one_in), seed, common, ours, theirs, (at_once > 0).then_some(Bounds { at_once, room }));
    }

    #[test]
    fn unrelated_trees_are_brought_together_a_few_objects_at_a_time(
        seed: u64, ours in 0..60usize, theirs in 0..60usize, at_once in 1..12usize, room in 0..20usize,
    ) {
        bring_together(seed, 0, ours, theirs, Some(Bounds { at_once, room }));
    }
}

/// The OID of a file of which a length was refused is a symbolic link's at the source; a crash leaves the record.
#[test]
fn what_was_refused_of_an_object_is_not_anothers_with_its_oid() {
    bring_together_on(Some(3), 5830972141247690251, 52, 22, 29, None);
}

/// What waits for its slot gets another OID, and the name by which it waits is one that the tree has refused.
#[test]
fn what_waits_under_a_refused_name_may_get_another_oid() {
    bring_together_on(Some(9), 5896115155689780935, 19, 15, 17, Some(whole(3)));
}

/// A crash takes a directory in which names were refused; what has those names waits before anything else is done.
#[test]
fn what_was_refused_in_a_directory_that_a_crash_took_waits() {
    bring_together_on(Some(3), 10276120590052950230, 4, 0, 27, Some(whole(5)));
}

/// Names that were refused in a directory go with it to another OID, before its own goes to a file.
#[test]
fn what_was_refused_in_a_directory_leaves_its_oid_first() {
    bring_together_on(Some(6), 12974119926623154897, 11, 23, 25, Some(whole(1)));
}

/// The same where a crash takes the directory, and a pipe has its OID.
#[test]
fn what_was_refused_in_a_directory_is_not_moved_below_a_pipe() {
    bring_together_on(Some(4), 3775368926450093603, 12, 8, 24, Some(whole(1)));
}

/// A directory that is described after it was moved to one that nobody asked for.
#[test]
fn a_directory_that_nobody_places_is_told() {
    bring_together_meanwhile(9415938228084058997, 33, 25, &[17, 15], whole(1));
}

/// All that the source has lost its name here, so nothing is placed by a pass that only makes way.
#[test]
fn a_pass_that_only_makes_way_is_followed_by_another() {
    bring_together(1199744811244283565, 18, 8, 0, Some(whole(1)));
}

/// A directory moves into one that was below it, and whose way out nobody asked about.
#[test]
fn a_move_that_would_close_a_cycle_waits() {
    bring_together_meanwhile(4802764144289149250, 38, 25, &[6, 19, 7, 24], whole(1));
}

fn sums_of(labels: &[ObjectLabel]) -> (u64, u128) {
    let digest = labels.iter().fold(0_u128, |sum, label| sum.wrapping_add(label.digest()));
    (labels.len() as u64, digest)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 100, ..ProptestConfig::default() })]

    /// However the tree changes while its labels are walked: who tells what changed gets the sum over all.
    #[test]
    fn labels_sum_up_while_the_tree_changes(seed: u64, rounds in prop::collection::vec((0..40_usize, 0..3_usize), 0..6)) {
        let mut side = Side::new(seed);
        side.steps(200);
        side.apply();
        let mut sums = super::LabelSums::default();
        for (steps, looks) in rounds {
            for _ in 0..looks {
                sums.step_over(&side.tree).expect("labels can be read");
            }
            side.steps(steps);
            let changed: Vec<Oid> = side.delta.objects().map(|(oid, _)| oid).collect();
            side.apply();
            sums.changed(changed);
        }
        while !sums.step_over(&side.tree).expect("labels can be read") {}
        prop_assert_eq!(sums.total(), sums_of(&all_labels(&side.tree)));
    }
}

/// Where objects wait is no object of the source, and is gone when the last of them has its place.
#[test]
fn what_a_receiver_made_for_itself_does_not_stay_in_the_sum() {
    let mut side = Side::new(3);
    side.steps(50);
    side.apply();
    let gradual = gradual::Gradual::begin(&side.tree).expect("nothing fails");
    let mut sums = super::LabelSums::default();
    while !sums.step_over(&side.tree).expect("labels can be read") {}
    assert_eq!(sums.total(), sums_of(&all_labels(&side.tree)));
    let mut telling = Honest { source: &side.tree, room: usize::MAX };
    assert_eq!(gradual.end(&side.tree, &mut telling).expect("nothing fails"), []);
    sums.changed([]);
    while !sums.step_over(&side.tree).expect("labels can be read") {}
    assert_eq!(sums.total(), sums_of(&all_labels(&side.tree)));
}
