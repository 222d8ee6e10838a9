//! The life of a service: `hotspan run`, `hotspan agent`, `hotspan collector`.
//!
//! ```text
//! settings ─► listen, open the store ─► attach ─► ready ... signal ─► drain ─► end
//!             (run, collector)          (run, agent)
//! ```
//! The main thread drains and joins; a small runtime streams, stores and answers. In `run` the two
//! halves talk over loopback, the same way as two hosts.

use std::{
    io::{self, IsTerminal as _},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};

use super::{agent::Agent, doctor, serving::Serving, stop::Stop};
use crate::config::{CommandKind, Settings};

/// Everything that is not yet stored when a service is told to end must be by then.
pub(super) const DRAIN: Duration = Duration::from_secs(2);

/// Serves until a signal, the end of `--duration`, or an error that only a human can mend.
pub fn serve(settings: &Settings) -> anyhow::Result<()> {
    let records = settings.command != CommandKind::Collector;
    if records && let Some(reason) = doctor::refuse_reason() {
        bail!(reason);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("hotspan-io")
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let stop = Arc::new(Stop::new(runtime.handle(), settings.duration.value)?);
    let serving = match settings.command {
        CommandKind::Agent => None,
        CommandKind::Run | CommandKind::Collector => Some(Serving::start(settings, &runtime)?),
    };
    let outcome = if records {
        Agent::prepare(settings, serving.as_ref()).and_then(|agent| {
            agent.run(&runtime, &stop, || ready(settings, serving.as_ref(), &stop, &runtime))
        })
    } else {
        ready(settings, serving.as_ref(), &stop, &runtime);
        while !stop.is_set() {
            stop.alive();
            std::thread::park_timeout(Duration::from_millis(200));
        }
        Ok(())
    };
    // A failure to say so changes nothing.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    if let Some(serving) = serving
        && !runtime.block_on(serving.stop(DRAIN))
    {
        tracing::warn!("not everything was stored in time; agents keep what was not");
    }
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome
}

/// Tells whoever waits that the service is up.
fn ready(
    settings: &Settings,
    serving: Option<&Serving>,
    stop: &Arc<Stop>,
    runtime: &tokio::runtime::Runtime,
) {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "the service manager was not notified");
    }
    stop.watch_over(runtime.handle());
    if !io::stderr().is_terminal() {
        return;
    }
    match serving {
        None => eprintln!("hotspan: streams this host to {}", settings.collector.value),
        Some(serving) if settings.command == CommandKind::Run => {
            eprintln!("hotspan: profiles this host; Ctrl-C ends it");
            if let Some(web) = serving.web() {
                eprintln!(
                    "hotspan: answers at http://{web}; in another terminal: hotspan spans --sort \
                     slowest"
                );
            }
        }
        Some(serving) => {
            eprintln!("hotspan: takes agents at {}; Ctrl-C ends it", serving.ingest);
            if let Some(web) = serving.web() {
                eprintln!("hotspan: answers at http://{web}");
            }
        }
    }
}
