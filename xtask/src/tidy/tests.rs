//! Each rule against a bad sample that it must find and a good one that it must pass.

use super::*;
use serde_json::json;

fn source(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned() }
}

fn complaints(path: &str, text: &str) -> Vec<String> {
    let mut findings = Findings::default();
    let source = source(path, text);
    text::check(&source, &mut findings);
    code::check(&source, &mut findings);
    runtime::check(&source, &mut findings);
    findings.errors
}

fn complains(path: &str, text: &str, expected: &str) {
    let found = complaints(path, text);
    assert!(
        found.iter().any(|line| line.contains(expected)),
        "{path}: expected {expected:?}, found {found:?}"
    );
}

#[test]
fn a_good_file_passes() {
    let good =
        "//! What it is for.\n\n// unsafe is only spoken of\nfn main() {\n    let it = \"unsafe\";\n}\n";
    assert_eq!(complaints("pair/src/lib.rs", good), Vec::<String>::new());
}

#[test]
fn text_rules_find_their_bad_samples() {
    complains("a.rs", "fn main() {}\n", "must open with");
    complains("a.rs", &format!("//! x\n{}", "\n".repeat(800)), "lines; split it");
    complains("a.rs", concat!("//! x\n// TO", "DO later\n"), "finish it");
    complains("a.rs", "//! x\nfn a() {} \n", "white space");
    complains("a.rs", "//! x\n\tfn a() {}\n", "a tab");
    complains("a.md", concat!("It can", " not be.\n"), "cannot");
    complains("a.rs", "//! x\nfn a() {}", "newline");
    complains("a.md", concat!("see https://crates", ".io/x\n"), "registry");
    complains("a.toml", concat!("path = \"/wo", "rk/x\"\n"), "a path of one machine");
}

#[test]
fn text_rules_do_not_complain_about_look_alikes() {
    assert_eq!(complaints("a.md", concat!("a method", "ology, net/wo", "rk/x\n")), Vec::<String>::new());
    assert_eq!(complaints("Makefile", "all:\n\ttrue\n"), Vec::<String>::new());
}

#[test]
fn the_node_takes_its_clocks_and_threads_from_the_runtime() {
    for bad in ["use std::thread;", "use parking_lot::Mutex;", "use std::time::{Duration, Instant};"] {
        complains("node/src/x.rs", &format!("//! x\n{bad}\n"), "the crate runtime");
    }
    let in_tests = "//! x\nuse std::time::Duration;\n// std::thread\n#[cfg(test)]\nmod tests {\n    use std::thread;\n}\n";
    assert_eq!(complaints("commit/src/x.rs", in_tests), Vec::<String>::new());
    assert_eq!(complaints("filer/src/cli/x.rs", "//! x\nuse std::thread;\n"), Vec::<String>::new());
}

#[test]
fn a_modules_file_stands_beside_its_folder() {
    complains("node/src/verify/mod.rs", "//! x\n", "beside its folder");
    assert_eq!(complaints("rdma-transport/tests/common/mod.rs", "//! x\n"), Vec::<String>::new());
}

#[test]
fn a_long_file_is_only_advised_against() {
    let mut findings = Findings::default();
    text::check(&source("a.rs", &format!("//! x\n{}", "\n".repeat(450))), &mut findings);
    assert_eq!((findings.errors.len(), findings.warnings.len()), (0, 1));
}

#[test]
fn unsafe_code_is_found_only_where_it_may_not_be() {
    let text = "//! x\nfn a() {\n    unsafe { b() }\n}\n";
    complains("pair/src/lib.rs", text, "pair/src/lib.rs:3: unsafe");
    assert_eq!(complaints("nvlog/src/region/mapped.rs", text), Vec::<String>::new());
}

#[test]
fn a_permission_that_nobody_needs_is_found() {
    let used = source("ids/src/memory.rs", "//! x\npub unsafe trait A {}\n");
    let mut findings = Findings::default();
    code::check_allowed(&[used, source("nvlog/src/persist.rs", "//! unsafe\n")], &mut findings);
    assert!(!findings.errors.iter().any(|line| line.starts_with("ids/")), "{:?}", findings.errors);
    assert!(findings.errors.iter().any(|line| line.starts_with("nvlog/src/persist.rs needs no")));
}

#[test]
fn the_lexer_tells_code_from_prose() {
    let text = r####"a /* unsafe /* nested */ unsafe */ b "unsafe \" unsafe" r#"unsafe " unsafe"# 'u' '\'' 'life: c"####;
    let code = code::blank_prose(text);
    assert!(!code.contains("unsafe"), "{code}");
    for kept in ["a ", " b ", "'life: c"] {
        assert!(code.contains(kept), "{kept:?} in {code}");
    }
    assert_eq!(code::blank_prose("let b = br\"x\"; unsafe").trim_start(), "let b = b    ; unsafe");
}

