//! Two virtual machines with Soft-RoCE and emulated NVDIMMs, and the scenarios that run in them.
//!
//! - [`load`]: a load on a mount in a guest, and the oracle on the host that knows what it was promised

pub mod load;
