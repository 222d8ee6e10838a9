//! Floods of segments, lanes and markers: whoever has too many loses its own, and costs a bounded amount.

use std::{
    fs::File,
    os::unix::fs::{FileExt as _, MetadataExt as _},
};

use hotspan_lanes::abi::{header, lane as at};
use rustix::fs::{MemfdFlags, memfd_create};

use super::*;
use crate::model::id::Uid;

const HOG: Pid = Pid(4_000_001);
const HONEST: Pid = Pid(4_000_002);
const BASE: u64 = 0x7000_0000;

/// A segment as a program makes it.
struct Made {
    file: File,
    inode: u64,
}

impl Made {
    fn new(inode: u64) -> Self {
        let file: File = memfd_create("segment", MemfdFlags::CLOEXEC).unwrap().into();
        file.set_len(abi::SEGMENT_LEN as u64).unwrap();
        let made = Self { file, inode };
        made.write(header::LANES_HIGH_WATER, &64_u32.to_le_bytes());
        made
    }

    fn write(&self, place: usize, bytes: &[u8]) {
        self.file.write_all_at(bytes, place as u64).unwrap();
    }

    fn segment(&self) -> Segment {
        Segment::of(self.file.try_clone().unwrap(), self.address(), self.inode)
    }

    fn address(&self) -> Address {
        Address(BASE + self.inode * 0x1000_0000)
    }

    fn lane(&self, number: usize) -> Address {
        Address(self.address().0 + (abi::LANE_OFF + number * abi::LANE_STRIDE) as u64)
    }

    /// Its lane `number` publishes these markers.
    fn publish(&self, number: usize, range: Range<u64>) {
        let line = abi::LANE_OFF + number * abi::LANE_STRIDE;
        for index in range.clone() {
            let mut event = [0; abi::EVENT_LEN];
            event[..8].copy_from_slice(&(index + 1).to_le_bytes());
            event[abi::event::OP] = abi::op::SET;
            let slot = (index % (1 << abi::RING_LOG2_DEFAULT)) as usize * abi::EVENT_LEN;
            self.write(line + abi::RING_IN_LANE + slot, &event);
        }
        self.write(line + at::GENERATION, &1_u32.to_le_bytes());
        self.write(line + at::RING_LOG2, &(abi::RING_LOG2_DEFAULT as u16).to_le_bytes());
        self.write(line + at::HEAD, &range.end.to_le_bytes());
    }
}

fn world() -> (Lanes, Budgets) {
    let budgets = Budgets::default();
    budgets.set_user(HOG, Uid(1000));
    budgets.set_user(HONEST, Uid(1001));
    (Lanes::new(budgets.clone()), budgets)
}

fn name(lanes: &mut Lanes, pid: Pid, made: &Made, number: usize) -> LaneId {
    lanes.lane_or_virtual(pid, made.lane(number), 0, 1).unwrap()
}

/// Segments of lanes that nobody owns cost a descriptor each, up to a share, and no look at all.
#[test]
fn segments_beyond_a_share_are_refused_and_unowned_lanes_cost_nothing() {
    let (mut lanes, budgets) = world();
    let made = Made::new(1);
    let blocks = || made.file.metadata().unwrap().blocks();
    let before = blocks();
    lanes.insert(HOG, made.segment(), 1, true);
    for round in 0..40 {
        lanes.drain();
        lanes.end_round();
        assert_eq!(budgets.held(Resource::Draining, budgets.owner(HOG)), 0, "round {round}");
    }
    // One that is named is looked at; its line is a hole, and stays one.
    let lane = name(&mut lanes, HOG, &made, 7);
    lanes.drain();
    assert_eq!((lanes.drained_to(lane), lanes.first_index(lane), blocks()), (0, 0, before));
    assert_eq!(lanes.lanes.len(), 1);

    let share = Resource::Segments.bound().process;
    budgets.force(Resource::Segments, budgets.owner(HOG), share - 1);
    let (other, honest) = (Made::new(2), Made::new(3));
    lanes.insert(HOG, other.segment(), 1, true);
    lanes.insert(HONEST, honest.segment(), 1, true);
    assert!(lanes.is_whole(HONEST) && !lanes.is_whole(HOG));
    assert_eq!(lanes.segments.len(), 2);
    let over = budgets.over(1);
    assert_eq!((over.len(), over[0].owner.pid, over[0].resource), (1, HOG, Resource::Segments));
}

