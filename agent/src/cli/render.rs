//! A report as a person on call reads it: what was slow, what each slow span waited for and on
//! whom, and whether any of it is missing.
//!
//! ```text
//! hotspan: 312 spans, 9 threads, 5.00 s
//!
//!      time  name           service        where the time went
//!   48.2 ms  GET /checkout  shop (812)     ███████████▌▌▌▌▌▌▌▌▌▌▌▌≈≈≈≈≈≈≈
//! ```
//! Invariants: no line is wider than the terminal; a bar has exactly its width, whatever rounding
//! does; text from others is stripped of control characters; without colour nothing is lost.

use std::{
    collections::BTreeSet,
    env,
    io::{self, IsTerminal as _},
    os::fd::{AsFd as _, BorrowedFd},
};

use rustix::termios::tcgetwinsize;

use crate::document::span::{RecordedDocument, Report, SpanDocument};
use table::Row;
use text::{Line, Paint};

mod bar;
mod details;
pub mod list;
mod loss;
pub mod span;
mod table;
mod text;
mod tree;

pub use text::{compact_time, plain, plain_json};

/// Widths we lay out for.
const NARROWEST: u16 = 40;
const WIDEST: u16 = 200;
/// From here on there is room to say whose span it is.
const WITH_SERVICE: usize = 72;
/// Spans shown in detail.
const DETAILS: usize = 3;

/// How to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Columns of the terminal.
    pub width: u16,
    /// Whether escape sequences for colour may be written.
    pub colour: bool,
    /// Whether more than ASCII may be written.
    pub unicode: bool,
    /// Spans listed.
    pub top: usize,
}

// === impl Style ===

impl Style {
    /// For our standard output, by its terminal and the environment of this process.
    pub fn for_stdout(top: usize) -> Self {
        let stdout = io::stdout();
        let width = terminal_width(stdout.as_fd());
        Self::new(stdout.is_terminal(), width, top, |name| env::var(name).ok())
    }

    fn new(
        is_terminal: bool,
        width: Option<u16>,
        top: usize,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG"));
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        let columns = || set("COLUMNS").and_then(|columns| columns.parse().ok());
        Self {
            width: width.or_else(columns).unwrap_or(100),
            colour: is_terminal
                && set("NO_COLOR").is_none()
                && variable("TERM").is_none_or(|terminal| terminal != "dumb"),
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
            top,
        }
    }

    fn columns(&self) -> usize {
        self.width.clamp(NARROWEST, WIDEST).into()
    }

    fn line(&self) -> Line {
        Line::new(self.columns(), self.colour, self.unicode)
    }
}

/// Columns of the terminal that `output` is, if it is one and says.
fn terminal_width(output: BorrowedFd<'_>) -> Option<u16> {
    tcgetwinsize(output).ok().map(|size| size.ws_col).filter(|&columns| columns > 0)
}

/// Writes the whole report.
pub fn report(report: &Report, out: &mut impl io::Write, style: &Style) -> io::Result<()> {
    header(report, out, style)?;
    let mut spans: Vec<&SpanDocument> = report.spans.iter().collect();
    spans.sort_by_key(|span| std::cmp::Reverse(span.wall_ns));
    // One of each kind is shown in detail: the second slowest of a kind rarely says more.
    let mut kinds = BTreeSet::new();
    let mut detailed = spans.clone();
    detailed.retain(|span| kinds.insert((&span.service, &span.name)));
    detailed.truncate(DETAILS);
    spans.truncate(style.top);
    if report.spans.is_empty() {
        threads(report, out, style)?;
    } else if !spans.is_empty() {
        let rows: Vec<_> = spans.iter().map(|span| row(span)).collect();
        table::write("name", "service (pid)", &rows, out, style)?;
        for (rank, span) in detailed.into_iter().enumerate() {
            details::write(rank + 1, span, out, style)?;
        }
    }
    loss::write(report, out, style)
}

