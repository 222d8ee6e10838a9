//! When a service ends, and how its manager knows that it still works.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    time::{interval, sleep},
};

/// Set by a signal, the end of `--duration`, or whoever cannot go on.
#[derive(Debug, Default)]
pub(super) struct Stop {
    set: Arc<AtomicBool>,
    /// Turns of the main thread.
    turns: AtomicU64,
}

// === impl Stop ===

impl Stop {
    /// Listens to SIGTERM and SIGINT: the first asks for an end, the second takes it. SIGHUP changes
    /// nothing: there is nothing to read again.
    pub(super) fn new(runtime: &Handle, after: Option<Duration>) -> anyhow::Result<Self> {
        let stop = Self::default();
        let set = stop.set.clone();
        let _entered = runtime.enter();
        let listen = |kind| signal(kind).context("cannot listen to signals");
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut hang_up = listen(SignalKind::hangup())?;
        runtime.spawn(async move {
            let over = async {
                match after {
                    Some(after) => sleep(after).await,
                    None => std::future::pending().await,
                }
            };
            tokio::pin!(over);
            let mut is_over = false;
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    _ = hang_up.recv() => continue,
                    () = &mut over, if !is_over => is_over = true,
                }
                if set.swap(true, Relaxed) && !is_over {
                    // Asked twice: whoever asks does not want to wait for the drain.
                    std::process::exit(130);
                }
            }
        });
        Ok(stop)
    }

    /// Whether to end.
    pub(super) fn is_set(&self) -> bool {
        self.set.load(Relaxed)
    }

    /// Ends the service.
    pub(super) fn set(&self) {
        self.set.store(true, Relaxed);
    }

    /// The main thread is at work.
    pub(super) fn alive(&self) {
        self.turns.fetch_add(1, Relaxed);
    }

    /// Tells the service manager's watchdog that we are well, as long as the main thread and the
    /// runtime both are: this runs on the one and looks at the other.
    pub(super) fn watch_over(self: &Arc<Self>, runtime: &Handle) {
        let Some(every) = sd_notify::watchdog_enabled() else { return };
        let stop = Arc::clone(self);
        runtime.spawn(async move {
            let mut ticks = interval(every / 3);
            let mut seen = None;
            loop {
                ticks.tick().await;
                let turns = stop.turns.load(Relaxed);
                if seen.replace(turns) == Some(turns) && !stop.is_set() {
                    tracing::warn!("the main thread has not moved: the watchdog is not notified");
                    continue;
                }
                // A manager that is gone watches nobody.
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            }
        });
    }
}
