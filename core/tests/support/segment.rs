//! What the bytes of a segment say, read the simple way.

use muster_core::log::{RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES};

/// Where the group of the last record begins: the damage of anything before is provable.
pub fn group_of_last(segment: &[u8]) -> u64 {
    let (mut at, mut starts) = (SEGMENT_HEADER_BYTES, Vec::new());
    let mut unsynced = 0;
    while at + RECORD_HEADER_BYTES <= segment.len() {
        let header = RecordHeader::read(&segment[at..]);
        if header.length < RECORD_HEADER_BYTES {
            break;
        }
        starts.push(at as u64);
        unsynced = header.unsynced as usize;
        at += header.length;
    }
    let last = starts.len().saturating_sub(unsynced + 1);
    starts.get(last).copied().unwrap_or(SEGMENT_HEADER_BYTES as u64)
}

/// How many records of a segment do not end before byte `cut`.
pub fn records_from(segment: &[u8], cut: usize) -> usize {
    let (mut at, mut lost) = (SEGMENT_HEADER_BYTES, 0);
    while at < segment.len() {
        at += RecordHeader::read(&segment[at..]).length;
        lost += usize::from(at > cut);
    }
    lost
}
