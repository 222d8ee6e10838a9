//! Who is at the other end of a connection, as the kernel knows it, and how many connections
//! everybody may have: what the ports and the command line decide by before a token was shown.

pub(crate) mod owner;
pub(crate) mod table;
pub(crate) mod trust;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Whom connections are counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    /// A user of this host.
    User(u32),
    /// A host; of IPv6 its network of 64 bits, of which one host may use any address.
    Host(IpAddr),
}

// === impl Peer ===

impl Peer {
    /// Whose connection was accepted. A socket of this host that nobody holds any more, or that the
    /// kernel does not tell of, is a host's: it shares with the others of that address.
    pub(crate) fn of(local: SocketAddr, remote: SocketAddr) -> Self {
        match is_here(local, remote).then(|| owner::of_connection(remote, local)) {
            Some(Ok(Some(owner))) => Self::User(owner.uid),
            _ => Self::host(remote.ip()),
        }
    }

    fn host(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                let network = u128::from(v6) & !u128::from(u64::MAX);
                Self::Host(if v6.is_loopback() { v6 } else { Ipv6Addr::from(network) }.into())
            }
            v4 => Self::Host(v4),
        }
    }

    /// Root, or whoever this process runs as: who could end it anyway.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::User(uid) if trust::is_trusted(uid, None))
    }
}

/// Whether the other end of a connection is on this host: only there the kernel knows whose it is.
fn is_here(local: SocketAddr, remote: SocketAddr) -> bool {
    remote.ip().to_canonical().is_loopback() || remote.ip() == local.ip()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn hosts_are_networks() {
        let host = |text: &str| Peer::host(text.parse().unwrap());
        assert_eq!(host("2001:db8::1"), host("2001:db8::ffff:1"));
        assert_ne!(host("2001:db8::1"), host("2001:db8:0:1::1"));
        assert_eq!(host("::ffff:192.0.2.1"), host("192.0.2.1"));
        assert_ne!(host("192.0.2.2"), host("192.0.2.1"));
    }

    #[test]
    fn a_connection_of_this_host_is_its_users() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // Not every host has IPv6.
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let local = listener.local_addr().unwrap();
            let client = TcpStream::connect(local).unwrap();
            let (_accepted, remote) = listener.accept().unwrap();
            let uid = rustix::process::getuid().as_raw();
            assert_eq!(Peer::of(local, remote), Peer::User(uid));
            assert!(Peer::of(local, remote).is_ours());
            // One that nobody holds is nobody's: the kernel would say root's.
            drop(client);
            assert_eq!(Peer::of(local, remote), Peer::host(remote.ip()));
        }
    }
}
