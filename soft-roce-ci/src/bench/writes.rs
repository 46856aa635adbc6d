//! A 4 KiB durable write: through the mount of a pair over verbs, and on ext4 over DRBD, with the same fio job in the
//! same guests, in turns.

use super::fio::{Turn, append};
use super::row::Row;
use super::{Amount, drbd};
use crate::lab::{Lab, Side};
use crate::pair::plan::{DISK, MOUNT, Plan};
use crate::pair::{LIMIT, Pair};
use crate::scenario::Context as Run;
use anyhow::{Result, bail};
use std::time::Duration;

/// What the design asks.
const BAR: f64 = 0.1;

struct Measured {
    name: &'static str,
    directory: &'static str,
    sum: Turn,
}

/// Measures and adds rows.
pub fn measure(run: &Run, lab: &Lab, amount: Amount, rows: &mut Vec<Row>) -> Result<()> {
    let (turns, time) = match amount {
        Amount::Full => (4, Duration::from_secs(6)),
        Amount::Tiny => (1, Duration::from_secs(1)),
    };
    drbd::start(lab)?;
    let pair = Pair::start(run, lab, Plan::default())?;
    let primary = pair.wait_mirrored(LIMIT)?;
    if primary != Side::A {
        bail!("DRBD's primary is a, and the pair's is {}", primary.name());
    }
    let mut sides = [
        Measured { name: "ours", directory: MOUNT, sum: Turn::default() },
        Measured { name: "DRBD", directory: drbd::MOUNT, sum: Turn::default() },
        Measured { name: "local ext4", directory: DISK, sum: Turn::default() },
    ];
    let sides_count = sides.len();
    // The first turn only warms up.
    for turn in 0..=turns {
        for place in 0..sides_count {
            let side = &mut sides[(place + turn) % sides_count];
            let done = append(lab.guest(primary), side.directory, &format!("turn-{turn}"), time)?;
            eprintln!(
                "  {}: {:.0} appends, {:.0} us each, of which writing {:.0}",
                side.name,
                done.operations,
                done.spent_ns / done.operations / 1e3,
                done.writing_ns / done.operations / 1e3
            );
            if turn > 0 {
                side.sum.operations += done.operations;
                side.sum.spent_ns += done.spent_ns;
                side.sum.writing_ns += done.writing_ns;
                side.sum.p99_ns = side.sum.p99_ns.max(done.p99_ns);
            }
        }
    }
    pair.check()?;
    // Its commit latency tells how much of a write is the mount's.
    run.note("status.txt", &pair.node(primary).command(lab.guest(primary), &["status"])?)?;
    let mean = |index: usize| sides[index].sum.spent_ns / sides[index].sum.operations;
    let row = |what: &str, value: f64| {
        Row::time("writes", what, value).detail("operations", sides[0].sum.operations)
    };
    let what = "4 KiB append + fsync through the mount over verbs, mean";
    rows.push(
        row(what, mean(0))
            .against("DRBD protocol C + ext4", mean(1))
            .at_most(BAR)
            .detail("peer_operations", sides[1].sum.operations),
    );
    let p99 = "4 KiB append + fsync through the mount over verbs, worst p99 of a turn";
    rows.push(row(p99, sides[0].sum.p99_ns).against("DRBD protocol C + ext4", sides[1].sum.p99_ns));
    rows.push(row(what, mean(0)).against("ext4 on one node, not replicated", mean(2)));
    // An answered write is durable on both nodes: who knows that asks for no fsync.
    let writing = sides[0].sum.writing_ns / sides[0].sum.operations;
    let alone = "of that the write alone, which is durable on both nodes when it is answered, mean";
    rows.push(row(alone, writing).against("DRBD protocol C + ext4, append + fsync", mean(1)));
    Ok(())
}
