//! The samples of batches as OTLP profiles (v1development, 1.10), the way the upstream profiler
//! sends them: a Resource per process, one profile for CPU samples and one for waits, samples of
//! the same stack, thread and span joined. Spans, causes and totals have no place in it.

use std::{collections::HashMap, hash::Hash};

use hotspan::model::{
    batch::{Batch, SampleRow},
    frame::{Frame, Stack},
    id::{SpanId, TraceId},
    state::State,
};
use prost::Message;

/// ExportProfilesServiceRequest.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_profiles: Vec<ResourceProfiles>,
    #[prost(message, optional, tag = "2")]
    dictionary: Option<Dictionary>,
}

/// Element 0 of every table is the zero value.
#[derive(Clone, PartialEq, Message)]
struct Dictionary {
    #[prost(message, repeated, tag = "1")]
    mappings: Vec<Mapping>,
    #[prost(message, repeated, tag = "2")]
    locations: Vec<Location>,
    #[prost(message, repeated, tag = "3")]
    functions: Vec<Function>,
    #[prost(message, repeated, tag = "4")]
    links: Vec<Link>,
    #[prost(string, repeated, tag = "5")]
    strings: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    attributes: Vec<KeyValueAndUnit>,
    #[prost(message, repeated, tag = "7")]
    stacks: Vec<StackMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceProfiles {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_profiles: Vec<ScopeProfiles>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, optional, tag = "1")]
    string: Option<String>,
    #[prost(int64, optional, tag = "3")]
    int: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeProfiles {
    #[prost(message, repeated, tag = "2")]
    profiles: Vec<Profile>,
}

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, optional, tag = "1")]
    sample_type: Option<ValueType>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(fixed64, tag = "3")]
    time_unix_nano: u64,
    #[prost(uint64, tag = "4")]
    duration_nano: u64,
    #[prost(message, optional, tag = "5")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "6")]
    period: i64,
    #[prost(bytes = "vec", tag = "7")]
    profile_id: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int32, tag = "1")]
    type_strindex: i32,
    #[prost(int32, tag = "2")]
    unit_strindex: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(int32, tag = "1")]
    stack_index: i32,
    #[prost(int32, repeated, tag = "2")]
    attribute_indices: Vec<i32>,
    #[prost(int32, tag = "3")]
    link_index: i32,
    #[prost(int64, repeated, tag = "4")]
    values: Vec<i64>,
    #[prost(fixed64, repeated, tag = "5")]
    timestamps_unix_nano: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct StackMessage {
    #[prost(int32, repeated, tag = "1")]
    location_indices: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(int32, tag = "1")]
    mapping_index: i32,
    #[prost(uint64, tag = "2")]
    address: u64,
    #[prost(message, repeated, tag = "3")]
    lines: Vec<Line>,
    #[prost(int32, repeated, tag = "4")]
    attribute_indices: Vec<i32>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(int32, tag = "1")]
    function_index: i32,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(int32, tag = "1")]
    name_strindex: i32,
    #[prost(int32, tag = "3")]
    filename_strindex: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Mapping {
    #[prost(int32, tag = "4")]
    filename_strindex: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Link {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValueAndUnit {
    #[prost(int32, tag = "1")]
    key_strindex: i32,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

/// A table's rows by what they are.
type Index<K> = HashMap<K, i32>;

#[derive(Default)]
struct Tables {
    dictionary: Dictionary,
    strings: Index<String>,
    locations: Index<Frame>,
    functions: Index<(i32, i32)>,
    stacks: Index<Stack>,
    links: Index<(TraceId, SpanId)>,
    attributes: Index<(&'static str, String)>,
}

/// Stack, thread, state and link.
type Identity = (i32, u32, State, i32);
type Samples = HashMap<Identity, Sample>;

/// One request with the samples of all batches.
pub(crate) fn encode(batches: &[Batch]) -> Vec<u8> {
    let mut tables = Tables::new();
    let mut processes: HashMap<(u32, u64), (Resource, [Samples; 2])> = HashMap::new();
    for batch in batches {
        for sample in &batch.samples {
            let process = &batch.processes[sample.process as usize];
            let (_, profiles) =
                processes.entry((process.pid, process.since)).or_insert_with(|| {
                    let text = |text: &str| AnyValue { string: Some(text.into()), int: None };
                    let pid = AnyValue { int: Some(process.pid.into()), string: None };
                    let attributes = [
                        ("process.pid", pid),
                        ("process.executable.name", text(&process.service)),
                        ("service.name", text(&process.service)),
                    ];
                    let attributes = attributes
                        .map(|(key, value)| KeyValue { key: key.into(), value: Some(value) });
                    (Resource { attributes: attributes.into() }, Default::default())
                });
            let is_timer = sample.state == State::default();
            tables.add(batch, sample, &mut profiles[usize::from(!is_timer)], is_timer);
        }
    }
    let (from, to) = match (batches.first(), batches.last()) {
        (Some(first), Some(last)) => (first, last),
        _ => return Vec::new(),
    };
    let time_unix_nano = from.from.saturating_add_signed(from.unix_offset_ns);
    let duration_nano = to.to - from.from;
    let mut resource_profiles = Vec::new();
    for (resource, profiles) in processes.into_values() {
        let types = [("samples", "count"), ("off_cpu", "nanoseconds")];
        let profiles = profiles.into_iter().zip(types).filter(|(samples, _)| !samples.is_empty());
        let profiles = profiles.map(|(samples, (kind, unit))| {
            let is_timer = kind == "samples";
            let period = is_timer.then(|| tables.value_type("cpu", "nanoseconds"));
            Profile {
                sample_type: Some(tables.value_type(kind, unit)),
                samples: samples.into_values().collect(),
                time_unix_nano,
                duration_nano,
                period_type: period,
                period: if is_timer { 10_101_010 } else { 0 },
                profile_id: vec![7; 16],
            }
        });
        let profiles = profiles.collect();
        let scope_profiles = vec![ScopeProfiles { profiles }];
        resource_profiles.push(ResourceProfiles { resource: Some(resource), scope_profiles });
    }
    Request { resource_profiles, dictionary: Some(tables.dictionary) }.encode_to_vec()
}

// === impl Tables ===

impl Tables {
    fn new() -> Self {
        let mut tables = Self::default();
        let dictionary = &mut tables.dictionary;
        dictionary.mappings = vec![Mapping::default(); 2];
        dictionary.locations.push(Location::default());
        dictionary.functions.push(Function::default());
        dictionary.links.push(Link { trace_id: vec![0; 16], span_id: vec![0; 8] });
        dictionary.strings.push(String::new());
        dictionary.attributes.push(KeyValueAndUnit::default());
        dictionary.stacks.push(StackMessage::default());
        tables.strings.insert(String::new(), 0);
        tables
    }

    fn add(&mut self, batch: &Batch, row: &SampleRow, samples: &mut Samples, is_timer: bool) {
        let stack_index = row.stack.map_or(0, |stack| self.stack(&batch.stacks[stack as usize]));
        let link_index = row.span.map_or(0, |span| {
            let span = &batch.spans[span as usize];
            let links = &mut self.dictionary.links;
            index(&mut self.links, (span.trace_id, span.span_id), || {
                links.push(Link {
                    trace_id: span.trace_id.0.into(),
                    span_id: span.span_id.0.into(),
                });
                links.len()
            })
        });
        let identity = (stack_index, row.tid.0, row.state, link_index);
        let sample = samples.entry(identity).or_insert_with(|| {
            let mut attribute_indices = vec![self.attribute("thread.id", row.tid.to_string())];
            if !is_timer {
                attribute_indices.push(self.attribute("wait.kind", row.state.key().into()));
            }
            Sample { stack_index, attribute_indices, link_index, ..Sample::default() }
        });
        sample.timestamps_unix_nano.push(row.at.saturating_add_signed(batch.unix_offset_ns));
        if !is_timer {
            sample.values.push(row.ns.cast_signed());
        }
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> ValueType {
        ValueType { type_strindex: self.string(kind), unit_strindex: self.string(unit) }
    }

    fn string(&mut self, text: &str) -> i32 {
        let strings = &mut self.dictionary.strings;
        match self.strings.get(text) {
            Some(&known) => known,
            None => index(&mut self.strings, text.to_owned(), || {
                strings.push(text.to_owned());
                strings.len()
            }),
        }
    }

    fn attribute(&mut self, key: &'static str, value: String) -> i32 {
        if let Some(&known) = self.attributes.get(&(key, value.clone())) {
            return known;
        }
        let key_strindex = self.string(key);
        let number = value.parse().ok().filter(|_| key == "thread.id");
        let any = match number {
            Some(int) => AnyValue { int: Some(int), string: None },
            None => AnyValue { string: Some(value.clone()), int: None },
        };
        let attributes = &mut self.dictionary.attributes;
        index(&mut self.attributes, (key, value), || {
            attributes.push(KeyValueAndUnit { key_strindex, value: Some(any) });
            attributes.len()
        })
    }

    fn stack(&mut self, stack: &Stack) -> i32 {
        if let Some(&known) = self.stacks.get(stack) {
            return known;
        }
        let location_indices = stack.iter().map(|frame| self.location(frame)).collect();
        let stacks = &mut self.dictionary.stacks;
        index(&mut self.stacks, stack.clone(), || {
            stacks.push(StackMessage { location_indices });
            stacks.len()
        })
    }

    fn location(&mut self, frame: &Frame) -> i32 {
        if let Some(&known) = self.locations.get(frame) {
            return known;
        }
        let (name, file) = (self.string(&frame.name), self.string(&frame.file));
        let kind = self.attribute("profile.frame.type", frame.kind.key().into());
        let functions = &mut self.dictionary.functions;
        let function_index = index(&mut self.functions, (name, file), || {
            functions.push(Function { name_strindex: name, filename_strindex: file });
            functions.len()
        });
        let locations = &mut self.dictionary.locations;
        index(&mut self.locations, frame.clone(), || {
            locations.push(Location {
                mapping_index: 1,
                address: 0,
                lines: vec![Line { function_index, line: frame.line.into() }],
                attribute_indices: vec![kind],
            });
            locations.len()
        })
    }
}

/// The row of a key; `push` appends it and gives the table's new length.
fn index<K: Eq + Hash>(rows: &mut Index<K>, key: K, push: impl FnOnce() -> usize) -> i32 {
    *rows.entry(key).or_insert_with(|| push() as i32 - 1)
}
