//! From rows to span documents: what every document is made of, wherever its numbers come from. The
//! rows may come from any store.
//!
//! Invariants: the states of a document sum to its `active_ns`, or its loss says by how much they do
//! not (`identity_broken_ns`); the stacks of a state never claim more than the state took; span ids
//! come from outside, so parents in a circle end like any others.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{
    cut,
    methods::methods,
    span::{CauseDocument, Exact, Key, ProcessDocument, SpanDocument, StackDocument},
};
use crate::{
    ledger::DaemonCounter,
    link::spans::{Tally, union},
    model::{
        cause::Cause,
        frame::Stack,
        id::{SpanId, TraceId},
        state::{State, StateTimes},
    },
    naming::stacks::without_hooks,
    store::{
        Found,
        account::{Details, ProcessSlice, Sample, SpanAccount, Wait},
    },
};

/// Stacks shown of a span that is asked for alone; the rest is summed into the methods.
const STACKS_TOLD: usize = 1_000;
/// How far scope `process` looks to both sides of the middle of a span.
const PROCESS_REACH_NS: u64 = 30_000_000_000;

/// What a document sums (design 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// The span alone.
    #[default]
    Span,
    /// With its descendants in its process.
    Children,
    /// All of its trace in its process.
    Trace,
    /// All of its trace on its host.
    TraceHost,
    /// All threads of its process, from its start to its end.
    Period,
    /// All threads of its process, for a minute around it.
    Process,
}

/// Spans and who is whose child among them. Made once for all the documents of these spans.
#[derive(Clone, Debug, Default)]
pub struct Trace<'a> {
    spans: &'a [SpanAccount],
    /// Places of the children of a span of a trace.
    children: HashMap<(TraceId, SpanId), Vec<usize>>,
    /// There are more of them.
    truncated: bool,
}

/// A span among those of its trace.
#[derive(Clone, Copy, Debug)]
pub struct Family<'a> {
    span: &'a SpanAccount,
    trace: &'a Trace<'a>,
}

// === impl Scope ===

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 6] =
        [Self::Span, Self::Children, Self::Trace, Self::TraceHost, Self::Period, Self::Process];

    /// The key in JSON.
    pub fn key(self) -> Key {
        match self {
            Self::Span => "span",
            Self::Children => "children",
            Self::Trace => "trace",
            Self::TraceHost => "trace_host",
            Self::Period => "period",
            Self::Process => "process",
        }
    }

    /// The scope of a key.
    pub fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.key() == key)
    }

    /// For scopes that sum a process and not spans: the time they cover.
    pub fn window(self, span: &SpanAccount) -> Option<(u64, u64)> {
        let middle = span.start + span.wall_ns() / 2;
        match self {
            Self::Period => Some((span.start, span.end)),
            Self::Process => Some((
                middle.saturating_sub(PROCESS_REACH_NS),
                middle.saturating_add(PROCESS_REACH_NS),
            )),
            Self::Span | Self::Children | Self::Trace | Self::TraceHost => None,
        }
    }
}

// === impl Trace ===

impl<'a> Trace<'a> {
    /// Of any spans: those of one trace, or all there are.
    pub fn new(spans: &'a [SpanAccount]) -> Self {
        let mut children: HashMap<_, Vec<usize>> = HashMap::new();
        for (place, span) in spans.iter().enumerate() {
            if !span.parent.is_none() {
                children.entry((span.trace_id, span.parent)).or_default().push(place);
            }
        }
        Self { spans, children, truncated: false }
    }

    /// Of what a store has of a trace, which may not be all.
    pub fn of(found: &'a Found) -> Self {
        Self { truncated: found.truncated, ..Self::new(&found.spans) }
    }
}

// === impl Family ===

impl<'a> Family<'a> {
    /// `trace` may hold anything; what is not of the span's trace and boot is left out.
    pub fn new(span: &'a SpanAccount, trace: &'a Trace<'a>) -> Self {
        Self { span, trace }
    }

    /// Whether another is of its trace on its host.
    fn is_related(&self, other: &SpanAccount) -> bool {
        other.trace_id == self.span.trace_id
            && other.process.boot_id == self.span.process.boot_id
            && !(other.span_id == self.span.span_id && same_process(other, self.span))
    }

