//! What keys cost over TCP loopback: the same commits with TLS and without, in turns.

use crate::commit::{MirroredCommit, Partner, TransportAlone};
use crate::report::{Bar, Report, Row, Unit};
use crate::scale::Scale;
use crate::turns::{Side, Turns, quantile_ns, take};
use anyhow::{Result, bail};
use rdma_transport::TransportKind::Tcp;

const CAPACITY_BYTES: u64 = 64 << 20;
const CLIENTS: usize = 4;
const BULK_BYTES: usize = 64 << 10;
/// Commits of each client in one step.
const COMMITS: usize = 16;
/// Steps between two trims: half the ring.
const STEPS: usize = 8;
const SMALL_BYTES: [usize; 2] = [256, 4096];
const BULK_BAR: Bar = Bar::RatioAtLeast(0.75);
const BYTES_OF_A_STEP: usize = CLIENTS * COMMITS * BULK_BYTES;

/// Bulk throughput, which has the bar, and the latency of single commits.
pub fn measure(scale: &Scale, report: &mut Report) -> Result<()> {
    let sealed = MirroredCommit::start(Partner::WithKeys(Tcp), CAPACITY_BYTES)?;
    let plain = MirroredCommit::start(Partner::Over(Tcp), CAPACITY_BYTES)?;
    // Every page of the rings has been touched once.
    for _ in 0..scale.touch_times * CAPACITY_BYTES / (512 << 10) {
        for commits in [&sealed, &plain] {
            commits.commit(&[0; 512 << 10])?;
            commits.trim()?;
        }
    }
    let turns = Turns { count: STEPS, ..scale.commits };
    let payload = vec![0x5A; BULK_BYTES];
    let mut sides =
        [&sealed, &plain].map(|commits| Side::new(|| stream(commits, &payload)).with_rest(|| commits.trim()));
    let measured = take(turns, &mut sides)?;
    drop(sides);
    let of = |index: usize| BYTES_OF_A_STEP as f64 / (quantile_ns(&measured[index], 0.5) / 1e9);
    let what = format!("mirrored commits over tcp with keys (TLS), {CLIENTS} clients, {BULK_BYTES} B");
    let row = Row::new("tls", what, Unit::BytesPerSecond, of(0)).against("the same without keys", of(1));
    report.add(row.bar(BULK_BAR));

    let (mut one, mut other) = (
        TransportAlone::start(Tcp, true, CAPACITY_BYTES)?,
        TransportAlone::start(Tcp, false, CAPACITY_BYTES)?,
    );
    let bytes = 1 << 20;
    let mut sides = [Side::new(|| one.send(bytes)), Side::new(|| other.send(bytes))];
    let measured = take(turns, &mut sides)?;
    drop(sides);
    let of = |index: usize| bytes as f64 / (quantile_ns(&measured[index], 0.5) / 1e9);
    let row =
        Row::new("tls", "tcp with keys alone, without logs, 1 MiB at a time", Unit::BytesPerSecond, of(0));
    report.add(row.against("the same without keys", of(1)));

    for size_bytes in SMALL_BYTES {
        let payload = vec![0x5A; size_bytes];
        let mut sides = [&sealed, &plain]
            .map(|commits| Side::new(|| commits.commit(&payload)).with_rest(|| commits.trim()));
        let measured = take(scale.commits, &mut sides)?;
        let what = format!("mirrored commit over tcp with keys (TLS), {size_bytes} B, p50");
        let row = Row::new("tls", what, Unit::Ns, quantile_ns(&measured[0], 0.5));
        report.add(row.against("the same without keys", quantile_ns(&measured[1], 0.5)));
    }
    Ok(())
}

/// All clients commit at once.
fn stream(commits: &MirroredCommit, payload: &[u8]) -> Result<()> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let client = commits.client();
                scope.spawn(move || (0..COMMITS).try_for_each(|_| client.commit(payload)))
            })
            .collect();
        for client in clients {
            let Ok(result) = client.join() else { bail!("a client panicked") };
            result?;
        }
        Ok(())
    })
}
