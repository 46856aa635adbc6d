//! The witness: a process of the host on a loopback port, which guests reach at their gateway's address.

use super::keys::Doors;
use crate::lab::{HOST_ADDRESS, HostProcess, Start};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long it may take to listen.
const START_LIMIT: Duration = Duration::from_secs(20);

/// See the module. Dropping it kills the process.
pub struct Witness {
    process: Option<HostProcess>,
    program: PathBuf,
    directory: PathBuf,
    port: u16,
    doors: Doors,
}

impl Witness {
    /// Starts one that keeps its state and its output in `directory`.
    pub fn start(program: &Path, directory: &Path) -> Result<Witness> {
        std::fs::create_dir_all(directory)?;
        // Free a moment ago, and nothing else on this machine asks for a port of its own choice in between.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let doors = Doors::make(program, directory, SocketAddr::from((HOST_ADDRESS, port)))?;
        let (program, directory) = (program.to_owned(), directory.to_owned());
        let mut witness = Witness { process: None, program, directory, port, doors };
        witness.start_again()?;
        Ok(witness)
    }

    /// Its address for guests, and everybody's keys.
    pub fn doors(&self) -> &Doors {
        &self.doors
    }

    /// What it printed.
    pub fn output(&self) -> PathBuf {
        self.directory.join("witness.out")
    }

    /// Kills it: connections are refused from now on.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// It keeps its connections and answers nothing any more.
    pub fn pause(&self) -> Result<()> {
        self.process.as_ref().context("the witness does not run")?.stop()
    }

    /// It answers again.
    pub fn resume(&self) -> Result<()> {
        self.process.as_ref().context("the witness does not run")?.proceed()
    }

    /// Starts it again after [`Witness::stop`], with the state that it had.
    pub fn start_again(&mut self) -> Result<()> {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let argv = [
            self.program.clone().into_os_string(),
            OsString::from("witness"),
            OsString::from("--listen"),
            OsString::from(listen.to_string()),
            OsString::from("--state"),
            self.directory.join("state").into_os_string(),
            OsString::from("--private-key"),
            self.doors.witness_key().into_os_string(),
            OsString::from("--nodes"),
            self.doors.nodes().into_os_string(),
        ];
        let output = File::options().create(true).append(true).open(self.output())?;
        let process = HostProcess::start(Start { argv: argv.to_vec(), directory: None, output })?;
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(listen).is_err() {
            if process.ended().is_some() || Instant::now() > deadline {
                let said = std::fs::read_to_string(self.output()).unwrap_or_default();
                bail!("the witness does not listen on {listen}:\n{said}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.process = Some(process);
        Ok(())
    }
}
