//! A network between agent and collector that a test can break: it forwards, trickles, swallows, or
//! resets connections at random byte counts. Plain threads, two per connection.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::random::Random;

/// How long a pump waits for bytes before it looks at the rules again.
const LOOK: Duration = Duration::from_millis(20);

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Forward,
    /// So many bytes, then a pause of 20 ms, in each direction.
    Trickle(usize),
}

/// Listens until it goes; its connections end with it.
#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: u16,
    rule: Mutex<Rule>,
    /// Connections of an earlier age are half-open: nothing comes through, nobody is notified.
    age: AtomicU64,
    /// Resets still to come, and after how many bytes, at random from to.
    resets_left: AtomicU64,
    reset_after: Mutex<(u64, u64, Random)>,
    resets: AtomicU64,
    accepted: AtomicU64,
    forwarded: AtomicU64,
    ended: AtomicBool,
}

/// One connection, shared by its two pumps.
struct Pair {
    shared: Arc<Shared>,
    agent: TcpStream,
    collector: TcpStream,
    age: u64,
    /// Bytes until a reset; `u64::MAX` for never.
    left: Mutex<u64>,
    /// Not at once, but instead of the next answer: what came before it is stored, and the agent
    /// does not know.
    swallows_answer: bool,
    over: AtomicBool,
}

// === impl Proxy ===

impl Proxy {
    /// Between a port of its own and `target`.
    pub fn to(target: u16) -> Result<Self> {
        Self::on(TcpListener::bind(("127.0.0.1", 0))?, target)
    }

    /// Between a listener, which may be of another network namespace, and `target` in this one.
    pub fn on(listener: TcpListener, target: u16) -> Result<Self> {
        let port = listener.local_addr()?.port();
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            target,
            rule: Mutex::new(Rule::Forward),
            age: AtomicU64::new(0),
            resets_left: AtomicU64::new(0),
            reset_after: Mutex::new((0, 1, Random::new(0))),
            resets: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &accepting));
        Ok(Self { port, shared })
    }

    pub fn rule(&self, rule: Rule) {
        *locked(&self.shared.rule) = rule;
    }

    /// Every connection of now is half-open from now on; later ones work.
    pub fn cut_silently(&self) {
        self.shared.age.fetch_add(1, Relaxed);
    }

    /// Resets the next `count` connections, each after a random number of bytes; one in four
    /// instead of the collector's next answer.
    pub fn reset(&self, count: u64, after: (u64, u64), random: Random) {
        *locked(&self.shared.reset_after) = (after.0, after.1, random);
        self.shared.resets_left.store(count, Relaxed);
        // Those of now are cut by it too, but so that both sides hear of it.
        self.shared.age.fetch_add(1 << 32, Relaxed);
    }

    /// Connections reset so far.
    pub fn resets(&self) -> u64 {
        self.shared.resets.load(Relaxed)
    }

    /// Connections so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Relaxed)
    }

    /// Bytes so far, in both directions.
    pub fn forwarded(&self) -> u64 {
        self.shared.forwarded.load(Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Relaxed);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.ended.load(Relaxed) {
        match listener.accept() {
            Ok((agent, _)) => {
                shared.accepted.fetch_add(1, Relaxed);
                // A collector that is away: the connection ends as if nobody listened.
                let Ok(collector) = TcpStream::connect(("127.0.0.1", shared.target)) else {
                    linger_none(&agent);
                    continue;
                };
                if let Err(error) = Pair::start(Arc::clone(shared), agent, collector) {
                    eprintln!("proxy: {error:#}");
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(LOOK / 4),
            Err(error) => eprintln!("proxy: cannot accept: {error}"),
        }
    }
}

// === impl Pair ===

impl Pair {
    fn start(shared: Arc<Shared>, agent: TcpStream, collector: TcpStream) -> Result<()> {
        for stream in [&agent, &collector] {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(LOOK))?;
            stream.set_nodelay(true)?;
        }
        let resets_left = shared.resets_left.load(Relaxed);
        let left = match resets_left {
            0 => u64::MAX,
            _ => {
                shared.resets_left.fetch_sub(1, Relaxed);
                let (from, to, random) = &mut *locked(&shared.reset_after);
                random.within(*from, *to)
            }
        };
        let swallows_answer = resets_left % 4 == 1;
        let age = shared.age.load(Relaxed);
        let (left, over) = (Mutex::new(left), AtomicBool::new(false));
        let pair = Arc::new(Self { shared, agent, collector, age, left, swallows_answer, over });
        let back = Arc::clone(&pair);
        std::thread::spawn(move || pair.pump(&pair.agent, &pair.collector, false));
        std::thread::spawn(move || back.pump(&back.collector, &back.agent, true));
        Ok(())
    }

    fn pump(&self, mut from: &TcpStream, mut to: &TcpStream, answers: bool) {
        let mut buffer = [0; 16 << 10];
        while !self.over.load(Relaxed) && !self.shared.ended.load(Relaxed) {
            let age = self.shared.age.load(Relaxed);
            if age >> 32 != self.age >> 32 {
                return self.reset();
            }
            if age != self.age {
                // Half-open: open, and nothing comes through.
                std::thread::sleep(LOOK);
                continue;
            }
            let rule = *locked(&self.shared.rule);
            let most = match rule {
                Rule::Forward => buffer.len(),
                Rule::Trickle(bytes) => bytes.min(buffer.len()),
            };
            let got = match from.read(&mut buffer[..most]) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error)
                    if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) =>
                {
                    continue;
                }
                Err(_) => break,
            };
            // Both directions count, and the reset comes exactly after the last byte.
            let (through, last) = {
                let mut left = locked(&self.left);
                let through = (got as u64).min(*left);
                *left -= if *left == u64::MAX { 0 } else { through };
                match self.swallows_answer {
                    true if *left == 0 && answers => (0, true),
                    true => (got, false),
                    false => (through as usize, *left == 0),
                }
            };
            if to.write_all(&buffer[..through]).is_err() {
                break;
            }
            self.shared.forwarded.fetch_add(through as u64, Relaxed);
            if last {
                return self.reset();
            }
            if rule != Rule::Forward {
                std::thread::sleep(LOOK);
            }
        }
        // The other direction ends at once: HTTP/2 has no use for half of a connection.
        if !self.over.swap(true, Relaxed) {
            let _ = self.agent.shutdown(Shutdown::Both);
            let _ = self.collector.shutdown(Shutdown::Both);
        }
    }

    /// RST instead of FIN, to both sides.
    fn reset(&self) {
        if self.over.swap(true, Relaxed) {
            return;
        }
        linger_none(&self.agent);
        linger_none(&self.collector);
        self.shared.resets.fetch_add(1, Relaxed);
    }
}

/// What is closed next is reset.
fn linger_none(stream: &TcpStream) {
    let none = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = libc::socklen_t::try_from(size_of::<libc::linger>()).unwrap_or(0);
    let fd = stream.as_raw_fd();
    // SAFETY: the descriptor is open, and the option is read during the call only.
    unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const none).cast(), size);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a proxy's resets.
pub fn wait_for_resets(proxy: &Proxy, count: u64, limit: Duration) -> Result<()> {
    let done = || proxy.resets() >= count;
    ensure!(crate::host::wait_until(limit, done), "{} of {count} resets", proxy.resets());
    Ok(())
}
