//! The table is whole: nothing in it is without role or meaning, nothing in it is never counted, and
//! the accounts it makes add up.

use std::{collections::BTreeSet, fs, path::Path};

use agent_ebpf::unwind::Stop;

use super::*;
use crate::model::id::Pid;

#[test]
fn every_counter_has_a_key_a_role_and_a_meaning() {
    let mut keys = BTreeSet::new();
    for counter in Counter::all() {
        let (key, entry) = (counter.key(), counter.entry());
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(!key.is_empty() && key.chars().all(is_plain), "{key}");
        assert!(keys.insert(key), "{key} is there twice");
        assert_eq!(Counter::of_key(key), Some(counter));
        assert!(!entry.roles.is_empty(), "{key} has no role");
        assert!(!(counter.is_loss() && counter.is_information()), "{key} is a loss and none");
        let meaning = meaning(key);
        assert!(meaning.len() > 8 && meaning != UNKNOWN, "{key} has no meaning");
        assert!(meaning.len() <= 72 && !meaning.ends_with('.'), "{key} is not one short line");
    }
}

#[test]
fn every_kind_is_captured_and_delivered_and_loses_for_one_reason_at_a_time() {
    for kind in Kind::ALL {
        assert_eq!(Kind::of_key(kind.key()), Some(kind));
        let roles = || Counter::all().flat_map(|counter| counter.entry().roles);
        assert!(roles().any(|role| *role == Role::Captured(kind)), "{kind:?} is not captured");
        assert!(roles().any(|role| *role == Role::Delivered(kind)), "{kind:?} is not delivered");
        let mut reasons = BTreeSet::new();
        for role in roles() {
            if let Role::Lost(of, reason) | Role::Dropped(of, reason) = role
                && *of == kind
            {
                assert!(reasons.insert(reason), "{kind:?} is lost twice: {reason}");
            }
        }
    }
}

/// The kernel side's counters are read backwards, while it counts.
#[test]
fn what_became_of_a_thing_is_read_before_its_capture() {
    let counted_alone = |role: Role| {
        let mut all = wire::Counter::ALL.iter();
        all.position(|&it| Counter::from(it).entry().roles == [role])
    };
    for kind in Kind::ALL {
        let Some(captured) = counted_alone(Role::Captured(kind)) else { continue };
        for (slot, &counter) in wire::Counter::ALL.iter().enumerate() {
            let roles = Counter::from(counter).entry().roles;
            let lost = roles.iter().any(|role| matches!(role, Role::Lost(of, _) if *of == kind));
            assert!(!lost || slot > captured, "{counter:?} is counted after its capture");
        }
    }
}

#[test]
fn accounts_add_up_and_show_what_they_lost() {
    let (reported, other) = (Pid(1), Pid(2));
    let mut lost = Tally::default();
    lost.add(reported, DaemonCounter::MarkersLapped, 2);
    lost.add(other, DaemonCounter::MarkersLapped, 5);
    lost.add(None, DaemonCounter::TotalsUnread, 1);
    lost.add(None, DaemonCounter::SegmentSize, 0);
    let mut sums = Sums::default();
    sums.add(wire::Counter::SamplesCaptured, 10);
    sums.add(wire::Counter::SamplesRingFull, 3);
    sums.add(wire::Counter::SamplesIdle, 4);
    sums.add_unreported(wire::Counter::SwitchOutMissed, 8);
    sums.add(wire::Counter::LifecycleCaptured, 0);
    sums.add(wire::Counter::TailMarkersLost, 6);
    sums.add(DaemonCounter::SamplesDelivered, 7);
    sums.add(DaemonCounter::SamplesOverBudget, 2);
    sums.add(DaemonCounter::MarkersCaptured, 20);
    sums.add(DaemonCounter::MarkersDelivered, 12);
    sums.add(DaemonCounter::MarkersInFlight, 1);
    sums.add_tally(&lost, |pid| pid == reported);

    let accounts = sums.conservation(false);
    let samples = &accounts["samples"];
    assert_eq!((samples.captured, samples.delivered, samples.imbalance()), (10, 5, 0));
    assert_eq!(samples.lost, [("ring_full", 3), ("samples_over_budget", 2)].map(owned).into());
    // Others' markers are in the account; what was lost of them is not in this report's loss.
    let markers = &accounts["markers"];
    assert_eq!((markers.captured, markers.in_flight, markers.imbalance()), (26, 1, 0));
    assert_eq!(markers.lost, [("markers_lapped", 7), ("tail_markers_lost", 6)].map(owned).into());
    assert!(accounts.contains_key("lifecycle") && !accounts.contains_key("walks"));
    let loss = [
        ("markers_lapped", 2),
        ("samples_over_budget", 2),
        ("samples_ring_full", 3),
        ("tail_markers_lost", 6),
        ("totals_unread", 1),
    ];
    assert_eq!(sums.loss(), loss.map(owned).into());
    assert_eq!(sums.information(), [("samples_idle", 4)].map(owned).into());

    lost.fold();
    assert_eq!(lost.get(DaemonCounter::MarkersLapped), 7);
    assert!(lost.iter().all(|(of, _, _)| of.is_none()));
    sums.add(wire::Counter::SamplesCaptured, 1);
    assert_eq!(sums.conservation(false)["samples"].imbalance(), 1, "one is unaccounted for");
}

