//! One stream of one agent, from Hello to its end.
//!
//! Invariants: frames are taken in order of sequence, without holes, each once; the agent never has
//! more on its way than it was granted; the next frame is not read before the one at hand has its
//! share of the collector's budget, which it keeps until it is durable.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use hotspan_ingest::{
    MAX_FRAME, PROTOCOL,
    v1::{
        self, Ack, AgentFrame, Hello, ResetEpoch, ServerFrame, Welcome, agent_frame,
        server_frame::Frame,
    },
};
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc, watch};
use tonic::{Status, Streaming};

use super::{
    connections::Peer,
    refusal::Refusal,
    sessions::{Claim, Sessions},
    writer::{Acked, Submission, Writer},
};
use crate::{
    ledger::DaemonCounter,
    model::{
        batch::{Counts, Gap, Run},
        clock::unix_now_ns,
        id::RunId,
    },
    store::{Body, Entry},
    wire::{
        decode::Decoder,
        decode_account::decode_gap,
        size::{self, GAP_BYTES},
        violation::Violation,
    },
};

const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// What an agent may have on its way.
pub(super) const CREDIT: u64 = 4 << 20;
/// What all sessions together may hold, by estimate of the heap.
pub(super) const BUDGET: usize = 64 << 20;

/// Batches in a row that cannot be followed.
const MOST_VIOLATIONS: u32 = 3;
/// Far beyond any run's last; the number behind it must be one.
const MOST_SEQUENCE: u64 = 1 << 62;
/// Longest names in a Hello, bytes.
const LONGEST_NAME: usize = 256;

/// What all sessions share.
pub(super) struct Shared {
    pub sessions: Arc<Sessions>,
    pub writer: Writer,
    pub budget: Arc<Semaphore>,
    pub version: &'static str,
}

/// A stream after its token was checked.
pub(super) struct Session {
    pub shared: Arc<Shared>,
    pub peer: Option<Peer>,
    pub inbound: Streaming<AgentFrame>,
    pub outbound: mpsc::Sender<Result<ServerFrame, Status>>,
}

/// A welcomed stream.
struct Welcomed<'a> {
    session: &'a mut Session,
    progress: &'a super::sessions::Progress,
    decoder: Decoder,
    /// The next sequence.
    expected: u64,
    /// Frames are passed over until `expected` comes again.
    resetting: bool,
    violations: u32,
    acks: Arc<watch::Sender<Acked>>,
    /// What was reported to the agent.
    reported: Acked,
    /// Frames that were passed over: theirs is given back beside what the writer acknowledges.
    passed_over: u64,
    /// What the agent may still send.
    credit: u64,
}

// === impl Session ===

