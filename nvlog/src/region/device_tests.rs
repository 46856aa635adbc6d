//! Real block devices: files behind loop devices, and what the tools of other formats write.

use super::*;
use crate::format::RING_OFFSET_BYTES;
use crate::{FormatOptions, InspectOptions, Log, inspect_with};
use ids::VolumeId;
use std::process::Command;

const CAPACITY_BYTES: u64 = 1 << 20;
const CREATE: OpenMode = OpenMode::Create { len_bytes: RING_OFFSET_BYTES + CAPACITY_BYTES };

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A loop device, detached when dropped.
struct Loop {
    device: PathBuf,
    _directory: tempfile::TempDir,
}

impl Loop {
    fn new(len_bytes: u64) -> Loop {
        // On a disk: the build directory.
        let build = std::env::current_exe().unwrap();
        Loop::of(tempfile::tempdir_in(build.parent().unwrap()).unwrap(), len_bytes, &[])
    }

    fn of(directory: tempfile::TempDir, len_bytes: u64, more: &[&str]) -> Loop {
        assert!(rustix::process::geteuid().is_root(), "this test makes a loop device: run it as root");
        let image = directory.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(len_bytes).unwrap();
        let image = image.display().to_string();
        let device = run("losetup", &[&["--find", "--show"], more, &[&image]].concat());
        Loop { device: device.into(), _directory: directory }
    }

    fn path(&self) -> String {
        self.device.display().to_string()
    }

    fn create(&self) -> Result<Box<dyn Region>, RegionError> {
        open(RegionKind::Block, &self.device, CREATE)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _gone = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

#[test]
fn a_block_device_is_a_log() {
    let disk = Loop::new(64 << 20);
    assert_eq!(probe(RegionKind::Block, &disk.device).unwrap(), Some(64 << 20));
    let options =
        FormatOptions { volume: VolumeId([3; 16]), capacity_bytes: CAPACITY_BYTES, overwrite: false };
    let log = Log::format(disk.create().unwrap(), options).unwrap();
    log.reserve(5).unwrap().publish(&[b"hello"]);
    log.seal_and_persist().unwrap();
    let end = log.end();
    let second = open(RegionKind::Block, &disk.device, OpenMode::Existing).map(drop);
    assert!(matches!(second, Err(RegionError::Locked { .. })), "{second:?}");
    let seen = inspect_with(&disk.device, InspectOptions { max_records: 9 }).unwrap().to_string();
    assert!(seen.contains(&VolumeId([3; 16]).to_string()), "{seen}");
    drop(log);
    for refused in [disk.create().map(drop), probe(RegionKind::Block, &disk.device).map(drop)] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("holds a log of Twinfiler") && error.contains("blkdiscard"), "{error}");
    }
    let region = open(RegionKind::Block, &disk.device, OpenMode::Existing).unwrap();
    assert_eq!(
        region.len_bytes(),
        RING_OFFSET_BYTES + CAPACITY_BYTES,
        "an image of the log, not of the device"
    );
    assert_eq!(region.durability(), Durability::Power);
    let (log, _) = Log::open(region, Some(VolumeId([3; 16]))).unwrap();
    assert_eq!(log.end(), end);
    drop(log);
    run("blkdiscard", &["--force", "--zeroout", &disk.path()]);
    assert!(disk.create().is_ok(), "made blank, as the error says");
}

