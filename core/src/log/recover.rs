//! Opening: finds the segments, holds them against each other, and makes the end of the last one trustworthy. A tail
//! that was torn by a crash is cut; anything else that is not as it was written refuses, and changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;
use rand::TryRngCore as _;
use rand::rngs::OsRng;

use super::config::LogConfig;
use super::disk::{Access, Disk, DiskFile, DiskLock, read_up_to};
use super::error::LogError;
use super::format::{RECORD_HEADER_BYTES, SegmentHeader};
use super::index::Index;
use super::marker::{MARKER_NAME, Marker};
use super::salvage::Search;
use super::segment::{
    OpenSegment, Scanned, Segment, SegmentFiles, index_path, open_segment, scan_segment, segment_files,
    segment_files_outside,
};
use super::unpack;

/// The lock file in a log's directory.
const LOCK_NAME: &str = "LOCK";
/// How much of a tail is written again at once.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// What was found when a log was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// There was no log; it was created.
    pub created: bool,
    /// The last process closed it in order.
    pub clean: bool,
    /// What a crash had left unfinished at the end and was cut.
    pub torn_tail: Option<TornTail>,
    /// How many records there are.
    pub records: u64,
    /// How many segments.
    pub segments: usize,
    /// How many bytes they take on the disk, without what was cut.
    pub bytes: u64,
    /// How many segments are compressed.
    pub segments_compressed: usize,
    /// How many indexes of sealed segments were missing or not to be trusted, and are new.
    pub indexes_rebuilt: usize,
    /// How many bytes of segments were read to check their records.
    pub scanned_bytes: u64,
}

/// The unfinished end of the log that was cut. It was never acknowledged with `durability = always`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The last segment.
    pub segment: PathBuf,
    /// The offset that comes next.
    pub offset: u64,
    /// Where in the segment the cut is.
    pub byte: u64,
    /// How many bytes were cut.
    pub bytes: u64,
    /// What was wrong with them.
    pub what: &'static str,
}

/// A log that was found in order.
pub(super) struct Found {
    pub(super) log_id: u128,
    pub(super) segments: Vec<Arc<Segment>>,
    /// The open file of the last segment; none if there is no segment.
    pub(super) last: Option<Arc<dyn DiskFile>>,
    /// Indexes to be written beside their segments.
    pub(super) rebuilt: Vec<(Arc<Segment>, Index)>,
    /// Up to where the index of the last segment goes, once `rebuilt` is written.
    pub(super) indexed_bytes: u64,
    /// Files that must go before anything is written: of segments that a crash left in both forms, the one or the
    /// other; the index of the last segment, if it is not to be trusted, or it might fit one day.
    pub(super) needless: Vec<PathBuf>,
    pub(super) report: OpenReport,
}

/// Takes the directory for this process.
pub(super) fn lock_dir(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn DiskLock>, LogError> {
    disk.create_dir_all(dir).map_err(LogError::io("create the directory", dir))?;
    let path = dir.join(LOCK_NAME);
    let lock = disk.try_lock(&path).map_err(LogError::io("lock", &path))?;
    lock.ok_or_else(|| LogError::Locked { dir: dir.to_owned() })
}

/// Whether the end of the log may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// A torn tail is cut, and what may not have been synced is.
    Mend,
    /// Everything stays as it is: another process may be writing.
    Leave,
}

/// Looks at everything, and changes nothing but the tail.
pub(super) fn find(disk: &dyn Disk, config: &LogConfig, tail: Tail) -> Result<Found, LogError> {
    let dir = &config.dir;
    let files = match tail {
        Tail::Mend => segment_files(disk, dir)?,
        Tail::Leave => segment_files_outside(disk, dir)?,
    };
    let (Some((last, sealed)), Some(first)) = (files.split_last(), files.first()) else {
        return Ok(Found {
            log_id: config.new_log_id.map_or_else(|| random_id(dir), Ok)?,
            segments: Vec::new(),
            last: None,
            rebuilt: Vec::new(),
            indexed_bytes: 0,
            needless: Vec::new(),
            report: OpenReport { created: true, ..OpenReport::default() },
        });
    };
    let first = OpenSegment::open(disk, &first.path(dir), first.base, first.raw.is_none())?;
    let mut found = Found {
        log_id: first.header.log_id,
        segments: Vec::new(),
        last: None,
        rebuilt: Vec::new(),
        indexed_bytes: 0,
        needless: Vec::new(),
        report: OpenReport::default(),
    };
    for (at, segment) in sealed.iter().enumerate() {
        let next = files.get(at + 1).unwrap_or(last).base;
        found.add_sealed(disk, config, segment, next, tail)?;
    }
    found.add_last(disk, config, last, tail)?;
    let report = &mut found.report;
    report.segments = found.segments.len();
    report.segments_compressed = found.segments.iter().filter(|segment| segment.is_packed()).count();
    report.records = found.segments.iter().map(|segment| segment.end_offset() - segment.base).sum();
    report.bytes = found.segments.iter().map(|segment| segment.stored_bytes()).sum();
    Ok(found)
}

