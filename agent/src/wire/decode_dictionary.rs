//! The receiver's tables of one epoch. Everything that comes in is hostile: each index, each length
//! and the memory of the whole are checked before they count.
//!
//! Invariants: entries refer only to entries that exist; a node's parent is older than the node, so
//! walks end; no stack is deeper than `MAX_DEPTH`; the tables take at most `MOST_BYTES`.

use std::sync::Arc;

use hotspan_ingest::v1;

use super::{
    codes::{self, MAX_DEPTH},
    size::FRAME_BYTES,
    violation::Violation,
};
use crate::model::{
    batch::{ProcessIdentity, SpanName},
    cause::{Cause, CauseKind},
    clock::UnixNs,
    frame::{Frame, FrameKind, Stack},
    id::{Pid, SpanId, Tid, TraceId},
};

/// What the tables of one stream may take, by estimate.
const MOST_BYTES: usize = 64 << 20;
/// What an entry costs beside its content.
const ENTRY: usize = 32;

/// The tables.
#[derive(Default)]
pub(super) struct Dictionary {
    strings: Vec<Arc<str>>,
    frames: Vec<FrameRow>,
    /// Counted from 1 on the wire.
    nodes: Vec<Node>,
    processes: Vec<ProcessIdentity>,
    threads: Vec<Thread>,
    traces: Vec<TraceId>,
    spans: Vec<SpanIdentity>,
    causes: Vec<Cause>,
    bytes: usize,
    cut_strings: u64,
}

/// A span as parts refer to it.
pub(super) struct SpanIdentity {
    pub trace_id: TraceId,
    pub span_id: SpanId,
    pub parent: SpanId,
    pub name: Arc<str>,
    /// Index into the dictionary's processes.
    pub process: u32,
    pub start_unix_ns: UnixNs,
}

/// A thread as samples refer to it.
#[derive(Clone, Copy)]
pub(super) struct Thread {
    /// Index into the dictionary's processes.
    pub process: u32,
    pub tid: Tid,
}

struct FrameRow {
    name: u32,
    file: u32,
    line: u32,
    kind: FrameKind,
}

struct Node {
    parent: u32,
    frame: u32,
    depth: u32,
}

// === impl Dictionary ===

impl Dictionary {
    /// Adds what a batch brings, whose Unix time is `base`. After an error the tables are good for nothing but being dropped.
    pub(super) fn extend(&mut self, new: &v1::Dictionary, base: u64) -> Result<(), Violation> {
        self.account(new)?;
        for string in &new.strings {
            let start = codes::capped(string);
            self.cut_strings += u64::from(start.len() < string.len());
            self.strings.push(start.into());
        }
        let (traces, rest) = new.traces.as_chunks();
        if !rest.is_empty() {
            let (got, want) = (new.traces.len(), traces.len() * 16);
            return Err(Violation::Column { table: "traces", column: "bytes", got, want });
        }
        self.traces.extend(traces.iter().copied().map(TraceId));
        for process in &new.processes {
            let (comm, service) = (self.string(process.comm)?, self.string(process.service)?);
            let (pid, since) = (process.pid, process.since);
            self.processes.push(ProcessIdentity { pid, since, comm, service });
        }
        self.frames(new)?;
        self.nodes(new)?;
        self.spans(new, base)?;
        self.threads(new)?;
        self.causes(new)
    }

    /// A string.
    pub(super) fn string(&self, index: u32) -> Result<Arc<str>, Violation> {
        at("strings", &self.strings, index).cloned()
    }

    /// A process.
    pub(super) fn process(&self, index: u32) -> Result<&ProcessIdentity, Violation> {
        at("processes", &self.processes, index)
    }

    /// A span's identity.
    pub(super) fn span(&self, index: u32) -> Result<&SpanIdentity, Violation> {
        at("spans", &self.spans, index)
    }

