//! Running other programs: every command is printed before it starts, and a failure names it.

use std::{
    env,
    ffi::OsStr,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use anyhow::{Context as _, Result, bail};

/// Prints `command` as one would type it, runs it with our own terminal and fails if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = typed(command);
    println!("$ {line}");
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Standard output of `command`, or `None` if it is absent or fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Asks a child, which may be sudo, to end (SIGTERM).
pub(crate) fn terminate(child: &Child) -> Result<()> {
    let mut kill = if is_root() { Command::new("kill") } else { Command::new("sudo") };
    if !is_root() {
        kill.arg("kill");
    }
    let status = kill.args(["-TERM", &child.id().to_string()]).status().context("cannot kill")?;
    if !status.success() {
        bail!("process {} cannot be asked to end", child.id());
    }
    Ok(())
}

/// The first executable called `name` in PATH, then in `more`.
pub(crate) fn find(name: &str, more: &[PathBuf]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(more.iter().cloned())
        .map(|directory| directory.join(name))
        .find(|candidate| is_executable(candidate))
}

/// Whether this is a file somebody may execute.
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether we run as root (the effective user of this process).
pub(crate) fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective_uid(&status) == Some(0)
}

/// The effective user id in the text of `/proc/PID/status`.
fn effective_uid(status: &str) -> Option<u32> {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().nth(1)?.parse().ok()
}

/// The command as one would type it, its own environment variables included.
fn typed(command: &Command) -> String {
    let mut line = String::new();
    for (name, value) in command.get_envs() {
        // PATH is only extended by the directory of bpf-linker: noise to the reader.
        if let (Some(value), true) = (value, name != "PATH") {
            let _ = write!(line, "{}={} ", name.display(), quoted(value));
        }
    }
    let program = Path::new(command.get_program());
    // cargo passes us its own absolute path; what people type is its name.
    let name = program.file_name().filter(|name| *name == "cargo").unwrap_or(program.as_os_str());
    line.push_str(&quoted(name));
    for argument in command.get_args() {
        let _ = write!(line, " {}", quoted(argument));
    }
    line
}

/// The word as a shell takes it.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_uid_is_the_second_column() {
        let status = "Name:\tx\nUid:\t1000\t0\t1000\t1000\nGid:\t5\t5\t5\t5\n";
        assert_eq!(effective_uid(status), Some(0));
        assert_eq!(effective_uid("Name:\tx\n"), None);
        assert_eq!(effective_uid("Uid:\t1000\n"), None);
    }

    #[test]
    fn commands_are_printed_as_typed() {
        let mut command = Command::new("/somewhere/bin/cargo");
        command.args(["test", "it's", ""]).env("A", "b c").env("PATH", "/x");
        assert_eq!(typed(&command), r"A='b c' cargo test 'it'\''s' ''");
    }

    #[test]
    fn failure_names_the_command() {
        let error = run(&mut Command::new("false")).unwrap_err();
        assert!(error.to_string().contains("`false` failed"), "{error}");
        let error = run(&mut Command::new("/nonexistent/x")).unwrap_err();
        assert!(error.to_string().contains("cannot start `/nonexistent/x`"), "{error}");
    }

    #[test]
    fn finds_only_executables() {
        assert!(find("sh", &[]).is_some());
        assert_eq!(
            find("passwd", &[PathBuf::from("/etc")]).filter(|p| p.starts_with("/etc")),
            None
        );
    }
}
