//! Retention: removes the oldest segments by age and by bytes, but nothing that somebody still needs; and a hard cap,
//! at which the log either refuses or drops its oldest. Only whole segments are removed, oldest first, each made
//! durable before the next, so that a crash never leaves a hole.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::error::LogError;
use super::lock;
use super::segment::{Segment, index_path};
use super::shared::Shared;
use super::unpack::packed_path;
use super::{read_lock, write_lock};

/// What may be removed. Without any limit nothing ever is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Segments whose latest record is older are removed, unless somebody holds them.
    pub age_max: Option<Duration>,
    /// The oldest segments are removed while the log is larger, unless somebody holds them.
    pub bytes_max: Option<u64>,
    /// The log never grows beyond this.
    pub cap_bytes: Option<u64>,
    /// What happens at the cap.
    pub when_full: WhenFull,
}

/// What happens when the log has reached its cap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Appends are refused, as on a full disk, until those who hold the log back have moved on.
    #[default]
    Refuse,
    /// The oldest segment goes, whoever still needs it.
    DropOldest,
}

/// An alarm is due when so much of the cap is used, in percent.
pub const CAP_ALARM_PERCENT: u64 = 80;

/// Who needs the log from which offset on.
#[derive(Debug, Default)]
pub(super) struct Holds {
    next_id: u64,
    by_id: BTreeMap<u64, (String, u64)>,
}

/// Keeps the log from its offset on, until it is dropped: a cursor, or a wish of an operator.
pub struct Hold {
    shared: Arc<Shared>,
    id: u64,
}

impl Hold {
    pub(super) fn new(shared: Arc<Shared>, name: String, offset: u64) -> Self {
        let mut holds = lock(&shared.holds);
        let id = holds.next_id;
        holds.next_id += 1;
        holds.by_id.insert(id, (name, offset));
        drop(holds);
        Self { shared, id }
    }

    /// Holds from `offset` on, from now on.
    pub fn advance(&self, offset: u64) {
        if let Some((_, held)) = lock(&self.shared.holds).by_id.get_mut(&self.id) {
            *held = offset;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        lock(&self.shared.holds).by_id.remove(&self.id);
    }
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let holds = lock(&self.shared.holds);
        f.debug_tuple("Hold").field(&holds.by_id.get(&self.id)).finish()
    }
}

impl Holds {
    /// Who holds the log back most, and where.
    pub(super) fn slowest(&self) -> Option<(String, u64)> {
        self.by_id.values().min_by_key(|(_, offset)| *offset).cloned()
    }
}

impl Retention {
    /// Whether the setting can be, with segments of at most so many bytes.
    pub(super) fn validate(&self, segment_bytes_max: u64) -> Result<(), LogError> {
        if self.cap_bytes.is_some_and(|cap| cap < segment_bytes_max.saturating_mul(2)) {
            let reason = "smaller than two segments; only whole segments are removed";
            return Err(LogError::Config { setting: "cap_bytes", reason });
        }
        Ok(())
    }
}

/// Removes what `retention` says, as far as nobody holds it.
pub(super) fn retain(shared: &Shared, retention: &Retention) -> Result<(), LogError> {
    let held = lock(&shared.holds).slowest().map_or(u64::MAX, |(_, offset)| offset);
    let age_max_ms = retention.age_max.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    let oldest_ms = age_max_ms.map_or(i64::MIN, |age| shared.clock.wall_ms().saturating_sub(age));
    let bytes_max = retention.bytes_max.unwrap_or(u64::MAX);
    while let Some(oldest) = oldest_sealed(shared)
        && oldest.end_offset() <= held
        && (oldest.latest_ms() < oldest_ms || shared.bytes() > bytes_max)
        && remove_oldest(shared, &oldest)?
    {}
    Ok(())
}

/// Makes room for `more` bytes under the cap.
pub(super) fn make_room(shared: &Shared, retention: &Retention, more: u64) -> Result<(), LogError> {
    let Some(cap) = retention.cap_bytes else { return Ok(()) };
    if shared.bytes() + more <= cap {
        return Ok(());
    }
    retain(shared, retention)?;
    while shared.bytes() + more > cap
        && let Some(oldest) = oldest_sealed(shared)
    {
        let held = lock(&shared.holds).slowest().map_or(u64::MAX, |(_, offset)| offset);
        let needed = oldest.end_offset() > held;
        if needed && retention.when_full == WhenFull::Refuse || !remove_oldest(shared, &oldest)? {
            break;
        }
        if needed {
            tracing::warn!(
                end_offset = oldest.end_offset(),
                "the log is at its cap; its oldest segment was dropped"
            );
        }
    }
    if shared.bytes() + more <= cap {
        return Ok(());
    }
    Err(LogError::DiskFull {
        reason: "it has reached its cap, and what it holds is still needed",
        source: None,
    })
}

fn oldest_sealed(shared: &Shared) -> Option<Arc<Segment>> {
    let segments = read_lock(&shared.segments);
    segments.first().filter(|_| segments.len() > 1).cloned()
}

/// Says whether it could be removed. Readers that have it open read on to its end.
fn remove_oldest(shared: &Shared, oldest: &Arc<Segment>) -> Result<bool, LogError> {
    let _files = lock(&shared.files);
    // Readers first: who finds the file missing must find the segment gone too.
    write_lock(&shared.segments).remove(0);
    // In whichever form it is, or in both if something had failed.
    let files = [index_path(&oldest.path), oldest.path.clone(), packed_path(&oldest.path)];
    let removed = files.iter().try_for_each(|path| match shared.disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    });
    if let Err(error) = removed {
        tracing::warn!(%error, path = %oldest.path.display(), "an old segment could not be removed");
        write_lock(&shared.segments).insert(0, oldest.clone());
        return Ok(false);
    }
    shared.disk.sync_dir(&shared.config.dir).map_err(LogError::sync("sync", &shared.config.dir))?;
    tracing::info!(path = %oldest.path.display(), "an old segment was removed");
    Ok(true)
}
