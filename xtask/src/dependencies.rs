//! What we build on: a check of every package of other people's, without the network.
//!
//! Both lock files: every package comes from the one registry with a checksum, none from git or a path of its own; none
//! that cargo's copy of the index calls withdrawn ("yanked"). What is built for Linux: a licence that we may pass on,
//! and no crate in two versions, but for the exceptions here, each with its reason; an exception that is not needed
//! any more is an error too. What cannot be seen without the network: advisories, and what was withdrawn since cargo
//! last looked. cargo-deny and cargo-audit do those; they want a database that must be fetched.

use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// How lock files name the one registry; the rest of its name is the same for every package.
const REGISTRY: &str = "registry+https://github.com/rust-lang/";

/// The lock files of the workspace and of the fuzz targets.
const LOCKS: [&str; 2] = ["Cargo.lock", "fuzz/Cargo.lock"];

/// Licences that we may pass on with a program that is MIT OR Apache-2.0.
const LICENCES: [(&str, &str); 10] = [
    ("MIT", "our own"),
    ("Apache-2.0", "our own"),
    ("Apache-2.0 WITH LLVM-exception", "Apache-2.0 with more rights"),
    ("BSD-2-Clause", "permissive: keep the notice"),
    ("BSD-3-Clause", "permissive: keep the notice"),
    ("ISC", "permissive: keep the notice (ring, untrusted, rustls-webpki)"),
    ("Unicode-3.0", "permissive: tables of Unicode (icu, by way of url)"),
    ("Unlicense", "public domain"),
    (
        "CDLA-Permissive-2.0",
        "permissive, for data: the list of authorities that ureq brings and we do not use",
    ),
    ("BSL-1.0", "permissive: programs need not even show it (xxhash-rust)"),
];

/// Crates that are there in more than one version, and why that may be.
const DUPLICATES: [(&str, &str); 9] = [
    ("bit-vec", "proptest and its own bit-set differ: tests only"),
    ("embedded-io", "postcard carries both versions of one trait; we use neither"),
    ("getrandom", "ring, rand and tempfile each stay on their own version"),
    ("hashbrown", "stateright is behind: tests only"),
    ("rand", "proptest is ahead of our 0.9"),
    ("rand_core", "follows rand"),
    ("shlex", "bindgen is behind cc: build only"),
    ("syn", "macros: build only"),
    ("synstructure", "macros: build only"),
];

/// Runs all checks and tells everything that is wrong.
pub fn run(workspace: &Workspace) -> Result<()> {
    let mut wrong = Vec::new();
    for lock in LOCKS {
        let text = std::fs::read_to_string(workspace.root().join(lock)).with_context(|| lock.to_owned())?;
        let packages = locked(&text);
        wrong.extend(packages.iter().flat_map(check_source).map(|what| format!("{lock}: {what}")));
        wrong.extend(withdrawn(&packages, &index_dirs()).map(|what| format!("{lock}: {what}")));
    }
    let built = built(workspace)?;
    wrong.extend(check_licences(&built));
    wrong.extend(check_duplicates(&built, &DUPLICATES));
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n")) }
}

/// A package in a lock file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Locked {
    name: String,
    version: String,
    source: Option<String>,
    has_checksum: bool,
}

fn locked(text: &str) -> Vec<Locked> {
    let mut packages: Vec<Locked> = Vec::new();
    for line in text.lines() {
        if line == "[[package]]" {
            packages.push(Locked::default());
        }
        let (Some(package), Some((key, value))) = (packages.last_mut(), line.split_once(" = ")) else {
            continue;
        };
        let value = value.trim_matches('"').to_owned();
        match key {
            "name" => package.name = value,
            "version" => package.version = value,
            "source" => package.source = Some(value),
            "checksum" => package.has_checksum = value.len() == 64,
            _ => {}
        }
    }
    packages
}

/// Our own packages have no source.
fn check_source(package: &Locked) -> Option<String> {
    let Locked { name, version, source, has_checksum } = package;
    match source.as_deref() {
        None => None,
        Some(source) if source.starts_with(REGISTRY) && *has_checksum => None,
        Some(source) if source.starts_with(REGISTRY) => Some(format!("{name} {version} has no checksum")),
        Some(other) => Some(format!("{name} {version} comes from {other}, not from the registry")),
    }
}

