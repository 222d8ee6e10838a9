//! The rows of one process and minute as columns, compressed. Columns keep what varies apart: times
//! as differences, threads, stacks and causes as indexes into lists of the chunk's own, a span only
//! where it is not the one its thread was last seen in.

use std::{cell::RefCell, collections::HashMap, hash::Hash, io};

use zstd::{
    bulk::{Compressor, Decompressor},
    zstd_safe::CParameter,
};

use super::{
    bytes::{Cursor, Writer},
    error::Damage,
};
use crate::model::{
    cause::CauseKind,
    id::{Pid, SpanId, Tid, TraceId},
    state::{State, StateTimes},
};

/// Rows behind spans and of processes, by ids of their part.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rows {
    pub samples: Vec<StoredSample>,
    pub waits: Vec<StoredWait>,
    pub totals: Vec<StoredTotal>,
}

/// A stack seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoredSample {
    pub at: u64,
    pub tid: Tid,
    /// Row of its span, 0 for none.
    pub span: i64,
    /// Node of its innermost frame; none when no frame could be read.
    pub stack: Option<i64>,
    pub state: State,
    pub ns: u64,
}

/// Waits for one cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredWait {
    pub span: i64,
    pub state: State,
    pub cause: StoredCause,
    pub ns: u64,
    pub count: u64,
}

/// A cause; names are entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct StoredCause {
    pub kind: CauseKind,
    pub name: i64,
    pub pid: Pid,
    pub tid: Tid,
    pub span: Option<(TraceId, SpanId, i64)>,
}

/// Time of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredTotal {
    pub from: u64,
    pub to: u64,
    pub states: StateTimes,
}

/// How hard to compress: rows just written, and those of closed minutes.
pub(super) const RAW_LEVEL: i32 = 1;
pub(super) const CLOSED_LEVEL: i32 = 9;

/// More than a chunk of ours ever holds: what says so is damaged.
const MAX_BYTES: usize = 256 << 20;

