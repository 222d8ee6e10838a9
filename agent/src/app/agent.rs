//! The half that profiles this host and streams what it finds.

use std::{
    io,
    net::ToSocketAddrs as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{anyhow, bail};
use rustix::process::geteuid;
use tokio::{runtime::Runtime, sync::watch, time::Instant};

use super::{
    daemon::{Daemon, Watched},
    profiler::{self, Output, Supervisor},
    service::DRAIN,
    serving::Serving,
    stop::Stop,
    token,
};
use crate::{
    config::Settings,
    kernel,
    model::batch::Batch,
    process::{
        host,
        own::{
            OwnDirectory, OwnError,
            lock::{Lock, LockError},
        },
    },
    stream::{
        client::{self, ClientError, ClientSettings, Timing},
        queue::Queue,
        status::ClientStatus,
    },
};

/// Where root's agent has its lock, so that it is one per host whatever its data directory.
pub(super) const RUN: &str = "/run/hotspan";
/// Held while an agent runs.
pub(super) const ALONE: &str = "agent.lock";

/// An agent that has not attached yet.
pub(super) struct Agent {
    config: kernel::Config,
    client: ClientSettings,
    queue: Arc<Queue>,
    _alone: Lock,
}

/// Where batches go.
struct Out(Arc<Queue>);

/// Profiles until it is stopped.
struct Service<'a, F> {
    stop: &'a Stop,
    ready: Option<F>,
}

// === impl Agent ===

impl Agent {
    /// Makes sure that it can stream before anything is attached.
    pub(super) fn prepare(
        settings: &Settings,
        serving: Option<&Serving>,
        alone: Lock,
    ) -> anyhow::Result<Self> {
        let (endpoint, token, token_owner) = match serving {
            Some(serving) => (format!("http://{}", serving.ingest), serving.token.clone(), None),
            None => {
                let url = settings.collector.value.to_string();
                known(&url)?;
                let file = &settings.ingest_token_file.value;
                (url, token::read(file)?, token::owner(file))
            }
        };
        let run = Arc::new(host::new_run()?);
        Ok(Self {
            config: kernel::Config {
                hz: u64::from(settings.hz.value),
                ring_bytes: settings.ring_bytes.value,
                table_cache: Some(settings.data_dir.value.join("unwind")),
                ..kernel::Config::default()
            },
            client: ClientSettings { endpoint, token, token_owner, run, timing: Timing::default() },
            queue: Arc::new(Queue::new(
                usize::try_from(settings.queue_bytes.value.0).unwrap_or(usize::MAX),
            )),
            _alone: alone,
        })
    }

    /// Profiles and streams until told to stop, then sends what is left.
    pub(super) fn run(
        self,
        runtime: &Runtime,
        stop: &Arc<Stop>,
        ready: impl FnOnce(),
    ) -> anyhow::Result<()> {
        let status = Arc::new(ClientStatus::default());
        let (farewell, until) = watch::channel(None);
        let failure: Arc<Mutex<Option<ClientError>>> = Arc::default();
        let client = runtime.spawn({
            let (failure, stop) = (Arc::clone(&failure), Arc::clone(stop));
            let streaming = client::run(self.client, Arc::clone(&self.queue), status, until);
            async move {
                match streaming.await {
                    Ok(farewell) => farewell.all_durable,
                    Err(error) => {
                        *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        stop.set();
                        false
                    }
                }
            }
        });
        let out = Out(Arc::clone(&self.queue));
        let mut service = Service { stop, ready: Some(ready) };
        let profiled = profiler::run(&self.config, &Watched::Host, out, &mut service);
        farewell.send_replace(Some(Instant::now() + DRAIN));
        let all_durable = runtime
            .block_on(async { tokio::time::timeout(DRAIN + Duration::from_secs(1), client).await })
            .is_ok_and(|ended| ended.unwrap_or(false));
        if let Some(error) = failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error.into());
        }
        if !all_durable {
            let left = self.queue.status();
            tracing::warn!(batches = left.batches, "the collector did not take all in time: lost");
        }
        profiled.map(|_| ())
    }
}

impl<F: FnOnce()> Supervisor for Service<'_, F> {
    fn attached(&mut self, _: &mut Daemon, _: i32) -> anyhow::Result<()> {
        if let Some(ready) = self.ready.take() {
            ready();
        }
        Ok(())
    }

    fn goes_on(&mut self, _: &Daemon) -> anyhow::Result<bool> {
        self.stop.alive();
        Ok(!self.stop.is_set())
    }
}

impl Output for Out {
    fn take(&mut self, batch: Batch) {
        self.0.push(batch);
    }

    fn queue_bytes(&self) -> u64 {
        self.0.status().bytes as u64
    }
}

/// One agent per kernel: two would tell every time twice. The lock is root's in `/run`; where that cannot be
/// written, as in a container, and for other users it is in the data directory.
pub(super) fn alone(data: Option<&OwnDirectory>) -> anyhow::Result<Lock> {
    let run = if geteuid().is_root() { run_directory(Path::new(RUN))? } else { None };
    let Some(directory) = run.as_ref().or(data) else {
        bail!("cannot see whether another agent runs: neither {RUN} nor --data-dir can be written");
    };
    Lock::take(directory, ALONE).map_err(|error| match error {
        LockError::Held { .. } => anyhow!(
            "another agent (`hotspan run` or `hotspan agent`) already profiles this host: {error}; \
             stop it first"
        ),
        LockError::Own(error) => anyhow!("cannot see whether another agent runs: {error}"),
    })
}

/// `None` where it cannot be made.
fn run_directory(path: &Path) -> anyhow::Result<Option<OwnDirectory>> {
    match OwnDirectory::make(path) {
        Ok(directory) => Ok(Some(directory)),
        Err(OwnError::Io { error, .. })
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(anyhow!("cannot see whether another agent runs: {error}")),
    }
}

/// A collector whose name nobody knows is a mistake; one that is not there yet may come, and so may
/// the network: an agent starts with its host.
fn known(url: &str) -> anyhow::Result<()> {
    let authority = url.trim_start_matches("http://").trim_end_matches('/');
    match authority.to_socket_addrs() {
        Ok(addresses) if addresses.len() > 0 => Ok(()),
        Ok(_) => bail!("the collector {url} has no address: check --collector"),
        Err(error) if is_passing(&error.to_string()) => {
            tracing::warn!("the collector {url} has no address yet ({error}): tried again");
            Ok(())
        }
        Err(error) => bail!("unknown collector {url} ({error}): check --collector"),
    }
}

/// Whether nobody could be asked for an address: EAI_AGAIN, of which the standard library keeps only
/// the words of the C library (glibc's, musl's).
fn is_passing(error: &str) -> bool {
    ["Temporary failure in name resolution", "Try again"].iter().any(|words| error.contains(words))
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    #[test]
    fn a_name_that_cannot_be_asked_for_is_no_mistake() {
        let words = |code| {
            // SAFETY: returns a static string for any code.
            unsafe { CStr::from_ptr(libc::gai_strerror(code)) }.to_string_lossy().into_owned()
        };
        assert!(is_passing(&words(libc::EAI_AGAIN)));
        assert!(!is_passing(&words(libc::EAI_NONAME)));
    }
}
