//! The agent's client: keeps a stream to the collector, whatever happens to the network or the
//! collector, and empties the queue through it.
//!
//! Invariants: one stream at a time; a stream that ends for a reason that may pass is opened again,
//! with backoff; one that ends for a reason a human must mend is an error that says how. Nothing
//! leaves the queue before the collector has acknowledged it.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use hotspan_ingest::{
    MAX_FRAME,
    v1::{AgentFrame, ServerFrame, ingest_client::IngestClient},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status, Streaming,
    codec::CompressionEncoding,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::{
    connection::{Conversation, Ended},
    queue::Queue,
    status::ClientStatus,
};
use crate::{
    ledger::DaemonCounter,
    model::{batch::Run, clock::unix_now_ns},
};

/// Key of the gap that stands for a batch the collector will never take.
pub const COLLECTOR_REFUSED: &str = DaemonCounter::CollectorRefused.key();
/// Frames on their way to the transport.
const OUTBOUND: usize = 2;
/// The collector's frames are small.
const MAX_SERVER_FRAME: usize = 64 << 10;

/// What a client is started with.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// `http://host:port`.
    pub endpoint: String,
    /// The collector's token.
    pub token: String,
    /// User whose collector on this host may see it, besides root's and our own: whose the token is.
    pub token_owner: Option<u32>,
    /// Who streams.
    pub run: Arc<Run>,
    /// See `Timing`.
    pub timing: Timing,
}

/// How long for what.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Before the second attempt; doubles to `backoff_most`.
    pub backoff_first: Duration,
    /// See `backoff_first`.
    pub backoff_most: Duration,
    /// For TCP and HTTP/2.
    pub connect_within: Duration,
    /// For the collector's Welcome.
    pub welcome_within: Duration,
    /// A dead connection is noticed after the sum of both.
    pub keepalive_every: Duration,
    /// See `keepalive_every`.
    pub keepalive_within: Duration,
    /// "Another agent of this host streams" may be this host's last agent, whose connection the
    /// collector does not yet know to be dead: an error only after this.
    pub rival_grace: Duration,
}

/// What only a human can mend.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No URL.
    #[error("{0:?} is not a collector's address: give it as http://HOST:PORT")]
    Endpoint(String),
    /// No header can carry it.
    #[error("the ingest token holds a character that cannot be sent: copy the file again")]
    Token,
    /// The collector does not know the token.
    #[error("{0}")]
    Unauthenticated(String),
    /// No common protocol.
    #[error("{0}")]
    Protocol(String),
    /// One agent per kernel.
    #[error("{0}")]
    Rival(String),
}

/// How a client ended at shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// Everything in the queue was acknowledged.
    pub all_durable: bool,
}

// === impl Timing ===

impl Default for Timing {
    fn default() -> Self {
        Self {
            backoff_first: Duration::from_millis(100),
            backoff_most: Duration::from_secs(5),
            connect_within: Duration::from_secs(5),
            welcome_within: Duration::from_secs(10),
            keepalive_every: Duration::from_secs(3),
            keepalive_within: Duration::from_secs(4),
            rival_grace: Duration::from_secs(15),
        }
    }
}

/// Streams until `shutdown` bears a deadline: then sends what is queued, waits for acknowledgements
/// until then, and returns.
pub async fn run(
    settings: ClientSettings,
    queue: Arc<Queue>,
    status: Arc<ClientStatus>,
    mut shutdown: watch::Receiver<Option<Instant>>,
) -> Result<Farewell, ClientError> {
    let endpoint = endpoint(&settings)?;
    let token = format!("Bearer {}", settings.token);
    let token: MetadataValue<Ascii> = token.parse().map_err(|_| ClientError::Token)?;
    let mut backoff = Backoff::new(&settings.timing);
    let mut rival_since = None;
    let mut welcomes = 0_u64;
    loop {
        let welcomes_before = welcomes;
        let attempt = async {
            let (frames, answers) = open(&endpoint, &token, &settings, &queue).await?;
            let conversation = Conversation::new(frames, answers, &queue, &status, &settings);
            conversation.run(shutdown.clone(), &mut welcomes).await
        };
        let ended = attempt_before(shutdown.clone(), attempt).await;
        if welcomes > welcomes_before {
            backoff.reset();
            rival_since = None;
        } else {
            status.update(|health| health.failed_attempts += 1);
        }
        let error = match ended {
            Ended::Farewell => return Ok(Farewell { all_durable: queue.is_empty() }),
            Ended::Stream { status, refused } => {
                if let Some(sequence) = refused {
                    queue.give_up(sequence, COLLECTOR_REFUSED);
                }
                status
            }
        };
        tracing::debug!(code = ?error.code(), message = error.message(), "stream: ended");
        status.update(|health| {
            if std::mem::take(&mut health.connected) || health.since_unix_ns == 0 {
                health.since_unix_ns = unix_now_ns();
            }
            health.last_error = Some(said(&error));
        });
        if error.code() == Code::AlreadyExists {
            let since = *rival_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= settings.timing.rival_grace {
                return Err(ClientError::Rival(error.message().to_owned()));
            }
        }
        fatal(&error)?;
        if pause(backoff.next(), settings.timing.backoff_first, &mut shutdown).await {
            return Ok(Farewell { all_durable: queue.is_empty() });
        }
    }
}

