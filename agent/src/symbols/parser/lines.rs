//! The lines to the children: one for each user whose files are asked about, so that what a user's files
//! do to their child is between the two.
//!
//! ```text
//! ask(file, places) ─► identify ─► [refused?] ─► read ─► [debug file] ─► names ─► Reply
//!        │                 └────────────┬──────────┴───────────┴───────────┘
//!        └ late: goes on, and is       died or hung: again in a fresh child; again: the file is refused
//!          asked after in the next batch
//! ```
//! A child that dies may die of what it read before, so only a file that is alone in it is refused: from
//! then on and for all of that owner's files of the same build. An owner whose files did it thrice gets no
//! names for a minute, then two, and so on; one that had much unpacked or took much CPU time waits until
//! its allowance is there again. Nobody else does.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Parser, Silence,
    wire::{Answer, Named, Question},
};
use crate::{
    ledger::{AtomicTally, DaemonCounter},
    process::{
        debug_file,
        file::{self, Version},
        maps::{FileId, FileOffset},
    },
};
use allowance::Allowance;
use held::Held;
use work::{Step, Work};

mod allowance;
mod held;
mod work;

/// Whose a file is: a user, and what file systems of users say of owners is their own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::symbols) struct Owner(pub(in crate::symbols) u32);

/// Children at once; besides that of root the one unused for longest goes.
const MAX_LINES: usize = 3;
/// A child that takes longer over one file hangs.
const HANGS: Duration = Duration::from_secs(20);
/// A line that was late is waited for this long, until it is seen to be in time again.
const SHORT: Duration = Duration::from_millis(100);
/// After a child could not be started.
const PAUSE: Duration = Duration::from_secs(30);
/// Files refused that are remembered.
const MAX_REFUSED: usize = 4096;
/// A child without questions goes after this when it is larger than that.
const IDLE: (Duration, u64) = (Duration::from_secs(45), 32 << 20);

/// A file that is asked about.
#[derive(Clone, Debug)]
pub(in crate::symbols) struct Asked {
    pub(in crate::symbols) id: FileId,
    pub(in crate::symbols) version: Version,
    pub(in crate::symbols) owner: Owner,
    pub(in crate::symbols) file: Arc<File>,
    /// As it was mapped.
    pub(in crate::symbols) path: Arc<Path>,
}

/// What became of a question.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::symbols) enum Reply {
    /// These.
    Named(Vec<(FileOffset, Vec<Named>)>),
    /// Nothing more is asked about this file.
    Refused,
    /// Not now: its owner's allowance is used up.
    Shed,
    /// It will come.
    Late,
}

/// What became of it, and which build the file was found to be, when that was looked at.
#[derive(Debug)]
pub(in crate::symbols) struct Told {
    pub(in crate::symbols) id: FileId,
    pub(in crate::symbols) reply: Reply,
    pub(in crate::symbols) build_id: Option<Vec<u8>>,
}

/// What a refused file is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Refused {
    Build(Owner, Vec<u8>),
    File(Owner, FileId, Version),
}

/// All lines.
pub(in crate::symbols) struct Lines {
    lines: HashMap<Owner, Line>,
    /// Stays when the line goes.
    allowances: HashMap<Owner, Allowance>,
    refused: HashSet<Refused>,
    /// Files and bytes that one child may hold.
    bounds: (usize, u64),
    counters: Arc<AtomicTally>,
    clock: u64,
    next_key: u32,
}

/// A line, and what is being asked on it.
struct Line {
    parser: Option<Parser>,
    held: Held,
    work: Option<Work>,
    /// The last work was late.
    is_slow: bool,
    /// No child could be started: not before this.
    again: Option<Instant>,
    last_use: (u64, Instant),
}

// === impl Lines ===

impl Lines {
    pub(in crate::symbols) fn new(bounds: (usize, u64), counters: Arc<AtomicTally>) -> Self {
        Self {
            lines: HashMap::new(),
            allowances: HashMap::new(),
            refused: HashSet::new(),
            bounds,
            counters,
            clock: 0,
            next_key: 0,
        }
    }

    /// The functions at some places of a file, waited for until `deadline`.
    pub(in crate::symbols) fn ask(
        &mut self,
        asked: &Asked,
        offsets: &[FileOffset],
        deadline: Instant,
    ) -> Told {
        let owner = asked.owner;
        let told = |reply| Told { id: asked.id, reply, build_id: None };
        self.clock += 1;
        if self.allowances.get(&owner).is_some_and(|allowance| !allowance.is_there()) {
            self.counters.add(DaemonCounter::SymbolFilesShed, 1);
            return told(Reply::Shed);
        }
        self.make_room(owner);
        let line = self.lines.entry(owner).or_insert_with(|| Line::new(self.clock));
        line.last_use = (self.clock, Instant::now());
        if line.work.is_some() {
            // Collected at the begin of the batch, if it was there.
            return told(Reply::Late);
        }
        let now = Instant::now();
        let deadline = if line.is_slow { deadline.min(now + SHORT) } else { deadline };
        line.work = Some(Work::new(asked.clone(), offsets.to_vec()));
        self.go_on(owner, deadline).unwrap_or_else(|| told(Reply::Late))
    }

