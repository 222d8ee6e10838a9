//! What is known of the files that code was mapped from, within bounds.
//!
//! ```text
//! FileId ─► Module ── file      kept open: neither deletion nor reuse of the inode can mislead us
//!                  ├─ names     found so far
//!                  └─ wanted    asked for in this batch, of a child that parses (`parser`)
//! ```
//! Bounds: modules (open files) and names here; files and bytes of copies in each child. Past one of them
//! what was unused for longest goes.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    bounds::Bounds,
    jit::Jits,
    kernel::KernelNames,
    names::sanitize,
    opener::{Hangs, Opener},
    parser::{
        MAX_OFFSETS,
        lines::{Asked, Lines, Owner, Reply, Told},
    },
    texts::Texts,
};
use crate::{
    ledger::{AtomicTally, DaemonCounter},
    model::{
        frame::{Frame, FrameKind},
        id::{Pid, hex},
    },
    process::{
        file::Version,
        maps::{Address, Backing, Device, FileId, FileOffset, Mapping, ProcessMap},
        vdso,
    },
};

/// Bytes shown of a build id: enough to find the file by.
const SHOWN_ID: usize = 8;

/// The vDSO: no file system has this number.
const VDSO: FileId = FileId { device: Device { major: u32::MAX, minor: u32::MAX }, inode: 0 };

/// One file.
struct Module {
    asked: Asked,
    /// The beginning of its build id, once it was looked at.
    build_id: Option<String>,
    names: HashMap<FileOffset, Arc<[Frame]>>,
    wanted: Vec<FileOffset>,
    is_refused: bool,
    last_use: u64,
    checked_in: u64,
}

/// What is known of a place in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The functions there, innermost first.
    Named(Arc<[Frame]>),
    Nameless,
    /// It is being asked for.
    Awaited,
}

/// All of them.
pub(super) struct Modules {
    bounds: Bounds,
    known: HashMap<FileId, Module>,
    /// Files that could not be opened in this batch.
    absent: HashSet<FileId>,
    /// Those that hang.
    hanging: HashSet<FileId>,
    opener: Option<Opener>,
    lines: Lines,
    texts: Texts,
    kernel: KernelNames,
    /// Ours, which is that of every 64-bit process, and its bytes.
    vdso: Option<(Arc<File>, u64)>,
    jits: Jits,
    counters: Arc<AtomicTally>,
    clock: u64,
    batch: u64,
}

// === impl Modules ===

impl Modules {
    pub(super) fn new(bounds: Bounds, counters: Arc<AtomicTally>) -> Self {
        let vdso = vdso::image().ok();
        let bytes = |file: &File| file.metadata().map_or(0, |meta| meta.len());
        Self {
            bounds,
            known: HashMap::new(),
            absent: HashSet::new(),
            hanging: HashSet::new(),
            opener: Opener::start(Arc::clone(&counters)).ok(),
            lines: Lines::new((bounds.images, bounds.bytes), Arc::clone(&counters)),
            texts: Texts::new(),
            kernel: KernelNames::new(),
            vdso: vdso.map(|file| (bytes(&file), file)).map(|(n, file)| (Arc::new(file), n)),
            jits: Jits::new(Arc::clone(&counters)),
            counters,
            clock: 0,
            batch: 0,
        }
    }

    /// A new batch: files may have appeared or changed since the last, and late names be there.
    pub(super) fn begin_batch(&mut self) {
        self.batch += 1;
        self.absent.clear();
        self.hanging.clear();
        self.jits.begin_batch();
        for told in self.lines.collect() {
            self.take(told);
        }
        self.known.values_mut().for_each(|module| module.wanted.clear());
        self.keep_bounds(None);
    }

    /// How long after a batch there is something to forget.
    pub(super) fn idle_after(&self) -> Duration {
        self.bounds.idle
    }

    /// Ends what is not needed at present.
    pub(super) fn end_idle(&mut self) {
        for told in self.lines.collect() {
            self.take(told);
        }
        self.lines.end_idle();
    }

    /// How long a batch may take.
    pub(super) fn batch_time(&self) -> Duration {
        self.bounds.batch
    }

    /// The kernel function at `address`.
    pub(super) fn kernel(&mut self, address: Address) -> Option<Vec<Frame>> {
        self.kernel.at(address)
    }

    /// The code that a process of its own made at `address`.
    pub(super) fn jit(&mut self, map: &ProcessMap, address: Address) -> Option<Frame> {
        self.jits.at(map, address)
    }

    /// Gives moved text of a process back to its file.
    pub(super) fn restore(&mut self, map: &Arc<ProcessMap>) {
        if let Some(opener) = &mut self.opener {
            opener.restore(map);
        }
    }

