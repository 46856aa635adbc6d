//! `twinfiler serve`: the daemon, from reading its configuration to its clean end.
//!
//! Order at start: configuration, what the machine lacks, control socket and metrics port (a second daemon of
//! the same configuration ends here, before it touches anything), node, READY. At the end: STOPPING, then the
//! node hands over or stops cleanly, then the sockets go.

use super::exit::{ExitCode, Failure};
use super::logging;
use super::preflight::preflight;
use crate::rights;
use admin_api::control::{ControlServer, ControlTarget};
use admin_api::metrics::{Metrics, MetricsServer};
use anyhow::Context;
use config::NodeConfig;
use node::Node;
use runtime::shutdown::Shutdown;
use sd_notify::NotifyState;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How often the daemon tells systemd how it is, when systemd asks for no watchdog.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// The running node, once there is one: the metrics port is open before.
type LateTarget = Arc<OnceLock<Arc<dyn ControlTarget>>>;

/// Runs until a stop is requested.
pub(super) fn serve(path: &Path) -> anyhow::Result<()> {
    let config = NodeConfig::load(path)?;
    // Before there is any other thread: each has its own rights.
    rights::keep_only(rights::of_node()).map_err(|errno| {
        let why = format!("the rights that are not needed cannot be given up: {errno}; is it in a container that forbids prctl?");
        Failure::new(ExitCode::NoPermission, why)
    })?;
    logging::start(&config);
    preflight(&config)?;
    runtime::stay_in_memory();
    let shutdown = Shutdown::on_signals().context("installing the signal handlers")?;
    let socket = ControlServer::bind(&config.control)?;
    let metrics = Metrics::new();
    let late = LateTarget::default();
    let scraped = config.metrics_listen.map(|address| serve_metrics(address, &metrics, &late)).transpose()?;
    tracing::info!(node = %config.name, version = env!("CARGO_PKG_VERSION"), "starting");
    let node = Node::start(config, &metrics)?;
    let target = late.get_or_init(|| node.control());
    let control = match socket.serve(Arc::clone(target), shutdown.clone()) {
        Ok(control) => control,
        Err(error) => {
            node.shutdown();
            return Err(error.into());
        }
    };
    tell_systemd(&[NotifyState::Ready, NotifyState::Status(&summary(target.as_ref()))]);
    run_until(&shutdown, target.as_ref());
    tell_systemd(&[NotifyState::Stopping]);
    node.shutdown();
    drop((control, scraped));
    Ok(())
}

fn serve_metrics(
    address: SocketAddr,
    metrics: &Arc<Metrics>,
    late: &LateTarget,
) -> anyhow::Result<MetricsServer> {
    let (metrics, late) = (Arc::clone(metrics), Arc::clone(late));
    let render = move || {
        if let Some(target) = late.get() {
            metrics.observe_status(target.status());
        }
        metrics.encode()
    };
    Ok(MetricsServer::start(address, render)?)
}

/// Waits for the request to stop. Meanwhile systemd's watchdog is fed by proof of life: a status that was
/// really asked for; a node whose status hangs is restarted.
fn run_until(shutdown: &Shutdown, target: &dyn ControlTarget) {
    let watchdog = sd_notify::watchdog_enabled();
    let interval = watchdog.map_or(STATUS_INTERVAL, |limit| limit / 3);
    loop {
        if let Some(reason) = shutdown.wait(interval) {
            tracing::info!(reason, "stopping");
            return;
        }
        let summary = summary(target);
        let mut states = vec![NotifyState::Status(&summary)];
        if watchdog.is_some() {
            states.push(NotifyState::Watchdog);
        }
        tell_systemd(&states);
    }
}

/// One line for `systemctl status`.
fn summary(target: &dyn ControlTarget) -> String {
    let volumes: Vec<String> = target
        .status()
        .volumes
        .iter()
        .map(|v| format!("{}: {}, {}", v.name, admin_api::status::role_name(v.role), v.mode))
        .collect();
    volumes.join("; ")
}

/// Tells systemd, when it listens.
pub(super) fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told");
    }
}