thread_local! {
    /// Kept for the next chunk: making them takes longer than most chunks do.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

fn pack(plain: &[u8], level: i32) -> io::Result<Vec<u8>> {
    let kept = COMPRESSOR.take();
    let mut compressor = kept.map_or_else(|| Compressor::new(level), Ok)?;
    compressor.set_compression_level(level)?;
    compressor.set_parameter(CParameter::ChecksumFlag(true))?;
    let packed = compressor.compress(plain);
    COMPRESSOR.set(Some(compressor));
    packed
}

fn unpack(packed: &[u8], length: usize) -> io::Result<Vec<u8>> {
    let kept = DECOMPRESSOR.take();
    let mut decompressor = kept.map_or_else(Decompressor::new, Ok)?;
    let plain = decompressor.decompress(packed, length);
    DECOMPRESSOR.set(Some(decompressor));
    plain
}

/// Values by first appearance.
struct Index<T>(HashMap<T, u64>);

impl<T: Copy + Eq + Hash> Index<T> {
    fn of(&mut self, value: T, first_seen: impl FnOnce(T)) -> u64 {
        let next = self.0.len() as u64;
        *self.0.entry(value).or_insert_with(|| {
            first_seen(value);
            next
        })
    }
}

// === impl Rows ===

impl Rows {
    pub(super) fn append(&mut self, mut other: Self) {
        self.samples.append(&mut other.samples);
        self.waits.append(&mut other.waits);
        self.totals.append(&mut other.totals);
    }

    /// As bytes. Samples are put in order of time.
    pub(super) fn encode(mut self, level: i32) -> Result<Vec<u8>, Damage> {
        self.samples.sort_by_key(|sample| sample.at);
        let mut plain = Writer::default();
        encode_samples(&mut plain, &self.samples);
        encode_waits(&mut plain, &self.waits);
        plain.number(self.totals.len() as u64);
        for total in &self.totals {
            plain.number(total.from);
            plain.number(total.to.wrapping_sub(total.from));
            plain.number(total.states.iter().count() as u64);
            for (state, ns) in total.states.iter() {
                plain.0.push(state.code());
                plain.number(ns);
            }
        }
        let mut chunk = Writer::default();
        chunk.number(plain.0.len() as u64);
        let packed = pack(&plain.0, level).map_err(|_| Damage("a chunk cannot be compressed"))?;
        chunk.bytes(&packed);
        Ok(chunk.0)
    }

    pub(super) fn decode(chunk: &[u8]) -> Result<Self, Damage> {
        let mut chunk = Cursor(chunk);
        let length = chunk.number()? as usize;
        if length > MAX_BYTES {
            return Err(Damage("a chunk is too large"));
        }
        let plain =
            unpack(chunk.0, length).map_err(|_| Damage("a chunk cannot be decompressed"))?;
        let mut from = Cursor(&plain);
        let samples = decode_samples(&mut from)?;
        let waits = decode_waits(&mut from)?;
        let mut totals = Vec::new();
        for _ in 0..from.count()? {
            let since = from.number()?;
            let to = since.wrapping_add(from.number()?);
            let mut states = StateTimes::default();
            for _ in 0..from.count()? {
                let state = state(from.take(1)?[0])?;
                let ns = from.number()?;
                if states.get(state) > 0 {
                    return Err(Damage("a state is there twice"));
                }
                states.add(state, ns);
            }
            totals.push(StoredTotal { from: since, to, states });
        }
        from.end()?;
        Ok(Self { samples, waits, totals })
    }
}

fn encode_samples(to: &mut Writer, samples: &[StoredSample]) {
    let [mut at, mut tids, mut spans, mut stacks, mut states, mut ns, mut lists] =
        [const { Writer(Vec::new()) }; 7];
    let mut last_at = 0;
    let (mut tid_of, mut stack_of) = (Index(HashMap::new()), Index(HashMap::new()));
    let mut span_of = Index(HashMap::new());
    let mut span_of_tid: HashMap<Tid, i64> = HashMap::new();
    let mut last_span = 0;
    let mut last_node = 0;
    for sample in samples {
        at.number(sample.at.wrapping_sub(last_at));
        last_at = sample.at;
        tids.number(tid_of.of(sample.tid, |tid| lists.number(tid.0.into())));
        let previous = span_of_tid.insert(sample.tid, sample.span).unwrap_or(0);
        spans.number(if previous == sample.span {
            0
        } else {
            1 + span_of.of(sample.span, |span| {
                lists.signed(span.wrapping_sub(last_span));
                last_span = span;
            })
        });
        stacks.number(sample.stack.map_or(0, |stack| {
            1 + stack_of.of(stack, |node| {
                lists.signed(node.wrapping_sub(last_node));
                last_node = node;
            })
        }));
        states.0.push(sample.state.code());
        ns.number(sample.ns);
    }
    to.number(samples.len() as u64);
    for column in [at, tids, spans, stacks, states, ns, lists] {
        to.counted(&column.0);
    }
}

fn decode_samples(from: &mut Cursor<'_>) -> Result<Vec<StoredSample>, Damage> {
    let count = from.number()? as usize;
    let mut columns = [const { Cursor(&[]) }; 7];
    for column in &mut columns {
        *column = Cursor(from.counted()?);
    }
    let [mut at, mut tids, mut spans, mut stacks, mut states, mut ns, mut lists] = columns;
    if count != states.0.len() {
        return Err(Damage("a chunk's columns differ in length"));
    }
    let (mut known_tids, mut known_spans, mut known_stacks) = (vec![], vec![], vec![]);
    let mut span_of_tid: HashMap<Tid, i64> = HashMap::new();
    let (mut last_at, mut last_span, mut last_node) = (0u64, 0i64, 0i64);
    let mut samples = Vec::with_capacity(count);
    for _ in 0..count {
        last_at = last_at.wrapping_add(at.number()?);
        let tid = known(&mut known_tids, tids.number()?, || lists.narrow().map(Tid))?;
        let mut delta = |last: &mut i64| {
            *last = last.wrapping_add(lists.signed()?);
            Ok(*last)
        };
        let span = match spans.number()?.checked_sub(1) {
            None => span_of_tid.get(&tid).copied().unwrap_or(0),
            Some(index) => known(&mut known_spans, index, || delta(&mut last_span))?,
        };
        span_of_tid.insert(tid, span);
        let stack = match stacks.number()?.checked_sub(1) {
            None => None,
            Some(index) => Some(known(&mut known_stacks, index, || delta(&mut last_node))?),
        };
        let state = state(states.take(1)?[0])?;
        samples.push(StoredSample { at: last_at, tid, span, stack, state, ns: ns.number()? });
    }
    for column in [at, tids, spans, stacks, states, ns, lists] {
        column.end()?;
    }
    Ok(samples)
}

fn encode_waits(to: &mut Writer, waits: &[StoredWait]) {
    let [mut spans, mut states, mut causes, mut ns, mut counts, mut list] =
        [const { Writer(Vec::new()) }; 6];
    let mut cause_of = Index(HashMap::new());
    let mut last_span = 0;
    for wait in waits {
        spans.signed(wait.span.wrapping_sub(last_span));
        last_span = wait.span;
        states.0.push(wait.state.code());
        causes.number(cause_of.of(wait.cause, |cause| {
            list.0.push(cause.kind.code() | u8::from(cause.span.is_some()) << 7);
            list.number(cause.name as u64);
            list.number(cause.pid.0.into());
            list.number(cause.tid.0.into());
            if let Some((trace_id, span_id, name)) = cause.span {
                list.bytes(&trace_id.0);
                list.bytes(&span_id.0);
                list.number(name as u64);
            }
        }));
        ns.number(wait.ns);
        counts.number(wait.count);
    }
    to.number(waits.len() as u64);
    for column in [spans, states, causes, ns, counts, list] {
        to.counted(&column.0);
    }
}

fn decode_waits(from: &mut Cursor<'_>) -> Result<Vec<StoredWait>, Damage> {
    let count = from.number()? as usize;
    let mut columns = [const { Cursor(&[]) }; 6];
    for column in &mut columns {
        *column = Cursor(from.counted()?);
    }
    let [mut spans, mut states, mut causes, mut ns, mut counts, mut list] = columns;
    if count != states.0.len() {
        return Err(Damage("a chunk's columns differ in length"));
    }
    let mut known_causes = Vec::new();
    let mut span = 0i64;
    let mut waits = Vec::with_capacity(count);
    for _ in 0..count {
        span = span.wrapping_add(spans.signed()?);
        let state = state(states.take(1)?[0])?;
        let cause = known(&mut known_causes, causes.number()?, || cause(&mut list))?;
        waits.push(StoredWait { span, state, cause, ns: ns.number()?, count: counts.number()? });
    }
    for column in [spans, states, causes, ns, counts, list] {
        column.end()?;
    }
    Ok(waits)
}

fn cause(list: &mut Cursor<'_>) -> Result<StoredCause, Damage> {
    let flags = list.take(1)?[0];
    let kind = CauseKind::from_code(u32::from(flags & 0x7f));
    let kind = kind.ok_or(Damage("no such kind of cause"))?;
    let (name, pid, tid) = (list.row()?, Pid(list.narrow()?), Tid(list.narrow()?));
    let mut span = None;
    if flags & 0x80 != 0 {
        span = Some((TraceId(list.array()?), SpanId(list.array()?), list.row()?));
    }
    Ok(StoredCause { kind, name, pid, tid, span })
}

/// The value of an index; the next new one is taken from its list.
fn known<T: Copy>(
    known: &mut Vec<T>,
    index: u64,
    next: impl FnOnce() -> Result<T, Damage>,
) -> Result<T, Damage> {
    if index == known.len() as u64 {
        known.push(next()?);
    }
    usize::try_from(index)
        .ok()
        .and_then(|index| known.get(index).copied())
        .ok_or(Damage("an index leads nowhere"))
}

fn state(code: u8) -> Result<State, Damage> {
    State::from_code(code).ok_or(Damage("no such state"))
}
