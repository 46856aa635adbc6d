//! A mirrored commit beside a bare ping-pong of the same size, over TCP loopback and over shared memory.
//!
//! "Transport alone" shows how much of the difference is the link's and how much the log's (two checksums, two
//! copies, two persists). A bare peer that polls keeps a core busy, so with shared memory each side is started for
//! its turns only.

use crate::commit::{MirroredCommit, TransportAlone};
use crate::peers::{ShmPing, TcpPing};
use crate::report::{Bar, Report, Row, Unit};
use crate::scale::Scale;
use crate::turns::{Side, Turns, quantile_ns, take};
use anyhow::Result;
use hdrhistogram::Histogram;
use rdma_transport::TransportKind;
use std::time::Duration;

const SIZES_BYTES: [usize; 3] = [256, 4096, 65536];
const CAPACITY_BYTES: u64 = 64 << 20;
const TCP_BAR: Bar = Bar::RatioAtMost(1.3);

/// Over TCP: all three stay connected and sleep between their turns.
pub fn measure_tcp(scale: &Scale, report: &mut Report) -> Result<()> {
    for size_bytes in SIZES_BYTES {
        let payload = vec![0x5A; size_bytes];
        let ours = MirroredCommit::start(TransportKind::Tcp, CAPACITY_BYTES)?;
        let mut alone = TransportAlone::start(TransportKind::Tcp, CAPACITY_BYTES)?;
        let mut bare = TcpPing::start(size_bytes)?;
        let mut sides = [
            Side::new(|| ours.commit(&payload)).with_rest(|| ours.trim()),
            Side::new(|| bare.ping()),
            Side::new(|| alone.send(size_bytes as u64)),
        ];
        let measured = take(scale.commits, &mut sides)?;
        rows(report, "tcp", size_bytes, "blocking TCP ping-pong", &measured, TCP_BAR);
    }
    Ok(())
}

/// Over shared memory: everything is made anew for each turn, because each side polls while it lives.
pub fn measure_shm(scale: &Scale, report: &mut Report) -> Result<()> {
    let once = Turns { turns: 1, ..scale.commits };
    for size_bytes in SIZES_BYTES {
        let payload = vec![0x5A; size_bytes];
        let mut measured: Vec<Histogram<u64>> = Vec::new();
        for _ in 0..scale.commits.turns {
            let mut turn = Vec::new();
            {
                let ours = MirroredCommit::start(TransportKind::Shm, CAPACITY_BYTES)?;
                let side = Side::new(|| ours.commit(&payload)).with_rest(|| ours.trim());
                turn.extend(take(once, &mut [side])?);
            }
            {
                let mut bare = ShmPing::start(size_bytes, CAPACITY_BYTES)?;
                let side = Side::new(|| {
                    bare.ping();
                    Ok(())
                });
                turn.extend(take(once, &mut [side])?);
            }
            {
                let mut alone = TransportAlone::start(TransportKind::Shm, CAPACITY_BYTES)?;
                turn.extend(take(once, &mut [Side::new(|| alone.send(size_bytes as u64))])?);
            }
            if measured.is_empty() {
                measured = turn;
            } else {
                for (all, one) in measured.iter_mut().zip(&turn) {
                    all.add(one)?;
                }
            }
        }
        rows(report, "shm", size_bytes, "copy + polled word", &measured, Bar::None);
    }
    Ok(())
}

/// `measured`: ours, the bare peer, the transport alone.
fn rows(
    report: &mut Report,
    transport: &'static str,
    size_bytes: usize,
    against: &str,
    measured: &[Histogram<u64>],
    bar: Bar,
) {
    let [ours, bare, alone] = measured else { return };
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
        let of = |histogram| quantile_ns(histogram, quantile);
        let what = format!("mirrored commit over {transport}, {size_bytes} B, {name}");
        let row = Row::new(transport, what, Unit::Ns, of(ours))
            .against(against, of(bare))
            .detail("transport_alone_ns", of(alone))
            .detail("transport_alone_ratio", of(alone) / of(bare))
            .detail("operations", ours.len() as f64);
        report.add(if name == "p50" { row.bar(bar) } else { row });
    }
    let mean = Duration::from_nanos(ours.mean() as u64);
    eprintln!("  mean {mean:?} against {:?}", Duration::from_nanos(bare.mean() as u64));
}
