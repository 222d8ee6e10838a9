//! Addresses to names, files and lines, on a thread of their own.
//!
//! blazesym's symbolizer cannot leave its thread, and reading other people's files can take long;
//! so the work is done behind a bounded queue. A caller waits for its batch, but never for ever:
//! past a first deadline the remaining addresses of a batch keep `module+0xoffset`, past a second
//! one the caller stops waiting for a thread that hangs in a read.

use std::{
    io,
    os::unix::ffi::OsStrExt as _,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use agent_ebpf::wire::{FrameAddress, RawFrame};

use crate::{
    ledger::{AtomicTally, DaemonCounter},
    model::{
        frame::{Frame, FrameKind},
        id::Pid,
    },
    process::maps::{Address, Backing, FileId, ProcessMap},
};
use module::{Bounds, Modules, fallback};
use runtimes::NoRuntimes;
pub(crate) use runtimes::Runtimes;

mod code_map;
mod debug;
mod elf;
mod expand;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod gopclntab;
mod image;
mod jit;
mod jitdump;
mod kallsyms;
mod kernel;
mod module;
mod names;
mod perf_map;
mod plt;
mod readable;
mod runtimes;
mod texts;

/// Batches waiting. A caller waits for its own, so this is more than there are callers.
const QUEUE: usize = 64;

/// Which half of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// A process's own.
    User,
    /// The kernel's.
    Kernel,
}

/// Frames of one stack.
#[derive(Clone, Debug)]
pub struct Request {
    /// The process's mappings at the time, for user addresses.
    pub map: Option<Arc<ProcessMap>>,
    /// The process.
    pub pid: Pid,
    /// Innermost first.
    pub frames: Vec<RawFrame>,
    /// Whose addresses its native ones have.
    pub space: Space,
}

enum Job {
    Open(Arc<ProcessMap>),
    Resolve { requests: Arc<[Request]>, answer: SyncSender<Vec<Vec<Frame>>> },
}

/// The symbol thread, as its users see it. It ends when this is dropped.
#[derive(Debug)]
pub struct Symbols {
    jobs: SyncSender<Job>,
    /// What could not be had.
    counters: Arc<AtomicTally>,
    patience: Duration,
}

// === impl Symbols ===

impl Symbols {
    /// Starts the thread.
    pub fn spawn() -> io::Result<Self> {
        Self::spawn_with(NoRuntimes)
    }

    /// Starts the thread, with who names frames of runtimes.
    pub fn spawn_with(runtimes: impl Runtimes) -> io::Result<Self> {
        Self::spawn_within(Bounds::default(), runtimes)
    }

    fn spawn_within(bounds: Bounds, runtimes: impl Runtimes) -> io::Result<Self> {
        let (jobs, queue) = sync_channel(QUEUE);
        let counters = Arc::new(AtomicTally::default());
        let worker_counters = Arc::clone(&counters);
        thread::Builder::new()
            .name("hotspan-symbols".into())
            // Debug information is walked recursively.
            .stack_size(16 << 20)
            .spawn(move || {
                let modules = Modules::new(bounds, Arc::clone(&worker_counters));
                serve(&queue, modules, runtimes, &worker_counters);
            })?;
        Ok(Self { jobs, counters, patience: bounds.patience })
    }

    /// Opens the files of a process's code now, so that its addresses keep their names when it has
    /// exited or its files are deleted. Does not wait; false if the queue is full.
    pub fn open_files(&self, map: Arc<ProcessMap>) -> bool {
        self.jobs.try_send(Job::Open(map)).is_ok()
    }

