//! A liar: `hostile CASE -- CMD...` runs CMD and publishes, beside it, segments no publisher would
//! make, by hand through memfd and the prctl breadcrumb. Ends with the exit code of CMD.
//!
//! Every span it claims has a trace id of 0xEE bytes, so a test sees at once where a lie arrived.

mod segment;

use std::{
    fs,
    process::{Child, Command, ExitCode},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use hotspan_lanes::abi::{self, header, lane};
use segment::{Segment, own_tid};

/// No case lives longer, whatever its command does.
const LIMIT: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("hostile: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<u8> {
    let mut arguments = std::env::args_os().skip(1);
    let case = arguments.next().context("usage: hostile CASE -- CMD...")?;
    let mut command = arguments.skip_while(|word| word == "--");
    let program = command.next().context("no command")?;
    let mut child = Command::new(program).args(command).spawn()?;
    let lied = lie(case.to_str().unwrap_or_default(), &mut child);
    let status = child.wait()?;
    lied?;
    Ok(status.code().map_or(3, |code| u8::try_from(code).unwrap_or(3)))
}

fn lie(case: &str, child: &mut Child) -> Result<()> {
    match case {
        "bad_magic" => bad_magic(child),
        "wrong_sizes" => wrong_sizes(child),
        "truncated" => truncated(child),
        "random" => random(child),
        "lying_owner" => lying_owner(child),
        "wild_head" => wild_head(child),
        "lapping" => lapping(child),
        "names" => names(child),
        "twins" => twins(child),
        _ => bail!("there is no case `{case}`"),
    }
}

/// Stays alive, calling `again` every few milliseconds, until the command has ended.
fn while_it_runs(child: &mut Child, mut again: impl FnMut(u64)) -> Result<()> {
    let begin = Instant::now();
    let mut turn = 0;
    while child.try_wait()?.is_none() && begin.elapsed() < LIMIT {
        again(turn);
        turn += 1;
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn bad_magic(child: &mut Child) -> Result<()> {
    let first = Segment::plausible()?;
    first.bytes(header::MAGIC, b"HOTSPAN2");
    let second = Segment::plausible()?;
    second.u32(abi::LANE_OFF + lane::MAGIC, 0x1234_5678);
    let third = Segment::plausible()?;
    third.u16(header::ABI_MAJOR, 77);
    for segment in [&first, &second, &third] {
        segment.seal()?;
        segment.breadcrumb();
    }
    while_it_runs(child, |turn| {
        for segment in [&first, &second, &third] {
            segment.set(turn);
        }
    })
}

/// One segment per lie about the geometry.
fn wrong_sizes(child: &mut Child) -> Result<()> {
    let lies: [(usize, u64); 12] = [
        (header::SEG_LEN, u64::MAX),
        (header::SEG_LEN, 4096),
        (header::LANE_OFF, u64::from(u32::MAX)),
        (header::LANE_OFF, 8),
        (header::LANE_STRIDE, 0),
        (header::LANE_STRIDE, 0x7FFF_FFFF),
        (header::LANE_CAP, u64::from(u32::MAX)),
        (header::LANE_CAP, 0),
        (header::EVENT_LEN, 0),
        (header::RING_LOG2, 63),
        (header::NAME_OFF, u64::MAX - 4096),
        (header::NAME_CAP, u64::from(u32::MAX)),
    ];
    let mut segments = Vec::new();
    for (offset, lie) in lies {
        let segment = Segment::plausible()?;
        match offset {
            header::SEG_LEN | header::NAME_OFF => segment.u64(offset, lie),
            header::EVENT_LEN | header::RING_LOG2 => segment.u16(offset, lie as u16),
            _ => segment.u32(offset, lie as u32),
        }
        segment.seal()?;
        segment.breadcrumb();
        segments.push(segment);
    }
    let inner = Segment::plausible()?;
    inner.u64(abi::LANE_OFF + lane::RING_OFF, u64::MAX - 63);
    inner.u16(abi::LANE_OFF + lane::RING_LOG2, 40);
    inner.seal()?;
    inner.breadcrumb();
    segments.push(inner);
    while_it_runs(child, |turn| segments.iter().for_each(|segment| segment.set(turn)))
}

/// Not sealed, and cut to nothing and back while somebody may have it mapped.
fn truncated(child: &mut Child) -> Result<()> {
    let segment = Segment::plausible()?;
    segment.breadcrumb();
    let begin = Instant::now();
    while_it_runs(child, |turn| {
        if begin.elapsed() < Duration::from_millis(60) {
            segment.set(turn);
        } else if turn.is_multiple_of(2) {
            segment.set_len(0);
        } else {
            segment.set_len(abi::SEGMENT_LEN);
            segment.breadcrumb();
        }
    })
}

/// Right magic words, everything else noise. Xorshift, so that a failure can be repeated.
fn random(child: &mut Child) -> Result<()> {
    let mut noise = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = move || {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise
    };
    let mut segments = Vec::new();
    for round in 0..16 {
        let segment = Segment::plausible()?;
        // From "all of it" to "only the ring".
        let ranges = [
            (8, 256),
            (abi::NAME_OFF, abi::NAME_OFF + 8192),
            (abi::LANE_OFF + 4, abi::LANE_OFF + abi::PAGE),
            (abi::LANE_OFF + abi::PAGE, abi::LANE_OFF + 16 * abi::PAGE),
        ];
        for &(from, to) in &ranges[round % 4..] {
            for offset in (from.next_multiple_of(8)..to).step_by(8) {
                segment.u64(offset, next());
            }
        }
        segment.seal()?;
        segment.breadcrumb();
        segments.push(segment);
    }
    while_it_runs(child, |_| {
        for segment in &segments {
            segment.u64(abi::LANE_OFF + lane::HEAD, next());
            segment.breadcrumb();
        }
    })
}

/// Claims to be the lane of threads of another process.
fn lying_owner(child: &mut Child) -> Result<()> {
    let victim = child.id();
    let segment = Segment::plausible()?;
    segment.seal()?;
    while_it_runs(child, |turn| {
        let tasks = fs::read_dir(format!("/proc/{victim}/task")).into_iter().flatten().flatten();
        let threads: Vec<u32> =
            tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect();
        let index = usize::try_from(turn).unwrap_or(0);
        let Some(tid) = threads.get(index % threads.len().max(1)) else {
            return;
        };
        segment.u32(abi::LANE_OFF + lane::OWNER_TID, *tid);
        segment.u32(header::CREATOR_PID, victim);
        segment.breadcrumb();
        segment.set(turn);
    })
}

/// The head jumps back and ahead.
fn wild_head(child: &mut Child) -> Result<()> {
    let segment = Segment::plausible()?;
    segment.seal()?;
    segment.breadcrumb();
    while_it_runs(child, |turn| {
        segment.set(turn);
        let head = match turn % 6 {
            0 => 5,
            1 => 1 << 60,
            2 => 0,
            3 => u64::MAX,
            4 => 4096,
            _ => return,
        };
        segment.u64(abi::LANE_OFF + lane::HEAD, head);
        segment.u64(abi::LANE_OFF + lane::GROWN_AT, if turn % 12 < 6 { 0 } else { head / 2 });
    })
}

/// Publishes as fast as it can: every ring laps.
fn lapping(child: &mut Child) -> Result<()> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let liar = scope.spawn(|| -> Result<()> {
            let segment = Segment::plausible()?;
            segment.seal()?;
            segment.breadcrumb();
            let begin = Instant::now();
            let mut turn = 0;
            while !stop.load(Ordering::Relaxed) && begin.elapsed() < Duration::from_secs(2) {
                segment.set(turn);
                turn += 1;
            }
            Ok(())
        });
        let ended = while_it_runs(child, |_| {});
        stop.store(true, Ordering::Relaxed);
        liar.join().ok().context("the liar panicked")??;
        ended
    })
}

