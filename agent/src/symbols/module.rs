//! What is known of the files that code was mapped from, within bounds.
//!
//! ```text
//! FileId ─► Module ── file      kept open: neither deletion nor reuse of the inode can mislead us
//!                  └─ content ─► Unread ─► Ready(Image: private copy, names found so far)
//!                                       └► Refused
//! ```
//! Bounds: modules (open files), bytes of copies, and names. Past one of them the modules unused
//! for longest go, with all blazesym holds for them.

use std::{
    cell::OnceCell,
    collections::{HashMap, HashSet},
    fs::File,
    path::Path,
    sync::Arc,
    time::Duration,
};

use super::{
    image::Image,
    jit::Jits,
    kernel::KernelNames,
    names::{Broken, Names, sanitize},
};
use crate::{
    ledger::{AtomicTally, DaemonCounter},
    model::{
        frame::{Frame, FrameKind},
        id::{Pid, hex},
    },
    process::{
        descriptors,
        elf::{Header, build_id},
        file::{self, Version},
        maps::{Address, Backing, FileId, FileOffset, Mapping, ProcessMap},
        vdso,
    },
};

/// Upper bounds of what is kept, and of how long it may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Files held open.
    pub(super) modules: usize,
    /// Files with a private copy and parsed tables.
    pub(super) images: usize,
    /// Bytes of these copies.
    pub(super) bytes: u64,
    /// Addresses with known names.
    pub(super) names: usize,
    /// What is parsed of a file goes when it was not needed for so long, at first.
    pub(super) idle: Duration,
    /// After this, the remaining addresses of a batch stay without a name.
    pub(super) batch: Duration,
    /// After this, a caller goes on without an answer.
    pub(super) patience: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        // A small limit of open files is shared with everything else.
        let files = usize::try_from(descriptors::limit()).unwrap_or(usize::MAX);
        Self {
            modules: 256.min(files / 4),
            images: 48.min(files / 16),
            bytes: file::MAX_FILE_BYTES,
            names: 65_536,
            idle: Duration::from_secs(10),
            batch: Duration::from_secs(20),
            patience: Duration::from_secs(60),
        }
    }
}

/// Bytes shown of a build id: enough to find the file by.
const SHOWN_ID: usize = 8;

/// One file.
struct Module {
    file: File,
    /// The beginning of its build id, once it was asked for.
    id: OnceCell<Option<String>>,
    version: Version,
    content: Content,
    last_use: u64,
    checked_in: u64,
}

enum Content {
    Unread,
    Ready(Box<Image>),
    Refused,
}

/// All of them, with the parser that reads them.
pub(super) struct Modules {
    bounds: Bounds,
    known: HashMap<FileId, Module>,
    /// Files that could not be opened in this batch.
    absent: HashSet<FileId>,
    names: Names,
    kernel: KernelNames,
    /// Ours, which is that of every 64-bit process.
    vdso: Option<Image>,
    jits: Jits,
    counters: Arc<AtomicTally>,
    clock: u64,
    batch: u64,
}

// === impl Modules ===

impl Modules {
    pub(super) fn new(bounds: Bounds, counters: Arc<AtomicTally>) -> Self {
        Self {
            bounds,
            known: HashMap::new(),
            absent: HashSet::new(),
            names: Names::new(),
            kernel: KernelNames::new(),
            vdso: vdso::image().ok().and_then(Image::of_own),
            jits: Jits::new(Arc::clone(&counters)),
            counters,
            clock: 0,
            batch: 0,
        }
    }

    /// A new batch: files may have appeared or changed since the last.
    pub(super) fn begin_batch(&mut self) {
        self.batch += 1;
        self.absent.clear();
        self.jits.begin_batch();
        self.evict_idle();
    }

    /// How long after a batch there is something to forget.
    pub(super) fn idle_after(&self) -> Duration {
        self.bounds.idle
    }

