//! The bytes of a compressed segment: its header, the headers of its blocks, and the table that says where each block
//! is. `docs/log-format.md` has the tables. Everything here is pure: bytes in, meaning or a named fault out. It must
//! never know how blocks are compressed.

use crc32c::{crc32c, crc32c_append};

use super::format::{
    BadHeader, OFFSET_MAX, RECORD_BYTES_CEILING, SEGMENT_HEADER_BYTES, SegmentHeader, check_header, i64_at,
    id_at, seal_header, u32_at, u64_at,
};
use super::index::{Index, Point};

/// Length of the header of a compressed segment; its first block follows.
pub(super) const PACKED_HEADER_BYTES: usize = 96;
/// Length of what stands before each compressed block.
pub(super) const BLOCK_HEADER_BYTES: usize = 48;
/// Length of a block's entry in the table.
pub(super) const ENTRY_BYTES: usize = 32;
/// A block is ended at the first record that ends so far or farther from its beginning; never more than this.
pub(super) const BLOCK_BYTES_MAX: usize = 16 * 1024 * 1024;
/// No block is longer uncompressed, for a record is in one block: what claims more is damage.
const BLOCK_RAW_BYTES_MAX: u64 = (BLOCK_BYTES_MAX + RECORD_BYTES_CEILING) as u64;
/// Zstandard makes at most 128 KiB of 4 bytes: what claims to be larger uncompressed is damage, or a bomb.
const RATIO_MAX: u64 = 32 * 1024;
/// More blocks than any segment can have.
const BLOCKS_MAX: u32 = 16 * 1024 * 1024;

const PACKED_MAGIC: &[u8; 8] = b"MUSTRZST";
const BLOCK_MAGIC: &[u8; 8] = b"MUSTRBLK";

/// What a compressed segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackedHeader {
    /// The header of the segment that was compressed.
    pub(super) segment: SegmentHeader,
    /// The offset after the last record.
    pub(super) end_offset: u64,
    /// Length of the segment that was compressed.
    pub(super) raw_bytes: u64,
    /// The latest time in it.
    pub(super) latest_ms: i64,
    /// How many blocks there are.
    pub(super) blocks: u32,
    /// Where the table begins, which ends the file.
    pub(super) table_at: u64,
    /// Checksum of the table.
    pub(super) table_crc: u32,
}

impl PackedHeader {
    /// The first bytes of the file.
    pub(super) fn encode(&self) -> [u8; PACKED_HEADER_BYTES] {
        let mut out = [0; PACKED_HEADER_BYTES];
        out[12..16].copy_from_slice(&self.blocks.to_le_bytes());
        out[16..32].copy_from_slice(&self.segment.log_id.to_be_bytes());
        out[32..40].copy_from_slice(&self.segment.base_offset.to_le_bytes());
        out[40..48].copy_from_slice(&self.segment.created_ms.to_le_bytes());
        out[48..56].copy_from_slice(&self.end_offset.to_le_bytes());
        out[56..64].copy_from_slice(&self.raw_bytes.to_le_bytes());
        out[64..72].copy_from_slice(&self.latest_ms.to_le_bytes());
        out[72..80].copy_from_slice(&self.table_at.to_le_bytes());
        out[80..84].copy_from_slice(&self.table_crc.to_le_bytes());
        seal_header(&mut out, PACKED_MAGIC);
        out
    }

    /// Reads and checks the first bytes of a file of so many bytes.
    pub(super) fn decode(bytes: &[u8], file_bytes: u64) -> Result<Self, BadHeader> {
        check_header(bytes, PACKED_HEADER_BYTES, PACKED_MAGIC)?;
        let header = Self {
            segment: SegmentHeader {
                log_id: id_at(bytes, 16),
                base_offset: u64_at(bytes, 32),
                created_ms: i64_at(bytes, 40),
            },
            end_offset: u64_at(bytes, 48),
            raw_bytes: u64_at(bytes, 56),
            latest_ms: i64_at(bytes, 64),
            blocks: u32_at(bytes, 12),
            table_at: u64_at(bytes, 72),
            table_crc: u32_at(bytes, 80),
        };
        if bytes[84..92].iter().any(|byte| *byte != 0) {
            return Err(BadHeader::Damaged(84, "a reserved field of the file's header is not zero"));
        }
        let possible = (1..=BLOCKS_MAX).contains(&header.blocks)
            && header.end_offset <= OFFSET_MAX
            && header.end_offset > header.segment.base_offset
            && header.raw_bytes > SEGMENT_HEADER_BYTES as u64
            && header.table_at > PACKED_HEADER_BYTES as u64;
        if !possible {
            return Err(BadHeader::Damaged(12, "a field of the file's header is impossible"));
        }
        let ends = header.table_at.checked_add(header.table_bytes());
        if ends != Some(file_bytes) {
            return Err(BadHeader::Damaged(file_bytes, "the file is not as long as it was"));
        }
        Ok(header)
    }

