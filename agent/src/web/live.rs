//! What the API asks of the collector: what is going on.

use std::{collections::BTreeMap, sync::Arc};

use crate::model::{batch::OverBudget, id::RunId};

/// The collector at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CollectorState {
    /// Agents that are connected.
    pub sessions: Vec<Session>,
    /// Connections and batches turned away, by reason, since the start.
    pub refused: BTreeMap<Arc<str>, u64>,
    /// Why it takes no batch at the moment.
    pub full: Option<String>,
}

/// A connected agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    /// Its run.
    pub run_id: RunId,
    /// Its address.
    pub peer: String,
    /// Since when.
    pub connected_unix_ns: u64,
    /// When its batches were last acknowledged as durable.
    pub last_ack_unix_ns: u64,
    /// Who is over its share of the agent's budgets.
    pub over: Vec<OverBudget>,
}

/// The collector, as far as it is watched.
pub(crate) trait Live: Send + Sync + 'static {
    /// How it is now. Does not block.
    fn state(&self) -> CollectorState;
}
