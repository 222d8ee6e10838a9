//! Which agents stream now: one per kernel (`boot_id`). The same run again takes the place of its
//! older stream, which is half-open; another run is refused.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::sync::watch;

use super::refusal::Refusal;
use crate::model::{
    batch::{Account, OverBudget, Run},
    clock::unix_now_ns,
};

/// The live sessions and what was refused.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<State>);

/// One session, for health.
#[derive(Clone, Debug)]
pub struct SessionStatus {
    /// Whose.
    pub run: Arc<Run>,
    /// From where.
    pub peer: Option<SocketAddr>,
    /// Since when, Unix time.
    pub since_unix_ns: u64,
    /// The last sequence taken from the stream.
    pub last_sequence: u64,
    /// When something was last acknowledged, 0 for never.
    pub last_ack_unix_ns: u64,
    /// Of frames taken.
    pub bytes: u64,
    /// Times the agent was asked for a new epoch.
    pub resets: u64,
    /// Strings cut for their length.
    pub cut_strings: u64,
    /// Who is over its share of the agent's budgets, as of its last batch.
    pub over: Vec<OverBudget>,
}

#[derive(Debug, Default)]
struct State {
    live: HashMap<String, Live>,
    next: u64,
    refusals: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
struct Live {
    number: u64,
    progress: Arc<Progress>,
    superseded: watch::Sender<bool>,
}

/// What a session reports about itself.
#[derive(Debug)]
pub struct Progress {
    pub run: Arc<Run>,
    peer: Option<SocketAddr>,
    since: Instant,
    since_unix_ns: u64,
    pub last_sequence: AtomicU64,
    pub last_ack_unix_ns: AtomicU64,
    pub bytes: AtomicU64,
    pub resets: AtomicU64,
    pub cut_strings: AtomicU64,
    over: Mutex<Vec<OverBudget>>,
}

/// A session's place: given back when dropped.
#[derive(Debug)]
pub struct Claim {
    sessions: Arc<Sessions>,
    number: u64,
    /// What it reports about itself.
    pub progress: Arc<Progress>,
    superseded: watch::Receiver<bool>,
}

// === impl Sessions ===

impl Sessions {
    /// Takes the place of a run's kernel.
    pub fn claim(
        self: &Arc<Self>,
        run: Arc<Run>,
        peer: Option<SocketAddr>,
    ) -> Result<Claim, Refusal> {
        let mut state = self.state();
        if let Some(live) = state.live.get(&run.boot_id) {
            let other = &live.progress;
            if other.run.id != run.id {
                return Err(Refusal::Rival {
                    pid: other.run.pid,
                    version: other.run.version.clone(),
                    since_s: other.since.elapsed().as_secs(),
                });
            }
            live.superseded.send_replace(true);
        }
        state.next += 1;
        let number = state.next;
        let progress = Arc::new(Progress {
            run: run.clone(),
            peer,
            since: Instant::now(),
            since_unix_ns: unix_now_ns(),
            last_sequence: AtomicU64::new(0),
            last_ack_unix_ns: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            cut_strings: AtomicU64::new(0),
            over: Mutex::default(),
        });
        let (sender, superseded) = watch::channel(false);
        let live = Live { number, progress: progress.clone(), superseded: sender };
        state.live.insert(run.boot_id.clone(), live);
        Ok(Claim { sessions: self.clone(), number, progress, superseded })
    }

    /// Counts a refusal.
    pub fn count(&self, reason: &'static str) {
        *self.state().refusals.entry(reason).or_default() += 1;
    }

    /// Refusals by reason.
    pub fn refusals(&self) -> BTreeMap<&'static str, u64> {
        self.state().refusals.clone()
    }

    /// The live sessions, the oldest first.
    pub fn status(&self) -> Vec<SessionStatus> {
        let mut live: Vec<_> = (self.state().live.values())
            .map(|live| (live.number, live.progress.status()))
            .collect();
        live.sort_unstable_by_key(|(number, _)| *number);
        live.into_iter().map(|(_, status)| status).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Progress ===

impl Progress {
    fn status(&self) -> SessionStatus {
        SessionStatus {
            run: self.run.clone(),
            peer: self.peer,
            since_unix_ns: self.since_unix_ns,
            last_sequence: self.last_sequence.load(Relaxed),
            last_ack_unix_ns: self.last_ack_unix_ns.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            resets: self.resets.load(Relaxed),
            cut_strings: self.cut_strings.load(Relaxed),
            over: self.over.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// A batch of it has come.
    pub fn took(&self, account: &Account) {
        // Of a flush in pieces only the last one has the account.
        if *account != Account::default() {
            let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
            over.clone_from(&account.over);
        }
    }
}

// === impl Claim ===

impl Claim {
    /// Returns when a newer stream of the same run has the place.
    pub async fn superseded(&self) {
        // The sender lives until the place is given to another: an error says the same.
        let _ = self.superseded.clone().wait_for(|superseded| *superseded).await;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.sessions.state();
        let boot_id = &self.progress.run.boot_id;
        if state.live.get(boot_id).is_some_and(|live| live.number == self.number) {
            state.live.remove(boot_id);
        }
    }
}
