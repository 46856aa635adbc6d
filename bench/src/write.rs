//! A 4 KiB write through the mount, durable in both nodes' logs, beside append + fsync on ext4 on the same disk.
//! One client, real processes, loopback.
//!
//! Turns are long enough to hold whole consistency points; after each of ours both local trees are brought up to
//! date, so that ext4's turn does not pay for our writeback.

use crate::cluster::Cluster;
use crate::disk::Place;
use crate::report::{Bar, Report, Row, Unit};
use crate::scale::Scale;
use crate::turns::{Side, quantile_ns, take};
use anyhow::Result;
use std::fs::File;
use std::io::Write;
use std::path::Path;

const BLOCK_BYTES: usize = 4096;
const LOG_BYTES: u64 = 256 << 20;
const BAR: Bar = Bar::RatioAtMost(0.5);

/// Measures a write, and a write with fsync as applications do it that do not know better.
pub fn measure(scale: &Scale, program: &Path, place: &Place, report: &mut Report) -> Result<()> {
    let cluster = Cluster::start(program, place.path(), LOG_BYTES)?;
    let mount = cluster.files(cluster.wait_mirrored()?).mount();
    let block = [0x5A; BLOCK_BYTES];
    let append = |path: &Path| File::options().append(true).create_new(true).open(path);
    let (mut ours, mut synced) = (append(&mount.join("ours"))?, append(&mount.join("synced"))?);
    let mut peer = append(&place.path().join("peer"))?;
    let mut sides = [
        Side::new(|| Ok(ours.write_all(&block)?)).with_rest(|| cluster.settle()),
        Side::new(|| {
            peer.write_all(&block)?;
            Ok(peer.sync_all()?)
        }),
        Side::new(|| {
            synced.write_all(&block)?;
            Ok(synced.sync_all()?)
        })
        .with_rest(|| cluster.settle()),
    ];
    let measured = take(scale.writes, &mut sides)?;
    drop(sides);
    let against = format!("append + fsync, {}", place.name());
    for (index, what) in [(0, "4 KiB write through the mount"), (2, "4 KiB write + fsync through the mount")]
    {
        for (name, quantile, bar) in [("p50", 0.5, BAR), ("p99", 0.99, Bar::None)] {
            let of = |side: usize| quantile_ns(&measured[side], quantile);
            let row = Row::new("write", format!("{what}, {name}"), Unit::Ns, of(index))
                .against(&*against, of(1))
                .bar(bar)
                .detail("mean_ns", measured[index].mean())
                .detail("peer_mean_ns", measured[1].mean())
                .detail("operations", measured[index].len() as f64);
            report.add(row);
        }
    }
    if let Some(latency) = cluster.files(0).status()?.commit_latency {
        eprintln!("  of that the commit itself: {latency:?}");
    }
    Ok(())
}
