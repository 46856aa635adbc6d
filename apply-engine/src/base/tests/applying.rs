//! Consistency points on real filesystems, against the oracle.

use super::{FILESYSTEMS, Image};
use crate::attributes::ObjectKind;
use crate::base::{Base, Label};
use crate::consistency::{ApplyError, apply_to};
use crate::delta::{Delta, RecordPosition, Vanished};
use crate::executor::base_tree::BaseTree;
use crate::executor::uring::{PayloadSource, PinnedBytes};
use crate::name::NameRef;
use crate::op::{NewKind, NewObject, Operation, Other};
use crate::oracle::{Generator, MemoryLog, Step, difference};
use crate::view::{Layers, LogBytes};
use ids::{Lsn, Oid, VolumeId};
use parking_lot::RwLock;
use rustix::io::Errno;
use std::path::Path;
use std::sync::Arc;

const VOLUME: VolumeId = VolumeId([3; 16]);

// SAFETY: a vector's buffer stays where it is for as long as nobody changes the vector, and nobody can.
unsafe impl PinnedBytes for Vec<u8> {
    fn as_ptr(&self) -> *const u8 {
        self.as_slice().as_ptr()
    }
    fn len(&self) -> usize {
        self.as_slice().len()
    }
}

impl PayloadSource for MemoryLog {
    type Bytes = Vec<u8>;
    fn bytes(&self, from: Lsn, len_bytes: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; len_bytes];
        self.copy_out(from, &mut bytes).map_err(|_| Errno::STALE)?;
        Ok(bytes)
    }
    fn copy(&self, from: Lsn, len_bytes: usize) -> Result<Vec<u8>, Errno> {
        self.bytes(from, len_bytes)
    }
}

/// A volume whose root is like that of the oracle's model.
fn like_the_model(path: &Path) -> Base {
    let base = Base::create(path, VOLUME).expect("creates");
    let root = base.inode(Oid::ROOT).expect("the root");
    let label = root.label().expect("its label");
    let zero = crate::Timestamp::default();
    root.set_label(&Label { ctime: zero, generation: 0, mode: 0o755, ..label }).expect("labels");
    root.set_mode(0o755).expect("sets the mode");
    root.set_times(Some(zero), Some(zero)).expect("sets the times");
    drop(root);
    base
}

fn check(base: &Arc<Base>, log: &Arc<MemoryLog>, generator: &Generator, about: &str) {
    let layers = Layers {
        active: Arc::new(RwLock::new(Delta::new(Lsn::ZERO, Vanished::Forget).into())),
        sealed: Vec::new(),
        base: base.clone(),
        log: log.clone(),
    };
    if let Some(found) = difference(&layers, generator.model()) {
        panic!("{about}: {found}");
    }
    assert_eq!(base.object_count().expect("counts"), generator.model().nodes.len() as u64, "{about}");
}

fn delta_of(steps: &[(RecordPosition, Step)], vanished: Vanished) -> Delta {
    let mut delta = Delta::new(steps.first().map_or(Lsn::ZERO, |(at, _)| at.lsn), vanished);
    for (at, step) in steps {
        delta.absorb(*at, &step.operation());
    }
    delta
}

#[test]
fn consistency_points_give_the_oracles_tree() {
    for (filesystem, seed) in FILESYSTEMS.into_iter().zip(1..) {
        let image = Image::new(filesystem);
        let path = image.directory("volume");
        let mut base = Arc::new(like_the_model(&path));
        let (log, mut generator) = (Arc::new(MemoryLog::default()), Generator::new(seed));
        for point in 0..4 {
            let about = format!("{filesystem}, consistency point {point}");
            let steps: Vec<_> =
                generator.steps(250).into_iter().map(|step| (log.append(&step), step)).collect();
            apply_to(&BaseTree::new(&base, &*log), &delta_of(&steps, Vanished::Forget)).expect(&about);
            check(&base, &log, &generator, &about);
            // Recovery over the same records, half of them first, after a restart without the index's last state.
            base.sync().expect("syncs");
            drop(base);
            image.remount();
            base = Arc::new(Base::open(&path, VOLUME).expect("opens"));
            check(&base, &log, &generator, &format!("{about}, restarted"));
            apply_to(&BaseTree::new(&base, &*log), &delta_of(&steps, Vanished::Keep)).expect(&about);
            check(&base, &log, &generator, &format!("{about}, again"));
        }
        let hidden = path.join(".twinfiler/staging");
        assert_eq!(std::fs::read_dir(hidden).expect("lists").count(), 0, "{filesystem}: staging is empty");
        std::fs::remove_file(path.join(".twinfiler/index.redb")).expect("removes");
        base.sync().expect("syncs");
        drop(base);
        let base = Arc::new(Base::open(&path, VOLUME).expect("opens"));
        check(&base, &log, &generator, &format!("{filesystem}, index rebuilt"));
    }
}

