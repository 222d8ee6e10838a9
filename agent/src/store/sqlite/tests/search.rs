//! Every plan of a search against a plain filter over everything.

use super::{super::synthetic::Host, *};
use crate::store::{Sort, SpanFilter};

#[test]
fn a_search_finds_what_a_plain_filter_finds() {
    let bench = Bench::new("search");
    let mut store = bench.open();
    let run = run(1);
    let mut host = Host::new(4, MIDNIGHT as i64);
    for sequence in 1..40 {
        bench.set(MIDNIGHT + sequence * HOUR);
        store.append(&[entry(&run, sequence, host.batch(SECOND, 50, 60))]).unwrap();
    }
    let reader = store.reader();
    let all = reader.search(&SpanFilter { limit: 10_000, ..SpanFilter::default() }).unwrap();
    assert!(!all.truncated && all.spans.len() > 2_000 && bench.main_files().len() == 2);
    let middle = all.spans[all.spans.len() / 2].start_unix_ns;
    let default = SpanFilter::default;
    let filters = [
        SpanFilter { min_ns: 400_000_000, ..default() },
        SpanFilter { service: Some("service-1".into()), min_ns: 400_000_000, ..default() },
        default(),
        SpanFilter { service: Some("service-3".into()), ..default() },
        SpanFilter { name: Some("GET /resource/2".into()), min_ns: 1_000_000, ..default() },
        SpanFilter { pid: Some(1_017), to_unix_ns: Some(middle), ..default() },
        SpanFilter { state: State::from_key("lock"), from_unix_ns: Some(middle), ..default() },
        SpanFilter { state: State::from_key("disk"), ..default() },
        SpanFilter { service: Some("nobody".into()), ..default() },
    ];
    for mut filter in filters {
        for (sort, limit) in [(Sort::Newest, 7), (Sort::Slowest, 7), (Sort::Newest, 5_000)] {
            (filter.sort, filter.limit) = (sort, limit);
            let mut expected: Vec<&SpanAccount> = (all.spans.iter())
                .filter(|span| {
                    let process = &span.process.identity;
                    filter.service.as_deref().is_none_or(|service| service == &*process.service)
                        && filter.name.as_deref().is_none_or(|name| name == &*span.name)
                        && filter.pid.is_none_or(|pid| pid == process.pid)
                        && filter.state.is_none_or(|state| span.states.get(state) > 0)
                        && filter.from_unix_ns.is_none_or(|from| span.start_unix_ns >= from)
                        && filter.to_unix_ns.is_none_or(|to| span.start_unix_ns < to)
                        && span.wall_ns() >= filter.min_ns
                })
                .collect();
            expected.sort_by_key(|span| match sort {
                Sort::Newest => u64::MAX - span.start_unix_ns,
                Sort::Slowest => u64::MAX - span.wall_ns(),
            });
            let found = reader.search(&filter).unwrap();
            assert_eq!(found.truncated, expected.len() > limit, "{filter:?}");
            expected.truncate(limit);
            assert_eq!(found.spans.iter().collect::<Vec<_>>(), expected, "{filter:?}");
        }
    }
}
