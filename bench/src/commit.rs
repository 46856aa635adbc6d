//! Two logs and the link between them in this process: what a mirrored commit needs, without volume and mount.
//!
//! Ours is the product's own commit path at the primary; the partner's side does what the node's receiver does:
//! check the chain, persist, acknowledge. Both rings are trimmed between turns, as consistency points would.

use admin_api::metrics::Metrics;
use anyhow::{Context, Result, bail};
use commit::{Ask, CommitEvents, CommitPath, Gate, Journal, SpaceBudget};
use ids::{AckRule, AnswerFrom, Cursors, LogPoint, NodeName, VolumeId};
use nvlog::{FormatOptions, Log, format};
use rdma_transport::tls::{DoorKeys, LinkKeys, PrivateKey};
use rdma_transport::{
    Closer, Control, Fence, Link, LinkError, LinkParams, MirrorReceiver, MirrorSender, TransportKind, shm,
    tcp,
};
use runtime::Uptime;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// The volume of every bench.
pub const VOLUME: VolumeId = VolumeId([7; 16]);
const WAIT: Duration = Duration::from_secs(5);
/// Disk space nobody runs out of here.
const ROOMY_BYTES: u64 = 1 << 50;
const KEPT_BYTES: u64 = 64 << 10;

/// How a node is called at its end of a link.
pub fn params(local: &str, peer: &str) -> Result<LinkParams> {
    let name = |text: &str| text.parse::<NodeName>().context("a node's name");
    Ok(LinkParams::new(VOLUME, name(local)?, name(peer)?))
}

/// An empty log in memory.
pub fn log(capacity_bytes: u64) -> Result<Arc<Log>> {
    let region = nvlog::region::anonymous(capacity_bytes + format::RING_OFFSET_BYTES)?;
    let options = FormatOptions { volume: VOLUME, capacity_bytes, overwrite: false };
    Ok(Arc::new(Log::format(region, options)?))
}

