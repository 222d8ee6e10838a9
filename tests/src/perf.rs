//! The chains of functions that `perf record --call-graph dwarf` finds in a process: it copies the
//! stack and unwinds it afterwards, by libraries hotspan does not use.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    chains::{Chain, Chains, ELSEWHERE},
    host,
    unwind::Symbols,
};

/// Samples a second: not as many as hotspan takes, or each might see the other's interrupt only.
const HZ: &str = "487";

/// Whether perf is there and works; prints when not.
pub fn is_installed() -> bool {
    let usable = Command::new("perf").arg("--version").output();
    let usable = usable.is_ok_and(|output| output.status.success());
    if !usable {
        eprintln!("skipped: no perf to compare with");
    }
    usable
}

/// Records a process for some seconds. Functions that `symbols` has are named, others are elsewhere.
pub fn chains(pid: u32, seconds: u32, symbols: &Symbols) -> Result<Chains> {
    let scratch = host::Scratch::new()?;
    let data = scratch.file("perf.data");
    let mut record = Command::new("perf");
    record.args(["record", "-q", "-e", "cpu-clock:u", "-F", HZ, "--call-graph", "dwarf,65528"]);
    record.args(["-p", &pid.to_string(), "-o"]).arg(&data);
    record.args(["--", "sleep", &seconds.to_string()]);
    say(&mut record)?;
    Ok(parse(&script(&data)?, symbols))
}

fn script(data: &Path) -> Result<String> {
    let mut script = Command::new("perf");
    script.args(["script", "--no-inline", "-F", "tid,ip,sym", "-i"]).arg(data);
    say(&mut script)
}

fn say(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().context("perf does not start")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {complaint}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Samples are paragraphs: a line of the thread, then `ADDRESS FUNCTION`, innermost first.
fn parse(text: &str, symbols: &Symbols) -> Chains {
    let mut chains = Chains::new();
    for sample in text.split("\n\n") {
        let names = sample.trim_start().lines().skip(1).filter_map(|line| {
            let name = line.split_whitespace().nth(1)?;
            let name = name.split(['@', '.', '+']).next().unwrap_or(name);
            // Two names of one function of glibc.
            let name = name.strip_suffix("_impl").unwrap_or(name);
            Some(if symbols.has(name) { name } else { ELSEWHERE }.to_owned())
        });
        let mut chain: Chain = names.collect();
        chain.reverse();
        if !chain.is_empty() {
            *chains.entry(chain).or_default() += 1;
        }
    }
    chains
}
