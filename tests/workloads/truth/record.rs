//! The recorder of a workload's own truth.
//!
//! A span's truth is read beside its markers, always in this order, so that what is outside of the
//! marker pair is the same everywhere:
//!     rusage, thread CPU clock, CLOCK_MONOTONIC, set ... clear, CLOCK_MONOTONIC, CPU, rusage

use std::{
    cell::Cell,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::JoinHandle,
};

use anyhow::{Context as _, Result};
use hotspan_lanes::{NameId, span_clear, span_set};
use hotspan_tests::truth::{SpanTruth, ThreadTruth, Truth};

use crate::{
    clocks::{Clocks, now_ns, schedstat, thread_cpu_ns, thread_switches},
    options,
};

/// Waits of each scenario.
pub(crate) const WAITS: u64 = 40;

static SPANS: Mutex<Vec<SpanTruth>> = Mutex::new(Vec::new());
static THREADS: Mutex<Vec<ThreadTruth>> = Mutex::new(Vec::new());
static IDS: AtomicU32 = AtomicU32::new(0);
/// In a fork child the truth goes to a file of its own.
static IS_CHILD: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static MAIN: Cell<Option<ThreadTruth>> = const { Cell::new(None) };
    /// This thread has published, and so has its lane.
    static IS_WARM: Cell<bool> = const { Cell::new(false) };
}

/// A span on one thread, with its truth so far.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    published: hotspan_lanes::Span,
    name: &'static str,
    state: &'static str,
    pub(crate) waits: u64,
    pub(crate) intended_wait_ns: u64,
    pub(crate) waker: (u32, Option<[u8; 8]>),
    done: Clocks,
    since: Clocks,
    start_ns: u64,
    activations: u64,
    cold: bool,
}

// === impl Span ===

impl Span {
    pub(crate) fn new(name: &'static str, state: &'static str) -> Self {
        let mut trace_id = [0; 16];
        trace_id[..8].copy_from_slice(&fresh_id().to_le_bytes());
        trace_id[8..].copy_from_slice(&fresh_id().rotate_left(17).to_le_bytes());
        Self::published_as(name, state, trace_id, None)
    }

    pub(crate) fn child_of(parent: &Self, name: &'static str, state: &'static str) -> Self {
        let above = &parent.published;
        Self::published_as(name, state, above.trace_id, Some(above.span_id))
    }

    fn published_as(
        name: &'static str,
        state: &'static str,
        trace_id: [u8; 16],
        parent_span_id: Option<[u8; 8]>,
    ) -> Self {
        let published = hotspan_lanes::Span {
            trace_id,
            span_id: fresh_id().to_le_bytes(),
            parent_span_id,
            local_root_span_id: None,
            name: named(name),
            trace_flags: 1,
        };
        let (done, since) = (Clocks::default(), Clocks::default());
        let (waits, intended_wait_ns, waker) = (0, 0, (0, None));
        let (start_ns, activations) = (0, 0);
        Self {
            published,
            name,
            state,
            waits,
            intended_wait_ns,
            waker,
            done,
            since,
            start_ns,
            activations,
            cold: false,
        }
    }

    /// Meant to wait once, this long.
    pub(crate) fn waiting(mut self, ns: u64) -> Self {
        self.waits += 1;
        self.intended_wait_ns += ns;
        self
    }

    pub(crate) fn span_id(&self) -> [u8; 8] {
        self.published.span_id
    }

    pub(crate) fn enter(&mut self) {
        self.cold |= !IS_WARM.replace(true);
        let clocks = Clocks::before();
        self.publish();
        self.begin(clocks);
    }

    pub(crate) fn leave(&mut self) {
        span_clear();
        self.finish(Clocks::after());
    }

    /// From this span to another, without a gap.
    pub(crate) fn change_to(&mut self, other: &mut Self) {
        let clocks = Clocks::before();
        other.publish();
        self.finish(clocks);
        other.begin(clocks);
    }

    /// Runs `work` in the span and keeps its truth.
    pub(crate) fn around(mut self, work: impl FnOnce()) {
        self.enter();
        work();
        self.leave();
        self.keep();
    }

    pub(crate) fn keep(&self) {
        self.keep_as(false);
    }

    /// For a span nobody will close: its truth up to now.
    pub(crate) fn keep_open(&mut self) {
        self.finish(Clocks::after());
        self.keep_as(true);
    }

    fn publish(&self) {
        span_set(&self.published).expect("publishing is on");
    }

    fn begin(&mut self, clocks: Clocks) {
        self.since = clocks;
        if self.activations == 0 {
            self.start_ns = clocks.at;
        }
        self.activations += 1;
    }

    fn finish(&mut self, clocks: Clocks) {
        self.done.at += clocks.at - self.since.at;
        self.done.cpu += clocks.cpu - self.since.cpu;
        self.done.slack += clocks.slack + self.since.slack;
        self.done.switches += clocks.switches - self.since.switches;
        self.since = clocks;
    }

