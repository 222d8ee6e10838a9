//! `captured = delivered + in_flight + spooled + lost(by reason)` of a run (design 3.8), per kind.
//!
//! A run's rest is in flight as long as it may still come: while the run is open. A run that neither
//! ended well nor is connected has lost it (`agent_died`). One whose earlier batches went with a part
//! that was damaged has lost them (`agent_forgot`: they had been acknowledged as durable); how much that
//! was shows when it ends. After any other orderly end the rest must be nothing; it is reported all the
//! same, so that a broken account shows.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    ledger::{self, Conservation, DaemonCounter},
    store::RunRecord,
};

/// Reason for what a run had left when it died.
const AGENT_DIED: &str = DaemonCounter::AgentDied.key();
/// Reason for what a run had delivered to a part of the store that is gone.
const AGENT_FORGOT: &str = DaemonCounter::AgentForgot.key();

/// Of one run, per kind. `connected`: the rest may still come.
pub fn of(record: &RunRecord, connected: bool) -> BTreeMap<String, Conservation> {
    let mut kinds: BTreeMap<String, Conservation> = BTreeMap::new();
    for (kind, account) in &record.account.kinds {
        let kept = kinds.entry(kind.to_string()).or_default();
        kept.captured = account.captured;
        // What is part of something else, as walks and copies are of stacks, has no count of its own
        // in batches: it is delivered when it has reached the join.
        kept.delivered = account.linked;
        kept.lost = by_reason(&account.lost);
    }
    for (kind, n) in record.delivered.iter() {
        kinds.entry(kind.to_owned()).or_default().delivered = n;
    }
    for (reason, counts) in &record.gaps {
        for (kind, n) in counts.iter() {
            let kept = kinds.entry(kind.to_owned()).or_default();
            *kept.lost.entry(reason.to_string()).or_default() += n;
        }
    }
    for kept in kinds.values_mut() {
        kept.lost.retain(|_, n| *n > 0);
        let known = kept.lost.values().chain([&kept.delivered]).map(|&n| i128::from(n));
        let rest = i128::from(kept.captured) - known.sum::<i128>();
        match u64::try_from(rest) {
            Ok(rest @ 1..) if !record.closed && !connected => {
                *kept.lost.entry(AGENT_DIED.to_owned()).or_default() += rest;
            }
            // A gap is reported before the batch whose account knows what it held: until then the captured
            // are at least those that are known of.
            Err(_) if !record.closed && !record.gaps.is_empty() && rest < 0 => {
                kept.captured = kept.captured.saturating_add(rest.unsigned_abs() as u64);
            }
            Ok(rest @ 1..) if record.closed && record.gaps.contains_key(AGENT_FORGOT) => {
                *kept.lost.entry(AGENT_FORGOT.to_owned()).or_default() += rest;
            }
            _ => kept.in_flight = rest.clamp(i64::MIN.into(), i64::MAX.into()) as i64,
        }
    }
    kinds
}

/// What a run lost or had disturbed, and what it counted besides that is no loss; by key.
pub fn loss_and_information(record: &RunRecord) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
    let counted = by_reason(&record.account.loss).into_iter();
    counted.partition(|(key, _)| !ledger::is_information(key))
}

/// Numbers by reason, those that are not nothing.
pub fn by_reason(numbers: &BTreeMap<Arc<str>, u64>) -> BTreeMap<String, u64> {
    let some = numbers.iter().filter(|(_, n)| **n > 0);
    some.map(|(reason, &n)| (reason.to_string(), n)).collect()
}
