//! Scenarios about the CPU and about the shape of spans: burning, contention, nesting, one span on
//! two threads, a thread that never switches, many short spans, many short threads, migration.

use anyhow::Result;

use crate::{
    clocks::{MS, burn_ns, burn_wall_ns, length_of_wait, sleep_ns},
    record::{Span, WAITS, join, start, warm_up},
};

fn burn_spans(name: &'static str, count: u32, ns: u64) {
    for _ in 0..count {
        Span::new(name, "running").around(|| burn_ns(ns));
    }
}

pub(crate) fn burn() -> Result<()> {
    join(start(|| burn_spans("burn", 20, 20 * MS)))
}

/// Three burners on one CPU.
pub(crate) fn contention() -> Result<()> {
    let all = [(); 3].map(|()| {
        start(|| {
            pin_to(0);
            burn_spans("contend", 10, 30 * MS);
        })
    });
    all.into_iter().try_for_each(join)
}

/// Parent set, child set, parent set again, clear.
pub(crate) fn nested() -> Result<()> {
    join(start(|| {
        for turn in 0..30 {
            let ns = length_of_wait(turn);
            let mut parent = Span::new("parent", "running");
            let mut child = Span::child_of(&parent, "child", "sleep").waiting(ns);
            parent.enter();
            burn_ns(2 * MS);
            parent.change_to(&mut child);
            sleep_ns(ns);
            child.change_to(&mut parent);
            burn_ns(3 * MS);
            parent.leave();
            parent.keep();
            child.keep();
        }
    }))
}

/// One span, active on two threads at the same time.
pub(crate) fn two_threads() -> Result<()> {
    for _ in 0..20 {
        let burns = Span::new("shared", "sleep");
        let sleeps = burns.clone().waiting(length_of_wait(0));
        let first = start(move || {
            warm_up();
            sleeps.around(|| sleep_ns(length_of_wait(0)));
        });
        let second = start(move || {
            warm_up();
            burns.around(|| burn_ns(4 * MS));
        });
        join(first)?;
        join(second)?;
    }
    Ok(())
}

/// No wait, no yield, no system call, as far as the neighbours let it.
pub(crate) fn no_switch() -> Result<()> {
    join(start(|| {
        pin_to(1);
        for _ in 0..4 {
            Span::new("steady", "running").around(|| burn_wall_ns(300 * MS));
        }
    }))
}

/// 10,000 spans of 50 us.
pub(crate) fn many() -> Result<()> {
    join(start(|| burn_spans("tiny", 10_000, 50_000)))
}

/// 1,000 threads, eight at a time, one span each.
pub(crate) fn storm() -> Result<()> {
    for _ in 0..125 {
        let batch = [(); 8].map(|()| {
            start(|| {
                warm_up();
                burn_spans("short-lived", 1, 100_000);
            })
        });
        batch.into_iter().try_for_each(join)?;
    }
    Ok(())
}

/// From CPU to CPU, in the middle of spans.
pub(crate) fn migrate() -> Result<()> {
    join(start(|| {
        for turn in 0..WAITS {
            Span::new("migrate", "sleep").waiting(3 * MS).waiting(3 * MS).around(|| {
                for part in 0..2 {
                    pin_to((turn + part) % 2);
                    burn_ns(2 * MS);
                    sleep_ns(3 * MS);
                }
            });
        }
    }))
}

/// Best effort: a host with a single CPU has no second one.
fn pin_to(cpu: u64) {
    // SAFETY: an all-zero set is a valid empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` is 0 or 1, inside of the set.
    unsafe { libc::CPU_SET(cpu as usize, &mut set) };
    // SAFETY: the set is valid for its size.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
}
