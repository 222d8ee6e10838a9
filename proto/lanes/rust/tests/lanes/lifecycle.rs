//! Forks, execs, kills, limits and the link line: the publisher's manners as a guest.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hotspan_lanes::abi::op;

use crate::actor::{Actor, EACH, actor_library, compile, number_of};
use crate::reader::{Segment, segments_of};

#[test]
fn a_child_gets_its_own_segment_with_the_same_names() {
    for via in EACH {
        for verb in ["fork", "raw-clone"] {
            let mut actor = Actor::start(via, verb, 0, &[]);
            let child = actor.heard("child");
            actor.wait_until_ready();
            actor.wait_until_ready();
            let (own, childs) = (segments_of(actor.pid()), segments_of(child));
            assert_eq!((own.len(), childs.len()), (1, 1), "{via:?} {verb}");
            assert_eq!(childs[0].names(), ["GET /cart"]);
            assert_eq!(childs[0].header().creator_pid, child);
            let refused =
                |segment: &Segment| segment.header().names_refused.load(Ordering::Relaxed);
            assert_eq!((refused(&own[0]), refused(&childs[0])), (1, 0));
            assert_ne!(own[0].header().instance_id, childs[0].header().instance_id);
            let numbers = |segments: &[Segment]| -> Vec<u64> {
                let lane = segments[0].lanes().next().unwrap();
                let events = segments[0].drain(lane, 0).events;
                assert_eq!(events[0].op, op::LANE_BEGIN);
                events[1..].iter().map(number_of).collect()
            };
            assert_eq!(numbers(&own), [100, 102]);
            assert_eq!(numbers(&childs), [101]);
            assert_eq!(childs[0].lane(0).owner_tid.load(Ordering::Relaxed), child);
            actor.finish();
        }
    }
}

#[test]
fn children_of_every_kind_under_publish_load() {
    for via in EACH {
        let mut actor = Actor::start(via, "children-under-load", 90, &[]);
        assert_eq!(actor.heard("failed"), 0, "{via:?}");
        actor.wait_until_ready();
        assert_eq!(segments_of(actor.pid()).len(), 1);
        actor.finish();
    }
}

#[test]
fn a_killed_process_leaves_a_clean_prefix() {
    for via in EACH {
        for _ in 0..20 {
            let mut actor = Actor::ready(via, "for-ever", 0, &[]);
            let segments = segments_of(actor.pid());
            let lane = segments[0].lanes().next().unwrap();
            let begin = lane.head.load(Ordering::Acquire);
            let deadline = Instant::now() + Duration::from_secs(30);
            while lane.head.load(Ordering::Acquire) < begin + 20_000 {
                assert!(Instant::now() < deadline, "the actor publishes");
                std::hint::spin_loop();
            }
            actor.kill();
            let head = lane.head.load(Ordering::Acquire);
            let drained = segments[0].drain(lane, 0);
            // Everything up to head but what was overwritten, and at most the one event that was
            // being written when the process died, which took the oldest one's slot.
            assert!(drained.events.len() >= 8191, "{via:?} {}", drained.events.len());
            let first = drained.events[0].index;
            for (event, index) in drained.events.iter().zip(first..) {
                assert_eq!(event.index, index);
                assert_eq!(number_of(event), index);
            }
            assert_eq!(drained.events.last().map(|event| event.index), Some(head - 1));
        }
    }
}