/// Both ends of a link between two logs, with keys (TLS) or without.
fn links(transport: TransportKind, keys: bool, a: &Log, b: &Log) -> Result<(Link, Link)> {
    let (mut at_a, mut at_b) = (params("a", "b")?, params("b", "a")?);
    let own = if keys { Some((PrivateKey::generate()?, PrivateKey::generate()?)) } else { None };
    if let Some((own_a, own_b)) = &own {
        at_a.keys = Some(LinkKeys { own: own_a.clone(), peer: own_b.public() });
        at_b.keys = Some(LinkKeys { own: own_b.clone(), peer: own_a.public() });
    }
    let keys = at_b.keys.clone().map(DoorKeys::from);
    let missing = "the link was not made";
    match transport {
        TransportKind::Tcp => {
            let listener = tcp::Listener::bind_with("127.0.0.1:0", keys)?;
            let acceptor = listener.register(at_b, b.memory())?;
            let link = tcp::connect(&listener.local_addr().to_string(), &at_a, a.memory())?;
            Ok((link, acceptor.accept(WAIT)?.context(missing)?))
        }
        TransportKind::Shm => {
            let dir = tempfile::tempdir()?;
            let path = dir.path().join("link.sock");
            let listener = shm::Listener::bind_with(&path, keys)?;
            let acceptor = listener.register(at_b, b.memory())?;
            std::thread::scope(|scope| {
                let accepting = scope.spawn(|| acceptor.accept(WAIT));
                let link = shm::connect(&path, &at_a, a.memory())?;
                let Ok(accepted) = accepting.join() else { bail!(missing) };
                Ok((link, accepted?.context(missing)?))
            })
        }
        TransportKind::Verbs => bail!("verbs are measured between two machines, not in one process"),
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

/// Who holds the second copy.
#[derive(Clone, Copy, Debug)]
pub enum Partner {
    /// Another log, in a thread of its own, over this transport.
    Over(TransportKind),
    /// Likewise with keys.
    WithKeys(TransportKind),
    /// Nobody: what is sent counts as acknowledged. For counting what this side does.
    Absent,
}

/// Acknowledges at once what it is given, and keeps nothing.
struct Absent {
    sent: LogPoint,
    acknowledged: LogPoint,
}

impl MirrorSender for Absent {
    fn start(&mut self, from: LogPoint) -> Result<(), LinkError> {
        (self.sent, self.acknowledged) = (from, from);
        Ok(())
    }
    fn write(&mut self, to: LogPoint) -> Result<(), LinkError> {
        self.sent = to;
        Ok(())
    }
    fn in_flight(&self) -> usize {
        usize::from(self.sent != self.acknowledged)
    }
    fn poll(&mut self, _wait: Duration) -> Result<Option<LogPoint>, LinkError> {
        let news = self.in_flight() > 0;
        self.acknowledged = self.sent;
        Ok(news.then_some(self.sent))
    }
}

/// A primary's commit path with a partner behind it.
pub struct MirroredCommit {
    path: CommitPath,
    partner: Option<Arc<Log>>,
    _far: Option<Far>,
}

/// The commit path of a primary over an empty log, which waits for both.
fn path(a: &Arc<Log>) -> Result<CommitPath> {
    let capacity_bytes = a.capacity_bytes();
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
    let path = CommitPath::new(a.clone(), cursors, gate, metrics, Box::new(Strict), Uptime::now());
    path.open();
    path.set_rule(AckRule::Both)?;
    Ok(path)
}

/// What a partner's node does with what has landed: checks the chain, makes it durable, acknowledges.
pub fn take_in(log: &Log, receiver: &mut dyn MirrorReceiver, claimed: LogPoint) -> Result<()> {
    let before = log.end();
    let landed = log.ingest(claimed.lsn)?;
    if landed != claimed {
        bail!("the records say {landed}, not {claimed}");
    }
    log.persist(before.lsn, landed.lsn)?;
    Ok(receiver.acknowledge(landed)?)
}

/// Everything is applied, as after a consistency point.
pub fn trim_partner(log: &Log) -> Result<()> {
    log.advance_tail(log.end())?;
    log.set_space_floor(log.end().lsn);
    Ok(())
}

impl MirroredCommit {
    /// Empty logs in memory and a link, committing by both.
    pub fn start(partner: Partner, capacity_bytes: u64) -> Result<MirroredCommit> {
        let a = log(capacity_bytes)?;
        let (path, end) = (path(&a)?, a.end());
        let (transport, keys) = match partner {
            Partner::Over(transport) => (transport, false),
            Partner::WithKeys(transport) => (transport, true),
            Partner::Absent => {
                path.start_mirror(
                    1,
                    Box::new(Absent { sent: end, acknowledged: end }),
                    end,
                    AnswerFrom::Power,
                )?;
                return Ok(MirroredCommit { path, partner: None, _far: None });
            }
        };
        let b = log(capacity_bytes)?;
        let (near, far) = links(transport, keys, &a, &b)?;
        let partner = b.clone();
        let (far, sender) =
            Far::start(near, far, end, move |receiver, claimed| take_in(&b, receiver, claimed))?;
        path.start_mirror(1, sender, end, AnswerFrom::Power)?;
        Ok(MirroredCommit { path, partner: Some(partner), _far: Some(far) })
    }

    /// Over an empty log and the sender of a link, whose other end another process serves with [`take_in`]. That one
    /// trims its log by itself, before [`MirroredCommit::trim`] is called here.
    #[cfg(feature = "verbs")]
    pub fn with(a: &Arc<Log>, sender: Box<dyn MirrorSender>) -> Result<MirroredCommit> {
        let path = path(a)?;
        path.start_mirror(1, sender, a.end(), AnswerFrom::Power)?;
        Ok(MirroredCommit { path, partner: None, _far: None })
    }

    /// Writes one record; returns when both logs hold it.
    pub fn commit(&self, payload: &[u8]) -> Result<()> {
        self.client().commit(payload)
    }

    /// One of its clients, for a thread of its own.
    pub fn client(&self) -> Client<'_> {
        Client(&self.path)
    }

    /// Empties both rings.
    pub fn trim(&self) -> Result<()> {
        let end = self.path.log().end();
        self.path.log().advance_tail(end)?;
        if let Some(partner) = &self.partner {
            trim_partner(partner)?;
        }
        Ok(self.path.update(|cursors| {
            cursors.set_applied(end.lsn)?;
            cursors.set_trimmed(end.lsn)?;
            cursors.set_peer_trimmed(end.lsn)
        })?)
    }
}

/// Somebody who commits.
#[derive(Clone, Copy)]
pub struct Client<'a>(&'a CommitPath);

impl Client<'_> {
    /// Writes one record; returns when both logs hold it.
    pub fn commit(self, payload: &[u8]) -> Result<()> {
        let _admission = self.0.admit(Ask::growing(payload.len()))?;
        let slot = self.0.log().reserve(payload.len())?;
        let end = slot.end_lsn();
        slot.publish(&[payload]);
        Ok(self.0.wait_answerable(end)?)
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
    pub fn start(transport: TransportKind, keys: bool, capacity_bytes: u64) -> Result<TransportAlone> {
        let (a, b) = (log(capacity_bytes)?, log(capacity_bytes)?);
        let at = a.end();
        let (near, far) = links(transport, keys, &a, &b)?;
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
        let over = [TransportKind::Tcp, TransportKind::Shm].map(Partner::Over);
        let others = [Partner::WithKeys(TransportKind::Tcp), Partner::Absent];
        for partner in over.into_iter().chain(others) {
            let pair = MirroredCommit::start(partner, 1 << 20).unwrap();
            for _ in 0..10 {
                // A fifth of the ring: without trimming the third would wait for ever.
                pair.commit(&vec![1; 200 << 10]).unwrap();
                if let Some(partner) = &pair.partner {
                    assert_eq!(partner.end(), pair.path.log().end());
                }
                pair.trim().unwrap();
            }
        }
    }
}
