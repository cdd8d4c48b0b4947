//! The index of the segment that grows: it bounds what an opening after a kill has to read, and whatever is wrong with
//! it, it is never believed against the segment.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use muster_core::clock::ManualClock;
use muster_core::log::{
    Durability, Log, LogConfig, LogErrorKind, NewRecord, OpenReport, RECORD_HEADER_BYTES, Writer,
};
use support::sim_disk::SimDisk;

const SEGMENT: &str = "00000000000000000000.seg";
const INDEX: &str = "00000000000000000000.index";
const RECORD_BYTES: u64 = RECORD_HEADER_BYTES as u64 + 200;
const INDEX_EVERY_BYTES: u64 = 20_000;
const POINT_BYTES: u64 = 3_000;

struct Fixture {
    disk: SimDisk,
    clock: Arc<ManualClock>,
    config: LogConfig,
}

impl Fixture {
    fn new(durability: Durability) -> Self {
        let config = LogConfig {
            durability,
            segment_bytes_max: 1024 * 1024,
            index_every_bytes: INDEX_EVERY_BYTES,
            index_point_bytes: POINT_BYTES,
            new_log_id: Some(7),
            ..LogConfig::new("/sim")
        };
        Self { disk: SimDisk::new(1), clock: ManualClock::at(0), config }
    }

    fn open(&self) -> (Log, Writer, OpenReport) {
        Log::open_stepwise(self.config.clone(), self.disk.shared(), self.clock.clone()).unwrap()
    }

    /// Appends up to `end`, so many records a group, and is killed.
    fn grow_and_die(&self, end: u64, group: u64) {
        let (log, mut writer, _) = self.open();
        while log.next_offset() < end {
            for _ in 0..group {
                log.try_append(&record(log.next_offset())).unwrap();
            }
            self.clock.advance(Duration::from_millis(1));
            while writer.step() {}
        }
        drop((log, writer));
        self.disk.kill();
    }

    /// Opens, and holds all records to what was appended; then the process dies again.
    fn check(&self, end: u64) -> OpenReport {
        let (log, writer, report) = self.open();
        assert_eq!((report.records, log.next_offset()), (end, end));
        assert_eq!(read(&log, 0).unwrap(), end);
        for from in (0..end).step_by(usize::try_from(end / 3).unwrap()) {
            assert_eq!(read(&log, from).unwrap(), end - from);
            assert_eq!(log.offset_at_time(time(from)).unwrap(), from / 10 * 10);
        }
        drop((log, writer));
        self.disk.kill();
        report
    }
}

fn time(offset: u64) -> i64 {
    i64::try_from(offset / 10).unwrap()
}

fn record(offset: u64) -> NewRecord {
    let body = format!("{offset:0200}").into();
    NewRecord { timestamp_ms: time(offset), kind: 1, topic: bytes::Bytes::new(), body }
}

/// How many records there are from `from` on; each is the one that was appended.
fn read(log: &Log, from: u64) -> Result<u64, muster_core::log::LogError> {
    let mut reader = log.reader(from);
    let mut next = from;
    while let Some(batch) = reader.try_next_batch()? {
        for seen in batch.iter() {
            assert_eq!((seen.offset(), seen.body()), (next, &*record(next).body));
            next += 1;
        }
    }
    Ok(next - from)
}

#[test]
fn what_an_opening_after_a_kill_reads_is_bounded() {
    let unsynced_bytes = 5 * 7 * RECORD_BYTES;
    for (durability, more) in
        [(Durability::Always, 0), (Durability::Interval(Duration::from_millis(5)), unsynced_bytes)]
    {
        let log = Fixture::new(durability);
        let most = INDEX_EVERY_BYTES + POINT_BYTES + 7 * RECORD_BYTES + more;
        let mut end = 0;
        for _ in 0..60 {
            end += 7 * 9;
            log.grow_and_die(end, 7);
            let report = log.check(end);
            assert!(!report.clean && report.torn_tail.is_none(), "{report:?}");
            assert!(report.scanned_bytes <= most, "{durability:?}: {report:?}, more than {most}");
        }
        assert!(log.disk.bytes(SEGMENT).len() as u64 > most * 10);
    }
}

