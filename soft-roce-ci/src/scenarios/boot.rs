//! The machines themselves: without this, no other scenario's failure says anything about the product.
//!
//! Shown: both boot, Soft-RoCE carries data between them, a cut link stops it, a power cut ends every call at once and
//! leaves the disk, and a machine that was off comes back.

use crate::lab::{Cut, Guest, Lab, Side, Spec};
use crate::scenario::{Context, Scenario};
use anyhow::{Context as _, Result, bail};
use std::time::{Duration, Instant};

pub const SCENARIO: Scenario = Scenario {
    name: "boot",
    about: "the machines alone: Soft-RoCE between them, a cut link, a power cut, a second boot",
    machines: Spec::default,
    run,
};

const LIMIT: Duration = Duration::from_secs(60);

/// How long a server may take to listen. The client asks again until then.
const SERVER_START: Duration = Duration::from_secs(30);

fn run(run: &Context) -> Result<()> {
    let lab = run.lab(&Spec::default())?;
    for side in Side::BOTH {
        devices_are_there(lab.guest(side))?;
    }
    rdma_works(&lab).context("Soft-RoCE between the guests")?;

    lab.wire().cut(Cut::Both);
    if rdma_ping(&lab, Duration::from_secs(3)).is_ok() {
        bail!("the link is cut and carries data");
    }
    lab.wire().heal();

    let b = lab.guest(Side::B);
    b.run(&["sh", "-c", "printf kept | dd of=/dev/vda conv=fsync,notrunc"], LIMIT)?.ok()?;
    let waiting = b.spawn(&["sleep", "600"])?;
    b.power_cut()?;
    let cut = Instant::now();
    let error = waiting.wait(LIMIT).err().context("a program outlived its machine")?;
    if !error.chain().any(|cause| cause.is::<crate::lab::GuestGone>()) || cut.elapsed() > LIMIT / 2 {
        bail!("a program in a machine without power ended with: {error:#}");
    }
    b.boot()?;
    devices_are_there(b)?;
    let kept = b.run(&["head", "-c", "4", "/dev/vda"], LIMIT)?.ok()?;
    if kept != "kept" {
        bail!("the disk holds {kept:?} after a power cut");
    }
    rdma_works(&lab).context("Soft-RoCE after a second boot")
}

fn devices_are_there(guest: &Guest) -> Result<()> {
    let check = "test -c /dev/dax0.0 && test -b /dev/vda && rdma link show rxe0/1";
    let link = guest.run(&["sh", "-c", check], LIMIT)?.ok()?;
    if !link.contains("ACTIVE") {
        bail!("guest {}: Soft-RoCE is not active: {link}", guest.side().name());
    }
    let path = "/run/boot-scenario/file";
    guest.write_file(path, b"\0\xff")?;
    if guest.read_file(path)? != b"\0\xff" {
        bail!("guest {}: a file came back with other bytes", guest.side().name());
    }
    Ok(())
}

fn rdma_works(lab: &Lab) -> Result<()> {
    rdma_ping(lab, SERVER_START)
}

/// Data in both directions over a reliable connection, verified by the program.
fn rdma_ping(lab: &Lab, limit: Duration) -> Result<()> {
    let server = lab.guest(Side::B).spawn_logged(&PING, "pingpong")?;
    let address = lab.guest(Side::B).address().to_string();
    let client = [&PING[..], &[&address]].concat();
    let deadline = Instant::now() + limit;
    let result = loop {
        let finished = lab.guest(Side::A).run(&client, limit)?;
        if finished.success() || Instant::now() > deadline {
            break finished.ok().map(drop);
        }
    };
    if !server.is_over() {
        // It may end by itself in this very moment.
        let _ = server.signal(9);
    }
    result
}

/// From Debian's ibverbs-utils; GID index 1 is the IPv4 RoCEv2 one.
const PING: [&str; 8] = ["ibv_rc_pingpong", "-d", "rxe0", "-g", "1", "-n", "100", "-c"];
