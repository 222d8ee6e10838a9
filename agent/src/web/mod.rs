//! The JSON API (design 5): what the store holds and how hotspan is, over HTTP.
//!
//! Invariants: it only reads; every answer that is not the one asked for is an [`error::ApiError`];
//! the store is asked on threads made for blocking, by `ASKING` requests at most, of which one is kept
//! for whoever owns this host, and a request that would wait behind too many others is told so at once;
//! nobody waits longer than `ANSWER_WITHIN`; what an answer holds is bounded, read or not.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{Method, Uri, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, oneshot},
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use crate::peers::table::Table;
use crate::{
    model::clock::unix_now_ns as unix_now,
    store::{RunRecord, Snapshot, Source, SourceError, StoreHealth, answer},
};
use connection::{CONNECTIONS, Caller, Limited, SILENCE};
use error::ApiError;
use live::Live;
use parameters::Parameters;
use shares::Shares;

mod connection;
mod error;
mod guard;
mod health;
pub(crate) mod live;
mod metrics;
mod parameters;
mod shares;
mod spans;

/// Requests that ask the store at once.
const ASKING: usize = 4;
/// Of those, of strangers.
const STRANGERS_ASKING: usize = 3;
/// Requests that wait for their turn.
const WAITING: usize = 60;
/// Until then there is an answer, if only that there is none.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Answers under way have this long to be read when the server stops.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// The name of its socket in the data directory.
pub(crate) const SOCKET: &str = "api.sock";

/// How the API is served.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Every request must show it.
    pub token: Option<String>,
    /// Names of this machine besides those of loopback, without port; IPv6 addresses in brackets.
    pub hosts: Vec<String>,
    /// Of this hotspan.
    pub version: String,
}

/// A running server. Dropped, it stops by itself, unwatched.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// What requests share.
struct App {
    source: Arc<dyn Source>,
    live: Arc<dyn Live>,
    settings: Settings,
    started: Instant,
    /// Places at the store.
    asking: Arc<Semaphore>,
    /// Of those, what strangers may have.
    strangers: Arc<Semaphore>,
    shares: Arc<Shares>,
    table: Arc<Table>,
    /// Those and places to wait.
    admitted: Arc<Semaphore>,
    /// Answers by route and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

/// Where the API is served.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// For everybody who can reach it.
    pub tcp: TcpListener,
    /// For whoever may enter its directory.
    pub socket: Option<UnixListener>,
}

/// Serves on `listeners` with threads of `runtime`, until stopped.
pub(crate) fn serve(
    listeners: Listeners,
    runtime: &Handle,
    source: Arc<dyn Source>,
    live: Arc<dyn Live>,
    settings: Settings,
) -> io::Result<Server> {
    let Listeners { tcp, socket } = listeners;
    let address = tcp.local_addr()?;
    tcp.set_nonblocking(true)?;
    socket.as_ref().map_or(Ok(()), |socket| socket.set_nonblocking(true))?;
    let table = Table::new(CONNECTIONS);
    let listener = {
        let _entered = runtime.enter();
        Limited {
            tcp: tokio::net::TcpListener::from_std(tcp)?,
            socket: socket.map(tokio::net::UnixListener::from_std).transpose()?,
            table: table.clone(),
            silence: SILENCE,
        }
    };
    let app = Arc::new(App {
        source,
        live,
        settings,
        started: Instant::now(),
        asking: Arc::new(Semaphore::new(ASKING)),
        strangers: Arc::new(Semaphore::new(STRANGERS_ASKING)),
        shares: Arc::default(),
        table: table.clone(),
        admitted: Arc::new(Semaphore::new(ASKING + WAITING)),
        requests: Mutex::default(),
    });
    let (stop, stopped) = oneshot::channel();
    let service = router(app).into_make_service_with_connect_info::<Caller>();
    let served = axum::serve(listener, service).with_graceful_shutdown(async {
        // A dropped server stops, too.
        let _ = stopped.await;
    });
    let task = runtime.spawn(async {
        if let Err(error) = served.await {
            tracing::error!(%error, "the API is no longer served");
        }
    });
    Ok(Server { address, stop, task })
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/api/spans", get(spans::list))
        .route("/api/span/{span}", get(spans::by_span))
        .route("/api/span/{trace}/{span}", get(spans::by_trace))
        .route("/api/health", get(health::answer))
        .route("/metrics", get(metrics::answer))
        .fallback(|uri: Uri| async move { ApiError::no_such_route(uri.path()) })
        .method_not_allowed_fallback(|method: Method| async move {
            ApiError::method_not_allowed(method.as_str())
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard::watch))
        .with_state(app)
}

