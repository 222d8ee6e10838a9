//! Asking a running hotspan: one request over plain HTTP, and its errors with what helps.

use std::{io, time::Duration};

use clap::Args;
use serde::Deserialize;

use super::render::plain;
use crate::document::span::SpanDocument;

/// An answer may be as large as a list of the longest kind.
const LARGEST: u64 = 1 << 30;
/// Longer than the API lets anyone wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which hotspan is asked.
#[derive(Clone, Debug, Args)]
pub struct Endpoint {
    /// Address of the JSON API of `hotspan run` or `hotspan collector`.
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:7690",
        env = "HOTSPAN_API",
        value_parser = base
    )]
    pub api: String,
    /// Token of that API, where it wants one.
    #[arg(long, value_name = "TOKEN", env = "HOTSPAN_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no hotspan answers at {0}. Start one with `hotspan run`, or name another with --api URL"
    )]
    Refused(String),
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

/// `http://HOST[:PORT]`, without a slash at its end.
fn base(text: &str) -> Result<String, String> {
    if text.starts_with("https://") {
        return Err("hotspan speaks plain HTTP; to reach another host use a tunnel: \
                    ssh -L 7690:127.0.0.1:7690 HOST"
            .to_owned());
    }
    let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    if address.is_empty() || address.contains(['/', '?', '#']) || address.contains("://") {
        return Err("must be like http://127.0.0.1:7690".to_owned());
    }
    Ok(format!("http://{address}"))
}

// === impl Endpoint ===

impl Endpoint {
    /// The body of a successful answer.
    pub fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Vec<u8>, ClientError> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            // A proxy for the web knows nothing of this machine's loopback.
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        let mut request = agent.get(format!("{}{path}", self.api));
        for (name, value) in query {
            request = request.query(*name, value);
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut response = request.call().map_err(|error| self.transport(error))?;
        let body = response.body_mut().with_config().limit(LARGEST).read_to_vec();
        let body = body.map_err(|error| self.transport(error))?;
        if response.status().is_success() {
            return Ok(body);
        }
        let Envelope { error } = serde_json::from_slice(&body).map_err(|_| {
            ClientError::Unreadable(self.api.clone(), response.status().to_string())
        })?;
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
            .map_err(|error| ClientError::Unreadable(self.api.clone(), plain(&error.to_string())))
    }

    fn transport(&self, error: ureq::Error) -> ClientError {
        match error {
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                ClientError::Refused(self.api.clone())
            }
            ureq::Error::ConnectionFailed => ClientError::Refused(self.api.clone()),
            error => ClientError::Transport(self.api.clone(), plain(&error.to_string())),
        }
    }
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod api_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_plain_http() {
        assert_eq!(base("127.0.0.1:7690").unwrap(), "http://127.0.0.1:7690");
        assert_eq!(base("http://localhost:1/").unwrap(), "http://localhost:1");
        assert!(base("https://localhost").unwrap_err().contains("ssh -L"));
        for wrong in ["", "http://", "ftp://x", "http://x/api"] {
            assert!(base(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nobody_there_is_reported_with_the_remedy() {
        // A port that was just free: nobody else on this machine is given it at once.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let endpoint = Endpoint { api: format!("http://{address}"), token: None };
        let error = endpoint.get("/api/health", &[]).unwrap_err();
        assert!(matches!(error, ClientError::Refused(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("hotspan run") && text.contains("--api"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
