//! One span in detail: what it did with its time, who made it wait, and in which functions.

use std::io;

use super::{
    Style, TIME, name,
    text::{self, Line, Paint},
};
use crate::{
    document::span::{CauseDocument, MethodDocument, SpanDocument},
    model::state::State,
};

/// States of a span, causes of a state and methods of a span that are listed.
const STATES: usize = 6;
const CAUSES: usize = 3;
const METHODS: usize = 5;

/// One span: its states with their causes, then its methods.
pub(super) fn write(
    rank: usize,
    span: &SpanDocument,
    out: &mut impl io::Write,
    style: &Style,
) -> io::Result<()> {
    let time = |ns| text::time(ns, style.unicode);
    let title = format!("{rank}. {}  {}", name(span), time(span.wall_ns));
    let id = format!("{}/{}", span.trace_id, span.span_id);
    let mut line = style.line();
    line.put(&title, Paint::Bold);
    // An id is there to be copied: it gets a line of its own rather than being cut.
    if text::columns(&title) + 2 + id.len() > style.columns() {
        line.end(out)?;
        line = style.line();
        line.skip(1);
    }
    // `hotspan span` takes the span's half alone as well.
    let id = if id.len() + 3 > style.columns() { &span.span_id } else { &id };
    line.skip(2).put(id, Paint::Dim).end(out)?;

    let mut states: Vec<_> = span.states.iter().collect();
    states.sort_by_key(|&(_, ns)| std::cmp::Reverse(ns));
    for &(state, ns) in states.iter().take(STATES) {
        let share = format!("{:>5}", text::percent(ns, span.active_ns));
        let mut line = style.line();
        line.put_right(&time(ns), TIME, Paint::Plain).skip(2).put(&share, Paint::Dim).skip(2);
        line.put_glyph(state).skip(1).put(state.key(), Paint::Of(state)).end(out)?;
        causes(state, span, out, style)?;
    }
    if let Some(rest) = states.get(STATES..).filter(|rest| !rest.is_empty()) {
        let ns = rest.iter().map(|&(_, ns)| ns).sum();
        let others = text::counted(rest.len() as u64, "other state");
        let mut line = style.line();
        line.put_right(&time(ns), TIME, Paint::Plain).skip(11);
        line.put(&format!("in {others}"), Paint::Dim).end(out)?;
    }
    if span.off_thread_ns > 0 {
        let mut line = style.line();
        line.put_right(&time(span.off_thread_ns), TIME, Paint::Plain).skip(11);
        line.put("on no thread (queued or awaiting)", Paint::Plain).end(out)?;
    }
    if !span.exact.states {
        let mut line = style.line();
        line.skip(TIME + 2).put("partly before hotspan was attached", Paint::Dim).end(out)?;
    }
    methods(&span.methods, METHODS, out, style)?;
    style.line().end(out)
}

/// Who or what the time in `state` was for, most first.
fn causes(
    state: State,
    span: &SpanDocument,
    out: &mut impl io::Write,
    style: &Style,
) -> io::Result<()> {
    let mut causes: Vec<_> = span.causes.iter().filter(|cause| cause.state == state).collect();
    causes.sort_by_key(|cause| std::cmp::Reverse(cause.ns));
    let more = causes.len().saturating_sub(CAUSES);
    for cause in causes.iter().take(CAUSES) {
        let mut line = style.line();
        line.skip(TIME + 4).put(&text::time(cause.ns, style.unicode), Paint::Plain);
        if cause.count > 1 {
            let times = if style.unicode { '×' } else { 'x' };
            line.put(&format!(" ({}{times})", text::grouped(cause.count)), Paint::Dim);
        }
        line.put(", ", Paint::Plain).put(&sentence(cause, span), Paint::Plain).end(out)?;
    }
    if more > 0 {
        style.line().skip(TIME + 4).put(&format!("and {more} more"), Paint::Dim).end(out)?;
    }
    Ok(())
}

/// Who or what it was, as the rest of "12.3 ms, ...".
fn sentence(cause: &CauseDocument, span: &SpanDocument) -> String {
    let (mut sentence, id) = cause_words(cause, span);
    if let Some(id) = id {
        sentence.push_str(&format!(" {id}"));
    }
    sentence
}

/// Who or what it was, and the id of the span it was in if that is another one, to look it up. Its
/// process is named if it is another one.
pub(super) fn cause_words<'a>(
    cause: &'a CauseDocument,
    span: &SpanDocument,
) -> (String, Option<&'a str>) {
    let verb = match (cause.kind.key(), cause.state.key()) {
        ("waker", "lock") => "released by",
        ("waker", "notify") => "notified by",
        ("waker", _) => "woken by",
        ("rival", _) => "while the CPU ran",
        ("interrupt", _) => "ended by an interrupt",
        ("syscall", _) => "in",
        (other, _) => other,
    };
    let mut sentence = verb.to_owned();
    if !cause.name.is_empty() {
        sentence.push_str(&format!(" {}", cause.name));
    }
    if cause.pid != 0 && cause.pid != span.process.pid {
        sentence.push_str(&format!(" (pid {})", cause.pid));
    }
    if cause.span_id == span.span_id {
        sentence.push_str(" in this span");
    } else if !cause.span_id.is_empty() {
        let name = if cause.span_name.is_empty() { "span" } else { &cause.span_name };
        sentence.push_str(&format!(" in {name}"));
        return (sentence, Some(&cause.span_id));
    }
    (sentence, None)
}

/// The first `top` of the methods, in a table.
pub(super) fn methods(
    methods: &[MethodDocument],
    top: usize,
    out: &mut impl io::Write,
    style: &Style,
) -> io::Result<()> {
    if methods.is_empty() {
        return Ok(());
    }
    let mut head = style.line();
    head.put_right("self", TIME, Paint::Dim).put_right("total", TIME, Paint::Dim).skip(2);
    head.put("method (sampled)", Paint::Dim).end(out)?;
    for method in methods.iter().take(top) {
        let time = |ns| text::time(ns, style.unicode);
        let mut line = style.line();
        line.put_right(&time(method.self_ns), TIME, Paint::Plain);
        line.put_right(&time(method.total_ns), TIME, Paint::Plain).skip(2);
        put_function(&mut line, &method.name, &place(&method.file, method.line), style);
        line.end(out)?;
    }
    Ok(())
}

/// Where a function is, as it follows its name.
pub(super) fn place(file: &str, line: u32) -> String {
    let file = file.rsplit('/').next().filter(|file| !file.is_empty());
    file.map(|file| format!("  {file}:{line}")).unwrap_or_default()
}

/// Adds a function's name and place to the end of a line.
pub(super) fn put_function(line: &mut Line, name: &str, place: &str, style: &Style) {
    // A long name is cut before its place is: the place still says which function it is.
    let room = style.columns().saturating_sub(line.used() + text::columns(place));
    let columns = text::columns(name).min(room);
    line.put_left(name, columns, Paint::Plain).put(place, Paint::Dim);
}
