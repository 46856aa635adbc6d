//! Merged reads against the model: any base, any seal points, any end.

use super::*;
use crate::attributes::Timestamp;
use crate::name::Name;
use crate::op::{NewKind, NewObject};
use crate::oracle::{Generator, MemoryLog, Model, Step, exact_difference};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Instant;

/// A base at `cut`, and one Delta per part of the rest that `seals` (positions in it) make.
struct Stack {
    generator: Generator,
    layers: Layers,
}

fn model_after(steps: &[Step]) -> Model {
    let mut model = Model::new();
    steps.iter().for_each(|step| model.apply(&step.operation(), &step.data));
    model
}

/// Deltas over `steps[first..]`, sealed before each index in `seals`, over the base that `steps[..base]` make.
fn stack(seed: u64, count: usize, base: usize, first: usize, seals: &[usize], vanished: Vanished) -> Stack {
    let mut generator = Generator::new(seed);
    let steps = generator.steps(count);
    let base: Arc<dyn BaseReader> = Arc::new(model_after(&steps[..base]));
    let log = Arc::new(MemoryLog::default());
    let mut positions = steps.iter().map(|step| log.append(step)).collect::<Vec<_>>().into_iter().enumerate();
    let start = positions.clone().nth(first).map_or(Lsn::ZERO, |(_, at)| at.lsn);
    let mut layers = Layers::new(Delta::new(start, vanished), Vec::new(), base, log.clone());
    for (index, at) in positions.by_ref().skip(first) {
        if seals.contains(&index) {
            layers = layers.seal();
        }
        layers.absorb(at, &steps[index].operation());
    }
    Stack { generator, layers }
}

proptest! {
    #[test]
    fn deltas_over_a_base_read_as_if_all_had_been_applied(
        seed: u64, count in 1usize..260, cut in 0.0..1.0f64, seals in prop::collection::vec(0usize..260, 0..5),
    ) {
        let cut = (count as f64 * cut) as usize;
        let Stack { generator, layers } = stack(seed, count, cut, cut, &seals, Vanished::Forget);
        let found = exact_difference(&layers, generator.model(), generator.first_unused());
        prop_assert_eq!(found, None);
    }

    /// Recovery: the base may hold any prefix of the run.
    #[test]
    fn a_recovery_delta_hides_a_base_that_is_ahead(
        seed: u64, count in 1usize..200, first in 0.0..1.0f64, base in 0.0..1.0f64,
    ) {
        let first = (count as f64 * first) as usize;
        let base = first + ((count - first) as f64 * base) as usize;
        let Stack { generator, layers } = stack(seed, count, base, first, &[], Vanished::Keep);
        let found = exact_difference(&layers, generator.model(), generator.first_unused());
        prop_assert_eq!(found, None);
    }

    /// A consistency point has been applied but its Delta is not dropped yet, and then it is.
    #[test]
    fn an_applied_delta_may_stay_or_go(
        seed: u64, count in 1usize..200, seal in 0.0..1.0f64, later in prop::collection::vec(0usize..200, 0..3),
    ) {
        let seal = (count as f64 * seal) as usize;
        let mut seals = vec![seal];
        seals.extend(later.iter().filter(|at| **at > seal));
        let Stack { generator, layers } = stack(seed, count, seal, 0, &seals, Vanished::Forget);
        let (model, first_unused) = (generator.model(), generator.first_unused());
        prop_assert_eq!(exact_difference(&layers, model, first_unused), None);
        if !layers.sealed.is_empty() {
            prop_assert_eq!(exact_difference(&layers.without_oldest(), model, first_unused), None);
        }
    }
}

const AT: Timestamp = Timestamp { secs: 1, nanos: 0 };
const X: Oid = Oid(20);

/// Layers over `base` and a log to feed them from.
struct Bench {
    layers: Layers,
    log: Arc<MemoryLog>,
}

