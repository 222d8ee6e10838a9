//! Every route and every error of it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    Api,
    memory::Memory,
    shop::{CART, CHECKOUT, TRACE, batch_of},
};
use crate::{
    document::{
        assemble::{Family, Scope, Trace},
        span::SpanDocument,
    },
    model::{clock::UnixNs, id::SpanId},
    store::{Sort, SourceError, SpanFilter, account::SpanAccount},
};

fn path(id: u64) -> String {
    format!("/api/span/{}/{id:016x}", TRACE)
}

#[test]
fn the_index_names_the_routes() {
    let answer = Api::new(Memory::shop()).get("/");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    for part in ["hotspan 1.2.3", "/api/spans", "/api/span/TRACE/SPAN", "/api/health", "/metrics"] {
        assert!(answer.body.contains(part), "{part}: {}", answer.body);
    }
}

#[test]
fn lists_are_filtered_and_ordered() {
    let api = Api::new(Memory::shop());
    let names = |query: &str| -> Vec<String> {
        let list = api.json(&format!("/api/spans{query}"));
        let spans = list["spans"].as_array().unwrap();
        spans.iter().map(|span| span["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("?limit=1&sort=slowest&service=shop"), ["GET /checkout"]);
    assert_eq!(names("?service=postgres"), ["SELECT orders"]);
    assert_eq!(names("?name=GET%20%2Fcheckout"), ["GET /checkout"]);
    assert_eq!(names("?name=GET+/"), ["GET /"]);
    assert_eq!(names("?state=lock"), ["GET /checkout"]);
    assert_eq!(names("?pid=900"), ["SELECT orders"]);
    assert_eq!(names("?min_ns=1000000000").len(), 1);
    assert_eq!(names("?service=&name=&limit=").len(), 6, "empty is absent");
    assert!(names("?to_unix_ns=1").is_empty());
    assert_eq!(names("?from_unix_ns=1").len(), 6);
    assert_eq!(api.json("/api/spans?limit=2")["truncated"], true);
    assert_eq!(api.json("/api/spans")["truncated"], false);
}

#[test]
fn parameters_reach_the_store() {
    let memory = Memory::shop();
    let asked = memory.asked.clone();
    let api = Api::new(memory);
    api.json("/api/spans");
    api.json(
        "/api/spans?service=a&name=b&min_ns=1&state=disk&from_unix_ns=2&to_unix_ns=3&pid=4\
         &sort=slowest&limit=10000",
    );
    let expected = [
        SpanFilter {
            service: None,
            name: None,
            min_ns: 0,
            state: None,
            from_unix_ns: None,
            to_unix_ns: None,
            pid: None,
            sort: Sort::Newest,
            limit: 100,
        },
        SpanFilter {
            service: Some("a".to_owned()),
            name: Some("b".to_owned()),
            min_ns: 1,
            state: crate::model::state::State::from_key("disk"),
            from_unix_ns: Some(UnixNs(2)),
            to_unix_ns: Some(UnixNs(3)),
            pid: Some(4),
            sort: Sort::Slowest,
            limit: 10_000,
        },
    ];
    assert_eq!(*asked.lock().unwrap(), expected);
}

#[test]
fn a_list_holds_the_documents_without_three_keys() {
    let api = Api::new(Memory::shop());
    let keys = |value: &Value| -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    for mut listed in api.json("/api/spans")["spans"].as_array().unwrap().clone() {
        let (trace, span) = (listed["trace_id"].as_str().unwrap(), listed["span_id"].as_str());
        let whole = api.json(&format!("/api/span/{trace}/{}", span.unwrap()));
        let only: Vec<String> = keys(&whole).difference(&keys(&listed)).cloned().collect();
        assert_eq!(only, ["causes", "methods", "stacks"]);
        for (key, value) in listed.as_object_mut().unwrap() {
            assert_eq!(value, &whole[key], "{key}");
        }
    }
}

#[test]
fn a_span_is_reported_in_every_scope() {
    let memory = Memory::shop();
    let view = memory.store.view();
    let trace: Vec<SpanAccount> = view.trace(TRACE, None).spans;
    let span = &view.spans(Some(TRACE), SpanId(CHECKOUT.to_be_bytes()))[0];
    let of_all = Trace::new(&trace);
    let family = Family::new(span, &of_all);
    let expected: Vec<SpanDocument> = Scope::ALL
        .into_iter()
        .map(|scope| match scope.window(span) {
            Some((from, to)) => {
                family.process_document(scope, &view.process(&span.process, from, to))
            }
            None => {
                let members: Vec<SpanAccount> =
                    family.members(scope).into_iter().cloned().collect();
                family.document(scope, &view.details(&members))
            }
        })
        .collect();
    let api = Api::new(memory);
    for (scope, expected) in Scope::ALL.into_iter().zip(expected) {
        let target = format!("{}?scope={}", path(CHECKOUT), scope.key());
        let answered: SpanDocument = serde_json::from_value(api.json(&target)).unwrap();
        // Equal times may come in any order.
        assert_eq!(sorted(answered), sorted(expected), "{}", scope.key());
    }
    let active =
        |scope: &str| api.json(&format!("{}?scope={scope}", path(CHECKOUT)))["active_ns"].as_u64();
    assert_eq!(active("children").unwrap() - active("span").unwrap(), 5_000_000);
    assert_eq!(active("trace_host").unwrap() - active("trace").unwrap(), 6_090_000);
    assert_eq!(api.json(&path(CHECKOUT))["scope"], "span", "the default");
    // From half of its active time to the start of the cart at 26 ms.
    assert_eq!(api.json(&path(CHECKOUT))["off_thread_ns"], 26_000_000 - 48_300_340 / 2);
}

fn sorted(mut span: SpanDocument) -> SpanDocument {
    span.stacks.sort_by_key(|stack| format!("{stack:?}"));
    span.methods.sort_by_key(|method| format!("{method:?}"));
    span
}

#[test]
fn a_span_id_alone_is_enough_unless_it_is_not() {
    let memory = Memory::shop();
    // The cart's ids, published again by another process a second later.
    let mut copy = memory.store.view().spans(None, SpanId(CART.to_be_bytes())).remove(0);
    copy.process.identity.pid = 666;
    copy.start_unix_ns.0 += 1_000_000_000;
    memory.append(batch_of(&[copy]));
    let api = Api::new(memory);
    assert_eq!(api.json(&format!("/api/span/{CHECKOUT:016X}")), api.json(&path(CHECKOUT)));
    assert_eq!(api.json(&path(CART))["process"]["pid"], 812, "who was first");
    assert_eq!(api.json(&format!("{}?pid=666", path(CART)))["process"]["pid"], 666);
    api.error(&format!("{}?pid=5", path(CART)), 404, "no_such_span");

    let answer = api.get("/api/span/3f00aa0000000004");
    let text = answer.error(409, "ambiguous");
    assert!(text.contains(&format!("{}/3f00aa0000000004", "77".repeat(16))), "{text}");
    let candidates = answer.json()["error"]["candidates"].as_array().unwrap().len();
    assert_eq!(candidates, 2);
}

#[test]
fn what_is_not_there_is_404() {
    let api = Api::new(Memory::shop());
    let text = api.error("/api/span/00000000000000ff", 404, "no_such_span");
    assert!(text.contains("no span 00000000000000ff is stored") && text.contains("hotspan spans"));
    api.error(&path(0xff), 404, "no_such_span");
    for wrong in ["/api", "/api/", "/api/spans/", "/api/span/", "/favicon.ico", "/api/span/a/b/c"] {
        let text = api.error(wrong, 404, "no_such_route");
        assert!(text.contains(wrong) && text.contains("GET /"), "{text}");
    }
}

#[test]
fn ids_are_checked() {
    let api = Api::new(Memory::shop());
    let trace = TRACE;
    for wrong in [
        "/api/span/xyz".to_owned(),
        format!("/api/span/{trace}"),
        format!("/api/span/{trace}/00"),
        "/api/span/00/00f067aa0ba902b7".to_owned(),
        "/api/span/%FF".to_owned(),
        format!("/api/span/{trace}/%2e%2e"),
    ] {
        let text = api.error(&wrong, 400, "bad_request");
        assert!(text.contains("a span id 16"), "{text}");
    }
}

#[test]
fn parameters_are_checked() {
    let api = Api::new(Memory::shop());
    let cases = [
        ("/api/spans?servce=shop", "did you mean service?"),
        ("/api/spans?min=5", "did you mean min_ns?"),
        ("/api/spans?scope=span", "there are service, name"),
        ("/api/spans?min_ns=10ms", "nanoseconds"),
        ("/api/spans?min_ns=-1", "integer"),
        ("/api/spans?min_ns=99999999999999999999", "integer"),
        ("/api/spans?state=lok", "did you mean lock?"),
        ("/api/spans?state=unknown", "unknown.events_lost"),
        ("/api/spans?sort=oldest", "newest, slowest"),
        ("/api/spans?limit=0", "from 1 to 10000"),
        ("/api/spans?limit=10001", "from 1 to 10000"),
        ("/api/spans?from_unix_ns=2&to_unix_ns=1", "earlier"),
        ("/api/spans?limit=1&limit=2", "more than once"),
        ("/api/span/00f067aa0ba902b7?scope=child", "did you mean children?"),
        ("/api/span/00f067aa0ba902b7?scpe=span", "did you mean scope?"),
        ("/api/health?x=1", "it takes none"),
        ("/metrics?x=1", "it takes none"),
        ("/?x=1", "it takes none"),
    ];
    for (target, part) in cases {
        let text = api.error(target, 400, "bad_parameter");
        assert!(text.contains(part), "{target}: {text}");
    }
}

#[test]
fn everything_is_only_read() {
    let api = Api::new(Memory::shop());
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        for target in ["/", "/api/spans", "/api/health", "/metrics", &path(CHECKOUT)] {
            let answer = api.ask(method, target, &[("Host", "localhost")]);
            answer.error(405, "method_not_allowed");
            assert_eq!(answer.headers["allow"], "GET, HEAD");
        }
    }
    let answer = api.ask("HEAD", "/api/spans", &[("Host", "localhost")]);
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
}

#[test]
fn a_store_that_fails_is_reported() {
    let failing = |failure| Api::new(Memory { failure: Some(failure), ..Memory::shop() });
    let targets = ["/api/spans", "/api/health", "/metrics", &path(CHECKOUT)];
    let damaged = failing(SourceError::Damaged("day 3 is no database".to_owned()));
    for target in targets {
        let text = damaged.error(target, 503, "store_damaged");
        assert!(text.contains("day 3 is no database"), "{text}");
    }
    let failed = failing(SourceError::Failed("no more files".to_owned()));
    for target in targets {
        assert!(failed.error(target, 500, "internal").contains("no more files"));
    }
}
