use super::*;

use crate::model::{
    clock::UnixNs,
    id::{SpanId, TraceId},
};

#[test]
fn masks_are_distinct() {
    let mut seen = 0;
    for state in State::all() {
        assert_eq!(seen & mask_of(state), 0);
        seen |= mask_of(state);
    }
}

#[test]
fn a_row_survives_and_no_cut_panics() {
    let mut states = StateTimes::default();
    states.add(State::UnknownContextUnreadable, 7);
    states.add(State::default(), u64::MAX);
    let row = SpanRow {
        trace_id: TraceId([1; 16]),
        span_id: SpanId([2; 8]),
        parent: SpanId([3; 8]),
        process: 9,
        operation: 4,
        start_unix_ns: UnixNs(1 << 60),
        start: 1 << 45,
        end: (1 << 45) + 5,
        active_ns: 12,
        states,
        active: vec![(1 << 44, 1 << 45), (u64::MAX - 1, u64::MAX)],
        exact: true,
        open: false,
        loss: [("x".into(), 3)].into(),
        first: 4,
        next: 2,
        minutes: Some((5, 9)),
    };
    let body = row.encode();
    assert_eq!(SpanRow::decode(4, &body), Ok(row));
    for length in 0..body.len() {
        assert!(SpanRow::decode(4, &body[..length]).is_err());
    }
}
