//! Rows that were measured elsewhere (in guests), judged and shown like our own.

use crate::report::{Report, Row};
use anyhow::{Context, Result};
use clap::Args;
use std::path::{Path, PathBuf};

/// What the command line says.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// A JSON array of rows; ratios and verdicts in it are made anew
    rows: PathBuf,
    /// Where it ran, besides this machine
    #[arg(long)]
    note: Option<String>,
}

/// Prints the table; writes everything to `json`.
pub fn run(arguments: &Arguments, json: Option<&Path>, tiny: bool) -> Result<()> {
    let path = &arguments.rows;
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let rows: Vec<Row> =
        serde_json::from_slice(&text).with_context(|| format!("no rows in {}", path.display()))?;
    let mut report = Report::new(tiny);
    report.set_note(arguments.note.clone());
    rows.into_iter().for_each(|row| report.add(row.judged()));
    report.finish();
    print!("{}", report.table());
    json.map_or(Ok(()), |path| report.write(path))
}
