//! The link between two living nodes is cut: both ways, in one direction only, and again and again.
//!
//! Both nodes reach the witness, so whoever asks it first goes on. Clients of a node that stays primary must not
//! notice more than a wait; clients of a deposed one are told so.

use super::{PROGRESS, end_load, expect_healed, pair_machines};
use crate::lab::Cut;
use crate::pair::plan::Plan;
use crate::pair::view::View;
use crate::pair::{LIMIT, Pair};
use crate::scenario::{Context, Scenario};
use anyhow::{Result, bail};
use std::time::Duration;

pub const BOTH_WAYS: Scenario = Scenario {
    name: "link-cut",
    about: "link cut both ways under load: one node serves, the other acknowledges nothing; heals by itself",
    machines: pair_machines,
    run: |run| cut_and_heal(run, &[Cut::Both]),
};

pub const ONE_WAY: Scenario = Scenario {
    name: "link-cut-one-way",
    about: "link cut in one direction, then in the other: as if it were cut both ways",
    machines: pair_machines,
    run: |run| cut_and_heal(run, &[Cut::AtoB, Cut::BtoA]),
};

pub const FLAPPING: Scenario = Scenario {
    name: "link-flapping",
    about: "link cut and healed again and again under load: never two primaries, mirrored again by itself",
    machines: pair_machines,
    run: flap,
};

/// How long it is watched that only one node serves.
const APART: Duration = Duration::from_secs(4);

fn cut_and_heal(run: &Context, cuts: &[Cut]) -> Result<()> {
    let lab = run.lab(&pair_machines())?;
    let mut pair = Pair::start(run, &lab, Plan::default())?;
    for cut in cuts {
        let primary = pair.wait_mirrored(LIMIT)?;
        let epoch = pair.primaries().newest().map_or(0, |(epoch, _)| epoch);
        let load = pair.start_load(primary)?;
        load.wait_progress(100, PROGRESS)?;

        lab.wire().cut(*cut);
        let serving = pair.wait_any_solo(LIMIT)?;
        expect_silent(&pair, serving)?;
        let load = if serving == primary {
            load
        } else {
            end_load(&pair, &load, epoch)?;
            pair.start_load(serving)?
        };
        load.wait_progress(50, PROGRESS)?;
        pair.pass(APART)?;
        expect_silent(&pair, serving)?;

        lab.wire().heal();
        if pair.wait_mirrored(LIMIT)? != serving {
            bail!("node {} should have stayed primary", serving.name());
        }
        load.wait_progress(50, PROGRESS)?;
        load.stop(pair.guest(serving))?;
        pair.expect_equal()?;
    }
    Ok(())
}

/// The node that does not serve says that it acknowledges nothing.
fn expect_silent(pair: &Pair<'_>, serving: crate::lab::Side) -> Result<()> {
    let silent = |view: &View| !view.acknowledges() && view.role() != "primary";
    pair.wait_view(serving.other(), "the other node to acknowledge nothing", LIMIT, silent).map(drop)
}

/// Cuts, each followed by a time in which the link is whole. Shorter and longer than the failure timeout of 1.5 s and
/// than a rejoin takes.
const FLAPS_MS: [(u64, u64); 8] =
    [(200, 300), (700, 200), (1300, 900), (2500, 400), (400, 400), (3000, 2500), (1600, 100), (300, 600)];

fn flap(run: &Context) -> Result<()> {
    let lab = run.lab(&pair_machines())?;
    let mut pair = Pair::start(run, &lab, Plan::default())?;
    let primary = pair.wait_mirrored(LIMIT)?;
    let epoch = pair.primaries().newest().map_or(0, |(epoch, _)| epoch);
    let load = pair.start_load(primary)?;
    load.wait_progress(100, PROGRESS)?;
    for (cut_ms, whole_ms) in FLAPS_MS {
        lab.wire().cut(Cut::Both);
        pair.pass(Duration::from_millis(cut_ms))?;
        lab.wire().heal();
        pair.pass(Duration::from_millis(whole_ms))?;
    }
    expect_healed(&mut pair, &load, epoch)
}