impl Bench {
    fn over(base: Model) -> Bench {
        let log = Arc::new(MemoryLog::default());
        let active = Delta::new(Lsn::ZERO, Vanished::Forget);
        Bench { layers: Layers::new(active, Vec::new(), Arc::new(base), log.clone()), log }
    }

    fn absorb(&self, operation: &Operation<'_>, data: &[u8]) -> RecordPosition {
        let mut head = Vec::new();
        operation.encode_head(&mut head);
        let at = self.log.append(&Step { head, data: data.to_vec() });
        self.layers.absorb(at, operation);
        at
    }

    fn read(&self, oid: Oid) -> Vec<u8> {
        let mut buf = vec![0xEE; 100];
        let len = self.layers.read(oid, 0, &mut buf).unwrap();
        buf.truncate(len);
        buf
    }
}

fn create(oid: Oid, name: &Name) -> Operation<'_> {
    let kind = NewKind::File;
    let object = NewObject { oid, kind, mode: 0o644, uid: 0, gid: 0, generation: 1, xattrs: Vec::new() };
    Operation::Create { parent: Oid::ROOT, name: name.as_ref(), object, parent_nlink: 2, at: AT }
}

fn write(oid: Oid, offset: u64, data: &[u8], size_after: u64) -> Operation<'static> {
    Operation::Write { oid, offset, len_bytes: data.len() as u32, size_after, at: AT }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn base_with_file(content: &[u8]) -> Model {
    let mut base = Model::new();
    base.apply(&create(X, &name("x")), &[]);
    base.apply(&write(X, 0, content, content.len() as u64), content);
    base
}

#[test]
fn bytes_come_from_the_newest_layer_that_has_them() {
    let mut bench = Bench::over(base_with_file(b"bbbbbbbbbb"));
    bench.absorb(&write(X, 2, b"1111", 10), b"1111");
    bench.layers = bench.layers.seal();
    bench.absorb(&Operation::Truncate { oid: X, size: 8, at: AT }, &[]);
    bench.absorb(&Operation::Truncate { oid: X, size: 12, at: AT }, &[]);
    bench.layers = bench.layers.seal();
    bench.absorb(&write(X, 4, b"2", 12), b"2");
    assert_eq!(bench.read(X), b"bb1121bb\0\0\0\0");
}

#[test]
fn a_reader_that_came_before_a_seal_sees_what_one_that_came_after_sees() {
    let bench = Bench::over(base_with_file(b"old"));
    bench.absorb(&write(X, 0, b"new", 3), b"new");
    let before = bench.layers.clone();
    let after = Bench { layers: bench.layers.seal(), log: bench.log.clone() };
    assert_eq!(Bench { layers: before, log: bench.log }.read(X), b"new");
    assert_eq!(after.read(X), b"new");
}

#[test]
#[should_panic(expected = "already sealed")]
fn a_record_for_a_sealed_delta_is_not_lost_silently() {
    let bench = Bench::over(Model::new());
    let _sealed = bench.layers.seal();
    bench.absorb(&Operation::Reap { oid: X }, &[]);
}

#[test]
fn log_bytes_freed_too_early_are_an_error_and_never_content() {
    let bench = Bench::over(base_with_file(b"old"));
    let at = bench.absorb(&write(X, 0, b"new", 3), b"new");
    bench.log.free_before(at.end);
    assert!(matches!(bench.layers.read(X, 0, &mut [0; 3]), Err(ViewError::Log(_))));
}

#[test]
fn what_died_is_gone_whatever_the_base_says() {
    let bench = Bench::over(base_with_file(b"old"));
    let object = crate::op::Other { oid: X, kind: ObjectKind::File, nlink: 0 };
    let x = name("x");
    let unlink = Operation::Unlink {
        parent: Oid::ROOT,
        name: x.as_ref(),
        object,
        reap: true,
        parent_nlink: 2,
        at: AT,
    };
    bench.absorb(&unlink, &[]);
    assert!(matches!(bench.layers.read(X, 0, &mut [0; 3]), Err(ViewError::NoObject(X))));
    assert!(matches!(bench.layers.xattr(X, b"user.a"), Err(ViewError::NoObject(X))));
    assert!(matches!(bench.layers.seek_data(X, 0), Err(ViewError::NoObject(X))));
    assert!(bench.layers.lookup(Oid::ROOT, x.as_ref()).unwrap().is_none());
    assert!(bench.layers.is_empty_directory(Oid::ROOT).unwrap());
}

