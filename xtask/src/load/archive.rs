//! A real source archive, unpacked again and again with tar.
//!
//! tar names each member before it unpacks it, so when the next name appears, the member before is complete:
//! that is its acknowledgement, unless tar has complained by then. What a member must look like comes from unpacking the same archive outside.

use super::{Checked, Load};
use crate::steps::kill_group;
use crate::tree::digest;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The archive is unpacked this many times; then the load rests.
const MAX_COPIES: usize = 6;

/// The rest.
const REST: Duration = Duration::from_millis(50);

/// What is compared of a file: digest, mode, modification time in seconds.
type Expected = BTreeMap<PathBuf, (u64, u32, i64)>;

/// See the module.
pub struct Archive {
    archive: PathBuf,
    expected: Expected,
    /// For each copy, the members that were acknowledged.
    /// A copy that was interrupted stays as it is; the next step makes a new one.
    copies: Vec<Vec<PathBuf>>,
}

impl Archive {
    /// Unpacks the archive into `outside` for reference.
    pub fn new(archive: &Path, outside: &Path) -> io::Result<Self> {
        fs::create_dir_all(outside)?;
        let status = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(outside).status()?;
        if !status.success() {
            return Err(io::Error::other(format!("cannot unpack {}: {status}", archive.display())));
        }
        let mut expected = Expected::new();
        collect(outside, Path::new(""), &mut expected)?;
        Ok(Archive { archive: archive.to_path_buf(), expected, copies: Vec::new() })
    }

    /// The archive's file name.
    pub fn name_of_archive(&self) -> String {
        self.archive.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

fn collect(root: &Path, prefix: &Path, into: &mut Expected) -> io::Result<()> {
    for entry in fs::read_dir(root.join(prefix))? {
        let entry = entry?;
        let path = prefix.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(root, &path, into)?;
        } else if entry.file_type()?.is_file() {
            into.insert(path, look(&entry.path())?);
        }
    }
    Ok(())
}

fn look(path: &Path) -> io::Result<(u64, u32, i64)> {
    let meta = fs::metadata(path)?;
    Ok((digest(path)?, meta.mode(), meta.mtime()))
}

fn copy_dir(number: usize) -> String {
    format!("archive-{number}")
}

/// Ends the program when a step does not come to its end.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            kill_group(&self.0);
            let _ = self.0.wait(); // killed: this only reaps
        }
    }
}

impl Load for Archive {
    fn name(&self) -> String {
        format!("unpack {}", self.name_of_archive())
    }

    fn arrive(&mut self, mount: &Path) -> io::Result<Checked> {
        let mut checked = Checked::default();
        for (number, members) in self.copies.iter().enumerate() {
            for member in members {
                let Some(expected) = self.expected.get(member) else { continue };
                let path = mount.join(copy_dir(number)).join(member);
                checked.compared += 1;
                match look(&path) {
                    Ok(found) if found == *expected => {}
                    Ok(found) => {
                        let what = format!("digest, mode, time are {found:x?}, not {expected:x?}");
                        checked.lost.push(format!("{}: {what}", path.display()));
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        checked.lost.push(format!("{}: missing", path.display()));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(checked)
    }

    fn step(&mut self, mount: &Path) -> io::Result<u64> {
        if self.copies.len() >= MAX_COPIES {
            std::thread::sleep(REST);
            return Ok(0);
        }
        let dir = mount.join(copy_dir(self.copies.len()));
        self.copies.push(Vec::new());
        fs::create_dir(&dir)?;
        // Both outputs in one pipe, so that names after the first complaint are told from those before it.
        let mut command = Command::new("sh");
        command.args(["-c", "exec tar \"$@\" 2>&1", "tar", "-xzvf"]).arg(&self.archive).arg("-C").arg(&dir);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut program = Program(command.spawn()?);
        let output = program.0.stdout.take().ok_or_else(|| io::Error::other("tar has no output"))?;
        let mut members = Vec::new();
        let mut current: Option<PathBuf> = None;
        let mut complaint = None;
        for line in BufReader::new(output).lines() {
            let line = line?;
            if line.starts_with("tar: ") || complaint.is_some() {
                // tar goes on with the next member after an error: nothing more is acknowledged.
                current = None;
                complaint.get_or_insert(line);
            } else {
                members.extend(current.replace(PathBuf::from(line)));
            }
        }
        let status = program.0.wait()?;
        if status.success() {
            members.extend(current);
        }
        let acknowledged = members.len() as u64;
        if let Some(copy) = self.copies.last_mut() {
            *copy = members;
        }
        if !status.success() {
            let complaint = complaint.unwrap_or_default();
            return Err(io::Error::other(format!("tar: {status} after {acknowledged} members: {complaint}")));
        }
        Ok(acknowledged)
    }
}
