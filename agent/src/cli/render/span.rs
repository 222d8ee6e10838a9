//! One stored span: where its time went, who made it wait, and in which code. Says of each part
//! whether it was measured (exact) or sampled.

use std::io;

use super::{
    Style, TIME, WITH_SERVICE,
    bar::Bar,
    details, loss, name, paragraph,
    text::{self, Paint},
    tree, whose,
};
use crate::{
    document::{
        methods::methods,
        span::{MethodDocument, SpanDocument, StackDocument},
    },
    model::state::State,
};

/// From here on there is room for times to the nanosecond.
const WITH_NANOSECONDS: usize = 60;

/// Which part of a span to show, and which way up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Causes, methods and stacks of this state only.
    pub state: Option<State>,
    /// Stacks from the innermost function up.
    pub reverse: bool,
}

/// Restricts causes, methods and stacks to one state. A method's own time in a state is known from
/// the stacks alone.
pub fn restrict(span: &mut SpanDocument, state: State) {
    span.causes.retain(|cause| cause.state == state);
    span.stacks.retain(|stack| stack.state == state);
    span.methods = methods(&span.stacks);
}

/// Writes the span.
pub fn write(
    span: &SpanDocument,
    view: View,
    out: &mut impl io::Write,
    style: &Style,
) -> io::Result<()> {
    let restricted = view.state.map(|state| {
        let mut span = span.clone();
        restrict(&mut span, state);
        span
    });
    let shown = restricted.as_ref().unwrap_or(span);
    header(span, out, style)?;
    states(span, out, style)?;
    let within = view.state.map(|state| format!(" ({state} only)")).unwrap_or_default();
    causes(shown, &within, out, style)?;
    functions(&shown.methods, &within, out, style)?;
    let whole = match view.state {
        Some(state) => span.states.get(state),
        None => span.states.sum(),
    };
    stacks(&shown.stacks, whole, view.reverse, &within, out, style)?;
    if !span.loss.is_empty() {
        loss::reasons(&span.loss, out, style)?;
    }
    Ok(())
}

fn header(span: &SpanDocument, out: &mut impl io::Write, style: &Style) -> io::Result<()> {
    let time = text::time(span.wall_ns, style.unicode);
    let mut line = style.line();
    line.put(name(span), Paint::Bold).skip(2).put(&time, Paint::Bold).skip(2);
    line.put(&whose(span), Paint::Dim).end(out)?;
    let id = format!("{}/{}", span.trace_id, span.span_id);
    // An id is there to be copied whole.
    if id.len() <= style.columns() {
        style.line().put(&id, Paint::Dim).end(out)?;
    } else {
        style.line().put(&span.trace_id, Paint::Dim).end(out)?;
        style.line().put("/", Paint::Dim).put(&span.span_id, Paint::Dim).end(out)?;
    }
    if !span.parent_span_id.is_empty() {
        let parent = format!("child of {}", span.parent_span_id);
        style.line().put(&parent, Paint::Dim).end(out)?;
    }
    let scope = match span.scope {
        "span" => None,
        "children" => Some("with its descendants in this process"),
        "trace" => Some("with all of its trace in this process"),
        "trace_host" => Some("with all of its trace on this host"),
        "period" => Some("all threads of this process during the span"),
        "process" => Some("all threads of this process for a minute around the span"),
        other => Some(other),
    };
    if let Some(scope) = scope {
        paragraph(scope, 0, Paint::Plain, out, style)?;
    }
    style.line().end(out)?;
    let bar = Bar::new(&span.states, style.columns() - 4);
    if !bar.cells().is_empty() {
        style.line().skip(2).put_bar(&bar).end(out)?;
        style.line().end(out)?;
    }
    Ok(())
}

/// A section's name, and how its numbers came about.
fn title(
    name: &str,
    within: &str,
    origin: &str,
    out: &mut impl io::Write,
    style: &Style,
) -> io::Result<()> {
    let mut line = style.line();
    line.put(name, Paint::Bold).put(within, Paint::Bold).put(": ", Paint::Dim);
    line.put(origin, Paint::Dim).end(out)
}

