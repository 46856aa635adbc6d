//! The built program: exit codes and what it says on standard error.
#![allow(clippy::unwrap_used, reason = "tests: a failed unwrap is a failed test")]

mod daemon;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_twinfiler"));
    command.args(arguments).env_remove("TWINFILER_CONFIG").env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn twinfiler(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

/// Runs it, checks the exit code, and returns what it said on standard output and standard error.
fn expect(code: i32, arguments: &[&str]) -> (String, String) {
    let output = twinfiler(arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{out}\n{err}");
    assert!(!err.contains("panicked"), "{err}");
    (out, err)
}

fn config(directory: &Path) -> String {
    let d = directory.display();
    let text = format!(
        "[node]\nname = \"a\"\nlisten = \"127.0.0.1:17400\"\ncontrol = \"{d}/control.sock\"\n\
         [[volume]]\nname = \"home\"\nid = \"00112233445566778899aabbccddeeff\"\nbase = \"{d}/base\"\n\
         peer = {{ name = \"b\", address = \"127.0.0.1:17401\" }}\n\
         log = {{ kind = \"block\", path = \"{d}/log\", capacity = \"1MiB\" }}\n\
         fuse = {{ mount = \"{d}/mount\" }}\n"
    );
    let path = directory.join("twinfiler.toml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn usage() {
    let (_, err) = expect(64, &[]);
    assert!(err.contains("Usage: twinfiler"), "{err}");
    let (_, err) = expect(64, &["swichover", "home"]);
    assert!(err.contains("'switchover'"), "a near name is suggested: {err}");
    let (out, _) = expect(0, &["--help"]);
    assert!(out.contains("77 no permission"), "{out}");
    expect(64, &["init", "--log", "/tmp/x"]);
    let (_, err) = expect(64, &["init", "--base", "/tmp/x", "--log", "/tmp/y", "--capacity", "8"]);
    assert!(err.contains("as in 64MiB"), "{err}");
    let (_, err) = expect(64, &["switchover", "home", "--timeout", "3"]);
    assert!(err.contains("as in 250ms"), "{err}");
    expect(64, &["init", "--base", "/tmp/x", "--log", "/tmp/y", "--volume-id", "12"]);
}

/// What the unit runs after a daemon was killed, when somebody has broken the file meanwhile.
#[test]
fn an_address_that_a_broken_file_keeps_is_told_with_the_command_that_takes_it_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = config(directory.path());
    std::fs::write(&path, "[node").unwrap();
    let (_, err) = expect(78, &["--config", &path, "release-address"]);
    assert!(err.contains("ip address del ADDRESS dev INTERFACE") && err.contains(&path), "{err}");
}

#[test]
fn configurations() {
    let (_, err) = expect(66, &["--config", "/nowhere/twinfiler.toml", "serve"]);
    assert!(err.starts_with("twinfiler: cannot read the configuration /nowhere/twinfiler.toml"), "{err}");
    let directory = tempfile::tempdir().unwrap();
    let path = config(directory.path());
    let (out, err) = expect(0, &["--config", &path, "config", "check"]);
    assert!(out.contains("good, 1 volume\n") && err.contains("no [witness]"), "{out}{err}");
    std::fs::write(&path, "[node]\nname = \"a\"\nlisten = \"x\"\nlog_levl = \"info\"\n").unwrap();
    let (_, err) = expect(78, &["--config", &path, "serve"]);
    assert!(err.contains("twinfiler.toml:3: [node]: `listen`: \"x\""), "{err}");
    assert!(err.contains("did you mean `log_level`?") && err.contains("3 problems in "), "{err}");
}

#[test]
fn what_the_machine_lacks_is_told_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = config(directory.path());
    for arguments in [&["--config", &path, "serve"][..], &["--config", &path, "config", "check", "--here"]] {
        let (_, err) = expect(69, arguments);
        for what in ["the log", "the base directory", "the mount point"] {
            assert!(err.contains(what), "{what}: {err}");
        }
    }
    std::fs::create_dir(directory.path().join("base")).unwrap();
    std::fs::create_dir(directory.path().join("mount")).unwrap();
    std::fs::create_dir(directory.path().join("log")).unwrap();
    let (_, err) = expect(78, &["--config", &path, "config", "check", "--here"]);
    assert!(err.contains("is not a file or a block device"), "{err}");
}

/// What `serve` refuses the check tells, with the same status.
#[test]
fn a_key_that_cannot_be_used_is_told_by_the_check() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = config(directory.path());
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (key, other) = (at("node.key"), expect(0, &["keygen", &at("other.key")]).0);
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("control = ", &format!("private_key = {key:?}\ncontrol = "));
    let peer = format!("127.0.0.1:17401\", public_key = {:?}", other.trim());
    std::fs::write(&path, text.replace("127.0.0.1:17401\"", &peer)).unwrap();
    let both = |code, what: &str| {
        for arguments in
            [&["--config", &path, "serve"][..], &["--config", &path, "config", "check", "--here"]]
        {
            let (_, err) = expect(code, arguments);
            assert!(err.contains(what), "{err}");
        }
    };
    both(66, "twinfiler keygen");
    expect(0, &["keygen", &key]);
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    both(77, "chmod 600");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (own, _) = expect(0, &["keygen", &key, "--show"]);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(other.trim(), own.trim())).unwrap();
    both(78, "[volume.peer]: `public_key` is this node's own");
}

