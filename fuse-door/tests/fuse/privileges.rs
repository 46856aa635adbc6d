//! Set-id bits and file capabilities: what each call of each caller leaves of them, compared with ext4 (or
//! whatever the temporary directory lies on) on the same kernel, at once after the call.

use super::holes::{Mapper, both_modes, sparse};
use super::{Mounted, mounted};
use rustix::fs::{CWD, FallocateFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const OWNER: u32 = 61_001;
const GROUP: u32 = 62_000;
const LEN: u64 = 8192;
const MODES: [u32; 7] = [0o4777, 0o2777, 0o2767, 0o6777, 0o2666, 0o6666, 0o4766];
/// cap_net_raw, as setcap(8) writes it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[derive(Clone, Copy, Debug)]
struct Actor {
    name: &'static str,
    uid: u32,
    gid: u32,
    groups: &'static [u32],
}

const ACTORS: [Actor; 5] = [
    Actor { name: "root", uid: 0, gid: 0, groups: &[] },
    Actor { name: "owner in the group", uid: OWNER, gid: OWNER, groups: &[GROUP] },
    Actor { name: "owner outside of it", uid: OWNER, gid: OWNER, groups: &[] },
    Actor { name: "member", uid: 61_002, gid: 61_002, groups: &[GROUP] },
    Actor { name: "stranger", uid: 61_003, gid: 61_003, groups: &[] },
];

impl Actor {
    /// Runs `act` on a thread that has this actor's rights and no others.
    fn run<T: Send>(self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let groups: Vec<Gid> = self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
                rustix::thread::set_thread_groups(&groups).unwrap();
                let (gid, uid) = (Gid::from_raw(self.gid), Uid::from_raw(self.uid));
                rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
                rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
                act()
            });
            thread.join().unwrap()
        })
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

fn writer(path: &Path) -> Result<File, Errno> {
    OpenOptions::new().write(true).open(path).map_err(errno)
}

fn allocate(path: &Path, flags: FallocateFlags) -> Result<(), Errno> {
    rustix::fs::fallocate(writer(path)?, flags, 0, LEN / 2)
}

fn acl(named: bool) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    let base: &[(u16, u16, u32)] = match named {
        true => &[(1, 7, u32::MAX), (2, 6, 1000), (4, 7, u32::MAX), (16, 7, u32::MAX), (32, 7, u32::MAX)],
        false => &[(1, 7, u32::MAX), (4, 7, u32::MAX), (32, 7, u32::MAX)],
    };
    for (tag, permissions, id) in base {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn chown(path: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    std::os::unix::fs::chown(path, uid, gid).map_err(errno)
}

type Call = fn(&Path) -> Result<(), Errno>;

const CALLS: [(&str, Call); 24] = [
    ("write", |path| writer(path)?.write_all(b"x").map_err(errno)),
    ("write nothing", |path| writer(path)?.write(b"").map(drop).map_err(errno)),
    ("pwrite at the end", |path| writer(path)?.write_all_at(b"x", LEN).map_err(errno)),
    ("append", |path| {
        let mut file = OpenOptions::new().append(true).open(path).map_err(errno)?;
        file.write_all(b"x").map_err(errno)
    }),
    ("pwrite O_DIRECT", |path| {
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(path)
            .map_err(errno)?;
        let room = vec![1_u8; 8192];
        let from = room.as_ptr().align_offset(4096);
        file.write_all_at(&room[from..from + 4096], 0).map_err(errno)
    }),
    ("truncate", |path| writer(path)?.set_len(LEN / 2).map_err(errno)),
    ("truncate to the same size", |path| writer(path)?.set_len(LEN).map_err(errno)),
    ("open O_TRUNC", |path| {
        OpenOptions::new().write(true).truncate(true).open(path).map(drop).map_err(errno)
    }),
    ("fallocate", |path| allocate(path, FallocateFlags::empty())),
    ("fallocate keeping the size", |path| allocate(path, FallocateFlags::KEEP_SIZE)),
    ("punch", |path| allocate(path, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)),
    ("zero", |path| allocate(path, FallocateFlags::ZERO_RANGE)),
    ("copy_file_range", |path| {
        let from = File::open(path.with_extension("source")).map_err(errno)?;
        rustix::fs::copy_file_range(from, None, writer(path)?, None, 4096).map(drop)
    }),
    ("splice", |path| {
        let (mut reader, mut end) = std::io::pipe().map_err(errno)?;
        end.write_all(b"piped").map_err(errno)?;
        drop(end);
        std::io::copy(&mut reader, &mut writer(path)?).map(drop).map_err(errno)
    }),
    ("chown to the same owner", |path| chown(path, Some(OWNER), None)),
    ("chown to the same group", |path| chown(path, None, Some(GROUP))),
    ("chown to another owner", |path| chown(path, Some(OWNER + 5), None)),
    ("chown to another group", |path| chown(path, None, Some(OWNER))),
    ("chown to nobody else", |path| chown(path, None, None)),
    ("chmod to 6777", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o6777)).map_err(errno)),
    ("chmod to 2666", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o2666)).map_err(errno)),
    ("setfacl", |path| {
        rustix::fs::setxattr(path, "system.posix_acl_access", &acl(true), XattrFlags::empty())
    }),
    ("setfacl of a mode", |path| {
        rustix::fs::setxattr(path, "system.posix_acl_access", &acl(false), XattrFlags::empty())
    }),
    ("utimensat", |path| {
        File::open(path).and_then(|file| file.set_modified(std::time::SystemTime::UNIX_EPOCH)).map_err(errno)
    }),
];

