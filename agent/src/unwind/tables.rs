//! The kernel side's tables as a whole: placing a file's table in the chunks and taking it out again,
//! a process's slab, and finding rules as the kernel side finds them.

use std::{collections::HashMap, time::Instant};

use agent_ebpf::unwind::{
    Exe, ProcessCode, Rule,
    table::{
        self as shared, BARE, CHUNK_LOG2, CHUNK_WORDS, CODE_WORDS, EXES, MAX_CODE, READY, WANTED,
    },
};

use super::{
    rules::Rules,
    space::{Run, Space, units},
    table::Table,
};
use crate::{
    budget::{Budgets, Owner, Resource},
    kernel::tables::{Tables as Maps, TablesError},
    model::id::{Pid, Uid},
};

/// One mapping of a process, as a slab has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CodeMapping {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Address minus position in the file.
    pub bias: u64,
    /// Which file.
    pub exe: u32,
}

/// Rounds of the daemon, a second at least, in which a table was not used before it is taken out.
const IDLE_ROUNDS: u32 = 50;

/// What is placed.
pub(super) struct Tables {
    maps: Maps,
    space: Space,
    rules: Rules,
    placed: HashMap<u32, Placed>,
    slabs: HashMap<Pid, Slab>,
    /// Mappings in slabs, by file.
    mapped: HashMap<u32, u32>,
    /// Files of the same content as one that is placed.
    aliases: HashMap<u32, Vec<u32>>,
    given: u32,
    free: Vec<u32>,
    budgets: Budgets,
}

struct Placed {
    run: Run,
    /// In whose name it is kept.
    owner: Owner,
    rules: Vec<Rule>,
}

struct Slab {
    run: Run,
    owner: Owner,
    code: Box<[CodeMapping]>,
    /// When its mappings were read, ktime.
    read_at: u64,
}

// === impl Slab ===

impl Slab {
    /// Whether all of its code is still where it was.
    fn is_within(&self, code: &[CodeMapping]) -> bool {
        self.code.iter().all(|mapping| code.contains(mapping))
    }
}

// === impl Tables ===

impl Tables {
    pub(super) fn new(maps: Maps, budgets: Budgets) -> Self {
        Self {
            maps,
            space: Space::new(),
            rules: Rules::new(),
            placed: HashMap::new(),
            slabs: HashMap::new(),
            mapped: HashMap::new(),
            aliases: HashMap::new(),
            given: 0,
            free: Vec::new(),
            budgets,
        }
    }

    /// A number for one more file; `None` when all are given out.
    pub(super) fn new_exe(&mut self) -> Option<u32> {
        let number = self.free.pop().or_else(|| {
            let number = self.given;
            ((number as usize) < EXES).then(|| {
                self.given += 1;
                number
            })
        })?;
        self.set_state(number, WANTED);
        Some(number)
    }

    /// Whether no process's code is of this file.
    pub(super) fn is_unmapped(&self, exe: u32) -> bool {
        !self.mapped.contains_key(&exe)
    }

    /// Takes the number of a file that no process has mapped.
    pub(super) fn give_back(&mut self, exe: u32, now: Instant) {
        self.remove(exe, WANTED, now);
        for others in self.aliases.values_mut() {
            others.retain(|&other| other != exe);
        }
        self.free.push(exe);
    }

    /// A file has the same content as one that is placed: it shares its tables.
    pub(super) fn alias(&mut self, exe: u32, placed: u32) {
        let shared = self.maps.exe(placed);
        self.maps.set_exe(exe, &shared);
        self.aliases.entry(placed).or_default().push(exe);
    }

    /// Says that a file has no tables, or that they are wanted (again).
    pub(super) fn set_state(&mut self, exe: u32, state: u32) {
        self.maps.set_exe(exe, &Exe { state, ..Exe::default() });
    }

    /// `WANTED`, `READY` or `BARE`.
    pub(super) fn state(&self, exe: u32) -> u32 {
        self.maps.exe(exe).state
    }

    /// Places a file's table in the name of `owner`. False when there is no room, or none for it.
    pub(super) fn place(
        &mut self,
        exe: u32,
        table: &Table,
        owner: Owner,
        now: Instant,
    ) -> Result<bool, TablesError> {
        let Some(run) = self.take(table.words(), false, owner, now) else { return Ok(false) };
        let mut global = Vec::with_capacity(table.rules.len());
        let mut used = Vec::with_capacity(table.rules.len());
        for &rule in &table.rules {
            // Without a number left a rule is one that cannot be followed: every table's second.
            let number = self.rules.number(rule).map(|(number, is_new)| {
                if is_new {
                    self.maps.set_rule(number, rule);
                }
                used.push(rule);
                number
            });
            let cannot = global.get(1).copied().unwrap_or(0);
            global.push(number.unwrap_or(cannot));
        }
        let (words, rows) = table.place(run.place, &global);
        self.write(run.place, &words)?;
        self.placed.insert(exe, Placed { run, owner, rules: used });
        let exe_words = Exe {
            base: table.base,
            index: run.place,
            rows,
            buckets: table.index.len() as u32,
            state: READY,
            ..Exe::default()
        };
        self.maps.set_exe(exe, &exe_words);
        Ok(true)
    }