#[test]
fn a_full_disk_is_a_typed_error_and_applying_goes_on_when_there_is_room() {
    let image = Image::with_size("ext4", 16 << 20);
    let path = image.directory("volume");
    let base = Arc::new(like_the_model(&path));
    let ballast = image.path().join("ballast");
    let filled = std::process::Command::new("sh")
        .args(["-c", "head -c 100M /dev/zero > \"$0\" 2>/dev/null; sync -f \"$0\""])
        .arg(&ballast)
        .status();
    filled.expect("sh runs");
    let (log, mut generator) = (Arc::new(MemoryLog::default()), Generator::new(11));
    let steps: Vec<_> = generator.steps(300).into_iter().map(|step| (log.append(&step), step)).collect();
    let tree = BaseTree::new(&base, &*log);
    match apply_to(&tree, &delta_of(&steps, Vanished::Forget)) {
        Err(ApplyError::NoSpace(_)) => {}
        other => panic!("expected a full disk, got {other:?}"),
    }
    std::fs::remove_file(ballast).expect("removes");
    apply_to(&tree, &delta_of(&steps, Vanished::Forget)).expect("there is room now");
    check(&base, &log, &generator, "after the disk was full");
}

/// Somebody who got into the tree has put a file where an object is about to be born, and keeps it open.
#[test]
fn a_planted_file_never_becomes_an_object() {
    let image = Image::new("ext4");
    let path = image.directory("volume");
    let base = Arc::new(like_the_model(&path));
    let name = NameRef::new(b"secret").expect("a name");
    for (number, (uid, mode)) in [(1000, 0o600), (0, 0o666), (0, 0o600)].into_iter().enumerate() {
        let planted = path.join("secret");
        let held = std::fs::File::create(&planted).expect("plants");
        std::os::unix::fs::fchown(&held, Some(uid), None).expect("gives away");
        held.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("sets the mode");
        let oid = Oid(100 + number as u64);
        let object = NewObject {
            oid,
            kind: NewKind::File,
            mode: 0o600,
            uid: 0,
            gid: 0,
            generation: 1,
            xattrs: vec![],
        };
        let at = crate::Timestamp::default();
        let lsn = |record: u64| Lsn((number as u64 * 2 + record) * 8192);
        let born = Operation::Create { parent: Oid::ROOT, name, object, parent_nlink: 2, at };
        let gone = Other { oid, kind: ObjectKind::File, nlink: 0 };
        let unlink =
            Operation::Unlink { parent: Oid::ROOT, name, object: gone, reap: true, parent_nlink: 2, at };
        for (record, operation) in [born, unlink].iter().enumerate() {
            let (lsn, end) = (lsn(record as u64), lsn(record as u64 + 1));
            let mut delta = Delta::new(lsn, Vanished::Forget);
            delta.absorb(RecordPosition { lsn, end, payload_lsn: lsn.plus(64) }, operation);
            apply_to(&BaseTree::new(&base, &MemoryLog::default()), &delta).expect("applies");
            if record == 0 {
                let ours = base.inode(oid).expect("is there").number();
                let theirs = std::os::unix::fs::MetadataExt::ino(&held.metadata().expect("stats"));
                // Root's own, and closed: left by an attempt that was interrupted.
                assert_eq!(ours == theirs, (uid, mode) == (0, 0o600), "{uid} {mode:o}");
            }
        }
        assert!(!planted.exists());
    }
}

#[test]
fn an_index_that_lost_an_object_is_mended() {
    let image = Image::new("ext4");
    let path = image.directory("volume");
    let base = Arc::new(like_the_model(&path));
    let (log, mut generator) = (Arc::new(MemoryLog::default()), Generator::new(11));
    let mut missed = false;
    for round in 0..6 {
        let steps: Vec<_> = generator.steps(60).into_iter().map(|step| (log.append(&step), step)).collect();
        let delta = delta_of(&steps, Vanished::Forget);
        if round > 0 {
            let known = base.known(Oid(Oid::ROOT.0 + 1), usize::MAX).expect("reads the index");
            known.into_iter().for_each(|oid| base.forget(oid).expect("forgets"));
        }
        let applied = apply_to(&BaseTree::new(&base, &*log), &delta);
        if let Err(ApplyError::Missing(_)) = applied {
            missed = true;
            base.mend_index().expect("walks");
            assert!(base.take_index_trouble().is_some_and(|told| told.contains("rebuilt")));
            apply_to(&BaseTree::new(&base, &*log), &delta).expect("applies after all");
        }
        base.mend_index().expect("walks");
        check(&base, &log, &generator, &format!("round {round}"));
    }
    assert!(missed, "no record needed what the index had lost");
}