/// The files with which a node asks etcd: what `serve` refuses the check tells, with the same status.
#[test]
fn a_file_of_etcd_s_that_cannot_be_used_is_told_by_the_check() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = config(directory.path());
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (ca, certificate, key) = (at("ca.pem"), at("node.pem"), at("node.key"));
    let etcd = format!(
        "[witness]\netcd = {{ endpoints = \"https://127.0.0.1:1\", ca = {ca:?}, certificate = {certificate:?}, key = {key:?} }}\n"
    );
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("[[volume]]", &format!("{etcd}[[volume]]"))).unwrap();
    let both = |code, what: &str| {
        for arguments in
            [&["--config", &path, "config", "check", "--here"][..], &["--config", &path, "serve"]]
        {
            let (_, err) = expect(code, arguments);
            assert!(err.contains(what), "{err}");
        }
    };
    let set_mode = |mode| {
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    both(66, &format!("{ca}: No such file"));
    std::fs::write(&ca, "no certificate\n").unwrap();
    both(78, "name a PEM file with the certificate of the authority");
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(&ca, pem).unwrap();
    std::fs::write(&certificate, pem).unwrap();
    both(66, &format!("{key}: No such file"));
    expect(0, &["keygen", &key]);
    set_mode(0o640);
    both(77, &format!("chmod 600 {key}"));
    set_mode(0o600);
    std::os::unix::fs::chown(&key, Some(65534), None).unwrap();
    both(77, "belongs to user 65534");
    std::os::unix::fs::chown(&key, Some(0), None).unwrap();
    // The rest of this machine is not there.
    let (_, err) = expect(69, &["--config", &path, "config", "check", "--here"]);
    assert!(!err.contains("witness"), "{err}");
}

#[test]
fn an_address_of_another_machine_is_told_by_the_check() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = config(directory.path());
    let text = std::fs::read_to_string(&path).unwrap();
    let listen = text.lines().find(|line| line.starts_with("listen")).unwrap();
    // For documentation (RFC 5737): nobody has it.
    std::fs::write(&path, text.replace(listen, "listen = \"192.0.2.1:7400\"\nplaintext = true")).unwrap();
    let output = twinfiler(&["--config", &path, "config", "check", "--here"]);
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        err.contains("`node.listen`: this machine has no address 192.0.2.1") && err.contains("ip address"),
        "{err}"
    );
    assert!(!output.status.success());
}

