//! From the join's accounts to documents: names for stacks and causes, sums per method, the time a
//! span spent on no thread.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use agent_ebpf::wire::record::{STACK_CUT, STACK_EXACT_TOP};

use super::{
    document::{
        CauseDocument, Exact, FrameDocument, ProcessDocument, SpanDocument, StackDocument,
        ThreadDocument,
    },
    methods::methods,
    state::State,
};
use crate::{
    kernel::StackDefinition,
    link::{
        Linker,
        spans::{Cause, CauseKind, Span, SpanIndex, SpanKey, SpanTree, StackKey, Tally, union},
    },
    process::id::Pid,
    symbols::{FrameAddress, Request, Space, Symbols},
};

/// Stacks told per span; the rest is summed into the methods.
const STACKS_TOLD: usize = 50;

/// What a document sums (design 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// The span alone.
    Span,
    /// With its descendants in its process.
    Children,
}

/// Turns the join's result into documents.
pub struct Reporter<'a> {
    linker: &'a mut Linker,
    /// Unix time minus ktime, ns.
    unix_offset: i128,
    /// Names of stacks by hash, innermost first.
    named: HashMap<u64, Arc<[FrameDocument]>>,
    /// Last name seen of each thread.
    threads: HashMap<u32, String>,
    tree: SpanTree,
}

// === impl Reporter ===

