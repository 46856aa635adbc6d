//! DRBD 8.4, protocol C, with ext4 on it: what people run today.

use crate::lab::{Lab, Side};
use crate::pair::node::shell;
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// The disk of each node beneath it.
pub const DISK_MIB: u32 = 384;
/// Where its filesystem is mounted, in guest A.
pub const MOUNT: &str = "/srv/drbd";
const RESOURCE: &str = "/etc/drbd.d/r0.res";
const CONNECT_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(500);

fn resource() -> String {
    let on = |side: Side| format!("  on {} {{ address {}:7789; }}\n", side.name(), side.address());
    format!(
        "resource r0 {{\n  protocol C;\n  device /dev/drbd0;\n  disk /dev/vdb;\n  meta-disk internal;\n{}{}}}\n",
        on(Side::A),
        on(Side::B)
    )
}

/// Connects both and mounts ext4 in A. Both disks hold zeros, so nothing needs to be copied first.
pub fn start(lab: &Lab) -> Result<()> {
    for side in Side::BOTH {
        let guest = lab.guest(side);
        guest.write_file("/etc/drbd.conf", b"global { usage-count no; }\ninclude \"drbd.d/*.res\";\n")?;
        guest.write_file(RESOURCE, resource().as_bytes())?;
        shell(guest, "set -e\nmkdir -p /var/lib/drbd /run/lock\nmodprobe drbd\ndrbdadm create-md --force r0\ndrbdadm up r0\n")
            .with_context(|| format!("DRBD in guest {}", side.name()))?;
    }
    let primary = lab.guest(Side::A);
    wait_for(lab, "Connected")?;
    shell(primary, "drbdadm -- --clear-bitmap new-current-uuid r0/0")?;
    wait_for(lab, "UpToDate/UpToDate")?;
    let mount = format!(
        "set -e\ndrbdadm primary r0\nmkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 /dev/drbd0\n\
         mkdir -p {MOUNT}\nmount -t ext4 /dev/drbd0 {MOUNT}\n"
    );
    shell(primary, &mount).map(drop)
}

fn wait_for(lab: &Lab, word: &str) -> Result<()> {
    let deadline = Instant::now() + CONNECT_LIMIT;
    loop {
        let state = shell(lab.guest(Side::A), "cat /proc/drbd")?;
        if state.contains(word) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("DRBD is not {word}:\n{state}");
        }
        std::thread::sleep(POLL);
    }
}
