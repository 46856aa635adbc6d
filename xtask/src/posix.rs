//! POSIX conformance of the mount: pjdfstest and fsx on a mirrored pair, on each kind of local filesystem.
//!
//! A test that is skipped must be listed, with its reason, in docs/posix.md; one that fails is a failure, and so is
//! one that is skipped and not listed. Afterwards both local trees are compared.

mod expected;

use crate::cluster::disk::Filesystem;
use crate::cluster::{Cluster, Options, wait};
use crate::steps::{self, Counts};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use expected::ExpectedSkips;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The tools and their versions, as `cargo install` takes them.
const TOOLS: [(&str, &str); 2] = [("pjdfstest", "pjdfstest@0.2.2"), ("fsx", "fsx@0.3.2")];

/// Longest time of one run of a tool.
const LIMIT: Duration = Duration::from_secs(600);

/// Length of each log.
const LOG_BYTES: u64 = 64 << 20;

/// The list of skipped tests.
const DOCUMENT: &str = "docs/posix.md";

/// Users and groups that every Debian has; timestamps here are finer than the pause between two changes.
const PJDFSTEST_CONFIG: &str = "\
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.002
allow_remount = false
[dummy_auth]
entries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]
";

/// Every operation that fsx knows, mapped reads and writes included.
const FSX_CONFIG: &str = "\
flen = 262144
[opsize]
max = 65536
[weights]
close_open = 2
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 5
fsync = 1
fdatasync = 1
posix_fallocate = 3
punch_hole = 5
sendfile = 3
posix_fadvise = 1
copy_file_range = 5
";

/// Operations and seeds of the fsx runs.
const FSX_OPERATIONS: &str = "4000";
const FSX_SEEDS: [&str; 2] = ["1", "20260101"];

/// Installs the tools where only this project uses them. Gives their directory.
pub fn install(workspace: &Workspace) -> Result<PathBuf> {
    let root = workspace.target_dir().join("tools");
    for (program, package) in TOOLS {
        if !root.join("bin").join(program).exists() {
            let mut command = workspace.cargo(&["install", "--locked", "--root"]);
            command.arg(&root).arg(package);
            steps::run(
                &workspace.log_dir(),
                &format!("install-{program}"),
                &mut command,
                crate::workspace::CARGO_LIMIT,
            )?;
        }
    }
    Ok(root.join("bin"))
}

/// What one run needs.
pub struct Suite {
    /// Where the tools are.
    pub tools: PathBuf,
    /// The daemon.
    pub program: PathBuf,
    /// Where output goes.
    pub logs: PathBuf,
    /// The repository.
    pub root: PathBuf,
}

/// What the command line says.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// What the local trees lie on
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["ext4", "xfs", "btrfs"])]
    pub fs: Vec<Filesystem>,
    /// Use this program instead of building twinfiler
    #[arg(long)]
    pub program: Option<PathBuf>,
}

/// Runs the suites alone and prints their summary.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    crate::packages::require_root_and_fuse()?;
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => workspace.build_daemon(true)?,
    };
    let suite = Suite {
        tools: install(workspace)?,
        program,
        logs: workspace.log_dir(),
        root: workspace.root().to_path_buf(),
    };
    let mut report = steps::Report::default();
    for filesystem in &arguments.fs {
        crate::packages::ensure(crate::packages::for_filesystem(filesystem.name()), &suite.logs)?;
        report.counted(&format!("POSIX on {}", filesystem.name()), || suite.run(*filesystem));
    }
    println!("{}", report.summary());
    if report.all_passed() { Ok(()) } else { bail!("the mount is not as POSIX wants it") }
}

impl Suite {
    /// Runs both tools on a pair over one kind of filesystem.
    pub fn run(&self, filesystem: Filesystem) -> Result<Counts> {
        let options = Options {
            program: self.program.clone(),
            filesystem,
            transport: "tcp".to_owned(),
            log_bytes: LOG_BYTES,
            keep: false,
            wire: false,
            suspendable: false,
        };
        let mut cluster = Cluster::start(options)?;
        let outcome = self.on_cluster(&mut cluster, filesystem);
        if !matches!(outcome, Ok(Counts { failed: 0, .. })) {
            cluster.save_logs(&self.logs.join(format!("posix-{}-failed", filesystem.name())))?;
        }
        outcome
    }

    fn on_cluster(&self, cluster: &mut Cluster, filesystem: Filesystem) -> Result<Counts> {
        let primary = cluster.wait_mirrored(wait::LIMIT)?;
        let mount = cluster.mount_path(primary);
        let outside = tempfile::Builder::new().prefix("twinfiler-outside-").tempdir()?;
        let mut counts = self.pjdfstest(&mount, outside.path(), filesystem)?;
        for seed in FSX_SEEDS {
            self.fsx(&mount, outside.path(), filesystem, seed)?;
            counts.passed += 1;
        }
        cluster.settle()?;
        let trees = cluster.compare_trees()?;
        if !trees.differences.is_empty() {
            bail!("the local trees differ:\n{}", trees.differences.join("\n"));
        }
        counts.passed += 1;
        Ok(counts)
    }

    fn pjdfstest(&self, mount: &Path, outside: &Path, filesystem: Filesystem) -> Result<Counts> {
        let expected = ExpectedSkips::read(&self.root.join(DOCUMENT))?;
        let config = outside.join("pjdfstest.toml");
        fs::write(&config, PJDFSTEST_CONFIG)?;
        let (work, secondary) = (mount.join("pjdfstest"), outside.join("secondary"));
        fs::create_dir(&work)?;
        fs::create_dir(&secondary)?;
        let mut command = Command::new(self.tools.join("pjdfstest"));
        command.arg("-c").arg(&config).arg("-p").arg(&work).arg("-s").arg(&secondary);
        let name = format!("pjdfstest-{}", filesystem.name());
        let outcome = steps::run(&self.logs, &name, &mut command, LIMIT);
        let log = self.logs.join(format!("{name}.log"));
        let text = fs::read_to_string(&log).unwrap_or_default();
        let results = expected::results(&text);
        let mut counts = Counts { passed: results.passed, failed: results.failed.len() as u64 };
        if counts.passed + counts.failed == 0 {
            outcome?;
            bail!("pjdfstest ran no test; see {}", log.display());
        }
        for test in &results.failed {
            println!("          {}: {test} failed; see {}", filesystem.name(), log.display());
        }
        for test in results.skipped.iter().filter(|test| !expected.lists(test)) {
            println!("          {}: {test} was skipped and is not listed in {DOCUMENT}", filesystem.name());
            counts.failed += 1;
        }
        Ok(counts)
    }

    fn fsx(&self, mount: &Path, outside: &Path, filesystem: Filesystem, seed: &str) -> Result<()> {
        let config = outside.join("fsx.toml");
        fs::write(&config, FSX_CONFIG)?;
        let mut command = Command::new(self.tools.join("fsx"));
        command.args(["-N", FSX_OPERATIONS, "-S", seed, "-f"]).arg(&config).arg("-P").arg(outside);
        command.arg(mount.join(format!("fsx-{seed}")));
        let name = format!("fsx-{}-{seed}", filesystem.name());
        steps::run(&self.logs, &name, &mut command, LIMIT)
            .map(drop)
            .with_context(|| format!("fsx, seed {seed}"))
    }
}
