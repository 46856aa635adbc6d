//! The emulator's command line, and whether this machine's KVM can be used.
//!
//! KVM is asked by booting our very kernel with it for a few seconds: on some machines `/dev/kvm` is there, opens,
//! and then hangs every guest. The answer is kept in the cache for as long as the host is up. Without KVM the
//! processor is emulated (TCG), which is slower by an order of magnitude and works everywhere.

use super::CannotRun;
use super::first_root;
use super::kernel::Kernel;
use super::process::{HostProcess, Start};
use super::spec::{GuestSpec, Side, WireKind};
use crate::agent::protocol::PORT_NAME;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The program.
const PROGRAM: &str = "qemu-system-x86_64";

/// How long KVM may take to boot a kernel that does nothing.
const PROBE_LIMIT: Duration = Duration::from_secs(6);

/// What the guest's first script says when it is only asked whether it runs.
const PROBE_ANSWER: &str = "GUEST-PROBED";

/// For every kernel. On a busy host the kernel's check of its timer fails and ends the boot (`no_timer_check`): the
/// emulated processor does not run evenly. A kernel that fails ends the machine (`-no-reboot`). Nobody attacks these
/// guests. The other processors are started by the guest's second script.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic maxcpus=1 no_timer_check \
                                nowatchdog cryptomgr.notests nokaslr mitigations=off random.trust_cpu=on";

/// What the kernel is told, the clock included. The emulator's time stamp counter is the host's own and right, but
/// the kernel distrusts it for a clock that takes 4 µs to read instead of a tenth of that; and when it measures the
/// counter's frequency at boot on a busy host, it may be wrong by a factor of ten, and then its clock and all its
/// timers are. So it is told both to trust the counter and how fast it runs. Where that is not known it keeps the
/// slow clock.
fn kernel_arguments(accelerator: Accelerator) -> String {
    match (accelerator, time_stamp_counter_khz()) {
        (Accelerator::Tcg, Some(khz)) => format!("{KERNEL_ARGUMENTS} tsc=reliable tsc_early_khz={khz}"),
        (Accelerator::Tcg, None) => format!("{KERNEL_ARGUMENTS} tsc=unstable"),
        (Accelerator::Kvm, _) => KERNEL_ARGUMENTS.to_owned(),
    }
}

/// The frequency of the host's time stamp counter. What the host calls its processor's frequency is that of the
/// counter where the host is a virtual machine itself; elsewhere it changes with the load.
fn time_stamp_counter_khz() -> Option<u64> {
    frequency_khz(&fs::read_to_string("/proc/cpuinfo").ok()?)
}

fn frequency_khz(cpuinfo: &str) -> Option<u64> {
    let value = |name: &str| {
        let line =
            cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
        line.split_once(':').map(|(_, value)| value.trim())
    };
    value("flags")?.split(' ').find(|flag| *flag == "hypervisor")?;
    let (mhz, thousandths) = value("cpu MHz")?.split_once('.')?;
    let khz = mhz.parse::<u64>().ok()? * 1000 + thousandths.get(..3)?.parse::<u64>().ok()?;
    (khz > 0).then_some(khz)
}

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// The emulator.
    Tcg,
}

impl Accelerator {
    fn argument(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg,thread=multi",
        }
    }
}

/// Everything that decides how one machine is started. Paths of sockets are relative: they must stay short.
#[derive(Debug)]
pub struct Machine<'a> {
    /// What executes it.
    pub accelerator: Accelerator,
    /// Which of the two it is.
    pub side: Side,
    /// Its parts.
    pub spec: &'a GuestSpec,
    /// What is between the two.
    pub wire: WireKind,
    /// Whether people can log in.
    pub terminal: bool,
    /// What it boots.
    pub kernel: &'a Kernel,
    /// Where the console's output is appended.
    pub console: &'a Path,
}

/// Names of a guest's files in the lab's directory.
pub fn file_name(side: Side, kind: &str) -> String {
    format!("{}.{kind}", side.name())
}

