//! The last lines of a report: what is missing, what that means and what helps.

use std::{collections::BTreeMap, io};

use super::{
    Style,
    text::{self, Paint},
};
use crate::{document::span::Report, ledger};

/// Says that nothing is missing, or what is.
pub(super) fn write(report: &Report, out: &mut impl io::Write, style: &Style) -> io::Result<()> {
    if report.loss.is_empty() {
        let (mark, text) = (if style.unicode { "✓ " } else { "" }, "nothing lost");
        style.line().put(mark, Paint::Good).put(text, Paint::Good).end(out)?;
    } else {
        reasons(&report.loss, out, style)?;
    }
    for (kind, conservation) in &report.conservation {
        let difference = conservation.imbalance();
        if difference != 0 {
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
        line.put(ledger::meaning(reason), Paint::Dim).end(out)?;
    }
    Ok(())
}
