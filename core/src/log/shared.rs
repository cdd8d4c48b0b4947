//! What the handles, the readers and the writer of one open log share: the queue that gives offsets, the durable end,
//! the segments, and the newest groups in memory.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use super::batch::RecordBatch;
use super::config::{Durability, LogConfig};
use super::disk::Disk;
use super::error::LogError;
use super::format::NewRecord;
use super::retention::{Holds, Retention};
use super::segment::Segment;
use super::waiters::Waiters;
use super::{lock, read_lock, write_lock};
use crate::clock::SharedClock;

/// What a group in memory costs beyond its bytes.
const TAIL_GROUP_OVERHEAD_BYTES: usize = 160;
/// With so many records, those that were committed and those that wait, a sync is well used: nothing is gathered.
const GATHER_RECORDS_MAX: u64 = 256;
/// A queue buffer grows from the size of the group before it, but is never begun larger than this.
const QUEUE_BUFFER_START_BYTES_MAX: usize = 1024 * 1024;

pub(super) struct Shared {
    pub(super) config: LogConfig,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: SharedClock,
    pub(super) log_id: u128,
    queue: Mutex<Queue>,
    /// Wakes the writer.
    work: Condvar,
    /// Wakes who compresses, at the end.
    idle: Condvar,
    /// Bytes that may still be queued.
    pub(super) room: Semaphore,
    /// The exclusive end of what is durable. Also touched, unchanged, whenever the health changes.
    pub(super) durable: watch::Sender<u64>,
    /// Those who wait for one record to be durable.
    pub(super) waiters: Waiters,
    pub(super) segments: RwLock<Vec<Arc<Segment>>>,
    /// Held by whoever removes or replaces the files of sealed segments.
    pub(super) files: Mutex<()>,
    tail: RwLock<Tail>,
    pub(super) holds: Mutex<Holds>,
    retention: Mutex<Option<Retention>>,
    pub(super) counters: Counters,
}

/// What the log counts since it was opened.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) groups: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) records: AtomicU64,
    pub(super) bytes: AtomicU64,
}

/// How the log is.
#[derive(Debug, Clone)]
pub(super) enum Health {
    Running,
    /// No room on the disk; the writer tries on. Appends are refused, what is queued is kept.
    Full(LogError),
    /// For good.
    Failed(LogError),
    Closed,
}

struct Queue {
    next_offset: u64,
    /// The encoded records of the next group, and the offset of the first.
    bytes: Vec<u8>,
    first_offset: u64,
    /// Everything before was synced before this group is written.
    synced_end: u64,
    health: Health,
    closing: bool,
    finished: bool,
    nudged: bool,
    /// The writer waits until this offset would be given next.
    writer_waits: Option<u64>,
    last_group_bytes: usize,
}

#[derive(Default)]
struct Tail {
    groups: VecDeque<RecordBatch>,
    bytes: usize,
}

/// Records that are committed together.
pub(super) struct Group {
    pub(super) bytes: bytes::Bytes,
    pub(super) first_offset: u64,
    pub(super) end_offset: u64,
    /// How many of the bytes are committed already.
    pub(super) committed: usize,
}

/// What the writer is woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Records wait, or the time given has passed.
    Commit,
    /// The log is to be closed.
    Close,
}

