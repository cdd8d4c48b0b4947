//! Compressed segments: read as if they were not, replaced only by what is the same, damaged or half done without harm.
//! `UPDATE_EXPECT=1` writes the golden one anew, which is right only with a new format version: it is read for ever.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use muster_core::clock::{Clock as _, ManualClock, SystemClock};
use muster_core::log::{
    Compress, Disk, Follower, Log, LogConfig, LogError, LogErrorKind, NewRecord, Packer, RealDisk, Record,
    Retention, Writer, verify,
};
use proptest::prelude::*;
use support::now;
use support::sim_disk::{Faults, SimDisk};

const LOG_ID: u128 = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff;

fn config(dir: &Path) -> LogConfig {
    let compress = Compress { after: Duration::ZERO, block_bytes: 1000, ..Compress::default() };
    LogConfig {
        segment_bytes_max: 4096,
        new_log_id: Some(LOG_ID),
        tail_bytes_max: 0,
        compress: Some(compress),
        ..LogConfig::new(dir)
    }
}

fn record(n: u64) -> NewRecord {
    NewRecord {
        timestamp_ms: 1_700_000_000_000 + i64::try_from(n).unwrap() * 1000,
        kind: 9,
        topic: format!("sensors/{}/up", n % 7).into(),
        body: format!("{{\"n\":{n},\"temperature\":{},\"unit\":\"celsius\"}}", n % 40).into(),
    }
}

/// A log that is driven by hand.
struct Driven {
    log: Log,
    writer: Writer,
    packer: Option<Packer>,
}

fn open(disk: Arc<dyn Disk>, config: LogConfig) -> Result<Driven, LogError> {
    open_at(disk, config, ManualClock::at(1_700_000_000_000))
}

fn open_at(disk: Arc<dyn Disk>, config: LogConfig, clock: Arc<ManualClock>) -> Result<Driven, LogError> {
    let (log, writer, _) = Log::open_stepwise(config, disk, clock)?;
    let packer = log.packer();
    Ok(Driven { log, writer, packer })
}

impl Driven {
    fn append(&mut self, record: NewRecord) {
        now(self.log.append(record)).unwrap().unwrap();
        self.writer.step();
    }

    fn fill(&mut self, to: u64) {
        (self.log.next_offset()..to).for_each(|n| self.append(record(n)));
    }

    /// Compresses all that can be; how many segments are compressed then.
    fn compress(&mut self) -> usize {
        while self.packer.as_mut().unwrap().step() {}
        self.log.stats().segments_compressed
    }
}

fn read_from(log: &Log, from: u64) -> Result<Vec<Record>, LogError> {
    let mut reader = log.reader(from);
    let mut records = Vec::new();
    while let Some(batch) = reader.try_next_batch()? {
        records.extend(batch.iter().map(|record| record.to_record()));
    }
    Ok(records)
}

fn assert_holds(log: &Log, from: u64, to: u64) {
    let found = read_from(log, from).unwrap();
    assert_eq!(found.len() as u64, to - from);
    for (found, n) in found.into_iter().zip(from..) {
        assert_eq!(found, expected(record(n), n));
    }
}

fn expected(record: NewRecord, offset: u64) -> Record {
    let NewRecord { timestamp_ms, kind, topic, body } = record;
    Record { offset, timestamp_ms, kind, topic, body }
}

/// A compressed log on a simulated disk, closed in order.
fn compressed(to: u64) -> SimDisk {
    let disk = SimDisk::new(1);
    let mut driven = open(disk.shared(), config(Path::new("/sim"))).unwrap();
    driven.fill(to);
    assert_eq!(driven.compress() + 1, driven.log.stats().segments);
    driven.writer.finish();
    disk
}

fn names(disk: &SimDisk, ending: &str) -> Vec<String> {
    disk.names().into_iter().filter(|name| name.ends_with(ending)).collect()
}

