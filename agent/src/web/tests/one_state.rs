//! An answer is of one state of the store, however many questions it is made of.

use serde_json::Value;

use super::{
    Api,
    memory::Memory,
    shop::{TRACE, batch_of, span},
};
use crate::model::{
    batch::{Batch, WaitRow},
    cause::Cause,
    state::State,
};

const ID: u64 = 7;
const LOCK: State = State::Lock;

/// The `part`th addition to a span: 100 ns in which it waited for a lock.
fn addition(part: u32) -> Batch {
    let shop = (812, "shop");
    let mut batch =
        batch_of(&[span(ID, 0, "GET /", shop, u64::from(part) * 500, &[(State::Lock, 100)], 50)]);
    batch.spans[0].part = part;
    batch.waits =
        vec![WaitRow { span: 0, state: LOCK, cause: Cause::default(), ns: 100, count: 1 }];
    batch
}

/// A span of one addition, which grows by another one before every question.
fn growing() -> (Api, impl Fn() -> usize) {
    let memory = Memory::default();
    memory.gate.0.lock().unwrap().1 = true;
    memory.append(addition(0));
    *memory.growth.lock().unwrap() = (1..20).rev().map(addition).collect();
    let left = std::sync::Arc::clone(&memory.growth);
    (Api::new(memory), move || 19 - left.lock().unwrap().len())
}

fn sums(span: &Value) -> [u64; 2] {
    let states = span["states"].as_object().unwrap().values();
    [span["active_ns"].as_u64().unwrap(), states.map(|ns| ns.as_u64().unwrap()).sum()]
}

#[test]
fn a_document_is_of_one_state_though_the_span_grows() {
    let (api, grown) = growing();
    let mut before = 0;
    for scope in ["span", "children", "trace", "trace_host"] {
        let span = api.json(&format!("/api/span/{}/{ID:016x}?scope={scope}", TRACE));
        let expected = 100 * (1 + before as u64);
        assert_eq!(sums(&span), [expected, expected], "{scope}");
        assert_eq!(span["causes"][0]["ns"], expected, "{scope}");
        assert!(grown() >= before + 3, "{scope}: it did not grow within the answer");
        before = grown();
    }
}

#[test]
fn a_list_is_of_one_state_though_its_spans_grow() {
    let (api, grown) = growing();
    let list = api.json("/api/spans");
    let span = &list["spans"][0];
    assert_eq!(sums(span), [100, 100]);
    // What it was on no thread comes from its trace: of the same state.
    assert_eq!(span["off_thread_ns"], 50);
    assert_eq!(grown(), 2, "the search and its trace");
}