#[test]
fn seeking_in_a_huge_sparse_file_takes_few_steps() {
    let bench = Bench::over(base_with_file(b"b"));
    let far = 1 << 60;
    bench.absorb(&write(X, far, b"end", far + 3), b"end");
    assert_eq!(bench.layers.seek_data(X, 1).unwrap(), Some(far));
    assert_eq!(bench.layers.seek_hole(X, far).unwrap(), Some(far + 3));
    assert_eq!(bench.layers.seek_data(X, far + 3).unwrap(), None);
}

#[test]
fn positions_in_listings_are_the_same_in_every_version() {
    // Clients keep them across takeovers and upgrades: changing the hash breaks listings under way.
    let cookies = ["a", "b", "Makefile"].map(|text| DirCookie::of(&name(text)).0);
    assert_eq!(cookies, [4_706_636_184_713_914_112, 3_977_691_414_227_413_248, 2_946_981_776_825_651_200]);
}

#[test]
fn a_paged_listing_survives_changes_between_pages() {
    let bench = Bench::over(Model::new());
    let names: Vec<Name> = (0..300).map(|n| name(&format!("file{n}"))).collect();
    for (n, name) in names.iter().enumerate() {
        bench.absorb(&create(Oid(100 + n as u64), name), &[]);
    }
    let (mut seen, mut at, mut page) = (BTreeSet::new(), DirCookie::START, 0);
    loop {
        // A new snapshot for each page, as on a node that has just taken over.
        let listing = bench.layers.listing(Oid::ROOT).unwrap();
        let rest = listing.after(at);
        let entries = &rest[..rest.len().min(7)];
        let Some(last) = entries.last() else { break };
        at = last.cookie;
        for entry in entries {
            assert!(seen.insert(entry.name.clone()), "{:?} was listed twice", entry.name);
        }
        let extra = name(&format!("extra{page}"));
        bench.absorb(&create(Oid(1000 + page), &extra), &[]);
        page += 1;
    }
    assert!(names.iter().all(|name| seen.contains(name)));
}

#[test]
fn names_of_equal_hash_get_different_positions() {
    let target = Target { oid: X, kind: ObjectKind::File };
    let listing = Listing::new((0..1000).map(|n| (name(&format!("{n}")), target)));
    let crowded =
        Listing::with_hash(listing.entries().iter().map(|e| (e.name.clone(), target)), |_| DirCookie::FIRST);
    let cookies: BTreeSet<_> = crowded.entries().iter().map(|entry| entry.cookie).collect();
    assert_eq!(cookies.len(), 1000);
    let mut at = DirCookie::START;
    let mut pages = 0;
    while let Some(next) = crowded.after(at).first() {
        at = next.cookie;
        pages += 1;
    }
    assert_eq!(pages, 1000);
}

#[test]
fn a_large_directory_is_listed_in_one_pass() {
    let mut base = Model::new();
    for n in 0..50_000 {
        base.apply(&create(Oid(100_000 + n), &name(&format!("base{n}"))), &[]);
    }
    let bench = Bench::over(base);
    for n in 0..50_000 {
        bench.absorb(&create(Oid(n + 20), &name(&format!("delta{n}"))), &[]);
    }
    let started = Instant::now();
    let listing = bench.layers.listing(Oid::ROOT).unwrap();
    let (mut at, mut listed) = (DirCookie::START, 0);
    loop {
        let rest = listing.after(at);
        let page = &rest[..rest.len().min(100)];
        let Some(last) = page.last() else { break };
        at = last.cookie;
        listed += page.len();
    }
    assert_eq!(listed, 100_000);
    // Quadratic work would take minutes; this takes a fraction of a second even unoptimized.
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    assert!(!bench.layers.is_empty_directory(Oid::ROOT).unwrap());
}

