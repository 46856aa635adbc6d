//! Gets links to the partner: the node with the lower name connects, the other accepts.
//!
//! Invariants: one thread makes links, one thread reads each link's control messages; ids ascend; a new link
//! is made only after the last one was seen to end, except that the accepting side takes a newer one (the
//! connecting side knows better that the old one is dead). What can go wrong: the partner is away (tried
//! again at intervals), or refuses (told once, then tried at intervals).

use super::event::NodeEvent;
use super::inbox::Inbox;
use super::rdma::Rdma;
use super::shared::Shared;
use super::write_behind;
use admin_api::status::FaultKind;
use config::TransportKind;
use rdma_transport::tls::{DoorKeys, LinkKeys, PrivateKey};
use rdma_transport::{Connector, Control, Link, LinkError, LinkParams, LinkSource, shm, tcp};
use runtime::Instant;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the threads look whether the node stops.
const LOOK_AROUND: Duration = Duration::from_millis(100);
/// The first pause after a failed attempt to connect; doubled up to `timers.reconnect`. A partner that lives must be
/// linked again before its lease is over: it is given up then.
const FIRST_RECONNECT: Duration = Duration::from_millis(10);
/// A partner that refuses for so long does so because it is configured so. One that stops or dies may, too: it does not know
/// the volume any more, or hangs up.
const REFUSED_FOR: Duration = Duration::from_secs(2);

const DEVICE_REMEDY: &str = "look at `rdma link` and the kernel's log; a device that was taken away and came back is \
                             used again after a restart of this node";

/// Listeners of a node, shared by its volumes.
pub(super) struct Listeners {
    tcp: Option<tcp::Listener>,
    shm: Option<shm::Listener>,
}

impl Listeners {
    /// Listens where the transports of `volumes` need it.
    pub fn bind(config: &config::NodeConfig, own: Option<&PrivateKey>) -> Result<Listeners, LinkError> {
        let partners = config.volumes.iter().filter_map(|volume| volume.peer.public_key).collect();
        let keys = own.map(|own| DoorKeys { own: own.clone(), partners });
        let uses = |kind| config.volumes.iter().any(|volume| volume.transport == kind);
        let tcp = (uses(TransportKind::Tcp) || uses(TransportKind::Verbs))
            .then(|| tcp::Listener::bind_with(&config.listen.to_string(), keys.clone()))
            .transpose()?;
        let shm = uses(TransportKind::Shm)
            .then(|| shm::Listener::bind_with(&shm_path(config.listen), keys))
            .transpose()?;
        Ok(Listeners { tcp, shm })
    }

    /// Where this volume's links come from.
    pub fn source(&self, shared: &Shared, params: &LinkParams) -> Result<Box<dyn LinkSource>, LinkError> {
        let address = shared.config.peer.address;
        let connects = params.local < params.peer;
        let memory = shared.log.memory();
        let (for_partner, to) = (params.clone(), address.to_string());
        Ok(match (shared.config.transport, connects) {
            (TransportKind::Tcp, true) => {
                Box::new(Connector(move |params: &LinkParams, memory| tcp::connect(&to, params, memory)))
            }
            (TransportKind::Shm, true) => {
                let to = shm_path(address);
                Box::new(Connector(move |params: &LinkParams, memory| shm::connect(&to, params, memory)))
            }
            (TransportKind::Verbs, true) => opened(shared).connector(to),
            (TransportKind::Tcp, false) => Box::new(bound(&self.tcp).register(for_partner, memory)?),
            (TransportKind::Shm, false) => Box::new(bound(&self.shm).register(for_partner, memory)?),
            (TransportKind::Verbs, false) => {
                Box::new(opened(shared).register(bound(&self.tcp), for_partner)?)
            }
        })
    }
}

fn bound<T>(listener: &Option<T>) -> &T {
    listener.as_ref().expect("bound, because a volume uses it")
}

fn opened(shared: &Shared) -> &Rdma {
    shared.rdma.as_ref().expect("opened before the volume starts, because it uses it")
}

/// Both nodes are on this host: the port of the listening node names its socket.
fn shm_path(listen: std::net::SocketAddr) -> PathBuf {
    Path::new("/run").join(format!("twinfiler-shm-{}.sock", listen.port()))
}

/// What both ends must agree on.
pub(super) fn params(shared: &Shared, keys: Option<LinkKeys>) -> LinkParams {
    LinkParams {
        volume: shared.config.id,
        local: shared.me.clone(),
        peer: shared.config.peer.name.clone(),
        tuning: shared.config.link.tuning(shared.config.timers.peer_timeout),
        keys,
        counters: shared.counters.clone(),
    }
}

/// The thread that makes links.
pub(super) fn run(shared: &Arc<Shared>, source: &dyn LinkSource, params: &LinkParams) {
    let inbox = Arc::new(Inbox::default());
    let mut id = 0;
    let mut failing = Failing::default();
    let mut current: Option<Arc<AtomicBool>> = None;
    let mut wait = FIRST_RECONNECT;
    while !shared.is_stopping() {
        if source.connects() && current.as_ref().is_some_and(|alive| alive.load(Ordering::Acquire)) {
            runtime::sleep(Duration::from_millis(10));
            continue;
        }
        match source.next(params, shared.log.memory(), LOOK_AROUND) {
            Ok(None) => {}
            Ok(Some(link)) => {
                id += 1;
                (failing, wait) = (Failing::default(), FIRST_RECONNECT);
                shared.faults.clear(FaultKind::RdmaDevice);
                let alive = Arc::new(AtomicBool::new(true));
                current = Some(alive.clone());
                start(shared, &inbox, id, link, alive);
            }
            Err(error) => {
                failing.note(shared, params, &error);
                pause(shared, wait.min(shared.config.timers.reconnect));
                wait = (wait * 2).min(shared.config.timers.reconnect);
            }
        }
    }
}

