//! The timer: a stack of whoever runs, and a checkpoint of its lane.

use agent_ebpf::{
    account,
    wire::{
        Counter, LONG_SLICE_NS, Phase, RecordKind, Sample,
        record::USER_MODE,
        thread::{HEAD_KNOWN, UNREADABLE},
    },
};
use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::perf_event,
    programs::PerfEventContext,
};

use crate::{
    context::{self, Head},
    emit::{self, Urgency},
    kernel::{Task, injected},
    maps::{SCRATCH_SAMPLE, count, live},
    storage, switch, walk,
};

/// Word of `cs` in the registers at the start of the perf context (x86-64 pt_regs).
const CS_WORD: usize = 17;

#[perf_event]
fn timer_sample(ctx: PerfEventContext) -> i32 {
    let task = Task::current();
    let tid = task.tid();
    if tid == 0 {
        count(Counter::SamplesIdle);
        return 0;
    }
    let tgid = task.tgid();
    if tgid == injected!(SETTINGS.agent_tgid) {
        return 0;
    }
    let Some(thread) = storage::find_or_create(task) else {
        return 0;
    };
    // SAFETY: the perf context begins with the interrupted registers.
    let cs = unsafe { core::ptr::read_volatile(ctx.as_ptr().cast::<u64>().add(CS_WORD)) };
    let user_mode = cs & 3 == 3;
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let live = live();
    count(Counter::SamplesCaptured);

    // An NMI can land inside a switch of this very thread: then its account is being written, and
    // this sample is a stack without a checkpoint.
    let quiet = thread.guard & 1 == 0 && thread.phase == Phase::Running as u32;
    let mut flags = if user_mode { USER_MODE } else { 0 };
    let mut urgency = Urgency::Timer;
    let head = if quiet { context::observe(thread, task, &live) } else { Head::None };
    if let Head::Known(_) = head {
        flags |= HEAD_KNOWN;
        urgency = context::runs_ahead(thread, &live);
    } else if head == Head::Unreadable {
        flags |= UNREADABLE;
        count(Counter::LaneUnreadable);
    }
    let user_stack = walk::user(SCRATCH_SAMPLE, task, thread, &live);
    let kernel_stack =
        if user_mode { 0 } else { walk::kernel(SCRATCH_SAMPLE, ctx.as_ptr(), true, &live) };
    let record = Sample {
        kind: RecordKind::Sample as u32,
        tid,
        tgid,
        // SAFETY: the helper has no preconditions.
        cpu: unsafe { bpf_get_smp_processor_id() } as u16,
        flags: flags as u8,
        pad: 0,
        serial: thread.serial,
        at: now,
        seq: thread.seq,
        head: thread.head,
        user_stack,
        kernel_stack,
    };
    emit::record(&record, urgency, Counter::SamplesRingFull);

    if flags & HEAD_KNOWN != 0 && now.wrapping_sub(thread.since) as i64 > LONG_SLICE_NS as i64 {
        let noticed = storage::guarded(thread, |t| account::cut(t, now));
        storage::notice(noticed);
        switch::send_cut(thread, task, urgency);
    }
    0
}
