//! Looking into a log that another process may have open: without its lock, without changing a byte. What is seen is
//! what is written and whole; the last group may not be durable yet.

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;

use super::config::LogConfig;
use super::disk::Disk;
use super::error::LogError;
use super::index::Index;
use super::recover::{self, Found, Tail};
use super::segment::{OpenSegment, Segment, SegmentFiles, read_chunk, segment_files_outside};
use super::shared::{Health, Shared};
use super::{Handle, Log, OpenReport, read_lock, write_lock};
use crate::clock::SharedClock;

/// A log that is looked at. Its [`Follower::log`] can be read, and nothing can be appended.
#[derive(Debug)]
pub struct Follower {
    log: Log,
}

impl Follower {
    /// Opens the log in `dir` to look at it.
    ///
    /// # Errors
    /// There is no log, it cannot be read, or it is damaged before its last segment.
    pub fn open(dir: &Path, disk: Arc<dyn Disk>, clock: SharedClock) -> Result<(Self, OpenReport), LogError> {
        let config = LogConfig::new(dir);
        let Found { log_id, segments, report, .. } = recover::find(&*disk, &config, Tail::Leave)?;
        if report.created {
            return Err(LogError::Config { setting: "dir", reason: "there is no log in this directory" });
        }
        let shared = Arc::new(Shared::new(config, disk, clock, log_id, segments));
        shared.set_health(Health::Closed);
        let log = Log { handle: Arc::new(Handle { shared, thread: Mutex::new(None) }) };
        Ok((Self { log }, report))
    }

    /// The log, to be read. It ends where it ended at the last [`Follower::refresh`].
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Takes in what was written since, and says whether there was anything.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn refresh(&self) -> Result<bool, LogError> {
        let shared = self.log.shared();
        let before = shared.durable_offset();
        let files = segment_files_outside(&*shared.disk, &shared.config.dir)?;
        if let Some(first) = files.first() {
            write_lock(&shared.segments).retain(|segment| segment.base >= first.base);
        }
        for segment in files {
            self.take_in(&segment)?;
        }
        let end = read_lock(&shared.segments).last().map_or(before, |segment| segment.end_offset());
        shared.set_durable(end);
        Ok(end > before)
    }

    fn take_in(&self, files: &SegmentFiles) -> Result<(), LogError> {
        let shared = self.log.shared();
        let newest = read_lock(&shared.segments).last().cloned();
        let known = newest.as_ref().filter(|newest| newest.base >= files.base);
        // One that was sealed meanwhile may be compressed already: how long it is, then, is for its file to say.
        if known
            .is_some_and(|known| known.base > files.base || files.raw.is_some_and(|raw| known.bytes() >= raw))
        {
            return Ok(());
        }
        let path = files.path(&shared.config.dir);
        let open = OpenSegment::open(&*shared.disk, &path, files.base, files.raw.is_none())?;
        let bytes = match (&open.packed, files.raw) {
            (None, Some(raw)) => raw,
            _ => open.file.len().map_err(open.unread())?,
        };
        let segment = match known {
            Some(known) => known.clone(),
            // Retention has overtaken everything, or the segment before has ended.
            None => {
                let header = &open.header;
                let point_bytes = shared.config.index_point_bytes;
                let segment = Segment::active(path, Index::new(files.base), header.created_ms, point_bytes);
                let segment = Arc::new(segment);
                write_lock(&shared.segments).push(segment.clone());
                segment
            }
        };
        let mut buffer = BytesMut::new();
        while segment.bytes() < bytes {
            let (at, offset) = (segment.bytes(), segment.end_offset());
            let chunk = read_chunk(&*open.file, at, offset, bytes, &mut buffer, |_| ());
            let chunk = chunk.map_err(open.unread())?;
            segment.grow(&buffer[..chunk.valid]);
            if chunk.valid == 0 {
                break;
            }
        }
        Ok(())
    }
}
