//! The account of markers: `captured = delivered + in_flight + lost` after every step, and each of them
//! is what it should be.

use agent_ebpf::wire::{RecordKind, Tail, record::TAIL_EVENTS};

use super::*;
use crate::kernel::ktime;

/// Nobody: nothing of it can be attached.
const PID: Pid = Pid(u32::MAX - 1);
const LANE: Address = Address(0x7000_0000);

/// Markers `from..to` as the kernel side saves them, at most a record of them.
fn tail(range: Range<u64>) -> Tail {
    let mut events = [[0; abi::EVENT_LEN]; TAIL_EVENTS];
    for (event, index) in events.iter_mut().zip(range.clone()) {
        event[..8].copy_from_slice(&index.wrapping_add(1).to_le_bytes());
        event[abi::event::OP] = abi::op::CLEAR;
    }
    Tail {
        kind: RecordKind::Tail as u32,
        tid: 1,
        tgid: PID.0,
        generation: 1,
        serial: 1,
        va: LANE.0,
        first: range.start,
        count: range.end.wrapping_sub(range.start),
        at: 1,
        events,
    }
}

fn account(lanes: &Lanes) -> [u64; 4] {
    let lost = lanes.lost.iter().map(|(_, _, n)| n).sum();
    assert_eq!(lanes.captured, lanes.delivered + lanes.in_flight + lost, "{lanes:?}");
    [lanes.captured, lanes.delivered, lanes.in_flight, lost]
}

#[test]
fn each_marker_is_counted_once_and_where_it_is() {
    let mut lanes = Lanes::default();
    let lane = lanes.lane_or_virtual(PID, LANE, 0, 1).unwrap();
    assert_eq!(account(&lanes), [0, 0, 0, 0]);
    lanes.add_tail(&tail(0..4));
    assert_eq!(account(&lanes), [4, 0, 4, 0], "saved, nobody's yet");
    lanes.claim(lane, 1..3);
    lanes.claim(lane, 1..3);
    assert_eq!(account(&lanes), [4, 2, 2, 0]);
    lanes.consume(lane, 2);
    assert_eq!(account(&lanes), [4, 2, 1, 1], "the first was never claimed");
    lanes.add_tail(&tail(2..6));
    assert_eq!(account(&lanes), [6, 2, 3, 1], "two of them are known");
    lanes.add_tail(&tail(10..12));
    assert_eq!(account(&lanes), [12, 2, 9, 1], "four between them may still come");
    assert_eq!(lanes.drained_to(lane), 6);
    lanes.add_tail(&tail(7..9));
    assert_eq!((account(&lanes), lanes.drained_to(lane)), ([12, 2, 9, 1], 6), "two of them do");
    let indexes = || lanes.events(lane).iter().map(|queued| queued.event.index);
    assert!(indexes().eq([2, 3, 4, 5, 7, 8, 10, 11]), "{:?}", Vec::from_iter(indexes()));
    lanes.unread(lane, 8);
    assert_eq!(account(&lanes), [12, 2, 8, 2], "one is given up");
    lanes.unread(lane, 20);
    lanes.unread(lane, 20);
    assert_eq!(account(&lanes), [20, 2, 7, 11], "eight more were seen by their number only");
    lanes.add_tail(&tail(12..14));
    assert_eq!(account(&lanes), [20, 2, 7, 11], "too late");
    lanes.add_tail(&tail(22..24));
    assert_eq!(account(&lanes), [24, 2, 11, 11]);
    lanes.give_up();
    assert_eq!(account(&lanes), [24, 2, 0, 22]);
}

