//! What was measured: one row for each ratio, as a table for people and as JSON.

use crate::machine::Machine;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// What a number counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nanoseconds.
    Ns,
    /// Bytes.
    Bytes,
    /// Bytes in a second.
    BytesPerSecond,
}

/// What the design asks of a row.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bar {
    /// Ours is at most so many times the peer.
    RatioAtMost(f64),
    /// Ours is at least so many times the peer.
    RatioAtLeast(f64),
    /// Ours is at most this, whatever a peer does.
    AtMost(f64),
    /// It is shown to explain another row.
    None,
}

/// One thing that was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    part: String,
    what: String,
    unit: Unit,
    ours: f64,
    peer: Option<f64>,
    /// What the peer does.
    against: String,
    ratio: Option<f64>,
    bar: Bar,
    reached: Option<bool>,
    /// Quantiles and what else explains the row.
    details: BTreeMap<String, f64>,
}

impl Row {
    /// Something of ours beside its peer.
    pub fn new(part: &str, what: impl Into<String>, unit: Unit, ours: f64) -> Row {
        Row {
            part: part.to_owned(),
            what: what.into(),
            unit,
            ours,
            peer: None,
            against: String::new(),
            ratio: None,
            bar: Bar::None,
            reached: None,
            details: BTreeMap::new(),
        }
    }

    /// Measured against this.
    pub fn against(mut self, what: impl Into<String>, peer: f64) -> Row {
        self.against = what.into();
        self.peer = Some(peer);
        self.ratio = Some(self.ours / peer);
        self
    }

    /// What the design asks; give the peer first.
    pub fn bar(mut self, bar: Bar) -> Row {
        self.bar = bar;
        self.reached = match bar {
            Bar::RatioAtMost(most) => self.ratio.map(|ratio| ratio <= most),
            Bar::RatioAtLeast(least) => self.ratio.map(|ratio| ratio >= least),
            Bar::AtMost(most) => Some(self.ours <= most),
            Bar::None => None,
        };
        self
    }

    /// One more number.
    pub fn detail(mut self, name: &str, value: f64) -> Row {
        self.details.insert(name.to_owned(), value);
        self
    }

    /// Judged again: for rows that another program has measured.
    pub fn judged(mut self) -> Row {
        self.ratio = self.peer.map(|peer| self.ours / peer);
        let bar = self.bar;
        self.bar(bar)
    }

    fn cells(&self) -> [String; 6] {
        let peer = self.peer.map_or("-".to_owned(), |peer| human(self.unit, peer));
        let ratio = self.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        let bar = match self.bar {
            Bar::RatioAtMost(most) => format!("≤ {most}"),
            Bar::RatioAtLeast(least) => format!("≥ {least}"),
            Bar::AtMost(most) => format!("≤ {}", human(self.unit, most)),
            Bar::None => "-".to_owned(),
        };
        let reached = match self.reached {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        let what = match self.against.is_empty() {
            true => self.what.clone(),
            false => format!("{} : {}", self.what, self.against),
        };
        [what, human(self.unit, self.ours), peer, ratio, bar, reached.to_owned()]
    }
}

/// All rows of a run, and where it ran.
#[derive(Debug, Serialize)]
pub struct Report {
    tiny: bool,
    machine: Machine,
    /// What else is to be known of where it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    rows: Vec<Row>,
}

impl Report {
    /// Begins; notes what the machine is and does.
    pub fn new(tiny: bool) -> Report {
        Report { tiny, machine: Machine::now(), note: None, rows: Vec::new() }
    }

    /// Adds a row and shows it at once.
    pub fn add(&mut self, row: Row) {
        let [what, ours, peer, ratio, bar, reached] = row.cells();
        eprintln!("  {what}: {ours} against {peer}, ratio {ratio} ({bar}) {reached} {:?}", row.details);
        self.rows.push(row);
    }

    /// Says something more of where it ran.
    pub fn set_note(&mut self, note: Option<String>) {
        self.note = note;
    }

    /// Notes the load at the end.
    pub fn finish(&mut self) {
        self.machine.note_end();
    }

    /// Writes everything to a file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// For people; a Markdown table that is aligned as plain text.
    pub fn table(&self) -> String {
        let heading = ["what : against what", "ours", "peer", "ratio", "bar", "reached"].map(str::to_owned);
        let rule = [(); 6].map(|()| "---".to_owned());
        let rows: Vec<_> = [heading, rule].into_iter().chain(self.rows.iter().map(Row::cells)).collect();
        let mut widths = [0; 6];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &rows {
            for (width, cell) in widths.iter().zip(row) {
                let _ = write!(text, "| {cell:width$} ");
            }
            text.push_str("|\n");
        }
        let _ = writeln!(text, "\n{}", self.machine);
        if let Some(note) = &self.note {
            let _ = writeln!(text, "{note}");
        }
        if self.tiny {
            text.push_str("Tiny sizes: these numbers mean nothing.\n");
        }
        text
    }
}

fn human(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Ns if value < 1e3 => format!("{value:.1} ns"),
        Unit::Ns if value < 1e6 => format!("{:.1} µs", value / 1e3),
        Unit::Ns if value < 1e9 => format!("{:.1} ms", value / 1e6),
        Unit::Ns => format!("{:.2} s", value / 1e9),
        Unit::Bytes => format!("{:.1} MiB", value / f64::from(1 << 20)),
        Unit::BytesPerSecond => format!("{:.0} MiB/s", value / f64::from(1 << 20)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_reached_or_not() {
        let row = |ours| Row::new("p", "x", Unit::Ns, ours).against("y", 100.0);
        assert_eq!(row(140.0).bar(Bar::RatioAtMost(1.4)).reached, Some(true));
        assert_eq!(row(141.0).bar(Bar::RatioAtMost(1.4)).reached, Some(false));
        assert_eq!(row(84.0).bar(Bar::RatioAtLeast(0.85)).reached, Some(false));
        assert_eq!(row(85.0).bar(Bar::RatioAtLeast(0.85)).reached, Some(true));
        assert_eq!(Row::new("p", "x", Unit::Ns, 2.0).bar(Bar::AtMost(1.0)).reached, Some(false));
        assert_eq!(row(1.0).bar(Bar::None).reached, None);
    }

    #[test]
    fn what_another_program_measured_is_judged_here() {
        let text = r#"{"part":"p","what":"x","unit":"ns","ours":130.0,"peer":100.0,"against":"y",
            "ratio":null,"bar":{"ratio_at_most":1.25},"reached":null,"details":{"p99_ns":5.0}}"#;
        let row = serde_json::from_str::<Row>(text).unwrap().judged();
        assert_eq!((row.ratio, row.reached), (Some(1.3), Some(false)));
    }

    #[test]
    fn the_table_says_what_was_missed() {
        let mut report = Report::new(true);
        report.add(Row::new("p", "slow", Unit::Ns, 3e6).against("bare", 1e6).bar(Bar::RatioAtMost(1.3)));
        let table = report.table();
        assert!(table.contains("| slow : bare") && table.contains("| 3.0 ms | 1.0 ms | 3.00"), "{table}");
        assert!(table.contains("| NO"), "{table}");
    }
}
