//! One publisher per process: whoever comes second joins the first.
//!
//! `hotspan_lanes_v1` is a pointer that every copy of the publisher defines and the dynamic linker
//! makes one (another shared object, the C header beside this crate). The first copy to publish
//! puts its table of functions there, by one compare-exchange; the others call through it. The
//! symbol is of the unique kind, so it is one also between libraries loaded privately, and its
//! owner is never unloaded under the others.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::{Disabled, NameId, RawStats, Span, names, publish};

pub(crate) const PUBLISHER_VERSION: u32 = 1;

/// The functions of the copy that serves the process. `SPEC.md` has the layout.
#[repr(C)]
pub(crate) struct Publisher {
    version: u32,
    len: u32,
    name: unsafe extern "C" fn(*const u8, usize) -> u32,
    set: unsafe extern "C" fn(
        trace_id: *const u8,
        span_id: *const u8,
        parent_span_id: *const u8,
        local_root_span_id: *const u8,
        name: u32,
        trace_flags: u8,
        ts: u64,
    ) -> i32,
    clear: unsafe extern "C" fn(),
    stats: unsafe extern "C" fn(*mut RawStats),
}

static THIS_COPY: Publisher = Publisher {
    version: PUBLISHER_VERSION,
    len: size_of::<Publisher>() as u32,
    name: serve_name,
    set: serve_set,
    clear: serve_clear,
    stats: serve_stats,
};

#[cfg(not(miri))]
core::arch::global_asm!(
    ".pushsection .bss.hotspan_lanes_v1,\"awG\",@nobits,hotspan_lanes_v1,comdat",
    ".balign 8",
    ".globl hotspan_lanes_v1",
    ".type hotspan_lanes_v1,@gnu_unique_object",
    ".size hotspan_lanes_v1,8",
    "hotspan_lanes_v1:",
    ".zero 8",
    ".popsection",
);

#[cfg(not(miri))]
unsafe extern "C" {
    #[link_name = "hotspan_lanes_v1"]
    safe static SERVING: AtomicPtr<Publisher>;
}
#[cfg(miri)]
static SERVING: AtomicPtr<Publisher> = AtomicPtr::new(ptr::null_mut());

/// The other copy that serves this process, or `None` if this one does, from now on at least.
pub(crate) fn elsewhere() -> Option<&'static Publisher> {
    let this = (&raw const THIS_COPY).cast_mut();
    let serving = match SERVING.load(Ordering::Acquire) {
        serving if !serving.is_null() => serving,
        _ => SERVING
            .compare_exchange(ptr::null_mut(), this, Ordering::AcqRel, Ordering::Acquire)
            .map_or_else(|winner| winner, |_| this),
    };
    // SAFETY: a copy only ever stores its own constant table, and is not unloaded.
    (!ptr::eq(serving, this)).then(|| unsafe { &*serving })
}

// === impl Publisher ===

impl Publisher {
    pub(crate) fn forward_set(&self, span: &Span, ts: u64) -> Result<(), Disabled> {
        let pointer = |id: &Option<[u8; 8]>| id.as_ref().map_or(ptr::null(), |id| id.as_ptr());
        // SAFETY: the ids are as long as the table's contract says; null means none.
        let answer = unsafe {
            (self.set)(
                span.trace_id.as_ptr(),
                span.span_id.as_ptr(),
                pointer(&span.parent_span_id),
                pointer(&span.local_root_span_id),
                span.name.0,
                span.trace_flags,
                ts,
            )
        };
        if answer == 0 { Ok(()) } else { Err(Disabled) }
    }

    pub(crate) fn forward_clear(&self) {
        // SAFETY: no arguments.
        unsafe { (self.clear)() };
    }

    pub(crate) fn forward_name(&self, name: &[u8]) -> NameId {
        // SAFETY: pointer and length of one slice.
        NameId(unsafe { (self.name)(name.as_ptr(), name.len()) })
    }

    pub(crate) fn forward_stats(&self) -> RawStats {
        let mut stats = RawStats::default();
        // SAFETY: `stats` is valid and writable.
        unsafe { (self.stats)(&raw mut stats) };
        stats
    }
}

unsafe extern "C" fn serve_name(name: *const u8, len: usize) -> u32 {
    if name.is_null() {
        return 0;
    }
    // SAFETY: the caller passes a readable range.
    names::intern(unsafe { core::slice::from_raw_parts(name, len) })
}

unsafe extern "C" fn serve_set(
    trace_id: *const u8,
    span_id: *const u8,
    parent_span_id: *const u8,
    local_root_span_id: *const u8,
    name: u32,
    trace_flags: u8,
    ts: u64,
) -> i32 {
    // SAFETY: the caller passes 16 and 8 readable bytes.
    let (trace_id, span_id) = unsafe { (*trace_id.cast(), *span_id.cast()) };
    // SAFETY: the caller passes 8 readable bytes or null.
    let optional = |id: *const u8| unsafe { id.cast::<[u8; 8]>().as_ref() }.copied();
    let span = Span {
        trace_id,
        span_id,
        parent_span_id: optional(parent_span_id),
        local_root_span_id: optional(local_root_span_id),
        name: NameId(name),
        trace_flags,
    };
    if publish::set(&span, ts).is_ok() { 0 } else { -1 }
}

unsafe extern "C" fn serve_clear() {
    publish::clear();
}

unsafe extern "C" fn serve_stats(stats: *mut RawStats) {
    // SAFETY: the caller passes a writable structure.
    unsafe { stats.write(RawStats::of_this_copy()) };
}
