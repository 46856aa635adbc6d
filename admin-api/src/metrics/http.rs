//! The smallest HTTP/1.1 server that Prometheus is content with: `GET /metrics`, one connection at a time.
//!
//! Invariants: bounded in the length of a request and the time of an exchange; listens on loopback only (the configuration
//! is refused otherwise), because it knows no access control. A web framework would be the biggest
//! dependency of the daemon for one page of text.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest request, headers included.
const MAX_REQUEST_BYTES: usize = 8 * 1024;
/// Time for one exchange.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(3);
/// Pause after a failed accept, so that a lack of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics at {address}: {source}\n    remedy: choose another `node.metrics_listen`")]
pub struct ServeError {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// Serves metrics until it is dropped.
pub struct MetricsServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    /// Serves at `address` what `render` returns for each scrape.
    ///
    /// # Errors
    /// When the address cannot be listened at.
    pub fn start(
        address: SocketAddr,
        render: impl Fn() -> String + Send + 'static,
    ) -> Result<MetricsServer, ServeError> {
        let failed = |source| ServeError { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("metrics".into())
            .spawn(move || {
                while !stopped.load(Ordering::Acquire) {
                    match listener.accept() {
                        Ok((stream, _)) => {
                            if let Err(error) = exchange(&stream, &render) {
                                tracing::debug!(%error, "a scrape was cut off");
                            }
                        }
                        Err(error) => {
                            tracing::warn!(%error, "a metrics connection could not be accepted");
                            std::thread::sleep(ACCEPT_PAUSE);
                        }
                    }
                }
            })
            .map_err(failed)?;
        Ok(MetricsServer { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the blocking accept.
        if let Err(error) = TcpStream::connect_timeout(&self.address, EXCHANGE_LIMIT) {
            tracing::warn!(%error, "the metrics thread could not be woken; it is left behind");
            return;
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the metrics thread panicked");
        }
    }
}

fn exchange(mut stream: &TcpStream, render: &dyn Fn() -> String) -> io::Result<()> {
    stream.set_write_timeout(Some(EXCHANGE_LIMIT))?;
    let request = read_request(stream)?;
    let (status, content_type, body) = match request_target(&request) {
        Some(("GET" | "HEAD", "/metrics")) => ("200 OK", CONTENT_TYPE, render()),
        Some(("GET" | "HEAD", _)) => ("404 Not Found", "text/plain", "metrics are at /metrics\n".to_owned()),
        Some(_) => ("405 Method Not Allowed", "text/plain", "only GET\n".to_owned()),
        None => ("400 Bad Request", "text/plain", "not HTTP\n".to_owned()),
    };
    let head_only = request.starts_with(b"HEAD ");
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
        body.len(),
        if head_only { "" } else { &body }
    )
}

fn read_request(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let until = Instant::now() + EXCHANGE_LIMIT;
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || request.len() > MAX_REQUEST_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the request is too long or too slow"));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer)? {
            0 => break,
            n => request.extend_from_slice(&buffer[..n]),
        }
    }
    Ok(request)
}

/// Method and path of the request line, without the query.
fn request_target(request: &[u8]) -> Option<(&str, &str)> {
    let line = request.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if !version.starts_with("HTTP/1.") {
        return None;
    }
    Some((method, target.split('?').next().unwrap_or(target)))
}
