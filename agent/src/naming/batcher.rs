//! From flushes of the join to batches: names for stacks, causes and processes. Runs on a thread of
//! its own, because naming can take long; while it is busy the join keeps what comes, so nothing is
//! lost by waiting.
//!
//! The kernel side sends each stack once per generation, so names are kept as long as a generation
//! may refer to them: the last two.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{
    stacks::{self, mark, without_hooks},
    syscalls::syscall_name,
};
use crate::{
    ledger::{DaemonCounter, Tally},
    link::{
        flush::Flush,
        spans::{self, Span, SpanIndex, StackKey},
        stacks::SeenStack,
    },
    model::{
        batch::{
            Account, Batch, ProcessIdentity, SampleRow, SpanName, SpanPart, TotalRow, WaitRow,
        },
        cause::{Cause, CauseKind},
        clock::UnixNs,
        frame::{Frame, Stack},
        id::Pid,
    },
    symbols::Symbols,
};

/// Halves of stacks named before a new generation begins. One takes some 2.5 KB, and there are up to
/// two generations of them and of the whole stacks made from them: 40 MB at worst.
const MAX_NAMED: usize = 1 << 12;

/// Half a stack (user or kernel): as the kernel side sent it, or by name.
#[derive(Debug)]
enum Half {
    Addresses(Box<SeenStack>),
    Named(Arc<[Frame]>),
    /// Some names are still to come: asked for again when the stack is seen again.
    Late(Box<SeenStack>, Arc<[Frame]>),
}

/// Turns flushes into batches.
pub struct Batcher {
    symbols: Arc<Symbols>,
    /// The present generation and the one before.
    halves: [HashMap<u64, Half>; 2],
    whole: HashMap<(u64, u64), Stack>,
    /// Asks the kernel side for a new generation.
    resend: Arc<AtomicBool>,
    /// How long a batch waits for names.
    patience: Duration,
    /// Stacks whose definition never came.
    counts: Tally,
}

/// A batch's own table of `T`, filled as rows refer to it.
struct Table<K, T> {
    index: HashMap<K, u32>,
    rows: Vec<T>,
}

// === impl Table ===

impl<K: Eq + Hash, T> Table<K, T> {
    fn new() -> Self {
        Self { index: HashMap::new(), rows: Vec::new() }
    }

    fn place(&mut self, key: K, make: impl FnOnce() -> T) -> u32 {
        *self.index.entry(key).or_insert_with(|| {
            self.rows.push(make());
            (self.rows.len() - 1) as u32
        })
    }
}

// === impl Batcher ===

impl Batcher {
    /// A batcher that has named nothing. It sets `resend` when the kernel side is to send every stack
    /// again.
    pub fn new(symbols: Arc<Symbols>, resend: Arc<AtomicBool>) -> Self {
        let halves = [HashMap::new(), HashMap::new()];
        let (whole, patience, counts) = (HashMap::new(), stacks::PATIENCE, Tally::default());
        Self { symbols, halves, whole, resend, patience, counts }
    }

    /// The same for a recording, whose batches nobody waits for.
    pub fn for_recording(symbols: Arc<Symbols>, resend: Arc<AtomicBool>) -> Self {
        Self { patience: stacks::RECORDING, ..Self::new(symbols, resend) }
    }

    /// Names everything of a flush. `unix_offset` is CLOCK_REALTIME - CLOCK_MONOTONIC, ns.
    pub fn batch(&mut self, mut flush: Flush, mut account: Account, unix_offset: i64) -> Batch {
        for (hash, stack) in flush.stacks.drain() {
            self.halves[0].insert(hash, Half::Addresses(Box::new(stack)));
        }
        let deadline = Instant::now() + stacks::PATIENCE;
        self.name(&flush, deadline);
        let mut processes = Table::new();
        let identities = std::mem::take(&mut flush.processes).into_iter();
        let identities: HashMap<Pid, ProcessIdentity> =
            identities.map(|(pid, identity)| (pid, identity.settle(deadline))).collect();
        let mut process = |pid: Pid| {
            processes.place(pid, || {
                let known = identities.get(&pid).cloned();
                known.unwrap_or(ProcessIdentity { pid: pid.0, ..ProcessIdentity::default() })
            })
        };
        let mut places: HashMap<SpanIndex, u32> = HashMap::new();
        let (mut parts, mut waits) = (Vec::with_capacity(flush.spans.len()), Vec::new());
        for (place, (index, span)) in flush.spans.iter().enumerate() {
            places.insert(*index, place as u32);
            parts.push(part(span, process(span.key.pid), unix_offset));
            let first = waits.len();
            waits.extend(span.causes.iter().map(|(cause, tally)| WaitRow {
                span: place as u32,
                state: cause.state,
                cause: by_name(cause, &flush),
                ns: tally.ns,
                count: tally.count,
            }));
            waits[first..].sort_by(|a, b| (a.state, &a.cause).cmp(&(b.state, &b.cause)));
        }
        flush.seen.sort_by_key(|seen| seen.at);
        let mut stacks = Table::new();
        let mut samples = Vec::with_capacity(flush.seen.len());
        for seen in &flush.seen {
            let StackKey { state, user, kernel } = seen.stack;
            let stack = (user | kernel != 0)
                .then(|| stacks.place((user, kernel), || self.whole(user, kernel)));
            samples.push(SampleRow {
                at: seen.at,
                process: process(seen.pid),
                tid: seen.tid,
                span: seen.span.and_then(|index| places.get(&index).copied()),
                stack,
                state,
                ns: seen.ns,
            });
        }
        let totals = flush
            .totals
            .iter()
            .map(|time| TotalRow {
                process: process(time.pid),
                from: time.from,
                to: time.to,
                states: time.states.clone(),
            })
            .collect();
        let own = self.counts.iter().map(|(_, counter, n)| (counter.key(), n));
        let names = self.symbols.counters().iter().map(|(counter, n)| (counter.key(), n));
        account.loss.extend(own.chain(names).map(|(key, n)| (key.into(), n)));
        self.turn();
        Batch {
            from: flush.from,
            to: flush.to,
            unix_offset_ns: unix_offset,
            processes: processes.rows,
            stacks: stacks.rows,
            spans: parts,
            samples,
            waits,
            totals,
            counts: flush.counts,
            account,
        }
    }

