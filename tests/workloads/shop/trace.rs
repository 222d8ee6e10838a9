//! Just enough tracing: a span's context, `traceparent` in and out, and publishing which span is
//! active on which thread.

use std::{
    cell::Cell,
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use hotspan_lanes::{Span, name, span_clear, span_set};

thread_local! {
    static ACTIVE: Cell<Option<Span>> = const { Cell::new(None) };
}

/// Where a span came from: the trace and span ids of a `traceparent` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    trace_id: [u8; 16],
    span_id: [u8; 8],
}

/// The first span of a request in this process.
pub(crate) fn root(operation: &str, remote: Option<Remote>) -> Span {
    let mut trace_id = [0; 16];
    trace_id[..8].copy_from_slice(&fresh_id().to_be_bytes());
    trace_id[8..].copy_from_slice(&fresh_id().to_be_bytes());
    let span_id = fresh_id().to_be_bytes();
    Span {
        trace_id: remote.map_or(trace_id, |remote| remote.trace_id),
        span_id,
        parent_span_id: remote.map(|remote| remote.span_id),
        local_root_span_id: Some(span_id),
        name: name(operation),
        trace_flags: 1,
    }
}

/// Runs `work` with this span active on the calling thread.
pub(crate) fn within<T>(span: Span, work: impl FnOnce() -> T) -> T {
    let before = ACTIVE.replace(Some(span));
    activate(Some(span));
    let result = work();
    ACTIVE.set(before);
    activate(before);
    result
}

/// Runs `work` in a child of the active span.
pub(crate) fn step<T>(operation: &str, work: impl FnOnce() -> T) -> T {
    let Some(parent) = ACTIVE.get() else {
        return work();
    };
    let child = Span {
        span_id: fresh_id().to_be_bytes(),
        parent_span_id: Some(parent.span_id),
        name: name(operation),
        ..parent
    };
    within(child, work)
}

/// The header for a request made in the active span.
pub(crate) fn traceparent() -> Option<String> {
    let span = ACTIVE.get()?;
    Some(format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id)))
}

pub(crate) fn parse_traceparent(header: &str) -> Option<Remote> {
    let mut fields = header.trim().split('-');
    let (_version, trace, span) = (fields.next()?, fields.next()?, fields.next()?);
    Some(Remote { trace_id: unhex(trace)?, span_id: unhex(span)? })
}

/// Publishing may be off (a limit, `HOTSPAN_DISABLE`): the shop works all the same.
fn activate(span: Option<Span>) {
    match span {
        Some(span) => drop(span_set(&span)),
        None => span_clear(),
    }
}

fn fresh_id() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    let mut x = now ^ u64::from(std::process::id()) << 40;
    x = x.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x ^ x >> 31) | 1
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (number, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * number..2 * number + 2], 16).ok()?;
    }
    Some(bytes)
}
