//! What a node refuses to run with or to talk to: each with a clear message, and nothing is changed.

use crate::harness::{Cluster, Disk, Process, Side, Spec, run, twinfiler};
use admin_api::control::Request;
use admin_api::status::{Mode, Role, VolumeStatus};
use nvlog::format::{RING_OFFSET_BYTES, SUPERBLOCK_BYTES, SUPERBLOCK_OFFSETS, superblock};
use rustix::fs::{XattrFlags, setxattr};
use rustix::io::Errno;
use std::path::Path;
use std::time::Duration;

const OTHER_VOLUME: &str = "ffffffffffffffffffffffffffffffff";

/// A pair that has run and holds a file.
fn stopped_pair() -> Cluster {
    let mut pair = Cluster::start(Spec::default());
    std::fs::write(pair.mount(Side::A).join("file"), "content").unwrap();
    for side in [Side::B, Side::A] {
        assert!(pair.terminate(side).success());
    }
    pair
}

fn replace_in_config(pair: &Cluster, side: Side, old: &str, new: &str) {
    let text = std::fs::read_to_string(pair.config(side)).unwrap();
    assert!(text.contains(old), "{text}");
    std::fs::write(pair.config(side), text.replace(old, new)).unwrap();
}

/// Changes bytes of a superblock copy, and its CRC so that it fits, if wanted.
fn change_superblock(log: &Path, copy: usize, at: usize, bytes: &[u8], fit_crc: bool) {
    let mut content = std::fs::read(log).unwrap();
    let start = SUPERBLOCK_OFFSETS[copy] as usize;
    let block = &mut content[start..start + SUPERBLOCK_BYTES];
    block[at..at + bytes.len()].copy_from_slice(bytes);
    if fit_crc {
        let crc = crc32c(&block[..superblock::CRC]);
        block[superblock::CRC..].copy_from_slice(&crc.to_le_bytes());
    }
    // In place: a log in memory is the file itself.
    std::fs::write(log, content).unwrap();
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            let rest = crc >> 1;
            if crc & 1 == 1 { rest ^ 0x82f6_3b78 } else { rest }
        })
    })
}

