//! `twinfiler split` and `twinfiler resync`: the operator's part when a node's tree has to make way.

use super::args::SplitCommand;
use super::commands::{ask, done, remark, say, unexpected};
use super::exit::{ExitCode, Failure};
use admin_api::control::{Answer, Request};
use admin_api::status::{Mode, SplitReport, SplitSide, bytes};
use config::NodeConfig;
use std::fmt::Write;
use std::io::{IsTerminal, Write as _};
use std::path::Path;
use std::time::Duration;

/// Both nodes walk their trees.
const SHOW_LIMIT: Duration = Duration::from_secs(240);
/// The partner may have to be asked.
const DISCARD_LIMIT: Duration = Duration::from_secs(60);

pub(super) fn split(config: &Path, command: SplitCommand) -> anyhow::Result<()> {
    match command {
        SplitCommand::Show { volume, limit, json } => {
            let request = Request::SplitShow { volume, rows: limit };
            match ask(config, &request, SHOW_LIMIT)? {
                Answer::Split(report) if json => {
                    say(&format!("{}\n", serde_json::to_string_pretty(&report)?))
                }
                Answer::Split(report) => say(&page(&report)),
                other => Err(unexpected(&other)),
            }
        }
        SplitCommand::Discard { node, volume, yes } => discard(config, &node, volume, yes),
    }
}

fn discard(config: &Path, node: &str, volume: Option<String>, yes: bool) -> anyhow::Result<()> {
    let volume = match volume {
        Some(volume) => volume,
        None => only_split(config)?,
    };
    let loaded = NodeConfig::load(config)?;
    let Some(found) = loaded.volumes.iter().find(|one| one.name.as_str() == volume) else {
        let text = format!("no volume {volume:?} in {}", config.display());
        return Err(Failure::new(ExitCode::Usage, text).into());
    };
    let here = loaded.name.as_str() == node;
    if !here && found.peer.name.as_str() != node {
        let (own, peer) = (&loaded.name, &found.peer.name);
        let text = format!("{node:?} is no node of {volume}: write {own} or {peer}");
        return Err(Failure::new(ExitCode::Usage, text).into());
    }
    remark(&format!(
        "{volume}: {node} gives up everything that it acknowledged since the two sides parted, and gets the other side's \
         tree.\nFirst it copies what it changed to its salvage directory ([volume.resync] `salvage`, by default \
         .twinfiler/salvage in its base directory), outside of what clients see; nothing of its tree changes before that \
         is whole."
    ));
    if !yes && !confirmed(node)? {
        return Err(Failure::new(ExitCode::TryAgain, "nothing was changed").into());
    }
    let request = Request::SplitDiscard { volume: volume.clone(), here };
    done(ask(config, &request, DISCARD_LIMIT)?)?;
    say(&format!(
        "{volume}: {node} gives up its side; it goes on by itself as soon as the other node is primary (if nobody serves \
         yet: `twinfiler takeover {volume} --force` there). `twinfiler status` shows how far it is\n"
    ))
}

/// The one volume that is split here.
fn only_split(config: &Path) -> anyhow::Result<String> {
    let status = super::commands::get_status(config)?;
    let split: Vec<&str> = status
        .volumes
        .iter()
        .filter(|volume| volume.mode == Mode::Split || volume.detail.contains("split"))
        .map(|volume| volume.name.as_str())
        .collect();
    match split.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => Err(Failure::new(ExitCode::TryAgain, "no volume of this node is split").into()),
        several => {
            let text = format!("several volumes are split, name one: {}", several.join(", "));
            Err(Failure::new(ExitCode::Usage, text).into())
        }
    }
}

fn confirmed(node: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(ExitCode::Usage, "give --yes: there is nobody to ask").into());
    }
    // Who cannot be asked has not agreed.
    write!(std::io::stderr(), "Write the node's name to go on: ")?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line.trim() == node)
}

pub(super) fn resync(config: &Path, volume: String) -> anyhow::Result<()> {
    done(ask(config, &Request::Resync { volume: volume.clone() }, DISCARD_LIMIT)?)?;
    say(&format!(
        "{volume}: this node's whole tree is compared with the primary's by content; until that is done it may not take \
         over. `twinfiler status` shows how far it is\n"
    ))
}

fn page(report: &SplitReport) -> String {
    let mut page = String::new();
    let since = report.common_end.map_or_else(
        || "the two sides have no common point: everything counts as changed".to_owned(),
        |lsn| format!("both sides are the same up to LSN {lsn}"),
    );
    let _ = writeln!(page, "{}: {since}", report.volume);
    side(&mut page, &report.here);
    match (&report.there, &report.there_error) {
        (Some(there), _) => side(&mut page, there),
        (None, error) => {
            let why = error.as_deref().unwrap_or("unknown");
            let _ = writeln!(
                page,
                "\nthe other side could not be asked: {why}; so what both changed is not marked"
            );
        }
    }
    let both = |side: &SplitSide| side.changed.iter().any(|object| object.on_both_sides);
    if both(&report.here) || report.there.as_ref().is_some_and(both) {
        page.push_str("\n! changed on both sides: whichever side is discarded, its version is kept in the salvage directory only\n");
    }
    page
}

fn side(page: &mut String, side: &SplitSide) {
    let serves = if side.serves { "serves clients" } else { "serves nobody" };
    let _ = writeln!(
        page,
        "\n{} ({serves}): {} objects changed, {} in files; {}",
        side.node,
        side.changed_objects,
        bytes(side.changed_bytes),
        removed(side)
    );
    for object in &side.changed {
        let size = if object.kind == "file" { bytes(object.size_bytes) } else { String::new() };
        let mark = if object.on_both_sides { '!' } else { ' ' };
        let _ = writeln!(page, "{mark} {:<10} {size:>10}  {}", object.kind, object.path);
    }
    more(page, side.changed_objects, side.changed.len());
    for name in &side.removed {
        let _ = writeln!(page, "  {:<10} {:>10}  {name}", "removed", "");
    }
    more(page, side.removed_names, side.removed.len());
}

/// Names that are gone, as far as the log still tells.
fn removed(side: &SplitSide) -> String {
    match (side.removed_is_all, side.removed_names) {
        (true, names) => format!("{names} names removed"),
        (false, 0) => "which names it removed its log tells no more: what only the other side has may have been removed here"
            .to_owned(),
        (false, names) => format!(
            "at least {names} names removed, of others its log tells no more: what only the other side has may have been \
             removed here"
        ),
    }
}

fn more(page: &mut String, all: u64, shown: usize) {
    if let Some(left @ 1..) = all.checked_sub(shown as u64) {
        let _ = writeln!(page, "  … and {left} more (--limit)");
    }
}
