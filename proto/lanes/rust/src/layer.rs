//! A `tracing_subscriber` layer that publishes the entered span of each thread.
//!
//! Spans of `tracing` have no W3C ids. The layer makes them: a span without a parent begins a
//! trace, its descendants stay in it. A program that has ids already (OpenTelemetry) hands them in
//! with [`LaneLayer::identified_by`].
//!
//! ```
//! use tracing_subscriber::prelude::*;
//!
//! let subscriber = tracing_subscriber::registry().with(hotspan_lanes::layer::LaneLayer::new());
//! tracing::subscriber::with_default(subscriber, || {
//!     tracing::info_span!("GET /checkout").in_scope(|| { /* published here */ });
//! });
//! ```

use core::fmt;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use tracing::Subscriber;
use tracing::span::{Attributes, Id};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::{Extensions, LookupSpan, SpanRef};

use crate::{Span, name, span_clear, span_set};

/// Tells the ids of a span from what other layers have stored with it.
type Identify = dyn Fn(&Extensions<'_>) -> Option<Span> + Send + Sync;

/// Publishes on enter, and what is current then on exit.
#[derive(Default)]
pub struct LaneLayer {
    identify: Option<Box<Identify>>,
}

/// What the layer stores with every span.
struct Made(Span);

// === impl LaneLayer ===

impl LaneLayer {
    pub fn new() -> Self {
        Self::default()
    }

    /// Uses the ids that `identify` finds among a span's extensions when it is entered. A span for
    /// which it finds none, or that it leaves unnamed, gets what the layer made.
    pub fn identified_by(
        identify: impl Fn(&Extensions<'_>) -> Option<Span> + Send + Sync + 'static,
    ) -> Self {
        Self { identify: Some(Box::new(identify)) }
    }

    fn publish<'a, S: LookupSpan<'a>>(&self, span: &SpanRef<'a, S>) {
        let extensions = span.extensions();
        let Some(Made(made)) = extensions.get::<Made>() else {
            return;
        };
        let found = self.identify.as_ref().and_then(|identify| identify(&extensions));
        let mut ids = found.unwrap_or(*made);
        if ids.name.0 == 0 {
            ids.name = made.name;
        }
        // A process that does not publish runs on as if this layer were not there.
        let _published = span_set(&ids);
    }
}

impl fmt::Debug for LaneLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneLayer").field("identified", &self.identify.is_some()).finish()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LaneLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let parent = span.parent().and_then(|parent| {
            let extensions = parent.extensions();
            extensions.get::<Made>().map(|Made(span)| *span)
        });
        let mut made = child_of(parent);
        made.name = name(attributes.metadata().name());
        span.extensions_mut().replace(Made(made));
    }

    fn on_enter(&self, id: &Id, ctx: Context<'_, S>) {
        if let Some(span) = ctx.span(id) {
            self.publish(&span);
        }
    }

    fn on_exit(&self, _id: &Id, ctx: Context<'_, S>) {
        // The registry has already left the span.
        match ctx.lookup_current() {
            Some(span) => self.publish(&span),
            None => span_clear(),
        }
    }
}

fn child_of(parent: Option<Span>) -> Span {
    let span_id = random_id();
    let (trace_id, local_root) = match parent {
        Some(parent) => (parent.trace_id, parent.local_root_span_id.unwrap_or(parent.span_id)),
        None => {
            let mut trace_id = [0; 16];
            trace_id[..8].copy_from_slice(&random_id());
            trace_id[8..].copy_from_slice(&random_id());
            (trace_id, span_id)
        }
    };
    Span {
        trace_id,
        span_id,
        parent_span_id: parent.map(|parent| parent.span_id),
        local_root_span_id: Some(local_root),
        ..Span::default()
    }
}

/// Never all zero. Unique enough for a profile; not secret.
fn random_id() -> [u8; 8] {
    // Every new `RandomState` has keys of its own.
    (RandomState::new().hash_one(0_u8) | 1).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_stay_in_their_trace() {
        let root = child_of(None);
        let child = child_of(Some(root));
        let grandchild = child_of(Some(child));
        assert_eq!(root.parent_span_id, None);
        assert_eq!(root.local_root_span_id, Some(root.span_id));
        assert_eq!(grandchild.trace_id, root.trace_id);
        assert_eq!(grandchild.parent_span_id, Some(child.span_id));
        assert_eq!(grandchild.local_root_span_id, Some(root.span_id));
        assert_ne!(child.span_id, grandchild.span_id);
    }
}
