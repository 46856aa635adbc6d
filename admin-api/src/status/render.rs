//! Status for people: plain text, at most [`WIDTH`] columns, the same order for every volume.
//!
//! What needs somebody's attention comes first and starts with `!`. A line whose content is not known is left out rather than
//! filled with dashes.

use super::format::{bytes, counted, duration_us, percent};
use super::model::*;
use super::verify::VerifyStatus;
use std::fmt::Write;

/// Columns of a terminal that everything fits in.
pub const WIDTH: usize = 100;
/// Where values begin.
const LABEL_WIDTH: usize = 21;

/// The whole node.
pub fn render(status: &NodeStatus) -> String {
    let mut page = Page::default();
    page.text(&format!(
        "node {}   twinfiler {}   pid {}   up {}",
        status.node,
        status.version,
        status.pid,
        duration_us(status.uptime_s as f64 * 1e6)
    ));
    if status.volumes.is_empty() {
        page.text("no volumes");
    }
    for volume in &status.volumes {
        page.text("");
        render_volume(&mut page, volume, status.now_unix_ms);
    }
    page.0
}

fn render_volume(page: &mut Page, volume: &VolumeStatus, now_unix_ms: u64) {
    page.text(&format!("volume {}   {}", volume.name, volume.id));
    for fault in &volume.faults {
        page.text(&format!("! {} (for {})", fault.what, age(now_unix_ms, fault.since_unix_ms)));
        page.text(&format!("  remedy: {}", fault.remedy));
    }
    if volume.log.lost_at_boot {
        page.text("! the log was lost, or is not that of the tree: no takeover by itself");
    }
    page.line("role", &format!("{}, {}, epoch {}", role_name(volume.role), volume.mode, volume.epoch));
    if !volume.detail.is_empty() {
        page.line("", &volume.detail);
    }
    if volume.role != Role::Primary {
        let text = if volume.eligible {
            "this node can take over"
        } else {
            "this node must NOT take over by itself"
        };
        page.line("takeover", text);
    }
    render_answers(page, volume);
    render_log(page, volume);
    if let Some(resync) = &volume.resync {
        render_resync(page, resync);
    }
    if let Some(salvaged) = &volume.salvaged {
        page.line("salvaged", &format!("what only this node held was kept in {salvaged}"));
    }
    if let Some(verify) = &volume.verify {
        render_verify(page, verify, now_unix_ms);
    }
    render_applying(page, volume, now_unix_ms);
    render_latency(page, volume);
    if let Some(space) = &volume.space {
        page.line(
            "space",
            &format!(
                "{} free of {}{}",
                bytes(space.free_bytes),
                bytes(space.total_bytes),
                space.free_inodes.map_or_else(String::new, |free| format!(", {free} objects can be created"))
            ),
        );
    }
    render_others(page, volume, now_unix_ms);
}

/// What an answer survives, who may give one, and where.
fn render_answers(page: &mut Page, volume: &VolumeStatus) {
    page.line("acknowledgement", &acknowledgement(volume));
    if let Some(synced) = volume.synced.filter(|synced| volume.acknowledgement != Some(*synced)) {
        let means = survives(synced.weakest());
        page.line("fsync", &format!("{synced}: an fsync, or a write with O_SYNC, survives {means}"));
    }
    if let Some(lease) = &volume.lease {
        let text = match lease.remaining_ms {
            None => "has no end: nobody else can become primary".to_owned(),
            Some(0) => "expired: reads wait".to_owned(),
            Some(left_ms) => format!("valid for {}", duration_us(left_ms as f64 * 1e3)),
        };
        page.line("read lease", &text);
    }
    if let Some(mount) = &volume.mounted_at {
        page.line("mounted at", mount);
    }
}