/// A refused device node, and a refused file that was there, are still there.
#[test]
fn only_what_was_made_here_is_removed() {
    let small = Loop::new(512 << 10);
    let refused = small.create().map(drop);
    assert!(matches!(refused, Err(RegionError::TooSmall { .. })), "{refused:?}");
    assert!(small.device.exists());
    for kind in [RegionKind::Emulated, RegionKind::FsDax, RegionKind::DevDax] {
        for refused in [open(kind, &small.device, CREATE).map(drop), probe(kind, &small.device).map(drop)] {
            assert!(matches!(refused, Err(RegionError::WrongKind { .. })), "{kind}: {refused:?}");
        }
        assert!(small.device.exists());
    }
    // An empty file of somebody else's, for which there is no room.
    let build = std::env::current_exe().unwrap();
    let directory = tempfile::tempdir_in(build.parent().unwrap()).unwrap();
    let file = directory.path().join("theirs");
    for kind in [RegionKind::Block, RegionKind::Emulated] {
        std::fs::write(&file, b"").unwrap();
        assert!(open(kind, &file, OpenMode::Create { len_bytes: 1 << 60 }).is_err());
        assert!(file.exists(), "{kind}");
        std::fs::remove_file(&file).unwrap();
        assert!(open(kind, &file, OpenMode::Create { len_bytes: 1 << 60 }).is_err());
        assert!(!file.exists(), "{kind}");
    }
    let typo = Path::new("/dev/twinfiler-no-such-device");
    assert!(matches!(open(RegionKind::Block, typo, CREATE), Err(RegionError::Missing { .. })));
    assert!(matches!(probe(RegionKind::Block, typo), Err(RegionError::Missing { .. })));
    assert!(!typo.exists());
    let in_memory = Path::new("/dev/shm/twinfiler-no-such-directory/log");
    assert!(matches!(probe(RegionKind::Emulated, in_memory), Ok(None)), "a file may be made there");
}

#[test]
fn a_device_behind_an_administrators_link_is_a_log() {
    let disk = Loop::new(64 << 20);
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("by-id");
    std::os::unix::fs::symlink(&disk.device, &link).unwrap();
    assert!(open(RegionKind::Block, &link, CREATE).is_ok());
}

#[test]
fn nothing_that_another_user_laid_out_becomes_a_log() {
    use std::os::unix::fs::{chown, lchown, symlink};
    let build = std::env::current_exe().unwrap();
    let directory = tempfile::tempdir_in(build.parent().unwrap()).unwrap();
    let (precious, path) = (directory.path().join("precious"), directory.path().join("log"));
    std::fs::write(&precious, "").unwrap();
    let lay_out: [fn(&Path, &Path); 4] = [
        |_, path| {
            std::fs::write(path, "").unwrap();
            chown(path, Some(1000), None).unwrap();
        },
        |precious, path| {
            symlink(precious, path).unwrap();
            lchown(path, Some(1000), None).unwrap();
        },
        |precious, path| std::fs::hard_link(precious, path).unwrap(),
        |precious, path| symlink(precious.with_file_name("absent"), path).unwrap(),
    ];
    for (number, lay_out) in lay_out.into_iter().enumerate() {
        for kind in [RegionKind::Block, RegionKind::Emulated] {
            lay_out(&precious, &path);
            assert!(open(kind, &path, CREATE).is_err(), "{number}");
            assert_eq!(std::fs::metadata(&precious).unwrap().len(), 0, "{number}");
            assert!(!directory.path().join("absent").exists());
            // What is there stays, whoever it belongs to.
            std::fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn a_device_that_is_in_use_is_refused() {
    let disk = Loop::new(64 << 20);
    run("mkfs.ext4", &["-q", &disk.path()]);
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().display().to_string();
    run("mount", &[&disk.path(), &at]);
    let refused = disk.create().map(drop);
    let existing = open(RegionKind::Block, &disk.device, OpenMode::Existing).map(drop);
    run("umount", &[&at]);
    for refused in [refused, existing] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(&format!("it is mounted at {at}")), "{error}");
    }
    run("wipefs", &["--all", "--quiet", &disk.path()]);
    run("blkdiscard", &["--force", "--zeroout", &disk.path()]);
    run("mkswap", &[&disk.path()]);
    let refused = disk.create().map(drop).unwrap_err().to_string();
    assert!(refused.contains("holds swap space"), "{refused}");
}

#[test]
fn a_device_that_can_not_keep_a_log_is_refused() {
    let build = std::env::current_exe().unwrap();
    let directory = tempfile::tempdir_in(build.parent().unwrap()).unwrap();
    let read_only = Loop::of(directory, 64 << 20, &["--read-only"]);
    let refused = read_only.create().map(drop);
    assert!(matches!(refused, Err(RegionError::ReadOnly { .. })), "{refused:?}");
    // A disk that is memory.
    let memory = Loop::of(tempfile::tempdir_in("/dev/shm").unwrap(), 64 << 20, &[]);
    let refused = memory.create().map(drop);
    assert!(matches!(refused, Err(RegionError::NotDurable { .. })), "{refused:?}");
    assert!(memory.device.exists());
}

#[test]
fn sectors_of_4096_bytes_are_fine() {
    let build = std::env::current_exe().unwrap();
    let directory = tempfile::tempdir_in(build.parent().unwrap()).unwrap();
    let disk = Loop::of(directory, 64 << 20, &["--sector-size", "4096"]);
    let region = disk.create().unwrap();
    region.store(5000, &[b"odd"], &mut |_| {});
    region.persist(5001, 1).unwrap();
    let mut bytes = [0; 3];
    let file = std::fs::File::open(&disk.device).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 5000).unwrap();
    assert_eq!(&bytes, b"odd");
}

