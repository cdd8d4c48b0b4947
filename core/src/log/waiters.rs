//! Who waits for a record to be durable. Each is woken once, when its own record is, so that a group wakes those whom
//! it concerns and not all; and all of them are when nothing becomes durable any more.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use super::error::LogError;
use super::lock;
use super::shared::Shared;

/// Those who wait, by offset.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    next_id: u64,
    /// The number tells those apart who wait for one and the same offset.
    by_offset: BTreeMap<(u64, u64), Waker>,
}

impl Waiters {
    /// Wakes those who wait for a record before `end`, after that became the durable end.
    pub(super) fn wake(&self, end: u64) {
        let mut list = lock(&self.list);
        let later = list.by_offset.split_off(&(end, 0));
        let due = std::mem::replace(&mut list.by_offset, later);
        drop(list);
        due.into_values().for_each(Waker::wake);
    }

    /// Wakes everybody, after the health changed.
    pub(super) fn wake_all(&self) {
        let due = std::mem::take(&mut lock(&self.list).by_offset);
        due.into_values().for_each(Waker::wake);
    }

    /// Has `waker` woken for `offset`, in place of the one that `id` stands for.
    fn register(&self, offset: u64, id: Option<u64>, waker: &Waker) -> u64 {
        let mut list = lock(&self.list);
        let id = id.unwrap_or_else(|| {
            list.next_id += 1;
            list.next_id
        });
        list.by_offset.insert((offset, id), waker.clone());
        id
    }

    fn forget(&self, offset: u64, id: u64) {
        lock(&self.list).by_offset.remove(&(offset, id));
    }
}

/// Resolves when the record at `offset` is durable, or cannot become so now.
pub(super) struct Durable<'a> {
    shared: &'a Shared,
    offset: u64,
    /// Under which number it waits.
    id: Option<u64>,
}

impl<'a> Durable<'a> {
    pub(super) fn new(shared: &'a Shared, offset: u64) -> Self {
        Self { shared, offset, id: None }
    }
}

impl Future for Durable<'_> {
    type Output = Result<(), LogError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (shared, offset) = (self.shared, self.offset);
        if shared.durable_offset() > offset {
            return Poll::Ready(Ok(()));
        }
        self.id = Some(shared.waiters.register(offset, self.id, context.waker()));
        // Whoever changes the end or the health wakes afterwards: what came before we were on the list is seen here.
        if shared.durable_offset() > offset {
            return Poll::Ready(Ok(()));
        }
        match shared.check_open() {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl Drop for Durable<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.shared.waiters.forget(self.offset, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::super::{Log, LogConfig, NewRecord, RealDisk, Writer};
    use super::*;
    use crate::clock::SystemClock;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn log() -> (tempfile::TempDir, Log, Writer) {
        let dir = tempfile::tempdir().unwrap();
        let config = LogConfig::new(dir.path());
        let (log, writer, _) = Log::open_stepwise(config, RealDisk::shared(), SystemClock::shared()).unwrap();
        (dir, log, writer)
    }

    #[test]
    fn a_group_wakes_whom_it_concerns_and_a_failure_wakes_all() {
        let (_dir, log, mut writer) = log();
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut context = Context::from_waker(&waker);
        let mut waits: Vec<_> = (0..3).map(|offset| Box::pin(Durable::new(log.shared(), offset))).collect();
        let mut poll = |at: usize| waits[at].as_mut().poll(&mut context);
        assert!((0..3).all(|at| poll(at).is_pending()));

        log.try_append(&NewRecord::default()).unwrap();
        assert!(writer.step());
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(matches!(poll(0), Poll::Ready(Ok(()))));
        // Polled again, it waits once.
        assert!(poll(1).is_pending() && poll(2).is_pending());
        log.try_append(&NewRecord::default()).unwrap();
        assert!(writer.step());
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        drop(writer);
        assert_eq!(count.0.load(Ordering::Relaxed), 3);
        assert!(matches!(poll(1), Poll::Ready(Ok(()))));
        assert!(matches!(poll(2), Poll::Ready(Err(LogError::Closed))));
    }

    #[test]
    fn who_waits_no_more_is_forgotten() {
        let (_dir, log, _writer) = log();
        let mut wait = Box::pin(Durable::new(log.shared(), 0));
        assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(lock(&log.shared().waiters.list).by_offset.len(), 1);
        drop(wait);
        assert!(lock(&log.shared().waiters.list).by_offset.is_empty());
    }
}
