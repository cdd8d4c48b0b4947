//! Logs that are not as they were written: each gets one clear sentence, nothing is destroyed, `verify` says what is
//! wrong, and `repair` saves all that is good.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use expect_test::{Expect, expect};
use muster_core::clock::{ManualClock, SystemClock};
use muster_core::log::{
    LOST_KIND, Log, LogConfig, LogError, LogErrorKind, NewRecord, OpenReport, RealDisk, repair, verify,
};
use support::now;

const RECORDS: u64 = 100;
const FIRST: &str = "00000000000000000000.seg";
const SECOND: &str = "00000000000000000038.seg";
const LAST: &str = "00000000000000000076.seg";

fn config(dir: &Path, id: u128) -> LogConfig {
    LogConfig { segment_bytes_max: 4096, new_log_id: Some(id), ..LogConfig::new(dir) }
}

fn open(dir: &Path) -> Result<(Log, OpenReport), LogError> {
    Log::open(config(dir, 1), RealDisk::shared(), SystemClock::shared())
}

fn record(n: u64) -> NewRecord {
    NewRecord { timestamp_ms: 5, kind: 9, topic: "t".into(), body: format!("{n:073}").into() }
}

/// A log of three segments; one that was killed, unless `clean`.
fn build(dir: &Path, id: u128, clean: bool) {
    let (log, mut writer, _) =
        Log::open_stepwise(config(dir, id), RealDisk::shared(), ManualClock::at(1)).unwrap();
    for n in 0..RECORDS {
        now(log.append(record(n))).unwrap().unwrap();
        writer.step();
    }
    if clean {
        writer.finish();
    }
}

type Files = BTreeMap<String, Vec<u8>>;

fn files(dir: &Path) -> Files {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect()
}

fn put(dir: &Path, files: &Files) {
    for name in self::files(dir).keys() {
        std::fs::remove_file(dir.join(name)).unwrap();
    }
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}

fn without_dir(text: &str, dir: &Path) -> String {
    text.replace(dir.to_str().unwrap(), "DIR")
}

/// Damages a log, and holds what opening, verifying and repairing say to `expected`.
fn check(clean: bool, damage: impl Fn(&mut Files), expected: Expect) {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), 1, clean);
    let mut damaged = files(dir.path());
    damage(&mut damaged);
    put(dir.path(), &damaged);
    let mut said = match open(dir.path()) {
        Err(error) => {
            assert!(!error.to_string().contains('\n'), "one sentence");
            let after = files(dir.path());
            assert_eq!(after, damaged, "a log that is refused is left as it is");
            format!("open: {:?}: {error}\n", error.kind())
        }
        Ok((log, report)) => {
            let read = read(&log);
            match read {
                Ok(records) => format!("open: {} records, {:?}\n", records.len(), report.torn_tail),
                Err(error) => format!("read: {:?}: {error}\n", error.kind()),
            }
        }
    };
    put(dir.path(), &damaged);
    match verify(&RealDisk, dir.path(), &mut |_| ()) {
        Err(error) => said += &format!("verify: {error}\n"),
        Ok(report) => {
            said += &format!("verify: {} records\n", report.records);
            for damage in report.damages {
                said += &format!(
                    "  {} byte {}+{}: offset {}..{}: {}\n",
                    damage.segment.file_name().unwrap().to_str().unwrap(),
                    damage.byte,
                    damage.bytes,
                    damage.offset,
                    damage.next_offset.map_or(String::from("?"), |next| next.to_string()),
                    damage.what
                );
            }
        }
    }
    let to = tempfile::tempdir().unwrap();
    match repair(&RealDisk, &*ManualClock::at(2), dir.path(), to.path(), &mut |_| ()) {
        Err(error) => said += &format!("repair: {error}\n"),
        Ok(report) => {
            said += &format!("repair: {} records, {} fillers\n", report.found.records, report.fillers);
            assert_eq!(files(dir.path()), damaged, "repair leaves the damaged log as it is");
            let (log, _) = open(to.path()).unwrap();
            let good = read(&log).unwrap().into_iter().filter(|(_, record)| record.kind != LOST_KIND);
            let good: Vec<_> = good.collect();
            assert_eq!(good.len() as u64, report.found.records);
            assert!(good.iter().all(|(offset, found)| *found == record(*offset)));
        }
    }
    expected.assert_eq(&without_dir(&said, dir.path()));
}

fn read(log: &Log) -> Result<Vec<(u64, NewRecord)>, LogError> {
    let mut reader = log.reader(log.first_offset());
    let mut records = Vec::new();
    while let Some(batch) = reader.try_next_batch()? {
        for record in batch.iter().map(|record| record.to_record()) {
            let muster_core::log::Record { offset, timestamp_ms, kind, topic, body } = record;
            assert_eq!(offset, log.first_offset() + records.len() as u64);
            records.push((offset, NewRecord { timestamp_ms, kind, topic, body }));
        }
    }
    Ok(records)
}

