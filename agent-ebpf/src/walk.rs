//! Stacks: the walk over a thread's frames, the hash by which records name a stack, and sending a
//! stack once per generation.
//!
//! User frames are followed by the unwind tables of their files, and by frame pointer where there is
//! none. A stack whose tables are not there yet is sent with a copy of the thread's stack.

use core::ffi::c_void;

use agent_ebpf::{
    unwind::{
        Machine, Memory, ProcessCode, Stop,
        step::{self, ENTRY_OFFSETS, SIGNAL_OFFSETS},
        table::UNREPORTED,
    },
    wire::{
        Counter, MAX_FRAMES, MAX_KERNEL_FRAMES, RecordKind, Stack, Thread, Word,
        settings::Live,
        stack::{STACK_COPIED, STACK_EXACT_TOP, STACK_HEADER_LEN, STACK_KERNEL, STACK_STOP_SHIFT},
    },
};
use aya_ebpf::helpers::generated::{bpf_get_stack, bpf_ktime_get_ns, bpf_loop};

use crate::{
    code::{self, Walk},
    copy,
    emit::{self, Urgency},
    kernel::{Task, read_kernel, read_user},
    maps::{PROCESS_CODE, SCRATCH, STACK_SLOTS, STACKS_SEEN, WALKS, count, count_after},
};

/// Multiplier of the 64-bit hash (golden ratio).
const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
/// Copies of stacks sent of one process in a window of time.
const MAX_COPIES: u32 = 16;
/// log2 of that window, ns: about a second.
const WINDOW_LOG2: u32 = 30;
/// `cs` of 32-bit code (arch/x86/include/asm/segment.h, __USER32_CS).
const COMPAT_CS: u64 = 0x23;

#[inline(always)]
fn mix(hash: u64, word: u64) -> u64 {
    let h = (hash ^ word).wrapping_mul(PRIME);
    h ^ (h >> 29)
}

/// The current thread's memory, and the registers it entered the kernel with.
struct Own {
    registers: u64,
}

impl Memory for Own {
    #[inline(always)]
    fn word(&mut self, address: u64) -> Option<u64> {
        read_user(address)
    }

    #[inline(always)]
    fn pair(&mut self, address: u64) -> Option<[u64; 2]> {
        read_user(address)
    }

    #[inline(always)]
    fn register(&mut self, number: u8, context: u64) -> Option<u64> {
        let number = usize::from(number & 15);
        if context == 0 {
            read_kernel(self.registers.wrapping_add(u64::from(ENTRY_OFFSETS[number])))
        } else {
            read_user(context.wrapping_add(u64::from(SIGNAL_OFFSETS[number])))
        }
    }
}

/// One user frame: from the walk's cursor to its caller.
unsafe extern "C" fn user_frame(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `user` passes the number of its slot.
    let slot = unsafe { *context.cast::<u32>() };
    let (Some(walk), Some(stack)) = (WALKS.get_ptr_mut(slot), SCRATCH.get_ptr_mut(slot)) else {
        return 1;
    };
    // SAFETY: per-CPU scratch of this kind of program.
    let walk = unsafe { &mut *walk };
    let rule = code::rule(walk);
    let mut own = Own { registers: walk.registers };
    let stop = step::step(Machine::X86_64, rule, &mut walk.cursor, &mut own);
    if let Some(stop) = stop {
        walk.stop = stop as u32;
        return 1;
    }
    // Before it counts as a frame: what is no code has called nobody.
    if let Some(stop) = code::enter(walk) {
        walk.stop = stop as u32;
        return 1;
    }
    // The slot follows from the call's number, not from a counter of ours: the verifier knows
    // nothing about the number, so it looks at this body once instead of once per frame.
    let mut index = index as usize + 1;
    // SAFETY: changes nothing, as there are no more calls than frames. The compiler no longer knows that
    // the number had 32 bits, so it compares the register it then uses: the verifier knows the bound of
    // no other.
    unsafe {
        core::arch::asm!("{0} &= 255", inout(reg) index, options(pure, nomem, nostack));
    }
    if index >= MAX_FRAMES {
        walk.stop = Stop::Depth as u32;
        return 1;
    }
    let word = Word::native(walk.cursor.ip, walk.cursor.exact != 0);
    // SAFETY: per-CPU scratch of this kind of program; the index is below the array's length.
    unsafe { (*stack).words[index & MAX_FRAMES] = word };
    walk.hash = mix(walk.hash, walk.cursor.ip);
    walk.len = index as u32 + 1;
    0
}

