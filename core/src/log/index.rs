//! The sparse index of a segment: every so many bytes a point that says which record begins there, and the latest time
//! before it. Kept in memory while the segment grows, written beside it from time to time and when it is sealed, and
//! rebuilt from the segment whenever it is missing or in doubt.

use std::path::Path;

use crc32c::crc32c;

use super::disk::{Disk, DiskFile, read_up_to};
use super::format::{
    BadHeader, RecordHeader, SEGMENT_HEADER_BYTES, check_header, i64_at, id_at, seal_header, u32_at, u64_at,
};

const INDEX_MAGIC: &[u8; 8] = b"MUSTRIDX";
const INDEX_HEADER_BYTES: usize = 80;
const POINT_LENGTH: usize = 24;
/// Larger than any index of a segment can be; what claims more is damage.
const POINTS_MAX: u32 = 16 * 1024 * 1024;

/// A place in a segment where a record begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) offset: u64,
    pub(super) byte: u64,
    /// The latest time of all records of the segment before this one; `i64::MIN` at the first.
    pub(super) latest_before_ms: i64,
}

/// The index of one segment, and what is known of its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) base_offset: u64,
    /// The offset after the last record.
    pub(super) end_offset: u64,
    /// Length of the segment up to there.
    pub(super) bytes: u64,
    /// The latest time in the segment; `i64::MIN` while it has no record.
    pub(super) latest_ms: i64,
    pub(super) points: Vec<Point>,
}

impl Index {
    /// The index of a segment without records.
    pub(super) fn new(base_offset: u64) -> Self {
        let bytes = SEGMENT_HEADER_BYTES as u64;
        Self { base_offset, end_offset: base_offset, bytes, latest_ms: i64::MIN, points: Vec::new() }
    }

    /// Takes in the record that follows; there is a point at the first that begins `point_bytes` after the last one.
    pub(super) fn push(&mut self, record: &RecordHeader, point_bytes: u64) {
        let due = self.points.last().is_none_or(|last| self.bytes - last.byte >= point_bytes);
        if due {
            let latest_before_ms = self.latest_ms;
            self.points.push(Point { offset: record.offset, byte: self.bytes, latest_before_ms });
        }
        self.end_offset = record.offset + 1;
        self.bytes += record.length as u64;
        self.latest_ms = self.latest_ms.max(record.timestamp_ms);
    }

    /// The index as it was right before the record at its last point; none without a point.
    pub(super) fn before_last_point(&self) -> Option<Self> {
        let (last, points) = self.points.split_last()?;
        Some(Self {
            base_offset: self.base_offset,
            end_offset: last.offset,
            bytes: last.byte,
            latest_ms: last.latest_before_ms,
            points: points.to_vec(),
        })
    }

    /// The last point at or before `offset`.
    pub(super) fn point_before(&self, offset: u64) -> Point {
        self.point_at(self.points.partition_point(|point| point.offset <= offset))
    }

    /// The last point before which every record is earlier than `ms`.
    pub(super) fn point_before_ms(&self, ms: i64) -> Point {
        self.point_at(self.points.partition_point(|point| point.latest_before_ms < ms))
    }

    fn point_at(&self, after: usize) -> Point {
        let start =
            Point { offset: self.base_offset, byte: SEGMENT_HEADER_BYTES as u64, latest_before_ms: i64::MIN };
        after.checked_sub(1).and_then(|at| self.points.get(at)).copied().unwrap_or(start)
    }

    pub(super) fn encode(&self, log_id: u128) -> Vec<u8> {
        let mut points = Vec::with_capacity(self.points.len() * POINT_LENGTH);
        for point in &self.points {
            points.extend_from_slice(&point.offset.to_le_bytes());
            points.extend_from_slice(&point.byte.to_le_bytes());
            points.extend_from_slice(&point.latest_before_ms.to_le_bytes());
        }
        let mut out = vec![0; INDEX_HEADER_BYTES];
        out[12..16].copy_from_slice(&(self.points.len() as u32).to_le_bytes());
        out[16..32].copy_from_slice(&log_id.to_be_bytes());
        out[32..40].copy_from_slice(&self.base_offset.to_le_bytes());
        out[40..48].copy_from_slice(&self.end_offset.to_le_bytes());
        out[48..56].copy_from_slice(&self.bytes.to_le_bytes());
        out[56..64].copy_from_slice(&self.latest_ms.to_le_bytes());
        out[64..68].copy_from_slice(&crc32c(&points).to_le_bytes());
        seal_header(&mut out, INDEX_MAGIC);
        out.extend_from_slice(&points);
        out
    }

