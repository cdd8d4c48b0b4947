//! Segments: their names and two forms, what is known of each while the log is open, and the one loop that reads
//! records from a file and checks them. Recovery, readers, index building and verification all go through
//! [`read_chunk`].

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;

use super::disk::{Access, Disk, DiskFile, read_up_to};
use super::error::LogError;
use super::format::{
    BadHeader, BadRecord, FORMAT_VERSION, OFFSET_MAX, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use super::index::{Index, Point};
use super::lock;
use super::unpack::{PackedFile, packed_path};

/// How much is read from a file at once.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;

/// The name of the segment that begins at `base`.
pub(super) fn segment_name(base: u64) -> String {
    format!("{base:020}.seg")
}

/// The name of the same segment, compressed.
fn packed_name(base: u64) -> String {
    format!("{base:020}.zst")
}

/// The offset in the name of a file that ends so; none if it has another name.
fn parse_name(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_suffix(ending)?;
    let is_name = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let base = is_name.then(|| digits.parse().ok())?;
    base.filter(|base| *base <= OFFSET_MAX)
}

/// The files of one segment: as it was written, compressed, or for a moment both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentFiles {
    /// Its first offset.
    pub(super) base: u64,
    /// Length of the file as it was written.
    pub(super) raw: Option<u64>,
    /// Length of the compressed file.
    pub(super) packed: Option<u64>,
}

impl SegmentFiles {
    /// Where it is, or would be, as it was written. This path names the segment.
    pub(super) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(segment_name(self.base))
    }

    /// Where it is, or would be, compressed.
    pub(super) fn packed_path(&self, dir: &Path) -> PathBuf {
        dir.join(packed_name(self.base))
    }
}

/// The files of each segment, in order.
pub(super) fn segment_files(disk: &dyn Disk, dir: &Path) -> Result<Vec<SegmentFiles>, LogError> {
    let mut found = BTreeMap::new();
    add_files(disk, dir, &mut found)?;
    Ok(found.into_values().collect())
}

/// As [`segment_files`], where another process may have the log open. A listing may miss both files of a segment whose
/// one is just taking the other's place; two listings do not.
pub(super) fn segment_files_outside(disk: &dyn Disk, dir: &Path) -> Result<Vec<SegmentFiles>, LogError> {
    let mut found = BTreeMap::new();
    add_files(disk, dir, &mut found)?;
    add_files(disk, dir, &mut found)?;
    Ok(found.into_values().collect())
}

fn add_files(disk: &dyn Disk, dir: &Path, found: &mut BTreeMap<u64, SegmentFiles>) -> Result<(), LogError> {
    for file in disk.list(dir).map_err(LogError::io("list", dir))? {
        let none = |base| SegmentFiles { base, raw: None, packed: None };
        if let Some(base) = parse_name(&file.name, ".seg") {
            found.entry(base).or_insert(none(base)).raw = Some(file.bytes);
        } else if let Some(base) = parse_name(&file.name, ".zst") {
            found.entry(base).or_insert(none(base)).packed = Some(file.bytes);
        }
    }
    Ok(())
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
    /// When it was created, milliseconds since 1970.
    pub(super) created_ms: i64,
    /// Whether it is compressed. Whoever opens it looks for the other form too, for this may change at any moment.
    is_packed: AtomicBool,
    /// Length of the compressed file.
    packed_bytes: AtomicU64,
    /// The index of the segment that grows; none once it is sealed, when the file beside it is asked.
    live: Mutex<Option<Index>>,
}

impl Segment {
    /// A sealed segment, of which `index` (with or without points) tells the end. `path` is that of the segment as it
    /// was written.
    pub(super) fn sealed(path: PathBuf, index: &Index, created_ms: i64) -> Self {
        Self {
            base: index.base_offset,
            path,
            end_offset: AtomicU64::new(index.end_offset),
            bytes: AtomicU64::new(index.bytes),
            latest_ms: AtomicI64::new(index.latest_ms),
            point_bytes: 0,
            created_ms,
            is_packed: AtomicBool::new(false),
            packed_bytes: AtomicU64::new(0),
            live: Mutex::new(None),
        }
    }

    /// The segment that grows, and with it its index, with points at that distance.
    pub(super) fn active(path: PathBuf, index: Index, created_ms: i64, point_bytes: u64) -> Self {
        let sealed = Self::sealed(path, &index, created_ms);
        Self { point_bytes, live: Mutex::new(Some(index)), ..sealed }
    }

    pub(super) fn end_offset(&self) -> u64 {
        self.end_offset.load(Ordering::Acquire)
    }

    /// Its length as it was written: where its records end, compressed or not.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// What it takes on the disk.
    pub(super) fn stored_bytes(&self) -> u64 {
        if self.is_packed() { self.packed_bytes.load(Ordering::Acquire) } else { self.bytes() }
    }

    pub(super) fn is_packed(&self) -> bool {
        self.is_packed.load(Ordering::Acquire)
    }

