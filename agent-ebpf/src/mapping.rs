//! Code that may come into a process where other code was: what was known of its mappings is no longer
//! true. Code at new addresses needs no notice: a walk that comes by an unknown address asks.

use core::ffi::c_void;

use agent_ebpf::wire::{Counter, RecordKind, Remapped};
use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext,
};

use crate::{
    code,
    emit::{self, Urgency},
    kernel::{Task, UnmappedArea},
    maps::{PROCESS_CODE, count},
};

/// `vm_unmapped_area(addr, info)` (mm/mmap.c): the kernel chose free addresses for an mmap. When code
/// was known there, it has been unmapped. (A mapping forced onto code in place of other code is not
/// seen here; the dynamic linkers reserve first.)
#[btf_tracepoint(function = "vm_unmapped_area")]
fn vm_unmapped_area(ctx: BtfTracePointContext) -> i32 {
    let tgid = Task::current().tgid();
    let Some(process) = PROCESS_CODE.get_ptr_mut(&tgid) else {
        return 0;
    };
    // SAFETY: the entry of this process, which the daemon replaces whole; a write that falls into a
    // replaced one is told by the record below.
    let process = unsafe { &mut *process };
    if process.slab == 0 {
        return 0;
    }
    let address = ctx.arg::<u64>(0);
    let length = UnmappedArea::new(ctx.arg::<*const c_void>(1)).length();
    // An error, not an address.
    if address >> 47 != 0 || length == 0 {
        return 0;
    }
    let last = address.wrapping_add(length).wrapping_sub(1);
    if !code::is_known_within(process.slab, process.count, address, last) {
        return 0;
    }
    process.slab = 0;
    let record = Remapped {
        kind: RecordKind::Remapped as u32,
        tgid,
        // SAFETY: the helper has no preconditions.
        at: unsafe { bpf_ktime_get_ns() },
    };
    count(Counter::LifecycleCaptured);
    emit::record(&record, Urgency::Now, Counter::LifecycleRingFull);
    0
}