    /// None where the bytes are no index of this segment of this log: it is then rebuilt, so why does not matter.
    pub(super) fn decode(bytes: &[u8], log_id: u128, base_offset: u64) -> Option<Self> {
        let (header, points) = bytes.split_at_checked(INDEX_HEADER_BYTES)?;
        let mut index = Self::decode_header(header, log_id, base_offset).ok()??;
        let count = u32_at(header, 12);
        if points.len() != count as usize * POINT_LENGTH || crc32c(points) != u32_at(header, 64) {
            return None;
        }
        index.points = points
            .chunks_exact(POINT_LENGTH)
            .map(|point| Point {
                offset: u64_at(point, 0),
                byte: u64_at(point, 8),
                latest_before_ms: i64_at(point, 16),
            })
            .collect();
        let ordered = index.points.is_sorted_by(|a, b| a.offset < b.offset && a.byte < b.byte);
        let inside = index.points.iter().all(|point| {
            (base_offset..index.end_offset).contains(&point.offset)
                && (SEGMENT_HEADER_BYTES as u64..index.bytes).contains(&point.byte)
        });
        (ordered && inside).then_some(index)
    }

    fn decode_header(header: &[u8], log_id: u128, base_offset: u64) -> Result<Option<Self>, BadHeader> {
        check_header(header, INDEX_HEADER_BYTES, INDEX_MAGIC)?;
        let index = Self {
            base_offset: u64_at(header, 32),
            end_offset: u64_at(header, 40),
            bytes: u64_at(header, 48),
            latest_ms: i64_at(header, 56),
            points: Vec::new(),
        };
        let ours = id_at(header, 16) == log_id && index.base_offset == base_offset;
        let possible = index.end_offset >= base_offset
            && index.bytes >= SEGMENT_HEADER_BYTES as u64
            && u32_at(header, 12) <= POINTS_MAX
            && header[68..76].iter().all(|byte| *byte == 0);
        Ok((ours && possible).then_some(index))
    }

    /// Reads the file; none if it is missing or not to be trusted. With `header_only`, without the points.
    pub(super) fn load(
        disk: &dyn Disk,
        path: &Path,
        log_id: u128,
        base_offset: u64,
        header_only: bool,
    ) -> Option<Self> {
        let file = disk.open(path, super::disk::Access::Read).ok()?;
        let mut header = [0; INDEX_HEADER_BYTES];
        if read_up_to(&*file, &mut header, 0).ok()? < INDEX_HEADER_BYTES {
            return None;
        }
        let index = Self::decode_header(&header, log_id, base_offset).ok()??;
        if header_only {
            return Some(index);
        }
        let bytes = read_all(&*file, INDEX_HEADER_BYTES + u32_at(&header, 12) as usize * POINT_LENGTH)?;
        Self::decode(&bytes, log_id, base_offset)
    }
}

fn read_all(file: &dyn DiskFile, bytes_max: usize) -> Option<Vec<u8>> {
    let length = usize::try_from(file.len().ok()?).ok()?;
    if length > bytes_max {
        return None;
    }
    let mut bytes = vec![0; length];
    let read = read_up_to(file, &mut bytes, 0).ok()?;
    (read == length).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        let mut index = Index::new(100);
        for at in 0..1000_u64 {
            index.push(&record(at), POINT_BYTES);
        }
        index
    }

    const POINT_BYTES: u64 = 64 * 1024;

    fn record(at: u64) -> RecordHeader {
        RecordHeader {
            length: 1000,
            offset: 100 + at,
            // Steps back once, as a wall clock may.
            timestamp_ms: if at == 500 { 0 } else { i64::try_from(at).unwrap() * 10 },
            kind: 1,
            topic_bytes: 0,
            unsynced: 0,
        }
    }

    #[test]
    fn it_grows_again_from_its_last_point_to_what_it_was() {
        let index = index();
        let mut again = index.before_last_point().unwrap();
        assert!(again.end_offset < index.end_offset && index.end_offset - again.end_offset <= 66);
        for at in again.end_offset - 100..1000 {
            again.push(&record(at), POINT_BYTES);
        }
        assert_eq!(again, index);
        assert_eq!(Index::new(100).before_last_point(), None);
    }

    #[test]
    fn it_comes_back_and_any_flipped_bit_is_seen() {
        let bytes = index().encode(7);
        assert_eq!(Index::decode(&bytes, 7, 100), Some(index()));
        assert_eq!(Index::decode(&bytes, 8, 100), None);
        assert_eq!(Index::decode(&bytes, 7, 101), None);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert_eq!(Index::decode(&bad, 7, 100), None, "byte {at}");
            assert_eq!(Index::decode(&bytes[..at], 7, 100), None, "cut at {at}");
        }
    }

    #[test]
    fn points_are_sparse_and_found_by_offset_and_time() {
        let index = index();
        assert!(index.points.len() > 10 && index.points.len() < 20, "{}", index.points.len());
        for offset in 100..1100 {
            let point = index.point_before(offset);
            assert!(point.offset <= offset && offset - point.offset <= 66, "{offset}: {point:?}");
        }
        for ms in [-5, 0, 1, 4_990, 5_000, 5_010, 9_990, 20_000] {
            let point = index.point_before_ms(ms);
            assert!(point.latest_before_ms < ms, "{ms}: {point:?}");
        }
    }
}
