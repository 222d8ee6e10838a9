//! The customers: requests at a steady rate for a bounded time, whatever the shop makes of them.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    http,
    queue::{Queue, lock},
};

const CUSTOMERS: usize = 8;

/// Out of ten requests.
const MIX: [&str; 10] = [
    "/checkout",
    "/stock",
    "/checkout",
    "/stock",
    "/restock",
    "/checkout",
    "/report",
    "/stock",
    "/checkout",
    "/stock",
];

/// How long the requests took, by path.
#[derive(Debug)]
pub(crate) struct Served(BTreeMap<&'static str, Vec<Duration>>);

/// Asks for pages until the time is over.
pub(crate) fn run(address: SocketAddr, time: Duration, rate: u64) -> Result<Served> {
    let queue = Arc::new(Queue::<&'static str>::new());
    let served = Arc::new(Mutex::new(BTreeMap::<&'static str, Vec<Duration>>::new()));
    let failed = Arc::new(Mutex::new(Vec::new()));
    let customers: Vec<_> = (0..CUSTOMERS)
        .map(|number| {
            let (queue, served, failed) = (queue.clone(), served.clone(), failed.clone());
            thread::Builder::new().name(format!("customer-{number}")).spawn(move || {
                while let Some(path) = queue.pop() {
                    let begin = Instant::now();
                    match http::get(address, path, None) {
                        Ok(_) => lock(&served).entry(path).or_default().push(begin.elapsed()),
                        Err(error) => lock(&failed).push(error),
                    }
                }
            })
        })
        .collect::<Result<_, _>>()?;
    let begin = Instant::now();
    let count = time.as_millis() as u64 * rate / 1000;
    for (number, path) in (0..count).zip(MIX.iter().cycle()) {
        let due = begin + Duration::from_nanos(number * 1_000_000_000 / rate);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        queue.push(path);
    }
    queue.close();
    for customer in customers {
        customer.join().ok().context("a customer panicked")?;
    }
    if let Some(error) = lock(&failed).pop() {
        return Err(error.context("a request failed"));
    }
    let served = std::mem::take(&mut *lock(&served));
    let answers: usize = served.values().map(Vec::len).sum();
    ensure!(answers as u64 == count, "{answers} answers to {count} requests");
    Ok(Served(served))
}

// === impl Served ===

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count: usize = self.0.values().map(Vec::len).sum();
        write!(f, "shop served {count} requests")?;
        for (path, times) in &self.0 {
            let mut times = times.clone();
            times.sort_unstable();
            let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
            write!(f, "\n  GET {path:<10} {:>4} x", times.len())?;
            write!(f, "  median {:>6.1} ms", median.as_secs_f64() * 1e3)?;
            write!(f, "  worst {:>6.1} ms", worst.as_secs_f64() * 1e3)?;
        }
        Ok(())
    }
}
