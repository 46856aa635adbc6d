//! perftest: what everybody measures RDMA with.

use super::Amount;
use crate::lab::{Lab, Side};
use anyhow::{Context, Result, bail};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// Longer messages than these are many packets, and each is slow here.
const LONG_BYTES: u32 = 4096;
/// How often a client is started again while its server does not listen yet.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// Half a round trip, microseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Latency {
    /// The middle one.
    pub typical_us: f64,
    /// One in a hundred is longer.
    pub p99_us: f64,
}

/// How many messages: what a busy emulated machine gets done within the limit.
fn count(size_bytes: u32, amount: Amount) -> &'static str {
    match amount {
        Amount::Tiny => "20",
        Amount::Full if size_bytes > LONG_BYTES => "200",
        Amount::Full => "1000",
    }
}

/// Latency of messages of this size.
pub fn latency(lab: &Lab, program: &str, size_bytes: u32, events: bool, amount: Amount) -> Result<Latency> {
    let count = count(size_bytes, amount);
    let mut more = vec!["-n", count];
    if events {
        more.push("-e");
    }
    parse_latency(&both(lab, program, size_bytes, &more)?)
        .with_context(|| format!("{program} printed no latency"))
}

/// Bytes a second of writes of this size.
pub fn bandwidth(lab: &Lab, size_bytes: u32, amount: Amount) -> Result<f64> {
    let count = count(size_bytes, amount);
    parse_bandwidth(&both(lab, "ib_write_bw", size_bytes, &["-n", count])?)
        .context("ib_write_bw printed no rate")
}

/// Runs the server in B and the client in A; gives what the client printed.
fn both(lab: &Lab, program: &str, size_bytes: u32, more: &[&str]) -> Result<String> {
    let size = size_bytes.to_string();
    // GID index 1 is the IPv4 RoCEv2 one; -F: the frequency of an emulated processor is of no use.
    let mut server = vec![program, "-d", "rxe0", "-x", "1", "-F", "-s", &size];
    server.extend(more);
    let address = Side::B.address().to_string();
    let client = server.iter().copied().chain([address.as_str()]).collect::<Vec<_>>();
    let serving = lab.guest(Side::B).start(&server, Some(LIMIT))?;
    let mut last = String::new();
    for _ in 0..TRIES {
        std::thread::sleep(PAUSE);
        let said = lab.guest(Side::A).run(&client, LIMIT)?;
        if said.success() {
            serving.wait(LIMIT)?;
            return said.ok();
        }
        last = format!("{}{}", said.stdout, said.stderr);
        if serving.has_ended() {
            bail!("{program} in guest b ended: {:?}", serving.wait(PAUSE)?);
        }
    }
    bail!("{program} in guest a does not reach guest b: {last}")
}

/// The numbers of the last line that is nothing but numbers.
fn numbers(text: &str) -> Option<Vec<f64>> {
    text.lines().rev().find_map(|line| {
        let numbers: Result<Vec<f64>, _> = line.split_whitespace().map(str::parse).collect();
        numbers.ok().filter(|numbers| numbers.len() >= 5)
    })
}

/// Bytes, iterations, then minimum, maximum, typical, average, deviation, 99 %, 99.9 %.
fn parse_latency(text: &str) -> Option<Latency> {
    let numbers = numbers(text)?;
    Some(Latency { typical_us: *numbers.get(4)?, p99_us: *numbers.get(7)? })
}

/// Bytes, iterations, peak, average (MiB/s), messages.
fn parse_bandwidth(text: &str) -> Option<f64> {
    Some(*numbers(text)?.get(3)? * f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_perftest_prints_is_read() {
        let text = "\
 #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    t_stdev[usec]   99% percentile[usec]   99.9% percentile[usec]
 256     1000          301.12         1220.49      365.10              371.01       \t40.21  \t\t512.01  \t\t1220.49
---------------------------------------------------------------------------------------
";
        assert_eq!(parse_latency(text), Some(Latency { typical_us: 365.10, p99_us: 512.01 }));
        let text = "\
 #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]
 65536      1000             31.25              30.00  \t\t   0.000480
---------------------------------------------------------------------------------------
";
        assert_eq!(parse_bandwidth(text), Some(30.0 * 1024.0 * 1024.0));
        assert_eq!(parse_latency("no RDMA device\n"), None);
    }
}
