//! A stack of tagged words on its whole way: from the bytes in a ring, through join, names, batch, wire
//! and store, to a tree in a terminal. No runtime is known yet, so the test makes one up; beside it
//! stands one that nobody knows.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use agent_ebpf::{
    unwind::Stop,
    wire::{
        Exit, LaneSeen, RecordKind, Runtime, RuntimeFrame, Sample, State as K, Tail, Word,
        record::TAIL_EVENTS,
        stack::{STACK_EXACT_TOP, STACK_STOP_SHIFT},
        state::STATES,
        thread::HEAD_KNOWN,
    },
};
use hotspan_ingest::v1;
use hotspan_lanes::abi::{EVENT_LEN, event, op, ts_kind};
use prost::Message as _;

use super::{
    span::{self, View},
    tests::{PLAIN, uncoloured},
    *,
};
use crate::{
    budget::Budgets,
    contexts::lanes::Lanes,
    document::{answer::document, assemble::Scope},
    kernel::{Record, fixture, ktime},
    link::{Linker, Parts, flush::Flush},
    model::{
        batch::{Account, Batch, Run},
        frame::{Frame, FrameKind},
        id::{Pid, RunId, SpanId},
    },
    naming::batcher::Batcher,
    process::Processes,
    store::{
        Body, Entry, Sink, Source, SourceError, answer,
        memory::MemoryStore,
        sqlite::{Settings, Store},
    },
    symbols::{Runtimes, Symbols},
    unwind::Unwinder,
    wire::{decode::Decoder, encode::Encoder},
};

/// Nobody: its addresses keep no names.
const PID: Pid = Pid(u32::MAX - 1);
const SPAN: SpanId = SpanId([5; 8]);
const STACK: u64 = 0xabcd;
const VA: u64 = 0x7000_0000;
const MS: u64 = 1_000_000;

/// Names the frames of one runtime.
struct MadeUp;

impl Runtimes for MadeUp {
    fn name(&mut self, pid: Pid, frame: RuntimeFrame, deadline: Instant) -> Option<Frame> {
        assert!(pid == PID && deadline > Instant::now());
        (frame.runtime == known() && frame.check == 77).then(|| Frame {
            name: format!("method_{}", frame.code).into(),
            file: "/srv/shop.mu".into(),
            line: frame.position as u32,
            kind: FrameKind::Interpreted,
        })
    }
}

fn known() -> Runtime {
    Runtime::new(0x41).unwrap()
}

fn script(runtime: Runtime, check: u32, code: u64, position: u64) -> Vec<Word> {
    RuntimeFrame { runtime, check, code, position }.words().into()
}

/// A call from a runtime that the test knows, through native code and a runtime it does not know, into
/// native code, with a frame at the end that the walk had no room for.
fn words() -> Vec<Word> {
    let mut words = vec![Word::untrusted(0x5000_1000)];
    words.extend(script(known(), 77, 1, 12));
    words.push(Word::native(0x5000_2001, false));
    words.extend(script(Runtime::new(0xc8).unwrap(), 1, u64::MAX, 0x8000_0000_0000_0001));
    words.push(Word::native(0x5000_3000, true));
    // The code object is another one by now.
    words.extend(script(known(), 78, 2, 13));
    words.extend(script(known(), 77, 3, 14));
    words.extend(&script(known(), 77, 4, 15)[..2]);
    words
}

/// What is to become of them, innermost first.
const FRAMES: [(&str, FrameKind); 8] = [
    ("[unresolved]", FrameKind::Native),
    ("method_1", FrameKind::Interpreted),
    ("[unresolved]", FrameKind::Native),
    ("[unknown runtime 200]", FrameKind::Interpreted),
    ("[unresolved]", FrameKind::Native),
    ("[unknown runtime 65]", FrameKind::Interpreted),
    ("method_3", FrameKind::Interpreted),
    ("[cut here: deeper than is kept]", FrameKind::Mark),
];

