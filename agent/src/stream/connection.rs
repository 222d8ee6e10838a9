//! One stream's life after it was opened: Welcome, frames within the credit, acknowledgements, Bye.
//!
//! Invariants: an item is encoded once per epoch and in order; what was encoded is sent, unless the
//! epoch ends; no more is on its way than the collector has granted.

use hotspan_ingest::{
    MAX_FRAME, PROTOCOL,
    v1::{
        Ack, AgentFrame, Bye, Hello, ResetEpoch, ServerFrame, Welcome, agent_frame,
        server_frame::Frame,
    },
};
use prost::Message as _;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tonic::{Code, Status, Streaming};

use super::{client::ClientSettings, queue::Queue, status::ClientStatus};
use crate::{
    kernel::ktime,
    ledger::DaemonCounter,
    model::{batch::Run, clock::unix_now_ns},
    wire::encode::Encoder,
};

/// Key of the gap that stands for a batch that fits no frame.
pub(super) const FRAME_TOO_LARGE: &str = DaemonCounter::FrameTooLarge.key();
/// New epochs asked for without anything acknowledged in between, after which the stream is given up.
const MOST_RESETS: u32 = 8;

/// How a stream ended.
pub(super) enum Ended {
    /// At shutdown, after Bye.
    Farewell,
    /// By the collector or the transport.
    Stream {
        /// Why.
        status: Status,
        /// The sequence the collector will not take.
        refused: Option<u64>,
    },
}

/// An open stream.
pub(super) struct Conversation<'a> {
    frames: mpsc::Sender<AgentFrame>,
    answers: Streaming<ServerFrame>,
    queue: &'a Queue,
    status: &'a ClientStatus,
    settings: &'a ClientSettings,
    encoder: Encoder,
    /// The last sequence that was encoded.
    encoded: u64,
    pending: Option<(AgentFrame, u64)>,
    credit: u64,
    max_frame: usize,
    resets: u32,
    /// Where the collector asked for a new epoch, unless it got on since.
    stuck_at: Option<u64>,
}

/// The first frame of a stream.
pub(super) fn hello(run: &Run, queue: &Queue) -> AgentFrame {
    let (first_sequence, last_acked) = queue.position();
    let hello = Hello {
        protocol: *PROTOCOL.end(),
        version: run.version.clone(),
        run_id: run.id.0.to_vec(),
        boot_id: run.boot_id.clone(),
        host: run.host.clone(),
        pid: run.pid,
        started_unix_ns: run.started_unix_ns,
        unix_offset_ns: i64::try_from(ktime::unix_offset()).unwrap_or(i64::MAX),
        first_sequence,
        last_acked,
    };
    AgentFrame { frame: Some(agent_frame::Frame::Hello(hello)) }
}

// === impl Conversation ===

impl<'a> Conversation<'a> {
    /// Of a stream on which Hello is on its way.
    pub(super) fn new(
        frames: mpsc::Sender<AgentFrame>,
        answers: Streaming<ServerFrame>,
        queue: &'a Queue,
        status: &'a ClientStatus,
        settings: &'a ClientSettings,
    ) -> Self {
        Self {
            frames,
            answers,
            queue,
            status,
            settings,
            encoder: Encoder::new(),
            encoded: 0,
            pending: None,
            credit: 0,
            max_frame: MAX_FRAME,
            resets: 0,
            stuck_at: None,
        }
    }

    /// To the stream's end. Counts the welcome.
    pub(super) async fn run(
        mut self,
        shutdown: watch::Receiver<Option<Instant>>,
        welcomes: &mut u64,
    ) -> Result<Ended, Status> {
        self.welcomed(*welcomes).await?;
        *welcomes += 1;
        match self.converse(shutdown).await {
            Ok(()) => Ok(Ended::Farewell),
            Err(status) => {
                // What the collector cannot follow again and again it will never take; without this
                // nothing behind it would ever arrive.
                let refused = self.stuck_at.filter(|_| status.code() == Code::InvalidArgument);
                Ok(Ended::Stream { status, refused })
            }
        }
    }

