//! The way to a hotspan, opened before anything is said: its socket in a directory that only its
//! owner can enter, else a port whose holder is trusted.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use tokio::net::{TcpStream, UnixStream};

use crate::{
    config::{self, Surroundings},
    peers::trust::{self, Distrust},
    web::SOCKET,
};

/// Where hotspan answers unless it is told otherwise.
pub(super) const DEFAULT: &str = "http://127.0.0.1:7690";

/// Where an API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `HOST[:PORT]`.
    Http(String),
    /// A socket.
    Unix(PathBuf),
}

/// An open way.
pub(super) struct Way {
    pub stream: Stream,
    /// For the request.
    pub host: String,
    /// Whether a token says anything there.
    pub wants_token: bool,
}

pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum WayError {
    #[error("nobody listens")]
    Refused,
    #[error("held by {0}")]
    Stranger(String),
    #[error(transparent)]
    Io(io::Error),
}

impl From<Distrust> for WayError {
    fn from(distrust: Distrust) -> Self {
        match distrust {
            Distrust::Stranger(who) => Self::Stranger(who),
            Distrust::Unknown(error) => Self::Io(error),
        }
    }
}

// === impl Address ===

impl Address {
    /// `http://HOST[:PORT]`, without a slash at its end, or `unix:PATH`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path {
                "" => Err("must be like unix:/var/lib/hotspan/api.sock".to_owned()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        if text.starts_with("https://") {
            return Err("hotspan speaks plain HTTP; to reach another host use a tunnel: \
                        ssh -L 7690:127.0.0.1:7690 HOST"
                .to_owned());
        }
        let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        if address.is_empty() || address.contains(['/', '?', '#', '@']) || address.contains("://") {
            return Err("must be like http://127.0.0.1:7690".to_owned());
        }
        Ok(Self::Http(address.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(authority) => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Opens the way to the API that was named, or to the one there usually is.
pub(super) async fn open(api: Option<&Address>, trusted: Option<u32>) -> Result<Way, WayError> {
    match api {
        Some(Address::Unix(path)) => unix(path, trusted).await,
        Some(Address::Http(authority)) => tcp(authority, trusted).await,
        None => {
            let usual = config::usual_data_dir(&Surroundings::of_process());
            if let Ok(dir) = usual
                && let Ok(way) = unix(&dir.join(SOCKET), trusted).await
            {
                return Ok(way);
            }
            // None there, or another user's.
            tcp(DEFAULT.trim_start_matches("http://"), trusted).await
        }
    }
}

async fn unix(path: &Path, trusted: Option<u32>) -> Result<Way, WayError> {
    let stream = UnixStream::connect(path).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => WayError::Refused,
        _ => WayError::Io(error),
    })?;
    let uid = stream.peer_cred().map_err(WayError::Io)?.uid();
    if !trust::is_trusted(uid, trusted) {
        return Err(WayError::Stranger(format!("uid {uid}")));
    }
    Ok(Way { stream: Stream::Unix(stream), host: "localhost".to_owned(), wants_token: false })
}

async fn tcp(authority: &str, trusted: Option<u32>) -> Result<Way, WayError> {
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    let target = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    let mut last = WayError::Refused;
    for address in tokio::net::lookup_host(target).await.map_err(WayError::Io)? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                trust::check(&stream, trusted).await?;
                let host = authority.to_owned();
                return Ok(Way { stream: Stream::Tcp(stream), host, wants_token: true });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => last = WayError::Io(error),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_plain_http_or_a_socket() {
        let parsed = |text: &str| Address::parse(text).map(|address| address.to_string());
        assert_eq!(parsed("127.0.0.1:7690").unwrap(), "http://127.0.0.1:7690");
        assert_eq!(parsed("http://localhost:1/").unwrap(), "http://localhost:1");
        assert_eq!(parsed("unix:/a/b").unwrap(), "unix:/a/b");
        assert_eq!(parsed("unix:///a/b").unwrap(), "unix:/a/b");
        assert!(parsed("https://localhost").unwrap_err().contains("ssh -L"));
        for wrong in ["", "http://", "ftp://x", "http://x/api", "http://a@b", "unix:"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