fn header(report: &Report, out: &mut impl io::Write, style: &Style) -> io::Result<()> {
    let start = report.spans.iter().map(|span| span.start_unix_ns).min();
    let end = report.spans.iter().map(|span| span.start_unix_ns.saturating_add(span.wall_ns)).max();
    let by_spans = end.zip(start).map(|(end, start)| end.saturating_sub(start));
    let by_threads = report.threads.iter().map(|thread| thread.wall_ns).max();
    let wall = by_spans.max(by_threads).unwrap_or(0);
    let mut spans = text::counted((report.spans.len() + report.nested) as u64, "span");
    if report.nested > 0 {
        spans = format!("{} ({spans})", text::counted(report.spans.len() as u64, "request"));
    }
    let counts = format!(
        "{}, {}, {}",
        spans,
        text::counted(report.threads.len() as u64, "thread"),
        text::time(wall, style.unicode),
    );
    style.line().put("hotspan: ", Paint::Bold).put(&counts, Paint::Plain).end(out)?;
    for process in &report.recorded {
        paragraph(&covered(process), 2, Paint::Plain, out, style)?;
    }
    style.line().end(out)
}

/// Who was recorded for a number that was given, and who was not.
fn covered(process: &RecordedDocument) -> String {
    let RecordedDocument { pid, asked_pid, comm, processes, with_children, left_out } = process;
    let below = |count: usize| match count {
        0 => "no process".to_owned(),
        1 => "1 process".to_owned(),
        count => format!("{count} processes"),
    };
    let what = if *with_children {
        format!("with {} below it, and what they forked since", below(processes - 1))
    } else {
        let left_out = below(*left_out);
        format!("alone: left out {left_out} below it and what it forked since (--no-children)")
    };
    let thread = match asked_pid {
        asked if asked == pid => String::new(),
        thread => format!(", whose thread {thread} is,"),
    };
    format!("recorded {} ({pid}){thread} {what}", text::plain(comm))
}

fn row(span: &SpanDocument) -> Row<'_> {
    Row {
        ns: span.wall_ns,
        age: None,
        name: name(span).to_owned(),
        whose: whose(span),
        states: &span.states,
        id: "",
        in_proportion: false,
    }
}

fn name(span: &SpanDocument) -> &str {
    if span.name.is_empty() { "(unnamed)" } else { &span.name }
}

fn whose(span: &SpanDocument) -> String {
    format!("{} ({})", span.service, span.process.pid)
}

/// Without spans: the threads, which are accounted all the same.
fn threads(report: &Report, out: &mut impl io::Write, style: &Style) -> io::Result<()> {
    let mut threads: Vec<_> = report.threads.iter().collect();
    threads.sort_by_key(|thread| std::cmp::Reverse(thread.wall_ns));
    let rows: Vec<_> = threads
        .into_iter()
        .take(style.top)
        .map(|thread| Row {
            ns: thread.wall_ns,
            age: None,
            name: thread.comm.clone(),
            whose: format!("{} / {}", thread.pid, thread.tid),
            states: &thread.states,
            id: "",
            in_proportion: false,
        })
        .collect();
    style
        .line()
        .put("No program published a span; these are its threads.", Paint::Plain)
        .end(out)?;
    style.line().end(out)?;
    if rows.is_empty() { Ok(()) } else { table::write("thread", "pid / tid", &rows, out, style) }
}

/// Words on as many lines as they take, each after `indent` blanks.
fn paragraph(
    words: &str,
    indent: usize,
    paint: Paint,
    out: &mut impl io::Write,
    style: &Style,
) -> io::Result<()> {
    let mut line = style.line();
    line.skip(indent);
    for word in words.split(' ') {
        let gap = usize::from(line.used() > indent);
        if gap > 0 && line.used() + gap + text::columns(word) > style.columns() {
            line.end(out)?;
            line = style.line();
            line.skip(indent);
        } else {
            line.skip(gap);
        }
        line.put(word, paint);
    }
    line.end(out)
}

/// Columns of a duration, with its indentation.
const TIME: usize = 10;

#[cfg(test)]
mod stored_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod words_tests;
