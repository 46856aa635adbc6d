//! filer
