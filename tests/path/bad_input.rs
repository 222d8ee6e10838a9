//! Everything a person can get wrong before a service runs: exit code 1, and one line that names the
//! remedy.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::{
        fd::IntoRawFd as _,
        unix::{fs::PermissionsExt as _, process::CommandExt as _},
    },
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use hotspan_tests::{
    disk::Disk,
    host::{self, can_record},
    service::{Place, SOON, Service},
};

/// It ends with code 1 and one line that has all of these words.
fn refused(mut service: Service, words: &[&str]) -> Result<()> {
    let status = service.end(SOON)?;
    let said = service.log();
    println!("{}", said.trim());
    ensure!(status.code() == Some(1), "{status}: {said}");
    ensure!(said.lines().count() == 1, "not one line: {said}");
    ensure!(said.starts_with("hotspan: "), "who says so? {said}");
    for word in words {
        ensure!(said.contains(word), "it does not say {word:?}: {said}");
    }
    ensure!(said.matches("os error").count() <= 1, "it says why twice: {said}");
    Ok(())
}

#[test]
fn ports_in_use() -> Result<()> {
    let place = Place::new()?;
    let holds = |port| TcpListener::bind(("127.0.0.1", port));
    let web = holds(place.web)?;
    let words = ["is in use", "stop what listens there", "--web ADDRESS"];
    refused(place.start("collector", &[])?, &words)?;
    drop(web);
    let _ingest = holds(place.ingest)?;
    let words = ["is in use", "stop what listens there", "--ingest ADDRESS"];
    refused(place.start("collector", &[])?, &words)?;
    if can_record() {
        refused(place.start("run", &[])?, &words)?;
    }
    // Who finds a port taken has not touched the other's data.
    ensure!(!place.data_dir().exists(), "a data directory was made");
    Ok(())
}

#[test]
fn data_directories_that_cannot_be_used() -> Result<()> {
    let place = Place::new()?;
    fs::write(place.data_dir(), "")?;
    let data = place.data_dir().to_string_lossy().into_owned();
    refused(
        place.start("collector", &[])?,
        &[&data, "is not a directory", "another place (--data-dir)"],
    )?;
    fs::remove_file(place.data_dir())?;
    if !can_record() {
        return Ok(());
    }
    let disk = Disk::mount(&place.data_dir(), "16m")?;
    disk.read_only()?;
    let words = [&data, "Read-only file system", "check its owner", "another --data-dir"];
    refused(place.start("collector", &[])?, &words)?;
    refused(place.start("run", &[])?, &words)
}

#[test]
fn data_directories_in_use() -> Result<()> {
    let (place, other) = (Place::new()?, Place::new()?);
    let collector = place.collector(&[])?;
    let mut second = Command::new(host::hotspan()?);
    second.args(["collector", "--data-dir"]).arg(place.data_dir());
    second.args(["--web", &format!("127.0.0.1:{}", other.web)]);
    second.args(["--ingest", &format!("127.0.0.1:{}", other.ingest)]);
    let pid = collector.child.id().to_string();
    let words = ["is in use by process", &pid, "stop it", "--data-dir"];
    refused(other.spawn(second, "collector")?, &words)?;
    ensure!(collector.stop()?.success(), "the collector does not end well");
    Ok(())
}

#[test]
fn settings_that_are_wrong() -> Result<()> {
    let place = Place::new()?;
    let file = place.scratch.file("hotspan.toml");
    let config = file.to_string_lossy().into_owned();
    let with = |text: &str, words: &[&str]| -> Result<()> {
        fs::write(&file, text)?;
        refused(place.start("collector", &["--config", &config])?, words)
    };
    let at = |line: u32| format!("{config}:{line}");
    with("hz = 99\nretention_agee = \"7d\"\n", &[&at(2), "did you mean `retention_age`?"])?;
    with("retention_age = \"7 moons\"\n", &["retention_age", &at(1), "a duration such as 7d"])?;
    with("hz = \"many\"\n", &["hz", "a number from 1 to 10000"])?;
    with("= 3\n", &[&at(1)])?;
    let absent = ["--config", "/nowhere/hotspan.toml"];
    refused(place.start("collector", &absent)?, &["/nowhere/hotspan.toml", "--config"])?;
    let small = ["--retention-bytes", "1MiB"];
    refused(place.start("collector", &small)?, &["--retention-bytes", "at least 64MiB"])?;
    // What everybody can reach wants a token.
    let mut open = Command::new(host::hotspan()?);
    open.args(["collector", "--web", "0.0.0.0:0", "--ingest", "127.0.0.1:0", "--data-dir"]);
    open.arg(place.data_dir());
    refused(place.spawn(open, "collector")?, &["reachable from other hosts", "web_token"])
}

