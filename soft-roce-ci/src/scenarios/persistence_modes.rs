//! The ways in which written bytes become durable at the partner: each that is allowed works, each that is not says
//! why.

use super::{PROGRESS, pair_machines};
use crate::lab::{Lab, Side};
use crate::pair::plan::Plan;
use crate::pair::{LIMIT, Pair};
use crate::scenario::{Context, Scenario};
use anyhow::{Result, bail};

pub const SCENARIO: Scenario = Scenario {
    name: "persistence-modes",
    about: "message and (declared) read work; undeclared read and, without the device's FLUSH, flush are refused",
    machines: pair_machines,
    run,
};

fn run(run: &Context) -> Result<()> {
    let lab = run.lab(&pair_machines())?;
    let plan = |lines: &str| Plan { rdma: lines.to_owned(), ..Plan::default() };
    let mut pair = Pair::make(run, &lab, Plan::default())?;

    // A READ says nothing about caches; whoever wants it declares that DMA goes past them.
    pair.expect_refusal(Side::A, plan("persistence = \"read\""), &["\"read\"", "ddio_off"])?;
    // No native FLUSH in this kernel's rxe.
    pair.expect_refusal(Side::A, plan("persistence = \"flush\""), &["\"flush\"", "FLUSH"])?;

    works(&mut pair, &lab, plan("persistence = \"message\""), "message")?;
    works(&mut pair, &lab, plan("persistence = \"read\"\nddio_off = true"), "read")
}

/// Both nodes run with this plan, mirror, and say so.
fn works(pair: &mut Pair<'_>, lab: &Lab, plan: Plan, mode: &str) -> Result<()> {
    pair.configure(plan)?;
    for side in Side::BOTH {
        pair.start_node(side)?;
    }
    let primary = pair.wait_mirrored(LIMIT)?;
    let load = pair.start_load(primary)?;
    load.wait_progress(100, PROGRESS)?;
    load.stop(lab.guest(primary))?;
    let view = pair.wait_view(primary, "a status", LIMIT, |view| view.mode() == "mirrored")?;
    if view.transport("/persistence") != mode {
        bail!("status does not name the persistence mode {mode}: {}", view.pretty());
    }
    pair.expect_equal()?;
    pair.stop_nodes(primary)
}
