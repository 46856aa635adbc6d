//! Carries out one command.

use super::args::{Arguments, Command, ConfigCommand, LogCommand, StatusArguments, WitnessArguments};
use super::exit::{ExitCode, Failure};
use super::preflight::{memory_needed, preflight_with_logs};
use super::{init, keys, logging, release, serve, split, verify};
use crate::rights;
use admin_api::control::{Answer, Request, call};
use admin_api::status::{Mode, NodeStatus, Role, bytes, counted, duration_us, render};
use anyhow::Context;
use config::{LogFormat, NodeConfig};
use runtime::shutdown::Shutdown;
use rustix::thread::CapabilitySet;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use witness::Access;

/// Answer time of commands that do not wait for the pair.
pub(super) const QUICK_LIMIT: Duration = Duration::from_secs(10);
/// Answer time of commands that wait for the witness or a disk: beyond the daemon's own limits.
const SLOW_LIMIT: Duration = Duration::from_secs(125);
/// Given to the daemon beyond its own time limit.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);
/// Between two pages of `status --watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Clears the terminal and goes to its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// What `takeover VOLUME --force` risks, said each time.
const FORCE_RISK: &str = "takeover without the witness: if the partner still serves, or has acknowledged operations \
                          that this node lacks, both sides diverge and one of them must be discarded later";

pub(super) fn carry_out(arguments: Arguments) -> anyhow::Result<()> {
    let config = arguments.config.as_path();
    match arguments.command {
        Command::Serve => serve::serve(config),
        Command::Init(arguments) => init::init(&arguments, config),
        Command::Keygen(arguments) => say(&format!("{}\n", keys::keygen(&arguments)?)),
        Command::Status(arguments) => status(config, &arguments),
        Command::Switchover { volume, timeout } => {
            let timeout_ms = u64::try_from(timeout.0.as_millis()).unwrap_or(u64::MAX);
            let request = Request::Switchover { volume: volume.clone(), timeout_ms };
            done(ask(config, &request, timeout.0 + ANSWER_MARGIN)?)?;
            say(&format!("{volume}: the partner is primary now\n"))
        }
        Command::Takeover { volume, force } => {
            // Where nothing is forced, nothing is risked; the daemon says so.
            if force && !serves(&get_status(config)?, &volume) {
                remark(FORCE_RISK);
            }
            done(ask(config, &Request::Takeover { volume: volume.clone(), force }, SLOW_LIMIT)?)?;
            say(&format!("{volume}: this node is primary now\n"))
        }
        Command::ConsistencyPoint { volume } => {
            let request = Request::ConsistencyPoint { volume: volume.clone() };
            match ask(config, &request, SLOW_LIMIT)? {
                Answer::ConsistencyPoint(point) => say(&format!(
                    "{volume}: {}, {} in {}; the local tree holds everything before LSN {}\n",
                    counted(point.objects, "object"),
                    bytes(point.bytes),
                    duration_us(point.duration_us as f64),
                    point.applied
                )),
                other => Err(unexpected(&other)),
            }
        }
        Command::Resync { volume } => split::resync(config, volume),
        Command::Split(command) => split::split(config, command),
        Command::Verify(arguments) => verify::verify(config, &arguments),
        Command::ReleaseAddress => release::release(config),
        Command::Shutdown => {
            done(ask(config, &Request::Shutdown, QUICK_LIMIT)?)?;
            say("the daemon is stopping\n")
        }
        Command::Witness(arguments) => witness(&arguments),
        Command::Log(LogCommand::Inspect { path, records }) => {
            let options = nvlog::InspectOptions { max_records: records };
            say(&nvlog::inspect_with(&path, options)?.to_string())
        }
        Command::Config(ConfigCommand::Check { here }) => {
            let checked = NodeConfig::load(config)?;
            if here {
                preflight_with_logs(&checked)?;
                remark(&format!("note: {}", memory_needed(&checked)));
            }
            if checked.witness.is_none() {
                remark("note: no [witness]: a node that loses its partner freezes until an operator decides");
            }
            if checked.private_key.is_none() {
                remark(
                    "note: no `private_key` in [node]: everything travels in the clear, and nobody proves who it is",
                );
            }
            say(&format!("{}: good, {}\n", config.display(), counted(checked.volumes.len() as u64, "volume")))
        }
    }
}

pub(super) fn ask(config: &Path, request: &Request, limit: Duration) -> anyhow::Result<Answer> {
    let socket = NodeConfig::load(config)?.control;
    match call(&socket, request, limit)? {
        Answer::Error(error) => Err(error.into()),
        answer => Ok(answer),
    }
}

fn serves(status: &NodeStatus, volume: &str) -> bool {
    status
        .volumes
        .iter()
        .any(|known| known.name == volume && known.role == Role::Primary && known.mode != Mode::Frozen)
}

pub(super) fn done(answer: Answer) -> anyhow::Result<()> {
    match answer {
        Answer::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn unexpected(answer: &Answer) -> anyhow::Error {
    let message =
        format!("the daemon gave an answer that does not fit: {answer:?}; is it of the same version?");
    Failure::new(ExitCode::Internal, message).into()
}

/// Standard output may be a pipe whose reader has gone: that is an end, not a panic.
pub(super) fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Says something beside the result, on standard error. Where nobody can read it the command goes on all the same.
pub(super) fn remark(text: &str) {
    let _unread = writeln!(std::io::stderr(), "{text}");
}

pub(super) fn get_status(config: &Path) -> anyhow::Result<NodeStatus> {
    match ask(config, &Request::Status, QUICK_LIMIT)? {
        Answer::Status(status) => Ok(*status),
        other => Err(unexpected(&other)),
    }
}

fn status(config: &Path, arguments: &StatusArguments) -> anyhow::Result<()> {
    if arguments.json {
        let status = get_status(config)?;
        return say(&format!("{}\n", serde_json::to_string_pretty(&status)?));
    }
    if !arguments.watch {
        return say(&render(&get_status(config)?));
    }
    loop {
        let page = match get_status(config) {
            Ok(status) => render(&status),
            Err(error) => format!("{error:#}\n"),
        };
        let mut out = std::io::stdout().lock();
        if write!(out, "{CLEAR}{page}").and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
        drop(out);
        std::thread::sleep(WATCH_INTERVAL);
    }
}

fn witness(arguments: &WitnessArguments) -> anyhow::Result<()> {
    logging::start_with("info", LogFormat::Text);
    let access = keys::access(arguments)?;
    // It needs none of root's rights from here on, but for its own files and a port.
    let kept = CapabilitySet::DAC_OVERRIDE | CapabilitySet::NET_BIND_SERVICE;
    rights::keep_only(kept).context("giving up the rights that are not needed")?;
    let shutdown = Shutdown::on_signals()?;
    let admits = match &access {
        Access::Anybody => "anybody who reaches it: WITHOUT KEYS, in the clear".to_owned(),
        Access::Keys { own, nodes } => {
            format!("{} nodes by their keys; its own is {}", nodes.count(), own.public())
        }
    };
    let ready = |address| {
        tracing::info!(%address, admits, "the witness serves");
        serve::tell_systemd(&[sd_notify::NotifyState::Ready]);
    };
    let result = witness::serve(arguments.listen, &arguments.state, access, ready, shutdown.flag());
    serve::tell_systemd(&[sd_notify::NotifyState::Stopping]);
    Ok(result?)
}
