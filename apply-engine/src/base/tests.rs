//! The base on real filesystems: ext4, xfs and btrfs in image files, mounted through loop devices.
//!
//! These need root, loop devices, and the three `mkfs` programs; without them they fail and say what is missing.

mod adoption;
mod allocated;
mod applying;
mod full;
mod moved_names;
mod opening;
mod remainder;
pub(crate) mod room;
mod same_hash;
mod strangers;
mod volume_image;

pub(crate) use volume_image::{FILESYSTEMS, Image};
