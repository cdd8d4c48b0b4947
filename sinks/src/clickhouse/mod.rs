//! ClickHouse: a batch is one INSERT over HTTP, under a token by which the server knows it again. The server keeps no
//! cursor for us, so batches are recorded and repeated as they were.

mod client;
mod codes;
mod config;
mod deliver;
mod encode;
mod frame;
mod migrate;
mod table;
#[cfg(test)]
mod tests;
mod times;
mod types;

use std::time::Duration;

use muster_core::clock::SharedClock;

use crate::delivery::{DEAD_LETTERS_PER_MINUTE, Limits};
use crate::error::SinkError;
use crate::registry::Kind;
use crate::sink::{Batch, BoxFuture, Durable, Memory, Outcome, PipelineId, RowOutcome, Sink};

use client::Client;
use config::Config;
use table::Table;

/// How long a description of the table is trusted: then a column that was added is seen.
const TABLE_AGE_MAX: Duration = Duration::from_secs(60);

/// This sink's row in the registry.
pub(crate) const KIND: Kind = Kind {
    name: "clickhouse",
    summary: "a table in ClickHouse, by its HTTP interface",
    options: config::OPTIONS,
    example: "CREATE SINK lake TYPE clickhouse WITH (url = 'http://clickhouse:8123', database = 'fleet', \
              user = 'muster', password = '${env:CLICKHOUSE_PASSWORD}');",
    page: "sinks/docs/clickhouse.md",
    limits: Limits {
        // Each INSERT makes a part, and ClickHouse wants few of them: large batches, and a second of patience.
        batch_rows_max: 20_000,
        batch_bytes_max: 8 << 20,
        batch_wait: Duration::from_millis(1_000),
        dead_letters_per_minute_max: DEAD_LETTERS_PER_MINUTE,
    },
    has_targets: true,
    migrate: Some(|options, env| {
        Ok(Box::new(migrate::Schema::new(Config::parse(options, env)?, env.clock.clone())))
    }),
    build: |options, env| {
        let config = Config::parse(options, env)?;
        Ok(Box::new(ClickHouse { config, clock: env.clock.clone(), client: None, seen: None, note: None }))
    },
};

struct ClickHouse {
    config: Config,
    clock: SharedClock,
    client: Option<Client>,
    seen: Option<Seen>,
    /// What the operator has not been told yet.
    note: Option<String>,
}

/// The table, and when it was looked at.
struct Seen {
    table: Table,
    at: Duration,
}

impl ClickHouse {
    async fn look(&mut self) -> Result<(), SinkError> {
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(Client::new(&self.config, self.clock.clone())?),
        };
        let table = Table::read(client, &self.config.table, self.config.tokens).await?;
        self.seen = Some(Seen { table, at: self.clock.monotonic() });
        Ok(())
    }

    async fn send(&mut self, batch: &Batch) -> Result<Outcome, SinkError> {
        let now = self.clock.monotonic();
        let mut fresh = false;
        if self.seen.as_ref().is_none_or(|seen| now.saturating_sub(seen.at) >= TABLE_AGE_MAX) {
            self.look().await?;
            fresh = true;
        }
        loop {
            let (Some(client), Some(Seen { table, .. })) = (&self.client, &self.seen) else {
                return Err(SinkError::unavailable("the sink is not open"));
            };
            let encoded = deliver::encode(table, batch);
            if !encoded.has_refused() {
                deliver::insert(client, &self.config, table, batch, encoded).await?;
                let notes = self.note.take().into_iter().collect();
                return Ok(Outcome::Durable(Durable::promise(batch).with_notes(notes)));
            }
            if fresh {
                let outcome = |reason| match reason {
                    Some(reason) => RowOutcome::Rejected(deliver::refusal(reason)),
                    None => RowOutcome::Untried,
                };
                return Ok(Outcome::PerRow {
                    rows: encoded.refused.into_iter().map(outcome).collect(),
                    error: None,
                });
            }
            // No row dies of what the table was a while ago.
            self.look().await?;
            fresh = true;
        }
    }
}

impl Sink for ClickHouse {
    /// The token stands for the very rows of a batch.
    fn wants_recorded_batches(&self) -> bool {
        true
    }

    fn open<'a>(&'a mut self, _pipeline: &'a PipelineId) -> BoxFuture<'a, Result<Memory, SinkError>> {
        Box::pin(async move {
            self.look().await?;
            self.note = self.seen.as_ref().and_then(|seen| seen.table.note(&self.config.table));
            Ok(Memory::None)
        })
    }

    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<Outcome, SinkError>> {
        Box::pin(async move {
            let outcome = self.send(batch).await;
            if outcome.is_err() {
                // Whatever it was, the table may not be what it was.
                self.seen = None;
            }
            outcome
        })
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(self.look())
    }
}
