//! The report of `hotspan record --json`, as a test reads it: only the stable interface, so an
//! unknown state or kind is a plain string here and never an error.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Nanoseconds per state.
pub type States = BTreeMap<String, u64>;

#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    pub spans: Vec<Span>,
    #[serde(default)]
    pub recorded: Vec<Recorded>,
    pub threads: Vec<Thread>,
    pub loss: BTreeMap<String, u64>,
    pub conservation: BTreeMap<String, Conservation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Recorded {
    pub pid: u32,
    pub asked_pid: u32,
    pub comm: String,
    pub processes: usize,
    pub with_children: bool,
    pub left_out: usize,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Conservation {
    pub captured: u64,
    pub delivered: u64,
    pub in_flight: u64,
    pub spooled: u64,
    pub lost: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Span {
    pub trace_id: String,
    pub span_id: String,
    pub parent_span_id: String,
    pub name: String,
    pub service: String,
    pub process: Process,
    pub start_unix_ns: u64,
    pub wall_ns: u64,
    pub active_ns: u64,
    pub off_thread_ns: u64,
    pub states: States,
    #[serde(default)]
    pub causes: Vec<Cause>,
    #[serde(default)]
    pub methods: Vec<Method>,
    #[serde(default)]
    pub stacks: Vec<Stack>,
    pub exact: Exact,
    #[serde(default)]
    pub loss: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Process {
    pub pid: u32,
    pub comm: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Cause {
    pub state: String,
    pub ns: u64,
    pub count: u64,
    pub kind: String,
    pub name: String,
    pub pid: u32,
    pub tid: u32,
    pub trace_id: String,
    pub span_id: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Method {
    pub name: String,
    pub self_ns: u64,
    pub total_ns: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Stack {
    pub state: String,
    pub ns: u64,
    pub frames: Vec<Frame>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Frame {
    pub name: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Exact {
    pub states: bool,
    pub methods: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Thread {
    pub pid: u32,
    pub tid: u32,
    pub comm: String,
    pub wall_ns: u64,
    pub states: States,
}

/// Sum over all states.
pub fn sum(states: &States) -> u64 {
    states.values().sum()
}

/// Nanoseconds in `state`.
pub fn get(states: &States, state: &str) -> u64 {
    states.get(state).copied().unwrap_or(0)
}

/// Runnable and without a CPU.
pub fn ready(states: &States) -> u64 {
    get(states, "ready_wakeup") + get(states, "ready_preempted") + get(states, "throttled")
}

/// Not running, not ready, not taken by the hypervisor: waiting for something.
pub fn blocked(states: &States) -> u64 {
    sum(states) - get(states, "running") - get(states, "steal") - ready(states)
}
