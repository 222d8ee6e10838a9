//! One event of the ring, as words on the wire and as fields.

use crate::abi::{EVENT_WORDS, op};

/// An event as stored: word 0 is `seq`, word 1 `ts`.
pub type EventWords = [u64; EVENT_WORDS];

/// An event as a reader wants it. Absent parent and local root are all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub index: u64,
    pub ts: u64,
    pub ts_kind: u8,
    pub op: u8,
    pub trace_flags: u8,
    pub name_id: u32,
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub local_root_span_id: [u8; 8],
    pub parent_span_id: [u8; 8],
}

// === impl Event ===

impl Event {
    /// Decodes words copied by [`crate::ring::read_slot`].
    pub fn from_words(words: &EventWords) -> Self {
        let [op, trace_flags, ts_kind, _, name @ ..] = words[6].to_le_bytes();
        let mut trace_id = [0; 16];
        trace_id[..8].copy_from_slice(&words[2].to_le_bytes());
        trace_id[8..].copy_from_slice(&words[3].to_le_bytes());
        Self {
            index: words[0].wrapping_sub(1),
            ts: words[1],
            ts_kind,
            op,
            trace_flags,
            name_id: u32::from_le_bytes(name),
            trace_id,
            span_id: words[4].to_le_bytes(),
            local_root_span_id: words[5].to_le_bytes(),
            parent_span_id: words[7].to_le_bytes(),
        }
    }

    /// Owner tid and generation of a LANE_BEGIN or LANE_END.
    pub fn owner(&self) -> Option<(u32, u32)> {
        let [tid, generation] = [&self.trace_id[..4], &self.trace_id[4..8]]
            .map(|bytes| bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)));
        matches!(self.op, op::LANE_BEGIN | op::LANE_END).then_some((tid, generation))
    }
}

/// Word 6 of an event: everything that is smaller than a word.
#[inline(always)]
pub(crate) const fn small_fields(op: u8, trace_flags: u8, ts_kind: u8, name: u32) -> u64 {
    op as u64 | (trace_flags as u64) << 8 | (ts_kind as u64) << 16 | (name as u64) << 32
}

/// The words of a LANE_BEGIN or LANE_END, not yet stamped.
pub(crate) const fn ownership(op: u8, tid: u32, generation: u32) -> EventWords {
    let owner = tid as u64 | (generation as u64) << 32;
    [0, 0, owner, 0, 0, 0, small_fields(op, 0, 0, 0), 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_survive_the_words() {
        let words = [8, 99, 1, 2, 3, 4, small_fields(op::SET, 7, 1, 0xABCD), 5];
        let event = Event::from_words(&words);
        assert_eq!((event.index, event.ts, event.op), (7, 99, op::SET));
        assert_eq!((event.trace_flags, event.ts_kind, event.name_id), (7, 1, 0xABCD));
        assert_eq!((event.trace_id[0], event.trace_id[8], event.span_id[0]), (1, 2, 3));
        assert_eq!((event.local_root_span_id[0], event.parent_span_id[0]), (4, 5));
        assert_eq!(event.owner(), None);
    }

    #[test]
    fn ownership_events_name_their_thread() {
        let event = Event::from_words(&ownership(op::LANE_BEGIN, 0x0102_0304, 77));
        assert_eq!(event.owner(), Some((0x0102_0304, 77)));
    }
}
