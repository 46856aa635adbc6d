//! A guest's first root: busybox, the modules that it takes to reach the host's root over 9p, and two scripts.
//!
//! It is made anew for each guest, because it carries the guest's settings; that takes milliseconds. Every other
//! module and program comes from the host over 9p.

use super::CannotRun;
use super::archive::Archive;
use super::kernel::Kernel;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What it takes to mount the host's root: the bus, the transport, the filesystem, the overlay.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// Where busybox-static puts itself.
const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// Makes the archive. `settings` are shell variables.
pub fn build(kernel: &Kernel, settings: &[(&str, String)]) -> Result<Vec<u8>> {
    let busybox = BUSYBOX
        .iter()
        .find_map(|path| fs::read(path).ok())
        .ok_or_else(|| CannotRun::new("busybox is missing: install the package busybox-static".to_owned()))?;
    let index =
        fs::read_to_string(kernel.modules.join("modules.dep")).context("the kernel has no modules.dep")?;
    let index = ModuleIndex::parse(&index);
    let mut archive = Archive::default();
    for directory in ["bin", "modules"] {
        archive.directory(directory);
    }
    archive.file("bin/busybox", 0o755, &busybox);
    let mut order = String::new();
    for path in index.in_order(&MODULES) {
        let name =
            Path::new(path).file_name().and_then(|name| name.to_str()).context("a module without a name")?;
        let contents = fs::read(kernel.modules.join(path)).with_context(|| format!("cannot read {path}"))?;
        archive.file(&format!("modules/{name}"), 0o644, &contents);
        order.push_str(name);
        order.push('\n');
    }
    archive.file("modules.order", 0o644, order.as_bytes());
    archive.file("settings.sh", 0o644, assignments(settings).as_bytes());
    archive.file("init", 0o755, include_bytes!("guest/initramfs.sh"));
    archive.file("guest.sh", 0o644, include_bytes!("guest/guest.sh"));
    Ok(archive.finish())
}

/// Shell assignments whose values may be anything.
fn assignments(settings: &[(&str, String)]) -> String {
    settings.iter().map(|(name, value)| format!("{name}='{}'\n", value.replace('\'', r"'\''"))).collect()
}

/// The kernel's index: for each module what must be loaded before it.
struct ModuleIndex<'a> {
    by_name: BTreeMap<String, (&'a str, Vec<&'a str>)>,
}

impl<'a> ModuleIndex<'a> {
    /// Reads `modules.dep`: "path: dependency dependency", the last dependency being needed first.
    fn parse(text: &'a str) -> ModuleIndex<'a> {
        let entry = |line: &'a str| {
            let (path, before) = line.split_once(':')?;
            Some((module_name(path), (path, before.split_whitespace().rev().collect())))
        };
        ModuleIndex { by_name: text.lines().filter_map(entry).collect() }
    }

    /// The paths to load, each once, dependencies first. A name that the index lacks is built into the kernel.
    fn in_order(&self, names: &[&str]) -> Vec<&'a str> {
        let mut order: Vec<&str> = Vec::new();
        for (path, before) in names.iter().filter_map(|name| self.by_name.get(*name)) {
            for path in before.iter().copied().chain([*path]) {
                if !order.contains(&path) {
                    order.push(path);
                }
            }
        }
        order
    }
}

/// The kernel's name of a module: its file's, with underscores.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need_and_once() {
        let index = ModuleIndex::parse(
            "kernel/net/9p/9pnet.ko:\n\
             kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/fscache.ko kernel/fs/netfs.ko\n\
             kernel/net/9p/9pnet-virtio.ko: kernel/net/9p/9pnet.ko kernel/virtio.ko\n",
        );
        let order = index.in_order(&["9p", "9pnet_virtio", "built_in"]);
        assert_eq!(
            order,
            [
                "kernel/fs/netfs.ko",
                "kernel/fs/fscache.ko",
                "kernel/net/9p/9pnet.ko",
                "kernel/fs/9p/9p.ko",
                "kernel/virtio.ko",
                "kernel/net/9p/9pnet-virtio.ko"
            ]
        );
    }

    #[test]
    fn settings_survive_the_shell() {
        let value = "it's $HOME; `x`\n\"";
        let script = assignments(&[("VALUE", value.to_owned())]) + "printf %s \"$VALUE\"";
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
    }
}
