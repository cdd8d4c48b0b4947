//! Segments: their names, what is known of each while the log is open, and the one loop that reads records from a file
//! and checks them. Recovery, readers, index building and verification all go through [`read_chunk`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;

use super::disk::{Access, Disk, DiskFile, read_up_to};
use super::error::LogError;
use super::format::{
    BadHeader, BadRecord, FORMAT_VERSION, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use super::index::{Index, Point};
use super::lock;

/// How much is read from a file at once.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;

/// The name of the segment that begins at `base`.
pub(super) fn segment_name(base: u64) -> String {
    format!("{base:020}.seg")
}

/// The offset in a segment's name; none if it is no segment's.
pub(super) fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The index beside a segment.
pub(super) fn index_path(segment: &Path) -> PathBuf {
    segment.with_extension("index")
}

/// A segment of an open log. What it says of its end is what readers may see, no more.
pub(super) struct Segment {
    pub(super) base: u64,
    pub(super) path: PathBuf,
    end_offset: AtomicU64,
    bytes: AtomicU64,
    latest_ms: AtomicI64,
    /// The distance of the points of the growing index.
    point_bytes: u64,
    /// The index of the segment that grows; none once it is sealed, when the file beside it is asked.
    live: Mutex<Option<Index>>,
}

impl Segment {
    /// A sealed segment, of which `index` (with or without points) tells the end.
    pub(super) fn sealed(path: PathBuf, index: &Index) -> Self {
        Self {
            base: index.base_offset,
            path,
            end_offset: AtomicU64::new(index.end_offset),
            bytes: AtomicU64::new(index.bytes),
            latest_ms: AtomicI64::new(index.latest_ms),
            point_bytes: 0,
            live: Mutex::new(None),
        }
    }

    /// The segment that grows, and with it its index, with points at that distance.
    pub(super) fn active(path: PathBuf, index: Index, point_bytes: u64) -> Self {
        let sealed = Self::sealed(path, &index);
        Self { point_bytes, live: Mutex::new(Some(index)), ..sealed }
    }

    pub(super) fn end_offset(&self) -> u64 {
        self.end_offset.load(Ordering::Acquire)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    pub(super) fn latest_ms(&self) -> i64 {
        self.latest_ms.load(Ordering::Acquire)
    }

    /// Lets readers see `records`, which follow one another at the end.
    pub(super) fn grow(&self, mut records: &[u8]) {
        let mut live = lock(&self.live);
        let Some(index) = live.as_mut() else { return };
        while !records.is_empty() {
            let header = RecordHeader::read(records);
            index.push(&header, self.point_bytes);
            records = &records[header.length..];
        }
        self.latest_ms.store(index.latest_ms, Ordering::Release);
        self.end_offset.store(index.end_offset, Ordering::Release);
        self.bytes.store(index.bytes, Ordering::Release);
    }

    /// The index as far as it grew; afterwards the segment is sealed.
    pub(super) fn seal(&self) -> Option<Index> {
        lock(&self.live).take()
    }

    /// A copy of the growing index.
    pub(super) fn live_index(&self) -> Option<Index> {
        lock(&self.live).clone()
    }

    /// The place to look for something from on: `find` asks an index. Without one it is the segment's start.
    pub(super) fn point(&self, disk: &dyn Disk, log_id: u128, find: impl Fn(&Index) -> Point) -> Point {
        if let Some(index) = lock(&self.live).as_ref() {
            return find(index);
        }
        let saved = Index::load(disk, &index_path(&self.path), log_id, self.base, false)
            .filter(|index| index.bytes == self.bytes());
        find(&saved.unwrap_or_else(|| Index::new(self.base)))
    }

    /// The error of a record that is not what was written.
    pub(super) fn corrupt(&self, offset: u64, byte: u64, what: &'static str) -> LogError {
        LogError::Corrupt { segment: self.path.clone(), offset, byte, what }
    }
}

/// Opens a segment's file and checks its header against its name.
pub(super) fn open_segment(
    disk: &dyn Disk,
    path: &Path,
    base: u64,
    access: Access,
) -> Result<(Arc<dyn DiskFile>, SegmentHeader), LogError> {
    let file = disk.open(path, access).map_err(LogError::io("open", path))?;
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let read = read_up_to(&*file, &mut bytes, 0).map_err(LogError::io("read", path))?;
    let header = SegmentHeader::decode(&bytes[..read]).map_err(|bad| match bad {
        BadHeader::Newer(found) => {
            LogError::NewerVersion { segment: path.to_owned(), found, newest: FORMAT_VERSION }
        }
        BadHeader::Damaged(byte, what) => {
            LogError::Corrupt { segment: path.to_owned(), offset: base, byte, what }
        }
    })?;
    if header.base_offset != base {
        let what = "the segment's name is not that of its first offset; was it renamed or swapped?";
        return Err(LogError::Corrupt { segment: path.to_owned(), offset: base, byte: 32, what });
    }
    Ok((file, header))
}

/// What [`read_chunk`] found.
pub(super) struct Chunk {
    /// How many bytes of the buffer are whole, good records.
    pub(super) valid: usize,
    /// The offset after them.
    pub(super) next_offset: u64,
    /// What follows them, if it is not a good record and not just beyond the buffer.
    pub(super) bad: Option<&'static str>,
}

/// Reads records from byte `at` of `file` on, the first of which must be the one at `offset`, into `buffer`, and checks
/// each. The file counts as ending at `limit`. Grows the buffer for a record that is larger.
pub(super) fn read_chunk(
    file: &dyn DiskFile,
    at: u64,
    offset: u64,
    limit: u64,
    buffer: &mut BytesMut,
    mut each: impl FnMut(&RecordHeader),
) -> io::Result<Chunk> {
    let left = usize::try_from(limit.saturating_sub(at)).unwrap_or(usize::MAX);
    let mut want = left.min(CHUNK_BYTES);
    loop {
        buffer.resize(want, 0);
        let read = read_up_to(file, buffer, at)?;
        let mut chunk = Chunk { valid: 0, next_offset: offset, bad: None };
        while chunk.valid < read {
            match RecordHeader::check(&buffer[chunk.valid..read], chunk.next_offset) {
                Ok(header) => {
                    each(&header);
                    chunk.valid += header.length;
                    chunk.next_offset += 1;
                }
                Err(BadRecord::Incomplete(need)) => {
                    if read < want || chunk.valid.saturating_add(need) > left {
                        chunk.bad = Some("the file ends within a record");
                    } else if chunk.valid == 0 {
                        want = need;
                    }
                    break;
                }
                Err(BadRecord::Damaged(what)) => {
                    chunk.bad = Some(what);
                    break;
                }
            }
        }
        if read < want && chunk.bad.is_none() {
            chunk.bad = Some("the file is shorter than it was");
        }
        if chunk.valid == 0 && chunk.bad.is_none() && want > read {
            continue;
        }
        return Ok(chunk);
    }
}

/// Where a scan of a segment ended.
pub(super) struct Scanned {
    /// The index of all good records, also of those before the scan.
    pub(super) index: Index,
    /// Everything before this offset is known to have been synced once.
    pub(super) synced_before: u64,
    /// What follows the good records before the end of the file, if anything.
    pub(super) bad: Option<&'static str>,
}

/// Reads and checks every record of a segment of `limit` bytes, from where `start` ends up to the first that is bad.
pub(super) fn scan_segment(
    file: &dyn DiskFile,
    start: Index,
    limit: u64,
    point_bytes: u64,
) -> io::Result<Scanned> {
    let mut scanned = Scanned { synced_before: start.base_offset, index: start, bad: None };
    let mut buffer = BytesMut::new();
    while scanned.index.bytes < limit && scanned.bad.is_none() {
        let (at, offset) = (scanned.index.bytes, scanned.index.end_offset);
        let chunk = read_chunk(file, at, offset, limit, &mut buffer, |header| {
            scanned.index.push(header, point_bytes);
            scanned.synced_before = header.synced_before();
        })?;
        scanned.bad = chunk.bad;
    }
    Ok(scanned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_others_are_not_taken() {
        assert_eq!(segment_name(42), "00000000000000000042.seg");
        for base in [0, 1, u64::MAX] {
            assert_eq!(parse_segment_name(&segment_name(base)), Some(base));
        }
        for name in
            ["1.seg", "00000000000000000042.index", "0000000000000000004x.seg", "99999999999999999999.seg"]
        {
            assert_eq!(parse_segment_name(name), None, "{name}");
        }
    }
}
