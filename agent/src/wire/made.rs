//! Frames made of a fuzzer's bytes: columns of equal length and indexes that mostly exist, so that whole
//! batches get through, with lies in between and epochs in any order.

use hotspan_ingest::v1::{self, AgentFrame, agent_frame::Frame};

/// Entries of a table, and rows, that one frame brings at most.
const MOST: u8 = 7;
/// Bytes from here on are lies where an index is wanted, and extremes where a number is.
const LIE: u8 = 0xf8;

/// Bytes that are read one at a time; behind their end are zeros.
pub(super) struct Input<'a>(&'a [u8]);

/// Makes frames.
pub(super) struct Made<'a> {
    input: Input<'a>,
    epoch: u32,
    has: Tables,
    /// For frames that come again.
    before: Vec<v1::Batch>,
}

/// How long the tables of the epoch are, as an honest receiver has them.
#[derive(Default)]
struct Tables {
    strings: usize,
    frames: usize,
    nodes: usize,
    processes: usize,
    threads: usize,
    traces: usize,
    spans: usize,
    causes: usize,
}

// === impl Input ===

impl<'a> Input<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// A small number, or one at a border.
    fn number(&mut self) -> u64 {
        match self.byte() {
            0xff => u64::MAX,
            0xfe => 1 << 63,
            0xfd => (1 << 58) + 1,
            0xfc => 1 << 58,
            0xfb => 1 << 32,
            0xfa => u64::from(u32::MAX),
            // In another minute, hour or day.
            byte @ LIE..0xfa => u64::from(byte) << 38,
            byte => byte.into(),
        }
    }

    fn signed(&mut self) -> i64 {
        let byte = self.byte();
        match byte {
            LIE.. => self.number().cast_signed(),
            _ => i64::from(byte.cast_signed()),
        }
    }

    /// An index into a table, or a lie.
    fn index(&mut self, len: usize) -> u32 {
        match (self.byte(), len as u32) {
            (0xff, _) => u32::MAX,
            (LIE.., len) => len,
            (byte, len) => u32::from(byte).checked_rem(len).unwrap_or(0),
        }
    }

    /// A code of a list that has `len`, or one that means nothing.
    fn code(&mut self, len: u32) -> u32 {
        self.index(len as usize)
    }

    fn rows(&mut self) -> usize {
        (self.byte() & MOST).into()
    }

    fn column<T>(&mut self, rows: usize, mut each: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..rows).map(|_| each(self)).collect()
    }

    /// How long the lists of rows are, and how long all of them together.
    fn lists(&mut self, rows: usize) -> (Vec<u32>, usize) {
        let lengths = self.column(rows, |input| u32::from(input.byte() & 3));
        let all = lengths.iter().sum::<u32>() as usize;
        (lengths, all)
    }

    /// Differences that lead to indexes of a table: what an index was, the next is counted from.
    fn walk(&mut self, rows: usize, len: usize) -> Vec<i32> {
        let mut before = 0_u32;
        self.column(rows, |input| {
            let index = input.index(len);
            let step = index.wrapping_sub(before).cast_signed();
            before = index;
            step
        })
    }
}

// === impl Made ===

impl<'a> Made<'a> {
    pub(super) fn new(input: Input<'a>) -> Self {
        Self { input, epoch: 0, has: Tables::default(), before: Vec::new() }
    }

    /// The next frame, as long as there are bytes.
    pub(super) fn next(&mut self) -> Option<AgentFrame> {
        if self.input.0.is_empty() {
            return None;
        }
        let frame = match self.input.byte() % 16 {
            0 => Frame::Gap(self.gap()),
            // Again, or late.
            1 if !self.before.is_empty() => {
                let index = usize::from(self.input.byte()) % self.before.len();
                Frame::Batch(self.before[index].clone())
            }
            choice => {
                let batch = self.batch(choice);
                self.before.push(batch.clone());
                Frame::Batch(batch)
            }
        };
        Some(AgentFrame { frame: Some(frame) })
    }

    fn gap(&mut self) -> v1::Gap {
        let input = &mut self.input;
        v1::Gap {
            from_sequence: input.number(),
            to_sequence: input.number(),
            reason: text(input),
            counts: Some(counts(input)),
            from: input.number(),
            to: input.number(),
        }
    }