impl Shared {
    pub(super) fn new(
        config: LogConfig,
        disk: Arc<dyn Disk>,
        clock: SharedClock,
        log_id: u128,
        segments: Vec<Arc<Segment>>,
    ) -> Self {
        let next_offset = segments.last().map_or(0, |segment| segment.end_offset());
        let queue = Queue {
            next_offset,
            bytes: Vec::new(),
            first_offset: next_offset,
            synced_end: next_offset,
            health: Health::Running,
            closing: false,
            finished: false,
            nudged: false,
            writer_waits: None,
            last_group_bytes: 0,
        };
        Self {
            room: Semaphore::new(config.queue_bytes_max),
            config,
            disk,
            clock,
            log_id,
            queue: Mutex::new(queue),
            work: Condvar::new(),
            durable: watch::Sender::new(next_offset),
            waiters: Waiters::default(),
            segments: RwLock::new(segments),
            files: Mutex::default(),
            idle: Condvar::new(),
            tail: RwLock::default(),
            holds: Mutex::default(),
            retention: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// What may be removed, once somebody said so.
    pub(super) fn retention(&self) -> Option<Retention> {
        *lock(&self.retention)
    }

    pub(super) fn set_retention(&self, retention: Retention) {
        *lock(&self.retention) = Some(retention);
        self.nudge();
    }

    /// What all segments take on the disk.
    pub(super) fn bytes(&self) -> u64 {
        read_lock(&self.segments).iter().map(|segment| segment.stored_bytes()).sum()
    }

    pub(super) fn next_offset(&self) -> u64 {
        lock(&self.queue).next_offset
    }

    pub(super) fn first_offset(&self) -> u64 {
        read_lock(&self.segments).first().map_or(0, |segment| segment.base)
    }

    pub(super) fn durable_offset(&self) -> u64 {
        *self.durable.borrow()
    }

    /// Bytes that wait to be written.
    pub(super) fn queued_bytes(&self) -> usize {
        lock(&self.queue).bytes.len()
    }

    /// Why nothing can be appended now, if so.
    pub(super) fn check(&self) -> Result<(), LogError> {
        lock(&self.queue).check()
    }

    /// Why nothing more becomes durable, if so; unlike [`Shared::check`], a log that is about to close still commits.
    pub(super) fn check_open(&self) -> Result<(), LogError> {
        match &lock(&self.queue).health {
            Health::Running => Ok(()),
            Health::Full(error) | Health::Failed(error) => Err(error.clone()),
            Health::Closed => Err(LogError::Closed),
        }
    }

    pub(super) fn health(&self) -> Health {
        lock(&self.queue).health.clone()
    }

    /// Gives `record` the next offset. Its bytes of room are taken already; they are given back on an error.
    pub(super) fn enqueue(&self, record: &NewRecord) -> Result<u64, LogError> {
        let content_crc = record.content_crc();
        let mut queue = lock(&self.queue);
        if let Err(error) = queue.check() {
            drop(queue);
            self.room.add_permits(record.encoded_bytes());
            return Err(error);
        }
        let offset = queue.next_offset;
        if queue.bytes.is_empty() {
            queue.first_offset = offset;
            let start = queue.last_group_bytes.min(QUEUE_BUFFER_START_BYTES_MAX);
            queue.bytes.reserve(start.max(record.encoded_bytes()));
        }
        let synced_end = match self.config.durability {
            Durability::Always => queue.first_offset,
            Durability::Interval(_) | Durability::Os => queue.synced_end,
        };
        let unsynced = u32::try_from(offset - synced_end).unwrap_or(u32::MAX);
        record.encode(content_crc, offset, unsynced, &mut queue.bytes);
        queue.next_offset = offset + 1;
        let wake = queue.writer_waits.take_if(|wanted| *wanted <= offset + 1);
        drop(queue);
        if wake.is_some() {
            self.work.notify_one();
        }
        Ok(offset)
    }

    /// The whole queue as one group; none if it is empty.
    pub(super) fn take_group(&self) -> Option<Group> {
        let mut queue = lock(&self.queue);
        if queue.bytes.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut queue.bytes);
        queue.last_group_bytes = bytes.len();
        let (first_offset, end_offset) = (queue.first_offset, queue.next_offset);
        drop(queue);
        Some(Group { bytes: bytes.into(), first_offset, end_offset, committed: 0 })
    }

    /// Blocks the writer until there is something to do, or for `at_most`.
    pub(super) fn wait_for_work(&self, at_most: Option<Duration>) -> Work {
        let mut queue = lock(&self.queue);
        loop {
            if queue.closing {
                return Work::Close;
            }
            let is_nudged = std::mem::take(&mut queue.nudged);
            if is_nudged || (matches!(queue.health, Health::Running) && !queue.bytes.is_empty()) {
                return Work::Commit;
            }
            queue.writer_waits = Some(0);
            match at_most {
                None => queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(at_most) => {
                    let waited = self.work.wait_timeout(queue, at_most);
                    let (woken, result) = waited.unwrap_or_else(PoisonError::into_inner);
                    queue = woken;
                    if result.timed_out() && !queue.closing {
                        queue.writer_waits = None;
                        return Work::Commit;
                    }
                }
            }
        }
    }

    /// Blocks the writer, which has just committed so many records, while the group that has begun meanwhile may grow:
    /// until as many more have come as it committed, whose appenders have been told and may come again, or for
    /// `at_most`. Does nothing where nobody waits for the disk, or enough do.
    pub(super) fn gather(&self, committed: u64, at_most: Duration) {
        let mut queue = lock(&self.queue);
        let waiting = queue.next_offset - queue.first_offset;
        if queue.bytes.is_empty() || waiting + committed >= GATHER_RECORDS_MAX {
            return;
        }
        let enough = queue.next_offset + committed;
        queue.writer_waits = Some(enough);
        let waited = self.work.wait_timeout_while(queue, at_most, |queue| {
            queue.next_offset < enough && !queue.closing && matches!(queue.health, Health::Running)
        });
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        queue.writer_waits = None;
    }

    /// Has the writer look for work, whatever it waits for.
    fn nudge(&self) {
        lock(&self.queue).nudged = true;
        self.work.notify_one();
    }

    /// Asks the writer to finish what is queued and end.
    pub(super) fn begin_close(&self) {
        lock(&self.queue).closing = true;
        self.work.notify_one();
        self.idle.notify_all();
    }

    /// Lets who works in the background rest; says whether the log is still to be used then.
    pub(super) fn rest(&self, at_most: Duration) -> bool {
        let queue = lock(&self.queue);
        if queue.closing {
            return false;
        }
        let rested = self.idle.wait_timeout(queue, at_most);
        let (queue, _) = rested.unwrap_or_else(PoisonError::into_inner);
        !queue.closing
    }

    /// Says that the writer has ended and let go of the directory.
    pub(super) fn finish(&self) {
        let mut queue = lock(&self.queue);
        queue.finished = true;
        if matches!(queue.health, Health::Running | Health::Full(_)) {
            queue.health = Health::Closed;
        }
        drop(queue);
        self.room.close();
        self.durable.send_modify(|_| ());
        self.waiters.wake_all();
    }

    pub(super) fn is_closing(&self) -> bool {
        lock(&self.queue).closing
    }

    pub(super) fn is_finished(&self) -> bool {
        lock(&self.queue).finished
    }

    /// Says how the log is from now on, and wakes everybody who waits so that they see it.
    pub(super) fn set_health(&self, health: Health) {
        let failed = matches!(health, Health::Failed(_));
        lock(&self.queue).health = health;
        if failed {
            self.room.close();
        }
        self.durable.send_modify(|_| ());
        self.waiters.wake_all();
    }

    /// Says that everything before `end` is durable, and wakes who waits for that.
    pub(super) fn set_durable(&self, end: u64) {
        self.durable.send_replace(end);
        self.waiters.wake(end);
    }

    /// Notes that everything before `end` is synced.
    pub(super) fn set_synced(&self, end: u64) {
        lock(&self.queue).synced_end = end;
    }

    /// Keeps a committed group for those who read at the tail, and lets the oldest go.
    pub(super) fn push_tail(&self, group: RecordBatch) {
        let mut tail = write_lock(&self.tail);
        tail.bytes += group.bytes().len() + TAIL_GROUP_OVERHEAD_BYTES;
        tail.groups.push_back(group);
        while tail.bytes > self.config.tail_bytes_max {
            let Some(oldest) = tail.groups.pop_front() else { break };
            tail.bytes -= oldest.bytes().len() + TAIL_GROUP_OVERHEAD_BYTES;
        }
    }

    /// The group in memory that `offset` is in.
    pub(super) fn tail_group(&self, offset: u64) -> Option<RecordBatch> {
        let tail = read_lock(&self.tail);
        let at = tail.groups.partition_point(|group| group.next_offset() <= offset);
        tail.groups.get(at).filter(|group| group.first_offset() <= offset).cloned()
    }

    /// Whether the writer waits for more.
    #[cfg(test)]
    fn is_awaited(&self) -> bool {
        lock(&self.queue).writer_waits.is_some()
    }
}

impl Queue {
    fn check(&self) -> Result<(), LogError> {
        match &self.health {
            Health::Running if self.closing => Err(LogError::Closed),
            Health::Running => Ok(()),
            Health::Full(error) | Health::Failed(error) => Err(error.clone()),
            Health::Closed => Err(LogError::Closed),
        }
    }
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::log::RealDisk;

