//! The sample service, recorded: its spans tell the story it was built for.

use std::{collections::BTreeMap, ffi::OsString};

use anyhow::{Result, ensure};
use hotspan_tests::{
    check::conservation_problems,
    fixture::Recorder,
    host::{can_record, program},
    report::{Span, get, sum},
};

#[test]
fn the_shop_is_explained() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let mut command: Vec<OsString> = vec![program("shop")?.into()];
    command.extend(["--seconds", "3", "--rate", "60"].map(Into::into));
    let recording = Recorder::new()?.record(command)?;
    ensure!(recording.status.success(), "{}: {}", recording.status, recording.stderr);
    let report = recording.report()?;
    assert_eq!(conservation_problems(report), Vec::<String>::new());

    let mut by_name: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    let mut traces: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in &report.spans {
        assert_eq!(sum(&span.states), span.active_ns, "{span:?}");
        by_name.entry(&span.name).or_default().push(span);
        traces.entry(&span.trace_id).or_default().push(span);
    }
    let named = |name: &str| by_name.get(name).cloned().unwrap_or_default();
    let time = |name: &str, state: &str| -> u64 {
        named(name).iter().map(|span| get(&span.states, state)).sum()
    };
    println!("{} spans, {} traces; loss {:?}", report.spans.len(), traces.len(), report.loss);

    // 180 requests in the mix of the load: 40 % checkouts.
    assert_eq!(named("GET /checkout").len(), 72);
    assert_eq!(named("GET /restock").len(), 18);
    assert_eq!(named("GET /report").len(), 18);
    assert_eq!(named("GET /price").len(), 72);
    assert_eq!(traces.len(), 180);

    // The report burns, the order syncs, the caller waits for the answer, the recount sleeps.
    for (name, state) in [
        ("render report", "running"),
        ("save order", "disk"),
        ("GET pricing", "socket"),
        ("recount under lock", "sleep"),
        ("cache miss", "sleep"),
    ] {
        let most = ["running", "disk", "socket", "sleep", "lock", "notify", "poll"]
            .into_iter()
            .max_by_key(|other| time(name, other));
        assert_eq!(most, Some(state), "`{name}`: {:?}", named(name).first());
    }

    // Whoever waits for the inventory waits for a recount, and the recount is named.
    let recounts: Vec<&str> =
        named("recount under lock").iter().map(|span| span.span_id.as_str()).collect();
    let blamed = named("lock inventory")
        .iter()
        .flat_map(|span| &span.causes)
        .filter(|cause| cause.state == "lock" && !cause.span_id.is_empty())
        .count();
    assert!(!recounts.is_empty() && time("lock inventory", "lock") > 0, "nobody met the lock");
    assert!(blamed > 0, "no lock wait names the span that held the lock");

    // A checkout's trace is in both processes.
    for price in named("GET /price") {
        let caller = traces[price.trace_id.as_str()]
            .iter()
            .find(|span| span.span_id == price.parent_span_id);
        let caller = caller.expect("the caller's span is in the same trace");
        assert_eq!(caller.name, "GET pricing");
        assert_ne!(caller.process.pid, price.process.pid);
    }
    Ok(())
}
