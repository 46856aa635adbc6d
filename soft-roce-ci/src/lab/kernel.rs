//! The guests' kernel: Debian's package, downloaded once, unpacked beside the build's output, never installed.
//!
//! `apt-get download` checks the package's signature chain; `dpkg -x` unpacks it; `depmod` makes the module index
//! that the package's installation would have made. The kernel image itself is taken out of its self-extracting
//! wrapper, because unpacking 60 MiB costs an emulated processor five seconds at every boot and the host one, once.
//!
//! A directory in the cache is complete or absent: it is made aside and renamed. A kernel that is there is used
//! without asking apt whether there is a newer one, so that runs are repeatable and need no network.

use super::CannotRun;
use anyhow::{Context, Result, anyhow, bail};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The package that names the current kernel package.
const META_PACKAGE: &str = "linux-image-amd64";

/// What is left when a kernel is complete.
const IMAGE: &str = "vmlinux";

/// Directories of drivers for what no guest has: half of all modules.
const NO_SUCH_HARDWARE: [&str; 9] = [
    "sound",
    "drivers/gpu",
    "drivers/iio",
    "drivers/infiniband/hw",
    "drivers/media",
    "drivers/net/ethernet",
    "drivers/net/wireless",
    "drivers/staging",
    "drivers/usb",
];

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What `uname -r` says in the guest.
    pub release: String,
    /// The uncompressed kernel, an ELF file with an entry for direct boot (PVH).
    pub image: PathBuf,
    /// The directory with `modules.dep`.
    pub modules: PathBuf,
}

impl Kernel {
    /// The kernel in the cache; downloads it when there is none.
    pub fn prepare(cache: &Path) -> Result<Kernel> {
        let kernels = cache.join("kernels");
        if let Some(kernel) = newest(&kernels) {
            return Ok(kernel);
        }
        Kernel::make(&kernels)
            .map_err(|error| CannotRun::new(format!("there is no kernel for the guests: {error:#}")).into())
    }

    fn make(kernels: &Path) -> Result<Kernel> {
        fs::create_dir_all(kernels).with_context(|| format!("cannot create {}", kernels.display()))?;
        let aside = tempfile::Builder::new().prefix(".unpacking-").tempdir_in(kernels)?;
        let package = download(aside.path())?;
        unpack(aside.path(), &package)?;
        let name = package.file_stem().context("the package has no name")?;
        let target = kernels.join(name);
        // Another run may have been faster: then its directory stays and ours goes.
        if fs::rename(aside.path().join("kernel"), &target).is_err() && !target.join(IMAGE).exists() {
            bail!("cannot make {}", target.display());
        }
        Kernel::open(&target)
            .with_context(|| format!("{} is not a whole kernel: remove it", target.display()))
    }

    fn open(directory: &Path) -> Option<Kernel> {
        let image = directory.join(IMAGE);
        let modules_root = directory.join("lib/modules");
        let release = fs::read_dir(modules_root).ok()?.flatten().next()?.file_name().into_string().ok()?;
        let modules = directory.join("lib/modules").join(&release);
        (image.exists() && modules.join("modules.dep").exists()).then_some(Kernel { release, image, modules })
    }
}

/// The kernel that was unpacked last.
fn newest(kernels: &Path) -> Option<Kernel> {
    let entries = fs::read_dir(kernels).ok()?.flatten();
    let mut found: Vec<_> = entries
        .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, Kernel::open(&entry.path())?)))
        .collect();
    found.sort_by_key(|(modified, _)| *modified);
    found.pop().map(|(_, kernel)| kernel)
}

/// Brings the package into a directory. The lists of packages may be missing, or name a version that is gone.
fn download(directory: &Path) -> Result<PathBuf> {
    eprintln!("downloading the guests' kernel ({META_PACKAGE}) with apt-get, about 70 MB, once");
    let first = try_download(directory);
    if first.is_ok() {
        return first;
    }
    let updated = run(Command::new("apt-get").args(["update", "-q"]));
    try_download(directory).map_err(|error| {
        let update = updated.err().map(|error| format!("; apt-get update: {error:#}")).unwrap_or_default();
        anyhow!("{error:#}{update}")
    })
}

fn try_download(directory: &Path) -> Result<PathBuf> {
    let about = run(Command::new("apt-cache").args(["show", "--no-all-versions", META_PACKAGE]))?;
    let package = concrete_package(&about).with_context(|| {
        format!("apt knows no {META_PACKAGE}: it is Debian's name for its kernel on x86-64")
    })?;
    run(Command::new("apt-get").args(["download", "-q", &package]).current_dir(directory))?;
    let mut files = fs::read_dir(directory)?.flatten().map(|entry| entry.path());
    files
        .find(|path| path.extension().is_some_and(|kind| kind == "deb"))
        .context("apt-get download left no package")
}