    fn batch(&mut self, choice: u8) -> v1::Batch {
        let epoch = match choice {
            2 | 3 => self.epoch.saturating_add(1),
            4 => self.epoch.saturating_sub(1),
            5 => self.input.number() as u32,
            _ => self.epoch.max(1),
        };
        if epoch > self.epoch {
            self.epoch = epoch;
            self.has = Tables::default();
        }
        let dictionary = self.dictionary();
        let spans = self.spans();
        let samples = self.samples(spans.span.len());
        let waits = self.waits(spans.span.len());
        let totals = self.totals();
        let input = &mut self.input;
        let mut batch = v1::Batch {
            epoch,
            sequence: input.number(),
            from: input.number(),
            to: input.number(),
            unix_offset_ns: input.signed(),
            dictionary: Some(dictionary),
            spans: Some(spans),
            samples: Some(samples),
            waits: Some(waits),
            totals: Some(totals),
            counts: Some(counts(input)),
            account: None,
        };
        if input.byte() % 4 == 1 {
            batch.account = Some(account(input));
        }
        if input.byte() % 8 == 1 {
            self.cut(&mut batch);
        }
        batch
    }

    fn dictionary(&mut self) -> v1::Dictionary {
        let (input, has) = (&mut self.input, &mut self.has);
        let mut new = v1::Dictionary::default();
        let rows = input.rows();
        new.strings = input.column(rows, text);
        has.strings += rows;
        let rows = input.rows();
        new.frame_name = input.column(rows, |input| input.index(has.strings));
        new.frame_file = input.column(rows, |input| input.index(has.strings));
        new.frame_line = input.column(rows, |input| input.number() as u32);
        new.frame_kind = input.column(rows, |input| input.code(4));
        has.frames += rows;
        let rows = input.rows();
        for _ in 0..rows {
            has.nodes += 1;
            // How far back: the node itself is a lie, its own number the outermost.
            new.node_parent.push(input.index(has.nodes).wrapping_add(1));
            new.node_frame.push(input.index(has.frames));
        }
        let rows = input.rows();
        new.processes = input.column(rows, |input| v1::Process {
            pid: input.number() as u32,
            since: input.number(),
            comm: input.index(has.strings),
            service: input.index(has.strings),
        });
        has.processes += rows;
        let rows = input.rows();
        new.traces = (0..rows).flat_map(|_| [input.byte(); 16]).collect();
        has.traces += rows;
        let rows = input.rows();
        new.span_trace = input.walk(rows, has.traces);
        new.span_id = input.column(rows, Input::number);
        new.span_parent = input.column(rows, Input::number);
        new.span_name = input.column(rows, |input| input.index(has.strings));
        new.span_process = input.column(rows, |input| input.index(has.processes));
        new.span_start = input.column(rows, Input::signed);
        has.spans += rows;
        let rows = input.rows();
        new.cause_kind = input.column(rows, |input| input.code(4));
        new.cause_name = input.column(rows, |input| input.index(has.strings));
        new.cause_pid = input.column(rows, |input| input.number() as u32);
        new.cause_tid = input.column(rows, |input| input.number() as u32);
        new.cause_trace = input.column(rows, |input| input.index(has.traces + 1));
        new.cause_span_id = input.column(rows, Input::number);
        new.cause_span_name = input.column(rows, |input| input.index(has.strings));
        has.causes += rows;
        let rows = input.rows();
        new.thread_process = input.column(rows, |input| input.index(has.processes));
        new.thread_tid = input.column(rows, |input| input.number() as u32);
        has.threads += rows;
        new
    }

    fn spans(&mut self) -> v1::SpanColumns {
        let (input, has) = (&mut self.input, &self.has);
        let rows = input.rows();
        let (states_len, states) = input.lists(rows);
        let (active_len, active) = input.lists(rows);
        let (loss_len, losses) = input.lists(rows);
        v1::SpanColumns {
            span: input.walk(rows, has.spans),
            start: input.column(rows, Input::signed),
            end: input.column(rows, Input::signed),
            active_ns: input.column(rows, Input::signed),
            flags: input.column(rows, |input| input.code(4)),
            part: input.column(rows, |input| input.number() as u32),
            states_len,
            state: input.column(states, state),
            state_ns: input.column(states, Input::number),
            active_len,
            active_gap: input.column(active, Input::signed),
            active_for: input.column(active, Input::number),
            loss_len,
            loss_reason: input.column(losses, |input| input.index(has.strings)),
            loss_count: input.column(losses, Input::number),
        }
    }

