//! Measurements in two guests, in one session: mirrored commit over verbs beside a bare loop and perftest, and a
//! durable write through the mount of a pair beside DRBD.
//!
//! What is compared takes turns, for an emulated machine is as quick as the host lets it be. The table is made by
//! `twinfiler-bench table`, so it looks like that of the benches on the host.
//!
//! - `verbs`: `twinfiler-bench peer verbs` in both guests
//! - `perftest`: `ib_write_lat`, `ib_send_lat`, `ib_write_bw`
//! - `writes`: fio on a pair's mount and on ext4 over DRBD (`drbd`)

mod drbd;
mod fio;
mod perftest;
mod row;
mod verbs;
mod writes;

use crate::lab::{GuestSpec, Lab, Side, Spec, WireKind};
use crate::pair::node::shell;
use crate::scenario::Context as Run;
use anyhow::{Context, Result, bail};
use row::Row;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Says what a guest's processor and kernel are.
const MACHINE: &str = "sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1; uname -sr";

/// What is measured with.
pub struct Tools {
    /// `twinfiler`.
    pub program: PathBuf,
    /// `twinfiler-bench`.
    pub bench: PathBuf,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Part {
    /// Commits and messages over RDMA
    Verbs,
    /// Writes through the mount beside DRBD
    Writes,
}

impl Part {
    /// All of them.
    pub const ALL: [Part; 2] = [Part::Verbs, Part::Writes];
}

/// How much of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Amount {
    /// For numbers.
    Full,
    /// To show that it works.
    Tiny,
}

fn machines() -> Spec {
    let guest = GuestSpec { extra_disk_mib: drbd::DISK_MIB, ..GuestSpec::default() };
    Spec { guests: [guest.clone(), guest], wire: WireKind::Direct, ..Spec::default() }
}

/// Measures, prints the table, and writes everything to `json`.
pub fn run(tools: &Tools, parts: &[Part], amount: Amount, logs: &Path, json: Option<&Path>) -> Result<()> {
    let run = Run::new(Some(tools.program.clone()), logs.to_owned());
    let (mut rows, mut failed, mut machine) = (Vec::new(), Vec::new(), String::new());
    for part in parts {
        eprintln!("{part:?} in guests ...");
        // Machines of its own for each: what one part leaves in log and kernel is not the next one's business.
        let lab = Lab::start(&machines(), logs)?;
        machine = shell(lab.guest(Side::A), MACHINE)?;
        let measured = match part {
            Part::Verbs => verbs::measure(&lab, &tools.bench, amount, &mut rows),
            Part::Writes => writes::measure(&run, &lab, amount, &mut rows),
        };
        if let Err(error) = measured {
            eprintln!("{part:?} failed: {error:#}");
            failed.push(part);
        }
    }
    let note = format!(
        "Two guests on it, each: {} processors ({}), Soft-RoCE, its NVDIMM a file of the host",
        machines().guests[0].vcpus,
        machine.trim().replace('\n', ", "),
    );
    table(&tools.bench, &rows, &note, amount, logs, json)?;
    if !failed.is_empty() {
        bail!("not measured, or not all of it: {failed:?}");
    }
    Ok(())
}

fn table(
    bench: &Path,
    rows: &[Row],
    note: &str,
    amount: Amount,
    logs: &Path,
    json: Option<&Path>,
) -> Result<()> {
    let path = logs.join("rows.json");
    let text = serde_json::to_string_pretty(rows).context("cannot encode rows")?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    let mut command = Command::new(bench);
    if amount == Amount::Tiny {
        command.arg("--tiny");
    }
    if let Some(json) = json {
        command.arg("--json").arg(json);
    }
    let status = command.arg("table").arg(&path).args(["--note", note]).status();
    let status = status.with_context(|| format!("cannot start {}", bench.display()))?;
    if !status.success() {
        bail!("{} table failed: {status}", bench.display());
    }
    Ok(())
}
