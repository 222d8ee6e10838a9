//! The span document and the report of `hotspan record --json` (design 5): stable interfaces.
//! Times are integer nanoseconds, ids lower-case hex.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeStruct as _};

use crate::{
    ledger::Conservation,
    model::{
        cause::CauseKind,
        frame::Frame,
        state::{State, StateTimes},
    },
};

/// A word of one of the closed lists below.
pub type Key = &'static str;

/// Everything a recording found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Every span, in order of start.
    pub spans: Vec<SpanDocument>,
    /// Spans that are reported as part of others (summary only).
    #[serde(skip)]
    pub nested: usize,
    /// The processes that were asked for by their number, and what belongs to them.
    pub recorded: Vec<RecordedDocument>,
    /// Every thread of the recorded processes.
    pub threads: Vec<ThreadDocument>,
    /// What was captured and not delivered, and what disturbed the account, by reason. Only
    /// reasons that occurred.
    pub loss: BTreeMap<String, u64>,
    /// The conservation check of design 3.8, per kind.
    pub conservation: BTreeMap<String, Conservation>,
}

/// A running process that was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordedDocument {
    /// The process.
    pub pid: u32,
    /// The number it was asked for by: its own, or that of one of its threads.
    pub asked_pid: u32,
    /// Name of its main thread.
    pub comm: String,
    /// Processes recorded from the start: itself and, with children, all that were below it.
    pub processes: usize,
    /// Whether what was below it, and what that forked since, was recorded too.
    pub with_children: bool,
    /// Processes below it at the start that were not recorded.
    pub left_out: usize,
}

/// Where one span's time went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpanDocument {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub span_id: String,
    /// 16 hex digits, or empty for none.
    pub parent_span_id: String,
    /// Operation name, "" when the publisher gave none.
    pub name: String,
    /// Service name; without an identity the executable's name.
    pub service: String,
    /// The process that published it.
    pub process: ProcessDocument,
    /// First activation, Unix time.
    pub start_unix_ns: u64,
    /// Last deactivation on any thread minus start.
    pub wall_ns: u64,
    /// Sum of the time it was active over all threads; may exceed `wall_ns`.
    pub active_ns: u64,
    /// Wall time in which neither it nor a descendant was active anywhere.
    pub off_thread_ns: u64,
    /// What is summed: `span`, `children`, `trace`, `trace_host`, `period`, `process`.
    #[serde(deserialize_with = "known")]
    pub scope: Key,
    /// Sums exactly to `active_ns`.
    pub states: StateTimes,
    /// Who or what the waits were for.
    #[serde(default)]
    pub causes: Vec<CauseDocument>,
    /// Functions by time (sampled).
    #[serde(default)]
    pub methods: Vec<MethodDocument>,
    /// Stacks by time (sampled).
    #[serde(default)]
    pub stacks: Vec<StackDocument>,
    /// Which of the above are exact.
    pub exact: Exact,
    /// What is missing from this span, by reason.
    pub loss: BTreeMap<String, u64>,
}

/// A process as reports name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessDocument {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Name of its main thread.
    pub comm: String,
}

/// One cause of waits of a span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CauseDocument {
    /// The state it caused.
    pub state: State,
    /// Nanoseconds.
    pub ns: u64,
    /// Waits.
    pub count: u64,
    /// What kind of cause.
    pub kind: CauseKind,
    /// Name of the thread or system call, "" for an interrupt.
    pub name: String,
    /// Its process, 0 for none.
    pub pid: u32,
    /// Its thread, 0 for none.
    pub tid: u32,
    /// Trace of the span it was in, "" for none.
    pub trace_id: String,
    /// The span it was in, "" for none.
    pub span_id: String,
    /// That span's operation name, "" for none.
    pub span_name: String,
}

/// One function's share of a span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MethodDocument {
    /// Demangled name, or `module+0xoffset`.
    pub name: Arc<str>,
    /// Source file, "" when not known.
    pub file: Arc<str>,
    /// Line of the function's first sampled frame, 0 when not known.
    pub line: u32,
    /// With it on top of the stack.
    pub self_ns: u64,
    /// With it anywhere on the stack.
    pub total_ns: u64,
    /// `total_ns` by state.
    pub by_state: StateTimes,
}