    /// Whether a process of its own made code at `address`.
    pub(super) fn has_jit(&mut self, map: &ProcessMap, address: Address) -> bool {
        self.jits.at(map, address).is_some()
    }

    /// The function of the vDSO, mapped as `mapping`, at `address`; none while it is asked for.
    pub(super) fn vdso(&mut self, mapping: &Mapping, address: Address) -> Option<Frame> {
        let offset = FileOffset(address.0.saturating_sub(mapping.start.0));
        let found = match self.at(VDSO, offset) {
            Known::Awaited => return None,
            Known::Named(frames) => frames.last().cloned(),
            Known::Nameless => None,
        };
        Some(match found {
            // On x86-64 each function has a second name without this, and blazesym picks either.
            Some(function) if function.name.starts_with("__") => function,
            Some(function) => Frame::named(format!("__vdso_{}", function.name), FrameKind::Native),
            None => Frame::named(format!("[vdso]+{:#x}", offset.0), FrameKind::Native),
        })
    }

    /// The beginning of the build id of a file that was looked at.
    pub(super) fn id(&self, id: FileId) -> Option<&str> {
        self.known.get(&id)?.build_id.as_deref()
    }

    /// Opens the files of every code mapping while their process lives.
    pub(super) fn open_all(&mut self, map: &Arc<ProcessMap>) {
        self.restore(map);
        self.kernel.prepare();
        for mapping in map.mappings().iter().filter(|mapping| mapping.executable) {
            if let Backing::File { id, path, .. } = &mapping.backing {
                self.open(map.pid(), mapping, *id, path);
            }
        }
        self.jits.note(map);
    }

    /// Notes that the functions at `offset` of the file behind `mapping` are wanted.
    pub(super) fn want(
        &mut self,
        pid: Pid,
        mapping: &Mapping,
        (id, path): (FileId, &Arc<Path>),
        offset: FileOffset,
    ) {
        if self.open(pid, mapping, id, path) {
            self.note(id, offset);
        }
    }

    /// The same of the vDSO. That of a 32-bit process is another.
    pub(super) fn want_vdso(&mut self, mapping: &Mapping, address: Address) {
        let same = mapping.end.0 - mapping.start.0;
        let Some((file, _)) = self.vdso.as_ref().filter(|(_, bytes)| *bytes == same) else {
            return;
        };
        if !self.known.contains_key(&VDSO) {
            let Ok(version) = Version::of(file) else { return };
            let path = Path::new("[vdso]").into();
            let (file, owner) = (Arc::clone(file), Owner(0));
            let asked = Asked { id: VDSO, version, owner, file, path };
            self.known.insert(VDSO, Module::new(asked, self.clock, self.batch));
        }
        self.note(VDSO, FileOffset(address.0.saturating_sub(mapping.start.0)));
    }

    fn note(&mut self, id: FileId, offset: FileOffset) {
        let Some(module) = self.known.get_mut(&id).filter(|module| !module.is_refused) else {
            return;
        };
        if !module.names.contains_key(&offset) && !module.wanted.contains(&offset) {
            module.wanted.push(offset);
        }
    }

    /// Asks for all that is wanted, until `deadline`: of files of root first, which are everybody's.
    pub(super) fn fetch(&mut self, deadline: Instant) {
        let wanted = self.known.iter().filter(|(_, module)| !module.wanted.is_empty());
        let mut wanted: Vec<_> = wanted.map(|(&id, module)| (module.asked.owner, id)).collect();
        wanted.sort_unstable();
        for (_, id) in wanted {
            let Some(module) = self.known.get(&id) else { continue };
            let (asked, offsets) = (module.asked.clone(), module.wanted.clone());
            for offsets in offsets.chunks(MAX_OFFSETS) {
                if Instant::now() >= deadline {
                    return;
                }
                let told = self.lines.ask(&asked, offsets, deadline);
                self.take(told);
            }
        }
    }

    /// Keeps what was told of a file, if it is still known.
    fn take(&mut self, Told { id, reply, build_id }: Told) {
        let Some(module) = self.known.get_mut(&id) else { return };
        if let Some(build_id) = build_id {
            module.build_id = build_id.get(..SHOWN_ID.min(build_id.len())).map(hex);
        }
        match reply {
            Reply::Named(named) => {
                for (offset, frames) in named {
                    let frames = frames.into_iter().map(|frame| Frame {
                        kind: frame.kind(),
                        name: self.texts.sanitize(&frame.name),
                        file: self.texts.sanitize(&frame.file),
                        line: frame.line,
                    });
                    module.names.insert(offset, frames.collect());
                }
            }
            Reply::Refused => {
                module.is_refused = true;
                module.names = HashMap::new();
                self.counters.add(DaemonCounter::SymbolFilesRefused, 1);
            }
            Reply::Shed | Reply::Late => {}
        }
    }