    /// Names every frame, in order: one list per request. One address may give several frames, those of
    /// kind `inlined` before the function they are inlined into. Blocks.
    pub fn resolve(&self, requests: Vec<Request>) -> Vec<Vec<Frame>> {
        let requests: Arc<[Request]> = requests.into();
        let (answer, answered) = sync_channel(1);
        let job = Job::Resolve { requests: Arc::clone(&requests), answer };
        let sent = match self.jobs.try_send(job) {
            Ok(()) => true,
            // Only when a thread that hangs has let this many callers down.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        };
        let frames = if sent { answered.recv_timeout(self.patience).ok() } else { None };
        frames.unwrap_or_else(|| {
            self.counters.add(DaemonCounter::SymbolsUnanswered, requests.len() as u64);
            requests
                .iter()
                .map(|request| {
                    let frames = request.frames.iter();
                    frames.map(|&frame| request.placeholder(frame, None)).collect()
                })
                .collect()
        })
    }

    /// What could not be had so far.
    pub fn counters(&self) -> &AtomicTally {
        &self.counters
    }
}

/// The life of the thread: until every sender is gone.
fn serve(
    queue: &Receiver<Job>,
    mut modules: Modules,
    mut runtimes: impl Runtimes,
    counters: &AtomicTally,
) {
    loop {
        let job = match queue.recv_timeout(modules.idle_after()) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => {
                modules.evict_idle();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        modules.begin_batch();
        match job {
            Job::Open(map) => modules.open_all(&map),
            Job::Resolve { requests, answer } => {
                let deadline = Instant::now() + modules.batch_time();
                let frames = requests.iter().map(|request| {
                    request.resolve(&mut modules, &mut runtimes, counters, deadline)
                });
                // The caller may have lost patience; then nobody needs the frames.
                let _ = answer.send(frames.collect());
            }
        }
    }
}

// === impl Request ===

impl Request {
    fn resolve(
        &self,
        modules: &mut Modules,
        runtimes: &mut impl Runtimes,
        counters: &AtomicTally,
        deadline: Instant,
    ) -> Vec<Frame> {
        if let Some(map) = &self.map {
            map.restore();
        }
        let mut frames = Vec::with_capacity(self.frames.len());
        for &frame in &self.frames {
            let is_late = Instant::now() >= deadline;
            let is_named = match frame {
                _ if is_late => {
                    counters.add(DaemonCounter::SymbolsLate, 1);
                    false
                }
                RawFrame::Native(address) => self.name(address, modules, &mut frames),
                RawFrame::Runtime(frame) => {
                    let named = runtimes.name(self.pid, frame, deadline);
                    named.map(|named| frames.push(named)).is_some()
                }
            };
            if is_named {
                continue;
            }
            counters.add(DaemonCounter::SymbolsUnresolved, 1);
            // Late because reading is slow: then nothing more is read.
            let id = frame.native().filter(|_| !is_late).and_then(|address| self.file(address));
            frames.push(self.placeholder(frame, id.and_then(|id| modules.id(id))));
        }
        frames
    }

    /// The file behind an address.
    fn file(&self, frame: FrameAddress) -> Option<FileId> {
        let map = self.map.as_ref().filter(|_| self.space == Space::User)?;
        match map.lookup(Address(frame.inside()))?.backing {
            Backing::File { id, .. } => Some(id),
            Backing::Vdso | Backing::Anonymous => None,
        }
    }

    /// Adds the frames at this address; false if there is no name for it.
    fn name(&self, frame: FrameAddress, modules: &mut Modules, frames: &mut Vec<Frame>) -> bool {
        let address = Address(frame.inside());
        if self.space == Space::Kernel {
            return modules.kernel(address).map(|found| frames.extend(found)).is_some();
        }
        let Some(map) = &self.map else { return false };
        let mapping = map.lookup(address);
        match mapping.map(|mapping| (mapping, &mapping.backing)) {
            Some((mapping, Backing::File { id, path, .. })) => {
                // Runtimes that map the code they make twice give it a nameless file.
                if path.as_os_str().as_bytes().starts_with(b"/memfd:")
                    && let Some(found) = modules.jit(map, address)
                {
                    frames.push(found);
                    return true;
                }
                mapping
                    .file_offset(address)
                    .and_then(|offset| modules.user(self.pid, mapping, (*id, path), offset))
                    .map(|found| frames.extend(found.iter().cloned()))
                    .is_some()
            }
            Some((mapping, Backing::Vdso)) => {
                frames.push(modules.vdso(mapping, address));
                true
            }
            // Code may be younger than the map.
            Some((_, Backing::Anonymous)) | None => {
                modules.jit(map, address).map(|found| frames.push(found)).is_some()
            }
        }
    }

    /// The frame that has no name. It tells where in its mapping it is and never its address: where
    /// another's code lies (ASLR, KASLR) is nobody's business.
    fn placeholder(&self, frame: RawFrame, id: Option<&str>) -> Frame {
        let address = match frame {
            RawFrame::Native(address) => Address(address.inside()),
            RawFrame::Runtime(frame) => return runtimes::placeholder(frame),
        };
        if self.space == Space::Kernel {
            return Frame::named("[kernel]", FrameKind::Kernel);
        }
        let mapping = self.map.as_ref().and_then(|map| map.lookup(address));
        match mapping.map(|mapping| (mapping, &mapping.backing, mapping.file_offset(address))) {
            Some((_, Backing::File { path, .. }, Some(offset))) => fallback(path, offset, id),
            Some((mapping, _, _)) => {
                let inside = address.0.saturating_sub(mapping.start.0);
                Frame::named(format!("[anonymous]+{inside:#x}"), FrameKind::Native)
            }
            None => Frame::named("[unresolved]", FrameKind::Native),
        }
    }
}

#[cfg(test)]
mod label_tests;
#[cfg(test)]
mod tests;
