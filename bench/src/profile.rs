//! The commit path alone, again and again, for a profiler: `perf record` for times, callgrind for instructions.
//!
//! Without a partner, whoever counts instructions gets the same number at every run: everything happens on one
//! thread, and the acknowledgement is there when it is asked for. With one, the far end works on its own thread, as
//! a node's receiver does.

use crate::commit::{MirroredCommit, Partner};
use anyhow::Result;
use clap::{Args, ValueEnum};
use rdma_transport::TransportKind;

const CAPACITY_BYTES: u64 = 64 << 20;
/// Filled up to here, then trimmed: below the mark from which the gate slows clients down.
const FILL_BYTES: u64 = CAPACITY_BYTES / 4;

/// What the command line says.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Who acknowledges
    #[arg(long, value_enum, default_value = "none")]
    partner: PartnerKind,
    /// Payload of each commit, bytes
    #[arg(long, default_value_t = 4096)]
    size: usize,
    /// Commits
    #[arg(long, default_value_t = 100_000)]
    count: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum PartnerKind {
    /// Nobody: what is sent counts as acknowledged
    None,
    /// A thread, over shared memory
    Shm,
    /// A thread, over TCP loopback
    Tcp,
}

/// Commits, and tells how long one took in the middle.
pub fn run(arguments: &Arguments) -> Result<()> {
    let partner = match arguments.partner {
        PartnerKind::None => Partner::Absent,
        PartnerKind::Shm => Partner::Over(TransportKind::Shm),
        PartnerKind::Tcp => Partner::Over(TransportKind::Tcp),
    };
    let ours = MirroredCommit::start(partner, CAPACITY_BYTES)?;
    let payload = vec![0x5A; arguments.size];
    let per_trim = (FILL_BYTES / nvlog::format::record_bytes(arguments.size as u64)).max(1);
    let begun = std::time::Instant::now();
    for done in 1..=arguments.count {
        ours.commit(&payload)?;
        if done.is_multiple_of(per_trim) {
            ours.trim()?;
        }
    }
    let each = begun.elapsed().as_nanos() as f64 / arguments.count as f64;
    println!("{} commits of {} B: {each:.0} ns each", arguments.count, arguments.size);
    Ok(())
}