#[test]
fn a_log_that_is_none_or_is_in_use_is_told_by_the_check() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = config(directory.path());
    let check = ["--config", &path, "config", "check", "--here"];
    let (base, log) = (directory.path().join("base"), directory.path().join("log"));
    std::fs::create_dir(directory.path().join("mount")).unwrap();
    std::fs::create_dir(&base).unwrap();
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(directory.path(), closed).unwrap();
    std::fs::File::create(&log).unwrap().set_len(2 << 20).unwrap();
    let (_, err) = expect(65, &check);
    assert!(err.contains("holds no log") && err.contains("twinfiler init"), "{err}");
    std::fs::remove_file(&log).unwrap();
    let (base, log) = (base.display().to_string(), log.display().to_string());
    let init = ["init", "--base", &base, "--log", &log, "--log-kind", "block", "--capacity"];
    let other = [&init[..], &["2MiB", "--volume-id", "00112233445566778899aabbccddee00"]].concat();
    expect(0, &other);
    let (_, err) = expect(65, &check);
    assert!(err.contains("belongs to volume 00112233445566778899aabbccddee00"), "{err}");
    std::fs::remove_file(&log).unwrap();
    std::fs::remove_dir_all(&base).unwrap();
    expect(0, &[&init[..], &["1MiB", "--volume-id", "00112233445566778899aabbccddeeff"]].concat());
    expect(0, &check);
    let held = std::fs::OpenOptions::new().write(true).open(&log).unwrap();
    held.try_lock().unwrap();
    let (_, err) = expect(75, &check);
    assert!(err.contains("another process uses this log"), "{err}");
    drop(held);
    expect(0, &check);
}

/// A base that no start would serve, on a machine that lacks nothing else.
#[test]
fn a_base_that_is_not_the_volume_s_is_told_by_the_check() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = config(directory.path());
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (base, log, label) = (at("base"), at("log"), at("base/.twinfiler/label"));
    std::fs::create_dir(at("mount")).unwrap();
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(directory.path(), closed).unwrap();
    let id = "00112233445566778899aabbccddeeff";
    let init = ["init", "--base", &base, "--log", &log, "--log-kind", "block", "--capacity", "1MiB"];
    expect(0, &[&init[..], &["--volume-id", id]].concat());
    let both = |code, what: &str| {
        for arguments in
            [&["--config", &path, "serve"][..], &["--config", &path, "config", "check", "--here"]]
        {
            let (_, err) = expect(code, arguments);
            let place = "volume home: the base directory cannot be used: ";
            assert!(err.contains(place) && err.contains(what), "{err}");
        }
    };
    let check = ["--config", &path, "config", "check", "--here"];
    expect(0, &check);
    let whole = std::fs::read_to_string(&label).unwrap();
    std::fs::write(&label, whole.replace(id, "00112233445566778899aabbccddee00")).unwrap();
    both(65, "belongs to volume 00112233445566778899aabbccddee00");
    std::fs::write(&label, whole.replace("complete", "adopting")).unwrap();
    both(65, "run `twinfiler init --adopt` again");
    std::fs::write(&label, whole.replace("version 1", "version 99")).unwrap();
    both(65, "if a newer program has written it");
    std::fs::write(&label, whole).unwrap();
    expect(0, &check);
    // As where its filesystem is not mounted.
    std::fs::remove_dir_all(at("base/.twinfiler")).unwrap();
    both(65, "holds no Twinfiler volume");
}

#[test]
fn no_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let path = config(directory.path());
    for command in [
        &["status"][..],
        &["status", "--json"],
        &["switchover", "home"],
        &["takeover", "home"],
        &["shutdown"],
    ] {
        let (_, err) = expect(69, &[&["--config", &path], command].concat());
        assert!(err.contains("no daemon answers at"), "{err}");
    }
}

#[test]
fn logs_that_can_not_be_inspected() {
    expect(66, &["log", "inspect", "/nowhere/log"]);
}

#[test]
fn not_root() {
    use std::os::unix::process::CommandExt;
    let directory = tempfile::tempdir().unwrap();
    let path = config(directory.path());
    // Readable by the other user that the program is run as.
    let program = directory.path().join("twinfiler");
    std::fs::copy(env!("CARGO_BIN_EXE_twinfiler"), &program).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), mode).unwrap();
    let output =
        Command::new(&program).args(["--config", &path, "serve"]).uid(65534).gid(65534).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{err}");
    assert!(err.contains("twinfiler must run as root"), "{err}");
}

