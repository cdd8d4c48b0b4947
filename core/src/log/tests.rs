//! The log over a real directory, in a process of its own threads; what disks can do to it is in `tests/`.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::clock::SystemClock;

fn config(dir: &Path) -> LogConfig {
    LogConfig { segment_bytes_max: 4096, ..LogConfig::new(dir) }
}

fn open(dir: &Path) -> (Log, OpenReport) {
    Log::open(config(dir), RealDisk::shared(), SystemClock::shared()).unwrap()
}

fn open_error(dir: &Path) -> LogError {
    Log::open(config(dir), RealDisk::shared(), SystemClock::shared()).unwrap_err()
}

fn record(n: u64) -> NewRecord {
    let body = n.to_string().repeat(20).into();
    NewRecord { timestamp_ms: i64::try_from(n).unwrap() * 10, kind: 1, topic: "a/b".into(), body }
}

async fn fill(log: &Log, from: u64, to: u64) {
    for n in from..to {
        assert_eq!(log.append(record(n)).await.unwrap(), n);
    }
    log.durable(to - 1).await.unwrap();
}

fn read_from(log: &Log, from: u64) -> Vec<Record> {
    let mut reader = log.reader(from);
    let mut records = Vec::new();
    while let Some(batch) = reader.try_next_batch().unwrap() {
        records.extend(batch.iter().map(|record| record.to_record()));
    }
    records
}

fn assert_holds(log: &Log, from: u64, to: u64) {
    let found = read_from(log, from);
    assert_eq!(found.len() as u64, to - from);
    for (found, n) in found.iter().zip(from..) {
        let NewRecord { timestamp_ms, kind, topic, body } = record(n);
        assert_eq!(*found, Record { offset: n, timestamp_ms, kind, topic, body });
    }
}

fn files(dir: &Path, ending: &str) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.to_string_lossy().ends_with(ending));
    files.sort();
    files
}

/// Closes in order, then removes the mark of it: what a killed process leaves.
async fn stop_unclean(log: Log) {
    let marker = log.dir().join("CLEAN");
    log.close().await.unwrap();
    std::fs::remove_file(marker).unwrap();
}

#[tokio::test]
async fn records_come_back_after_a_clean_stop_over_many_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (log, report) = open(dir.path());
    assert!(report.created);
    let id = log.id();
    fill(&log, 0, 500).await;
    assert_holds(&log, 0, 500);
    assert_holds(&log, 123, 500);
    log.close().await.unwrap();
    assert!(files(dir.path(), ".seg").len() > 5);

    let (log, report) = open(dir.path());
    assert!(report.clean && report.torn_tail.is_none() && report.records == 500, "{report:?}");
    assert_eq!((log.id(), log.next_offset()), (id, 500));
    for from in [0, 1, 77, 499, 500] {
        assert_holds(&log, from, 500);
    }
    fill(&log, 500, 510).await;
    assert_holds(&log, 490, 510);
}

#[tokio::test]
async fn records_come_back_after_a_kill_and_missing_indexes_are_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    fill(&log, 0, 500).await;
    stop_unclean(log).await;
    let indexes = files(dir.path(), ".index");
    std::fs::remove_file(&indexes[0]).unwrap();
    std::fs::write(&indexes[1], "not an index").unwrap();
    let (log, report) = open(dir.path());
    assert!(!report.clean && report.torn_tail.is_none(), "{report:?}");
    assert_eq!((report.records, report.indexes_rebuilt), (500, 2));
    assert_holds(&log, 0, 500);
}

#[tokio::test]
async fn a_torn_tail_is_cut_at_any_byte_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    fill(&log, 0, 3).await;
    stop_unclean(log).await;
    let segment = files(dir.path(), ".seg").remove(0);
    let whole = std::fs::read(&segment).unwrap();
    let last = RECORD_HEADER_BYTES + 3 + 20;
    for cut in 1..last {
        std::fs::write(&segment, &whole[..whole.len() - cut]).unwrap();
        let (log, report) = open(dir.path());
        let torn = report.torn_tail.unwrap();
        assert_eq!((torn.offset, torn.bytes), (2, (last - cut) as u64));
        assert_holds(&log, 0, 2);
        fill(&log, 2, 3).await;
        assert_holds(&log, 0, 3);
        stop_unclean(log).await;
    }
}

