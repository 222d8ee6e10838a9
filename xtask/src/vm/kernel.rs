//! Debian's kernels and the programs that boot them, by apt. A kernel is downloaded and unpacked,
//! never installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::fresh;
use crate::process;

/// Where `mkfs.ext4` is when PATH is a user's.
const SUPERUSER: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Programs that are called, and their packages. setpriv and ldd are on every Debian.
const TOOLS: [(&str, &str); 4] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("mkfs.ext4", "e2fsprogs"),
    ("dpkg-deb", "dpkg"),
];

/// The files of an unpacked kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    /// hotspan reads how the kernel accounts interrupts from it.
    pub(super) configuration: PathBuf,
}

/// Installs what is missing of the tools.
pub(super) fn tools() -> Result<()> {
    if process::find("apt-get", &[]).is_none() {
        bail!("kernels come from Debian by apt-get, which is not here: use a Debian host or image");
    }
    let missing = || -> Vec<&str> {
        let absent = |(name, _): &&(&str, &str)| tool(name).is_err();
        TOOLS.iter().filter(absent).map(|&(_, package)| package).collect()
    };
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !process::is_root() {
        bail!("missing: {list}. As root run: apt-get update && apt-get install -y {list}");
    }
    update()?;
    process::run(
        Command::new("apt-get")
            .args(["install", "-y", "--no-install-recommends"])
            .args(&packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )?;
    match missing().as_slice() {
        [] => Ok(()),
        still => bail!("apt-get installed {} without the programs wanted of it", still.join(" ")),
    }
}

/// A program of the list above.
pub(super) fn tool(name: &str) -> Result<PathBuf> {
    let more = SUPERUSER.map(PathBuf::from);
    process::find(name, &more).with_context(|| format!("{name} is not on PATH"))
}

fn update() -> Result<()> {
    process::run(Command::new("apt-get").arg("update"))
}

/// The newest signed cloud kernel package of a series.
pub(super) fn newest(series: &str) -> Result<String> {
    let find = || {
        let pattern = format!(r"^linux-image-{}\.[0-9].*-cloud-amd64$", series.replace('.', r"\."));
        let command = ["search", "--names-only", &pattern];
        let text = process::output(Command::new("apt-cache").args(command)).unwrap_or_default();
        newest_of(&text).map(str::to_owned)
    };
    if let Some(package) = find() {
        return Ok(package);
    }
    if process::is_root() {
        update()?;
    }
    find().with_context(|| {
        format!(
            "apt offers no linux-image-{series}.*-cloud-amd64: run `apt-get update` as root, or add \
             a Debian release that has it to /etc/apt (6.1: bookworm; 6.12: trixie, or \
             bookworm-backports)"
        )
    })
}

/// The highest version among the lines `PACKAGE - DESCRIPTION`.
fn newest_of(search: &str) -> Option<&str> {
    let packages = search.lines().filter_map(|line| line.split_whitespace().next());
    packages.max_by_key(|package| numbers(package))
}

/// The numbers in a name, in order: versions of one series compare by them.
fn numbers(name: &str) -> Vec<u64> {
    let digits = name.split(|c: char| !c.is_ascii_digit());
    digits.filter_map(|part| part.parse().ok()).collect()
}

/// The package's files, downloaded if they are not there.
pub(super) fn extracted(package: &str, folder: &Path) -> Result<Kernel> {
    let files = folder.join("kernel");
    let version = package.strip_prefix("linux-image-").unwrap_or(package);
    let boot = files.join("boot");
    let kernel = Kernel {
        image: boot.join(format!("vmlinuz-{version}")),
        configuration: boot.join(format!("config-{version}")),
    };
    if kernel.image.exists() && kernel.configuration.exists() {
        return Ok(kernel);
    }
    fresh(files.clone())?;
    let archive = download(package, &fresh(folder.join("download"))?)?;
    process::run(Command::new(tool("dpkg-deb")?).arg("-x").arg(&archive).arg(&files))?;
    if !kernel.image.exists() {
        bail!("{package} holds no {}: try another --kernel", kernel.image.display());
    }
    // Its modules are not used: the disks and file systems of the guest are built in.
    fs::remove_dir_all(files.join("lib")).or_else(|_| fs::remove_dir_all(files.join("usr/lib")))?;
    fs::remove_file(&archive)?;
    Ok(kernel)
}

fn download(package: &str, folder: &Path) -> Result<PathBuf> {
    let get =
        || process::run(Command::new("apt-get").args(["download", package]).current_dir(folder));
    if let Err(error) = get() {
        // The lists may be older than what the mirror still has.
        if !process::is_root() {
            return Err(error.context("run `apt-get update` as root and try again"));
        }
        update()?;
        get()?;
    }
    let mut entries = fs::read_dir(folder)?;
    let entry = entries.next().with_context(|| format!("apt-get brought no {package}"))??;
    Ok(entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_by_number() {
        let search = "\
linux-image-6.1.0-9-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)
linux-image-6.1.0-56-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)
linux-image-6.1.0-47-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)
";
        assert_eq!(newest_of(search), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest_of(""), None);
    }

    #[test]
    fn suffixes_do_not_hide_the_version() {
        let older = numbers("linux-image-6.12.9+bpo-cloud-amd64");
        assert!(older < numbers("linux-image-6.12.117+deb12-cloud-amd64"));
    }
}
