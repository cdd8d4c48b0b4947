//! The log against what the machine can do, measured in the same run: `cargo bench -p muster-core [-- PART...]`, parts
//! `append`, `lone`, `unsynced`, `scan`, `packed`, `open`, `readers`. Files go to `MUSTER_BENCH_DIR`, else below the
//! temporary directory; give it a directory on a real disk, for a tmpfs syncs nothing. `MUSTER_BENCH_OPEN_MB` sizes
//! `open`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a benchmark")]

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use muster_core::clock::{SharedClock, SystemClock};
use muster_core::event::{EventKind, EventKinds, NewEvent, proto};
use muster_core::journal::{Journal, SHARED_BYTES_MAX};
use muster_core::log::{Compress, Durability, Log, LogConfig, NewRecord, RealDisk};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;

type Part = fn(&SharedClock);

/// How long one takes before it is the other's turn.
const SLICE: Duration = Duration::from_millis(250);
const MB: f64 = 1_000_000.0;
const MIB: u64 = 1024 * 1024;

fn main() {
    let wanted: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let clock = SystemClock::shared();
    let parts: [(&str, Part); 7] = [
        ("append", append),
        ("lone", lone),
        ("unsynced", unsynced),
        ("scan", scan),
        ("packed", packed),
        ("open", open_time),
        ("readers", readers),
    ];
    for (name, run) in parts {
        if wanted.is_empty() || wanted.iter().any(|part| part == name) {
            run(&clock);
        }
    }
}