#[tokio::test]
async fn damage_before_the_tail_refuses_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    fill(&log, 0, 4).await;
    fill(&log, 4, 5).await;
    stop_unclean(log).await;
    let segment = files(dir.path(), ".seg").remove(0);
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[SEGMENT_HEADER_BYTES + 40] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let error = open_error(dir.path());
    let LogError::Corrupt { offset, byte, .. } = &error else { panic!("{error}") };
    assert_eq!((*offset, *byte), (0, SEGMENT_HEADER_BYTES as u64));
    assert!(error.to_string().contains("muster log repair"), "{error}");
    assert_eq!(std::fs::read(&segment).unwrap(), bytes);
}

#[tokio::test]
async fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    assert_eq!(open_error(dir.path()).kind(), LogErrorKind::Locked);
    drop(log);
    open(dir.path());
}

#[tokio::test]
async fn offsets_are_found_by_time_in_memory_and_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    fill(&log, 0, 500).await;
    let check = |log: &Log| {
        for (ms, offset) in [(-1, 0), (0, 0), (1, 1), (10, 1), (2345, 235), (4990, 499), (4991, 500)] {
            assert_eq!(log.offset_at_time(ms).unwrap(), offset, "{ms}");
        }
    };
    check(&log);
    log.close().await.unwrap();
    check(&open(dir.path()).0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_appenders_share_syncs_and_each_finds_its_record() {
    const APPENDERS: u64 = 64;
    const EACH: u64 = 50;
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let appenders = (0..APPENDERS).map(|n| {
        let log = log.clone();
        tokio::spawn(async move {
            let mut offsets = Vec::new();
            for _ in 0..EACH {
                let offset = log.append(record(n)).await.unwrap();
                log.durable(offset).await.unwrap();
                assert!(log.durable_offset() > offset);
                offsets.push(offset);
            }
            (n, offsets)
        })
    });
    let appenders: Vec<_> = appenders.collect();
    let found = |offset| read_from(&log, offset).remove(0);
    let mut all = Vec::new();
    for appender in appenders {
        let (n, offsets) = appender.await.unwrap();
        assert!(offsets.is_sorted());
        assert_eq!(found(offsets[0]).body, record(n).body);
        all.extend(offsets);
    }
    all.sort_unstable();
    assert_eq!(all, (0..APPENDERS * EACH).collect::<Vec<_>>());
    assert!(log.stats().syncs_total < APPENDERS * EACH / 2, "{:?}", log.stats());
}

#[tokio::test]
async fn the_queue_holds_back_who_would_overfill_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig { record_bytes_max: 1000, queue_bytes_max: 1000, ..config(dir.path()) };
    let clock = SystemClock::shared();
    let (log, mut writer, _) = Log::open_stepwise(config, RealDisk::shared(), clock).unwrap();
    let large = NewRecord { body: vec![7; 900].into(), ..NewRecord::default() };
    log.append(large.clone()).await.unwrap();
    assert_eq!(log.try_append(&large).unwrap_err().kind(), LogErrorKind::QueueFull);
    let waits = tokio::spawn({
        let log = log.clone();
        async move { log.append(large).await }
    });
    tokio::task::yield_now().await;
    assert!(!waits.is_finished() && log.next_offset() == 1);
    assert!(writer.step());
    assert_eq!(waits.await.unwrap().unwrap(), 1);
    let huge = NewRecord { body: vec![7; 1000].into(), ..NewRecord::default() };
    assert_eq!(log.append(huge).await.unwrap_err().kind(), LogErrorKind::TooLarge);
    drop(writer);
}

#[tokio::test]
async fn weaker_durability_resolves_once_written_and_survives_the_process() {
    for durability in [Durability::Interval(std::time::Duration::from_millis(1)), Durability::Os] {
        let dir = tempfile::tempdir().unwrap();
        let config = LogConfig { durability, ..config(dir.path()) };
        let (log, _) = Log::open(config, RealDisk::shared(), SystemClock::shared()).unwrap();
        fill(&log, 0, 200).await;
        stop_unclean(log).await;
        assert_holds(&open(dir.path()).0, 0, 200);
    }
}

#[tokio::test]
async fn a_closed_log_takes_nothing_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    fill(&log, 0, 1).await;
    let other = log.clone();
    log.close().await.unwrap();
    assert_eq!(other.append(record(1)).await.unwrap_err().kind(), LogErrorKind::Closed);
    assert_eq!(other.durable(5).await.unwrap_err().kind(), LogErrorKind::Closed);
    other.durable(0).await.unwrap();
    assert_holds(&other, 0, 1);
}