async fn index(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, ApiError> {
    Parameters::of(&uri, &[])?;
    let text = format!(
        "hotspan {}: where each span's time went, and who made it wait.\n\n\
         GET /api/spans?service=&name=&min_ns=&state=&from_unix_ns=&to_unix_ns=&pid=&\
         sort=newest|slowest&limit=\n\
         GET /api/span/TRACE/SPAN?scope=span|children|trace|trace_host|period|process&pid=\n\
         GET /api/span/SPAN\n\
         GET /api/health\n\
         GET /metrics\n\n\
         Times are integer nanoseconds, ids lower-case hex. In a terminal: hotspan spans, \
         hotspan span ID.\n",
        app.settings.version,
    );
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}

/// Written JSON as an answer.
fn json(text: impl Into<Body>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], text.into())
}

// === impl App ===

impl App {
    /// Has `question` answered where blocking is allowed.
    async fn ask<T: Send + 'static>(
        &self,
        caller: &Caller,
        question: impl FnOnce(&dyn Source) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let share = self.shares.question(caller.peer).ok_or_else(ApiError::busy)?;
        let admitted =
            Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| ApiError::busy())?;
        let answer = async {
            let stranger = match caller.peer.is_ours() {
                true => None,
                false => Some(Arc::clone(&self.strangers).acquire_owned().await),
            };
            let place = Arc::clone(&self.asking).acquire_owned().await;
            let source = Arc::clone(&self.source);
            let answered = spawn_blocking(move || {
                // Held until the store has answered, whether or not somebody still waits for it.
                let _held = (share, admitted, stranger, place);
                question(&*source)
            });
            answered.await.unwrap_or_else(|error| Err(ApiError::internal(error.to_string())))
        };
        timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(|_| Err(ApiError::slow()))
    }

    /// Has `question` answered from one snapshot of the store; it may be asked again. The answer counts
    /// under its caller until it was read.
    async fn answer(
        &self,
        caller: &Caller,
        question: impl Fn(&dyn Snapshot) -> Result<Vec<u8>, ApiError> + Send + 'static,
    ) -> Result<Body, ApiError> {
        let text = self.ask(caller, move |source| answer(source, question)).await?;
        self.body(caller, text)
    }

    fn body(&self, caller: &Caller, text: Vec<u8>) -> Result<Body, ApiError> {
        let answer = self.shares.answer(caller.peer, text);
        answer.map(Body::from).ok_or_else(ApiError::busy)
    }

    /// What health and metrics are made of.
    async fn runs_and_store(
        &self,
        caller: &Caller,
    ) -> Result<(Vec<RunRecord>, StoreHealth), ApiError> {
        self.ask(caller, |source| {
            let runs = answer::<_, SourceError>(source, |snapshot| snapshot.runs())?;
            Ok((runs, source.health()?))
        })
        .await
    }

    fn count(&self, route: &'static str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route, status)).or_default() += 1;
    }

    fn requests(&self) -> BTreeMap<(&'static str, u16), u64> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

// === impl Server ===

impl Server {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, lets answers under way finish, closes the rest.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        let mut task = self.task;
        if timeout(STOP_WITHIN, &mut task).await.is_err() {
            task.abort();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
