//! soft-roce-ci
