//! The thread at the door: reads the opening messages of all who connect, until they are somebody or gone.
//!
//! Invariants: a connection costs a few kilobytes and is dropped after [`OPENING_LIMIT`]; there are at most
//! [`MAX_CALLERS`] of them; nobody's slowness delays another, for nothing here waits for a single caller; proving
//! keys takes at most a quarter of one processor, whoever asks. When the room is full, the source that has most of
//! it gives way, who has said nothing before who has, the older before the newer: so a flood from elsewhere
//! pushes itself out and not the partner. When turns are given, each source gets one before any gets a second.
//!
//! With keys, a caller gets no answer but TLS's own before it has proved the key of a partner ([`DoorKeys`]). What can
//! go wrong: a flood from the partner's own address, of callers that speak, may push the partner out; it tries again.

use crate::handshake::{PREAMBLE_BYTES, PREFIX_BYTES, Preamble, array_at, check_prefix, encode_answer};
use crate::rendezvous::Registry;
use crate::socket::{deadline_after, send_now, timespec, try_recv};
use crate::tls::{self, DoorKeys, Opening, Progress, Purpose, Source, Stream};
use crate::{LinkError, Refusal};
use ids::VolumeId;
use rustix::event::{PollFd, PollFlags};
use rustix::net::SocketFlags;
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Connections whose opening message is not complete.
pub(crate) const MAX_CALLERS: usize = 64;
/// Connections taken in before those that are here are heard again.
const ACCEPTS_PER_TURN: usize = MAX_CALLERS / 2;
/// Callers heard in a turn whose words cost public-key cryptography: about 0.2 ms each.
const PROOFS_PER_TURN: usize = 4;
/// Rest after such a turn, in the processor time that it took.
const REST_TURNS: u32 = 3;
/// How long a stranger may take, whatever the volumes' own limits are.
pub(crate) const OPENING_LIMIT: Duration = Duration::from_secs(2);
/// Pause after a failure of accept (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes behind a handshake that are looked at: another version's opening message may be longer than this one's.
const EARLY_BYTES: usize = 4 * PREAMBLE_BYTES;
/// Strangers are told of once in so long, however many come.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

fn source_of(socket: &OwnedFd) -> Source {
    let address = rustix::net::getpeername(socket).ok().flatten();
    address
        .and_then(|address| SocketAddr::try_from(address).ok())
        .map_or(Source::ThisHost, Source::of_address)
}

/// A connection whose opening message is not complete.
struct Caller {
    socket: OwnedFd,
    source: Source,
    deadline: Instant,
    has_spoken: bool,
    words: Words,
}

enum Words {
    Plain { bytes: [u8; PREAMBLE_BYTES], have: usize },
    Tls(Box<Opening>),
}

/// What has become of a caller.
enum Heard {
    /// It has not said everything.
    Waits(Caller),
    /// Its opening message is whole, or cannot become one.
    Said(Box<Stream>, Result<Preamble, Refusal>),
    /// It is nobody.
    Stranger(String),
}

impl Caller {
    fn new(socket: OwnedFd, config: Option<&Arc<ServerConfig>>) -> Result<Caller, tls::TlsError> {
        let words = match config {
            None => Words::Plain { bytes: [0; PREAMBLE_BYTES], have: 0 },
            Some(config) => Words::Tls(Box::new(Opening::server(Arc::clone(config), EARLY_BYTES)?)),
        };
        let (source, deadline) = (source_of(&socket), deadline_after(OPENING_LIMIT));
        Ok(Caller { socket, source, deadline, has_spoken: false, words })
    }

    /// Takes in what it has said.
    fn hear(mut self) -> Heard {
        let place = match &mut self.words {
            Words::Plain { bytes, have } => &mut bytes[*have..],
            Words::Tls(opening) => opening.room(),
        };
        let len = match try_recv(&self.socket, place) {
            Ok(None) => return Heard::Waits(self),
            Ok(Some(0)) | Err(_) => return Heard::Stranger("it left".to_owned()),
            Ok(Some(len)) => len,
        };
        match &mut self.words {
            Words::Plain { bytes, have } => {
                *have += len;
                match read(&bytes[..*have]) {
                    None => Heard::Waits(self),
                    Some(said) => Heard::Said(Box::new(Stream::plain(self.socket)), said),
                }
            }
            Words::Tls(opening) => {
                let mut out = Vec::new();
                let progress = opening.advance(len, &mut out);
                let sent = out.is_empty() || send_now(&self.socket, &out);
                match progress {
                    Err(error) => return Heard::Stranger(error.to_string()),
                    Ok(_) if !sent => return Heard::Stranger("it takes no bytes".to_owned()),
                    Ok(Progress::Blocked) => return Heard::Waits(self),
                    Ok(Progress::Proved) => {}
                }
                let Some(said) = read(opening.early()) else { return Heard::Waits(self) };
                let Words::Tls(opening) = self.words else { unreachable!("it was so above") };
                match opening.finish() {
                    Ok(opened) => Heard::Said(Box::new(Stream::opened(self.socket, opened)), said),
                    Err(error) => Heard::Stranger(error.to_string()),
                }
            }
        }
    }
}