#[test]
fn init_makes_a_volume_once() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (base, log) = (at("base"), at("log"));
    let good = ["init", "--name", "home", "--base", &base, "--log", &log, "--capacity", "1MiB"];
    let (out, _) = expect(0, &good);
    let id = out.lines().next().and_then(|line| line.strip_prefix("volume id ")).unwrap().to_owned();
    assert!(out.contains(&format!("--volume-id {id}")) && out.contains("[[volume]]"), "{out}");
    let before = std::fs::read(&log).unwrap();

    let (_, err) = expect(73, &good);
    assert!(err.contains("exists; nothing was changed"), "{err}");
    let other = at("other");
    let (_, err) = expect(73, &["init", "--base", &base, "--log", &other, "--capacity", "1MiB"]);
    assert!(err.contains("already holds volume"), "{err}");
    assert!(!Path::new(&other).exists(), "a refused init made a log");
    assert_eq!(std::fs::read(&log).unwrap(), before);

    std::fs::create_dir(at("full")).unwrap();
    std::fs::write(at("full/file"), "precious").unwrap();
    let full = at("full");
    let (_, err) = expect(73, &["init", "--base", &full, "--log", &other, "--capacity", "1MiB"]);
    assert!(err.contains("is not empty"), "{err}");
    let (_, err) = expect(64, &["init", "--base", &full, "--log", &at("full/log")]);
    assert!(err.contains("lies in the base directory"), "{err}");
    let (_, err) = expect(0, &["init", "--adopt", &full, "--log", &other, "--capacity", "1MiB"]);
    assert!(err.contains("adopted 2 objects"), "{err}");
    assert_eq!(std::fs::read_to_string(at("full/file")).unwrap(), "precious");

    // Nothing is made for what was misspelt.
    let (_, err) = expect(66, &["init", "--adopt", "/nowhere", "--log", &other, "--capacity", "1MiB"]);
    assert!(err.contains("no directory /nowhere to adopt") && !err.contains("chmod"), "{err}");
    let (_, err) = expect(66, &["init", "--base", &at("new"), "--log", &at("no/log"), "--capacity", "1MiB"]);
    assert!(err.contains("no directory") && !Path::new(&at("no")).exists(), "{err}");
    assert!(!Path::new(&at("new")).exists(), "before the tree is touched");

    // A run that ended before the log was made is repeated with the same id.
    std::fs::remove_file(&log).unwrap();
    expect(0, &["init", "--base", &base, "--log", &log, "--capacity", "1MiB", "--volume-id", &id]);
    let (out, _) = expect(0, &["log", "inspect", &log]);
    assert!(out.contains(&id), "{out}");
    // On the partner there is nobody left to tell.
    std::fs::remove_file(&log).unwrap();
    let (out, _) =
        expect(0, &["init", "--base", &base, "--log", &log, "--capacity", "1MiB", "--volume-id", &id]);
    assert!(!out.contains("twinfiler init") && out.contains("name = \"filer-a\""), "{out}");
}

/// What is told beside the result is no reason to stop in the middle.
#[test]
fn a_command_whose_remarks_nobody_takes_does_its_work() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (base, log) = (at("made/by/init"), at("log"));
    let mut command = command(&["init", "--base", &base, "--log", &log, "--capacity", "1MiB"]);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(command.stderr(full).output().unwrap().status.code(), Some(0));
    expect(0, &["log", "inspect", &log]);
}

