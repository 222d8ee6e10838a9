//! A small file system of a test's own: it can be full, and it can be read-only. Unmounted at the
//! end, however the test ends: declare it after the folder it lies in, so that it goes first.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

/// A tmpfs at a folder.
#[derive(Debug)]
pub struct Disk(PathBuf);

// === impl Disk ===

impl Disk {
    /// Mounts one of this size, as `16m`, at a folder that is made.
    pub fn mount(folder: &Path, size: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let options = format!("size={size},mode=700");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder))?;
        Ok(Self(folder.to_owned()))
    }

    pub fn read_only(&self) -> Result<()> {
        run(Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0))
    }

    /// Fills it to the last page; removing the file makes room again.
    pub fn fill(&self) -> Result<PathBuf> {
        let ballast = self.0.join("ballast");
        let mut file = File::create(&ballast)?;
        loop {
            match file.write(&[0; 4096]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(ballast),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process of a failed test may still have a file open.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}
