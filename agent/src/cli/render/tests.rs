//! A small report as it looks, and any report within the width of its terminal.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    document::span::{CauseDocument, Exact, MethodDocument, ProcessDocument, ThreadDocument},
    ledger::Conservation,
    model::{
        cause::CauseKind,
        state::{State, StateTimes},
    },
};

pub(super) const PLAIN: Style = Style { width: 80, colour: false, unicode: true, top: 10 };

pub(super) fn times(states: &[(State, u64)]) -> StateTimes {
    let mut times = StateTimes::default();
    for &(state, ns) in states {
        times.add(state, ns);
    }
    times
}

pub(super) fn span(name: &str, states: StateTimes) -> SpanDocument {
    SpanDocument {
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
        span_id: "00f067aa0ba902b7".into(),
        parent_span_id: String::new(),
        name: name.into(),
        service: "shop".into(),
        process: ProcessDocument { pid: 812, comm: "shop".into() },
        start_unix_ns: 1_000,
        wall_ns: states.sum(),
        active_ns: states.sum(),
        off_thread_ns: 0,
        scope: "span",
        states,
        causes: Vec::new(),
        methods: Vec::new(),
        stacks: Vec::new(),
        exact: Exact { states: true, methods: false },
        loss: BTreeMap::new(),
    }
}

pub(super) fn cause(
    state: State,
    kind: CauseKind,
    name: &str,
    pid: u32,
    span_id: &str,
) -> CauseDocument {
    CauseDocument {
        state,
        ns: 12_345_678,
        count: 3,
        kind,
        name: name.into(),
        pid,
        tid: pid,
        trace_id: String::new(),
        span_id: span_id.into(),
        span_name: String::new(),
    }
}

fn sample() -> Report {
    let mut checkout = span(
        "GET /checkout",
        times(&[
            (State::Running, 10_000_000),
            (State::ReadyWakeup, 1_200_000),
            (State::Lock, 25_000_000),
            (State::Socket, 12_000_000),
        ]),
    );
    checkout.causes = vec![
        cause(State::Lock, CauseKind::Waker, "worker-3", 812, "3f00aa0000000001"),
        cause(State::ReadyWakeup, CauseKind::Preemptor, "cc1", 77, ""),
        cause(State::Socket, CauseKind::Interrupt, "", 0, ""),
    ];
    checkout.methods = vec![MethodDocument {
        name: "shop::cart::total".into(),
        file: "/src/shop/cart.rs".into(),
        line: 41,
        self_ns: 8_000_000,
        total_ns: 9_500_000,
        by_state: times(&[(State::Running, 9_500_000)]),
    }];
    let home = span("GET /", times(&[(State::Running, 900_000), (State::Disk, 300_000)]));
    let thread = ThreadDocument {
        pid: 812,
        tid: 813,
        comm: "worker-1".into(),
        wall_ns: 5_000_000_000,
        states: times(&[(State::Sleep, 4_000_000_000), (State::Running, 1_000_000_000)]),
    };
    Report {
        nested: 0,
        spans: vec![home, checkout],
        recorded: Vec::new(),
        threads: vec![thread],
        loss: BTreeMap::new(),
        conservation: BTreeMap::new(),
    }
}

