//! The sender's tables of one epoch: what was sent to the collector, and under which index. The
//! sender alone decides what is new; nothing is negotiated.
//!
//! Invariant: what a call of `take_new` returns plus all before it since `clear` is exactly what the
//! tables hold, in order of index.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Weak},
};

use hotspan_ingest::v1;

use super::{
    codes::{self, MAX_DEPTH},
    item::Repaired,
};
use crate::model::{
    batch::{ProcessIdentity, SpanPart},
    cause::Cause,
    clock::UnixNs,
    frame::{Frame, Stack},
    id::{Tid, TraceId},
};

/// An epoch ends when one of these is reached.
const MOST_ROWS: usize = 64 << 10;
/// A host with 8,000 stacks in use has 80,000 nodes: with fewer the same would be sent again and
/// again.
const MOST_NODES: usize = 128 << 10;
const MOST_STRING_BYTES: usize = 4 << 20;
/// Stacks remembered by address, twice: those not seen while so many others were are forgotten, and
/// looked up frame by frame again.
const MOST_REMEMBERED: usize = 8 << 10;

/// The tables.
#[derive(Default)]
pub(super) struct Dictionary {
    strings: HashMap<Box<str>, u32>,
    string_bytes: usize,
    frames: HashMap<[u32; 4], u32>,
    /// By parent and frame; values count from 1.
    nodes: HashMap<(u32, u32), u32>,
    processes: HashMap<ProcessIdentity, u32>,
    /// By process and thread id.
    threads: HashMap<(u32, u32), u32>,
    traces: HashMap<TraceId, u32>,
    spans: HashMap<SpanKey, u32>,
    causes: HashMap<CauseKey, u32>,
    /// Nodes of stacks by their address. The weak reference keeps the address from being given to
    /// another stack, so an address says which stack it is.
    remembered: HashMap<usize, (Weak<[Frame]>, u32)>,
    /// What `remembered` was before it last was full.
    remembered_before: HashMap<usize, (Weak<[Frame]>, u32)>,
    new: v1::Dictionary,
    /// Of the last row of `new.span_trace`.
    last_trace: u32,
    repaired: Repaired,
}

#[derive(PartialEq, Eq, Hash)]
struct SpanKey {
    trace: u32,
    id: u64,
    parent: u64,
    name: u32,
    process: u32,
    start_unix_ns: UnixNs,
}

#[derive(PartialEq, Eq, Hash)]
struct CauseKey {
    kind: u32,
    name: u32,
    pid: u32,
    tid: u32,
    /// Index + 1.
    trace: u32,
    span_id: u64,
    span_name: u32,
}

// === impl Dictionary ===

impl Dictionary {
    /// Begins an epoch.
    pub(super) fn clear(&mut self) {
        let repaired = self.repaired;
        *self = Self { repaired, ..Self::default() };
    }

    /// Whether the epoch has lasted long enough.
    pub(super) fn is_full(&self) -> bool {
        let tables = [
            self.spans.len(),
            self.causes.len(),
            self.traces.len(),
            self.processes.len(),
            self.threads.len(),
            self.strings.len(),
        ];
        tables.into_iter().any(|rows| rows >= MOST_ROWS)
            || self.nodes.len() >= MOST_NODES
            || self.string_bytes >= MOST_STRING_BYTES
    }

    /// What is new since the last call.
    pub(super) fn take_new(&mut self) -> v1::Dictionary {
        self.last_trace = 0;
        std::mem::take(&mut self.new)
    }

    /// What had to be cut since the last call.
    pub(super) fn take_repaired(&mut self) -> Repaired {
        std::mem::take(&mut self.repaired)
    }

    /// Index of a string.
    pub(super) fn string(&mut self, string: &str) -> u32 {
        let string = match codes::capped(string) {
            whole if whole.len() == string.len() => whole,
            start => {
                self.repaired.strings += 1;
                start
            }
        };
        if let Some(&index) = self.strings.get(string) {
            return index;
        }
        let index = self.strings.len() as u32;
        self.string_bytes += string.len();
        self.strings.insert(string.into(), index);
        self.new.strings.push(string.to_owned());
        index
    }

    /// Index of a process.
    pub(super) fn process(&mut self, process: &ProcessIdentity) -> u32 {
        if let Some(&index) = self.processes.get(process) {
            return index;
        }
        let comm = self.string(&process.comm);
        let service = self.string(&process.service);
        let (pid, since) = (process.pid, process.since);
        self.new.processes.push(v1::Process { pid, since, comm, service });
        let index = self.processes.len() as u32;
        self.processes.insert(process.clone(), index);
        index
    }

