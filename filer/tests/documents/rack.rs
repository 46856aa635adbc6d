//! Three hosts in a rack: each with a network, devices and directories of its own, as the documents name them.
//!
//! A host is a mount, network and UTS namespace that a process keeps alive. Inside there is a private `/dev` with
//! `/dev/nvme0n1p4` (a loop device), an empty filesystem of its own below `/var/lib`, an empty `/srv`, `/run` and
//! `/etc/twinfiler`, and `eth0` on a bridge that a fourth namespace holds.
//!
//! Invariants: nothing outside of the namespaces is made or changed, but loop devices that the kernel takes back when their
//! last user has gone; every process dies with the test's thread, however that ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest time for one command.
const LIMIT: Duration = Duration::from_secs(120);
/// Commands that do not end by themselves: they are started, and must still be there at the end.
const ENDLESS: [&str; 3] = ["twinfiler serve", "twinfiler witness", "twinfiler status --watch"];
/// Room for a log of 1 GiB, and for the tree.
const LOG_BYTES: u64 = (1 << 30) + (16 << 20);
const DISK_BYTES: u64 = 1 << 30;

/// The hosts, and what somebody who reads the documents would have written down.
pub struct Rack {
    hosts: Vec<Host>,
    _switch: Anchor,
    _directory: tempfile::TempDir,
}

impl Rack {
    pub fn new(names: &[&str]) -> Rack {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test makes namespaces and loop devices: run it as root"
        );
        // On a disk: the build directory.
        let program = PathBuf::from(env!("CARGO_BIN_EXE_twinfiler"));
        let directory = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let switch = Anchor::new();
        switch.ok("ip link add rack type bridge && ip link set rack up && ip link set lo up");
        let hosts =
            names.iter().zip(1..).map(|(name, number)| Host::new(name, number, directory.path(), &switch));
        Rack { hosts: hosts.collect(), _switch: switch, _directory: directory }
    }

    pub fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).unwrap_or_else(|| panic!("no host {name}"))
    }

    /// Writes something down, on every host.
    pub fn set(&mut self, name: &str, value: &str) {
        for host in &mut self.hosts {
            host.known.insert(name.to_owned(), value.to_owned());
        }
    }

    pub fn get(&self, name: &str) -> String {
        self.hosts[0].known[name].clone()
    }

    /// SIGKILL to what was started so on a host.
    pub fn kill(&mut self, name: &str, command: &str) {
        let host = self.host(name);
        let mut running = host.running.lock().unwrap();
        let found = running.iter_mut().find(|running| running.command.starts_with(command)).unwrap();
        found.child.kill().unwrap();
        found.child.wait().unwrap();
    }
}

/// A process that keeps namespaces alive.
struct Anchor(Child);