/// A lane passes on before its former owner has ended, and its next owner's markers are saved first.
/// What lies before them is read as soon as the segment is attached.
#[test]
fn what_was_not_saved_is_read_from_the_ring() {
    let publish = || {
        for span_id in [[1; 8], [2; 8], [3; 8]] {
            let span = hotspan_lanes::Span { trace_id: [1; 16], span_id, ..Default::default() };
            hotspan_lanes::span_set(&span).unwrap();
        }
        hotspan_lanes::span_clear();
    };
    publish();
    let own = Pid(std::process::id());
    let mut world = Lanes::default();
    world.sweep([own]);
    if answer(&mut world) == 0 || !world.is_attached(own) {
        eprintln!("skipped: this user cannot open /proc/PID/map_files");
        return;
    }
    let owner = |id: &LaneId| world.control(*id).is_some_and(|it| it.owner_tid == tid());
    let (address, id) =
        world.images[&own].lanes.iter().find(|(_, id)| owner(id)).expect("this thread's lane");
    let (address, first) = (*address, world.control(*id).unwrap().head);
    publish();

    let mut lanes = Lanes::default();
    let lane = lanes.lane_or_virtual(own, address, first, 1).unwrap();
    let saved = Tail { tgid: own.0, va: address.0, ..tail(first + 2..first + 4) };
    lanes.add_tail(&saved);
    assert_eq!((account(&lanes), lanes.drained_to(lane)), ([4, 0, 4, 0], first));
    assert_eq!(answer(&mut lanes), 1);
    lanes.drain();
    assert_eq!((account(&lanes), lanes.drained_to(lane)), ([4, 0, 4, 0], first + 4));
    let read = lanes.events(lane).iter().map(|queued| (queued.event.index, queued.event.op));
    let (set, clear) = (abi::op::SET, abi::op::CLEAR);
    let written = [(first, set), (first + 1, set), (first + 2, clear), (first + 3, clear)];
    // The third one is as it was saved.
    assert_eq!(Vec::from_iter(read), written);
}

/// This thread's number.
fn tid() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()
}

#[test]
fn the_first_marker_that_counts_is_the_owners_first() {
    let mut lanes = Lanes::default();
    let lane = lanes.lane_or_virtual(PID, LANE, 1000, 1).unwrap();
    lanes.unread(lane, 1002);
    assert_eq!(account(&lanes), [2, 0, 0, 2]);
    // Of a lane nobody knew of, what the kernel side could not save is counted there.
    let mut lanes = Lanes::default();
    lanes.add_tail(&tail(500..504));
    assert_eq!(account(&lanes), [4, 0, 4, 0]);
}

#[test]
fn numbers_that_cannot_be_are_not_counted() {
    let mut lanes = Lanes::default();
    let lane = lanes.lane_or_virtual(PID, LANE, 0, 1).unwrap();
    lanes.add_tail(&tail(u64::MAX - 2..u64::MAX));
    lanes.unread(lane, u64::MAX);
    assert_eq!(account(&lanes), [0, 0, 0, 0]);
    assert_eq!(lanes.refused.get(DaemonCounter::LaneHeadJumpedAhead), 1);
    let mut lanes = Lanes::default();
    lanes.lane_or_virtual(PID, LANE, u64::MAX - 1, 1).unwrap();
    lanes.add_tail(&tail(u64::MAX - 1..u64::MAX));
    assert_eq!(account(&lanes), [1, 0, 1, 0]);
    // The last number there is has no successor.
    let mut last = tail(u64::MAX - 1..u64::MAX);
    last.first = u64::MAX;
    last.events[0][..8].fill(0);
    lanes.add_tail(&last);
    assert_eq!(account(&lanes), [1, 0, 1, 0]);
}

/// What the process says: nothing, it is gone.
fn answer(lanes: &mut Lanes) -> usize {
    let asks = lanes.take_asks();
    for ask in &asks {
        lanes.answered(ask, ask.read());
    }
    asks.len()
}

#[test]
fn a_process_that_shows_nothing_is_not_asked_for_each_lane() {
    let mut lanes = Lanes::default();
    for number in 0..10 {
        lanes.lane_or_virtual(PID, Address(LANE.0 + number), 0, 1).unwrap();
    }
    assert_eq!(answer(&mut lanes), 1);
    // Most of them were named while it was asked.
    assert_eq!(answer(&mut lanes), 1);
    for _ in 0..2 {
        lanes.end_round();
        lanes.drain();
    }
    assert_eq!(answer(&mut lanes), 1, "two rounds later again");
    let mut asked = 0;
    for _ in 0..100 {
        lanes.end_round();
        lanes.drain();
        asked += answer(&mut lanes);
    }
    assert!((3..=5).contains(&asked), "ever less often: {asked}");
    lanes.forget_image(PID, u64::MAX);
    lanes.end_round();
    lanes.drain();
    assert!(lanes.retries.is_empty(), "and never when it is gone");
}

