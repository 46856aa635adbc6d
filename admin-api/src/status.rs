//! What a node tells about itself: the status model, and its rendering for people.
//!
//! Invariants: the model is plain data that travels over the control socket as JSON; it is filled by the
//! runtime and never computed back into decisions; whatever the node does not know is `None`, never a
//! guessed zero. Numbers carry their unit in their name. What can go wrong: fields are only ever added, so that an
//! older `twinfiler status` reads a newer daemon (unknown fields are ignored).

mod fault;
mod format;
mod model;
mod render;
mod split;
mod verify;

#[cfg(test)]
mod tests;

pub use fault::{Fault, FaultKind};
pub use format::{bytes, counted, duration_us, percent};
pub use model::{
    AckLevel, ConsistencyPointStatus, FloatingIpStatus, HookStatus, Lag, LatencySummary, LeaseStatus,
    LogStatus, Mode, NodeStatus, PartnerView, RdmaStatus, RecentLatency, ReplayStatus, ResyncSide,
    ResyncStatus, Role, SpaceStatus, StageLatency, TakeoverTiming, TransportCounters, VolumeStatus,
    WitnessStatus, role_name,
};
pub use render::render;
pub use split::{ChangedObject, DIRECTORY, SplitReport, SplitSide, mark_both};
pub use verify::{VerifyFinding, VerifyProgress, VerifyResult, VerifyStatus};

#[cfg(test)]
pub(crate) use tests::sample;
