//! A partner that comes back too late for the log: how fast it gets what it missed, and what that costs the clients.
//!
//! Speed: while the partner is away, files are made through the mount, several times as long as the log. The clock runs
//! from the first word of a session in its status until the pair is mirrored, so comparison, last round and the check of
//! all labels are in it. The peer is the slower of two things that nobody can do without, measured in the same round:
//! the same tree copied on the same disk and flushed (`syncfs`), and as many bytes sent over one bare TCP connection.
//! The order changes from round to round, and the best round of each counts, as for other rows that end at a disk.
//!
//! Loss: a client writes 4 KiB at a time while the partner is away, and while a session brings it files that take longer
//! than the turn, at the lower rate that is configured by default. Both nodes, the client and the link share one
//! machine here: what a session's two ends take of its processors counts as loss, too.

use crate::cluster::{Cluster, LIMIT};
use crate::disk::Place;
use crate::report::{Bar, Report, Row, Unit};
use crate::scale::Scale;
use crate::turns::median;
use admin_api::status::{Mode, ResyncSide, Role};
use anyhow::{Result, bail};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// What a resync must reach of the slower of link and disk.
const SPEED_BAR: Bar = Bar::RatioAtLeast(0.8);
/// What must be left of a client's throughput.
const LEFT_BAR: Bar = Bar::RatioAtLeast(0.9);
/// So many logs long is what the partner misses: none holds it.
const LOGS: u64 = 4;
/// The lengths of the files that it misses.
const FILE_BYTES: [u64; 2] = [16 << 20, 64 << 10];
/// One read or write of a peer.
const PEER_BYTES: usize = 1 << 20;
/// What the client writes at a time, and the length of its one file.
const BLOCK_BYTES: usize = 4 << 10;
const BLOCKS: u64 = 1024;

/// Measures both.
pub fn measure(scale: &Scale, program: &Path, place: &Place, report: &mut Report) -> Result<()> {
    let mut cluster =
        Cluster::start_with(program, place.path(), scale.resync_bytes[1] / LOGS, scale.resync_config)?;
    for (number, file_bytes) in FILE_BYTES.into_iter().enumerate() {
        speed(scale, &mut cluster, place, report, (number, file_bytes.min(scale.resync_bytes[number] / 2)))?;
    }
    loss(scale, &mut cluster, report)
}

/// Kills the partner; returns the node that serves alone.
fn leave_alone(cluster: &mut Cluster) -> Result<usize> {
    let primary = cluster.wait_mirrored()?;
    cluster.settle()?;
    cluster.kill(1 - primary);
    cluster.wait("the primary to go on alone", || {
        let status = cluster.files(primary).status().ok()?;
        (status.role == Role::Primary && status.mode == Mode::Solo).then_some(())
    })?;
    Ok(primary)
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| ((n + seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 29) as u8).collect()
}

/// Files that nobody had before, in the base tree of the one node that serves.
fn make(cluster: &Cluster, primary: usize, name: &str, count: u64, data: &[u8]) -> Result<()> {
    let directory = cluster.files(primary).mount().join(name);
    std::fs::create_dir(&directory)?;
    for number in 0..count {
        let mut file = File::create(directory.join(format!("file-{number:05}")))?;
        for part in data.chunks(PEER_BYTES) {
            file.write_all(part)?;
        }
    }
    cluster.files(primary).consistency_point(crate::cluster::VOLUME)
}

fn speed(
    scale: &Scale,
    cluster: &mut Cluster,
    place: &Place,
    report: &mut Report,
    (shape, file_bytes): (usize, u64),
) -> Result<()> {
    let count = scale.resync_bytes[shape] / file_bytes;
    let (mut best, mut best_disk, mut best_link) = (Duration::MAX, Duration::MAX, Duration::MAX);
    for round in 0..=scale.resync_rounds {
        let primary = leave_alone(cluster)?;
        let name = format!("missed-{shape}-{round}");
        let data = pattern(round as u64, file_bytes as usize);
        make(cluster, primary, &name, count, &data)?;
        let tree = cluster.files(primary).base().join(&name);
        let copy = place.path().join("copy");
        let (mut took, mut disk) = (Duration::MAX, Duration::MAX);
        for turn in 0..2 {
            rustix::fs::syncfs(File::open(place.path())?)?;
            std::thread::sleep(scale.apply_pause);
            if (round + turn) % 2 == 0 {
                took = session(cluster, 1 - primary)?;
            } else {
                disk = copy_tree(&tree, &copy)?;
                std::fs::remove_dir_all(&copy)?;
            }
        }
        let link = bare_link(count * file_bytes)?;
        eprintln!("  round {round}: resync {took:.0?}, copy {disk:.0?}, link {link:.0?}");
        std::fs::remove_dir_all(cluster.files(primary).mount().join(&name))?;
        if round > 0 {
            (best, best_disk, best_link) = (best.min(took), best_disk.min(disk), best_link.min(link));
        }
    }
    let rate = |took: Duration| (count * file_bytes) as f64 / took.as_secs_f64();
    let what = format!("resync of {count} files of {} KiB, idle", file_bytes >> 10);
    let slower = best_disk.max(best_link);
    let against = format!(
        "the slower of a copy + syncfs, {}, and bare TCP ({})",
        place.name(),
        if slower == best_disk { "the copy" } else { "TCP" }
    );
    let row = Row::new("resync", what, Unit::BytesPerSecond, rate(best)).against(against, rate(slower));
    report.add(row.bar(SPEED_BAR).detail("disk", rate(best_disk)).detail("link", rate(best_link)));
    Ok(())
}

