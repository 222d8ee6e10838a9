//! Lists and single spans as they look, and any of them within the width of its terminal.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    bar::glyph_of,
    list::{self, Title},
    span::{self as one, View},
    tests::{PLAIN, cause, span, times, uncoloured},
    *,
};
use crate::{
    document::{methods::methods, span::StackDocument},
    model::{
        cause::CauseKind,
        frame::{Frame, FrameKind},
        state::{State, StateTimes},
    },
};

fn stack(state: State, ns: u64, names: &[&str]) -> StackDocument {
    let frames = names.iter().map(|name| Frame {
        name: (*name).into(),
        file: if name.starts_with("k_") { "".into() } else { format!("/src/{name}.rs").into() },
        line: 7,
        kind: if name.starts_with("k_") { FrameKind::Kernel } else { FrameKind::Native },
    });
    StackDocument { frames: frames.collect(), state, ns, count: 1 }
}

fn checkout() -> SpanDocument {
    let mut span = span(
        "GET /checkout",
        times(&[
            (State::Running, 10_000_000),
            (State::Lock, 25_000_000),
            (State::Socket, 12_000_000),
        ]),
    );
    span.off_thread_ns = 3_000_000;
    span.wall_ns += 3_000_000;
    let mut held = cause(State::Lock, CauseKind::Waker, "worker-3", 812, "3f00aa0000000001");
    held.span_name = "POST /restock".to_owned();
    span.causes = vec![held, cause(State::Socket, CauseKind::Interrupt, "", 0, "")];
    span.stacks = vec![
        stack(State::Lock, 25_000_000, &["k_futex", "lock", "reserve", "serve", "main"]),
        stack(State::Running, 7_000_000, &["sum", "total", "serve", "main"]),
        stack(State::Running, 2_800_000, &["total", "serve", "main"]),
        stack(State::Running, 200_000, &["log", "serve", "main"]),
    ];
    span.methods = methods(&span.stacks);
    span
}

fn shown(span: &SpanDocument, view: View, style: &Style) -> String {
    let mut out = Vec::new();
    one::write(span, view, &mut out, style).unwrap();
    String::from_utf8(out).unwrap()
}

fn listed(spans: &[SpanDocument], title: &Title, style: &Style) -> String {
    let mut out = Vec::new();
    list::write(spans, title, &mut out, style).unwrap();
    String::from_utf8(out).unwrap()
}

fn title(filters: &[&str], truncated: bool) -> Title {
    Title {
        order: "newest first",
        filters: filters.iter().map(|&filter| filter.to_owned()).collect(),
        truncated,
        now_unix_ns: 5_050_001_000,
    }
}

#[test]
fn a_span_looks_like_this() {
    let expected = "\
GET /checkout  50.0 ms  shop (812)
4bf92f3577b34da6a3ce929d0e0e4736/00f067aa0ba902b7

  ████████████████▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌≈≈≈≈≈≈≈≈≈≈≈≈≈≈≈≈≈≈≈

Where the time went: exact
   25.0 ms  53.1%  ▌ lock     25,000,000 ns
   12.0 ms  25.5%  ≈ socket   12,000,000 ns
   10.0 ms  21.2%  █ running  10,000,000 ns
   47.0 ms   100%    active   47,000,000 ns
   3.00 ms           on no thread (queued or awaiting)

Who made it wait: exact
   12.3 ms  3×  ▌ lock    released by worker-3 in POST /restock 3f00aa0000000001
   12.3 ms  3×  ≈ socket  ended by an interrupt

In which functions: sampled
      self     total  method (sampled)
   25.0 ms   25.0 ms  k_futex
   7.00 ms   7.00 ms  sum  sum.rs:7
                      and 6 more (--top)

Stacks, callers first: sampled, from 1%
   35.0 ms  74.4%  ▌ main  main.rs:7
                     serve  serve.rs:7
   25.0 ms  53.1%  ▌ ├ reserve  reserve.rs:7
                     │ lock  lock.rs:7
                     │ k_futex  kernel
   9.80 ms  20.8%  █ └ total  total.rs:7
   7.00 ms  14.8%  █   ├ sum  sum.rs:7
   2.80 ms   5.9%  █   └ [ends here]
   12.0 ms  25.5%    without a stack

";
    let style = Style { top: 2, ..PLAIN };
    assert_eq!(shown(&checkout(), View::default(), &style), expected);
}

