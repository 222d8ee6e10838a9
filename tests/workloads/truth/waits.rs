//! Scenarios whose spans wait, each for one known reason. A helper thread makes the wait end; the
//! two meet on channels outside of the spans.

use std::{
    fs::File,
    io::Write as _,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    process::Command,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
};

use anyhow::{Result, ensure};

use crate::{
    clocks::{length_of_wait, sleep_ns},
    options,
    record::{Span, WAITS, gettid, join, lock, start},
};

/// A wait that another thread ends. `wait` runs in the span, `wake` in the helper after the length
/// of the wait, in a span of its own if the scenario wants that.
struct Handoff<W, K> {
    name: &'static str,
    state: &'static str,
    waker_in_span: bool,
    wait: W,
    wake: K,
}

impl<W, K> Handoff<W, K>
where
    W: FnMut(u64) + Send + 'static,
    K: FnMut() + Send + 'static,
{
    fn run(self) -> Result<()> {
        let Self { name, state, waker_in_span, mut wait, mut wake } = self;
        let waker_tid = Arc::new(AtomicU32::new(0));
        let (entering, enters) = mpsc::channel::<Option<Span>>();
        let waker = start({
            let waker_tid = waker_tid.clone();
            move || {
                waker_tid.store(gettid(), Ordering::Relaxed);
                for turn in 0..WAITS {
                    let Ok(span) = enters.recv() else { return };
                    let mut work = || {
                        sleep_ns(length_of_wait(turn));
                        wake();
                    };
                    match span {
                        Some(span) => span.around(work),
                        None => work(),
                    }
                }
            }
        });
        let waiter = start(move || {
            for turn in 0..WAITS {
                let ns = length_of_wait(turn);
                let produce = waker_in_span.then(|| Span::new("produce", "sleep").waiting(ns));
                let waker_span = produce.as_ref().map(Span::span_id);
                let mut span = Span::new(name, state).waiting(ns);
                if entering.send(produce).is_err() {
                    return;
                }
                span.enter();
                wait(turn);
                span.leave();
                span.waker = (waker_tid.load(Ordering::Relaxed), waker_span);
                span.keep();
            }
        });
        join(waiter)?;
        join(waker)
    }
}

fn read_byte(mut from: impl std::io::Read) {
    from.read_exact(&mut [0]).expect("the helper writes");
}

fn write_byte(mut to: impl std::io::Write) {
    to.write_all(b"x").expect("the waiter lives");
}

pub(crate) fn pipe() -> Result<()> {
    let (mut reader, mut writer) = std::io::pipe()?;
    let wait = move |_| read_byte(&mut reader);
    let wake = move || write_byte(&mut writer);
    Handoff { name: "pipe read", state: "notify", waker_in_span: false, wait, wake }.run()
}

pub(crate) fn unix_socket() -> Result<()> {
    let (mut reader, mut writer) = UnixStream::pair()?;
    let wait = move |_| read_byte(&mut reader);
    let wake = move || write_byte(&mut writer);
    Handoff { name: "unix socket read", state: "socket", waker_in_span: false, wait, wake }.run()
}

pub(crate) fn tcp_socket() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut served, _) = listener.accept()?;
    client.set_nodelay(true)?;
    let wait = move |_| read_byte(&mut served);
    let wake = move || write_byte(&mut client);
    Handoff { name: "tcp socket read", state: "socket", waker_in_span: false, wait, wake }.run()
}

/// poll(2) and epoll_wait(2) in turn.
pub(crate) fn poll() -> Result<()> {
    let (mut reader, mut writer) = std::io::pipe()?;
    // SAFETY: plain integers.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    ensure!(epoll >= 0, "epoll_create1: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just opened and belongs to nobody else.
    let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
    let fd = reader.as_raw_fd();
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    let (operation, set) = (libc::EPOLL_CTL_ADD, epoll.as_raw_fd());
    // SAFETY: both descriptors are open and `event` is valid.
    let added = unsafe { libc::epoll_ctl(set, operation, fd, &raw mut event) };
    ensure!(added == 0, "epoll_ctl: {}", std::io::Error::last_os_error());
    let wait = move |turn: u64| {
        let ready = if turn.is_multiple_of(2) {
            let mut watched = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            // SAFETY: `watched` is one valid pollfd.
            unsafe { libc::poll(&raw mut watched, 1, 1000) }
        } else {
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            // SAFETY: the set is open and there is room for one event.
            unsafe { libc::epoll_wait(epoll.as_raw_fd(), &raw mut event, 1, 1000) }
        };
        assert_eq!(ready, 1, "the helper writes");
        read_byte(&mut reader);
    };
    let wake = move || write_byte(&mut writer);
    Handoff { name: "poll", state: "poll", waker_in_span: false, wait, wake }.run()
}

