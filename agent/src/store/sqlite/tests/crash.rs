//! Killed at any moment, and no room on the disk.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use super::*;
use crate::{
    model::id::SpanId,
    store::{SpanFilter, synthetic::Random},
};

const CHILD: &str = "HOTSPAN_STORE_CRASH_CHILD";

/// Not a test of its own: what the killed process does.
#[test]
fn crash_child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    // Small parts and a fast clock, so that every kind of step is met.
    let now = Arc::new(AtomicU64::new(MIDNIGHT));
    let clock = Arc::clone(&now);
    let settings =
        Settings { dir: dir.into(), max_age: Duration::from_secs(30 * 86_400), max_bytes: 1 << 40 };
    let mut store =
        Store::open_with_clock(settings, Arc::new(move || clock.load(Ordering::Relaxed))).unwrap();
    let run = run(1);
    let mut sequence = store.durable(run.id);
    loop {
        sequence += 1;
        now.store(MIDNIGHT + sequence / 40 * DAY, Ordering::Relaxed);
        let batch = one_span(0, sequence as u32 - 1, HOUR + sequence * 10 * SECOND);
        store.append(&[entry(&run, sequence, batch)]).unwrap();
        // By write(2) at once: what is read was acknowledged.
        println!("ack {sequence}");
        if sequence.is_multiple_of(5) {
            store.maintain().unwrap();
        }
    }
}

fn spawn(bench: &Bench) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "store::sqlite::tests::crash::crash_child",
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(CHILD, &bench.dir.0)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_kill_at_any_moment_loses_and_doubles_nothing() {
    let bench = Bench::new("crash");
    let mut random = Random::new(5);
    let mut acknowledged = 0;
    for round in 0..30 {
        let mut child = spawn(&bench);
        let mut acks = BufReader::new(child.stdout.take().unwrap()).lines();
        // Some acks later, and then at some instruction of the next append.
        let wanted = random.below(25);
        let mut seen = 0;
        while seen < wanted {
            let line = acks.next().unwrap().unwrap();
            seen += u64::from(line.contains("ack "));
            acknowledged = ack(&line).unwrap_or(acknowledged);
        }
        let until = std::time::Instant::now() + Duration::from_micros(random.below(12_000));
        while std::time::Instant::now() < until {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in acks.map_while(Result::ok) {
            acknowledged = ack(&line).unwrap_or(acknowledged);
        }
        bench.set(MIDNIGHT);
        let store = bench.open();
        let durable = store.durable(run(1).id);
        // At most the one that was being written is there without an ack.
        assert!((acknowledged..=acknowledged + 1).contains(&durable), "{acknowledged} {durable}");
        let reader = store.reader();
        if durable > 0 {
            let span = only(reader.spans(None, SpanId::NONE).unwrap());
            assert_eq!((span.active_ns, span.loss.len()), (durable * 100, 0), "round {round}");
            let details = reader.details(&[span]).unwrap();
            assert_eq!(details.samples.len() as u64, durable);
            assert_eq!(details.waits[0].count, durable);
            assert_eq!(reader.runs().unwrap()[0].delivered.spans, durable);
        }
        assert_eq!(reader.health().set_aside, []);
    }
    assert!(acknowledged > 100 && bench.main_files().len() > 2);
}

fn ack(line: &str) -> Option<u64> {
    line.split("ack ").nth(1)?.trim().parse().ok()
}

/// A file system of a few MiB, unmounted at the end.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(name: &str, size: &str) -> Option<Self> {
        let dir = TempDir::new(name);
        fs::create_dir_all(&dir.0).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "tmpfs"])
            .arg(&dir.0)
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0.0).status();
    }
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let Some(disk) = SmallDisk::mount("full", "8m") else {
        eprintln!("skipped: a small tmpfs can only be mounted as root");
        return;
    };
    let mut bench = Bench::new("unused");
    bench.dir = TempDir(disk.0.0.join("data"));
    let mut store = bench.open();
    let reader = store.reader();
    let ballast = disk.0.0.join("ballast");
    fs::write(&ballast, vec![0; 4 << 20]).unwrap();
    let run = run(1);
    let mut host = Host::new(3, MIDNIGHT as i64);
    let (mut sequence, mut stored) = (0, 0);
    for _ in 0..3 {
        let (refused, batch) = loop {
            let batch = host.batch(SECOND, 400, 60);
            match store.append(&[entry(&run, sequence + 1, batch.clone())]) {
                Ok(()) => {
                    sequence += 1;
                    stored += batch.samples.len() as u64;
                }
                Err(refused) => break (refused, batch),
            }
            assert!(sequence < 500, "the disk never filled");
        };
        assert!(matches!(refused, StoreError::Full), "{refused}");
        assert!(reader.health().is_full);
        assert_eq!(store.durable(run.id), sequence);
        assert_eq!(reader.runs().unwrap()[0].delivered.samples, stored);
        // Reading goes on, maintaining fails in peace.
        assert!(!reader.search(&SpanFilter::default()).unwrap().spans.is_empty());
        bench.set(MIDNIGHT + 5 * HOUR);
        let _ = store.maintain();
        // What is left is not damaged by the next attempts, nor by reopening.
        let again = store.append(&[entry(&run, sequence + 1, batch.clone())]);
        if again.is_ok() {
            sequence += 1;
            stored += batch.samples.len() as u64;
        }
        let length = ballast.metadata().unwrap().len();
        fs::File::options()
            .write(true)
            .open(&ballast)
            .unwrap()
            .set_len(length - 1_200_000)
            .unwrap();
        if again.is_err() {
            store.append(&[entry(&run, sequence + 1, batch.clone())]).unwrap();
            sequence += 1;
            stored += batch.samples.len() as u64;
        }
        assert!(!reader.health().is_full);
        assert_eq!(reader.runs().unwrap()[0].delivered.samples, stored);
    }
    assert_eq!(reader.health().set_aside, []);
    drop((store, reader));
    let store = bench.open();
    assert_eq!(store.durable(run.id), sequence);
}