/// Starts node A, which must refuse with `code` and these words, and leaves the records in its log as they were.
fn refuses(pair: &mut Cluster, code: i32, words: &[&str]) {
    let records = |pair: &Cluster| {
        std::fs::read(pair.log(Side::A)).ok().map(|bytes| bytes[RING_OFFSET_BYTES as usize..].to_vec())
    };
    let before = records(pair);
    let (actual, text) = pair.refused(Side::A);
    assert_eq!(actual, code, "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
    assert!(records(pair) == before, "the log was changed");
}

#[test]
fn a_second_daemon_is_refused_and_the_first_serves_on() {
    let pair = Cluster::start(Spec::default());
    // The same configuration: ends at the control socket.
    let config = pair.config(Side::A).display().to_string();
    let output = pair.node_dir(Side::A).join("second");
    let mut second = Process::start(&["--config", &config, "serve"], &output);
    assert_eq!(second.wait(Duration::from_secs(30)).code(), Some(75));
    // Another configuration for the same log and tree.
    let text = std::fs::read_to_string(&config).unwrap();
    let port = text.lines().find(|line| line.starts_with("listen")).unwrap();
    let text = text.replace("control.sock", "second.sock").replace(port, "listen = \"127.0.0.2:14999\"");
    let other = pair.node_dir(Side::A).join("second.toml");
    std::fs::write(&other, text).unwrap();
    let other = other.display().to_string();
    let mut second = Process::start(&["--config", &other, "serve"], &output);
    assert_eq!(second.wait(Duration::from_secs(30)).code(), Some(75));
    let text = std::fs::read_to_string(&output).unwrap();
    assert!(text.contains("in use by another"), "{text}");
    std::fs::write(pair.mount(Side::A).join("file"), "still serves").unwrap();
    assert_eq!(pair.volume(Side::A).unwrap().mode, Mode::Mirrored);
}

#[test]
fn a_log_of_another_volume_is_refused() {
    let mut pair = stopped_pair();
    let spare = pair.node_dir(Side::A).join("spare");
    std::fs::remove_file(pair.log(Side::A)).unwrap();
    let (base, log) = (spare.display().to_string(), pair.log(Side::A).display().to_string());
    let made = twinfiler(&[
        "init",
        "--volume-id",
        OTHER_VOLUME,
        "--base",
        &base,
        "--log",
        &log,
        "--capacity",
        "32MiB",
    ]);
    assert!(made.status.success());
    refuses(&mut pair, 65, &["the log belongs to volume ffffffff", "check `log.path`"]);
}

#[test]
fn a_capacity_that_differs_from_the_configuration_is_refused() {
    let mut pair = stopped_pair();
    replace_in_config(&pair, Side::A, "capacity = \"32MiB\"", "capacity = \"64MiB\"");
    refuses(&mut pair, 78, &["33554432", "67108864", "correct log.capacity"]);
}

#[test]
fn a_capacity_that_differs_from_the_partner_s_is_told_on_both_nodes() {
    let mut pair = Cluster::prepare(Spec::default());
    std::fs::remove_file(pair.log(Side::B)).unwrap();
    pair.init(Side::B, "v", "00112233445566778899aabbccddeeff", "64MiB");
    replace_in_config(&pair, Side::B, "capacity = \"32MiB\"", "capacity = \"64MiB\"");
    told_on_both(&mut pair, "both logs of a pair must have the same");
}

#[test]
fn a_partner_of_another_volume_is_told_on_both_nodes() {
    let mut pair = Cluster::prepare(Spec::default());
    std::fs::remove_file(pair.log(Side::B)).unwrap();
    std::fs::remove_dir_all(pair.base(Side::B)).unwrap();
    pair.init(Side::B, "v", OTHER_VOLUME, "32MiB");
    replace_in_config(&pair, Side::B, "00112233445566778899aabbccddeeff", OTHER_VOLUME);
    told_on_both(&mut pair, "it does not serve this volume");
}

#[test]
fn the_weaker_of_two_kinds_of_filesystems_counts() {
    let spec = Spec { disk_mib: [Some(512), Some(512)], filesystem: ["ext4", "xfs"], ..Spec::default() };
    let mut pair = Cluster::start(spec);
    for (round, side) in [Side::A, Side::B].into_iter().enumerate() {
        let mount = pair.mount(side);
        let link =
            |len| std::os::unix::fs::symlink("t".repeat(len), mount.join(format!("link-{round}-{len}")));
        link(1023).expect("as long as XFS takes it");
        assert_eq!(link(1024).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG), "on {}", side.name());
        let file = mount.join(format!("file-{round}"));
        std::fs::write(&file, "").unwrap();
        let set = |len: usize| setxattr(&file, "user.z", &vec![7; len], XattrFlags::empty());
        set(4040).expect("as long as ext4 takes it");
        assert_eq!(set(4041), Err(Errno::NOSPC), "on {}", side.name());
        if side == Side::A {
            pair.ask(Side::A, &Request::Switchover { volume: "v".to_owned(), timeout_ms: 30_000 }).unwrap();
            pair.wait_serving(Side::B);
            pair.wait_mirrored();
        }
    }
    pair.check_trees_equal();
}

