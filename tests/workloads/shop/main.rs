//! `shop`: the sample service that `hotspan demo` and `cargo xtask demo` record. Small, std only,
//! and slow in ways worth looking at.
//!
//! ```text
//!   load ──HTTP──► acceptor ──queue──► 4 workers ──HTTP──► pricing (second process)
//!                                        │  │
//!                            inventory lock  orders file (fsync)        noise (third process)
//! ```
//! `/checkout` takes the inventory lock, asks `pricing` and syncs an order to disk; `/restock`
//! holds that lock for long; `/report` is a CPU hog; `/stock` is fast unless it waits for the lock.
//! Every request is a trace whose spans are published, in both processes.

mod handlers;
mod http;
mod load;
mod neighbours;
mod queue;
mod trace;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};

/// The command line.
#[derive(Clone, Copy, Debug)]
struct Options {
    seconds: u64,
    /// Requests per second.
    rate: u64,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shop: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("pricing") => return neighbours::pricing(),
        Some("noise") => return neighbours::noise(),
        Some("--help" | "-h") => {
            println!("usage: shop [--seconds N] [--rate REQUESTS_PER_SECOND]");
            return Ok(());
        }
        _ => {}
    }
    let options = parse(&arguments)?;

    let mut pricing = neighbours::Neighbour::pricing()?;
    let noise = neighbours::Neighbour::noise()?;
    let shop = handlers::Shop::open(pricing.address()?)?;
    let server = handlers::serve(shop, 4)?;
    let served = load::run(server.address, Duration::from_secs(options.seconds), options.rate)?;
    server.stop()?;
    noise.stop()?;
    pricing.stop()?;
    println!("{served}");
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Options> {
    let mut options = Options { seconds: 5, rate: 60 };
    for pair in arguments.chunks(2) {
        let [name, value] = pair else { bail!("{} needs a value", pair[0]) };
        let value: u64 = value.parse().with_context(|| format!("{name} {value}"))?;
        match name.as_str() {
            "--seconds" => options.seconds = value.clamp(1, 600),
            "--rate" => options.rate = value.clamp(1, 2000),
            _ => bail!("unknown option {name}"),
        }
    }
    Ok(options)
}
