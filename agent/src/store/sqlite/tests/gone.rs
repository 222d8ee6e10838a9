//! The directory goes while the store is open: what is acknowledged afterwards is found again.

use super::*;
use crate::store::SpanFilter;

fn found(store: &Store) -> usize {
    let filter = SpanFilter { limit: 10_000, ..SpanFilter::default() };
    store.reader().search(&filter).unwrap().spans.len()
}

#[test]
fn what_comes_after_the_directory_was_removed_is_stored() {
    let bench = Bench::new("gone");
    let (mut host, run) = (Host::new(8, MIDNIGHT as i64), run(1));
    let mut store = bench.open();
    store.append(&[entry(&run, 1, host.batch(SECOND, 20, 5))]).unwrap();
    let before = found(&store);
    fs::remove_dir_all(&bench.dir.0).unwrap();
    store.append(&[entry(&run, 2, host.batch(SECOND, 20, 5))]).unwrap();
    assert_eq!(store.durable(run.id), 2);
    let after = found(&store);
    assert!(before > 0 && after > 0);
    let aside = store.reader().health().set_aside;
    assert_eq!(aside.len(), 1, "nothing says that a part is gone");
    // It has the new directory's lock, too.
    assert!(matches!(bench.try_open(), Err(StoreError::Locked { .. })));
    // Nothing in memory only: a crash keeps it.
    std::mem::forget(store);
    let copied = Bench::new("gone-copy");
    fs::create_dir_all(&copied.dir.0).unwrap();
    for file in bench.files() {
        fs::copy(bench.dir.0.join(&file), copied.dir.0.join(&file)).unwrap();
    }
    let store = copied.open();
    assert_eq!((store.durable(run.id), found(&store)), (2, after));
}

#[test]
fn a_directory_that_is_back_is_not_taken_from_another() {
    let bench = Bench::new("gone-taken");
    let (mut host, run) = (Host::new(8, MIDNIGHT as i64), run(1));
    let mut store = bench.open();
    fs::rename(&bench.dir.0, bench.dir.0.with_extension("moved")).unwrap();
    let other = bench.open();
    let entries = [entry(&run, 1, host.batch(SECOND, 20, 5))];
    assert!(matches!(store.append(&entries), Err(StoreError::Locked { .. })));
    assert_eq!(store.durable(run.id), 0, "nothing is acknowledged");
    drop(other);
    store.append(&entries).unwrap();
    assert_eq!(store.durable(run.id), 1);
    fs::remove_dir_all(bench.dir.0.with_extension("moved")).unwrap();
}
