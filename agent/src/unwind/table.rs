//! The table of one file as it is made from its rows, before it is placed in the chunks
//! (`agent_ebpf::unwind::table` has the drawing). Addresses here are positions in the file, so that a
//! mapping gives all it takes to find a row.

use std::collections::HashMap;

use agent_ebpf::unwind::{
    Rule,
    table::{BUCKET_LOG2, CHUNK_WORDS},
};

/// Different rules taken of one file (libxul has 1,331): beyond it a rule is one that cannot be followed.
const MAX_RULES: usize = 8192;
/// Words of one table: half the budget of all.
pub(super) const MAX_WORDS: usize = 8 << 20;
/// Bytes of code of one table.
const MAX_CODE: u64 = 4 << 30;
/// No file reaches further (its size is signed), so that the end of a bucket is a number too.
const MAX_POSITION: u64 = 1 << 63;
const BUCKET: u64 = 1 << BUCKET_LOG2;

/// Rows by bucket, with the file's own numbers of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// File position of the first bucket.
    pub base: u64,
    /// Per bucket, where its first row is + 1; 0 for none.
    pub index: Vec<u32>,
    /// `count << 16 | rule` of each bucket, followed by `inside << 16 | rule`.
    pub rows: Vec<u32>,
    /// What the numbers mean.
    pub rules: Vec<Rule>,
}

/// Makes a table of rows that come in ascending order.
#[derive(Debug, Default)]
pub struct Builder {
    table: Table,
    numbers: HashMap<Rule, u16>,
    /// The rule that holds where the last row began.
    rule: u16,
    /// Where the last row began.
    last: u64,
    /// Where the rows of the open bucket begin.
    head: usize,
    /// Rows could not be taken.
    refused: bool,
}

// === impl Builder ===

impl Builder {
    /// From `at` on, `rule` holds.
    pub fn row(&mut self, at: u64, rule: Rule) {
        if self.refused || at >= MAX_POSITION {
            self.refused = true;
            return;
        }
        let number = self.number(rule);
        if self.table.index.is_empty() {
            if number == 0 {
                return;
            }
            self.table.base = at & !(BUCKET - 1);
            self.open();
        } else if at < self.last || at - self.table.base > MAX_CODE {
            self.refused = true;
            return;
        }
        if number == self.rule && at != self.last {
            return;
        }
        self.last = at;
        // Whole buckets in between go on with the rule before.
        while at >= self.end() {
            self.open();
            if self.table.rows.len() + self.table.index.len() > MAX_WORDS {
                self.refused = true;
                return;
            }
        }
        let inside = (at & (BUCKET - 1)) as u32;
        let count = self.table.rows.len() - self.head - 1;
        let last = self.table.rows.last().map(|row| row >> 16);
        if inside == 0 {
            self.table.rows[self.head] = u32::from(number);
        } else if count > 0 && last == Some(inside) {
            // The later of two rows at one address holds.
            let row = self.table.rows.len() - 1;
            self.table.rows[row] = inside << 16 | u32::from(number);
        } else {
            self.table.rows.push(inside << 16 | u32::from(number));
        }
        self.rule = number;
    }

    /// The table; `None` when nothing is in it or it is too large.
    pub fn finish(mut self) -> Option<Table> {
        if self.refused || self.table.index.is_empty() {
            return None;
        }
        self.close();
        Some(self.table)
    }

    /// First position after the open bucket.
    fn end(&self) -> u64 {
        self.table.base + self.table.index.len() as u64 * BUCKET
    }

    /// Opens the next bucket.
    fn open(&mut self) {
        self.close();
        self.head = self.table.rows.len();
        self.table.index.push(self.head as u32 + 1);
        self.table.rows.push(u32::from(self.rule));
    }

    /// Gives the open bucket its count; one without rows is taken out again.
    fn close(&mut self) {
        let Some(count) = self.table.rows.len().checked_sub(self.head + 1) else { return };
        if self.table.index.is_empty() {
            return;
        }
        if count == 0 && self.table.rows[self.head] == 0 {
            self.table.rows.truncate(self.head);
            if let Some(index) = self.table.index.last_mut() {
                *index = 0;
            }
            return;
        }
        self.table.rows[self.head] |= (count as u32) << 16;
    }

    fn number(&mut self, rule: Rule) -> u16 {
        if self.table.rules.is_empty() {
            self.table.rules = vec![Rule::NONE, Rule::BAD];
            self.numbers = HashMap::from([(Rule::NONE, 0), (Rule::BAD, 1)]);
        }
        if let Some(&number) = self.numbers.get(&rule) {
            return number;
        }
        if self.table.rules.len() >= MAX_RULES {
            return 1;
        }
        let number = self.table.rules.len() as u16;
        self.table.rules.push(rule);
        self.numbers.insert(rule, number);
        number
    }
}

// === impl Table ===

impl Table {
    /// Words it takes when placed anywhere.
    pub fn words(&self) -> usize {
        // Each border of a chunk may cost as much as the largest bucket.
        let borders = self.rows.len() / CHUNK_WORDS + 2;
        let widest = self.buckets().map(<[u32]>::len).max().unwrap_or(0);
        self.index.len() + self.rows.len() + borders * widest
    }

    /// The rows of each bucket that has some.
    fn buckets(&self) -> impl Iterator<Item = &[u32]> {
        self.index.iter().filter(|&&index| index != 0).map(|&index| self.bucket(index))
    }

    fn bucket(&self, index: u32) -> &[u32] {
        let head = index as usize - 1;
        &self.rows[head..=head + (self.rows[head] >> 16) as usize]
    }

    /// Index and rows as they stand in the chunks when the index begins at `place`: rows with the
    /// numbers `global` gives to rules, no bucket across a border. Second: where the rows begin.
    pub fn place(&self, place: u32, global: &[u16]) -> (Vec<u32>, u32) {
        let rows_at = place as usize + self.index.len();
        let mut words = vec![0; self.index.len()];
        for (number, &index) in self.index.iter().enumerate() {
            if index == 0 {
                continue;
            }
            let bucket = self.bucket(index);
            let at = place as usize + words.len();
            let room = CHUNK_WORDS - at % CHUNK_WORDS;
            if bucket.len() > room {
                words.resize(words.len() + room, 0);
            }
            words[number] = (place as usize + words.len() - rows_at) as u32 + 1;
            words.extend(
                bucket
                    .iter()
                    .map(|&row| row & 0xffff_0000 | u32::from(global[(row & 0xffff) as usize])),
            );
        }
        (words, rows_at as u32)
    }

    /// Whether every number in it stands for something: what comes from a disk may be anything.
    pub fn is_sound(&self) -> bool {
        let rules = self.rules.len();
        // Buckets follow one another: placed, they take as much as they do here.
        let mut free = 0;
        let sound = |&index: &u32| {
            let Some(head) = (index as usize).checked_sub(1) else { return true };
            let Some(&first) = self.rows.get(head).filter(|_| head >= free) else { return false };
            let Some(rows) = self.rows.get(head..=head + (first >> 16) as usize) else {
                return false;
            };
            free = head + rows.len();
            rows.iter().all(|row| ((row & 0xffff) as usize) < rules)
                && rows[1..].windows(2).all(|pair| pair[0] >> 16 < pair[1] >> 16)
                && rows[1..].iter().all(|row| (1..BUCKET as u32).contains(&(row >> 16)))
        };
        self.index.len() + self.rows.len() <= MAX_WORDS
            && rules <= MAX_RULES
            && self.base.is_multiple_of(BUCKET)
            && self.base < MAX_POSITION
            && self.index.iter().all(sound)
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
