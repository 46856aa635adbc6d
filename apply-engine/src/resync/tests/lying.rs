//! A source that lies: whatever it says of objects is refused or installed, never a panic, and a source that tells the
//! truth afterwards is believed.

use super::{Bounds, Side, all_labels, bring_gradually, capture_whole, check_like, pass, suspects};
use crate::attributes::ObjectKind;
use crate::name::Name;
use crate::oracle::MemoryLog;
use crate::resync::capture::{Capture, Entry, Surveyed, capture};
use crate::resync::{FIRST_CAST_OUT, Part, ResyncError, Telling, gradual, install, parts};
use crate::simulation::tree::SimTree;
use ids::{Lsn, Oid};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;

const KINDS: [ObjectKind; 7] = [
    ObjectKind::File,
    ObjectKind::Directory,
    ObjectKind::Symlink,
    ObjectKind::Fifo,
    ObjectKind::Socket,
    ObjectKind::CharDevice,
    ObjectKind::BlockDevice,
];

/// Honest sessions until the tree is the source's.
const MAX_SESSIONS: usize = 3;

struct Liar {
    random: StdRng,
    oids: u64,
}

impl Liar {
    fn kind(&mut self) -> ObjectKind {
        KINDS[self.random.random_range(0..KINDS.len())]
    }

    fn oid(&mut self) -> Oid {
        match self.random.random_range(0..20) {
            0 => Oid::ROOT,
            1 => Oid(u64::MAX - self.random.random_range(0..3)),
            2 => Oid(FIRST_CAST_OUT.0 | self.random.random_range(0..self.oids)),
            3 => Oid(0),
            _ => Oid(self.random.random_range(1..self.oids)),
        }
    }

    fn name(&mut self) -> Vec<u8> {
        match self.random.random_range(0..12) {
            0 => b"..".to_vec(),
            1 => b"a/b".to_vec(),
            2 => Vec::new(),
            3 => b".twinfiler".to_vec(),
            4 => vec![b'x'; 300],
            number => format!("n{number}").into_bytes(),
        }
    }

    /// What the source should say of an object, with some of it false.
    fn spoil(&mut self, truth: Surveyed) -> Surveyed {
        let oid = truth.oid();
        let mut said = match truth {
            Surveyed::Gone(_) if self.random.random_bool(0.5) => return truth,
            Surveyed::Here(_) if self.random.random_bool(0.1) => return Surveyed::Gone(oid),
            Surveyed::Here(said) => *said,
            Surveyed::Gone(oid) => Capture {
                oid,
                generation: self.random.random_range(0..3),
                kind: self.kind(),
                mode: self.random.random(),
                uid: self.random.random(),
                gid: self.random.random(),
                nlink: self.random.random_range(0..3),
                size: self.random.random(),
                atime: Default::default(),
                mtime: Default::default(),
                ctime: Default::default(),
                rdev: self.random.random(),
                last_lsn: Lsn(self.random.random()),
                target: self.name(),
                xattrs: vec![(b"user.k".to_vec(), self.name())],
                entries: Vec::new(),
                parts: self.random.random_range(0..3),
            },
        };
        for _ in 0..self.random.random_range(0..3) {
            match self.random.random_range(0..10) {
                0 => said.kind = self.kind(),
                1 => said.generation = self.random.random_range(0..4),
                2 => said.nlink = self.random.random_range(0..3),
                3 => said.size = u64::MAX,
                4 => said.entries.clear(),
                6 => said.parts = [0, 1, 2, 7, u32::MAX][self.random.random_range(0..5)],
                7 => (said.parts, said.entries) = (self.random.random_range(1..4), Vec::new()),
                5 => said.entries.extend(said.entries.first().cloned()),
                _ => {
                    let entry = Entry { name: self.name(), oid: self.oid(), kind: self.kind() };
                    said.entries.push(entry);
                }
            }
        }
        Surveyed::Here(Box::new(said))
    }

    /// What it should say of a part of a directory: names that are missing, come twice, belong to another part, or lead
    /// elsewhere; or that there is none.
    fn spoil_part(&mut self, truth: Option<Vec<Entry>>) -> Option<Vec<Entry>> {
        let mut said = truth.unwrap_or_default();
        for _ in 0..self.random.random_range(1..4) {
            match self.random.random_range(0..5) {
                0 => said.clear(),
                1 => said.extend(said.first().cloned()),
                2 => return None,
                3 => drop(said.pop()),
                _ => said.push(Entry { name: self.name(), oid: self.oid(), kind: self.kind() }),
            }
        }
        Some(said)
    }
}

/// Asked by a receiver.
struct Lying<'a> {
    liar: Liar,
    source: &'a SimTree<Arc<MemoryLog>>,
    lies: u32,
    room: usize,
}