/// What an opening message says so far: `None` when more must come.
fn read(bytes: &[u8]) -> Option<Result<Preamble, Refusal>> {
    if bytes.len() >= PREFIX_BYTES
        && let Err(refusal) = check_prefix(&array_at(bytes, 0))
    {
        return Some(Err(refusal));
    }
    match bytes.len() {
        PREAMBLE_BYTES => Some(Preamble::decode(&array_at(bytes, 0))),
        longer if longer > PREAMBLE_BYTES => Some(Err(Refusal::Malformed)),
        _ => None,
    }
}

/// What the calling thread has used of a processor. On a busy machine it stands still most of the time, and costs nobody anything
/// then.
pub(crate) fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec.unsigned_abs(), used.tv_nsec.unsigned_abs() as u32)
}

/// How long the thread rests that has heard proofs since it had used so much.
pub(crate) fn rest_after(began: Duration) -> Duration {
    processor_time().saturating_sub(began) * REST_TURNS
}

/// The thread at the door.
pub(crate) struct Door {
    listener: OwnedFd,
    /// With keys: what every caller must get through.
    config: Option<Arc<ServerConfig>>,
    callers: Vec<Caller>,
    registry: Arc<Registry>,
    stop: Arc<(AtomicBool, OwnedFd)>,
    accept_after: Instant,
    rest_until: Instant,
    strangers: Strangers,
}

impl Door {
    pub(crate) fn new(
        listener: OwnedFd,
        keys: Option<DoorKeys>,
        registry: Arc<Registry>,
        stop: Arc<(AtomicBool, OwnedFd)>,
    ) -> Result<Door, LinkError> {
        let config = keys.map(|DoorKeys { own, partners }| {
            let accepts: tls::Accepts = Arc::new(move |key| partners.contains(key));
            tls::server_config(&own, accepts, Purpose::Link)
        });
        let config = config.transpose();
        let config = config.map_err(|error| LinkError::Settings(error.to_string()))?;
        let (callers, now) = (Vec::with_capacity(MAX_CALLERS), Instant::now());
        let strangers = Strangers { count: 0, last: String::new(), report_after: now };
        Ok(Door { listener, config, callers, registry, stop, accept_after: now, rest_until: now, strangers })
    }

    pub(crate) fn run(&mut self) {
        while !self.stop.0.load(Ordering::SeqCst) {
            self.wait();
            let now = Instant::now();
            if now < self.rest_until {
                continue;
            }
            if now >= self.accept_after {
                self.accept();
            }
            self.hear_all(now);
            self.strangers.report(now);
        }
    }

