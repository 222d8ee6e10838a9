//! The service behind the gate: how many may stream.

use std::sync::Arc;

use hotspan_ingest::{
    MAX_FRAME, PROTOCOL,
    v1::{AgentFrame, ProbeReply, ProbeRequest, ServerFrame, ingest_server::Ingest},
};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    connections::Peer,
    refusal::Refusal,
    session::{Session, Shared},
};

/// Frames for an agent that wait for its window: acknowledgements are summed, so few are enough.
const OUTBOUND: usize = 4;

/// The service.
pub(super) struct IngestService {
    pub shared: Arc<Shared>,
    pub streams: Arc<Semaphore>,
    pub most_streams: usize,
    pub stop: watch::Receiver<bool>,
}

// === impl IngestService ===

impl IngestService {
    fn refuse(&self, refusal: Refusal) -> Status {
        self.shared.sessions.count(refusal.reason());
        refusal.into()
    }
}

#[tonic::async_trait]
impl Ingest for IngestService {
    type StreamStream = ReceiverStream<Result<ServerFrame, Status>>;

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeReply>, Status> {
        Ok(Response::new(ProbeReply {
            protocol_min: *PROTOCOL.start(),
            protocol_max: *PROTOCOL.end(),
            version: self.shared.version.to_owned(),
            max_frame: MAX_FRAME as u32,
        }))
    }

    async fn stream(
        &self,
        request: Request<Streaming<AgentFrame>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let slot = (self.streams.clone().try_acquire_owned())
            .map_err(|_| self.refuse(Refusal::Streams(self.most_streams)))?;
        let peer = request.extensions().get::<Peer>().cloned();
        let open = peer.as_ref().map(Peer::open_stream);
        let (outbound, frames) = mpsc::channel(OUTBOUND);
        let shared = self.shared.clone();
        let session = Session { shared, peer, inbound: request.into_inner(), outbound };
        let stop = self.stop.clone();
        tokio::spawn(async move {
            session.run(stop).await;
            drop((open, slot));
        });
        Ok(Response::new(ReceiverStream::new(frames)))
    }
}
