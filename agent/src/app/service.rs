//! The life of a service: `hotspan run`, `hotspan agent`, `hotspan collector`.
//!
//! ```text
//! settings ─► ports, directories, lock ─► rights ─► store, attach ─► calls ─► ready ... signal ─► drain ─► end
//! ```
//! Rights are given up before there is a second thread, since they are each thread's own, and before a byte
//! of anybody's is read: nothing later takes more than what is kept. System calls are filtered, on all
//! threads, once everything stands.
//!
//! The main thread drains and joins; a small runtime streams, stores and answers. In `run` the two
//! halves talk over loopback, the same way as two hosts.

use std::{
    io::{self, IsTerminal as _},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};

use rustix::thread::CapabilitySet;

use super::{
    agent::{Agent, alone},
    doctor,
    serving::{Listening, Serving},
    stop::Stop,
};
use crate::{
    config::{CommandKind, Settings},
    kernel,
    process::{
        calls,
        own::{OwnDirectory, OwnError},
        rights,
    },
};

/// Everything that is not yet stored when a service is told to end must be by then.
pub(super) const DRAIN: Duration = Duration::from_secs(2);

/// Serves until a signal, the end of `--duration`, or an error that only a human can mend.
pub fn serve(settings: &Settings) -> anyhow::Result<()> {
    let records = settings.command != CommandKind::Collector;
    if records && let Some(reason) = doctor::refuse_reason() {
        bail!(reason);
    }
    let serves = settings.command != CommandKind::Agent;
    let listening = if serves { Some(Listening::at(settings)?) } else { None };
    let data = data(settings)?;
    let alone = if records { Some(alone(data.as_ref())?) } else { None };
    if records {
        kernel::see_tracefs();
    }
    let kept = if records { rights::KEPT } else { CapabilitySet::empty() };
    rights::keep_only(kept).context("cannot give up the rights that are not needed")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("hotspan-io")
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let stop = Arc::new(Stop::new(runtime.handle(), settings.duration.value)?);
    let serving = match listening {
        None => None,
        Some(listening) => Some(Serving::start(settings, &runtime, listening)?),
    };
    let outcome = if let Some(alone) = alone {
        Agent::prepare(settings, serving.as_ref(), alone).and_then(|agent| {
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

/// The data directory. An agent only keeps tables in it, so it can do without, but it uses none of others'.
fn data(settings: &Settings) -> anyhow::Result<Option<OwnDirectory>> {
    match OwnDirectory::make(&settings.data_dir.value) {
        Ok(data) => Ok(Some(data)),
        Err(error @ OwnError::Io { .. }) if settings.command == CommandKind::Agent => {
            tracing::warn!("no cache of unwind tables: {error} (--data-dir)");
            Ok(None)
        }
        Err(error) => bail!("{error} (--data-dir)"),
    }
}

/// Filters the system calls of this process, on all its threads, unless that is not wanted.
pub(super) fn filter_calls(is_off: bool) {
    if is_off {
        tracing::debug!("system calls are not filtered");
    } else if let Err(error) = calls::filter() {
        tracing::warn!("system calls are not filtered: {error}");
    }
}

/// Tells whoever waits that the service is up.
fn ready(
    settings: &Settings,
    serving: Option<&Serving>,
    stop: &Arc<Stop>,
    runtime: &tokio::runtime::Runtime,
) {
    filter_calls(settings.no_seccomp.value);
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
