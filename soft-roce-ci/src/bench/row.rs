//! A measured row as `twinfiler-bench table` reads it; that program judges it.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// See the module. Times are nanoseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    part: String,
    /// What was measured.
    pub what: String,
    unit: String,
    /// Ours.
    pub ours: f64,
    peer: Option<f64>,
    against: String,
    ratio: Option<f64>,
    bar: Value,
    reached: Option<bool>,
    details: BTreeMap<String, f64>,
}

impl Row {
    /// A time of ours.
    pub fn time(part: &str, what: impl Into<String>, ours_ns: f64) -> Row {
        Row {
            part: part.to_owned(),
            what: what.into(),
            unit: "ns".to_owned(),
            ours: ours_ns,
            peer: None,
            against: String::new(),
            ratio: None,
            bar: Value::String("none".to_owned()),
            reached: None,
            details: BTreeMap::new(),
        }
    }

    /// Beside this.
    pub fn against(mut self, what: impl Into<String>, peer: f64) -> Row {
        (self.against, self.peer) = (what.into(), Some(peer));
        self
    }

    /// At most so many times the peer.
    pub fn at_most(mut self, ratio: f64) -> Row {
        self.bar = serde_json::json!({ "ratio_at_most": ratio });
        self
    }

    /// One more number.
    pub fn detail(mut self, name: &str, value: f64) -> Row {
        self.details.insert(name.to_owned(), value);
        self
    }
}