impl Anchor {
    fn new() -> Anchor {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--net", "--uts", "--propagation", "private"])
            .args(["sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .expect("util-linux must be installed");
        let anchor = Anchor(child);
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let (ours, begun) = (namespace("self"), Instant::now());
        // It is there when it runs what unshare starts, after all namespaces were made.
        while namespace(&anchor.pid()) == ours || anchor.name().trim() != "sleep" {
            assert!(begun.elapsed() < LIMIT, "unshare did not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        anchor
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    fn name(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/comm", self.0.id())).unwrap_or_default()
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.pid(), "--mount", "--net", "--uts", "--wd=/"])
            .args(["setpriv", "--pdeathsig", "KILL", "bash", "-euo", "pipefail", "-c", script])
            .stdin(Stdio::null());
        command
    }

    fn ok(&self, script: &str) -> String {
        let output = self.command(script).output().unwrap();
        assert!(output.status.success(), "{script}\n{}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        let _gone = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// A block device: a file behind a loop device, which goes with its last user.
struct Disk {
    device: PathBuf,
    open: File,
}

impl Disk {
    fn new(image: &Path, len_bytes: u64) -> Disk {
        File::create(image).unwrap().set_len(len_bytes).unwrap();
        let made =
            Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(image).output().unwrap();
        assert!(made.status.success(), "{}", text(&made));
        let device = PathBuf::from(String::from_utf8_lossy(&made.stdout).trim());
        let open = File::open(&device).unwrap();
        // It is in use: the kernel detaches it when that ends, also when this process is killed.
        assert!(Command::new("losetup").arg("--detach").arg(&device).status().unwrap().success());
        Disk { device, open }
    }

    /// Its numbers, for mknod.
    fn numbers(&self) -> String {
        let device = self.open.metadata().unwrap().rdev();
        format!("{} {}", rustix::fs::major(device), rustix::fs::minor(device))
    }
}

struct Running {
    command: String,
    child: Child,
    output: PathBuf,
}

/// One machine.
pub struct Host {
    name: String,
    /// Values that the documents have the reader write down.
    known: BTreeMap<String, String>,
    running: std::sync::Mutex<Vec<Running>>,
    directory: PathBuf,
    anchor: Anchor,
    _disks: [Disk; 2],
}

impl Host {
    fn new(name: &str, number: u32, directory: &Path, switch: &Anchor) -> Host {
        let log = Disk::new(&directory.join(format!("{name}.log")), LOG_BYTES);
        let disk = Disk::new(&directory.join(format!("{name}.disk")), DISK_BYTES);
        let anchor = Anchor::new();
        let own = directory.join(format!("{name}.etc"));
        let (switch_pid, log_numbers) = (switch.pid(), log.numbers());
        let (device, own) = (disk.device.display(), own.display());
        anchor.ok(&format!(
            "hostname filer-{name}
            mkfs.ext4 -q -b 4096 {device}
            cp -a /etc {own} && rm -rf {own}/twinfiler && mount --bind {own} /etc
            mount -t ext4 {device} /var/lib
            mount -t tmpfs none /srv && mount -t tmpfs none /run && mount -t sysfs sysfs /sys
            mkdir /run/dev && mount -t tmpfs -o mode=755 none /run/dev && mkdir /run/dev/shm
            for node in 'null c 1 3' 'zero c 1 5' 'full c 1 7' 'random c 1 8' 'urandom c 1 9' 'fuse c 10 229' \
                'nvme0n1p4 b {log_numbers}'; do mknod -m 666 /run/dev/$node; done
            ln -s /proc/self/fd /run/dev/fd
            mount --bind /run/dev /dev
            ip link set lo up
            ip link add eth0 type veth peer name host-{number} netns {switch_pid}
            ip address add 10.0.0.{number}/24 dev eth0 && ip link set eth0 up"
        ));
        switch.ok(&format!("ip link set host-{number} master rack up"));
        Host {
            name: name.to_owned(),
            known: BTreeMap::new(),
            running: std::sync::Mutex::default(),
            directory: directory.to_owned(),
            anchor,
            _disks: [log, disk],
        }
    }

    /// Runs commands as they stand in a document; gives what they printed.
    pub fn run_block(&self, commands: &[String], about: &str) -> String {
        let mut printed = String::new();
        for command in commands {
            if ENDLESS.iter().any(|endless| command.trim_start().starts_with(endless)) {
                self.start(command);
            } else {
                let output = self.run(command);
                assert!(output.status.success(), "{about}: {command}\n{}\n{}", text(&output), self.told());
                printed.push_str(&String::from_utf8_lossy(&output.stdout));
            }
        }
        self.check_running(about);
        printed
    }

    /// Runs a command that must succeed; gives what it printed.
    pub fn ok(&self, command: &str) -> String {
        let output = self.run(command);
        assert!(output.status.success(), "{}: {command}\n{}\n{}", self.name, text(&output), self.told());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a command that must be refused; gives what it said.
    pub fn fails(&self, command: &str) -> String {
        let output = self.run(command);
        assert!(!output.status.success(), "{}: {command}\n{}", self.name, text(&output));
        text(&output)
    }

    fn run(&self, command: &str) -> Output {
        let limited = format!("timeout {} bash -euo pipefail -c \"$COMMAND\"", LIMIT.as_secs());
        self.with_environment(self.anchor.command(&limited)).env("COMMAND", command).output().unwrap()
    }

    /// Starts something beside the documents; gives its process id.
    pub fn start_background(&self, command: &str) -> u32 {
        self.start(command);
        self.running.lock().unwrap().last().unwrap().child.id()
    }

    fn start(&self, command: &str) {
        let mut running = self.running.lock().unwrap();
        let output = self.directory.join(format!("{}.{}.output", self.name, running.len()));
        let file = File::create(&output).unwrap();
        // The shell becomes the program: a signal reaches it and nothing in between.
        let script = self.anchor.command(&format!("exec {}", command.trim_start()));
        let mut script = self.with_environment(script);
        let child = script.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        running.push(Running { command: command.trim_start().to_owned(), child, output });
    }

    fn with_environment(&self, mut command: Command) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_twinfiler")).parent().unwrap();
        let path =
            format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", program.display());
        command.env("PATH", path).envs(&self.known);
        for inherited in ["TWINFILER_CONFIG", "RUST_LOG", "NOTIFY_SOCKET"] {
            command.env_remove(inherited);
        }
        command
    }

    /// What a program that was started so has said.
    pub fn said(&self, command: &str) -> String {
        let running = self.running.lock().unwrap();
        let found = running.iter().find(|running| running.command.starts_with(command)).unwrap();
        std::fs::read_to_string(&found.output).unwrap()
    }

    /// What does not end by itself has not ended.
    fn check_running(&self, about: &str) {
        let ended: Vec<String> = {
            let mut running = self.running.lock().unwrap();
            let ended = running.iter_mut().filter_map(|running| {
                let status = running.child.try_wait().unwrap()?;
                Some(format!("{about}: `{}` has ended: {status}", running.command))
            });
            ended.collect()
        };
        assert!(ended.is_empty(), "{ended:?}\n{}", self.told());
    }

    /// What the programs that still run have said.
    fn told(&self) -> String {
        let running = self.running.lock().unwrap();
        let told = running.iter().map(|running| {
            let said = std::fs::read_to_string(&running.output).unwrap_or_default();
            let lines: Vec<&str> = said.lines().rev().take(30).collect();
            let last: String = lines.into_iter().rev().map(|line| format!("{line}\n")).collect();
            format!("--- {} on {}:\n{last}", running.command, self.name)
        });
        told.collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for running in self.running.lock().unwrap().iter_mut() {
            let _gone = running.child.kill().and_then(|()| running.child.wait());
        }
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
