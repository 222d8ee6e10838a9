//! Stacks merged into a tree, for a terminal.
//!
//! ```text
//!    25.0 ms  51.8%  ▌ main
//!                      shop::serve
//!    15.0 ms  31.1%  ▌ ├ shop::checkout
//!    10.0 ms  20.7%  █ └ shop::total
//! ```
//! Invariants: what stands below a line adds up to it, but for what is under one percent of the
//! whole; only a fork indents, so depth costs no width; a time stands where it changes. Nothing
//! here recurses: stacks are as deep as somebody else made them.

use std::{collections::HashMap, io};

use super::{
    Style, TIME, WITH_SERVICE,
    details::{place, put_function},
    text::{self, Paint},
};
use crate::{
    document::span::StackDocument,
    model::{
        frame::{Frame, FrameKind},
        state::{State, StateTimes},
    },
};

/// Of the whole, in percent: less is not shown.
const SHOWN: u64 = 1;

/// A function below a way to it.
#[derive(Default)]
struct Node<'a> {
    frame: Option<&'a Frame>,
    /// All stacks that go this way.
    states: StateTimes,
    /// Those that end here.
    own: StateTimes,
    children: Vec<usize>,
}

/// Something to be written: a node with what follows it straight, or a sum.
struct Item {
    what: What,
    /// What stands before every line of it.
    prefix: String,
    /// What stands before its first line.
    mark: &'static str,
    /// What that becomes on the lines below.
    below: &'static str,
}

enum What {
    Node(usize),
    /// Text, for this much time.
    Sum(String, StateTimes),
}

/// Writes stacks as a tree; shares are of `whole`.
pub(super) fn write(
    stacks: &[StackDocument],
    whole: u64,
    reverse: bool,
    out: &mut impl io::Write,
    style: &Style,
) -> io::Result<()> {
    let nodes = merge(stacks, reverse);
    let least = (whole / 100 * SHOWN).max(1);
    let shown = nodes[0].states.sum();
    let mut open: Vec<Item> = forks(&nodes, 0, "", least, style).into_iter().rev().collect();
    for item in &mut open {
        // The outermost functions stand side by side, not below anything.
        (item.mark, item.below) = ("", "");
    }
    while let Some(item) = open.pop() {
        let mut index = match &item.what {
            What::Node(index) => *index,
            What::Sum(text, states) => {
                let mut line = style.line();
                amount(&mut line, states, whole, style);
                put_prefix(&mut line, &item.prefix, item.mark, style);
                line.put(text, Paint::Dim).end(out)?;
                continue;
            }
        };
        let mut line = style.line();
        amount(&mut line, &nodes[index].states, whole, style);
        put_prefix(&mut line, &item.prefix, item.mark, style);
        function(&mut line, &nodes[index], style);
        line.end(out)?;
        let prefix = format!("{}{}", item.prefix, item.below);
        loop {
            let forks = forks(&nodes, index, &prefix, least, style);
            if let [Item { what: What::Node(only), .. }] = forks[..] {
                index = only;
                let mut line = style.line();
                line.skip(margin(style));
                put_prefix(&mut line, &prefix, "", style);
                function(&mut line, &nodes[index], style);
                line.end(out)?;
            } else {
                open.extend(forks.into_iter().rev());
                break;
            }
        }
    }
    let not_shown = whole.saturating_sub(shown);
    if not_shown >= least {
        let mut line = style.line();
        share(&mut line, not_shown, whole, style);
        line.skip(2).put("without a stack", Paint::Dim).end(out)?;
    }
    Ok(())
}

/// The tree, its root first: the root stands for all stacks.
fn merge(stacks: &[StackDocument], reverse: bool) -> Vec<Node<'_>> {
    let mut nodes = vec![Node::default()];
    let mut known: HashMap<(usize, &str, &str), usize> = HashMap::new();
    for stack in stacks {
        let mut index = 0;
        nodes[index].states.add(stack.state, stack.ns);
        for step in 0..stack.frames.len() {
            let depth = if reverse { step } else { stack.frames.len() - 1 - step };
            let frame = &stack.frames[depth];
            let next = nodes.len();
            let child = *known.entry((index, &frame.name, &frame.file)).or_insert(next);
            if child == next {
                nodes.push(Node { frame: Some(frame), ..Node::default() });
                nodes[index].children.push(child);
            }
            index = child;
            nodes[index].states.add(stack.state, stack.ns);
        }
        nodes[index].own.add(stack.state, stack.ns);
    }
    nodes
}