    fn samples(&mut self, spans: usize) -> v1::SampleColumns {
        let (input, has) = (&mut self.input, &self.has);
        let rows = input.rows();
        v1::SampleColumns {
            at: input.column(rows, Input::signed),
            thread: input.column(rows, |input| input.index(has.threads)),
            span: input.column(rows, |input| input.index(spans + 1)),
            node: input.column(rows, |input| input.index(has.nodes + 1)),
            state: input.column(rows, state),
            ns: input.column(rows, Input::signed),
        }
    }

    fn waits(&mut self, spans: usize) -> v1::WaitColumns {
        let (input, has) = (&mut self.input, &self.has);
        let rows = input.rows();
        v1::WaitColumns {
            span: input.column(rows, |input| input.index(spans)),
            state: input.column(rows, state),
            cause: input.column(rows, |input| input.index(has.causes)),
            ns: input.column(rows, Input::number),
            count: input.column(rows, Input::number),
        }
    }

    fn totals(&mut self) -> v1::TotalColumns {
        let (input, has) = (&mut self.input, &self.has);
        let rows = input.rows();
        let (states_len, states) = input.lists(rows);
        v1::TotalColumns {
            process: input.column(rows, |input| input.index(has.processes)),
            from: input.column(rows, Input::signed),
            for_ns: input.column(rows, Input::number),
            states_len,
            state: input.column(states, state),
            state_ns: input.column(states, Input::number),
        }
    }

    /// Takes the last row from one of the columns.
    fn cut(&mut self, batch: &mut v1::Batch) {
        let v1::Batch { dictionary, spans, samples, waits, totals, .. } = batch;
        match self.input.byte() % 8 {
            0 => dictionary.iter_mut().for_each(|new| _ = new.frame_line.pop()),
            1 => dictionary.iter_mut().for_each(|new| _ = new.traces.pop()),
            2 => dictionary.iter_mut().for_each(|new| _ = new.span_id.pop()),
            3 => spans.iter_mut().for_each(|rows| _ = rows.state_ns.pop()),
            4 => spans.iter_mut().for_each(|rows| _ = rows.active_len.pop()),
            5 => samples.iter_mut().for_each(|rows| _ = rows.node.pop()),
            6 => waits.iter_mut().for_each(|rows| _ = rows.count.pop()),
            _ => totals.iter_mut().for_each(|rows| _ = rows.states_len.pop()),
        }
    }
}

/// A state: most of the small codes are one.
fn state(input: &mut Input<'_>) -> u32 {
    input.code(16)
}

/// Short and often the same, or longer than may travel.
fn text(input: &mut Input<'_>) -> String {
    match input.byte() {
        0xff => "long ".repeat(1000),
        byte => char::from(byte).to_string(),
    }
}

fn counts(input: &mut Input<'_>) -> v1::Counts {
    v1::Counts {
        samples: input.number(),
        intervals: input.number(),
        interval_ns: input.number(),
        markers: input.number(),
        stacks: input.number(),
        spans: input.number(),
    }
}

fn account(input: &mut Input<'_>) -> v1::Account {
    let (kinds, losses) = (input.rows(), input.rows());
    let reason = |input: &mut Input<'_>| v1::Reason { reason: text(input), count: input.number() };
    v1::Account {
        kinds: input.column(kinds, |input| v1::KindAccount {
            kind: text(input),
            captured: input.number(),
            linked: input.number(),
            lost: input.column(2, reason),
        }),
        loss: input.column(losses, reason),
        cost: None,
        closed: input.byte() % 2 == 1,
        over: input.column(kinds, |input| v1::OverBudget {
            resource: text(input),
            pid: input.number() as u32,
            uid: input.number() as u32,
            comm: text(input),
            since_unix_ns: input.number(),
            shed: input.number(),
        }),
    }
}
