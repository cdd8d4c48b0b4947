//! A checkpoint that is under way, while the engine goes on: what is stored is what was known when it began. It must
//! never know what that is.

use std::sync::{Arc, Mutex, PoisonError};

use muster_core::journal::Journal;
use tokio::task::{JoinHandle, spawn_blocking};

use super::engine::EngineError;
use super::store::{Delta, Store};

/// What is being stored.
pub(super) struct Checkpoint {
    delta: Arc<Delta>,
    written: Option<u64>,
    task: JoinHandle<Result<(), EngineError>>,
}

/// What has become of a checkpoint.
pub(super) struct Stored {
    pub(super) delta: Arc<Delta>,
    /// The event that had to be durable first.
    pub(super) written: Option<u64>,
    pub(super) result: Result<(), EngineError>,
}

impl Checkpoint {
    /// Stores `delta` once `written` is durable.
    pub(super) fn begin(
        journal: &Journal,
        store: &Arc<Mutex<Store>>,
        delta: Delta,
        written: Option<u64>,
    ) -> Self {
        let (journal, store, delta) = (journal.clone(), store.clone(), Arc::new(delta));
        let what = delta.clone();
        let task = tokio::spawn(async move {
            if let Some(written) = written {
                journal.durable(written).await?;
            }
            let commit = move || store.lock().unwrap_or_else(PoisonError::into_inner).commit(&what);
            Ok(spawn_blocking(commit).await.unwrap_or(Err(rusqlite::Error::InvalidQuery))?)
        });
        Self { delta, written, task }
    }

    /// Waits for it. Nothing is lost if the future is dropped.
    pub(super) async fn done(&mut self) -> Stored {
        let result = (&mut self.task).await.unwrap_or(Err(rusqlite::Error::InvalidQuery.into()));
        Stored { delta: self.delta.clone(), written: self.written, result }
    }
}
