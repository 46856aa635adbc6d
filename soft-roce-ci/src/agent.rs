//! The harness's hand in a guest: `soft-roce-ci agent`, started by the guest's first process.
//!
//! It carries out the orders of [`protocol`] that come over a virtio-serial port. Each line of a program's output
//! is written to the port when it is there, before the next one is read: what a load generator reports has left
//! the guest's memory when the emulator is killed a moment later. Nothing is kept back here.
//!
//! When the port ends the harness is gone and the agent ends, and with it the guest. A program may outlive its
//! `Ended` (a daemon that detached); only its process group is ours to signal.

mod program;
pub mod protocol;

use anyhow::{Context, Result, bail};
use program::Programs;
use protocol::{Event, MAX_FILE_BYTES, Order, PORT_NAME, Request, from_hex, to_hex};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The longest request line: a file as hexadecimal text, and what is around it.
const MAX_REQUEST_BYTES: u64 = 2 * MAX_FILE_BYTES as u64 + (64 << 10);

/// How often, and with what pause, the port is looked for: its device appears a moment after its driver.
const PORT_ATTEMPTS: u32 = 100;
const PORT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the harness until it goes away.
pub fn serve() -> Result<()> {
    let port = open_port()?;
    let to_host = ToHost(Arc::new(Mutex::new(port.try_clone().context("cannot share the port")?)));
    to_host.say(&Event::Ready);
    serve_connection(BufReader::new(port), &to_host)
}

fn serve_connection(mut from_host: impl BufRead, to_host: &ToHost) -> Result<()> {
    let programs = Programs::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        let len = std::io::Read::take(&mut from_host, MAX_REQUEST_BYTES)
            .read_until(b'\n', &mut line)
            .context("cannot read from the harness")?;
        if len == 0 {
            return Ok(());
        }
        let request: Request =
            serde_json::from_slice(&line).context("the harness sent something that is no request")?;
        let id = request.id;
        if let Err(error) = obey(request, &programs, to_host) {
            to_host.say(&Event::Failed { id, error: format!("{error:#}") });
        }
    }
}

fn obey(request: Request, programs: &Programs, to_host: &ToHost) -> Result<()> {
    let id = request.id;
    match request.order {
        Order::Start { argv, limit_ms } => {
            return programs.start(id, &argv, limit_ms.map(Duration::from_millis), to_host);
        }
        Order::Signal { target, signal } => {
            programs.signal(target, signal)?;
            to_host.say(&Event::Done { id });
        }
        Order::Write { path, hex } => {
            let bytes = from_hex(&hex).context("the contents are not hexadecimal text")?;
            write_file(Path::new(&path), &bytes).with_context(|| format!("cannot write {path}"))?;
            to_host.say(&Event::Done { id });
        }
        Order::Read { path } => {
            let bytes = read_file(Path::new(&path)).with_context(|| format!("cannot read {path}"))?;
            to_host.say(&Event::Contents { id, hex: to_hex(&bytes) });
        }
    }
    Ok(())
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    Ok(fs::write(path, bytes)?)
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = MAX_FILE_BYTES as u64;
    std::io::Read::read_to_end(&mut std::io::Read::take(File::open(path)?, limit + 1), &mut bytes)?;
    if bytes.len() > MAX_FILE_BYTES {
        bail!("it has more than {MAX_FILE_BYTES} bytes");
    }
    Ok(bytes)
}

/// The way to the harness. Cloned for every thread that has something to say.
#[derive(Clone)]
struct ToHost(Arc<Mutex<File>>);

impl ToHost {
    /// One event, in one write. A port that cannot be written has lost its harness; the reading side notices.
    fn say(&self, event: &Event) {
        let mut line = serde_json::to_vec(event).expect("events have no part that JSON cannot hold");
        line.push(b'\n');
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = port.write_all(&line);
    }
}

fn open_port() -> Result<File> {
    for _ in 0..PORT_ATTEMPTS {
        if let Some(path) = find_port() {
            return OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .with_context(|| format!("cannot open {}", path.display()));
        }
        std::thread::sleep(PORT_PAUSE);
    }
    bail!("there is no virtio-serial port named {PORT_NAME}: this command is for the inside of a guest")
}

fn find_port() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    ports
        .flatten()
        .find(|port| fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == PORT_NAME))
        .map(|port| Path::new("/dev").join(port.file_name()))
}

#[cfg(test)]
mod tests;