#[test]
fn a_base_that_holds_less_than_before_is_told_on_both_nodes() {
    let spec = Spec { disk_mib: [Some(512), Some(512)], ..Spec::default() };
    let mut pair = Cluster::start(spec);
    std::os::unix::fs::symlink("t".repeat(4095), pair.mount(Side::A).join("link")).unwrap();
    assert!(pair.terminate(Side::B).success());
    let (image, at) = (pair.image(Side::B), pair.disk_path(Side::B));
    pair.disk(Side::B).take().unwrap().unmount(&image);
    *pair.disk(Side::B) = Some(Disk::make("xfs", &[], &image, 512, &at));
    std::fs::remove_file(pair.log(Side::B)).unwrap();
    pair.init(Side::B, "v", "00112233445566778899aabbccddeeff", "32MiB");
    pair.start_node(Side::B);
    for side in Side::BOTH {
        let reason = "the base directory of b lies on XFS, which holds symbolic links of at most 1023 bytes";
        let told = |volume: &VolumeStatus| format!("{volume:?}").contains(reason);
        pair.wait_volume(side, reason, told);
    }
    let target = std::fs::read_link(pair.mount(Side::A).join("link")).unwrap();
    assert_eq!(target.as_os_str().len(), 4095, "the primary serves on");
}

