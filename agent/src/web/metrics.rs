//! `/metrics`: the same numbers in the text format of Prometheus (version 0.0.4).
//!
//! Counters of a host are sums over all its runs that are stored: they step back when the store
//! drops an old run, which Prometheus takes for a restart.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write as _},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, State},
    http::{Uri, header},
    response::{IntoResponse as _, Response},
};

use super::{
    App,
    connection::Caller,
    error::ApiError,
    health::{Agent, Health},
    parameters::Parameters,
    unix_now,
};
use crate::store::StoreHealth;

/// `/metrics`
pub(super) async fn answer(
    State(app): State<Arc<App>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    uri: Uri,
) -> Result<Response, ApiError> {
    Parameters::of(&uri, &[])?;
    let (runs, store) = app.runs_and_store(&caller).await?;
    let live = app.live.state();
    let health = Health::of(&runs, store.clone(), live.clone(), unix_now());
    let mut text = Exposition::default();
    text.family("hotspan_build_info", "gauge", "1, with the version as a label.");
    text.sample(&[("version", &app.settings.version)], 1);
    text.family("hotspan_uptime_seconds", "gauge", "Time since the API is served.");
    text.sample(&[], app.started.elapsed().as_secs_f64());
    agents(&health.agents, &mut text);
    kept(&store, &mut text);
    text.family("hotspan_sessions", "gauge", "Agents connected to the collector.");
    text.sample(&[], live.sessions.len());
    text.family("hotspan_collector_full", "gauge", "1 while the collector takes no batch.");
    text.sample(&[], u8::from(live.full.is_some()));
    text.family("hotspan_refused_total", "counter", "Turned away by the collector.");
    for (reason, n) in &live.refused {
        text.sample(&[("reason", reason)], n);
    }
    text.family("hotspan_http_evicted_total", "counter", "Connections closed for others.");
    text.sample(&[], app.table.evictions());
    text.family("hotspan_http_requests_total", "counter", "Requests answered by the API.");
    for ((route, status), n) in app.requests() {
        text.sample(&[("route", route), ("status", &status.to_string())], n);
    }
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let body = app.body(&caller, text.text.into_bytes())?;
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}

fn kept(store: &StoreHealth, text: &mut Exposition) {
    text.family("hotspan_store_bytes", "gauge", "Size of the store on disk.");
    text.sample(&[], store.bytes);
    text.family("hotspan_store_parts", "gauge", "Files of the store.");
    text.sample(&[], store.parts);
    text.family("hotspan_store_parts_set_aside", "gauge", "Files that could not be read.");
    text.sample(&[], store.set_aside.len());
    text.family("hotspan_store_full", "gauge", "1 while the store takes nothing more.");
    text.sample(&[], u8::from(store.is_full));
    let ends = [
        (
            "hotspan_store_oldest_timestamp_seconds",
            "Where what is kept begins.",
            store.oldest_unix_ns,
        ),
        (
            "hotspan_store_newest_timestamp_seconds",
            "Where what is kept ends.",
            store.newest_unix_ns,
        ),
    ];
    for (name, help, unix_ns) in ends {
        if let Some(unix_ns) = unix_ns {
            text.family(name, "gauge", help);
            text.sample(&[], seconds(unix_ns));
        }
    }
}

