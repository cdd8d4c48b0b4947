//! The bytes of format version 1: segment header and record. `docs/log-format.md` has the tables; a golden file holds
//! both to them. Everything here is pure: bytes in, meaning or a named fault out.

use bytes::Bytes;
use crc32c::{crc32c, crc32c_append};

/// The version that is written, and the newest that is read.
pub const FORMAT_VERSION: u16 = 1;
/// Length of the header of a segment.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// Length of the header of a record.
pub const RECORD_HEADER_BYTES: usize = 32;
/// No record is longer, whatever the settings say: a length beyond it is damage.
pub const RECORD_BYTES_CEILING: usize = 512 * 1024 * 1024;

const SEGMENT_MAGIC: &[u8; 8] = b"MUSTRLOG";

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

pub(super) fn i64_at(bytes: &[u8], at: usize) -> i64 {
    u64_at(bytes, at).cast_signed()
}

/// 16 bytes, big endian, so that a hex dump shows the id as it is printed.
pub(super) fn id_at(bytes: &[u8], at: usize) -> u128 {
    bytes[at..at + 16].iter().fold(0, |id, byte| id << 8 | u128::from(*byte))
}

/// Magic, version, header length and checksum: the frame that segment, index and marker headers share.
pub(super) fn seal_header(header: &mut [u8], magic: &[u8; 8]) {
    let length = header.len();
    header[..8].copy_from_slice(magic);
    header[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    header[10..12].copy_from_slice(&(length as u16).to_le_bytes());
    let crc = crc32c(&header[..length - 4]);
    header[length - 4..].copy_from_slice(&crc.to_le_bytes());
}

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadHeader {
    /// A newer version wrote it.
    Newer(u16),
    /// Anything else: at which byte, and what.
    Damaged(u64, &'static str),
}

/// Checks what [`seal_header`] wrote. `bytes` is what the file begins with.
pub(super) fn check_header(bytes: &[u8], length: usize, magic: &[u8; 8]) -> Result<(), BadHeader> {
    if bytes.is_empty() {
        return Err(BadHeader::Damaged(0, "the file is empty"));
    }
    if bytes.iter().all(|byte| *byte == 0) {
        return Err(BadHeader::Damaged(0, "the file is filled with zeros"));
    }
    if bytes.len() < length {
        return Err(BadHeader::Damaged(bytes.len() as u64, "the file ends within its header"));
    }
    if &bytes[..8] != magic {
        return Err(BadHeader::Damaged(0, "the file does not begin as one of muster's"));
    }
    // The version stands before the checksum is looked at: a newer one may have another header.
    let version = u16_at(bytes, 8);
    if version > FORMAT_VERSION {
        return Err(BadHeader::Newer(version));
    }
    if crc32c(&bytes[..length - 4]) != u32_at(bytes, length - 4) {
        return Err(BadHeader::Damaged(length as u64 - 4, "the checksum of the file's header is wrong"));
    }
    if version == 0 || usize::from(u16_at(bytes, 10)) != length {
        return Err(BadHeader::Damaged(8, "version or length of the file's header is impossible"));
    }
    Ok(())
}

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The log that it belongs to.
    pub log_id: u128,
    /// The offset of its first record.
    pub base_offset: u64,
    /// When it was created, milliseconds since 1970.
    pub created_ms: i64,
}

impl SegmentHeader {
    /// The first bytes of the file.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut header = [0; SEGMENT_HEADER_BYTES];
        header[16..32].copy_from_slice(&self.log_id.to_be_bytes());
        header[32..40].copy_from_slice(&self.base_offset.to_le_bytes());
        header[40..48].copy_from_slice(&self.created_ms.to_le_bytes());
        seal_header(&mut header, SEGMENT_MAGIC);
        header
    }

    /// Reads and checks the first bytes of a file.
    ///
    /// # Errors
    /// [`BadHeader`] says what and where.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        check_header(bytes, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC)?;
        if u32_at(bytes, 12) != 0 || bytes[48..60].iter().any(|byte| *byte != 0) {
            return Err(BadHeader::Damaged(12, "a reserved field of the file's header is not zero"));
        }
        let header =
            Self { log_id: id_at(bytes, 16), base_offset: u64_at(bytes, 32), created_ms: i64_at(bytes, 40) };
        if header.base_offset > OFFSET_MAX {
            return Err(BadHeader::Damaged(32, "the offset of a segment is impossible"));
        }
        Ok(header)
    }
}

/// No log comes near it; a file that says so is damaged. What is counted on from it stays within 64 bits.
pub(super) const OFFSET_MAX: u64 = i64::MAX as u64;

/// A record to be written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewRecord {
    /// When it happened, milliseconds since 1970.
    pub timestamp_ms: i64,
    /// What it is; readers skip by it.
    pub kind: u16,
    /// What it is about; readers skip by it.
    pub topic: Bytes,
    /// The rest.
    pub body: Bytes,
}

