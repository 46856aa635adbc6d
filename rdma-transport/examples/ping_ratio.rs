//! How much a mirrored write and its acknowledgement cost over a bare ping-pong of the same size: over TCP and
//! over shared memory, in one run on one machine.
//!
//! `cargo run --release -p rdma-transport --example ping_ratio [ROUNDS]`
//!
//! The two are measured in turns of a few hundred rounds, so that what else happens on the machine meets both.

#![allow(clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Kind, WAIT, link, pattern, point};
use rdma_transport::LinkParams;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CAPACITY_BYTES: u64 = 1 << 20;
const TURN_ROUNDS: usize = 250;
const SIZES: [usize; 2] = [256, 4096];
/// An acknowledgement of the bare ping-pong is as long as one of the link.
const ANSWER_BYTES: usize = 32;

/// One side of a measurement: its name, and one ping-pong.
type Side<'a> = (&'a str, Box<dyn FnMut() + 'a>);

fn measure(rounds: usize, sides: &mut [Side<'_>]) -> Vec<Vec<Duration>> {
    let mut times = vec![Vec::with_capacity(rounds); sides.len()];
    for turn in 0..rounds.div_ceil(TURN_ROUNDS) + 1 {
        for (side, times) in sides.iter_mut().zip(&mut times) {
            for _ in 0..TURN_ROUNDS {
                let begin = Instant::now();
                (side.1)();
                // The first turn only warms up.
                if turn > 0 {
                    times.push(begin.elapsed());
                }
            }
        }
    }
    times.iter_mut().for_each(|times| times.sort_unstable());
    times
}

fn report(title: &str, sides: &[Side<'_>], times: &[Vec<Duration>]) {
    let us = |times: &[Duration], part: f64| {
        times[((times.len() - 1) as f64 * part) as usize].as_nanos() as f64 / 1000.0
    };
    let mean =
        |times: &[Duration]| times.iter().sum::<Duration>().as_nanos() as f64 / 1000.0 / times.len() as f64;
    println!("{title}");
    for ((name, _), times_here) in sides.iter().zip(times) {
        println!(
            "  {name:34} p50 {:7.2} µs  mean {:7.2}  p99 {:7.2}   ratio p50 {:.2}  mean {:.2}",
            us(times_here, 0.5),
            mean(times_here),
            us(times_here, 0.99),
            us(times_here, 0.5) / us(&times[0], 0.5),
            mean(times_here) / mean(&times[0]),
        );
    }
}

/// A link whose receiving side acknowledges all that lands, until the link ends.
fn mirrored(kind: Kind, size: usize, spin: Duration) -> (impl FnMut(), impl FnOnce()) {
    let ends = link(kind, CAPACITY_BYTES, |params: &mut LinkParams| params.tuning.spin = spin).started(0);
    ends.memory_a.put(0, &pattern(0, CAPACITY_BYTES as usize));
    let (mut a, mut b) = (ends.a, ends.b);
    let closer = a.closer.clone();
    let serving = std::thread::spawn(move || {
        let b = &mut b;
        while let Ok(arrival) = b.receiver.next(WAIT) {
            if let Some(arrival) = arrival
                && b.receiver.acknowledge(arrival.to).is_err()
            {
                break;
            }
        }
    });
    let mut end = 0;
    let round = move || {
        // The whole link moves into the closure: its control part must live as long as it.
        let a = &mut a;
        end += size as u64;
        a.sender.write(point(end)).unwrap();
        while a.sender.poll(WAIT).unwrap() != Some(point(end)) {}
    };
    (round, move || {
        closer.close();
        serving.join().unwrap();
    })
}

fn bare_tcp(size: usize) -> impl FnMut() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut other, _) = listener.accept().unwrap();
    stream.set_nodelay(true).unwrap();
    other.set_nodelay(true).unwrap();
    std::thread::spawn(move || {
        let mut bytes = vec![0; size];
        while other.read_exact(&mut bytes).is_ok() && other.write_all(&bytes[..ANSWER_BYTES]).is_ok() {}
    });
    let mut bytes = vec![7; size];
    move || {
        stream.write_all(&bytes).unwrap();
        stream.read_exact(&mut bytes[..ANSWER_BYTES]).unwrap();
    }
}

/// The floor of shared memory: a copy and a word that the other core polls, and a word back.
fn bare_shm(size: usize) -> (impl FnMut(), impl FnOnce()) {
    #[derive(Default)]
    #[repr(align(128))]
    struct Word(AtomicU64);
    let words = std::sync::Arc::new((Word::default(), Word::default(), AtomicBool::new(false)));
    let theirs = std::sync::Arc::clone(&words);
    let serving = std::thread::spawn(move || {
        let mut seen = 0;
        while !theirs.2.load(Ordering::Relaxed) {
            let now = theirs.0.0.load(Ordering::Acquire);
            if now != seen {
                seen = now;
                theirs.1.0.store(now, Ordering::Release);
            }
            std::hint::spin_loop();
        }
    });
    let stop = std::sync::Arc::clone(&words);
    let (from, to) = (common::TestMemory::new(CAPACITY_BYTES), common::TestMemory::new(CAPACITY_BYTES));
    let mut round = 0;
    let ping = move || {
        use ids::LogMemory;
        let at = (round as usize * size) % (CAPACITY_BYTES as usize - size);
        // SAFETY: both ranges lie inside their mappings.
        unsafe { to.base().add(at).copy_from_nonoverlapping(from.base().add(at), size) };
        round += 1;
        words.0.0.store(round, Ordering::Release);
        while words.1.0.load(Ordering::Acquire) != round {
            std::hint::spin_loop();
        }
    };
    (ping, move || {
        stop.2.store(true, Ordering::Relaxed);
        serving.join().unwrap();
    })
}

fn main() {
    let rounds = std::env::args().nth(1).map_or(5000, |rounds| rounds.parse().expect("ROUNDS is a number"));
    let default_spin = rdma_transport::Tuning::default().spin;
    for size in SIZES {
        let (spinning, end_spinning) = mirrored(Kind::Tcp, size, default_spin);
        let (sleeping, end_sleeping) = mirrored(Kind::Tcp, size, Duration::ZERO);
        let mut sides: Vec<Side<'_>> = vec![
            ("bare blocking ping-pong", Box::new(bare_tcp(size))),
            ("mirrored, default spin", Box::new(spinning)),
            ("mirrored, no spin", Box::new(sleeping)),
        ];
        let times = measure(rounds, &mut sides);
        report(&format!("tcp loopback, {size} bytes, {rounds} rounds"), &sides, &times);
        end_spinning();
        end_sleeping();
    }
    for size in SIZES {
        let (bare, end_bare) = bare_shm(size);
        let (spinning, end_spinning) = mirrored(Kind::Shm, size, default_spin);
        let mut sides: Vec<Side<'_>> = vec![
            ("bare copy and polled word", Box::new(bare)),
            ("mirrored, default spin", Box::new(spinning)),
        ];
        let times = measure(rounds, &mut sides);
        report(&format!("shm, {size} bytes, {rounds} rounds"), &sides, &times);
        end_bare();
        end_spinning();
    }
}
