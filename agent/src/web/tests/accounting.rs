//! Health and metrics: the accounting of agents, and what is wrong.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Api, memory::Memory, shop::run};
use crate::{
    model::{
        batch::{Counts, KindAccount, OverBudget},
        id::RunId,
    },
    store::SetAside,
    web::unix_now,
};

fn health(memory: Memory) -> Value {
    Api::new(memory).json("/api/health")
}

fn reasons(memory: Memory) -> String {
    let health = health(memory);
    assert_eq!(health["status"], "degraded", "{health}");
    let reasons = health["reasons"].as_array().unwrap();
    reasons.iter().map(|reason| reason.as_str().unwrap()).collect::<Vec<_>>().join("; ")
}

#[test]
fn health_reports_everything() {
    let health = health(Memory::shop());
    assert_eq!(health["status"], "ok", "{health}");
    assert_eq!(health["reasons"], json!([]));
    assert_eq!(health["version"], "1.2.3");
    assert!(health["uptime_ns"].as_u64().unwrap() > 0);
    let agent = &health["agents"][0];
    for (key, expected) in [
        ("host", json!("web-1")),
        ("boot_id", json!("boot")),
        ("run_id", json!("01".repeat(16))),
        ("version", json!("1.2.3")),
        ("pid", json!(99)),
        ("connected", json!(true)),
        ("closed", json!(false)),
        ("sequence", json!(17)),
        ("loss", json!({"stacks_cut": 7})),
    ] {
        assert_eq!(agent[key], expected, "{key}");
    }
    for key in ["started_unix_ns", "last_batch_unix_ns", "lag_ns"] {
        assert!(agent[key].is_u64(), "{key}");
    }
    let cost = json!({"cpu_ns": 50, "wall_ns": 200, "cpu_share_of_one_core": 0.25,
                      "rss_bytes": 30 << 20, "queue_bytes": 5});
    assert_eq!(agent["cost"], cost);
    assert_eq!(
        agent["conservation"]["samples"],
        json!({"captured": 103, "delivered": 100, "in_flight": 3, "spooled": 0, "lost": {}})
    );
    assert_eq!(health["loss"], json!({"stacks_cut": 7}));
    assert_eq!(health["store"]["bytes"], 12_345_678);
    assert_eq!(health["store"]["is_full"], false);
    assert_eq!(health["collector"]["sessions"][0]["peer"], "127.0.0.1:40000");
    assert_eq!(health["collector"]["full"], Value::Null);
}

#[test]
fn who_is_over_its_share_is_named() {
    let mut memory = Memory::shop();
    let over = |pid, shed| OverBudget {
        resource: "span_bytes".into(),
        pid,
        uid: 65_534,
        comm: "flood".into(),
        since_unix_ns: 77,
        shed,
    };
    memory.live.sessions[0].over = (1..=5).map(|pid| over(pid, 100 - u64::from(pid))).collect();
    let health = health(memory);
    let listed = health["agents"][0]["over_budget"].as_array().unwrap();
    let first = json!({"resource": "span_bytes", "pid": 1, "uid": 65_534, "comm": "flood",
                       "since_unix_ns": 77, "shed": 99});
    assert_eq!((listed.len(), &listed[0]), (5, &first));
    let reasons = health["reasons"].to_string();
    let line = "process 1 (flood) of user 65534 on web-1 is over its share of span_bytes: 99";
    assert!(reasons.contains(line) && !reasons.contains("process 4"), "{reasons}");
    assert_eq!(health["status"], "degraded");
}

#[test]
fn the_rest_of_a_dead_agent_is_lost_and_of_a_closed_one_a_bug() {
    let account = |memory: Memory, kind: &str| {
        let health = health(memory);
        health["agents"][0]["conservation"][kind].clone()
    };
    let mut dead = Memory::shop();
    dead.live.sessions.clear();
    assert_eq!(
        account(dead, "samples"),
        json!({"captured": 103, "delivered": 100, "in_flight": 0, "spooled": 0,
               "lost": {"agent_died": 3}})
    );
    let closed = || {
        let mut memory = Memory::shop();
        memory.live.sessions.clear();
        memory.runs[0].closed = true;
        memory.runs[0].last_unix_ns = 1;
        memory
    };
    assert_eq!(account(closed(), "samples")["in_flight"], 3);
    assert!(reasons(closed()).contains("samples of web-1 do not add up by 3: a bug in hotspan"));
    let mut whole = closed();
    whole.runs[0].delivered.samples = 103;
    assert_eq!(health(whole)["status"], "ok", "closed and old is no reason");
    // More delivered than captured shows as well.
    let mut over = Memory::shop();
    over.runs[0].delivered.samples = 104;
    assert_eq!(account(over, "samples")["in_flight"], -1);
}

