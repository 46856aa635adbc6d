//! Refused names of a directory that gets another OID, as a resync does it.

use ids::Oid;
use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Image;
use super::room::volume;
use crate::base::Base;
use crate::name::Name;
use crate::remainder::holders::Holder;

const FROM: Oid = Oid(50);
const TO: Oid = Oid(60);

fn holder(directory: Oid, number: u32) -> Holder {
    Holder { directory, number }
}

fn names(image: &Image) -> PathBuf {
    image.path().join("volume/.twinfiler/remainder/names")
}

/// Puts one name into each of these, as consistency points would have done.
fn put(image: &Image, base: &Base, directory: Oid, names_in: &[(&str, u32)]) {
    let mut there = BTreeMap::new();
    for (name, number) in names_in {
        base.make_holder_fd(holder(directory, *number)).expect("makes");
        let path = names(image).join(holder(directory, *number).to_string()).join(name);
        std::fs::write(path, b"").expect("writes");
        there.insert(Name::new(name.as_bytes()).expect("a name"), *number);
    }
    base.remainder().names_are(directory, there);
}

/// Each of these is where it is looked for, in one of these directories.
fn are_found(base: &Base, directories: &[Oid], names: &[&str]) {
    for name in names {
        let name = Name::new(name.as_bytes()).expect("a name");
        let is_in = |directory: &&Oid| {
            let found = base.remainder().knows_name(**directory, &name).then(|| {
                let fd = base.refused_fd(**directory, &name).expect("what holds it is there");
                rustix::fs::statat(&fd, name.as_bytes(), rustix::fs::AtFlags::empty()).expect("is there")
            });
            found.is_some()
        };
        assert_eq!(directories.iter().filter(is_in).count(), 1, "{name:?}");
    }
}

#[test]
fn refused_names_that_were_moved_in_part_are_all_known() {
    let image = Image::new("ext4");
    let base = volume(&image);
    for stops_at in 0..3 {
        put(&image, &base, FROM, &[("a", 0), ("b", 1), ("c", 2)]);
        let in_the_way = names(&image).join(holder(TO, stops_at).to_string());
        std::fs::write(&in_the_way, b"").expect("writes");
        base.move_refused(FROM, TO).expect_err("something else stands there");
        are_found(&base, &[FROM, TO], &["a", "b", "c"]);
        std::fs::remove_file(in_the_way).expect("removes");
        base.prune_refused().expect("lists");
        are_found(&base, &[FROM, TO], &["a", "b", "c"]);
        base.move_refused(FROM, TO).expect("moves the rest");
        are_found(&base, &[TO], &["a", "b", "c"]);
        assert!(!base.remainder().has_names(FROM));
        base.move_refused(TO, FROM).expect("moves them back");
    }
}

/// As a start finds what a crash left.
#[test]
fn refused_names_come_to_those_that_are_there() {
    let image = Image::new("ext4");
    let base = volume(&image);
    put(&image, &base, TO, &[("a", 0), ("b", 1)]);
    put(&image, &base, FROM, &[("c", 2)]);
    base.move_refused(FROM, TO).expect("moves");
    are_found(&base, &[TO], &["a", "b", "c"]);

    // Where others have the numbers.
    put(&image, &base, FROM, &[("d", 0), ("e", 1), ("f", 2)]);
    base.move_refused(FROM, TO).expect("moves");
    let all = ["a", "b", "c", "d", "e", "f"];
    are_found(&base, &[TO], &all);
    base.prune_refused().expect("lists");
    are_found(&base, &[TO], &all);
    assert_eq!(std::fs::read_dir(names(&image)).expect("lists").count(), all.len());
}
