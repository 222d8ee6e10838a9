//! The thread that makes tables: which process has which code, which file is known, and what is to be
//! made next.

use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::Receiver,
    },
    time::Instant,
};

use agent_ebpf::{
    unwind::{Rule, Stop},
    wire::FrameAddress,
};

use super::{
    Counters, Job,
    cache::Cache,
    image::{Content, Source},
    tables::{CodeMapping, NO_TABLES, Tables, is_wanted},
    walk::{Process, walk},
};
use crate::{
    budget::{Budgets, Owner, Resource},
    kernel::tables::{Tables as Maps, TablesError},
    ledger::DaemonCounter,
    model::id::Pid,
    process::{
        file::{self, Version},
        maps::{Address, Backing, FileId, Mapping, ProcessMap},
        vdso,
    },
};

/// The budget is kept below this much, so that a new table finds room at once.
const FULL_PERCENT: usize = 85;

/// A file whose code is mapped somewhere.
#[derive(Clone, Copy, Debug)]
struct Known {
    exe: u32,
    version: Option<Version>,
    /// In whose name it has a number.
    owner: Owner,
}

/// What code a mapping shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Origin {
    File(FileId),
    Vdso,
}

/// Files held open for their code.
const MAX_OPENED: usize = 16;

/// The thread's state.
pub(super) struct Worker {
    tables: Tables,
    known: HashMap<Origin, Known>,
    /// Files by what their tables are made of: one table for all that have the same.
    contents: HashMap<Content, u32>,
    /// Files whose code was looked at last.
    opened: HashMap<Origin, File>,
    /// Code that no table can be had for.
    nothing: u32,
    cache: Option<Cache>,
    counters: Arc<Counters>,
    /// Numbers of files that are looked up no more, and are free once no process has them mapped.
    forgotten: Vec<Known>,
    budgets: Budgets,
}

// === impl Worker ===

impl Worker {
    pub(super) fn new(
        maps: Maps,
        cache: Option<PathBuf>,
        counters: Arc<Counters>,
        budgets: Budgets,
    ) -> Self {
        let mut tables = Tables::new(maps, budgets.clone());
        let nothing = tables.new_exe().unwrap_or(0);
        tables.set_state(nothing, NO_TABLES);
        Self {
            tables,
            known: HashMap::new(),
            contents: HashMap::new(),
            opened: HashMap::new(),
            nothing,
            cache: cache.and_then(Cache::open),
            counters,
            forgotten: Vec::new(),
            budgets,
        }
    }

    /// The life of the thread: until every sender is gone.
    pub(super) fn serve(mut self, jobs: &Receiver<Job>, waiting: &AtomicUsize) {
        for job in jobs {
            let result = match job {
                Job::Wanted { map, owner, addresses, copy } => {
                    waiting.fetch_sub(1, Relaxed);
                    self.budgets.give(Resource::UnwindStacks, owner, 1);
                    map.restore();
                    let result = self.adopt(&map);
                    match copy {
                        Some((copy, late)) => {
                            late.set(Some(self.walk(&map, &copy)));
                        }
                        None => self.make_for(&map, &addresses),
                    }
                    result
                }
                Job::Remapped(pid, at) => self.tables.remapped(pid, at, Instant::now()),
                Job::Unreported(pid) => self.tables.set_unreported(pid),
                Job::Gone(pid) => {
                    self.tables.forget(pid, Instant::now());
                    Ok(())
                }
            };
            if let Err(error) = result {
                tracing::warn!(%error, "unwind tables: stacks will be less whole");
            }
            self.counters.bytes.store(self.tables.usage().0, Relaxed);
        }
    }

    /// Reports to the kernel side where the process's code is.
    fn adopt(&mut self, map: &ProcessMap) -> Result<(), TablesError> {
        let mut code = Vec::new();
        // The legacy vsyscall page lies in the kernel's half, where nothing is compared.
        let user = |mapping: &&Mapping| mapping.executable && mapping.end.0 >> 47 == 0;
        for mapping in map.mappings().iter().filter(user) {
            let exe = match origin(mapping) {
                Some(origin) => self.exe(map.pid(), mapping, origin),
                None => self.nothing,
            };
            code.push(CodeMapping {
                start: mapping.start.0,
                end: mapping.end.0,
                bias: mapping.start.0.wrapping_sub(mapping.offset.0),
                exe,
            });
        }
        if self.tables.is_current(map.pid(), &code, map.read_at()) {
            return Ok(());
        }
        self.tables.set_slab(map.pid(), &code, map.read_at(), Instant::now())
    }

