//! What the engine stores and when, and what it knows to be stored. It must never wait for that between two events.

use super::*;

impl Engine {
    /// Stores what has changed, once all that it rests on is durable, and waits for that.
    pub(in crate::alarms) async fn checkpoint(&mut self, now: bool) -> Result<(), EngineError> {
        self.end_checkpoint().await?;
        self.begin_checkpoint(now);
        self.end_checkpoint().await
    }

    /// Begins to store what has changed, where it is time. What many devices do at once takes long to store, and
    /// nobody is told late for that.
    pub(super) fn begin_checkpoint(&mut self, now: bool) {
        let at = self.clock.monotonic();
        let cursor = self.reader.position();
        let has_changed = cursor != self.stored_cursor || self.identities_changed;
        let is_due = at.saturating_sub(self.stored_at) >= CHECKPOINT_EVERY || self.identities_changed;
        let is_time = now || has_changed && is_due;
        if self.checkpoint.is_some() || !self.unsaid.is_empty() || !is_time {
            return;
        }
        let delta = self.delta(cursor);
        self.identities_changed = false;
        self.checkpoint = Some(Checkpoint::begin(&self.journal, &self.store, delta, self.written.take()));
    }

    async fn end_checkpoint(&mut self) -> Result<(), EngineError> {
        if self.checkpoint.is_none() {
            return Ok(());
        }
        let done = stored(&mut self.checkpoint).await;
        self.stored(done)
    }

    /// Notes what the database has now.
    pub(super) fn stored(&mut self, Stored { delta, written, result }: Stored) -> Result<(), EngineError> {
        self.checkpoint = None;
        let mut states = self.board.lock();
        if let Err(error) = result {
            // The next attempt stores them, too.
            let rows = delta.rows.iter().map(|it| (&it.name, it.client.clone()));
            let summaries = delta.summaries.iter().map(|(name, _)| (name, "".into()));
            for (name, client) in rows.chain(summaries) {
                if let Some(state) = states.get_mut(name) {
                    state.mark_dirty(client);
                }
            }
            self.written = self.written.or(written);
            self.identities_changed |= delta.identities.is_some();
            return Err(error);
        }
        if let Some(stored) = &delta.identities {
            let stored: BTreeMap<_, _> = stored.iter().map(|(name, it)| (name, it)).collect();
            self.unstored.retain(|name| stored.get(name).copied() != self.identities.get(name));
        }
        // What nothing defines and nothing knows of, there neither.
        states.retain(|_, state| state.program().is_some() || !state.is_forgotten());
        drop(states);
        self.hold.advance(delta.cursor);
        (self.stored_cursor, self.stored_at) = (delta.cursor, self.clock.monotonic());
        Ok(())
    }

    pub(super) fn delta(&self, cursor: u64) -> Delta {
        let mut delta = Delta { cursor, ..Delta::default() };
        for (name, state) in self.board.lock().iter_mut() {
            for client in state.take_dirty() {
                if client.is_empty() {
                    delta.summaries.push((name.clone(), state.summary().cloned()));
                    continue;
                }
                let (armed, active) =
                    (state.armed().get(&client).cloned(), state.active().get(&client).cloned());
                let flaps = state.flaps(&client);
                delta.rows.push(Row { name: name.clone(), client, armed, active, flaps });
            }
        }
        let all = || self.identities.iter().map(|(name, it)| (name.clone(), it.clone())).collect();
        delta.identities = self.identities_changed.then(all);
        delta
    }
}

/// What has become of a checkpoint, once there is one and it is done.
pub(super) async fn stored(checkpoint: &mut Option<Checkpoint>) -> Stored {
    match checkpoint {
        Some(checkpoint) => checkpoint.done().await,
        None => future::pending().await,
    }
}
