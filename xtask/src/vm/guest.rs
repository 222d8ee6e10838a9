//! The emulated machine: an initramfs with hotspan, its workload and `tests/vm`, two disks, and qemu
//! under a deadline.
//!
//! The first disk is one to write to durably; on the second the guest leaves its results as a tar
//! file. The console is for people, and for what a dying kernel has to say.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{fresh, kernel, kernel::Kernel};
use crate::{cargo, process};

/// Begins each line the guest's init says to us.
const SAYS: &str = "hotspan-vm: ";
/// Sizes of the two disks; sparse files.
const WORK_DISK: u64 = 256 << 20;
const RESULT_DISK: u64 = 256 << 20;
/// How often the console is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A machine ready to boot.
#[derive(Debug)]
pub(super) struct Guest {
    folder: PathBuf,
    kernel: PathBuf,
    initramfs: PathBuf,
    work_disk: PathBuf,
    result_disk: PathBuf,
}

/// A machine at work, ended when this value goes.
struct Machine(Child);

// === impl Guest ===

impl Guest {
    /// Makes initramfs and disks in `folder`.
    pub(super) fn new(
        folder: &Path,
        kernel: &Kernel,
        programs: &Path,
        scenarios: &[String],
    ) -> Result<Self> {
        let root = fresh(folder.join("root"))?;
        fill(&root, programs)?;
        fs::write(root.join("scenarios"), scenarios.join("\n") + "\n")?;
        copy_into(&root, &kernel.configuration, "boot")?;
        let guest = Self {
            folder: folder.to_owned(),
            kernel: kernel.image.clone(),
            initramfs: folder.join("initramfs"),
            work_disk: folder.join("work.disk"),
            result_disk: folder.join("result.disk"),
        };
        pack(&root, &guest.initramfs)?;
        // Emptied first: a guest that dies early must not leave us the results of the last one.
        File::create(&guest.result_disk)?.set_len(RESULT_DISK)?;
        File::create(&guest.work_disk)?.set_len(WORK_DISK)?;
        let mut mkfs = Command::new(kernel::tool("mkfs.ext4")?);
        process::run(mkfs.args(["-q", "-F"]).arg(&guest.work_disk))?;
        Ok(guest)
    }

    /// Boots, waits for the end and returns the folder of the results.
    pub(super) fn run(&self, limit: Duration) -> Result<PathBuf> {
        let console = self.folder.join("console.log");
        File::create(&console)?;
        let mut machine = Machine(self.qemu(&console)?);
        let deadline = Instant::now() + limit;
        let mut shown = 0;
        let ended = loop {
            let status = machine.0.try_wait()?;
            let text = read_lossy(&console);
            shown = show(&text, shown);
            if status.is_some() || Instant::now() >= deadline {
                break status;
            }
            thread::sleep(LOOK_AGAIN);
        };
        drop(machine);

        let text = read_lossy(&console);
        if !text.lines().any(|line| line.trim_end() == format!("{SAYS}end")) {
            let how = match ended {
                Some(status) => format!("the machine stopped early ({status})"),
                None => format!("no end within {} s: raise --deadline", limit.as_secs()),
            };
            bail!("{how}; {} ends with:\n{}", console.display(), tail(&text, 30));
        }
        let results = fresh(self.folder.join("out"))?;
        process::run(
            Command::new("tar").arg("-xf").arg(&self.result_disk).arg("-C").arg(&results),
        )?;
        Ok(results)
    }

    fn qemu(&self, console: &Path) -> Result<Child> {
        let disk = |name: &str, file: &Path| {
            // A comma in the value of an option is written twice.
            let file = file.display().to_string().replace(',', ",,");
            let drive = format!("if=none,id={name},format=raw,file={file}");
            [
                "-drive".to_owned(),
                drive,
                "-device".to_owned(),
                format!("nvme,drive={name},serial={name}"),
            ]
        };
        let serial = console.display().to_string().replace(',', ",,");
        let mut qemu = Command::new("setpriv");
        // Should we be killed, so is the machine.
        qemu.args(["--pdeathsig", "KILL"])
            .arg(kernel::tool("qemu-system-x86_64")?)
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-serial", &format!("file:{serial}")])
            .args(disk("work", &self.work_disk))
            .args(disk("result", &self.result_disk))
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs)
            .args(["-append", "console=ttyS0 rdinit=/init panic=-1 loglevel=4"])
            .stdin(Stdio::null());
        qemu.spawn().context("setpriv does not start: install util-linux")
    }
}

