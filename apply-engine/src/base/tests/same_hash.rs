//! Names of one hash: btrfs keeps those of a directory in one item, which has room for so many. There is no secret in the hash,
//! so whoever may make names can make such names.

use ids::Oid;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeSet;
use std::fs::File;
use std::ops::ControlFlow;

use super::Image;
use super::remainder::{head, link, reopened, unlink};
use super::room::{create, point, volume};
use crate::base::Base;
use crate::base::btrfs::has_many_like;
use crate::executor::base_tree::BaseTree;
use crate::name::NameRef;
use crate::op::{NewKind, Operation};
use crate::oracle::MemoryLog;
use crate::resync::{Surveyed, capture};
use crate::tree::{Parent, Tree};
use crate::verify;
use crate::view::{BaseEntry, BaseReader};
use std::os::fd::AsFd;

const FILE: Oid = Oid(20);
/// Nodes of 4 KiB have room for 13 names, in each directory.
const NODES: [&str; 2] = ["-n", "4096"];
const COUNT: usize = 80;
const BYTES: u64 = 600 << 20;

/// What btrfs makes of a name: CRC-32C without its usual ends.
fn name_hash(name: &[u8]) -> u32 {
    let bit = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
    name.iter().fold(!1, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc)))
}

/// Names of 255 bytes that have one hash. The last four bytes of each make up for the others.
fn colliding(count: usize) -> Vec<Vec<u8>> {
    const HASH: u32 = 0x1234_5678;
    // What one byte does to the hash, and which it was, by the highest byte of that: all 256 of them differ.
    let table = |index: u8| name_hash(&[index ^ 0xFE]) ^ (!1_u32 >> 8);
    let by_top = |top: u32| (0..=255).find(|index| table(*index) >> 24 == top).expect("one of them");
    let inverse: Vec<u8> = (0..=255).map(by_top).collect();
    let forged = |number: usize| {
        let mut name = format!("{number:0>251}").into_bytes();
        let (mut wanted, mut indices) = (HASH, [0; 4]);
        for index in indices.iter_mut().rev() {
            *index = inverse[(wanted >> 24) as usize];
            wanted = (wanted ^ table(*index)) << 8;
        }
        for index in indices {
            let now = name_hash(&name);
            name.push(index ^ now as u8);
        }
        assert_eq!(name_hash(&name), HASH);
        name
    };
    let names = (0..).map(forged).filter(|name| NameRef::new(name).is_ok());
    names.take(count).collect()
}

fn listed(base: &Base) -> BTreeSet<Vec<u8>> {
    let mut listed = BTreeSet::new();
    let list = &mut |entry: BaseEntry<'_>| {
        assert!(listed.insert(entry.name.as_bytes().to_vec()), "{:?} twice", entry.name);
        ControlFlow::Continue(())
    };
    base.readdir(Oid::ROOT, list).expect("lists");
    listed
}

fn found(base: &Base, name: &[u8]) -> Option<Oid> {
    let name = NameRef::new(name).expect("a name");
    BaseReader::lookup(base, Oid::ROOT, name).expect("reads").map(|target| target.oid)
}

fn apply(base: &Base, log: &MemoryLog, operations: impl IntoIterator<Item = Operation<'static>>) {
    let operations: Vec<_> = operations.into_iter().map(|operation| (operation, &[][..])).collect();
    point(base, log, &operations);
}

/// For operations, which borrow them.
fn leaked(count: usize) -> Vec<&'static [u8]> {
    colliding(count).into_iter().map(|name| &*name.leak()).collect()
}

/// The directory of refused names refuses by the same rule as the directory itself.
#[test]
fn names_of_one_hash_are_kept_however_many_there_are() {
    let image = Image::with("btrfs", BYTES, &NODES, "");
    let (base, log) = (volume(&image), MemoryLog::default());
    let names = leaked(COUNT);
    apply(&base, &log, [create(FILE, b"file", NewKind::File)]);
    apply(&base, &log, (2..).zip(&names).map(|(nlink, name)| link(name, nlink)));
    let held = base.held(0).1;
    assert!(held > COUNT / 2, "{held}");
    assert_eq!(head(&image), "twinfiler base, version 3", "programs that know of one directory refuse it");
    let all: BTreeSet<Vec<u8>> = names.iter().map(|name| name.to_vec()).chain([b"file".to_vec()]).collect();
    let is_whole = |base: &Base| {
        assert_eq!(listed(base), all);
        names.iter().for_each(|name| assert_eq!(found(base, name), Some(FILE)));
    };
    is_whole(&base);
    let base = reopened(&image, base);
    is_whole(&base);
    assert_eq!(base.held(0).1, held);
    let digest = verify::aspects(&base, Oid::ROOT).expect("reads").expect("is there").names;
    let Surveyed::Here(root) = capture(&base, Oid::ROOT, &mut usize::MAX.clone()).expect("reads") else {
        panic!("a root")
    };
    assert_eq!(root.entries.len(), COUNT + 1);
    base.mend_index().expect("walks");

    // Applied again, it is the same.
    apply(&base, &log, (2..).zip(&names).map(|(nlink, name)| link(name, nlink)));
    is_whole(&base);
    assert_eq!(verify::aspects(&base, Oid::ROOT).expect("reads").expect("is there").names, digest);

    let (gone, left) = names.split_at(COUNT - 10);
    apply(&base, &log, gone.iter().map(|name| unlink(name)));
    assert_eq!((listed(&base).len(), base.held(9)), (left.len() + 1, (Vec::new(), 0)));
    left.iter().for_each(|name| assert_eq!(found(&base, name), Some(FILE)));
    assert_eq!(head(&image), "twinfiler base, version 1");
    assert_eq!(
        std::fs::read_dir(image.path().join("volume/.twinfiler/remainder/names")).expect("lists").count(),
        0
    );
}

