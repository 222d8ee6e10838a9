//! Names in a report: those of the functions in which the time went, and no others.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use hotspan_tests::{
    check::conservation_problems,
    fixture::Recorder,
    host::{self, can_record},
    report::{Report, Span},
};

/// Functions of C that are types of C++ to a demangler. Each is also a span's name.
const FUNCTIONS: [&str; 6] = ["b", "f", "i", "v", "St", "PKc"];

/// Builds the workload, linked in one of the ways that stubs differ by.
fn build(folder: &Path, options: &[&str]) -> Result<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/names");
    let headers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/lanes/c");
    let (library, program) = (folder.join("libcalled.so"), folder.join("calls"));
    let compiler = || {
        let mut compiler = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
        compiler.args(["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra"]).args(options);
        compiler
    };
    let run = |compiler: &mut Command| -> Result<()> {
        ensure!(compiler.status()?.success(), "{compiler:?}");
        Ok(())
    };
    let of_library = ["-shared", "-fPIC", "-o"];
    run(compiler().args(of_library).arg(&library).arg(sources.join("library.c")))?;
    let rpath = format!("-Wl,-rpath,{}", folder.display());
    let sources = [sources.join("calls.c"), library];
    run(compiler().arg("-I").arg(headers).arg(rpath).arg("-o").arg(&program).args(sources))?;
    Ok(program)
}

fn span<'a>(report: &'a Report, name: &str) -> Result<&'a Span> {
    report.spans.iter().find(|span| span.name == name).with_context(|| format!("no span {name}"))
}

/// The time in each function itself, most first.
fn selves(span: &Span) -> Vec<(&str, u64)> {
    let mut selves: BTreeMap<&str, u64> = BTreeMap::new();
    for method in &span.methods {
        *selves.entry(&method.name).or_default() += method.self_ns;
    }
    let mut selves: Vec<_> = selves.into_iter().filter(|&(_, ns)| ns > 0).collect();
    selves.sort_by_key(|&(_, ns)| std::cmp::Reverse(ns));
    selves
}

fn names(options: &[&str]) -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let scratch = host::Scratch::new()?;
    let program = build(scratch.path(), options)?;
    let recording = Recorder::new()?.record(vec![program.into()])?;
    ensure!(recording.status.success(), "{}: {}", recording.status, recording.stderr);
    let report = recording.report()?;
    let problems = conservation_problems(report);
    ensure!(problems.is_empty(), "{problems:?}");
    for name in FUNCTIONS {
        let selves = selves(span(report, name)?);
        println!("{name}: {selves:?}");
        ensure!(selves.first().is_some_and(|(most, _)| *most == name), "{name}: {selves:?}");
    }
    let selves = selves(span(report, "stubs")?);
    println!("{options:?}: {selves:?}");
    // It has no size, and is what is linked before the stubs.
    ensure!(selves.iter().all(|(name, _)| *name != "_init"), "{options:?}: {selves:?}");
    // A tenth of the time or more, by how a CPU runs jumps to jumps.
    let is_stub = |name: &str| name.starts_with("hop_") && name.ends_with("@plt");
    let is_there = selves.iter().any(|(name, _)| is_stub(name));
    ensure!(is_there, "{options:?}: nothing in stubs: {selves:?}");
    Ok(())
}

#[test]
fn stubs_that_bind_when_they_are_called_first() -> Result<()> {
    names(&["-Wl,-z,lazy"])
}

#[test]
fn stubs_that_are_bound_at_once() -> Result<()> {
    names(&["-Wl,-z,now"])
}

/// With Intel's IBT the stubs are in two sections.
#[test]
#[cfg(target_arch = "x86_64")]
fn stubs_that_may_be_jumped_to() -> Result<()> {
    names(&["-Wl,-z,lazy", "-Wl,-z,ibtplt", "-fcf-protection"])
}