    /// What was late and is there now, and what hangs.
    pub(in crate::symbols) fn collect(&mut self) -> Vec<Told> {
        let owners: Vec<Owner> = self.lines.keys().copied().collect();
        let collected = owners.into_iter().filter_map(|owner| self.go_on(owner, Instant::now()));
        collected.collect()
    }

    /// A file is not asked about any more.
    pub(in crate::symbols) fn forget(&mut self, owner: Owner, id: FileId) {
        if let Some(line) = self.lines.get_mut(&owner)
            && let Some(key) = line.held.remove(id)
        {
            line.close(key);
        }
    }

    /// Ends large children that nobody asked for a while.
    pub(in crate::symbols) fn end_idle(&mut self) {
        self.lines.retain(|_, line| {
            let is_idle = line.work.is_none() && line.last_use.1.elapsed() > IDLE.0;
            !is_idle || line.parser.as_ref().is_none_or(|parser| parser.memory() < IDLE.1)
        });
    }

    /// Goes on with what a line is asked, until it is done or late.
    fn go_on(&mut self, owner: Owner, deadline: Instant) -> Option<Told> {
        let line = self.lines.get_mut(&owner)?;
        let mut work = line.work.take()?;
        let allowance = self.allowances.entry(owner).or_insert_with(|| Allowance::of(owner));
        let outcome = loop {
            let step = line.step(&mut work, deadline, &self.refused, allowance, &mut self.next_key);
            match step {
                Ok(None) => {}
                Ok(Some(reply)) => break reply,
                // One that computes ends by its own limit, and on a starved host it takes its time.
                Err(Silence::Late) if work.began.elapsed() < HANGS || line.is_running() => {
                    line.is_slow = true;
                    line.work = Some(work);
                    return None;
                }
                // It died or hangs: of this file?
                Err(_) => {
                    if let Some(parser) = line.parser.take() {
                        allowance.take_time(parser.used().saturating_sub(work.used));
                    }
                    line.held.clear();
                    if !work.is_alone {
                        work = Work::new(work.asked, work.offsets);
                        continue;
                    }
                    self.counters.add(DaemonCounter::SymbolParsersLost, 1);
                    allowance.strike();
                    let (uid, path) = (owner.0, work.asked.path.display());
                    tracing::warn!(uid, %path, "a file ended or held up the process that reads it");
                    if self.refused.len() >= MAX_REFUSED {
                        self.refused.clear();
                    }
                    let Work { asked, build_id, .. } = work;
                    self.refused.insert(match build_id {
                        Some(id) => Refused::Build(owner, id),
                        None => Refused::File(owner, asked.id, asked.version),
                    });
                    return Some(Told { id: asked.id, reply: Reply::Refused, build_id: None });
                }
            }
        };
        line.is_slow = false;
        let shed = u64::from(outcome == Reply::Shed);
        self.counters.add(DaemonCounter::SymbolFilesShed, shed);
        if let Some(parser) = &line.parser {
            allowance.take_time(parser.used().saturating_sub(work.used));
        }
        for key in line.held.over(self.bounds, work.asked.id) {
            self.counters.add(DaemonCounter::SymbolFilesEvicted, 1);
            line.close(key);
        }
        Some(Told { id: work.asked.id, reply: outcome, build_id: work.build_id })
    }

    fn make_room(&mut self, owner: Owner) {
        while self.lines.len() >= MAX_LINES && !self.lines.contains_key(&owner) {
            let others = self.lines.iter().filter(|(owner, _)| owner.0 != 0);
            let oldest = others.min_by_key(|(_, line)| line.last_use.0).map(|(&owner, _)| owner);
            let Some(oldest) = oldest else { return };
            self.lines.remove(&oldest);
        }
        // Those of users that are long gone.
        if self.allowances.len() > MAX_REFUSED {
            self.allowances.retain(|_, allowance| !allowance.is_full());
        }
    }

    #[cfg(test)]
    pub(in crate::symbols) fn held(&self) -> impl Iterator<Item = (usize, u64)> {
        self.lines.values().map(|line| line.held.sizes())
    }
}

// === impl Line ===

impl Line {
    fn new(clock: u64) -> Self {
        let last_use = (clock, Instant::now());
        Self {
            parser: None,
            held: Held::default(),
            work: None,
            is_slow: false,
            again: None,
            last_use,
        }
    }

