//! Programs of another user whose symbols and debug information are made to end who reads them, or to
//! make it read for ever. The agent lives and is no larger, its readers may do nothing else, an honest
//! program beside them keeps its spans, and what it costs is counted.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use hotspan_tests::{
    accounting,
    host::{can_record, read_text, wait_until},
    publisher::{MIXED, Publisher, all_found},
    service::{Place, SOON},
};

const NOBODY: u32 = 65_534;
/// What the agent may have at its largest, of the 512 MB that the unit gives it and its readers.
const MOST_KB: u64 = 256 << 10;
/// Bytes of debug information to unpack, twice.
const UNPACKED: u64 = 300 << 20;

/// Debug information that nests a million inlined functions, around code that runs.
const NESTED: &str = include_str!("../workloads/attacks/nested.s");

/// Killed and reaped when this value goes.
struct Attacker(Child);

impl Attacker {
    fn start(program: &Path) -> Result<Self> {
        chown(program, Some(NOBODY), Some(NOBODY))?;
        let mut command = Command::new(program);
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().context("the attacker does not start")?))
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) -> Result<()> {
    ensure!(command.status()?.success(), "{command:?}");
    Ok(())
}

fn nested(folder: &Path) -> Result<PathBuf> {
    let (source, program) = (folder.join("nested.s"), folder.join("nested"));
    fs::write(&source, NESTED)?;
    let mut cc = Command::new("cc");
    cc.args(["-no-pie", "-nostdlib", "-Wl,-e,main", "-o"]).arg(&program).arg(&source);
    run(&mut cc)?;
    Ok(program)
}

/// Small programs whose debug information is large, and a name that stands for gigabytes.
fn large(folder: &Path) -> Result<[PathBuf; 2]> {
    let mut name = "_Z1f1aIiiE".to_owned();
    for level in 0..28_u32 {
        let back = match level {
            0 => "S0_".to_owned(),
            n => format!("S{}_", char::from_digit(n, 36).unwrap_or('Z').to_ascii_uppercase()),
        };
        name.push_str(&format!("S_I{back}{back}E"));
    }
    let (source, program, zeros) =
        (folder.join("large.c"), folder.join("large"), folder.join("zeros"));
    let text = format!(
        "int bomb(void) __asm__(\"{name}\");\n\
         int bomb(void) {{ volatile unsigned x = 0; for (;;) x++; }}\n\
         int main(void) {{ return bomb(); }}\n"
    );
    fs::write(&source, text)?;
    fs::File::create(&zeros)?.set_len(UNPACKED)?;
    run(Command::new("cc").args(["-g", "-O1", "-o"]).arg(&program).arg(&source))?;
    let section = format!(".debug_types={}", zeros.display());
    run(Command::new("objcopy").args(["--add-section", &section]).arg(&program))?;
    run(Command::new("objcopy").arg("--compress-debug-sections=zlib").arg(&program))?;
    fs::remove_file(&zeros)?;
    let copies = [folder.join("large1"), folder.join("large2")];
    for copy in &copies {
        fs::copy(&program, copy)?;
    }
    Ok(copies)
}

/// The processes that read for an agent.
fn readers(agent: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{agent}/task")).into_iter().flatten().flatten();
    let children = tasks.map(|task| read_text(task.path().join("children")));
    children
        .flat_map(|text| {
            text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// Every thread of a reader has no capability and a filter.
fn is_fenced(reader: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{reader}/task")).into_iter().flatten().flatten();
    let statuses: Vec<_> = tasks.map(|task| read_text(task.path().join("status"))).collect();
    let has = |status: &str, line: &str| {
        status.lines().any(|its| its.split_whitespace().eq(line.split(' ')))
    };
    !statuses.is_empty()
        && statuses.iter().all(|status| {
            has(status, "CapEff: 0000000000000000")
                && has(status, "CapPrm: 0000000000000000")
                && has(status, "NoNewPrivs: 1")
                && has(status, "Seccomp: 2")
        })
}

fn kilobytes(pid: u32, key: &str) -> u64 {
    let status = read_text(format!("/proc/{pid}/status"));
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.trim_end_matches("kB").trim().parse().ok()).unwrap_or(u64::MAX)
}

#[test]
fn what_ends_a_reader_ends_nothing_else() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let place = Place::new()?;
    // Nobody may run what is in it.
    let folder = std::env::temp_dir().join(format!("attacks-symbols-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let (deep, copies) = (nested(&folder)?, large(&folder)?);
    let mut service = place.run(&[])?;
    let agent = service.child.id();
    let publisher = Publisher::start(MIXED);
    let loss = |key: &str| {
        let health = place.health().ok()?;
        health.agents.iter().find(|agent| agent.connected)?.loss.get(key).copied()
    };
    let attackers =
        [Attacker::start(&deep)?, Attacker::start(&copies[0])?, Attacker::start(&copies[1])?];
    // They are named in any order: one file is refused, and of the others one is too much.
    for key in ["symbol_parsers_lost", "symbol_files_shed"] {
        let counted = wait_until(3 * SOON, || loss(key).is_some_and(|n| n > 0));
        ensure!(counted, "{key} is not counted: {:?}; {}", place.health(), service.log());
    }
    let fenced = wait_until(SOON, || {
        let readers = readers(agent);
        !readers.is_empty() && readers.len() <= 3 && readers.into_iter().all(is_fenced)
    });
    ensure!(fenced, "readers are not behind a fence: {:?}", readers(agent));
    drop(attackers);
    let truths = publisher.finish()?;
    place.settle()?;
    all_found(&place, "beside what ends readers", truths)?;
    ensure!(matches!(service.child.try_wait(), Ok(None)), "the agent ended: {}", service.log());
    let most = kilobytes(agent, "VmHWM:");
    ensure!(most <= MOST_KB, "the agent had {most} KiB");
    let _ = fs::remove_dir_all(&folder);
    let may_lose = ["markers_unread", "markers_unclaimed"];
    let readers = readers(agent);
    let (collector, _) = accounting::end_well(&place, service, None, &may_lose)?;
    let alone = |reader: &u32| Path::new(&format!("/proc/{reader}")).exists();
    ensure!(wait_until(SOON, || !readers.iter().any(alone)), "readers outlive their agent");
    let status = collector.stop()?;
    ensure!(status.success(), "{status}");
    Ok(())
}
