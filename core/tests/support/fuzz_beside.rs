//! What is asked of a log beside whose segments lies an arbitrary index or mark of a clean stop: while the checksum is
//! not forged, the log opens as if the file were not there; a forged one may lead to a refusal, never to a panic, a
//! record twice or one out of order.

use muster_core::clock::ManualClock;
use muster_core::log::{Log, LogConfig, LogError, LogErrorKind};

use super::sim_disk::SimDisk;

/// The golden log: two segments, an index each, the mark of a clean stop.
const FILES: [(&str, &[u8]); 5] = [
    ("00000000000000000000.seg", include_bytes!("../golden/v1/00000000000000000000.seg")),
    ("00000000000000000043.seg", include_bytes!("../golden/v1/00000000000000000043.seg")),
    ("00000000000000000000.index", include_bytes!("../golden/v1/00000000000000000000.index")),
    ("00000000000000000043.index", include_bytes!("../golden/v1/00000000000000000043.index")),
    ("CLEAN", include_bytes!("../golden/v1/CLEAN")),
];
const RECORDS: u64 = 50;
const INDEX_HEADER_BYTES: usize = 80;
const MARK_BYTES: usize = 64;

/// The first byte says which file is replaced by the rest, and which of its checksums are put right.
pub fn check(input: &[u8]) {
    let Some((choice, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    let (name, original) = FILES[2 + usize::from(choice & 0b11) % 3];
    if choice & 4 != 0 && name != "CLEAN" {
        fix_points(&mut bytes);
    }
    if choice & 8 != 0 {
        fix_header(&mut bytes, if name == "CLEAN" { MARK_BYTES } else { INDEX_HEADER_BYTES });
    }
    let is_forged = choice & 8 != 0 && bytes != original;
    let disk = SimDisk::new(1);
    for (file, content) in FILES {
        disk.put(file, if file == name { &bytes } else { content });
    }
    match Log::open_stepwise(LogConfig::new("/sim"), disk.shared(), ManualClock::at(0)) {
        Ok((log, writer, _)) => {
            let read = read(&log);
            assert!(is_forged || read.as_ref().is_ok_and(|read| *read == RECORDS), "{name}: {read:?}");
            drop(writer);
        }
        Err(error) => assert!(is_forged && is_refusal(&error), "{name}: {error}"),
    }
}

fn is_refusal(error: &LogError) -> bool {
    matches!(error.kind(), LogErrorKind::Corrupt | LogErrorKind::NewerVersion)
}

/// How many records there are; begins at each offset and time in turn, so that every point of an index is used.
fn read(log: &Log) -> Result<u64, LogErrorKind> {
    let kind = |error: LogError| {
        assert!(is_refusal(&error), "{error}");
        error.kind()
    };
    let (first, end) = (log.first_offset(), log.durable_offset());
    let mut count = 0;
    for from in (first..end).chain([end]).take(2 * usize::try_from(RECORDS).unwrap_or(0)) {
        let mut reader = log.reader(from);
        let mut next = from;
        while let Some(batch) = reader.try_next_batch().map_err(kind)? {
            for record in batch.iter() {
                assert_eq!(record.offset(), next);
                next += 1;
            }
        }
        count = count.max(next - first);
    }
    for second in 0..60 {
        let found = log.offset_at_time(1_700_000_000_000 + second * 1_000).map_err(kind)?;
        assert!((first..=end).contains(&found));
    }
    Ok(count)
}

fn fix_points(bytes: &mut [u8]) {
    if let Some((header, points)) = bytes.split_at_mut_checked(INDEX_HEADER_BYTES) {
        header[64..68].copy_from_slice(&crc32c::crc32c(points).to_le_bytes());
    }
}

/// The header's checksum is its last four bytes.
fn fix_header(bytes: &mut [u8], length: usize) {
    if let Some(header) = bytes.get_mut(..length) {
        let crc = crc32c::crc32c(&header[..length - 4]).to_le_bytes();
        header[length - 4..].copy_from_slice(&crc);
    }
}