    /// Forgets what was parsed and is not needed at present.
    pub(super) fn evict_idle(&mut self) {
        for module in self.known.values_mut() {
            if let Content::Ready(image) = &mut module.content {
                image.evict_idle(&mut self.names, self.bounds.idle);
            }
        }
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

    /// The function of the vDSO, mapped as `mapping`, at `address`.
    pub(super) fn vdso(&mut self, mapping: &Mapping, address: Address) -> Frame {
        let offset = FileOffset(address.0.saturating_sub(mapping.start.0));
        let bytes = mapping.end.0 - mapping.start.0;
        // That of a 32-bit process is another.
        let image = self.vdso.as_mut().filter(|image| image.bytes == bytes);
        let found = image.map_or(Ok(None), |image| image.frames(&mut self.names, offset));
        if found.is_err() {
            self.vdso = None;
        }
        match found.ok().flatten().as_deref() {
            // On x86-64 each function has a second name without this, and blazesym picks either.
            Some([.., function]) if function.name.starts_with("__") => function.clone(),
            Some([.., function]) => {
                Frame::named(format!("__vdso_{}", function.name), FrameKind::Native)
            }
            _ => Frame::named(format!("[vdso]+{:#x}", offset.0), FrameKind::Native),
        }
    }

    /// The beginning of the build id of a file that is open.
    pub(super) fn id(&self, id: FileId) -> Option<&str> {
        let module = self.known.get(&id)?;
        module.id.get_or_init(|| shown_id(&module.file)).as_deref()
    }

    /// Opens the files of every code mapping while their process lives.
    pub(super) fn open_all(&mut self, map: &ProcessMap) {
        map.restore();
        self.kernel.prepare();
        for mapping in map.mappings().iter().filter(|mapping| mapping.executable) {
            if let Backing::File { id, path, .. } = &mapping.backing {
                self.open(map.pid(), mapping, *id, path);
            }
        }
        self.jits.note(map);
    }

    /// The functions at `offset` of the file behind `mapping`, innermost first.
    pub(super) fn user(
        &mut self,
        pid: Pid,
        mapping: &Mapping,
        (id, path): (FileId, &Path),
        offset: FileOffset,
    ) -> Option<Arc<[Frame]>> {
        if !self.open(pid, mapping, id, path) {
            return None;
        }
        self.read(id, path);
        let module = self.known.get_mut(&id)?;
        let Content::Ready(image) = &mut module.content else {
            return None;
        };
        match image.frames(&mut self.names, offset) {
            Ok(frames) => {
                self.keep_bounds(id);
                frames
            }
            Err(Broken) => {
                module.content = Content::Refused;
                self.counters.add(DaemonCounter::SymbolFilesRefused, 1);
                None
            }
        }
    }

    /// Makes sure that the file is open and is the version that was read; false if there is none.
    fn open(&mut self, pid: Pid, mapping: &Mapping, id: FileId, path: &Path) -> bool {
        if self.absent.contains(&id) {
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
            if Version::of(&module.file).is_ok_and(|version| version == module.version) {
                return true;
            }
            self.forget(id);
        }
        let opened = file::open_mapped(pid, mapping, id, path);
        let Some((file, version)) = opened.ok().and_then(|file| {
            let version = Version::of(&file).ok()?;
            Some((file, version))
        }) else {
            self.absent.insert(id);
            self.counters.add(DaemonCounter::SymbolFilesAbsent, 1);
            return false;
        };
        let (content, last_use, checked_in) = (Content::Unread, clock, batch);
        let module = Module { file, id: OnceCell::new(), version, content, last_use, checked_in };
        self.known.insert(id, module);
        self.keep_bounds(id);
        true
    }

    /// Copies and parses the file, once.
    fn read(&mut self, id: FileId, path: &Path) {
        let Some(module) = self.known.get_mut(&id) else {
            return;
        };
        if !matches!(module.content, Content::Unread) {
            return;
        }
        module.content = match Image::read(&module.file, path) {
            Some(image) => Content::Ready(Box::new(image)),
            None => {
                self.counters.add(DaemonCounter::SymbolFilesRefused, 1);
                Content::Refused
            }
        };
        self.keep_bounds(id);
    }

    /// Drops what was unused for longest until every bound holds. `current` is being asked about:
    /// it stays, but when it alone holds too many names, these go.
    fn keep_bounds(&mut self, current: FileId) {
        loop {
            let images = || self.known.values().filter_map(Module::image);
            let too_many_modules = self.known.len() > self.bounds.modules;
            let over = too_many_modules
                || images().count() > self.bounds.images
                || images().map(|image| image.bytes).sum::<u64>() > self.bounds.bytes
                || images().map(|image| image.names.len()).sum::<usize>() > self.bounds.names;
            if !over {
                return;
            }
            let oldest = self
                .known
                .iter()
                .filter(|&(&id, module)| {
                    id != current && (too_many_modules || module.image().is_some())
                })
                .min_by_key(|(_, module)| module.last_use)
                .map(|(&id, _)| id);
            self.counters.add(DaemonCounter::SymbolFilesEvicted, 1);
            match oldest {
                Some(oldest) if too_many_modules => self.forget(oldest),
                Some(oldest) => self.unread(oldest),
                None => {
                    // One file may reach at most one bound by itself: that of names.
                    if let Some(Content::Ready(image)) =
                        self.known.get_mut(&current).map(|module| &mut module.content)
                    {
                        image.names = HashMap::new();
                    }
                    return;
                }
            }
        }
    }

    fn forget(&mut self, id: FileId) {
        self.unread(id);
        self.known.remove(&id);
    }

    /// Drops the copy of a file and what was parsed of it; the file stays open.
    fn unread(&mut self, id: FileId) {
        let Some(module) = self.known.get_mut(&id) else {
            return;
        };
        let Some(image) = module.image() else { return };
        // Before the descriptor closes and its number, hence the path, is used again.
        image.evict(&mut self.names);
        module.content = Content::Unread;
    }
}

// === impl Module ===

impl Module {
    fn image(&self) -> Option<&Image> {
        match &self.content {
            Content::Ready(image) => Some(image),
            Content::Unread | Content::Refused => None,
        }
    }
}

fn shown_id(file: &File) -> Option<String> {
    let header = Header::read(file).ok()?;
    let segments = header.segments(file).ok()?;
    // A stripped file may have no sections, or none that can be read.
    let id = build_id(file, &segments, &header.sections(file).unwrap_or_default())?;
    id.get(..SHOWN_ID.min(id.len())).map(hex)
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
