//! One machine of a lab: on or off, running or paused, and what can be done in it.

use super::CannotRun;
use super::channel::{Channel, Finished, Running};
use super::emulator::{Accelerator, Machine, file_name};
use super::first_root;
use super::inbox::OutputFiles;
use super::kernel::Kernel;
use super::process::{HostProcess, LabDirectory, Start};
use super::spec::{GuestSpec, Side, Spec};
use crate::agent::protocol::{Event, MAX_FILE_BYTES, Order, from_hex, to_hex};
use anyhow::{Context, Result, anyhow, bail};
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a boot may take: ten seconds on an idle machine, many times that on a busy one.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// How long the agent may take for what needs no time by itself. A busy emulated processor is slow.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// How many of the console's last lines are shown with an error.
const TAIL_LINES: usize = 60;

/// What every guest loads besides its first root's modules. crc32_generic comes before rdma_rxe, which fails without.
const MODULES: &str = "crc32_generic virtio_net virtio_blk virtio_console virtio_rng ib_uverbs rdma_ucm rdma_rxe \
                       nfit nd_pmem device_dax dax_pmem fuse";

/// Whether any guest of this run was ever up. As long as none was, a failing boot means that none can be.
static ANY_WAS_UP: AtomicBool = AtomicBool::new(false);

/// One machine.
pub struct Guest {
    side: Side,
    spec: Spec,
    kernel: Kernel,
    accelerator: Accelerator,
    directory: Arc<LabDirectory>,
    logs: PathBuf,
    machine: Mutex<Option<Up>>,
}

/// A machine that is on.
struct Up {
    process: HostProcess,
    channel: Arc<Channel>,
}

impl Guest {
    /// Makes the machine's files. It is off.
    pub(super) fn create(
        side: Side,
        spec: &Spec,
        kernel: &Kernel,
        accelerator: Accelerator,
        directory: &Arc<LabDirectory>,
        logs: &Path,
    ) -> Result<Guest> {
        let guest = Guest {
            side,
            spec: spec.clone(),
            kernel: kernel.clone(),
            accelerator,
            directory: Arc::clone(directory),
            logs: logs.to_owned(),
            machine: Mutex::new(None),
        };
        let own = guest.own();
        for (kind, mib) in [("disk", own.disk_mib), ("extra", own.extra_disk_mib), ("nvdimm", own.nvdimm_mib)]
        {
            let path = guest.path(kind);
            let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
            file.set_len(u64::from(mib) << 20).with_context(|| format!("cannot size {}", path.display()))?;
        }
        fs::write(guest.path("initrd"), first_root::build(kernel, &guest.settings())?)
            .context("cannot write a guest's first root")?;
        Ok(guest)
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let own = self.own();
        let nvdimm = if own.nvdimm_mib > 0 { own.nvdimm_mode.name() } else { "" };
        vec![
            ("KERNEL_RELEASE", self.kernel.release.clone()),
            ("KERNEL_MODULES", self.kernel.modules.to_string_lossy().into_owned()),
            ("GUEST_NAME", self.side.name().to_owned()),
            ("MODULES", MODULES.to_owned()),
            ("MTU_BYTES", self.spec.mtu_bytes.to_string()),
            ("ADDRESS", self.address().to_string()),
            ("SOFT_ROCE", u8::from(own.soft_roce).to_string()),
            ("NVDIMM_MODE", nvdimm.to_owned()),
            ("AGENT", self.directory.path().join(super::AGENT_FILE).to_string_lossy().into_owned()),
        ]
    }

    /// Switches the machine on and waits until its agent answers. NVDIMM and disks are as they were.
    pub fn boot(&self) -> Result<()> {
        let mut machine = self.lock();
        if machine.is_some() {
            bail!("guest {} is on already", self.side.name());
        }
        let console = self.logs.join(file_name(self.side, "console.log"));
        let up = self.try_boot(&console).map_err(|error| {
            let error = anyhow!("guest {} does not boot: {error:#}", self.side.name());
            let none_ever = !ANY_WAS_UP.load(Ordering::Relaxed);
            if none_ever { CannotRun::new(format!("{error:#}")).into() } else { error }
        })?;
        ANY_WAS_UP.store(true, Ordering::Relaxed);
        *machine = Some(up);
        Ok(())
    }

    fn try_boot(&self, console: &Path) -> Result<Up> {
        // Sockets of the machine's last life.
        for kind in ["agent", "wire", "terminal"] {
            let _ = fs::remove_file(self.path(kind));
        }
        let socket = self.directory.socket(&file_name(self.side, "agent"));
        let listener = UnixListener::bind(socket).context("cannot make the agent's socket")?;
        listener.set_nonblocking(true).context("cannot set up a socket")?;
        let machine = Machine {
            accelerator: self.accelerator,
            side: self.side,
            spec: self.own(),
            wire: self.spec.wire,
            terminal: self.spec.terminals,
            kernel: &self.kernel,
            console,
        };
        let process = HostProcess::start(Start {
            argv: machine.command(),
            directory: Some(self.directory.path().to_owned()),
            output: self.append("emulator.log")?,
        })?;
        let deadline = Instant::now() + BOOT_LIMIT;
        let logs = [self.logs.join(file_name(self.side, "emulator.log")), console.to_owned()];
        let last_words = move || logs.iter().map(|log| tail(log)).collect::<String>();
        let stream = accept(&listener, &process, deadline).with_context(&last_words)?;
        let channel = Channel::new(stream, self.side.name(), Box::new(last_words))?;
        channel.wait_ready(deadline.saturating_duration_since(Instant::now()))?;
        Ok(Up { process, channel })
    }