    /// Asks the symbol thread for every half that rows refer to and that has no names yet.
    fn name(&mut self, flush: &Flush, deadline: Instant) {
        let named_by = Instant::now() + self.patience;
        let mut asked = Vec::new();
        for hash in flush.seen.iter().flat_map(|seen| [seen.stack.user, seen.stack.kernel]) {
            let place = usize::from(!self.halves[0].contains_key(&hash));
            match self.halves[place].remove(&hash) {
                Some(Half::Addresses(stack) | Half::Late(stack, _)) => asked.push((hash, *stack)),
                Some(named @ Half::Named(_)) => drop(self.halves[place].insert(hash, named)),
                None => {}
            }
        }
        for (hash, named) in stacks::name(&self.symbols, asked, deadline, named_by) {
            let frames = named.frames.into();
            self.halves[0].insert(
                hash,
                match named.late {
                    Some(stack) => Half::Late(Box::new(stack), frames),
                    None => Half::Named(frames),
                },
            );
        }
    }

    /// Kernel frames above user frames.
    fn whole(&mut self, user: u64, kernel: u64) -> Stack {
        if let Some(stack) = self.whole.get(&(user, kernel)) {
            return stack.clone();
        }
        let (kernel_frames, has_kernel, _) = self.half(kernel);
        let (user_frames, has_user, is_late) = self.half(user);
        let mut frames = without_hooks(&kernel_frames).to_vec();
        frames.extend(user_frames);
        let stack: Stack = frames.into();
        if has_kernel && has_user {
            if !is_late {
                self.whole.insert((user, kernel), stack.clone());
            }
        } else {
            self.counts.add(None, DaemonCounter::StacksMissing, 1);
        }
        stack
    }

    /// Its frames, whether there are any, and whether they are to be better.
    fn half(&self, hash: u64) -> (Vec<Frame>, bool, bool) {
        if hash == 0 {
            return (Vec::new(), true, false);
        }
        match self.halves.iter().find_map(|halves| halves.get(&hash)) {
            Some(Half::Named(frames)) => (frames.to_vec(), true, false),
            Some(Half::Late(_, frames)) => (frames.to_vec(), true, true),
            _ => (vec![mark("[stack lost]")], false, false),
        }
    }

    /// Begins a new generation when there are many names.
    fn turn(&mut self) {
        if self.halves[0].len() > MAX_NAMED {
            self.halves.swap(0, 1);
            self.halves[0].clear();
            self.whole.clear();
            self.resend.store(true, Relaxed);
        }
    }
}

fn part(span: &Span, process: u32, unix_offset: i64) -> SpanPart {
    let loss = span.loss.iter().map(|(reason, &n)| (reason.key().into(), n));
    SpanPart {
        trace_id: span.key.trace_id,
        span_id: span.key.span_id,
        parent: span.parent,
        name: span.name.clone(),
        process,
        start_unix_ns: UnixNs::of_monotonic(span.start, unix_offset),
        start: span.start,
        end: span.end,
        active_ns: span.active_ns,
        states: span.states.clone(),
        active: span.active.clone(),
        exact: span.exact,
        open: span.active_on > 0,
        part: span.parts,
        loss: loss.collect(),
    }
}

fn by_name(cause: &spans::Cause, flush: &Flush) -> Cause {
    let thread = || flush.threads.get(&cause.tid).cloned().unwrap_or_default();
    let (kind, name) = match cause.kind {
        spans::CauseKind::Waker => (CauseKind::Waker, thread()),
        spans::CauseKind::Preemptor => (CauseKind::Preemptor, thread()),
        spans::CauseKind::Interrupt => (CauseKind::Interrupt, "".into()),
        spans::CauseKind::Syscall(number) => (CauseKind::Syscall, syscall_name(number).into()),
    };
    let other = cause.span.and_then(|index| flush.others.get(&index));
    let span = other.map(|(key, name)| SpanName {
        trace_id: key.trace_id,
        span_id: key.span_id,
        name: name.clone(),
    });
    Cause { kind, name, pid: cause.pid, tid: cause.tid, span }
}
