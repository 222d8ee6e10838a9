//! Tests against a map of every single address.

use proptest::prelude::*;

use super::*;

fn code(name: &str) -> Arc<Code> {
    Arc::new(Code { name: name.into(), lines: [].into() })
}

fn name(map: &CodeMap, address: u64) -> Option<&str> {
    map.at(address).map(|(name, _)| &**name)
}

#[test]
fn lines_follow_the_code_around() {
    let lines = [(4, 10), (8, 11)].map(|(offset, line)| Line { offset, line, file: "f".into() });
    let mut map = CodeMap::default();
    map.insert(100..116, Arc::new(Code { name: "a".into(), lines: lines.into() }));
    map.insert(100..105, code("over its beginning"));
    let line = |map: &CodeMap, at| map.at(at).unwrap().1.map(|line| line.line);
    assert_eq!([105, 107, 108, 115].map(|at| line(&map, at)), [10, 10, 11, 11].map(Some));
    // What remains does not begin there: it is not moved.
    map.relocate(100, 200..205);
    assert_eq!(name(&map, 204), Some("over its beginning"));
    assert_eq!((name(&map, 100), name(&map, 105)), (None, Some("a")));
}

#[test]
fn code_that_moves_is_gone_from_where_it_was() {
    let mut map = CodeMap::default();
    map.insert(100..110, code("a"));
    map.relocate(100, 105..115);
    assert_eq!((name(&map, 104), name(&map, 105), name(&map, 114)), (None, Some("a"), Some("a")));
    map.relocate(1, 2..3);
    map.relocate(105, u64::MAX - 10..u64::MAX);
    assert_eq!((name(&map, 105), name(&map, u64::MAX - 1)), (None, Some("a")));
    assert_eq!(map.at(u64::MAX), None);
}

#[test]
fn code_that_moves_is_counted_once_and_moves_fast() {
    let line = |offset| Line { offset, line: 1, file: "f".into() };
    let lines: Vec<Line> = (0..65_536).map(line).collect();
    let mut map = CodeMap::default();
    map.insert(0..100, Arc::new(Code { name: "a".into(), lines: lines.into() }));
    let (bytes, started) = (map.bytes(), std::time::Instant::now());
    for at in 0..100_000 {
        map.relocate(at, at + 1..at + 101);
    }
    assert_eq!((map.bytes(), map.is_cut(), name(&map, 100_000)), (bytes, false, Some("a")));
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn no_more_is_kept_than_the_bound() {
    let mut map = CodeMap::default();
    let long = "x".repeat(100_000);
    let kept = (0..1000).filter(|&at| map.insert(at * 10..at * 10 + 5, code(&long))).count();
    assert!(kept > 100 && kept < 1000 && map.is_cut(), "{kept}");
    assert!(map.bytes() <= MAX_BYTES);
    // What goes makes room.
    map.insert(0..10_000, code("a"));
    assert!(map.bytes() < MAX_BYTES);
}

proptest! {
    #[test]
    fn the_last_entry_wins(entries in prop::collection::vec((0_u64..60, 0_u64..30), 0..40)) {
        let (mut map, mut truth) = (CodeMap::default(), [None; 100]);
        for (n, &(start, bytes)) in entries.iter().enumerate() {
            map.insert(start..start + bytes, code(&n.to_string()));
            for at in start..start + bytes {
                truth[usize::try_from(at).unwrap()] = Some(n);
            }
        }
        for (at, expected) in (0..).zip(truth) {
            prop_assert_eq!(name(&map, at).map(str::to_owned), expected.map(|n| n.to_string()));
        }
        map.insert(0..100, code(""));
        prop_assert_eq!(map.bytes(), 2 * OVERHEAD, "nothing that is gone is counted");
    }

    #[test]
    fn what_moved_and_went_is_not_counted(
        entries in prop::collection::vec((any::<bool>(), 0_u64..60, 0_u64..30, 0_u64..60), 0..40),
    ) {
        let mut map = CodeMap::default();
        for &(moves, start, bytes, to) in &entries {
            if moves {
                map.relocate(start, to..to + bytes);
            } else {
                map.insert(start..start + bytes, code("name"));
            }
            let regions = map.regions.len() * OVERHEAD;
            let mut codes: Vec<_> = map.regions.values().map(|at| Arc::as_ptr(&at.code)).collect();
            codes.sort_unstable();
            codes.dedup();
            prop_assert_eq!(map.bytes(), regions + codes.len() * (OVERHEAD + 4));
        }
    }
}
