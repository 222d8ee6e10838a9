//! Tables of real files and of generated programs, compared with gimli.

use std::{sync::LazyLock, time::Instant};

use agent_ebpf::unwind::Rule;

use super::{
    images::{self, Image, Table},
    oracle::compare,
};

static LIBC: LazyLock<Image> = LazyLock::new(|| Image::read(&images::libc()));

#[test]
fn files_say_what_gimli_says() {
    for path in images::all() {
        let image = Image::read(&path);
        let started = Instant::now();
        let table = image.table();
        let took = started.elapsed();
        let comparison = compare(&image.section(), &image.code, &table);
        println!("{}: {:?} in {took:?}", path.display(), table.summary);
        println!(
            "    {} FDEs, {} addresses, {} frame pointers lost; bad: {:#?}",
            comparison.fdes, comparison.addresses, comparison.lost, comparison.bad
        );
        let some: Vec<_> = comparison.differences.iter().take(10).collect();
        assert!(some.is_empty(), "{} differences: {some:#?}", comparison.differences.len());
        assert_eq!(comparison.broken, 0);
        assert!(!table.summary.truncated);
        assert_eq!(table.summary.entries, comparison.fdes);
    }
}