impl Telling<ResyncError> for Lying<'_> {
    fn describe(&mut self, oids: &[Oid]) -> Result<Vec<Surveyed>, ResyncError> {
        let mut room = self.room;
        let tell = |oid: &Oid| {
            let truth = capture(self.source, *oid, &mut room, self.room)?;
            let lies = self.liar.random.random_ratio(self.lies, 100);
            Ok(if lies { self.liar.spoil(truth) } else { truth })
        };
        oids.iter().map(tell).collect()
    }

    fn entries(&mut self, directory: Oid, part: Part) -> Result<Option<Vec<Entry>>, ResyncError> {
        let truth = parts::entries(self.source, directory, part, self.room)?;
        let lies = self.liar.random.random_ratio(self.lies, 100);
        Ok(if lies { self.liar.spoil_part(truth) } else { truth })
    }

    fn seed(&self) -> u64 {
        7
    }
}

/// `lies` of a hundred descriptions are false.
fn lie_to(seed: u64, ours: usize, theirs: usize, lies: u32, at_once: Option<Bounds>) {
    let mut source = Side::new(seed);
    source.steps(ours);
    source.apply();
    let mut receiver = Side::new(seed);
    receiver.steps(ours);
    receiver.apply();
    source.part(seed ^ 1);
    source.steps(theirs);
    source.apply();
    let mut liar = Liar { random: StdRng::seed_from_u64(seed), oids: (ours + theirs + 4) as u64 };
    let mut told: Vec<Oid> = (0..12).map(|_| liar.oid()).chain([Oid::ROOT]).collect();
    told.sort_unstable();
    told.dedup();
    let (tree, from) = (&receiver.tree, &source.tree);
    let room = at_once.map_or(usize::MAX, |bounds| bounds.room);
    let mut telling = Lying { liar, source: from, lies, room };
    let mut lied_to = || -> Result<(), ResyncError> {
        let Some(Bounds { at_once, .. }) = at_once else {
            install::names(tree, &telling.describe(&told)?)?;
            return Ok(());
        };
        let identity = |surveyed: Surveyed| match surveyed {
            Surveyed::Here(capture) => (capture.oid, Some((capture.kind, capture.generation))),
            Surveyed::Gone(oid) => (oid, None),
        };
        let identities: Vec<_> = telling.describe(&told)?.into_iter().map(identity).collect();
        gradual::make_way(tree, &identities)?;
        let mut gradual = gradual::Gradual::with(tree, at_once)?;
        for some in told.chunks(at_once) {
            gradual.some(tree, telling.describe(some)?, &mut telling)?;
        }
        gradual.end(tree, &mut telling)?;
        Ok(())
    };
    let _refused_or_not = lied_to();
    tree.sync();
    // The next sessions compare everything; each ends with all labels compared.
    let flush = || tree.sync();
    for _ in 0..MAX_SESSIONS {
        let left = match at_once {
            Some(at_once) => {
                bring_gradually(from, tree, suspects(from, tree, Lsn::ZERO), at_once, &flush)
                    .expect("the truth is installed")
                    .1
            }
            None => {
                pass(from, tree, Lsn::ZERO, &flush).expect("the truth is installed");
                Vec::new()
            }
        };
        if left.is_empty() && all_labels(tree) == all_labels(from) {
            break;
        }
    }
    check_like(tree, &source);
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_source_that_lies_is_refused_or_believed_and_the_truth_heals(
        seed: u64, ours in 0..40usize, theirs in 0..20usize, lies in 1..100_u32,
    ) {
        lie_to(seed, ours, theirs, lies, None);
    }

    #[test]
    fn a_source_that_lies_a_few_objects_at_a_time_is_too(
        seed: u64, ours in 0..40usize, theirs in 0..20usize, lies in 1..100_u32, at_once in 1..12usize,
        room in 0..12usize,
    ) {
        lie_to(seed, ours, theirs, lies, Some(Bounds { at_once, room }));
    }
}

#[test]
fn the_root_is_never_gone_nor_without_a_name() {
    let mut side = Side::new(7);
    side.steps(10);
    side.apply();
    let Ok(Surveyed::Here(root)) = capture_whole(&side.tree, Oid::ROOT) else { panic!("it is there") };
    let lies = [
        Surveyed::Gone(Oid::ROOT),
        Surveyed::Here(Box::new(Capture { nlink: 0, ..*root.clone() })),
        Surveyed::Here(Box::new(Capture { kind: ObjectKind::File, entries: Vec::new(), ..*root })),
    ];
    for lie in lies {
        let mut telling = super::Honest { source: &side.tree, room: usize::MAX };
        let mut gradual = gradual::Gradual::with(&side.tree, 4).expect("nothing fails");
        for refused in [
            install::names(&side.tree, std::slice::from_ref(&lie)).map(drop),
            gradual.some(&side.tree, vec![lie.clone()], &mut telling).map(drop),
        ] {
            assert!(matches!(refused, Err(ResyncError::Contradiction(Oid::ROOT))), "{lie:?}: {refused:?}");
        }
    }
    assert!(Name::new(b"..").is_err());
}