impl Session {
    /// To the end of the stream, or of the collector.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let ended = tokio::select! {
            ended = self.converse() => ended,
            _ = stop.wait_for(|stop| *stop) => Err(Refusal::Stopping),
        };
        let Err(refusal) = ended else { return };
        self.shared.sessions.count(refusal.reason());
        tracing::debug!(peer = ?self.peer, %refusal, "collector: a stream ends");
        if let Refusal::Transport(_) = refusal {
            return;
        }
        // An agent that does not read is not answered.
        let last = self.outbound.send(Err(refusal.into()));
        let _ = tokio::time::timeout(Duration::from_secs(1), last).await;
    }

    async fn converse(&mut self) -> Result<(), Refusal> {
        let first = tokio::time::timeout(HELLO_WITHIN, self.inbound.message()).await;
        let first = first.map_err(|_| Refusal::Silent(HELLO_WITHIN))?.map_err(Refusal::unread)?;
        let Some(frame) = first else { return Ok(()) };
        let Some(agent_frame::Frame::Hello(hello)) = frame.frame else {
            return Err(Refusal::Hello("the first frame is another one"));
        };
        let run = Arc::new(self.introduced(&hello)?);
        let peer = self.peer.as_ref().map(|peer| peer.address);
        let claim = self.shared.sessions.claim(run.clone(), peer)?;
        tokio::select! {
            ended = self.welcome(&claim, run, &hello) => ended,
            () = claim.superseded() => Err(Refusal::Superseded),
        }
    }

    /// The run that a Hello introduces.
    fn introduced(&self, hello: &Hello) -> Result<Run, Refusal> {
        if !PROTOCOL.contains(&hello.protocol) {
            let older = if hello.protocol < *PROTOCOL.start() { "agent" } else { "collector" };
            return Err(Refusal::Protocol {
                agent: hello.version.chars().take(64).collect(),
                collector: self.shared.version,
                got: hello.protocol,
                understood: PROTOCOL,
                older,
            });
        }
        let id = hello.run_id.as_slice().try_into().map(RunId);
        let names = [&hello.version, &hello.boot_id, &hello.host];
        if names.iter().any(|name| name.len() > LONGEST_NAME) {
            return Err(Refusal::Hello("a name is too long"));
        }
        if hello.boot_id.is_empty() {
            return Err(Refusal::Hello("it has no boot id"));
        }
        if hello.first_sequence == 0 {
            return Err(Refusal::Hello("sequences count from 1"));
        }
        if hello.first_sequence > MOST_SEQUENCE {
            return Err(Refusal::Hello("no run has so many sequences"));
        }
        Ok(Run {
            id: id.map_err(|_| Refusal::Hello("its run id is not 16 bytes"))?,
            boot_id: hello.boot_id.clone(),
            host: hello.host.clone(),
            version: hello.version.clone(),
            pid: hello.pid,
            started_unix_ns: hello.started_unix_ns,
        })
    }

    async fn welcome(
        &mut self,
        claim: &Claim,
        run: Arc<Run>,
        hello: &Hello,
    ) -> Result<(), Refusal> {
        let durable = self.shared.writer.durable(run.id).await.map_err(|_| Refusal::Writer)?;
        let expected = hello.first_sequence.max(durable + 1);
        let acked = Acked { sequence: durable, bytes: 0 };
        let mut welcomed = Welcomed {
            progress: &claim.progress,
            decoder: Decoder::default(),
            expected,
            resetting: false,
            violations: 0,
            acks: Arc::new(watch::Sender::new(acked)),
            reported: acked,
            passed_over: 0,
            credit: CREDIT,
            session: self,
        };
        if hello.first_sequence > durable + 1 {
            let gap = Gap {
                from_sequence: durable + 1,
                to_sequence: hello.first_sequence - 1,
                reason: DaemonCounter::AgentForgot.key().into(),
                counts: Counts::default(),
                from: 0,
                to: 0,
            };
            welcomed.submit(run, gap.to_sequence, Body::Gap(gap), 0).await?;
        }
        let welcome = Welcome {
            resume_sequence: expected,
            max_frame: MAX_FRAME as u32,
            credit_bytes: CREDIT,
            version: welcomed.session.shared.version.to_owned(),
        };
        welcomed.send(Frame::Welcome(welcome)).await?;
        welcomed.serve(&claim.progress.run).await
    }
}

// === impl Welcomed ===

