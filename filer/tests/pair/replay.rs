//! A start that finds more in its log than fits into memory.

use crate::harness::{Cluster, Side, Spec};
use admin_api::status::Mode;
use apply_engine::{NameRef, NewKind, NewObject, Operation, Timestamp};
use ids::Oid;
use nvlog::region::{OpenMode, RegionKind};
use nvlog::{Log, region};
use rustix::process::{Resource, Rlimit, prlimit};
use std::fs;

/// Tiny files that are in the log and not in the tree, made in the root.
const FILES: u64 = 100_000;
/// Far from those that the nodes have given.
const FIRST_OID: u64 = 1 << 20;
/// Private memory that the node may have, its threads' stacks and the allocator's arenas among it: 150 MiB are in use before
/// anything is replayed, and all these files as one Delta take 95 MiB more.
const MEMORY_BYTES: u64 = 208 << 20;

fn file_name(number: u64) -> String {
    format!("tiny{number:06}")
}

/// As a primary would have logged it before it died, without a consistency point.
fn log_tiny_files(pair: &Cluster, side: Side) {
    let region = region::open(RegionKind::Emulated, &pair.log(side), OpenMode::Existing).unwrap();
    let (log, _) = Log::open(region, None).unwrap();
    let at = Timestamp { secs: 1_700_000_000, nanos: 0 };
    for number in 0..FILES {
        let name = file_name(number);
        let object = NewObject {
            oid: Oid(FIRST_OID + number),
            kind: NewKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            generation: 1,
            xattrs: vec![],
        };
        let name = NameRef::new(name.as_bytes()).unwrap();
        let create = Operation::Create { parent: Oid::ROOT, name, object, parent_nlink: 2, at };
        let mut head = Vec::new();
        create.encode_head(&mut head);
        log.reserve(head.len()).unwrap().publish(&[&head]);
        if number % 512 == 0 {
            log.seal();
        }
    }
    log.seal_and_persist().unwrap();
}

#[test]
fn a_log_of_tiny_files_is_replayed_in_the_memory_there_is() {
    let consistency_point = "memory = \"8MiB\"
";
    let mut pair = Cluster::start(Spec { capacity: "64MiB", consistency_point, ..Spec::default() });
    for side in Side::BOTH {
        pair.kill(side);
    }
    log_tiny_files(&pair, Side::A);
    pair.start_node(Side::A);
    let limit = Rlimit { current: Some(MEMORY_BYTES), maximum: Some(MEMORY_BYTES) };
    prlimit(Some(pair.node(Side::A).pid()), Resource::Data, limit).unwrap();
    let replaying = pair.wait_volume(Side::A, "how far it is", |volume| volume.replay.is_some());
    assert!(replaying.replay.is_some_and(|replay| replay.total_bytes > 10 << 20), "{replaying:?}");
    pair.wait_serving(Side::A);
    let names = fs::read_dir(pair.mount(Side::A)).unwrap().map(Result::unwrap).count() as u64;
    assert_eq!(names, FILES, "every file that the log holds\n{}", pair.diagnosis());
    let volume = pair.wait_volume(Side::A, "the end of the replay", |volume| volume.replay.is_none());
    assert_eq!(volume.mode, Mode::Solo);
    // The partner gets all of it from that log.
    pair.start_node(Side::B);
    pair.wait_mirrored();
    pair.check_trees_equal();
}