fn prepared(directory: &Path, mode: u32, capability: bool) -> PathBuf {
    let path = directory.join("file");
    let _ = fs::remove_file(&path);
    // Not written to: Linux remembers of a file that root has written to that there is nothing to take away.
    File::create(&path).unwrap().set_len(LEN).unwrap();
    chown(&path, Some(OWNER), Some(GROUP)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    if capability {
        rustix::fs::setxattr(&path, "security.capability", &CAPABILITY, XattrFlags::empty()).unwrap();
    }
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode);
    path
}

/// What a call says and leaves: its errno, the mode, whether there are capabilities.
fn outcome(path: &Path, actor: Actor, call: Call) -> (Result<(), Errno>, String, bool) {
    let said = actor.run(|| call(path));
    let mode = fs::metadata(path).unwrap().mode() & 0o7777;
    let mut value = [0; 64];
    let capability = rustix::fs::getxattr(path, "security.capability", &mut value[..]).is_ok();
    (said, format!("{mode:04o}"), capability)
}

fn directories(m: &Mounted) -> [PathBuf; 2] {
    let plain = m.dir.path().join("plain");
    fs::create_dir(&plain).unwrap();
    fs::create_dir(m.path("ours")).unwrap();
    let both = [plain, m.path("ours")];
    for directory in &both {
        fs::write(directory.join("file.source"), vec![7; 8192]).unwrap();
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(m.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(m.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    both
}

#[test]
fn privileges_go_as_on_the_kernels_own_filesystems() {
    both_modes(compare_all);
}

fn compare_all(m: &Mounted, writeback: bool) {
    let [plain, ours] = directories(m);
    let (mut compared, mut differ) = (0, Vec::new());
    for mode in MODES {
        for capability in [false, true] {
            for actor in ACTORS {
                for (name, call) in CALLS {
                    let expected = outcome(&prepared(&plain, mode, capability), actor, call);
                    let path = prepared(&ours, mode, capability);
                    m.wait_until_closed();
                    let got = outcome(&path, actor, call);
                    compared += 1;
                    // The kernel takes the capabilities itself, before it asks whether it may (docs/posix.md).
                    let refused = expected == (Err(Errno::PERM), format!("{mode:04o}"), true);
                    let expected = match name {
                        "chown to nobody else" if refused => (expected.0, expected.1, false),
                        _ => expected,
                    };
                    if got != expected {
                        let who = actor.name;
                        differ.push(format!(
                            "{name} by {who}, mode {mode:04o}, capability {capability}: {got:?}, not {expected:?}"
                        ));
                    }
                }
            }
        }
    }
    assert!(
        differ.is_empty(),
        "{} of {compared} differ, write-back cache: {writeback}:\n{}",
        differ.len(),
        differ.join("\n")
    );
}

/// Whose kernel names nothing at all for it, and for a write the same.
#[test]
fn a_chown_that_names_nobody_is_one_for_every_kind_of_object() {
    let kinds = [FileType::RegularFile, FileType::Directory, FileType::Fifo];
    let make = |path: &Path, kind| match kind {
        FileType::Directory => fs::create_dir(path).unwrap(),
        kind => rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o666), 0).unwrap(),
    };
    both_modes(|m, writeback| {
        let both = directories(m);
        for kind in kinds {
            for (number, mode) in MODES.into_iter().chain([0o755]).enumerate() {
                for actor in ACTORS {
                    let paths =
                        both.each_ref().map(|at| at.join(format!("{kind:?} {number} {}", actor.name)));
                    let before = paths.each_ref().map(|path| {
                        make(path, kind);
                        chown(path, Some(OWNER), Some(GROUP)).unwrap();
                        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
                        fs::metadata(path).unwrap()
                    });
                    // Longer than a tick of the clock that ext4 takes its times from.
                    std::thread::sleep(Duration::from_millis(11));
                    let [expected, got] = [0, 1].map(|i| {
                        let said = actor.run(|| chown(&paths[i], None, None));
                        let after = fs::metadata(&paths[i]).unwrap();
                        let moved = (after.ctime(), after.ctime_nsec())
                            != (before[i].ctime(), before[i].ctime_nsec());
                        (said, format!("{:04o}", after.mode() & 0o7777), moved)
                    });
                    let who = actor.name;
                    assert_eq!(got, expected, "{kind:?} {mode:04o} by {who}, write-back cache: {writeback}");
                }
            }
        }
    });
}

/// In a user namespace of its own every user has all capabilities, and none over what is outside of it.
#[test]
fn a_user_namespace_gives_no_privileges_over_a_volume() {
    let m = mounted();
    let both = directories(&m);
    let commands: [&[&str]; 3] = [
        &["truncate", "-s", "10", "file"],
        &["xfs_io", "-c", "copy_range -l 100 file.source", "file"],
        &["xfs_io", "-c", "falloc 0 100", "file"],
    ];
    for command in commands {
        for mode in MODES {
            let [expected, got] = both.each_ref().map(|directory| {
                let path = prepared(directory, mode, false);
                let done = Command::new("setpriv")
                    .args(["--reuid", "61003", "--regid", "61003", "--clear-groups", "unshare", "-Ur"])
                    .args(command)
                    .current_dir(directory)
                    .output()
                    .expect("setpriv and unshare (package util-linux) run");
                let said = String::from_utf8_lossy(&done.stderr).into_owned();
                assert!(!said.contains("unshare failed"), "no user namespaces here: {said}");
                (done.status.success(), format!("{:04o}", fs::metadata(&path).unwrap().mode() & 0o7777))
            });
            assert_eq!(got, expected, "{command:?}, mode {mode:04o}");
        }
    }
}

/// A stranger who may write to root's set-user-id file puts a program into it and runs that at once.
#[test]
fn a_program_written_into_a_set_id_file_is_not_root() {
    let m = mounted();
    let [_, ours] = directories(&m);
    let program = fs::read("/usr/bin/id").unwrap();
    let stranger = ACTORS[4];
    type Put = fn(&Path, &[u8]) -> std::io::Result<()>;
    let puts: [(&str, Put); 4] = [
        ("one write", |path, bytes| OpenOptions::new().write(true).open(path)?.write_all_at(bytes, 0)),
        ("small writes", |path, bytes| {
            let file = OpenOptions::new().write(true).open(path)?;
            bytes.chunks(1000).enumerate().try_for_each(|(i, part)| file.write_all_at(part, i as u64 * 1000))
        }),
        ("truncate and write", |path, bytes| fs::write(path, bytes)),
        ("copy_file_range", |path, _| {
            let mut from = File::open(path.with_extension("program"))?;
            std::io::copy(&mut from, &mut OpenOptions::new().write(true).open(path)?).map(drop)
        }),
    ];
    fs::write(ours.join("file.program"), &program).unwrap();
    for (how, put) in puts {
        for round in 0..5 {
            let path = ours.join("file");
            let _ = fs::remove_file(&path);
            File::create(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o4777)).unwrap();
            // The kernel has just been told that it is set-user-id.
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o4777);
            let said = stranger.run(|| {
                put(&path, &program).unwrap();
                loop {
                    match Command::new(&path).arg("-u").output() {
                        // Another test starts a program and has not closed our descriptor yet.
                        Err(error) if error.raw_os_error() == Some(26) => std::thread::yield_now(),
                        result => return result.unwrap(),
                    }
                }
            });
            let said = String::from_utf8_lossy(&said.stdout).trim().to_owned();
            assert_eq!(said, stranger.uid.to_string(), "{how}, round {round}: effective user");
        }
    }
}

