//! What is asked of a log whose one segment is arbitrary bytes: that nothing panics, that what opens can be read or
//! refuses with a word, that nothing is shown twice or out of order, and that what repair saves is in order.

use std::path::Path;

use muster_core::clock::ManualClock;
use muster_core::log::{
    Log, LogConfig, LogErrorKind, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader, repair, verify,
};

use super::packed;
use super::sim_disk::SimDisk;

const SEGMENT: &str = "00000000000000000000.seg";

/// The first byte says which checksums are put right, so that arbitrary bytes get past them; the rest is the segment.
pub fn check(input: &[u8]) {
    let Some((choice, segment)) = input.split_first() else { return };
    let mut segment = segment.to_vec();
    if choice & 1 != 0 {
        fix_header(&mut segment);
    }
    if choice & 2 != 0 {
        fix_records(&mut segment);
    }
    let disk = SimDisk::new(u64::from(*choice));
    disk.put(SEGMENT, &segment);
    let report = verify(&disk, Path::new("/sim"), &mut |_| ());
    match Log::open_stepwise(LogConfig::new("/sim"), disk.shared(), ManualClock::at(0)) {
        Ok((log, writer, opened)) => {
            let read = read_all(&log).expect("what was scanned when it was opened can be read");
            assert_eq!(read, opened.records);
            let verified = report.expect("what opens can be verified").records;
            // A torn tail may hold whole records; they are cut with it.
            assert!(verified == opened.records || (verified > opened.records && opened.torn_tail.is_some()));
            drop(writer);
        }
        Err(error) => {
            assert!(matches!(error.kind(), LogErrorKind::Corrupt | LogErrorKind::NewerVersion), "{error}");
            let Ok(report) = report else { return };
            disk.kill();
            let Ok(repaired) = repair_to(&disk) else { return };
            assert_eq!(repaired, report.records);
        }
    }
}

/// The same for a compressed segment, followed by one without records. The first byte says what [`packed::fix`] puts
/// right.
pub fn check_packed(input: &[u8]) {
    let Some((choice, segment)) = input.split_first() else { return };
    let mut segment = segment.to_vec();
    packed::fix(&mut segment, *choice);
    let field = |at: usize| segment.get(at..at + 8).map_or([0; 8], |bytes| bytes.try_into().unwrap());
    let log_id = u128::from(u64::from_be_bytes(field(16))) << 64 | u128::from(u64::from_be_bytes(field(24)));
    let end_offset = u64::from_le_bytes(field(48)).max(1);
    let disk = SimDisk::new(u64::from(*choice));
    disk.put("00000000000000000000.zst", &segment);
    let last = SegmentHeader { log_id, base_offset: end_offset, created_ms: 0 }.encode();
    disk.put(&format!("{end_offset:020}.seg"), &last);
    let report = verify(&disk, Path::new("/sim"), &mut |_| ());
    let opened = Log::open_stepwise(LogConfig::new("/sim"), disk.shared(), ManualClock::at(0));
    let read = opened.and_then(|(log, writer, opened)| {
        assert_eq!(opened.records, end_offset);
        drop(writer);
        read_all(&log)
    });
    disk.kill();
    match read {
        Ok(read) => {
            assert_eq!(read, end_offset);
            let report = report.expect("what can be read can be verified");
            assert!(report.records == read && report.damages.is_empty(), "{report:?}");
        }
        Err(error) => {
            assert!(matches!(error.kind(), LogErrorKind::Corrupt | LogErrorKind::NewerVersion), "{error}");
            let Ok(report) = report else { return };
            assert!(!report.damages.is_empty(), "{error}");
            let Ok(repaired) = repair_to(&disk) else { return };
            assert_eq!(repaired, report.records);
        }
    }
}

fn repair_to(disk: &SimDisk) -> Result<u64, ()> {
    let (from, to) = (Path::new("/sim"), Path::new("/to"));
    let report = repair(disk, &*ManualClock::at(0), from, to, &mut |_| ()).map_err(drop)?;
    let (log, ..) = Log::open_stepwise(LogConfig::new(to), disk.shared(), ManualClock::at(0)).unwrap();
    assert_eq!(read_all(&log).unwrap(), report.found.records + report.fillers);
    Ok(report.found.records)
}

fn read_all(log: &Log) -> Result<u64, muster_core::log::LogError> {
    let first = log.first_offset();
    let mut reader = log.reader(first);
    let mut next = first;
    while let Some(batch) = reader.try_next_batch()? {
        for record in batch.iter() {
            assert_eq!(record.offset(), next);
            assert!(record.topic().len() + record.body().len() <= batch.bytes().len());
            next += 1;
        }
    }
    Ok(next - first)
}

fn fix_header(segment: &mut [u8]) {
    if let Some(header) = segment.get_mut(..SEGMENT_HEADER_BYTES) {
        let crc = crc32c::crc32c(&header[..60]).to_le_bytes();
        header[60..].copy_from_slice(&crc);
    }
}

fn fix_records(segment: &mut [u8]) {
    let mut at = SEGMENT_HEADER_BYTES;
    while at + RECORD_HEADER_BYTES <= segment.len() {
        let length = u32::from_le_bytes(segment[at + 4..at + 8].try_into().unwrap()) as usize;
        if length < RECORD_HEADER_BYTES || length > segment.len() - at {
            return;
        }
        let record = &mut segment[at..at + length];
        let crc = crc32c::crc32c(&record[RECORD_HEADER_BYTES..]);
        let crc = crc32c::crc32c_append(crc, &record[4..RECORD_HEADER_BYTES]).to_le_bytes();
        record[..4].copy_from_slice(&crc);
        at += length;
    }
}
