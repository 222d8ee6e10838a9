//! The thread that owns the store: group commit, acknowledgements only after it.
//!
//! ```text
//!  sessions ──submit──► inbox ──► held ──group──► Sink::append ──► acknowledgements, budget back
//! ```
//! Invariants: what a session submits is appended in order, once; nothing is acknowledged before
//! `append` has returned; a store that is full or fails loses nothing, it makes sessions wait, for
//! each entry holds its share of the collector's budget until it is durable.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use crate::{
    model::id::RunId,
    store::{Entry, Sink, SinkError},
};

/// What one append takes at most, by estimate.
const GROUP_BYTES: usize = 8 << 20;
/// How often a store that is full or failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often the store may tidy up.
const MAINTAIN: Duration = Duration::from_secs(10);
/// A pause this long is a good moment to.
const IDLE: Duration = Duration::from_secs(1);

/// Where sessions submit.
#[derive(Clone, Debug)]
pub struct Writer {
    inbox: mpsc::Sender<Message>,
    status: Arc<Shared>,
}

/// What a session has back so far, cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acked {
    /// Durable up to here.
    pub sequence: u64,
    /// Bytes of frames that are no longer on their way.
    pub bytes: u64,
}

/// An entry on its way to the store.
#[derive(Debug)]
pub struct Submission {
    /// What to store.
    pub entry: Entry,
    /// Size of its frame.
    pub frame_bytes: u64,
    /// Its heap, by estimate.
    pub heap_bytes: usize,
    /// Whom to tell.
    pub acks: Arc<watch::Sender<Acked>>,
    /// Its share of the budget.
    pub budget: Option<OwnedSemaphorePermit>,
}

/// How the writer is.
#[derive(Clone, Debug, Default)]
pub struct WriterStatus {
    /// Entries that are not durable yet.
    pub queued_entries: u64,
    /// Their heap, by estimate.
    pub queued_bytes: u64,
    /// The most it ever was.
    pub queued_bytes_peak: u64,
    /// Entries appended.
    pub appended: u64,
    /// The store has no room.
    pub full: Option<String>,
    /// The store fails for another reason.
    pub failing: Option<String>,
}

#[derive(Debug)]
enum Message {
    Append(Box<Submission>),
    Durable { run: RunId, reply: oneshot::Sender<u64> },
    Stop,
}

#[derive(Debug, Default)]
struct Shared {
    queued_entries: AtomicU64,
    queued_bytes: AtomicU64,
    queued_bytes_peak: AtomicU64,
    appended: AtomicU64,
    trouble: Mutex<Option<SinkError>>,
}

/// The writer's thread is gone.
#[derive(Debug)]
pub struct Gone;

// === impl Writer ===

impl Writer {
    /// Starts the thread.
    pub fn start<S: Sink>(sink: S) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (sender, inbox) = mpsc::channel();
        let status = Arc::new(Shared::default());
        let mut thread = Thread {
            sink,
            inbox,
            status: status.clone(),
            held: VecDeque::new(),
            group: Group::default(),
            accepted: HashMap::new(),
            stopping: false,
        };
        let handle = std::thread::Builder::new()
            .name("collector-write".into())
            .spawn(move || thread.run())?;
        Ok((Self { inbox: sender, status }, handle))
    }

    /// Hands an entry over. Never blocks: the budget bounds what waits.
    pub fn submit(&self, submission: Submission) -> Result<(), Gone> {
        let status = &self.status;
        let bytes = submission.heap_bytes as u64;
        status.queued_entries.fetch_add(1, Relaxed);
        let queued = status.queued_bytes.fetch_add(bytes, Relaxed) + bytes;
        status.queued_bytes_peak.fetch_max(queued, Relaxed);
        self.inbox.send(Message::Append(Box::new(submission))).map_err(|_| Gone)
    }

    /// What is durable of a run.
    pub async fn durable(&self, run: RunId) -> Result<u64, Gone> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(Message::Durable { run, reply }).map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Asks the thread to end after what was submitted.
    pub fn stop(&self) {
        // One that is gone has ended.
        let _ = self.inbox.send(Message::Stop);
    }

    /// For health.
    pub fn status(&self) -> WriterStatus {
        let status = &self.status;
        let trouble = status.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (full, failing) = match trouble {
            Some(SinkError::Full(message)) => (Some(message), None),
            Some(SinkError::Other(message)) => (None, Some(message)),
            None => (None, None),
        };
        WriterStatus {
            queued_entries: status.queued_entries.load(Relaxed),
            queued_bytes: status.queued_bytes.load(Relaxed),
            queued_bytes_peak: status.queued_bytes_peak.load(Relaxed),
            appended: status.appended.load(Relaxed),
            full,
            failing,
        }
    }
}

