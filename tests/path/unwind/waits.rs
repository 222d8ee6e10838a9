//! Stacks of waits are compared with gdb's, address by address.

use std::path::PathBuf;

use agent_ebpf::{
    unwind::Stop,
    wire::{FrameAddress, RawFrame},
};
use anyhow::{Result, ensure};
use hotspan::kernel::StackDefinition;
use hotspan_tests::{
    gdb::{self, Frame},
    host, unwind,
    unwind::Fixture,
};

use super::{
    Extent,
    watch::{Seen, Watch, is_whole},
};

/// Waits of a thread that are compared.
const WAITS: u64 = 10;
/// Frames of one stack that hotspan keeps (`agent_ebpf::wire::MAX_FRAMES`).
const MAX_FRAMES: usize = agent_ebpf::wire::MAX_FRAMES;
/// gdb may stop a thread between two waits.
const ATTEMPTS: usize = 5;

/// Where this cannot run it says so, and there is no program.
pub(crate) fn can_run(variant: &str) -> Option<PathBuf> {
    if host::can_record() && gdb::is_installed() { unwind::program(variant) } else { None }
}

/// Records a scenario's waits; each of them must have the stack that gdb sees.
pub(crate) fn same_as_gdb(variant: &str, arguments: &[&str], extent: Extent) -> Result<()> {
    let Some(program) = can_run(variant) else { return Ok(()) };
    let fixture = Fixture::start(&program, arguments)?;
    let mut watch = Watch::start(fixture.pid, 99)?;
    watch.until("waits", |seen| waits(seen) >= WAITS)?;
    let seen = watch.finish()?;
    compare(&fixture, &seen, extent)?;
    fixture.end()
}

fn waits(seen: &[Seen]) -> u64 {
    seen.iter().filter(|seen| seen.is_waiting()).map(|seen| seen.count).sum()
}

/// The present stack of the thread, by gdb, must be that of every wait.
pub(crate) fn compare(fixture: &Fixture, seen: &[Seen], extent: Extent) -> Result<()> {
    // The copy that was made of the first stack has one memory: what a signal interrupted lies on
    // another stack, and the mark says that it is missing.
    let is_partial = |seen: &Seen| seen.stack.copied && seen.stack.stop == Stop::Memory;
    // Before its tables were there, and no copy was made: a host that starts many programs at once has
    // no room for copies of all. Such a stack says so by its mark, and is true where the thread is.
    let is_early = |seen: &Seen| !seen.stack.copied && seen.stack.stop == Stop::Unloaded;
    let (early, seen): (Vec<_>, Vec<_>) =
        seen.iter().filter(|seen| seen.is_waiting()).partition(|seen| is_early(seen));
    let (partial, settled): (Vec<_>, Vec<_>) = seen.into_iter().partition(|seen| is_partial(seen));
    ensure!(!settled.is_empty(), "{}: no wait has a stack", fixture.name);
    let mut truth = gdb::stack(fixture.pid, fixture.tid)?;
    for _ in 1..ATTEMPTS {
        if settled[0].addresses().first() == truth.first().map(|frame| &frame.pc) {
            break;
        }
        truth = gdb::stack(fixture.pid, fixture.tid)?;
    }
    let bottom = truth.last().map_or("", |frame| frame.name.as_str());
    ensure!(
        extent == Extent::Program || matches!(bottom, "_start" | "clone3" | "clone"),
        "{}: gdb itself does not get to the bottom: {truth:x?}",
        fixture.name
    );
    for wait in &settled {
        same(&fixture.name, wait, &truth, extent)?;
    }
    for wait in &partial {
        let found = wait.addresses();
        let pcs = truth.iter().map(|frame| frame.pc).take(found.len());
        let is_prefix = found.iter().copied().eq(pcs);
        let has_signal = truth.iter().any(|frame| frame.is_signal);
        ensure!(is_prefix && has_signal, "{}: {wait:x?} is not above gdb's", fixture.name);
    }
    for wait in &early {
        let (found, truth) = (wait.addresses(), truth.first().map(|frame| &frame.pc));
        ensure!(found.first() == truth, "{}: {wait:x?} is not where the thread is", fixture.name);
    }
    let count: u64 = settled.iter().map(|wait| wait.count).sum();
    let marked: u64 = early.iter().map(|wait| wait.count).sum();
    ensure!(marked < count, "{}: {marked} of {count} waits came too early", fixture.name);
    println!("{}: {count} waits at {} frames, as gdb says", fixture.name, truth.len());
    Ok(())
}