#[test]
fn a_compressed_log_is_read_from_any_offset_and_any_time() {
    let disk = compressed(200);
    assert_eq!((names(&disk, ".seg").len(), names(&disk, ".index").len()), (1, 1));
    // Nobody wants to compress any more; what is compressed is read all the same.
    let config = LogConfig { compress: None, ..config(Path::new("/sim")) };
    let driven = open(disk.shared(), config).unwrap();
    let stats = driven.log.stats();
    assert!(stats.segments_compressed > 3 && stats.bytes * 2 < stats.raw_bytes, "{stats:?}");
    for from in 0..=200 {
        assert_holds(&driven.log, from, 200);
        let at = driven.log.offset_at_time(record(from).timestamp_ms).unwrap();
        assert_eq!(at, from);
    }
    assert!(driven.packer.is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_records_come_back(
        records in prop::collection::vec(
            (any::<i64>(), any::<u16>(), "[a-c/]{0,20}", prop::collection::vec(0..4_u8, 0..600)),
            1..120,
        ),
        block_bytes in 256..6000_usize,
        level in 1..5_i32,
        from: prop::sample::Index,
    ) {
        let compress = Compress { level, after: Duration::ZERO, block_bytes };
        let config = LogConfig { compress: Some(compress), ..config(Path::new("/sim")) };
        let disk = SimDisk::new(3);
        let mut driven = open(disk.shared(), config).unwrap();
        let records: Vec<_> = records
            .into_iter()
            .map(|(timestamp_ms, kind, topic, body)| {
                NewRecord { timestamp_ms, kind, topic: topic.into(), body: body.into() }
            })
            .collect();
        records.iter().cloned().for_each(|record| driven.append(record));
        driven.compress();
        let end = records.len() as u64;
        let from = from.index(records.len() + 1);
        let wanted: Vec<_> = records.iter().cloned().zip(0..).map(|(record, n)| expected(record, n)).collect();
        prop_assert_eq!(&read_from(&driven.log, from as u64).unwrap()[..], &wanted[from..]);
        let ms = records[from.min(records.len() - 1)].timestamp_ms;
        let first = records.iter().position(|record| record.timestamp_ms >= ms).map_or(end, |at| at as u64);
        prop_assert_eq!(driven.log.offset_at_time(ms).unwrap(), first);
    }
}

#[test]
fn who_has_a_segment_open_reads_on_while_it_is_replaced_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut driven = open(RealDisk::shared(), config(dir.path())).unwrap();
    driven.fill(100);
    let mut reader = driven.log.reader(1);
    let first = reader.try_next_batch().unwrap().unwrap();
    let (follower, _) = Follower::open(dir.path(), RealDisk::shared(), SystemClock::shared()).unwrap();
    assert!(driven.compress() > 1);
    let mut next = first.next_offset();
    while let Some(batch) = reader.try_next_batch().unwrap() {
        assert_eq!(batch.first_offset(), next);
        next = batch.next_offset();
    }
    assert_eq!(next, 100);

    // From outside, by somebody who does not know yet, and who then comes to know of even more.
    assert_holds(follower.log(), 0, 100);
    driven.fill(300);
    driven.compress();
    assert!(follower.refresh().unwrap());
    assert_holds(follower.log(), 0, 300);

    let retention = Retention { bytes_max: Some(6000), ..Retention::default() };
    driven.log.set_retention(retention).unwrap();
    driven.writer.step();
    let first = driven.log.first_offset();
    assert!(first > 0 && driven.log.stats().segments_compressed > 0);
    assert_holds(&driven.log, first, 300);
    assert_eq!(read_from(&driven.log, 0).unwrap_err().kind(), LogErrorKind::Trimmed);
    follower.refresh().unwrap();
    assert_holds(follower.log(), first, 300);
}

#[test]
fn a_segment_is_compressed_once_it_was_sealed_long_enough_ago() {
    let clock = ManualClock::at(1_000_000);
    let disk = SimDisk::new(1);
    let mut config = config(Path::new("/sim"));
    config.compress = config.compress.map(|it| Compress { after: Duration::from_secs(60), ..it });
    let mut driven = open_at(disk.shared(), config, clock.clone()).unwrap();
    driven.fill(100);
    assert_eq!(driven.compress(), 0);
    clock.advance(Duration::from_secs(59));
    assert_eq!(driven.compress(), 0);
    clock.advance(Duration::from_secs(1));
    assert!(clock.wall_ms() >= 1_060_000 && driven.compress() > 0);
}