    /// From now on it is compressed, in a file of so many bytes.
    pub(super) fn set_packed(&self, bytes: u64) {
        self.packed_bytes.store(bytes, Ordering::Release);
        self.is_packed.store(true, Ordering::Release);
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
    pub(super) fn point(
        &self,
        disk: &dyn Disk,
        log_id: u128,
        open: &OpenSegment,
        find: impl Fn(&Index) -> Point,
    ) -> Point {
        if let Some(packed) = &open.packed {
            return find(&packed.index());
        }
        if let Some(index) = lock(&self.live).as_ref() {
            return find(index);
        }
        let saved = Index::load(disk, &index_path(&self.path), log_id, self.base, false)
            .filter(|index| index.bytes == self.bytes());
        find(&saved.unwrap_or_else(|| Index::new(self.base)))
    }

    /// Opens it to read, in whichever form it is.
    pub(super) fn open(&self, disk: &dyn Disk) -> Result<OpenSegment, LogError> {
        OpenSegment::open(disk, &self.path, self.base, self.is_packed())
    }
}

/// A segment whose records can be read, in whichever form it is.
pub(super) struct OpenSegment {
    /// Has every byte at its place, compressed or not.
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) header: SegmentHeader,
    pub(super) packed: Option<Arc<PackedFile>>,
    /// The file that was opened.
    path: PathBuf,
}

impl OpenSegment {
    /// Opens the segment that is, or would be, at `path` as it was written. If the form that is expected is not there,
    /// it is the other: from outside one sees late that a segment was compressed.
    pub(super) fn open(disk: &dyn Disk, path: &Path, base: u64, is_packed: bool) -> Result<Self, LogError> {
        let form = |packed| {
            if packed { Self::open_packed(disk, path, base) } else { Self::open_raw(disk, path, base) }
        };
        match form(is_packed) {
            Err(missing) if missing.is_missing() => match form(!is_packed) {
                Err(also) if also.is_missing() => Err(missing),
                other => other,
            },
            other => other,
        }
    }

    fn open_raw(disk: &dyn Disk, path: &Path, base: u64) -> Result<Self, LogError> {
        let (file, header) = open_segment(disk, path, base, Access::Read)?;
        Ok(Self { file, header, packed: None, path: path.to_owned() })
    }

    pub(super) fn open_packed(disk: &dyn Disk, path: &Path, base: u64) -> Result<Self, LogError> {
        let path = packed_path(path);
        let packed = Arc::new(PackedFile::open(disk, &path, base)?);
        Ok(Self { file: packed.clone(), header: packed.segment(), packed: Some(packed), path })
    }

    /// The error of a record that is not what was written; `byte` is its place in the segment.
    pub(super) fn corrupt(&self, offset: u64, byte: u64, what: &'static str) -> LogError {
        let byte = self.packed.as_ref().map_or(byte, |packed| packed.place_of(byte).0);
        LogError::Corrupt { segment: self.path.clone(), offset, byte, what }
    }

    /// For `map_err` on reading its file.
    pub(super) fn unread(&self) -> impl FnOnce(io::Error) -> LogError + '_ {
        LogError::read(&self.path)
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
    let header = SegmentHeader::decode(&bytes[..read]).map_err(|bad| bad_header(bad, path, base))?;
    if header.base_offset != base {
        let what = "the segment's name is not that of its first offset; was it renamed or swapped?";
        return Err(LogError::Corrupt { segment: path.to_owned(), offset: base, byte: 32, what });
    }
    Ok((file, header))
}

/// The error of a file that does not begin as it was written.
pub(super) fn bad_header(bad: BadHeader, path: &Path, base: u64) -> LogError {
    match bad {
        BadHeader::Newer(found) => {
            LogError::NewerVersion { segment: path.to_owned(), found, newest: FORMAT_VERSION }
        }
        BadHeader::Damaged(byte, what) => {
            LogError::Corrupt { segment: path.to_owned(), offset: base, byte, what }
        }
    }
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
/// each. The file counts as ending at `limit`. Grows the buffer for a record that is larger. What can be read before an
/// error is given first, and the error with the next call.
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
        let (read, failed) = read_some(file, buffer, at);
        let mut chunk = Chunk { valid: 0, next_offset: offset, bad: None };
        while chunk.valid < read {
            match RecordHeader::check(&buffer[chunk.valid..read], chunk.next_offset) {
                Ok(header) => {
                    each(&header);
                    chunk.valid += header.length;
                    chunk.next_offset += 1;
                }
                Err(BadRecord::Incomplete(need)) => {
                    let is_end = read < want || chunk.valid.saturating_add(need) > left;
                    if is_end && failed.is_none() {
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
        if let Some(error) = failed.filter(|_| chunk.bad.is_none()) {
            return if chunk.valid > 0 { Ok(chunk) } else { Err(error) };
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

/// As [`read_up_to`], but what was read before an error is of use.
fn read_some(file: &dyn DiskFile, buffer: &mut [u8], at: u64) -> (usize, Option<io::Error>) {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (read, Some(error)),
        }
    }
    (read, None)
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
        for base in [0, 1, OFFSET_MAX] {
            assert_eq!(parse_name(&segment_name(base), ".seg"), Some(base));
            assert_eq!(parse_name(&packed_name(base), ".zst"), Some(base));
        }
        for name in [
            "1.seg",
            "00000000000000000042.zst",
            "00000000000000000042.zst.tmp",
            "00000000000000000042.index",
            "0000000000000000004x.seg",
            "99999999999999999999.seg",
        ] {
            assert_eq!(parse_name(name, ".seg"), None, "{name}");
        }
    }
}
