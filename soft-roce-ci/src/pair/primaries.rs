//! Who was seen to serve as primary, in which epoch: never two in one.

use super::view::View;
use crate::lab::Side;
use std::collections::BTreeMap;

/// What all statuses of a run have said so far.
#[derive(Debug, Default)]
pub struct Primaries {
    by_epoch: BTreeMap<u64, Side>,
    violations: Vec<String>,
}

impl Primaries {
    /// Takes a status in.
    pub fn observe(&mut self, side: Side, view: &View) {
        if view.role() != "primary" {
            return;
        }
        let epoch = view.epoch();
        let first = *self.by_epoch.entry(epoch).or_insert(side);
        if first != side && self.violations.is_empty() {
            self.violations.push(format!(
                "both nodes were primary of epoch {epoch}: first {}, then {}: {}",
                first.name(),
                side.name(),
                view.brief()
            ));
        }
    }

    /// The primary of the newest epoch that anybody served in, with that epoch.
    pub fn newest(&self) -> Option<(u64, Side)> {
        self.by_epoch.last_key_value().map(|(epoch, side)| (*epoch, *side))
    }

    /// The primaries of all epochs after this one.
    pub fn since(&self, epoch: u64) -> impl Iterator<Item = (u64, Side)> {
        self.by_epoch.range(epoch + 1..).map(|(epoch, side)| (*epoch, *side))
    }

    /// What must not have been.
    pub fn violation(&self) -> Option<&str> {
        self.violations.first().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn two_primaries_of_one_epoch_are_noticed_and_of_two_are_not() {
        let view = |role: &str, epoch: u64| {
            View::of_line(&json!({"role": role, "epoch": epoch}).to_string()).unwrap()
        };
        let mut primaries = Primaries::default();
        primaries.observe(Side::A, &view("primary", 3));
        primaries.observe(Side::B, &view("partner", 3));
        primaries.observe(Side::B, &view("primary", 4));
        primaries.observe(Side::A, &view("primary", 3));
        assert_eq!((primaries.violation(), primaries.newest()), (None, Some((4, Side::B))));
        primaries.observe(Side::A, &view("primary", 4));
        assert!(primaries.violation().is_some_and(|what| what.contains("epoch 4: first b, then a")));
    }
}