/// Why there is no link, as it was told.
#[derive(Default)]
struct Failing {
    /// The last error, and since when there has been no other.
    last: Option<(String, Instant)>,
    /// The partner counts as one that refuses.
    refused: bool,
}

impl Failing {
    fn note(&mut self, shared: &Shared, params: &LinkParams, error: &LinkError) {
        let (text, now) = (error.to_string(), Instant::now());
        let known = self.last.as_ref().filter(|(last, _)| *last == text).map(|(_, since)| *since);
        let since = known.unwrap_or(now);
        if known.is_none() {
            tracing::info!(volume = shared.name(), peer = %params.peer, error = text, "no link to the partner");
            if let LinkError::Rdma(_) = error {
                let what = format!("no link over RDMA: {text}");
                shared.faults.raise(FaultKind::RdmaDevice, &what, DEVICE_REMEDY);
            }
        }
        let refuses = matches!(
            error,
            LinkError::Refused(_)
                | LinkError::Stranger { .. }
                | LinkError::Untrusted { .. }
                | LinkError::SettingsDiffer { .. }
        );
        if refuses && (known.is_none() && self.refused || !self.refused && now - since >= REFUSED_FOR) {
            self.refused = true;
            shared.tell(NodeEvent::LinkRefused { reason: Some(text.clone()) });
        } else if !refuses && std::mem::take(&mut self.refused) {
            shared.tell(NodeEvent::LinkRefused { reason: None });
        }
        self.last = Some((text, since));
    }
}

fn pause(shared: &Shared, wait: Duration) {
    let until = Instant::now() + wait;
    while !shared.is_stopping() && Instant::now() < until {
        runtime::sleep(LOOK_AROUND.min(wait));
    }
}

/// Tells the executor of the link, and begins to read its control messages.
fn start(shared: &Arc<Shared>, inbox: &Arc<Inbox>, id: u64, mut link: Link, alive: Arc<AtomicBool>) {
    let control: Arc<dyn Control> = Arc::from(std::mem::replace(&mut link.control, Box::new(NoControl)));
    link.control = Box::new(SharedControl(control.clone()));
    tracing::info!(volume = shared.name(), id, peer = %link.peer.node, address = link.peer.address, "linked");
    shared.tell(NodeEvent::LinkUp { id, link: Box::new(link) });
    let (reader, inbox, made) = (shared.clone(), inbox.clone(), alive.clone());
    let read = move || {
        runtime::be_vital();
        let error = read_control(&reader, &inbox, id, control.as_ref());
        tracing::info!(volume = reader.name(), id, %error, "link down");
        control.close();
        alive.store(false, Ordering::Release);
        reader.tell(NodeEvent::LinkDown { id });
    };
    if let Err(error) = runtime::spawn("control", read) {
        let what = format!("no thread for the partner's messages: {error}");
        shared.faults.raise(FaultKind::NoThread, &what, "raise the limit of threads");
        // Else the thread that makes links would wait for the end of one that nobody reads.
        made.store(false, Ordering::Release);
        shared.tell(NodeEvent::LinkDown { id });
    }
}

fn read_control(shared: &Shared, inbox: &Arc<Inbox>, id: u64, control: &dyn Control) -> LinkError {
    loop {
        match control.recv(LOOK_AROUND) {
            // At once: somebody waits for it.
            Ok(Some(bytes)) if write_behind::is_about(&bytes) => write_behind::heard(shared, id, &bytes),
            Ok(Some(bytes)) => {
                let place = loop {
                    match inbox.enter(bytes.len(), LOOK_AROUND) {
                        Some(place) => break place,
                        None if shared.is_stopping() => return LinkError::Closed,
                        None => {}
                    }
                };
                shared.tell(NodeEvent::Message { id, bytes, place });
            }
            Ok(None) if shared.is_stopping() => return LinkError::Closed,
            Ok(None) => {}
            Err(error) => return error,
        }
    }
}

/// One control channel for the reading thread and the executor.
struct SharedControl(Arc<dyn Control>);

impl Control for SharedControl {
    fn send(&self, message: &[u8]) -> Result<(), LinkError> {
        self.0.send(message)
    }
    fn recv(&self, wait: Duration) -> Result<Option<Vec<u8>>, LinkError> {
        self.0.recv(wait)
    }
    fn close(&self) {
        self.0.close();
    }
}

/// Stands in while a control channel changes hands.
struct NoControl;

impl Control for NoControl {
    fn send(&self, _message: &[u8]) -> Result<(), LinkError> {
        Err(LinkError::Closed)
    }
    fn recv(&self, _wait: Duration) -> Result<Option<Vec<u8>>, LinkError> {
        Err(LinkError::Closed)
    }
    fn close(&self) {}
}
