//! Whether the other end of a connection may be shown a secret. Anybody can listen at a port of this
//! host first, so there the kernel is asked who does; what is on another host was named by whoever
//! runs us, and is believed.

use std::{io, net::SocketAddr, time::Duration};

use tokio::net::TcpStream;

use super::owner::{self, Owner};

/// Between looks at a connection that nobody has accepted yet: nobody's, so far.
const LOOK: Duration = Duration::from_millis(5);

/// Why it may not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Distrust {
    /// Another user's program.
    #[error("it is held by {0}")]
    Stranger(String),
    /// Nobody can tell.
    #[error("cannot see whose it is: {0}")]
    Unknown(#[from] io::Error),
}

/// Returns once the other end is known to be on another host, or held by root, by whoever we run as,
/// or by `trusted`. Waits for as long as nobody has accepted the connection; one that was accepted and
/// closed at once is an error.
pub(crate) async fn check(stream: &TcpStream, trusted: Option<u32>) -> Result<(), Distrust> {
    let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
    if !super::is_here(local, remote) {
        return Ok(());
    }
    let holder = holder(stream, local, remote).await?;
    match is_trusted(holder.uid, trusted) {
        true => Ok(()),
        false => Err(Distrust::Stranger(holder.text())),
    }
}

/// Whether a user's program may be shown what is ours.
pub(crate) fn is_trusted(uid: u32, trusted: Option<u32>) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw() || Some(uid) == trusted
}

async fn holder(stream: &TcpStream, local: SocketAddr, remote: SocketAddr) -> io::Result<Owner> {
    loop {
        let asked = owner::of_connection(remote, local);
        // Without `tcp_diag` the kernel says of every socket that there is none.
        let listed = || owner::listed_of_connection(remote, local);
        match asked.as_ref().ok().copied().flatten().or_else(listed) {
            Some(owner) => return Ok(owner),
            None => asked?,
        };
        // Whoever closed it already is not to be found any more.
        let heard = tokio::time::timeout(LOOK, stream.peek(&mut [0; 1])).await;
        match heard.ok().transpose()? {
            Some(0) => return Err(io::ErrorKind::ConnectionReset.into()),
            Some(_) => tokio::time::sleep(LOOK).await,
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_oneself_and_whom_one_names_are_trusted() {
        let own = rustix::process::geteuid().as_raw();
        assert!(is_trusted(0, None) && is_trusted(own, None) && is_trusted(7, Some(7)));
        assert!(!is_trusted(4_000_000_001, None) && !is_trusted(4_000_000_001, Some(7)));
    }

    /// As a proxy does whose server is away: it must not be waited for.
    #[tokio::test]
    async fn a_connection_that_was_closed_at_once_is_an_error() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        drop(listener.accept().await.unwrap());
        let error = check(&stream, None).await.unwrap_err();
        assert!(matches!(error, Distrust::Unknown(_)), "{error}");
    }
}
