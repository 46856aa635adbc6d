//! `unsafe` stands only in the modules that are made for it, and hidden unwraps of allowed lints are counted.
//!
//! A small lexer blanks comments, strings and character literals first, so that prose about unsafe code does not
//! count. It knows raw strings and nested comments; what it does not know (macros that make tokens) rustc does.

use super::{Findings, Source};

/// Where `unsafe` may stand: a path prefix and the reason. DESIGN section 8 sets the modules; the reasons are
/// what a reader asks first.
const UNSAFE_ALLOWED: &[(&str, &str)] = &[
    ("ids/src/memory.rs", "declares the unsafe trait of shared log memory"),
    ("nvlog/src/region", "maps persistent memory"),
    ("nvlog/src/persist", "cache line write-back instructions"),
    ("nvlog/src/sim", "implements the region traits in simulation"),
    ("rdma-transport/src/verbs", "calls the verbs library"),
    ("rdma-transport/src/shm", "memory shared with another process"),
    ("rdma-transport/src/tcp", "submits io_uring requests on log memory"),
    ("apply-engine/src/handles", "file handle system calls"),
    ("apply-engine/src/sys", "system calls"),
];

/// Checks one file.
pub fn check(source: &Source, findings: &mut Findings) {
    if !source.is_rust() || UNSAFE_ALLOWED.iter().any(|(prefix, _)| source.path.starts_with(prefix)) {
        return;
    }
    let code = blank_prose(&source.text);
    for (index, line) in code.lines().enumerate() {
        if words(line).any(|word| word == "unsafe") {
            findings.errors.push(format!(
                "{}:{}: unsafe code outside of the modules for it (tidy/code.rs lists them)",
                source.path,
                index + 1
            ));
        }
    }
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
