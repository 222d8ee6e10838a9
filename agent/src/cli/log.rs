//! Logs: to standard error, quiet by default, and no more of one kind than a person can read. A line
//! that repeats is written a few times a minute; how many more there were is reported with the next.

use std::{
    collections::HashMap,
    io::{self, IsTerminal as _},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{Event, Metadata, Subscriber, callsite::Identifier};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::FilterExt as _,
    layer::{Context, Filter, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

/// Lines of one place in the code that a window may have.
const BURST: u32 = 5;
/// Its length.
const WINDOW: Duration = Duration::from_secs(60);

/// Starts logging by a filter such as `warn` or `hotspan=debug,warn`; a filter that cannot be read is
/// `warn`.
pub(super) fn start(filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("warn"));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .without_time()
        .with_filter(filter.and(Calm::default()));
    // Only the first start of a process counts.
    let _ = tracing_subscriber::registry().with(lines).try_init();
}

/// Lets a burst of each kind of line through, then waits for the next window.
#[derive(Debug, Default)]
struct Calm(Mutex<HashMap<Identifier, Kind>>);

#[derive(Debug)]
struct Kind {
    since: Instant,
    written: u32,
    held: u64,
}

// === impl Calm ===

impl Calm {
    /// Whether a line may be written, and how many were held before it.
    fn admits(&self, place: Identifier, now: Instant) -> (bool, u64) {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = kinds.entry(place).or_insert(Kind { since: now, written: 0, held: 0 });
        let mut held = 0;
        if now.saturating_duration_since(kind.since) >= WINDOW {
            held = kind.held;
            *kind = Kind { since: now, written: 0, held: 0 };
        }
        if kind.written < BURST {
            kind.written += 1;
            (true, held)
        } else {
            kind.held += 1;
            (false, 0)
        }
    }
}

impl<S: Subscriber> Filter<S> for Calm {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let place = event.metadata();
        let (admitted, held) = self.admits(place.callsite(), Instant::now());
        if held > 0 {
            // Not an event of its own: that would come through here again.
            eprintln!("hotspan: {held} more lines like the next one were not written");
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use tracing::Callsite as _;

    use super::*;

    #[test]
    fn a_line_that_repeats_is_held() {
        // Any two places will do.
        let place = tracing::callsite!(name: "a", kind: tracing::metadata::Kind::EVENT, fields: x);
        let other = tracing::callsite!(name: "b", kind: tracing::metadata::Kind::EVENT, fields: x);
        let (place, other) = (place.metadata().callsite(), other.metadata().callsite());
        let (calm, start) = (Calm::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(calm.admits(place.clone(), start), (true, 0));
        }
        assert_eq!(calm.admits(place.clone(), start), (false, 0));
        assert_eq!(calm.admits(place.clone(), start + WINDOW / 2), (false, 0));
        assert_eq!(calm.admits(other, start), (true, 0));
        assert_eq!(calm.admits(place.clone(), start + WINDOW), (true, 2));
        assert_eq!(calm.admits(place, start + WINDOW), (true, 0));
    }
}
