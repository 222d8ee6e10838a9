//! A list of stored spans: what there is, newest or slowest first, and how to see more of it.

use std::io;

use super::{
    Style, name, paragraph,
    table::{self, Row},
    text::{self, Paint},
    whose,
};
use crate::document::span::SpanDocument;

/// What a list is of.
#[derive(Clone, Debug)]
pub struct Title {
    /// `newest first`
    pub order: &'static str,
    /// The filters, as they were given: `--service shop`.
    pub filters: Vec<String>,
    /// There were more spans than were asked for.
    pub truncated: bool,
    /// Now, Unix time.
    pub now_unix_ns: u64,
}

/// Writes the list.
pub fn write(
    spans: &[SpanDocument],
    title: &Title,
    out: &mut impl io::Write,
    style: &Style,
) -> io::Result<()> {
    if spans.is_empty() {
        return nothing(title, out, style);
    }
    let mut head = style.line();
    head.put("hotspan: ", Paint::Bold);
    let count = text::counted(spans.len() as u64, "span");
    let filters = title.filters.iter().map(|filter| format!("  {filter}")).collect::<String>();
    head.put(&format!("{count}, {}", title.order), Paint::Plain).put(&filters, Paint::Dim);
    head.end(out)?;
    style.line().end(out)?;
    let rows: Vec<Row<'_>> = spans
        .iter()
        .map(|span| Row {
            ns: span.wall_ns,
            age: Some(
                title.now_unix_ns.saturating_sub(span.start_unix_ns.saturating_add(span.wall_ns)),
            ),
            name: name(span).to_owned(),
            whose: whose(span),
            states: &span.states,
            id: &span.span_id,
            in_proportion: true,
        })
        .collect();
    table::write("name", "service (pid)", &rows, out, style)?;
    if spans.iter().any(|span| span.active_ns < span.wall_ns / 2) {
        note("Where a bar is short, the rest was in child spans or on no thread.", out, style)?;
    }
    if title.truncated {
        note("There are more: raise -n, or narrow with --since, --min, --service.", out, style)?;
    }
    note("`hotspan span ID` says where one span's time went.", out, style)
}

fn note(text: &str, out: &mut impl io::Write, style: &Style) -> io::Result<()> {
    paragraph(text, 0, Paint::Dim, out, style)
}

/// No span: what to try.
fn nothing(title: &Title, out: &mut impl io::Write, style: &Style) -> io::Result<()> {
    if title.filters.is_empty() {
        style.line().put("No span is stored yet.", Paint::Bold).end(out)?;
        note(
            "Spans show within 3 s of their end, if their program publishes them (README: how it \
             works). `hotspan doctor` shows what this host allows.",
            out,
            style,
        )
    } else {
        style.line().put("No span matches.", Paint::Bold).end(out)?;
        let filters = format!("Asked for: {}", title.filters.join("  "));
        paragraph(&filters, 0, Paint::Plain, out, style)?;
        note("Leave one out; `hotspan spans` alone shows the newest of all.", out, style)
    }
}
