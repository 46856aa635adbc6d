//! Where a volume's links come from, whatever carries them: the partner connects, or this side does.

use crate::rendezvous::Acceptor;
use crate::{Link, LinkError, LinkParams};
use ids::LogMemory;
use std::sync::Arc;
use std::time::Duration;

/// Makes the links of one volume, one after the other.
pub trait LinkSource: Send + Sync {
    /// Whether this side connects, and so decides when a new link is due; else the other does, and a newer link replaces an
    /// older one.
    fn connects(&self) -> bool;

    /// The next link, between the peer's ring and this `memory`. `None`: nobody connected within `wait`.
    ///
    /// # Errors
    /// There is no way to the partner, or it refused.
    fn next(
        &self,
        params: &LinkParams,
        memory: Arc<dyn LogMemory>,
        wait: Duration,
    ) -> Result<Option<Link>, LinkError>;
}

impl LinkSource for Acceptor {
    fn connects(&self) -> bool {
        false
    }

    fn next(&self, _: &LinkParams, _: Arc<dyn LogMemory>, wait: Duration) -> Result<Option<Link>, LinkError> {
        self.accept(wait)
    }
}

/// Connects by calling a function, each time anew.
pub struct Connector<C>(pub C);

impl<C> LinkSource for Connector<C>
where
    C: Fn(&LinkParams, Arc<dyn LogMemory>) -> Result<Link, LinkError> + Send + Sync,
{
    fn connects(&self) -> bool {
        true
    }

    fn next(
        &self,
        params: &LinkParams,
        memory: Arc<dyn LogMemory>,
        _: Duration,
    ) -> Result<Option<Link>, LinkError> {
        (self.0)(params, memory).map(Some)
    }
}
