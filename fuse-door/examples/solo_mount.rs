//! Mounts a volume that one process serves alone, to try the FUSE front door: no partner, no log that outlives
//! the process. `solo_mount BASE MOUNTPOINT [LOG_MIB] [--writeback]`; ends on SIGINT or SIGTERM.

use fuse_door::{MountOptions, mount};
use std::path::Path;
use std::time::Duration;
use volume::solo::Solo;

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base, mountpoint, rest @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: solo_mount BASE MOUNTPOINT [LOG_MIB] [--writeback]");
    };
    let log_mib: u64 = rest.iter().find_map(|argument| argument.parse().ok()).unwrap_or(256);
    let volume = "74776966-696c6572-74776966-696c6572".parse()?;
    let solo = Solo::start(Path::new(base), volume, log_mib << 20, Some(Duration::from_secs(1)))?;
    let options =
        MountOptions { writeback_cache: rest.iter().any(|a| a == "--writeback"), ..MountOptions::default() };
    let handle = mount(solo.volume.clone(), Path::new(mountpoint), &options)?;
    println!("mounted {base} at {mountpoint}");

    let shutdown = runtime::shutdown::Shutdown::on_signals()?;
    while !handle.has_ended() && shutdown.wait(Duration::from_millis(200)).is_none() {}
    println!("left: {:?}", handle.unmount(Duration::from_secs(5)));
    Ok(())
}