    /// Waits for somebody to knock, to say more, or to take too long.
    fn wait(&mut self) {
        let now = Instant::now();
        let resting = self.rest_until > now;
        let next = self.callers.iter().map(|caller| caller.deadline);
        let next = next
            .chain((self.accept_after > now).then_some(self.accept_after))
            .chain(self.strangers.due())
            .min()
            .filter(|_| !resting)
            .or(resting.then_some(self.rest_until));
        let wait = next.map(|at| timespec(at.saturating_duration_since(now) + Duration::from_millis(1)));
        let mut fds = vec![PollFd::new(&self.stop.1, PollFlags::IN)];
        if !resting {
            fds.extend(self.callers.iter().map(|caller| PollFd::new(&caller.socket, PollFlags::IN)));
            if now >= self.accept_after {
                fds.push(PollFd::new(&self.listener, PollFlags::IN));
            }
        }
        if let Err(errno) = rustix::event::poll(&mut fds, wait.as_ref())
            && errno != rustix::io::Errno::INTR
        {
            tracing::warn!(%errno, "waiting for connections failed");
            std::thread::sleep(ACCEPT_PAUSE);
        }
        let spoken: Vec<bool> = fds.iter().skip(1).map(|fd| !fd.revents().is_empty()).collect();
        for (caller, spoken) in self.callers.iter_mut().zip(spoken) {
            caller.has_spoken |= spoken;
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN {
            match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    if self.callers.len() >= MAX_CALLERS {
                        self.push_out();
                    }
                    match Caller::new(socket, self.config.as_ref()) {
                        Ok(caller) => self.callers.push(caller),
                        Err(error) => tracing::warn!(%error, "a connection could not be taken"),
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    tracing::warn!(%errno, "a connection could not be accepted");
                    self.accept_after = deadline_after(ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    /// Makes room for one: see the module.
    fn push_out(&mut self) {
        let all: Vec<_> = self.callers.iter().map(|caller| (caller.source, caller.has_spoken)).collect();
        let out = tls::who_gives_way(&all);
        let caller = self.callers.remove(out);
        if let Words::Plain { .. } = caller.words {
            answer(&mut Stream::plain(caller.socket), &Err(Refusal::Busy));
        }
        self.strangers.add(caller.source, "there were too many");
    }

    /// Hears everybody, one of each source before any second one.
    fn hear_all(&mut self, now: Instant) {
        let mut callers = std::mem::take(&mut self.callers);
        let sources: Vec<Source> = callers.iter().map(|caller| caller.source).collect();
        let turns: Vec<usize> = (0..sources.len())
            .map(|index| sources[..index].iter().filter(|source| **source == sources[index]).count())
            .collect();
        let mut order: Vec<usize> = (0..callers.len()).collect();
        order.sort_by_key(|index| turns[*index]);
        let mut heard: Vec<Option<Caller>> = callers.drain(..).map(Some).collect();
        let (began, mut proofs) = (processor_time(), 0);
        for index in order {
            let Some(caller) = heard[index].take() else { continue };
            let costs = caller.has_spoken && matches!(caller.words, Words::Tls(_));
            if costs && proofs == PROOFS_PER_TURN {
                heard[index] = Some(caller);
                continue;
            }
            proofs += usize::from(costs);
            let source = caller.source;
            match caller.hear() {
                Heard::Waits(caller) if caller.deadline > now => {
                    heard[index] = Some(Caller { has_spoken: caller.has_spoken, ..caller });
                }
                Heard::Waits(_) => self.strangers.add(source, "it took too long"),
                Heard::Stranger(why) => self.strangers.add(source, &why),
                Heard::Said(stream, said) => self.receive(*stream, said),
            }
        }
        // In the order in which they came: the oldest is found at the front.
        self.callers = callers;
        self.callers.extend(heard.into_iter().flatten());
        if proofs > 0 {
            self.rest_until = Instant::now() + rest_after(began);
        }
    }

    fn receive(&self, mut stream: Stream, said: Result<Preamble, Refusal>) {
        let admitted = said.and_then(|preamble| {
            let entry = self.registry.lock().get(&preamble.volume).cloned();
            let admitted = entry.ok_or(Refusal::UnknownVolume).and_then(|entry| {
                entry.admit(&preamble, stream.peer.as_ref()).map(|index| (entry, index, preamble.session))
            });
            admitted.inspect_err(|refusal| refused(preamble.volume, preamble.from.as_str(), refusal))
        });
        match admitted {
            Ok((entry, index, session)) => {
                answer(&mut stream, &Ok(()));
                entry.add(index, session, stream);
            }
            Err(refusal) => answer(&mut stream, &Err(refusal)),
        }
    }
}

fn refused(volume: VolumeId, from: &str, refusal: &Refusal) {
    tracing::info!(%volume, from, %refusal, "link refused");
}

/// Answers; who does not take the answer at once finds the connection closed instead.
fn answer(stream: &mut Stream, answer: &Result<(), Refusal>) {
    let encoded = encode_answer(answer);
    let Stream { socket, outgoing, .. } = stream;
    // Nobody's room for a hundred bytes is full when nothing was sent before.
    let _ = send_now(&*socket, outgoing.sealed(&encoded));
    if answer.is_err() {
        // Bytes that are left unread when the socket is closed would reset it and take the answer with them.
        let _ = rustix::net::shutdown(&*socket, rustix::net::Shutdown::Write);
        let _ = try_recv(&*socket, &mut [0; 4096]);
    }
}

/// Who was sent away before it was anybody, for the log.
struct Strangers {
    count: u64,
    last: String,
    report_after: Instant,
}

impl Strangers {
    fn add(&mut self, source: Source, why: &str) {
        self.count += 1;
        self.last = format!("{source}: {why}");
    }

    fn due(&self) -> Option<Instant> {
        (self.count > 0).then_some(self.report_after)
    }

    fn report(&mut self, now: Instant) {
        if self.count > 0 && now >= self.report_after {
            tracing::info!(
                count = self.count,
                last = self.last,
                "sent strangers away from the partners' port"
            );
            self.count = 0;
            self.report_after = now + REPORT_INTERVAL;
        }
    }
}