#[test]
fn arrows_that_are_not_in_the_design_are_found() {
    let metadata = json!({"packages": [
        {"name": "ids", "dependencies": [{"name": "nvlog", "kind": null}, {"name": "serde", "kind": null}]},
        {"name": "nvlog", "dependencies": [{"name": "ids", "kind": null}]},
        {"name": "pair", "dependencies": [{"name": "filer", "kind": "dev"}]},
        {"name": "filer", "dependencies": [{"name": "nvlog", "kind": null}]},
        {"name": "stranger", "dependencies": []},
    ]});
    let mut findings = Findings::default();
    arrows::check(&arrows::crates(&metadata), &mut findings);
    let expected = [
        "crate ids must not use nvlog",
        "the tests of crate pair must not use filer",
        "crate stranger has no place in the design (tidy/arrows.rs lists them)",
    ];
    assert_eq!(findings.errors, expected);
}

#[test]
fn links_that_lead_nowhere_are_found() {
    let sources = [
        source(
            "README.md",
            "[a](docs/a.md) [b](docs/b.md) [c](docs/a.md#the-part) [d](docs/a.md#absent) [e](docs)\n",
        ),
        source("docs/a.md", "# The part\n[up](../README.md) [web](https://example.com/)\n```\n[x](y)\n```\n"),
    ];
    let mut findings = Findings::default();
    documents::check_links(&sources, &mut findings);
    let expected =
        ["README.md:1: the link docs/b.md leads nowhere", "README.md:1: docs/a.md#absent: no such heading"];
    assert_eq!(findings.errors, expected);
}

#[test]
fn commands_that_nobody_runs_are_found() {
    let text = "<!-- run: a -->\n```sh\nx\n```\n<!-- not run: too long -->\n```sh\ny\n```\n```toml\n```\n\
                ```sh\nz\n```\n```\nq\n```\n<!-- not run: -->\n```sh\nw\n```\n";
    let mut findings = Findings::default();
    documents::check_commands(&[source("docs/a.md", text), source("other.md", text)], &mut findings);
    let lines: Vec<&str> = findings.errors.iter().filter_map(|error| error.split(": ").next()).collect();
    assert_eq!(lines, ["docs/a.md:11", "docs/a.md:14", "docs/a.md:18"], "{:?}", findings.errors);
}

#[test]
fn a_failure_without_a_test_is_found() {
    let table = "| what | test |\n| --- | --- |\n\
        | a | `disk::it_holds`, `…_holds`, `it_h…` (`x/tests/disk.rs`) |\n| b | the same |\n| c | guests: `link-cut` |\n\
        | d | `x`: `disk::tests` |\n| e | |\n| f | `disk::it_fails` |\n| g | guests: `no-link` |\n| h | not tested |\n\
        | i | `x/tests/other.rs` |\n| j | `it_is_called` |\n";
    let sources = [
        source("docs/failures.md", table),
        source("docs/operations.md", "| what | test |\n| --- | --- |\n| a | `it_holds` |\n| b | |\n"),
        source("x/Cargo.toml", ""),
        source("x/tests/disk.rs", "#[test]\nfn it_holds() {\n    it_is_called();\n}\n"),
        source("soft-roce-ci/src/scenario.rs", "const NAME: &str = \"link-cut\";\n"),
    ];
    let mut findings = Findings::default();
    failures::check(&sources, &mut findings);
    let expected = [
        "docs/failures.md:7: this row names no test",
        "docs/failures.md:8: there is no test `disk::it_fails`",
        "docs/failures.md:9: there is no test `no-link`",
        "docs/failures.md:10: this row names no test",
        "docs/failures.md:11: there is no test `x/tests/other.rs`",
        "docs/failures.md:12: there is no test `it_is_called`",
        "docs/operations.md:4: this row names no test",
    ];
    assert_eq!(findings.errors, expected);
    findings = Findings::default();
    failures::check(&[], &mut findings);
    assert_eq!(findings.errors, ["docs/failures.md is missing", "docs/operations.md is missing"]);
}

#[test]
fn a_crate_that_is_not_on_the_map_is_found() {
    let crates = arrows::crates(&json!({"packages": [{"name": "ids"}, {"name": "pair"}]}));
    let mut findings = Findings::default();
    documents::check_crate_map(
        &[source("ARCHITECTURE.md", "| `ids` | vocabulary |\n")],
        &crates,
        &mut findings,
    );
    assert_eq!(findings.errors, ["ARCHITECTURE.md does not name the crate `pair`"]);
    documents::check_crate_map(&[], &crates, &mut findings);
    assert_eq!(findings.errors.last().map(String::as_str), Some("ARCHITECTURE.md is missing"));
}

#[test]
fn a_dependency_that_nobody_uses_is_found() {
    let metadata = serde_json::json!({"workspace_root": "/w", "packages": [{
        "manifest_path": "/w/a/Cargo.toml",
        "dependencies": [
            {"name": "used-one", "kind": null},
            {"name": "only-in-prose", "kind": null},
            {"name": "only-in-tests", "kind": null},
            {"name": "long-name", "rename": "short", "kind": null},
            {"name": "for-tests", "kind": "dev"},
        ],
    }]});
    let sources = [
        source("a/src/lib.rs", "//! only_in_prose::x\nuse used_one::X;\nuse short;\n"),
        source("a/tests/t.rs", "//! x\nuse for_tests::X;\nuse only_in_tests::X;\n"),
    ];
    let mut findings = Findings::default();
    unused::check(&metadata, &sources, &mut findings);
    let found: Vec<&str> = findings.errors.iter().filter_map(|error| error.split(' ').nth(1)).collect();
    assert_eq!(found, ["only-in-prose", "only-in-tests"]);
}
