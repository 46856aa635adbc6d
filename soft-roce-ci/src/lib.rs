//! Two virtual machines with Soft-RoCE and emulated NVDIMMs, and the scenarios that run in them.
//!
//! - [`lab`]: the machines, the link between them, and how they are made
//! - [`mod@bench`]: measurements in guests, beside bare peers
//! - [`agent`]: the harness's hand inside a guest
//! - [`scenario`]: what a scenario is and what it is given
//! - [`scenarios`]: all of them
//! - [`pair`]: a pair of nodes in the guests, its witness, its states
//! - [`in_guest`]: the harness's commands inside a guest
//! - [`load`]: a load on a mount in a guest, and the oracle on the host that knows what it was promised

pub mod agent;
pub mod bench;
pub mod in_guest;
pub mod lab;
pub mod load;
pub mod pair;
pub mod scenario;
pub mod scenarios;