/// One stack's share of a span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackDocument {
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// In which state.
    pub state: State,
    /// Nanoseconds it stands for.
    pub ns: u64,
    /// Times it was seen.
    pub count: u64,
}

/// Which numbers are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exact {
    /// `states`: false when part of it is bounded or unknown.
    pub states: bool,
    /// `methods` are always sampled.
    pub methods: bool,
}

/// A thread's whole account.
#[derive(Clone, Debug, Serialize)]
pub struct ThreadDocument {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Name.
    pub comm: String,
    /// From its first to its last accounted instant.
    pub wall_ns: u64,
    /// Sums to `wall_ns`.
    pub states: StateTimes,
}

/// A document without methods, stacks and causes: what lists hold.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanSummary(pub SpanDocument);

// === impl SpanSummary ===

impl Serialize for SpanSummary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let span = &self.0;
        let mut fields = serializer.serialize_struct("SpanSummary", 14)?;
        fields.serialize_field("trace_id", &span.trace_id)?;
        fields.serialize_field("span_id", &span.span_id)?;
        fields.serialize_field("parent_span_id", &span.parent_span_id)?;
        fields.serialize_field("name", &span.name)?;
        fields.serialize_field("service", &span.service)?;
        fields.serialize_field("process", &span.process)?;
        fields.serialize_field("start_unix_ns", &span.start_unix_ns)?;
        fields.serialize_field("wall_ns", &span.wall_ns)?;
        fields.serialize_field("active_ns", &span.active_ns)?;
        fields.serialize_field("off_thread_ns", &span.off_thread_ns)?;
        fields.serialize_field("scope", &span.scope)?;
        fields.serialize_field("states", &span.states)?;
        fields.serialize_field("exact", &span.exact)?;
        fields.serialize_field("loss", &span.loss)?;
        fields.end()
    }
}

/// Reads a word of the closed lists; what a newer hotspan may have added to them is `other`.
fn known<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Key, D::Error> {
    const KEYS: [Key; 6] = ["span", "children", "trace", "trace_host", "period", "process"];
    let word = String::deserialize(deserializer)?;
    Ok(KEYS.into_iter().find(|key| *key == word).unwrap_or("other"))
}

#[cfg(test)]
mod tests {
    use crate::model::frame::FrameKind;
    use std::collections::BTreeSet;

    use super::*;

    const DOCUMENT: &str = r#"{"trace_id":"0a","span_id":"0b","parent_span_id":"","name":"n",
        "service":"s","process":{"pid":1,"comm":"c"},"start_unix_ns":1,"wall_ns":2,"active_ns":3,
        "off_thread_ns":4,"scope":"trace","states":{"running":3},"causes":[],"methods":[],
        "stacks":[{"frames":[{"name":"f","file":"","line":0,"kind":"native"}],"state":"running",
        "ns":3,"count":1}],"exact":{"states":true,"methods":false},"loss":{"lost":1}}"#;

    #[test]
    fn a_summary_is_the_document_without_three_keys() {
        let whole: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
        let document: SpanDocument = serde_json::from_str(DOCUMENT).unwrap();
        assert_eq!(serde_json::to_value(&document).unwrap(), whole, "read back as written");
        let summary = serde_json::to_value(SpanSummary(document)).unwrap();
        let keys = |value: &serde_json::Value| -> BTreeSet<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let dropped: Vec<String> = keys(&whole).difference(&keys(&summary)).cloned().collect();
        assert_eq!(dropped, ["causes", "methods", "stacks"]);
        for key in keys(&summary) {
            assert_eq!(summary[&key], whole[&key], "{key}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        let newer = DOCUMENT.replace("native", "jit");
        let document: SpanDocument = serde_json::from_str(&newer).unwrap();
        assert_eq!(document.stacks[0].frames[0].kind, FrameKind::Other);
        let newer = DOCUMENT.replace("\"running\":3", "\"dreaming\":3");
        let error = serde_json::from_str::<SpanDocument>(&newer).unwrap_err().to_string();
        assert!(error.contains("dreaming"), "{error}");
    }
}
