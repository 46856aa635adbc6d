//! Semantics of every POSIX operation over the Delta and base layers.
