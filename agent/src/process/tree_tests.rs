//! Who belongs to a recorded tree, how processes are called, and who is over.

use std::time::{Duration, Instant};

use super::{ask::Answer, names::Names, *};

const ROOT: Pid = Pid(10);

#[test]
fn a_member_stays_one_whatever_its_number_was_before() {
    let mut processes = Processes::default();
    // Found below the root at 100: its parent had ended, and its fork is reported late.
    processes.add_member(ROOT, 100);
    processes.add_member(Pid(12), 100);
    processes.forked(Pid(11), Pid(12), 90);
    assert!(processes.is_watched(Pid(12)));
    processes.forked(Pid(12), Pid(13), 95);
    assert!(processes.is_watched(Pid(13)), "forked between the attach and the look");
    // The number is given out again.
    processes.forked(Pid(1), Pid(12), 200);
    assert!(!processes.is_watched(Pid(12)));
    processes.forked(Pid(1), Pid(13), 95);
    assert!(!processes.is_watched(Pid(13)));
}

#[test]
fn the_children_of_one_alone_do_not_belong() {
    let mut processes = Processes::default();
    processes.add_member(ROOT, 100);
    processes.set_alone(ROOT);
    processes.forked(ROOT, Pid(11), 110);
    assert!(processes.is_watched(ROOT) && !processes.is_watched(Pid(11)));
    // Another process of that number, in another's tree, is not alone.
    processes.add_member(Pid(20), 0);
    processes.forked(Pid(20), ROOT, 120);
    processes.forked(ROOT, Pid(11), 130);
    assert!(processes.is_watched(Pid(11)));
}

#[test]
fn names_are_asked_for_once_and_reported_to_everybody() {
    let mut processes = Processes::host();
    processes.execed(ROOT, &padded("comm"), 100);
    let first = processes.identity(ROOT);
    let ask = Ask::Names { pid: ROOT, since: 100 };
    assert_eq!(processes.take_asks(), [ask]);
    // Nobody waits longer than it says.
    let fallback = first.clone().settle(Instant::now());
    assert_eq!((&*fallback.comm, &*fallback.service), ("comm", "comm"));
    let names = Names { comm: "later".into(), executable: "program".into() };
    processes.answered(ask, Some(Answer::Names(names.clone())));
    let answer = first.settle(Instant::now() + Duration::from_secs(20));
    assert_eq!((&*answer.comm, &*answer.service), ("comm", "program"));
    assert_eq!(processes.identity(ROOT).settle(Instant::now()), answer);
    assert_eq!(processes.take_asks(), []);

    // What is reported of an image that is gone names nobody.
    processes.execed(ROOT, &padded("other"), 200);
    processes.answered(ask, Some(Answer::Names(names)));
    assert_eq!(processes.take_asks(), [Ask::Names { pid: ROOT, since: 200 }]);
    processes.answered(Ask::Names { pid: ROOT, since: 200 }, None);
    assert_eq!(&*processes.identity(ROOT).settle(Instant::now()).service, "other");
    assert_eq!(processes.take_asks().len(), 1, "asked again, for it could not be read");
}

#[test]
fn a_process_is_over_when_it_says_so() {
    let mut processes = Processes::host();
    processes.exited(ROOT, &[0; 16], 100);
    processes.ask_who_is_over();
    processes.ask_who_is_over();
    assert_eq!(processes.take_asks(), [Ask::Life(ROOT)], "asked once at a time");
    for answer in [Some(Answer::Life(true)), None] {
        assert!(processes.answered(Ask::Life(ROOT), answer).is_none());
        processes.ask_who_is_over();
        assert_eq!(processes.take_asks(), [Ask::Life(ROOT)], "and again");
    }
    let change = processes.answered(Ask::Life(ROOT), Some(Answer::Life(false)));
    assert!(matches!(change, Some(Change::Over { pid: ROOT, at: 100 })));
    processes.ask_who_is_over();
    assert_eq!(processes.take_asks(), []);
}

/// As the kernel side reports names.
fn padded(name: &str) -> [u8; 16] {
    let mut comm = [0; 16];
    comm[..name.len()].copy_from_slice(name.as_bytes());
    comm
}
