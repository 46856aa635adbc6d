//! Logs whose memory no NIC can register: refused at start, with what to do instead.

use crate::lab::{GuestSpec, NvdimmMode, Side, Spec};
use crate::pair::Pair;
use crate::pair::plan::{LogPlace, Plan};
use crate::scenario::{Context, Scenario};
use anyhow::Result;

pub const SCENARIO: Scenario = Scenario {
    name: "refused-logs",
    about: "a log on a DAX filesystem, or in a plain file, with verbs is refused at start with the explanation",
    machines,
    run,
};

fn machines() -> Spec {
    let guest = GuestSpec { nvdimm_mode: NvdimmMode::Fsdax, ..GuestSpec::default() };
    Spec { guests: [guest.clone(), guest], ..Spec::default() }
}

fn run(run: &Context) -> Result<()> {
    let lab = run.lab(&machines())?;
    let fsdax = Plan { log: LogPlace::Fsdax, ..Plan::default() };
    let pair = Pair::make(run, &lab, fsdax.clone())?;
    // Every kernel refuses to register its memory: the filesystem may move the blocks.
    pair.expect_refusal(Side::A, fsdax, &["fsdax", "devdax", "tcp"])?;

    // Its memory is the page cache. Kernels since 6.5 refuse to register it, older ones do so without any promise.
    let plain = Plan { log: LogPlace::PlainFile, ..Plan::default() };
    pair.node(Side::A).init(lab.guest(Side::A), &plain)?;
    pair.expect_refusal(Side::A, plain, &["file", "devdax", "tcp"])
}
