//! What a kernel record says of a stretch of time, as a composition.

use agent_ebpf::wire::{
    self, Interval, Snapshot, State as K,
    record::CUT,
    state::STATES,
    thread::{PREEMPTED, WAKE_SET, has},
};

use super::window::Composition;
use crate::model::state::State;

/// The state behind an index of a record; unresolved for one this build does not know.
pub fn kernel_state(index: u8) -> State {
    K::from_index(index).map_or(State::UnknownUnresolvedWait, State::from)
}
/// Blocked and ready part of an interval, of what lies after `from`.
pub fn wait_of(interval: &Interval, from: u64) -> Composition {
    let mut wait = Composition::default();
    if has(interval.flags, CUT) {
        return wait;
    }
    let out = interval.out_at.max(from);
    let blocked = interval.wake_at.saturating_sub(out);
    let ready = interval.in_at.saturating_sub(interval.wake_at.max(out));
    if !has(interval.flags, PREEMPTED) {
        wait.add(kernel_state(interval.state), blocked);
    }
    wait.add(kernel_state(interval.ready), ready);
    wait
}
/// What a snapshot's open phase consists of, of what lies after `from`.
pub fn open_part(snapshot: &Snapshot, from: u64) -> Composition {
    let since = snapshot.since.max(from);
    let at = snapshot.at.max(since);
    let is = |phase: wire::Phase| snapshot.phase == phase as u32;
    if is(wire::Phase::Running) {
        Composition::of(State::Running, at - since)
    } else if is(wire::Phase::BeforeAttach) {
        Composition::of(State::UnknownBeforeAttach, at - since)
    } else if is(wire::Phase::Off) {
        let wake = if has(snapshot.flags, PREEMPTED) {
            since
        } else if has(snapshot.flags, WAKE_SET) {
            snapshot.wake.clamp(since, at)
        } else {
            at
        };
        let mut open = Composition::default();
        open.add(kernel_state(snapshot.state), wake - since);
        open.add(kernel_state(snapshot.ready), at - wake);
        open
    } else {
        Composition::default()
    }
}
/// What was added to the totals since `before`.
pub fn difference(now: &[u64; STATES], before: &[u64; STATES]) -> [u64; STATES] {
    let mut difference = [0; STATES];
    for (i, slot) in difference.iter_mut().enumerate() {
        *slot = now[i].saturating_sub(before[i]);
    }
    difference
}
