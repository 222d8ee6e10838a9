//! The collector as the API watches it.

use std::sync::Weak;

use crate::{
    collector::Collector,
    web::live::{CollectorState, Live, Session},
};

/// A collector, watched by the API.
pub(super) struct Watched(pub Weak<Collector>);

impl Live for Watched {
    fn state(&self) -> CollectorState {
        let Some(collector) = self.0.upgrade() else { return CollectorState::default() };
        let status = collector.status();
        let sessions = status.sessions.into_iter().map(|session| Session {
            run_id: session.run.id,
            peer: session.peer.map_or_else(String::new, |peer| peer.to_string()),
            connected_unix_ns: session.since_unix_ns,
            last_ack_unix_ns: session.last_ack_unix_ns,
            over: session.over,
        });
        CollectorState {
            sessions: sessions.collect(),
            refused: status.refusals.into_iter().map(|(why, n)| (why.into(), n)).collect(),
            full: status.writer.full.or(status.writer.failing),
        }
    }
}
