//! Readers: from an offset on, durable records only, newest from memory and older from the files. A reader holds a
//! place and at most one buffer; it costs nobody anything to be slow.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use super::batch::RecordBatch;
use super::error::LogError;
use super::format::SEGMENT_HEADER_BYTES;
use super::read_lock;
use super::segment::{OpenSegment, Segment, read_chunk};
use super::shared::Shared;

/// Reads the log in order.
pub struct Reader {
    shared: Arc<Shared>,
    changes: watch::Receiver<u64>,
    position: u64,
    cursor: Cursor,
}

/// Where in the files a reader is, and its buffer.
#[derive(Default)]
struct Cursor {
    place: Option<Place>,
    /// The buffer of the last batch, used again when nobody holds the batch any more.
    spare: Option<Bytes>,
}

struct Place {
    segment: Arc<Segment>,
    open: OpenSegment,
    byte: u64,
    offset: u64,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, position: u64) -> Self {
        Self { changes: shared.durable.subscribe(), shared, position, cursor: Cursor::default() }
    }

    /// The offset that comes next.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Goes on from `offset`.
    pub fn seek(&mut self, offset: u64) {
        self.position = offset;
    }

    /// The records that come next, as soon as there is one. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// [`LogError::Trimmed`] if retention has removed the position, [`LogError::Closed`] at the end of a closed log,
    /// [`LogError::ReadOnly`] at the end of one that failed, and whatever is wrong with the files.
    pub async fn next_batch(&mut self) -> Result<RecordBatch, LogError> {
        loop {
            self.ready().await?;
            if let Some(batch) = self.tail_batch() {
                return Ok(batch);
            }
            if let Some(batch) = self.read_off_thread().await? {
                self.position = batch.next_offset();
                return Ok(batch);
            }
        }
    }

    /// The records that come next; none if the end is reached. Reads files on this thread.
    ///
    /// # Errors
    /// As [`Reader::next_batch`], but the end of a closed log is no error.
    pub fn try_next_batch(&mut self) -> Result<Option<RecordBatch>, LogError> {
        if self.position >= self.shared.durable_offset() {
            return Ok(None);
        }
        if let Some(batch) = self.tail_batch() {
            return Ok(Some(batch));
        }
        let batch = self.cursor.read(&self.shared, self.position)?;
        if let Some(batch) = &batch {
            self.position = batch.next_offset();
        }
        Ok(batch)
    }

    /// Waits until something at the position is durable.
    pub(crate) async fn ready(&mut self) -> Result<(), LogError> {
        loop {
            if *self.changes.borrow_and_update() > self.position {
                return Ok(());
            }
            match self.shared.check_open() {
                // There will be more when there is room again.
                Err(LogError::DiskFull { .. }) | Ok(()) => {}
                Err(error) => return Err(error),
            }
            if self.changes.changed().await.is_err() {
                return Err(LogError::Closed);
            }
        }
    }

    /// The whole group in memory that `offset` is in, if it is durable.
    pub(crate) fn tail_group(&self, offset: u64) -> Option<RecordBatch> {
        (offset < self.shared.durable_offset()).then(|| self.shared.tail_group(offset))?
    }

    fn tail_batch(&mut self) -> Option<RecordBatch> {
        let batch = self.tail_group(self.position)?.skip_to(self.position);
        self.position = batch.next_offset();
        Some(batch)
    }

    /// Reads on a thread that may block, where there is one.
    async fn read_off_thread(&mut self) -> Result<Option<RecordBatch>, LogError> {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return self.cursor.read(&self.shared, self.position);
        };
        let (shared, position) = (self.shared.clone(), self.position);
        let mut cursor = std::mem::take(&mut self.cursor);
        let read = runtime.spawn_blocking(move || {
            let batch = cursor.read(&shared, position);
            (cursor, batch)
        });
        match read.await {
            Ok((cursor, batch)) => {
                self.cursor = cursor;
                batch
            }
            // The runtime is shutting down.
            Err(_) => Err(LogError::Closed),
        }
    }
}

impl Cursor {
    /// The next records from `position` on; none if there is none yet.
    fn read(&mut self, shared: &Shared, position: u64) -> Result<Option<RecordBatch>, LogError> {
        let mut place = match self.place.take() {
            Some(place) if place.offset == position => place,
            _ => match Place::find(shared, position)? {
                Some(place) => place,
                None => return Ok(None),
            },
        };
        while place.byte >= place.segment.bytes() {
            if place.segment.end_offset() != place.offset || place.offset >= shared.durable_offset() {
                self.place = Some(place);
                return Ok(None);
            }
            match Place::find(shared, position)? {
                Some(next) => place = next,
                None => return Ok(None),
            }
        }
        let batch = self.read_at(&mut place)?;
        self.place = Some(place);
        Ok(Some(batch))
    }

