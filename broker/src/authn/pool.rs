//! Where slow hashes are computed: on few threads of their own, with few waiting, so that whoever tries passwords
//! takes neither the sessions' threads nor the memory that argon2 wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

/// Most that wait for a thread.
const WAITING_MAX: usize = 2048;
/// Longest wait for a thread.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The threads. Clones share them.
#[derive(Debug, Clone)]
pub struct HashPool {
    threads: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

/// Too many wait already, or it took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

impl HashPool {
    /// As many threads as half the cores, one at least.
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_threads((cores / 2).max(1))
    }

    fn with_threads(threads: usize) -> Self {
        Self { threads: Arc::new(Semaphore::new(threads)), waiting: Arc::default() }
    }

    /// Runs `work` on one of them.
    ///
    /// # Errors
    /// [`Busy`]; the work is not done then.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        let permit = {
            let _place = Place::take(&self.waiting)?;
            let threads = Arc::clone(&self.threads);
            let permit = tokio::time::timeout(WAIT_MAX, threads.acquire_owned()).await;
            permit.map_err(|_| Busy)?.map_err(|_| Busy)?
        };
        let worked = tokio::task::spawn_blocking(move || {
            // Kept to the end of the work, also when nobody waits for it any more.
            let _permit = permit;
            work()
        });
        worked.await.map_err(|_| Busy)
    }
}

impl Default for HashPool {
    fn default() -> Self {
        Self::new()
    }
}

/// A place in the queue, given back however the wait ends.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Result<Self, Busy> {
        if waiting.fetch_add(1, Ordering::Relaxed) < WAITING_MAX {
            return Ok(Self(waiting));
        }
        waiting.fetch_sub(1, Ordering::Relaxed);
        Err(Busy)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn work_is_done_and_waits_have_an_end() {
        let pool = HashPool::with_threads(1);
        assert_eq!(pool.run(|| 7).await, Ok(7));
        let (release, held) = sync_channel::<()>(1);
        let (begun, begins) = tokio::sync::oneshot::channel();
        let blocker = tokio::spawn({
            let pool = pool.clone();
            async move {
                pool.run(move || {
                    begun.send(()).expect("somebody waits");
                    held.recv().expect("a release");
                })
                .await
            }
        });
        begins.await.expect("the work begins");
        // The timer runs ahead as soon as nothing else can happen.
        let waiting = tokio::time::timeout(Duration::ZERO, pool.run(|| ())).await;
        assert!(waiting.is_err(), "one thread does one thing");
        assert_eq!(pool.waiting.load(Ordering::Relaxed), 0, "who gave up has no place any more");
        pool.waiting.store(WAITING_MAX, Ordering::Relaxed);
        assert_eq!(pool.run(|| ()).await, Err(Busy));
        pool.waiting.store(0, Ordering::Relaxed);
        release.send(()).expect("the blocker waits");
        assert_eq!(blocker.await.expect("no panic"), Ok(()));
        assert_eq!(pool.run(|| 8).await, Ok(8));
    }
}