    fn others(&self) -> Vec<&'a SpanAccount> {
        self.trace.spans.iter().filter(|other| self.is_related(other)).collect()
    }

    /// The spans a scope sums, the span itself first; none for the scopes of a process.
    pub fn members(&self, scope: Scope) -> Vec<&'a SpanAccount> {
        let (others, anywhere) = match scope {
            Scope::Span => (Vec::new(), false),
            Scope::Children => (self.descendants(), false),
            Scope::Trace => (self.others(), false),
            Scope::TraceHost => (self.others(), true),
            Scope::Period | Scope::Process => return Vec::new(),
        };
        let mut members = vec![self.span];
        members
            .extend(others.into_iter().filter(|other| anywhere || same_process(other, self.span)));
        members
    }

    /// Wall time of the span in which neither it nor a descendant was active in any process.
    fn off_thread_ns(&self) -> u64 {
        let active = self.descendants().into_iter().chain([self.span]).flat_map(|it| &it.active);
        off_thread_ns(self.span.start, self.span.end, active)
    }

    fn descendants(&self) -> Vec<&'a SpanAccount> {
        let trace = self.trace;
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut next = vec![self.span.span_id];
        while let Some(parent) = next.pop() {
            for &place in trace.children.get(&(self.span.trace_id, parent)).into_iter().flatten() {
                let child = &trace.spans[place];
                if self.is_related(child) && seen.insert(place) {
                    found.push(child);
                    next.push(child.span_id);
                }
            }
        }
        found
    }

    /// The document of a scope of spans; `details` are the rows of its members.
    pub fn document(&self, scope: Scope, details: &Details) -> SpanDocument {
        let mut states = StateTimes::default();
        let mut loss: BTreeMap<String, u64> = BTreeMap::new();
        let (mut active_ns, mut exact) = (0, true);
        for member in self.members(scope) {
            states.merge(&member.states);
            active_ns += member.active_ns;
            exact &= member.exact;
            for (reason, n) in &member.loss {
                *loss.entry(reason.to_string()).or_default() += n;
            }
        }
        check_identity(&states, active_ns, &mut loss);
        let causes = causes(details.waits.iter().cloned());
        self.assemble(scope, active_ns, states, exact, causes, &details.samples, loss)
    }

    /// The document of a scope of a process.
    pub fn process_document(&self, scope: Scope, slice: &ProcessSlice) -> SpanDocument {
        let states = slice.states.clone();
        let active_ns = states.sum();
        let loss = BTreeMap::new();
        self.assemble(scope, active_ns, states, false, Vec::new(), &slice.samples, loss)
    }

    /// The document without its rows: what lists tell.
    pub fn summary(&self) -> SpanDocument {
        self.document(Scope::Span, &Details::default())
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one document")]
    fn assemble(
        &self,
        scope: Scope,
        active_ns: u64,
        states: StateTimes,
        exact: bool,
        mut causes: Vec<CauseDocument>,
        samples: &[Sample],
        mut loss: BTreeMap<String, u64>,
    ) -> SpanDocument {
        let span = self.span;
        let process = &span.process.identity;
        let missing = samples.iter().filter(|sample| sample.stack.is_none()).count() as u64;
        if missing > 0 {
            *loss.entry(DaemonCounter::StacksMissing.key().to_owned()).or_default() += missing;
        }
        if self.trace.truncated {
            *loss.entry(DaemonCounter::TraceCut.key().to_owned()).or_default() += 1;
        }
        let mut stacks = stacks(&states, tallied(samples));
        let methods = methods(&stacks);
        stacks.truncate(STACKS_TOLD);
        let cut = cut::stacks(&mut stacks) + cut::causes(&mut causes);
        if cut > 0 {
            *loss.entry(DaemonCounter::RowsCut.key().to_owned()).or_default() += cut;
        }
        SpanDocument {
            trace_id: span.trace_id.to_string(),
            span_id: span.span_id.to_string(),
            parent_span_id: span.parent.text(),
            name: span.name.to_string(),
            service: process.service.to_string(),
            process: ProcessDocument { pid: process.pid, comm: process.comm.to_string() },
            start_unix_ns: span.start_unix_ns.0,
            wall_ns: span.wall_ns(),
            active_ns,
            off_thread_ns: self.off_thread_ns(),
            scope: scope.key(),
            states,
            causes,
            methods,
            stacks,
            exact: Exact { states: exact, methods: false },
            loss,
        }
    }
}

