//! The one transition function.
use crate::{Command, Config, ConfigError, DurableState, Event, LogSummary, MonoMs, Operator, PairStatus};

/// The state machine of one volume on one node.
pub struct Pair {
    _config: Config,
}

impl Pair {
    /// Starts with what the log's superblock and recovery said.
    ///
    /// # Errors
    /// A configuration that can not work.
    pub fn new(
        config: Config,
        durable: DurableState,
        log: LogSummary,
        now: MonoMs,
    ) -> Result<(Pair, Vec<Command>), ConfigError> {
        let _ = (durable, log, now);
        config.check()?;
        Ok((Pair { _config: config }, Vec::new()))
    }

    /// Takes an event, returns what to do about it, in order (see [`crate::command`]).
    pub fn apply(&mut self, now: MonoMs, event: Event) -> Vec<Command> {
        let _ = (now, event);
        Vec::new()
    }

    /// When the next `Tick` must come at the latest.
    pub fn next_deadline(&self) -> MonoMs {
        MonoMs(0)
    }

    /// Can this wish be met now? `Err` says why not, for the operator.
    ///
    /// # Errors
    /// A line for the operator.
    pub fn can(&self, wish: Operator) -> Result<(), String> {
        Err(format!("{wish:?}"))
    }

    /// The pair as this node sees it at `now`.
    pub fn status(&self, now: MonoMs) -> PairStatus {
        unimplemented!("{now:?}")
    }
}