    /// Index of a thread; `process` is one of this dictionary.
    pub(super) fn thread(&mut self, process: u32, tid: Tid) -> u32 {
        let new = &mut self.new;
        index(&mut self.threads, (process, tid.0), |&(process, tid)| {
            new.thread_process.push(process);
            new.thread_tid.push(tid);
        })
    }

    /// Index of a span's identity; `process` is one of this dictionary, `base` the Unix time of the
    /// batch.
    pub(super) fn span(&mut self, span: &SpanPart, process: u32, base: u64) -> u32 {
        let key = SpanKey {
            trace: self.trace(span.trace_id),
            id: span.span_id.number(),
            parent: span.parent.number(),
            name: self.string(&span.name),
            process,
            start_unix_ns: span.start_unix_ns,
        };
        let (new, last_trace) = (&mut self.new, &mut self.last_trace);
        index(&mut self.spans, key, |key| {
            new.span_trace.push(key.trace.wrapping_sub(*last_trace).cast_signed());
            *last_trace = key.trace;
            new.span_id.push(key.id);
            new.span_parent.push(key.parent);
            new.span_name.push(key.name);
            new.span_process.push(key.process);
            new.span_start.push(key.start_unix_ns.0.wrapping_sub(base).cast_signed());
        })
    }

    /// Index of a cause.
    pub(super) fn cause(&mut self, cause: &Cause) -> u32 {
        let mut key = CauseKey {
            kind: cause.kind.code().into(),
            name: self.string(&cause.name),
            pid: cause.pid.0,
            tid: cause.tid.0,
            trace: 0,
            span_id: 0,
            span_name: 0,
        };
        if let Some(span) = &cause.span {
            key.trace = self.trace(span.trace_id) + 1;
            key.span_id = span.span_id.number();
            key.span_name = self.string(&span.name);
        }
        let new = &mut self.new;
        index(&mut self.causes, key, |key| {
            new.cause_kind.push(key.kind);
            new.cause_name.push(key.name);
            new.cause_pid.push(key.pid);
            new.cause_tid.push(key.tid);
            new.cause_trace.push(key.trace);
            new.cause_span_id.push(key.span_id);
            new.cause_span_name.push(key.span_name);
        })
    }

    /// Node of a stack, 0 for the empty one.
    pub(super) fn stack(&mut self, stack: &Stack) -> u32 {
        let address = stack.as_ptr().addr();
        if let Some((_, node)) = self.remembered.get(&address) {
            return *node;
        }
        if let Some(known) = self.remembered_before.remove(&address) {
            let node = known.1;
            self.remember(address, known);
            return node;
        }
        if stack.len() > MAX_DEPTH {
            self.repaired.stacks += 1;
        }
        let mut node = 0;
        for frame in stack.iter().take(MAX_DEPTH).rev() {
            let frame = self.frame(frame);
            let new = &mut self.new;
            let number = self.nodes.len() as u32 + 1;
            node = 1 + index(&mut self.nodes, (node, frame), |&(parent, frame)| {
                new.node_parent.push(number - parent);
                new.node_frame.push(frame);
            });
        }
        self.remember(address, (Arc::downgrade(stack), node));
        node
    }

    fn remember(&mut self, address: usize, stack: (Weak<[Frame]>, u32)) {
        if self.remembered.len() >= MOST_REMEMBERED {
            self.remembered_before = std::mem::take(&mut self.remembered);
        }
        self.remembered.insert(address, stack);
    }

    fn frame(&mut self, frame: &Frame) -> u32 {
        let kind = frame.kind.code();
        let key = [self.string(&frame.name), self.string(&frame.file), frame.line, kind];
        let new = &mut self.new;
        index(&mut self.frames, key, |&[name, file, line, kind]| {
            new.frame_name.push(name);
            new.frame_file.push(file);
            new.frame_line.push(line);
            new.frame_kind.push(kind);
        })
    }

    fn trace(&mut self, trace: TraceId) -> u32 {
        let new = &mut self.new.traces;
        index(&mut self.traces, trace, |trace| new.extend_from_slice(&trace.0))
    }
}

/// The index of a key in its table, sent first when it is new.
fn index<K: Eq + Hash>(table: &mut HashMap<K, u32>, key: K, send: impl FnOnce(&K)) -> u32 {
    if let Some(&index) = table.get(&key) {
        return index;
    }
    let index = table.len() as u32;
    send(&key);
    table.insert(key, index);
    index
}