/// Hashes one kernel frame.
unsafe extern "C" fn kernel_frame(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `kernel` passes the number of its slot.
    let slot = unsafe { *context.cast::<u32>() };
    let (Some(walk), Some(stack)) = (WALKS.get_ptr_mut(slot), SCRATCH.get_ptr_mut(slot)) else {
        return 1;
    };
    // SAFETY: as in `user_frame`; the mask keeps the index inside.
    unsafe {
        let Word(address) = (*stack).words[index as usize & MAX_FRAMES];
        (*walk).hash = mix((*walk).hash, address);
    }
    0
}

/// The current thread's user stack: sent when new, named by its hash; 0 for none.
#[inline(always)]
pub(crate) fn user(slot: u32, task: Task, thread: &Thread, live: &Live) -> u64 {
    if !task.is_user() {
        return 0;
    }
    let regs = task.user_regs();
    let ip = regs.ip();
    if ip == 0 {
        // A worker that the kernel made of a user thread: it has no registers there.
        return 0;
    }
    let (Some(walk), Some(stack)) = (WALKS.get_ptr_mut(slot), SCRATCH.get_ptr_mut(slot)) else {
        return 0;
    };
    // SAFETY: per-CPU scratch of this kind of program.
    let walk = unsafe { &mut *walk };
    // SAFETY: as above.
    unsafe { (*stack).words[0] = Word::untrusted(ip) };
    let tgid = task.tgid();
    // Inside a system call the address is the instruction after `syscall`: a return address.
    let exact = regs.syscall() == -1;
    walk.begin();
    walk.cursor.ip = ip;
    walk.cursor.sp = regs.sp();
    walk.cursor.bp = regs.bp();
    walk.cursor.lr = 0;
    walk.cursor.context = 0;
    walk.cursor.exact = u32::from(exact);
    walk.cursor.innermost = 1;
    walk.cursor.chained = 0;
    walk.registers = regs.address();
    walk.round = live.round;
    know(walk, tgid);
    // The same addresses mean other code in another process, after an exec or in place of a library.
    let image = u64::from(thread.execs) << 32 | u64::from(walk.generation);
    walk.hash = mix(mix(image, u64::from(tgid)), ip);
    if regs.cs() == COMPAT_CS {
        walk.stop = Stop::Compat as u32;
    } else {
        let mut slot = slot;
        // The thread is there, whatever that place is.
        let _ = code::enter(walk);
        // SAFETY: the callback has the signature the helper demands and only reads `slot`.
        unsafe {
            bpf_loop(MAX_FRAMES as u32, user_frame as *mut c_void, (&raw mut slot).cast(), 0);
        }
    }
    let mut flags = if exact { STACK_EXACT_TOP } else { 0 };
    if walk.wants != 0 {
        walk.stop = Stop::Unloaded as u32;
        // SAFETY: the helper has no preconditions.
        let now = unsafe { bpf_ktime_get_ns() };
        if may_copy(tgid, now) {
            // Each has a name of its own: the same guesses may stand for different stacks.
            walk.hash = mix(walk.hash, now);
            let hash = name(walk.hash, STACK_COPIED | flags | walk.stop << STACK_STOP_SHIFT);
            if copy::send(slot, tgid, hash, walk.registers, regs.sp(), exact) {
                flags |= STACK_COPIED;
            }
        }
    }
    count_after(Counter::StacksWhole, walk.stop & 15);
    send(slot, tgid, walk.hash, walk.len, flags | walk.stop << STACK_STOP_SHIFT, live)
}