/// Compares one stack with gdb's.
fn same(name: &str, seen: &Seen, truth: &[Frame], extent: Extent) -> Result<()> {
    let mut expected: Vec<u64> = truth.iter().map(|frame| frame.pc).collect();
    let found = seen.addresses();
    let mut found = &found[..];
    if extent == Extent::Program {
        let bottom = truth.iter().position(|f| f.name == "main" || f.name == "thread_waits");
        ensure!(bottom.is_some(), "{name}: gdb does not get to main: {truth:x?}");
        // The frame of main, and where it returns to.
        expected.truncate(bottom.unwrap_or(0) + 2);
        found = &found[..found.len().min(expected.len())];
    }
    let is_cut = expected.len() > MAX_FRAMES;
    expected.truncate(MAX_FRAMES);
    let first = expected.iter().zip(found).position(|(a, b)| a != b);
    let at = first.unwrap_or(found.len().min(expected.len()));
    ensure!(
        expected == found,
        "{name}: {} times in {} differs from frame {at} on ({} frames, gdb {})\nhotspan {:x?}\ngdb {}",
        seen.count,
        seen.state,
        found.len(),
        expected.len(),
        &found[at.saturating_sub(1)..found.len().min(at + 4)],
        listing(truth, at)
    );
    ensure!(seen.is_cut() == is_cut, "{name}: {} frames, cut: {}", truth.len(), seen.is_cut());
    let must_be_whole = extent == Extent::Whole && !is_cut;
    ensure!(!must_be_whole || is_whole(&seen.stack), "{name}: does not end at the bottom");
    Ok(())
}

/// gdb's frames around one.
fn listing(truth: &[Frame], at: usize) -> String {
    let near = truth.iter().enumerate().skip(at.saturating_sub(1)).take(5);
    near.map(|(n, frame)| format!("\n  {n} {:#x} {}", frame.pc, frame.name)).collect()
}

/// Inside a plugin, then inside another one that was loaded where the first was: its stack must come
/// from its own tables.
pub(crate) fn plugins(variant: &str) -> Result<()> {
    let Some(program) = can_run(variant) else { return Ok(()) };
    let mut fixture = Fixture::start(&program, &["dlopen"])?;
    let first = gdb::stack(fixture.pid, fixture.tid)?;
    let mut watch = Watch::start(fixture.pid, 99)?;
    watch.until("waits", |seen| waits(seen) >= WAITS)?;
    let before = watch.seen()?;
    fixture.next_stage()?;
    let is_new = |seen: &Seen| !before.iter().any(|old| old.stack.hash == seen.stack.hash);
    let of_second =
        |seen: &[Seen]| -> Vec<Seen> { seen.iter().filter(|seen| is_new(seen)).cloned().collect() };
    watch.until("waits in the second plugin", |seen| waits(&of_second(seen)) >= WAITS)?;
    let seen = watch.finish()?;
    let place = &fixture.plugins;
    ensure!(place.len() == 2, "plugins: {place:x?}");
    println!("plugins at {place:x?}, {}", if place[0] == place[1] { "the same" } else { "apart" });
    for wait in before.iter().filter(|seen| seen.is_waiting()) {
        same("the first plugin", wait, &first, Extent::Whole)?;
    }
    compare(&fixture, &of_second(&seen), Extent::Whole)?;
    fixture.end()
}

/// The comparison itself: it must see every difference.
#[test]
fn a_stack_that_differs_is_refused() {
    let names = ["nap", "wait_here", "main", "start", "_start"];
    let truth: Vec<Frame> = names
        .iter()
        .zip(1..)
        .map(|(&name, n)| Frame { pc: n * 0x1000, is_signal: false, name: name.to_owned() })
        .collect();
    let seen = |frames: &[u64]| Seen {
        stack: StackDefinition {
            tgid: 1,
            hash: 1,
            at: 1,
            stop: Stop::Bottom,
            frames: frames
                .iter()
                .map(|&address| RawFrame::Native(FrameAddress::ReturnAddress(address)))
                .collect(),
            copied: false,
        },
        state: "sleep",
        count: 1,
    };
    let judge = |frames: &[u64], extent| same("", &seen(frames), &truth, extent).is_ok();
    assert!(judge(&[0x1000, 0x2000, 0x3000, 0x4000, 0x5000], Extent::Whole));
    for frames in [
        &[][..],
        &[0x1000],
        &[0x1000, 0x3000, 0x4000, 0x5000],
        &[0x1000, 0x2000, 0x3000, 0x4000],
        &[0x1001, 0x2000, 0x3000, 0x4000, 0x5000],
        &[0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000],
    ] {
        assert!(!judge(frames, Extent::Whole), "{frames:x?}");
    }
    assert!(judge(&[0x1000, 0x2000, 0x3000, 0x4000], Extent::Program));
    assert!(judge(&[0x1000, 0x2000, 0x3000, 0x4000, 0x7777], Extent::Program));
    assert!(!judge(&[0x1000, 0x2000, 0x3000], Extent::Program));
    assert!(!judge(&[0x1000, 0x2000, 0x4000], Extent::Program));
}