fn rendered(report: &Report, style: &Style) -> String {
    let mut out = Vec::new();
    super::report(report, &mut out, style).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_small_report_looks_like_this() {
    let expected = "\
hotspan: 2 spans, 1 thread, 5.00 s

  █ running  ▒ ready_wakeup  ▌ lock  ≈ socket  ▤ disk

      time  name           service (pid)  where the time went
   48.2 ms  GET /checkout  shop (812)     ████████▒▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌≈≈≈≈≈≈≈≈≈
   1.20 ms  GET /          shop (812)     █████████████████████████████▤▤▤▤▤▤▤▤▤

1. GET /checkout  48.2 ms  4bf92f3577b34da6a3ce929d0e0e4736/00f067aa0ba902b7
   25.0 ms  51.8%  ▌ lock
              12.3 ms (3×), released by worker-3 in span 3f00aa0000000001
   12.0 ms  24.8%  ≈ socket
              12.3 ms (3×), ended by an interrupt
   10.0 ms  20.7%  █ running
   1.20 ms   2.4%  ▒ ready_wakeup
              12.3 ms (3×), while the CPU ran cc1 (pid 77)
      self     total  method (sampled)
   8.00 ms   9.50 ms  shop::cart::total  cart.rs:41

2. GET /  1.20 ms  4bf92f3577b34da6a3ce929d0e0e4736/00f067aa0ba902b7
    900 µs  75.0%  █ running
    300 µs  25.0%  ▤ disk

✓ nothing lost
";
    assert_eq!(rendered(&sample(), &PLAIN), expected);
}

#[test]
fn without_spans_the_threads_are_shown() {
    let report = Report { nested: 0, spans: Vec::new(), ..sample() };
    let text = rendered(&report, &PLAIN);
    assert!(text.contains("No program published a span"), "{text}");
    assert!(text.contains("5.00 s  worker-1  812 / 813"), "{text}");
}

#[test]
fn losses_are_reported_with_their_meaning() {
    let mut report = sample();
    report.loss = BTreeMap::from([("stacks_cut".into(), 1_234)]);
    let conservation = Conservation { captured: 10, delivered: 9, ..Default::default() };
    report.conservation = BTreeMap::from([("samples".to_owned(), conservation)]);
    let text = rendered(&report, &PLAIN);
    assert!(!text.contains("nothing lost"), "{text}");
    assert!(text.contains("1,234  stacks_cut  stacks deeper than 255 frames"), "{text}");
    assert!(text.contains("samples: 10 captured, 1 of them unaccounted for"), "{text}");
}

#[test]
fn ascii_and_colour_only_where_they_belong() {
    let ascii = rendered(&sample(), &Style { unicode: false, ..PLAIN });
    assert!(ascii.is_ascii(), "{ascii}");
    assert!(!ascii.contains('\x1b'));
    let coloured = rendered(&sample(), &Style { colour: true, ..PLAIN });
    assert!(coloured.contains("\x1b[31m▌▌"), "{coloured}");
    assert_eq!(uncoloured(&coloured), rendered(&sample(), &PLAIN), "colour adds nothing else");
}

#[test]
fn the_environment_decides_on_colour_and_glyphs() {
    let style = |terminal, variables: &[(&str, &str)]| {
        Style::new(terminal, None, 5, |name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    };
    let utf8 = ("LANG", "de_DE.UTF-8");
    let default = style(true, &[utf8]);
    assert_eq!(default, Style { width: 100, colour: true, unicode: true, top: 5 });
    assert!(!style(false, &[utf8]).colour, "not a terminal");
    assert!(!style(true, &[utf8, ("NO_COLOR", "1")]).colour);
    assert!(style(true, &[utf8, ("NO_COLOR", "")]).colour, "empty means unset");
    assert!(!style(true, &[utf8, ("TERM", "dumb")]).colour);
    assert!(!style(true, &[utf8, ("LC_ALL", "C")]).unicode, "LC_ALL wins");
    assert!(!style(true, &[]).unicode);
    assert_eq!(style(true, &[("COLUMNS", "77")]).width, 77);
}

/// The text without escape sequences for colour.
pub(super) fn uncoloured(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
}

proptest! {
    #[test]
    fn no_line_is_wider_than_the_terminal(
        width in 0_u16..250,
        names in prop::collection::vec("\\PC{0,60}", 1..6),
        comm in ".{0,20}",
        ns in prop::collection::vec(0..1_u64 << 50, 18),
        (colour, unicode) in any::<(bool, bool)>(),
    ) {
        let mut report = sample();
        let states: Vec<_> = State::all().zip(ns).collect();
        for name in &names {
            let mut span = span(name, times(&states));
            span.service = comm.clone();
            span.off_thread_ns = 7;
            span.exact.states = false;
            span.causes = vec![cause(State::Lock, CauseKind::Waker, &comm, u32::MAX, "3f00aa0000000001")];
            span.methods = vec![MethodDocument {
                name: name.as_str().into(),
                file: comm.as_str().into(),
                line: 1,
                self_ns: 1,
                total_ns: u64::MAX,
                by_state: StateTimes::default(),
            }];
            report.loss.insert(name.clone(), u64::MAX);
            report.spans.push(span);
        }
        let text = uncoloured(&rendered(&report, &Style { width, colour, unicode, top: 4 }));
        let width = usize::from(width.clamp(NARROWEST, WIDEST));
        for line in text.lines() {
            prop_assert!(text::columns(line) <= width, "{width}: {line:?}");
        }
        prop_assert!(unicode || text.is_ascii());
    }
}

#[test]
fn who_was_recorded_and_who_was_left_out_is_said() {
    let of = |processes, with_children, left_out| {
        let (pid, comm) = (812, "postgres".to_owned());
        let asked_pid = if left_out > 0 { 813 } else { pid };
        let process = RecordedDocument { pid, asked_pid, comm, processes, with_children, left_out };
        let text = rendered(&Report { recorded: vec![process], ..sample() }, &PLAIN);
        let lines: Vec<&str> = text.lines().skip(1).take_while(|line| !line.is_empty()).collect();
        lines.join("\n")
    };
    assert_eq!(
        of(7, true, 0),
        "  recorded postgres (812) with 6 processes below it, and what they forked since"
    );
    assert_eq!(
        of(1, false, 2),
        "  recorded postgres (812), whose thread 813 is, alone: left out 2 processes\n  below it \
         and what it forked since (--no-children)"
    );
}

#[test]
fn json_for_a_terminal_says_the_same_and_moves_nothing() {
    let name = "a\u{9b}31m\u{7f}\u{202e}\u{200f}\u{2066}\u{85}ä\u{1b}";
    let json = format!("{}\n", serde_json::to_string(&vec![name]).unwrap());
    let plain = plain_json(json.as_bytes());
    assert!(plain.contains("a\\u009b31m\\u007f\\u202e\\u200f\\u2066\\u0085ä\\u001b"), "{plain}");
    assert!(plain.chars().all(|c| c == '\n' || !c.is_control()));
    assert_eq!(serde_json::from_str::<Vec<String>>(&plain).unwrap(), [name]);
    // Bytes that are no text are no way round it: C1 in Latin-1.
    assert!(!plain_json(b"\"\x9b31m\"").contains('\u{9b}'));
}
