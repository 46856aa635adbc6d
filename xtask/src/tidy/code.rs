//! `unsafe` stands only in the modules that are made for it.
//!
//! A small lexer blanks comments, strings and character literals first, so that prose about unsafe code does not
//! count. It knows raw strings and nested comments; what it does not know (macros that make tokens) rustc does.

use super::{Findings, Source};

/// Where `unsafe` may stand: a path prefix and the reason, which is what a reader asks
/// first. An entry that is not needed any more is an error too.
const UNSAFE_ALLOWED: &[(&str, &str)] = &[
    ("ids/src/memory.rs", "declares the unsafe trait of shared log memory"),
    ("nvlog/src/region", "maps persistent memory and gives out pointers into it"),
    ("nvlog/src/persist.rs", "cache line write-back instructions"),
    ("rdma-transport/src/memory.rs", "copies into and out of rings that others change"),
    ("rdma-transport/src/shm", "memory shared with another process"),
    ("rdma-transport/src/tcp/uring.rs", "submits io_uring requests on log memory"),
    ("rdma-transport/src/verbs", "calls the RDMA library, which works on registered memory"),
    ("apply-engine/src/base/allocated.rs", "ioctls that tell which blocks a file has"),
    (
        "apply-engine/src/base/btrfs.rs",
        "ioctls that tell what btrfs has left for metadata, and its quota groups",
    ),
    ("apply-engine/src/base/handles.rs", "file handle system calls"),
    ("apply-engine/src/base/mounted_over.rs", "takes a thread into a mount namespace of its own"),
    ("apply-engine/src/base/private_mount.rs", "mount system calls"),
    ("apply-engine/src/base/xfs.rs", "ioctls that tell which inodes XFS has, and what it keeps behind files"),
    ("apply-engine/src/executor/uring.rs", "submits io_uring requests on log memory"),
    ("simulation/src/entropy.rs", "stands in for the C library's source of randomness"),
    ("scheduler/src/core.rs", "switches from the stack of one coroutine to another's"),
    (
        "bench/src/verbs_loop/raw.rs",
        "the bare loop over the RDMA library that the transport is measured against",
    ),
    // Test doubles of the unsafe traits above.
    ("apply-engine/src/base/tests/applying.rs", "log bytes in a vector"),
    ("nvlog/src/log/tests/peer.rs", "a peer that writes into the ring from outside"),
    ("rdma-transport/tests/common/", "rings in ordinary memory"),
];

/// Checks one file.
pub fn check(source: &Source, findings: &mut Findings) {
    if !source.is_rust() || UNSAFE_ALLOWED.iter().any(|(place, _)| lies_in(&source.path, place)) {
        return;
    }
    for line in unsafe_lines(&source.text) {
        findings.errors.push(format!(
            "{}:{line}: unsafe code outside of the modules for it (tidy/code.rs lists them)",
            source.path
        ));
    }
}

/// A place is a folder, a file, or a module: its file and the folder beside it.
fn lies_in(path: &str, place: &str) -> bool {
    match path.strip_prefix(place) {
        Some(rest) => place.ends_with('/') || rest.is_empty() || rest == ".rs" || rest.starts_with('/'),
        None => false,
    }
}

/// Complains about modules that are allowed unsafe code and have none.
pub fn check_allowed(sources: &[Source], findings: &mut Findings) {
    for (prefix, _) in UNSAFE_ALLOWED {
        let mut inside = sources.iter().filter(|source| source.is_rust() && lies_in(&source.path, prefix));
        if !inside.any(|source| !unsafe_lines(&source.text).is_empty()) {
            findings
                .errors
                .push(format!("{prefix} needs no unsafe code any more: take it off tidy/code.rs's list"));
        }
    }
}

/// The numbers of the lines with unsafe code.
fn unsafe_lines(text: &str) -> Vec<usize> {
    let code = blank_prose(text);
    let unsafe_code = |line: &str| words(line).any(|word| word == "unsafe");
    code.lines().enumerate().filter(|(_, line)| unsafe_code(line)).map(|(index, _)| index + 1).collect()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The text with every comment, string and character literal replaced by spaces; lines keep their numbers.
pub fn blank_prose(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let len = prose_len(bytes, at);
        if len == 0 {
            out.push(bytes[at]);
            at += 1;
        } else {
            let end = (at + len).min(bytes.len());
            out.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
            at = end;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// How long the comment, string or character literal is that starts here; 0 when none does.
fn prose_len(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return block_comment_len(rest);
    }
    if rest[0] == b'"' {
        return quoted_len(rest);
    }
    if rest[0] == b'r'
        && !at.checked_sub(1).is_some_and(|before| is_name(bytes[before]) && bytes[before] != b'b')
    {
        return raw_string_len(rest);
    }
    if rest[0] == b'\'' {
        return character_len(rest);
    }
    0
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn block_comment_len(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted_len(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string_len(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0; // a name that begins with r
    }
    let mut end = vec![b'"'];
    end.resize(1 + hashes, b'#');
    let body = 2 + hashes;
    let found = rest[body..].windows(end.len()).position(|window| window == end);
    found.map_or(rest.len(), |position| body + position + end.len())
}

fn character_len(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return rest[2..].iter().skip(1).position(|byte| *byte == b'\'').map_or(0, |position| position + 4);
    }
    // One character of up to four bytes and a closing quote; otherwise it is a lifetime.
    (2..=5).find(|len| rest.get(*len) == Some(&b'\'')).map_or(0, |len| {
        let one = std::str::from_utf8(&rest[1..len]).is_ok_and(|text| text.chars().count() == 1);
        if one { len + 1 } else { 0 }
    })
}
