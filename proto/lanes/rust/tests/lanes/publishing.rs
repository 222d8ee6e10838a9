//! What a reader sees of spans, rings, threads and lanes, for both publishers.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use hotspan_lanes::abi::{Event, LaneControl, op, ts_kind};

use crate::actor::{Actor, EACH, Via, number_of};
use crate::reader::segments_of;

#[test]
fn spans_names_and_skipped_repeats() {
    for (via, clock, kind) in [
        (Via::Rust, "mono", ts_kind::MONOTONIC_NS),
        (Via::C, "mono", ts_kind::MONOTONIC_NS),
        (Via::Rust, "none", ts_kind::NONE),
        (Via::C, "none", ts_kind::NONE),
    ] {
        let actor = Actor::ready(via, "spans", 0, &[("HOTSPAN_TS", clock)]);
        let segments = segments_of(actor.pid());
        assert_eq!(segments.len(), 1);
        let (segment, header) = (&segments[0], segments[0].header());
        assert_eq!((header.ordinal, header.ts_kind, header.creator_pid), (0, kind, actor.pid()));
        assert_eq!(header.names_refused.load(Ordering::Relaxed), 1, "{via:?}");
        assert_eq!(segment.names(), ["GET /cart", "POST /pay", "added later"]);

        let stat = std::fs::read_to_string(format!("/proc/{}/stat", actor.pid())).unwrap();
        let start = stat.rsplit(')').next().unwrap().split_ascii_whitespace().nth(19).unwrap();
        assert_eq!(header.creator_start.to_string(), start);
        let namespace = std::fs::read_link(format!("/proc/{}/ns/pid", actor.pid())).unwrap();
        assert_eq!(namespace.to_str().unwrap(), format!("pid:[{}]", header.pidns_ino));
        assert_ne!(header.instance_id, [0; 16]);

        let lane = segment.lanes().next().unwrap();
        assert_eq!(lane.generation.load(Ordering::Relaxed), 1);
        let drained = segment.drain(lane, 0);
        assert_eq!(drained.lost, 0);
        let events = drained.events;
        let begin = events[0].owner();
        assert_eq!(begin, Some((lane.owner_tid.load(Ordering::Relaxed), 1)));
        let story: Vec<_> = events
            .iter()
            .map(|event| (event.op, event.span_id[0], event.parent_span_id[0], event.name_id))
            .collect();
        let expected = [
            (op::LANE_BEGIN, 0, 0, 0),
            (op::SET, 1, 0, 1),
            (op::SET, 2, 1, 2),
            (op::SET, 1, 0, 1),
            (op::CLEAR, 0, 0, 0),
            (op::SET, 1, 0, 0),
        ];
        assert_eq!(story, expected, "{via:?}");
        assert_eq!(events[1].trace_id[..2], [0xAA, 1]);
        assert_eq!((events[1].local_root_span_id[0], events[1].trace_flags), (1, 1));
        assert!(events.iter().all(|event| event.ts_kind == kind));
        if kind != ts_kind::NONE {
            assert!(events.is_sorted_by_key(|event| event.ts) && events[0].ts > 0);
        }
        // The OTEP 4947 record says the same as the newest event.
        let record = &lane.record;
        assert_eq!(record.valid_flags_size.load(Ordering::Relaxed), 1);
        assert_eq!(record.span_id.load(Ordering::Relaxed), 1);
        assert_eq!(record.trace_id[0].load(Ordering::Relaxed), 0x01AA);
        actor.finish();
    }
}

#[test]
fn a_slow_lap_overwrites_and_does_not_grow() {
    for via in EACH {
        let amount = 64 * 4;
        let ring = [("HOTSPAN_RING_LOG2", "5"), ("HOTSPAN_TS", "none")];
        // Laps of 32 events, but 10 ms pauses after 64: the second lap of each pair is fast.
        let actor = Actor::ready(via, "slow-events", amount, &ring);
        let segment = &segments_of(actor.pid())[0];
        let lane = segment.lanes().next().unwrap();
        assert!(lane.lap_warnings.load(Ordering::Relaxed) > 0);
        assert_ne!(lane.grown_at.load(Ordering::Relaxed), 0);
        drop(actor);

        // A lap of 1,024 takes 160 ms.
        let actor = Actor::ready(via, "slow-events", 1024 * 2 + 100, &[("HOTSPAN_TS", "none")]);
        let segment = &segments_of(actor.pid())[0];
        let lane = segment.lanes().next().unwrap();
        assert_eq!(lane.grown_at.load(Ordering::Relaxed), 0);
        assert_eq!(lane.lap_warnings.load(Ordering::Relaxed), 0);
        let drained = segment.drain(lane, 0);
        assert_eq!(drained.events.len(), 1024);
        assert_eq!(drained.lost, 1024 + 100 + 1);
        let numbers: Vec<u64> = drained.events.iter().map(number_of).collect();
        assert_eq!(numbers, (1125..=2148).collect::<Vec<_>>(), "{via:?}");
        actor.finish();
    }
}

