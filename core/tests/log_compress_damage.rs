//! Compressed segments that are not as they were written: each gets one clear sentence, `verify` says what is wrong,
//! and `repair` saves what is good of them. The same for all segments is in `log_damage.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod support;

use std::path::Path;
use std::time::Duration;

use expect_test::{Expect, expect};
use muster_core::clock::ManualClock;
use muster_core::log::{
    Compress, LOST_KIND, Log, LogConfig, LogError, NewRecord, SEGMENT_HEADER_BYTES, SegmentHeader, repair,
    verify,
};
use support::now;
use support::packed::{self, BLOCK_HEADER_BYTES, HEADER_BYTES};
use support::sim_disk::SimDisk;

const RECORDS: u64 = 100;
const FIRST: &str = "00000000000000000000.zst";
const SECOND: &str = "00000000000000000038.zst";
const LAST: &str = "00000000000000000076.seg";

fn config(dir: &str, id: u128) -> LogConfig {
    let compress = Compress { level: 3, after: Duration::ZERO, block_bytes: 1000 };
    LogConfig {
        segment_bytes_max: 4096,
        new_log_id: Some(id),
        compress: Some(compress),
        ..LogConfig::new(dir)
    }
}

fn record(n: u64) -> NewRecord {
    NewRecord { timestamp_ms: 5, kind: 9, topic: "t".into(), body: format!("{n:073}").into() }
}

/// A log of two compressed segments, of four blocks of ten records each but the last, and one that is not.
fn build(id: u128) -> SimDisk {
    let disk = SimDisk::new(1);
    let (log, mut writer, _) =
        Log::open_stepwise(config("/sim", id), disk.shared(), ManualClock::at(1)).unwrap();
    for n in 0..RECORDS {
        now(log.append(record(n))).unwrap().unwrap();
        writer.step();
    }
    let mut packer = log.packer().unwrap();
    while packer.step() {}
    assert_eq!(log.stats().segments_compressed, 2);
    drop((log, writer));
    disk.kill();
    disk
}

fn read(log: &Log) -> Result<Vec<(u64, NewRecord)>, LogError> {
    let mut reader = log.reader(log.first_offset());
    let mut records = Vec::new();
    while let Some(batch) = reader.try_next_batch()? {
        for record in batch.iter().map(|record| record.to_record()) {
            let muster_core::log::Record { offset, timestamp_ms, kind, topic, body } = record;
            records.push((offset, NewRecord { timestamp_ms, kind, topic, body }));
        }
    }
    Ok(records)
}

/// Damages a compressed segment, and holds what opening, verifying and repairing say to `expected`.
fn check(damage: impl Fn(&mut Vec<u8>), expected: Expect) {
    check_log(
        |disk| {
            let mut bytes = disk.bytes(FIRST);
            damage(&mut bytes);
            disk.put(FIRST, &bytes);
        },
        expected,
    );
}

