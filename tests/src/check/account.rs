//! Whole threads against their own clocks and the kernel's account, and how far a CPU clock may be
//! from `running`.

use crate::{
    report::{self, Thread, get, ready, sum},
    truth::{self, ThreadTruth},
};

use super::{Checks, MS, US, median};

/// Longest a thread may run outside its own function, from clone to the last switch: some set-up and
/// tear-down, and on a loaded host two ticks of somebody else's softirq work on its account.
const EDGE: u64 = 8 * MS;

impl<'a> Checks<'a> {
    /// Per thread of the workload: sum == wall exactly, wall as seen by itself, CPU as by its clock.
    pub fn threads(&mut self) -> &mut Self {
        let (mut count, mut off) = (0, Vec::new());
        let mut edges = Vec::new();
        for (truth, thread) in self.joined_threads() {
            let Some(thread) = thread else {
                self.problems.push(format!("thread {} is missing", truth.tid));
                continue;
            };
            let who = format!("thread {} ({})", thread.tid, thread.comm);
            let total = sum(&thread.states);
            self.require(total == thread.wall_ns, || {
                format!("{who}: sum(states) {total} != wall {}", thread.wall_ns)
            });
            let wall = truth.end_ns - truth.start_ns;
            // A thread's function may begin late and its end may take long, but then it waits.
            let edge = thread.wall_ns as i64 - wall as i64;
            let running = get(&thread.states, "running");
            let off_in_function = wall.saturating_sub(truth.cpu_ns - truth.cpu_at_start_ns);
            let off_outside = (total - running).saturating_sub(off_in_function) as i64;
            self.require(edge >= -(20 * US as i64 + wall as i64 / 100_000), || {
                format!("{who}: lived {} ns, but its function {wall} ns", thread.wall_ns)
            });
            if !truth.is_main {
                edges.push((edge - off_outside).max(0) as u64);
                self.agree(edge - off_outside <= EDGE as i64, || {
                    format!("{who}: lived {edge} ns longer than its function: {:?}", thread.states)
                });
                // Its clock was read before its end, and its first switch-in is in no rusage.
                let after = (edge - off_outside).max(0) as u64;
                let least = truth.cpu_ns.saturating_sub(charged_as_cpu(&thread.states));
                let clock = running.clamp(least, truth.cpu_ns + after);
                count += 1;
                if let Some(problem) = cpu_problem(running, clock, truth.switch_ins + 1) {
                    off.push(format!("{who}: {problem}; {:?}", thread.states));
                }
            }
        }
        self.agree(off.len() <= few(count), || format!("{} of {count}: {:?}", off.len(), off[0]));
        if let Some(median) = median(&mut edges) {
            self.require(median <= EDGE, || {
                format!("threads live {median} ns longer than their functions")
            });
            self.figures.push(format!("threads live {median} ns longer than their functions"));
        }
        self
    }

    /// The kernel's own account, read by the thread at its end: what it has as CPU and run-queue
    /// time together, and then each alone as far as [`charged_as_cpu`] lets them differ. 1 % + 200 us
    /// and the jitter of the cut, up to 40 us per switch-in, that the CPU clock is allowed too.
    pub fn schedstat(&mut self) -> &mut Self {
        let (mut run, mut run_truth, mut delay, mut delay_truth) = (0, 0, 0, 0);
        let (mut count, mut off) = (0, Vec::new());
        for (truth, thread) in self.joined_threads() {
            let Some(thread) = thread.filter(|_| !truth.is_main) else {
                continue;
            };
            // Stolen time is in neither, or in the kernel's run-queue time: its clock runs on.
            let steal = get(&thread.states, "steal");
            let cpu = get(&thread.states, "running");
            let waits = ready(&thread.states);
            let function = truth.end_ns - truth.start_ns + truth.delay_at_start_ns;
            let after = thread.wall_ns.saturating_sub(function);
            let (ours, kernels) = (cpu + waits, truth.run_ns + truth.delay_ns);
            let bound = kernels / 100 + 200 * US + 40 * US * (truth.switch_ins + 1);
            let least = kernels.saturating_sub(steal);
            let error = ours.abs_diff(ours.clamp(least, kernels + after));
            count += 1;
            let agrees = error <= bound
                && cpu <= truth.run_ns + after + bound
                && waits + steal + bound >= truth.delay_ns;
            if !agrees {
                off.push(format!(
                    "thread {}: CPU {cpu} and ready {waits} ns, schedstat {} and {}, {:?}",
                    thread.tid, truth.run_ns, truth.delay_ns, thread.states
                ));
            }
            run += cpu;
            run_truth += truth.run_ns;
            delay += waits;
            delay_truth += truth.delay_ns;
        }
        self.figures.push(format!(
            "CPU {run} ns, schedstat {run_truth}; ready {delay} ns, schedstat {delay_truth}"
        ));
        self.agree(off.len() <= few(count), || format!("{} of {count}: {:?}", off.len(), off[0]));
        self
    }

    fn joined_threads(&self) -> Vec<(ThreadTruth, Option<&'a Thread>)> {
        truth::threads(self.truths)
            .into_values()
            .map(|truth| {
                let same = |thread: &&Thread| (thread.pid, thread.tid) == (truth.pid, truth.tid);
                let thread = self.report.threads.iter().find(same);
                (truth, thread)
            })
            .collect()
    }
}

/// Threads of many whose kernel clocks may disagree with the wall clock: on a guest that is stolen
/// from, the kernel was seen to book 0.4 to 0.7 ms more CPU and run-queue time than there was time.
fn few(count: usize) -> usize {
    if count >= 20 { (count / 20).max(2) } else { 0 }
}

/// Time at the CPU's door that the kernel charges as CPU time: a wakeup that preempts skips the next
/// update of the run queue's clock (`wakeup_preempt` in kernel/sched/core.c), so the woken thread is
/// charged from its wakeup on, and its `run_delay` is zero.
pub(super) fn charged_as_cpu(states: &report::States) -> u64 {
    get(states, "ready_wakeup")
}

/// `running` within max(1 %, 60 us) + 40 us per switch-in of the CPU clock.
pub(super) fn cpu_problem(running: u64, clock: u64, switch_ins: u64) -> Option<String> {
    let bound = (clock / 100).max(60 * US) + 40 * US * switch_ins;
    (running.abs_diff(clock) > bound)
        .then(|| format!("running {running} ns, CPU clock {clock} ns, {switch_ins} switches"))
}