#[test]
fn a_fast_ring_grows_without_losing_what_is_undrained() {
    for via in EACH {
        // One lap of 1,024, growth at 2,048 - or 1,025 - and the rest fits the larger ring.
        let actor = Actor::ready(via, "events", 6000, &[]);
        let segment = &segments_of(actor.pid())[0];
        let lane = segment.lanes().next().unwrap();
        let grown_at = lane.grown_at.load(Ordering::Relaxed);
        assert_eq!(grown_at, 1025, "{via:?}");
        assert_eq!(lane.ring_log2.load(Ordering::Relaxed), 10);
        let drained = segment.drain(lane, 0);
        // Event 0 alone was overwritten, by event 1,024, the last one of the small mask.
        assert_eq!(drained.lost, 1);
        let numbers: Vec<u64> = drained.events.iter().map(number_of).collect();
        assert_eq!(numbers, (1..=6000).collect::<Vec<_>>());
        drop(actor);

        let actor = Actor::ready(via, "events", 50_000, &[]);
        let segment = &segments_of(actor.pid())[0];
        let lane = segment.lanes().next().unwrap();
        let drained = segment.drain(lane, 0);
        assert_eq!(drained.events.len() as u64 + drained.lost, 50_001);
        let numbers: Vec<u64> = drained.events.iter().map(number_of).collect();
        assert_eq!(numbers, (50_001 - 8192..=50_000).collect::<Vec<_>>());
        actor.finish();
    }
}

#[test]
fn short_threads_reuse_lanes_and_end_them() {
    for via in EACH {
        let actor = Actor::ready(via, "short-threads", 2000, &[]);
        let segments = segments_of(actor.pid());
        assert_eq!(segments.len(), 1);
        let segment = &segments[0];
        assert_eq!(segment.header().threads_without_lane.load(Ordering::Relaxed), 0);
        let mut seen = BTreeSet::new();
        let mut lives = 0;
        for lane in segment.lanes() {
            let generation = lane.generation.load(Ordering::Acquire);
            assert!(generation.is_multiple_of(2), "given back");
            assert_eq!(lane.owner_tid.load(Ordering::Relaxed), 0);
            assert_eq!(lane.record.valid_flags_size.load(Ordering::Relaxed), 0);
            let drained = segment.drain(lane, 0);
            lives += generation / 2;
            assert_eq!(drained.events.len() as u64 + drained.lost, u64::from(generation / 2) * 3);
            // The ring still tells whole lives: BEGIN, SET, END, with the generation growing.
            let first_begin = drained.events.iter().position(|e| e.op == op::LANE_BEGIN).unwrap();
            let whole = &drained.events[first_begin..];
            let mut last = 0;
            for life in whole.chunks_exact(3) {
                let ops: Vec<u8> = life.iter().map(|event| event.op).collect();
                assert_eq!(ops, [op::LANE_BEGIN, op::SET, op::LANE_END]);
                let (tid, generation) = life[0].owner().unwrap();
                assert_eq!(life[2].owner(), Some((tid, generation)));
                assert!(tid != 0 && generation > last && !generation.is_multiple_of(2));
                last = generation;
                assert!(seen.insert(number_of(&life[1])));
            }
            assert!(whole.len().is_multiple_of(3));
            assert_eq!(last + 1, generation);
        }
        assert_eq!(lives, 2000, "{via:?}");
        actor.finish();
    }
}

#[test]
fn more_threads_than_lanes_make_further_segments() {
    for via in EACH {
        let actor = Actor::ready(via, "standing-threads", 150, &[]);
        let segments = segments_of(actor.pid());
        let ordinals: Vec<u64> = segments.iter().map(|one| one.header().ordinal).collect();
        assert_eq!(ordinals, [0, 1, 2], "{via:?}");
        let mut numbers = BTreeSet::new();
        let mut tids = BTreeSet::new();
        for segment in &segments {
            for lane in segment.lanes() {
                let events = segment.drain(lane, 0).events;
                assert_eq!(events.len(), 2);
                assert!(numbers.insert(number_of(&events[1])));
                assert!(tids.insert(lane.owner_tid.load(Ordering::Relaxed)));
            }
        }
        assert_eq!(numbers, (1..=150).collect());
        assert_eq!(tids.len(), 150);
        actor.finish();
    }
}

