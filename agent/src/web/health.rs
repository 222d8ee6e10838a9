//! `/api/health`: whether hotspan is well, what it costs, and the books of every agent: per run and
//! kind, `captured = delivered + in_flight + spooled + lost(by reason)` (design 3.8).
//!
//! A run's rest is in flight as long as it may still come: while the run is open. A run that neither
//! ended well nor is connected has lost it (`agent_died`). One whose earlier batches went with a part
//! that was damaged has lost them (`agent_forgot`: it was told that they were durable); how much that
//! was shows when it ends. After any other orderly end the rest must be nothing; it is told all the
//! same, so that a broken account shows.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use axum::{
    extract::State,
    http::Uri,
    response::{IntoResponse as _, Response},
};
use serde::Serialize;

use super::{
    App, error::ApiError, json, live::CollectorState, parameters::Parameters, spans::written,
    unix_now,
};
use crate::{
    collector::AGENT_FORGOT,
    model::id::hex,
    store::{RunRecord, StoreHealth},
};

/// An open run that has not been heard of for this long is worth a look.
const UNHEARD_NS: u64 = 10_000_000_000;
/// Reason for what a run had left when it died.
const AGENT_DIED: &str = "agent_died";
/// The kind that says how walks over user stacks ended.
const WALKS: &str = "walks";

/// How everything is.
#[derive(Debug, Serialize)]
pub(super) struct Health {
    status: &'static str,
    reasons: Vec<String>,
    version: String,
    uptime_ns: u64,
    pub(super) agents: Vec<Agent>,
    pub(super) loss: BTreeMap<String, u64>,
    store: Store,
    collector: Collector,
}