    /// What is known of a place that was wanted.
    pub(super) fn at(&self, id: FileId, offset: FileOffset) -> Known {
        let Some(module) = self.known.get(&id) else {
            // It hangs, or there are more files in one batch than are open: then the first are gone.
            return if self.absent.contains(&id) { Known::Nameless } else { Known::Awaited };
        };
        match module.names.get(&offset) {
            Some(frames) if !frames.is_empty() => Known::Named(Arc::clone(frames)),
            None if module.wanted.contains(&offset) && !module.is_refused => Known::Awaited,
            Some(_) | None => Known::Nameless,
        }
    }

    /// The functions there, asked for at once.
    #[cfg(test)]
    pub(super) fn user(
        &mut self,
        pid: Pid,
        mapping: &Mapping,
        (id, path): (FileId, &Arc<Path>),
        offset: FileOffset,
    ) -> Option<Arc<[Frame]>> {
        self.want(pid, mapping, (id, path), offset);
        self.fetch(Instant::now() + self.bounds.batch);
        match self.at(id, offset) {
            Known::Named(frames) => Some(frames),
            Known::Nameless => None,
            Known::Awaited => panic!("late"),
        }
    }

    /// Makes sure that the file is open and is the version that was read; false if there is none.
    fn open(&mut self, pid: Pid, mapping: &Mapping, id: FileId, path: &Arc<Path>) -> bool {
        if self.absent.contains(&id) || self.hanging.contains(&id) {
            return false;
        }
        self.clock += 1;
        let (clock, batch) = (self.clock, self.batch);
        if let Some(module) = self.known.get_mut(&id) {
            module.last_use = clock;
            if module.checked_in == batch {
                return true;
            }
            module.checked_in = batch;
            let asked = &module.asked;
            if Version::of(&asked.file).is_ok_and(|version| version == asked.version) {
                return true;
            }
            self.forget(id);
        }
        let opened = self.opener.as_mut().map(|opener| opener.open(pid, mapping, id, path));
        let asked = match opened {
            Some(Ok(Some(asked))) => asked,
            Some(Ok(None)) => {
                self.absent.insert(id);
                self.counters.add(DaemonCounter::SymbolFilesAbsent, 1);
                return false;
            }
            Some(Err(Hangs)) | None => {
                self.hanging.insert(id);
                return false;
            }
        };
        self.known.insert(id, Module::new(asked, clock, batch));
        self.keep_bounds(Some(id));
        true
    }

    /// Drops what was unused for longest, but not `current`, until every bound holds.
    fn keep_bounds(&mut self, current: Option<FileId>) {
        loop {
            let names = self.known.values().map(|module| module.names.len()).sum::<usize>();
            let too_many = self.known.len() > self.bounds.modules;
            if !too_many && names <= self.bounds.names {
                return;
            }
            let is_one =
                |id, module: &Module| Some(id) != current && (too_many || !module.names.is_empty());
            let others = self.known.iter().filter(|&(&id, module)| is_one(id, module));
            let oldest = others.min_by_key(|(_, module)| module.last_use).map(|(&id, _)| id);
            let Some(oldest) = oldest else { return };
            self.counters.add(DaemonCounter::SymbolFilesEvicted, 1);
            if too_many {
                self.forget(oldest);
            } else if let Some(module) = self.known.get_mut(&oldest) {
                module.names = HashMap::new();
            }
        }
    }

    fn forget(&mut self, id: FileId) {
        if let Some(module) = self.known.remove(&id) {
            self.lines.forget(module.asked.owner, id);
        }
    }
}

// === impl Module ===

impl Module {
    fn new(asked: Asked, last_use: u64, checked_in: u64) -> Self {
        let (names, wanted) = (HashMap::new(), Vec::new());
        Self { asked, build_id: None, names, wanted, is_refused: false, last_use, checked_in }
    }
}

/// The frame of an address without a name: the file, the position in it, and which build it is.
pub(super) fn fallback(path: &Path, offset: FileOffset, id: Option<&str>) -> Frame {
    let module = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let id = id.map(|id| format!(" [{id}]")).unwrap_or_default();
    Frame::named(format!("{}+{:#x}{id}", sanitize(&module), offset.0), FrameKind::Native)
}

#[cfg(test)]
#[path = "module_tests.rs"]
mod tests;
