//! A mirrored commit over verbs between two machines, beside the bare loop of [`crate::verbs_loop`]: one process at
//! each end holds both, so that they take turns within a fraction of a second.
//!
//! `twinfiler-bench peer verbs --listen` is the partner: it takes in, makes durable and acknowledges what lands in
//! its log, and answers the bare loop. `--connect` is the primary; it measures, and prints its rows as JSON.

use crate::commit::{MirroredCommit, VOLUME, log, params, take_in, trim_partner};
use crate::report::{Bar, Report, Row, Unit};
use crate::scale::Scale;
use crate::turns::{Side, quantile_ns, take};
use crate::verbs_loop::{Asker, Device, answer};
use anyhow::{Context, Result, bail};
use clap::Args;
use nvlog::{FormatOptions, Log, RegionKind, format, region};
use rdma_transport::verbs::{self, Domain, Settings};
use rdma_transport::{Closer, Control, Fence, LinkError, MirrorReceiver, MirrorSender, tcp};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const CAPACITY_BYTES: u64 = 64 << 20;
const SIZES_BYTES: [usize; 3] = [256, 4096, 65536];
/// What the design asks at these sizes.
const BAR: Bar = Bar::RatioAtMost(1.25);
const BAR_UP_TO_BYTES: usize = 4096;
/// Threads that commit at once where throughput is measured, and what each commits.
const STREAMS: usize = 8;
const STREAM_BYTES: usize = 64 << 10;
/// Filled up to here before the rings are trimmed.
const STREAM_FILL_BYTES: usize = 16 << 20;
const WAIT: Duration = Duration::from_millis(50);
const MEETING: Duration = Duration::from_secs(60);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const TRIM: &[u8] = b"trim";
const TRIMMED: &[u8] = b"trimmed";

/// What the command line says.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Be the partner, at this port and the next one
    #[arg(long, value_name = "PORT", required_unless_present = "connect", conflicts_with = "connect")]
    listen: Option<u16>,
    /// Be the primary, with the partner there; measure, and print rows as JSON
    #[arg(long, value_name = "ADDRESS")]
    connect: Option<SocketAddr>,
    /// A devdax device for the log; without it the log is memory
    #[arg(long, value_name = "DEVICE")]
    log: Option<PathBuf>,
}

/// Serves or measures.
pub fn run(arguments: &Arguments, tiny: bool) -> Result<()> {
    verbs::library_available()?;
    let log = open_log(arguments)?;
    let domain = Domain::open(&Settings::default(), log.memory())?;
    let found = domain.describe();
    let device = Device { name: found.device, port: found.port, gid_index: found.gid_index };
    match (arguments.connect, arguments.listen) {
        (Some(address), _) => connect(address, &log, domain, &device, tiny),
        (None, Some(port)) => listen(port, &log, domain, &device),
        (None, None) => bail!("say --listen or --connect"),
    }
}

fn open_log(arguments: &Arguments) -> Result<Arc<Log>> {
    let Some(path) = &arguments.log else { return log(CAPACITY_BYTES) };
    let mode = region::OpenMode::Create { len_bytes: CAPACITY_BYTES + format::RING_OFFSET_BYTES };
    let region = region::open(RegionKind::DevDax, path, mode)?;
    let options = FormatOptions { volume: VOLUME, capacity_bytes: CAPACITY_BYTES, overwrite: true };
    Ok(Arc::new(Log::format(region, options)?))
}

/// What keeps a link alive, with somebody receiving control messages all the time, as in a node.
struct Kept {
    closer: Closer,
    control: Arc<dyn Control>,
    _fence: Arc<dyn Fence>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.closer.close();
    }
}

fn listen(port: u16, log: &Arc<Log>, domain: Arc<Domain>, device: &Device) -> Result<()> {
    let listener = tcp::Listener::bind(&format!("0.0.0.0:{port}"))?;
    let acceptor = verbs::register(&listener, params("b", "a")?, domain)?;
    let bare = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port + 1))?;
    println!("listening");
    let link = acceptor.accept(MEETING)?.context("no primary came")?;
    let (socket, _) = bare.accept()?;
    let device = device.clone();
    let answering = std::thread::spawn(move || answer(&device, socket));
    link.fence.grant();
    let mut receiver: Box<dyn MirrorReceiver> = link.receiver;
    receiver.start(log.end())?;
    let control: Arc<dyn Control> = link.control.into();
    let _kept = (link.sender, Kept { closer: link.closer, control: control.clone(), _fence: link.fence });
    let to_trim = log.clone();
    let controlling = std::thread::spawn(move || {
        loop {
            match control.recv(WAIT) {
                Ok(Some(message)) if message == TRIM => {
                    trim_partner(&to_trim)?;
                    control.send(TRIMMED)?;
                }
                Ok(_) => {}
                Err(_) => return anyhow::Ok(()),
            }
        }
    });
    loop {
        match receiver.next(WAIT) {
            Ok(Some(arrival)) => take_in(log, &mut *receiver, arrival.to)?,
            Ok(None) => {}
            // The primary has measured all it wanted.
            Err(LinkError::PeerClosed | LinkError::Closed) => break,
            Err(error) => return Err(error.into()),
        }
    }
    drop(_kept);
    controlling.join().map_err(|_| anyhow::anyhow!("the control thread failed"))??;
    answering.join().map_err(|_| anyhow::anyhow!("the answering thread failed"))?
}

