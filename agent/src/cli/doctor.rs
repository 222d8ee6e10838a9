//! `hotspan doctor` on a terminal: every check with its cost and its remedy.

use std::{io, process::ExitCode};

use super::render::Style;
use crate::app::doctor::{self, Status, Verdict};

/// Prints the state of this host; succeeds if recording is possible.
pub fn run(json: bool) -> ExitCode {
    let verdict = doctor::verdict();
    let printed = if json {
        let text = serde_json::to_string_pretty(&verdict).map_err(io::Error::from);
        text.and_then(|text| super::write_json(format!("{text}\n").as_bytes()))
    } else {
        print(&verdict, &mut io::stdout().lock(), &Style::for_stdout(0))
    };
    if verdict.ok && printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Aligned text, broken at words to the terminal's width.
fn print(verdict: &Verdict, out: &mut impl io::Write, style: &Style) -> io::Result<()> {
    let widest = verdict.checks.iter().map(|check| check.id.len()).max().unwrap_or(0);
    let indent = 2 + widest + 2;
    for check in &verdict.checks {
        let (mark, code) = match (check.status, style.unicode) {
            (Status::Ok, true) => ("✓", 32),
            (Status::Ok, false) => ("+", 32),
            (Status::Warn, _) => ("!", 33),
            (Status::Fail, true) => ("✗", 31),
            (Status::Fail, false) => ("x", 31),
        };
        let mark = if style.colour { format!("\x1b[{code}m{mark}\x1b[0m") } else { mark.into() };
        write!(out, "{mark} {:widest$}  ", check.id)?;
        broken(&check.found, indent, out, style)?;
        for (label, text) in [("costs:  ", check.cost), ("remedy: ", check.remedy)] {
            if !text.is_empty() {
                write!(out, "{:indent$}{label}", "")?;
                broken(text, indent + label.len(), out, style)?;
            }
        }
    }
    let conclusion =
        if verdict.ok { "Recording is possible." } else { "Recording is not possible." };
    writeln!(out, "\n{conclusion}")
}

/// `text` from column `indent` on, in as many lines as it takes.
fn broken(text: &str, indent: usize, out: &mut impl io::Write, style: &Style) -> io::Result<()> {
    let room = usize::from(style.width).saturating_sub(indent).max(20);
    let mut used = 0;
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if used > 0 && used + 1 + width > room {
            write!(out, "\n{:indent$}", "")?;
            used = 0;
        }
        let blank = if used > 0 { " " } else { "" };
        write!(out, "{blank}{word}")?;
        used += blank.len() + width;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::doctor::Check;

    const LONG: &str = "time that interrupts take stays in the state that they interrupt, and it is \
        not shown apart from it; turn CONFIG_IRQ_TIME_ACCOUNTING on";

    #[test]
    fn text_is_aligned_and_within_the_width() {
        let check = |status, found: &str, words| Check {
            id: "irq-time",
            status,
            found: found.into(),
            cost: words,
            remedy: words,
        };
        for (width, unicode) in [(40, false), (80, true), (200, true)] {
            let style = Style { width, colour: false, unicode, top: 0 };
            let checks = vec![
                check(Status::Ok, "interrupts are accounted apart", ""),
                check(Status::Warn, "whether interrupts are accounted apart is not known", LONG),
            ];
            let mut out = Vec::new();
            print(&Verdict { checks, ok: false }, &mut out, &style).unwrap();
            let text = String::from_utf8(out).unwrap();
            // The longest word in the deepest column is never broken.
            let room = usize::from(width).max(47);
            assert!(text.lines().all(|line| line.chars().count() <= room), "{text}");
            assert!(text.contains("! irq-time  whether"), "{text}");
            assert_eq!(text.is_ascii(), !unicode, "{text}");
            assert!(text.ends_with("\nRecording is not possible.\n"), "{text}");
        }
    }
}