fn states(span: &SpanDocument, out: &mut impl io::Write, style: &Style) -> io::Result<()> {
    let summed = matches!(span.scope, "period" | "process");
    let origin = match (span.exact.states, summed) {
        (true, _) => "exact",
        (false, true) => "rounded at the ends",
        (false, false) => "partly unknown",
    };
    title("Where the time went", "", origin, out, style)?;
    let mut states: Vec<(State, u64)> = span.states.iter().collect();
    states.sort_by_key(|&(_, ns)| std::cmp::Reverse(ns));
    let whole = span.states.sum();
    let widest = states.iter().map(|(state, _)| state.key().len()).max().unwrap_or(0);
    let widest = widest.max("active".len());
    let digits = text::grouped(whole.max(span.active_ns)).len();
    let rows = states.into_iter().map(|(state, ns)| (Some(state), ns));
    for (state, ns) in rows.chain([(None, span.active_ns)]) {
        let mut line = style.line();
        line.put_right(&text::time(ns, style.unicode), TIME, Paint::Plain).skip(2);
        line.put(&format!("{:>5}", text::percent(ns, whole)), Paint::Dim).skip(2);
        match state {
            Some(state) => {
                line.put_glyph(state).skip(1).put_left(state.key(), widest, Paint::Of(state))
            }
            None => line.skip(2).put_left("active", widest, Paint::Bold),
        };
        if style.columns() >= WITH_NANOSECONDS {
            line.skip(2).put_right(&text::grouped(ns), digits, Paint::Dim).put(" ns", Paint::Dim);
        }
        line.end(out)?;
    }
    let elsewhere = span.wall_ns.saturating_sub(span.active_ns + span.off_thread_ns);
    if span.scope == "span" && elsewhere > span.wall_ns / 100 {
        let mut line = style.line();
        line.put_right(&text::time(elsewhere, style.unicode), TIME, Paint::Plain);
        line.skip(11).put("in child spans: --scope children", Paint::Plain).end(out)?;
    }
    if span.off_thread_ns > 0 {
        let mut line = style.line();
        line.put_right(&text::time(span.off_thread_ns, style.unicode), TIME, Paint::Plain);
        // Of the span itself, whatever else is summed above.
        line.skip(11).put("on no thread (queued or awaiting)", Paint::Plain).end(out)?;
    }
    style.line().end(out)
}

fn causes(
    span: &SpanDocument,
    within: &str,
    out: &mut impl io::Write,
    style: &Style,
) -> io::Result<()> {
    if span.causes.is_empty() {
        return Ok(());
    }
    title("Who made it wait", within, "exact", out, style)?;
    let mut causes: Vec<_> = span.causes.iter().collect();
    causes.sort_by_key(|cause| std::cmp::Reverse(cause.ns));
    let shown = &causes[..causes.len().min(style.top)];
    let widest = shown.iter().map(|cause| cause.state.key().len()).max().unwrap_or(0);
    let counts: Vec<String> = shown
        .iter()
        .map(|cause| match cause.count {
            0 | 1 => String::new(),
            n => format!("{}{}", text::grouped(n), if style.unicode { '×' } else { 'x' }),
        })
        .collect();
    let count = counts.iter().map(|count| text::columns(count)).max().unwrap_or(0);
    for (cause, times) in shown.iter().zip(&counts) {
        let mut line = style.line();
        line.put_right(&text::time(cause.ns, style.unicode), TIME, Paint::Plain).skip(2);
        if count > 0 {
            line.put_right(times, count, Paint::Dim).skip(2);
        }
        line.put_glyph(cause.state).skip(1);
        line.put_left(cause.state.key(), widest, Paint::Of(cause.state)).skip(2);
        if style.columns() < WITH_SERVICE {
            line.end(out)?;
            line = style.line();
            line.skip(TIME + 2);
        }
        let indent = line.used();
        let (words, id) = details::cause_words(cause, span);
        let room = style.columns() - indent;
        line.put(&words, Paint::Plain);
        if let Some(id) = id {
            // An id is there to be copied: it goes to the next line rather than being cut.
            if text::columns(&words) + 1 + text::columns(id) > room {
                line.end(out)?;
                line = style.line();
                line.skip(indent);
            } else {
                line.skip(1);
            }
            line.put(id, Paint::Dim);
        }
        line.end(out)?;
    }
    let rest = &causes[shown.len()..];
    if !rest.is_empty() {
        let ns = rest.iter().map(|cause| cause.ns).sum();
        let mut line = style.line();
        line.put_right(&text::time(ns, style.unicode), TIME, Paint::Plain).skip(2);
        line.put(&format!("in {} more (--top)", rest.len()), Paint::Dim).end(out)?;
    }
    style.line().end(out)
}

fn functions(
    methods: &[MethodDocument],
    within: &str,
    out: &mut impl io::Write,
    style: &Style,
) -> io::Result<()> {
    if methods.is_empty() {
        return Ok(());
    }
    title("In which functions", within, "sampled", out, style)?;
    details::methods(methods, style.top, out, style)?;
    let more = methods.len().saturating_sub(style.top);
    if more > 0 {
        let mut line = style.line();
        line.skip(2 * TIME + 2).put(&format!("and {more} more (--top)"), Paint::Dim).end(out)?;
    }
    style.line().end(out)
}

fn stacks(
    stacks: &[StackDocument],
    whole: u64,
    reverse: bool,
    within: &str,
    out: &mut impl io::Write,
    style: &Style,
) -> io::Result<()> {
    let name = match reverse {
        true => "Stacks, callees first",
        false => "Stacks, callers first",
    };
    title(name, within, "sampled, from 1%", out, style)?;
    if stacks.is_empty() {
        let mut line = style.line();
        line.skip(2).put("no stack was taken: short spans often have none", Paint::Dim);
        line.end(out)?;
    } else {
        tree::write(stacks, whole, reverse, out, style)?;
    }
    style.line().end(out)
}
