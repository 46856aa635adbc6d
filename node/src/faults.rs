//! What is wrong with a volume now, for status, metrics and the log.
//!
//! Invariant: at most one fault of each kind stands; another text of the same kind takes its place and keeps its age. Each
//! is over as soon as whoever raised it sees that its cause is gone.

use admin_api::status::{Fault, FaultKind};
use runtime::Mutex;
use std::time::Duration;

/// The faults of one volume.
pub(super) struct Faults {
    volume: String,
    standing: Mutex<Vec<Fault>>,
}

impl Faults {
    pub fn new(volume: &str) -> Faults {
        Faults { volume: volume.to_owned(), standing: Mutex::default() }
    }

    /// Something is wrong. What is told already is not told again.
    pub fn raise(&self, kind: FaultKind, what: &str, remedy: &str) {
        self.raise_after(kind, Duration::ZERO, what, remedy);
    }

    /// Likewise, of what has lasted for so long.
    pub fn raise_after(&self, kind: FaultKind, lasted: Duration, what: &str, remedy: &str) {
        let mut standing = self.standing.lock();
        let known = standing.iter().position(|fault| fault.kind == kind);
        if known.is_some_and(|at| standing[at].what == what) {
            return;
        }
        tracing::error!(volume = self.volume, kind = kind.as_str(), what, remedy, "fault");
        let since_unix_ms = match known {
            Some(at) => standing.remove(at).since_unix_ms,
            None => runtime::unix_ms().saturating_sub(lasted.as_millis() as u64),
        };
        standing.push(Fault { since_unix_ms, kind, what: what.to_owned(), remedy: remedy.to_owned() });
    }

    /// What was wrong of this kind is over.
    pub fn clear(&self, kind: FaultKind) {
        self.standing.lock().retain(|fault| {
            let over = fault.kind == kind;
            if over {
                tracing::info!(volume = self.volume, what = fault.what, "fault is over");
            }
            !over
        });
    }

    /// Is something of this kind wrong?
    pub fn has(&self, kind: FaultKind) -> bool {
        self.standing.lock().iter().any(|fault| fault.kind == kind)
    }

    /// All of them, newest last.
    pub fn all(&self) -> Vec<Fault> {
        self.standing.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_fault_of_each_kind_stands_and_keeps_its_age() {
        let faults = Faults::new("home");
        faults.raise_after(FaultKind::Alone, Duration::from_secs(60), "away", "bring it back");
        let since = faults.all()[0].since_unix_ms;
        assert!(since + 60_000 <= runtime::unix_ms());
        faults.raise(FaultKind::Split, "split", "settle it");
        faults.raise(FaultKind::Alone, "still away", "bring it back");
        let all: Vec<_> = faults.all().into_iter().map(|fault| (fault.kind, fault.what)).collect();
        let expected = [(FaultKind::Split, "split"), (FaultKind::Alone, "still away")];
        assert_eq!(all, expected.map(|(kind, what)| (kind, what.to_owned())));
        assert_eq!(faults.all()[1].since_unix_ms, since);
        faults.clear(FaultKind::Alone);
        assert!(!faults.has(FaultKind::Alone) && faults.has(FaultKind::Split));
    }
}
