//! A disk image behind a process of ours, so that it can hang: while that process stands still nobody gets an answer,
//! neither who writes nor who reads. (A frozen filesystem stops writers only; device mapper is not on every machine.)
//!
//! The process is `qemu-storage-daemon`, which shows the image as a file through FUSE; a loop device lies on that
//! file. What can go wrong: it dies with us by SIGKILL, then its dead mount stays in our temporary directory.

use super::process::Daemon;
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The program, and the Debian package that brings it is `qemu-utils`.
pub const PROGRAM: &str = "qemu-storage-daemon";

/// Longest time until it shows the image, or has ended.
const LIMIT: Duration = Duration::from_secs(30);

/// How often it is looked at meanwhile.
const POLL: Duration = Duration::from_millis(10);

/// See the module.
pub struct Device {
    server: Option<Daemon>,
    at: PathBuf,
}

impl Device {
    /// Shows `image` at a path of its own beside it.
    pub fn serve(image: &Path) -> Result<Device> {
        let Some(program) = crate::packages::find_program(PROGRAM) else { bail!("{PROGRAM} is missing") };
        let at = image.with_extension("device");
        File::create(&at)?;
        let node = format!("driver=file,node-name=disk,filename={}", image.display());
        let export = format!("type=fuse,id=export,node-name=disk,mountpoint={},writable=on", at.display());
        let arguments: Vec<OsString> =
            ["--blockdev", &node, "--export", &export].into_iter().map(OsString::from).collect();
        let log = image.with_extension("device.out");
        let mut server = Daemon::start(PROGRAM, &program, &arguments, &log, false)?;
        let shown = crate::interrupt::poll(LIMIT, POLL, || {
            let len = std::fs::metadata(&at).map_or(0, |metadata| metadata.len());
            (len > 0 || !server.is_running()).then_some(len > 0)
        })?;
        let device = Device { server: Some(server), at };
        match shown {
            Some(true) => Ok(device),
            _ => bail!("{PROGRAM} shows no image\n{}", crate::steps::tail(&log)),
        }
    }

    /// Where the image is shown.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Whoever reads or writes from now on waits. Ends with the guard.
    pub fn suspend(&self) -> Result<Suspended<'_>> {
        let server = self.server.as_ref().context("it has ended")?;
        server.signal(Signal::STOP)?;
        Ok(Suspended { server })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(error) = self.server.take().and_then(|server| server.terminate(LIMIT).err()) {
            eprintln!("{PROGRAM}: {error:#}");
        }
        super::unmount(&self.at);
    }
}

/// A device that hangs while this lives.
pub struct Suspended<'a> {
    server: &'a Daemon,
}

impl Drop for Suspended<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.server.signal(Signal::CONT) {
            eprintln!("{PROGRAM} stays stopped: {error:#}");
        }
    }
}
