//! A table, placed and searched as the kernel side does, against the rows it was made of.

use agent_ebpf::unwind::table::{self as shared, Chunk};
use proptest::prelude::*;

use super::*;

/// Looks a position up in words that begin at `place`.
fn look(words: &[u32], place: u32, rows_at: u32, table: &Table, at: u64) -> u16 {
    let word = |place_of: u32| words[(place_of - place) as usize];
    let Some(inside) = at.checked_sub(table.base) else { return 0 };
    let bucket = inside >> BUCKET_LOG2;
    if bucket >= table.index.len() as u64 {
        return 0;
    }
    let row = word(place + bucket as u32);
    if row == 0 {
        return 0;
    }
    let head = rows_at + row - 1;
    // The chunk around it.
    let mut chunk: Box<Chunk> = vec![0; CHUNK_WORDS].into_boxed_slice().try_into().unwrap();
    let start = head & !(CHUNK_WORDS as u32 - 1);
    for (offset, slot) in chunk.iter_mut().enumerate() {
        let at = start + offset as u32;
        if at >= place && ((at - place) as usize) < words.len() {
            *slot = word(at);
        }
    }
    shared::find_row(&chunk, head, inside as u32 & 4095, shared::at_most)
}

fn rule(number: u64) -> Rule {
    if number == 0 { Rule::NONE } else { Rule(number << 16 | 1) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn every_position_finds_the_row_it_was_given(
        rows in prop::collection::btree_map(0x1000..0x40_000_u64, 0..9u64, 1..400),
        place in prop_oneof![Just(256u32), 65_000..66_000u32],
        asked in prop::collection::vec(0..0x42_000u64, 60),
    ) {
        let mut builder = Builder::default();
        for (&at, &number) in &rows {
            builder.row(at, rule(number));
        }
        let Some(table) = builder.finish() else {
            prop_assert!(rows.values().all(|&number| number == 0));
            return Ok(());
        };
        prop_assert!(table.is_sound());
        let global: Vec<u16> = (0..table.rules.len() as u16).map(|number| number + 100).collect();
        let (words, rows_at) = table.place(place, &global);
        prop_assert!(words.len() <= table.words());
        let border = |&at: &u64| [at.saturating_sub(1), at, at + 1];
        for at in asked.into_iter().chain(rows.keys().flat_map(border)) {
            let expected = rows.range(..=at).next_back().map_or(Rule::NONE, |(_, &n)| rule(n));
            let found = match look(&words, place, rows_at, &table, at) {
                0 => Rule::NONE,
                number => table.rules[usize::from(number) - 100],
            };
            // After the last bucket nothing is known; the last row of a real table says so itself.
            if at < table.base + table.index.len() as u64 * BUCKET {
                prop_assert_eq!(found, expected, "at {:#x}", at);
            }
        }
    }
}

#[test]
fn what_is_too_large_or_out_of_order_is_refused() {
    let mut far = Builder::default();
    far.row(0x1000, rule(1));
    far.row(MAX_CODE * 2, rule(2));
    assert_eq!(far.finish(), None);
    let mut back = Builder::default();
    back.row(0x2000, rule(1));
    back.row(0x1000, rule(2));
    assert_eq!(back.finish(), None);
    assert_eq!(Builder::default().finish(), None);
    // The end of the last bucket would be no number.
    let mut top = Builder::default();
    top.row(u64::MAX - 3, rule(1));
    assert_eq!(top.finish(), None);
}

#[test]
fn too_many_rules_cannot_be_followed() {
    let mut many = Builder::default();
    for n in 1..=2 * MAX_RULES as u64 {
        many.row(0x1000 + n * 16, rule(n));
    }
    let table = many.finish().unwrap();
    assert_eq!(table.rules.len(), MAX_RULES);
    assert!(table.is_sound());
}

#[test]
fn a_damaged_table_is_not_sound() {
    let mut builder = Builder::default();
    for n in 0..50 {
        builder.row(0x1000 + n * 100, rule(n % 7 + 1));
    }
    let table = builder.finish().unwrap();
    assert!(table.is_sound());
    let damaged = |change: fn(&mut Table)| {
        let mut table = table.clone();
        change(&mut table);
        table.is_sound()
    };
    assert!(!damaged(|table| table.rows[0] |= 0xffff << 16));
    assert!(!damaged(|table| table.rows[1] |= 0xffff));
    assert!(!damaged(|table| table.index[0] = 10_000));
    assert!(!damaged(|table| table.rows.swap(1, 2)));
    assert!(!damaged(|table| table.base += 1));
    assert!(!damaged(|table| table.base = MAX_POSITION));
    // A bucket twice: millions of indices may name the same one.
    assert!(!damaged(|table| table.index[1] = table.index[0]));
}
