//! Making the tables of large files: time and memory, each time in a process of its own, with and
//! without the cache on disk; and what the tables take beside their bare rows.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use hotspan::unwind::{cache::Cache, image::Source, table::Table};
use hotspan_tests::host::Scratch;
use serde::{Deserialize, Serialize};

use crate::{
    Line,
    sample::{apart, median},
    watched,
};

const RUNS: usize = 5;

/// What one process found.
#[derive(Debug, Serialize, Deserialize)]
struct Parsed {
    ms: f64,
    /// Memory at its highest beyond what the process began with, MB.
    peak_mb: f64,
    /// Words of the table in the kernel.
    words: usize,
    /// Rows, equal neighbours merged.
    rows: usize,
}

pub(super) fn measure() -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (name, file) in [("libjvm", libjvm()), ("node", node()), ("libLLVM", llvm())] {
        match file {
            Some(file) => lines.extend(of_file(name, &file)?),
            None => lines.push(Line::skipped(format!("table of {name}"), "it is not here")),
        }
    }
    Ok(lines)
}

fn of_file(name: &str, file: &Path) -> Result<Vec<Line>> {
    let folder = Scratch::new()?;
    let cache = folder.file("cache");
    // Fills the cache and brings the file into memory.
    child(file, Some(&cache))?;
    let (mut parsed, mut cached) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        parsed.push(child(file, None)?);
        cached.push(child(file, Some(&cache))?);
    }
    let of =
        |runs: &[Parsed], what: fn(&Parsed) -> f64| -> Vec<f64> { runs.iter().map(what).collect() };
    let ms = |runs: &[Parsed]| of(runs, |run| run.ms);
    let peak = |runs: &[Parsed]| of(runs, |run| run.peak_mb);
    let (words, rows) = (parsed[0].words as f64, parsed[0].rows as f64);
    let size = format!("{:.0} rows, {:.2} MB in the kernel", rows, words * 4.0 / 1e6);
    Ok(vec![
        Line::new(format!("table of {name}, made"), median(&ms(&parsed)), "ms")
            .noise(apart(&ms(&parsed)))
            .note(format!("{:.0} MB file", file.metadata()?.len() as f64 / 1e6)),
        Line::new(format!("table of {name}, from the cache"), median(&ms(&cached)), "ms")
            .noise(apart(&ms(&cached))),
        Line::new(format!("memory while it is made, {name}"), median(&peak(&parsed)), "MB")
            .noise(apart(&peak(&parsed)))
            .note(format!("{:.1} MB from the cache", median(&peak(&cached)))),
        Line::new(format!("table of {name} beside its rows"), words / rows, "x")
            .target(1.1)
            .note(size),
    ])
}

fn child(file: &Path, cache: Option<&Path>) -> Result<Parsed> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["part", "parse"]).arg(file).args(cache);
    let output = command.output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {complaint}", file.display());
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// `parse FILE [CACHE]`: makes or finds one table and says what it took.
pub(crate) fn part(arguments: &[String]) -> Result<()> {
    let [file, cache @ ..] = arguments else { anyhow::bail!("parse what?") };
    let cache = cache.first().and_then(|folder| Cache::open(PathBuf::from(folder)));
    let file = File::open(file)?;
    let this = std::process::id();
    let before = watched::megabytes(this, "status", "VmRSS").context("no status")?;
    let begin = Instant::now();
    let table = make(&file, cache.as_ref())?;
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    let peak = watched::megabytes(this, "status", "VmHWM").context("no status")?;
    let (words, rows) = (table.words(), merged_rows(&table));
    let parsed = Parsed { ms, peak_mb: peak - before, words, rows };
    println!("{}", serde_json::to_string(&parsed)?);
    Ok(())
}

/// As the worker does it.
fn make(file: &File, cache: Option<&Cache>) -> Result<Table> {
    let source = Source::read(file, None)?;
    let content = source.content();
    if let Some(table) = cache.and_then(|cache| cache.get(&content)) {
        return Ok(table);
    }
    let table = source.table()?.table.context("it has no tables")?;
    if let Some(cache) = cache {
        cache.put(&content, &table);
    }
    Ok(table)
}

/// Places where the rule changes: the buckets repeat it at their beginnings.
fn merged_rows(table: &Table) -> usize {
    let (mut rows, mut rule) = (0, 0);
    for &index in &table.index {
        let bucket = match (index as usize).checked_sub(1) {
            Some(head) => &table.rows[head..=head + (table.rows[head] >> 16) as usize],
            None => &[0],
        };
        for row in bucket {
            let now = row & 0xffff;
            rows += usize::from(now != rule);
            rule = now;
        }
    }
    rows
}

/// The server's library of an installed Java.
fn libjvm() -> Option<PathBuf> {
    let homes = entries("/usr/lib/jvm")?;
    homes.map(|home| home.join("lib/server/libjvm.so")).find(|file| file.exists())
}

/// The first on PATH.
pub(super) fn node() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("node")).find(|file| file.is_file())
}

/// rustc's own.
fn llvm() -> Option<PathBuf> {
    let toolchains = std::env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".rustup")))?
        .join("toolchains");
    entries(toolchains)?.filter_map(|toolchain| entries(toolchain.join("lib"))).flatten().find(
        |file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            // The other of that name is a script for the linker.
            name.starts_with("libLLVM") && file.metadata().is_ok_and(|meta| meta.len() > 1 << 20)
        },
    )
}

/// In order of their names.
fn entries(folder: impl AsRef<Path>) -> Option<impl Iterator<Item = PathBuf>> {
    let list = std::fs::read_dir(folder).ok()?;
    let mut paths: Vec<PathBuf> = list.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    Some(paths.into_iter())
}
