//! What is counted, as it comes in: counts, gaps and the agent's account. Hostile like the rest.

use std::{collections::BTreeMap, sync::Arc};

use hotspan_ingest::v1;

use super::{codes, decode_dictionary::number, violation::Violation};
use crate::model::batch::{Account, AgentCost, Counts, Gap, KindAccount, OverBudget};

/// No duration or count of one flush comes near (nine years): sums of them do not overflow.
const MOST: u64 = 1 << 58;
/// Kinds or reasons in one account.
const MOST_REASONS: usize = 1024;
/// Owners over their share in one account.
const MOST_OVER: usize = 64;

/// A gap of a frame; its sequences are the session's business.
pub fn decode_gap(wire: &v1::Gap) -> Gap {
    Gap {
        from_sequence: wire.from_sequence,
        to_sequence: wire.to_sequence,
        reason: codes::capped(&wire.reason).into(),
        counts: capped_counts(wire.counts.as_ref()),
        from: wire.from,
        to: wire.to,
    }
}

/// What a gap stands for. Never refused: it is the only way to tell what was refused.
fn capped_counts(wire: Option<&v1::Counts>) -> Counts {
    let wire = wire.copied().unwrap_or_default();
    Counts {
        samples: wire.samples.min(MOST),
        intervals: wire.intervals.min(MOST),
        interval_ns: wire.interval_ns.min(MOST),
        markers: wire.markers.min(MOST),
        stacks: wire.stacks.min(MOST),
        spans: wire.spans.min(MOST),
    }
}

/// Captured things; absent is none.
pub fn decode_counts(wire: Option<&v1::Counts>) -> Result<Counts, Violation> {
    let &v1::Counts { samples, intervals, interval_ns, markers, stacks, spans } =
        wire.unwrap_or(&v1::Counts::default());
    for count in [samples, intervals, interval_ns, markers, stacks, spans] {
        bounded("counts", count)?;
    }
    Ok(Counts { samples, intervals, interval_ns, markers, stacks, spans })
}

/// The agent's accounting; absent is empty.
pub fn decode_account(wire: Option<&v1::Account>) -> Result<Account, Violation> {
    let Some(wire) = wire else { return Ok(Account::default()) };
    if wire.kinds.len() > MOST_REASONS {
        return Err(number("kinds of an account", wire.kinds.len() as u64));
    }
    let mut kinds = BTreeMap::new();
    for kind in &wire.kinds {
        let account = KindAccount {
            captured: kind.captured,
            linked: kind.linked,
            lost: decode_reasons(&kind.lost)?,
        };
        kinds.insert(codes::capped(&kind.kind).into(), account);
    }
    let cost = wire.cost.unwrap_or_default();
    Ok(Account {
        kinds,
        loss: decode_reasons(&wire.loss)?,
        cost: AgentCost {
            cpu_ns: cost.cpu_ns,
            wall_ns: cost.wall_ns,
            rss_bytes: cost.rss_bytes,
            queue_bytes: cost.queue_bytes,
        },
        closed: wire.closed,
        over: wire.over.iter().take(MOST_OVER).map(decode_over).collect(),
    })
}

fn decode_over(wire: &v1::OverBudget) -> OverBudget {
    OverBudget {
        resource: codes::capped(&wire.resource).into(),
        pid: wire.pid,
        uid: wire.uid,
        comm: codes::capped(&wire.comm).into(),
        since_unix_ns: wire.since_unix_ns,
        shed: wire.shed,
    }
}

fn decode_reasons(wire: &[v1::Reason]) -> Result<BTreeMap<Arc<str>, u64>, Violation> {
    if wire.len() > MOST_REASONS {
        return Err(number("reasons", wire.len() as u64));
    }
    Ok(wire.iter().map(|row| (codes::capped(&row.reason).into(), row.count)).collect())
}

/// A number that sums may be made of.
pub fn bounded(what: &'static str, value: u64) -> Result<u64, Violation> {
    if value > MOST { Err(number(what, value)) } else { Ok(value) }
}
