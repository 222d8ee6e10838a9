//! The last lines of a report: what is missing, what that means and what helps.

use std::{collections::BTreeMap, io};

use super::{
    Style,
    text::{self, Paint},
};
use crate::document::span::{Conservation, Report};

/// Says that nothing is missing, or what is.
pub(super) fn write(report: &Report, out: &mut impl io::Write, style: &Style) -> io::Result<()> {
    if report.loss.is_empty() {
        let (mark, text) = (if style.unicode { "✓ " } else { "" }, "nothing lost");
        style.line().put(mark, Paint::Good).put(text, Paint::Good).end(out)?;
    } else {
        reasons(&report.loss, out, style)?;
    }
    for (kind, conservation) in &report.conservation {
        if let Some(difference) = imbalance(conservation) {
            let text = format!(
                "{kind}: {} captured, {difference} of them unaccounted for: a bug in hotspan",
                text::grouped(conservation.captured)
            );
            style.line().put(&text, Paint::Warning).end(out)?;
        }
    }
    Ok(())
}

/// A line per reason, with its meaning.
pub(super) fn reasons(
    loss: &BTreeMap<String, u64>,
    out: &mut impl io::Write,
    style: &Style,
) -> io::Result<()> {
    style.line().put("What is missing or was disturbed", Paint::Warning).end(out)?;
    let widest = loss.keys().map(|reason| text::columns(reason)).max().unwrap_or(0);
    for (reason, &count) in loss {
        let mut line = style.line();
        line.put_right(&text::grouped(count), super::TIME, Paint::Bold).skip(2);
        line.put_left(reason, widest.min(style.columns() / 3), Paint::Plain).skip(2);
        if style.columns() < super::WITH_SERVICE {
            line.end(out)?;
            line = style.line();
            line.skip(super::TIME + 2);
        }
        line.put(meaning(reason), Paint::Dim).end(out)?;
    }
    Ok(())
}

/// Captured minus what became of it, if that is not nothing.
fn imbalance(conservation: &Conservation) -> Option<i128> {
    let Conservation { captured, delivered, in_flight, spooled, lost } = conservation;
    let known = [delivered, spooled].into_iter().chain(lost.values());
    let known: i128 = known.map(|&count| i128::from(count)).sum();
    let known = known + i128::from(*in_flight);
    Some(i128::from(*captured) - known).filter(|&difference| difference != 0)
}

