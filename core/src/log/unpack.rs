//! A compressed segment, read as if it were not compressed: [`PackedFile`] is a [`DiskFile`] with every byte of the
//! segment at its place, so that whoever reads records need not know. It holds one uncompressed block at a time.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use zstd::bulk::Decompressor;

use super::disk::{Access, Disk, DiskFile, read_up_to};
use super::error::LogError;
use super::format::{SEGMENT_HEADER_BYTES, SegmentHeader};
use super::index::{Index, Point};
use super::lock;
use super::packed::{BLOCK_HEADER_BYTES, Block, PACKED_HEADER_BYTES, PackedHeader};
use super::segment::{bad_header, scan_segment};

/// A buffer that a large record has made larger is let go with the next block.
const KEPT_BUFFER_BYTES_MAX: usize = 1024 * 1024;
/// How much of a damaged file is searched for blocks at once.
const WINDOW_BYTES: usize = 1024 * 1024;
/// What stands for bytes between two blocks that cannot be read: zeros, which are no record.
const HOLE_BYTES: usize = 64;

/// Says in an [`io::Error`] that a compressed segment is not as it was written.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(super) struct BlockDamage {
    /// The first offset of the block.
    pub(super) offset: u64,
    /// Where the block is in the file.
    pub(super) byte: u64,
    /// What is wrong with it.
    pub(super) what: &'static str,
}

/// An open compressed segment.
pub(super) struct PackedFile {
    file: Arc<dyn DiskFile>,
    segment: SegmentHeader,
    /// In order and without gaps: those of the table, or those that were found.
    blocks: Vec<Block>,
    /// The length of the segment.
    raw_bytes: u64,
    /// Where the blocks end in the file.
    blocks_end: u64,
    latest_ms: i64,
    end_offset: u64,
    damaged: Damaged,
    cache: Mutex<Cache>,
}

/// What to do about a block that is not as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damaged {
    /// Say so.
    Refuse,
    /// Zeros stand for it, and go on.
    Zeros,
}

#[derive(Default)]
struct Cache {
    /// Which block `bytes` is.
    block: Option<usize>,
    bytes: Vec<u8>,
    packed: Vec<u8>,
    decompressor: Option<Decompressor<'static>>,
    /// What was wrong with blocks for which zeros stand.
    faults: BTreeMap<usize, &'static str>,
}

/// Why a block cannot be had.
enum Fail {
    Io(io::Error),
    Damage(&'static str),
}

/// Opens the file and checks its header against its name.
pub(super) fn open_header(
    disk: &dyn Disk,
    path: &Path,
    base: u64,
) -> Result<(Arc<dyn DiskFile>, PackedHeader), LogError> {
    let file = disk.open(path, Access::Read).map_err(LogError::io("open", path))?;
    let length = file.len().map_err(LogError::io("read", path))?;
    let mut bytes = [0; PACKED_HEADER_BYTES];
    let read = read_up_to(&*file, &mut bytes, 0).map_err(LogError::io("read", path))?;
    let header = PackedHeader::decode(&bytes[..read], length).map_err(|bad| bad_header(bad, path, base))?;
    if header.segment.base_offset != base {
        let what = "the segment's name is not that of its first offset; was it renamed or swapped?";
        return Err(LogError::Corrupt { segment: path.to_owned(), offset: base, byte: 32, what });
    }
    Ok((file, header))
}

/// Whether every record of the compressed segment is there and good; its header then.
pub(super) fn whole(disk: &dyn Disk, path: &Path, base: u64) -> Option<PackedHeader> {
    let (file, header) = open_header(disk, path, base).ok()?;
    let packed = PackedFile::new(file, &header, path).ok()?;
    let scanned = scan_segment(&packed, Index::new(base), header.raw_bytes, u64::MAX).ok()?;
    let found = Index { points: Vec::new(), ..scanned.index };
    (scanned.bad.is_none() && found == header.index()).then_some(header)
}

impl PackedFile {
    /// Opens the file and reads its table; no block is read yet.
    ///
    /// # Errors
    /// Header or table are not as they were written, or the file cannot be read.
    pub(super) fn open(disk: &dyn Disk, path: &Path, base: u64) -> Result<Self, LogError> {
        let (file, header) = open_header(disk, path, base)?;
        Self::new(file, &header, path)
    }

    fn new(file: Arc<dyn DiskFile>, header: &PackedHeader, path: &Path) -> Result<Self, LogError> {
        // The header was held against the file's length: this is no more than the file has.
        let mut table = vec![0; usize::try_from(header.table_bytes()).unwrap_or(0)];
        let read = read_up_to(&*file, &mut table, header.table_at).map_err(LogError::io("read", path))?;
        let blocks = header
            .decode_table(&table[..read])
            .map_err(|bad| bad_header(bad, path, header.segment.base_offset))?;
        Ok(Self {
            file,
            segment: header.segment,
            blocks,
            raw_bytes: header.raw_bytes,
            blocks_end: header.table_at,
            latest_ms: header.latest_ms,
            end_offset: header.end_offset,
            damaged: Damaged::Refuse,
            cache: Mutex::default(),
        })
    }

