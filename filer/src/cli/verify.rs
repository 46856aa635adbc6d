//! `twinfiler verify`: begins a comparison in the daemon, follows it, and tells what it found.
//!
//! Findings go to standard output, one line each; progress goes to standard error, and only to a terminal. What can go
//! wrong: the daemon ends meanwhile (the comparison with it); an interrupted command leaves it running, `status` shows
//! how it ends.

use super::args::VerifyArguments;
use super::commands::{QUICK_LIMIT, ask, get_status, remark, say, unexpected};
use super::exit::{ExitCode, Failure};
use admin_api::control::{Answer, ControlError, ErrorKind, Request};
use admin_api::status::{VerifyResult, VerifyStatus, bytes, duration_us};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

/// How often the daemon is asked how far it is.
const LOOK: Duration = Duration::from_millis(200);

pub(super) fn verify(config: &Path, arguments: &VerifyArguments) -> anyhow::Result<()> {
    let volume = &arguments.volume;
    if arguments.repair && !arguments.yes {
        confirm_repair(config, volume)?;
    }
    let request = Request::Verify {
        volume: volume.clone(),
        repair: arguments.repair,
        max_rate_bytes: arguments.max_rate.map(|rate| rate.0),
    };
    let run = match ask(config, &request, QUICK_LIMIT)? {
        Answer::VerifyBegan(run) => run,
        other => return Err(unexpected(&other)),
    };
    let terminal = std::io::stderr().is_terminal();
    let result = loop {
        let status = get_status(config)?;
        let found = status.volumes.iter().find(|found| found.name == *volume);
        let verify = found.and_then(|volume| volume.verify.clone()).unwrap_or_default();
        if let Some(result) = verify.last.clone().filter(|last| last.run >= run) {
            break result;
        }
        if verify.running.is_none() && found.is_none_or(|volume| volume.verify.is_none()) {
            return Err(ControlError::new(ErrorKind::Failed, "the daemon was restarted: begin again").into());
        }
        if terminal {
            show_progress(&verify);
        }
        std::thread::sleep(LOOK);
    };
    if terminal {
        remark("");
    }
    tell(volume, &result)
}

/// A repair the wrong way round copies bad over good: it says which way it goes, and asks.
fn confirm_repair(config: &Path, volume: &str) -> anyhow::Result<()> {
    let status = get_status(config)?;
    let partner = status.volumes.iter().find(|found| found.name == volume).map(|found| &found.partner.name);
    let partner = partner.map_or_else(|| "the partner".to_owned(), ToString::to_string);
    let source = &status.node;
    let way = format!(
        "what differs on {partner} is replaced by what {source} (this node) holds. If what {partner} holds is right, do \
         not go on: `twinfiler switchover {volume}` first, then repair there"
    );
    if !std::io::stdin().is_terminal() {
        let message = format!("--repair needs --yes where nobody can be asked: {way}");
        return Err(Failure::new(ExitCode::Usage, message).into());
    }
    // Who cannot be asked has not agreed.
    write!(std::io::stderr(), "{volume}: {way}.\nRepair {partner} from {source}? [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(ExitCode::Usage, "nothing was compared or changed").into()),
    }
}

fn show_progress(verify: &VerifyStatus) {
    let Some(running) = &verify.running else { return };
    let [objects, content] = running.words();
    let comma = if content.is_empty() { "" } else { ", " };
    // A terminal that is gone shows nothing, and that is all.
    let _shown = write!(std::io::stderr(), "\r{objects}{comma}{content}\x1b[K");
}

fn tell(volume: &str, result: &VerifyResult) -> anyhow::Result<()> {
    let mut text = String::new();
    for finding in &result.found {
        // A name may hold what moves the cursor.
        let path = finding.path.as_deref().unwrap_or("(no name found)").escape_debug();
        text.push_str(&format!("{path} (object {}): {}\n", finding.oid, finding.what));
    }
    let listed = result.found.len() as u64;
    if result.differing > listed {
        text.push_str(&format!("and {} more\n", result.differing - listed));
    }
    let repaired =
        if result.repaired > 0 { format!(", {} repaired", result.repaired) } else { String::new() };
    text.push_str(&format!(
        "{volume}: {} objects, {} compared in {}: {} differ{repaired}\n",
        result.objects,
        bytes(result.bytes),
        duration_us(result.duration_ms as f64 * 1e3),
        result.differing
    ));
    say(&text)?;
    if let Some(error) = &result.error {
        let message =
            format!("{error}; not everything was compared: begin again when `twinfiler status` is well");
        return Err(Failure::new(ExitCode::TryAgain, message).into());
    }
    match result.differing {
        0 => Ok(()),
        differing => Err(Failure::new(
            ExitCode::Differs,
            format!("{differing} objects differ between the two nodes; with --repair the partner gets those of the primary"),
        )
        .into()),
    }
}
