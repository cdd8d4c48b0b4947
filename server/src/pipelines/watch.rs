//! Wakes whoever reloads rule files when something in their folder has changed and has then been quiet for a moment.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;

/// Quiet after which a change counts as complete: editors write a file in several steps.
const QUIET: Duration = Duration::from_millis(150);
/// A folder that is never quiet is looked at all the same.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(2);
/// Looked at this often even when nothing was heard: some file systems tell nobody.
const POLL: Duration = Duration::from_secs(10);

/// Watches a folder for as long as it lives.
pub(super) struct Watcher {
    changed: Arc<Notify>,
    _system: Option<RecommendedWatcher>,
}

impl Watcher {
    /// Watches `folder`. Where the system cannot, the folder is looked at from time to time.
    pub(super) fn new(folder: &Path) -> Self {
        let changed = Arc::new(Notify::new());
        let wake = changed.clone();
        let system = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| is_change(event.kind)) {
                wake.notify_one();
            }
        })
        .and_then(|mut system| system.watch(folder, RecursiveMode::NonRecursive).map(|()| system));
        let system = system.inspect_err(|error| {
            let seconds = POLL.as_secs();
            warn!(%error, folder = %folder.display(), "cannot watch for changes; looking every {seconds} s instead");
        });
        Self { changed, _system: system.ok() }
    }

    /// Returns when the folder may have changed.
    pub(super) async fn changed(&self) {
        if timeout(POLL, self.changed.notified()).await.is_err() {
            return;
        }
        let end = Instant::now() + QUIET_WAIT_MAX;
        while Instant::now() < end
            && timeout_at(end.min(Instant::now() + QUIET), self.changed.notified()).await.is_ok()
        {}
    }
}

/// Reading the files, which we do ourselves, is no change.
fn is_change(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_write_is_heard_and_a_read_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let watcher = Watcher::new(dir.path());
        let file = dir.path().join("a.sql");
        std::fs::write(&file, "x").expect("write");
        timeout(Duration::from_secs(5), watcher.changed()).await.expect("heard before the poll");
        std::fs::read(&file).expect("read");
        let heard = timeout(Duration::from_millis(300), watcher.changed.notified()).await;
        assert!(heard.is_err(), "a read is no change");
    }
}
