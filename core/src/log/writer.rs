//! The writer: takes the whole queue as one group, writes it with one write, syncs once, and tells everybody. Nobody
//! else changes files while the log is open, but for what compresses sealed segments. In a program it runs on a thread
//! of its own; a simulation drives it step by step.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use super::batch::RecordBatch;
use super::config::Durability;
use super::disk::{DiskFile, DiskLock};
use super::error::{LogError, LogErrorKind};
use super::format::{RecordHeader, SegmentHeader};
use super::index::Index;
use super::marker::{MARKER_NAME, Marker};
use super::retention::{Retention, make_room, retain};
use super::segment::{Segment, index_path, segment_name};
use super::shared::{Counters, Group, Health, Shared, Work};
use super::write_lock;

/// How often a full disk is tried again.
const DISK_FULL_RETRY: Duration = Duration::from_millis(200);
/// How often segments are looked through for those that may go, besides whenever a segment is begun.
const RETAIN_EVERY: Duration = Duration::from_secs(10);

/// The segment that grows.
pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    pub(super) file: Arc<dyn DiskFile>,
    /// Up to where the index beside it goes.
    pub(super) indexed_bytes: u64,
}

/// Writes what is appended. Only a simulation sees it: [`super::Log::open`] gives it to a thread.
pub struct Writer {
    shared: Arc<Shared>,
    active: Active,
    /// A group that found no room: kept, so that its offsets stay taken, and tried again.
    held: Option<Group>,
    lock: Option<Box<dyn DiskLock>>,
    /// The thread that compresses; the directory is let go only after it.
    packer: Option<JoinHandle<()>>,
    /// Since when something was written and not synced, by the monotonic clock.
    dirty_since: Option<Duration>,
    /// How many records the last group had that was synced, and when its commit began.
    synced: Option<(u64, Duration)>,
    /// What retention was last applied, and when.
    retained: Option<(Retention, Duration)>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, active: Active, lock: Box<dyn DiskLock>) -> Self {
        let (held, packer, dirty_since, synced, retained) = (None, None, None, None, None);
        Self { shared, active, held, lock: Some(lock), packer, dirty_since, synced, retained }
    }

    /// Has it wait for this thread too, which compresses, before it lets go of the directory.
    pub(super) fn set_packer(&mut self, packer: JoinHandle<()>) {
        self.packer = Some(packer);
    }

    /// Works until the log is closed.
    pub(super) fn run(mut self) {
        while self.shared.wait_for_work(self.patience()) == Work::Commit {
            self.step();
            self.gather();
        }
        self.finish();
    }

    /// Waits a little after a sync if others wait for the next one already: a sync costs as much for one record as for
    /// hundreds, and wakes every reader of the log. Who appends alone never waits for that: when its record is synced,
    /// nothing else is queued.
    fn gather(&mut self) {
        let Some((records, begun)) = self.synced.take() else { return };
        let left = (begun + self.shared.config.gather).saturating_sub(self.shared.clock.monotonic());
        if !left.is_zero() {
            self.shared.gather(records, left);
        }
    }

    /// Commits what is queued as one group, tries again what found no room, and syncs if that is due. Says whether
    /// there was anything to do.
    pub fn step(&mut self) -> bool {
        if matches!(self.shared.health(), Health::Failed(_) | Health::Closed) {
            return false;
        }
        if let Err(error) = self.retain_if_due() {
            self.fail(error);
            return true;
        }
        let was_held = self.held.is_some();
        let Some(mut group) = self.held.take().or_else(|| self.shared.take_group()) else {
            let has_synced = self.sync_if_due();
            self.save_index_if_due();
            return has_synced;
        };
        let (records, begun) = (group.end_offset - group.first_offset, self.shared.clock.monotonic());
        match self.commit(&mut group) {
            Ok(()) => {
                self.synced =
                    (self.shared.config.durability == Durability::Always).then_some((records, begun));
                Counters::add(&self.shared.counters.groups, 1);
                self.shared.room.add_permits(group.bytes.len());
                if was_held {
                    tracing::info!("the log has room again");
                    self.shared.set_health(Health::Running);
                }
                self.sync_if_due();
                self.save_index_if_due();
            }
            Err(error) if error.kind() == LogErrorKind::DiskFull => {
                self.held = Some(group);
                if !was_held {
                    tracing::error!(%error, "appends are refused until there is room");
                    self.shared.set_health(Health::Full(error));
                }
            }
            Err(error) => self.fail(error),
        }
        true
    }

    /// Commits what is queued, syncs, and leaves the mark of a clean stop. The log is closed afterwards.
    pub fn finish(&mut self) {
        while self.step() && self.held.is_none() {}
        let nothing_lost = self.held.is_none() && matches!(self.shared.health(), Health::Running);
        if nothing_lost && let Err(error) = self.mark_clean() {
            tracing::warn!(%error, "the log could not be marked as cleanly closed; the next start checks its tail");
        }
        self.let_go();
    }

    /// Gives the directory back and tells everybody, once nobody works in it any more.
    fn let_go(&mut self) {
        if let Some(packer) = self.packer.take() {
            self.shared.begin_close();
            // It looks for this after each few blocks.
            let _ended = packer.join();
        }
        self.lock = None;
        self.shared.finish();
    }

    /// How long to wait for an append before something else is due.
    fn patience(&self) -> Option<Duration> {
        if self.held.is_some() {
            return Some(DISK_FULL_RETRY);
        }
        let sync_due = match (self.shared.config.durability, self.dirty_since) {
            (Durability::Interval(every), Some(since)) => {
                Some((since + every).saturating_sub(self.shared.clock.monotonic()))
            }
            _ => None,
        };
        let retain_due = self.retained.map(|_| RETAIN_EVERY);
        sync_due.into_iter().chain(retain_due).min()
    }

    /// Applies retention when it was set or changed, and from time to time.
    fn retain_if_due(&mut self) -> Result<(), LogError> {
        let Some(retention) = self.shared.retention() else { return Ok(()) };
        let now = self.shared.clock.monotonic();
        if self.retained.is_some_and(|(last, at)| last == retention && now < at + RETAIN_EVERY) {
            return Ok(());
        }
        self.retained = Some((retention, now));
        retain(&self.shared, &retention)
    }

    /// Writes the rest of `group`, over as many segments as it needs. What is done is done: after an error it can be
    /// called again.
    fn commit(&mut self, group: &mut Group) -> Result<(), LogError> {
        while group.committed < group.bytes.len() {
            let (mut bytes, mut records) = self.fitting(group);
            if bytes == 0 {
                self.roll()?;
                (bytes, records) = self.fitting(group);
            }
            if let Some(retention) = self.shared.retention() {
                make_room(&self.shared, &retention, bytes as u64)?;
            }
            let part = group.bytes.slice(group.committed..group.committed + bytes);
            let first = group.first_offset;
            let batch = RecordBatch::new(part, first, first + records);
            self.write(&batch)?;
            group.committed += bytes;
            group.first_offset += records;
            self.publish(batch, records);
        }
        debug_assert_eq!(group.first_offset, group.end_offset);
        Ok(())
    }

    /// How many bytes and records of the rest of `group` go into the active segment: one at least if it is empty.
    fn fitting(&self, group: &Group) -> (usize, u64) {
        let segment = &self.active.segment;
        let room = self.shared.config.segment_bytes_max.saturating_sub(segment.bytes());
        let (records_left, group) = (group.end_offset - group.first_offset, &group.bytes[group.committed..]);
        if group.len() as u64 <= room {
            return (group.len(), records_left);
        }
        let is_empty = segment.end_offset() == segment.base;
        let (mut bytes, mut records) = (0, 0);
        while bytes < group.len() {
            let length = RecordHeader::read(&group[bytes..]).length;
            if (bytes + length) as u64 > room && !(is_empty && records == 0) {
                break;
            }
            bytes += length;
            records += 1;
        }
        (bytes, records)
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), LogError> {
        let Active { segment, file, .. } = &self.active;
        let at = segment.bytes();
        file.write_all_at(batch.bytes(), at).map_err(LogError::write("write", &segment.path))?;
        if self.shared.config.durability == Durability::Always {
            file.sync_data().map_err(LogError::sync("sync", &segment.path))?;
            Counters::add(&self.shared.counters.syncs, 1);
        } else {
            self.dirty_since.get_or_insert_with(|| self.shared.clock.monotonic());
        }
        Ok(())
    }

    /// Shows readers and waiters what was written: files first, memory second, the durable end last.
    fn publish(&self, batch: RecordBatch, records: u64) {
        Counters::add(&self.shared.counters.records, records);
        Counters::add(&self.shared.counters.bytes, batch.bytes().len() as u64);
        let end = batch.next_offset();
        self.active.segment.grow(batch.bytes());
        assert_eq!(self.active.segment.end_offset(), end, "a group was written at the wrong offset");
        self.shared.push_tail(batch);
        self.shared.set_durable(end);
    }

    /// Seals the active segment and begins the next.
    fn roll(&mut self) -> Result<(), LogError> {
        self.sync()?;
        let sealed = &self.active.segment;
        let next = create_segment(&self.shared, sealed.end_offset())?;
        if let Some(index) = sealed.seal() {
            save_index(&self.shared, sealed, &index);
        }
        write_lock(&self.shared.segments).push(next.segment.clone());
        self.active = next;
        match self.shared.retention() {
            Some(retention) => retain(&self.shared, &retention),
            None => Ok(()),
        }
    }

    /// Syncs what is written and not synced.
    fn sync(&mut self) -> Result<(), LogError> {
        if self.dirty_since.is_none() {
            return Ok(());
        }
        self.active.file.sync_data().map_err(LogError::sync("sync", &self.active.segment.path))?;
        Counters::add(&self.shared.counters.syncs, 1);
        self.dirty_since = None;
        self.shared.set_synced(self.active.segment.end_offset());
        Ok(())
    }

    fn sync_if_due(&mut self) -> bool {
        let (Durability::Interval(every), Some(since)) = (self.shared.config.durability, self.dirty_since)
        else {
            return false;
        };
        if self.shared.clock.monotonic() < since + every {
            return false;
        }
        if let Err(error) = self.sync() {
            self.fail(error);
        }
        true
    }

    /// Writes the index of a segment that has grown much, so that the next start need not read all of it. Only of what
    /// is synced: an index speaks for the records before its points.
    fn save_index_if_due(&mut self) {
        let Active { segment, indexed_bytes, .. } = &mut self.active;
        let grown = segment.bytes().saturating_sub(*indexed_bytes);
        let is_synced = self.dirty_since.is_none();
        if grown < self.shared.config.index_every_bytes
            || !is_synced
            || !matches!(self.shared.health(), Health::Running)
        {
            return;
        }
        *indexed_bytes = segment.bytes();
        if let Some(index) = segment.live_index() {
            save_index(&self.shared, segment, &index);
        }
    }

    /// Nothing is acknowledged from now on. What was written since the last sync may look whole and yet never have
    /// reached the disk: the next start writes it again before anybody reads it.
    fn fail(&mut self, error: LogError) {
        let cause: &dyn std::error::Error = &error;
        tracing::error!(error = cause, "nothing more is written or acknowledged");
        (self.held, self.dirty_since) = (None, None);
        self.shared.set_health(Health::Failed(error));
    }

    fn mark_clean(&mut self) -> Result<(), LogError> {
        self.sync()?;
        let segment = &self.active.segment;
        // A part of a group that found no room may stand behind the end.
        self.active.file.set_len(segment.bytes()).map_err(LogError::io("cut", &segment.path))?;
        self.active.file.sync_data().map_err(LogError::sync("sync", &segment.path))?;
        if let Some(index) = segment.live_index() {
            save_index(&self.shared, segment, &index);
        }
        let marker = Marker {
            log_id: self.shared.log_id,
            base_offset: segment.base,
            end_offset: segment.end_offset(),
            segment_bytes: segment.bytes(),
        };
        let Shared { disk, config, .. } = &*self.shared;
        let path = config.dir.join(MARKER_NAME);
        let file = disk.create(&path).map_err(LogError::io("create", &path))?;
        file.write_all_at(&marker.encode(), 0).map_err(LogError::io("write", &path))?;
        file.sync_data().map_err(LogError::io("sync", &path))?;
        disk.sync_dir(&config.dir).map_err(LogError::io("sync", &config.dir))
    }
}

