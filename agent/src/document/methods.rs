//! Sums per function over the stacks of a span.

use std::collections::{HashMap, HashSet};

use super::span::{MethodDocument, StackDocument};
use crate::model::{frame::FrameKind, state::StateTimes};

/// Methods shown per span.
const METHODS_TOLD: usize = 100;

/// Sums per function over stacks; a function counts once per stack however often it recurs. In order
/// of own time, then the program's functions before the kernel's, then of total time, then of name.
pub fn methods(stacks: &[StackDocument]) -> Vec<MethodDocument> {
    let mut methods: HashMap<(&str, &str), (bool, MethodDocument)> = HashMap::new();
    for stack in stacks {
        let mut seen = HashSet::new();
        for (depth, frame) in stack.frames.iter().enumerate() {
            let key = (&*frame.name, &*frame.file);
            let (_, method) = methods.entry(key).or_insert_with(|| {
                let method = MethodDocument {
                    name: frame.name.clone(),
                    file: frame.file.clone(),
                    line: frame.line,
                    self_ns: 0,
                    total_ns: 0,
                    by_state: StateTimes::default(),
                };
                (frame.kind == FrameKind::Kernel, method)
            });
            if depth == 0 {
                method.self_ns += stack.ns;
            }
            if seen.insert(key) {
                method.total_ns += stack.ns;
                method.by_state.add(stack.state, stack.ns);
            }
        }
    }
    let mut methods: Vec<(bool, MethodDocument)> = methods.into_values().collect();
    methods.sort_by(|(a_kernel, a), (b_kernel, b)| {
        b.self_ns
            .cmp(&a.self_ns)
            .then_with(|| a_kernel.cmp(b_kernel))
            .then_with(|| b.total_ns.cmp(&a.total_ns))
            .then_with(|| (&a.name, &a.file).cmp(&(&b.name, &b.file)))
    });
    methods.truncate(METHODS_TOLD);
    methods.into_iter().map(|(_, method)| method).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{frame::Frame, state::State};

    fn frame(name: &str) -> Frame {
        Frame { name: name.into(), file: "".into(), line: 0, kind: FrameKind::Native }
    }

    #[test]
    fn recursion_counts_once_in_total() {
        let stack = StackDocument {
            frames: vec![frame("f"), frame("f"), frame("main")],
            state: State::Running,
            ns: 100,
            count: 1,
        };
        let methods = methods(&[stack]);
        assert_eq!((&*methods[0].name, methods[0].self_ns, methods[0].total_ns), ("f", 100, 100));
        assert_eq!((methods[1].self_ns, methods[1].total_ns), (0, 100));
    }
}
