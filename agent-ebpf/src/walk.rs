//! Stacks: the walk over a thread's frames, the hash by which records name a stack, and sending a
//! stack once per generation.
//!
//! User frames are followed by frame pointer. Unwind tables take the place of [`user_frame`].

use core::ffi::c_void;

use agent_ebpf::wire::{
    Counter, MAX_FRAMES, RecordKind, Stack, Thread,
    record::{STACK_CUT, STACK_EXACT_TOP, STACK_HEADER_LEN, STACK_KERNEL},
    settings::Live,
};
use aya_ebpf::helpers::generated::{bpf_get_stack, bpf_ktime_get_ns, bpf_loop};

use crate::{
    emit::{self, Urgency},
    kernel::{Task, read_user},
    maps::{SCRATCH, STACK_SLOTS, STACKS_SEEN, count},
};

/// Largest step between two frame pointers: more is not a frame.
const MAX_FRAME_BYTES: u64 = 1 << 20;
/// Multiplier of the 64-bit hash (golden ratio).
const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;

/// State of a walk, on the program's stack.
#[repr(C)]
struct Walk {
    hash: u64,
    /// Frame pointer of the frame last recorded.
    frame: u64,
    /// Frames recorded.
    len: u32,
    /// Which scratch slot.
    slot: u32,
    /// Frames to hash (kernel stacks).
    limit: u32,
    cut: u32,
}

#[inline(always)]
fn mix(hash: u64, word: u64) -> u64 {
    let h = (hash ^ word).wrapping_mul(PRIME);
    h ^ (h >> 29)
}

/// One user frame: saved frame pointer and return address lie at the frame pointer.
unsafe extern "C" fn user_frame(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `user` passes its `Walk`.
    let walk = unsafe { &mut *context.cast::<Walk>() };
    if walk.frame & 7 != 0 || walk.frame == 0 {
        return 1;
    }
    let Some([next, return_address]) = read_user::<[u64; 2]>(walk.frame) else {
        return 1;
    };
    // Below the first page or outside the user half: no code, so no frame.
    if return_address < 4096 || return_address >> 47 != 0 {
        return 1;
    }
    let Some(stack) = SCRATCH.get_ptr_mut(walk.slot) else {
        return 1;
    };
    // The slot follows from the call's number, not from a counter of ours: the verifier knows
    // nothing about the number, so it looks at this body once instead of once per frame.
    let index = index as usize + 1;
    if index >= MAX_FRAMES {
        walk.cut = 1;
        return 1;
    }
    // SAFETY: per-CPU scratch of this kind of program; the index is below the array's length.
    unsafe { (*stack).frames[index & MAX_FRAMES] = return_address };
    walk.hash = mix(walk.hash, return_address);
    walk.len = index as u32 + 1;
    // Frames lie one above the other; anything else is not a chain.
    if next <= walk.frame || next - walk.frame > MAX_FRAME_BYTES {
        return 1;
    }
    walk.frame = next;
    0
}

/// Hashes one kernel frame.
unsafe extern "C" fn kernel_frame(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `kernel` passes its `Walk`.
    let walk = unsafe { &mut *context.cast::<Walk>() };
    let Some(stack) = SCRATCH.get_ptr_mut(walk.slot) else {
        return 1;
    };
    // SAFETY: as in `user_frame`; the mask keeps the index inside.
    let address = unsafe { (*stack).frames[index as usize & MAX_FRAMES] };
    walk.hash = mix(walk.hash, address);
    0
}

