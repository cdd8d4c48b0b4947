//! Looking into a log that another process may have open: without its lock, without changing a byte. What is seen is
//! what is written and whole; the last group may not be durable yet.

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;

use super::config::LogConfig;
use super::disk::{Access, Disk};
use super::error::LogError;
use super::index::Index;
use super::recover::{self, Found, Tail, segment_files};
use super::segment::{Segment, open_segment, read_chunk, segment_name};
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
        let files = segment_files(&*shared.disk, &shared.config.dir)?;
        if let Some((first, _)) = files.first() {
            write_lock(&shared.segments).retain(|segment| segment.base >= *first);
        }
        for (base, bytes) in files {
            self.take_in(base, bytes)?;
        }
        let end = read_lock(&shared.segments).last().map_or(before, |segment| segment.end_offset());
        shared.durable.send_replace(end);
        Ok(end > before)
    }

    fn take_in(&self, base: u64, bytes: u64) -> Result<(), LogError> {
        let shared = self.log.shared();
        let path = shared.config.dir.join(segment_name(base));
        let newest = read_lock(&shared.segments).last().cloned();
        let segment = match newest {
            Some(newest) if newest.base > base => return Ok(()),
            Some(newest) if newest.base == base => newest,
            // Retention has overtaken everything, or the segment before has ended.
            _ => {
                let segment = Arc::new(Segment::active(
                    path.clone(),
                    Index::new(base),
                    shared.config.index_point_bytes,
                ));
                write_lock(&shared.segments).push(segment.clone());
                segment
            }
        };
        if segment.bytes() >= bytes {
            return Ok(());
        }
        let (file, _) = open_segment(&*shared.disk, &path, base, Access::Read)?;
        let mut buffer = BytesMut::new();
        loop {
            let (at, offset) = (segment.bytes(), segment.end_offset());
            let chunk = read_chunk(&*file, at, offset, bytes, &mut buffer, |_| ())
                .map_err(LogError::io("read", &path))?;
            segment.grow(&buffer[..chunk.valid]);
            if chunk.valid == 0 || segment.bytes() >= bytes {
                return Ok(());
            }
        }
    }
}
