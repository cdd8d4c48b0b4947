//! Reading a log that may be damaged: every record that is whole, in order, and what is missing between. Nothing is
//! changed. [`verify`] reports it, [`repair`](super::repair()) copies it to a new log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;

use super::disk::{Access, Disk, DiskFile, read_up_to};
use super::error::LogError;
use super::format::{
    BadHeader, FORMAT_VERSION, RECORD_BYTES_CEILING, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES,
    SegmentHeader, u32_at, u64_at,
};
use super::marker::Marker;
use super::packed::{PACKED_HEADER_BYTES, PackedHeader};
use super::segment::{SegmentFiles, read_chunk, segment_files_outside, segment_name};
use super::unpack::{self, PackedFile};

/// How much of a damaged file is searched at once.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;
/// A hole between two records is believed up to so many offsets; a larger one is taken for damage of the offset.
const HOLE_OFFSETS_MAX: u64 = 1 << 32;

/// How far [`verify`] or [`repair`](super::repair()) is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes looked at.
    pub bytes: u64,
    /// Bytes there are.
    pub bytes_total: u64,
}

/// A part of a log that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The segment.
    pub segment: PathBuf,
    /// Where it begins in the file; in a compressed segment, the block in which it begins.
    pub byte: u64,
    /// How many bytes are of no use; 0 where a file is missing.
    pub bytes: u64,
    /// The first offset that is lost.
    pub offset: u64,
    /// The offset where it goes on; none at the end of the log, where nobody knows.
    pub next_offset: Option<u64>,
    /// What is wrong.
    pub what: &'static str,
}

/// What [`verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// The log's id; none if no segment tells.
    pub log_id: Option<u128>,
    /// The first offset.
    pub first_offset: u64,
    /// The offset after the last good record.
    pub next_offset: u64,
    /// How many records are good.
    pub records: u64,
    /// How many segments there are.
    pub segments: usize,
    /// Their bytes, as they were written before any was compressed.
    pub bytes: u64,
    /// What is not good. At the very end of a log that was not closed in order it may be a torn tail, which the next
    /// start cuts by itself, or a group that a running process is about to write.
    pub damages: Vec<Damage>,
}

