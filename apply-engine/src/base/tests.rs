//! The base on real filesystems.