/// One run of an agent.
#[derive(Debug, Serialize)]
pub(super) struct Agent {
    pub(super) host: String,
    boot_id: String,
    run_id: String,
    pub(super) version: String,
    pid: u32,
    pub(super) connected: bool,
    pub(super) closed: bool,
    started_unix_ns: u64,
    last_batch_unix_ns: u64,
    /// How old the last batch is; 0 once the run has ended well.
    pub(super) lag_ns: u64,
    sequence: u64,
    pub(super) cost: Cost,
    pub(super) conservation: BTreeMap<String, Books>,
    pub(super) loss: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Cost {
    pub(super) cpu_ns: u64,
    wall_ns: u64,
    cpu_share_of_one_core: f64,
    pub(super) rss_bytes: u64,
    pub(super) queue_bytes: u64,
}

/// One kind's books.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Books {
    pub(super) captured: u64,
    pub(super) delivered: u64,
    /// What the others leave. Below zero when more was delivered than captured, which is a bug.
    pub(super) in_flight: i64,
    /// No agent keeps anything on disk.
    spooled: u64,
    pub(super) lost: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct Store {
    bytes: u64,
    parts: u64,
    oldest_unix_ns: Option<u64>,
    newest_unix_ns: Option<u64>,
    set_aside: Vec<SetAside>,
    is_full: bool,
}

#[derive(Debug, Serialize)]
struct SetAside {
    file: String,
    reason: String,
    unix_ns: u64,
}

#[derive(Debug, Serialize)]
struct Collector {
    sessions: Vec<Session>,
    refused: BTreeMap<String, u64>,
    full: Option<String>,
}

#[derive(Debug, Serialize)]
struct Session {
    run_id: String,
    peer: String,
    connected_unix_ns: u64,
    last_ack_unix_ns: u64,
}

/// `/api/health`
pub(super) async fn answer(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, ApiError> {
    Parameters::of(&uri, &[])?;
    let (runs, store) = app.ask(|source| Ok((source.runs()?, source.health()?))).await?;
    let mut health = Health::of(&runs, store, app.live.state(), unix_now());
    health.version.clone_from(&app.settings.version);
    health.uptime_ns = app.started.elapsed().as_nanos() as u64;
    Ok(json(written(&health)?).into_response())
}

// === impl Health ===

impl Health {
    pub(super) fn of(
        runs: &[RunRecord],
        store: StoreHealth,
        live: CollectorState,
        now: u64,
    ) -> Self {
        let connected: HashSet<[u8; 16]> = live.sessions.iter().map(|it| it.run_id).collect();
        let agents: Vec<Agent> = runs
            .iter()
            .map(|record| Agent::of(record, connected.contains(&record.run.id), now))
            .collect();
        let mut loss = BTreeMap::new();
        for (reason, n) in agents.iter().flat_map(|agent| &agent.loss) {
            *loss.entry(reason.clone()).or_default() += n;
        }
        let reasons = reasons(&agents, &store, &live);
        Self {
            status: if reasons.is_empty() { "ok" } else { "degraded" },
            reasons,
            version: String::new(),
            uptime_ns: 0,
            agents,
            loss,
            store: Store::of(store),
            collector: Collector::of(live),
        }
    }
}

/// What somebody should look at. Earlier runs of a host are history: the latest one counts.
fn reasons(agents: &[Agent], store: &StoreHealth, live: &CollectorState) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(why) = &live.full {
        reasons.push(format!("no batch is taken: {why}"));
    } else if store.is_full {
        reasons.push("the store is full: nothing new is kept".to_owned());
    }
    for part in &store.set_aside {
        reasons.push(format!("store part {} was set aside: {}", part.file, part.reason));
    }
    let mut latest: HashMap<&str, &Agent> = HashMap::new();
    for agent in agents {
        let known = latest.entry(&agent.host).or_insert(agent);
        if agent.started_unix_ns > known.started_unix_ns {
            *known = agent;
        }
    }
    let mut latest: Vec<&Agent> = latest.into_values().collect();
    latest.sort_by_key(|agent| &agent.host);
    for agent in latest {
        let host = &agent.host;
        if !agent.closed && agent.lag_ns > UNHEARD_NS {
            let seconds = agent.lag_ns / 1_000_000_000;
            reasons.push(format!("agent on {host} was last heard of {seconds} s ago"));
        }
        for (reason, n) in agent.loss.iter().filter(|(reason, _)| reason.starts_with("segment_")) {
            reasons.push(format!("agent on {host} cannot read {n} segments of spans: {reason}"));
        }
        for (kind, books) in &agent.conservation {
            // How a walk ended is marked in its stack: nothing that was captured is missing.
            let lost = books.lost.iter().filter(|_| kind != WALKS);
            for (reason, n) in lost {
                reasons.push(format!("agent on {host} lost {n} {kind}: {reason}"));
            }
            if books.in_flight < 0 || (agent.closed && books.in_flight > 0) {
                let rest = books.in_flight;
                reasons.push(format!("{kind} of {host} do not add up by {rest}: a bug in hotspan"));
            }
        }
    }
    reasons
}

// === impl Agent ===

impl Agent {
    fn of(record: &RunRecord, connected: bool, now: u64) -> Self {
        let cost = &record.account.cost;
        let lag_ns = match record.closed {
            true => 0,
            false => now.saturating_sub(record.last_unix_ns),
        };
        Self {
            host: record.run.host.clone(),
            boot_id: record.run.boot_id.clone(),
            run_id: hex(&record.run.id),
            version: record.run.version.clone(),
            pid: record.run.pid,
            connected,
            closed: record.closed,
            started_unix_ns: record.run.started_unix_ns,
            last_batch_unix_ns: record.last_unix_ns,
            lag_ns,
            sequence: record.last_sequence,
            cost: Cost {
                cpu_ns: cost.cpu_ns,
                wall_ns: cost.wall_ns,
                cpu_share_of_one_core: match cost.wall_ns {
                    0 => 0.0,
                    wall => cost.cpu_ns as f64 / wall as f64,
                },
                rss_bytes: cost.rss_bytes,
                queue_bytes: cost.queue_bytes,
            },
            conservation: conservation(record, connected),
            loss: owned(&record.account.loss),
        }
    }
}

fn conservation(record: &RunRecord, connected: bool) -> BTreeMap<String, Books> {
    let mut kinds: BTreeMap<String, Books> = BTreeMap::new();
    for (kind, account) in &record.account.kinds {
        let books = kinds.entry(kind.to_string()).or_default();
        books.captured = account.captured;
        // What is part of something else, as walks and copies are of stacks, has no count of its own
        // in batches: it is delivered when it has reached the join.
        books.delivered = account.linked;
        books.lost = owned(&account.lost);
    }
    for (kind, n) in record.delivered.iter() {
        kinds.entry(kind.to_owned()).or_default().delivered = n;
    }
    for (reason, counts) in &record.gaps {
        for (kind, n) in counts.iter() {
            let books = kinds.entry(kind.to_owned()).or_default();
            *books.lost.entry(reason.to_string()).or_default() += n;
        }
    }
    for books in kinds.values_mut() {
        books.lost.retain(|_, n| *n > 0);
        let known = books.lost.values().chain([&books.delivered]).map(|&n| i128::from(n));
        let rest = i128::from(books.captured) - known.sum::<i128>();
        match u64::try_from(rest) {
            Ok(rest @ 1..) if !record.closed && !connected => {
                *books.lost.entry(AGENT_DIED.to_owned()).or_default() += rest;
            }
            // A gap is told before the batch whose account knows what it held: until then the captured
            // are at least those that are known of.
            Err(_) if !record.closed && !record.gaps.is_empty() && rest < 0 => {
                books.captured = books.captured.saturating_add(rest.unsigned_abs() as u64);
            }
            Ok(rest @ 1..) if record.closed && record.gaps.contains_key(AGENT_FORGOT) => {
                *books.lost.entry(AGENT_FORGOT.to_owned()).or_default() += rest;
            }
            _ => books.in_flight = rest.clamp(i64::MIN.into(), i64::MAX.into()) as i64,
        }
    }
    kinds
}

/// Numbers by reason, those that are not nothing.
fn owned(numbers: &BTreeMap<Arc<str>, u64>) -> BTreeMap<String, u64> {
    let some = numbers.iter().filter(|(_, n)| **n > 0);
    some.map(|(reason, &n)| (reason.to_string(), n)).collect()
}

// === impl Store ===

impl Store {
    fn of(store: StoreHealth) -> Self {
        let told = |part: crate::store::SetAside| SetAside {
            file: part.file,
            reason: part.reason,
            unix_ns: part.unix_ns,
        };
        Self {
            bytes: store.bytes,
            parts: store.parts as u64,
            oldest_unix_ns: store.oldest_unix_ns,
            newest_unix_ns: store.newest_unix_ns,
            set_aside: store.set_aside.into_iter().map(told).collect(),
            is_full: store.is_full,
        }
    }
}

// === impl Collector ===

impl Collector {
    fn of(live: CollectorState) -> Self {
        let told = |session: super::live::Session| Session {
            run_id: hex(&session.run_id),
            peer: session.peer,
            connected_unix_ns: session.connected_unix_ns,
            last_ack_unix_ns: session.last_ack_unix_ns,
        };
        Self {
            sessions: live.sessions.into_iter().map(told).collect(),
            refused: owned(&live.refused),
            full: live.full,
        }
    }
}