// === impl Machine ===

impl Drop for Machine {
    fn drop(&mut self) {
        // It has ended already, or must: past its deadline, or we failed meanwhile.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything the guest's root holds but what is particular to a run.
fn fill(root: &Path, programs: &Path) -> Result<()> {
    for folder in ["proc", "sys", "dev", "tmp", "disk"] {
        fs::create_dir(root.join(folder))?;
    }
    let scripts = cargo::root().join("tests/vm");
    copy_into(root, &scripts.join("init"), "")?;
    copy_into(root, &scripts.join("programs"), "bin")?;
    copy_into(root, &kernel::tool("busybox")?, "bin")?;
    for name in ["hotspan", "truth"] {
        let program = programs.join(name);
        copy_into(root, &program, "bin")?;
        let mut ldd = Command::new("ldd");
        let text = process::output(ldd.arg(&program))
            .with_context(|| format!("ldd cannot read {}", program.display()))?;
        for library in libraries(&text) {
            let library = Path::new(library);
            let place = library.parent().and_then(|folder| folder.strip_prefix("/").ok());
            copy_into(root, library, place.unwrap_or(Path::new("lib")))?;
        }
    }
    Ok(())
}

/// Copies a file with its mode into a folder of the root.
fn copy_into(root: &Path, file: &Path, folder: impl AsRef<Path>) -> Result<()> {
    let folder = root.join(folder);
    fs::create_dir_all(&folder)?;
    let name = file.file_name().context("a file has a name")?;
    fs::copy(file, folder.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
    Ok(())
}

/// The absolute paths in the output of ldd: `NAME => PATH (ADDRESS)` or `PATH (ADDRESS)`.
fn libraries(ldd: &str) -> impl Iterator<Item = &str> {
    ldd.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

/// Packs a root as the kernel unpacks it: cpio, format newc.
fn pack(root: &Path, initramfs: &Path) -> Result<()> {
    let names = initramfs.with_extension("names");
    let mut find = Command::new("find");
    process::run(find.current_dir(root).arg(".").stdout(File::create(&names)?))?;
    let mut cpio = Command::new(kernel::tool("busybox")?);
    cpio.args(["cpio", "-o", "-H", "newc", "-R", "0:0"]).current_dir(root);
    process::run(cpio.stdin(File::open(&names)?).stdout(File::create(initramfs)?))
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Prints what the guest said since `told` complete lines of it; returns how many there are now.
fn show(console: &str, shown: usize) -> usize {
    let complete = console.rfind('\n').map_or("", |end| &console[..end]);
    let said = complete.lines().filter_map(|line| line.trim_end().strip_prefix(SAYS));
    let mut count = 0;
    for line in said {
        count += 1;
        if count > shown {
            println!("guest: {line}");
        }
    }
    count
}

/// The last lines.
pub(super) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_absolute_paths() {
        let ldd = "\
\tlinux-vdso.so.1 (0x00007ffc2a5f2000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f3c5a000000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f3c5a3f2000)
";
        let found: Vec<_> = libraries(ldd).collect();
        assert_eq!(found, ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }

    #[test]
    fn the_guest_is_reported_once_and_in_whole_lines() {
        assert_eq!(show("[0.1] x\nhotspan-vm: a\r\nhotspan-vm: b", 0), 1);
        assert_eq!(show("[0.1] x\nhotspan-vm: a\r\nhotspan-vm: b\n", 1), 2);
    }

    #[test]
    fn the_tail_is_the_end() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }
}