    /// A thread.
    pub(super) fn thread(&self, index: u32) -> Result<Thread, Violation> {
        at("threads", &self.threads, index).copied()
    }

    /// A cause.
    pub(super) fn cause(&self, index: u32) -> Result<&Cause, Violation> {
        at("causes", &self.causes, index)
    }

    /// What the stack of a node takes on the heap.
    pub(super) fn stack_bytes(&self, node: u32) -> Result<usize, Violation> {
        let mut bytes = ENTRY;
        for frame in self.walk(node)? {
            let [name, file] = [frame.name, frame.file].map(|index| &self.strings[index as usize]);
            bytes += FRAME_BYTES + name.len() + file.len();
        }
        Ok(bytes)
    }

    /// The stack of a node, innermost frame first.
    pub(super) fn stack(&self, node: u32) -> Result<Stack, Violation> {
        let named = |frame: &FrameRow| {
            let [name, file] = [frame.name, frame.file].map(|index| &self.strings[index as usize]);
            let (name, file) = (Arc::clone(name), Arc::clone(file));
            Frame { name, file, line: frame.line, kind: frame.kind }
        };
        Ok(self.walk(node)?.map(named).collect())
    }

    /// Strings cut since the last call.
    pub(super) fn take_cut_strings(&mut self) -> u64 {
        std::mem::take(&mut self.cut_strings)
    }

    /// The frames from a node outwards.
    fn walk(&self, node: u32) -> Result<impl Iterator<Item = &FrameRow>, Violation> {
        if node as usize > self.nodes.len() {
            let len = self.nodes.len();
            return Err(Violation::Index { table: "nodes", index: node.into(), len });
        }
        let node_at = |node: u32| node.checked_sub(1).map(|row| &self.nodes[row as usize]);
        let nodes = std::iter::successors(node_at(node), move |node| node_at(node.parent));
        Ok(nodes.map(|node| &self.frames[node.frame as usize]))
    }

    /// Counts what is to be added, before it is.
    fn account(&mut self, new: &v1::Dictionary) -> Result<(), Violation> {
        let strings: usize =
            new.strings.iter().map(|s| ENTRY + s.len().min(codes::MAX_STRING)).sum();
        self.bytes += strings
            + new.frame_name.len() * size_of::<FrameRow>()
            + new.node_parent.len() * size_of::<Node>()
            + new.processes.len() * size_of::<ProcessIdentity>()
            + new.traces.len()
            + new.thread_tid.len() * size_of::<Thread>()
            + new.span_id.len() * size_of::<SpanIdentity>()
            + new.cause_kind.len() * size_of::<Cause>();
        match self.bytes > MOST_BYTES {
            true => Err(Violation::Memory { what: "dictionaries", limit: MOST_BYTES }),
            false => Ok(()),
        }
    }

    fn frames(&mut self, new: &v1::Dictionary) -> Result<(), Violation> {
        let len = new.frame_name.len();
        columns(
            "frames",
            len,
            &[
                ("file", new.frame_file.len()),
                ("line", new.frame_line.len()),
                ("kind", new.frame_kind.len()),
            ],
        )?;
        for row in 0..len {
            let (name, file) = (new.frame_name[row], new.frame_file[row]);
            at("strings", &self.strings, name)?;
            at("strings", &self.strings, file)?;
            let code = new.frame_kind[row];
            let kind = FrameKind::from_code(code).ok_or(number("frame kind", code))?;
            self.frames.push(FrameRow { name, file, line: new.frame_line[row], kind });
        }
        Ok(())
    }

