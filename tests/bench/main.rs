//! `bench`: every budget of the design, measured on this host. Each line has the value, its target
//! and the noise floor: what the same measurement says when nothing differs (A/A).
//!
//! `bench [--json] [body] [pipe] [load] [marker]`; without names, all of them, in some 3 minutes.

mod agent;
mod body;
mod load;
mod marker;
mod pipe;
mod sample;

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

type Measurement = fn() -> Result<Vec<Line>>;

const MEASUREMENTS: [(&str, Measurement); 4] = [
    ("marker", marker::measure),
    ("body", body::measure),
    ("pipe", pipe::measure),
    ("load", load::measure),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.first().map(String::as_str) {
        // This program again, as a part of its own loads.
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
    let names: Vec<&String> = arguments.iter().filter(|word| *word != "--json").collect();
    for name in &names {
        if !MEASUREMENTS.iter().any(|(known, _)| known == name) {
            bail!("there is no measurement `{name}`: marker, body, pipe, load");
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
        if name != "marker" && !host::is_root() {
            lines.push(Line::skipped(name, "loading programs into the kernel needs root"));
            continue;
        }
        eprintln!("measuring: {name}");
        match measure() {
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
    println!("{:<58} {:>10} {:>9} {:>9}  unit", "quantity", "value", "target", "A/A");
    for line in lines {
        let verdict = match (line.value, line.target) {
            (Some(value), Some(target)) if value > target => "OVER",
            (Some(_), Some(_)) => "ok",
            _ => "",
        };
        println!(
            "{:<58} {:>10} {:>9} {:>9}  {:<8} {verdict:<5} {}",
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