    /// Room for words in the name of `owner`.
    fn take(
        &mut self,
        words: usize,
        in_one_chunk: bool,
        owner: Owner,
        now: Instant,
    ) -> Option<Run> {
        if !self.budgets.try_take(Resource::UnwindUnits, owner, units(words)) {
            self.budgets.shed(Resource::UnwindUnits, owner, units(words));
            return None;
        }
        let run = self.space.take(words, in_one_chunk, now);
        if run.is_none() {
            self.budgets.give(Resource::UnwindUnits, owner, units(words));
            self.budgets.shed(Resource::UnwindUnits, owner, units(words));
        }
        run
    }

    /// Frees what was kept in the name of `owner`.
    fn free(&mut self, run: Run, owner: Owner, now: Instant) {
        self.budgets.give(Resource::UnwindUnits, owner, run.units());
        self.space.free(run, now);
    }

    /// Whether a table of so many words would be refused because of what its user has already.
    pub(super) fn is_over(&self, words: usize, owner: Owner) -> bool {
        self.budgets.room(Resource::UnwindUnits, owner) < units(words)
    }

    /// Takes the table out that was not used for longest, of those of one user or, for none, of the user
    /// that has most: who has little keeps it. False when all of them are in use.
    pub(super) fn evict(&mut self, of: Option<Uid>, now: Instant) -> bool {
        let used: HashMap<u32, u32> =
            self.placed.keys().map(|&exe| (exe, self.last_used(exe))).collect();
        let newest = used.values().copied().max().unwrap_or(0);
        let age = |exe: u32| newest.wrapping_sub(used[&exe]);
        let mut idle: HashMap<Uid, Vec<u32>> = HashMap::new();
        let mut sizes: HashMap<Uid, u64> = HashMap::new();
        for (&exe, placed) in &self.placed {
            *sizes.entry(placed.owner.uid).or_default() += placed.run.units();
            if age(exe) > IDLE_ROUNDS {
                idle.entry(placed.owner.uid).or_default().push(exe);
            }
        }
        let uid = of.or_else(|| idle.keys().copied().max_by_key(|uid| sizes[uid]));
        let oldest = uid.and_then(|uid| idle.remove(&uid)?.into_iter().max_by_key(|&exe| age(exe)));
        let Some(exe) = oldest else { return false };
        self.remove(exe, WANTED, now);
        true
    }

    /// The daemon's round in which a walk came by last, by whatever number.
    fn last_used(&self, exe: u32) -> u32 {
        let others = self.aliases.get(&exe).into_iter().flatten();
        others.chain([&exe]).map(|&exe| self.maps.exe(exe).used).max().unwrap_or(0)
    }

    fn remove(&mut self, exe: u32, state: u32, now: Instant) {
        self.set_state(exe, state);
        for other in self.aliases.remove(&exe).unwrap_or_default() {
            self.set_state(other, state);
        }
        if let Some(placed) = self.placed.remove(&exe) {
            for rule in placed.rules {
                self.rules.release(rule);
            }
            self.free(placed.run, placed.owner, now);
        }
    }

    /// Reports to the kernel side where a process's code is, unless its mappings changed since they were
    /// read at `read_at`.
    pub(super) fn set_slab(
        &mut self,
        pid: Pid,
        code: &[CodeMapping],
        read_at: u64,
        now: Instant,
    ) -> Result<(), TablesError> {
        let incomplete = code.len() > MAX_CODE;
        let code = &code[..code.len().min(MAX_CODE)];
        let words = code.len() * (2 + CODE_WORDS as usize);
        let owner = self.budgets.owner(pid);
        let Some(run) = self.take(words, true, owner, now) else { return Ok(()) };
        let mut slab = Vec::with_capacity(words);
        let long = |value: u64| [value as u32, (value >> 32) as u32];
        slab.extend(code.iter().flat_map(|mapping| long(mapping.start)));
        for mapping in code {
            slab.extend(long(mapping.end));
            slab.extend(long(mapping.bias));
            slab.extend([mapping.exe, 0]);
        }
        self.write(run.place, &slab)?;
        let before = self.maps.process(pid.0).unwrap_or_default();
        // New stacks are other stacks only if the code is other code: growth alone renames nothing.
        let replaced = self.slabs.get(&pid).is_none_or(|slab| !slab.is_within(code));
        self.maps.set_process(
            pid.0,
            ProcessCode {
                slab: run.place,
                count: code.len() as u32,
                generation: before.generation.wrapping_add(u32::from(replaced)),
                flags: if incomplete { shared::INCOMPLETE } else { 0 },
                ..before
            },
        )?;
        for mapping in code {
            *self.mapped.entry(mapping.exe).or_default() += 1;
        }
        self.drop_slab(pid, now);
        self.slabs.insert(pid, Slab { run, owner, code: code.into(), read_at });
        Ok(())
    }

