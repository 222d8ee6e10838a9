//! The iterator over every thread's account: how totals reach the daemon at each flush, without a
//! record per switch. Its first run gives every thread that is already there an account.

use core::ffi::c_void;

use agent_ebpf::{
    account,
    wire::{Phase, Snapshot, thread::WAKE_SET},
};
use aya_ebpf::{
    bindings::seq_file,
    helpers::generated::{bpf_ktime_get_ns, bpf_seq_write},
};

use crate::{classify, kernel::Task, maps::SNAPSHOT, storage};

/// `struct bpf_iter__task { struct bpf_iter_meta *meta; struct task_struct *task; }`
#[repr(C)]
struct IterTask {
    meta: *const *mut seq_file,
    task: *const c_void,
}

/// Tries to read an account that another CPU may be writing.
const TRIES: u32 = 4;

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
fn thread_totals(ctx: *mut c_void) -> i32 {
    let ctx = ctx.cast::<IterTask>();
    // SAFETY: the context of a task iterator has this layout; the first word of meta is `seq`.
    let (seq, task) = unsafe {
        let meta = core::ptr::read_volatile(&raw const (*ctx).meta);
        (core::ptr::read_volatile(meta), core::ptr::read_volatile(&raw const (*ctx).task))
    };
    if task.is_null() {
        return 0;
    }
    let task = Task::new(task);
    let Some(thread) = storage::find_or_create(task) else {
        return 0;
    };
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if thread.phase == Phase::Fresh as u32 {
        storage::guarded(thread, |t| {
            // Its own CPU may have begun it in between.
            if t.phase == Phase::Fresh as u32 {
                account::adopt(t, now);
            }
        });
    }
    classify::meanwhile(task, thread);
    let Some(out) = SNAPSHOT.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: per-CPU scratch of this program; iterators do not nest.
    let out: &mut Snapshot = unsafe { &mut *out };
    out.torn = 1;
    for _ in 0..TRIES {
        // SAFETY: another CPU may be writing; the guard before and after tells.
        let before = unsafe { core::ptr::read_volatile(&raw const thread.guard) };
        out.phase = thread.phase;
        out.flags = thread.flags;
        out.serial = thread.serial;
        out.birth = thread.birth;
        out.since = thread.since;
        out.wake = if thread.flags & WAKE_SET != 0 { thread.wake } else { 0 };
        out.seq = thread.seq;
        out.head = thread.head;
        out.state = thread.state;
        out.ready = thread.ready;
        out.total = thread.total;
        // SAFETY: as above; the empty instruction keeps the copies before this read.
        let after = unsafe {
            core::arch::asm!("", options(nostack, preserves_flags));
            core::ptr::read_volatile(&raw const thread.guard)
        };
        if before & 1 == 0 && before == after {
            out.torn = 0;
            break;
        }
    }
    out.tid = task.tid();
    out.tgid = task.tgid();
    // SAFETY: the helper has no preconditions.
    out.at = unsafe { bpf_ktime_get_ns() };
    out.start_boottime = task.start_boottime();
    out.pad = [0; 5];
    out.run_delay = task.run_delay();
    out.sum_exec = task.sum_exec();
    out.comm = task.comm();
    // SAFETY: `seq` is the iterator's own file; the buffer is a whole snapshot.
    unsafe {
        bpf_seq_write(seq, core::ptr::from_ref(out).cast(), size_of::<Snapshot>() as u32);
    }
    0
}