/// Whatever other programs put on a device, as they put it there.
#[test]
fn nobody_elses_device_becomes_a_log() {
    const MAKERS: &[(&str, &[&str], &str)] = &[
        ("mkfs.ext2", &["-q"], "ext"),
        ("mkfs.ext3", &["-q"], "ext"),
        ("mkfs.ext4", &["-q", "-b", "1024"], "ext"),
        ("mkfs.xfs", &["-q"], "XFS"),
        ("mkfs.btrfs", &["-q"], "btrfs"),
        ("mkfs.vfat", &[], "FAT"),
        ("mkfs.f2fs", &["-q"], "F2FS"),
        ("mkswap", &[], "swap"),
        ("pvcreate", &["-qq", "--devices", "DEVICE"], "LVM"),
        ("sgdisk", &["--new=1:2048:4096"], "partition table"),
        (
            "cryptsetup",
            &[
                "luksFormat",
                "--batch-mode",
                "--pbkdf=pbkdf2",
                "--pbkdf-force-iterations=1000",
                "--key-file=/dev/zero",
                "--keyfile-size=16",
            ],
            "LUKS",
        ),
    ];
    let mut told = 0;
    for (program, options, name) in MAKERS {
        let disk = Loop::new(384 << 20);
        let device = disk.path();
        let arguments = options.iter().map(|word| if *word == "DEVICE" { device.as_str() } else { word });
        match Command::new(program).args(arguments).arg(&device).output() {
            Err(error) => eprintln!("SKIPPED: {program} ({error})"),
            Ok(made) => {
                assert!(made.status.success(), "{program}: {}", String::from_utf8_lossy(&made.stderr));
                let error = disk.create().map(drop).unwrap_err();
                assert!(matches!(error, RegionError::Occupied { .. }), "{program}: {error}");
                assert!(error.to_string().contains(name), "{program}: {error}");
                told += 1;
            }
        }
    }
    assert!(told >= 4, "e2fsprogs and util-linux are everywhere");
}

/// What the program takes for a devdax device: memory that is mapped.
#[test]
fn persistent_memory_that_holds_anything_becomes_no_log() {
    let path = Path::new("/dev/dax0.0");
    let len_bytes = 32 << 20;
    let open = |at: u64, bytes: &[u8], mode| {
        let memory = sys::memfd("twinfiler-test", len_bytes).unwrap();
        rustix::io::pwrite(&memory, bytes, at).unwrap();
        MappedRegion::map_devdax(memory, len_bytes, path, mode).map(drop)
    };
    let probe = OpenMode::Create { len_bytes: 0 };
    let held: [(u64, &[u8], &str); 4] = [
        ((64 << 10) + 64, b"_BHRfS_M", "btrfs"),
        (0, &crate::format::SUPERBLOCK_MAGIC, "a log of Twinfiler"),
        (len_bytes - 512, b"EFI PART", "GPT"),
        (len_bytes - 1, b"\x01", "data of an unknown kind"),
    ];
    for (at, bytes, name) in held {
        for mode in [CREATE, probe] {
            let error = open(at, bytes, mode).unwrap_err();
            assert!(matches!(error, RegionError::Occupied { .. }), "{name}: {error}");
            let error = error.to_string();
            assert!(error.contains(name) && error.contains("daxio --zero --output /dev/dax0.0"), "{error}");
        }
        assert!(open(at, bytes, OpenMode::Existing).is_ok(), "{name}: a log that is there is opened");
    }
    for mode in [CREATE, probe] {
        assert!(open(0, &[0], mode).is_ok(), "blank");
    }
    let too_long = OpenMode::Create { len_bytes: len_bytes + 1 };
    assert!(matches!(open(0, &[0], too_long), Err(RegionError::TooSmall { .. })));
}
