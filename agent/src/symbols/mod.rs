//! Addresses to names, files and lines, on a thread of their own.
//!
//! Reading other people's files can take long and may end in anything, so they are parsed by children
//! (`parser`), and asked for behind a bounded queue. A caller waits for its batch, but never for ever:
//! past its deadline the remaining addresses keep `module+0xoffset`, and they are said to be late: who
//! asks again has their names when they are there. A little later the caller stops waiting for a
//! thread that hangs.

use std::{
    io,
    os::unix::ffi::OsStrExt as _,
    path::Path,
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
use bounds::Bounds;
use module::{Known, Modules, fallback};
use runtimes::NoRuntimes;
pub(crate) use runtimes::Runtimes;

mod bounds;
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
mod opener;
pub(crate) mod parser;
mod perf_map;
mod plt;
mod readable;
mod runtimes;
mod texts;

/// How much longer than its deadline a batch may take before its caller goes on without it.
const GRACE: Duration = Duration::from_millis(500);
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

/// A stack by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// One address may give several, those of kind `inlined` before the function they are inlined into.
    pub frames: Vec<Frame>,
    /// Some of their names may come later.
    pub is_late: bool,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Named,
    Nameless,
    /// Its name may come.
    Late,
}

enum Job {
    Open(Arc<ProcessMap>),
    Resolve { requests: Arc<[Request]>, deadline: Instant, answer: SyncSender<Vec<Resolved>> },
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
        thread::Builder::new().name("hotspan-symbols".into()).spawn(move || {
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

    /// Names every frame, in order: one stack per request. Blocks, until a little after `deadline`.
    pub fn resolve_until(&self, requests: Vec<Request>, deadline: Instant) -> Vec<Resolved> {
        let requests: Arc<[Request]> = requests.into();
        let (answer, answered) = sync_channel(1);
        let job = Job::Resolve { requests: Arc::clone(&requests), deadline, answer };
        let sent = match self.jobs.try_send(job) {
            Ok(()) => true,
            // Only when a thread that hangs has let this many callers down.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        };
        let patience = deadline.saturating_duration_since(Instant::now()) + GRACE;
        let patience = patience.min(self.patience);
        let resolved = if sent { answered.recv_timeout(patience).ok() } else { None };
        resolved.unwrap_or_else(|| {
            self.counters.add(DaemonCounter::SymbolsUnanswered, requests.len() as u64);
            let unresolved = requests.iter().map(|request| {
                let frames = request.frames.iter();
                let frames = frames.map(|&frame| request.placeholder(frame, None)).collect();
                Resolved { frames, is_late: true }
            });
            unresolved.collect()
        })
    }

    /// The same for as long as a batch may take.
    #[cfg(test)]
    pub(crate) fn resolve(&self, requests: Vec<Request>) -> Vec<Vec<Frame>> {
        let deadline = Instant::now() + Bounds::default().batch;
        let resolved = self.resolve_until(requests, deadline).into_iter();
        resolved.map(|resolved| resolved.frames).collect()
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
                modules.end_idle();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        modules.begin_batch();
        match job {
            Job::Open(map) => modules.open_all(&map),
            Job::Resolve { requests, deadline, answer } => {
                let deadline = deadline.min(Instant::now() + modules.batch_time());
                for request in &*requests {
                    request.want(&mut modules, deadline);
                }
                modules.fetch(deadline);
                let resolved = requests.iter().map(|request| {
                    request.resolve(&mut modules, &mut runtimes, counters, deadline)
                });
                // The caller may have lost patience; then nobody needs the frames.
                let _ = answer.send(resolved.collect());
            }
        }
    }
}

// === impl Request ===

impl Request {
    /// Says what is to be asked of files.
    fn want(&self, modules: &mut Modules, deadline: Instant) {
        let Some(map) = &self.map else { return };
        if self.space == Space::Kernel {
            return;
        }
        modules.restore(map);
        for address in self.frames.iter().filter_map(|frame| frame.native()) {
            if Instant::now() >= deadline {
                return;
            }
            let address = Address(address.inside());
            let Some(mapping) = map.lookup(address) else { continue };
            match (&mapping.backing, mapping.file_offset(address)) {
                (Backing::File { path, .. }, _)
                    if is_made(path) && modules.has_jit(map, address) => {}
                (Backing::File { id, path, .. }, Some(offset)) => {
                    modules.want(self.pid, mapping, (*id, path), offset);
                }
                (Backing::Vdso, _) => modules.want_vdso(mapping, address),
                (Backing::File { .. } | Backing::Anonymous, _) => {}
            }
        }
    }

    fn resolve(
        &self,
        modules: &mut Modules,
        runtimes: &mut impl Runtimes,
        counters: &AtomicTally,
        deadline: Instant,
    ) -> Resolved {
        let mut frames = Vec::with_capacity(self.frames.len());
        let mut late = 0;
        for &frame in &self.frames {
            let fate = match frame {
                RawFrame::Native(address) => self.name(address, modules, &mut frames, deadline),
                RawFrame::Runtime(_) if Instant::now() >= deadline => Fate::Late,
                RawFrame::Runtime(frame) => {
                    let named = runtimes.name(self.pid, frame, deadline);
                    named.map(|named| frames.push(named)).into()
                }
            };
            if fate == Fate::Named {
                continue;
            }
            late += u64::from(fate == Fate::Late);
            counters.add(DaemonCounter::SymbolsUnresolved, 1);
            let id = frame.native().and_then(|address| self.file(address));
            frames.push(self.placeholder(frame, id.and_then(|id| modules.id(id))));
        }
        counters.add(DaemonCounter::SymbolsLate, late);
        Resolved { frames, is_late: late > 0 }
    }

    /// The file behind an address.
    fn file(&self, frame: FrameAddress) -> Option<FileId> {
        let map = self.map.as_ref().filter(|_| self.space == Space::User)?;
        match map.lookup(Address(frame.inside()))?.backing {
            Backing::File { id, .. } => Some(id),
            Backing::Vdso | Backing::Anonymous => None,
        }
    }

    /// Adds the frames at this address, if they have names.
    fn name(
        &self,
        frame: FrameAddress,
        modules: &mut Modules,
        frames: &mut Vec<Frame>,
        deadline: Instant,
    ) -> Fate {
        let address = Address(frame.inside());
        if self.space == Space::Kernel {
            return modules.kernel(address).map(|found| frames.extend(found)).into();
        }
        let Some(map) = &self.map else { return Fate::Nameless };
        let is_late = Instant::now() >= deadline;
        let mapping = map.lookup(address);
        match mapping.map(|mapping| (mapping, &mapping.backing)) {
            Some((mapping, Backing::File { id, path, .. })) => {
                // Runtimes that map the code they make twice give it a nameless file.
                if is_made(path)
                    && !is_late
                    && let Some(found) = modules.jit(map, address)
                {
                    frames.push(found);
                    return Fate::Named;
                }
                let Some(offset) = mapping.file_offset(address) else { return Fate::Nameless };
                match modules.at(*id, offset) {
                    Known::Named(found) => {
                        frames.extend(found.iter().cloned());
                        Fate::Named
                    }
                    Known::Nameless => Fate::Nameless,
                    Known::Awaited => Fate::Late,
                }
            }
            Some((mapping, Backing::Vdso)) => match modules.vdso(mapping, address) {
                Some(found) => {
                    frames.push(found);
                    Fate::Named
                }
                None => Fate::Late,
            },
            Some((_, Backing::Anonymous)) | None if is_late => Fate::Late,
            // Code may be younger than the map.
            Some((_, Backing::Anonymous)) | None => {
                modules.jit(map, address).map(|found| frames.push(found)).into()
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

/// Whether a mapped file is one of memory, in which processes make code.
fn is_made(path: &Path) -> bool {
    path.as_os_str().as_bytes().starts_with(b"/memfd:")
}

// === impl Fate ===

impl From<Option<()>> for Fate {
    fn from(named: Option<()>) -> Self {
        named.map_or(Self::Nameless, |()| Self::Named)
    }
}

#[cfg(test)]
mod label_tests;
#[cfg(test)]
mod tests;