    fn keep_as(&self, open: bool) {
        let parent = self.published.parent_span_id;
        let truth = SpanTruth {
            trace_id: hex(&self.published.trace_id),
            span_id: hex(&self.published.span_id),
            parent_span_id: parent.map(|id| hex(&id)).unwrap_or_default(),
            name: self.name.to_owned(),
            intended_state: self.state.to_owned(),
            wall_ns: self.done.at,
            cpu_ns: self.done.cpu,
            slack_ns: self.done.slack,
            intended_wait_ns: self.intended_wait_ns,
            waits: self.waits,
            switch_ins: self.done.switches,
            activations: self.activations,
            pid: std::process::id(),
            tid: gettid(),
            waker_tid: self.waker.0,
            waker_span_id: self.waker.1.map(|id| hex(&id)).unwrap_or_default(),
            start_ns: self.start_ns,
            end_ns: self.since.at,
            open,
            cold: self.cold,
        };
        lock(&SPANS).push(truth);
    }
}

/// Gives a short-lived thread its lane, so that its next span's truth is exact.
pub(crate) fn warm_up() {
    Span::new("warm-up", "running").around(|| {});
}

/// Names are interned once per call, which is cheap and idempotent.
fn named(name: &str) -> NameId {
    hotspan_lanes::name(name)
}

/// Starts a thread whose whole function is between the clock reads of its own truth.
pub(crate) fn start<F: FnOnce() + Send + 'static>(work: F) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let begun = begin_thread(false);
        work();
        lock(&THREADS).push(end_thread(begun));
    })
}

pub(crate) fn join(thread: JoinHandle<()>) -> Result<()> {
    thread.join().ok().context("a thread of the workload panicked")
}

pub(crate) fn begin_main_thread() {
    MAIN.set(Some(begin_thread(true)));
}

/// A child starts with an empty truth. Only for a process with a single thread.
pub(crate) fn fork() -> Result<libc::pid_t> {
    // No other thread exists, so nobody can hold a lock that the child would wait for.
    // SAFETY: single-threaded by contract, so the child may do everything.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        IS_CHILD.store(1, Ordering::Relaxed);
        lock(&SPANS).clear();
        lock(&THREADS).clear();
        IS_WARM.set(false);
        begin_main_thread();
    }
    if pid < 0 {
        return Err(std::io::Error::last_os_error()).context("fork");
    }
    Ok(pid)
}

/// The main process writes FILE, every other one FILE.PID, so that none waits for another. An exec
/// chain writes one per program.
pub(crate) fn write_truth() -> Result<()> {
    let begun = MAIN.take().context("only the main thread writes the truth")?;
    let main_thread = end_thread(begun);
    let mut threads = std::mem::take(&mut *lock(&THREADS));
    threads.push(main_thread);
    let scenario = options().scenario.clone();
    let pid = std::process::id();
    let mut path = options().truth.clone();
    if IS_CHILD.load(Ordering::Relaxed) != 0 || scenario.starts_with("exec_") {
        let name = path.file_name().context("--truth names a file")?.to_string_lossy();
        path.set_file_name(format!("{name}.{pid}{scenario}"));
    }
    let spans = std::mem::take(&mut *lock(&SPANS));
    Truth { scenario, language: "rust".to_owned(), pid, spans, threads }.write(&path)
}

/// Reads time and account again if the thread lost its CPU between the two.
fn begin_thread(is_main: bool) -> ThreadTruth {
    let (pid, tid) = (std::process::id(), gettid());
    let mut truth = ThreadTruth { pid, tid, is_main, ..ThreadTruth::default() };
    for _ in 0..8 {
        let before = thread_switches();
        truth.delay_at_start_ns = schedstat().1;
        truth.cpu_at_start_ns = thread_cpu_ns();
        truth.start_ns = now_ns();
        if thread_switches() == before {
            break;
        }
    }
    truth
}

fn end_thread(mut truth: ThreadTruth) -> ThreadTruth {
    for _ in 0..8 {
        truth.switch_ins = thread_switches();
        (truth.run_ns, truth.delay_ns) = schedstat();
        truth.cpu_ns = thread_cpu_ns();
        truth.end_ns = now_ns();
        if thread_switches() == truth.switch_ins {
            break;
        }
    }
    truth
}

/// Different for every process, thread and call; never zero.
fn fresh_id() -> u64 {
    let count = IDS.fetch_add(1, Ordering::Relaxed);
    let mut x = u64::from(std::process::id()) << 32 | u64::from(count);
    x = x.wrapping_add(now_ns() << 12).wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x ^ x >> 31) | 1
}

pub(crate) fn gettid() -> u32 {
    // SAFETY: gettid has no preconditions.
    u32::try_from(unsafe { libc::gettid() }).unwrap_or(0)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