/// Sums per host, and per kind and reason where there are such.
#[derive(Default)]
struct Sums<'a> {
    captured: BTreeMap<[&'a str; 2], u64>,
    delivered: BTreeMap<[&'a str; 2], u64>,
    in_flight: BTreeMap<[&'a str; 2], i64>,
    lost: BTreeMap<[&'a str; 3], u64>,
    loss: BTreeMap<[&'a str; 2], u64>,
    information: BTreeMap<[&'a str; 2], u64>,
    connected: BTreeMap<&'a str, u64>,
    cpu_ns: BTreeMap<&'a str, u64>,
    /// Of connected agents: rss, queue, lag.
    present: BTreeMap<&'a str, [u64; 3]>,
}

fn agents(agents: &[Agent], text: &mut Exposition) {
    let mut sums = Sums::default();
    for agent in agents {
        sums.add(agent);
    }
    const HOST_KIND: [&str; 2] = ["host", "kind"];
    text.family("hotspan_captured_total", "counter", "Captured by agents.");
    text.samples(HOST_KIND, &sums.captured);
    text.family("hotspan_delivered_total", "counter", "Of what was captured: stored.");
    text.samples(HOST_KIND, &sums.delivered);
    text.family("hotspan_in_flight", "gauge", "Of what was captured: on its way.");
    text.samples(HOST_KIND, &sums.in_flight);
    text.family("hotspan_lost_total", "counter", "Of what was captured: lost.");
    text.samples(["host", "kind", "reason"], &sums.lost);
    text.family("hotspan_disturbed_total", "counter", "What made part of the account unknown.");
    text.samples(["host", "reason"], &sums.loss);
    text.family("hotspan_information_total", "counter", "Counted besides, and no loss.");
    text.samples(["host", "reason"], &sums.information);
    text.family("hotspan_agent_connected", "gauge", "Agents of the host that are connected.");
    text.per_host(&sums.connected, |n| n);
    text.family("hotspan_agent_cpu_seconds_total", "counter", "CPU time agents took.");
    text.per_host(&sums.cpu_ns, |&ns| seconds(ns));
    text.family("hotspan_agent_resident_bytes", "gauge", "Memory of agents.");
    text.per_host(&sums.present, |[rss, _, _]| rss);
    text.family("hotspan_agent_queue_bytes", "gauge", "Batches waiting in agents.");
    text.per_host(&sums.present, |[_, queue, _]| queue);
    text.family("hotspan_agent_lag_seconds", "gauge", "Age of the last batch.");
    text.per_host(&sums.present, |&[_, _, lag]| seconds(lag));
}

// === impl Sums ===

impl<'a> Sums<'a> {
    fn add(&mut self, agent: &'a Agent) {
        let host = agent.host.as_str();
        for (kind, account) in &agent.conservation {
            let key = [host, kind];
            *self.captured.entry(key).or_default() += account.captured;
            *self.delivered.entry(key).or_default() += account.delivered;
            *self.in_flight.entry(key).or_default() += account.in_flight;
            for (reason, n) in &account.lost {
                *self.lost.entry([host, kind, reason]).or_default() += n;
            }
        }
        for (reason, n) in &agent.loss {
            *self.loss.entry([host, reason]).or_default() += n;
        }
        for (reason, n) in &agent.information {
            *self.information.entry([host, reason]).or_default() += n;
        }
        *self.connected.entry(host).or_default() += u64::from(agent.connected);
        *self.cpu_ns.entry(host).or_default() += agent.cost.cpu_ns;
        if agent.connected {
            let [rss, queue, lag] = self.present.entry(host).or_default();
            *rss += agent.cost.rss_bytes;
            *queue += agent.cost.queue_bytes;
            *lag = agent.lag_ns.max(*lag);
        }
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Text under construction: a family's lines stand together, after its HELP and TYPE.
#[derive(Default)]
struct Exposition {
    text: String,
    /// Of the family under way.
    name: &'static str,
}

// === impl Exposition ===

impl Exposition {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(self.name);
        for (index, (name, value)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{name}=\"{}\"", escaped(value));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }

    fn samples<const N: usize>(
        &mut self,
        names: [&str; N],
        values: &BTreeMap<[&str; N], impl Display>,
    ) {
        for (labels, value) in values {
            let labels: Vec<(&str, &str)> = names.into_iter().zip(labels.iter().copied()).collect();
            self.sample(&labels, value);
        }
    }

    fn per_host<'m, T, D: Display>(
        &mut self,
        values: &'m BTreeMap<&str, T>,
        of: impl Fn(&'m T) -> D,
    ) {
        for (host, value) in values {
            self.sample(&[("host", host)], of(value));
        }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