#[test]
fn keys() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("node.key").display().to_string();
    let (public, err) = expect(0, &["keygen", &file]);
    assert!(public.starts_with("ed25519:") && public.lines().count() == 1, "{public}");
    assert!(err.contains("Keep it here"), "{err}");
    assert_eq!(expect(0, &["keygen", &file, "--show"]).0, public);
    let (_, err) = expect(73, &["keygen", &file]);
    assert!(err.contains("is not replaced"), "{err}");
    let (_, err) = expect(66, &["keygen", "/nowhere/node.key"]);
    assert!(err.contains("mkdir -p /nowhere") && !err.contains("makes one"), "{err}");
    // A witness that others could reach, without keys.
    let state = directory.path().join("state").display().to_string();
    let (_, err) = expect(64, &["witness", "--listen", "0.0.0.0:1", "--state", &state]);
    assert!(err.contains("twinfiler keygen") && err.contains("--plaintext"), "{err}");
    expect(64, &["witness", "--private-key", &file, "--state", &state]);
    let (_, err) = expect(66, &["witness", "--private-key", &file, "--nodes", "/nowhere", "--state", &state]);
    assert!(err.contains("a line for each node"), "{err}");
    // A key that others can read.
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let (_, err) = expect(77, &["keygen", &file, "--show"]);
    assert!(err.contains("chmod 600"), "{err}");
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn init_closes_the_tree_to_other_users() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    set_mode(directory.path(), 0o755);
    let at = |name: &str| directory.path().join(name);
    let init = |how: &str, base: &Path, log: &str, code| {
        let (base, log) = (base.display().to_string(), at(log).display().to_string());
        expect(code, &["init", how, &base, "--log", &log, "--capacity", "1MiB"])
    };
    // What is missing above it is made, closed.
    init("--base", &at("made/by/init"), "log-1", 0);
    assert_eq!(mode(&at("made")), 0o700);
    // What was made for it alone is closed.
    std::fs::create_dir(at("disk")).unwrap();
    init("--base", &at("disk/base"), "log-2", 0);
    assert_eq!(mode(&at("disk")), 0o700);
    // What holds other things too stays as it is; what is to be done is said.
    std::fs::create_dir_all(at("shared/tree")).unwrap();
    std::fs::write(at("shared/other"), "").unwrap();
    std::fs::write(at("shared/tree/file"), "").unwrap();
    for (how, base, log) in [("--base", at("shared/base"), "log-3"), ("--adopt", at("shared/tree"), "log-4")]
    {
        let (_, err) = init(how, &base, log, 0);
        assert!(
            err.contains("NOT YET") && err.contains(&format!("-m 700 {}/twinfiler", at("shared").display())),
            "{err}"
        );
        assert!(!err.contains("chmod"), "others need it: {err}");
    }
    assert_eq!(mode(&at("shared")), 0o755);

    // A tree that is open is not served.
    let path = config(directory.path());
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("/base\"", "/disk/base\"")).unwrap();
    set_mode(&at("disk"), 0o755);
    for arguments in [&["--config", &path, "serve"][..], &["--config", &path, "config", "check", "--here"]] {
        let output = twinfiler(arguments);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{err}");
        assert!(err.contains("other users of this machine can walk into the base"), "{err}");
        assert!(err.contains(&format!("chmod 700 {}", at("disk").display())), "{err}");
    }
}

/// What is checked, closed and printed is where a path leads, not how it is written.
#[test]
fn init_follows_the_paths_that_it_is_given() {
    use std::os::unix::fs::symlink;
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    set_mode(directory.path(), 0o755);
    let at = |name: &str| directory.path().join(name);
    let shown = |name: &str| at(name).display().to_string();
    for made in ["x", "solo/outer/inner", "far/base", "real/base"] {
        std::fs::create_dir_all(at(made)).unwrap();
        set_mode(&at(made), 0o755);
    }
    let init = |how: &str, base: &str, log: &str, code| {
        let arguments = ["init", how, base, "--log", log, "--log-kind", "block", "--capacity", "1MiB"];
        let output = command(&arguments).current_dir(at("solo/outer/inner")).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
        out + &err
    };
    // What is printed can be written into the configuration.
    let out = init("--base", &shown("x/../new/home"), &shown("x/../log-1"), 0);
    let places = [format!("base = {:?}", shown("new/home")), format!("path = {:?}", shown("log-1"))];
    assert!(places.iter().all(|place| out.contains(place)) && !out.contains("/../"), "{out}");
    // Up from where there is nothing.
    let err = init("--base", &shown("missing/../home"), &shown("log-2"), 66);
    assert!(err.contains("nothing was changed") && !at("home").exists(), "{err}");
    // The directory above the tree is closed, not one in it.
    let out = init("--adopt", "..", &shown("log-3"), 0);
    assert!(out.contains(&format!("base = {:?}", shown("solo/outer"))), "{out}");
    assert_eq!((mode(&at("solo")), mode(&at("solo/outer/inner"))), (0o700, 0o755));
    symlink(at("far/base"), at("x/way")).unwrap();
    let out = init("--base", &shown("x/way"), &shown("log-4"), 0);
    assert!(out.contains(&format!("base = {:?}", shown("far/base"))), "{out}");
    assert_eq!((mode(&at("far")), mode(&at("x"))), (0o700, 0o755));
    // A log that a link leads into the tree.
    symlink(at("real/base"), at("link")).unwrap();
    let err = init("--base", &shown("real/base"), &shown("link/log"), 64);
    assert!(err.contains("lies in the base directory"), "{err}");
    assert_eq!(std::fs::read_dir(at("real/base")).unwrap().count(), 0);
    // A name under which a device is known stays, wherever it leads.
    symlink(at("log-1"), at("by-id")).unwrap();
    let err = init("--base", &shown("real/base"), &shown("by-id"), 73);
    assert!(err.contains(&shown("by-id")), "{err}");
}

