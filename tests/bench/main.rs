//! `bench`: every budget of the design, measured on this host. Each line has the value, its target
//! and the noise floor: what the same measurement says when nothing differs (A/A).
//!
//! `bench [--json] [--small] [marker] [wire] [store] [service] [body] [pipe] [load] [unwind]`;
//! without names, all of them, in some 14 minutes. `--small` fills the store with a tenth.

mod agent;
mod body;
mod fleet;
mod load;
mod marker;
mod names;
mod otlp;
mod pipe;
mod pprof;
mod questions;
mod real;
mod sample;
mod service;
mod store;
mod synthetic;
mod unwind;
mod watched;
mod wire;

use std::process::ExitCode;

use anyhow::{Result, bail};
use hotspan_tests::host;
use serde::Serialize;

/// One measured quantity.
#[derive(Clone, Debug, Serialize)]
struct Line {
    quantity: String,
    /// `None` when it could not be measured; `note` says why.
    value: Option<f64>,
    unit: &'static str,
    /// Not more than this; `None` for figures that only explain others.
    target: Option<f64>,
    /// The same measurement, A against A.
    noise: Option<f64>,
    note: String,
}

/// Told whether it is to be a small one.
type Measurement = fn(bool) -> Result<Vec<Line>>;

const MEASUREMENTS: [(&str, Measurement); 8] = [
    ("marker", |_| marker::measure()),
    ("wire", |_| wire::measure()),
    ("store", store::measure),
    ("service", |_| service::measure()),
    ("body", |_| body::measure()),
    ("pipe", |_| pipe::measure()),
    ("load", |_| load::measure()),
    ("unwind", |_| unwind::measure()),
];

/// They do without programs in the kernel, or say themselves what they cannot measure.
const WITHOUT_ROOT: [&str; 4] = ["marker", "wire", "store", "service"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.first().map(String::as_str) {
        // This program again, as a part of its own loads.
        Some("part") if arguments.get(1).is_some_and(|part| part == "parse") => {
            unwind::part(&arguments[2..])
        }
        Some("part") => load::part(&arguments[1..]),
        Some("marker-part") => marker::part(),
        _ => run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let json = arguments.iter().any(|word| word == "--json");
    let small = arguments.iter().any(|word| word == "--small");
    let names: Vec<&String> = arguments.iter().filter(|word| !word.starts_with("--")).collect();
    for name in &names {
        if !MEASUREMENTS.iter().any(|(known, _)| known == name) {
            let known = MEASUREMENTS.map(|(known, _)| known).join(", ");
            bail!("there is no measurement `{name}`: {known}");
        }
    }
    if let Ok(hotspan) = host::hotspan() {
        eprintln!("measured with {}", hotspan.display());
    }
    let mut lines = Vec::new();
    for (name, measure) in MEASUREMENTS {
        if !names.is_empty() && !names.iter().any(|wanted| *wanted == name) {
            continue;
        }
        if !WITHOUT_ROOT.contains(&name) && !host::is_root() {
            lines.push(Line::skipped(name, "loading programs into the kernel needs root"));
            continue;
        }
        eprintln!("measuring: {name}");
        match measure(small) {
            Ok(found) => lines.extend(found),
            Err(error) => lines.push(Line::skipped(name, &format!("{error:#}"))),
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        print(&lines);
    }
    Ok(())
}

fn print(lines: &[Line]) {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.3}"));
    println!("{:<66} {:>10} {:>9} {:>9}  unit", "quantity", "value", "target", "A/A");
    for line in lines {
        let verdict = match (line.value, line.target) {
            (Some(value), Some(target)) if value > target => "OVER",
            (Some(_), Some(_)) => "ok",
            _ => "",
        };
        println!(
            "{:<66} {:>10} {:>9} {:>9}  {:<9} {verdict:<5} {}",
            line.quantity,
            number(line.value),
            number(line.target),
            number(line.noise),
            line.unit,
            line.note
        );
    }
}

// === impl Line ===

impl Line {
    fn new(quantity: impl Into<String>, value: f64, unit: &'static str) -> Self {
        let (quantity, value) = (quantity.into(), Some(value));
        Self { quantity, value, unit, target: None, noise: None, note: String::new() }
    }

    fn skipped(quantity: impl Into<String>, reason: &str) -> Self {
        let line = Self::new(quantity, 0.0, "");
        Self { value: None, note: format!("not measured: {reason}"), ..line }
    }

    fn target(self, target: f64) -> Self {
        Self { target: Some(target), ..self }
    }

    fn noise(self, noise: Option<f64>) -> Self {
        Self { noise, ..self }
    }

    fn note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }
}