impl Machine<'_> {
    /// The command, to be run in the lab's directory.
    pub fn command(&self) -> Vec<OsString> {
        let file = |kind: &str| file_name(self.side, kind);
        let spec = self.spec;
        let mut line = CommandLine::new(self.accelerator, self.kernel);
        line.option("-smp", spec.vcpus.to_string());
        line.option(
            "-m",
            format!("{}M,slots=2,maxmem={}M", spec.memory_mib, spec.memory_mib + spec.nvdimm_mib + 1024),
        );
        line.option("-initrd", file("initrd"));
        line.option("-append", kernel_arguments(self.accelerator));
        line.option("-chardev", format!("file,id=console,append=on,path={}", escaped(self.console)));
        line.option("-serial", "chardev:console");
        line.option("-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap");
        line.device("virtio-9p-pci,fsdev=root,mount_tag=host");
        line.device("virtio-serial-pci,max_ports=4");
        line.option("-chardev", format!("socket,id=agent,path={}", file("agent")));
        line.device(&format!("virtserialport,chardev=agent,name={PORT_NAME}"));
        if self.terminal {
            line.option(
                "-chardev",
                format!("socket,id=terminal,path={},server=on,wait=off", file("terminal")),
            );
            line.device("virtconsole,chardev=terminal");
        }
        line.option("-object", "rng-random,id=entropy,filename=/dev/urandom");
        line.device("virtio-rng-pci,rng=entropy");
        self.network(&mut line);
        line.disk("disk", &file("disk"));
        if spec.extra_disk_mib > 0 {
            line.disk("extra", &file("extra"));
        }
        if spec.nvdimm_mib > 0 {
            // No label-size: the labels would take the alignment that devdax needs.
            let backend = "memory-backend-file,id=nvdimm-memory,share=on";
            line.option(
                "-object",
                format!("{backend},size={}M,mem-path={}", spec.nvdimm_mib, file("nvdimm")),
            );
            line.device("nvdimm,id=nvdimm,memdev=nvdimm-memory");
        }
        line.0
    }

    /// eth0 is the wire, eth1 reaches the host at 10.0.2.2 (the guest sets no route beyond it).
    fn network(&self, line: &mut CommandLine) {
        let own = file_name(self.side, "wire");
        let other = match self.wire {
            WireKind::Relayed => file_name(self.side, "relay"),
            WireKind::Direct => file_name(self.side.other(), "wire"),
        };
        line.option(
            "-netdev",
            format!("dgram,id=wire,local.type=unix,local.path={own},remote.type=unix,remote.path={other}"),
        );
        let last = self.side.index() + 1;
        line.device(&format!("virtio-net-pci,netdev=wire,romfile=,mac=52:54:00:77:00:{last:02x}"));
        line.option("-netdev", "user,id=host,ipv6=off");
        line.device(&format!("virtio-net-pci,netdev=host,romfile=,mac=52:54:00:78:00:{last:02x}"));
    }
}

/// A command line in the making.
struct CommandLine(Vec<OsString>);

impl CommandLine {
    fn new(accelerator: Accelerator, kernel: &Kernel) -> CommandLine {
        let mut line = CommandLine(vec![PROGRAM.into()]);
        for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            line.0.push(flag.into());
        }
        line.option("-display", "none");
        line.option("-M", "pc,nvdimm=on,usb=off");
        line.option("-accel", accelerator.argument());
        line.option("-cpu", "max"); // with clwb and clflushopt, also emulated
        line.option("-kernel", kernel.image.as_os_str());
        line
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.push(name.into());
        self.0.push(value.into());
    }

    fn device(&mut self, value: &str) {
        self.option("-device", value);
    }

    fn disk(&mut self, id: &str, file: &str) {
        self.option("-drive", format!("id={id},file={file},format=raw,if=none,discard=unmap"));
        self.device(&format!("virtio-blk-pci,drive={id}"));
    }
}

/// A path in an option's value, where a comma would end it.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// What this machine executes guests with. `cache` keeps the answer, `scratch` is for the probe's files.
pub fn accelerator(cache: &Path, scratch: &Path, kernel: &Kernel) -> Result<Accelerator> {
    static ANSWER: OnceLock<Accelerator> = OnceLock::new();
    if let Some(answer) = ANSWER.get() {
        return Ok(*answer);
    }
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let kept = cache.join("kvm");
    let kept_answer = fs::read_to_string(&kept).unwrap_or_default();
    let answer = match kept_answer.split_once(' ') {
        Some((at, "works")) if at == boot_id.trim() => Accelerator::Kvm,
        Some((at, "fails")) if at == boot_id.trim() => Accelerator::Tcg,
        _ => {
            let works = kvm_works(scratch, kernel)?;
            fs::write(&kept, format!("{} {}", boot_id.trim(), if works { "works" } else { "fails" }))
                .with_context(|| format!("cannot write {}", kept.display()))?;
            if works { Accelerator::Kvm } else { Accelerator::Tcg }
        }
    };
    Ok(*ANSWER.get_or_init(|| answer))
}

fn kvm_works(scratch: &Path, kernel: &Kernel) -> Result<bool> {
    if File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(false);
    }
    let first_root = first_root::build(kernel, &[("PROBE", "1".to_owned())])?;
    let initrd: PathBuf = scratch.join("probe.initrd");
    fs::write(&initrd, first_root).with_context(|| format!("cannot write {}", initrd.display()))?;
    let console = scratch.join("probe.console");
    let mut line = CommandLine::new(Accelerator::Kvm, kernel);
    line.option("-m", "512M");
    line.option("-initrd", initrd.as_os_str());
    line.option("-append", kernel_arguments(Accelerator::Kvm));
    line.option("-serial", "stdio");
    let output = File::create(&console).with_context(|| format!("cannot write {}", console.display()))?;
    let probe = HostProcess::start(Start { argv: line.0, directory: None, output })?;
    let deadline = Instant::now() + PROBE_LIMIT;
    while Instant::now() < deadline && probe.ended().is_none() {
        std::thread::sleep(Duration::from_millis(20));
    }
    probe.kill();
    Ok(fs::read_to_string(&console).is_ok_and(|text| text.contains(PROBE_ANSWER)))
}

