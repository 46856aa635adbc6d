//! Two logs and the link between them in this process: what a mirrored commit needs, without volume and mount.
//!
//! Ours is the product's own commit path at the primary; the partner's side does what the node's receiver does:
//! check the chain, persist, acknowledge. Both rings are trimmed between turns, as consistency points would.

use anyhow::{Context, Result, bail};
use filer::commit::{CommitEvents, CommitPath, Gate, Journal, SpaceBudget};
use filer::metrics::Metrics;
use ids::{AckRule, Cursors, LogPoint, NodeName, VolumeId};
use nvlog::{FormatOptions, Log, format};
use rdma_transport::{
    Closer, Control, Fence, Link, LinkError, LinkParams, MirrorReceiver, MirrorSender, TransportKind, shm,
    tcp,
};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const VOLUME: VolumeId = VolumeId([7; 16]);
const WAIT: Duration = Duration::from_secs(5);
/// Disk space nobody runs out of here.
const ROOMY_BYTES: u64 = 1 << 50;
const KEPT_BYTES: u64 = 64 << 10;

/// An empty log in memory.
pub fn log(capacity_bytes: u64) -> Result<Arc<Log>> {
    let region = nvlog::region::anonymous(capacity_bytes + format::RING_OFFSET_BYTES)?;
    let options = FormatOptions { volume: VOLUME, capacity_bytes, overwrite: false };
    Ok(Arc::new(Log::format(region, options)?))
}

/// Both ends of a link between two logs.
fn links(transport: TransportKind, a: &Log, b: &Log) -> Result<(Link, Link)> {
    let name = |text: &str| text.parse::<NodeName>().context("a node's name");
    let at_a = LinkParams::new(VOLUME, name("a")?, name("b")?);
    let at_b = LinkParams::new(VOLUME, name("b")?, name("a")?);
    let missing = "the link was not made";
    match transport {
        TransportKind::Tcp => {
            let listener = tcp::Listener::bind("127.0.0.1:0")?;
            let acceptor = listener.register(at_b, b.memory())?;
            let link = tcp::connect(&listener.local_addr().to_string(), &at_a, a.memory())?;
            Ok((link, acceptor.accept(WAIT)?.context(missing)?))
        }
        TransportKind::Shm => {
            let dir = tempfile::tempdir()?;
            let path = dir.path().join("link.sock");
            let listener = shm::Listener::bind(&path)?;
            let acceptor = listener.register(at_b, b.memory())?;
            std::thread::scope(|scope| {
                let accepting = scope.spawn(|| acceptor.accept(WAIT));
                let link = shm::connect(&path, &at_a, a.memory())?;
                let Ok(accepted) = accepting.join() else { bail!(missing) };
                Ok((link, accepted?.context(missing)?))
            })
        }
    }
}

/// What keeps a link alive, and the thread at its far end.
struct Far {
    closer: Closer,
    thread: Option<JoinHandle<()>>,
    _near: (Box<dyn Control>, Box<dyn MirrorReceiver>, Arc<dyn Fence>),
}

impl Far {
    /// Takes in whatever arrives with `take_in` until the link is closed; gives the near end's sender.
    fn start(
        near: Link,
        mut far: Link,
        at: LogPoint,
        mut take_in: impl FnMut(&mut dyn MirrorReceiver, LogPoint) -> Result<()> + Send + 'static,
    ) -> Result<(Far, Box<dyn MirrorSender>)> {
        far.fence.grant();
        far.receiver.start(at)?;
        let thread = std::thread::spawn(move || {
            // All of the link lives as long as this thread.
            let mut far = far;
            while let Ok(arrival) = far.receiver.next(WAIT) {
                let Some(arrival) = arrival else { continue };
                if let Err(error) = take_in(&mut *far.receiver, arrival.to) {
                    eprintln!("the partner's side failed: {error:#}");
                    return;
                }
            }
        });
        let kept = (near.control, near.receiver, near.fence);
        Ok((Far { closer: near.closer, thread: Some(thread), _near: kept }, near.sender))
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.closer.close();
        if let Some(thread) = self.thread.take() {
            // Its failure was told when it happened.
            let _ = thread.join();
        }
    }
}

/// Nothing may go wrong here: a client would wait for ever for a decision that nobody takes.
struct Strict;