    fn nodes(&mut self, new: &v1::Dictionary) -> Result<(), Violation> {
        let len = new.node_parent.len();
        columns("nodes", len, &[("frame", new.node_frame.len())])?;
        for row in 0..len {
            let (back, frame) = (new.node_parent[row], new.node_frame[row]);
            let own = self.nodes.len() as u32 + 1;
            // At least one back, so a parent is older.
            let parent = own.checked_sub(back).filter(|&parent| parent < own);
            let parent = parent.ok_or(number("parent of nodes", back))?;
            let depth = match parent.checked_sub(1) {
                Some(index) => at("nodes", &self.nodes, index)?.depth + 1,
                None => 1,
            };
            if depth as usize > MAX_DEPTH {
                return Err(Violation::Depth(MAX_DEPTH));
            }
            at("frames", &self.frames, frame)?;
            self.nodes.push(Node { parent, frame, depth });
        }
        Ok(())
    }

    fn threads(&mut self, new: &v1::Dictionary) -> Result<(), Violation> {
        let len = new.thread_tid.len();
        columns("threads", len, &[("process", new.thread_process.len())])?;
        for (&process, &tid) in new.thread_process.iter().zip(&new.thread_tid) {
            self.process(process)?;
            self.threads.push(Thread { process, tid: Tid(tid) });
        }
        Ok(())
    }

    fn spans(&mut self, new: &v1::Dictionary, base: u64) -> Result<(), Violation> {
        let len = new.span_id.len();
        columns(
            "spans",
            len,
            &[
                ("trace", new.span_trace.len()),
                ("parent", new.span_parent.len()),
                ("name", new.span_name.len()),
                ("process", new.span_process.len()),
                ("start", new.span_start.len()),
            ],
        )?;
        let mut trace = 0_u32;
        for row in 0..len {
            trace = trace.wrapping_add_signed(new.span_trace[row]);
            let process = new.span_process[row];
            self.process(process)?;
            self.spans.push(SpanIdentity {
                trace_id: *at("traces", &self.traces, trace)?,
                span_id: SpanId::from_number(new.span_id[row]),
                parent: SpanId::from_number(new.span_parent[row]),
                name: self.string(new.span_name[row])?,
                process,
                start_unix_ns: UnixNs(base.wrapping_add_signed(new.span_start[row])),
            });
        }
        Ok(())
    }

    fn causes(&mut self, new: &v1::Dictionary) -> Result<(), Violation> {
        let len = new.cause_kind.len();
        columns(
            "causes",
            len,
            &[
                ("name", new.cause_name.len()),
                ("pid", new.cause_pid.len()),
                ("tid", new.cause_tid.len()),
                ("trace", new.cause_trace.len()),
                ("span_id", new.cause_span_id.len()),
                ("span_name", new.cause_span_name.len()),
            ],
        )?;
        for row in 0..len {
            let code = new.cause_kind[row];
            let span = match new.cause_trace[row].checked_sub(1) {
                Some(trace) => Some(SpanName {
                    trace_id: *at("traces", &self.traces, trace)?,
                    span_id: SpanId::from_number(new.cause_span_id[row]),
                    name: self.string(new.cause_span_name[row])?,
                }),
                None => None,
            };
            self.causes.push(Cause {
                kind: CauseKind::from_code(code).ok_or(number("cause kind", code))?,
                name: self.string(new.cause_name[row])?,
                pid: Pid(new.cause_pid[row]),
                tid: Tid(new.cause_tid[row]),
                span,
            });
        }
        Ok(())
    }
}

/// An element of a table.
fn at<'a, T>(table: &'static str, rows: &'a [T], index: u32) -> Result<&'a T, Violation> {
    let error = Violation::Index { table, index: index.into(), len: rows.len() };
    rows.get(index as usize).ok_or(error)
}

/// All columns of a table are as long as the first.
pub(super) fn columns(
    table: &'static str,
    want: usize,
    columns: &[(&'static str, usize)],
) -> Result<(), Violation> {
    match columns.iter().find(|(_, got)| *got != want) {
        Some(&(column, got)) => Err(Violation::Column { table, column, got, want }),
        None => Ok(()),
    }
}

/// A number that means nothing.
pub(super) fn number(what: &'static str, value: impl Into<u64>) -> Violation {
    Violation::Number { what, value: value.into() }
}
