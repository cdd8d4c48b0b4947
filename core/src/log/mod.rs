//! The event log: an append-only, durable sequence of records in segment files. It knows bytes, kinds by number and
//! topics by their bytes; it must never know what an event is, nor who writes or reads.
//!
//! One writer thread takes whatever is queued as a group, writes it with one write and one fdatasync, and publishes the
//! durable end. [`Log::append`] gives a record its offset; [`Log::durable`] says when it may be acknowledged; a
//! [`Reader`] sees only what is durable. Format: `docs/log-format.md`.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;

use tokio::sync::watch;

mod batch;
mod compress;
mod config;
mod disk;
mod error;
mod follow;
mod format;
mod index;
mod marker;
mod packed;
mod reader;
mod recover;
mod repair;
mod retention;
mod salvage;
mod segment;
mod shared;
mod unpack;
mod waiters;
mod writer;

pub use batch::{Record, RecordBatch, RecordRef};
pub use compress::Packer;
pub use config::{
    COMPRESS_BLOCK_BYTES_MIN, COMPRESS_LEVEL_MAX, COMPRESS_LEVEL_MIN, Compress, Durability, GATHER_MAX,
    LogConfig,
};
pub use disk::{Access, Disk, DiskFile, DiskLock, FileEntry, RealDisk};
pub use error::{LogError, LogErrorKind};
pub use follow::Follower;
pub use format::{
    BadHeader, BadRecord, FORMAT_VERSION, NewRecord, RECORD_BYTES_CEILING, RECORD_HEADER_BYTES, RecordHeader,
    SEGMENT_HEADER_BYTES, SegmentHeader,
};
pub use reader::Reader;
pub use recover::{OpenReport, TornTail};
pub use repair::{LOST_KIND, RepairReport, repair};
pub use retention::{CAP_ALARM_PERCENT, Hold, Retention, WhenFull};
pub use salvage::{Damage, Progress, VerifyReport, verify};
pub use writer::Writer;

use crate::clock::SharedClock;
use shared::{Health, Shared};

/// An open log. Clones are handles to the same one; when the last is dropped, the log is closed in order.
#[derive(Clone)]
pub struct Log {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The log in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogStats {
    /// The log's id.
    pub log_id: u128,
    /// The first offset that is there.
    pub first_offset: u64,
    /// The offset that the next append gets.
    pub next_offset: u64,
    /// The exclusive end of what is durable.
    pub durable_offset: u64,
    /// How many segments there are.
    pub segments: usize,
    /// How many of them are compressed.
    pub segments_compressed: usize,
    /// Their bytes on the disk.
    pub bytes: u64,
    /// Their bytes as they were written, before any was compressed.
    pub raw_bytes: u64,
    /// Bytes that wait to be written.
    pub queued_bytes: usize,
    /// Groups committed since the log was opened.
    pub groups_total: u64,
    /// Syncs of segments since the log was opened.
    pub syncs_total: u64,
    /// Records committed since the log was opened.
    pub records_total: u64,
    /// Bytes committed since the log was opened.
    pub written_bytes_total: u64,
    /// When an append counts as durable.
    pub durability: Durability,
    /// Whether appends are refused now, and why.
    pub refuses: Option<LogErrorKind>,
    /// The cap on the log's bytes, if there is one.
    pub cap_bytes: Option<u64>,
    /// Whether so much of the cap is used ([`CAP_ALARM_PERCENT`]) that somebody should look.
    pub cap_alarm: bool,
    /// Who holds the log back most, and from which offset on.
    pub slowest_hold: Option<(String, u64)>,
}

impl Log {
    /// Opens the log in `config.dir`, or creates it.
    ///
    /// # Errors
    /// The directory is in use, cannot be read or written, or holds a log that is damaged before its tail; nothing is
    /// changed then.
    pub fn open(
        config: LogConfig,
        disk: Arc<dyn Disk>,
        clock: SharedClock,
    ) -> Result<(Self, OpenReport), LogError> {
        let dir = config.dir.clone();
        let (log, mut writer, report) = Self::open_stepwise(config, disk, clock)?;
        if let Some(packer) = log.packer() {
            let thread =
                std::thread::Builder::new().name("muster-log-pack".into()).spawn(move || packer.run());
            writer.set_packer(thread.map_err(LogError::io("compress the segments in", &dir))?);
        }
        let thread = std::thread::Builder::new().name("muster-log".into()).spawn(move || writer.run());
        let thread = thread.map_err(LogError::io("start the writer of", &dir))?;
        *lock(&log.handle.thread) = Some(thread);
        Ok((log, report))
    }