/// Removes the mark of the clean stop, what a crash left half made, and what must go. Called once the log is known to
/// be good.
pub(super) fn tidy(disk: &dyn Disk, dir: &Path, needless: &[PathBuf]) -> Result<(), LogError> {
    let files = disk.list(dir).map_err(LogError::io("list", dir))?;
    let is_segment = |base: &str| files.iter().any(|file| file.name.strip_suffix(".seg") == Some(base));
    let mut removed = false;
    for file in &files {
        let orphan = file.name.strip_suffix(".index").is_some_and(|base| !is_segment(base));
        let path = dir.join(&file.name);
        let is_needless = orphan || needless.contains(&path);
        if is_needless || file.name.ends_with(".tmp") || file.name == MARKER_NAME {
            disk.remove(&path).map_err(LogError::io("remove", &path))?;
            removed = true;
        }
    }
    if removed {
        disk.sync_dir(dir).map_err(LogError::io("sync", dir))?;
    }
    Ok(())
}

impl Found {
    /// Adds a segment that has a successor: it was synced and never written to since, so that all of it must be good.
    fn add_sealed(
        &mut self,
        disk: &dyn Disk,
        config: &LogConfig,
        files: &SegmentFiles,
        next: u64,
        tail: Tail,
    ) -> Result<(), LogError> {
        let dir = &config.dir;
        let path = files.path(dir);
        let (segment, rebuilt) = match files.raw {
            // Another process may just be compressing it.
            Some(bytes) if tail == Tail::Leave => {
                match self.read_raw(disk, config, (&path, files.base, bytes), false) {
                    Err(missing) if missing.is_missing() => {
                        (self.read_packed(disk, &path, files.base)?, None)
                    }
                    other => other?,
                }
            }
            Some(_) if files.packed.is_some() && self.is_whole(disk, dir, files, next) => {
                self.needless.extend([path.clone(), index_path(&path)]);
                (self.read_packed(disk, &path, files.base)?, None)
            }
            Some(bytes) => {
                let read = self.read_raw(disk, config, (&path, files.base, bytes), files.packed.is_some())?;
                self.needless.extend(files.packed.map(|_| files.packed_path(dir)));
                read
            }
            None => (self.read_packed(disk, &path, files.base)?, None),
        };
        if segment.end_offset() != next {
            let what = "the segment that follows does not begin where this one ends; is a file missing?";
            let (offset, byte) = (segment.end_offset(), segment.stored_bytes());
            let segment = if segment.is_packed() { files.packed_path(dir) } else { path };
            return Err(LogError::Corrupt { segment, offset, byte, what });
        }
        let segment = Arc::new(segment);
        if let Some(index) = rebuilt {
            self.report.indexes_rebuilt += 1;
            self.rebuilt.push((segment.clone(), index));
        }
        self.segments.push(segment);
        Ok(())
    }

    /// A sealed segment as it was written, and its index if that is new. It is read if it has no good index, or if
    /// `in_doubt`.
    fn read_raw(
        &mut self,
        disk: &dyn Disk,
        config: &LogConfig,
        (path, base, bytes): (&Path, u64, u64),
        in_doubt: bool,
    ) -> Result<(Segment, Option<Index>), LogError> {
        let (file, header) = self.open_ours(disk, path, base, Access::Read)?;
        let saved = Index::load(disk, &index_path(path), self.log_id, base, true);
        if let Some(index) = saved.filter(|index| index.bytes == bytes && !in_doubt) {
            return Ok((Segment::sealed(path.to_owned(), &index, header.created_ms), None));
        }
        let scanned = scan_segment(&*file, Index::new(base), bytes, config.index_point_bytes)
            .map_err(LogError::io("read", path))?;
        self.report.scanned_bytes += bytes;
        if let Some(what) = scanned.bad {
            let Index { end_offset: offset, bytes: byte, .. } = scanned.index;
            return Err(LogError::Corrupt { segment: path.to_owned(), offset, byte, what });
        }
        let segment = Segment::sealed(path.to_owned(), &scanned.index, header.created_ms);
        Ok((segment, Some(scanned.index)))
    }

