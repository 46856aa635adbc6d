//! Log messages: to standard error, filtered by `RUST_LOG` or the configuration, as text or JSON.

use crate::config::{LogFormat, NodeConfig};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging as `config` says; `RUST_LOG` wins. A second call does nothing.
pub fn start(config: &NodeConfig) {
    start_with(&config.log_level, config.log_format);
}

/// Starts logging with this filter and form.
pub fn start_with(level: &str, format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_thread_names(true);
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
    }
}