fn check_log(damage: impl Fn(&SimDisk), expected: Expect) {
    let disk = build(1);
    damage(&disk);
    let mut said = String::new();
    match verify(&disk, Path::new("/sim"), &mut |_| ()) {
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
    match repair(&disk, &*ManualClock::at(2), Path::new("/sim"), Path::new("/to"), &mut |_| ()) {
        Err(error) => said += &format!("repair: {error}\n"),
        Ok(report) => {
            said += &format!("repair: {} records, {} fillers\n", report.found.records, report.fillers);
            let (log, ..) = Log::open_stepwise(config("/to", 1), disk.shared(), ManualClock::at(1)).unwrap();
            let good = read(&log).unwrap().into_iter().filter(|(_, record)| record.kind != LOST_KIND);
            let good: Vec<_> = good.collect();
            assert_eq!(good.len() as u64, report.found.records);
            assert!(good.iter().all(|(offset, found)| *found == record(*offset)));
        }
    }
    disk.kill();
    match Log::open_stepwise(config("/sim", 1), disk.shared(), ManualClock::at(1)) {
        Err(error) => said += &format!("open: {:?}: {error}\n", error.kind()),
        Ok((log, ..)) => match read(&log) {
            Ok(records) => said += &format!("open: {} records\n", records.len()),
            Err(error) => said += &format!("read: {:?}: {error}\n", error.kind()),
        },
    }
    expected.assert_eq(&said);
}

/// The place of the second block of a segment.
fn second_block(bytes: &[u8]) -> usize {
    packed::blocks(bytes)[1].0
}

#[test]
fn a_flipped_bit_in_a_block() {
    check(
        |bytes| {
            let at = second_block(bytes) + BLOCK_HEADER_BYTES + 20;
            bytes[at] ^= 4;
        },
        expect![[r#"
            verify: 90 records
              00000000000000000000.zst byte 273+183: offset 10..20: the checksum of a block is wrong
            repair: 90 records, 10 fillers
            read: Corrupt: the log is damaged: /sim/00000000000000000000.zst at byte 273 (offset 10): the checksum of a block is wrong; nothing was changed; `muster log repair` copies what is good to a new log
        "#]],
    );
}

#[test]
fn a_flipped_bit_in_the_header_of_a_block() {
    check(
        |bytes| {
            let at = second_block(bytes) + 9;
            bytes[at] ^= 4;
        },
        expect![[r#"
            verify: 90 records
              00000000000000000000.zst byte 273+183: offset 10..20: the header of a block is damaged
            repair: 90 records, 10 fillers
            read: Corrupt: the log is damaged: /sim/00000000000000000000.zst at byte 273 (offset 10): the header of a block is damaged; nothing was changed; `muster log repair` copies what is good to a new log
        "#]],
    );
}

#[test]
fn a_flipped_bit_in_the_table() {
    check(
        |bytes| {
            let at = bytes.len() - 40;
            bytes[at] ^= 4;
        },
        expect![[r#"
            verify: 100 records
              00000000000000000000.zst byte 802+0: offset 0..0: the checksum of the table of blocks is wrong
            repair: 100 records, 0 fillers
            open: Corrupt: the log is damaged: /sim/00000000000000000000.zst at byte 802 (offset 0): the checksum of the table of blocks is wrong; nothing was changed; `muster log repair` copies what is good to a new log
        "#]],
    );
}

#[test]
fn a_table_that_names_other_places_under_a_good_checksum() {
    check(
        |bytes| {
            let at = bytes.len() - 64;
            bytes[at] += 1;
            packed::fix(bytes, packed::HEADER | packed::TABLE);
        },
        expect![[r#"
            verify: 100 records
              00000000000000000000.zst byte 930+0: offset 0..0: the table of blocks is not that of the blocks
            repair: 100 records, 0 fillers
            read: Corrupt: the log is damaged: /sim/00000000000000000000.zst at byte 273 (offset 10): a block is not the one that the table says; nothing was changed; `muster log repair` copies what is good to a new log
        "#]],
    );
}

#[test]
fn a_flipped_bit_in_the_header() {
    check(
        |bytes| bytes[50] ^= 4,
        expect![[r#"
        verify: 100 records
          00000000000000000000.zst byte 92+0: offset 0..0: the checksum of the file's header is wrong
        repair: 100 records, 0 fillers
        open: Corrupt: the log is damaged: /sim/00000000000000000000.zst at byte 92 (offset 0): the checksum of the file's header is wrong; nothing was changed; `muster log repair` copies what is good to a new log
    "#]],
    );
}

#[test]
fn a_header_and_a_block_of_zeros() {
    check(
        |bytes| {
            let end = second_block(bytes) + BLOCK_HEADER_BYTES;
            bytes[..HEADER_BYTES].fill(0);
            bytes[end - BLOCK_HEADER_BYTES..end].fill(0);
        },
        expect![[r#"
            verify: 90 records
              00000000000000000000.zst byte 0+0: offset 0..0: the file is filled with zeros
              00000000000000000000.zst byte 273+183: offset 10..20: the header of a block is damaged
            repair: 90 records, 10 fillers
            open: Corrupt: the log is damaged: /sim/00000000000000000000.zst at byte 0 (offset 0): the file is filled with zeros; nothing was changed; `muster log repair` copies what is good to a new log
        "#]],
    );
}

#[test]
fn a_truncated_segment() {
    check(
        |bytes| {
            let at = packed::blocks(bytes)[2].0 + 10;
            bytes.truncate(at);
        },
        expect![[r#"
            verify: 82 records
              00000000000000000000.zst byte 466+0: offset 0..0: the file is not as long as it was
              00000000000000000038.zst byte 0+0: offset 20..38: the records before this segment are missing
            repair: 82 records, 18 fillers
            open: Corrupt: the log is damaged: /sim/00000000000000000000.zst at byte 466 (offset 0): the file is not as long as it was; nothing was changed; `muster log repair` copies what is good to a new log
        "#]],
    );
}

#[test]
fn a_segment_filled_with_zeros() {
    check(
        |bytes| bytes.fill(0),
        expect![[r#"
        verify: 62 records
          00000000000000000000.zst byte 0+0: offset 0..0: the file is filled with zeros
          00000000000000000038.zst byte 0+0: offset 0..38: the records before this segment are missing
        repair: 62 records, 0 fillers
        open: Corrupt: the log is damaged: /sim/00000000000000000000.zst at byte 0 (offset 0): the file is filled with zeros; nothing was changed; `muster log repair` copies what is good to a new log
    "#]],
    );
}

#[test]
fn an_empty_segment() {
    check(
        Vec::clear,
        expect![[r#"
        verify: 62 records
          00000000000000000000.zst byte 0+0: offset 0..0: the file is empty
          00000000000000000038.zst byte 0+0: offset 0..38: the records before this segment are missing
        repair: 62 records, 0 fillers
        open: Corrupt: the log is damaged: /sim/00000000000000000000.zst at byte 0 (offset 0): the file is empty; nothing was changed; `muster log repair` copies what is good to a new log
    "#]],
    );
}

#[test]
fn a_file_that_is_no_segment() {
    check(
        |bytes| *bytes = b"<html>not found</html>".repeat(100),
        expect![[r#"
        verify: 62 records
          00000000000000000000.zst byte 0+0: offset 0..0: the file does not begin as one of muster's
          00000000000000000038.zst byte 0+0: offset 0..38: the records before this segment are missing
        repair: 62 records, 0 fillers
        open: Corrupt: the log is damaged: /sim/00000000000000000000.zst at byte 0 (offset 0): the file does not begin as one of muster's; nothing was changed; `muster log repair` copies what is good to a new log
    "#]],
    );
}

#[test]
fn a_segment_of_a_newer_version() {
    check(
        |bytes| bytes[8] = 2,
        expect![[r#"
        verify: /sim/00000000000000000000.zst is of format version 2; this version of muster reads versions up to 1; use a newer one
        repair: /sim/00000000000000000000.zst is of format version 2; this version of muster reads versions up to 1; use a newer one
        open: NewerVersion: /sim/00000000000000000000.zst is of format version 2; this version of muster reads versions up to 1; use a newer one
    "#]],
    );
}

#[test]
fn two_swapped_segments() {
    check_log(
        |disk| {
            let (first, second) = (disk.bytes(FIRST), disk.bytes(SECOND));
            disk.put(FIRST, &second);
            disk.put(SECOND, &first);
        },
        expect![[r#"
            verify: 100 records
              00000000000000000038.zst byte 32+0: offset 0..0: the segment's name is not that of its first offset
              00000000000000000000.zst byte 32+0: offset 38..38: the segment's name is not that of its first offset
            repair: 100 records, 0 fillers
            open: Corrupt: the log is damaged: /sim/00000000000000000000.zst at byte 32 (offset 0): the segment's name is not that of its first offset; was it renamed or swapped?; nothing was changed; `muster log repair` copies what is good to a new log
        "#]],
    );
}

#[test]
fn a_segment_of_another_log() {
    check_log(
        |disk| disk.put(SECOND, &build(2).bytes(SECOND)),
        expect![[r#"
        verify: 62 records
          00000000000000000038.zst byte 16+4092: offset 38..76: the segment belongs to another log
        repair: 62 records, 38 fillers
        open: Corrupt: the log is damaged: /sim/00000000000000000038.zst at byte 16 (offset 38): the segment belongs to another log; nothing was changed; `muster log repair` copies what is good to a new log
    "#]],
    );
}

#[test]
fn a_missing_segment() {
    check_log(
        |disk| disk.delete(SECOND),
        expect![[r#"
        verify: 62 records
          00000000000000000076.seg byte 0+0: offset 38..76: the records before this segment are missing
        repair: 62 records, 38 fillers
        open: Corrupt: the log is damaged: /sim/00000000000000000000.zst at byte 930 (offset 38): the segment that follows does not begin where this one ends; is a file missing?; nothing was changed; `muster log repair` copies what is good to a new log
    "#]],
    );
}

#[test]
fn a_missing_last_segment() {
    check_log(
        |disk| disk.delete(LAST),
        expect![[r#"
            verify: 76 records
              00000000000000000038.zst byte 0+0: offset 76..?: the last segment is compressed, which only one with a successor can be
            repair: 76 records, 0 fillers
            open: Corrupt: the log is damaged: /sim/00000000000000000038.zst at byte 0 (offset 38): the last segment is compressed, which only one with a successor can be; is a file missing?; nothing was changed; `muster log repair` copies what is good to a new log
        "#]],
    );
}

/// A block of a few kilobytes that holds 64 MiB of zeros, and says that it holds as much as it did.
#[test]
fn a_bomb_that_lies() {
    check(
        |bytes| {
            let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
            packed::replace_only_block(bytes, &bomb, 4028);
        },
        expect![[r#"
            verify: 62 records
              00000000000000000000.zst byte 96+2115: offset 0..38: a block cannot be uncompressed to the length that it says
            repair: 62 records, 0 fillers
            read: Corrupt: the log is damaged: /sim/00000000000000000000.zst at byte 96 (offset 0): a block cannot be uncompressed to the length that it says; nothing was changed; `muster log repair` copies what is good to a new log
        "#]],
    );
}

/// The same, but it says what it holds: the zeros are no records.
#[test]
fn a_bomb_that_says_so() {
    check(
        |bytes| {
            let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
            packed::replace_only_block(bytes, &bomb, 64 << 20);
        },
        expect![[r#"
            verify: 62 records
              00000000000000000000.zst byte 96+2115: offset 0..38: the length of a record is impossible
            repair: 62 records, 0 fillers
            read: Corrupt: the log is damaged: /sim/00000000000000000000.zst at byte 96 (offset 0): the length of a record is impossible; nothing was changed; `muster log repair` copies what is good to a new log
        "#]],
    );
}

/// More than Zstandard can make of so few bytes: nothing is uncompressed at all.
#[test]
fn a_block_that_claims_too_much() {
    check(
        |bytes| packed::replace_only_block(bytes, &[0; 100], 512 << 20),
        expect![[r#"
            verify: 62 records
              00000000000000000000.zst byte 244+0: offset 0..0: the table of blocks is impossible
              00000000000000000000.zst byte 96+148: offset 0..38: the header of a block is damaged
            repair: 62 records, 0 fillers
            open: Corrupt: the log is damaged: /sim/00000000000000000000.zst at byte 244 (offset 0): the table of blocks is impossible; nothing was changed; `muster log repair` copies what is good to a new log
        "#]],
    );
}

#[test]
fn the_headers_of_a_segment_in_both_forms_are_the_same() {
    let disk = build(1);
    let (packed, raw) =
        (disk.bytes(FIRST), SegmentHeader { log_id: 1, base_offset: 0, created_ms: 1 }.encode());
    assert_eq!((&packed[16..48], raw.len()), (&raw[16..48], SEGMENT_HEADER_BYTES));
}
