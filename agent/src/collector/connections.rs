//! Connections before anybody has said who they are: so many at most, in all and of one peer; each
//! may send so many bytes, has to show the token soon, and gives way to others. So port scanners,
//! idle clients and those that mean harm cost a bounded number of descriptors and bytes, for a bounded
//! time.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Instant, Sleep},
};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::sessions::Sessions;
use crate::peers::{
    self,
    table::{Place, PlaceHandle, Standing, Table},
};

/// After an error of `accept`, which is mostly a lack of descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// What is read of a connection before its token: heads of requests, and of a body what came with
/// them. An agent sends half a KiB, a probe less, and waits for the answer.
pub(super) const BEFORE_TOKEN: usize = 16 << 10;

/// Read at once of them.
const PIECE: usize = 2 << 10;

/// Accepts connections.
pub(super) struct Connections {
    listener: TcpListener,
    table: Arc<Table>,
    sessions: Arc<Sessions>,
    open_within: Duration,
    paused: Option<Pin<Box<Sleep>>>,
}

/// One connection.
pub(super) struct Connection {
    tcp: TcpStream,
    peer: Peer,
    /// Looked at again when it fires.
    deadline: Pin<Box<Sleep>>,
    open_within: Duration,
    /// Bytes that may still come before the token.
    unproven: usize,
    sessions: Arc<Sessions>,
    place: Place,
}

/// What requests know of their connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Where it comes from.
    pub address: SocketAddr,
    streams: Arc<AtomicUsize>,
    proven: Arc<AtomicBool>,
    place: PlaceHandle,
}

/// A stream that keeps its connection open.
pub(super) struct OpenStream(Arc<AtomicUsize>);

// === impl Connections ===

impl Connections {
    /// Accepts from a listener as many connections as the table has room for, each of which shows the
    /// token within `open_within`.
    pub(super) fn new(
        listener: TcpListener,
        table: Arc<Table>,
        open_within: Duration,
        sessions: Arc<Sessions>,
    ) -> Self {
        Self { listener, table, sessions, open_within, paused: None }
    }
}

impl Stream for Connections {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(paused) = &mut this.paused {
                ready!(paused.as_mut().poll(cx));
                this.paused = None;
            }
            let (tcp, address) = match ready!(this.listener.poll_accept(cx)) {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "collector: cannot accept a connection");
                    this.sessions.count("accept");
                    this.paused = Some(Box::pin(tokio::time::sleep(PAUSE)));
                    continue;
                }
            };
            // One that has ended meanwhile has no address.
            let Ok(local) = tcp.local_addr() else { continue };
            let Some(place) = this.table.admit(peers::Peer::of(local, address)) else {
                this.sessions.count("connections");
                continue;
            };
            // Frames are whole when written: waiting for more only delays acknowledgements.
            let _ = tcp.set_nodelay(true);
            let peer = Peer {
                address,
                streams: Arc::default(),
                proven: Arc::default(),
                place: place.handle(),
            };
            return Poll::Ready(Some(Ok(Connection {
                tcp,
                peer,
                deadline: Box::pin(tokio::time::sleep(this.open_within)),
                open_within: this.open_within,
                unproven: BEFORE_TOKEN,
                sessions: this.sessions.clone(),
                place,
            })));
        }
    }
}

// === impl Peer ===

impl Peer {
    /// It has shown a valid token.
    pub(super) fn proven(&self) {
        if !self.proven.swap(true, Relaxed) {
            self.place.stands(Standing::Proven);
        }
    }

    /// A stream of an agent who has shown its token.
    pub(super) fn open_stream(&self) -> OpenStream {
        self.streams.fetch_add(1, Relaxed);
        OpenStream(self.streams.clone())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

// === impl Connection ===

impl Connection {
    /// Why it has to end, if it has. Asked wherever it would wait, so that one whose client neither
    /// sends nor reads ends too.
    fn over(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.place.poll_evicted(cx) {
            return Poll::Ready(io::ErrorKind::ConnectionAborted.into());
        }
        while self.deadline.as_mut().poll(cx).is_ready() {
            if self.peer.streams.load(Relaxed) == 0 {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            self.deadline.as_mut().reset(Instant::now() + self.open_within);
        }
        Poll::Pending
    }

    fn unless_over<T>(
        &mut self,
        outcome: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        match outcome {
            Poll::Pending => self.over(cx).map(Err),
            ready => ready,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Poll::Ready(error) = this.over(cx) {
            return Poll::Ready(Err(error));
        }
        if this.peer.proven.load(Relaxed) {
            return Pin::new(&mut this.tcp).poll_read(cx, buffer);
        }
        if this.unproven == 0 {
            this.sessions.count("before_token");
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let mut bytes = [0; PIECE];
        let most = PIECE.min(this.unproven).min(buffer.remaining());
        let mut piece = ReadBuf::new(&mut bytes[..most]);
        ready!(Pin::new(&mut this.tcp).poll_read(cx, &mut piece))?;
        this.unproven -= piece.filled().len();
        buffer.put_slice(piece.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.unless_over(outcome, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.tcp).poll_write_vectored(cx, slices);
        self.unless_over(outcome, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.tcp).poll_flush(cx);
        self.unless_over(outcome, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