/// The log, the cursors over it, and its replay.
fn render_log(page: &mut Page, volume: &VolumeStatus) {
    let log = &volume.log;
    let fill = log.used_bytes as f64 / log.capacity_bytes.max(1) as f64;
    page.line(
        "log",
        &format!(
            "{} of {} used ({}), {} at {}, survives {}",
            bytes(log.used_bytes),
            bytes(log.capacity_bytes),
            percent(fill),
            log.kind,
            log.path,
            survives(log.durability)
        ),
    );
    if let Some(cursors) = &volume.cursors {
        let answered = match cursors.answerable() {
            answerable if answerable > cursors.committed() => format!("  answered {answerable}"),
            _ => String::new(),
        };
        page.line(
            "cursors",
            &format!(
                "trimmed {}  applied {}  committed {}{answered}  durable {}",
                cursors.trimmed(),
                cursors.applied(),
                cursors.committed(),
                cursors.local_durable()
            ),
        );
        page.line(
            "",
            &format!(
                "appended {}  reserved {}  partner durable {}  partner trimmed {}",
                cursors.appended(),
                cursors.reserved(),
                cursors.peer_durable(),
                cursors.peer_trimmed()
            ),
        );
    }
    if let Some(replay) = &volume.replay {
        let fill = replay.done_bytes as f64 / replay.total_bytes.max(1) as f64;
        let text = format!(
            "{} of {} of log applied since the start ({})",
            bytes(replay.done_bytes),
            bytes(replay.total_bytes),
            percent(fill)
        );
        page.line("replay", &text);
    }
}

/// How far the trees are behind, and the last consistency point.
fn render_applying(page: &mut Page, volume: &VolumeStatus, now_unix_ms: u64) {
    page.line("lag, local tree", &lag(&volume.apply_lag));
    if let Some(partner_lag) = &volume.partner_lag {
        page.line("lag, partner's log", &lag(partner_lag));
    }
    if let Some(point) = &volume.last_consistency_point {
        page.line(
            "consistency point",
            &format!(
                "{} ago, took {}: {}, {}",
                age(now_unix_ms, point.at_unix_ms),
                duration_us(point.duration_us as f64),
                counted(point.objects, "object"),
                bytes(point.bytes)
            ),
        );
    }
}

fn render_latency(page: &mut Page, volume: &VolumeStatus) {
    let told = |latency: &LatencySummary, when: &str| {
        format!(
            "p50 {}  p99 {}  p99.9 {}  max {}  ({} {when})",
            duration_us(latency.p50_us),
            duration_us(latency.p99_us),
            duration_us(latency.p999_us),
            duration_us(latency.max_us),
            latency.count
        )
    };
    let recent = volume.commit_latency_recent.as_ref();
    let recent = recent.map(|recent| told(&recent.latency, &format!("in the last {:.0} s", recent.seconds)));
    let all = volume.commit_latency.as_ref().map(|latency| told(latency, "since the start"));
    for (label, text) in ["commit latency", ""].into_iter().zip(recent.into_iter().chain(all)) {
        page.line(label, &text);
    }
    if !volume.commit_stages.is_empty() {
        let told = volume.commit_stages.iter().map(|StageLatency { stage, latency }| {
            format!("{stage} {} / {}", duration_us(latency.p50_us), duration_us(latency.p99_us))
        });
        page.line("commit stages", &format!("p50 / p99: {}", told.collect::<Vec<_>>().join("  ")));
    }
}

/// Partner, link, witness, last takeover, hooks, address.
fn render_others(page: &mut Page, volume: &VolumeStatus, now_unix_ms: u64) {
    let partner = &volume.partner;
    page.line("partner", &partner_line(partner));
    let mut view = Vec::new();
    view.extend(partner.role.map(|role| role_name(role).to_owned()));
    view.extend(partner.epoch.map(|epoch| format!("epoch {epoch}")));
    view.extend(partner.committed.map(|lsn| format!("committed {lsn}")));
    view.extend(partner.applied.map(|lsn| format!("applied {lsn}")));
    view.extend(partner.log_fill.map(|fill| format!("log {}", percent(fill))));
    view.extend(partner.free_bytes.map(|free| format!("{} free", bytes(free))));
    if !view.is_empty() {
        page.line("", &format!("it says: {}", view.join(", ")));
    }
    if let Some(fault) = &partner.fault {
        page.line("", &format!("it reports a fault: {fault}"));
    }
    render_link(page, &volume.transport);
    page.line("witness", &volume.witness.as_ref().map_or_else(no_witness, witness_line));
    if let Some(takeover) = &volume.last_takeover {
        page.line(
            "last takeover",
            &format!(
                "{} ago, {}, to epoch {}: {} in all",
                age(now_unix_ms, takeover.at_unix_ms),
                takeover.reason,
                takeover.epoch,
                duration_us(takeover.total_us() as f64)
            ),
        );
        page.line(
            "",
            &format!(
                "detection {}, fencing {}, witness {}, first served {}",
                duration_us(takeover.detection_us as f64),
                duration_us(takeover.fencing_us as f64),
                duration_us(takeover.witness_us as f64),
                duration_us(takeover.first_served_us as f64)
            ),
        );
    }
    for hook in &volume.hooks {
        let took = duration_us(hook.duration_ms as f64 * 1e3);
        page.line(
            &format!("hook {}", hook.hook),
            &format!("{} ago, ran {took}: {}", age(now_unix_ms, hook.at_unix_ms), hook.outcome),
        );
    }
    if let Some(address) = &volume.floating_ip {
        let held = if address.held { "held here" } else { "not held here" };
        let error = address.error.as_ref().map_or_else(String::new, |error| format!("; {error}"));
        page.line(
            "floating address",
            &format!("{} on {}: {held}{error}", address.address, address.interface),
        );
    }
}