/// What only the kernel has yet was stored before these were given; its write-back takes none of them away.
#[test]
fn what_is_given_after_a_store_outlives_the_write_back() {
    both_modes(|m, writeback| {
        let given = |path: &Path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o4755)).unwrap();
            rustix::fs::setxattr(path, "security.capability", &CAPABILITY, XattrFlags::empty()).unwrap();
            // So that the write-back is applied by itself.
            m.solo.checkpoint().unwrap();
        };
        let has_both = |path: &Path, what: &str| {
            File::open(path).unwrap().sync_all().unwrap();
            for when in ["at once", "when it is applied"] {
                let mut value = [0; 64];
                let found = rustix::fs::getxattr(path, "security.capability", &mut value);
                assert_eq!(found, Ok(CAPABILITY.len()), "{what}, {when}, write-back cache: {writeback}");
                assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o4755, "{what}, {when}");
                m.solo.checkpoint().unwrap();
            }
        };
        for closing in [false, true] {
            let path = sparse(m, &format!("mapped-{closing}"));
            let mapper = Mapper::start(&path, closing);
            given(&path);
            mapper.end();
            has_both(&path, "mapped");
        }
        let path = m.path("written");
        let mut file = File::create(&path).unwrap();
        file.write_all(&[7; 100_000]).unwrap();
        given(&path);
        drop(file);
        has_both(&path, "written");
        // A later change takes it away as ever.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
        let mut value = [0; 64];
        let found = rustix::fs::getxattr(&path, "security.capability", &mut value);
        assert_eq!(found, Err(Errno::NODATA), "write-back cache: {writeback}");
    });
}