/// Whether two spans are of one process image. Its name may have changed between them.
fn same_process(a: &SpanAccount, b: &SpanAccount) -> bool {
    let key = |span: &SpanAccount| (span.process.identity.pid, span.process.identity.since);
    a.process.boot_id == b.process.boot_id && key(a) == key(b)
}

/// Notes by how much `states` miss `active_ns`. They cannot; if they do, it must be seen.
pub(super) fn check_identity(
    states: &StateTimes,
    active_ns: u64,
    loss: &mut BTreeMap<String, u64>,
) {
    let gap = states.sum().abs_diff(active_ns);
    if gap > 0 {
        loss.insert(DaemonCounter::IdentityBrokenNs.key().to_owned(), gap);
    }
}

/// Time of `[start, end]` that no interval covers.
pub(super) fn off_thread_ns<'a>(
    start: u64,
    end: u64,
    active: impl Iterator<Item = &'a (u64, u64)>,
) -> u64 {
    let within = active.map(|&(from, to)| (from.max(start), to.min(end)));
    end.saturating_sub(start).saturating_sub(union(within.filter(|(from, to)| from < to).collect()))
}

/// Samples with a stack, the same ones summed.
fn tallied(samples: &[Sample]) -> Vec<(State, Stack, Tally)> {
    let mut tallies: HashMap<(State, &Stack), Tally> = HashMap::new();
    for sample in samples {
        if let Some(stack) = &sample.stack {
            tallies.entry((sample.state, stack)).or_default().add(sample.ns);
        }
    }
    let own = |stack: &Stack| match without_hooks(stack) {
        frames if frames.len() == stack.len() => Arc::clone(stack),
        frames => frames.into(),
    };
    tallies.into_iter().map(|((state, stack), tally)| (state, own(stack), tally)).collect()
}

/// Stacks by time; no two are equal in rank, so the same rows give the same order. Sampled weights of a state are scaled so that they add up to what the state
/// exactly took: which stack had how much of it is sampled, how much there is to share is not.
pub(super) fn stacks(
    states: &StateTimes,
    weighted: Vec<(State, Stack, Tally)>,
) -> Vec<StackDocument> {
    let mut weights: HashMap<State, u64> = HashMap::new();
    for (state, _, tally) in &weighted {
        *weights.entry(*state).or_default() += tally.ns;
    }
    let mut merged: HashMap<(State, Stack), Tally> = HashMap::new();
    for (state, frames, tally) in weighted {
        let sum = u128::from(weights[&state].max(1));
        let exact = u128::from(states.get(state));
        let ns = (u128::from(tally.ns) * exact / sum) as u64;
        merged.entry((state, frames)).or_default().merge(&Tally { ns, count: tally.count });
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
    stacks.sort_unstable_by(|a, b| {
        let by_time = b.ns.cmp(&a.ns).then_with(|| a.state.cmp(&b.state));
        by_time.then_with(|| a.frames.cmp(&b.frames))
    });
    stacks
}

/// Causes by time, equal ones summed.
pub(super) fn causes(waits: impl IntoIterator<Item = Wait>) -> Vec<CauseDocument> {
    let mut tallies: BTreeMap<(State, Cause), Tally> = BTreeMap::new();
    for Wait { state, cause, ns, count } in waits {
        tallies.entry((state, cause)).or_default().merge(&Tally { ns, count });
    }
    let mut documents: Vec<CauseDocument> = tallies
        .into_iter()
        .map(|((state, cause), tally)| cause_document(state, cause, tally))
        .collect();
    documents.sort_by(|a, b| b.ns.cmp(&a.ns).then_with(|| a.tid.cmp(&b.tid)));
    documents
}

fn cause_document(state: State, cause: Cause, tally: Tally) -> CauseDocument {
    let span = cause.span.unwrap_or_default();
    CauseDocument {
        state,
        ns: tally.ns,
        count: tally.count,
        kind: cause.kind,
        name: cause.name.to_string(),
        pid: cause.pid.0,
        tid: cause.tid.0,
        trace_id: span.trace_id.text(),
        span_id: span.span_id.text(),
        span_name: span.name.to_string(),
    }
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
