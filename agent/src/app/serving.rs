//! The half that receives, stores and answers.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixListener,
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use tokio::runtime::Runtime;

use super::{token, watched::Watched};
use crate::{
    collector::{self, Collector},
    config::Settings,
    peers::owner,
    process::descriptors,
    store::sqlite::{self, Store},
    web::{self, Server},
};

/// The ports of a collector: taken with all rights, for some are root's.
pub(super) struct Listening {
    ingest: TcpListener,
    page: Option<TcpListener>,
}

/// A running collector and its API.
pub(super) struct Serving {
    /// Where agents are taken.
    pub ingest: SocketAddr,
    /// What they must show.
    pub token: String,
    collector: Arc<Collector>,
    web: Option<Server>,
}

// === impl Listening ===

impl Listening {
    /// Takes the ports.
    pub(super) fn at(settings: &Settings) -> anyhow::Result<Self> {
        let ingest = listen(settings.ingest.value, "--ingest")?;
        let page =
            if settings.no_web.value { None } else { Some(listen(settings.web.value, "--web")?) };
        Ok(Self { ingest, page })
    }
}

// === impl Serving ===

impl Serving {
    /// Takes agents and answers. Ports are there before the directory: whoever finds one taken has not
    /// touched the other's data.
    pub(super) fn start(
        settings: &Settings,
        runtime: &Runtime,
        listening: Listening,
    ) -> anyhow::Result<Self> {
        let Listening { ingest, page } = listening;
        let store = Store::open(sqlite::Settings {
            dir: settings.data_dir.value.clone(),
            max_age: settings.retention_age.value,
            max_bytes: settings.retention_bytes.value.0,
        })?;
        let token_file = &settings.ingest_token_file.value;
        let token = token::read_or_make(token_file)?;
        let reader = store.reader();
        let limits = collector::Limits::default();
        // The usual 1,024 are fewer than the connections anybody can open to the ingest port. The other
        // half is for the API and the store.
        let files = usize::try_from(descriptors::limit()).unwrap_or(usize::MAX);
        let connections = limits.connections.min(files / 2);
        let tokenless = limits.tokenless.min(connections);
        let collector = collector::serve(
            runtime.handle(),
            ingest,
            collector::Settings {
                token: token.clone(),
                token_hint: format!(
                    "it is in {} on the collector's host: copy that file, and name it with \
                     --ingest-token-file",
                    token_file.display()
                ),
                version: env!("CARGO_PKG_VERSION"),
                limits: collector::Limits { connections, tokenless, ..limits },
            },
            store,
        )?;
        let collector = Arc::new(collector);
        let web = page.map(|listener| {
            web::serve(
                web::Listeners { tcp: listener, socket: socket(&settings.data_dir.value) },
                runtime.handle(),
                Arc::new(reader),
                Arc::new(Watched(Arc::downgrade(&collector))),
                web::Settings {
                    token: settings.web_token.value.as_ref().map(|t| t.expose().to_owned()),
                    hosts: hosts(settings),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                },
            )
        });
        let web = web.transpose().context("cannot serve the API")?;
        Ok(Self { ingest: collector.address(), token, collector, web })
    }

    /// Where the API is served, if it is.
    pub(super) fn web(&self) -> Option<SocketAddr> {
        self.web.as_ref().map(Server::address)
    }

    /// Ends the API, then takes what agents still send, within a time. Whether all of it is stored.
    pub(super) async fn stop(self, within: Duration) -> bool {
        if let Some(web) = self.web {
            web.stop().await;
        }
        match Arc::into_inner(self.collector) {
            Some(collector) => collector.stop(within).await,
            None => false,
        }
    }
}

/// Names the API answers to: those configured, and the address it listens at.
fn hosts(settings: &Settings) -> Vec<String> {
    let mut hosts = settings.web_hosts.value.clone();
    match settings.web.value.ip() {
        ip if ip.is_unspecified() => {}
        std::net::IpAddr::V4(ip) => hosts.push(ip.to_string()),
        std::net::IpAddr::V6(ip) => hosts.push(format!("[{ip}]")),
    }
    hosts
}

/// The API's socket for whoever may enter the data directory. The store's lock is held, so what is in
/// its place was left by somebody who has ended. Without it there is still the port.
fn socket(data_dir: &Path) -> Option<UnixListener> {
    let path = data_dir.join(web::SOCKET);
    let bound = (|| {
        match fs::symlink_metadata(&path) {
            Ok(old) if old.file_type().is_socket() => fs::remove_file(&path)?,
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok::<_, io::Error>(listener)
    })();
    bound
        .inspect_err(|error| tracing::warn!("no socket for the API at {}: {error}", path.display()))
        .ok()
}

fn listen(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            let holder = owner::of_listener(address).ok().flatten();
            let holder = holder.map_or_else(String::new, |owner| format!(" by {}", owner.text()));
            anyhow!(
                "{address} is in use{holder}: stop what listens there (another hotspan?), or give \
                 another {flag} ADDRESS"
            )
        }
        io::ErrorKind::PermissionDenied => {
            anyhow!("{address} is not ours to listen at: give {flag} a port above 1023, or be root")
        }
        _ => anyhow!("cannot listen at {address}: {error}; give another {flag} ADDRESS"),
    })
}
