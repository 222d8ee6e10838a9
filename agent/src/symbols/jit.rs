//! Names of code that processes make as they run, from the files in which their compilers tell of it:
//! a jitdump that the process maps, and its perf map.
//!
//! Whoever may write these files chooses names, and nothing else: they are opened below the process's
//! own root without following links, must be regular files of the process's own user (root's only for
//! processes of root), no older than the process, and are read within bounds. What was read is kept when the process has ended.

use std::{
    collections::HashMap,
    fs::{self, File, Metadata},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{code_map::CodeMap, jitdump::JitDump, perf_map::PerfMap};
use crate::{
    ledger::{AtomicTally, DaemonCounter},
    model::{
        frame::{Frame, FrameKind},
        id::Pid,
    },
    process::{
        file,
        maps::{Address, Backing, FileId, Mapping, ProcessMap},
        procfs::{self, Stat},
    },
};

/// Processes remembered, with or without such code.
const MAX_PROCESSES: usize = 128;
/// What is kept of all of them together, see [`CodeMap::bytes`].
const MAX_BYTES: usize = 128 << 20;
/// jitdumps of one process.
const MAX_DUMPS: usize = 4;
/// How much older than its process a file may seem: clocks of file systems tick.
const SLACK: Duration = Duration::from_secs(2);
/// Ticks of `/proc/PID/stat` (`USER_HZ`, 100 on every 64-bit architecture).
const TICKS: u64 = 100;

/// Whom the files of a process may belong to, and where they are.
#[derive(Debug)]
struct Owner {
    /// Since boot, in ticks; tells processes of one id apart.
    started: u64,
    /// The same as a time of files.
    since: SystemTime,
    /// Its id in its own namespace.
    inner: u32,
    /// The user that its files belong to.
    user: u32,
}

/// What one process recorded.
#[derive(Debug)]
struct Process {
    owner: Owner,
    map: Option<PerfMap>,
    mapped: CodeMap,
    dumps: HashMap<FileId, JitDump>,
    dumped: CodeMap,
    /// The loss was counted.
    is_cut: bool,
    last_use: u64,
    checked_in: u64,
}

/// All of them.
pub(super) struct Jits {
    processes: HashMap<Pid, Process>,
    counters: Arc<AtomicTally>,
    clock: u64,
    batch: u64,
}

// === impl Jits ===

impl Jits {
    pub(super) fn new(counters: Arc<AtomicTally>) -> Self {
        Self { processes: HashMap::new(), counters, clock: 0, batch: 0 }
    }

    /// A new batch: there may be more code.
    pub(super) fn begin_batch(&mut self) {
        self.batch += 1;
    }

    /// Reads what there is of a process that runs code of no file, while it lives.
    pub(super) fn note(&mut self, map: &ProcessMap) {
        let has_code = |mapping: &Mapping| match &mapping.backing {
            Backing::Anonymous => mapping.executable && mapping.start.0 < 1 << 63,
            Backing::File { path, .. } => mapping.executable && is_dump(path),
            Backing::Vdso => false,
        };
        if map.mappings().iter().any(has_code) {
            self.update(map);
        }
    }

    /// The code at `address`.
    pub(super) fn at(&mut self, map: &ProcessMap, address: Address) -> Option<Frame> {
        self.update(map);
        let process = self.processes.get(&map.pid())?;
        let (name, line) = process.dumped.at(address.0).or_else(|| process.mapped.at(address.0))?;
        Some(Frame {
            name: Arc::clone(name),
            file: line.map(|line| Arc::clone(&line.file)).unwrap_or_default(),
            line: line.map_or(0, |line| line.line),
            kind: FrameKind::Native,
        })
    }

    /// Reads on, once a batch.
    fn update(&mut self, map: &ProcessMap) {
        let pid = map.pid();
        self.clock += 1;
        let (clock, batch) = (self.clock, self.batch);
        if let Some(process) = self.processes.get_mut(&pid) {
            process.last_use = clock;
            if process.checked_in == batch {
                return;
            }
            process.checked_in = batch;
        }
        let started = Stat::read(pid).map(|stat| stat.started);
        if let Some(started) = started
            && self.processes.get(&pid).is_none_or(|process| process.owner.started != started)
        {
            let Some(owner) = Owner::of(pid, started) else { return };
            self.processes.insert(pid, Process::new(owner, clock, batch));
        }
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if started.is_some() {
            let root = procfs::ask(pid, |folder| file::open_root(&folder.join("root")));
            let _ = root.map(|root| process.open_map(&root));
        }
        // A dead process has nothing more to tell but what these files hold.
        process.open_dumps(map);
        process.read();
        if process.is_over() && !process.is_cut {
            process.is_cut = true;
            self.counters.add(DaemonCounter::SymbolJitsCut, 1);
        }
        self.keep_bounds(pid);
    }

    fn keep_bounds(&mut self, current: Pid) {
        loop {
            let bytes: usize = self.processes.values().map(Process::bytes).sum();
            if self.processes.len() <= MAX_PROCESSES && bytes <= MAX_BYTES {
                return;
            }
            let others = self.processes.iter().filter(|&(&pid, _)| pid != current);
            let Some((&oldest, _)) = others.min_by_key(|(_, process)| process.last_use) else {
                return;
            };
            self.processes.remove(&oldest);
        }
    }
}

// === impl Process ===

impl Process {
    fn new(owner: Owner, last_use: u64, checked_in: u64) -> Self {
        Self {
            owner,
            map: None,
            mapped: CodeMap::default(),
            dumps: HashMap::new(),
            dumped: CodeMap::default(),
            is_cut: false,
            last_use,
            checked_in,
        }
    }

    /// Its perf map, below its `root`.
    fn open_map(&mut self, root: &File) {
        let path = PathBuf::from(format!("/tmp/perf-{}.map", self.owner.inner));
        let Ok(file) = file::open_own(root, &path, |meta| self.owner.accepts(meta)) else { return };
        let id = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
        if self.map.as_ref().is_none_or(|map| id(map.file()) != id(&file)) {
            self.mapped = CodeMap::default();
            self.map = Some(PerfMap::new(file));
        }
    }

    fn open_dumps(&mut self, map: &ProcessMap) {
        for mapping in map.mappings().iter().filter(|mapping| mapping.executable) {
            let Backing::File { id, path, .. } = &mapping.backing else { continue };
            if !is_dump(path) || self.dumps.contains_key(id) || self.dumps.len() >= MAX_DUMPS {
                continue;
            }
            let opened = file::open_mapped(map.pid(), mapping, *id, path);
            let accepted =
                |file: &File| file.metadata().is_ok_and(|meta| self.owner.accepts(&meta));
            if let Some(file) = opened.ok().filter(accepted) {
                self.dumps.insert(*id, JitDump::new(file));
            }
        }
    }

    /// What could be read stays; a file that fails now may be read on later.
    fn read(&mut self) {
        for dump in self.dumps.values_mut() {
            let _ = dump.update(&mut self.dumped);
        }
        if let Some(map) = &mut self.map {
            let _ = map.update(&mut self.mapped);
        }
    }

    fn is_over(&self) -> bool {
        self.mapped.is_cut()
            || self.dumped.is_cut()
            || self.map.as_ref().is_some_and(PerfMap::is_cut)
            || self.dumps.values().any(JitDump::is_cut)
    }

    fn bytes(&self) -> usize {
        self.mapped.bytes() + self.dumped.bytes()
    }
}

// === impl Owner ===

impl Owner {
    fn of(pid: Pid, started: u64) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let number = |key: &str, column: fn(&str) -> Option<&str>| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            column(line)?.parse().ok()
        };
        let inner = number("NSpid:", |line| line.split_whitespace().next_back())?;
        // The last of four is that of files.
        let user = number("Uid:", |line| line.split_whitespace().nth(3))?;
        let uptime = fs::read_to_string("/proc/uptime").ok()?;
        let uptime: f64 = uptime.split(' ').next()?.parse().ok()?;
        let age = uptime - started as f64 / TICKS as f64;
        let age = Duration::try_from_secs_f64(age.max(0.0)).ok()?;
        let since = SystemTime::now().checked_sub(age)?;
        Some(Self { started, since, inner, user })
    }

    /// Whether a file can be of this process.
    fn accepts(&self, meta: &Metadata) -> bool {
        let is_fresh = meta.modified().is_ok_and(|modified| modified + SLACK >= self.since);
        // Not root's, but for processes of root: what root wrote may be no map, and not for everybody.
        meta.is_file() && is_fresh && meta.uid() == self.user
    }
}

/// Whether a mapped file is named like a jitdump: `jit-PID.dump`.
fn is_dump(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix("jit-")
        .and_then(|rest| rest.strip_suffix(".dump"))
        .is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
#[path = "jit_tests.rs"]
mod tests;
