//! Records as a reader gets them: one buffer, checked, and views into it.

use bytes::Bytes;

use super::format::{RECORD_HEADER_BYTES, RecordHeader};

/// A record as it was written. Topic and body share the buffer that they were read into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the log.
    pub offset: u64,
    /// When it happened, milliseconds since 1970.
    pub timestamp_ms: i64,
    /// What it is.
    pub kind: u16,
    /// What it is about.
    pub topic: Bytes,
    /// The rest.
    pub body: Bytes,
}

/// Records that follow one another, at least one, in one buffer.
#[derive(Debug, Clone)]
pub struct RecordBatch {
    bytes: Bytes,
    first_offset: u64,
    next_offset: u64,
}

/// A record in a [`RecordBatch`]: its header is read, the rest only looked at.
#[derive(Debug, Clone, Copy)]
pub struct RecordRef<'a> {
    batch: &'a Bytes,
    at: usize,
    header: RecordHeader,
}

impl RecordBatch {
    /// `bytes` are whole records that were checked or are about to be written.
    pub(super) fn new(bytes: Bytes, first_offset: u64, next_offset: u64) -> Self {
        Self { bytes, first_offset, next_offset }
    }

    /// The offset of the first record.
    pub fn first_offset(&self) -> u64 {
        self.first_offset
    }

    /// The offset after the last record.
    pub fn next_offset(&self) -> u64 {
        self.next_offset
    }

    /// The records as they are on disk.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The records, without copying any of them.
    pub fn iter(&self) -> impl Iterator<Item = RecordRef<'_>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            (at < self.bytes.len()).then(|| {
                let record = self.record_at(at);
                at += record.header.length;
                record
            })
        })
    }

    /// The record that begins at byte `at` of the batch.
    pub(crate) fn record_at(&self, at: usize) -> RecordRef<'_> {
        RecordRef { batch: &self.bytes, at, header: RecordHeader::read(&self.bytes[at..]) }
    }

    /// The batch from `offset` on, which must be in it.
    pub(super) fn skip_to(&self, offset: u64) -> Self {
        let at = self.iter().find(|record| record.offset() >= offset).map_or(0, |record| record.at);
        Self::new(self.bytes.slice(at..), offset.max(self.first_offset), self.next_offset)
    }
}

impl<'a> RecordRef<'a> {
    /// Where in its batch it begins.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Its place in the log.
    pub fn offset(&self) -> u64 {
        self.header.offset
    }

    /// When it happened, milliseconds since 1970.
    pub fn timestamp_ms(&self) -> i64 {
        self.header.timestamp_ms
    }

    /// What it is.
    pub fn kind(&self) -> u16 {
        self.header.kind
    }

    /// What it is about.
    pub fn topic(&self) -> &'a [u8] {
        &self.batch[self.topic_at()..self.body_at()]
    }

    /// The rest.
    pub fn body(&self) -> &'a [u8] {
        &self.batch[self.body_at()..self.at + self.header.length]
    }

    /// The rest, sharing the buffer.
    pub fn body_bytes(&self) -> Bytes {
        self.batch.slice(self.body_at()..self.at + self.header.length)
    }

    /// The record, sharing the buffer.
    pub fn to_record(&self) -> Record {
        Record {
            offset: self.offset(),
            timestamp_ms: self.timestamp_ms(),
            kind: self.kind(),
            topic: self.batch.slice(self.topic_at()..self.body_at()),
            body: self.body_bytes(),
        }
    }

    fn topic_at(&self) -> usize {
        self.at + RECORD_HEADER_BYTES
    }

    fn body_at(&self) -> usize {
        self.topic_at() + self.header.topic_bytes
    }
}