    /// The number of the file a mapping shows. One that was written over is another file.
    fn exe(&mut self, pid: Pid, mapping: &Mapping, origin: Origin) -> u32 {
        let version = match origin {
            Origin::File(_) => file::version_mapped(pid, mapping),
            Origin::Vdso => None,
        };
        if let Some(known) = self.known.get(&origin)
            && (version.is_none() || known.version.is_none() || known.version == version)
        {
            return known.exe;
        }
        let owner = self.budgets.owner(pid);
        let exe = self.new_exe(owner).or_else(|| {
            self.forget_unmapped();
            self.new_exe(owner)
        });
        // One whose numbers are all in use has its other code walked by frame pointer.
        let Some(exe) = exe else {
            self.budgets.shed(Resource::UnwindFiles, owner, 1);
            return self.nothing;
        };
        if let Some(before) = self.known.insert(origin, Known { exe, version, owner }) {
            self.forgotten.push(before);
        }
        exe
    }

    fn new_exe(&mut self, owner: Owner) -> Option<u32> {
        let has_room = self.budgets.room(Resource::UnwindFiles, owner) > 0;
        let exe = has_room.then(|| self.tables.new_exe()).flatten()?;
        self.budgets.force(Resource::UnwindFiles, owner, 1);
        Some(exe)
    }

    /// A file is looked up no more: who maps it next asks again.
    fn forget(&mut self, origin: &Origin) {
        self.forgotten.extend(self.known.remove(origin));
    }

    /// Forgets every file that no process has mapped: on a host that builds software there is no end
    /// of them.
    fn forget_unmapped(&mut self) {
        let tables = &mut self.tables;
        let now = Instant::now();
        let mut gone = Vec::new();
        let budgets = &self.budgets;
        let mut stays = |known: &Known| {
            let stays = !tables.is_unmapped(known.exe);
            if !stays {
                budgets.give(Resource::UnwindFiles, known.owner, 1);
                gone.push(known.exe);
            }
            stays
        };
        self.known.retain(|_, known| stays(known));
        self.forgotten.retain(|known| stays(known));
        gone.sort_unstable();
        gone.dedup();
        self.contents.retain(|_, exe| gone.binary_search(exe).is_err());
        for exe in gone {
            tables.give_back(exe, now);
        }
    }

    /// Makes the tables that a walk by frame pointer came by and did not find.
    fn make_for(&mut self, map: &ProcessMap, addresses: &[FrameAddress]) {
        for &address in addresses {
            if let Some(mapping) = map.lookup(Address(address.inside())) {
                self.made(map.pid(), mapping);
            }
        }
    }

    fn walk(&mut self, map: &ProcessMap, copy: &crate::kernel::StackCopy) -> super::late::Walked {
        let walked = walk(copy, InProcess { worker: self, map });
        Counters::add(&self.counters.walked[walked.stop as usize], 1);
        walked
    }

    /// The rule of an address, by tables that are made now if need be.
    fn rule(&mut self, map: &ProcessMap, address: u64) -> Result<Rule, Stop> {
        let Some(mapping) = map.lookup(Address(address)).filter(|mapping| mapping.executable)
        else {
            return if map.is_truncated() { Ok(Rule::NONE) } else { Err(Stop::Code) };
        };
        match (self.made(map.pid(), mapping), mapping.file_offset(Address(address))) {
            (Some(exe), Some(position)) => Ok(self.tables.rule(exe, position.0)),
            _ => Ok(Rule::NONE),
        }
    }