/// Files and directories, which are made with their names; of one whose names are refused.
#[test]
fn objects_whose_names_have_one_hash_are_made_and_removed() {
    let image = Image::with("btrfs", BYTES, &NODES, "");
    let (base, log) = (volume(&image), MemoryLog::default());
    let names = leaked(COUNT);
    let kind = |number: usize| if number.is_multiple_of(2) { NewKind::File } else { NewKind::Directory };
    let oid = |number: usize| Oid(100 + number as u64);
    let made = |number: usize| create(oid(number), names[number], kind(number));
    apply(&base, &log, (0..COUNT / 2).map(made));
    // As an attempt that was cut off leaves them, without labels.
    let staging = image.path().join("volume/.twinfiler/staging");
    let birth = |number: usize| staging.join(format!("birth-{}", oid(number).0));
    std::fs::write(birth(COUNT / 2), b"").expect("writes");
    std::fs::create_dir(birth(COUNT / 2 + 1)).expect("makes");
    // As one leaves them that made other objects of these OIDs.
    std::fs::create_dir(birth(COUNT / 2 + 2)).expect("makes");
    std::fs::write(birth(COUNT / 2 + 3), b"").expect("writes");
    std::fs::create_dir_all(birth(COUNT / 2 + 4).join("below")).expect("makes");
    apply(&base, &log, (COUNT / 2..COUNT).map(made));
    let is_whole = |base: &Base| {
        assert_eq!(listed(base).len(), COUNT);
        for (number, name) in names.iter().enumerate() {
            assert_eq!(found(base, name), Some(oid(number)));
            if kind(number) == NewKind::Directory {
                assert_eq!(BaseReader::parent(base, oid(number)).expect("has one"), Oid::ROOT);
            }
        }
    };
    is_whole(&base);
    assert_eq!(std::fs::read_dir(staging).expect("lists").count(), 0);
    let held = base.held(0).1;
    let base = reopened(&image, base);
    is_whole(&base);
    assert_eq!(base.held(0).1, held);
    // A new index finds them all where they are.
    drop(base);
    std::fs::remove_file(image.path().join("volume/.twinfiler/index.redb")).expect("removes");
    let base = Base::open(&image.path().join("volume"), super::room::VOLUME).expect("opens");
    is_whole(&base);
}

/// Lets this process open a few files more and no others, for as long as it lives.
struct FewDescriptors {
    before: Rlimit,
    /// All that it may open, but for a few.
    _open: Vec<File>,
}

impl FewDescriptors {
    const FEW: usize = 8;

    fn new() -> FewDescriptors {
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(2048), ..before }).expect("lowers");
        let mut open: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        open.truncate(open.len() - FewDescriptors::FEW);
        FewDescriptors { before, _open: open }
    }
}

impl Drop for FewDescriptors {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.before).expect("raises");
    }
}

/// One directory's refused names may be in hundreds of directories.
#[test]
fn refused_names_are_found_in_more_directories_than_may_be_open() {
    const MANY: usize = 400;
    let image = Image::with("btrfs", BYTES, &NODES, "");
    let (base, log) = (volume(&image), MemoryLog::default());
    let names = leaked(MANY);
    let oid = |number: usize| Oid(100 + number as u64);
    let made = |number: usize| create(oid(number), names[number], NewKind::Directory);
    apply(&base, &log, (0..MANY).map(made));
    assert!(base.remainder().last_holder(Oid::ROOT).number > 20);
    let base = reopened(&image, base);
    let last = base.inode(oid(MANY - 1)).expect("is there");
    let few = FewDescriptors::new();
    assert_eq!(listed(&base).len(), MANY);
    let refused = BaseTree::new(&base, &log).list(&Parent::Refused(Oid::ROOT)).expect("lists");
    assert_eq!(refused.len(), base.held(0).1);
    assert_eq!(BaseReader::parent(&base, last.oid()).expect("has one"), Oid::ROOT);
    base.mend_index().expect("walks");
    drop(few);
}

/// Where there may be no room for a name, nothing is made there, which older kernels do not survive.
#[test]
fn btrfs_tells_how_many_names_have_one_hash() {
    let image = Image::with("btrfs", BYTES, &NODES, "");
    let path = image.directory("d");
    let directory = File::open(&path).expect("opens");
    let names = colliding(14);
    let has_many = || has_many_like(directory.as_fd(), &names[13]);
    let mut few = 0;
    for name in &names[..13] {
        few += usize::from(!has_many());
        std::fs::write(path.join(crate::base::inode::os(name)), b"").expect("has room");
    }
    assert!(has_many() && (1..8).contains(&few), "{few}");
    std::fs::write(path.join(crate::base::inode::os(&names[13])), b"").expect_err("no room");
    assert!(!has_many_like(directory.as_fd(), b"another"));
}