#[test]
fn collectors_and_tokens_that_are_not_there() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let place = Place::new()?;
    let collector = place.collector(&[])?;
    let token = place.data_dir().join("ingest-token");
    let agent = |url: &str, token: &str| {
        place.alone("agent", || {
            let mut command = Command::new(host::hotspan()?);
            command.args(["agent", "--collector", url, "--ingest-token-file", token]);
            Ok(command)
        })
    };
    let here = format!("http://127.0.0.1:{}", place.ingest);
    let good = token.to_string_lossy().into_owned();
    // A label has at most 63 characters: known to be nobody's without asking anybody.
    let nowhere = &format!("http://{}.invalid:7691", "no-such-host".repeat(6));
    refused(agent(nowhere, &good)?, &["unknown collector", nowhere, "--collector"])?;
    refused(agent("127.0.0.1", &good)?, &["must be http://HOST:PORT"])?;
    let missing = agent(&here, "/nowhere/ingest-token")?;
    let words = ["/nowhere/ingest-token", "copy it from the collector", "--ingest-token-file"];
    refused(missing, &words)?;
    let file = place.scratch.file("token");
    let wrong = file.to_string_lossy().into_owned();
    fs::write(&file, "short\n")?;
    // One that others can read is warned of.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    refused(agent(&here, &wrong)?, &["16 or more", "delete it"])?;
    fs::write(&file, "0123456789abcdef0123456789abcdef")?;
    let words = ["wants its token", "copy that file", "--ingest-token-file"];
    refused(agent(&here, &wrong)?, &words)?;
    let health = place.health()?;
    ensure!(health.collector["refused"]["token"] == 1, "{:?}", health.collector);
    ensure!(health.agents.is_empty(), "it is in the accounting: {:?}", health.agents);
    ensure!(collector.stop()?.success(), "the collector does not end well");
    Ok(())
}

#[test]
fn users_who_may_not() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    const NOBODY: u32 = 65_534;
    let place = Place::new()?;
    for command in ["run", "agent"] {
        // By descriptor: the build's folder may be closed to others.
        let program = File::open(host::hotspan()?)?.into_raw_fd();
        let mut hotspan = Command::new(format!("/proc/self/fd/{program}"));
        // SAFETY: fcntl is async-signal-safe and touches no memory.
        unsafe {
            hotspan.pre_exec(move || match libc::fcntl(program, libc::F_SETFD, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        hotspan.args([command, "--data-dir", "/nowhere"]).uid(NOBODY).gid(NOBODY).current_dir("/");
        let words = ["65534", "lacks CAP_BPF and CAP_PERFMON", "as root (sudo)"];
        let refusal = place.spawn(hotspan, command).and_then(|service| refused(service, &words));
        // SAFETY: this test opened it, and nothing else knows it.
        unsafe { libc::close(program) };
        refusal.context(command)?;
    }
    Ok(())
}

/// A store that a later hotspan has written is not touched; a flipped bit is not a later hotspan.
#[test]
fn stores_of_a_newer_version() -> Result<()> {
    let place = Place::new()?;
    let collector = place.collector(&[])?;
    ensure!(collector.stop()?.success(), "the collector does not end well");
    let part = fs::read_dir(place.data_dir())?
        .filter_map(|file| Some(file.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "db"))
        .context("a part")?;
    let whole = fs::read(&part)?;
    let newer = rusqlite::Connection::open(&part)?;
    newer.execute_batch(
        "PRAGMA user_version = 99; UPDATE meta SET value = 99 WHERE key = 'version'; \
         PRAGMA wal_checkpoint(TRUNCATE);",
    )?;
    newer.close().map_err(|(_, error)| error)?;
    let written = fs::read(&part)?;
    let name = part.file_name().context("a name")?.to_string_lossy().into_owned();
    let words = [&name, "version 99", "run the newer hotspan", "move the directory away"];
    refused(place.start("collector", &[])?, &words)?;
    ensure!(fs::read(&part)? == written, "a newer store was changed");

    // The header alone, as a bad disk would.
    let mut flipped = whole;
    flipped[60..64].copy_from_slice(&99_u32.to_be_bytes());
    fs::write(&part, flipped)?;
    let collector = place.collector(&[])?;
    let aside = place.health()?.store["set_aside"].clone();
    ensure!(aside[0]["reason"] == "its header contradicts its contents", "{aside}");
    ensure!(collector.stop()?.success(), "the collector does not end well");
    Ok(())
}
