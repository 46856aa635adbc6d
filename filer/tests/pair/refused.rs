//! What a base filesystem refuses for good, after it was answered: it is kept, shown, told, and stops nobody.

use crate::harness::{Cluster, Side, Spec, within};
use admin_api::control::{Answer, Request};
use admin_api::status::{Mode, VolumeStatus};
use std::fs;
use std::path::Path;
use std::time::Duration;

const BATCH: usize = 4000;
const BATCH_LIMIT: Duration = Duration::from_secs(120);

fn refused(volume: &VolumeStatus) -> Option<String> {
    let begins = |what: &str| what.starts_with("the base filesystem does not hold");
    volume.faults.iter().map(|fault| fault.what.clone()).find(|what| begins(what))
}

fn apply_all(pair: &Cluster) {
    for side in Side::BOTH {
        let answer = pair.ask(side, &Request::ConsistencyPoint { volume: "v".to_owned() });
        assert!(matches!(answer, Ok(Answer::ConsistencyPoint(_))), "{answer:?}\n{}", pair.diagnosis());
    }
}

/// A base's names over which an administrator has mounted something are moved and removed, on both nodes, from the rights
/// that a node keeps.
#[test]
fn names_that_something_is_mounted_on_move_and_go() {
    let mut pair = Cluster::start(Spec { disk_mib: [Some(200), Some(200)], ..Spec::default() });
    let at = pair.mount(Side::A);
    for name in ["file", "gone"] {
        fs::write(at.join(name), name).unwrap();
    }
    for name in ["d", "e"] {
        fs::create_dir(at.join(name)).unwrap();
    }
    fs::write(at.join("d/inside"), "inside").unwrap();
    apply_all(&pair);
    let mounted: Vec<_> = Side::BOTH
        .iter()
        .flat_map(|side| ["d/inside", "d", "e", "file", "gone"].map(|name| pair.base(*side).join(name)))
        .collect();
    for name in &mounted {
        let what = if name.is_dir() { "/proc/sys" } else { "/proc/version" };
        rustix::mount::mount_bind(what, name).unwrap();
    }
    assert_eq!(fs::read_to_string(at.join("d/inside")).unwrap(), "inside", "clients see what is below");
    fs::rename(at.join("file"), at.join("moved")).unwrap();
    fs::remove_file(at.join("gone")).unwrap();
    fs::remove_dir(at.join("e")).unwrap();
    fs::rename(at.join("d"), at.join("f")).unwrap();
    fs::remove_file(at.join("f/inside")).unwrap();
    apply_all(&pair);
    for side in Side::BOTH {
        let base = pair.base(side);
        for moved in ["moved", "f"] {
            rustix::mount::unmount(base.join(moved), rustix::mount::UnmountFlags::empty()).unwrap();
        }
        assert_eq!(fs::read_to_string(base.join("moved")).unwrap(), "file");
        assert_eq!(names_in(&base.join("f")), 0);
        assert!(["file", "gone", "d", "e"].iter().all(|gone| !base.join(gone).exists()), "{side:?}");
        assert!(refused(&pair.volume(side).unwrap()).is_none());
    }
    let result = crate::verify::run_on(&pair, Side::A, &[], 0);
    assert_eq!((result.differing, &result.error), (0, &None), "{result:?}");
    pair.kill(Side::A);
    pair.wait_serving(Side::B);
    assert_eq!(fs::read_to_string(pair.mount(Side::B).join("moved")).unwrap(), "file");
}

fn names_in(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().map(Result::unwrap).count()
}

/// An ext4 directory with blocks of 1 KiB, whose index cannot grow any more: ENOSPC with most of the disk free.
#[test]
fn names_that_a_directory_cannot_take_are_kept() {
    let small_blocks: &[&str] = &["-b", "1024"];
    let spec =
        Spec { disk_mib: [Some(200), Some(200)], mkfs: [small_blocks, small_blocks], ..Spec::default() };
    let mut pair = Cluster::start(spec);
    let directory = pair.mount(Side::A).join("d");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("file"), "content").unwrap();
    let mut count = 0;
    let told = loop {
        assert!(count < 60_000, "this filesystem takes them all");
        let at = directory.clone();
        within(BATCH_LIMIT, "links", move || {
            (count..count + BATCH)
                .try_for_each(|number| fs::hard_link(at.join("file"), at.join(format!("{number:0>247}"))))
        })
        .unwrap();
        count += BATCH;
        apply_all(&pair);
        if let Some(told) = Side::BOTH.iter().find_map(|side| refused(&pair.volume(*side)?)) {
            break told;
        }
    };
    assert!(told.contains("the name \"0") && told.contains("No space left on device"), "{told}");
    for side in Side::BOTH {
        let volume = pair.volume(side).unwrap();
        assert_eq!(volume.mode, Mode::Mirrored);
        let other =
            volume.faults.iter().find(|fault| !fault.what.starts_with("the base filesystem does not"));
        assert!(other.is_none(), "{other:?}");
    }
    assert_eq!(names_in(&directory), count + 1);
    // The two disks do not refuse the same names, and the trees are the same.
    let result = crate::verify::run_on(&pair, Side::A, &[], 0);
    assert_eq!((result.differing, &result.error), (0, &None), "{result:?}");

    // After a takeover by the partner, and on a node that was started again.
    pair.kill(Side::A);
    pair.wait_serving(Side::B);
    assert_eq!(names_in(&pair.mount(Side::B).join("d")), count + 1);
    pair.start_node(Side::A);
    pair.wait_mirrored();
    let last = pair.mount(Side::B).join("d").join(format!("{:0>247}", count - 1));
    assert_eq!(fs::read_to_string(&last).unwrap(), "content");
    fs::remove_file(last).unwrap();
    apply_all(&pair);
    let result = crate::verify::run_on(&pair, Side::B, &[], 0);
    assert_eq!((result.differing, &result.error), (0, &None), "{result:?}");
}
