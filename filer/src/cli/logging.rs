//! Log messages: to standard error, filtered by `RUST_LOG` or the configuration, as text or JSON.
//!
//! What can go wrong: standard error takes nothing (the reader of a pipe has gone or stands still, its filesystem is full, the
//! terminal has gone or is stopped). Then the message is lost, and nothing else: a volume that is served is worth more than a
//! line about it.
//!
//! One message of the fuser crate is kept out: an answer that finds nobody who waits for it, because the client was
//! killed in its call or the mount was left. The crate calls that an error, once for each such client; every other
//! answer that cannot be delivered is told.

use super::unblocked::Unblocked;
use config::{LogFormat, NodeConfig};
use std::fmt::{Debug, Write};
use std::io::IsTerminal;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Where the fuser crate tells of answers.
const FUSER_REPLIES: &str = "fuser::reply";

/// Starts logging as `config` says; `RUST_LOG` wins. A second call does nothing.
pub fn start(config: &NodeConfig) {
    start_with(&config.log_level, config.log_format);
}

/// Starts logging with this filter and form.
pub fn start_with(level: &str, format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Unblocked)
        .with_ansi(std::io::stderr().is_terminal())
        // It would tell of what cannot be written where that cannot be written, and panic over it.
        .log_internal_errors(false)
        .with_thread_names(true);
    let started = match format {
        LogFormat::Text => builder.finish().with(NoLateAnswers).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().with(NoLateAnswers).try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
    }
}

/// See the module.
struct NoLateAnswers;

impl<S: Subscriber> Layer<S> for NoLateAnswers {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        if *event.metadata().level() != Level::ERROR {
            return true;
        }
        let mut told = Told::default();
        event.record(&mut told);
        // The kernel knows no such request any more. The crate hands over no number, only the text that the
        // standard library makes of it.
        let nobody_waits = std::io::Error::from_raw_os_error(libc::ENOENT).to_string();
        !(told.by_fuser && told.message.ends_with(&nobody_waits))
    }
}

/// What an event of the crate `log` says.
#[derive(Default)]
struct Told {
    by_fuser: bool,
    message: String,
}

impl Visit for Told {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.by_fuser |= field.name() == "log.target" && value == FUSER_REPLIES;
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // Writing to a string does not fail.
            let _ = write!(self.message, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn answers_that_nobody_waits_for_are_no_errors() {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber =
            tracing_subscriber::fmt().with_writer(move || writer.clone()).finish().with(NoLateAnswers);
        tracing::subscriber::with_default(subscriber, || {
            // As tracing-log passes on what the crate `log` was given.
            let failed = |errno| {
                let error = io::Error::from_raw_os_error(errno);
                tracing::error!(log.target = FUSER_REPLIES, "Failed to send FUSE reply: {error}");
            };
            failed(libc::ENOENT);
            failed(libc::EINVAL);
            let error = io::Error::from_raw_os_error(libc::ENOENT);
            tracing::error!("a file of ours: {error}");
        });
        let told = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 2, "{told}");
        assert!(lines[0].contains("Invalid argument") && lines[1].contains("a file of ours"), "{told}");
    }
}
