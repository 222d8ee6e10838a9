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
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use crate::profile::{
    document::{Report, SpanDocument},
    state::{State, StateTimes},
};
use bar::Bar;
use text::{Line, Paint};

mod bar;
mod details;
mod loss;
mod text;

/// Widths we lay out for.
const NARROWEST: u16 = 40;
const WIDEST: u16 = 200;
/// From here on there is room to say whose span it is.
const WITH_SERVICE: usize = 72;
/// Spans told in detail.
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

/// A line of one of the two tables.
struct Row<'a> {
    ns: u64,
    name: String,
    whose: String,
    states: &'a StateTimes,
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
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY:
    // - the descriptor is open as long as it is borrowed;
    // - TIOCGWINSZ writes one winsize, to which `size` gives room.
    let result = unsafe { libc::ioctl(output.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some(size.ws_col)
}

/// Writes the whole report.
pub fn report(report: &Report, out: &mut impl io::Write, style: &Style) -> io::Result<()> {
    header(report, out, style)?;
    let mut spans: Vec<&SpanDocument> = report.spans.iter().collect();
    spans.sort_by_key(|span| std::cmp::Reverse(span.wall_ns));
    // One of each kind is told in detail: the second slowest of a kind rarely says more.
    let mut kinds = BTreeSet::new();
    let mut told = spans.clone();
    told.retain(|span| kinds.insert((&span.service, &span.name)));
    told.truncate(DETAILS);
    spans.truncate(style.top);
    if report.spans.is_empty() {
        threads(report, out, style)?;
    } else if !spans.is_empty() {
        let rows: Vec<_> = spans.iter().map(|span| row(span)).collect();
        table("name", "service (pid)", &rows, out, style)?;
        for (rank, span) in told.into_iter().enumerate() {
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
    style.line().end(out)
}

fn row(span: &SpanDocument) -> Row<'_> {
    Row {
        ns: span.wall_ns,
        name: name(span).to_owned(),
        whose: format!("{} ({})", span.service, span.process.pid),
        states: &span.states,
    }
}

fn name(span: &SpanDocument) -> &str {
    if span.name.is_empty() { "(unnamed)" } else { &span.name }
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
            name: thread.comm.clone(),
            whose: format!("{} / {}", thread.pid, thread.tid),
            states: &thread.states,
        })
        .collect();
    style
        .line()
        .put("No program published a span; these are its threads.", Paint::Plain)
        .end(out)?;
    style.line().end(out)?;
    if rows.is_empty() { Ok(()) } else { table("thread", "pid / tid", &rows, out, style) }
}

/// The legend, then a line per row: time, name, whose, bar.
fn table(
    name: &str,
    whose: &str,
    rows: &[Row<'_>],
    out: &mut impl io::Write,
    style: &Style,
) -> io::Result<()> {
    legend(rows, out, style)?;
    let columns = style.columns();
    let widest =
        |texts: &mut dyn Iterator<Item = &str>| texts.map(text::columns).max().unwrap_or(0);
    let names = widest(&mut rows.iter().map(|row| row.name.as_str()).chain([name]));
    let names = names.min(columns * 3 / 10);
    let whoses = if columns < WITH_SERVICE {
        0
    } else {
        widest(&mut rows.iter().map(|row| row.whose.as_str()).chain([whose])).min(columns / 5)
    };
    let gap = if whoses > 0 { 2 } else { 0 };
    let bars = columns - (TIME + 2) - (names + 2) - (whoses + gap);

    let mut head = style.line();
    head.put_right("time", TIME, Paint::Dim).skip(2);
    head.put_left(name, names, Paint::Dim).skip(2);
    if whoses > 0 {
        head.put_left(whose, whoses, Paint::Dim).skip(2);
    }
    head.put("where the time went", Paint::Dim).end(out)?;
    for row in rows {
        let mut line = style.line();
        line.put_right(&text::time(row.ns, style.unicode), TIME, Paint::Bold).skip(2);
        line.put_left(&row.name, names, Paint::Plain).skip(2);
        if whoses > 0 {
            line.put_left(&row.whose, whoses, Paint::Dim).skip(2);
        }
        line.put_bar(&Bar::new(row.states, bars)).end(out)?;
    }
    style.line().end(out)
}

/// Columns of a duration, with its indentation.
const TIME: usize = 10;

/// Which glyph is which state, for the states that occur.
fn legend(rows: &[Row<'_>], out: &mut impl io::Write, style: &Style) -> io::Result<()> {
    let present: BTreeSet<State> =
        rows.iter().flat_map(|row| row.states.iter().map(|(state, _)| state)).collect();
    let mut line = style.line();
    for state in present {
        let entry = format!(" {}", state.key());
        if line.used() > 2 && line.used() + 2 + 1 + entry.len() > style.columns() {
            line.end(out)?;
            line = style.line();
        }
        line.skip(2).put_glyph(state).put(&entry, Paint::Plain);
    }
    if line.used() > 0 {
        line.end(out)?;
    }
    style.line().end(out)
}

#[cfg(test)]
mod tests;
