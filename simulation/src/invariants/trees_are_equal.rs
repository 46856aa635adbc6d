//! Base trees that stand at the same LSN are the same, labels and all.

use apply_engine::simulation::SimDisk;
use ids::Lsn;

/// Both trees stand at `at`. `compared`: where they were compared last.
pub fn check(compared: &mut Lsn, at: Lsn, disks: [&SimDisk; 2]) {
    if *compared == at {
        return;
    }
    *compared = at;
    let [ours, theirs] = disks.map(SimDisk::objects);
    for (oid, object) in &ours {
        match theirs.get(oid) {
            Some(other) if other == object => {}
            other => panic!(
                "at {at}, {oid} differs between the trees: {:?} and {:?}",
                object.brief(),
                other.map(|other| other.brief())
            ),
        }
    }
    assert_eq!(ours.len(), theirs.len(), "at {at}, one tree holds more objects than the other");
}