/// Names longer than their slots, not UTF-8, and more of them than there is room for.
fn names(child: &mut Child) -> Result<()> {
    let segment = Segment::plausible()?;
    for number in 0..64 {
        let slot = abi::NAME_OFF + number * abi::NAME_STRIDE;
        segment.bytes(slot, &[255; abi::NAME_STRIDE]);
        if number % 2 == 0 {
            segment.bytes(slot + 1, b"\x1b[2J\"}]\0../../../etc/passwd");
        }
    }
    segment.u32(header::NAME_COUNT, u32::MAX);
    segment.seal()?;
    segment.breadcrumb();
    while_it_runs(child, |turn| {
        let id = [1, 2, 64, 65, 4096, 4097, u32::MAX];
        segment.set_named(turn, id[usize::try_from(turn).unwrap_or(0) % id.len()]);
    })
}

/// Two segments, one thread, different spans.
fn twins(child: &mut Child) -> Result<()> {
    let (first, second) = (Segment::plausible()?, Segment::plausible()?);
    for segment in [&first, &second] {
        segment.u32(abi::LANE_OFF + lane::OWNER_TID, own_tid());
        segment.seal()?;
        segment.breadcrumb();
    }
    while_it_runs(child, |turn| {
        first.set(2 * turn);
        second.set(2 * turn + 1);
        first.breadcrumb();
    })
}