/// A user's programs publish in 512 lanes as fast as they can, nobody takes what they publish, and a
/// program beside them loses nothing.
#[test]
fn draining_is_shared() {
    let (mut lanes, budgets) = world();
    let hogs: Vec<Pid> = (0..8).map(|n| Pid(HOG.0 + 10 + n)).collect();
    hogs.iter().for_each(|&pid| budgets.set_user(pid, Uid(1000)));
    let honest = Made::new(100);
    lanes.insert(HONEST, honest.segment(), 1, true);
    let mut floods = Vec::new();
    for (&pid, inode) in hogs.iter().zip(1..) {
        let made = Made::new(inode);
        lanes.insert(pid, made.segment(), 1, true);
        for number in 0..64 {
            name(&mut lanes, pid, &made, number);
        }
        floods.push(made);
    }
    let lane = name(&mut lanes, HONEST, &honest, 0);
    for round in 0..12 {
        for made in &floods {
            (0..64).for_each(|number| made.publish(number, round * 900..(round + 1) * 900));
        }
        honest.publish(0, round * 800..(round + 1) * 800);
        lanes.drain();
        let end = (round + 1) * 800;
        assert_eq!(lanes.drained_to(lane), end, "all of an honest round");
        assert_eq!(lanes.events(lane).len(), 800);
        lanes.claim(lane, 0..end);
        lanes.consume(lane, end);
        lanes.end_round();
        let work: u64 =
            hogs.iter().map(|&pid| budgets.held(Resource::Draining, budgets.owner(pid))).sum();
        assert!(work <= Resource::Draining.bound().user, "{work} in one round");
    }
    let queued: usize = lanes.lanes.values().map(|lane| lane.events.len()).sum();
    assert!(queued as u64 <= Resource::Markers.bound().user, "{queued} are kept");
    let lost: u64 = lanes.lost.iter().map(|(_, _, n)| n).sum();
    assert!(lost > 0 && lanes.lost.iter().all(|(of, _, _)| of != Some(HONEST)));
    assert_eq!(lanes.captured, lanes.delivered + lanes.in_flight + lost);
    assert!(budgets.over(1).iter().all(|over| over.owner.uid == Uid(1000)));
    // All of it is given back.
    for &pid in hogs.iter().chain([&HONEST]) {
        lanes.forget_image(pid, u64::MAX);
    }
    for dying in &mut lanes.dying {
        dying.0 = 0;
    }
    lanes.end_round();
    assert!(lanes.lanes.is_empty() && lanes.segments.is_empty() && lanes.busy.is_empty());
    for resource in [Resource::Lanes, Resource::Markers, Resource::Segments] {
        let held: u64 = hogs.iter().map(|&pid| budgets.held(resource, budgets.owner(pid))).sum();
        assert_eq!(held, 0, "{resource:?}");
    }
    assert_eq!(lanes.captured, lanes.delivered + lost_of(&lanes));
}

fn lost_of(lanes: &Lanes) -> u64 {
    assert_eq!(lanes.in_flight, 0);
    lanes.lost.iter().map(|(_, _, n)| n).sum()
}