    /// Opens a file that may be damaged by looking for its blocks, each of which says what it is. Zeros stand for those
    /// that cannot be read. `header` is that of the file, if it is good. The blocks that were found are given too.
    pub(super) fn find_blocks(
        file: Arc<dyn DiskFile>,
        segment: SegmentHeader,
        header: Option<&PackedHeader>,
    ) -> io::Result<(Self, Vec<Block>)> {
        let end = header.map_or_else(|| file.len(), |header| Ok(header.table_at))?;
        let mut found = Self {
            file,
            segment,
            blocks: Vec::new(),
            raw_bytes: SEGMENT_HEADER_BYTES as u64,
            blocks_end: PACKED_HEADER_BYTES as u64,
            latest_ms: i64::MIN,
            end_offset: segment.base_offset,
            damaged: Damaged::Zeros,
            cache: Mutex::default(),
        };
        let mut blocks = Vec::new();
        while let Some(block) = next_block(&*found.file, found.blocks_end, end)? {
            found.push_hole(block.at, block.point);
            found.push(block);
            blocks.push(block);
        }
        if let Some(header) = header {
            let offset = header.end_offset;
            found.push_hole(end, Point { offset, byte: 0, latest_before_ms: header.latest_ms });
        }
        found.blocks_end = end;
        Ok((found, blocks))
    }

    /// What there is up to byte `to` of the file is no block.
    fn push_hole(&mut self, to: u64, point: Point) {
        let lost = to.saturating_sub(self.blocks_end);
        if lost > 0 {
            let frame_bytes = usize::try_from(lost).unwrap_or(usize::MAX).saturating_sub(BLOCK_HEADER_BYTES);
            self.push(Block { at: self.blocks_end, point, raw_bytes: HOLE_BYTES, frame_bytes });
            self.blocks_end = to;
        }
    }

    fn push(&mut self, block: Block) {
        let point = Point { byte: self.raw_bytes, ..block.point };
        self.raw_bytes += block.raw_bytes as u64;
        self.blocks_end = block.at + block.stored_bytes();
        self.blocks.push(Block { point, ..block });
    }

    /// Whether the table of this file has each of `blocks`.
    pub(super) fn knows(&self, blocks: &[Block]) -> bool {
        let known = |block: &Block| self.blocks.binary_search_by_key(&block.at, |known| known.at);
        blocks.iter().all(|block| known(block).is_ok_and(|n| self.blocks.get(n) == Some(block)))
    }

    /// What the segment says of itself.
    pub(super) fn segment(&self) -> SegmentHeader {
        self.segment
    }

    /// The segment's index: its points are the beginnings of the blocks.
    pub(super) fn index(&self) -> Index {
        Index {
            base_offset: self.segment.base_offset,
            end_offset: self.end_offset,
            bytes: self.raw_bytes,
            latest_ms: self.latest_ms,
            points: self.blocks.iter().map(|block| block.point).collect(),
        }
    }

    /// Where in the file the block is that has byte `at` of the segment, and what was found wrong with it.
    pub(super) fn place_of(&self, at: u64) -> (u64, Option<&'static str>) {
        match self.block_of(at) {
            Some((n, block)) => (block.at, lock(&self.cache).faults.get(&n).copied()),
            None if at < SEGMENT_HEADER_BYTES as u64 => (at, None),
            None => (self.blocks_end, None),
        }
    }

    fn block_of(&self, at: u64) -> Option<(usize, &Block)> {
        let n = self.blocks.partition_point(|block| block.point.byte <= at).checked_sub(1)?;
        self.blocks.get(n).filter(|_| at < self.raw_bytes).map(|block| (n, block))
    }

    /// Gives the uncompressed block to `out`, which is as long.
    fn unpack(&self, cache: &mut Cache, n: usize, block: &Block, out: &mut [u8]) -> io::Result<()> {
        let what = match self.try_unpack(cache, block, out) {
            Ok(()) => return Ok(()),
            Err(Fail::Io(error)) => return Err(error),
            Err(Fail::Damage(what)) => what,
        };
        if self.damaged == Damaged::Zeros {
            cache.faults.insert(n, what);
            out.fill(0);
            return Ok(());
        }
        let damage = BlockDamage { offset: block.point.offset, byte: block.at, what };
        Err(io::Error::new(io::ErrorKind::InvalidData, damage))
    }

