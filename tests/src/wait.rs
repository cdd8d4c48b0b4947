//! Waiting for a condition. A test never sleeps for a guessed time: it says what must become true, and how long that
//! may take before the test gives up.

use std::time::Duration;

use tokio::time::Instant;

/// How long a test waits for what should happen at once. Long, since two cores are shared with a build or with other
/// tests; a test that passes never waits for it.
pub const PATIENCE: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(15);

/// Asks `probe` again and again until it has an answer.
///
/// # Panics
/// When there is none after `limit`; the message says that `what` did not happen.
pub async fn until<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(Instant::now() < end, "not within {} s: {what}", limit.as_secs());
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Waits for a future that should be done at once.
///
/// # Panics
/// When it is not done within [`PATIENCE`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(answer) => answer,
        Err(_) => panic!("not within {} s: {what}", PATIENCE.as_secs()),
    }
}
