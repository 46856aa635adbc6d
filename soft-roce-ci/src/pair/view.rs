//! What a node says about its one volume. Read leniently: this crate depends on nothing of the product, and a field
//! that is missing is a missing value.

use serde_json::{Value, json};
use std::time::Duration;

/// A node's word about its volume at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct View(Value);

/// How long the daemon had run at that moment, by the clock that nobody can set.
const CLOCK: &str = "uptime_s";

/// What of a status is of use here; all of it would be a flood, several times a second.
const FIELDS: [&str; 14] = [
    "role",
    "mode",
    "detail",
    "eligible",
    "epoch",
    "cursors",
    "acknowledgement",
    "mounted_at",
    "partner",
    "witness",
    "lease",
    "transport",
    "last_takeover",
    "faults",
];

impl View {
    /// Picks what is of use out of the answer to a status request; `None` when it is no such answer.
    pub fn of_answer(answer: &Value) -> Option<View> {
        let status = answer.get("status")?;
        let volume = status.get("volumes")?.get(0)?;
        let clock = status.get(CLOCK).map(|clock| (CLOCK.to_owned(), clock.clone()));
        let picked = FIELDS.iter().filter_map(|name| Some(((*name).to_owned(), volume.get(*name)?.clone())));
        Some(View(Value::Object(picked.chain(clock).collect())))
    }

    /// From a line that [`View::to_line`] made.
    pub fn of_line(line: &str) -> Option<View> {
        let value: Value = serde_json::from_str(line).ok()?;
        value.get("role").is_some().then_some(View(value))
    }

    /// One line.
    pub fn to_line(&self) -> String {
        self.0.to_string()
    }

    fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }

    /// "primary", "partner", "none".
    pub fn role(&self) -> &str {
        self.text("role")
    }

    /// "mirrored", "solo", ...
    pub fn mode(&self) -> &str {
        self.text("mode")
    }

    /// What it waits for.
    pub fn detail(&self) -> &str {
        self.text("detail")
    }

    /// The epoch.
    pub fn epoch(&self) -> u64 {
        self.0["epoch"].as_u64().unwrap_or_default()
    }

    /// True for a primary that serves its mount.
    pub fn serves(&self) -> bool {
        self.role() == "primary" && self.0["mounted_at"].is_string()
    }

    /// True while it acknowledges operations.
    pub fn acknowledges(&self) -> bool {
        !self.0["acknowledgement"].is_null()
    }

    /// What the local log survives, as far as acknowledgements tell: "power" or "process".
    pub fn local_durability(&self) -> &str {
        self.0["acknowledgement"]["local"].as_str().unwrap_or_default()
    }

    /// Likewise the partner's.
    pub fn peer_durability(&self) -> &str {
        self.0["acknowledgement"]["peer"].as_str().unwrap_or_default()
    }

    /// A cursor by its name.
    pub fn cursor(&self, name: &str) -> Option<u64> {
        self.0["cursors"][name].as_u64()
    }

    /// The node's clock when it said this.
    pub fn clock(&self) -> Option<Duration> {
        self.0[CLOCK].as_u64().map(Duration::from_secs)
    }

    /// Something that the transport says about itself, by its path of names.
    pub fn transport(&self, pointer: &str) -> &Value {
        self.0["transport"].pointer(pointer).unwrap_or(&Value::Null)
    }

    /// The last takeover by this node.
    pub fn last_takeover(&self) -> &Value {
        &self.0["last_takeover"]
    }

    /// One line for people.
    pub fn brief(&self) -> String {
        let (role, mode, epoch, detail) = (self.role(), self.mode(), self.epoch(), self.detail());
        let acknowledges = if self.acknowledges() { "acknowledges" } else { "does not acknowledge" };
        format!("{role}, {mode}, epoch {epoch}, {acknowledges}; {detail}")
    }

    /// Everything, for people.
    pub fn pretty(&self) -> String {
        serde_json::to_string_pretty(&self.0).unwrap_or_else(|error| error.to_string())
    }
}

/// What the watching command prints when there is no answer.
pub fn no_answer(why: &str) -> String {
    json!({ "down": why }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_picked_from_and_travels_as_a_line() {
        let answer = json!({"status": {"node": "a", "uptime_s": 15, "volumes": [
            {"role": "primary", "mode": "mirrored", "mounted_at": "/v", "epoch": 4, "hooks": [], "detail": "",
             "acknowledgement": {"local": "power", "peer": "power"}, "cursors": {"applied": 7}}
        ]}});
        let view = View::of_answer(&answer).unwrap();
        let view = View::of_line(&view.to_line()).unwrap();
        assert!(view.serves() && view.acknowledges());
        assert_eq!((view.epoch(), view.cursor("applied"), view.cursor("committed")), (4, Some(7), None));
        assert_eq!((view.local_durability(), view.peer_durability()), ("power", "power"));
        assert_eq!(view.clock(), Some(Duration::from_secs(15)));
        assert!(!view.to_line().contains("hooks"));
        assert_eq!(View::of_line(&no_answer("connection refused")), None);
        assert_eq!(View::of_answer(&json!({"error": {}})), None);
    }
}