    /// Length of the table.
    pub(super) fn table_bytes(&self) -> u64 {
        u64::from(self.blocks) * ENTRY_BYTES as u64
    }

    /// What is known of the end of the segment, without points.
    pub(super) fn index(&self) -> Index {
        Index {
            base_offset: self.segment.base_offset,
            end_offset: self.end_offset,
            bytes: self.raw_bytes,
            latest_ms: self.latest_ms,
            points: Vec::new(),
        }
    }

    /// Reads and checks the table: where each block is, in order.
    pub(super) fn decode_table(&self, table: &[u8]) -> Result<Vec<Block>, BadHeader> {
        let bad =
            |entry: usize, what| Err(BadHeader::Damaged(self.table_at + (entry * ENTRY_BYTES) as u64, what));
        if table.len() as u64 != self.table_bytes() || crc32c(table) != self.table_crc {
            return bad(0, "the checksum of the table of blocks is wrong");
        }
        let entries: Vec<_> = table.chunks_exact(ENTRY_BYTES).map(Entry::read).collect();
        let end = Entry {
            at: self.table_at,
            point: Point { offset: self.end_offset, byte: self.raw_bytes, latest_before_ms: self.latest_ms },
        };
        let mut blocks = Vec::with_capacity(entries.len());
        for (n, entry) in entries.iter().enumerate() {
            let Some(block) = entry.until(entries.get(n + 1).unwrap_or(&end)) else {
                return bad(n, "the table of blocks is impossible");
            };
            blocks.push(block);
        }
        let first = Entry {
            at: PACKED_HEADER_BYTES as u64,
            point: Point {
                offset: self.segment.base_offset,
                byte: SEGMENT_HEADER_BYTES as u64,
                latest_before_ms: i64::MIN,
            },
        };
        match entries.first() {
            Some(found) if *found == first => Ok(blocks),
            _ => bad(0, "the table of blocks does not begin with the segment"),
        }
    }
}

/// An entry of the table: where a block is in the file, and the point of the segment where it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) at: u64,
    pub(super) point: Point,
}

impl Entry {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.at.to_le_bytes());
        out.extend_from_slice(&self.point.offset.to_le_bytes());
        out.extend_from_slice(&self.point.byte.to_le_bytes());
        out.extend_from_slice(&self.point.latest_before_ms.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        let point =
            Point { offset: u64_at(bytes, 8), byte: u64_at(bytes, 16), latest_before_ms: i64_at(bytes, 24) };
        Self { at: u64_at(bytes, 0), point }
    }

    /// The block that lies between this entry and the next; none if there can be no such block.
    fn until(&self, next: &Self) -> Option<Block> {
        let stored = next.at.checked_sub(self.at)?;
        let raw = next.point.byte.checked_sub(self.point.byte)?;
        let frame = stored.checked_sub(BLOCK_HEADER_BYTES as u64)?;
        let ordered = self.point.offset < next.point.offset
            && self.point.latest_before_ms <= next.point.latest_before_ms;
        let (raw_bytes, frame_bytes) = possible_lengths(raw, frame)?;
        ordered.then_some(Block { at: self.at, point: self.point, raw_bytes, frame_bytes })
    }
}

/// A compressed block: where it is in the file, where it begins in the segment, and its lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) at: u64,
    pub(super) point: Point,
    /// Uncompressed.
    pub(super) raw_bytes: usize,
    /// Compressed, without the header before it.
    pub(super) frame_bytes: usize,
}

impl Block {
    /// Its length in the file.
    pub(super) fn stored_bytes(&self) -> u64 {
        (BLOCK_HEADER_BYTES + self.frame_bytes) as u64
    }

