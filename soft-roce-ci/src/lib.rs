//! Two virtual machines with Soft-RoCE and emulated NVDIMMs, and the scenarios that run in them.
//!
//! - [`lab`]: the machines, the link between them, and how they are made
//! - [`agent`]: the harness's hand inside a guest
//! - [`scenario`]: what a scenario is and what it is given
//! - [`scenarios`]: all of them
//! - [`load`]: a load on a mount in a guest, and the oracle on the host that knows what it was promised

pub mod agent;
pub mod lab;
pub mod load;
pub mod scenario;
pub mod scenarios;
