//! Whoever spends as much as it can, everybody else gets a share, and all of it is given back.

use super::*;
use crate::{ledger::DaemonCounter, model::id::Uid};

const A: Uid = Uid(1000);
const B: Uid = Uid(1001);

fn owner(pid: u32, uid: Uid) -> Owner {
    Owner { pid: Pid(pid), uid }
}

/// Takes one by one until it is refused. Returns how many it got.
fn greedy(budgets: &Budgets, of: Resource, owner: Owner) -> u64 {
    (0..).take_while(|_| budgets.take(of, owner, 1)).count() as u64
}

#[test]
fn every_resource_leaves_something_for_others() {
    for &resource in Resource::ALL {
        let Bound { process, user, total } = resource.bound();
        assert_eq!(Resource::of_key(resource.key()), Some(resource));
        // One alone gets all that is promised to a process.
        let alone = Budgets::default().room(resource, owner(1, A));
        assert_eq!(alone, process, "{resource:?} of a process alone");
        // A user at its bound leaves enough for others to have a good part of what a process may.
        let budgets = Budgets::default();
        let got: u64 = (1..1000).map(|pid| budgets.take_up_to(resource, owner(pid, A), user)).sum();
        assert!(got <= user, "{resource:?}");
        let other = budgets.room(resource, owner(1, B));
        assert!(other * 8 >= process, "{resource:?}: {other} are left of {total}");
    }
}

#[test]
fn a_user_without_end_of_processes_leaves_a_share_to_each_that_comes() {
    let budgets = Budgets::default();
    let of = Resource::Markers;
    let bound = of.bound();
    let first = budgets.take_up_to(of, owner(1, A), u64::MAX);
    let second = budgets.take_up_to(of, owner(2, A), u64::MAX);
    assert_eq!(first, bound.process);
    assert!(second > bound.process / 2, "{second}");
    for pid in 3..8 {
        assert!(budgets.room(of, owner(pid, A)) > 0, "the {pid}th");
        let _ = budgets.take_up_to(of, owner(pid, A), u64::MAX);
    }
    // And where things turn over, those that hold more than their part get no more of it.
    budgets.give(of, owner(1, A), 40_000);
    let (again, late) = (budgets.room(of, owner(1, A)), budgets.room(of, owner(8, A)));
    assert!(again < 40_000 && late > 1000, "{again} {late}");
}

#[test]
fn what_is_given_back_is_there_again() {
    let budgets = Budgets::default();
    let of = Resource::UnmappedStacks;
    let all = greedy(&budgets, of, owner(1, A));
    assert_eq!((all, budgets.held(of, owner(1, A))), (128, 128));
    budgets.give(of, owner(1, A), 1);
    assert_eq!(greedy(&budgets, of, owner(1, A)), 1);
    // More than it has, or of somebody who has nothing, gives nothing.
    budgets.give(of, owner(1, A), 1000);
    budgets.give(of, owner(2, A), 1000);
    budgets.give(of, owner(1, B), 1000);
    assert_eq!(greedy(&budgets, of, owner(1, A)), all);
    budgets.begin(of);
    assert_eq!(budgets.room(of, owner(1, A)), all);
    budgets.force(of, owner(1, A), 500);
    assert_eq!(budgets.room(of, owner(1, A)), 0);
}

#[test]
fn what_is_shed_is_counted_under_its_owners_name() {
    let budgets = Budgets::default();
    let (hog, honest) = (owner(1, A), owner(2, B));
    let of = Resource::Segments;
    assert!(greedy(&budgets, of, hog) == 256 && budgets.take(of, honest, 1));
    assert!(!budgets.take(of, hog, 3));
    let counts: Vec<_> = budgets.counts().iter().collect();
    let counter = DaemonCounter::SegmentsOverBudget.into();
    assert_eq!(counts, [(Some(Pid(1)), counter, 4)]);
    let over = |now| budgets.over(now);
    let expected = Over { resource: of, owner: hog, since: 10, shed: 4 };
    assert_eq!(over(10), [expected]);
    assert_eq!(over(20), [expected], "for a while");
    assert!(!budgets.take(of, hog, 1));
    assert_eq!(over(30), [Over { shed: 5, ..expected }]);
    assert_eq!(over(30 + 60_000_000_000), [], "and not for ever");
    budgets.fold();
    assert_eq!(budgets.counts().get(DaemonCounter::SegmentsOverBudget), 5);
    assert!(budgets.counts().iter().all(|(of, _, _)| of.is_none()));
}

#[test]
fn who_is_over_stays_a_short_list() {
    let budgets = Budgets::default();
    for pid in 0..10_000 {
        budgets.shed(Resource::Lanes, owner(pid, A), u64::from(pid) + 1);
    }
    let over = budgets.over(1);
    assert_eq!((over.len(), over[0].owner.pid, over[31].shed), (32, Pid(9999), 9969));
}

#[test]
fn a_process_is_its_users_and_so_are_its_children() {
    let budgets = Budgets::default();
    let own = Pid(std::process::id());
    let uid = budgets.owner(own).uid;
    assert_ne!(uid, Uid::UNKNOWN);
    let gone = Pid(u32::MAX - 7);
    assert_eq!(budgets.owner(gone).uid, Uid::UNKNOWN);
    budgets.forked(own, gone);
    assert_eq!(budgets.owner(gone).uid, uid, "it is gone, but whose child it was is known");
    budgets.execed(gone);
    assert_eq!(budgets.owner(gone).uid, Uid::UNKNOWN);
}