#[test]
fn each_end_of_a_walk_is_captured_once() {
    let mut sums = Sums::default();
    sums.add(wire::Counter::StacksWhole, 5);
    sums.add(wire::Counter::StacksCut, 2);
    sums.add(wire::Counter::StacksCompat, 1);
    let walks = &sums.conservation(true)["walks"];
    assert_eq!((walks.captured, walks.delivered, walks.imbalance()), (8, 5, 0));
    assert!(!sums.loss().contains_key("stacks_whole"));
}

#[test]
fn keys_of_another_version_are_shown_as_losses() {
    assert_eq!(meaning("not of this version"), UNKNOWN);
    assert!(!is_information("not of this version"));
    assert!(is_information("wakeup_ignored"));
    let any = wire::Counter::ALL.iter().filter(|&&it| Counter::from(it).is_of_any_thread());
    assert!(any.clone().count() == 3 && any.clone().all(|&it| Counter::from(it).is_loss()));
}

fn owned((key, n): (&str, u64)) -> (String, u64) {
    (key.to_owned(), n)
}

/// A counter that nobody counts says 0 whatever happens.
#[test]
fn every_counter_is_counted_somewhere() {
    let agent = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kernel_side = sources(&agent.join("../agent-ebpf/src"), "wire");
    let daemon = sources(&agent.join("src"), "ledger");
    assert!(kernel_side.len() > 50_000 && daemon.len() > 500_000, "these are not the sources");
    // The ends of walks are counted by their number.
    let by_number = names(&kernel_side, "count_after(Counter::", "StacksWhole");
    let first = wire::Counter::StacksWhole as usize;
    for (slot, counter) in wire::Counter::ALL.iter().enumerate() {
        let is_end = by_number && (first..first + Stop::ALL.len()).contains(&slot);
        let name = format!("{counter:?}");
        assert!(is_end || names(&kernel_side, "Counter::", &name), "{name} is never counted");
    }
    for counter in DaemonCounter::ALL {
        let name = format!("{counter:?}");
        assert!(names(&daemon, "DaemonCounter::", &name), "{name} is never counted");
    }
}

/// Whether a text has `prefix` and `name`, and not only the beginning of a longer one.
fn names(text: &str, prefix: &str, name: &str) -> bool {
    let whole = format!("{prefix}{name}");
    text.match_indices(&whole).any(|(at, _)| {
        let next = text[at + whole.len()..].chars().next();
        next.is_none_or(|next| !next.is_alphanumeric() && next != '_')
    })
}

/// All code below a folder, without its tests and without one folder in it.
fn sources(folder: &Path, without: &str) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != without && name != "tests" {
            text += &sources(&path, without);
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            let all = fs::read_to_string(&path).unwrap();
            let code = all.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            text.extend(lines.flat_map(|line| [line, "\n"]));
        }
    }
    text
}
