//! Searches against a linear look at the same data.

extern crate std;

use std::{boxed::Box, vec, vec::Vec};

use proptest::prelude::*;

use super::*;

fn chunk() -> Box<Chunk> {
    vec![0xdead_beef; CHUNK_WORDS].into_boxed_slice().try_into().unwrap()
}

proptest! {
    #[test]
    fn a_row_is_found_as_by_looking_at_all(
        starts in prop::collection::btree_set(1..4096u32, 0..600),
        place in 0..60_000u32,
        inside in 0..4096u32,
    ) {
        let mut chunk = chunk();
        let starts: Vec<u32> = starts.into_iter().collect();
        chunk[place as usize] = (starts.len() as u32) << 16 | 7;
        for (number, start) in starts.iter().enumerate() {
            chunk[place as usize + 1 + number] = start << 16 | (number as u32 + 100);
        }
        let expected = starts.iter().rposition(|&start| start <= inside);
        let expected = expected.map_or(7, |number| number as u16 + 100);
        prop_assert_eq!(find_row(&chunk, place, inside, at_most), expected);
    }

    #[test]
    fn a_mapping_is_found_as_by_looking_at_all(
        starts in prop::collection::btree_set(1..1u64 << 47, 1..1024usize),
        slab in 0..20_000u32,
        chosen in any::<prop::sample::Index>(),
        off in -3..3i64,
    ) {
        let slab = slab * 2;
        let mut chunk = chunk();
        let starts: Vec<u64> = starts.into_iter().collect();
        let count = starts.len() as u32;
        for (number, start) in starts.iter().enumerate() {
            let at = slab as usize + number * 2;
            (chunk[at], chunk[at + 1]) = (*start as u32, (*start >> 32) as u32);
            let at = slab as usize + starts.len() * 2 + number * CODE_WORDS as usize;
            chunk[at..at + 6].copy_from_slice(&[1, 2, 3, 4, number as u32, 0]);
        }
        let address = chosen.get(&starts).saturating_add_signed(off);
        let expected = starts.iter().rposition(|&start| start <= address).unwrap_or(0) as u32;
        let found = find_code(&chunk, slab, count, address, at_most);
        prop_assert_eq!(found, expected);
        prop_assert_eq!(code_start(&chunk, slab, found), starts[found as usize]);
        let code = code(&chunk, slab, count, found);
        prop_assert_eq!((code.end, code.bias, code.exe), (1 | 2 << 32, 3 | 4 << 32, found));
    }
}

#[test]
fn a_full_bucket_is_searched_whole() {
    let mut chunk = chunk();
    chunk[0] = 4095 << 16;
    for row in 1..4096 {
        chunk[row] = (row as u32) << 16 | row as u32;
    }
    for inside in 0..4096 {
        assert_eq!(u32::from(find_row(&chunk, 0, inside, at_most)), inside);
    }
}