    /// A process's slab is no longer true if it is older than `at`.
    pub(super) fn remapped(&mut self, pid: Pid, at: u64, now: Instant) -> Result<(), TablesError> {
        if self.slabs.get(&pid).is_some_and(|slab| slab.read_at <= at) {
            let before = self.maps.process(pid.0).unwrap_or_default();
            let generation = before.generation.wrapping_add(1);
            self.maps.set_process(pid.0, ProcessCode { generation, ..ProcessCode::default() })?;
            self.drop_slab(pid, now);
        }
        Ok(())
    }

    /// The kernel side sends no copies of a process's stacks.
    pub(super) fn set_unreported(&mut self, pid: Pid) -> Result<(), TablesError> {
        let code = ProcessCode { flags: shared::UNREPORTED, ..ProcessCode::default() };
        self.maps.set_process(pid.0, code)
    }

    /// A process is gone.
    pub(super) fn forget(&mut self, pid: Pid, now: Instant) {
        self.maps.forget_process(pid.0);
        self.drop_slab(pid, now);
    }

    fn drop_slab(&mut self, pid: Pid, now: Instant) {
        if let Some(slab) = self.slabs.remove(&pid) {
            self.free(slab.run, slab.owner, now);
            for mapping in slab.code {
                if let Some(count) = self.mapped.get_mut(&mapping.exe) {
                    *count -= 1;
                    if *count == 0 {
                        self.mapped.remove(&mapping.exe);
                    }
                }
            }
        }
    }

    /// Whether the kernel side knows the process's code: this code, or that of a later time.
    pub(super) fn is_current(&self, pid: Pid, code: &[CodeMapping], read_at: u64) -> bool {
        let slab = self.slabs.get(&pid);
        slab.is_some_and(|slab| slab.read_at > read_at || *slab.code == *code)
            && self.maps.process(pid.0).is_some_and(|code| code.slab != 0)
    }

    /// The rule at a position of a file whose table is placed.
    pub(super) fn rule(&self, exe: u32, position: u64) -> Rule {
        let exe = self.maps.exe(exe);
        if exe.state != READY {
            return Rule::NONE;
        }
        let inside = position.wrapping_sub(exe.base);
        let bucket = inside >> shared::BUCKET_LOG2;
        if bucket >= u64::from(exe.buckets) {
            return Rule::NONE;
        }
        let chunk = |place: u32| self.maps.chunk((place >> CHUNK_LOG2) as usize);
        let at = exe.index + bucket as u32;
        let row = chunk(at).map_or(0, |chunk| shared::index_word(chunk, at));
        let Some(row) = row.checked_sub(1) else { return Rule::NONE };
        let at = exe.rows + row;
        let inside = inside as u32 & ((1 << shared::BUCKET_LOG2) - 1);
        chunk(at).map_or(Rule::NONE, |chunk| {
            self.maps.rule(shared::find_row(chunk, at, inside, shared::at_most))
        })
    }

    /// Bytes in use, and how full the budget is in percent.
    pub(super) fn usage(&self) -> (u64, usize) {
        let used = self.space.used_words();
        (used as u64 * 4, used * 100 / self.space.all_words())
    }

    fn write(&mut self, place: u32, words: &[u32]) -> Result<(), TablesError> {
        let mut place = place as usize;
        let mut rest = words;
        while !rest.is_empty() {
            let (number, inside) = (place / CHUNK_WORDS, place % CHUNK_WORDS);
            self.maps.make_chunk(number)?;
            let len = rest.len().min(CHUNK_WORDS - inside);
            let (now, later) = rest.split_at(len);
            if let Some(chunk) = self.maps.chunk_mut(number) {
                chunk[inside..inside + len].copy_from_slice(now);
            }
            (rest, place) = (later, place + len);
        }
        Ok(())
    }
}

/// Whether a state means that nobody has looked yet.
pub(super) fn is_wanted(state: u32) -> bool {
    state == WANTED
}

/// The state of a file without tables.
pub(super) const NO_TABLES: u32 = BARE;
