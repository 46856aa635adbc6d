//! Where links come from on the side that listens.
use crate::{Link, LinkError};
use std::time::Duration;

/// Links of one registered volume, from the partner that connects.
pub struct Acceptor {}

impl Acceptor {
    /// The next link; `None` when none came within `wait`. A newer link replaces one that nobody has taken yet.
    /// Dropping the acceptor unregisters the volume.
    ///
    /// # Errors
    /// The listener was dropped.
    pub fn accept(&self, _wait: Duration) -> Result<Option<Link>, LinkError> {
        unimplemented!()
    }
}