#[tokio::test]
async fn all_who_wait_are_told_when_the_writer_dies() {
    let dir = tempfile::tempdir().unwrap();
    let (log, writer, _) =
        Log::open_stepwise(config(dir.path()), RealDisk::shared(), SystemClock::shared()).unwrap();
    let offset = log.append(record(0)).await.unwrap();
    let log = Arc::new(log);
    let waits = tokio::spawn({
        let log = log.clone();
        async move { log.durable(offset).await }
    });
    tokio::task::yield_now().await;
    drop(writer);
    assert_eq!(waits.await.unwrap().unwrap_err().kind(), LogErrorKind::Closed);
}

#[tokio::test]
async fn a_log_can_be_followed_while_another_process_writes_it() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    fill(&log, 0, 10).await;
    let (follower, _) = Follower::open(dir.path(), RealDisk::shared(), SystemClock::shared()).unwrap();
    assert_holds(follower.log(), 0, 10);
    assert!(!follower.refresh().unwrap());
    fill(&log, 10, 300).await;
    assert_holds(follower.log(), 5, 10);
    assert!(follower.refresh().unwrap());
    assert_holds(follower.log(), 5, 300);
    assert_eq!(follower.log().append(record(0)).await.unwrap_err().kind(), LogErrorKind::Closed);

    log.set_retention(Retention { bytes_max: Some(5000), ..Retention::default() }).unwrap();
    fill(&log, 300, 400).await;
    assert!(log.first_offset() > 100);
    follower.refresh().unwrap();
    assert_eq!(follower.log().first_offset(), log.first_offset());
    assert_holds(follower.log(), log.first_offset(), 400);
    drop(follower);
    log.close().await.unwrap();
    assert!(open(dir.path()).1.clean, "whoever looks changes nothing");
}

#[tokio::test]
async fn who_follows_a_torn_log_sees_what_is_whole_and_leaves_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    fill(&log, 0, 3).await;
    stop_unclean(log).await;
    let segment = files(dir.path(), ".seg").remove(0);
    let whole = std::fs::read(&segment).unwrap();
    std::fs::write(&segment, &whole[..whole.len() - 5]).unwrap();
    let (follower, _) = Follower::open(dir.path(), RealDisk::shared(), SystemClock::shared()).unwrap();
    assert_holds(follower.log(), 0, 2);
    assert_eq!(std::fs::read(&segment).unwrap().len(), whole.len() - 5);
    std::fs::write(&segment, &whole).unwrap();
    assert!(follower.refresh().unwrap());
    assert_holds(follower.log(), 0, 3);
}

#[tokio::test]
async fn at_the_cap_goes_what_nobody_needs_and_stays_what_somebody_needs() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let cap_bytes = 3 * 4096;
    log.set_retention(Retention { cap_bytes: Some(cap_bytes), ..Retention::default() }).unwrap();
    for n in 0..300 {
        fill(&log, n, n + 1).await;
    }
    let first = log.first_offset();
    assert!(first > 0 && log.stats().bytes <= cap_bytes, "{:?}", log.stats());

    let hold = log.hold("slow", first);
    let mut n = 300;
    let refused = loop {
        let appended = log.append(record(n)).await.unwrap();
        match log.durable(appended).await {
            Ok(()) => n += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), LogErrorKind::DiskFull);
    assert_eq!(log.first_offset(), first);
    hold.advance(log.durable_offset());
    log.writable().await.unwrap();
    log.durable(n).await.unwrap();
    assert!(log.first_offset() > first);
}

#[tokio::test]
async fn those_who_wait_for_the_disk_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig { gather: config::GATHER_MAX, ..LogConfig::new(dir.path()) };
    let (log, _) = Log::open(config, RealDisk::shared(), SystemClock::shared()).unwrap();
    let log = Arc::new(log);
    let appenders: Vec<_> = (0..8)
        .map(|_| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                for n in 0..25 {
                    let offset = log.append(record(n)).await.unwrap();
                    log.durable(offset).await.unwrap();
                }
            })
        })
        .collect();
    for appender in appenders {
        appender.await.unwrap();
    }
    let stats = log.stats();
    // The disk alone would make of 200 records some 130 groups; eight to a group are 25.
    assert!(stats.records_total == 200 && stats.groups_total < 60, "{stats:?}");
    assert_eq!(stats.syncs_total, stats.groups_total);
}
