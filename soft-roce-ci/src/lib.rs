//! Two virtual machines with Soft-RoCE and emulated NVDIMMs, and the scenarios that run in them.
//!
//! Not built yet: the crate holds its place in the workspace until the verbs transport needs it.
