//! In which function a thread that leaves the CPU blocks, from its own kernel stack: for the waits
//! whose marks and system call do not say it. It costs microseconds, so the many waits that are known
//! without it never come here.

use core::ffi::c_void;

use agent_ebpf::wire::{
    Word,
    waits::{self, STRONG, WAIT_FUNCTIONS, WEIGHT},
};
use aya_ebpf::helpers::generated::{bpf_get_stack, bpf_get_task_stack, bpf_loop};

use crate::{
    kernel::{Task, WAITS},
    maps::{SCRATCH, SCRATCH_SWITCH, SCRATCH_TOTALS, WALKS},
};

/// Frames that nearly always hold the answer: the scheduler's own and a few. Each costs a step of the
/// kernel's unwinder.
const FEW: u32 = 16;
/// Frames looked at before it is given up: a page fault in a copy below a file system is 40 deep.
const MANY: u32 = 64;

/// A search under way.
struct Search {
    /// The frames' slot of `SCRATCH`.
    slot: u32,
    /// What weighs most so far.
    known: u32,
}

/// One frame: keeps its function's meaning if that weighs more than what is known.
unsafe extern "C" fn frame(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `search` passes its own.
    let search = unsafe { &mut *context.cast::<Search>() };
    let Some(stack) = SCRATCH.get_ptr_mut(search.slot) else {
        return 1;
    };
    // SAFETY: per-CPU scratch of this kind of program; the mask keeps the index inside.
    let Word(address) = unsafe { (*stack).words[index as usize & (MANY as usize - 1)] };
    let meaning = waits::find(address, |slot| {
        // SAFETY: initialised read-only data; the mask keeps the index inside. Volatile, because the
        // compiler would use the built-in value.
        unsafe { core::ptr::read_volatile(&raw const WAITS.functions[slot & (WAIT_FUNCTIONS - 1)]) }
    });
    if meaning & WEIGHT > search.known & WEIGHT {
        search.known = meaning;
    }
    i64::from(search.known & WEIGHT == STRONG)
}

/// What the functions on the current thread's kernel stack say of its wait, 0 for nothing. For the
/// scheduler programs.
#[inline(always)]
pub(crate) fn by_current(ctx: *mut c_void) -> u32 {
    let found = among(ctx, FEW);
    if found & WEIGHT == STRONG { found } else { among(ctx, MANY) }
}

#[inline(always)]
fn among(ctx: *mut c_void, most: u32) -> u32 {
    let Some(stack) = SCRATCH.get_ptr_mut(SCRATCH_SWITCH) else {
        return 0;
    };
    // SAFETY: the buffer is larger than the size given; the helper reports what it wrote.
    let bytes = unsafe { bpf_get_stack(ctx, (&raw mut (*stack).words).cast(), most * 8, 0) };
    search(SCRATCH_SWITCH, bytes)
}

/// The same of the stack that `walk::kernel` has just taken for the scheduler programs.
#[inline(always)]
pub(crate) fn by_taken() -> u32 {
    let Some(walk) = WALKS.get_ptr_mut(SCRATCH_SWITCH) else {
        return 0;
    };
    // SAFETY: per-CPU scratch of the scheduler programs.
    search(SCRATCH_SWITCH, i64::from(unsafe { (*walk).len }) * 8)
}

/// The same of another thread, which sleeps. For the iterator.
#[inline(always)]
pub(crate) fn by_sleeping(task: Task) -> u32 {
    let Some(stack) = SCRATCH.get_ptr_mut(SCRATCH_TOTALS) else {
        return 0;
    };
    // SAFETY: as in `among`.
    let bytes =
        unsafe { bpf_get_task_stack(task.as_ptr(), (&raw mut (*stack).words).cast(), MANY * 8, 0) };
    search(SCRATCH_TOTALS, bytes)
}

/// Searches the frames in a slot, given their bytes or an error.
#[inline(always)]
fn search(slot: u32, bytes: i64) -> u32 {
    if bytes <= 0 {
        return 0;
    }
    let frames = bytes as u32 / 8;
    let mut search = Search { slot, known: 0 };
    // SAFETY: the callback has the signature the helper demands and takes `search`.
    unsafe {
        bpf_loop(
            if frames < MANY { frames } else { MANY },
            frame as *mut c_void,
            (&raw mut search).cast(),
            0,
        );
    }
    search.known
}