impl<'a> Reporter<'a> {
    /// Resolves every stack the spans refer to.
    pub fn new(linker: &'a mut Linker, symbols: &Symbols, unix_offset: i128) -> Self {
        let threads = linker.threads.iter().map(|t| (t.tid, t.comm.clone())).collect();
        let tree = SpanTree::of(&linker.spans);
        let mut reporter = Self { linker, unix_offset, named: HashMap::new(), threads, tree };
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
        let mut requests = Vec::new();
        let mut asked = Vec::new();
        for hash in hashes {
            let Some((stack, map)) = self.linker.stacks.get(&hash) else { continue };
            let pid = Pid(stack.tgid);
            let user = stack.tgid != 0;
            requests.push(Request {
                map: map.clone(),
                pid,
                frames: addresses(stack),
                space: if user { Space::User } else { Space::Kernel },
            });
            asked.push((hash, stack.flags & STACK_CUT != 0));
        }
        for ((hash, cut), mut frames) in asked.into_iter().zip(symbols.resolve(requests)) {
            if cut {
                frames.push(mark("[stack cut here]"));
            }
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
        let process = self.linker.processes.get(span.key.pid).clone();
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
        if span.states.sum() != span.active_ns {
            // Cannot be; if it is, it must be seen.
            let gap = span.states.sum().abs_diff(span.active_ns);
            loss.insert("identity_broken_ns".to_owned(), gap);
        }
        SpanDocument {
            trace_id: hex(&span.key.trace_id),
            span_id: hex(&span.key.span_id),
            parent_span_id: if span.parent == [0; 8] { String::new() } else { hex(&span.parent) },
            name: span.name.clone(),
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

    /// Stacks by time. Sampled weights of a state are scaled so that they add up to what the state
    /// exactly took: which stack had how much of it is sampled, how much there is to share is not.
    fn stacks(&self, span: &Span) -> Vec<StackDocument> {
        let mut weights: HashMap<State, u64> = HashMap::new();
        for (key, tally) in &span.stacks {
            *weights.entry(key.state).or_default() += tally.ns;
        }
        let mut merged: HashMap<(State, Arc<[FrameDocument]>), Tally> = HashMap::new();
        for (key, tally) in &span.stacks {
            let sum = u128::from(weights[&key.state].max(1));
            let exact = u128::from(span.states.get(key.state));
            let ns = (u128::from(tally.ns) * exact / sum) as u64;
            let entry = merged.entry((key.state, self.frames(key))).or_default();
            entry.ns += ns;
            entry.count += tally.count;
        }
        let mut stacks: Vec<StackDocument> = merged
            .into_iter()
            .map(|((state, frames), tally)| StackDocument {
                frames: frames.to_vec(),
                state,
                ns: tally.ns,
                count: tally.count,
            })
            .collect();
        stacks.sort_by(|a, b| b.ns.cmp(&a.ns).then_with(|| a.state.cmp(&b.state)));
        stacks
    }

    /// Kernel frames above user frames.
    fn frames(&self, key: &StackKey) -> Arc<[FrameDocument]> {
        let part = |hash: u64| -> Vec<FrameDocument> {
            match self.named.get(&hash) {
                Some(frames) => frames.to_vec(),
                None if hash == 0 => Vec::new(),
                None => vec![mark("[stack lost]")],
            }
        };
        let mut frames = part(key.kernel);
        // The innermost kernel frames of a wait are our own hook and the scheduler's door.
        let own = frames.iter().position(|frame| !is_hook(&frame.name)).unwrap_or(frames.len());
        frames.drain(..own);
        frames.extend(part(key.user));
        frames.into()
    }

    fn causes(&mut self, span: &Span) -> Vec<CauseDocument> {
        let causes: Vec<(Cause, Tally)> =
            span.causes.iter().map(|(cause, tally)| (cause.clone(), *tally)).collect();
        let mut documents: Vec<CauseDocument> = causes
            .into_iter()
            .map(|(cause, tally)| {
                let (kind, name) = match cause.kind {
                    CauseKind::Waker => ("waker", self.thread_name(cause.tid, cause.pid)),
                    CauseKind::Rival => ("rival", self.thread_name(cause.tid, cause.pid)),
                    CauseKind::Interrupt => ("interrupt", String::new()),
                    CauseKind::Syscall(number) => ("syscall", syscall_name(number)),
                };
                let span = cause.span.map(|index| self.linker.spans.get(index));
                let other = span.map(|span| span.key);
                let span_name = span.map_or_else(String::new, |span| span.name.clone());
                CauseDocument {
                    state: cause.state,
                    ns: tally.ns,
                    count: tally.count,
                    kind,
                    name,
                    pid: cause.pid,
                    tid: cause.tid,
                    trace_id: other.map_or_else(String::new, |key| hex(&key.trace_id)),
                    span_id: other.map_or_else(String::new, |key| hex(&key.span_id)),
                    span_name,
                }
            })
            .collect();
        documents.sort_by(|a, b| b.ns.cmp(&a.ns).then_with(|| a.tid.cmp(&b.tid)));
        documents
    }

    fn thread_name(&mut self, tid: u32, pid: u32) -> String {
        if let Some(name) = self.threads.get(&tid) {
            return name.clone();
        }
        let name = self.linker.processes.get(Pid(pid)).comm.clone();
        self.threads.insert(tid, name.clone());
        name
    }

    /// Wall time of a span minus the time in which it or a descendant was active anywhere.
    fn off_thread(&self, index: SpanIndex) -> u64 {
        let spans = &self.linker.spans;
        let span = spans.get(index);
        let intervals = self
            .tree
            .subtree(index, spans)
            .into_iter()
            .flat_map(|member| &spans.get(member).active)
            .map(|&(from, to)| (from.max(span.start), to.min(span.end)))
            .filter(|(from, to)| from < to)
            .collect();
        span.wall_ns().saturating_sub(union(intervals))
    }
}

// === impl Scope ===

impl Scope {
    fn key(self) -> &'static str {
        match self {
            Self::Span => "span",
            Self::Children => "children",
        }
    }
}

fn addresses(stack: &StackDefinition) -> Vec<FrameAddress> {
    let exact_top = stack.flags & STACK_EXACT_TOP != 0;
    stack
        .frames
        .iter()
        .enumerate()
        .map(|(depth, &address)| {
            if depth == 0 && exact_top {
                FrameAddress::Ip(address)
            } else {
                FrameAddress::ReturnAddress(address)
            }
        })
        .collect()
}

fn mark(name: &str) -> FrameDocument {
    FrameDocument { name: name.to_owned(), file: String::new(), line: 0, kind: "mark" }
}

/// Frames between the function that waits and our program.
fn is_hook(name: &str) -> bool {
    const SCHEDULER: [&str; 8] = [
        "__schedule",
        "schedule",
        "schedule_timeout",
        "schedule_hrtimeout_range",
        "schedule_hrtimeout_range_clock",
        "schedule_preempt_disabled",
        "io_schedule",
        "preempt_schedule_irq",
    ];
    SCHEDULER.contains(&name)
        || [
            "bpf_prog_",
            "bpf_trace_run",
            "__bpf_trace_",
            "__traceiter_",
            "bpf_trampoline_",
            "[kernel 0x",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('?'));
        }
        text
    })
}

/// Names of the system calls people meet waits in (x86-64); the number for others.
fn syscall_name(number: i32) -> String {
    let name = match number {
        0 => "read",
        1 => "write",
        7 => "poll",
        17 => "pread64",
        18 => "pwrite64",
        19 => "readv",
        20 => "writev",
        23 => "select",
        35 => "nanosleep",
        42 => "connect",
        43 | 288 => "accept",
        44 => "sendto",
        45 => "recvfrom",
        46 => "sendmsg",
        47 => "recvmsg",
        61 => "wait4",
        74 => "fsync",
        75 => "fdatasync",
        202 => "futex",
        230 => "clock_nanosleep",
        232 => "epoll_wait",
        247 => "waitid",
        257 => "openat",
        270 => "pselect6",
        271 => "ppoll",
        281 => "epoll_pwait",
        426 => "io_uring_enter",
        435 => "clone3",
        -1 => "none (page fault)",
        _ => return format!("system call {number}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_lower_case_hex() {
        assert_eq!(hex(&[0x0a, 0xff]), "0aff");
    }
}
