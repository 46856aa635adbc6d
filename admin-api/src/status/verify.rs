//! A comparison of the two trees: how far it is, and what it found.

use super::format::{bytes, duration_us};
use serde::{Deserialize, Serialize};

/// `twinfiler verify`: one that is under way, and the last one that ended.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct VerifyStatus {
    /// How far the comparison is.
    pub running: Option<VerifyProgress>,
    /// How the last one ended.
    pub last: Option<VerifyResult>,
}

/// How far a comparison is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VerifyProgress {
    /// What it does, in words.
    pub doing: String,
    /// 1: it is about everything; 2: about what was repaired. 0 before that. The numbers are those of the round.
    #[serde(default)]
    pub round: u32,
    /// Objects compared.
    pub objects_done: u64,
    /// Objects that there are to compare.
    pub objects_total: u64,
    /// File content read, on each side.
    pub bytes_done: u64,
    /// File content that there is, holes left out; `None` while nobody knows.
    #[serde(default)]
    pub bytes_total: Option<u64>,
    /// File content read lately, per second.
    pub bytes_per_s: u64,
    /// Objects found to differ so far.
    pub differing: u64,
    /// Seconds until the round ends, at the pace of late; `None` when nobody knows, or nothing is left.
    pub eta_s: Option<u64>,
}

impl VerifyProgress {
    /// What it does and how many objects are done; and how much content, and how long it takes.
    pub fn words(&self) -> [String; 2] {
        let VerifyProgress { doing, objects_done, objects_total, differing, .. } = self;
        if *objects_total == 0 {
            return [doing.clone(), String::new()];
        }
        let mut content = bytes(self.bytes_done);
        if let Some(total) = self.bytes_total {
            content.push_str(&format!(" of {}", bytes(total)));
        }
        content.push_str(" of content");
        if self.bytes_per_s > 0 {
            content.push_str(&format!(", {}/s", bytes(self.bytes_per_s)));
        }
        if let Some(eta_s) = self.eta_s {
            content.push_str(&format!(", about {} left", duration_us(eta_s as f64 * 1e6)));
        }
        [format!("{doing}: {objects_done} of {objects_total} objects, {differing} differ"), content]
    }
}

/// How a comparison ended.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VerifyResult {
    /// Which one it was, counted from 1 since the daemon started.
    pub run: u64,
    /// When it ended.
    pub at_unix_ms: u64,
    /// How long it took.
    pub duration_ms: u64,
    /// Objects compared.
    pub objects: u64,
    /// File content read, on each side.
    pub bytes: u64,
    /// Objects that differ now.
    pub differing: u64,
    /// Objects that differed and were made the same.
    pub repaired: u64,
    /// Which differ: the first thousand.
    pub found: Vec<VerifyFinding>,
    /// Why it did not come to its end.
    pub error: Option<String>,
}

/// An object that differs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VerifyFinding {
    /// Which object.
    pub oid: u64,
    /// Where it lies, if it has a name.
    pub path: Option<String>,
    /// What differs.
    pub what: String,
}
