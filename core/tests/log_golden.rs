//! The format is frozen: a log that version 1 wrote is committed, is read for ever, and is what is written today, byte
//! for byte. `UPDATE_EXPECT=1` writes it anew, which is right only before a release or with a new format version.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod support;

use std::path::{Path, PathBuf};

use muster_core::clock::{ManualClock, SystemClock};
use muster_core::log::{Log, LogConfig, NewRecord, RealDisk, Record};
use support::now;

const LOG_ID: u128 = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff;
const FILES: [&str; 5] = [
    "00000000000000000000.index",
    "00000000000000000000.seg",
    "00000000000000000043.index",
    "00000000000000000043.seg",
    "CLEAN",
];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

fn config(dir: &Path) -> LogConfig {
    LogConfig { segment_bytes_max: 4096, new_log_id: Some(LOG_ID), ..LogConfig::new(dir) }
}

fn records() -> impl Iterator<Item = NewRecord> {
    (0..50_u16).map(|n| NewRecord {
        timestamp_ms: 1_700_000_000_000 + i64::from(n) * 1000,
        kind: n % 12,
        topic: format!("sensors/{}/up", n % 7).into(),
        body: (0..usize::from(n) * 2 + 7).map(|at| (at % 251) as u8).collect(),
    })
}

fn write(dir: &Path) {
    let clock = ManualClock::at(1_700_000_000_000);
    let (log, mut writer, _) = Log::open_stepwise(config(dir), RealDisk::shared(), clock).unwrap();
    for (n, record) in records().enumerate() {
        now(log.append(record)).unwrap().unwrap();
        // Groups of three.
        if n % 3 == 2 {
            writer.step();
        }
    }
    writer.finish();
}

#[test]
fn version_1_is_written_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    for name in FILES {
        let written = std::fs::read(dir.path().join(name)).unwrap();
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(golden().join(name), &written).unwrap();
        }
        assert!(
            std::fs::read(golden().join(name)).unwrap() == written,
            "{name} differs from the golden file"
        );
    }
}

#[test]
fn version_1_is_read() {
    for with_indexes in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        for name in FILES.iter().filter(|name| with_indexes || name.ends_with(".seg")) {
            std::fs::copy(golden().join(name), dir.path().join(name)).unwrap();
        }
        let (log, report) =
            Log::open(LogConfig::new(dir.path()), RealDisk::shared(), SystemClock::shared()).unwrap();
        assert_eq!((log.id(), report.records, report.clean), (LOG_ID, 50, with_indexes));
        let mut reader = log.reader(0);
        let mut found = Vec::new();
        while let Some(batch) = reader.try_next_batch().unwrap() {
            found.extend(batch.iter().map(|record| record.to_record()));
        }
        let expected = records().zip(0..).map(|(record, offset)| {
            let NewRecord { timestamp_ms, kind, topic, body } = record;
            Record { offset, timestamp_ms, kind, topic, body }
        });
        assert_eq!(found, expected.collect::<Vec<_>>());
    }
}
