//! The way to the collector: a connection over which the token may be sent.

use std::{
    io,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::{
    codegen::{BoxFuture, Service, http::Uri},
    transport::{Channel, Endpoint, Error},
};

use crate::peers::trust;

/// Connects to an endpoint, or says whose program is there instead.
pub(super) async fn connect(endpoint: &Endpoint, trusted: Option<u32>) -> Result<Channel, Error> {
    endpoint.connect_with_connector(Way { trusted }).await
}

struct Way {
    /// User whose collector on this host is trusted besides root's and our own.
    trusted: Option<u32>,
}

impl Service<Uri> for Way {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = BoxFuture<Self::Response, io::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let trusted = self.trusted;
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
            let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await?;
            stream.set_nodelay(true)?;
            trust::check(&stream, trusted).await.map_err(|error| {
                io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    format!("{error}: no token was sent"),
                )
            })?;
            Ok(TokioIo::new(stream))
        })
    }
}
