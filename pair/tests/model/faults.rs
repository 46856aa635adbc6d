//! The bounds of a search: how many faults of each kind a run may have, and how many in all.

/// Faults that may still happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Faults {
    /// Of all kinds together.
    pub total: u8,
    /// A node loses power, with or without the last record that it had not made durable.
    pub crashes: u8,
    /// The link breaks; each end notices when it does, or only by silence.
    pub cuts: u8,
    /// One direction of the link is late for as long as it likes.
    pub holds: u8,
    /// A node's process stands still for as long as it likes.
    pub pauses: u8,
    /// A request to the witness, or the answer, is lost, or comes late; or the witness is away for a time.
    pub witness: u8,
    /// An operator asks for a switchover, or ends a process.
    pub operator: u8,
    /// An operator forces a takeover.
    pub forces: u8,
    /// The witness loses its register.
    pub forgets: u8,
    /// The witness comes back with an older register, from a backup.
    pub rollbacks: u8,
}

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Crash,
    Cut,
    Hold,
    Pause,
    Witness,
    Operator,
    Force,
    Forget,
    Rollback,
}

impl Faults {
    fn of(&mut self, kind: Kind) -> &mut u8 {
        match kind {
            Kind::Crash => &mut self.crashes,
            Kind::Cut => &mut self.cuts,
            Kind::Hold => &mut self.holds,
            Kind::Pause => &mut self.pauses,
            Kind::Witness => &mut self.witness,
            Kind::Operator => &mut self.operator,
            Kind::Force => &mut self.forces,
            Kind::Forget => &mut self.forgets,
            Kind::Rollback => &mut self.rollbacks,
        }
    }

    pub fn left(mut self, kind: Kind) -> bool {
        self.total > 0 && *self.of(kind) > 0
    }

    pub fn spend(&mut self, kind: Kind) {
        self.total -= 1;
        *self.of(kind) -= 1;
        if self.total == 0 {
            // States whose remaining bounds differ only in what cannot be used are one.
            *self = Faults::default();
        }
    }
}
