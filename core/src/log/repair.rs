//! Repair: copies what is good of a damaged log to a new one, under the same id and the same offsets, and lists what
//! is lost. The damaged log is left as it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::error::LogError;
use super::format::{NewRecord, SegmentHeader};
use super::recover::lock_dir;
use super::salvage::{Progress, VerifyReport, salvage};
use super::segment::{segment_files, segment_name};
use crate::clock::Clock;

/// The kind of a record that stands for one that was lost, so that offsets stay dense. No event has it.
pub const LOST_KIND: u16 = 0;
/// A new segment is begun when one is larger than this.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// A hole of more offsets than this is not filled; the log would be all filler.
const HOLE_OFFSETS_MAX: u64 = 100_000_000;

/// What [`repair`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairReport {
    /// What was good and what was not.
    pub found: VerifyReport,
    /// How many records of [`LOST_KIND`] stand for lost ones.
    pub fillers: u64,
}

/// Copies what is good of the log in `from` to a new log in `to`. No process may have either open.
///
/// # Errors
/// A directory is in use, `to` has a log already, or one cannot be read or the other written.
pub fn repair(
    disk: &dyn Disk,
    clock: &dyn Clock,
    from: &Path,
    to: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<RepairReport, LogError> {
    let _from = lock_dir(disk, from)?;
    let _to = lock_dir(disk, to)?;
    if !segment_files(disk, to)?.is_empty() {
        return Err(LogError::Config { setting: "to", reason: "there is a log in this directory already" });
    }
    let found = salvage(disk, from, &mut |_| (), &mut |_, _| Ok(()))?;
    let Some(log_id) = found.log_id else {
        return Err(LogError::Config { setting: "from", reason: "no segment of a log is in this directory" });
    };
    let first = found.damages.iter().filter(|damage| damage.offset == found.first_offset);
    // Holes at the very beginning need no filler: a log may begin anywhere.
    let base = first.filter_map(|damage| damage.next_offset).max().unwrap_or(found.first_offset);
    let mut copy =
        Copy { disk, dir: to, log_id, now_ms: clock.wall_ms(), next: base, segment: None, fillers: 0 };
    let found = salvage(disk, from, progress, &mut |records, next| copy.take(records, next))?;
    copy.end()?;
    Ok(RepairReport { found, fillers: copy.fillers })
}

/// The new log, as it grows.
struct Copy<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    log_id: u128,
    now_ms: i64,
    next: u64,
    segment: Option<(PathBuf, Arc<dyn DiskFile>, u64)>,
    fillers: u64,
}

impl Copy<'_> {
    fn take(&mut self, records: &[u8], next: u64) -> Result<(), LogError> {
        let first = super::format::u64_at(records, 8);
        if first.saturating_sub(self.next) > HOLE_OFFSETS_MAX {
            return Err(LogError::Config {
                setting: "from",
                reason: "more than 100 million records in a row are lost",
            });
        }
        while self.next < first {
            let mut filler = Vec::new();
            let lost = NewRecord { kind: LOST_KIND, ..NewRecord::default() };
            for _ in 0..(first - self.next).min(1024) {
                lost.encode(lost.content_crc(), self.next, 0, &mut filler);
                self.next += 1;
                self.fillers += 1;
            }
            let filled = self.next;
            self.write(&filler, filled)?;
        }
        self.write(records, next)
    }

    fn write(&mut self, records: &[u8], next: u64) -> Result<(), LogError> {
        let first = super::format::u64_at(records, 8);
        if self.segment.as_ref().is_none_or(|(_, _, bytes)| *bytes > SEGMENT_BYTES) {
            self.end()?;
            self.begin(first)?;
        }
        if let Some((path, file, bytes)) = &mut self.segment {
            file.write_all_at(records, *bytes).map_err(LogError::write("write", path))?;
            *bytes += records.len() as u64;
        }
        self.next = next;
        Ok(())
    }

    fn begin(&mut self, base: u64) -> Result<(), LogError> {
        let path = self.dir.join(segment_name(base));
        let header =
            SegmentHeader { log_id: self.log_id, base_offset: base, created_ms: self.now_ms }.encode();
        let file = self.disk.create(&path).map_err(LogError::write("create", &path))?;
        file.write_all_at(&header, 0).map_err(LogError::write("write", &path))?;
        self.segment = Some((path, file, header.len() as u64));
        Ok(())
    }

    fn end(&mut self) -> Result<(), LogError> {
        if let Some((path, file, _)) = self.segment.take() {
            file.sync_data().map_err(LogError::io("sync", &path))?;
            self.disk.sync_dir(self.dir).map_err(LogError::io("sync", self.dir))?;
        }
        Ok(())
    }
}