    /// A power cut: the emulator is killed. The guest's memory and what it had not written out are gone; NVDIMM and disk
    /// files stay. Whoever waits for the guest gets an error.
    pub fn power_cut(&self) -> Result<()> {
        let up = self.lock().take().with_context(|| format!("guest {} is off", self.side.name()))?;
        up.channel.expect_end();
        up.process.kill();
        Ok(())
    }

    /// Stops the machine between two instructions, its clock going on.
    pub fn pause(&self) -> Result<()> {
        self.with(|up| up.process.stop())
    }

    /// Lets a paused machine go on.
    pub fn resume(&self) -> Result<()> {
        self.with(|up| up.process.proceed())
    }

    /// True when the machine is on (also when paused).
    pub fn is_on(&self) -> bool {
        self.with(|up| Ok(up.process.ended().is_none())).unwrap_or(false)
    }

    /// Runs a program to its end, at most for `limit`, and gives what it wrote.
    pub fn run(&self, argv: &[&str], limit: Duration) -> Result<Finished> {
        let running = self.channel()?.start(argv, Some(limit), OutputFiles::default())?;
        running.wait(limit + ANSWER_LIMIT)
    }

    /// Starts a program. Lines of its standard output arrive here as they are written, and are kept until they are
    /// read; its standard error goes to the logs.
    pub fn spawn(&self, argv: &[&str]) -> Result<Running> {
        let files = OutputFiles { stdout: None, stderr: Some(self.append("stderr.log")?) };
        self.channel()?.start(argv, None, files)
    }

    /// Starts a daemon whose whole output goes to `NAME.log` among the logs.
    pub fn spawn_logged(&self, argv: &[&str], name: &str) -> Result<Running> {
        let kind = format!("{name}.log");
        let files = OutputFiles { stdout: Some(self.append(&kind)?), stderr: Some(self.append(&kind)?) };
        self.channel()?.start(argv, None, files)
    }

    /// Starts a program all of whose output is kept to be read, with a limit.
    pub fn start(&self, argv: &[&str], limit: Option<Duration>) -> Result<Running> {
        self.channel()?.start(argv, limit, OutputFiles::default())
    }

    /// Makes or replaces a file, with its directories. For small files: large ones are reached by their host paths.
    pub fn write_file(&self, path: &str, bytes: &[u8]) -> Result<()> {
        if bytes.len() > MAX_FILE_BYTES {
            bail!(
                "{path}: more than {MAX_FILE_BYTES} bytes: put it on the host, guests see the host's files"
            );
        }
        let order = Order::Write { path: path.to_owned(), hex: to_hex(bytes) };
        self.channel()?.call(order, ANSWER_LIMIT).map(drop)
    }

    /// The contents of a file of at most 16 MiB.
    pub fn read_file(&self, path: &str) -> Result<Vec<u8>> {
        let order = Order::Read { path: path.to_owned() };
        match self.channel()?.call(order, ANSWER_LIMIT)? {
            Event::Contents { hex, .. } => from_hex(&hex).context("the agent sent something else than bytes"),
            other => bail!("the agent answered a read with {other:?}"),
        }
    }

    /// The guest's address on the wire.
    pub fn address(&self) -> Ipv4Addr {
        self.side.address()
    }

    /// Which of the two it is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// A connection to the guest's terminal, when the lab has terminals.
    pub fn terminal(&self) -> Result<UnixStream> {
        let path = self.directory.socket(&file_name(self.side, "terminal"));
        UnixStream::connect(path).with_context(|| format!("guest {} has no terminal", self.side.name()))
    }

    fn channel(&self) -> Result<Arc<Channel>> {
        self.with(|up| Ok(Arc::clone(&up.channel)))
    }

    fn with<T>(&self, act: impl FnOnce(&Up) -> Result<T>) -> Result<T> {
        let machine = self.lock();
        act(machine.as_ref().with_context(|| format!("guest {} is off", self.side.name()))?)
    }

    fn append(&self, kind: &str) -> Result<File> {
        let path = self.logs.join(file_name(self.side, kind));
        let file = File::options().create(true).append(true).open(&path);
        file.with_context(|| format!("cannot write {}", path.display()))
    }

    fn own(&self) -> &GuestSpec {
        &self.spec.guests[self.side.index()]
    }

    fn path(&self, kind: &str) -> PathBuf {
        self.directory.path().join(file_name(self.side, kind))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Up>> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The emulator's connection. It is made at its start, so nothing but its death can keep it.
fn accept(listener: &UnixListener, process: &HostProcess, deadline: Instant) -> Result<UnixStream> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).context("cannot set up a socket")?;
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("cannot accept the emulator"),
        }
        if let Some(status) = process.ended() {
            bail!("the emulator ended at once: {status}");
        }
        if Instant::now() > deadline {
            bail!("the emulator did not start within {BOOT_LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The last lines of a log, under its name.
fn tail(path: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    if last.is_empty() { String::new() } else { format!("--- {}\n{}\n", path.display(), last.join("\n")) }
}