/// A base in the middle of a consistency point, where every look-up may meet something unfinished.
struct Unreadable;

fn unreadable<T>() -> io::Result<T> {
    Err(io::Error::other("not to be asked"))
}

impl BaseReader for Unreadable {
    fn lookup(&self, _: Oid, _: NameRef<'_>) -> io::Result<Option<Target>> {
        unreadable()
    }
    fn attributes(&self, _: Oid) -> io::Result<Attributes> {
        unreadable()
    }
    fn parent(&self, _: Oid) -> io::Result<Oid> {
        unreadable()
    }
    fn read_at(&self, _: Oid, _: u64, _: &mut [u8]) -> io::Result<usize> {
        unreadable()
    }
    fn readdir(&self, _: Oid, _: &mut dyn FnMut(BaseEntry<'_>) -> ControlFlow<()>) -> io::Result<()> {
        unreadable()
    }
    fn readlink(&self, _: Oid) -> io::Result<Vec<u8>> {
        unreadable()
    }
    fn xattr(&self, _: Oid, _: &[u8]) -> io::Result<Option<Vec<u8>>> {
        unreadable()
    }
    fn xattr_names(&self, _: Oid) -> io::Result<Vec<Vec<u8>>> {
        unreadable()
    }
    fn seek_data(&self, _: Oid, _: u64) -> io::Result<Option<u64>> {
        unreadable()
    }
    fn seek_hole(&self, _: Oid, _: u64) -> io::Result<Option<u64>> {
        unreadable()
    }
    fn orphans(&self) -> io::Result<Vec<Oid>> {
        unreadable()
    }
}

#[test]
fn what_was_born_in_a_delta_is_read_without_the_base() {
    let (directory, file, link) = (Oid(30), Oid(31), Oid(32));
    let (dir_name, file_name, link_name) = (name("d"), name("f"), name("l"));
    let make = |parent, oid, name: &Name, kind| {
        let object = NewObject { oid, kind, mode: 0o755, uid: 0, gid: 0, generation: 1, xattrs: Vec::new() };
        let mut head = Vec::new();
        let operation = Operation::Create { parent, name: name.as_ref(), object, parent_nlink: 3, at: AT };
        operation.encode_head(&mut head);
        Step { head, data: Vec::new() }
    };
    let bench = Bench::over(Model::new());
    let layers = Layers { base: Arc::new(Unreadable), ..bench.layers.clone() };
    for step in [
        make(Oid::ROOT, directory, &dir_name, NewKind::Directory),
        make(directory, file, &file_name, NewKind::File),
        make(directory, link, &link_name, NewKind::Symlink(b"f")),
    ] {
        layers.absorb(bench.log.append(&step), &step.operation());
    }
    let layers = layers.seal();
    let free = name("free");
    assert!(layers.lookup(directory, free.as_ref()).unwrap().is_none());
    assert!(layers.lookup(directory, file_name.as_ref()).unwrap().is_some());
    assert_eq!(layers.listing(directory).unwrap().entries().len(), 2);
    assert_eq!(layers.parent(directory).unwrap(), Oid::ROOT);
    assert_eq!(layers.readlink(link).unwrap(), b"f");
    assert_eq!(layers.xattr(file, b"user.none").unwrap(), None);
    assert!(layers.xattr_names(file).unwrap().is_empty());
    assert_eq!(layers.attributes(file).unwrap().nlink, 1);
    assert_eq!(layers.read(file, 0, &mut [0; 9]).unwrap(), 0);
    assert!(matches!(layers.lookup(Oid::ROOT, free.as_ref()), Err(ViewError::Base { .. })));
}
