//! Who belongs to a recorded tree.

use super::*;

const ROOT: Pid = Pid(10);

#[test]
fn a_member_stays_one_whatever_its_number_was_before() {
    let mut processes = Processes::default();
    // Found below the root at 100: its parent had ended, and its fork is told late.
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