    /// A compressed segment. Its header tells all; it is not read.
    fn read_packed(&self, disk: &dyn Disk, path: &Path, base: u64) -> Result<Segment, LogError> {
        let packed_path = unpack::packed_path(path);
        let (file, header) = unpack::open_header(disk, &packed_path, base)?;
        if header.segment.log_id != self.log_id {
            return Err(foreign(&packed_path, base));
        }
        let bytes = file.len().map_err(LogError::io("read", &packed_path))?;
        let segment = Segment::sealed(path.to_owned(), &header.index(), header.segment.created_ms);
        segment.set_packed(bytes);
        Ok(segment)
    }

    /// Whether the compressed form of a segment that is there in both is as good as the other, so that one can go.
    fn is_whole(&self, disk: &dyn Disk, dir: &Path, files: &SegmentFiles, next: u64) -> bool {
        unpack::whole(disk, &files.packed_path(dir), files.base)
            .is_some_and(|header| header.segment.log_id == self.log_id && header.end_offset == next)
    }

    /// Adds the last segment: as the mark of the clean stop says, or read from where its index is sure of it, or from
    /// its beginning, to where it is good.
    fn add_last(
        &mut self,
        disk: &dyn Disk,
        config: &LogConfig,
        files: &SegmentFiles,
        tail: Tail,
    ) -> Result<(), LogError> {
        let (dir, point_bytes) = (&config.dir, config.index_point_bytes);
        let (path, base) = (files.path(dir), files.base);
        let Some(bytes) = files.raw else {
            let what =
                "the last segment is compressed, which only one with a successor can be; is a file missing?";
            return Err(LogError::Corrupt { segment: files.packed_path(dir), offset: base, byte: 0, what });
        };
        self.needless.extend(files.packed.map(|_| files.packed_path(dir)));
        let access = if tail == Tail::Mend { Access::ReadWrite } else { Access::Read };
        let (file, header) = self.open_ours(disk, &path, base, access)?;
        let marker = Marker::load(disk, dir).filter(|marker| marker.log_id == self.log_id);
        let saved = Index::load(disk, &index_path(&path), self.log_id, base, false);
        if let Some(marker) = marker {
            check_marker(&marker, &path, base, bytes)?;
            let matches = |index: &&Index| index.bytes == bytes && index.end_offset == marker.end_offset;
            if let Some(index) = saved.as_ref().filter(matches) {
                self.report.clean = true;
                self.last = Some(file);
                self.indexed_bytes = index.bytes;
                let segment = Segment::active(path, index.clone(), header.created_ms, point_bytes);
                self.segments.push(Arc::new(segment));
                return Ok(());
            }
        }
        let scanned = self.scan_last(&*file, saved, base, bytes, point_bytes);
        let scanned = scanned.map_err(LogError::io("read", &path))?;
        if self.indexed_bytes == 0 {
            self.needless.push(index_path(&path));
        }
        if tail == Tail::Mend {
            if let Some(what) = scanned.bad {
                self.cut_tail(&*file, &path, &scanned.index, bytes, what, marker.is_some())?;
            }
            make_durable(&*file, &scanned).map_err(LogError::io("sync", &path))?;
        }
        self.report.clean = marker.is_some();
        self.last = Some(file);
        let segment = Segment::active(path, scanned.index.clone(), header.created_ms, point_bytes);
        let segment = Arc::new(segment);
        if scanned.index.bytes.saturating_sub(self.indexed_bytes) >= config.index_every_bytes {
            self.indexed_bytes = scanned.index.bytes;
            self.rebuilt.push((segment.clone(), scanned.index));
        }
        self.segments.push(segment);
        Ok(())
    }

    /// Reads the last segment to where it is good.
    fn scan_last(
        &mut self,
        file: &dyn DiskFile,
        saved: Option<Index>,
        base: u64,
        bytes: u64,
        point_bytes: u64,
    ) -> std::io::Result<Scanned> {
        if let Some(saved) = saved.filter(|saved| saved.bytes <= bytes)
            && let Some(start) = saved.before_last_point()
        {
            self.report.scanned_bytes += bytes - start.bytes;
            if let Some(scanned) = scan_from(file, &saved, start, bytes, point_bytes)? {
                self.indexed_bytes = saved.bytes;
                return Ok(scanned);
            }
        }
        self.report.scanned_bytes += bytes;
        scan_segment(file, Index::new(base), bytes, point_bytes)
    }