#[test]
fn a_reader_beside_a_running_publisher_sees_no_torn_event() {
    for via in EACH {
        let mut actor = Actor::ready(via, "for-ever", 0, &[]);
        let segments = segments_of(actor.pid());
        let lane = segments[0].lanes().next().unwrap();
        let (mut tail, mut accepted, mut lost) = (0, 0, 0);
        let deadline = Instant::now() + Duration::from_secs(30);
        while accepted < 100_000 {
            assert!(Instant::now() < deadline, "{accepted} of 100,000 events");
            let head = lane.head.load(Ordering::Acquire);
            // As the daemon does: what is surely overwritten is not even looked at.
            let from = tail.max(head.saturating_sub(8191));
            lost += from - tail;
            let drained = segments[0].drain(lane, from);
            for event in drained.events.iter().filter(|event| event.op == op::SET) {
                assert_eq!(number_of(event), event.index, "{via:?}");
            }
            accepted += drained.events.len() as u64;
            lost += drained.lost;
            tail = from + drained.events.len() as u64 + drained.lost;
        }
        assert_eq!(accepted + lost, tail, "every event is either read or lost");
        actor.kill();
    }
}

#[test]
fn limits_and_refusals_disable_and_harm_nobody() {
    let refusals = [
        ("limit-file-size", 1 << 20),
        ("limit-file-size", 0),
        ("deny-memfd", libc::EPERM as u64),
        ("deny-memfd", libc::ENOSYS as u64),
    ];
    for via in EACH {
        for (verb, amount) in refusals {
            let actor = Actor::ready(via, verb, amount, &[]);
            assert!(segments_of(actor.pid()).is_empty(), "{via:?} {verb}");
            actor.finish();
        }
        // Room for the program as it is and 40 MiB more: a segment would fit, but hog it.
        let free = Actor::ready(via, "spans", 0, &[]);
        let status = std::fs::read_to_string(format!("/proc/{}/statm", free.pid())).unwrap();
        let pages: u64 = status.split_ascii_whitespace().next().unwrap().parse().unwrap();
        let limit = pages * 4096 + (8 << 20);
        let actor = Actor::ready(via, "limit-address-space", limit, &[]);
        assert!(segments_of(actor.pid()).is_empty(), "{via:?} address space");
        actor.finish();
        free.finish();

        let actor = Actor::ready(via, "refused", 0, &[("HOTSPAN_DISABLE", "1")]);
        assert!(segments_of(actor.pid()).is_empty(), "{via:?}");
        actor.finish();
    }
}

#[test]
fn the_symbols_are_dynamic() {
    let listed = Command::new("nm").arg("-D").arg(actor_library()).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let kind = |symbol: &str| {
        let line = listed.lines().find(|line| line.ends_with(symbol)).unwrap_or_default();
        line.split_ascii_whitespace().nth(1).unwrap_or("absent").to_owned()
    };
    assert_eq!(kind(" otel_thread_ctx_v1"), "W", "weak");
    assert_eq!(kind(" hotspan_lanes_v1"), "u", "unique");
    let symbols = Command::new("readelf").args(["-W", "--dyn-syms"]).arg(actor_library()).output();
    let symbols = String::from_utf8(symbols.unwrap().stdout).unwrap();
    let record = symbols.lines().find(|line| line.ends_with(" otel_thread_ctx_v1")).unwrap();
    assert!(record.contains(" TLS ") && record.contains(" DEFAULT "), "{record}");
    assert!(!listed.contains(" hotspan__"), "everything else is private: {listed}");
}

#[test]
fn the_header_compiles_as_c11_and_cpp17_in_several_units() {
    let flavours: [&[&str]; 7] = [
        &["-x", "c", "-std=c11"],
        &["-x", "c++", "-std=c++17"],
        &["-x", "c", "-std=c11", "-O0"],
        &["-x", "c", "-std=c11", "-flto"],
        &["-x", "c", "-std=c11", "-static"],
        &["-x", "c", "-std=c11", "-fno-pie", "-no-pie"],
        &["-x", "c", "-std=c11", "-fvisibility=hidden", "-fsanitize=undefined"],
    ];
    for flavour in flavours {
        let mut arguments = flavour.to_vec();
        arguments.extend(["tests/lanes/one_unit.c", "tests/lanes/other_unit.c"]);
        let program = compile(&format!("units{}", flavour.concat()), &arguments);
        let status = Command::new(program).status().unwrap();
        assert!(status.success(), "{flavour:?}: {status}");
    }
}
