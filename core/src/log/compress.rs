//! Compresses sealed segments in the background, one at a time. A segment is only replaced by what was read back and is
//! the same, byte for byte; whatever goes wrong, it stays as it was written, and the log goes on as if nothing had been
//! tried. It must never hold up the writer.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use crc32c::crc32c;
use zstd::bulk::Compressor;

use super::config::Compress;
use super::disk::{Access, Disk, DiskFile, read_up_to};
use super::error::{LogError, is_full};
use super::format::{RecordHeader, SegmentHeader};
use super::index::{Index, Point};
use super::packed::{BLOCK_HEADER_BYTES, Block, ENTRY_BYTES, Entry, PACKED_HEADER_BYTES, PackedHeader};
use super::segment::{Segment, index_path, open_segment, read_chunk};
use super::shared::{Health, Shared};
use super::unpack::{PackedFile, packed_path};
use super::{lock, read_lock};

/// How often it is looked whether a segment can be compressed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the disk is left alone after it was found full.
const FULL_RETRY: Duration = Duration::from_secs(60);
/// A segment is left as it is if it would keep more than so many percent of its bytes,
const WORTH_PERCENT_MAX: u64 = 95;
/// which is seen after so many of them.
const SAMPLE_BYTES: u64 = 1024 * 1024;
/// How much is compared at once.
const WINDOW_BYTES: usize = 256 * 1024;
/// Added to the thread's nice value, so that it takes only time that nobody wants.
const NICE: i32 = 10;

/// Compresses sealed segments. Only a simulation sees it: [`super::Log::open`] gives it to a thread.
pub struct Packer {
    shared: Arc<Shared>,
    compress: Compress,
    /// Segments that are left as they are until the next start: compressing them gains nothing, or they are damaged.
    aside: BTreeSet<u64>,
    /// The disk was full; it is not tried again before this time of the monotonic clock.
    not_before: Option<Duration>,
    /// The disk failed; it is not tried again before the next start.
    given_up: bool,
}

/// Why a segment is left as it is.
enum Stop {
    /// The log has no time for it, or needs the segment no more.
    Interrupted,
    /// It would gain too little.
    Worthless,
    /// The segment cannot be read, or is damaged.
    Unfit(LogError),
    /// There is no room for both forms.
    Full(io::Error),
    /// The disk failed with what was written.
    Failed(LogError),
}

impl Packer {
    pub(super) fn new(shared: Arc<Shared>, compress: Compress) -> Self {
        Self { shared, compress, aside: BTreeSet::new(), not_before: None, given_up: false }
    }

    /// Works until the log is closed.
    pub(super) fn run(mut self) {
        // Of this thread alone, on Linux.
        let _kept = rustix::process::setpriority_process(None, NICE);
        loop {
            while self.step() {}
            if !self.shared.rest(LOOK_EVERY) {
                return;
            }
        }
    }

    /// Compresses the oldest segment that is due, or finds out why not. Says whether there was one.
    pub fn step(&mut self) -> bool {
        let is_early = self.not_before.is_some_and(|at| self.shared.clock.monotonic() < at);
        if self.given_up || is_early || !self.may_work() {
            return false;
        }
        let Some(segment) = self.next_due() else { return false };
        let path = segment.path.display();
        match self.pack(&segment) {
            Ok(()) => {
                let (bytes, stored) = (segment.bytes(), segment.stored_bytes());
                tracing::debug!(%path, bytes, stored, "a segment was compressed");
            }
            Err(Stop::Interrupted) => {}
            Err(Stop::Worthless) => {
                tracing::debug!(%path, "a segment is not worth compressing");
                self.aside.insert(segment.base);
            }
            Err(Stop::Unfit(error)) => {
                tracing::error!(%error, "a segment cannot be compressed; `muster log verify` says more");
                self.aside.insert(segment.base);
            }
            Err(Stop::Full(error)) => {
                tracing::info!(%error, %path, "no room to compress a segment; tried again later");
                self.not_before = Some(self.shared.clock.monotonic() + FULL_RETRY);
            }
            Err(Stop::Failed(error)) => {
                tracing::warn!(%error, "nothing more is compressed until the next start");
                self.given_up = true;
            }
        }
        true
    }

    /// Not while the log closes, finds the disk full, or has failed. At its cap it is all the more welcome.
    fn may_work(&self) -> bool {
        let is_well = match self.shared.health() {
            Health::Running | Health::Full(LogError::DiskFull { source: None, .. }) => true,
            Health::Full(_) | Health::Failed(_) | Health::Closed => false,
        };
        is_well && !self.shared.is_closing()
    }