fn file<'a>(files: &'a mut Files, name: &str) -> &'a mut Vec<u8> {
    files.get_mut(name).unwrap()
}

#[test]
fn a_flipped_bit_in_a_sealed_segment() {
    check(
        false,
        |files| file(files, FIRST)[64 + 106 * 5 + 50] ^= 4,
        expect![[r#"
        read: Corrupt: the log is damaged: DIR/00000000000000000000.seg at byte 594 (offset 5): the checksum of a record is wrong; nothing was changed; `muster log repair` copies what is good to a new log
        verify: 99 records
          00000000000000000000.seg byte 594+106: offset 5..6: the checksum of a record is wrong
        repair: 99 records, 1 fillers
    "#]],
    );
}

#[test]
fn a_flipped_bit_in_the_last_segment_that_a_later_group_proves() {
    check(
        false,
        |files| file(files, LAST)[64 + 106 * 5 + 5] ^= 4,
        expect![[r#"
        open: Corrupt: the log is damaged: DIR/00000000000000000076.seg at byte 594 (offset 81): the checksum of a record is wrong; nothing was changed; `muster log repair` copies what is good to a new log
        verify: 99 records
          00000000000000000076.seg byte 594+106: offset 81..82: the checksum of a record is wrong
        repair: 99 records, 1 fillers
    "#]],
    );
}

#[test]
fn a_flipped_bit_after_a_clean_stop() {
    check(
        true,
        |files| file(files, LAST)[64 + 106 * 5 + 50] ^= 4,
        expect![[r#"
        read: Corrupt: the log is damaged: DIR/00000000000000000076.seg at byte 594 (offset 81): the checksum of a record is wrong; nothing was changed; `muster log repair` copies what is good to a new log
        verify: 99 records
          00000000000000000076.seg byte 594+106: offset 81..82: the checksum of a record is wrong
        repair: 99 records, 1 fillers
    "#]],
    );
}

#[test]
fn a_truncated_segment() {
    check(
        false,
        |files| file(files, SECOND).truncate(1000),
        expect![[r#"
            open: Corrupt: the log is damaged: DIR/00000000000000000038.seg at byte 912 (offset 46): the file ends within a record; nothing was changed; `muster log repair` copies what is good to a new log
            verify: 70 records
              00000000000000000038.seg byte 912+88: offset 46..76: the file ends within a record
            repair: 70 records, 30 fillers
        "#]],
    );
}

#[test]
fn a_truncated_last_segment_is_a_torn_tail_after_a_kill() {
    check(
        false,
        |files| file(files, LAST).truncate(1000),
        expect![[r#"
        open: 84 records, Some(TornTail { segment: "DIR/00000000000000000076.seg", offset: 84, byte: 912, bytes: 88, what: "the file ends within a record" })
        verify: 84 records
          00000000000000000076.seg byte 912+88: offset 84..?: the file ends within a record
        repair: 84 records, 0 fillers
    "#]],
    );
}

#[test]
fn a_truncated_last_segment_after_a_clean_stop() {
    check(
        true,
        |files| file(files, LAST).truncate(1000),
        expect![[r#"
            open: Corrupt: the log is damaged: DIR/00000000000000000076.seg at byte 1000 (offset 100): the log was closed in order, but its last segment is shorter now; nothing was changed; `muster log repair` copies what is good to a new log
            verify: 84 records
              00000000000000000076.seg byte 912+88: offset 84..100: the file ends within a record
            repair: 84 records, 0 fillers
        "#]],
    );
}

#[test]
fn two_swapped_segments() {
    check(
        false,
        |files| {
            let (first, second) = (files[FIRST].clone(), files[SECOND].clone());
            (*file(files, FIRST), *file(files, SECOND)) = (second, first);
        },
        expect![[r#"
            open: Corrupt: the log is damaged: DIR/00000000000000000000.seg at byte 32 (offset 0): the segment's name is not that of its first offset; was it renamed or swapped?; nothing was changed; `muster log repair` copies what is good to a new log
            verify: 100 records
              00000000000000000038.seg byte 32+0: offset 0..0: the segment's name is not that of its first offset
              00000000000000000000.seg byte 32+0: offset 38..38: the segment's name is not that of its first offset
            repair: 100 records, 0 fillers
        "#]],
    );
}

#[test]
fn a_segment_of_another_log() {
    check(
        false,
        |files| {
            let other = tempfile::tempdir().unwrap();
            build(other.path(), 2, false);
            files.insert(SECOND.into(), self::files(other.path())[SECOND].clone());
        },
        expect![[r#"
            open: Corrupt: the log is damaged: DIR/00000000000000000038.seg at byte 16 (offset 38): the segment belongs to another log; nothing was changed; `muster log repair` copies what is good to a new log
            verify: 62 records
              00000000000000000038.seg byte 16+4092: offset 38..76: the segment belongs to another log
            repair: 62 records, 38 fillers
        "#]],
    );
}

#[test]
fn a_file_that_is_no_segment() {
    check(
        false,
        |files| *file(files, SECOND) = b"<html>not found</html>".repeat(100),
        expect![[r#"
            open: Corrupt: the log is damaged: DIR/00000000000000000038.seg at byte 0 (offset 38): the file does not begin as one of muster's; nothing was changed; `muster log repair` copies what is good to a new log
            verify: 62 records
              00000000000000000038.seg byte 0+0: offset 38..38: the file does not begin as one of muster's
              00000000000000000038.seg byte 64+2136: offset 38..76: the length of a record is impossible
            repair: 62 records, 38 fillers
        "#]],
    );
}

#[test]
fn a_segment_of_a_newer_version() {
    check(
        false,
        |files| file(files, SECOND)[8] = 2,
        expect![[r#"
        open: NewerVersion: DIR/00000000000000000038.seg is of format version 2; this version of muster reads versions up to 1; use a newer one
        verify: DIR/00000000000000000038.seg is of format version 2; this version of muster reads versions up to 1; use a newer one
        repair: DIR/00000000000000000038.seg is of format version 2; this version of muster reads versions up to 1; use a newer one
    "#]],
    );
}

#[test]
fn a_segment_filled_with_zeros() {
    check(
        false,
        |files| file(files, SECOND).fill(0),
        expect![[r#"
            open: Corrupt: the log is damaged: DIR/00000000000000000038.seg at byte 0 (offset 38): the file is filled with zeros; nothing was changed; `muster log repair` copies what is good to a new log
            verify: 62 records
              00000000000000000038.seg byte 0+0: offset 38..38: the file is filled with zeros
              00000000000000000038.seg byte 64+4028: offset 38..76: the length of a record is impossible
            repair: 62 records, 38 fillers
        "#]],
    );
}

#[test]
fn an_empty_segment() {
    check(
        false,
        |files| file(files, SECOND).clear(),
        expect![[r#"
        open: Corrupt: the log is damaged: DIR/00000000000000000038.seg at byte 0 (offset 38): the file is empty; nothing was changed; `muster log repair` copies what is good to a new log
        verify: 62 records
          00000000000000000038.seg byte 0+0: offset 38..38: the file is empty
          00000000000000000076.seg byte 0+0: offset 38..76: the records before this segment are missing
        repair: 62 records, 38 fillers
    "#]],
    );
}

#[test]
fn a_missing_segment() {
    check(
        false,
        |files| drop(files.remove(SECOND)),
        expect![[r#"
        open: Corrupt: the log is damaged: DIR/00000000000000000000.seg at byte 4092 (offset 38): the segment that follows does not begin where this one ends; is a file missing?; nothing was changed; `muster log repair` copies what is good to a new log
        verify: 62 records
          00000000000000000076.seg byte 0+0: offset 38..76: the records before this segment are missing
        repair: 62 records, 38 fillers
    "#]],
    );
}

#[test]
fn a_missing_last_segment_after_a_clean_stop() {
    check(
        true,
        |files| drop(files.remove(LAST)),
        expect![[r#"
            open: Corrupt: the log is damaged: DIR/00000000000000000038.seg at byte 4092 (offset 100): the log was closed in order, but its last segment is missing; nothing was changed; `muster log repair` copies what is good to a new log
            verify: 76 records
              00000000000000000076.seg byte 0+0: offset 76..100: the log was closed in order and had more at its end
            repair: 76 records, 0 fillers
        "#]],
    );
}

#[test]
fn missing_indexes_and_foreign_files_are_no_damage() {
    check(
        true,
        |files| {
            files.retain(|name, _| !name.ends_with(".index"));
            files.insert("notes.txt".into(), b"mine".to_vec());
        },
        expect![[r#"
            open: 100 records, None
            verify: 100 records
            repair: 100 records, 0 fillers
        "#]],
    );
}

#[test]
fn a_directory_without_permission_and_a_path_that_is_no_directory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "").unwrap();
    let said = without_dir(&open(&path).unwrap_err().to_string(), dir.path());
    expect!["cannot create the directory DIR/file"].assert_eq(&said);
    // Root may do everything; only others can be refused.
    use std::os::unix::fs::PermissionsExt as _;
    let closed = dir.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o500)).unwrap();
    let is_refused = std::fs::write(closed.join("probe"), "").is_err();
    if is_refused {
        let error = open(&closed).unwrap_err();
        assert_eq!(error.kind(), LogErrorKind::Permission);
        assert_eq!(without_dir(&error.to_string(), dir.path()), "cannot lock DIR/closed/LOCK");
    }
}

#[test]
fn a_log_that_is_open_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path()).unwrap();
    let error = open(dir.path()).unwrap_err();
    expect!["the log in DIR is in use by another process; stop that one first, or use another directory"]
        .assert_eq(&without_dir(&error.to_string(), dir.path()));
    let to = tempfile::tempdir().unwrap();
    let error = repair(&RealDisk, &*ManualClock::at(2), dir.path(), to.path(), &mut |_| ()).unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Locked);
    drop(log);
}