    fn cut_tail(
        &mut self,
        file: &dyn DiskFile,
        path: &Path,
        good: &Index,
        bytes: u64,
        what: &'static str,
        was_clean: bool,
    ) -> Result<(), LogError> {
        let (offset, byte) = (good.end_offset, good.bytes);
        let was_durable =
            was_clean || proves_durable(file, byte, bytes, offset).map_err(LogError::io("read", path))?;
        if was_durable {
            return Err(LogError::Corrupt { segment: path.to_owned(), offset, byte, what });
        }
        file.set_len(byte).map_err(LogError::io("cut the torn tail of", path))?;
        self.report.torn_tail =
            Some(TornTail { segment: path.to_owned(), offset, byte, bytes: bytes - byte, what });
        Ok(())
    }

    fn open_ours(
        &self,
        disk: &dyn Disk,
        path: &Path,
        base: u64,
        access: Access,
    ) -> Result<(Arc<dyn DiskFile>, SegmentHeader), LogError> {
        let (file, header) = open_segment(disk, path, base, access)?;
        if header.log_id != self.log_id {
            return Err(foreign(path, base));
        }
        Ok((file, header))
    }
}

fn foreign(path: &Path, base: u64) -> LogError {
    let what = "the segment belongs to another log";
    LogError::Corrupt { segment: path.to_owned(), offset: base, byte: 16, what }
}

fn random_id(dir: &Path) -> Result<u128, LogError> {
    let mut bytes = [0; 16];
    let drawn = OsRng.try_fill_bytes(&mut bytes);
    drawn.map_err(std::io::Error::other).map_err(LogError::io("draw an id for the log in", dir))?;
    Ok(u128::from_be_bytes(bytes))
}

/// After a clean stop the last segment ends exactly where the mark says.
fn check_marker(marker: &Marker, path: &Path, base: u64, bytes: u64) -> Result<(), LogError> {
    let what = if marker.base_offset > base {
        "the log was closed in order, but its last segment is missing"
    } else if marker.base_offset == base && marker.segment_bytes > bytes {
        "the log was closed in order, but its last segment is shorter now"
    } else {
        return Ok(());
    };
    Err(LogError::Corrupt { segment: path.to_owned(), offset: marker.end_offset, byte: bytes, what })
}

/// Reads a segment from `start`, the last point of its saved index, on. None if anything is not as the index says: the
/// records from that point to the index's end must all be good and end just there. It was written when all of them
/// were synced, so nothing before is torn, and nothing needs to be written again.
fn scan_from(
    file: &dyn DiskFile,
    saved: &Index,
    start: Index,
    bytes: u64,
    point_bytes: u64,
) -> std::io::Result<Option<Scanned>> {
    let known = scan_segment(file, start, saved.bytes, point_bytes)?;
    let is_as_saved = known.bad.is_none()
        && (known.index.end_offset, known.index.latest_ms) == (saved.end_offset, saved.latest_ms);
    if !is_as_saved {
        return Ok(None);
    }
    let mut scanned = scan_segment(file, known.index, bytes, point_bytes)?;
    scanned.synced_before = scanned.synced_before.max(saved.end_offset);
    Ok(Some(scanned))
}

/// Makes what was found durable before anybody reads it. What a killed process had written may be in the system's
/// memory only, and after a sync that failed the system may even believe that it is not: so the records that are not
/// known to have been synced are written again, byte for byte, in their places.
fn make_durable(file: &dyn DiskFile, scanned: &Scanned) -> std::io::Result<()> {
    let Scanned { index, synced_before, .. } = scanned;
    let mut at = index.point_before(*synced_before).byte;
    let mut window = BytesMut::new();
    while at < index.bytes {
        let left = usize::try_from(index.bytes - at).unwrap_or(usize::MAX);
        window.resize(left.min(WINDOW_BYTES), 0);
        let read = read_up_to(file, &mut window, at)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        file.write_all_at(&window[..read], at)?;
        at += read as u64;
    }
    file.sync_data()
}

/// Whether anything after the bad record at `byte` proves that the record at `offset` was synced once: a whole record
/// that was written when everything before its own group was durable. If so, the record is not torn but damaged.
fn proves_durable(file: &dyn DiskFile, byte: u64, end: u64, offset: u64) -> std::io::Result<bool> {
    let before = offset + (end - byte) / RECORD_HEADER_BYTES as u64 + 1;
    let mut proof = false;
    Search { after: offset, before }.each(file, byte + 1, end, |_, header| {
        proof = header.synced_before() > offset;
        proof
    })?;
    Ok(proof)
}
