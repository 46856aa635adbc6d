//! Listings that are shared, resumed, and given back.

use super::*;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Reads a page of `room` entries past `position`; the position after it, and whether there was more.
fn page(
    v: &Volume,
    stream: &DirectoryStream,
    position: u64,
    room: usize,
    into: &mut Vec<String>,
) -> (u64, bool) {
    let (mut after, mut more, mut left) = (position, false, room);
    v.read_directory(stream, position, |entry| {
        if left == 0 {
            more = true;
            return true;
        }
        left -= 1;
        after = entry.after;
        into.push(String::from_utf8(entry.name.to_vec()).unwrap());
        false
    })
    .unwrap();
    (after, more)
}

#[test]
fn all_who_have_a_directory_open_share_one_listing() {
    let f = fixture();
    let directory = f.directory("d");
    for i in 0..100 {
        f.node(directory, &format!("f{i}"), NodeKind::File).unwrap();
    }
    let streams: Vec<_> = (0..50).map(|_| f.open_directory(directory).unwrap()).collect();
    let listings: Vec<_> = streams.iter().map(|stream| f.listing(stream, true).unwrap()).collect();
    assert!(listings.iter().all(|listing| Arc::ptr_eq(listing, &listings[0])));
    // A change in between makes one more for all, not one for each.
    f.node(directory, "more", NodeKind::File).unwrap();
    let anew: Vec<_> = streams.iter().map(|stream| f.listing(stream, true).unwrap()).collect();
    assert!(anew.iter().all(|listing| Arc::ptr_eq(listing, &anew[0])));
    assert_eq!(anew[0].entries().len(), 101);
    let (old, new) = (Arc::downgrade(&listings[0]), Arc::downgrade(&anew[0]));
    drop((listings, anew));
    assert!(old.upgrade().is_none(), "nobody needs the older one any more");
    for stream in streams {
        f.close_directory(&stream);
    }
    assert!(new.upgrade().is_none(), "a closed directory keeps no memory");
}

#[test]
fn what_stays_is_listed_once_while_others_come_and_go() {
    let f = fixture();
    let directory = f.directory("d");
    let stays: BTreeSet<String> = (0..200).map(|i| format!("stays{i}")).collect();
    for name in &stays {
        f.node(directory, name, NodeKind::File).unwrap();
    }
    let (reader, other) = (f.open_directory(directory).unwrap(), f.open_directory(directory).unwrap());
    let (mut position, mut more, mut seen, mut round) = (0, true, Vec::new(), 0);
    while more {
        (position, more) = page(&f, &reader, position, 7, &mut seen);
        f.node(directory, &format!("comes{round}"), NodeKind::File).unwrap();
        if round > 0 {
            f.unlink(directory, format!("comes{}", round - 1).as_bytes()).unwrap();
        }
        // Somebody else begins, and makes a newer listing for both.
        page(&f, &other, 0, 3, &mut Vec::new());
        round += 1;
    }
    let listed: Vec<_> = seen.iter().filter(|name| name.starts_with("stays")).cloned().collect();
    assert_eq!(listed.len(), stays.len(), "an entry was lost or came twice");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), stays);
}

/// A tree below a directory with hundreds of entries in its default ACL is common; a copy for each would be much memory.
#[test]
fn directories_share_the_default_acl_that_they_inherit() {
    let f = fixture();
    let top = f.directory("top");
    let acl = super::super::acl::with_users(150);
    f.set_xattr(&Root, top, super::super::acl::DEFAULT, &acl.to_bytes(), XattrMode::Set).unwrap();
    let mut lowest = top;
    for number in 0..500 {
        if number % 100 == 0 {
            f.checkpoint();
        }
        let parent = if number % 3 == 0 { lowest } else { top };
        lowest = f.node(parent, &format!("d{number}"), NodeKind::Directory).unwrap().oid;
        assert_eq!(f.xattr(lowest, super::super::acl::DEFAULT), Ok(acl.to_bytes()));
    }
    let state = f.state.read();
    let kept = state.inodes.values().filter_map(|inode| inode.default_acl.as_ref()?.as_ref());
    let kept: Vec<_> = kept.map(Arc::as_ptr).collect();
    assert_eq!((kept.len(), BTreeSet::from_iter(kept).len()), (501, 1));
}