    fn close(&self, key: u32) {
        if let Some(parser) = &self.parser {
            // One that is gone has closed it.
            let _ = parser.ask(&Question::Close { key }, &[]);
        }
    }

    /// Whether there is a child that may be handed files.
    fn is_ready(&mut self, deadline: Instant) -> Result<bool, Silence> {
        if self.again.is_some_and(|again| Instant::now() < again) {
            return Ok(false);
        }
        let mut left = self.parser.take();
        // One that ended between two questions did so on no file's account.
        if left.as_mut().is_some_and(Parser::has_ended) {
            left = None;
            self.held.clear();
        }
        let started = left.map_or_else(Parser::start, Ok);
        let started = started.map(|mut parser| (parser.prepare(deadline), parser));
        let error = match started {
            Ok((Ok(()), parser)) => {
                self.parser = Some(parser);
                return Ok(true);
            }
            Ok((Err(Silence::Late), parser)) => {
                self.parser = Some(parser);
                return Err(Silence::Late);
            }
            Ok((Err(Silence::Dead), _)) => "it cannot give up what it may do (seccomp?)".to_owned(),
            Err(error) => error.to_string(),
        };
        self.again = Some(Instant::now() + PAUSE);
        tracing::warn!(error, "no process to read symbols in: functions of programs have no names");
        Ok(false)
    }

    fn is_running(&self) -> bool {
        self.parser.as_ref().is_some_and(Parser::is_running)
    }

    /// One step: the answer to what was asked, and the next question. A reply ends it.
    fn step(
        &mut self,
        work: &mut Work,
        deadline: Instant,
        refused: &HashSet<Refused>,
        allowance: &mut Allowance,
        next_key: &mut u32,
    ) -> Result<Option<Reply>, Silence> {
        let (id, owner) = (work.asked.id, work.asked.owner);
        if work.step == Step::Begin {
            if !self.is_ready(deadline)? {
                return Ok(Some(Reply::Shed));
            }
            let parser = self.parser.as_mut().ok_or(Silence::Dead)?;
            work.used = parser.used();
            work.is_alone = self.held.is_empty_but(id);
            if let Some(key) = self.held.key(id) {
                work.step = Step::Name;
                let offsets = work.offsets.clone();
                return parser.ask(&Question::Name { key, offsets }, &[]).map(|()| None);
            }
            work.step = Step::Identify;
            return parser.ask(&Question::Identify, &[&work.asked.file]).map(|()| None);
        }
        let parser = self.parser.as_mut().ok_or(Silence::Dead)?;
        let answer = parser.answer(deadline)?;
        match (work.step, answer) {
            (Step::Identify, Answer::Identity { build_id, link }) => {
                let known = build_id.clone().map(|id| Refused::Build(owner, id));
                let file = Refused::File(owner, id, work.asked.version);
                if known.is_some_and(|known| refused.contains(&known)) || refused.contains(&file) {
                    return Ok(Some(Reply::Refused));
                }
                let (file, path) = (&*work.asked.file, &*work.asked.path);
                let debug = debug_file::find(build_id.as_deref(), link.as_ref(), file, path);
                work.debug = debug.and_then(|path| File::open(path).ok());
                work.build_id = build_id;
                *next_key = next_key.wrapping_add(1);
                let Ok(copy) = file::nameless() else { return Ok(Some(Reply::Shed)) };
                work.ask_to_read(parser, *next_key, copy)?;
            }
            (Step::Read(key), Answer::Read) => {
                let bytes = work.copied(allowance);
                self.held.add(id, key, bytes);
                match (work.debug.is_some(), file::nameless()) {
                    (true, Ok(copy)) => work.ask_to_read_debug(parser, key, copy)?,
                    _ => work.ask_names(parser, key)?,
                }
            }
            (Step::Debug(key), Answer::Read) => {
                let bytes = work.copied(allowance);
                self.held.grow(id, bytes);
                work.ask_names(parser, key)?;
            }
            (Step::Read(_), Answer::Refused) => return Ok(Some(Reply::Refused)),
            (Step::Name, Answer::Refused) => {
                if let Some(key) = self.held.remove(id) {
                    self.close(key);
                }
                return Ok(Some(Reply::Refused));
            }
            (Step::Name, Answer::Frames(frames)) => {
                let Some(&offset) = work.offsets.get(work.named.len()) else {
                    return Err(Silence::Dead);
                };
                work.named.push((offset, frames));
            }
            _ => return Err(Silence::Dead),
        }
        let is_done = work.step == Step::Name && work.named.len() == work.offsets.len();
        Ok(is_done.then(|| Reply::Named(std::mem::take(&mut work.named))))
    }
}