fn temp() -> TempDir {
    match std::env::var_os("MUSTER_BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir).unwrap(),
        None => tempfile::tempdir().unwrap(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

fn open(dir: &Path, durability: Durability, clock: &SharedClock) -> Log {
    let config = LogConfig { durability, ..LogConfig::new(dir) };
    Log::open(config, RealDisk::shared(), clock.clone()).unwrap().0
}

fn record(bytes: usize) -> NewRecord {
    let topic = "fleet/7/telemetry".into();
    NewRecord { timestamp_ms: 1, kind: 1, topic, body: vec![b'x'; bytes].into() }
}

fn timed(clock: &SharedClock, run: impl FnOnce()) -> f64 {
    let start = clock.monotonic();
    run();
    (clock.monotonic() - start).as_secs_f64()
}

/// What was done, and in how many seconds.
#[derive(Default)]
struct Measured {
    bytes: u64,
    records: u64,
    groups: u64,
    seconds: f64,
}

impl Measured {
    fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }
}

/// Adds a slice of time in which `appenders` append and wait, each for itself.
fn append_slice(
    clock: &SharedClock,
    runtime: &tokio::runtime::Runtime,
    log: &Log,
    (bytes, appenders): (usize, usize),
    sum: &mut Measured,
) {
    let before = log.stats();
    sum.seconds += timed(clock, || {
        let task = || {
            let (log, clock) = (log.clone(), clock.clone());
            runtime.spawn(async move {
                let until = clock.monotonic() + SLICE;
                let record = record(bytes);
                while clock.monotonic() < until {
                    let offset = log.append(record.clone()).await.unwrap();
                    log.durable(offset).await.unwrap();
                }
            })
        };
        let tasks: Vec<_> = (0..appenders).map(|_| task()).collect();
        runtime.block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
    });
    let after = log.stats();
    sum.bytes += after.written_bytes_total - before.written_bytes_total;
    sum.records += after.records_total - before.records_total;
    sum.groups += after.groups_total - before.groups_total;
}

/// Adds a slice of time in which groups of so many bytes are written to a file, each with one write and one sync.
fn bare_slice(clock: &SharedClock, file: &mut File, group: &[u8], sum: &mut Measured) {
    sum.seconds += timed(clock, || {
        let until = clock.monotonic() + SLICE;
        while clock.monotonic() < until {
            file.write_all(group).unwrap();
            file.sync_data().unwrap();
            sum.bytes += group.len() as u64;
        }
    });
}

fn append(clock: &SharedClock) {
    println!("durable appends against bare write+fdatasync of groups of the same size, turn by turn");
    for load in [256, 1024].into_iter().flat_map(|bytes| [1, 16, 256].map(|appenders| (bytes, appenders))) {
        let dir = temp();
        let runtime = runtime();
        let log = open(dir.path(), Durability::Always, clock);
        let mut file = File::create(dir.path().join("bare")).unwrap();
        append_slice(clock, &runtime, &log, load, &mut Measured::default());
        let (mut ours, mut bare) = (Measured::default(), Measured::default());
        for _ in 0..8 {
            append_slice(clock, &runtime, &log, load, &mut ours);
            let group = vec![b'x'; usize::try_from(ours.bytes / ours.groups).unwrap()];
            bare_slice(clock, &mut file, &group, &mut bare);
        }
        println!(
            "  {:>4} B x {:>3} appenders: {:>7.0}/s, {:>6.1} MB/s, {:>5.1} records a group; bare {:>6.1} MB/s; ratio {:.2}",
            load.0,
            load.1,
            ours.records as f64 / ours.seconds,
            ours.bytes_per_second() / MB,
            ours.records as f64 / ours.groups as f64,
            bare.bytes_per_second() / MB,
            ours.bytes_per_second() / bare.bytes_per_second(),
        );
    }
}

/// Writes so many bytes in groups, each copied into a buffer and written; bytes a second.
fn copy_and_write(clock: &SharedClock, group_bytes: usize, total: u64) -> f64 {
    let dir = temp();
    let mut file = File::create(dir.path().join("bare")).unwrap();
    let group = vec![b'x'; group_bytes];
    let seconds = timed(clock, || {
        for _ in 0..total / group_bytes as u64 {
            file.write_all(&group.clone()).unwrap();
        }
    });
    total as f64 / seconds
}

/// Percentiles, of times in microseconds.
fn percentiles(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

fn lone(clock: &SharedClock) {
    const TIMES: usize = 5_000;
    let dir = temp();
    let log = open(dir.path(), Durability::Always, clock);
    let file = File::create(dir.path().join("bare")).unwrap();
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    runtime().block_on(async {
        let record = record(1024);
        let bytes = vec![b'x'; record.encoded_bytes()];
        // Turn by turn, so that both see the same disk.
        for turn in 0..TIMES {
            let start = clock.monotonic();
            let offset = log.append(record.clone()).await.unwrap();
            log.durable(offset).await.unwrap();
            ours.push((clock.monotonic() - start).as_secs_f64() * 1e6);
            let start = clock.monotonic();
            file.write_all_at(&bytes, (turn * bytes.len()) as u64).unwrap();
            file.sync_data().unwrap();
            bare.push((clock.monotonic() - start).as_secs_f64() * 1e6);
        }
    });
    let ((p50, p99), (bare_p50, bare_p99)) = (percentiles(ours), percentiles(bare));
    println!("a lone durable append of 1 KiB against one bare write+fdatasync");
    println!("  p50 {p50:.0} us, bare {bare_p50:.0} us, ratio {:.2}", p50 / bare_p50);
    println!("  p99 {p99:.0} us, bare {bare_p99:.0} us, ratio {:.2}", p99 / bare_p99);
}

fn unsynced(clock: &SharedClock) {
    println!("appends that are not synced against copying into a buffer and writing it");
    for bytes in [256, 1024] {
        let dir = temp();
        let log = open(dir.path(), Durability::Os, clock);
        let record = record(bytes);
        let count = 300_000_000 / record.encoded_bytes() as u64;
        let runtime = runtime();
        let seconds = timed(clock, || {
            runtime.block_on(async {
                for _ in 0..count {
                    log.append(record.clone()).await.unwrap();
                }
                log.durable(count - 1).await.unwrap();
            });
        });
        let stats = log.stats();
        let rate = stats.written_bytes_total as f64 / seconds;
        let group = usize::try_from(stats.written_bytes_total / stats.groups_total).unwrap();
        let limit = copy_and_write(clock, group, 300_000_000);
        println!(
            "  {bytes:>4} B: {:>8.0}/s, {:>6.0} MB/s; bare {:>6.0} MB/s; ratio {:.2}",
            count as f64 / seconds,
            rate / MB,
            limit / MB,
            rate / limit
        );
        runtime.block_on(log.close()).unwrap();
    }
}

fn fill(dir: &Path, record: &NewRecord, bytes: u64, clock: &SharedClock) -> Log {
    let log = open(dir, Durability::Os, clock);
    let runtime = runtime();
    runtime.block_on(async {
        let count = bytes / record.encoded_bytes() as u64;
        for _ in 0..count {
            log.append(record.clone()).await.unwrap();
        }
        log.durable(count - 1).await.unwrap();
    });
    log
}

fn scan(clock: &SharedClock) {
    println!("a cached log, read in order, headers decoded and all checksums checked, against plain reads");
    for bytes in [256, 1024] {
        let dir = temp();
        let log = fill(dir.path(), &record(bytes), 1_000_000_000, clock);
        let total = log.stats().bytes as f64;
        let mut plain = f64::MAX;
        let mut ours = f64::MAX;
        for _ in 0..3 {
            plain = plain.min(timed(clock, || read_plainly(dir.path())));
            ours = ours.min(timed(clock, || {
                let mut reader = log.reader(0);
                let mut kinds = 0;
                while let Some(batch) = reader.try_next_batch().unwrap() {
                    kinds += batch.iter().map(|record| u64::from(record.kind())).sum::<u64>();
                }
                assert_eq!(kinds, log.durable_offset());
            }));
        }
        println!(
            "  {bytes:>4} B: {:>6.0} MB/s, {:.1} M records/s; plain read {:>6.0} MB/s; ratio {:.2}",
            total / ours / MB,
            log.durable_offset() as f64 / ours / 1e6,
            total / plain / MB,
            plain / ours
        );
    }
}

/// A message as devices send them: the same names over and over, readings that wander, a counter.
fn telemetry(n: u64, noise: &mut SmallRng) -> NewRecord {
    let device = noise.random_range(0..500);
    let payload = format!(
        "{{\"ts\":{},\"seq\":{n},\"temperature\":{:.2},\"humidity\":{:.1},\"voltage\":{:.3},\"status\":\"ok\",\
         \"firmware\":\"2.4.1\"}}",
        1_700_000_000_000 + n * 7,
        20.0 + noise.random_range(0.0..5.0),
        40.0 + noise.random_range(0.0..20.0),
        3.0 + noise.random_range(0.0..0.7),
    );
    let message = proto::Message { payload: payload.into(), ..Default::default() };
    let event = proto::Event { message: Some(message), ..Default::default() };
    NewRecord {
        timestamp_ms: 1_700_000_000_000 + i64::try_from(n).unwrap() * 7,
        kind: 1,
        topic: format!("fleet/{device}/telemetry").into(),
        body: prost::Message::encode_to_vec(&event).into(),
    }
}

fn read_records(log: &Log) -> u64 {
    let mut reader = log.reader(0);
    let mut records = 0;
    while let Some(batch) = reader.try_next_batch().unwrap() {
        records += batch.iter().map(|record| u64::from(record.kind())).sum::<u64>();
    }
    records
}

/// Bytes of all files that end so.
fn bytes_of(dir: &Path, ending: &str) -> u64 {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let files = files.filter(|file| file.path().extension().is_some_and(|found| found == ending));
    files.map(|file| file.metadata().unwrap().len()).sum()
}

fn packed(clock: &SharedClock) {
    const BYTES: u64 = 200_000_000;
    println!(
        "telemetry as JSON in events, {} MB: compressed, and read in order with all checksums checked",
        BYTES / 1_000_000
    );
    for (level, block_bytes) in [(1, 64), (3, 64), (3, 256), (9, 64)] {
        let dir = temp();
        let log = open(dir.path(), Durability::Os, clock);
        let mut noise = SmallRng::seed_from_u64(7);
        runtime().block_on(async {
            while log.stats().written_bytes_total < BYTES {
                for _ in 0..10_000 {
                    log.append(telemetry(log.next_offset(), &mut noise)).await.unwrap();
                }
                log.durable(log.next_offset() - 1).await.unwrap();
            }
            log.close().await.unwrap();
        });
        let compress = Compress { level, after: Duration::ZERO, block_bytes: block_bytes * 1024 };
        let config = LogConfig { compress: Some(compress), ..LogConfig::new(dir.path()) };
        // A log whose writer is gone is closed, and nothing of it is compressed.
        let (log, _writer, _) = Log::open_stepwise(config, RealDisk::shared(), clock.clone()).unwrap();
        let raw = (0..3).map(|_| timed(clock, || assert!(read_records(&log) > 0))).fold(f64::MAX, f64::min);
        let mut packer = log.packer().unwrap();
        let seconds = timed(clock, || while packer.step() {});
        let packed =
            (0..3).map(|_| timed(clock, || assert!(read_records(&log) > 0))).fold(f64::MAX, f64::min);
        let stats = log.stats();
        assert!(stats.segments_compressed > 0);
        let last = bytes_of(dir.path(), "seg");
        println!(
            "  level {level}, blocks of {block_bytes} KiB: ratio {:.1}; compressed at {:.0} MB/s; \
             read at {:.0} MB/s, {:.1} M records/s; not compressed {:.0} MB/s",
            (stats.raw_bytes - last) as f64 / (stats.bytes - last) as f64,
            (stats.raw_bytes - last) as f64 / seconds / MB,
            stats.raw_bytes as f64 / packed / MB,
            log.durable_offset() as f64 / packed / 1e6,
            stats.raw_bytes as f64 / raw / MB,
        );
    }
}

fn read_plainly(dir: &Path) {
    let mut buffer = vec![0; 256 * 1024];
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "seg") {
            let file = File::open(path).unwrap();
            let mut at = 0;
            loop {
                let read = file.read_at(&mut buffer, at).unwrap();
                if read == 0 {
                    break;
                }
                at += read as u64;
            }
        }
    }
}

fn open_time(clock: &SharedClock) {
    let megabytes = std::env::var("MUSTER_BENCH_OPEN_MB").map_or(2_000, |text| text.parse().unwrap());
    let dir = temp();
    let log = fill(dir.path(), &record(1024), megabytes * 1_000_000, clock);
    runtime().block_on(log.close()).unwrap();
    println!("opening a log of {megabytes} MB");
    report_open("after a clean stop", dir.path(), clock);
    grow_and_die(dir.path(), clock);
    report_open("after a kill", dir.path(), clock);
    // Now without an index, as when a loss of power took it.
    let newest = |ending: &str| {
        let files = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.to_string_lossy().ends_with(ending)).max().unwrap()
    };
    std::fs::remove_file(dir.path().join("CLEAN")).unwrap();
    std::fs::remove_file(newest(".index")).unwrap();
    report_open("after a kill that left no index", dir.path(), clock);
}

