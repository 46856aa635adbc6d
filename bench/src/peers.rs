//! The bare peers of a mirrored commit: what any two processes pay to hand bytes over and hear that they came.

use anyhow::{Result, bail};
use nvlog::Region;
use nvlog::region::MappedRegion;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// As long as an acknowledgement of the link.
const ANSWER_BYTES: usize = 32;

/// How long a polling end asks in vain before it sleeps, so that it leaves the processor to others between turns.
const POLLING_LIMIT: Duration = Duration::from_millis(1);

/// A ping-pong over TCP loopback: so many bytes there, a short answer back.
pub struct TcpPing {
    stream: TcpStream,
    bytes: Vec<u8>,
    polling: bool,
}

impl TcpPing {
    /// Connected, with an answering thread that ends with the connection. `polling`: both ends ask the socket again
    /// and again instead of sleeping in the kernel.
    pub fn start(size_bytes: usize, polling: bool) -> Result<TcpPing> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        let (mut other, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        other.set_nodelay(true)?;
        std::thread::spawn(move || {
            let mut bytes = vec![0; size_bytes];
            while receive(&mut other, &mut bytes, polling).is_ok()
                && other.write_all(&bytes[..ANSWER_BYTES]).is_ok()
            {}
        });
        Ok(TcpPing { stream, bytes: vec![7; size_bytes], polling })
    }

    /// There and back.
    pub fn ping(&mut self) -> Result<()> {
        self.stream.write_all(&self.bytes)?;
        Ok(receive(&mut self.stream, &mut self.bytes[..ANSWER_BYTES], self.polling)?)
    }
}

fn receive(stream: &mut TcpStream, bytes: &mut [u8], polling: bool) -> std::io::Result<()> {
    let mut done = 0;
    let begun = Instant::now();
    while polling && done < bytes.len() && begun.elapsed() < POLLING_LIMIT {
        match rustix::net::recv(&*stream, &mut bytes[done..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok((len, _)) => done += len,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    stream.read_exact(&mut bytes[done..])
}

/// A word on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Word(AtomicU64);

#[derive(Default)]
struct Words {
    there: Word,
    back: Word,
    /// The polling thread sleeps: others are measured now.
    resting: AtomicBool,
    stop: AtomicBool,
}

/// The floor of shared memory: a copy and a word that the other core polls, and a word back.
pub struct ShmPing {
    words: Arc<Words>,
    memory: MappedRegion,
    bytes: Vec<u8>,
    round: u64,
    thread: Option<JoinHandle<()>>,
}

impl ShmPing {
    /// With a polling thread, which keeps a core busy until [`ShmPing::rest`].
    pub fn start(size_bytes: usize, memory_bytes: u64) -> Result<ShmPing> {
        if size_bytes as u64 > memory_bytes {
            bail!("{size_bytes} bytes do not fit into {memory_bytes}");
        }
        let words = Arc::new(Words::default());
        let theirs = words.clone();
        let thread = std::thread::spawn(move || {
            let mut seen = 0;
            while !theirs.stop.load(Ordering::Relaxed) {
                if theirs.resting.load(Ordering::Acquire) {
                    std::thread::park();
                    continue;
                }
                let now = theirs.there.0.load(Ordering::Acquire);
                if now != seen {
                    seen = now;
                    theirs.back.0.store(now, Ordering::Release);
                }
                std::hint::spin_loop();
            }
        });
        let memory = MappedRegion::anonymous(memory_bytes)?;
        Ok(ShmPing { words, memory, bytes: vec![7; size_bytes], round: 0, thread: Some(thread) })
    }

    /// Leaves both cores to others until the next ping.
    pub fn rest(&self) {
        self.words.resting.store(true, Ordering::Release);
    }

    fn wake(&self) {
        self.words.resting.store(false, Ordering::Release);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// There and back.
    pub fn ping(&mut self) {
        if self.words.resting.load(Ordering::Relaxed) {
            self.wake();
        }
        let places = self.memory.len_bytes() / self.bytes.len() as u64;
        let at = (self.round % places) * self.bytes.len() as u64;
        self.memory.store(at, &[&self.bytes], &mut |_| {});
        self.round += 1;
        self.words.there.0.store(self.round, Ordering::Release);
        while self.words.back.0.load(Ordering::Acquire) != self.round {
            std::hint::spin_loop();
        }
    }
}

impl Drop for ShmPing {
    fn drop(&mut self) {
        self.words.stop.store(true, Ordering::Relaxed);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // It does nothing that could panic.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_wait_answer_also_after_a_pause() {
        for polling in [false, true] {
            let mut peer = TcpPing::start(100_000, polling).unwrap();
            for _ in 0..3 {
                peer.ping().unwrap();
                std::thread::sleep(2 * POLLING_LIMIT);
            }
        }
    }

    #[test]
    fn a_rested_peer_answers_again_and_ends() {
        let mut peer = ShmPing::start(64, 4096).unwrap();
        for _ in 0..3 {
            peer.ping();
            peer.rest();
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(peer.words.back.0.load(Ordering::Acquire), 3);
    }
}
