//! What a document holds at most: names of frames and numbers of causes come from outside, and an answer
//! is in memory until it was read.

use super::span::{CauseDocument, StackDocument};

/// Bytes of stacks.
const STACK_BYTES: usize = 8 << 20;
/// What a frame takes beside its names.
const FRAME_BYTES: usize = 64;
/// Causes of a span.
const CAUSES: usize = 10_000;

/// Keeps the first stacks, as many as fit; how many do not.
pub(super) fn stacks(stacks: &mut Vec<StackDocument>) -> u64 {
    let mut left = STACK_BYTES;
    let fits = |stack: &&StackDocument| {
        let frames = stack.frames.iter();
        let bytes = frames.map(|frame| frame.name.len() + frame.file.len() + FRAME_BYTES).sum();
        let rest = left.checked_sub(bytes);
        left = rest.unwrap_or(0);
        rest.is_some()
    };
    let kept = stacks.iter().take_while(fits).count();
    cut(stacks, kept)
}

/// The same of causes.
pub(super) fn causes(causes: &mut Vec<CauseDocument>) -> u64 {
    cut(causes, CAUSES)
}

fn cut<T>(rows: &mut Vec<T>, most: usize) -> u64 {
    let cut = rows.len().saturating_sub(most);
    rows.truncate(most);
    cut as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        frame::{Frame, FrameKind},
        state::State,
    };

    #[test]
    fn the_first_stacks_stay_and_the_rest_is_counted() {
        let frame = |name: String| Frame {
            name: name.into(),
            file: "".into(),
            line: 0,
            kind: FrameKind::Native,
        };
        let stack = |bytes: usize, ns| StackDocument {
            frames: vec![frame("x".repeat(bytes - FRAME_BYTES))],
            state: State::Running,
            ns,
            count: 1,
        };
        let half = STACK_BYTES / 2;
        let mut all: Vec<_> = [half, half / 2, half, 100].map(|bytes| stack(bytes, 1)).into();
        // The last would fit, and is of less time than one that does not.
        assert_eq!((stacks(&mut all), all.len()), (2, 2));
        assert_eq!((stacks(&mut all), all.len()), (0, 2));
    }
}