#[test]
fn gaps_and_losses_are_reported_by_reason() {
    let mut memory = Memory::shop();
    memory.runs[0].gaps =
        BTreeMap::from([("queue_full".into(), Counts { samples: 2, ..Counts::default() })]);
    memory.runs[0].account.kinds.insert(
        "samples".into(),
        KindAccount {
            captured: 104,
            linked: 103,
            lost: BTreeMap::from([("ring_full".into(), 1), ("never".into(), 0)]),
        },
    );
    let expected = json!({"captured": 104, "delivered": 100, "in_flight": 1, "spooled": 0,
                          "lost": {"queue_full": 2, "ring_full": 1}});
    let answer = health(Memory { runs: memory.runs.clone(), ..Memory::shop() });
    assert_eq!(answer["agents"][0]["conservation"]["samples"], expected);
    let reasons = reasons(memory);
    assert!(reasons.contains("agent on web-1 lost 2 samples: queue_full"), "{reasons}");
    assert!(!reasons.contains("never"), "{reasons}");
}

#[test]
fn what_is_no_loss_is_shown_apart() {
    let mut memory = Memory::shop();
    memory.runs[0].account.loss = BTreeMap::from([
        ("wakeup_ignored".into(), 9),
        ("switch_out_missed".into(), 2),
        ("a_key_of_tomorrow".into(), 1),
    ]);
    let samples = parsed(
        &Api::new(Memory { runs: memory.runs.clone(), ..Memory::shop() }).get("/metrics").body,
    );
    let answer = health(memory);
    let agent = &answer["agents"][0];
    assert_eq!(agent["information"], json!({"wakeup_ignored": 9}));
    assert_eq!(agent["loss"], json!({"switch_out_missed": 2, "a_key_of_tomorrow": 1}));
    assert_eq!(answer["loss"], agent["loss"]);
    assert_eq!(answer["status"], "ok", "{answer}");
    for (sample, value) in [
        (r#"hotspan_information_total{host="web-1",reason="wakeup_ignored"}"#, 9.0),
        (r#"hotspan_disturbed_total{host="web-1",reason="switch_out_missed"}"#, 2.0),
    ] {
        assert!((samples[sample] - value).abs() < 1e-12, "{sample}");
    }
    assert!(
        !samples.keys().any(|it| it.starts_with("hotspan_disturbed") && it.contains("ignored"))
    );
}

#[test]
fn segments_that_cannot_be_read_and_walks_that_ended_early() {
    let mut memory = Memory::shop();
    memory.runs[0].account.loss = BTreeMap::from([("segment_size".into(), 3)]);
    let lost = |reason: &str| KindAccount {
        captured: 5,
        linked: 4,
        lost: BTreeMap::from([(reason.into(), 1)]),
    };
    memory.runs[0].account.kinds.insert("walks".into(), lost("stacks_cut"));
    memory.runs[0].account.kinds.insert("lifecycle".into(), lost("ring_full"));
    let reasons = reasons(memory);
    assert!(reasons.contains("cannot read 3 segments of spans: segment_size"), "{reasons}");
    assert!(reasons.contains("lost 1 lifecycle: ring_full"), "{reasons}");
    assert!(!reasons.contains("walks"), "{reasons}");
}

#[test]
fn a_gap_may_come_before_the_account_that_knows_it() {
    let mut memory = Memory::shop();
    memory.runs[0].gaps =
        BTreeMap::from([("queue_full".into(), Counts { samples: 10, ..Counts::default() })]);
    let account = |memory: Memory| health(memory)["agents"][0]["conservation"]["samples"].clone();
    assert_eq!(
        account(memory),
        json!({"captured": 110, "delivered": 100, "in_flight": 0, "spooled": 0,
               "lost": {"queue_full": 10}})
    );
    // At the end there is no later account: then it is a bug, and shown.
    let mut closed = Memory::shop();
    closed.runs[0].gaps =
        BTreeMap::from([("queue_full".into(), Counts { samples: 10, ..Counts::default() })]);
    closed.runs[0].closed = true;
    assert_eq!(account(closed)["in_flight"], -7);
}

#[test]
fn reasons_name_what_to_look_at() {
    let mut memory = Memory::shop();
    memory.health.is_full = true;
    memory.health.set_aside = vec![SetAside {
        file: "2025-01-01.db".to_owned(),
        reason: "not a database".to_owned(),
        unix_ns: 1,
    }];
    memory.runs[0].last_unix_ns = unix_now() - 60_000_000_000;
    let answer = reasons(memory);
    assert!(answer.contains("the store is full"), "{answer}");
    assert!(answer.contains("2025-01-01.db was set aside: not a database"), "{answer}");
    assert!(answer.contains("agent on web-1 was last heard of 60 s ago"), "{answer}");

    let mut memory = Memory::shop();
    memory.live.full = Some("disk full".to_owned());
    assert!(reasons(memory).contains("no batch is taken: disk full"));

    // What an earlier run of the same host lost is history.
    let mut memory = Memory::shop();
    let mut old = run(RunId([2; 16]), "web-1");
    old.run.started_unix_ns = 1;
    old.last_unix_ns = 2;
    memory.runs.insert(0, old);
    let health = health(memory);
    assert_eq!(health["status"], "ok", "{health}");
    assert_eq!(health["agents"][0]["conservation"]["samples"]["lost"]["agent_died"], 3);
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let mut memory = Memory::shop();
    memory.runs.push(run(RunId([2; 16]), "a \"b\"\\c\nd"));
    memory.live.refused = BTreeMap::from([("bad_token".into(), 4)]);
    let api = Api::new(memory);
    api.get("/api/spans");
    api.get("/nothing");
    let answer = api.get("/metrics");
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let samples = parsed(&answer.body);
    for (sample, value) in [
        (r#"hotspan_build_info{version="1.2.3"}"#, 1.0),
        (r#"hotspan_captured_total{host="web-1",kind="samples"}"#, 103.0),
        (r#"hotspan_delivered_total{host="web-1",kind="samples"}"#, 100.0),
        (r#"hotspan_in_flight{host="web-1",kind="samples"}"#, 3.0),
        (r#"hotspan_lost_total{host="a \"b\"\\c\nd",kind="samples",reason="agent_died"}"#, 3.0),
        (r#"hotspan_disturbed_total{host="web-1",reason="stacks_cut"}"#, 7.0),
        ("hotspan_store_bytes", 12_345_678.0),
        ("hotspan_sessions", 1.0),
        (r#"hotspan_refused_total{reason="bad_token"}"#, 4.0),
        (r#"hotspan_http_requests_total{route="/api/spans",status="200"}"#, 1.0),
        (r#"hotspan_http_requests_total{route="other",status="404"}"#, 1.0),
        (r#"hotspan_agent_cpu_seconds_total{host="web-1"}"#, 50e-9),
    ] {
        let found = samples.get(sample).unwrap_or_else(|| panic!("{sample} in {}", answer.body));
        assert!((found - value).abs() < 1e-12, "{sample}: {found}");
    }
}

#[test]
fn runs_of_one_host_are_one_line() {
    let mut memory = Memory::shop();
    memory.runs.push(run(RunId([2; 16]), "web-1"));
    let samples = parsed(&Api::new(memory).get("/metrics").body);
    let captured = samples[r#"hotspan_captured_total{host="web-1",kind="samples"}"#];
    assert!((captured - 206.0).abs() < 1e-9);
}

/// Reads the text format strictly: every sample belongs to the family above it, which has one HELP
/// and one TYPE, in this order, and comes once; counters end in `_total` and are not negative; no
/// sample comes twice.
fn parsed(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut families = BTreeSet::new();
    let mut family: Option<(String, String)> = None;
    let mut helped: Option<String> = None;
    assert!(text.ends_with('\n') && !text.contains("\n\n"));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty() && is_name(name), "{line}");
            assert!(families.insert(name.to_owned()), "twice: {name}");
            helped = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(helped.take().as_deref(), Some(name), "{line}");
            assert!(["counter", "gauge"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            family = Some((name.to_owned(), kind.to_owned()));
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let value: f64 = value.parse().unwrap();
            let name = sample.split('{').next().unwrap();
            let (of, kind) = family.as_ref().unwrap();
            assert_eq!(of, name, "{line}");
            assert!(kind == "gauge" || value >= 0.0, "{line}");
            if let Some(labels) = sample.strip_prefix(name).filter(|labels| !labels.is_empty()) {
                check_labels(labels);
            }
            assert!(samples.insert(sample.to_owned(), value).is_none(), "twice: {sample}");
        }
    }
    samples
}

fn is_name(name: &str) -> bool {
    name.starts_with("hotspan_") && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// `{name="value",...}` with only the three escapes there are.
fn check_labels(labels: &str) {
    let mut rest = labels.strip_prefix('{').unwrap();
    loop {
        let (name, after) = rest.split_once("=\"").unwrap();
        assert!(!name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase()), "{labels}");
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().unwrap() {
                (_, '\\') => assert!(['\\', '"', 'n'].contains(&chars.next().unwrap().1)),
                (at, '"') => break at,
                _ => {}
            }
        };
        rest = &after[end + 1..];
        match rest.split_at(1) {
            (",", more) => rest = more,
            ("}", "") => return,
            _ => panic!("{labels}"),
        }
    }
}
