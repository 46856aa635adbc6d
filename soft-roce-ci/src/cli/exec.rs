//! `exec`: one command in a fresh guest.

use anyhow::{Context, Result};
use clap::ValueEnum;
use soft_roce_ci::agent::protocol::{End, Stream};
use soft_roce_ci::lab::{GuestSpec, Lab, Moment, NvdimmMode, Side, Spec, WireKind};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

/// What shells report for a command whose time was over.
const TIMED_OUT: i32 = 124;

/// How much longer than its own limit a command is waited for.
const SLACK: Duration = Duration::from_secs(60);

/// What to run, and in what.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many guests to boot; the command runs in the first (A, 192.168.77.1; B is 192.168.77.2)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    guests: u8,
    /// A shell command to start in guest B first, for a server; implies two guests
    #[arg(long, value_name = "COMMAND")]
    on_b: Option<String>,
    /// The command's time limit, without the boot
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    limit: u64,
    /// Virtual processors of each guest
    #[arg(long, default_value_t = 2)]
    vcpus: u8,
    /// Memory of each guest
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    memory: u32,
    /// NVDIMM of each guest; 0 for none
    #[arg(long, default_value_t = 256, value_name = "MIB")]
    nvdimm: u32,
    /// How the NVDIMM is used
    #[arg(long, value_enum, default_value_t = Mode::Devdax)]
    mode: Mode,
    /// Disk /dev/vda of each guest
    #[arg(long, default_value_t = 2048, value_name = "MIB")]
    disk: u32,
    /// MTU of the link; from 4200 on Soft-RoCE uses its largest packets
    #[arg(long, default_value_t = 1500, value_name = "BYTES")]
    mtu: u16,
    /// Join the emulators directly, for measurements
    #[arg(long)]
    direct: bool,
    /// Keep the guests' consoles here
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// The command; set its environment with env NAME=VALUE
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    /// /dev/dax0.0
    Devdax,
    /// /dev/pmem0
    Fsdax,
}

/// Runs the command and gives its exit code.
pub fn run(arguments: &Arguments) -> Result<i32> {
    let scratch = tempfile::tempdir().context("cannot make a directory for logs")?;
    let logs = arguments.logs.as_deref().unwrap_or(scratch.path());
    let lab = Lab::start(&arguments.spec(), logs)?;
    let beside = arguments
        .on_b
        .as_ref()
        .map(|command| lab.guest(Side::B).spawn_logged(&["sh", "-c", command], "on-b"))
        .transpose()?;
    let argv: Vec<&str> = arguments.command.iter().map(String::as_str).collect();
    let limit = Duration::from_secs(arguments.limit);
    let running = lab.guest(Side::A).start(&argv, Some(limit))?;
    let code = loop {
        match running.next(limit + SLACK)? {
            Moment::Output(Stream::Stdout, text) => write(std::io::stdout(), &text),
            Moment::Output(Stream::Stderr, text) => write(std::io::stderr(), &text),
            Moment::Ended(End::Exited(code)) => break code,
            Moment::Ended(End::Signaled(signal)) => break 128 + signal,
            Moment::Ended(End::TimedOut) => {
                eprintln!("soft-roce-ci: stopped after {limit:?}, its limit (--limit)");
                break TIMED_OUT;
            }
        }
    };
    drop(beside);
    Ok(code)
}

/// Output that nobody reads any more is no reason to stop.
fn write(mut to: impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}

impl Arguments {
    fn spec(&self) -> Spec {
        let guest = GuestSpec {
            vcpus: self.vcpus,
            memory_mib: self.memory,
            nvdimm_mib: self.nvdimm,
            nvdimm_mode: match self.mode {
                Mode::Devdax => NvdimmMode::Devdax,
                Mode::Fsdax => NvdimmMode::Fsdax,
            },
            disk_mib: self.disk,
            ..GuestSpec::default()
        };
        Spec {
            guests: [guest.clone(), guest],
            wire: if self.direct { WireKind::Direct } else { WireKind::Relayed },
            mtu_bytes: self.mtu,
            only_a: self.guests == 1 && self.on_b.is_none(),
            ..Spec::default()
        }
    }
}