/// Starts the partner; how long its session took until the pair was mirrored.
fn session(cluster: &mut Cluster, partner: usize) -> Result<Duration> {
    cluster.start_node(partner)?;
    cluster.wait("a session", || is_receiving(cluster, partner))?;
    let begun = Instant::now();
    cluster.wait_mirrored()?;
    Ok(begun.elapsed())
}

fn is_receiving(cluster: &Cluster, partner: usize) -> Option<()> {
    let resync = cluster.files(partner).status().ok()?.resync?;
    (resync.side == Some(ResyncSide::Receiving)).then_some(())
}

/// As `cp -r` of one directory and a flush.
fn copy_tree(from: &Path, to: &Path) -> Result<Duration> {
    let begun = Instant::now();
    let mut buffer = vec![0; PEER_BYTES];
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (mut source, mut target) = (File::open(entry.path())?, File::create(to.join(entry.file_name()))?);
        loop {
            let len = source.read(&mut buffer)?;
            if len == 0 {
                break;
            }
            target.write_all(&buffer[..len])?;
        }
    }
    rustix::fs::syncfs(File::open(to)?)?;
    Ok(begun.elapsed())
}

/// So many bytes over a connection, until the other end has them all.
fn bare_link(len_bytes: u64) -> Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut stream = TcpStream::connect(listener.local_addr()?)?;
    let (mut other, _) = listener.accept()?;
    let reader = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut buffer, mut left) = (vec![0; PEER_BYTES], len_bytes);
        while left > 0 {
            match other.read(&mut buffer)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                len => left -= len as u64,
            }
        }
        other.write_all(&[1])
    });
    let (buffer, begun) = (vec![7; PEER_BYTES], Instant::now());
    let mut left = len_bytes;
    while left > 0 {
        let len = left.min(PEER_BYTES as u64);
        stream.write_all(&buffer[..len as usize])?;
        left -= len;
    }
    stream.read_exact(&mut [0])?;
    let took = begun.elapsed();
    match reader.join() {
        Ok(read) => read?,
        Err(_) => bail!("the reading end panicked"),
    }
    Ok(took)
}

fn loss(scale: &Scale, cluster: &mut Cluster, report: &mut Report) -> Result<()> {
    let primary = leave_alone(cluster)?;
    let file = File::create(cluster.files(primary).mount().join("client"))?;
    let data = pattern(0, FILE_BYTES[0].min(scale.resync_backlog_bytes) as usize);
    let (mut alone, mut throttled) = (Vec::new(), Vec::new());
    for round in 0..=scale.resync_rounds {
        // More than a session can bring in a turn, new in each round.
        let count = scale.resync_backlog_bytes.div_ceil(data.len() as u64);
        make(cluster, primary, &format!("backlog-{round}"), count, &data)?;
        std::thread::sleep(scale.apply_pause);
        let without = write_for(&file, scale.resync_time)?;
        cluster.start_node(1 - primary)?;
        // The client goes on while the session begins, so that it finds a client that writes.
        let begun = Instant::now();
        while !is_bringing(cluster, 1 - primary) {
            write_for(&file, Duration::from_millis(20))?;
            if begun.elapsed() > LIMIT {
                bail!("no session within {LIMIT:?}: {}", cluster.files(1 - primary).output_tail());
            }
        }
        let with = write_for(&file, scale.resync_time)?;
        if !is_bringing(cluster, 1 - primary) {
            bail!("the session ended before the turn did");
        }
        cluster.kill(1 - primary);
        eprintln!("  round {round}: {:.0} MB/s alone, {:.0} with", without / 1e6, with / 1e6);
        if round > 0 {
            alone.push(without);
            throttled.push(with);
        }
    }
    let (alone, throttled) = (median(alone), median(throttled));
    let row =
        Row::new("resync", "4 KiB writes through the mount during a resync", Unit::BytesPerSecond, throttled);
    report.add(row.against("the same without one", alone).bar(LEFT_BAR));
    Ok(())
}

fn is_bringing(cluster: &Cluster, partner: usize) -> bool {
    let resync = cluster.files(partner).status().ok().and_then(|status| status.resync);
    resync.is_some_and(|resync| resync.bytes_done > 0)
}

/// Bytes per second of one client that overwrites its file again and again.
fn write_for(file: &File, time: Duration) -> Result<f64> {
    let (block, begun, mut blocks) = ([0x5A; BLOCK_BYTES], Instant::now(), 0);
    while begun.elapsed() < time {
        file.write_all_at(&block, (blocks % BLOCKS) * BLOCK_BYTES as u64)?;
        blocks += 1;
    }
    Ok((blocks * BLOCK_BYTES as u64) as f64 / begun.elapsed().as_secs_f64())
}
