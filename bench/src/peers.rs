//! The bare peers of a mirrored commit: what any two processes pay to hand bytes over and hear that they came.

use anyhow::{Result, bail};
use nvlog::Region;
use nvlog::region::MappedRegion;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// As long as an acknowledgement of the link.
const ANSWER_BYTES: usize = 32;

/// A blocking ping-pong over TCP loopback: so many bytes there, a short answer back.
pub struct TcpPing {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl TcpPing {
    /// Connected, with an answering thread that ends with the connection.
    pub fn start(size_bytes: usize) -> Result<TcpPing> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        let (mut other, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        other.set_nodelay(true)?;
        std::thread::spawn(move || {
            let mut bytes = vec![0; size_bytes];
            while other.read_exact(&mut bytes).is_ok() && other.write_all(&bytes[..ANSWER_BYTES]).is_ok() {}
        });
        Ok(TcpPing { stream, bytes: vec![7; size_bytes] })
    }

    /// There and back.
    pub fn ping(&mut self) -> Result<()> {
        self.stream.write_all(&self.bytes)?;
        Ok(self.stream.read_exact(&mut self.bytes[..ANSWER_BYTES])?)
    }
}

/// A word on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Word(AtomicU64);

#[derive(Default)]
struct Words {
    there: Word,
    back: Word,
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
    /// With a polling thread, which keeps a core busy while this lives.
    pub fn start(size_bytes: usize, memory_bytes: u64) -> Result<ShmPing> {
        if size_bytes as u64 > memory_bytes {
            bail!("{size_bytes} bytes do not fit into {memory_bytes}");
        }
        let words = Arc::new(Words::default());
        let theirs = words.clone();
        let thread = std::thread::spawn(move || {
            let mut seen = 0;
            while !theirs.stop.load(Ordering::Relaxed) {
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

    /// There and back.
    pub fn ping(&mut self) {
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
        if let Some(thread) = self.thread.take() {
            // It does nothing that could panic.
            let _ = thread.join();
        }
    }
}