/// The thread's own.
struct Thread<S> {
    sink: S,
    inbox: mpsc::Receiver<Message>,
    status: Arc<Shared>,
    held: VecDeque<Submission>,
    /// What the next append takes; kept until it succeeds.
    group: Group,
    /// The last sequence taken of each run that is not durable yet: a stream that supersedes another
    /// sends again what the older one had submitted.
    accepted: HashMap<RunId, u64>,
    stopping: bool,
}

#[derive(Default)]
struct Group {
    entries: Vec<Entry>,
    receipts: Vec<Receipt>,
    heap_bytes: usize,
    retry_at: Option<Instant>,
}

struct Receipt {
    sequence: u64,
    frame_bytes: u64,
    acks: Arc<watch::Sender<Acked>>,
    _budget: Option<OwnedSemaphorePermit>,
}

// === impl Thread ===

impl<S: Sink> Thread<S> {
    fn run(&mut self) {
        let mut maintained = Instant::now();
        let mut untidy = false;
        loop {
            let busy = !self.held.is_empty() || !self.group.receipts.is_empty();
            let wait = match self.group.retry_at {
                Some(at) => at.saturating_duration_since(Instant::now()),
                None if busy => Duration::ZERO,
                None => IDLE,
            };
            let mut idle = false;
            match self.inbox.recv_timeout(wait) {
                Ok(message) => self.take(message),
                Err(mpsc::RecvTimeoutError::Timeout) => idle = !busy,
                Err(mpsc::RecvTimeoutError::Disconnected) => self.stopping = true,
            }
            while let Ok(message) = self.inbox.try_recv() {
                self.take(message);
            }
            untidy |= self.commit();
            if maintained.elapsed() >= MAINTAIN || (idle && untidy) {
                self.sink.maintain();
                maintained = Instant::now();
                untidy = false;
            }
            // Entries a full store did not take stay with their agents: nothing was acknowledged.
            let stuck = self.group.retry_at.is_some();
            if self.stopping && (stuck || (self.held.is_empty() && self.group.receipts.is_empty()))
            {
                return;
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Append(submission) => self.held.push_back(*submission),
            Message::Durable { run, reply } => {
                // A session that has ended meanwhile asks no more.
                let _ = reply.send(self.sink.durable(run));
            }
            Message::Stop => self.stopping = true,
        }
    }

    /// One append of what waits. Whether there was one.
    fn commit(&mut self) -> bool {
        if self.group.retry_at.is_some_and(|at| at > Instant::now() && !self.stopping) {
            return false;
        }
        if self.group.retry_at.is_none() {
            self.fill();
        }
        if self.group.receipts.is_empty() {
            return false;
        }
        let entries = &self.group.entries;
        let outcome = if entries.is_empty() { Ok(()) } else { self.sink.append(entries) };
        if let Err(error) = outcome {
            self.group.retry_at = Some(Instant::now() + RETRY);
            self.set_trouble(Some(error));
            return false;
        }
        self.set_trouble(None);
        let group = std::mem::take(&mut self.group);
        self.status.appended.fetch_add(group.entries.len() as u64, Relaxed);
        self.status.queued_entries.fetch_sub(group.receipts.len() as u64, Relaxed);
        self.status.queued_bytes.fetch_sub(group.heap_bytes as u64, Relaxed);
        for receipt in group.receipts {
            receipt.acks.send_modify(|acked| {
                acked.sequence = acked.sequence.max(receipt.sequence);
                acked.bytes += receipt.frame_bytes;
            });
        }
        if self.held.is_empty() {
            // From here on the store itself says what is durable.
            self.accepted.clear();
        }
        true
    }

    /// Takes the next group from what is held.
    fn fill(&mut self) {
        while self.group.heap_bytes < GROUP_BYTES
            && let Some(submission) = self.held.pop_front()
        {
            let Submission { entry, frame_bytes, heap_bytes, acks, budget } = submission;
            let sequence = entry.sequence;
            let run = entry.run.id;
            let accepted = self.accepted.entry(run).or_insert_with(|| self.sink.durable(run));
            if sequence > *accepted {
                *accepted = sequence;
                self.group.entries.push(entry);
            }
            self.group.heap_bytes += heap_bytes;
            self.group.receipts.push(Receipt { sequence, frame_bytes, acks, _budget: budget });
        }
    }

    fn set_trouble(&self, trouble: Option<SinkError>) {
        *self.status.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
