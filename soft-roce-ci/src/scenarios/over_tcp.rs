//! The same pair over TCP: power cut of the primary under load, and its rejoin.

use super::{pair_machines, power_cut_primary};
use crate::pair::plan::Plan;
use crate::scenario::Scenario;

pub const SCENARIO: Scenario = Scenario {
    name: "over-tcp",
    about: "the same pair over tcp: power cut of the primary under load, takeover, rejoin",
    machines: pair_machines,
    run: |run| power_cut_primary::survive(run, Plan::over_tcp()),
};