/// Takes what is known of the process's code.
#[inline(always)]
fn know(walk: &mut Walk, tgid: u32) {
    walk.slab = 0;
    walk.count = 0;
    walk.flags = 0;
    walk.generation = 0;
    // SAFETY: the value is copied; the daemon replaces entries whole.
    if let Some(process) = unsafe { PROCESS_CODE.get(&tgid) } {
        walk.slab = process.slab;
        walk.count = process.count;
        walk.flags = process.flags;
        walk.generation = process.generation;
    }
}

/// Whether one more copy of a stack of this process may be sent: one that runs through ever new code
/// gets a few a second.
#[inline(always)]
fn may_copy(tgid: u32, now: u64) -> bool {
    if emit::is_half_full() {
        return false;
    }
    let Some(process) = PROCESS_CODE.get_ptr_mut(&tgid) else {
        let first = ProcessCode {
            slab: 0,
            count: 0,
            copies: 1,
            window: (now >> WINDOW_LOG2) as u32,
            generation: 0,
            flags: 0,
        };
        // When there is no room the process goes on without: its stacks say so.
        return PROCESS_CODE.insert(&tgid, &first, 1).is_ok();
    };
    // SAFETY: the process's entry; counting too few copies under a race is harmless.
    let process = unsafe { &mut *process };
    if process.flags & UNREPORTED != 0 {
        return false;
    }
    let window = (now >> WINDOW_LOG2) as u32;
    if process.window != window {
        process.window = window;
        process.copies = 0;
    }
    process.copies += 1;
    process.copies <= MAX_COPIES
}

/// The current kernel stack: sent when new, named by its hash; 0 for none.
#[inline(always)]
pub(crate) fn kernel(slot: u32, ctx: *mut c_void, exact_top: bool, live: &Live) -> u64 {
    let (Some(walk), Some(stack)) = (WALKS.get_ptr_mut(slot), SCRATCH.get_ptr_mut(slot)) else {
        return 0;
    };
    // SAFETY: the buffer holds the size given; the helper reports what it wrote.
    let bytes = unsafe {
        bpf_get_stack(ctx, (&raw mut (*stack).words).cast(), (MAX_KERNEL_FRAMES * 8) as u32, 0)
    };
    if bytes <= 0 {
        count(Counter::KernelStackFailed);
        return 0;
    }
    let len = (bytes as u64 / 8) as u32;
    // SAFETY: per-CPU scratch of this kind of program.
    unsafe {
        (*walk).hash = PRIME;
        (*walk).len = len;
    }
    let mut own = slot;
    // SAFETY: the callback has the signature the helper demands and only reads `own`.
    unsafe {
        bpf_loop(len, kernel_frame as *mut c_void, (&raw mut own).cast(), 0);
    }
    let stop = if len as usize >= MAX_KERNEL_FRAMES { Stop::Depth } else { Stop::Bottom };
    let exact = if exact_top { STACK_EXACT_TOP } else { 0 };
    // SAFETY: as above.
    let hash = unsafe { (*walk).hash };
    send(slot, 0, hash, len, STACK_KERNEL | exact | (stop as u32) << STACK_STOP_SHIFT, live)
}

/// The name of a stack: how it is to be read is part of what it says.
#[inline(always)]
fn name(hash: u64, flags: u32) -> u64 {
    mix(hash, u64::from(flags)) | 1
}

/// Sends the stack in the scratch slot unless this generation has seen it. Returns its hash.
#[inline(always)]
fn send(slot: u32, tgid: u32, hash: u64, len: u32, flags: u32, live: &Live) -> u64 {
    let hash = name(hash, flags);
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
