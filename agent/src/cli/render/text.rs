//! Text of exactly known width: durations, counts, and a line that refuses to grow past its end.

use std::io;

use super::bar::{Bar, colour_of, glyph_of};
use crate::model::state::State;

/// How a piece of a line looks where colour is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    Plain,
    Bold,
    Dim,
    Warning,
    Good,
    /// In the colour of a state.
    Of(State),
}

/// One line of output. What does not fit is cut, with a mark.
pub(super) struct Line {
    text: String,
    used: usize,
    width: usize,
    colour: bool,
    unicode: bool,
    full: bool,
}

// === impl Line ===

impl Line {
    pub(super) fn new(width: usize, colour: bool, unicode: bool) -> Self {
        Self { text: String::new(), used: 0, width, colour, unicode, full: false }
    }

    /// Columns used so far.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Adds text, whatever somebody else put in it.
    pub(super) fn put(&mut self, text: &str, paint: Paint) -> &mut Self {
        let room = self.width - self.used;
        let (text, columns, cut) = self.fit(text, room);
        if !self.full {
            self.paint(&text, paint);
            self.used += columns;
            self.full = cut;
        }
        self
    }

    /// Adds text at the left of a column of this width.
    pub(super) fn put_left(&mut self, text: &str, width: usize, paint: Paint) -> &mut Self {
        let (text, columns, _) = self.fit(text, width);
        self.put(&text, paint).skip(width - columns)
    }

    /// Adds text at the right of a column of this width.
    pub(super) fn put_right(&mut self, text: &str, width: usize, paint: Paint) -> &mut Self {
        let (text, columns, _) = self.fit(text, width);
        self.skip(width - columns).put(&text, paint)
    }

    /// Adds blanks.
    pub(super) fn skip(&mut self, columns: usize) -> &mut Self {
        self.put(&" ".repeat(columns.min(self.width - self.used)), Paint::Plain)
    }

    /// Adds the glyph of a state.
    pub(super) fn put_glyph(&mut self, state: State) -> &mut Self {
        self.put(glyph_of(state, self.unicode).encode_utf8(&mut [0; 4]), Paint::Of(state))
    }

    /// Adds a bar, which the caller made to fit.
    pub(super) fn put_bar(&mut self, bar: &Bar) -> &mut Self {
        for &(state, cells) in bar.cells() {
            let glyph = glyph_of(state, self.unicode);
            self.put(&glyph.to_string().repeat(cells), Paint::Of(state));
        }
        self
    }

    /// Writes the line, without blanks at its end.
    pub(super) fn end(&self, out: &mut impl io::Write) -> io::Result<()> {
        writeln!(out, "{}", self.text.trim_end())
    }

    fn paint(&mut self, text: &str, paint: Paint) {
        let code = match paint {
            Paint::Plain => None,
            Paint::Bold => Some(1),
            Paint::Dim => Some(2),
            Paint::Warning => Some(33),
            Paint::Good => Some(32),
            Paint::Of(state) => Some(colour_of(state)),
        };
        match code.filter(|_| self.colour && !text.trim().is_empty()) {
            Some(code) => self.text.push_str(&format!("\x1b[{code}m{text}\x1b[0m")),
            None => self.text.push_str(text),
        }
    }

    /// As much of `text` as fits into `room`, its columns, and whether that is not all.
    fn fit(&self, text: &str, room: usize) -> (String, usize, bool) {
        let shown = |c| {
            if self.unicode || c == ' ' { shown(c) } else { shown_in_ascii(c) }
        };
        let total: usize = text.chars().map(shown).map(columns_of).sum();
        if total <= room {
            return (text.chars().map(shown).collect(), total, false);
        }
        let mark = if self.unicode { "…" } else { "~" };
        let mut fitting = String::new();
        let mut used = 0;
        for c in text.chars().map(shown) {
            if used + columns_of(c) + 1 > room {
                break;
            }
            fitting.push(c);
            used += columns_of(c);
        }
        if room > 0 {
            fitting.push_str(mark);
            used += 1;
        }
        (fitting, used, true)
    }
}

/// Text for a terminal, whatever somebody else put in it.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { c } else { shown(c) }).collect()
}

/// JSON for a terminal: what would move it is written as an escape, which means the same.
pub fn plain_json(json: &[u8]) -> String {
    let mut plain = String::with_capacity(json.len());
    for c in String::from_utf8_lossy(json).chars() {
        match c {
            '\n' => plain.push(c),
            c if shown(c) != c => plain.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => plain.push(c),
        }
    }
    plain
}

/// Columns of a text as [`Line`] would show it.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(shown).map(columns_of).sum()
}