/// Whoever can have no more spans until the next flush costs no more time until then.
#[test]
fn markers_that_can_make_no_span_are_not_read() {
    let (mut lanes, budgets) = world();
    let (hog, honest) = (Made::new(1), Made::new(2));
    lanes.insert(HOG, hog.segment(), 1, true);
    lanes.insert(HONEST, honest.segment(), 1, true);
    let (of_hog, of_honest) =
        (name(&mut lanes, HOG, &hog, 0), name(&mut lanes, HONEST, &honest, 0));
    let owner = budgets.owner(HOG);
    budgets.force(Resource::ChangedSpans, owner, Resource::ChangedSpans.bound().process);
    hog.publish(0, 0..900);
    honest.publish(0, 0..900);
    lanes.drain();
    let queued = |lanes: &Lanes, lane| lanes.events(lane).len();
    assert_eq!((queued(&lanes, of_hog), queued(&lanes, of_honest)), (0, 900));
    assert_eq!(lanes.drained_to(of_hog), 900);
    assert_eq!(lanes.lost.get(DaemonCounter::MarkersLapped), 900);
    assert_eq!(lanes.captured, lanes.in_flight + 900);
    assert_eq!(budgets.held(Resource::Draining, owner), 4, "a look");
    budgets.begin(Resource::ChangedSpans);
    hog.publish(0, 900..1000);
    lanes.drain();
    assert_eq!(queued(&lanes, of_hog), 100, "and goes on with the next");
}

/// Thousands of lanes in which nothing happens do not make those wait that are used.
#[test]
fn an_idle_lane_is_read_when_the_kernel_side_sees_it_move() {
    let (mut lanes, budgets) = world();
    budgets.set_user(HOG, Uid(1001));
    let mut idle = Vec::new();
    for inode in 1..=16 {
        let made = Made::new(inode);
        lanes.insert(HOG, made.segment(), 1, true);
        for number in 0..64 {
            name(&mut lanes, HOG, &made, number);
        }
        idle.push(made);
    }
    for _ in 0..100 {
        lanes.drain();
        lanes.end_round();
    }
    assert_eq!((lanes.busy.len(), lanes.idle.len()), (0, 1024));
    let work = budgets.held(Resource::Draining, budgets.owner(HOG));
    assert_eq!(work, 512 * 4, "only a part is looked at in a round");
    // One moves: the record that says so finds its markers.
    let lane = name(&mut lanes, HOG, &idle[15], 63);
    idle[15].publish(63, 0..10);
    lanes.want(lane, 10);
    assert_eq!((lanes.drained_to(lane), lanes.busy.len()), (10, 1));
    // Another one moves, and nothing says so.
    let lane = name(&mut lanes, HOG, &idle[3], 5);
    idle[3].publish(5, 0..10);
    (0..3).for_each(|_| lanes.drain());
    assert_eq!((lanes.drained_to(lane), lanes.busy.len()), (10, 2));
    let places = lanes.busy.iter().chain(&lanes.idle).collect::<HashSet<_>>();
    assert_eq!((places.len(), lanes.busy.len() + lanes.idle.len()), (1024, 1024), "each once");
}

#[test]
fn names_that_are_saved_are_bounded() {
    let (mut lanes, budgets) = world();
    let names = |lanes: &mut Lanes, pid: Pid, ids: Range<u32>| {
        lanes.lane_or_virtual(pid, Address(BASE), 0, 1).unwrap();
        for id in ids {
            let mut entry = [b'x'; abi::NAME_STRIDE];
            entry[0] = 4;
            let kind = wire::RecordKind::Name as u32;
            let (tgid, va, at, pad) = (pid.0, BASE, 0, 0);
            lanes.add_name(&wire::Name { kind, tgid, va, at, id, pad, entry });
        }
    };
    names(&mut lanes, HOG, 0..6000);
    names(&mut lanes, HONEST, 0..10);
    let of = |lanes: &Lanes, pid| {
        lanes.saved_names.values().filter(|(_, owner)| owner.pid == pid).count() as u64
    };
    assert_eq!(of(&lanes, HOG), Resource::Names.bound().process);
    assert_eq!(of(&lanes, HONEST), 10);
    assert_eq!(budgets.counts().get(DaemonCounter::NamesOverBudget), 6000 - 4096);
}