#[test]
fn what_compresses_badly_and_what_is_damaged_stays_as_it_is() {
    let disk = SimDisk::new(1);
    let mut driven = open(disk.shared(), config(Path::new("/sim"))).unwrap();
    let mut noise: u64 = 1;
    for n in 0..40 {
        let body = (0..400).map(|_| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (noise >> 56) as u8
        });
        driven.append(NewRecord { body: body.collect(), ..record(n) });
    }
    driven.fill(150);
    let damaged = names(&disk, ".seg").remove(6);
    let mut bytes = disk.bytes(&damaged);
    bytes[2000] ^= 1;
    disk.put(&damaged, &bytes);
    let compressed = driven.compress();
    let raw = names(&disk, ".seg");
    assert!(compressed > 0 && raw.len() > 4 && raw.contains(&damaged), "{raw:?}");
    assert_eq!(names(&disk, ".zst").len(), compressed);
    assert!(names(&disk, ".tmp").is_empty());
    assert!(!driven.packer.as_mut().unwrap().step(), "and that is not tried over and over");
}

#[test]
fn a_full_disk_is_left_alone_for_a_while_and_a_failed_one_for_good() {
    let clock = ManualClock::at(0);
    let disk = SimDisk::new(1);
    let mut driven = open_at(disk.shared(), config(Path::new("/sim")), clock.clone()).unwrap();
    driven.fill(200);
    disk.set_capacity(Some(disk.used() + 300));
    assert_eq!(driven.compress(), 0);
    assert!(names(&disk, ".tmp").is_empty(), "what was begun takes no room");
    disk.set_capacity(None);
    assert_eq!(driven.compress(), 0, "not yet again");
    clock.advance(Duration::from_secs(60));
    disk.set_faults(Faults { sync_in: Some(1), ..Faults::default() });
    assert_eq!(driven.compress(), 1, "the second sync fails");
    disk.set_faults(Faults::default());
    clock.advance(Duration::from_secs(600));
    assert_eq!(driven.compress(), 1, "the disk is not trusted any more");
    driven.fill(210);
    assert!(driven.log.stats().refuses.is_none());
    assert_holds(&driven.log, 0, 210);
}

#[test]
fn at_the_cap_compressing_makes_room() {
    let disk = SimDisk::new(1);
    let mut driven = open(disk.shared(), config(Path::new("/sim"))).unwrap();
    let retention = Retention { cap_bytes: Some(16_000), ..Retention::default() };
    driven.log.set_retention(retention).unwrap();
    let _hold = driven.log.hold("slow", 0);
    while driven.log.check().is_ok() {
        let next = driven.log.next_offset();
        driven.append(record(next));
    }
    assert_eq!(driven.log.check().unwrap_err().kind(), LogErrorKind::DiskFull);
    assert!(driven.compress() > 0);
    driven.writer.step();
    driven.log.check().expect("there is room again");
    assert_eq!(driven.log.first_offset(), 0);
}

