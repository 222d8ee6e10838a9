//! Connections, in number, bytes and time: nobody who can reach the port can use up the process, or keep
//! others out, by opening connections and saying little or much.
//!
//! Invariants: at most `CONNECTIONS` are open, whose is decided by the table of `peers`; one is closed
//! when for `SILENCE` no request begins, or its answer does not, or its request is longer than
//! `REQUEST`: what trickles in does not hold it. Besides the port there is a socket in the data
//! directory, which only its owner can reach: whoever comes through it is ours.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, UnixListener},
    time::{Instant, Sleep, sleep},
};

use crate::peers::{
    Peer,
    table::{Place, PlaceHandle, Standing, Table, TableLimits},
};

/// Open at once.
pub(super) const CONNECTIONS: TableLimits = TableLimits { most: 256, unproven: 224, share: 64 };
/// Longer than any answer takes to begin, the request's own way included.
pub(super) const SILENCE: Duration = Duration::from_secs(30);
/// Bytes of a request; a browser sends a few KiB.
pub(super) const REQUEST: usize = 64 << 10;

/// A port, and the socket for this host's owner, within the limits.
pub(super) struct Limited {
    pub tcp: TcpListener,
    pub socket: Option<UnixListener>,
    pub table: Arc<Table>,
    pub silence: Duration,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub peer: Peer,
    /// Through the socket in the data directory: the directory's owner.
    pub by_socket: bool,
    pub place: PlaceHandle,
}

/// A connection within the limits.
pub(super) struct Connection {
    stream: Box<dyn Both>,
    silence: Duration,
    deadline: Pin<Box<Sleep>>,
    /// Read since the last write: a request is under way.
    asked: usize,
    /// Written since the last flush.
    is_answering: bool,
    place: Place,
}

trait Both: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

// === impl Limited ===

impl Limited {
    async fn next(&mut self) -> Option<(Box<dyn Both>, Peer, bool)> {
        let by_socket = async {
            match &mut self.socket {
                Some(socket) => Listener::accept(socket).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            (stream, _) = by_socket => {
                let peer = Peer::User(stream.peer_cred().ok()?.uid());
                // Its directory should have kept others out.
                peer.is_ours().then(|| (Box::new(stream) as Box<dyn Both>, peer, true))
            }
            (stream, address) = Listener::accept(&mut self.tcp) => {
                let local: SocketAddr = stream.local_addr().ok()?;
                // Answers are written whole: nothing is gained by waiting for more.
                let _ = stream.set_nodelay(true);
                Some((Box::new(stream), Peer::of(local, address), false))
            }
        }
    }
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = Caller;

    async fn accept(&mut self) -> (Connection, Caller) {
        loop {
            let Some((stream, peer, by_socket)) = self.next().await else { continue };
            // Without a place it is closed at once: there is no queue that strangers could fill.
            let Some(place) = self.table.admit(peer) else { continue };
            let caller = Caller { peer, by_socket, place: place.handle() };
            return (Connection::new(stream, self.silence, place), caller);
        }
    }

    fn local_addr(&self) -> io::Result<Caller> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Connected<IncomingStream<'_, Limited>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Limited>) -> Self {
        stream.remote_addr().clone()
    }
}

// === impl Connection ===

impl Connection {
    fn new(stream: Box<dyn Both>, silence: Duration, place: Place) -> Self {
        let deadline = Box::pin(sleep(silence));
        Self { stream, silence, deadline, asked: 0, is_answering: false, place }
    }

    /// Whether it has to end. Asked wherever it would wait.
    fn over<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if self.place.poll_evicted(context) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        self.deadline.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn postpone(&mut self) {
        self.deadline.as_mut().reset(Instant::now() + self.silence);
    }

    fn wrote(
        &mut self,
        outcome: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match outcome {
            Poll::Pending => self.over(context),
            Poll::Ready(outcome) => {
                self.asked = 0;
                self.is_answering = true;
                self.postpone();
                Poll::Ready(outcome)
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(over) = self.over(context) {
            return Poll::Ready(over);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if self.asked == 0 {
            self.place.handle().stands(Standing::Busy);
            self.postpone();
        }
        self.asked += buffer.filled().len() - before;
        match self.asked > REQUEST {
            true => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            false => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(outcome, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.wrote(outcome, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        // An answer is one piece: what was flushed was all of it.
        if std::mem::take(&mut self.is_answering) {
            self.place.handle().stands(Standing::Idle);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