impl Welcomed<'_> {
    async fn serve(&mut self, run: &Arc<Run>) -> Result<(), Refusal> {
        let mut acked = self.acks.subscribe();
        loop {
            tokio::select! {
                // The agent sent something, or has gone.
                frame = self.session.inbound.message() => {
                    match frame.map_err(Refusal::unread)? {
                        Some(frame) => if self.take(run, frame).await? { return Ok(()) },
                        None => return Ok(()),
                    }
                }
                // Something is durable. The writer's half lives as long as `self.acks`.
                _ = acked.changed() => {}
            }
            self.acknowledge().await?;
        }
    }

    /// Takes a frame; whether it was the last.
    async fn take(&mut self, run: &Arc<Run>, frame: AgentFrame) -> Result<bool, Refusal> {
        let bytes = frame.encoded_len() as u64;
        let (from, to, epoch) = match &frame.frame {
            Some(agent_frame::Frame::Batch(batch)) => {
                (batch.sequence, batch.sequence, Some(batch.epoch))
            }
            Some(agent_frame::Frame::Gap(gap)) => (gap.from_sequence, gap.to_sequence, None),
            Some(agent_frame::Frame::Bye(_)) => return Ok(true),
            Some(agent_frame::Frame::Hello(_)) => return Err(Refusal::Order("a second hello")),
            None => return Err(Refusal::Order("a frame of an unknown kind")),
        };
        self.credit = (self.credit.checked_sub(bytes))
            .ok_or(Refusal::Credit { got: bytes, left: self.credit })?;
        self.progress.bytes.fetch_add(bytes, Relaxed);
        // What was on its way when a new epoch was asked for: the agent sends it again.
        let follows = from == self.expected && epoch.is_none_or(|e| e > self.decoder.epoch());
        if self.resetting && !follows {
            self.passed_over += bytes;
            return Ok(false);
        }
        self.resetting = false;
        match self.follow(frame, from, to) {
            Ok(Some(body)) => {
                self.violations = 0;
                self.expected = to + 1;
                self.progress.last_sequence.store(to, Relaxed);
                if let Body::Batch(batch) = &body {
                    self.progress.took(&batch.account);
                }
                self.submit(run.clone(), to, body, bytes).await?;
            }
            Ok(None) => self.passed_over += bytes,
            Err(violation) => {
                self.passed_over += bytes;
                self.reset(violation).await?;
            }
        }
        Ok(false)
    }

    /// What a frame brings; nothing when it is durable already.
    fn follow(&mut self, frame: AgentFrame, from: u64, to: u64) -> Result<Option<Body>, Violation> {
        let is_in_order = from <= self.expected && (from == self.expected || to < self.expected);
        if !is_in_order || to < from || to > MOST_SEQUENCE {
            return Err(Violation::Sequence { got: from, to, want: self.expected });
        }
        let body = match frame.frame {
            Some(agent_frame::Frame::Batch(batch)) => Body::Batch(self.decode(&batch)?),
            Some(agent_frame::Frame::Gap(gap)) => Body::Gap(decode_gap(&gap)),
            _ => return Ok(None),
        };
        Ok((from == self.expected).then_some(body))
    }

    fn decode(&mut self, batch: &v1::Batch) -> Result<crate::model::batch::Batch, Violation> {
        let decoded = self.decoder.batch(batch)?;
        self.progress.cut_strings.fetch_add(self.decoder.take_cut_strings(), Relaxed);
        Ok(decoded)
    }

    /// Asks for a new epoch, or gives the agent up.
    async fn reset(&mut self, violation: Violation) -> Result<(), Refusal> {
        self.violations += 1;
        if self.violations >= MOST_VIOLATIONS {
            return Err(Refusal::Violations { attempts: self.violations, violation });
        }
        self.resetting = true;
        self.progress.resets.fetch_add(1, Relaxed);
        let reason = violation.to_string();
        let reset = ResetEpoch { reason, resume_sequence: self.expected };
        self.send(Frame::Reset(reset)).await
    }

    /// Hands an entry to the writer, once there is room for it.
    async fn submit(
        &mut self,
        run: Arc<Run>,
        sequence: u64,
        body: Body,
        frame_bytes: u64,
    ) -> Result<(), Refusal> {
        let heap_bytes = match &body {
            Body::Batch(batch) => size::batch_bytes(batch),
            Body::Gap(_) => GAP_BYTES,
        };
        let share = heap_bytes.min(BUDGET) as u32;
        let budget = self.session.shared.budget.clone().acquire_many_owned(share).await;
        let submission = Submission {
            entry: Entry { run, sequence, body },
            frame_bytes,
            heap_bytes,
            acks: self.acks.clone(),
            // The budget is never closed.
            budget: budget.ok(),
        };
        self.session.shared.writer.submit(submission).map_err(|_| Refusal::Writer)
    }

    /// Tells the agent what is durable and what it may send, if there is news.
    async fn acknowledge(&mut self) -> Result<(), Refusal> {
        let acked = *self.acks.borrow();
        let credit = acked.bytes - self.reported.bytes + self.passed_over;
        if acked == self.reported && credit == 0 {
            return Ok(());
        }
        if acked.sequence > self.reported.sequence {
            self.progress.last_ack_unix_ns.store(unix_now_ns(), Relaxed);
        }
        self.reported = acked;
        self.passed_over = 0;
        self.credit += credit;
        self.send(Frame::Ack(Ack { durable: acked.sequence, credit_bytes: credit })).await
    }

    async fn send(&mut self, frame: Frame) -> Result<(), Refusal> {
        let frame = ServerFrame { frame: Some(frame) };
        let gone = |_| Refusal::Transport(Status::cancelled("the agent has gone"));
        self.session.outbound.send(Ok(frame)).await.map_err(gone)
    }
}