    async fn welcomed(&mut self, welcomes: u64) -> Result<(), Status> {
        let within = self.settings.timing.welcome_within;
        let late = |_| Status::deadline_exceeded("the collector does not welcome");
        let answer = timeout(within, self.answers.message()).await.map_err(late)??;
        let Some(Frame::Welcome(welcome)) = answer.and_then(|answer| answer.frame) else {
            return Err(Status::internal("the collector answered without a welcome: update it"));
        };
        let Welcome { resume_sequence, max_frame, credit_bytes, version } = welcome;
        self.encoded = resume_sequence.saturating_sub(1);
        self.queue.release(self.encoded);
        self.max_frame = MAX_FRAME.min(max_frame as usize).min(credit_bytes as usize);
        self.credit = credit_bytes;
        self.status.update(|health| {
            health.connected = true;
            health.since_unix_ns = unix_now_ns();
            health.reconnects += u64::from(welcomes > 0);
            health.collector_version = version;
        });
        Ok(())
    }

    async fn converse(
        &mut self,
        mut shutdown: watch::Receiver<Option<Instant>>,
    ) -> Result<(), Status> {
        let frames = self.frames.clone();
        loop {
            self.encode_next();
            let leaving = shutdown.borrow_and_update().is_some();
            if leaving && self.queue.is_empty() {
                return self.leave().await;
            }
            let may_send = self.pending.as_ref().is_some_and(|(_, bytes)| *bytes <= self.credit);
            tokio::select! {
                // The collector says something, or the stream has ended.
                answer = self.answers.message() => match answer?.map(|answer| answer.frame) {
                    Some(Some(frame)) => self.answer(frame)?,
                    Some(None) => return Err(Status::internal("a frame of an unknown kind")),
                    None => return Err(Status::unavailable("the collector closed the stream")),
                },
                // There is room for the pending frame, here and there.
                permit = frames.reserve(), if may_send => {
                    let permit =
                        permit.map_err(|_| Status::unavailable("the connection was closed"))?;
                    if let Some((frame, bytes)) = self.pending.take() {
                        self.credit -= bytes;
                        permit.send(frame);
                        self.status.update(|health| {
                            health.frames += 1;
                            health.bytes += bytes;
                        });
                    }
                }
                // Something was pushed.
                () = self.queue.arrived(), if self.pending.is_none() => {}
                // The end was announced; the deadline itself is the caller's.
                _ = shutdown.changed(), if !leaving => {}
            }
        }
    }

    /// Makes a frame of the next item, if there is one and none is pending.
    fn encode_next(&mut self) {
        while self.pending.is_none() {
            let Some(item) = self.queue.take_after(self.encoded) else { return };
            let epoch = self.encoder.epoch();
            let frame = self.encoder.frame(&item);
            let bytes = frame.encoded_len();
            let repaired = self.encoder.take_repaired();
            let epochs = u64::from(self.encoder.epoch() - epoch);
            self.status.update(|health| {
                health.repaired.add(repaired);
                health.epochs += epochs;
            });
            if bytes > self.max_frame {
                // The tables hold what was not sent.
                self.encoder.end_epoch();
                self.queue.give_up(item.to_sequence, FRAME_TOO_LARGE);
                continue;
            }
            self.encoded = item.to_sequence;
            self.pending = Some((frame, bytes as u64));
        }
    }

    fn answer(&mut self, frame: Frame) -> Result<(), Status> {
        match frame {
            Frame::Ack(Ack { durable, credit_bytes }) => {
                self.credit = self.credit.saturating_add(credit_bytes);
                self.queue.release(durable);
                if self.stuck_at.is_some_and(|stuck| durable >= stuck) {
                    self.stuck_at = None;
                    self.resets = 0;
                }
                self.status.update(|health| health.last_ack_unix_ns = unix_now_ns());
            }
            Frame::Reset(ResetEpoch { reason, resume_sequence }) => {
                tracing::warn!(reason, resume_sequence, "stream: the collector wants a new epoch");
                self.resets += 1;
                if self.resets > MOST_RESETS {
                    return Err(Status::internal(format!("the collector cannot follow: {reason}")));
                }
                self.stuck_at = Some(resume_sequence);
                self.encoder.end_epoch();
                self.pending = None;
                self.encoded = resume_sequence.saturating_sub(1);
                self.status.update(|health| health.resets += 1);
            }
            Frame::Welcome(_) => return Err(Status::internal("a second welcome")),
        }
        Ok(())
    }

    /// Everything is durable: Bye, and the end of the stream from the other side.
    async fn leave(&mut self) -> Result<(), Status> {
        let bye = AgentFrame { frame: Some(agent_frame::Frame::Bye(Bye {})) };
        // A collector that has gone needs no farewell.
        let _ = self.frames.send(bye).await;
        while let Ok(Some(_)) = self.answers.message().await {}
        Ok(())
    }
}