/// The current thread's user stack: sent when new, named by its hash; 0 for none.
#[inline(always)]
pub fn user(slot: u32, task: Task, thread: &Thread, live: &Live) -> u64 {
    if !task.has_mm() {
        return 0;
    }
    let regs = task.user_regs();
    let ip = regs.ip();
    let Some(stack) = SCRATCH.get_ptr_mut(slot) else {
        return 0;
    };
    // SAFETY: per-CPU scratch of this kind of program.
    unsafe { (*stack).frames[0] = ip };
    let tgid = task.tgid();
    let mut walk = Walk {
        // The same addresses mean other code in another process or after an exec.
        hash: mix(u64::from(tgid) << 32 | u64::from(thread.execs), ip),
        frame: regs.bp(),
        len: 1,
        slot,
        limit: 0,
        cut: 0,
    };
    // SAFETY: the callback has the signature the helper demands and only touches `walk`.
    unsafe {
        bpf_loop(MAX_FRAMES as u32 + 1, user_frame as *mut c_void, (&raw mut walk).cast(), 0);
    }
    // Inside a system call the address is the instruction after `syscall`: a return address.
    let exact = if regs.syscall() == -1 { STACK_EXACT_TOP } else { 0 };
    send(slot, tgid, walk.hash, walk.len, exact | if walk.cut != 0 { STACK_CUT } else { 0 }, live)
}

/// The current kernel stack: sent when new, named by its hash; 0 for none.
#[inline(always)]
pub fn kernel(slot: u32, ctx: *mut c_void, exact_top: bool, live: &Live) -> u64 {
    let Some(stack) = SCRATCH.get_ptr_mut(slot) else {
        return 0;
    };
    // SAFETY: the buffer holds the size given; the helper reports what it wrote.
    let bytes = unsafe {
        bpf_get_stack(ctx, (&raw mut (*stack).frames).cast(), (MAX_FRAMES * 8) as u32, 0)
    };
    if bytes <= 0 {
        count(Counter::KernelStackFailed);
        return 0;
    }
    let len = (bytes as u64 / 8) as u32;
    let mut walk = Walk { hash: PRIME, frame: 0, len, slot, limit: len, cut: 0 };
    // SAFETY: as above.
    unsafe {
        bpf_loop(len, kernel_frame as *mut c_void, (&raw mut walk).cast(), 0);
    }
    let cut = if len as usize >= MAX_FRAMES { STACK_CUT } else { 0 };
    let exact = if exact_top { STACK_EXACT_TOP } else { 0 };
    send(slot, 0, walk.hash, len, STACK_KERNEL | cut | exact, live)
}

/// Sends the stack in the scratch slot unless this generation has seen it. Returns its hash.
#[inline(always)]
fn send(slot: u32, tgid: u32, hash: u64, len: u32, flags: u32, live: &Live) -> u64 {
    // How the top is to be read is part of what the stack says.
    let hash = mix(hash, u64::from(flags)) | 1;
    if flags & STACK_CUT != 0 {
        count(Counter::StacksCut);
    }
    let Some(seen) = STACKS_SEEN.get_ptr_mut((hash >> 13) as u32 & (STACK_SLOTS as u32 - 1)) else {
        return hash;
    };
    let generation = u64::from(live.stack_generation);
    // SAFETY: per-CPU slot; a sample that interrupts between the two words makes the stack be sent
    // once more, never once less: the hash is written last.
    if unsafe { (*seen)[0] == hash && (*seen)[1] == generation } {
        return hash;
    }
    let Some(stack) = SCRATCH.get_ptr_mut(slot) else {
        return 0;
    };
    // SAFETY: per-CPU scratch of this kind of program.
    let stack: &mut Stack = unsafe { &mut *stack };
    stack.kind = RecordKind::Stack as u32;
    stack.tgid = tgid;
    stack.hash = hash;
    stack.len = len;
    stack.flags = flags;
    // SAFETY: the helper has no preconditions.
    stack.at = unsafe { bpf_ktime_get_ns() };
    count(Counter::StacksCaptured);
    let bytes = STACK_HEADER_LEN + (len as usize & MAX_FRAMES) * 8;
    // SAFETY: `bytes` is at most the size of `Stack`.
    let sent = unsafe {
        emit::send(
            core::ptr::from_ref(stack).cast(),
            bytes,
            Urgency::Timer,
            Counter::StacksRingFull,
        )
    };
    if sent {
        // SAFETY: as above.
        unsafe {
            (*seen)[0] = 0;
            (*seen)[1] = generation;
            (*seen)[0] = hash;
        }
    }
    hash
}