/// One short line on a reason: what it means; what helps, where something does.
fn meaning(reason: &str) -> &'static str {
    match reason {
        "samples_ring_full" => "CPU samples dropped; methods are a little less certain",
        "intervals_ring_full" => "waits recovered from totals, without cause or stack",
        "interval_ns_ring_full" => "time of those waits, recovered from totals",
        "stacks_ring_full" => "stacks sent again at their next sight",
        "stacks_over_budget" => "waits without a stack: too many at once",
        "stacks_cut" => "stacks deeper than 255 frames, cut at the bottom",
        "stacks_memory_unread" => "stacks cut where their memory was not there",
        "stacks_no_progress" => "stacks cut where frames were out of order",
        "stacks_no_frame" => "stacks cut: code without unwind table or frame pointer",
        "stacks_register_unknown" => "stacks cut: caller in a register that was not kept",
        "stacks_rule_unsupported" => "stacks cut: unwind rule not supported",
        "stacks_tables_missing" => "stacks cut: unwind tables were not loaded yet",
        "stacks_no_code" => "stacks cut where a return address was none",
        "stacks_32_bit" => "stacks of 32-bit programs, not followed",
        "stack_copies_ring_full" => "first stacks of new processes, cut short",
        "unwind_files_refused" => "programs whose unwind tables could not be read",
        "unwind_tables_over_budget" => "unwind tables that did not fit 64 MiB",
        "unwind_entries_refused" => "functions whose unwind entry was not understood",
        "unwind_unanswered" => "first stacks of new processes, cut short: too many at once",
        "stacks_missing" => "stacks seen and not told; methods are a little less certain",
        "identity_broken_ns" => "states and active time differ: a bug in hotspan",
        "lifecycle_ring_full" => "the start or a mapping of a process was missed",
        "lanes_lost" => "lanes that were not announced; found when hotspan looks again",
        "tail_markers_ring_full" => "saved markers there was no room for, among the markers lost",
        "names_ring_full" => "names of the last spans of processes that ended",
        "exits_parked" => "exits that took the long way, nothing lost",
        "lanes_parked" => "lanes that took the long way, nothing lost",
        "exits_lost" => "threads whose last totals are missing",
        "exit_ns_lost" => "time of those threads",
        "storage_missing" => {
            "accounts the kernel could not make at once; they begin a moment later"
        }
        "switch_in_missed" => "scheduler events not seen; that time is unknown.events_lost",
        "switch_out_missed" => "scheduler events not seen; that time is unknown.events_lost",
        "double_switch_out" => "scheduler events not seen; that time is unknown.events_lost",
        "wakeup_missing" => "waits that are all blocked time, none ready",
        "wakeup_ignored" => "wakeups of threads that did not wait, normal",
        "negative_clamped" => "clocks of two CPUs differed by under 1 us, normal",
        "lane_unreadable" => "span unknown at that moment: unknown.context_unreadable",
        "lane_mismatch" => "a lane was no longer the thread's: unknown.context_unreadable",
        "kernel_stack_failed" => "kernel frames missing",
        "tail_markers_lost" => "last spans of a process that ended before it was known",
        "lanes_refused" => "lanes named over and over by one program, not looked at",
        "lane_replaced" => "threads with two lanes: two publishers in one program?",
        "lane_head_jumped_back" | "lane_head_jumped_ahead" => "lanes that do not tell the truth",
        "threads_without_lane" => "threads whose spans could not be published",
        "publishes_refused" => "markers a signal handler could not publish",
        "intervals_bridged" => "waits told by their totals alone, without cause or stack",
        "intervals_unbound" => "waits of a thread whose lane was not known yet",
        "time_unexplained_ns" => "time charged to unknown.events_lost",
        "time_overlapping_ns" => "time two records claimed, counted once",
        "spans_table_full" => "more spans than are kept in memory: record for a shorter time",
        "stacks_table_full" => "more different stacks than are kept in memory",
        "timers_stopped" => "seconds in which a CPU had no timer: no stacks of running time there",
        "records_undecoded" => "records of another build: rebuild hotspan",
        "segment_descriptors" => "programs not looked at: raise hotspan's limit of open files",
        "segment_too_many" => "programs with more than 16,384 threads that publish at once",
        "segment_unopened" => "programs whose spans hotspan may not look at",
        "markers_unread" => "spans not read: their program ended or could not be looked at",
        "totals_unread" => "totals of threads told late: out of descriptors or memory",
        reason if reason.starts_with("segment_") => "a lane segment that cannot be trusted",
        "symbols_unresolved" => "frames without a name; install debug symbols",
        "symbols_late" => "frames without a name: symbols took too long",
        "symbols_unanswered" => "stacks without names: reading a file hangs",
        "symbol_files_absent" => "programs deleted, replaced or out of reach",
        "symbol_files_refused" => "programs too large or not ELF",
        "symbol_files_evicted" => "symbol tables dropped and read again, costs time only",
        "symbol_jits_cut" => "processes with more just-in-time code than names are kept",
        "markers_unclaimed" => "spans of threads whose lane was not known in time",
        reason if reason.starts_with("markers_") => "spans cut short: unknown.markers_lost",
        _ => "see `hotspan doctor` and the README",
    }
}

#[cfg(test)]
mod tests {
    use agent_ebpf::wire::Counter;

    use super::*;

    #[test]
    fn every_loss_the_kernel_side_counts_has_a_meaning() {
        // Captures are totals; idle samples and whole stacks are no loss.
        let losses = Counter::ALL.iter().map(|counter| counter.key());
        for key in losses.filter(|key| {
            !key.ends_with("_captured") && *key != "samples_idle" && *key != "stacks_whole"
        }) {
            assert_ne!(meaning(key), meaning("no such reason"), "{key}");
        }
    }

    #[test]
    fn an_account_that_does_not_add_up_is_seen() {
        let mut conservation = Conservation { captured: 10, delivered: 7, ..Default::default() };
        assert_eq!(imbalance(&conservation), Some(3));
        conservation.lost = BTreeMap::from([("samples_ring_full".into(), 3)]);
        assert_eq!(imbalance(&conservation), None);
        conservation.in_flight = 1;
        assert_eq!(imbalance(&conservation), Some(-1));
    }
}