/// The kernel package that the meta package depends on.
fn concrete_package(about: &str) -> Option<String> {
    let depends = about.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let names = depends.split([',', '|']).filter_map(|part| part.split_whitespace().next());
    names.into_iter().find(|name| name.starts_with("linux-image-")).map(str::to_owned)
}

/// Makes `kernel` in the directory: the uncompressed image, the modules and their index.
fn unpack(directory: &Path, package: &Path) -> Result<()> {
    let kernel = directory.join("kernel");
    run(Command::new("dpkg").arg("-x").arg(package).arg(&kernel))?;
    let boot = kernel.join("boot");
    let wrapped = fs::read_dir(&boot)?
        .flatten()
        .find(|entry| entry.file_name().as_encoded_bytes().starts_with(b"vmlinuz-"))
        .context("the package holds no kernel image")?;
    let payload = payload(&fs::read(wrapped.path())?).context("the kernel image has an unknown form")?;
    decompress(&payload, &kernel.join(IMAGE))?;
    let modules = kernel.join("lib/modules");
    let release =
        fs::read_dir(&modules)?.flatten().next().context("the package holds no modules")?.file_name();
    let drivers = modules.join(&release).join("kernel");
    let unneeded = NO_SUCH_HARDWARE.iter().map(|directory| drivers.join(directory));
    for directory in unneeded.chain([boot, kernel.join("usr")]) {
        // What another version of the package has elsewhere or not at all only takes space.
        let _ = fs::remove_dir_all(directory);
    }
    run(Command::new("depmod").arg("-b").arg(&kernel).arg(&release))?;
    Ok(())
}

/// The compressed kernel in a bzImage (kernel documentation, `arch/x86/boot.rst`: `setup_sects`,
/// `payload_offset`, `payload_length`).
fn payload(image: &[u8]) -> Option<Vec<u8>> {
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    if image.get(0x202..0x206)? != b"HdrS" {
        // The signature of the boot protocol is at 0x202.
        return None;
    }
    let setup_sectors = match *image.get(0x1f1)? {
        0 => 4, // as the document says, for compatibility
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    Some(image.get(start..start.checked_add(word(0x24c)?)?)?.to_vec())
}

fn decompress(payload: &[u8], target: &Path) -> Result<()> {
    if !payload.starts_with(b"\xfd7zXZ\0") {
        bail!("the kernel is not compressed with xz, as Debian's are");
    }
    let output = File::create(target).with_context(|| format!("cannot create {}", target.display()))?;
    // The kernel's build appends the unpacked size: more than one stream, to xz.
    let mut xz = Command::new("xz")
        .args(["-dc", "--single-stream"])
        .stdin(Stdio::piped())
        .stdout(output)
        .spawn()
        .context("cannot start xz (package xz-utils)")?;
    // A write that fails shows in xz's own status.
    let _ = xz.stdin.take().context("no pipe to xz")?.write_all(payload);
    let status = xz.wait()?;
    if !status.success() {
        bail!("xz cannot unpack the kernel: {status}");
    }
    Ok(())
}

/// Runs a program and gives its output; its errors are in the error.
fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .env("PATH", super::search_path())
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meta_package_leads_to_a_kernel() {
        let about = "Package: linux-image-amd64\nVersion: 6.1.192-2\n\
                     Depends: linux-base, linux-image-6.1.0-56-amd64 (= 6.1.192-2)\nSize: 1\n";
        assert_eq!(concrete_package(about).unwrap(), "linux-image-6.1.0-56-amd64");
        assert_eq!(concrete_package("Package: x\n"), None);
    }

    #[test]
    fn the_payload_is_cut_out_of_its_wrapper() {
        let mut image = vec![0; 0x250];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&3_u32.to_le_bytes());
        image.resize(1024 + 16, 0);
        image.extend_from_slice(b"abc and more");
        assert_eq!(payload(&image).unwrap(), b"abc");
        image.truncate(1024 + 18);
        assert_eq!(payload(&image), None, "cut short");
        assert_eq!(payload(b"no kernel"), None);
    }

    #[test]
    fn a_directory_that_is_not_whole_is_no_kernel() {
        let cache = tempfile::tempdir().unwrap();
        let kernels = cache.path().join("kernels");
        let modules = kernels.join("one/lib/modules/6.1");
        fs::create_dir_all(&modules).unwrap();
        fs::write(modules.join("modules.dep"), "").unwrap();
        assert!(newest(&kernels).is_none());
        fs::write(kernels.join("one").join(IMAGE), "").unwrap();
        assert_eq!(newest(&kernels).unwrap().release, "6.1");
    }
}
