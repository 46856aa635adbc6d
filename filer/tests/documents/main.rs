//! Every command that README.md and docs/ show is run, as it stands there, as root, on block devices, by three hosts with
//! networks, devices and directories of their own.
//!
//! A block of commands (```` ```sh ````) has a comment above it that says who runs it, or why nobody does; `cargo xtask
//! tidy` wants one above each:
//!
//! ```text
//! <!-- run: a -->                     host a runs it; `a b`: one after the other
//! <!-- run: a; prints VOLUME_ID -->   and the last word of the first line that it prints is $VOLUME_ID from then on
//! <!-- not run: why -->
//! ```
//!
//! Commands in prose and tables, and those that messages of the program advise, are parsed by its own command line.
//!
//! A document that is not run is a document that is wrong.
#![allow(clippy::unwrap_used, reason = "tests: a failed unwrap is a failed test")]

mod blocks;
mod inline;
mod rack;

use blocks::{Block, Way, blocks_of};
use rack::{Host, Rack};
use std::path::Path;
use std::time::{Duration, Instant};

const README: &str = include_str!("../../../README.md");
const HOSTS: [&str; 3] = ["a", "b", "witness"];

/// Runs every block of a document that somebody runs, in order.
fn run_document(rack: &mut Rack, text: &str) {
    for block in blocks_of(text) {
        let Block { way: Way::Run { hosts, prints }, commands, line } = &block else { continue };
        for host in hosts {
            let about = format!("line {line}, on {host}");
            let printed = rack.host(host).run_block(commands, &about);
            if let Some(name) = prints {
                let word = printed.lines().next().and_then(|line| line.split_whitespace().last());
                rack.set(name, word.unwrap_or_else(|| panic!("{about}: it printed nothing")));
            }
        }
    }
}

/// The hosts of a pair that the README has set up, when it serves on a.
fn pair_of_the_readme() -> Rack {
    let mut rack = Rack::new(&HOSTS);
    run_document(&mut rack, README);
    rack
}

fn holds_address(host: &Host) -> bool {
    host.ok("ip -oneline address show dev eth0").contains("10.0.0.9/24")
}

#[test]
fn the_readme_sets_up_a_pair_on_block_devices() {
    let rack = pair_of_the_readme();
    let (a, b) = (rack.host("a"), rack.host("b"));
    for host in [a, b] {
        assert!(host.ok("test -b /dev/nvme0n1p4; stat -c %a /var/lib/twinfiler").contains("700"));
        assert!(host.ok("twinfiler log inspect /dev/nvme0n1p4").contains(&rack.get("VOLUME_ID")));
        let status = host.ok("twinfiler status");
        assert!(status.contains("with keys (TLS 1.3)"), "{status}");
        assert!(status.contains("power"), "a block device survives power: {status}");
    }
    assert!(holds_address(b) && !holds_address(a), "the address follows the primary");
}

#[test]
fn the_address_is_where_the_volume_is_served() {
    let mut rack = pair_of_the_readme();
    the_address_goes_before_the_mount_does(&mut rack);
    a_killed_daemon_leaves_no_address_behind(&mut rack);
}

/// A mount may take long to go away: somebody may hold a copy of it in a mount namespace of his own. The address does not
/// wait for that.
fn the_address_goes_before_the_mount_does(rack: &mut Rack) {
    let b = rack.host("b");
    let (copy, begun) =
        (b.start_background("unshare --mount --propagation private sleep infinity"), Instant::now());
    while !std::fs::read_to_string(format!("/proc/{copy}/comm")).unwrap_or_default().contains("sleep") {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    b.ok("until twinfiler status | grep -q 'role.*mirrored'; do sleep 0.2; done");
    b.ok("twinfiler switchover home");
    rack.host("a").ok("until mountpoint -q /srv/home; do sleep 0.1; done");
    let left =
        |text: &str| text.lines().skip_while(|line| !line.contains("serving")).map(str::to_owned).collect();
    let begun = Instant::now();
    let lines: Vec<String> = loop {
        let lines: Vec<String> = left(&rack.host("b").said("twinfiler serve"));
        if lines.iter().any(|line| line.contains("unmounted")) {
            break lines;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{lines:?}");
        std::thread::sleep(Duration::from_millis(20));
    };
    let at = |what: &[&str]| lines.iter().position(|line| what.iter().all(|word| line.contains(word)));
    let (given_up, gone) = (at(&["floating address", "taken=false"]), at(&["unmounted"]));
    assert!(given_up.is_some() && given_up < gone, "{lines:#?}");
    rack.kill("b", "unshare");
}

fn a_killed_daemon_leaves_no_address_behind(rack: &mut Rack) {
    let served_by_a = holds_address(rack.host("a"));
    let name = if served_by_a { "a" } else { "b" };
    let refused = rack.host(name).fails("twinfiler release-address");
    assert!(refused.contains("the daemon is running"), "{refused}");
    assert!(holds_address(rack.host(name)));
    rack.kill(name, "twinfiler serve");
    assert!(holds_address(rack.host(name)), "nobody took it back");
    // What its unit does then.
    let unit = include_str!("../../../contrib/twinfiler.service");
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStopPost=/usr/local/bin/")).unwrap();
    let said = rack.host(name).ok(command);
    assert!(said.contains("home: gave up 10.0.0.9/24"), "{said}");
    assert!(!holds_address(rack.host(name)));
    assert_eq!(rack.host(name).ok(command), "", "nothing is left to give up");
}

#[test]
fn the_other_documents_do_what_they_say() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let mut names: Vec<_> = std::fs::read_dir(docs).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    names.sort();
    let mut run = 0;
    for path in names {
        let text = std::fs::read_to_string(&path).unwrap();
        if blocks_of(&text).iter().any(|block| matches!(block.way, Way::Run { .. })) {
            eprintln!("{}", path.display());
            run_document(&mut Rack::new(&HOSTS), &text);
            run += 1;
        }
    }
    assert!(run > 0, "no document has commands");
}
