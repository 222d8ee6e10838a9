//! Spans with the same ids: whose is shown.

use serde_json::Value;

use super::{
    Api,
    memory::Memory,
    shop::{CHECKOUT, TRACE, batch_of, span, times},
};
use crate::{
    model::{clock::UnixNs, state::State},
    store::account::SpanAccount,
};

const MS: u64 = 1_000_000;

/// The checkout again, as another process has it.
fn another(pid: u32, states: &[(State, u64)], begins: impl Fn(u64) -> u64) -> SpanAccount {
    let mut twin = span(CHECKOUT, 0, "made up", (pid, "evil"), 0, states, 0);
    twin.start_unix_ns = UnixNs(begins(twin.start_unix_ns.0));
    twin
}

/// What the API says of the checkout when `others` say theirs.
fn shown(others: &[SpanAccount]) -> (Value, Value) {
    let memory = Memory::shop();
    memory.append(batch_of(others));
    let api = Api::new(memory);
    let document = api.json(&format!("/api/span/{TRACE}/{CHECKOUT:016x}"));
    let tree = api.json(&format!("/api/span/{TRACE}/{CHECKOUT:016x}?scope=children"));
    (document, tree)
}

#[test]
fn ids_that_are_repeated_take_nobodys_place() {
    // It ran for longer, and says that it began an hour before.
    let hour = 3_600_000 * MS;
    let said = [(State::UnknownBeforeAttach, hour + MS), (State::Running, 900 * MS)];
    let liar = another(4000, &said, |at| at - hour);
    let late = another(4001, &[(State::Running, 9000 * MS)], |at| at + MS);
    let (document, tree) = shown(&[liar, late]);
    assert_eq!(document["process"]["pid"], 812, "{document}");
    assert_eq!(tree["process"]["pid"], 812);
    assert_eq!(tree["states"]["running"], 9_812_345 + 4_120_000, "and none of theirs is added");
}

#[test]
fn of_two_that_were_there_before_the_one_that_was_seen_more_is_shown() {
    let before = |ns| [(State::UnknownBeforeAttach, ns)];
    // Both were seen from one moment on.
    let seen = 1_700_000_000_000 * MS;
    let idle = another(10, &before(50 * MS), |_| seen - 50 * MS);
    let mut busy = another(20, &[], |_| seen - 20 * MS);
    busy.states = times(&[(State::UnknownBeforeAttach, 20 * MS), (State::Running, MS)]);
    let (document, _) = shown(&[idle, busy]);
    assert_eq!(document["process"]["pid"], 20, "{document}");
}