fn render_link(page: &mut Page, link: &TransportCounters) {
    page.line(
        "link",
        &format!(
            "{} {}: sent {} in {}, received {} in {}; {}, {}",
            link.kind,
            match (link.tls, link.kind.as_str()) {
                (false, _) => "WITHOUT KEYS, in the clear",
                (true, "verbs") => "with keys (TLS 1.3; log bytes by RDMA, in the clear)",
                (true, _) => "with keys (TLS 1.3)",
            },
            bytes(link.sent_bytes),
            batches(link.sent_batches),
            bytes(link.received_bytes),
            link.received_batches,
            counted(link.connects, "connect"),
            counted(link.breaks, "break")
        ),
    );
    page.line("", &persistence_line(link));
    if let Some(rdma) = &link.rdma {
        page.line(
            "",
            &format!(
                "{} port {}, {}, GID {} ({}), MTU {}, fenced by {}",
                rdma.device,
                rdma.port,
                rdma.link_layer,
                rdma.gid_index,
                rdma.gid,
                rdma.mtu_bytes,
                rdma.fencing
            ),
        );
    }
}

fn batches(count: u64) -> String {
    match count {
        1 => "1 batch".to_owned(),
        _ => format!("{count} batches"),
    }
}

fn render_resync(page: &mut Page, resync: &ResyncStatus) {
    if let Some(side) = resync.side {
        let from = match side {
            ResyncSide::Receiving => "from the primary",
            ResyncSide::Sending => "to the partner",
        };
        let objects = match resync.objects_total {
            0 => String::new(),
            total => format!(", {} of {total} objects", resync.objects_done),
        };
        page.line("resync", &format!("{from}: {}, round {}{objects}", resync.doing, resync.round));
        if resync.objects_total > 0 {
            let left = resync.eta_s.map(|eta_s| format!(", about {} left", duration_us(eta_s as f64 * 1e6)));
            page.line(
                "",
                &format!(
                    "{} of {} of content, {}/s{}{}",
                    bytes(resync.bytes_done),
                    bytes(resync.bytes_total),
                    bytes(resync.bytes_per_s),
                    if resync.compressed { ", compressed" } else { "" },
                    left.unwrap_or_default()
                ),
            );
        }
    }
    if let Some(error) = &resync.error {
        page.line("resync, last try", &format!("{error}; it is tried again"));
    }
}

fn render_verify(page: &mut Page, verify: &VerifyStatus, now_unix_ms: u64) {
    if let Some(running) = &verify.running {
        let [objects, content] = running.words();
        page.line("verify", &objects);
        if !content.is_empty() {
            page.line("", &content);
        }
    }
    if let Some(last) = &verify.last {
        let repaired =
            if last.repaired > 0 { format!(", {} repaired", last.repaired) } else { String::new() };
        let error = last.error.as_ref().map_or(String::new(), |error| format!("; it ended early: {error}"));
        page.line(
            "last verify",
            &format!(
                "{} ago, {}, {}, took {}: {} differ{repaired}{error}",
                age(now_unix_ms, last.at_unix_ms),
                counted(last.objects, "object"),
                bytes(last.bytes),
                duration_us(last.duration_ms as f64 * 1e3),
                last.differing
            ),
        );
    }
}

