//! The log's settings, each a named limit with its unit.

use std::path::PathBuf;
use std::time::Duration;

use super::error::LogError;
use super::format::{RECORD_BYTES_CEILING, RECORD_HEADER_BYTES};
use super::packed::BLOCK_BYTES_MAX;

/// When an append counts as durable, and with that, how much an outage of power can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// After an fdatasync. Nothing that was acknowledged is lost.
    #[default]
    Always,
    /// Once written; synced at this interval. Power or kernel failing takes what was acknowledged within it; the
    /// process failing takes nothing.
    Interval(Duration),
    /// Once written; synced when the system pleases, and when a segment is full. Power or kernel failing takes what
    /// the system had not written yet, on Linux usually up to 30 seconds; the process failing takes nothing.
    Os,
}

/// The longest time for which a sync may be put off.
pub const GATHER_MAX: Duration = Duration::from_millis(100);

/// How sealed segments are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compress {
    /// How hard Zstandard tries, [`COMPRESS_LEVEL_MIN`] to [`COMPRESS_LEVEL_MAX`]. Reading does not depend on it.
    pub level: i32,
    /// A segment is compressed when it was sealed so long ago, so that who reads near the tail is left in peace.
    pub after: Duration,
    /// Uncompressed bytes of a block, [`COMPRESS_BLOCK_BYTES_MIN`] to 16 MiB: what is uncompressed at least to read one
    /// record. Larger ones compress a little better.
    pub block_bytes: usize,
}

/// The lowest level: fast.
pub const COMPRESS_LEVEL_MIN: i32 = 1;
/// The highest level: small. Beyond it Zstandard takes much memory.
pub const COMPRESS_LEVEL_MAX: i32 = 19;
/// The smallest block.
pub const COMPRESS_BLOCK_BYTES_MIN: usize = 256;

impl Default for Compress {
    fn default() -> Self {
        Self { level: 3, after: Duration::from_secs(60), block_bytes: 64 * 1024 }
    }
}

/// Settings of a log. [`LogConfig::new`] has the defaults.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Where the segments are. One log a directory, nothing else in it.
    pub dir: PathBuf,
    /// When an append counts as durable.
    pub durability: Durability,
    /// With [`Durability::Always`]: how soon a sync may begin after another one began while records wait for it, so
    /// that more of them share it. Zero syncs as soon as the disk is free; at most [`GATHER_MAX`].
    pub gather: Duration,
    /// A segment that would grow beyond this is sealed and the next one begun.
    pub segment_bytes_max: u64,
    /// The largest record, with header and topic.
    pub record_bytes_max: u32,
    /// What may wait to be written; who would exceed it waits.
    pub queue_bytes_max: usize,
    /// What of the newest records is kept in memory for those who read at the tail.
    pub tail_bytes_max: usize,
    /// When the segment that grows has grown by so much, its index is written again: what an opening after a kill has
    /// to read at most, besides the last group.
    pub index_every_bytes: u64,
    /// The distance of two points of an index: what is read to find a place in a segment.
    pub index_point_bytes: u64,
    /// Whether sealed segments are compressed, and how. Compressed ones are read in any case.
    pub compress: Option<Compress>,
    /// The id of a log that is created; none for a random one.
    pub new_log_id: Option<u128>,
}

impl LogConfig {
    /// The defaults.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            durability: Durability::Always,
            gather: Duration::from_millis(1),
            segment_bytes_max: 64 * 1024 * 1024,
            record_bytes_max: 16 * 1024 * 1024,
            queue_bytes_max: 32 * 1024 * 1024,
            tail_bytes_max: 8 * 1024 * 1024,
            index_every_bytes: 4 * 1024 * 1024,
            index_point_bytes: 64 * 1024,
            compress: None,
            new_log_id: None,
        }
    }

    pub(super) fn validate(&self) -> Result<(), LogError> {
        let wrong = |setting, reason| Err(LogError::Config { setting, reason });
        if (self.record_bytes_max as usize) < RECORD_HEADER_BYTES {
            return wrong("record_bytes_max", "smaller than an empty record");
        }
        if self.record_bytes_max as usize > RECORD_BYTES_CEILING {
            return wrong("record_bytes_max", "larger than the format allows (512 MiB)");
        }
        if self.queue_bytes_max < self.record_bytes_max as usize {
            return wrong("queue_bytes_max", "smaller than record_bytes_max");
        }
        if self.queue_bytes_max > u32::MAX as usize {
            return wrong("queue_bytes_max", "larger than 4 GiB");
        }
        if self.gather > GATHER_MAX {
            return wrong("gather", "longer than 100 ms");
        }
        if self.segment_bytes_max < 4096 {
            return wrong("segment_bytes_max", "smaller than 4 KiB");
        }
        if let Some(Compress { level, block_bytes, .. }) = self.compress {
            if !(COMPRESS_LEVEL_MIN..=COMPRESS_LEVEL_MAX).contains(&level) {
                return wrong("compress.level", "not from 1 to 19");
            }
            if !(COMPRESS_BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&block_bytes) {
                return wrong("compress.block_bytes", "not from 256 B to 16 MiB");
            }
        }
        Ok(())
    }
}
