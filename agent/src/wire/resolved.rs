//! A batch by value, for comparing: what went into the codec must come out of it.

use crate::model::{
    batch::{Batch, ProcessIdentity, SampleRow, SpanPart, TotalRow, WaitRow},
    frame::Stack,
};

/// A batch with its references resolved: what must come out as it went in.
#[derive(Debug, PartialEq)]
pub(crate) struct Resolved {
    rest: Batch,
    spans: Vec<(ProcessIdentity, SpanPart)>,
    samples: Vec<(ProcessIdentity, Option<Stack>, SampleRow)>,
    waits: Vec<WaitRow>,
    totals: Vec<(ProcessIdentity, TotalRow)>,
}

/// Every row of a batch with what it refers to, whatever the order of its tables.
pub(crate) fn resolved(batch: &Batch) -> Resolved {
    let process = |index: u32| batch.processes[index as usize].clone();
    let stack = |index: u32| batch.stacks[index as usize].clone();
    Resolved {
        rest: Batch {
            from: batch.from,
            to: batch.to,
            unix_offset_ns: batch.unix_offset_ns,
            counts: batch.counts,
            account: batch.account.clone(),
            ..Batch::default()
        },
        spans: (batch.spans.iter())
            .map(|span| (process(span.process), SpanPart { process: 0, ..span.clone() }))
            .collect(),
        samples: (batch.samples.iter())
            .map(|row| {
                let bare = SampleRow { process: 0, stack: None, ..row.clone() };
                (process(row.process), row.stack.map(stack), bare)
            })
            .collect(),
        waits: batch.waits.clone(),
        totals: (batch.totals.iter())
            .map(|row| (process(row.process), TotalRow { process: 0, ..row.clone() }))
            .collect(),
    }
}
