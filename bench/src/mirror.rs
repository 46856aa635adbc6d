//! A mirrored commit beside a bare ping-pong of the same size, over TCP loopback and over shared memory.
//!
//! "Transport alone" shows how much of the difference is the link's and how much the log's (two checksums, two
//! copies, two persists).

use crate::commit::{MirroredCommit, Partner, TransportAlone};
use crate::peers::{ShmPing, TcpPing};
use crate::report::{Bar, Report, Row, Unit};
use crate::scale::Scale;
use crate::turns::{Side, quantile_ns, take};
use anyhow::Result;
use hdrhistogram::Histogram;
use rdma_transport::TransportKind;
use std::cell::RefCell;

const SIZES_BYTES: [usize; 3] = [256, 4096, 65536];
const CAPACITY_BYTES: u64 = 64 << 20;
/// Written at a time while the rings are touched for the first time.
const TOUCH_BYTES: usize = 512 << 10;
const TCP_BAR: Bar = Bar::RatioAtMost(1.3);

/// Over TCP, against a ping-pong that blocks in the kernel, and for comparison one that polls its sockets as the
/// transport does while that pays.
pub fn measure_tcp(scale: &Scale, report: &mut Report) -> Result<()> {
    for size_bytes in SIZES_BYTES {
        let mut blocking = TcpPing::start(size_bytes, false)?;
        let mut polling = TcpPing::start(size_bytes, true)?;
        let peers = vec![Side::new(|| blocking.ping()), Side::new(|| polling.ping())];
        let measured = beside(scale, TransportKind::Tcp, size_bytes, peers)?;
        let names = ["blocking TCP ping-pong", "polling TCP ping-pong"];
        rows(report, "tcp", size_bytes, &names, &measured, TCP_BAR);
    }
    Ok(())
}

/// Over shared memory, against a copy and two words that are polled.
pub fn measure_shm(scale: &Scale, report: &mut Report) -> Result<()> {
    for size_bytes in SIZES_BYTES {
        let bare = RefCell::new(ShmPing::start(size_bytes, CAPACITY_BYTES)?);
        let side = Side::new(|| {
            bare.borrow_mut().ping();
            Ok(())
        });
        let side = side.with_rest(|| {
            bare.borrow().rest();
            Ok(())
        });
        let measured = beside(scale, TransportKind::Shm, size_bytes, vec![side])?;
        rows(report, "shm", size_bytes, &["copy + polled word"], &measured, Bar::None);
    }
    Ok(())
}

/// Ours, the transport alone, the bare peers; all live all the time and sleep between their turns.
fn beside(
    scale: &Scale,
    transport: TransportKind,
    size_bytes: usize,
    peers: Vec<Side<'_>>,
) -> Result<Vec<Histogram<u64>>> {
    let payload = vec![0x5A; size_bytes];
    let ours = MirroredCommit::start(Partner::Over(transport), CAPACITY_BYTES)?;
    let mut alone = TransportAlone::start(transport, false, CAPACITY_BYTES)?;
    // Every page of the rings has been touched once: a node's first minutes are not what is measured.
    for _ in 0..scale.touch_times * CAPACITY_BYTES / TOUCH_BYTES as u64 {
        ours.commit(&[0; TOUCH_BYTES])?;
        ours.trim()?;
        alone.send(TOUCH_BYTES as u64)?;
    }
    let mut sides = vec![
        Side::new(|| ours.commit(&payload)).with_rest(|| ours.trim()),
        Side::new(|| alone.send(size_bytes as u64)),
    ];
    sides.extend(peers);
    take(scale.commits, &mut sides)
}

/// `measured`: ours, the transport alone, the bare peers of which the first one counts.
fn rows(
    report: &mut Report,
    transport: &'static str,
    size_bytes: usize,
    peers: &[&str],
    measured: &[Histogram<u64>],
    bar: Bar,
) {
    let [ours, alone, bare @ ..] = measured else { return };
    for (index, (peer, name)) in bare.iter().zip(peers).enumerate() {
        for (quantile_name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
            let of = |histogram| quantile_ns(histogram, quantile);
            let what = format!("mirrored commit over {transport}, {size_bytes} B, {quantile_name}");
            let row = Row::new(transport, what, Unit::Ns, of(ours))
                .against(*name, of(peer))
                .detail("transport_alone_ns", of(alone))
                .detail("transport_alone_ratio", of(alone) / of(peer))
                .detail("mean_ns", ours.mean())
                .detail("peer_mean_ns", peer.mean())
                .detail("operations", ours.len() as f64);
            report.add(if index == 0 && quantile == 0.5 { row.bar(bar) } else { row });
        }
    }
}
