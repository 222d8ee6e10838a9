//! Asking a running hotspan: one request over plain HTTP, and its errors with what helps.
//!
//! Invariant: before anything is sent, it is known whose socket is at the other end, where that end
//! is on this host (`way.rs`).

use std::time::Duration;

use clap::Args;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;

use super::render::plain;
use crate::{document::span::SpanDocument, peers::owner};
use way::{Address, Stream, WayError};

mod way;

/// An answer may be as large as a list of the longest kind.
const LARGEST: usize = 1 << 30;
/// Longer than the API lets anyone wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which hotspan is asked.
#[derive(Clone, Debug, Args)]
pub struct Endpoint {
    /// Where the JSON API of `hotspan run` or `hotspan collector` is: a URL, or `unix:` and the socket
    /// in its data directory [default: that socket where it can be reached, else
    /// http://127.0.0.1:7690].
    #[arg(long, value_name = "URL", env = "HOTSPAN_API", value_parser = Address::parse)]
    pub api: Option<Address>,
    /// Token of that API, where it wants one. It is shown to no other user's program on this host.
    #[arg(long, value_name = "TOKEN", env = "HOTSPAN_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// User (name or number) whose hotspan on this host is trusted besides root's and your own.
    #[arg(long, value_name = "USER", env = "HOTSPAN_API_USER", value_parser = user)]
    pub api_user: Option<u32>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no hotspan answers at {0}. Start one with `hotspan run`, or name another with --api URL"
    )]
    Refused(String),
    /// Somebody else listens.
    #[error(
        "{0} is held by {1}, not by a hotspan of root or of yours: nothing was sent there. End that \
         program, or ask your hotspan's own socket (--api unix:DATA_DIR/api.sock); to trust it all the \
         same: --api-user USER"
    )]
    Stranger(String, String),
    /// Something else is wrong on the way.
    #[error("cannot ask {0}: {1}. Is --api right, and is it hotspan that listens there?")]
    Transport(String, String),
    /// The API says no.
    #[error("{cause}: {hint}")]
    Api {
        /// For programs.
        code: String,
        /// What is wrong.
        cause: String,
        /// What helps.
        hint: String,
        /// Spans that may have been meant.
        candidates: Vec<SpanDocument>,
    },
    /// It answers something else.
    #[error("{0} does not answer like hotspan: {1}. Is --api right, and both of one version?")]
    Unreadable(String, String),
}

/// An error as the API writes it.
#[derive(Deserialize)]
struct Envelope {
    error: Body,
}

#[derive(Deserialize)]
struct Body {
    code: String,
    cause: String,
    hint: String,
    #[serde(default)]
    candidates: Vec<SpanDocument>,
}

fn user(text: &str) -> Result<u32, String> {
    owner::user_id(text).ok_or_else(|| "there is no such user".to_owned())
}

// === impl Endpoint ===

impl Endpoint {
    /// The body of a successful answer.
    pub fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Vec<u8>, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| self.transport(&error))?;
        let asked = runtime.block_on(async {
            let late = |_| self.transport(&"no answer within 30 s");
            tokio::time::timeout(PATIENCE, self.ask(path, query)).await.map_err(late)?
        });
        let (status, body) = asked?;
        if status.is_success() {
            return Ok(body);
        }
        let Envelope { error } = serde_json::from_slice(&body)
            .map_err(|_| ClientError::Unreadable(self.name(), status.to_string()))?;
        Err(ClientError::Api {
            code: error.code,
            cause: plain(&error.cause),
            hint: plain(&error.hint),
            candidates: error.candidates,
        })
    }

    /// A body as what it should be.
    pub fn read<'a, T: Deserialize<'a>>(&self, body: &'a [u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body)
            .map_err(|error| ClientError::Unreadable(self.name(), plain(&error.to_string())))
    }

    async fn ask(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let way =
            way::open(self.api.as_ref(), self.api_user).await.map_err(|error| match error {
                WayError::Refused => ClientError::Refused(self.name()),
                WayError::Stranger(who) => ClientError::Stranger(self.name(), plain(&who)),
                WayError::Io(error) => self.transport(&error),
            })?;
        let mut target = path.to_owned();
        if !query.is_empty() {
            let mut written = form_urlencoded::Serializer::new(String::new());
            target += "?";
            target += &written.extend_pairs(query).finish();
        }
        let mut request = Request::get(target).header(header::HOST, way.host);
        // The socket's directory has let us in: that is what a token would show.
        if let Some(token) = self.token.as_ref().filter(|_| way.wants_token) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request
            .header(header::CONNECTION, "close")
            .body(Empty::<bytes::Bytes>::new())
            .map_err(|error| self.transport(&error))?;
        match way.stream {
            Stream::Unix(stream) => self.exchange(stream, request).await,
            Stream::Tcp(stream) => self.exchange(stream, request).await,
        }
    }

    async fn exchange(
        &self,
        stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
        request: Request<Empty<bytes::Bytes>>,
    ) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.transport(&error))?;
        let answered = async {
            let response = sender.send_request(request).await.map_err(|e| self.transport(&e))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST).collect().await;
            let body = body.map_err(|error| self.transport(&error))?;
            Ok((status, body.to_bytes().into()))
        };
        tokio::pin!(answered, connection);
        tokio::select! {
            // What came last may be in it already.
            biased;
            answered = &mut answered => answered,
            // Its error is the request's, too.
            _ = &mut connection => answered.await,
        }
    }

    fn name(&self) -> String {
        self.api.as_ref().map_or_else(|| way::DEFAULT.to_owned(), Address::to_string)
    }

    fn transport(&self, error: &dyn std::fmt::Display) -> ClientError {
        ClientError::Transport(self.name(), plain(&error.to_string()))
    }
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod api_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_there_is_reported_with_the_remedy() {
        // A port that was just free: nobody else on this machine is given it at once.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let api = Address::parse(&format!("http://{address}")).unwrap();
        let endpoint = Endpoint { api: Some(api), token: None, api_user: None };
        let error = endpoint.get("/api/health", &[]).unwrap_err();
        assert!(matches!(error, ClientError::Refused(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("hotspan run") && text.contains("--api"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
