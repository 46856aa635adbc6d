//! `shell`: a pair of machines for people. Ctrl-] changes between the terminals of A and B; the end of A's shell ends
//! both machines.

use super::run::find;
use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::termios::{OptionalActions, Termios};
use soft_roce_ci::lab::{Lab, Running, Side, Spec};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Mutex;

/// Ctrl-].
const CHANGE: u8 = 0x1d;

/// In the guest: a login shell on the terminal that the harness is connected to.
const SHELL: &str = "exec setsid -w -c bash -l </dev/hvc0 >/dev/hvc0 2>&1";

/// The terminal's settings before we changed them, for an end by a signal.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Which machines.
#[derive(clap::Args)]
pub struct Arguments {
    /// A scenario, for its machines, or `pair`
    #[arg(default_value = "pair")]
    name: String,
    /// Keep the consoles and logs here
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
}

/// Brings up the machines and connects the terminal to them.
pub fn run(arguments: &Arguments) -> Result<i32> {
    let machines =
        if arguments.name == "pair" { Spec::default() } else { (find(&arguments.name)?.machines)() };
    let stdin = std::io::stdin();
    if !rustix::termios::isatty(&stdin) {
        bail!("shell needs a terminal; for a single command use exec");
    }
    eprintln!("booting two guests");
    let scratch = tempfile::tempdir().context("cannot make a directory for logs")?;
    let logs = arguments.logs.as_deref().unwrap_or(scratch.path());
    let lab = Lab::start(&Spec { terminals: true, ..machines }, logs)?;
    let terminals = [lab.guest(Side::A).terminal()?, lab.guest(Side::B).terminal()?];
    let size = rustix::termios::tcgetwinsize(&stdin).map_or((24, 80), |size| (size.ws_row, size.ws_col));
    let shells = [start_shell(&lab, Side::A, size)?, start_shell(&lab, Side::B, size)?];
    eprintln!(
        "This is guest A, {}. Ctrl-] changes to B, {}, and back. The end of A's shell (exit) ends both.\n\
         The host's files are seen read-only beneath a memory file system; the host is {}.\n\
         Consoles: {}",
        Side::A.address(),
        Side::B.address(),
        soft_roce_ci::lab::HOST_ADDRESS,
        logs.display()
    );
    let before = rustix::termios::tcgetattr(&stdin).context("cannot read the terminal's settings")?;
    let mut raw = before.clone();
    raw.make_raw();
    *BEFORE.lock().expect("nothing panics with the lock") = Some(before);
    let restore = Restore;
    rustix::termios::tcsetattr(&stdin, OptionalActions::Now, &raw).context("cannot change the terminal")?;
    let result = relay(&terminals, &shells[0]);
    drop(restore);
    eprintln!("\nboth guests are switched off");
    result.map(|()| 0)
}

fn start_shell(lab: &Lab, side: Side, (rows, columns): (u16, u16)) -> Result<Running> {
    let script = format!("stty rows {rows} cols {columns} sane </dev/hvc0; {SHELL}");
    lab.guest(side).spawn(&["sh", "-c", &script])
}

/// Gives the terminal back as it was. Also called when a signal ends us.
pub fn restore_terminal() {
    if let Some(before) = BEFORE.lock().ok().and_then(|mut before| before.take()) {
        let _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &before);
    }
}

struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        restore_terminal();
    }
}

/// Passes bytes between the person and the guest in front until the first guest's shell ends.
fn relay(terminals: &[UnixStream; 2], first: &Running) -> Result<()> {
    let stdin = std::io::stdin();
    let mut front = 0;
    let mut buffer = [0; 4096];
    while !first.has_ended() {
        // Only the guest in front is read; what the other one writes waits in its emulator.
        let mut terminal = &terminals[front];
        let mut fds = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(terminal, PollFlags::IN)];
        let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        let _ = rustix::event::poll(&mut fds, Some(&pause));
        let [typed, written] = [0, 1].map(|index| !fds[index].revents().is_empty());
        if written {
            let len = terminal.read(&mut buffer).context("the guest's terminal is gone")?;
            if len == 0 {
                return Ok(());
            }
            let mut stdout = std::io::stdout();
            stdout.write_all(&buffer[..len]).and_then(|()| stdout.flush()).context("cannot write")?;
        }
        if typed {
            let len = rustix::io::read(&stdin, &mut buffer).context("cannot read the terminal")?;
            if len == 0 {
                return Ok(());
            }
            for part in buffer[..len].split_inclusive(|byte| *byte == CHANGE) {
                let (text, change) = part.strip_suffix(&[CHANGE]).map_or((part, false), |text| (text, true));
                (&terminals[front]).write_all(text).context("the guest's terminal is gone")?;
                if change {
                    front = 1 - front;
                    eprint!("\r\n[guest {}]\r\n", ["A", "B"][front]);
                    // An empty line makes the shell show its prompt.
                    (&terminals[front]).write_all(b"\r").context("the guest's terminal is gone")?;
                }
            }
        }
    }
    Ok(())
}
