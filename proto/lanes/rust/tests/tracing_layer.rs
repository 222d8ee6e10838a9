//! The tracing layer, seen through the OTEP 4947 record of this very process's lane.
#![cfg(feature = "tracing")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "lanes/reader.rs"]
mod reader;

use hotspan_lanes::abi::op;
use hotspan_lanes::layer::LaneLayer;
use hotspan_lanes::{NameId, Span, stats};
use reader::segments_of;
use tracing_subscriber::prelude::*;

/// What another layer might store with a span.
struct Foreign;

struct Marks;

impl<S> tracing_subscriber::Layer<S> for Marks
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        id: &tracing::span::Id,
        ctx: tracing_subscriber::layer::Context<'_, S>,
    ) {
        if attributes.metadata().name() == "foreign" {
            ctx.span(id).unwrap().extensions_mut().insert(Foreign);
        }
    }
}

#[test]
fn entering_and_leaving_publishes_what_is_current() {
    let layer = LaneLayer::identified_by(|extensions| {
        extensions.get::<Foreign>()?;
        Some(Span { trace_id: [7; 16], span_id: [8; 8], ..Span::default() })
    });
    let subscriber = tracing_subscriber::registry().with(Marks).with(layer);
    tracing::subscriber::with_default(subscriber, || {
        let outer = tracing::info_span!("outer");
        let _outer = outer.enter();
        tracing::info_span!("inner").in_scope(|| {});
        tracing::info_span!("foreign").in_scope(|| {});
    });
    assert_eq!(stats().disabled, None);
    let segments = segments_of(std::process::id());
    let lane = segments[0].lanes().next().unwrap();
    let events = segments[0].drain(lane, 0).events;
    let names = segments[0].names();
    let story: Vec<(u8, Option<&str>)> = events
        .iter()
        .map(|event| {
            let place = (event.name_id as usize).checked_sub(1);
            (event.op, place.map(|place| names[place].as_str()))
        })
        .collect();
    let expected = [
        (op::LANE_BEGIN, None),
        (op::SET, Some("outer")),
        (op::SET, Some("inner")),
        (op::SET, Some("outer")),
        (op::SET, Some("foreign")),
        (op::SET, Some("outer")),
        (op::CLEAR, None),
    ];
    assert_eq!(story, expected);
    assert_eq!(events[2].parent_span_id, events[1].span_id);
    assert_eq!(events[2].trace_id, events[1].trace_id);
    assert_eq!(events[4].span_id, [8; 8]);
    assert_ne!(NameId(events[4].name_id), NameId::default());
}