fn by_condvar(name: &'static str, waker_in_span: bool) -> Result<()> {
    let shared = Arc::new((Mutex::new(false), Condvar::new()));
    let wait = {
        let shared = shared.clone();
        move |_| {
            let (mutex, condvar) = &*shared;
            let mut ready = lock(mutex);
            while !*ready {
                ready = condvar.wait(ready).unwrap_or_else(PoisonError::into_inner);
            }
            *ready = false;
        }
    };
    // Notifies after unlocking, so that the woken thread does not meet the mutex.
    let wake = move || {
        let (mutex, condvar) = &*shared;
        *lock(mutex) = true;
        condvar.notify_one();
    };
    Handoff { name, state: "notify", waker_in_span, wait, wake }.run()
}

pub(crate) fn condvar() -> Result<()> {
    by_condvar("condvar", false)
}

pub(crate) fn producers() -> Result<()> {
    by_condvar("consume", true)
}

/// The holder is in a span, and that is the cause.
pub(crate) fn mutex() -> Result<()> {
    let mutex = Arc::new(Mutex::new(()));
    let (held, is_held) = mpsc::channel();
    let (again, may_again) = mpsc::channel::<()>();
    let holder = start({
        let mutex = mutex.clone();
        move || {
            for turn in 0..WAITS {
                let ns = length_of_wait(turn);
                let mut span = Span::new("hold lock", "sleep").waiting(ns);
                span.enter();
                let guard = lock(&mutex);
                let sent = held.send((gettid(), span.span_id()));
                sleep_ns(ns);
                drop(guard);
                span.leave();
                span.keep();
                if sent.is_err() || may_again.recv().is_err() {
                    return;
                }
            }
        }
    });
    let waiter = start(move || {
        for turn in 0..WAITS {
            let mut span = Span::new("want lock", "lock").waiting(length_of_wait(turn));
            let Ok((holder, holding_span)) = is_held.recv() else {
                return;
            };
            span.enter();
            drop(lock(&mutex));
            span.leave();
            span.waker = (holder, Some(holding_span));
            span.keep();
            if again.send(()).is_err() {
                return;
            }
        }
    });
    join(waiter)?;
    join(holder)
}

pub(crate) fn sleep() -> Result<()> {
    join(start(|| {
        for turn in 0..WAITS {
            let ns = length_of_wait(turn);
            Span::new("sleep", "sleep").waiting(ns).around(|| sleep_ns(ns));
        }
    }))
}

pub(crate) fn fsync() -> Result<()> {
    let path = options().dir.join(format!("truth.{}", std::process::id()));
    let mut file = File::create_new(&path)?;
    std::fs::remove_file(&path)?;
    join(start(move || {
        for turn in 0..WAITS {
            let block = vec![turn as u8; 256 * 1024];
            Span::new("fsync", "disk").waiting(0).around(|| {
                file.write_all(&block).expect("the disk has room");
                file.sync_all().expect("the disk works");
            });
        }
    }))
}

/// A child that lives as long as its standard input is open for the asked time.
pub(crate) fn waitpid() -> Result<()> {
    join(start(|| {
        for turn in 0..WAITS {
            let ns = length_of_wait(turn);
            let mut child = Command::new("sleep")
                .arg(format!("0.{:03}", ns / 1_000_000))
                .spawn()
                .expect("the program `sleep` exists");
            Span::new("waitpid", "child").waiting(ns).around(|| {
                child.wait().expect("the child is ours");
            });
        }
    }))
}
