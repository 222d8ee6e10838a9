//! This store does what every store must, and answers what the store in memory answers.

use proptest::prelude::*;

use super::*;
use crate::{
    model::batch::Batch,
    store::{
        Sink as _,
        conformance::{self, Subject, Tangle, assert_same_answers},
        memory::MemoryStore,
        synthetic::Random,
    },
};

/// A store in a directory of its own, an hour into its day.
pub(super) fn subject() -> Subject {
    let bench = Bench::new("conformance");
    let store = bench.open();
    let (source, now) = (Arc::new(store.reader()), Arc::clone(&bench.now));
    Subject {
        sink: Box::new(store),
        source,
        set_clock: Box::new(move |at| now.store(at, Ordering::Relaxed)),
        _kept: Box::new(bench),
    }
}

conformance::conforms!(subject);

/// What is done between two batches.
#[derive(Clone, Copy, Debug)]
enum Step {
    Nothing,
    Again,
    Maintain,
    Reopen,
    Day,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Nothing),
        1 => Just(Step::Again),
        2 => Just(Step::Maintain),
        1 => Just(Step::Reopen),
        2 => Just(Step::Day),
    ];
    prop::collection::vec(step, 1..20)
}

/// Both stores are given a batch before every step, and asked at the end.
fn compare(seed: u64, steps: Vec<Step>, mut next: impl FnMut() -> Batch) {
    let mut bench = Bench::new("same");
    bench.max_age = Duration::from_secs(86_400 * 365);
    let (mut store, mut memory) = (bench.open(), MemoryStore::default());
    let mut now = MIDNIGHT + HOUR;
    for (sequence, step) in (1..).zip(steps) {
        now += 20 * SECOND;
        bench.set(now);
        let entries = [entry(&run(sequence as u8 % 2), sequence, next())];
        memory.append(&entries).unwrap();
        store.append(&entries).unwrap();
        match step {
            Step::Nothing => {}
            Step::Again => store.append(&entries).unwrap(),
            Step::Maintain => store.maintain().unwrap(),
            Step::Reopen => {
                drop(store);
                store = bench.open();
            }
            Step::Day => now += DAY,
        }
        for run in [run(0), run(1)] {
            assert_eq!(store.durable(run.id), memory.durable(run.id));
        }
    }
    assert_same_answers(&store.reader(), &memory, &mut Random::new(seed));
    assert_eq!(store.reader().health().set_aside, []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    // Within a day: a part's rows of a span do not know what the span is called in another.
    #[test]
    fn whatever_is_appended_both_stores_answer_the_same(seed: u64, steps in steps()) {
        let mut tangle = Tangle::new(seed);
        let is_within = |step: &Step| !matches!(step, Step::Day);
        let steps = steps.into_iter().filter(is_within).collect();
        compare(seed, steps, || tangle.batch());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn both_stores_answer_the_same_of_a_busy_host_over_days(seed: u64, steps in steps()) {
        let mut host = Host::new(seed, MIDNIGHT as i64);
        compare(seed, steps, || host.batch(20 * SECOND, 40, 12));
    }
}