    /// Eight bytes of code: what has no table is recognised by them.
    fn code(&mut self, map: &ProcessMap, address: u64) -> Option<u64> {
        let mapping = map.lookup(Address(address)).filter(|mapping| mapping.executable)?;
        let origin @ Origin::File(id) = origin(mapping)? else { return None };
        let Backing::File { path, .. } = &mapping.backing else { return None };
        if !self.opened.contains_key(&origin) {
            if self.opened.len() >= MAX_OPENED {
                self.opened.clear();
            }
            self.opened.insert(origin, file::open_mapped(map.pid(), mapping, id, path).ok()?);
        }
        let mut bytes = [0; 8];
        let at = mapping.file_offset(Address(address))?;
        self.opened.get(&origin)?.read_exact_at(&mut bytes, at.0).ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    /// The file of a mapping, with its tables made.
    fn made(&mut self, pid: Pid, mapping: &Mapping) -> Option<u32> {
        let origin = origin(mapping)?;
        let exe = match self.known.get(&origin) {
            Some(known) => known.exe,
            None => self.exe(pid, mapping, origin),
        };
        if is_wanted(self.tables.state(exe)) {
            self.make(pid, mapping, origin, exe);
        }
        Some(exe)
    }

    fn make(&mut self, pid: Pid, mapping: &Mapping, origin: Origin, exe: u32) {
        let source = match (origin, &mapping.backing) {
            (Origin::File(id), Backing::File { path, .. }) => {
                let opened = file::open_mapped(pid, mapping, id, path).ok();
                opened.and_then(|file| Source::read(&file, Some(path)).ok())
            }
            _ => vdso::image().ok().and_then(|file| Source::read(&file, None).ok()),
        };
        let Some(source) = source else {
            // A process that is gone took its name with it: whoever maps the file next is asked.
            self.counters.counts.add(DaemonCounter::UnwindFilesRefused, 1);
            self.tables.set_state(exe, NO_TABLES);
            self.forget(&origin);
            return;
        };
        if source.is_empty() {
            Counters::add(&self.counters.files_bare, 1);
            self.tables.set_state(exe, NO_TABLES);
            return;
        }
        let content = source.content();
        if let Some(&same) = self.contents.get(&content)
            && same != exe
            && !is_wanted(self.tables.state(same))
        {
            // The slabs that name this number get the other's places; new ones get the other.
            self.tables.alias(exe, same);
            if let Some(known) = self.known.get_mut(&origin) {
                let its = std::mem::replace(&mut known.exe, same);
                self.budgets.force(Resource::UnwindFiles, known.owner, 1);
                self.forgotten.push(Known { exe: its, ..*known });
            }
            return;
        }
        let cached = self.cache.as_mut().and_then(|cache| cache.get(&content));
        let table = match cached {
            Some(table) => Some(table),
            None => match source.table() {
                Ok(made) => {
                    self.counters
                        .counts
                        .add(DaemonCounter::UnwindEntriesRefused, made.summary.refused);
                    if let (Some(cache), Some(table)) = (&mut self.cache, &made.table) {
                        cache.put(&content, table);
                    }
                    made.table
                }
                Err(error) => {
                    tracing::debug!(%error, ?origin, "no unwind table");
                    self.counters.counts.add(DaemonCounter::UnwindFilesRefused, 1);
                    None
                }
            },
        };
        let Some(table) = table else {
            self.tables.set_state(exe, NO_TABLES);
            return;
        };
        let owner = self.budgets.owner(pid);
        self.make_room(table.words(), owner);
        match self.tables.place(exe, &table, owner, Instant::now()) {
            Ok(true) => {
                Counters::add(&self.counters.files, 1);
                self.contents.insert(content, exe);
            }
            Ok(false) => {
                // Another process that maps the file asks again; by then there may be room.
                self.tables.set_state(exe, NO_TABLES);
                self.forget(&origin);
            }
            Err(error) => {
                tracing::warn!(%error, "a table could not be placed");
                self.tables.set_state(exe, NO_TABLES);
            }
        }
    }

    /// Takes out what was unused for longest: of its own user, while that has too much for `words` more;
    /// of whoever has most, while all is nearly full.
    fn make_room(&mut self, words: usize, owner: Owner) {
        let mut out = 0;
        while out < 16 {
            let of = match self.tables.is_over(words, owner) {
                true => Some(owner.uid),
                false if self.tables.usage().1 >= FULL_PERCENT => None,
                false => break,
            };
            // What is taken out is quarantined before it is free: more would be taken than is needed.
            if !self.tables.evict(of, Instant::now()) {
                break;
            }
            self.counters.counts.add(DaemonCounter::UnwindTablesEvicted, 1);
            out += 1;
        }
    }
}

/// A process as its stacks see it.
struct InProcess<'a> {
    worker: &'a mut Worker,
    map: &'a ProcessMap,
}

impl Process for InProcess<'_> {
    fn rule(&mut self, address: u64) -> Result<Rule, Stop> {
        self.worker.rule(self.map, address)
    }

    fn code(&mut self, address: u64) -> Option<u64> {
        self.worker.code(self.map, address)
    }
}

fn origin(mapping: &Mapping) -> Option<Origin> {
    match mapping.backing {
        Backing::File { id, .. } => Some(Origin::File(id)),
        Backing::Vdso => Some(Origin::Vdso),
        Backing::Anonymous => None,
    }
}