    fn read_at(&mut self, place: &mut Place) -> Result<RecordBatch, LogError> {
        let spare = self.spare.take().and_then(|spare| spare.try_into_mut().ok());
        let mut buffer = spare.unwrap_or_default();
        let Place { segment, open, byte, offset } = place;
        let chunk = read_chunk(&*open.file, *byte, *offset, segment.bytes(), &mut buffer, |_| ())
            .map_err(open.unread())?;
        if chunk.valid == 0 {
            let what = chunk.bad.unwrap_or("the segment ends before its last record");
            return Err(open.corrupt(*offset, *byte, what));
        }
        let buffer = buffer.freeze();
        let batch = RecordBatch::new(buffer.slice(..chunk.valid), *offset, chunk.next_offset);
        self.spare = Some(buffer);
        *byte += chunk.valid as u64;
        *offset = chunk.next_offset;
        Ok(batch)
    }
}

impl Place {
    /// The place of the record at `offset`; none if it is not there yet.
    fn find(shared: &Shared, offset: u64) -> Result<Option<Self>, LogError> {
        let Some(segment) = find_segment(shared, |segment| segment.end_offset() <= offset) else {
            return Ok(None);
        };
        let trimmed = || LogError::Trimmed { offset, first: shared.first_offset() };
        if segment.base > offset {
            return Err(trimmed());
        }
        let open = match segment.open(&*shared.disk) {
            Err(missing) if missing.is_missing() && offset < shared.first_offset() => return Err(trimmed()),
            other => other?,
        };
        let byte = if segment.base == offset {
            SEGMENT_HEADER_BYTES as u64
        } else {
            byte_of(shared, &segment, &open, offset)?
        };
        Ok(Some(Self { segment, open, byte, offset }))
    }
}

/// Where in `segment` the record at `offset` begins.
fn byte_of(shared: &Shared, segment: &Segment, open: &OpenSegment, offset: u64) -> Result<u64, LogError> {
    let start = segment.point(&*shared.disk, shared.log_id, open, |index| index.point_before(offset));
    let (mut byte, mut at) = (start.byte, start.offset);
    let mut buffer = BytesMut::new();
    while at < offset {
        let mut skipped = 0;
        let chunk = read_chunk(&*open.file, byte, at, segment.bytes(), &mut buffer, |header| {
            if header.offset < offset {
                skipped += header.length as u64;
            }
        })
        .map_err(open.unread())?;
        if chunk.valid == 0 {
            return Err(open.corrupt(
                at,
                byte,
                chunk.bad.unwrap_or("the segment ends before its last record"),
            ));
        }
        byte += skipped;
        at = chunk.next_offset.min(offset);
    }
    Ok(byte)
}

/// The first offset whose time is `ms` or later; the end of what is durable if there is none.
pub(super) fn offset_at_time(shared: &Shared, ms: i64) -> Result<u64, LogError> {
    let end = shared.durable_offset();
    let later = |segment: &Segment| segment.end_offset() > segment.base && segment.latest_ms() >= ms;
    let segments = read_lock(&shared.segments);
    let Some(segment) = segments.iter().find(|segment| later(segment)).cloned() else {
        return Ok(end);
    };
    drop(segments);
    let open = segment.open(&*shared.disk)?;
    let start = segment.point(&*shared.disk, shared.log_id, &open, |index| index.point_before_ms(ms));
    let (mut byte, mut at) = (start.byte, start.offset);
    let mut buffer = BytesMut::new();
    while byte < segment.bytes() {
        let mut found = None;
        let chunk = read_chunk(&*open.file, byte, at, segment.bytes(), &mut buffer, |header| {
            if header.timestamp_ms >= ms {
                found.get_or_insert(header.offset);
            }
        })
        .map_err(open.unread())?;
        if let Some(offset) = found {
            return Ok(offset.min(end));
        }
        if chunk.valid == 0 {
            return Err(open.corrupt(
                at,
                byte,
                chunk.bad.unwrap_or("the segment ends before its last record"),
            ));
        }
        byte += chunk.valid as u64;
        at = chunk.next_offset;
    }
    Ok(end)
}

/// The first segment that is not `before`.
fn find_segment(shared: &Shared, before: impl Fn(&Segment) -> bool) -> Option<Arc<Segment>> {
    let segments = read_lock(&shared.segments);
    let at = segments.partition_point(|segment| before(segment));
    segments.get(at).cloned()
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("position", &self.position).finish_non_exhaustive()
    }
}