    /// As [`Log::open`], for simulations: no thread is started, nothing is committed but by [`Writer::step`], and
    /// nothing compressed but by [`Packer::step`].
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_stepwise(
        config: LogConfig,
        disk: Arc<dyn Disk>,
        clock: SharedClock,
    ) -> Result<(Self, Writer, OpenReport), LogError> {
        config.validate()?;
        let dir_lock = recover::lock_dir(&*disk, &config.dir)?;
        let found = recover::find(&*disk, &config, recover::Tail::Mend)?;
        recover::tidy(&*disk, &config.dir, &found.needless)?;
        let recover::Found { log_id, segments, last, rebuilt, indexed_bytes, mut report, .. } = found;
        let shared = Shared::new(config, disk, clock, log_id, segments);
        for (segment, index) in rebuilt {
            writer::save_index(&shared, &segment, &index);
        }
        let newest = read_lock(&shared.segments).last().cloned();
        let active = match (newest, last) {
            (Some(segment), Some(file)) => writer::Active { segment, file, indexed_bytes },
            _ => {
                let active = writer::create_segment(&shared, 0)?;
                write_lock(&shared.segments).push(active.segment.clone());
                report.segments = 1;
                report.bytes = active.segment.bytes();
                active
            }
        };
        let shared = Arc::new(shared);
        let handle = Handle { shared: shared.clone(), thread: Mutex::new(None) };
        Ok((Self { handle: Arc::new(handle) }, Writer::new(shared, active, dir_lock), report))
    }

    /// The log's id, drawn when it was created.
    pub fn id(&self) -> u128 {
        self.shared().log_id
    }

    /// The directory of the log.
    pub fn dir(&self) -> &Path {
        &self.shared().config.dir
    }

    /// The first offset that is there.
    pub fn first_offset(&self) -> u64 {
        self.shared().first_offset()
    }

    /// The offset that the next append gets.
    pub fn next_offset(&self) -> u64 {
        self.shared().next_offset()
    }

    /// The exclusive end of what is durable.
    pub fn durable_offset(&self) -> u64 {
        self.shared().durable_offset()
    }

    /// Appends a record and says its offset, which is given in order at this moment. Waits only for room in the queue;
    /// see [`Log::durable`] for the disk.
    ///
    /// # Errors
    /// [`LogError::DiskFull`] while there is no room on the disk, [`LogError::ReadOnly`] after a failure,
    /// [`LogError::Closed`], [`LogError::TooLarge`]. Nothing was appended then.
    pub async fn append(&self, record: NewRecord) -> Result<u64, LogError> {
        let bytes = self.check_size(&record)?;
        self.take_room(bytes).await?;
        self.shared().enqueue(&record)
    }

    /// As [`Log::append`], but never waits.
    ///
    /// # Errors
    /// As [`Log::append`], and [`LogError::QueueFull`].
    pub fn try_append(&self, record: &NewRecord) -> Result<u64, LogError> {
        let bytes = self.check_size(record)?;
        match self.shared().room.try_acquire_many(bytes) {
            Ok(room) => room.forget(),
            Err(_) => {
                self.shared().check()?;
                return Err(LogError::QueueFull);
            }
        }
        self.shared().enqueue(record)
    }

    /// Resolves when the record at `offset` is durable.
    ///
    /// # Errors
    /// It is not, and the log has no room, failed or was closed. Then the record must not be acknowledged. After
    /// [`LogError::DiskFull`] it may still become durable, as after a crash: it keeps its offset, and the call can be
    /// repeated.
    pub async fn durable(&self, offset: u64) -> Result<(), LogError> {
        waiters::Durable::new(self.shared(), offset).await
    }

    /// Follows the exclusive end of what is durable. It also wakes, unchanged, when the log fails, fills up or is
    /// closed: ask [`Log::check`] then.
    pub fn durable_watch(&self) -> watch::Receiver<u64> {
        self.shared().durable.subscribe()
    }

    /// Whether records can be appended now.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), LogError> {
        self.shared().check()
    }

    /// Waits while the log has no room, for those who must not lose what they have to say.
    ///
    /// # Errors
    /// The log failed or was closed.
    pub async fn writable(&self) -> Result<(), LogError> {
        let mut changes = self.shared().durable.subscribe();
        loop {
            changes.borrow_and_update();
            match self.shared().check() {
                Err(error) if error.kind() == LogErrorKind::DiskFull => {}
                other => return other,
            }
            if changes.changed().await.is_err() {
                return Err(LogError::Closed);
            }
        }
    }

    /// A reader that begins at `from`.
    pub fn reader(&self, from: u64) -> Reader {
        Reader::new(self.handle.shared.clone(), from)
    }