/// What must be installed: a program and the packages that bring it.
const NEEDS: [(&str, &str); 9] = [
    (PROGRAM, "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
    ("ndctl", "ndctl"),
    ("dmsetup", "dmsetup"),
    ("rdma", "iproute2"),
    ("setpriv", "util-linux"),
    ("ibv_rc_pingpong", "ibverbs-utils ibverbs-providers"),
];

/// An error that names the packages when the programs are not here.
pub fn require_programs() -> Result<()> {
    let directories: Vec<PathBuf> = std::env::split_paths(&super::search_path()).collect();
    let exists = |program: &str| directories.iter().any(|directory| directory.join(program).is_file());
    match missing_packages(exists) {
        missing if missing.is_empty() => Ok(()),
        missing => {
            let list = missing.join(" ");
            Err(CannotRun::new(format!("packages are missing: apt-get install {list}")).into())
        }
    }
}

fn missing_packages(exists: impl Fn(&str) -> bool) -> Vec<&'static str> {
    NEEDS.iter().filter(|(program, _)| !exists(program)).map(|(_, packages)| *packages).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(side: Side, wire: WireKind, spec: &GuestSpec) -> String {
        let kernel = Kernel { release: "6.1".into(), image: "/k/vmlinux".into(), modules: "/k/m".into() };
        let machine = Machine {
            accelerator: Accelerator::Tcg,
            side,
            spec,
            wire,
            terminal: false,
            kernel: &kernel,
            console: Path::new("/logs/a,b"),
        };
        let parts: Vec<String> =
            machine.command().iter().map(|part| part.to_string_lossy().into_owned()).collect();
        parts.join(" ")
    }

    #[test]
    fn the_counters_frequency_is_believed_only_where_it_is_constant() {
        let cpuinfo = |flags: &str, mhz: &str| {
            format!("processor\t: 0\ncpu MHz\t\t: {mhz}\nflags\t\t: fpu {flags}\nbogomips\t: 1.0\n\n")
        };
        assert_eq!(frequency_khz(&cpuinfo("hypervisor lahf_lm", "2596.122")), Some(2_596_122));
        assert_eq!(frequency_khz(&cpuinfo("lahf_lm", "2596.122")), None);
        assert_eq!(frequency_khz(&cpuinfo("hypervisor", "0.000")), None);
        assert_eq!(frequency_khz("nothing of the kind"), None);
    }

    #[test]
    fn a_direct_wire_joins_the_two_emulators_and_a_relayed_one_goes_through_us() {
        let spec = GuestSpec::default();
        let wire = |side, kind| command(side, kind, &spec);
        assert!(
            wire(Side::A, WireKind::Direct).contains("local.path=a.wire,remote.type=unix,remote.path=b.wire")
        );
        assert!(
            wire(Side::B, WireKind::Direct).contains("local.path=b.wire,remote.type=unix,remote.path=a.wire")
        );
        assert!(
            wire(Side::A, WireKind::Relayed)
                .contains("local.path=a.wire,remote.type=unix,remote.path=a.relay")
        );
    }

    #[test]
    fn a_machine_has_what_its_description_says_and_nothing_else() {
        let bare = GuestSpec { nvdimm_mib: 0, ..GuestSpec::default() };
        let full = GuestSpec { extra_disk_mib: 64, vcpus: 1, ..GuestSpec::default() };
        let (bare, full) =
            (command(Side::A, WireKind::Relayed, &bare), command(Side::B, WireKind::Relayed, &full));
        assert!(!bare.contains("memory-backend-file") && !bare.contains("extra") && bare.contains("-smp 2"));
        assert!(full.contains("size=256M,mem-path=b.nvdimm") && full.contains("file=b.extra"));
        assert!(full.contains("-smp 1") && !full.contains("label-size"));
    }

    #[test]
    fn what_is_missing_is_named_by_its_package() {
        assert_eq!(missing_packages(|program| program != PROGRAM), ["qemu-system-x86"]);
        assert!(missing_packages(|_| true).is_empty());
    }

    #[test]
    fn a_comma_in_a_path_is_doubled() {
        let line = command(Side::A, WireKind::Relayed, &GuestSpec::default());
        assert!(line.contains("path=/logs/a,,b "));
    }
}