impl NewRecord {
    /// Its length on disk.
    pub fn encoded_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.topic.len() + self.body.len()
    }

    /// The checksum of topic and body: the part that can be had before the offset is known.
    pub(super) fn content_crc(&self) -> u32 {
        crc32c_append(crc32c(&self.topic), &self.body)
    }

    /// Appends the record to `out`. `content_crc` is [`NewRecord::content_crc`]; `unsynced` as in [`RecordHeader`].
    pub(super) fn encode(&self, content_crc: u32, offset: u64, unsynced: u32, out: &mut Vec<u8>) {
        let mut header = [0; RECORD_HEADER_BYTES];
        header[4..8].copy_from_slice(&(self.encoded_bytes() as u32).to_le_bytes());
        header[8..16].copy_from_slice(&offset.to_le_bytes());
        header[16..24].copy_from_slice(&self.timestamp_ms.to_le_bytes());
        header[24..26].copy_from_slice(&self.kind.to_le_bytes());
        header[26..28].copy_from_slice(&(self.topic.len() as u16).to_le_bytes());
        header[28..32].copy_from_slice(&unsynced.to_le_bytes());
        let crc = crc32c_append(content_crc, &header[4..]);
        header[..4].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(&self.topic);
        out.extend_from_slice(&self.body);
    }
}

/// A record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Length of the whole record.
    pub length: usize,
    /// Its place in the log.
    pub offset: u64,
    /// When it happened, milliseconds since 1970.
    pub timestamp_ms: i64,
    /// What it is.
    pub kind: u16,
    /// Length of the topic.
    pub topic_bytes: usize,
    /// How many records right before it may not have been synced when it was written; all earlier ones were. This is
    /// how a torn tail is told from damage: a whole record proves that those before its group were durable.
    pub unsynced: u32,
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRecord {
    /// The bytes end before the record does; this many would be needed.
    Incomplete(usize),
    /// Not a record: what is wrong.
    Damaged(&'static str),
}

impl RecordHeader {
    /// Reads the fields of a header that is known to be good; `bytes` begins with the record.
    pub fn read(bytes: &[u8]) -> Self {
        Self {
            length: u32_at(bytes, 4) as usize,
            offset: u64_at(bytes, 8),
            timestamp_ms: i64_at(bytes, 16),
            kind: u16_at(bytes, 24),
            topic_bytes: usize::from(u16_at(bytes, 26)),
            unsynced: u32_at(bytes, 28),
        }
    }

    /// Reads the record at the start of `bytes` and checks every field of it; it must be the one at `offset`.
    ///
    /// # Errors
    /// [`BadRecord`] says what is wrong.
    pub fn check(bytes: &[u8], offset: u64) -> Result<Self, BadRecord> {
        if bytes.len() < RECORD_HEADER_BYTES {
            return Err(BadRecord::Incomplete(RECORD_HEADER_BYTES));
        }
        let header = Self::read(bytes);
        if header.length < RECORD_HEADER_BYTES + header.topic_bytes || header.length > RECORD_BYTES_CEILING {
            return Err(BadRecord::Damaged("the length of a record is impossible"));
        }
        if header.offset != offset {
            return Err(BadRecord::Damaged("the offset of a record is not the next one"));
        }
        if bytes.len() < header.length {
            return Err(BadRecord::Incomplete(header.length));
        }
        let content = crc32c(&bytes[RECORD_HEADER_BYTES..header.length]);
        if crc32c_append(content, &bytes[4..RECORD_HEADER_BYTES]) != u32_at(bytes, 0) {
            return Err(BadRecord::Damaged("the checksum of a record is wrong"));
        }
        Ok(header)
    }

    /// The first offset that may have been unsynced when the record was written.
    pub fn synced_before(&self) -> u64 {
        self.offset.saturating_sub(u64::from(self.unsynced))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(record: &NewRecord, offset: u64, unsynced: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        record.encode(record.content_crc(), offset, unsynced, &mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn a_record_comes_back_and_any_flipped_bit_is_seen(
            timestamp_ms: i64, kind: u16, offset: u64, unsynced: u32, flip: prop::sample::Index,
            topic in prop::collection::vec(any::<u8>(), 0..40),
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let record = NewRecord { timestamp_ms, kind, topic: topic.clone().into(), body: body.into() };
            let mut bytes = encoded(&record, offset, unsynced);
            let header = RecordHeader::check(&bytes, offset).unwrap();
            prop_assert_eq!(
                header,
                RecordHeader {
                    length: bytes.len(), offset, timestamp_ms, kind, topic_bytes: topic.len(), unsynced
                }
            );
            let bit = flip.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(RecordHeader::check(&bytes, offset).is_err());
        }

        #[test]
        fn a_segment_header_comes_back_and_any_flipped_bit_is_seen(
            log_id: u128, base_offset in 0..=OFFSET_MAX, created_ms: i64, bit in 0..SEGMENT_HEADER_BYTES * 8,
        ) {
            let header = SegmentHeader { log_id, base_offset, created_ms };
            let mut bytes = header.encode();
            prop_assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(SegmentHeader::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_record_of_another_place_is_refused() {
        let bytes = encoded(&NewRecord::default(), 7, 0);
        assert!(RecordHeader::check(&bytes, 7).is_ok());
        assert!(RecordHeader::check(&bytes, 8).is_err());
    }
}