    /// The oldest sealed segment that is not compressed and was sealed long enough ago, by the wall clock.
    fn next_due(&self) -> Option<Arc<Segment>> {
        let after_ms = i64::try_from(self.compress.after.as_millis()).unwrap_or(i64::MAX);
        let sealed_before = self.shared.clock.wall_ms().saturating_sub(after_ms);
        let segments = read_lock(&self.shared.segments);
        let mut pairs = segments.iter().zip(segments.iter().skip(1));
        let is_due = |segment: &Segment, next: &Segment| {
            let is_old = after_ms == 0 || next.created_ms <= sealed_before;
            is_old && !segment.is_packed() && !self.aside.contains(&segment.base)
        };
        pairs.find(|(segment, next)| is_due(segment, next)).map(|(segment, _)| segment.clone())
    }

    fn pack(&self, segment: &Segment) -> Result<(), Stop> {
        let under_way = packed_path(&segment.path).with_extension("zst.tmp");
        let packed =
            self.write(segment, &under_way).and_then(|bytes| self.publish(segment, &under_way, bytes));
        if packed.is_err() && !segment.is_packed() {
            // What is left of it may take the last room on the disk; the next start removes it in any case.
            let _tried = self.shared.disk.remove(&under_way);
        }
        packed
    }

    /// Writes the compressed form beside the segment, and reads it back. Says how long it is.
    fn write(&self, segment: &Segment, under_way: &Path) -> Result<u64, Stop> {
        let disk = &*self.shared.disk;
        let unfit = |error: io::Error| Stop::Unfit(LogError::io("read", &segment.path)(error));
        let (raw, header) =
            open_segment(disk, &segment.path, segment.base, Access::Read).map_err(Stop::Unfit)?;
        let mut out = Output::create(disk, under_way, self.compress)?;
        let mut buffer = BytesMut::new();
        while out.index.bytes < segment.bytes() {
            let (at, offset) = (out.index.bytes, out.index.end_offset.max(segment.base));
            let chunk = read_chunk(&*raw, at, offset, segment.bytes(), &mut buffer, |_| ()).map_err(unfit)?;
            if chunk.valid == 0 {
                let what = chunk.bad.unwrap_or("the segment ends before its last record");
                let segment = segment.path.clone();
                return Err(Stop::Unfit(LogError::Corrupt { segment, offset, byte: at, what }));
            }
            out.take(&buffer[..chunk.valid])?;
            if out.index.bytes >= SAMPLE_BYTES && !is_worth(out.at, out.index.bytes) {
                return Err(Stop::Worthless);
            }
            if !self.may_work() {
                return Err(Stop::Interrupted);
            }
        }
        let bytes = out.finish(header)?;
        if !is_worth(bytes, segment.bytes()) {
            return Err(Stop::Worthless);
        }
        self.compare(segment, &*raw, under_way)?;
        Ok(bytes)
    }

    /// Reads what was written, and holds it against the segment.
    fn compare(&self, segment: &Segment, raw: &dyn DiskFile, under_way: &Path) -> Result<(), Stop> {
        let failed = |error| Stop::Failed(LogError::read(under_way)(error));
        let packed = PackedFile::open(&*self.shared.disk, under_way, segment.base).map_err(Stop::Failed)?;
        let (mut ours, mut theirs) = (vec![0; WINDOW_BYTES], vec![0; WINDOW_BYTES]);
        let mut at = 0;
        let differs = || failed(io::Error::other("what was written is not what is read"));
        let index = packed.index();
        if (index.bytes, index.end_offset) != (segment.bytes(), segment.end_offset()) {
            return Err(differs());
        }
        while at < segment.bytes() {
            let left = usize::try_from(segment.bytes() - at).unwrap_or(usize::MAX).min(WINDOW_BYTES);
            let read = read_up_to(&packed, &mut ours[..left], at).map_err(failed)?;
            let expected = read_up_to(raw, &mut theirs[..left], at).map_err(failed)?;
            if read < left || expected < left || ours[..left] != theirs[..left] {
                return Err(differs());
            }
            at += left as u64;
            if !self.may_work() {
                return Err(Stop::Interrupted);
            }
        }
        Ok(())
    }

    /// Puts the compressed form in the place of the other. A crash at any point leaves the one, the other, or both.
    fn publish(&self, segment: &Segment, under_way: &Path, bytes: u64) -> Result<(), Stop> {
        let Shared { disk, config, segments, files, .. } = &*self.shared;
        let path = packed_path(&segment.path);
        let _files = lock(files);
        let is_listed = read_lock(segments).iter().any(|listed| listed.base == segment.base);
        if !is_listed || !self.may_work() {
            return Err(Stop::Interrupted);
        }
        disk.rename(under_way, &path).map_err(failed("rename", under_way))?;
        if let Err(error) = disk.sync_dir(&config.dir) {
            // Nobody knows whether the new name lasts: the old one stays, and the next start sees.
            let _tried = disk.remove(&path);
            return Err(failed("sync", &config.dir)(error));
        }
        segment.set_packed(bytes);
        for path in [&index_path(&segment.path), &segment.path] {
            match disk.remove(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", path)(error));
                }
                _ => {}
            }
        }
        disk.sync_dir(&config.dir).map_err(failed("sync", &config.dir))
    }
}

