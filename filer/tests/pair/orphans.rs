//! Files that are open and have no name any more.

use crate::harness::{Cluster, Side, Spec};
use admin_api::control::{Answer, Request};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

/// Orphans in a node's local tree.
fn orphans(pair: &Cluster, side: Side) -> usize {
    std::fs::read_dir(pair.base(side).join(".twinfiler/orphans")).unwrap().count()
}

/// An open file without a name, that consistency points of both nodes have seen.
fn open_orphan(pair: &mut Cluster) -> File {
    let path = pair.mount(Side::A).join("nameless");
    let mut file = File::options().create(true).read(true).write(true).truncate(true).open(&path).unwrap();
    file.write_all(b"before ").unwrap();
    std::fs::remove_file(&path).unwrap();
    file.write_all(b"after").unwrap();
    pair.wait("the orphan in both local trees", |pair| {
        for side in Side::BOTH {
            let answer = pair.ask(side, &Request::ConsistencyPoint { volume: "v".to_owned() });
            assert!(matches!(answer, Ok(Answer::ConsistencyPoint(_))), "{answer:?}");
        }
        Side::BOTH.iter().all(|side| orphans(pair, *side) == 1).then_some(())
    });
    file
}

#[test]
fn an_open_unlinked_file_lives_until_it_is_closed() {
    let mut pair = Cluster::start(Spec::default());
    let mut file = open_orphan(&mut pair);
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before after");
    file.write_all_at(b"AFTER", 7).unwrap();
    let mut part = [0; 5];
    file.read_exact_at(&mut part, 7).unwrap();
    assert_eq!(&part, b"AFTER");
    drop(file);
    pair.wait("no orphan on either node", |pair| {
        Side::BOTH.iter().all(|side| orphans(pair, *side) == 0).then_some(())
    });
    pair.check_trees_equal();
}

#[test]
fn an_orphan_is_gone_after_a_takeover() {
    let mut pair = Cluster::start(Spec::default());
    let file = open_orphan(&mut pair);
    pair.kill(Side::A);
    pair.wait_serving(Side::B);
    drop(file);
    pair.wait("no orphan on the new primary", |pair| (orphans(pair, Side::B) == 0).then_some(()));
    pair.start_node(Side::A);
    pair.wait_mirrored();
    pair.wait("no orphan on the old one", |pair| (orphans(pair, Side::A) == 0).then_some(()));
    pair.check_trees_equal();
}