    /// What stands before `frame`.
    pub(super) fn encode_header(&self, frame: &[u8]) -> [u8; BLOCK_HEADER_BYTES] {
        let mut out = [0; BLOCK_HEADER_BYTES];
        out[..8].copy_from_slice(BLOCK_MAGIC);
        out[8..16].copy_from_slice(&self.point.offset.to_le_bytes());
        out[16..24].copy_from_slice(&self.point.byte.to_le_bytes());
        out[24..32].copy_from_slice(&self.point.latest_before_ms.to_le_bytes());
        out[32..36].copy_from_slice(&(self.raw_bytes as u32).to_le_bytes());
        out[36..40].copy_from_slice(&(self.frame_bytes as u32).to_le_bytes());
        out[40..44].copy_from_slice(&crc32c(frame).to_le_bytes());
        let crc = crc32c(&out[..44]);
        out[44..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header at the start of `bytes`, which stand at byte `at` of the file; none if there is none.
    pub(super) fn decode_header(bytes: &[u8], at: u64) -> Option<Self> {
        let header = bytes.get(..BLOCK_HEADER_BYTES)?;
        if &header[..8] != BLOCK_MAGIC || crc32c(&header[..44]) != u32_at(header, 44) {
            return None;
        }
        let (raw, frame) = (u64::from(u32_at(header, 32)), u64::from(u32_at(header, 36)));
        let (raw_bytes, frame_bytes) = possible_lengths(raw, frame)?;
        let point = Point {
            offset: u64_at(header, 8),
            byte: u64_at(header, 16),
            latest_before_ms: i64_at(header, 24),
        };
        Some(Self { at, point, raw_bytes, frame_bytes })
    }

    /// Whether the frame that follows `header` is the one that was written.
    pub(super) fn is_frame(header: &[u8], frame: &[u8]) -> bool {
        header.len() >= BLOCK_HEADER_BYTES && crc32c_append(0, frame) == u32_at(header, 40)
    }

    /// Where in `window` the next header may begin, from byte `from` of it on.
    pub(super) fn find_magic(window: &[u8], from: usize) -> Option<usize> {
        let rest = window.get(from..)?;
        rest.windows(BLOCK_MAGIC.len()).position(|bytes| bytes == BLOCK_MAGIC).map(|at| from + at)
    }
}

/// The lengths of a block, if they are within the limits.
fn possible_lengths(raw: u64, frame: u64) -> Option<(usize, usize)> {
    let possible =
        raw > 0 && frame > 0 && raw <= BLOCK_RAW_BYTES_MAX && raw <= frame.saturating_mul(RATIO_MAX);
    let lengths = (usize::try_from(raw).ok()?, usize::try_from(frame).ok()?);
    (possible && u32::try_from(frame).is_ok()).then_some(lengths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let entry = |at, offset, byte, latest_before_ms| Entry {
            at,
            point: Point { offset, byte, latest_before_ms },
        };
        vec![entry(96, 7, 64, i64::MIN), entry(296, 20, 4164, 5), entry(400, 31, 9000, 5)]
    }

    fn header(table: &[u8]) -> PackedHeader {
        PackedHeader {
            segment: SegmentHeader { log_id: 1 << 90, base_offset: 7, created_ms: -3 },
            end_offset: 40,
            raw_bytes: 10_000,
            latest_ms: 6,
            blocks: 3,
            table_at: 500,
            table_crc: crc32c(table),
        }
    }

    fn table(entries: &[Entry]) -> Vec<u8> {
        let mut table = Vec::new();
        entries.iter().for_each(|entry| entry.encode(&mut table));
        table
    }

    #[test]
    fn the_header_comes_back_and_any_flipped_bit_is_seen() {
        let header = header(&table(&entries()));
        let bytes = header.encode();
        let file_bytes = 500 + 3 * 32;
        assert_eq!(PackedHeader::decode(&bytes, file_bytes), Ok(header));
        assert!(PackedHeader::decode(&bytes, file_bytes - 1).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(PackedHeader::decode(&bad, file_bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_table_comes_back_and_one_that_cannot_be_is_refused() {
        let good = table(&entries());
        let blocks = header(&good).decode_table(&good).unwrap();
        assert_eq!(blocks.iter().map(|block| block.raw_bytes).collect::<Vec<_>>(), [4100, 4836, 1000]);
        assert_eq!(blocks.iter().map(|block| block.frame_bytes).collect::<Vec<_>>(), [152, 56, 52]);
        let changes: [fn(&mut Vec<Entry>); 9] = [
            |entries| entries[0].at = 97,
            |entries| entries[0].point.offset = 6,
            |entries| entries[0].point.byte = 65,
            |entries| entries[1].at = 360,
            |entries| entries[2].at = 501,
            |entries| entries[2].at = u64::MAX,
            |entries| entries[1].point.offset = 31,
            |entries| entries[2].point.byte = 10_000,
            |entries| entries[1].point.latest_before_ms = 7,
        ];
        for (n, change) in changes.iter().enumerate() {
            let mut entries = entries();
            change(&mut entries);
            let bad = table(&entries);
            assert!(header(&bad).decode_table(&bad).is_err(), "change {n}");
            assert!(header(&good).decode_table(&bad).is_err(), "change {n}");
        }
    }

    #[test]
    fn a_block_that_claims_more_than_zstandard_can_do_is_refused() {
        let point = Point { offset: 1, byte: 64, latest_before_ms: 0 };
        for (raw_bytes, frame_bytes, good) in [
            (1, 1, true),
            (32 * 1024, 1, true),
            (32 * 1024 + 1, 1, false),
            (BLOCK_BYTES_MAX + RECORD_BYTES_CEILING, 1 << 20, true),
            (BLOCK_BYTES_MAX + RECORD_BYTES_CEILING + 1, 1 << 20, false),
            (0, 1, false),
            (1, 0, false),
        ] {
            let block = Block { at: 96, point, raw_bytes, frame_bytes };
            let bytes = block.encode_header(b"frame");
            assert_eq!(Block::decode_header(&bytes, 96), good.then_some(block));
            assert!(Block::is_frame(&bytes, b"frame") && !Block::is_frame(&bytes, b"Frame"));
        }
    }
}