/// Whether a segment of so many bytes is worth compressing to so many.
fn is_worth(stored: u64, raw: u64) -> bool {
    stored.saturating_mul(100) <= raw.saturating_mul(WORTH_PERCENT_MAX)
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Stop + 'a {
    move |error| {
        if is_full(&error) { Stop::Full(error) } else { Stop::Failed(LogError::io(action, path)(error)) }
    }
}

/// A compressed segment that is being written.
struct Output {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    /// Where the next block goes.
    at: u64,
    block_bytes: usize,
    compressor: Compressor<'static>,
    /// The segment as far as it was taken in.
    index: Index,
    /// The block that grows, and where it began.
    block: Vec<u8>,
    begun: Point,
    /// Compressed blocks that are not written yet.
    written: Vec<u8>,
    table: Vec<u8>,
}

impl Output {
    fn create(disk: &dyn Disk, path: &Path, compress: Compress) -> Result<Self, Stop> {
        let compressor = Compressor::new(compress.level).map_err(failed("compress into", path))?;
        let file = disk.create(path).map_err(failed("create", path))?;
        let index = Index::new(0);
        Ok(Self {
            file,
            path: path.to_owned(),
            at: PACKED_HEADER_BYTES as u64,
            block_bytes: compress.block_bytes,
            compressor,
            begun: Point { offset: 0, byte: index.bytes, latest_before_ms: i64::MIN },
            index,
            block: Vec::new(),
            written: Vec::new(),
            table: Vec::new(),
        })
    }

    /// Takes in records that follow, whole and good.
    fn take(&mut self, mut records: &[u8]) -> Result<(), Stop> {
        while !records.is_empty() {
            let record = RecordHeader::read(records);
            if self.block.is_empty() {
                let latest_before_ms = self.index.latest_ms;
                self.begun = Point { offset: record.offset, byte: self.index.bytes, latest_before_ms };
            }
            let (bytes, rest) = records.split_at(record.length);
            self.block.extend_from_slice(bytes);
            self.index.end_offset = record.offset + 1;
            self.index.bytes += record.length as u64;
            self.index.latest_ms = self.index.latest_ms.max(record.timestamp_ms);
            if self.block.len() >= self.block_bytes {
                self.end_block()?;
            }
            records = rest;
        }
        self.flush()
    }

    fn end_block(&mut self) -> Result<(), Stop> {
        if self.block.is_empty() {
            return Ok(());
        }
        let frame = self.compressor.compress(&self.block).map_err(failed("compress into", &self.path))?;
        let block =
            Block { at: self.at, point: self.begun, raw_bytes: self.block.len(), frame_bytes: frame.len() };
        Entry { at: block.at, point: block.point }.encode(&mut self.table);
        self.written.extend_from_slice(&block.encode_header(&frame));
        self.written.extend_from_slice(&frame);
        self.at += (BLOCK_HEADER_BYTES + frame.len()) as u64;
        self.block.clear();
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Stop> {
        if self.written.is_empty() {
            return Ok(());
        }
        let at = self.at - self.written.len() as u64;
        self.file.write_all_at(&self.written, at).map_err(failed("write", &self.path))?;
        self.written.clear();
        Ok(())
    }

    /// Ends the file and makes it durable; says how long it is. Its header comes last, so that there is none before
    /// the rest is there.
    fn finish(mut self, segment: SegmentHeader) -> Result<u64, Stop> {
        self.end_block()?;
        self.flush()?;
        let header = PackedHeader {
            segment,
            end_offset: self.index.end_offset,
            raw_bytes: self.index.bytes,
            latest_ms: self.index.latest_ms,
            blocks: (self.table.len() / ENTRY_BYTES) as u32,
            table_at: self.at,
            table_crc: crc32c(&self.table),
        };
        let write = |bytes: &[u8], at| self.file.write_all_at(bytes, at).map_err(failed("write", &self.path));
        write(&self.table, self.at)?;
        write(&header.encode(), 0)?;
        self.file.sync_data().map_err(failed("sync", &self.path))?;
        Ok(self.at + header.table_bytes())
    }
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("given_up", &self.given_up).finish_non_exhaustive()
    }
}