fn report_open(when: &str, dir: &Path, clock: &SharedClock) {
    let config = LogConfig::new(dir);
    let mut opened = None;
    let seconds = timed(clock, || {
        opened = Some(Log::open(config, RealDisk::shared(), clock.clone()).unwrap());
    });
    let (_log, report) = opened.unwrap();
    println!("  {when} {:.1} ms, {:.1} MB read", seconds * 1e3, report.scanned_bytes as f64 / MB);
}

/// Fills most of a segment in groups of 256, and ends as a killed process does.
fn grow_and_die(dir: &Path, clock: &SharedClock) {
    let config = LogConfig { segment_bytes_max: 128 * MIB, ..LogConfig::new(dir) };
    let (log, mut writer, _) = Log::open_stepwise(config, RealDisk::shared(), clock.clone()).unwrap();
    let record = record(1024);
    for n in 0..60_000 {
        log.try_append(&record).unwrap();
        if n % 256 == 255 {
            writer.step();
        }
    }
}

/// A line of `/proc/self/status` in bytes: `VmRSS` is what is in memory now, `VmHWM` the most since [`forget_peak`].
fn memory_bytes(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(':')).unwrap();
    value.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

fn readers(clock: &SharedClock) {
    const EVENTS: u64 = 300_000;
    let dir = temp();
    let config = LogConfig { durability: Durability::Os, ..LogConfig::new(dir.path()) };
    let journal = Journal::open(config, RealDisk::shared(), clock.clone()).unwrap().0;
    let message = proto::Message { payload: vec![b'x'; 500].into(), ..Default::default() };
    let body = proto::Event { message: Some(message), ..Default::default() };
    let event = NewEvent { timestamp_ms: 1, kind: EventKind::MessagePublish, topic: "fleet/7".into(), body };
    let runtime = runtime();
    forget_peak();
    let before = memory_bytes("VmRSS");
    let append = async {
        for _ in 0..EVENTS {
            journal.append(event.clone()).await.unwrap();
        }
    };
    let seconds = timed(clock, || {
        runtime.block_on(async {
            let tasks: Vec<_> = (0..64)
                .map(|_| {
                    let mut reader = journal.reader(0).with_kinds(EventKinds::ALL);
                    tokio::spawn(async move {
                        let mut events = 0;
                        while reader.position() < EVENTS {
                            events += reader.next_batch().await.unwrap().events().len() as u64;
                        }
                        assert_eq!(events, EVENTS);
                        reader
                    })
                })
                .collect();
            append.await;
            for task in tasks {
                task.await.unwrap();
            }
        });
    });
    let peak = memory_bytes("VmHWM").saturating_sub(before) as f64 / MB;
    let shared = SHARED_BYTES_MAX as f64 / MB;
    println!("64 readers at the tail of {EVENTS} events of 500 B, appended as fast as the log takes them");
    println!(
        "  {:.1} M events/s over all readers; at most {peak:.0} MB of memory, {:.0} MB beyond the {shared:.0} MB that \
         the readers share",
        EVENTS as f64 * 64.0 / seconds / 1e6,
        peak - shared,
    );
}
