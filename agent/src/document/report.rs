//! From the join's accounts to documents: names for stacks and causes, sums per method, the time a
//! span spent on no thread.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{
    assemble::{self, Scope},
    methods::methods,
    span::{CauseDocument, Exact, ProcessDocument, SpanDocument, StackDocument, ThreadDocument},
};
use crate::{
    link::{
        Linker,
        spans::{Cause, CauseKind, Span, SpanIndex, SpanKey, SpanTree, StackKey, Tally},
    },
    model::{
        batch,
        frame::Frame,
        id::{Pid, hex},
    },
    naming::{
        stacks::{self, mark},
        syscalls::syscall_name,
    },
    process::Processes,
    store::account::Wait,
    symbols::Symbols,
};

/// Stacks told per span; the rest is summed into the methods.
const STACKS_TOLD: usize = 50;

/// Turns the join's result into documents.
pub struct Reporter<'a> {
    linker: &'a mut Linker,
    processes: &'a mut Processes,
    /// Unix time minus ktime, ns.
    unix_offset: i128,
    /// Names of stacks by hash, innermost first.
    named: HashMap<u64, Arc<[Frame]>>,
    /// Last name seen of each thread.
    threads: HashMap<u32, String>,
    tree: SpanTree,
}

// === impl Reporter ===

impl<'a> Reporter<'a> {
    /// Resolves every stack the spans refer to.
    pub fn new(
        linker: &'a mut Linker,
        processes: &'a mut Processes,
        symbols: &Symbols,
        unix_offset: i128,
    ) -> Self {
        let threads = linker.threads.iter().map(|t| (t.tid, t.comm.clone())).collect();
        let tree = SpanTree::of(&linker.spans);
        let named = HashMap::new();
        let mut reporter = Self { linker, processes, unix_offset, named, threads, tree };
        reporter.resolve(symbols);
        reporter
    }

    fn resolve(&mut self, symbols: &Symbols) {
        let mut hashes: Vec<u64> = self
            .linker
            .spans
            .iter()
            .flat_map(|(_, span)| span.stacks.keys())
            .flat_map(|key| [key.user, key.kernel])
            .filter(|&hash| hash != 0)
            .collect();
        hashes.sort_unstable();
        hashes.dedup();
        let known = hashes.into_iter();
        let known =
            known.filter_map(|hash| Some((hash, self.linker.stacks.get(&hash)?.clone()))).collect();
        for (hash, frames) in stacks::name(symbols, known) {
            self.named.insert(hash, frames.into());
        }
    }

    /// Documents of every span of the recorded processes, in order of start.
    pub fn spans(&mut self) -> Vec<SpanDocument> {
        self.recorded().into_iter().map(|index| self.document(index, Scope::Span)).collect()
    }

    /// Documents of the spans that have no parent in their process, each with all its descendants
    /// there: what a person calls a request. Second: how many spans are told inside others.
    pub fn requests(&mut self) -> (Vec<SpanDocument>, usize) {
        let all = self.recorded();
        let keys: HashSet<SpanKey> =
            all.iter().map(|&index| self.linker.spans.get(index).key).collect();
        let (roots, nested): (Vec<SpanIndex>, Vec<SpanIndex>) =
            all.into_iter().partition(|&index| {
                let span = self.linker.spans.get(index);
                !keys.contains(&SpanKey { span_id: span.parent, ..span.key })
                    || span.parent == span.key.span_id
            });
        let documents =
            roots.into_iter().map(|index| self.document(index, Scope::Children)).collect();
        (documents, nested.len())
    }

    fn recorded(&self) -> Vec<SpanIndex> {
        let spans = &self.linker.spans;
        let mut chosen: Vec<SpanIndex> =
            spans.iter().filter(|(_, span)| span.recorded).map(|(index, _)| index).collect();
        chosen.sort_by_key(|&index| spans.get(index).start);
        chosen
    }

    /// Accounts of every thread of the recorded processes.
    pub fn threads(&self) -> Vec<ThreadDocument> {
        let mut threads: Vec<ThreadDocument> = self
            .linker
            .threads
            .iter()
            .map(|thread| ThreadDocument {
                pid: thread.pid.0,
                tid: thread.tid,
                comm: thread.comm.clone(),
                wall_ns: thread.end.saturating_sub(thread.birth),
                states: thread.states.clone(),
            })
            .collect();
        threads.sort_by_key(|thread| (thread.pid, thread.tid));
        threads
    }