    /// The first offset whose time is `ms` or later; the end of what is durable if there is none. Reads files.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn offset_at_time(&self, ms: i64) -> Result<u64, LogError> {
        reader::offset_at_time(self.shared(), ms)
    }

    /// What compresses sealed segments, for simulations; none if that is not wanted.
    pub fn packer(&self) -> Option<Packer> {
        let shared = self.handle.shared.clone();
        self.shared().config.compress.map(|compress| Packer::new(shared, compress))
    }

    /// From now on removes old segments as `retention` says. Until it is called nothing is removed: whoever needs the
    /// log must have said so first, by [`Log::hold`].
    ///
    /// # Errors
    /// A setting that cannot be.
    pub fn set_retention(&self, retention: Retention) -> Result<(), LogError> {
        retention.validate(self.shared().config.segment_bytes_max)?;
        self.shared().set_retention(retention);
        Ok(())
    }

    /// Keeps retention from removing what is at `offset` or later. `name` says who wants that.
    pub fn hold(&self, name: impl Into<String>, offset: u64) -> Hold {
        Hold::new(self.handle.shared.clone(), name.into(), offset)
    }

    /// The log in numbers.
    pub fn stats(&self) -> LogStats {
        let shared = self.shared();
        let bytes = shared.bytes();
        let segments = read_lock(&shared.segments).clone();
        let cap_bytes = shared.retention().and_then(|retention| retention.cap_bytes);
        LogStats {
            log_id: shared.log_id,
            first_offset: shared.first_offset(),
            next_offset: shared.next_offset(),
            durable_offset: shared.durable_offset(),
            segments: segments.len(),
            segments_compressed: segments.iter().filter(|segment| segment.is_packed()).count(),
            bytes,
            raw_bytes: segments.iter().map(|segment| segment.bytes()).sum(),
            queued_bytes: shared.queued_bytes(),
            groups_total: shared.counters.groups.load(Ordering::Relaxed),
            syncs_total: shared.counters.syncs.load(Ordering::Relaxed),
            records_total: shared.counters.records.load(Ordering::Relaxed),
            written_bytes_total: shared.counters.bytes.load(Ordering::Relaxed),
            durability: shared.config.durability,
            refuses: shared.check().err().map(|error| error.kind()),
            cap_bytes,
            cap_alarm: cap_bytes.is_some_and(|cap| bytes >= cap / 100 * CAP_ALARM_PERCENT),
            slowest_hold: lock(&shared.holds).slowest(),
        }
    }

    /// Commits what is queued, marks the stop as clean and lets go of the directory. Other handles stay readable.
    ///
    /// # Errors
    /// Something that was queued could not be made durable.
    pub async fn close(self) -> Result<(), LogError> {
        let shared = self.shared();
        shared.begin_close();
        let mut changes = shared.durable.subscribe();
        loop {
            changes.borrow_and_update();
            if shared.is_finished() {
                break;
            }
            if changes.changed().await.is_err() {
                break;
            }
        }
        match shared.health() {
            Health::Failed(error) => Err(error),
            _ if shared.durable_offset() < shared.next_offset() => {
                Err(LogError::DiskFull { reason: "the disk was full when the log was closed", source: None })
            }
            _ => Ok(()),
        }
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    fn check_size(&self, record: &NewRecord) -> Result<u32, LogError> {
        let bytes = record.encoded_bytes();
        let bytes_max = self.shared().config.record_bytes_max;
        match u32::try_from(bytes) {
            Ok(bytes) if bytes <= bytes_max && record.topic.len() <= usize::from(u16::MAX) => Ok(bytes),
            _ => Err(LogError::TooLarge { bytes, bytes_max: bytes_max as usize }),
        }
    }

    async fn take_room(&self, bytes: u32) -> Result<(), LogError> {
        let shared = self.shared();
        if let Ok(room) = shared.room.try_acquire_many(bytes) {
            room.forget();
            return Ok(());
        }
        let mut changes = shared.durable.subscribe();
        let acquire = shared.room.acquire_many(bytes);
        tokio::pin!(acquire);
        loop {
            changes.borrow_and_update();
            shared.check()?;
            tokio::select! {
                biased;
                room = &mut acquire => return match room {
                    Ok(room) => {
                        room.forget();
                        Ok(())
                    }
                    Err(_) => Err(shared.check().err().unwrap_or(LogError::Closed)),
                },
                _ = changes.changed() => {}
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.begin_close();
        if let Some(thread) = lock(&self.thread).take() {
            // Waits for at most one commit, so that the directory is free when the last handle is gone.
            let _ended = thread.join();
        }
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("dir", &self.dir()).finish_non_exhaustive()
    }
}

/// What a thread that panicked left behind is whole: no critical section of the log leaves its data half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_lock<T>(rwlock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    rwlock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write_lock<T>(rwlock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    rwlock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