#[test]
fn without_an_index_all_is_read_once_and_then_there_is_one() {
    let log = Fixture::new(Durability::Always);
    log.grow_and_die(1000, 10);
    log.disk.delete(INDEX);
    let all = log.disk.bytes(SEGMENT).len() as u64;
    assert_eq!(log.check(1000).scanned_bytes, all);
    assert!(log.check(1000).scanned_bytes <= POINT_BYTES + RECORD_BYTES);
}

#[test]
fn what_is_not_synced_is_in_no_index() {
    let log = Fixture::new(Durability::Os);
    log.grow_and_die(1000, 10);
    assert!(!log.disk.names().contains(&INDEX.to_owned()));
    log.check(1000);
    let log = Fixture::new(Durability::Interval(Duration::from_secs(3600)));
    log.grow_and_die(1000, 10);
    assert!(!log.disk.names().contains(&INDEX.to_owned()));
}

#[test]
fn damage_before_the_last_point_is_found_when_it_is_read() {
    let log = Fixture::new(Durability::Always);
    log.grow_and_die(1000, 10);
    let mut segment = log.disk.bytes(SEGMENT);
    segment[64 + 500 * RECORD_BYTES as usize + 100] ^= 1;
    log.disk.put(SEGMENT, &segment);
    let (opened, _writer, report) = log.open();
    assert_eq!(report.records, 1000);
    assert_eq!(read(&opened, 0).unwrap_err().kind(), LogErrorKind::Corrupt);
}

/// An index as it is on disk, with its checksums made right again.
struct Forged(Vec<u8>);

impl Forged {
    const HEADER_BYTES: usize = 80;

    fn last_point(&self) -> usize {
        self.0.len() - 24
    }

    fn add(&mut self, at: usize, more: u64) {
        let field: [u8; 8] = self.0[at..at + 8].try_into().unwrap();
        let sum = u64::from_le_bytes(field).wrapping_add(more);
        self.0[at..at + 8].copy_from_slice(&sum.to_le_bytes());
    }

    fn seal(mut self) -> Vec<u8> {
        let points = crc32c::crc32c(&self.0[Self::HEADER_BYTES..]).to_le_bytes();
        self.0[64..68].copy_from_slice(&points);
        let count = u32::try_from((self.0.len() - Self::HEADER_BYTES) / 24).unwrap();
        self.0[12..16].copy_from_slice(&count.to_le_bytes());
        let header = crc32c::crc32c(&self.0[..76]).to_le_bytes();
        self.0[76..80].copy_from_slice(&header);
        self.0
    }
}

#[test]
fn an_index_that_lies_is_not_believed() {
    let minus = |less: u64| less.wrapping_neg();
    type Lie = Box<dyn Fn(&mut Forged)>;
    let lies: [(&str, Lie); 9] = [
        ("the last point is another record's", Box::new(|it| it.add(it.last_point(), 1))),
        ("the last point is within a record", Box::new(|it| it.add(it.last_point() + 8, 1))),
        ("the last point is a record further", Box::new(|it| it.add(it.last_point() + 8, RECORD_BYTES))),
        ("it ends a record later", Box::new(|it| it.add(40, 1))),
        ("it ends a record earlier", Box::new(move |it| it.add(40, minus(1)))),
        ("it ends within a record", Box::new(|it| it.add(48, 1))),
        ("it ends behind the segment", Box::new(|it| it.add(48, 1 << 20))),
        ("it has a later time", Box::new(|it| it.add(56, 1))),
        ("it has no points", Box::new(|it| it.0.truncate(Forged::HEADER_BYTES))),
    ];
    for (what, lie) in lies {
        let log = Fixture::new(Durability::Always);
        log.grow_and_die(1000, 10);
        let all = log.disk.bytes(SEGMENT).len() as u64;
        let index = log.disk.bytes(INDEX);
        assert!(Forged(index.clone()).seal() == index, "the forger knows the format");
        let mut forged = Forged(index);
        lie(&mut forged);
        let forged = forged.seal();
        log.disk.put(INDEX, &forged);
        let report = log.check(1000);
        assert!(report.scanned_bytes >= all, "{what}: {report:?}");
        // It is gone for good, also if the power goes now.
        log.disk.crash();
        assert!(!log.disk.names().contains(&INDEX.to_owned()) || log.disk.bytes(INDEX) != forged, "{what}");
        log.grow_and_die(1100, 10);
        log.check(1100);
    }
}
