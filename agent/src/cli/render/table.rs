//! The table of spans or threads: a line each, with a bar of where the time went.

use std::{collections::BTreeSet, io};

use super::{
    Style, TIME, WITH_SERVICE,
    bar::Bar,
    text::{self, Paint},
};
use crate::model::state::{State, StateTimes};

/// Columns of a span id.
const ID: usize = 16;
/// Below, a span with its id takes two lines.
const ONE_LINE_WITH_ID: usize = 64;
/// From here on there is room for both whose a span is and its id.
const WITH_SERVICE_AND_ID: usize = 96;
/// From here on there is room for when it was, too.
const WITH_AGE: usize = 110;

/// A line of a table.
pub(super) struct Row<'a> {
    pub(super) ns: u64,
    /// Time since it ended.
    pub(super) age: Option<u64>,
    pub(super) name: String,
    pub(super) whose: String,
    pub(super) states: &'a StateTimes,
    /// "" in tables without ids.
    pub(super) id: &'a str,
    /// Whether the bar is only as long as its states' share of the time: the rest is others'.
    pub(super) in_proportion: bool,
}

/// Columns of each column but that of the time, which is fixed; 0 for one that is left out.
struct Widths {
    age: usize,
    name: usize,
    whose: usize,
    bar: usize,
    id: usize,
    /// Id and bar have a line of their own.
    folded: bool,
}

/// The legend, then a line per row: time, age, name, whose, bar, id.
pub(super) fn write(
    name: &str,
    whose: &str,
    rows: &[Row<'_>],
    out: &mut impl io::Write,
    style: &Style,
) -> io::Result<()> {
    legend(rows, out, style)?;
    let widths = Widths::of(name, whose, rows, style.columns());
    let mut head = style.line();
    head.put_right("time", TIME, Paint::Dim).skip(2);
    if widths.age > 0 {
        head.put_right("ago", widths.age, Paint::Dim).skip(2);
    }
    head.put_left(name, widths.name, Paint::Dim);
    if widths.folded {
        head.end(out)?;
        head = style.line();
        head.skip(TIME + 2).put_left("span", ID, Paint::Dim).skip(2);
        head.put("where the time went", Paint::Dim).end(out)?;
    } else {
        head.skip(2);
        if widths.whose > 0 {
            head.put_left(whose, widths.whose, Paint::Dim).skip(2);
        }
        head.put_left("where the time went", widths.bar, Paint::Dim);
        if widths.id > 0 {
            head.skip(2).put("span", Paint::Dim);
        }
        head.end(out)?;
    }
    for row in rows {
        widths.line(row, out, style)?;
    }
    style.line().end(out)
}

// === impl Widths ===

impl Widths {
    fn of(name: &str, whose: &str, rows: &[Row<'_>], columns: usize) -> Self {
        let widest =
            |texts: &mut dyn Iterator<Item = &str>| texts.map(text::columns).max().unwrap_or(0);
        let id = if rows.iter().any(|row| !row.id.is_empty()) { ID } else { 0 };
        let names = widest(&mut rows.iter().map(|row| row.name.as_str()).chain([name]));
        if id > 0 && columns < ONE_LINE_WITH_ID {
            let bar = columns - (TIME + 2) - (ID + 2);
            return Self { age: 0, name: columns - (TIME + 2), whose: 0, bar, id, folded: true };
        }
        // Ids take from the texts, not from the bars.
        let (most_name, most_whose) = match id {
            0 => (columns * 3 / 10, columns / 5),
            _ => (columns / 4, columns / 6),
        };
        let with_whose = if id > 0 { WITH_SERVICE_AND_ID } else { WITH_SERVICE };
        let whoses = if columns < with_whose {
            0
        } else {
            widest(&mut rows.iter().map(|row| row.whose.as_str()).chain([whose])).min(most_whose)
        };
        let with_age = columns >= WITH_AGE && rows.iter().any(|row| row.age.is_some());
        let age = if with_age { TIME - 2 } else { 0 };
        let name = names.min(most_name);
        // Each column that is there has a gap of two after it, the id before it.
        let taken = [TIME, age, name, whoses, id].into_iter().filter(|&width| width > 0);
        let bar = columns - taken.map(|width| width + 2).sum::<usize>();
        Self { age, name, whose: whoses, bar, id, folded: false }
    }

    fn bar(&self, row: &Row<'_>) -> Bar {
        let own = row.states.sum();
        let width = if row.in_proportion && own < row.ns {
            // However little: a span that was active is seen.
            (self.bar as u128 * u128::from(own) / u128::from(row.ns.max(1))).max(1) as usize
        } else {
            self.bar
        };
        Bar::new(row.states, width)
    }

    fn line(&self, row: &Row<'_>, out: &mut impl io::Write, style: &Style) -> io::Result<()> {
        let mut line = style.line();
        line.put_right(&text::time(row.ns, style.unicode), TIME, Paint::Bold).skip(2);
        if self.age > 0 {
            let age = row.age.map(|ns| text::time(ns, style.unicode)).unwrap_or_default();
            line.put_right(&age, self.age, Paint::Dim).skip(2);
        }
        line.put_left(&row.name, self.name, Paint::Plain);
        if self.folded {
            line.end(out)?;
            line = style.line();
            line.skip(TIME + 2).put_left(row.id, self.id, Paint::Dim).skip(2);
            return line.put_bar(&self.bar(row)).end(out);
        }
        line.skip(2);
        if self.whose > 0 {
            line.put_left(&row.whose, self.whose, Paint::Dim).skip(2);
        }
        let end = line.used() + self.bar;
        line.put_bar(&self.bar(row));
        if self.id > 0 {
            line.skip(end - line.used() + 2).put(row.id, Paint::Dim);
        }
        line.end(out)
    }
}

/// Which glyph is which state, for the states that occur.
fn legend(rows: &[Row<'_>], out: &mut impl io::Write, style: &Style) -> io::Result<()> {
    let present: BTreeSet<State> =
        rows.iter().flat_map(|row| row.states.iter().map(|(state, _)| state)).collect();
    let mut line = style.line();
    for state in present {
        let entry = format!(" {}", state.key());
        if line.used() > 2 && line.used() + 2 + 1 + entry.len() > style.columns() {
            line.end(out)?;
            line = style.line();
        }
        line.skip(2).put_glyph(state).put(&entry, Paint::Plain);
    }
    if line.used() > 0 {
        line.end(out)?;
    }
    style.line().end(out)
}
