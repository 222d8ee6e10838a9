//! Whose a TCP socket of this host is: the kernel's word (`sock_diag(7)`), which any user may ask for
//! and nobody can forge.
//!
//! A socket without an inode is held by no process: a connection nobody has accepted yet, or one
//! whose end was closed. The kernel says "root" of such (`sock_i_uid` of `net/core/sock.c`, before
//! 6.17), so they have no owner here.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST` of `linux/netlink.h`.
const REQUEST: u16 = 1;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`.
const QUESTION: usize = 56;
/// `struct inet_diag_msg`.
const ANSWER: usize = 72;
/// `TCP_LISTEN` of `net/tcp_states.h`.
const LISTEN: u8 = 10;

/// Who holds a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The user who made it, in this process's user namespace.
    pub uid: u32,
    /// What the descriptors of its processes point to.
    pub inode: u32,
}

/// The owner of the end `local` of a connection with `remote`.
pub(crate) fn of_connection(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Owner>> {
    // Without the connection the kernel answers with who listens at `local`.
    Ok(ask(local, remote)?.filter(|found| found.state != LISTEN).map(|found| found.owner))
}

/// The same for kernels without `tcp_diag`, as `/proc/net/tcp` has it: a line for every socket of the
/// host, so for those who ask once.
pub(crate) fn listed_of_connection(local: SocketAddr, remote: SocketAddr) -> Option<Owner> {
    let (local, remote) = (in_hex(local), in_hex(remote));
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().zip(local.iter().zip(&remote)).find_map(
        |(file, (local, remote))| {
            let text = fs::read_to_string(file).ok()?;
            text.lines().find_map(|line| {
                let fields: Vec<&str> = line.split_ascii_whitespace().collect();
                if fields.get(1)? != local || fields.get(2)? != remote {
                    return None;
                }
                let owner = Owner {
                    uid: fields.get(7)?.parse().ok()?,
                    inode: fields.get(9)?.parse().ok()?,
                };
                (owner.inode != 0).then_some(owner)
            })
        },
    )
}

/// An address as `/proc/net/tcp` and as `/proc/net/tcp6` have it.
fn in_hex(address: SocketAddr) -> [String; 2] {
    let port = address.port();
    let (v4, v6) = match address.ip().to_canonical() {
        IpAddr::V4(v4) => (Some(v4), v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => (None, v6),
    };
    let words = |bytes: &[u8]| -> String {
        let words = bytes.chunks_exact(4).map(|four| four.try_into().unwrap_or_default());
        words.map(|four| format!("{:08X}", u32::from_ne_bytes(four))).collect()
    };
    [
        v4.map_or_else(String::new, |v4| format!("{}:{port:04X}", words(&v4.octets()))),
        format!("{}:{port:04X}", words(&v6.octets())),
    ]
}

/// The owner of what listens at an address.
pub(crate) fn of_listener(address: SocketAddr) -> io::Result<Option<Owner>> {
    let nobody: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let found = ask(address, (nobody, 0).into())?;
    Ok(found.filter(|found| found.state == LISTEN).map(|found| found.owner))
}

struct Found {
    state: u8,
    owner: Owner,
}

fn ask(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Found>> {
    let flags = SocketFlags::CLOEXEC;
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))?;
    send(&socket, &question(local, remote), SendFlags::empty())?;
    let mut bytes = [0; 512];
    // The kernel answers before `send` returns.
    let (length, _) = recv(&socket, &mut bytes, RecvFlags::DONTWAIT)?;
    answer(&bytes[..length], local.port())
}

fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let (local_ip, remote_ip) = (local.ip().to_canonical(), remote.ip().to_canonical());
    let family = if local_ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let mut bytes = Vec::with_capacity(HEADER + QUESTION);
    bytes.extend(((HEADER + QUESTION) as u32).to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family.as_raw() as u8, rustix::net::ipproto::TCP.as_raw().get() as u8, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    for ip in [local_ip, remote_ip] {
        let mut sixteen = [0; 16];
        match ip {
            IpAddr::V4(v4) => sixteen[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => sixteen = v6.octets(),
        }
        bytes.extend(sixteen);
    }
    bytes.extend(0_u32.to_ne_bytes());
    // INET_DIAG_NOCOOKIE
    bytes.extend([0xff; 8]);
    bytes
}

fn answer(bytes: &[u8], port: u16) -> io::Result<Option<Found>> {
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let four = |at: usize| -> io::Result<[u8; 4]> {
        bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).ok_or_else(short)
    };
    let kind = bytes.get(4..6).and_then(|two| two.try_into().ok()).map(u16::from_ne_bytes);
    match kind.ok_or_else(short)? {
        ERROR => {
            let errno = i32::from_ne_bytes(four(HEADER)?).saturating_neg();
            match rustix::io::Errno::from_raw_os_error(errno) {
                rustix::io::Errno::NOENT => Ok(None),
                errno => Err(errno.into()),
            }
        }
        BY_FAMILY if bytes.len() >= HEADER + ANSWER => {
            let [_, state, ..] = four(HEADER)?;
            let [high, low, ..] = four(HEADER + 4)?;
            let uid = u32::from_ne_bytes(four(HEADER + 64)?);
            let inode = u32::from_ne_bytes(four(HEADER + 68)?);
            let is_held = inode != 0 && u16::from_be_bytes([high, low]) == port;
            Ok(is_held.then_some(Found { state, owner: Owner { uid, inode } }))
        }
        _ => Err(short()),
    }
}

// === impl Owner ===

impl Owner {
    /// For messages: the user, and the process where it can be found.
    pub(crate) fn text(self) -> String {
        let user = match user_name(self.uid) {
            Some(name) => format!("{name} (uid {})", self.uid),
            None => format!("uid {}", self.uid),
        };
        match self.process() {
            Some((pid, comm)) => format!("{user}, process {pid} ({comm})"),
            None => user,
        }
    }

    /// A process that holds it, and its name.
    fn process(self) -> Option<(u32, String)> {
        let socket = format!("socket:[{}]", self.inode);
        for process in fs::read_dir("/proc").ok()?.flatten() {
            let name = process.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
            let mut targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
            if targets.any(|target| target == Path::new(&socket)) {
                let comm = fs::read(process.path().join("comm")).unwrap_or_default();
                let comm = String::from_utf8_lossy(&comm).trim_end().replace(char::is_control, "?");
                return Some((pid, comm));
            }
        }
        None
    }
}

/// The name of a user as `/etc/passwd` has it.
fn user_name(uid: u32) -> Option<String> {
    users().into_iter().find(|(_, other)| *other == uid).map(|(name, _)| name)
}

/// The number of a user, by number or by name as `/etc/passwd` has it.
pub(crate) fn user_id(text: &str) -> Option<u32> {
    text.parse()
        .ok()
        .or_else(|| users().into_iter().find(|(name, _)| name == text).map(|(_, uid)| uid))
}

fn users() -> Vec<(String, u32)> {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    text.lines().filter_map(user).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn who_listens_and_who_has_accepted() {
        let uid = rustix::process::getuid().as_raw();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let owner = of_listener(address).unwrap().unwrap();
        assert_eq!(owner.uid, uid);
        assert_eq!(owner.process().unwrap().0, std::process::id());
        assert!(owner.text().contains(&std::process::id().to_string()));
        let client = TcpStream::connect(address).unwrap();
        let own = client.local_addr().unwrap();
        assert_eq!(of_connection(own, address).unwrap().unwrap().uid, uid);
        // In the backlog it is nobody's, whoever listens.
        assert_eq!(of_connection(address, own).unwrap(), None);
        assert_eq!(listed_of_connection(address, own), None);
        let accepted = listener.accept().unwrap();
        assert_eq!(of_connection(address, own).unwrap().unwrap().uid, uid);
        assert_eq!(listed_of_connection(address, own), of_connection(address, own).unwrap());
        drop((listener, accepted));
        assert_eq!(of_listener(address).unwrap(), None);
    }

    #[test]
    fn connections_of_both_families_are_listed() {
        let Ok(listener) = TcpListener::bind("[::]:0") else { return };
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "::1"] {
            let client = TcpStream::connect((host, port)).unwrap();
            let (own, peer) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let _accepted = listener.accept().unwrap();
            let asked = of_connection(peer, own).unwrap();
            assert!(asked.is_some() && listed_of_connection(peer, own) == asked, "{host}");
        }
    }

    #[test]
    fn what_the_kernel_does_not_say_is_an_error() {
        for bytes in [&[][..], &[0; 8], &[0; 20]] {
            assert!(answer(bytes, 1).is_err());
        }
    }
}