#[tokio::test]
async fn a_running_log_compresses_by_itself_and_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(config(dir.path()), RealDisk::shared(), SystemClock::shared()).unwrap();
    for n in 0..200 {
        log.append(record(n)).await.unwrap();
    }
    log.durable(199).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), async {
        while log.stats().segments_compressed + 1 < log.stats().segments {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("all but the newest are compressed");
    assert_holds(&log, 0, 200);
    log.close().await.unwrap();
    let (log, report) = Log::open(config(dir.path()), RealDisk::shared(), SystemClock::shared()).unwrap();
    assert!(report.clean && report.segments_compressed + 1 == report.segments, "{report:?}");
    assert_holds(&log, 0, 200);
}

/// A segment in both forms, as a crash leaves it, after `change` of either: which of them is there after the start.
fn both(change: impl Fn(&mut Vec<u8>, &mut Vec<u8>)) -> Result<(bool, bool), LogError> {
    let disk = SimDisk::new(1);
    let mut driven = open(disk.shared(), config(Path::new("/sim"))).unwrap();
    driven.fill(100);
    let name = names(&disk, ".seg").remove(1);
    let mut raw = disk.bytes(&name);
    driven.compress();
    drop(driven);
    disk.kill();
    let packed_name = name.replace(".seg", ".zst");
    let mut packed = disk.bytes(&packed_name);
    change(&mut raw, &mut packed);
    disk.put(&name, &raw);
    disk.put(&packed_name, &packed);
    let before = disk.names();
    match open(disk.shared(), LogConfig { compress: None, ..config(Path::new("/sim")) }) {
        Ok(driven) => {
            assert_holds(&driven.log, 0, 100);
            Ok((disk.names().contains(&name), disk.names().contains(&packed_name)))
        }
        Err(error) => {
            disk.kill();
            assert_eq!(disk.names(), before, "a log that is refused is left as it is");
            Err(error)
        }
    }
}

#[test]
fn of_both_forms_the_start_keeps_the_one_that_is_whole() {
    assert_eq!(both(|_, _| ()).unwrap(), (false, true));
    assert_eq!(both(|raw, _| raw[500] ^= 1).unwrap(), (false, true));
    assert_eq!(both(|_, packed| packed[500] ^= 1).unwrap(), (true, false));
    assert_eq!(both(|_, packed| packed.clear()).unwrap(), (true, false));
    assert_eq!(both(|_, packed| packed[8] = 9).unwrap(), (true, false));
    let neither = both(|raw, packed| (raw[500], packed[500]) = (raw[500] ^ 1, packed[500] ^ 1));
    assert_eq!(neither.unwrap_err().kind(), LogErrorKind::Corrupt);
}

#[test]
fn any_flipped_bit_of_a_compressed_segment_is_seen() {
    let disk = compressed(80);
    let name = names(&disk, ".zst").remove(0);
    let whole = disk.bytes(&name);
    for byte in 0..whole.len() {
        let mut bad = whole.clone();
        bad[byte] ^= 1 << (byte % 8);
        disk.put(&name, &bad);
        let read = open(disk.shared(), config(Path::new("/sim"))).and_then(|it| read_from(&it.log, 0));
        disk.kill();
        let kind = read.map(|records| records.len()).unwrap_err().kind();
        assert!(matches!(kind, LogErrorKind::Corrupt | LogErrorKind::NewerVersion), "byte {byte}: {kind:?}");
        match verify(&disk, Path::new("/sim"), &mut |_| ()) {
            Ok(report) => assert!(!report.damages.is_empty(), "byte {byte}"),
            Err(error) => assert_eq!(error.kind(), LogErrorKind::NewerVersion, "byte {byte}"),
        }
        disk.put(&name, &whole);
        let restored = open(disk.shared(), config(Path::new("/sim"))).unwrap();
        assert_eq!(restored.log.next_offset(), 80);
        drop(restored);
        disk.kill();
    }
}

const GOLDEN: [&str; 3] =
    ["00000000000000000000.zst", "00000000000000000047.zst", "00000000000000000094.seg"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1-zstd")
}

#[test]
fn version_1_is_read() {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let dir = tempfile::tempdir().unwrap();
        let mut driven = open(RealDisk::shared(), config(dir.path())).unwrap();
        driven.fill(100);
        driven.compress();
        driven.writer.finish();
        std::fs::create_dir_all(golden()).unwrap();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".zst") || name.ends_with(".seg") {
                std::fs::copy(dir.path().join(&name), golden().join(name)).unwrap();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    for name in GOLDEN {
        std::fs::copy(golden().join(name), dir.path().join(name)).unwrap();
    }
    let (log, report) =
        Log::open(LogConfig::new(dir.path()), RealDisk::shared(), SystemClock::shared()).unwrap();
    assert_eq!((log.id(), report.records, report.segments_compressed), (LOG_ID, 100, 2));
    for from in [0, 1, 30, 46, 47, 70, 99] {
        assert_holds(&log, from, 100);
    }
    assert_eq!(log.offset_at_time(record(50).timestamp_ms).unwrap(), 50);
}