fn acknowledgement(volume: &VolumeStatus) -> String {
    let Some(level) = volume.acknowledgement else {
        let text = match volume.role {
            Role::Partner => "none by this node: the primary answers",
            _ => "nothing is acknowledged",
        };
        return text.to_owned();
    };
    let means = survives(level.weakest());
    let when = if volume.writeback_cache { "an fsync that returned" } else { "an answered write" };
    format!("{level}: {when} survives {means}")
}

/// What an acknowledgement rests on at the partner.
fn persistence_line(link: &TransportCounters) -> String {
    let means = match link.persistence.as_str() {
        "read" if link.ddio_off_declared => {
            "a READ behind each write; durable because you declared that DDIO is off on both nodes"
        }
        "read" => "a READ behind each write",
        "flush" => "the device's FLUSH behind each write",
        _ => "the partner's processor writes back and says so",
    };
    format!(
        "persistence {}: {means}",
        if link.persistence.is_empty() { "message" } else { &link.persistence }
    )
}

fn survives(durability: ids::Durability) -> &'static str {
    match durability {
        ids::Durability::Memory => "the loss of one node, NOT of both",
        ids::Durability::Process => "the process, NOT power loss",
        ids::Durability::Power => "power loss",
    }
}

fn lag(lag: &Lag) -> String {
    if lag.operations == 0 && lag.bytes == 0 {
        return "none".to_owned();
    }
    let operations = counted(lag.operations, "operation");
    format!("{operations}, {}, {}", bytes(lag.bytes), duration_us(lag.seconds * 1e6))
}

fn partner_line(partner: &PartnerView) -> String {
    let state = if partner.connected { "connected" } else { "NOT connected" };
    let heard = partner
        .heard_ms_ago
        .map_or_else(|| "never heard".to_owned(), |ms| format!("heard {} ago", duration_us(ms as f64 * 1e3)));
    format!("{} at {}: {state}, {heard}", partner.name, partner.address)
}

fn no_witness() -> String {
    "none: a node that loses its partner freezes until an operator decides".to_owned()
}

fn witness_line(witness: &WitnessStatus) -> String {
    let state = match (witness.reachable, &witness.error) {
        (true, _) => "answers",
        (false, Some(_)) => "does NOT answer",
        (false, None) => "has not answered yet",
    };
    let mut text = format!("{}: {state}", witness.address);
    let mut held = Vec::new();
    held.extend(witness.epoch.map(|epoch| format!("epoch {epoch}")));
    held.extend(witness.primary.as_ref().map(|primary| format!("primary {primary}")));
    held.extend(witness.mode.map(|mode| mode.to_string()));
    if !held.is_empty() {
        let holds = if witness.reachable { "it holds" } else { "it last held" };
        text.push_str(&format!("; {holds} {}", held.join(", ")));
    }
    if let Some(error) = &witness.error {
        text.push_str(&format!("; {error}"));
    }
    text
}

fn age(now_unix_ms: u64, then_unix_ms: u64) -> String {
    duration_us(now_unix_ms.saturating_sub(then_unix_ms) as f64 * 1e3)
}

/// Lines of at most [`WIDTH`] columns; longer ones are continued below their value.
#[derive(Default)]
struct Page(String);

impl Page {
    fn text(&mut self, text: &str) {
        self.wrapped("", text, 4);
    }

    fn line(&mut self, label: &str, value: &str) {
        self.wrapped(&format!("  {label:<width$}", width = LABEL_WIDTH - 2), value, LABEL_WIDTH);
    }

    fn wrapped(&mut self, head: &str, text: &str, indent: usize) {
        let mut line = head.to_owned();
        let mut empty = true;
        // Text from elsewhere must not move the cursor of a terminal.
        let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        for word in clean.split(' ') {
            if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.push(&line);
                line = " ".repeat(indent);
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
            empty = false;
        }
        self.push(&line);
    }

    fn push(&mut self, line: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{}", line.trim_end());
    }
}