#[test]
fn one_that_names_lanes_while_it_is_asked_is_not_asked_more_often() {
    let mut lanes = Lanes::default();
    let mut asked = 0;
    for number in 0..100 {
        lanes.lane_or_virtual(PID, Address(LANE.0 + 2 * number), 0, 1).unwrap();
        let asks = lanes.take_asks();
        asked += asks.len();
        lanes.lane_or_virtual(PID, Address(LANE.0 + 2 * number + 1), 0, 1).unwrap();
        for ask in &asks {
            lanes.answered(ask, ask.read());
        }
        lanes.end_round();
        lanes.drain();
    }
    assert!((6..=9).contains(&asked), "{asked}");
}

#[test]
fn a_process_that_does_not_answer_is_asked_once_at_a_time() {
    let mut lanes = Lanes::default();
    let lane = lanes.lane_or_virtual(PID, LANE, 0, 1).unwrap();
    let asks = lanes.take_asks();
    for _ in 0..10 {
        lanes.lane_or_virtual(PID, LANE, 0, 1).unwrap();
        lanes.end_round();
        lanes.drain();
        lanes.sweep([PID]);
    }
    assert!(lanes.take_asks().is_empty() && !lanes.is_sweeping());
    // What the kernel side saves is kept meanwhile.
    lanes.add_tail(&tail(0..4));
    lanes.claim(lane, 0..4);
    assert_eq!(account(&lanes), [4, 4, 0, 0]);
    assert!(lanes.is_awaited(lane), "and its thread's records wait");
    lanes.hangs(PID);
    for _ in 0..10 {
        lanes.end_round();
        lanes.drain();
    }
    assert!(!lanes.is_awaited(lane) && lanes.take_asks().is_empty(), "but not for ever");
    lanes.answered(&asks[0], asks[0].read());
    lanes.end_round();
    lanes.drain();
    assert_eq!(lanes.take_asks().len(), 1, "asked again, for it answered late");
    lanes.refused(PID);
    lanes.end_round();
    lanes.end_round();
    lanes.drain();
    assert_eq!(lanes.take_asks().len(), 1, "and when it was not asked at all");
    // What hangs is forgotten with its image.
    lanes.hangs(PID);
    lanes.forget_image(PID, 2);
    lanes.lane_or_virtual(PID, LANE, 0, 3).unwrap();
    assert_eq!(lanes.take_asks().len(), 1);
    lanes.answered(&asks[0], asks[0].read());
    lanes.refused(PID);
    assert!(!lanes.is_sweeping());
}

#[test]
fn what_is_found_of_an_image_that_is_gone_is_nobodys() {
    let span = hotspan_lanes::Span { trace_id: [1; 16], ..Default::default() };
    hotspan_lanes::span_set(&span).unwrap();
    hotspan_lanes::span_clear();
    let own = Pid(std::process::id());
    let mut lanes = Lanes::default();
    lanes.lane_or_virtual(own, LANE, 0, 1).unwrap();
    let asks = lanes.take_asks();
    let found = asks[0].read();
    if !found.segments.iter().any(|(_, segment)| segment.is_ok()) {
        eprintln!("skipped: this user cannot open /proc/PID/map_files");
        return;
    }
    lanes.forget_image(own, ktime::now());
    lanes.lane_or_virtual(own, Address(LANE.0 + 1), 0, ktime::now()).unwrap();
    assert!(lanes.take_asks().is_empty(), "it is still being asked");
    lanes.answered(&asks[0], found);
    assert!(!lanes.is_attached(own));
    assert_eq!(answer(&mut lanes), 1, "asked again for the image of now");
    assert!(lanes.is_attached(own));
}