impl CommitEvents for Strict {
    fn mirror_lost(&self, _link: u64, error: LinkError) {
        panic!("the mirror was lost: {error}");
    }
    fn log_failed(&self, error: String) {
        panic!("the log failed: {error}");
    }
    fn want_consistency_point(&self) {}
}

/// A primary's commit path with a partner behind it.
pub struct MirroredCommit {
    path: CommitPath,
    partner: Arc<Log>,
    _far: Far,
}

impl MirroredCommit {
    /// Two empty logs and a link, committing by both.
    pub fn start(transport: TransportKind, capacity_bytes: u64) -> Result<MirroredCommit> {
        let (a, b) = (log(capacity_bytes)?, log(capacity_bytes)?);
        let end = a.end();
        let cursors = Cursors::new(capacity_bytes, a.tail().lsn, a.tail().lsn, end.lsn)?;
        let gate = Gate::new(capacity_bytes, KEPT_BYTES, a.tail().lsn);
        let roomy = SpaceBudget {
            total_bytes: ROOMY_BYTES,
            free_bytes: ROOMY_BYTES,
            available_bytes: ROOMY_BYTES,
            ..SpaceBudget::default()
        };
        gate.set_local_space(end.lsn, roomy);
        let metrics = Metrics::new().volume("bench");
        let path = CommitPath::new(a.clone(), cursors, gate, metrics, Box::new(Strict), Instant::now());
        path.open();
        path.set_rule(AckRule::Both)?;
        let (near, far) = links(transport, &a, &b)?;
        let partner = b.clone();
        let (far, sender) = Far::start(near, far, end, move |receiver, claimed| {
            let before = b.end();
            let landed = b.ingest(claimed.lsn)?;
            if landed != claimed {
                bail!("the records say {landed}, not {claimed}");
            }
            b.persist(before.lsn, landed.lsn)?;
            Ok(receiver.acknowledge(landed)?)
        })?;
        path.start_mirror(1, sender, end)?;
        Ok(MirroredCommit { path, partner, _far: far })
    }

    /// Writes one record; returns when both logs hold it.
    pub fn commit(&self, payload: &[u8]) -> Result<()> {
        let _admission = self.path.admit(payload.len() as u64)?;
        let slot = self.path.log().reserve(payload.len())?;
        let end = slot.end_lsn();
        slot.publish(&[payload]);
        Ok(self.path.wait_committed(end)?)
    }

    /// Empties both rings.
    pub fn trim(&self) -> Result<()> {
        let end = self.path.log().end();
        self.path.log().advance_tail(end)?;
        self.partner.advance_tail(end)?;
        self.partner.set_space_floor(end.lsn);
        Ok(self.path.update(|cursors| {
            cursors.set_applied(end.lsn)?;
            cursors.set_trimmed(end.lsn)?;
            cursors.set_peer_trimmed(end.lsn)
        })?)
    }
}

/// The transport alone: ring bytes go over and are acknowledged, nothing is logged or checked.
pub struct TransportAlone {
    sender: Box<dyn MirrorSender>,
    at: LogPoint,
    _far: Far,
}

impl TransportAlone {
    /// Two rings and a link.
    pub fn start(transport: TransportKind, capacity_bytes: u64) -> Result<TransportAlone> {
        let (a, b) = (log(capacity_bytes)?, log(capacity_bytes)?);
        let at = a.end();
        let (near, far) = links(transport, &a, &b)?;
        let (far, mut sender) =
            Far::start(near, far, at, |receiver, landed| Ok(receiver.acknowledge(landed)?))?;
        sender.start(at)?;
        Ok(TransportAlone { sender, at, _far: far })
    }

    /// Sends so many bytes and waits for their acknowledgement.
    pub fn send(&mut self, len_bytes: u64) -> Result<()> {
        self.at.lsn = self.at.lsn.plus(len_bytes);
        self.sender.write(self.at)?;
        while self.sender.poll(WAIT)? != Some(self.at) {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_on_both_logs_and_trimming_makes_room() {
        for transport in [TransportKind::Tcp, TransportKind::Shm] {
            let pair = MirroredCommit::start(transport, 1 << 20).unwrap();
            for _ in 0..10 {
                // A fifth of the ring: without trimming the third would wait for ever.
                pair.commit(&vec![1; 200 << 10]).unwrap();
                assert_eq!(pair.partner.end(), pair.path.log().end());
                pair.trim().unwrap();
            }
        }
    }
}