/// Creates the segment that begins at `base`: under another name until its header is durable, so that a segment
/// without a whole header is always damage.
pub(super) fn create_segment(shared: &Shared, base: u64) -> Result<Active, LogError> {
    let dir = &shared.config.dir;
    let path = dir.join(segment_name(base));
    let under_way = path.with_extension("tmp");
    let header =
        SegmentHeader { log_id: shared.log_id, base_offset: base, created_ms: shared.clock.wall_ms() };
    let file = shared.disk.create(&under_way).map_err(LogError::write("create", &under_way))?;
    file.write_all_at(&header.encode(), 0).map_err(LogError::write("write", &under_way))?;
    file.sync_data().map_err(LogError::sync("sync", &under_way))?;
    shared.disk.rename(&under_way, &path).map_err(LogError::write("rename", &under_way))?;
    shared.disk.sync_dir(dir).map_err(LogError::sync("sync", dir))?;
    let point_bytes = shared.config.index_point_bytes;
    let segment = Segment::active(path, Index::new(base), header.created_ms, point_bytes);
    Ok(Active { segment: Arc::new(segment), file, indexed_bytes: 0 })
}

/// Puts the index beside its segment, in place of an older one. It can be rebuilt, so a failure is no more than a note,
/// and nothing is synced.
pub(super) fn save_index(shared: &Shared, segment: &Segment, index: &Index) {
    let path = index_path(&segment.path);
    let under_way = path.with_extension("index.tmp");
    let disk = &shared.disk;
    let saved = disk.create(&under_way).and_then(|file| file.write_all_at(&index.encode(shared.log_id), 0));
    if let Err(error) = saved.and_then(|()| disk.rename(&under_way, &path)) {
        // What is left of it may take the last room on the disk; the next start removes it in any case.
        let _tried = disk.remove(&under_way);
        tracing::warn!(%error, path = %path.display(), "index not saved; it is rebuilt when it is needed");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A panic of the thread must not leave anybody waiting. After `finish` this changes nothing.
        if !self.shared.is_finished() {
            self.let_go();
        }
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let groups = self.shared.counters.groups.load(Ordering::Relaxed);
        f.debug_struct("Writer").field("groups", &groups).finish_non_exhaustive()
    }
}