/// Cargo's copies of the index, which it fetched to resolve the lock file.
fn index_dirs() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let indices = home.and_then(|home| std::fs::read_dir(home.join("registry/index")).ok());
    indices.into_iter().flatten().flatten().map(|entry| entry.path().join(".cache")).collect()
}

fn withdrawn<'a>(packages: &'a [Locked], indices: &'a [PathBuf]) -> impl Iterator<Item = String> + 'a {
    packages.iter().filter(|package| package.source.is_some()).filter_map(move |package| {
        let file = index_file(&package.name);
        let entries = indices.iter().find_map(|index| std::fs::read(index.join(&file)).ok())?;
        is_withdrawn(&entries, &package.version)
            .then(|| format!("{} {} was withdrawn (yanked) by its authors", package.name, package.version))
    })
}

/// Where an index keeps a crate: "ru/st/rustls", "3/a/abc".
fn index_file(name: &str) -> String {
    let name = name.to_lowercase();
    match name.len() {
        0..=2 => format!("{}/{name}", name.len()),
        3 => format!("3/{}/{name}", &name[..1]),
        _ => format!("{}/{}/{name}", &name[..2], &name[2..4]),
    }
}

/// The copy has a JSON object for each version between zero bytes.
fn is_withdrawn(entries: &[u8], version: &str) -> bool {
    let objects = entries.split(|byte| *byte == 0).filter(|part| part.starts_with(b"{"));
    objects
        .filter_map(|part| serde_json::from_slice::<Value>(part).ok())
        .any(|entry| entry["vers"] == version && entry["yanked"] == true)
}

/// A package that is built for Linux.
#[derive(Clone, Debug)]
struct Built {
    name: String,
    version: String,
    licence: Option<String>,
    ours: bool,
}

fn built(workspace: &Workspace) -> Result<Vec<Built>> {
    let arguments = [
        "metadata",
        "--offline",
        "--locked",
        "--format-version=1",
        "--filter-platform=x86_64-unknown-linux-gnu",
    ];
    let output = workspace.cargo(&arguments).output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(packages
        .iter()
        .map(|package| Built {
            name: text(&package["name"]).unwrap_or_default(),
            version: text(&package["version"]).unwrap_or_default(),
            licence: text(&package["license"]),
            ours: package["source"].is_null(),
        })
        .collect())
}

fn check_licences(packages: &[Built]) -> Vec<String> {
    let refused = packages.iter().filter(|package| !package.ours).filter_map(|package| {
        let Built { name, version, licence, .. } = package;
        match licence {
            None => Some(format!("{name} {version} names no licence")),
            Some(licence) if may_pass_on(licence) => None,
            Some(licence) => Some(format!("{name} {version}: {licence:?} is not among the licences allowed")),
        }
    });
    refused.collect()
}

/// Whether an SPDX expression can be met with the licences allowed. `/` is an old way to write OR.
fn may_pass_on(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (met, rest) = any_of(&words);
    met && rest.is_empty()
}