fn endpoint(settings: &ClientSettings) -> Result<Endpoint, ClientError> {
    let wrong = || ClientError::Endpoint(settings.endpoint.clone());
    let timing = &settings.timing;
    let endpoint = Endpoint::from_shared(settings.endpoint.clone()).map_err(|_| wrong())?;
    if endpoint.uri().scheme_str() != Some("http") || endpoint.uri().authority().is_none() {
        return Err(wrong());
    }
    Ok(endpoint
        .connect_timeout(timing.connect_within)
        .http2_keep_alive_interval(timing.keepalive_every)
        .keep_alive_timeout(timing.keepalive_within)
        .keep_alive_while_idle(true))
}

/// Connects and opens a stream whose first frame is Hello.
async fn open(
    endpoint: &Endpoint,
    token: &MetadataValue<Ascii>,
    settings: &ClientSettings,
    queue: &Queue,
) -> Result<(mpsc::Sender<AgentFrame>, Streaming<ServerFrame>), Status> {
    let within = settings.timing.connect_within + settings.timing.welcome_within;
    let opening = async {
        let channel: Channel =
            super::way::connect(endpoint, settings.token_owner).await.map_err(|error| {
                Status::unavailable(format!(
                    "cannot connect to {}: {}",
                    settings.endpoint,
                    root(&error)
                ))
            })?;
        let mut client = IngestClient::new(channel)
            .send_compressed(CompressionEncoding::Zstd)
            .max_decoding_message_size(MAX_SERVER_FRAME)
            .max_encoding_message_size(MAX_FRAME);
        let (sender, frames) = mpsc::channel(OUTBOUND);
        // There is room: the receiver is here.
        let _ = sender.send(super::connection::hello(&settings.run, queue)).await;
        let mut request = Request::new(ReceiverStream::new(frames));
        request.metadata_mut().insert("authorization", token.clone());
        let answers = client.stream(request).await?.into_inner();
        Ok((sender, answers))
    };
    let late = |_| Status::deadline_exceeded("the collector does not answer");
    timeout(within, opening).await.map_err(late)?
}

/// The attempt's end, or the deadline's.
async fn attempt_before(
    mut shutdown: watch::Receiver<Option<Instant>>,
    attempt: impl Future<Output = Result<Ended, Status>>,
) -> Ended {
    tokio::select! {
        ended = attempt => {
            ended.unwrap_or_else(|status| Ended::Stream { status, refused: None })
        }
        () = deadline(&mut shutdown) => Ended::Farewell,
    }
}

/// Returns at the deadline that shutdown bears, once it does.
async fn deadline(shutdown: &mut watch::Receiver<Option<Instant>>) {
    let at = match shutdown.wait_for(Option::is_some).await {
        Ok(at) => *at,
        // Whoever could shut the client down has gone.
        Err(_) => None,
    };
    if let Some(at) = at {
        sleep_until(at).await;
    }
}

/// Waits before the next attempt; whether the client ends instead. Once the end is announced the
/// backoff does not count: the deadline may be nearer than the next attempt, and a collector that is
/// back already would miss what is left.
async fn pause(
    delay: Duration,
    shortest: Duration,
    shutdown: &mut watch::Receiver<Option<Instant>>,
) -> bool {
    let mut announced = shutdown.clone();
    let hurry = async {
        // Nobody who could announce it: the deadline's arm knows.
        let _ = announced.wait_for(Option::is_some).await;
        tokio::time::sleep(shortest).await;
    };
    tokio::select! {
        () = tokio::time::sleep(delay) => false,
        () = hurry => false,
        () = deadline(shutdown) => true,
    }
}

/// Errors that do not pass.
fn fatal(status: &Status) -> Result<(), ClientError> {
    let message = || status.message().to_owned();
    match status.code() {
        Code::Unauthenticated => Err(ClientError::Unauthenticated(message())),
        Code::FailedPrecondition => Err(ClientError::Protocol(message())),
        _ => Ok(()),
    }
}

fn said(status: &Status) -> String {
    match status.message() {
        "" => status.code().to_string(),
        message => message.to_owned(),
    }
}

/// The innermost cause: tonic's own words are "transport error".
fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Delays between attempts: doubling, each between half and the whole of its nominal length, so that
/// agents of a collector that comes back do not come all at once.
struct Backoff {
    first: Duration,
    most: Duration,
    nominal: Duration,
    random: RandomState,
    attempts: u64,
}

// === impl Backoff ===

impl Backoff {
    fn new(timing: &Timing) -> Self {
        let (first, most) = (timing.backoff_first, timing.backoff_most);
        Self { first, most, nominal: first, random: RandomState::new(), attempts: 0 }
    }

    fn reset(&mut self) {
        self.nominal = self.first;
    }

    fn next(&mut self) -> Duration {
        self.attempts += 1;
        let delay = self.nominal;
        self.nominal = (delay * 2).min(self.most);
        let random = self.random.hash_one(self.attempts) >> 32;
        delay / 2 + (delay / 2).mul_f64(random as f64 / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_within_its_bounds() {
        let timing = Timing::default();
        let mut backoff = Backoff::new(&timing);
        let mut nominal = timing.backoff_first;
        for _ in 0..10 {
            let delay = backoff.next();
            assert!(delay >= nominal / 2 && delay <= nominal, "{delay:?} of {nominal:?}");
            nominal = (nominal * 2).min(timing.backoff_most);
        }
        backoff.reset();
        assert!(backoff.next() <= timing.backoff_first);
    }
}
