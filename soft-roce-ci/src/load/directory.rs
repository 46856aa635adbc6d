//! A writer's directory on a mount: operations carried out, and what is there read back.
//!
//! Everything is done relative to a descriptor of the mount's root that was seen to be a volume's: the directory
//! below a mount point that is no longer mounted is never written to.

use super::content::{self, BLOCK_BYTES, LINE_BYTES, Stamp, Writer};
use super::model::{Line, Seen, SeenFile};
use super::sequence::{CREATED_MODE, Operation, Sequence};
use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Magic number of a FUSE filesystem, as statfs tells it.
const FUSE_MAGIC: i64 = 0x6573_5546;

/// The attribute that an operation marks a file with.
const MARK: &str = "user.mark";

/// The root of a mounted volume.
pub struct Root(OwnedFd);

impl Root {
    /// Opens the root of the volume that is mounted at `path`.
    pub fn of_mount(path: &Path) -> Result<Root> {
        let root = Root::of_tree(path)?;
        if rustix::fs::fstatfs(&root.0)?.f_type != FUSE_MAGIC {
            bail!("{}: no volume is mounted there", path.display());
        }
        Ok(root)
    }

    /// Opens the root of any tree.
    pub fn of_tree(path: &Path) -> Result<Root> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty());
        Ok(Root(root.with_context(|| format!("cannot open {}", path.display()))?))
    }

    /// Does the next operation of a sequence. Reading compares what is there; a difference is the error's text.
    ///
    /// # Errors
    /// The system call's error, or `InvalidData` for content that is wrong.
    pub fn perform(&self, sequence: &Sequence) -> io::Result<()> {
        let (writer, number) = (sequence.writer(), sequence.done() + 1);
        let own = directory_name(writer);
        let path = |name: &String| format!("{own}/{name}");
        let open = |name: &String, flags: OFlags| {
            rustix::fs::openat(&self.0, path(name), flags | OFlags::CLOEXEC, Mode::empty())
        };
        match sequence.next() {
            Operation::MakeDirectory => rustix::fs::mkdirat(&self.0, &own, Mode::from_raw_mode(0o755))?,
            Operation::Create { name } => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&self.0, path(name), flags, Mode::from_raw_mode(CREATED_MODE))?;
            }
            Operation::Write { name, first, count } => {
                let file = sequence.model().file(name).ok_or(io::ErrorKind::NotFound)?;
                let bytes = content::lines(writer, file.id, number, *first, *count);
                let target = open(name, OFlags::WRONLY)?;
                let written = File::from(target).write_at(&bytes, first * LINE_BYTES as u64)?;
                if written != bytes.len() {
                    return Err(io::Error::new(io::ErrorKind::WriteZero, format!("{written} bytes written")));
                }
            }
            Operation::Truncate { name, lines } => {
                rustix::fs::ftruncate(open(name, OFlags::WRONLY)?, lines * LINE_BYTES as u64)?;
            }
            Operation::SetMode { name, mode } => {
                rustix::fs::chmodat(&self.0, path(name), Mode::from_raw_mode(*mode), AtFlags::empty())?;
            }
            Operation::Mark { name } => {
                let value = number.to_le_bytes();
                rustix::fs::fsetxattr(open(name, OFlags::RDONLY)?, MARK, &value, XattrFlags::empty())?;
            }
            Operation::Rename { from, to } => {
                rustix::fs::renameat(&self.0, path(from), &self.0, path(to))?;
            }
            Operation::Unlink { name } => rustix::fs::unlinkat(&self.0, path(name), AtFlags::empty())?,
            Operation::Sync { name } => rustix::fs::fsync(open(name, OFlags::RDONLY)?)?,
            Operation::Read { name } => {
                let seen = read_file(open(name, OFlags::RDONLY)?, writer)?;
                let found = Some(BTreeMap::from([(name.clone(), seen)]));
                if let Some(what) = super::model::difference_of(sequence.model(), name, &found) {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
            }
        }
        Ok(())
    }

    /// Reads a writer's whole directory.
    pub fn read(&self, writer: Writer) -> io::Result<Seen> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = match rustix::fs::openat(&self.0, directory_name(writer), flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let mut files = BTreeMap::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "." || name == ".." {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&directory, entry.file_name(), flags, Mode::empty())?;
            if files.insert(name.clone(), read_file(file, writer)?).is_some() {
                return Err(io::Error::other(format!("{name} is listed twice")));
            }
        }
        Ok(Some(files))
    }
}

/// The name of a writer's directory in the volume's root.
pub fn directory_name(writer: Writer) -> String {
    format!("run{}-writer{}", writer.run, writer.thread)
}

fn read_file(file: OwnedFd, writer: Writer) -> io::Result<SeenFile> {
    let meta = rustix::fs::fstat(&file)?;
    let mark = read_mark(&file)?;
    let mut bytes = Vec::with_capacity(usize::try_from(meta.st_size).unwrap_or(0));
    let file = File::from(file);
    let mut block = [0; BLOCK_BYTES];
    loop {
        match file.read_at(&mut block, bytes.len() as u64)? {
            0 => break,
            got => bytes.extend_from_slice(&block[..got]),
        }
    }
    let whole = bytes.chunks_exact(LINE_BYTES);
    let rest_bytes = whole.remainder().len();
    let lines = whole.enumerate().map(|(index, line)| judge(writer, index as u64, line)).collect();
    Ok(SeenFile { lines, rest_bytes, mode: meta.st_mode & 0o7777, mark })
}

fn read_mark(file: impl AsFd) -> io::Result<Option<u64>> {
    let mut value = [0; 8];
    match rustix::fs::fgetxattr(file, MARK, &mut value) {
        Ok(8) => Ok(Some(u64::from_le_bytes(value))),
        Ok(len) => Err(io::Error::other(format!("the attribute {MARK} has {len} bytes"))),
        Err(Errno::NODATA) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn judge(writer: Writer, index: u64, line: &[u8]) -> Line {
    match Stamp::parse(line) {
        Some(stamp) if stamp.writer == writer && stamp.line == index => {
            Line::Own { file: stamp.file, operation: stamp.operation }
        }
        Some(stamp) => Line::Misplaced { writer: stamp.writer, line: stamp.line },
        None if line.iter().all(|byte| *byte == 0) => Line::Zeros,
        None => Line::Foreign,
    }
}