/// Reads and checks every record of the log in `dir`, also while a process has it open.
///
/// # Errors
/// The directory or a file in it cannot be read, or a newer version wrote it.
pub fn verify(
    disk: &dyn Disk,
    dir: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<VerifyReport, LogError> {
    salvage(disk, dir, progress, &mut |_, _| Ok(()))
}

/// A segment that is to be read.
struct Source {
    path: PathBuf,
    /// Every byte at its place, compressed or not.
    file: Arc<dyn DiskFile>,
    packed: Option<Arc<PackedFile>>,
    log_id: Option<u128>,
    base: u64,
    bytes: u64,
    /// What is wrong with its header, or with the table of a compressed one.
    fault: Option<(u64, &'static str)>,
}

/// Takes good records, whole and in order of their offsets: the bytes, and the offset after them.
pub(super) type Take<'a> = dyn FnMut(&[u8], u64) -> Result<(), LogError> + 'a;

/// Gives each good record to `take`, and reports the rest.
pub(super) fn salvage(
    disk: &dyn Disk,
    dir: &Path,
    progress: &mut dyn FnMut(Progress),
    take: &mut Take<'_>,
) -> Result<VerifyReport, LogError> {
    let (log_id, sources) = sources(disk, dir)?;
    let bytes_total = sources.iter().map(|source| source.bytes).sum();
    let first_offset = sources.first().map_or(0, |source| source.base);
    let mut salvage = Salvage {
        report: VerifyReport {
            log_id,
            first_offset,
            next_offset: first_offset,
            segments: sources.len(),
            bytes: bytes_total,
            ..VerifyReport::default()
        },
        done: 0,
        progress,
        take,
    };
    for (at, source) in sources.iter().enumerate() {
        salvage.hole_before(source);
        salvage.read(source, sources.get(at + 1).map(|next| next.base))?;
        salvage.done += source.bytes;
    }
    salvage.end_missing(Marker::load(disk, dir), dir);
    salvage.end_compressed(sources.last());
    (salvage.progress)(Progress { bytes: bytes_total, bytes_total });
    Ok(salvage.report)
}

/// The segments in the order of what they say of themselves, or, where they cannot, of their names.
fn sources(disk: &dyn Disk, dir: &Path) -> Result<(Option<u128>, Vec<Source>), LogError> {
    let mut log_id = None;
    let mut sources = Vec::new();
    for files in segment_files_outside(disk, dir)? {
        let mut source = Source::open(disk, dir, &files)?;
        if let Some(id) = source.log_id
            && *log_id.get_or_insert(id) != id
        {
            (source.base, source.fault) = (files.base, Some((16, "the segment belongs to another log")));
        }
        sources.push(source);
    }
    sources.sort_by_key(|source| source.base);
    Ok((log_id, sources))
}

impl Source {
    /// Opens a segment in the form that the next start would take; another process may just be replacing it.
    fn open(disk: &dyn Disk, dir: &Path, files: &SegmentFiles) -> Result<Self, LogError> {
        let packed_path = files.packed_path(dir);
        let Some(bytes) = files.raw else { return Self::open_packed(disk, packed_path, files.base) };
        if files.packed.is_some() && unpack::whole(disk, &packed_path, files.base).is_some() {
            return Self::open_packed(disk, packed_path, files.base);
        }
        match Self::open_raw(disk, files.path(dir), files.base, bytes) {
            Err(missing) if missing.is_missing() => Self::open_packed(disk, packed_path, files.base),
            other => other,
        }
    }

    fn open_raw(disk: &dyn Disk, path: PathBuf, base: u64, bytes: u64) -> Result<Self, LogError> {
        let file = disk.open(&path, Access::Read).map_err(LogError::io("open", &path))?;
        let mut header = [0; SEGMENT_HEADER_BYTES];
        let read = read_up_to(&*file, &mut header, 0).map_err(LogError::io("read", &path))?;
        let (header, fault) = judge(SegmentHeader::decode(&header[..read]), &path, base)?;
        let (log_id, base) =
            (header.map(|header| header.log_id), header.map_or(base, |header| header.base_offset));
        Ok(Self { path, file, packed: None, log_id, base, bytes, fault })
    }

    fn open_packed(disk: &dyn Disk, path: PathBuf, base: u64) -> Result<Self, LogError> {
        let file = disk.open(&path, Access::Read).map_err(LogError::io("open", &path))?;
        let unread = |error| LogError::io("read", &path)(error);
        let mut bytes = [0; PACKED_HEADER_BYTES];
        let read = read_up_to(&*file, &mut bytes, 0).map_err(unread)?;
        let length = file.len().map_err(unread)?;
        let header = PackedHeader::decode(&bytes[..read], length);
        let (segment, fault) = judge(header.map(|header| header.segment), &path, base)?;
        let base = segment.map_or(base, |segment| segment.base_offset);
        let unknown = SegmentHeader { log_id: 0, base_offset: base, created_ms: 0 };
        let found = PackedFile::find_blocks(file, segment.unwrap_or(unknown), header.ok().as_ref());
        let (packed, blocks) = found.map_err(unread)?;
        let table = match PackedFile::open(disk, &path, base) {
            Err(error @ LogError::Io { .. }) => return Err(error),
            Err(LogError::Corrupt { byte, what, .. }) => Some((byte, what)),
            Ok(file) if !file.knows(&blocks) => {
                Some((length, "the table of blocks is not that of the blocks"))
            }
            _ => None,
        };
        let (log_id, bytes) = (segment.map(|segment| segment.log_id), packed.len().map_err(unread)?);
        let packed = Arc::new(packed);
        let file = packed.clone();
        Ok(Self { path, file, packed: Some(packed), log_id, base, bytes, fault: fault.or(table) })
    }

    /// Where in the file byte `at` of the segment is, and why it cannot be read if it cannot.
    fn place(&self, at: u64) -> (u64, Option<&'static str>) {
        self.packed.as_ref().map_or((at, None), |packed| packed.place_of(at))
    }
}

/// A header that is good, and what is wrong with it otherwise, or with the name of its file.
type Judged = (Option<SegmentHeader>, Option<(u64, &'static str)>);

fn judge(header: Result<SegmentHeader, BadHeader>, path: &Path, base: u64) -> Result<Judged, LogError> {
    match header {
        Ok(header) if header.base_offset != base => {
            Ok((Some(header), Some((32, "the segment's name is not that of its first offset"))))
        }
        Ok(header) => Ok((Some(header), None)),
        Err(BadHeader::Newer(found)) => {
            Err(LogError::NewerVersion { segment: path.to_owned(), found, newest: FORMAT_VERSION })
        }
        Err(BadHeader::Damaged(byte, what)) => Ok((None, Some((byte, what)))),
    }
}

struct Salvage<'a, 'b> {
    report: VerifyReport,
    /// Bytes of the segments that are done.
    done: u64,
    progress: &'a mut dyn FnMut(Progress),
    take: &'a mut Take<'b>,
}

impl Salvage<'_, '_> {
    /// Notes that a segment begins later than the one before it ended.
    fn hole_before(&mut self, source: &Source) {
        let offset = self.report.next_offset;
        let reaches = |last: &Damage| last.next_offset.is_none_or(|next| next >= source.base);
        let known = self.report.damages.last().is_some_and(reaches);
        if source.base > offset && !known {
            let what = "the records before this segment are missing";
            self.damage(source, 0, 0, what, Some(source.base));
        }
    }

    fn read(&mut self, source: &Source, next_base: Option<u64>) -> Result<(), LogError> {
        let is_foreign = source.fault.is_some_and(|(byte, _)| byte == 16);
        if let Some((byte, what)) = source.fault {
            let bytes = if is_foreign { source.bytes } else { 0 };
            self.damage(source, byte, bytes, what, if is_foreign { next_base } else { Some(source.base) });
        }
        if is_foreign {
            return Ok(());
        }
        let mut at = SEGMENT_HEADER_BYTES as u64;
        let mut offset = source.base;
        while at < source.bytes {
            let bad = self.read_good(source, &mut at, &mut offset)?;
            let Some(what) = bad else { break };
            let search = Search { after: offset, before: next_base.unwrap_or(offset + HOLE_OFFSETS_MAX) };
            let found = search.run(&*source.file, at + 1, source.bytes);
            let found = found.map_err(LogError::io("read", &source.path))?;
            let end = found.map_or(source.bytes, |(byte, _)| byte);
            let ((from, fault), (to, _)) = (source.place(at), source.place(end));
            let next = found.map(|(_, offset)| offset).or(next_base);
            self.damage(source, from, to - from, fault.unwrap_or(what), next);
            let Some((byte, next)) = found else { break };
            (at, offset) = (byte, next);
        }
        Ok(())
    }

    /// Notes that the log was closed in order and ended later then.
    fn end_missing(&mut self, marker: Option<Marker>, dir: &Path) {
        let report = &mut self.report;
        let Some(marker) = marker.filter(|marker| Some(marker.log_id) == report.log_id) else { return };
        if report.next_offset >= marker.end_offset {
            return;
        }
        if let Some(last) = report.damages.last_mut().filter(|last| last.next_offset.is_none()) {
            last.next_offset = Some(marker.end_offset);
            return;
        }
        report.damages.push(Damage {
            segment: dir.join(segment_name(marker.base_offset)),
            byte: 0,
            bytes: 0,
            offset: report.next_offset,
            next_offset: Some(marker.end_offset),
            what: "the log was closed in order and had more at its end",
        });
    }

    /// Notes that there is no segment to go on with, if that is not said already.
    fn end_compressed(&mut self, last: Option<&Source>) {
        let end = self.report.next_offset;
        let is_said = self.report.damages.last().is_some_and(|last| last.offset == end);
        if let Some(last) = last.filter(|last| last.packed.is_some() && !is_said) {
            let what = "the last segment is compressed, which only one with a successor can be";
            self.damage(last, 0, 0, what, None);
        }
    }

    /// Takes records up to one that is bad, and says what is bad with it; none at the end of the file.
    fn read_good(
        &mut self,
        source: &Source,
        at: &mut u64,
        offset: &mut u64,
    ) -> Result<Option<&'static str>, LogError> {
        let mut buffer = BytesMut::new();
        while *at < source.bytes {
            let known = self.report.next_offset;
            let (mut skip, mut records) = (0, 0);
            let chunk = read_chunk(&*source.file, *at, *offset, source.bytes, &mut buffer, |header| {
                if header.offset < known {
                    skip += header.length;
                } else {
                    records += 1;
                }
            })
            .map_err(LogError::io("read", &source.path))?;
            if records > 0 {
                (self.take)(&buffer[skip..chunk.valid], chunk.next_offset)?;
                self.report.records += records;
                self.report.next_offset = chunk.next_offset;
            }
            *at += chunk.valid as u64;
            *offset = chunk.next_offset;
            let bytes = self.done + *at;
            (self.progress)(Progress { bytes, bytes_total: self.report.bytes });
            if chunk.bad.is_some() {
                return Ok(chunk.bad);
            }
        }
        Ok(None)
    }

    fn damage(&mut self, source: &Source, byte: u64, bytes: u64, what: &'static str, next: Option<u64>) {
        self.report.damages.push(Damage {
            segment: source.path.clone(),
            byte,
            bytes,
            offset: self.report.next_offset,
            next_offset: next.map(|next| next.max(self.report.next_offset)),
            what,
        });
    }
}

/// Looks for a whole record in bytes that are not known to begin with one.
pub(super) struct Search {
    /// Its offset is greater than this,
    pub(super) after: u64,
    /// and less than this.
    pub(super) before: u64,
}

impl Search {
    /// The first in `from..end` of the file: at which byte, and its offset.
    pub(super) fn run(
        &self,
        file: &dyn DiskFile,
        from: u64,
        end: u64,
    ) -> std::io::Result<Option<(u64, u64)>> {
        let mut found = None;
        self.each(file, from, end, |byte, header| {
            found = Some((byte, header.offset));
            true
        })?;
        Ok(found)
    }

    /// Gives each to `stop` until that is true.
    pub(super) fn each(
        &self,
        file: &dyn DiskFile,
        from: u64,
        end: u64,
        mut stop: impl FnMut(u64, RecordHeader) -> bool,
    ) -> std::io::Result<()> {
        let mut window = BytesMut::new();
        let mut at = from;
        while at + RECORD_HEADER_BYTES as u64 <= end {
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            window.resize(left.min(WINDOW_BYTES), 0);
            let read = read_up_to(file, &mut window, at)?;
            if read < RECORD_HEADER_BYTES {
                return Ok(());
            }
            let starts = read - RECORD_HEADER_BYTES + 1;
            for start in 0..starts {
                if let Some(length) = self.plausible(&window[start..read], left - start)
                    && let Some(header) = whole(file, at + start as u64, length)?
                    && stop(at + start as u64, header)
                {
                    return Ok(());
                }
            }
            at += starts as u64;
        }
        Ok(())
    }

    /// The length of the record that `bytes` may begin with.
    fn plausible(&self, bytes: &[u8], left: usize) -> Option<usize> {
        let (offset, length) = (u64_at(bytes, 8), u32_at(bytes, 4) as usize);
        let fits = (RECORD_HEADER_BYTES..=left.min(RECORD_BYTES_CEILING)).contains(&length);
        (offset > self.after && offset < self.before && fits).then_some(length)
    }
}

fn whole(file: &dyn DiskFile, at: u64, length: usize) -> std::io::Result<Option<RecordHeader>> {
    let mut record = vec![0; length];
    let read = read_up_to(file, &mut record, at)?;
    let offset = u64_at(&record, 8);
    Ok(RecordHeader::check(&record[..read], offset).ok())
}
