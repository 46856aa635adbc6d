//! Test support: an obvious in-memory filesystem, random valid operations, and a log in memory.