    fn document(&mut self, index: SpanIndex, scope: Scope) -> SpanDocument {
        let off_thread_ns = self.off_thread(index);
        let mut span = self.linker.spans.get(index).clone();
        if scope == Scope::Children {
            for member in self.tree.subtree(index, &self.linker.spans) {
                let child = self.linker.spans.get(member);
                if member != index && child.key.pid == span.key.pid {
                    span.absorb(child);
                }
            }
        }
        let process = self.processes.get(span.key.pid).clone();
        let stacks = self.stacks(&span);
        let mut loss: BTreeMap<String, u64> =
            span.loss.iter().map(|(reason, n)| ((*reason).to_owned(), *n)).collect();
        let missing = span
            .stacks
            .keys()
            .flat_map(|key| [key.user, key.kernel])
            .filter(|hash| *hash != 0 && !self.named.contains_key(hash))
            .count() as u64;
        if missing > 0 {
            loss.insert("stacks_missing".to_owned(), missing);
        }
        assemble::check_identity(&span.states, span.active_ns, &mut loss);
        SpanDocument {
            trace_id: hex(&span.key.trace_id),
            span_id: hex(&span.key.span_id),
            parent_span_id: crate::model::id::hex_or_none(&span.parent),
            name: span.name.to_string(),
            service: process.executable,
            process: ProcessDocument { pid: span.key.pid.0, comm: process.comm },
            start_unix_ns: u64::try_from(i128::from(span.start) + self.unix_offset).unwrap_or(0),
            wall_ns: span.wall_ns(),
            active_ns: span.active_ns,
            off_thread_ns,
            scope: scope.key(),
            states: span.states.clone(),
            causes: self.causes(&span),
            methods: methods(&stacks),
            stacks: stacks.into_iter().take(STACKS_TOLD).collect(),
            exact: Exact { states: span.exact, methods: false },
            loss,
        }
    }

    fn stacks(&self, span: &Span) -> Vec<StackDocument> {
        let weighted = span.stacks.iter().map(|(key, tally)| (key.state, self.frames(key), *tally));
        assemble::stacks(&span.states, weighted.collect())
    }

    /// Kernel frames above user frames.
    fn frames(&self, key: &StackKey) -> Arc<[Frame]> {
        let part = |hash: u64| -> Vec<Frame> {
            match self.named.get(&hash) {
                Some(frames) => frames.to_vec(),
                None if hash == 0 => Vec::new(),
                None => vec![mark("[stack lost]")],
            }
        };
        let mut frames = stacks::without_hooks(&part(key.kernel)).to_vec();
        frames.extend(part(key.user));
        frames.into()
    }

    fn causes(&mut self, span: &Span) -> Vec<CauseDocument> {
        let causes: Vec<(Cause, Tally)> =
            span.causes.iter().map(|(cause, tally)| (cause.clone(), *tally)).collect();
        let waits: Vec<Wait> = causes
            .into_iter()
            .map(|(cause, tally)| Wait {
                state: cause.state,
                cause: self.named_cause(&cause),
                ns: tally.ns,
                count: tally.count,
            })
            .collect();
        assemble::causes(waits)
    }

    fn named_cause(&mut self, cause: &Cause) -> crate::model::cause::Cause {
        let (kind, name) = match cause.kind {
            CauseKind::Waker => {
                (crate::model::cause::CauseKind::Waker, self.thread_name(cause.tid, cause.pid))
            }
            CauseKind::Preemptor => {
                (crate::model::cause::CauseKind::Preemptor, self.thread_name(cause.tid, cause.pid))
            }
            CauseKind::Interrupt => (crate::model::cause::CauseKind::Interrupt, String::new()),
            CauseKind::Syscall(number) => {
                (crate::model::cause::CauseKind::Syscall, syscall_name(number))
            }
        };
        let span = cause.span.map(|index| {
            let span = self.linker.spans.get(index);
            batch::SpanName {
                trace_id: span.key.trace_id,
                span_id: span.key.span_id,
                name: span.name.clone(),
            }
        });
        crate::model::cause::Cause { kind, name: name.into(), pid: cause.pid, tid: cause.tid, span }
    }

    fn thread_name(&mut self, tid: u32, pid: u32) -> String {
        if let Some(name) = self.threads.get(&tid) {
            return name.clone();
        }
        let name = self.processes.get(Pid(pid)).comm.clone();
        self.threads.insert(tid, name.clone());
        name
    }

    /// Wall time of a span minus the time in which it or a descendant was active anywhere.
    fn off_thread(&self, index: SpanIndex) -> u64 {
        let spans = &self.linker.spans;
        let span = spans.get(index);
        let members = self.tree.subtree(index, spans);
        let active = members.into_iter().flat_map(|member| &spans.get(member).active);
        assemble::off_thread_ns(span.start, span.end, active)
    }
}