/// The character, or a stand-in for one that moves the cursor or reorders text.
fn shown(c: char) -> char {
    match c {
        '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

fn shown_in_ascii(c: char) -> char {
    if c.is_ascii_graphic() { c } else { '?' }
}

/// Columns of a character on a terminal: enough of the Unicode tables for names people use.
fn columns_of(c: char) -> usize {
    match u32::from(c) {
        // Combining marks and variation selectors join the character before them.
        0x0300..=0x036f | 0x20d0..=0x20ff | 0xfe00..=0xfe0f => 0,
        // East Asian wide, and emoji.
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// A duration with three significant digits.
pub(super) fn time(ns: u64, unicode: bool) -> String {
    const UNITS: [(&str, u64); 6] = [
        ("ns", 1),
        ("us", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("min", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    for (index, &(unit, size)) in UNITS.iter().enumerate() {
        // What is no longer less than the next unit, after rounding.
        let next = UNITS.get(index + 1).map_or(u64::MAX, |&(_, next)| next / size);
        let unit = if unit == "us" && unicode { "µs" } else { unit };
        if size == 1 {
            if ns < next {
                return format!("{ns} {unit}");
            }
            continue;
        }
        for (decimals, scale, limit) in [(2, 100, 1_000), (1, 10, 1_000), (0, 1, 10_000)] {
            let scaled = (u128::from(ns) * scale + u128::from(size) / 2) / u128::from(size);
            let rounded_up = scaled >= u128::from(next) * scale;
            if scaled < limit && !rounded_up {
                let (whole, part) = (scaled / scale, scaled % scale);
                return match decimals {
                    0 => format!("{whole} {unit}"),
                    _ => format!("{whole}.{part:0decimals$} {unit}"),
                };
            }
        }
    }
    format!("{} h", grouped(ns / 3_600_000_000_000))
}

/// A whole duration as it is typed: `15m`, `10ms`.
pub fn compact_time(ns: u64) -> String {
    const UNITS: [(&str, u64); 6] = [
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ];
    let unit = UNITS.into_iter().find(|(_, size)| ns >= *size && ns.is_multiple_of(*size));
    unit.map_or_else(|| "0s".to_owned(), |(unit, size)| format!("{}{unit}", ns / size))
}

/// A share in percent.
pub(super) fn percent(part: u64, whole: u64) -> String {
    let permille = (u128::from(part) * 1000).checked_div(whole.into()).unwrap_or(0);
    match permille {
        0 if part > 0 => "<0.1%".into(),
        1000.. => format!("{}%", permille / 10),
        _ => format!("{}.{}%", permille / 10, permille % 10),
    }
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// "1 span", "2,000 spans".
pub(super) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits_in_the_unit_they_round_to() {
        let cases = [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 us"),
            (1_234, "1.23 us"),
            (9_996, "10.0 us"),
            (12_345, "12.3 us"),
            (999_499, "999 us"),
            (999_500, "1.00 ms"),
            (48_213_000, "48.2 ms"),
            (5_000_000_000, "5.00 s"),
            (59_940_000_000, "59.9 s"),
            (59_999_000_000, "1.00 min"),
            (3_599_999_000_000, "1.00 h"),
            (7_200_000_000_000, "2.00 h"),
        ];
        for (ns, expected) in cases {
            assert_eq!(time(ns, false), expected, "{ns} ns");
        }
        assert_eq!(time(1_234, true), "1.23 µs");
        assert_eq!(time(u64::MAX, true), "5,124,095 h");
    }

    #[test]
    fn shares_never_read_as_nothing_or_all_when_they_are_not() {
        assert_eq!(percent(1, 10_000_000), "<0.1%");
        assert_eq!(percent(0, 10), "0.0%");
        assert_eq!(percent(1, 3), "33.3%");
        assert_eq!(percent(999_999, 1_000_000), "99.9%");
        assert_eq!(percent(3, 3), "100%");
        assert_eq!(percent(1, 0), "<0.1%");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(counted(1_234_567, "span"), "1,234,567 spans");
        assert_eq!(counted(1, "thread"), "1 thread");
    }

    fn line(width: usize, unicode: bool, put: impl Fn(&mut Line)) -> String {
        let mut line = Line::new(width, false, unicode);
        put(&mut line);
        let mut out = Vec::new();
        line.end(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_is_cut_at_its_width_with_a_mark() {
        let long = |line: &mut Line| {
            line.put("0123456789", Paint::Plain).put("x", Paint::Plain);
        };
        assert_eq!(line(8, true, long), "0123456…\n");
        assert_eq!(line(8, false, long), "0123456~\n");
        assert_eq!(line(10, true, long), "0123456789\n");
        assert_eq!(
            line(5, true, |line| {
                line.put("日本語", Paint::Plain);
            }),
            "日本…\n"
        );
    }

    #[test]
    fn hostile_text_cannot_move_the_cursor() {
        let hostile = |line: &mut Line| {
            line.put_left("a\x1b[2J\r\nb\u{202e}é", 20, Paint::Plain).put("|", Paint::Plain);
        };
        assert_eq!(line(40, true, hostile), "a\u{fffd}[2J\u{fffd}\u{fffd}b\u{fffd}é          |\n");
        assert_eq!(line(40, false, hostile), "a?[2J??b??          |\n");
    }
}