#[test]
fn a_base_with_short_inodes_is_refused_with_the_remedy() {
    let pair = Cluster::prepare(Spec { disk_mib: [Some(64), None], ..Spec::default() });
    let at = pair.node_dir(Side::A).join("old");
    std::fs::create_dir(&at).unwrap();
    let image = pair.node_dir(Side::A).join("old-image");
    let _old = Disk::make("ext4", &["-I", "128"], &image, 64, &at);
    let (base, log) = (at.join("v").display().to_string(), at.join("log").display().to_string());
    let output = twinfiler(&["init", "--name", "v", "--base", &base, "--log", &log, "--capacity", "32MiB"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("whole seconds") && text.contains("mkfs.ext4 -I 256"), "{text}");
    assert!(
        !Path::new(&log).exists() && std::fs::read_dir(&base).unwrap().next().is_none(),
        "nothing is left"
    );
}

#[test]
fn a_base_that_is_mounted_without_acls_is_refused() {
    // Of ext4, newer kernels know the option no more.
    let spec = Spec { disk_mib: [Some(512), Some(512)], filesystem: ["btrfs", "btrfs"], ..Spec::default() };
    let mut pair = Cluster::start(spec);
    assert!(pair.terminate(Side::B).success());
    let at = pair.disk_path(Side::B).display().to_string();
    run("mount", &["-o", "remount,noacl", &at]);
    let words = ["keeps no POSIX ACLs", "mount it without `noacl`"];
    let (code, text) = pair.refused(Side::B);
    assert!(code == 78 && words.iter().all(|word| text.contains(word)), "{code} {text}");
    let config = pair.config(Side::B).display().to_string();
    let output = twinfiler(&["--config", &config, "config", "check", "--here"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
    run("mount", &["-o", "remount,acl", &at]);
    pair.start_node(Side::B);
    pair.wait_mirrored();
}

/// Both nodes run, and neither serves. The one that connects has the reason in its status, the other in its log.
fn told_on_both(pair: &mut Cluster, reason: &str) {
    for side in Side::BOTH {
        pair.start_node(side);
    }
    pair.wait_volume(Side::A, reason, |volume| volume.detail.contains(reason));
    std::thread::sleep(Duration::from_secs(3));
    for side in Side::BOTH {
        let volume = pair.volume(side).unwrap();
        assert_eq!(volume.role, Role::None, "{volume:?}");
        assert!(volume.mounted_at.is_none());
    }
    let output = std::fs::read_to_string(pair.output(Side::B)).unwrap();
    assert!(output.contains("link refused"), "{output}");
}

#[test]
fn one_damaged_superblock_copy_is_survived() {
    for copy in 0..2 {
        let mut pair = stopped_pair();
        change_superblock(&pair.log(Side::A), copy, 100, &[0xff; 64], false);
        let shown = twinfiler(&["log", "inspect", &pair.log(Side::A).display().to_string()]);
        assert!(shown.status.success());
        for side in Side::BOTH {
            pair.start_node(side);
        }
        let primary = pair.wait_mirrored();
        assert_eq!(std::fs::read_to_string(pair.mount(primary).join("file")).unwrap(), "content");
    }
}

#[test]
fn two_damaged_superblock_copies_are_refused() {
    let mut pair = stopped_pair();
    for copy in 0..2 {
        change_superblock(&pair.log(Side::A), copy, 100, &[0xff; 64], false);
    }
    refuses(&mut pair, 65, &["superblock"]);
    let shown = twinfiler(&["log", "inspect", &pair.log(Side::A).display().to_string()]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("CRC"), "{shown:?}");
}

#[test]
fn a_log_of_a_future_version_is_refused() {
    let mut pair = stopped_pair();
    for copy in 0..2 {
        let version = (nvlog::format::FORMAT_VERSION + 1).to_le_bytes();
        change_superblock(&pair.log(Side::A), copy, superblock::VERSION, &version, true);
    }
    refuses(&mut pair, 65, &["newer"]);
}

#[test]
fn a_foreign_tree_in_the_base_is_refused() {
    let mut pair = stopped_pair();
    // Another volume's tree.
    let (base, kept) = (pair.base(Side::A), pair.node_dir(Side::A).join("kept"));
    std::fs::rename(&base, &kept).unwrap();
    let log = pair.node_dir(Side::A).join("spare-log").display().to_string();
    let there = base.display().to_string();
    let made = twinfiler(&[
        "init",
        "--volume-id",
        OTHER_VOLUME,
        "--base",
        &there,
        "--log",
        &log,
        "--capacity",
        "32MiB",
    ]);
    assert!(made.status.success());
    refuses(&mut pair, 65, &["belongs to volume ffffffff"]);
    // Somebody's files.
    std::fs::remove_dir_all(&base).unwrap();
    std::fs::create_dir(&base).unwrap();
    std::fs::write(base.join("thesis"), "precious").unwrap();
    refuses(&mut pair, 65, &["holds no Twinfiler volume"]);
    assert_eq!(std::fs::read_to_string(base.join("thesis")).unwrap(), "precious");
}

#[test]
fn a_missing_device_is_named() {
    let mut pair = stopped_pair();
    replace_in_config(&pair, Side::A, "kind = \"emulated\"", "kind = \"block\"");
    std::fs::remove_file(pair.log(Side::A)).unwrap();
    refuses(&mut pair, 69, &["the log", "cannot be used"]);
}

#[cfg(feature = "verbs")]
#[test]
fn verbs_without_a_device_is_refused_with_what_to_do() {
    let mut pair = stopped_pair();
    replace_in_config(&pair, Side::A, "preferred_primary", "transport = \"verbs\"\npreferred_primary");
    let text = std::fs::read_to_string(pair.config(Side::A)).unwrap();
    // A name that no machine has, so that this holds on one with adapters too.
    std::fs::write(pair.config(Side::A), format!("{text}\n[volume.rdma]\ndevice = \"nosuch0\"\n")).unwrap();
    refuses(&mut pair, 69, &["there is no RDMA device \"nosuch0\"", "correct `rdma.device`", "rdma link"]);
}

#[test]
fn a_log_in_memory_that_is_gone_is_made_anew_and_the_node_gets_what_it_misses() {
    let mut pair = Cluster::start(Spec::default());
    std::fs::write(pair.mount(Side::A).join("file"), "content").unwrap();
    // Hands over to B, which is then the one that has everything.
    assert!(pair.terminate(Side::A).success());
    pair.wait_serving(Side::B);
    // As after a restart of the machine.
    std::fs::remove_file(pair.log(Side::A)).unwrap();
    refuses(&mut pair, 69, &["the log", "Make it with `twinfiler init` only if"]);
    pair.init(Side::A, "v", "00112233445566778899aabbccddeeff", "32MiB");
    pair.start_node(Side::A);
    assert_eq!(pair.wait_mirrored(), Side::B);
    assert_eq!(std::fs::read_to_string(pair.mount(Side::B).join("file")).unwrap(), "content");
    pair.check_trees_equal();
}
