//! The pair as operators of both nodes see it.

use crate::world::World;
use ids::NodeName;
use pair::witness::Mode;
use pair::{PairMode, PairStatus, RoleName};

impl World {
    pub fn statuses(&self) -> [Option<PairStatus>; 2] {
        [0, 1].map(|node| {
            let n = &self.nodes[node];
            n.pair.as_ref().map(|pair| pair.status(n.clock(self.time_ms)))
        })
    }

    pub fn modes(&self) -> [Option<(RoleName, PairMode)>; 2] {
        self.statuses().map(|status| status.map(|status| (status.role, status.mode)))
    }

    pub fn assert_mirrored(&self) {
        let modes = self.modes();
        let primary = Some((RoleName::Primary, PairMode::Mirrored));
        let partner = Some((RoleName::Partner, PairMode::Mirrored));
        assert!(
            modes == [primary, partner] || modes == [partner, primary],
            "not mirrored at {} ms: {modes:?}, register {:?}\n{:?}",
            self.time_ms,
            self.register,
            self.statuses()
        );
    }

    /// Who may serve is not known without an operator: there is no witness, it lost its state, or it granted the
    /// right to serve alone, late, to a node that had lost its log by then.
    pub fn may_wait_for_operator(&self) -> bool {
        let survives =
            |name: &NodeName| self.nodes.iter().all(|node| node.name != *name || node.disk.survived);
        let register = self.register.as_ref();
        !self.nodes[0].config.witness
            || register.is_none_or(|register| register.mode == Mode::Solo && !survives(&register.primary))
    }
}