fn any_of<'w>(words: &'w [&'w str]) -> (bool, &'w [&'w str]) {
    let (mut met, mut rest) = all_of(words);
    while let Some((&"OR", others)) = rest.split_first() {
        let (other, after) = all_of(others);
        (met, rest) = (met | other, after);
    }
    (met, rest)
}

fn all_of<'w>(words: &'w [&'w str]) -> (bool, &'w [&'w str]) {
    let (mut met, mut rest) = one(words);
    while let Some((&"AND", others)) = rest.split_first() {
        let (other, after) = one(others);
        (met, rest) = (met & other, after);
    }
    (met, rest)
}

fn one<'w>(words: &'w [&'w str]) -> (bool, &'w [&'w str]) {
    match words {
        ["(", inside @ ..] => {
            let (met, rest) = any_of(inside);
            match rest.split_first() {
                Some((&")", rest)) => (met, rest),
                _ => (false, rest),
            }
        }
        [licence, "WITH", exception, rest @ ..] => (allowed(&format!("{licence} WITH {exception}")), rest),
        [licence, rest @ ..] => (allowed(licence), rest),
        [] => (false, words),
    }
}

fn allowed(licence: &str) -> bool {
    LICENCES.iter().any(|(name, _)| *name == licence)
}

fn check_duplicates(packages: &[Built], exceptions: &[(&str, &str)]) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        versions.entry(&package.name).or_default().insert(&package.version);
    }
    let is_double = |name: &str| versions.get(name).is_some_and(|versions| versions.len() > 1);
    let double = versions.iter().filter(|(name, versions)| {
        versions.len() > 1 && !exceptions.iter().any(|(exception, _)| exception == *name)
    });
    let unneeded = exceptions.iter().filter(|(name, _)| !is_double(name));
    let double = double.map(|(name, versions)| {
        format!(
            "{name} is built in versions {versions:?}: agree on one, or give the reason in dependencies.rs"
        )
    });
    let unneeded =
        unneeded.map(|(name, _)| format!("{name} is there once: take it off dependencies.rs's list"));
    double.chain(unneeded).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_is_not_the_registry_is_named() {
        let text = "[[package]]\nname = \"ours\"\nversion = \"0.1.0\"\n\n\
                    [[package]]\nname = \"good\"\nversion = \"1.0.0\"\nsource = \"REGISTRY\"\nchecksum = \"SUM\"\n\n\
                    [[package]]\nname = \"bare\"\nversion = \"1.0.0\"\nsource = \"REGISTRY\"\n\n\
                    [[package]]\nname = \"forked\"\nversion = \"2.0.0\"\nsource = \"git+https://example.org/x#1\"\n";
        let text = text.replace("REGISTRY", REGISTRY).replace("SUM", &"a".repeat(64));
        let packages = locked(&text);
        assert_eq!(packages.len(), 4);
        let wrong: Vec<String> = packages.iter().filter_map(check_source).collect();
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[0].contains("bare") && wrong[1].contains("forked 2.0.0 comes from git+"));
    }

    #[test]
    fn a_withdrawn_version_is_found_in_the_index() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(index_file("Some-Crate"));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let entries = b"\x03head\x001.0.0\0{\"vers\": \"1.0.0\", \"yanked\": false}\x001.0.1\0{\"vers\":\"1.0.1\",\"yanked\":true}\0";
        std::fs::write(&file, entries).unwrap();
        let package = |version: &str| Locked {
            name: "some-crate".to_owned(),
            version: version.to_owned(),
            source: Some(REGISTRY.to_owned()),
            has_checksum: true,
        };
        let indices = [directory.path().to_owned()];
        let packages = [package("1.0.0"), package("1.0.1")];
        let found: Vec<String> = withdrawn(&packages, &indices).collect();
        assert_eq!(found, ["some-crate 1.0.1 was withdrawn (yanked) by its authors"]);
        assert_eq!([index_file("ab"), index_file("abc")], ["2/ab", "3/a/abc"]);
    }

    #[test]
    fn licences_are_met_or_not() {
        for good in [
            "MIT",
            "GPL-3.0 OR MIT",
            "MIT/Apache-2.0",
            "(MIT OR GPL-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(may_pass_on(good), "{good}");
        }
        for bad in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT OR ISC) AND SSPL-1.0",
            "Apache-2.0 WITH other",
            "",
            "(MIT",
            "MIT MIT",
        ] {
            assert!(!may_pass_on(bad), "{bad}");
        }
        let package = |licence: Option<&str>| Built {
            name: "x".to_owned(),
            version: "1.0.0".to_owned(),
            licence: licence.map(str::to_owned),
            ours: false,
        };
        assert_eq!(
            check_licences(&[package(None), package(Some("AGPL-3.0")), package(Some("ISC"))]).len(),
            2
        );
    }

    #[test]
    fn a_second_version_needs_a_reason_and_a_reason_a_second_version() {
        let package = |version: &str| Built {
            name: "x".to_owned(),
            version: version.to_owned(),
            licence: None,
            ours: false,
        };
        let twice = [package("1.0.0"), package("2.0.0")];
        assert!(check_duplicates(&twice, &[]).concat().contains("agree on one"));
        assert!(check_duplicates(&twice, &[("x", "why")]).is_empty());
        assert!(check_duplicates(&twice[..1], &[("x", "why")]).concat().contains("take it off"));
    }
}