#[test]
fn narrow_and_in_ascii_it_looks_like_this() {
    let expected = "\
GET /checkout  50.0 ms  shop (812)
4bf92f3577b34da6a3ce929d0e0e4736
/00f067aa0ba902b7

  ########LLLLLLLLLLLLLLLLLLL~~~~~~~~~

Where the time went: exact
   25.0 ms  53.1%  L lock
   12.0 ms  25.5%  ~ socket
   10.0 ms  21.2%  # running
   47.0 ms   100%    active
   3.00 ms           on no thread (queu~

Who made it wait (lock only): exact
   12.3 ms  3x  L lock
            released by worker-3 in POS~
            3f00aa0000000001

In which functions (lock only): sampled
      self     total  method (sampled)
   25.0 ms   25.0 ms  k_futex
                      and 4 more (--top)

Stacks, callees first (lock only): samp~
   25.0 ms  L k_futex  kernel
              lock  lock.rs:7
              reserve  reserve.rs:7
              serve  serve.rs:7
              main  main.rs:7

";
    let style = Style { top: 1, width: 40, unicode: false, ..PLAIN };
    let view = View { state: Some(State::Lock), reverse: true };
    assert_eq!(shown(&checkout(), view, &style), expected);
}

#[test]
fn what_a_span_lacks_is_reported() {
    let mut span = checkout();
    span.stacks.clear();
    span.exact.states = false;
    span.scope = "children";
    span.parent_span_id = "00f067aa0ba902b6".to_owned();
    span.loss = BTreeMap::from([("stacks_missing".to_owned(), 3)]);
    let text = shown(&span, View::default(), &PLAIN);
    for part in [
        "child of 00f067aa0ba902b6",
        "with its descendants in this process",
        "Where the time went: partly unknown",
        "no stack was taken",
        "3  stacks_missing  stacks seen and not reported",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_list_looks_like_this() {
    let spans = [checkout(), span("GET /", times(&[(State::Running, 1_200_000)]))];
    let wide = "\
hotspan: 2 spans, newest first  --min 1ms

  █ running  ▌ lock  ≈ socket

      time       ago  name           service (pid)  where the time went                                 span
   50.0 ms    5.00 s  GET /checkout  shop (812)     ██████████▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌▌≈≈≈≈≈≈≈≈≈≈≈≈     00f067aa0ba902b7
   1.20 ms    5.05 s  GET /          shop (812)     ██████████████████████████████████████████████████  00f067aa0ba902b7

There are more: raise -n, or narrow with --since, --min, --service.
`hotspan span ID` says where one span's time went.
";
    let title = title(&["--min 1ms"], true);
    assert_eq!(listed(&spans, &title, &Style { width: 120, ..PLAIN }), wide);
    let narrow = "\
hotspan: 2 spans, newest first  --min 1~

  # running  L lock  ~ socket

      time  name
            span              where the~
   50.0 ms  GET /checkout
            00f067aa0ba902b7  ##LLLLL~~
   1.20 ms  GET /
            00f067aa0ba902b7  ##########

There are more: raise -n, or narrow with
--since, --min, --service.
`hotspan span ID` says where one span's
time went.
";
    let style = Style { width: 40, unicode: false, ..PLAIN };
    assert_eq!(listed(&spans, &title, &style), narrow);
}

#[test]
fn an_empty_list_says_what_to_try() {
    let text = listed(&[], &title(&["--service nix"], false), &PLAIN);
    assert!(text.starts_with("No span matches.\nAsked for: --service nix\n"), "{text}");
    let text = listed(&[], &title(&[], false), &PLAIN);
    assert!(text.contains("No span is stored yet.") && text.contains("hotspan doctor"), "{text}");
}

#[test]
fn bars_add_up_at_every_width() {
    let glyphs = |line: &str, unicode: bool| {
        let cells = State::all().map(|state| glyph_of(state, unicode));
        let cells: Vec<char> = cells.collect();
        line.chars().filter(|c| cells.contains(c)).count()
    };
    for (width, unicode) in [(40, true), (40, false), (80, true), (80, false), (120, true)] {
        let style = Style { width, unicode, ..PLAIN };
        let text = shown(&checkout(), View::default(), &style);
        let bar = text.split("\n\n").nth(1).unwrap();
        assert_eq!(glyphs(bar, unicode), usize::from(width) - 4, "{text}");
        let coloured = Style { colour: true, ..style };
        assert_eq!(uncoloured(&shown(&checkout(), View::default(), &coloured)), text);
    }
}

proptest! {
    #[test]
    fn no_line_is_wider_than_the_terminal(
        width in 0_u16..250,
        stacks in prop::collection::vec(
            (prop::collection::vec("\\PC{0,30}", 0..40), 0..3_usize, 0..1_u64 << 40), 0..12),
        hostile in ".{0,60}",
        (colour, unicode, reverse) in any::<(bool, bool, bool)>(),
    ) {
        let states = [State::Running, State::Lock, State::Disk];
        let stacks: Vec<StackDocument> = stacks
            .iter()
            .map(|(names, state, ns)| {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                stack(states[*state], *ns, &names)
            })
            .collect();
        let mut sums = StateTimes::default();
        for stack in &stacks {
            sums.add(stack.state, stack.ns);
        }
        let mut span = SpanDocument { stacks, states: sums, ..checkout() };
        span.name.clone_from(&hostile);
        span.service.clone_from(&hostile);
        span.causes[0].name.clone_from(&hostile);
        span.causes[0].span_name.clone_from(&hostile);
        span.loss.insert(hostile.clone(), u64::MAX);
        let style = Style { width, colour, unicode, top: 5 };
        let view = View { state: None, reverse };
        let text = shown(&span, view, &style) + &listed(&[span], &title(&[&hostile], true), &style);
        let text = uncoloured(&text);
        let width = usize::from(width.clamp(NARROWEST, WIDEST));
        for line in text.lines() {
            prop_assert!(text::columns(line) <= width, "{width}: {line:?}");
        }
        prop_assert!(unicode || text.is_ascii());
    }
}
