//! Tokens before bodies: nothing of a request is read, by us or by the codec behind us, before its
//! token was looked at. A probe shows none, so it is read as far as a probe goes, uncompressed, and
//! not waited for.

use std::{
    hint::black_box,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::Limited;
use hyper::{Request, Response, header};
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service},
    server::NamedService,
};

use super::{connections::Peer, refusal::Refusal, sessions::Sessions};

const PROBE: &str = "/hotspan.ingest.v1.Ingest/Probe";
/// Says how a message is packed; of what is not packed it is absent or `identity`.
const ENCODING: &str = "grpc-encoding";
/// Bytes of a probe's request.
pub(super) const PROBE_BYTES: usize = 1 << 10;
/// From a probe's head to its answer.
const PROBE_WITHIN: Duration = Duration::from_secs(2);

/// What every request passes.
#[derive(Clone)]
pub(super) struct Gate<S> {
    pub inner: S,
    pub keys: Arc<Keys>,
}

/// What opens it.
pub(super) struct Keys {
    /// `Bearer TOKEN`, as it must come.
    pub authorization: String,
    /// Where the token lies, for who has not got it.
    pub token_hint: String,
    pub sessions: Arc<Sessions>,
}

// === impl Keys ===

impl Keys {
    fn check(&self, request: &Request<Body>) -> Result<(), Refusal> {
        let given = request.headers().get(header::AUTHORIZATION);
        let given = given.map_or(&[][..], |value| value.as_bytes());
        match is_same(self.authorization.as_bytes(), given) {
            true => Ok(()),
            false => Err(Refusal::Token { hint: self.token_hint.clone() }),
        }
    }

    fn refuse(&self, refusal: Refusal) -> Response<Body> {
        self.sessions.count(refusal.reason());
        Status::from(refusal).into_http()
    }
}

// === impl Gate ===

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<Response<Body>, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let keys = self.keys.clone();
        if request.uri().path() != PROBE {
            if let Err(refusal) = keys.check(&request) {
                return Box::pin(async move { Ok(keys.refuse(refusal)) });
            }
            if let Some(peer) = request.extensions().get::<Peer>() {
                peer.proven();
            }
            return Box::pin(self.inner.call(request));
        }
        let packed = request.headers().get(ENCODING).is_some_and(|value| value != "identity");
        if packed {
            return Box::pin(async move { Ok(keys.refuse(Refusal::Probe("is compressed"))) });
        }
        let request = request.map(|body| Body::new(Limited::new(body, PROBE_BYTES)));
        let answered = tokio::time::timeout(PROBE_WITHIN, self.inner.call(request));
        Box::pin(async move {
            match answered.await {
                Ok(answered) => answered,
                Err(_) => Ok(keys.refuse(Refusal::Probe("does not end"))),
            }
        })
    }
}

impl<S: NamedService> NamedService for Gate<S> {
    const NAME: &'static str = S::NAME;
}

/// Compares in a time that depends on the lengths alone.
fn is_same(expected: &[u8], given: &[u8]) -> bool {
    let mut difference = usize::from(expected.len() != given.len());
    for (n, byte) in given.iter().enumerate() {
        difference |= usize::from(byte ^ expected[n % expected.len()]);
    }
    black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::is_same;

    #[test]
    fn tokens_are_the_same_or_not() {
        assert!(is_same(b"Bearer x", b"Bearer x"));
        for other in [&b"Bearer y"[..], b"", b"Bearer ", b"Bearer xB", b"Bearer xBearer x"] {
            assert!(!is_same(b"Bearer x", other));
        }
    }
}
