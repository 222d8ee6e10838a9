//! The samples of batches as one pprof profile for the whole host: process, thread and span as
//! labels, samples of the same stack and labels summed, no times of single samples. The best case
//! of that format; spans, causes and totals have no place in it.

use std::collections::HashMap;

use hotspan::model::{
    batch::Batch,
    frame::{Frame, Stack},
    id::{SpanId, TraceId},
    state::State,
};
use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
    #[prost(int64, tag = "3")]
    num: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

#[derive(Default)]
struct Tables {
    profile: Profile,
    strings: HashMap<String, i64>,
    locations: HashMap<Frame, u64>,
    functions: HashMap<(i64, i64), u64>,
}

/// Stack, process, thread, state and span.
type Identity<'a> = (Option<&'a Stack>, u32, u32, State, Option<(TraceId, SpanId)>);

/// One profile with the samples of all batches.
pub(crate) fn encode(batches: &[Batch]) -> Vec<u8> {
    let mut tables = Tables::default();
    tables.string("");
    let mut samples: HashMap<Identity<'_>, [i64; 2]> = HashMap::new();
    for batch in batches {
        for row in &batch.samples {
            let stack = row.stack.map(|stack| &batch.stacks[stack as usize]);
            let span = row.span.map(|span| &batch.spans[span as usize]);
            let pid = batch.processes[row.process as usize].pid;
            let span = span.map(|span| (span.trace_id, span.span_id));
            let value = samples.entry((stack, pid, row.tid.0, row.state, span)).or_default();
            value[0] += 1;
            value[1] += row.ns.cast_signed();
        }
    }
    for ((stack, pid, tid, state, span), value) in samples {
        let location_id = match stack {
            Some(stack) => stack.iter().map(|frame| tables.location(frame)).collect(),
            None => Vec::new(),
        };
        let mut label = vec![
            Label { key: tables.string("pid"), str: 0, num: pid.into() },
            Label { key: tables.string("tid"), str: 0, num: tid.into() },
        ];
        if state != State::default() {
            let str = tables.string(state.key());
            label.push(Label { key: tables.string("wait"), str, num: 0 });
        }
        if let Some((trace_id, span_id)) = span {
            let str = tables.string(&trace_id.to_string());
            label.push(Label { key: tables.string("trace_id"), str, num: 0 });
            let str = tables.string(&span_id.to_string());
            label.push(Label { key: tables.string("span_id"), str, num: 0 });
        }
        tables.profile.sample.push(Sample { location_id, value: value.into(), label });
    }
    let types = [("samples", "count"), ("time", "nanoseconds")];
    for (kind, unit) in types {
        let value_type = ValueType { kind: tables.string(kind), unit: tables.string(unit) };
        tables.profile.sample_type.push(value_type);
    }
    let mut profile = tables.profile;
    profile.mapping.push(Mapping { id: 1, filename: 0 });
    profile.period_type = profile.sample_type.last().copied();
    profile.period = 10_101_010;
    if let (Some(first), Some(last)) = (batches.first(), batches.last()) {
        let at = first.from.saturating_add_signed(first.unix_offset_ns);
        profile.time_nanos = at.cast_signed();
        profile.duration_nanos = (last.to - first.from).cast_signed();
    }
    profile.encode_to_vec()
}

// === impl Tables ===

impl Tables {
    fn string(&mut self, text: &str) -> i64 {
        if let Some(&known) = self.strings.get(text) {
            return known;
        }
        let index = self.profile.string_table.len() as i64;
        self.profile.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), index);
        index
    }

    fn location(&mut self, frame: &Frame) -> u64 {
        if let Some(&known) = self.locations.get(frame) {
            return known;
        }
        let (name, filename) = (self.string(&frame.name), self.string(&frame.file));
        let functions = &mut self.profile.function;
        let function_id = *self.functions.entry((name, filename)).or_insert_with(|| {
            let id = functions.len() as u64 + 1;
            functions.push(Function { id, name, system_name: name, filename });
            id
        });
        let id = self.profile.location.len() as u64 + 1;
        let line = vec![Line { function_id, line: frame.line.into() }];
        self.profile.location.push(Location { id, mapping_id: 1, line });
        self.locations.insert(frame.clone(), id);
        id
    }
}