    fn try_unpack(&self, cache: &mut Cache, block: &Block, out: &mut [u8]) -> Result<(), Fail> {
        let Cache { packed, decompressor, .. } = cache;
        packed.clear();
        packed.shrink_to(KEPT_BUFFER_BYTES_MAX);
        // Its header first: what stands for a hole is longer than any block may be, and has none.
        packed.resize(BLOCK_HEADER_BYTES, 0);
        read_all(&*self.file, packed, block.at)?;
        let said =
            Block::decode_header(packed, block.at).ok_or(Fail::Damage("the header of a block is damaged"))?;
        let is_same = (said.point.offset, said.raw_bytes, said.frame_bytes)
            == (block.point.offset, block.raw_bytes, block.frame_bytes);
        let is_in_place = said.point == block.point || self.damaged == Damaged::Zeros;
        if !is_same || !is_in_place {
            return Err(Fail::Damage("a block is not the one that the table says"));
        }
        packed.resize(BLOCK_HEADER_BYTES + block.frame_bytes, 0);
        let (header, frame) = packed.split_at_mut(BLOCK_HEADER_BYTES);
        read_all(&*self.file, frame, block.at + BLOCK_HEADER_BYTES as u64)?;
        if !Block::is_frame(header, frame) {
            return Err(Fail::Damage("the checksum of a block is wrong"));
        }
        let decompressor = match decompressor {
            Some(decompressor) => decompressor,
            None => decompressor.insert(Decompressor::new().map_err(Fail::Io)?),
        };
        match decompressor.decompress_to_buffer(frame, out) {
            Ok(length) if length == out.len() => Ok(()),
            Ok(_) => Err(Fail::Damage("a block is shorter than it says")),
            Err(_) => Err(Fail::Damage("a block cannot be uncompressed to the length that it says")),
        }
    }
}

fn read_all(file: &dyn DiskFile, out: &mut [u8], at: u64) -> Result<(), Fail> {
    let read = read_up_to(file, out, at).map_err(Fail::Io)?;
    if read < out.len() { Err(Fail::Damage("the file is shorter than it was")) } else { Ok(()) }
}

/// The first block whose header is good, at or behind byte `from`.
fn next_block(file: &dyn DiskFile, from: u64, file_bytes: u64) -> io::Result<Option<Block>> {
    let mut window = Vec::new();
    let mut at = from;
    while at + BLOCK_HEADER_BYTES as u64 <= file_bytes {
        // At first only what most likely is there; once that is not, much at a time.
        let wanted = if at == from && window.is_empty() { BLOCK_HEADER_BYTES } else { WINDOW_BYTES };
        window.resize(wanted, 0);
        let read = read_up_to(file, &mut window, at)?;
        window.truncate(read);
        let mut next = 0;
        while let Some(start) = Block::find_magic(&window, next) {
            let place = at + start as u64;
            let block = window.get(start..).and_then(|bytes| Block::decode_header(bytes, place));
            if let Some(block) = block.filter(|block| place + block.stored_bytes() <= file_bytes) {
                return Ok(Some(block));
            }
            next = start + 1;
        }
        let whole = read.saturating_sub(BLOCK_HEADER_BYTES - 1);
        if whole == 0 {
            break;
        }
        at += whole as u64;
    }
    Ok(None)
}

impl DiskFile for PackedFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        if at < SEGMENT_HEADER_BYTES as u64 {
            let header = self.segment.encode();
            let rest = header.get(usize::try_from(at).unwrap_or(0)..).unwrap_or_default();
            let read = rest.len().min(buffer.len());
            buffer[..read].copy_from_slice(&rest[..read]);
            return Ok(read);
        }
        let Some((n, block)) = self.block_of(at).filter(|_| !buffer.is_empty()) else { return Ok(0) };
        let mut cache = lock(&self.cache);
        if at == block.point.byte && buffer.len() >= block.raw_bytes && cache.block != Some(n) {
            self.unpack(&mut cache, n, block, &mut buffer[..block.raw_bytes])?;
            return Ok(block.raw_bytes);
        }
        if cache.block != Some(n) {
            cache.block = None;
            let mut bytes = std::mem::take(&mut cache.bytes);
            bytes.clear();
            bytes.shrink_to(KEPT_BUFFER_BYTES_MAX);
            bytes.resize(block.raw_bytes, 0);
            self.unpack(&mut cache, n, block, &mut bytes)?;
            (cache.block, cache.bytes) = (Some(n), bytes);
        }
        let within = usize::try_from(at - block.point.byte).unwrap_or(usize::MAX);
        let rest = cache.bytes.get(within..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_all_at(&self, _bytes: &[u8], _at: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_len(&self, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.raw_bytes)
    }
}

/// What opens a segment in either form says in which path.
pub(super) fn packed_path(segment: &Path) -> PathBuf {
    segment.with_extension("zst")
}
