//! The other processes: `pricing`, which the shop asks and which continues its traces, and
//! `noise`, which only takes CPU time. Both are this program again, and both end when the pipe to
//! their standard input closes: also when the shop is killed.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{http::Request, trace};

/// No neighbour lives longer, whatever happens to the shop.
const LIFE_MAX: Duration = Duration::from_secs(700);

/// A process beside the shop.
#[derive(Debug)]
pub(crate) struct Neighbour {
    child: Child,
    said: BufReader<ChildStdout>,
}

// === impl Neighbour ===

impl Neighbour {
    pub(crate) fn pricing() -> Result<Self> {
        Self::start("pricing")
    }

    pub(crate) fn noise() -> Result<Self> {
        Self::start("noise")
    }

    fn start(role: &str) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = BufReader::new(child.stdout.take().context("the pipe was asked for")?);
        Ok(Self { child, said })
    }

    /// What the neighbour prints first.
    pub(crate) fn address(&mut self) -> Result<SocketAddr> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        line.trim().parse().with_context(|| format!("pricing said `{line}`"))
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "a neighbour of the shop: {status}");
        Ok(())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // Without effect on one that has been reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends this process when the shop is gone.
fn end_with_the_shop() {
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    thread::spawn(|| {
        thread::sleep(LIFE_MAX);
        std::process::exit(1);
    });
}

/// The downstream service. Every third price is not in its cache.
pub(crate) fn pricing() -> Result<()> {
    end_with_the_shop();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    static ASKED: AtomicU64 = AtomicU64::new(0);
    loop {
        let (stream, _) = listener.accept()?;
        let Ok(request) = Request::read(stream) else {
            continue;
        };
        thread::spawn(move || {
            let span = trace::root(&format!("GET {}", request.path), request.remote);
            trace::within(span, || {
                compute(Duration::from_micros(500));
                let asked = ASKED.fetch_add(1, Ordering::Relaxed);
                if asked.is_multiple_of(3) {
                    trace::step("cache miss", || thread::sleep(Duration::from_millis(6)));
                }
                let _ = request.answer(200, &(100 + asked % 7).to_string());
            });
        });
    }
}

/// The noisy neighbour: bursts of work on every CPU.
pub(crate) fn noise() -> Result<()> {
    end_with_the_shop();
    let cpus = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        for _ in 0..cpus {
            scope.spawn(|| {
                loop {
                    compute(Duration::from_millis(12));
                    thread::sleep(Duration::from_millis(25));
                }
            });
        }
    });
    Ok(())
}

/// Works for about that long.
#[inline(never)]
pub(crate) fn compute(time: Duration) -> u64 {
    let begin = Instant::now();
    let mut x = 0x2545_F491_4F6C_DD1D_u64;
    while begin.elapsed() < time {
        for _ in 0..500 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
    }
    std::hint::black_box(x)
}