/// What stands below a node: its children by time, what ends in it, and the small ones as one.
fn forks(nodes: &[Node<'_>], index: usize, prefix: &str, least: u64, style: &Style) -> Vec<Item> {
    let node = &nodes[index];
    let (mut shown, small): (Vec<usize>, Vec<usize>) =
        node.children.iter().partition(|&&child| nodes[child].states.sum() >= least);
    shown.sort_by_key(|&child| {
        let name = nodes[child].frame.map(|frame| &*frame.name);
        (std::cmp::Reverse(nodes[child].states.sum()), name)
    });
    let mut whats: Vec<What> = shown.into_iter().map(What::Node).collect();
    if !whats.is_empty() && node.own.sum() >= least {
        whats.push(What::Sum("[ends here]".to_owned(), node.own.clone()));
    }
    let mut rest = StateTimes::default();
    for &child in &small {
        rest.merge(&nodes[child].states);
    }
    if rest.sum() >= least {
        whats.push(What::Sum(format!("[{} more, each under {SHOWN}%]", small.len()), rest));
    }
    let last = whats.len().saturating_sub(1);
    whats
        .into_iter()
        .enumerate()
        .map(|(place, what)| {
            let (mark, below) = match (place == last, style.unicode) {
                (false, true) => ("├ ", "│ "),
                (false, false) => ("|-", "| "),
                (true, true) => ("└ ", "  "),
                (true, false) => ("`-", "  "),
            };
            Item { what, prefix: prefix.to_owned(), mark, below }
        })
        .collect()
}

/// Columns before the tree.
fn margin(style: &Style) -> usize {
    TIME + 2 + if style.columns() < WITH_SERVICE { 0 } else { SHARE + 2 } + 2
}

/// Columns of a share.
const SHARE: usize = 5;

fn share(line: &mut text::Line, ns: u64, whole: u64, style: &Style) {
    line.put_right(&text::time(ns, style.unicode), TIME, Paint::Plain).skip(2);
    if style.columns() >= WITH_SERVICE {
        line.put_right(&text::percent(ns, whole), SHARE, Paint::Dim).skip(2);
    }
}

/// Time, share, and the state that most of it is.
fn amount(line: &mut text::Line, states: &StateTimes, whole: u64, style: &Style) {
    share(line, states.sum(), whole, style);
    let most: Option<(State, u64)> = states.iter().max_by_key(|&(_, ns)| ns);
    match most {
        Some((state, _)) => line.put_glyph(state).skip(1),
        None => line.skip(2),
    };
}

/// The lines that lead here; of many, the last.
fn put_prefix(line: &mut text::Line, prefix: &str, mark: &str, style: &Style) {
    let prefix: Vec<char> = prefix.chars().chain(mark.chars()).collect();
    let room = style.columns() / 3;
    let (cut, from) = match prefix.len().checked_sub(room) {
        Some(over) if over > 0 => (if style.unicode { "…" } else { "~" }, over + 1),
        _ => ("", 0),
    };
    line.put(cut, Paint::Dim);
    line.put(&prefix[from..].iter().collect::<String>(), Paint::Dim);
}

fn function(line: &mut text::Line, node: &Node<'_>, style: &Style) {
    let Some(frame) = node.frame else { return };
    let place = match place(&frame.file, frame.line) {
        place if place.is_empty() && frame.kind == FrameKind::Kernel => "  kernel".to_owned(),
        place => place,
    };
    put_function(line, &frame.name, &place, style);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_node_is_its_children_and_what_ends_in_it(
            stacks in prop::collection::vec((prop::collection::vec(0..3_u32, 0..8), 0..1_u64 << 40), 0..30),
            reverse in any::<bool>(),
        ) {
            let stacks: Vec<StackDocument> = stacks
                .into_iter()
                .map(|(names, ns)| StackDocument {
                    frames: names
                        .into_iter()
                        .map(|name| Frame {
                            name: name.to_string().into(),
                            file: "".into(),
                            line: 0,
                            kind: FrameKind::Native,
                        })
                        .collect(),
                    state: State::Running,
                    ns,
                    count: 1,
                })
                .collect();
            let nodes = merge(&stacks, reverse);
            prop_assert_eq!(nodes[0].states.sum(), stacks.iter().map(|stack| stack.ns).sum::<u64>());
            for node in &nodes {
                let below: u64 = node.children.iter().map(|&child| nodes[child].states.sum()).sum();
                prop_assert_eq!(node.states.sum(), node.own.sum() + below);
            }
        }
    }
}