    const FOREVER: Duration = Duration::from_secs(86_400);

    fn shared() -> Arc<Shared> {
        let config = LogConfig::new("unused");
        Arc::new(Shared::new(config, RealDisk::shared(), SystemClock::shared(), 7, Vec::new()))
    }

    fn enqueue(shared: &Shared, records: u64) {
        for _ in 0..records {
            let record = NewRecord { timestamp_ms: 1, kind: 1, topic: "a".into(), body: "b".into() };
            shared.enqueue(&record).unwrap();
        }
    }

    /// How many records are queued when a writer that committed so many stops gathering; `meanwhile` happens while it
    /// waits.
    fn gathered(shared: &Arc<Shared>, committed: u64, meanwhile: impl FnOnce()) -> u64 {
        let writer = std::thread::spawn({
            let shared = Arc::clone(shared);
            move || {
                shared.gather(committed, FOREVER);
                shared.next_offset()
            }
        });
        while !shared.is_awaited() {
            std::thread::yield_now();
        }
        meanwhile();
        writer.join().unwrap()
    }

    #[test]
    fn a_group_grows_by_as_many_as_the_last_one_had() {
        let shared = shared();
        enqueue(&shared, 1);
        let queued = gathered(&shared, 3, || {
            enqueue(&shared, 2);
            assert!(shared.is_awaited(), "two of three have come");
            enqueue(&shared, 1);
            assert!(!shared.is_awaited());
        });
        assert_eq!(queued, 4);
    }

    #[test]
    fn nobody_waits_for_who_may_not_come() {
        let shared = shared();
        // Each of these would wait for a day.
        shared.gather(3, FOREVER);
        enqueue(&shared, 2);
        shared.gather(GATHER_RECORDS_MAX - 2, FOREVER);
        enqueue(&shared, GATHER_RECORDS_MAX);
        shared.gather(1, FOREVER);
    }

    #[test]
    fn it_waits_no_longer_than_it_may_nor_beyond_the_end() {
        let shared = shared();
        enqueue(&shared, 1);
        shared.gather(3, Duration::from_millis(1));
        assert!(!shared.is_awaited());
        assert_eq!(gathered(&shared, 3, || shared.begin_close()), 1);
    }
}