/// The primary's end.
struct Primary {
    ours: MirroredCommit,
    kept: Kept,
    answers: mpsc::Receiver<Vec<u8>>,
    _receiver: Box<dyn MirrorReceiver>,
}

impl Primary {
    fn start(address: SocketAddr, log: &Arc<Log>, domain: Arc<Domain>) -> Result<Primary> {
        let link = verbs::connect(&address.to_string(), &params("a", "b")?, domain)?;
        let control: Arc<dyn Control> = link.control.into();
        let (tell, answers) = mpsc::channel();
        let receiving = control.clone();
        std::thread::spawn(move || {
            while let Ok(message) = receiving.recv(WAIT) {
                if let Some(message) = message
                    && tell.send(message).is_err()
                {
                    return;
                }
            }
        });
        let sender: Box<dyn MirrorSender> = link.sender;
        let kept = Kept { closer: link.closer, control, _fence: link.fence };
        Ok(Primary { ours: MirroredCommit::with(log, sender)?, kept, answers, _receiver: link.receiver })
    }

    /// Both rings are emptied, the partner's first.
    fn trim(&self) -> Result<()> {
        self.kept.control.send(TRIM)?;
        let answer = self.answers.recv_timeout(ANSWER_LIMIT).context("the partner does not trim")?;
        if answer != TRIMMED {
            bail!("the partner answers something else");
        }
        self.ours.trim()
    }
}

/// A link that is lost panics in whichever client drives; the others would wait for a decision that nobody takes.
fn end_with_panics() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::exit(1);
    }));
}

fn connect(
    address: SocketAddr,
    log: &Arc<Log>,
    domain: Arc<Domain>,
    device: &Device,
    tiny: bool,
) -> Result<()> {
    end_with_panics();
    let primary = Primary::start(address, log, domain)?;
    let ip: IpAddr = address.ip();
    let mut bare = Asker::start(device, TcpStream::connect((ip, address.port() + 1))?)?;
    let scale = if tiny { Scale::tiny() } else { Scale::full() };
    let mut report = Report::new(tiny);
    for size_bytes in SIZES_BYTES {
        latency(&scale, size_bytes, &primary, &mut bare, &mut report)?;
    }
    throughput(&scale, &primary, &mut report)?;
    report.finish();
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn latency(
    scale: &Scale,
    size_bytes: usize,
    primary: &Primary,
    bare: &mut Asker,
    report: &mut Report,
) -> Result<()> {
    let payload = vec![0x5A; size_bytes];
    // The bare loop sends as many bytes as the record has, header and padding included.
    let record_bytes = u32::try_from(format::record_bytes(size_bytes as u64))?;
    let mut sides = [
        Side::new(|| primary.ours.commit(&payload)).with_rest(|| primary.trim()),
        Side::new(|| bare.ask(record_bytes)),
    ];
    let measured = take(scale.guest_commits, &mut sides)?;
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
        let of = |side: usize| quantile_ns(&measured[side], quantile);
        let what = format!("mirrored commit over verbs, {size_bytes} B, {name}");
        let row = Row::new("verbs", what, Unit::Ns, of(0))
            .against("bare WRITE_WITH_IMM + SEND", of(1))
            .detail("mean_ns", measured[0].mean())
            .detail("peer_mean_ns", measured[1].mean())
            .detail("operations", measured[0].len() as f64);
        let binds = quantile == 0.5 && size_bytes <= BAR_UP_TO_BYTES;
        report.add(if binds { row.bar(BAR) } else { row });
    }
    Ok(())
}

/// Several clients at once, so that batches gather.
fn throughput(scale: &Scale, primary: &Primary, report: &mut Report) -> Result<()> {
    let (ours, payload) = (primary.ours.client(), vec![0x5A; STREAM_BYTES]);
    let each = STREAM_FILL_BYTES / STREAM_BYTES / STREAMS;
    let (mut bytes, mut spent) = (0, Duration::ZERO);
    while spent < scale.guest_stream_time {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..STREAMS)
                .map(|_| scope.spawn(|| (0..each).try_for_each(|_| ours.commit(&payload))))
                .collect();
            clients
                .into_iter()
                .try_for_each(|client| client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?)
        })?;
        spent += begun.elapsed();
        bytes += STREAMS * each * STREAM_BYTES;
        primary.trim()?;
    }
    let rate = bytes as f64 / spent.as_secs_f64();
    let what = format!("mirrored commits over verbs, {STREAMS} clients, {STREAM_BYTES} B");
    report.add(Row::new("verbs", what, Unit::BytesPerSecond, rate).detail("bytes", bytes as f64));
    Ok(())
}