/// One thread of one span, from `at` on for 40 ms, with one sample: what a ring would bring.
fn records(at: u64) -> Vec<Record> {
    let mut event = [0; EVENT_LEN];
    event[event::SEQ..][..8].copy_from_slice(&1_u64.to_le_bytes());
    event[event::TS..][..8].copy_from_slice(&at.to_le_bytes());
    event[event::TRACE_ID] = 1;
    event[event::SPAN_ID..][..8].copy_from_slice(&SPAN.0);
    (event[event::OP], event[event::TS_KIND]) = (op::SET, ts_kind::MONOTONIC_NS);
    let mut events = [[0; EVENT_LEN]; TAIL_EVENTS];
    events[0] = event;
    let mut total = [0; STATES];
    let lane = LaneSeen {
        kind: RecordKind::LaneSeen as u32,
        tid: PID.0,
        tgid: PID.0,
        generation: 1,
        serial: 1,
        va: VA,
        at,
        first_index: 0,
        seq: 0,
        since: at,
        total,
    };
    let tail = Tail {
        kind: RecordKind::Tail as u32,
        tid: PID.0,
        tgid: PID.0,
        generation: 1,
        serial: 1,
        va: VA,
        first: 0,
        count: 1,
        at: at + MS,
        events,
    };
    let sample = Sample {
        kind: RecordKind::Sample as u32,
        tid: PID.0,
        tgid: PID.0,
        cpu: 0,
        flags: HEAD_KNOWN as u8,
        pad: 0,
        serial: 1,
        at: at + 20 * MS,
        seq: 0,
        head: 1,
        user_stack: STACK,
        kernel_stack: 0,
    };
    total[K::Running as usize] = 40 * MS;
    let exit = Exit {
        kind: RecordKind::Exit as u32,
        tid: PID.0,
        tgid: PID.0,
        flags: HEAD_KNOWN as u8,
        pad: [0; 3],
        serial: 1,
        birth: at,
        at: at + 40 * MS,
        exiting_at: at + 40 * MS,
        seq: 0,
        head: 1,
        comm: *b"shop\0\0\0\0\0\0\0\0\0\0\0\0",
        total,
    };
    let flags = STACK_EXACT_TOP | (Stop::Bottom as u32) << STACK_STOP_SHIFT;
    let stack = Record::decode(&fixture::stack(PID.0, STACK, flags, &words())).unwrap();
    let (lane, tail) = (Record::LaneSeen(lane), Record::Tail(Box::new(tail)));
    vec![lane, tail, stack, Record::Sample(sample), Record::Exit(exit)]
}

fn linked() -> Flush {
    let (mut lanes, mut processes) = (Lanes::default(), Processes::host());
    let unwinder = Unwinder::default();
    let mut linker = Linker::new(99, Budgets::default());
    let mut parts = Parts { lanes: &mut lanes, processes: &mut processes, unwinder: &unwinder };
    let at = ktime::now();
    for record in records(at) {
        linker.take(record, &mut parts);
    }
    linker.end(at + 40 * MS, &mut parts);
    let flush = linker.flush(at + 40 * MS, true, &mut parts);
    // Nobody answers for it.
    for ask in processes.take_asks() {
        processes.answered(ask, None);
    }
    flush
}

/// Through the bytes of the wire.
fn over_the_wire(batch: &Batch) -> Batch {
    let bytes = Encoder::new().batch(1, batch).encode_to_vec();
    Decoder::default().batch(&v1::Batch::decode(&bytes[..]).unwrap()).unwrap()
}

/// A directory that goes with it.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The document of the span in a store that has this entry.
fn stored(mut sink: impl Sink, source: &impl Source, entry: &Entry) -> SpanDocument {
    sink.append(std::slice::from_ref(entry)).unwrap();
    answer::<_, SourceError>(source, |snapshot| {
        let spans = snapshot.spans(None, SPAN)?;
        assert_eq!(spans.len(), 1);
        document(snapshot, &spans[0], Scope::Span)
    })
    .unwrap()
}

#[test]
fn frames_of_runtimes_go_the_whole_way() {
    let symbols = Arc::new(Symbols::spawn_with(MadeUp).unwrap());
    let offset = i64::try_from(ktime::unix_offset()).unwrap();
    let mut batcher = Batcher::new(symbols, Arc::default());
    let batch = batcher.batch(linked(), Account::default(), offset);
    let batch = over_the_wire(&batch);

    let run = Run { id: RunId([1; 16]), ..Run::default() };
    let entry = Entry { run: Arc::new(run), sequence: 1, body: Body::Batch(batch) };
    let dir = std::env::temp_dir().join(format!("hotspan-words-{}", std::process::id()));
    let directory = Directory(dir.clone());
    let (max_age, max_bytes) = (Duration::from_secs(86_400), 1 << 30);
    let store = Store::open(Settings { dir, max_age, max_bytes }).unwrap();
    let reader = store.reader();
    let memory = MemoryStore::default();
    let documents = [stored(store, &reader, &entry), stored(memory.clone(), &memory, &entry)];
    drop(directory);

    for document in documents {
        assert_eq!(document.stacks.len(), 1, "{document:?}");
        let frames = &document.stacks[0].frames;
        let found: Vec<_> = frames.iter().map(|frame| (&*frame.name, frame.kind)).collect();
        assert_eq!(found, FRAMES);
        assert_eq!((&*frames[1].file, frames[1].line), ("/srv/shop.mu", 12));
        let json = serde_json::to_value(&document).unwrap();
        assert_eq!(json["stacks"][0]["frames"][1]["kind"], "interpreted");
        let back: SpanDocument = serde_json::from_value(json).unwrap();
        assert_eq!(back.stacks[0].frames, *frames);

        let mut text = Vec::new();
        span::write(&back, View::default(), &mut text, &PLAIN).unwrap();
        let text = uncoloured(&String::from_utf8(text).unwrap());
        let (_, tree) = text.split_once("Stacks, callers first").unwrap();
        let mut rest = tree;
        for (name, _) in FRAMES.iter().rev() {
            rest = rest.split_once(name).unwrap_or_else(|| panic!("{name} in {text}")).1;
        }
        assert!(tree.contains("method_1  shop.mu:12"), "{text}");
    }
}
