//! A bug that a simulation must find: registers are believed that are older than what this node knows.
//!
//! Only a build with the feature `simulation` can plant it; elsewhere `old_register_believed` is `false` and nothing
//! more. A simulation lives on one thread, so several of them run beside each other.

#[cfg(feature = "simulation")]
thread_local! {
    static OLD_REGISTER_BELIEVED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// From now on the pairs of this thread have the bug, or not.
#[cfg(feature = "simulation")]
pub fn believe_old_registers(believe: bool) {
    OLD_REGISTER_BELIEVED.set(believe);
}

pub(crate) fn old_register_believed() -> bool {
    #[cfg(feature = "simulation")]
    let believed = OLD_REGISTER_BELIEVED.get();
    #[cfg(not(feature = "simulation"))]
    let believed = false;
    believed
}