#[test]
fn lanes_of_threads_that_died_silently_are_taken_back() {
    for via in EACH {
        let actor = Actor::ready(via, "orphans", 64, &[]);
        let segments = segments_of(actor.pid());
        assert_eq!(segments.len(), 1, "{via:?}");
        let segment = &segments[0];
        let taken: Vec<_> =
            segment.lanes().filter(|lane| lane.generation.load(Ordering::Relaxed) != 1).collect();
        assert_eq!(taken.len(), 1);
        let lane = taken[0];
        assert_eq!(lane.generation.load(Ordering::Relaxed), 3);
        assert_eq!(lane.owner_tid.load(Ordering::Relaxed), actor.pid_of_actor_thread());
        let events = segment.drain(lane, 0).events;
        let ops: Vec<u8> = events.iter().map(|event| event.op).collect();
        assert_eq!(ops, [op::LANE_BEGIN, op::SET, op::LANE_END, op::LANE_BEGIN, op::SET]);
        assert_eq!(events[0].owner(), events[2].owner());
        assert_eq!(lane.first_index.load(Ordering::Relaxed), 3);
        assert_eq!(number_of(&events[4]), 65);
        actor.finish();
    }
}

#[test]
fn handlers_that_interrupt_publishing_are_refused_and_nothing_tears() {
    for via in EACH {
        let actor = {
            let mut actor = Actor::start(via, "storm", 300_000, &[]);
            assert!(actor.heard("refused") >= 100);
            actor.wait_until_ready();
            actor
        };
        let segment = &segments_of(actor.pid())[0];
        assert!(segment.header().publishes_refused.load(Ordering::Relaxed) >= 100);
        // The timer's signals may also hit other threads, which then have lanes of their own.
        let tid = actor.pid_of_actor_thread();
        let own = |lane: &&LaneControl| lane.owner_tid.load(Ordering::Relaxed) == tid;
        let lane = segment.lanes().find(own).unwrap();
        let drained = segment.drain(lane, 0);
        // What is missing is what was overwritten: a prefix. How long depends on growth.
        assert!(drained.events.len() >= 1024, "{via:?}");
        assert_eq!(drained.events[0].index, drained.lost);
        let sets: Vec<&Event> = drained.events.iter().filter(|e| e.op == op::SET).collect();
        assert!(drained.events.iter().all(|e| e.op == op::SET || e.op == op::CLEAR));
        let mut newest = 0;
        for event in &sets[..sets.len() - 1] {
            let number = number_of(event);
            if number < 1 << 50 {
                assert!(number > newest, "the main thread's own order");
                newest = number;
            }
        }
        assert_eq!(number_of(sets[sets.len() - 1]), 7);
        actor.finish();
    }
}

#[test]
fn the_first_publish_may_come_from_a_handler() {
    for via in EACH {
        for verb in ["first-in-handler", "unlucky-first"] {
            let actor = Actor::ready(via, verb, 0, &[]);
            let segments = segments_of(actor.pid());
            assert_eq!(segments.len(), 1, "{via:?} {verb}");
            let tid = actor.pid_of_actor_thread();
            let own = |lane: &&LaneControl| lane.owner_tid.load(Ordering::Relaxed) == tid;
            let lane = segments[0].lanes().find(own).unwrap();
            let events = segments[0].drain(lane, 0).events;
            assert_eq!(events[0].op, op::LANE_BEGIN);
            assert_eq!(number_of(events.last().unwrap()), 5);
            actor.finish();
        }
    }
}

#[test]
fn two_publishers_in_one_process_are_one() {
    let cases: [(Via, &[&str]); 2] =
        [(Via::RustThenC, &["from Rust"]), (Via::CThenRust, &["from C", "from Rust"])];
    for (via, names) in cases {
        let actor = Actor::ready(via, "standing-threads", 70, &[]);
        let segments = segments_of(actor.pid());
        let ordinals: Vec<u64> = segments.iter().map(|one| one.header().ordinal).collect();
        assert_eq!(ordinals, [0, 1], "{via:?}: one series of two, not two of one or two");
        assert_eq!(segments[0].names(), names);
        let lanes: usize = segments.iter().map(|segment| segment.lanes().count()).sum();
        assert_eq!(lanes, 71, "the first publisher's thread and those of the second");
        actor.finish();
    }
}