/// Links that the file does not show: what lies in a tree goes with it.
#[test]
fn places_that_links_lead_into_each_other_are_told_by_the_check() {
    use std::os::unix::fs::symlink;
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = config(directory.path());
    let at = |name: &str| directory.path().join(name);
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(directory.path(), closed).unwrap();
    std::fs::create_dir(at("mount")).unwrap();
    let (base, log) = (at("base").display().to_string(), at("log").display().to_string());
    let init = ["init", "--base", &base, "--log", &log, "--log-kind", "block", "--capacity", "1MiB"];
    expect(0, &[&init[..], &["--volume-id", "00112233445566778899aabbccddeeff"]].concat());
    let text = std::fs::read_to_string(&path).unwrap();
    let salvage = |to: &str| {
        let line = format!("resync = {{ salvage = \"{}\" }}\n", at(to).display());
        std::fs::write(&path, format!("{text}{line}")).unwrap();
    };
    let check = ["--config", &path, "config", "check", "--here"];
    symlink(at("base"), at("elsewhere")).unwrap();
    salvage("kept");
    expect(0, &check);
    salvage("elsewhere/.twinfiler/salvage");
    expect(0, &check);
    salvage("elsewhere/kept");
    for arguments in [&check[..], &["--config", &path, "serve"]] {
        let (_, err) = expect(78, arguments);
        assert!(err.contains("salvage directory of volume home") && err.contains("which leads to"), "{err}");
    }
    std::fs::write(&path, text.replace("/mount\"", "/elsewhere/mount\"")).unwrap();
    std::fs::create_dir(at("base/mount")).unwrap();
    let (_, err) = expect(78, &check);
    assert!(err.contains("the mount point of volume home") && err.contains("lie in each other"), "{err}");
}

#[test]
fn a_device_with_data_is_refused_before_the_tree_is_touched() {
    let build = Path::new(env!("CARGO_BIN_EXE_twinfiler")).parent().unwrap();
    let directory = tempfile::tempdir_in(build).unwrap();
    let image = directory.path().join("image");
    std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let made = Command::new("losetup").args(["--find", "--show"]).arg(&image).output().unwrap();
    assert!(made.status.success(), "this test makes a loop device: run it as root");
    let device = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    // It goes with its last user, also when this test is killed.
    let held = std::fs::File::open(&device).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).arg(&device).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run("losetup", &["--detach"]);

    let base = directory.path().join("base");
    let shown = base.display().to_string();
    let init = ["init", "--base", &shown, "--log-kind", "block", "--log", &device];
    run("mkswap", &[]);
    let (_, err) = expect(73, &init);
    assert!(err.contains("blkdiscard --force --zeroout") && err.contains("holds swap space"), "{err}");
    assert!(!base.exists() && Path::new(&device).exists());
    run("blkdiscard", &["--force", "--zeroout"]);
    let (_, err) = expect(65, &[&init[..], &["--capacity", "1GiB"]].concat());
    assert!(err.contains("has room for a log of") && !base.exists(), "{err}");
    // Without a capacity the device is used as far as it goes.
    let (out, _) = expect(0, &init);
    assert!(out.contains(&format!("capacity = \"{}KiB\"", (64 << 10) - 64)), "{out}");
    let (_, err) = expect(73, &init);
    assert!(err.contains("holds a log of Twinfiler"), "{err}");
    drop(held);
}
