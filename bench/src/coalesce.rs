//! A mail server's load through the mount: what reaches the local filesystem, beside what was logged.
//!
//! The load is that of filebench's varmail: mails of about 16 KiB in one directory; each round deletes one, creates
//! one and syncs it, appends to another and syncs it, reads two. Every few rounds a temporary file is written and
//! renamed into place. Bytes on disk are counted twice: file contents that consistency points wrote (their own
//! metric), and every page that the daemon dirtied, index and labels included (the kernel's count).

use crate::cluster::{Cluster, VOLUME};
use crate::disk::Place;
use crate::report::{Bar, Report, Row, Unit};
use crate::scale::Scale;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const CLIENTS: usize = 4;
const LOG_BYTES: u64 = 256 << 20;
const MEAN_MAIL_BYTES: u64 = 16 << 10;
/// Rounds between two temporary files.
const TEMPORARY_EVERY: u64 = 4;
const BAR: Bar = Bar::RatioAtMost(0.5);

/// Runs the load and counts.
pub fn measure(scale: &Scale, program: &Path, place: &Place, report: &mut Report) -> Result<()> {
    let cluster = Cluster::start(program, place.path(), LOG_BYTES)?;
    let primary = cluster.wait_mirrored()?;
    let directory = cluster.files(primary).mount().join("mail");
    fs::create_dir(&directory)?;
    let mut clients: Vec<_> = (0..CLIENTS).map(|n| Client::new(n, &directory)).collect();
    for client in &mut clients {
        (0..scale.mail_files / CLIENTS).try_for_each(|_| client.create().map(drop))?;
    }
    cluster.settle()?;
    let before = Counts::now(&cluster, primary)?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let running: Vec<_> =
            clients.iter_mut().map(|client| scope.spawn(|| client.run(scale.mail_time))).collect();
        running.into_iter().try_for_each(|client| {
            client.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a client panicked")))
        })
    })?;
    let took = begun.elapsed();
    cluster.files(primary).consistency_point(VOLUME)?;
    let after = Counts::now(&cluster, primary)?;
    let rounds: u64 = clients.iter().map(|client| client.rounds).sum();
    let logged = (after.logged - before.logged) as f64;
    let row = |what: &str, disk: u64| {
        Row::new("coalesce", what, Unit::Bytes, disk as f64)
            .against("bytes logged, varmail-like load", logged)
            .detail("rounds_per_s", rounds as f64 / took.as_secs_f64())
            .detail("consistency_points", (after.points - before.points) as f64)
    };
    report.add(row("file contents written by consistency points", after.applied - before.applied).bar(BAR));
    report.add(row("pages dirtied by the daemon, all told", after.dirtied - before.dirtied));
    Ok(())
}

struct Counts {
    logged: u64,
    applied: u64,
    points: u64,
    dirtied: u64,
}

impl Counts {
    fn now(cluster: &Cluster, node: usize) -> Result<Counts> {
        let metrics = scrape(cluster.metrics(node))?;
        let counter = |name: &str| -> Result<u64> {
            let start = format!("twinfiler_{name}_total{{");
            let line = metrics.lines().find(|line| line.starts_with(&start)).context("a missing metric")?;
            Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
        };
        let io = fs::read_to_string(format!("/proc/{}/io", cluster.process_id(node)?))?;
        let dirtied = |name: &str| -> Result<u64> {
            let line = io.lines().find(|line| line.starts_with(name)).context("/proc/PID/io")?;
            Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
        };
        let cursors = cluster.files(node).status()?.cursors.context("a node without cursors")?;
        Ok(Counts {
            logged: cursors.committed().0,
            applied: counter("applied_bytes")?,
            points: counter("consistency_points")?,
            dirtied: dirtied("write_bytes")?.saturating_sub(dirtied("cancelled_write_bytes")?),
        })
    }
}

fn scrape(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// One thread with its own mails.
struct Client {
    number: usize,
    directory: PathBuf,
    mails: Vec<PathBuf>,
    made: u64,
    rounds: u64,
    random: u64,
}

impl Client {
    fn new(number: usize, directory: &Path) -> Client {
        let random = (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Client { number, directory: directory.to_owned(), mails: Vec::new(), made: 0, rounds: 0, random }
    }

    /// Xorshift: the same load in every run.
    fn below(&mut self, end: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % end.max(1)
    }

    fn some_bytes(&mut self) -> Vec<u8> {
        let len_bytes = 1 + self.below(2 * MEAN_MAIL_BYTES);
        vec![self.made as u8; len_bytes as usize]
    }

    fn some_mail(&mut self) -> usize {
        self.below(self.mails.len() as u64) as usize
    }

    /// A new mail, written and synced.
    fn create(&mut self) -> Result<PathBuf> {
        self.made += 1;
        let path = self.directory.join(format!("{}-{}", self.number, self.made));
        let bytes = self.some_bytes();
        let mut file = File::create_new(&path)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        self.mails.push(path.clone());
        Ok(path)
    }

    fn run(&mut self, time: Duration) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.round()?;
        }
        Ok(())
    }

    fn round(&mut self) -> Result<()> {
        let gone = self.some_mail();
        fs::remove_file(self.mails.swap_remove(gone))?;
        self.create()?;
        let index = self.some_mail();
        let bytes = self.some_bytes();
        let mut content = Vec::new();
        let mut file = File::options().read(true).append(true).open(&self.mails[index])?;
        file.read_to_end(&mut content)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        let index = self.some_mail();
        fs::read(&self.mails[index])?;
        self.rounds += 1;
        if self.rounds.is_multiple_of(TEMPORARY_EVERY) {
            let temporary = self.directory.join(format!("{}-temporary", self.number));
            let bytes = self.some_bytes();
            let mut file = File::create(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, self.directory.join(format!("{}-index", self.number)))?;
        }
        Ok(())
    }
}
