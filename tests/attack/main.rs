//! `attack`: programs of `tests/workloads/attacks` against an agent within the limits of its unit, each beside
//! an honest program, and what came of it.
//!
//! `attack [--short] [--json FILE] [NAME]`. A row of [`ATTACKS`] is an attack; what needs more than a program
//! and some seconds is a whole-path test (`tests/path/attacks_*.rs`). Fails when one of them does not hold.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use hotspan_tests::{
    attack::{Arena, Outcome, program},
    host,
};

/// An attack by copies of one program.
struct Attack {
    name: &'static str,
    /// Of `tests/workloads/attacks`.
    program: &'static str,
    /// Its arguments; `SECONDS` stands for how long it is to last.
    arguments: &'static [&'static str],
    /// How many of it.
    copies: usize,
}

const ATTACKS: &[Attack] = &[
    Attack {
        name: "fork_storm",
        program: "fork_storm",
        arguments: &["SECONDS", "9000"],
        copies: 1,
    },
    Attack {
        name: "fork_storms",
        program: "fork_storm",
        arguments: &["SECONDS", "30000"],
        copies: 2,
    },
];

const LONG: &str = "20";
const SHORT: &str = "3";
/// How long an attacker may take beyond that.
const LIMIT: Duration = Duration::from_secs(120);
/// Memory is back at its level within this,
const RETURNS: Duration = Duration::from_secs(60);
/// and that is so much more than before: what the store and the tables of a host have grown by.
const LEVEL: u64 = 64 << 20;

/// What to do.
#[derive(Default)]
struct Arguments {
    short: bool,
    json: Option<PathBuf>,
    name: Option<String>,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("attack: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments> {
    let mut arguments = Arguments::default();
    let mut given = std::env::args().skip(1);
    while let Some(word) = given.next() {
        match word.as_str() {
            "--short" => arguments.short = true,
            "--json" => arguments.json = Some(given.next().context("--json FILE")?.into()),
            name if !name.starts_with('-') && arguments.name.is_none() => {
                arguments.name = Some(word);
            }
            other => bail!("{other}: attack [--short] [--json FILE] [NAME]"),
        }
    }
    Ok(arguments)
}

fn run(arguments: &Arguments) -> Result<()> {
    ensure!(host::is_root(), "an agent and its limits need root");
    let is_chosen = |attack: &&Attack| arguments.name.as_deref().is_none_or(|n| n == attack.name);
    let chosen: Vec<&Attack> = ATTACKS.iter().filter(is_chosen).collect();
    let names = || ATTACKS.iter().map(|attack| attack.name).collect::<Vec<_>>().join(", ");
    ensure!(!chosen.is_empty(), "no such attack: there are {}", names());
    println!("attack             memory before, peak, after   CPU    honest  found after  losses");
    let (mut outcomes, mut failed) = (Vec::new(), Vec::new());
    for attack in chosen {
        match play(attack, arguments.short, &mut outcomes) {
            Ok(()) => {}
            Err(error) => {
                println!("FAILED {}: {error:#}", attack.name);
                failed.push(attack.name);
            }
        }
    }
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&outcomes)?;
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    ensure!(failed.is_empty(), "{} did not hold", failed.join(", "));
    Ok(())
}

fn play(attack: &Attack, short: bool, outcomes: &mut Vec<Outcome>) -> Result<()> {
    let mut arena = Arena::start(&[])?;
    let honest = arena.honest()?;
    let seconds = if short { SHORT } else { LONG };
    let words = attack.arguments.iter();
    let words: Vec<&str> =
        words.map(|&word| if word == "SECONDS" { seconds } else { word }).collect();
    let attackers: Result<Vec<_>> =
        (0..attack.copies).map(|_| arena.attack(&program(attack.program), &words)).collect();
    for mut attacker in attackers? {
        let status = attacker.end(LIMIT)?;
        ensure!(status.success(), "the attacker failed: {status}");
    }
    let mut outcome = arena.finish(attack.name, honest)?;
    let returned = if short { Ok(()) } else { arena.memory_returns(LEVEL, RETURNS) };
    outcome.memory_after = arena.memory();
    outcomes.push(outcome.clone());
    outcome.holds()?;
    returned
}
