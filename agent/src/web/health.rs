//! `/api/health`: whether hotspan is well, what it costs, and the accounting of every agent: per run and
//! kind, `captured = delivered + in_flight + spooled + lost(by reason)` (design 3.8).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, State},
    http::Uri,
    response::{IntoResponse as _, Response},
};
use serde::Serialize;

use super::{
    App, connection::Caller, error::ApiError, json, live::CollectorState, parameters::Parameters,
    spans::written, unix_now,
};
use crate::{
    document::conservation,
    ledger::{Conservation, Counter, Kind, Role},
    model::{batch::OverBudget, id::RunId},
    store::{RunRecord, StoreHealth},
};

/// Owners over their share that are reasons to look.
const MOST_OVER: usize = 3;

/// An open run that has not been heard of for this long is worth a look.
const UNHEARD_NS: u64 = 10_000_000_000;

/// Runs shown.
const RUNS_SHOWN: usize = 1_000;

/// How everything is.
#[derive(Debug, Serialize)]
pub(super) struct Health {
    status: &'static str,
    reasons: Vec<String>,
    version: String,
    uptime_ns: u64,
    pub(super) agents: Vec<Agent>,
    /// There were more runs: these are the latest.
    truncated: bool,
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
    pub(super) conservation: BTreeMap<String, Conservation>,
    /// What was lost, and what made part of the account unknown or less.
    pub(super) loss: BTreeMap<String, u64>,
    /// What was counted besides and is no loss.
    pub(super) information: BTreeMap<String, u64>,
    /// Who is over its share of what the agent may spend, those that lost most first.
    over_budget: Vec<Over>,
}

/// A process that is over its share of something.
#[derive(Debug, Serialize)]
struct Over {
    resource: String,
    pid: u32,
    uid: u32,
    comm: String,
    since_unix_ns: u64,
    /// What it has lost since.
    shed: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Cost {
    pub(super) cpu_ns: u64,
    wall_ns: u64,
    cpu_share_of_one_core: f64,
    pub(super) rss_bytes: u64,
    pub(super) queue_bytes: u64,
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
pub(super) async fn answer(
    State(app): State<Arc<App>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    uri: Uri,
) -> Result<Response, ApiError> {
    Parameters::of(&uri, &[])?;
    let (runs, store) = app.runs_and_store(&caller).await?;
    let mut health = Health::of(&runs, store, app.live.state(), unix_now());
    health.version.clone_from(&app.settings.version);
    health.uptime_ns = app.started.elapsed().as_nanos() as u64;
    Ok(json(app.body(&caller, written(&health)?)?).into_response())
}

// === impl Health ===

impl Health {
    pub(super) fn of(
        runs: &[RunRecord],
        store: StoreHealth,
        live: CollectorState,
        now: u64,
    ) -> Self {
        let sessions: HashMap<RunId, &super::live::Session> =
            live.sessions.iter().map(|session| (session.run_id, session)).collect();
        // Whoever has the token may have had any number of runs: the latest are shown.
        let mut latest: Vec<&RunRecord> = runs.iter().collect();
        let truncated = latest.len() > RUNS_SHOWN;
        if truncated {
            latest.sort_by_key(|record| Reverse(record.last_unix_ns));
            latest.truncate(RUNS_SHOWN);
        }
        let agents: Vec<Agent> = latest
            .into_iter()
            .map(|record| Agent::of(record, sessions.get(&record.run.id).copied(), now))
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
            truncated,
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
        // One line for each of those that lost most: the list has all.
        for over in agent.over_budget.iter().take(MOST_OVER) {
            let Over { resource, pid, uid, comm, shed, .. } = over;
            reasons.push(format!(
                "process {pid} ({comm}) of user {uid} on {host} is over its share of {resource}: \
                 {shed} of its own lost"
            ));
        }
        for (reason, n) in agent.loss.iter().filter(|(reason, _)| is_unreadable(reason)) {
            reasons.push(format!("agent on {host} cannot read {n} segments of spans: {reason}"));
        }
        for (kind, account) in &agent.conservation {
            let is_marked = Kind::of_key(kind).is_some_and(Kind::is_marked);
            for (reason, n) in account.lost.iter().filter(|_| !is_marked) {
                reasons.push(format!("agent on {host} lost {n} {kind}: {reason}"));
            }
            if account.in_flight < 0 || (agent.closed && account.in_flight > 0) {
                let rest = account.in_flight;
                reasons.push(format!("{kind} of {host} do not add up by {rest}: a bug in hotspan"));
            }
        }
    }
    reasons
}

/// Whether it counts segments that cannot be read.
fn is_unreadable(reason: &str) -> bool {
    Counter::of_key(reason).is_some_and(|counter| counter.entry().roles.contains(&Role::Unreadable))
}

// === impl Agent ===

impl Agent {
    fn of(record: &RunRecord, session: Option<&super::live::Session>, now: u64) -> Self {
        let connected = session.is_some();
        let cost = &record.account.cost;
        let (loss, information) = conservation::loss_and_information(record);
        let lag_ns = match record.closed {
            true => 0,
            false => now.saturating_sub(record.last_unix_ns),
        };
        Self {
            host: record.run.host.clone(),
            boot_id: record.run.boot_id.clone(),
            run_id: record.run.id.to_string(),
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
            conservation: conservation::of(record, connected),
            loss,
            information,
            over_budget: session.into_iter().flat_map(|it| &it.over).map(Over::of).collect(),
        }
    }
}

// === impl Over ===

impl Over {
    fn of(over: &OverBudget) -> Self {
        Self {
            resource: over.resource.to_string(),
            pid: over.pid,
            uid: over.uid,
            comm: over.comm.to_string(),
            since_unix_ns: over.since_unix_ns,
            shed: over.shed,
        }
    }
}

// === impl Store ===

impl Store {
    fn of(store: StoreHealth) -> Self {
        let shown = |part: crate::store::SetAside| SetAside {
            file: part.file,
            reason: part.reason,
            unix_ns: part.unix_ns,
        };
        Self {
            bytes: store.bytes,
            parts: store.parts as u64,
            oldest_unix_ns: store.oldest_unix_ns,
            newest_unix_ns: store.newest_unix_ns,
            set_aside: store.set_aside.into_iter().map(shown).collect(),
            is_full: store.is_full,
        }
    }
}

// === impl Collector ===

impl Collector {
    fn of(live: CollectorState) -> Self {
        let shown = |session: super::live::Session| Session {
            run_id: session.run_id.to_string(),
            peer: session.peer,
            connected_unix_ns: session.connected_unix_ns,
            last_ack_unix_ns: session.last_ack_unix_ns,
        };
        Self {
            sessions: live.sessions.into_iter().map(shown).collect(),
            refused: conservation::by_reason(&live.refused),
            full: live.full,
        }
    }
}
