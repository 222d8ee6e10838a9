//! Connections before anybody has said who they are: at most so many, and each opens a stream soon
//! or is closed. So port scanners and idle clients cost a bounded number of descriptors, for a
//! bounded time.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::sessions::Sessions;

/// After an error of `accept`, which is mostly a lack of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections.
pub(super) struct Connections {
    listener: TcpListener,
    slots: Arc<Semaphore>,
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
    _slot: OwnedSemaphorePermit,
}

/// What requests know of their connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Where it comes from.
    pub address: SocketAddr,
    streams: Arc<AtomicUsize>,
}

/// A stream that keeps its connection open.
pub(super) struct OpenStream(Arc<AtomicUsize>);

// === impl Connections ===

impl Connections {
    /// Accepts from a listener, at most `most` connections at a time, each of which has a stream
    /// within `open_within`.
    pub(super) fn new(
        listener: TcpListener,
        most: usize,
        open_within: Duration,
        sessions: Arc<Sessions>,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(most));
        Self { listener, slots, sessions, open_within, paused: None }
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
            let Ok(slot) = this.slots.clone().try_acquire_owned() else {
                this.sessions.count("connections");
                continue;
            };
            // Frames are whole when written: waiting for more only delays acknowledgements.
            let _ = tcp.set_nodelay(true);
            return Poll::Ready(Some(Ok(Connection {
                tcp,
                peer: Peer { address, streams: Arc::default() },
                deadline: Box::pin(tokio::time::sleep(this.open_within)),
                open_within: this.open_within,
                _slot: slot,
            })));
        }
    }
}

// === impl Peer ===

impl Peer {
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
        while this.deadline.as_mut().poll(cx).is_ready() {
            if this.peer.streams.load(Relaxed) == 0 {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            this.deadline.as_mut().reset(Instant::now() + this.open_within);
        }
        Pin::new(&mut this.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
