//! PostgreSQL: rows and the checkpoint commit in one transaction of the target itself, so that no crash can part them.
//! Rows go by binary COPY.

mod catalog;
mod check;
mod client;
mod config;
mod deliver;
mod encode;
mod error;
mod hint;
mod load;
mod migrate;
mod number;
mod rows;
#[cfg(test)]
mod tests;
mod time;
mod tls;
mod upsert;

use std::time::Duration;

use crate::delivery::{DEAD_LETTERS_PER_MINUTE, Limits};
use crate::error::{ErrorKind, SinkError};
use crate::registry::{Kind, OptionSpec};
use crate::sink::{Batch, BoxFuture, Durable, Memory, Outcome, PipelineId, RowOutcome, Sink};
use crate::upsert::{GUARD, KEY};

use client::Connection;
use config::Config;
use deliver::{Session, Written};

/// This sink's row in the registry.
pub(crate) const KIND: Kind = Kind {
    name: "postgres",
    summary: "a table of a PostgreSQL database, also with TimescaleDB",
    options: &[
        OptionSpec::secret(
            "url",
            "the database: postgres://user:password@host:5432/database?sslmode=verify-full",
        ),
        OptionSpec::new("host", None, "instead of `url`: the server's name, address or socket directory"),
        OptionSpec::new("port", Some("5432"), "with `host`: its port"),
        OptionSpec::new("database", None, "with `host`: the database; the user's name where it is not given"),
        OptionSpec::new("user", None, "with `host`: the user (postgres)"),
        OptionSpec::secret("password", "with `host`: the password"),
        OptionSpec::new(
            "sslmode",
            None,
            "`disable`, `prefer`, `require`, `verify-ca` or `verify-full`, as libpq means them (prefer)",
        ),
        OptionSpec::new(
            "sslrootcert",
            None,
            "a PEM file with the certificates that are trusted, or `system` for those of this machine",
        ),
        OptionSpec::new("sslcert", None, "a PEM file with Muster's own certificate"),
        OptionSpec::new("sslkey", None, "a PEM file with its key"),
        OptionSpec::new(
            "schema",
            None,
            "the schema of the tables; the user's search_path where it is not given",
        ),
        OptionSpec::new("connect_timeout_ms", Some("10000"), "how long connecting may take"),
        OptionSpec::new("statement_timeout_ms", Some("60000"), "how long one statement may take"),
        OptionSpec::new("keepalive_ms", Some("15000"), "how long the line may be idle before it is tested"),
        OptionSpec::new(
            "timescale",
            Some("false"),
            "`true`: `muster migrate` makes the history and the messages hypertables of TimescaleDB",
        ),
        KEY,
        GUARD,
    ],
    example: "CREATE SINK warehouse TYPE postgres WITH (url = '${env:PG_URL}');",
    page: "sinks/docs/postgres.md",
    limits: Limits {
        batch_rows_max: 10_000,
        batch_bytes_max: 8 << 20,
        batch_wait: Duration::from_millis(50),
        dead_letters_per_minute_max: DEAD_LETTERS_PER_MINUTE,
    },
    has_targets: true,
    migrate: Some(migrate::migrator),
    build: |options, env| {
        let config = Config::parse(options, env)?;
        Ok(Box::new(Postgres { config, session: None, epoch: None }))
    },
};

struct Postgres {
    config: Config,
    session: Option<Session>,
    /// The number under which this process owns the pipeline; none before it was opened.
    epoch: Option<i64>,
}

impl Sink for Postgres {
    fn wants_recorded_batches(&self) -> bool {
        false
    }

    fn open<'a>(&'a mut self, pipeline: &'a PipelineId) -> BoxFuture<'a, Result<Memory, SinkError>> {
        Box::pin(async move {
            (self.session, self.epoch) = (None, None);
            let mut session = Session::new(Connection::open(&self.config.server).await?);
            let (epoch, checkpoint) = session.take_over(pipeline).await?;
            (self.session, self.epoch) = (Some(session), Some(epoch));
            Ok(checkpoint.map_or(Memory::Fresh, Memory::At))
        })
    }

    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<Outcome, SinkError>> {
        Box::pin(async move {
            let Some(epoch) = self.epoch else {
                return Err(SinkError::unavailable("the sink is not open"));
            };
            // Taken out while it works: a future that is dropped takes the connection, and its transaction, with it.
            let mut session = match self.session.take().filter(|session| !session.connection.is_closed()) {
                Some(session) => session,
                None => Session::new(Connection::open(&self.config.server).await?),
            };
            let written = session.deliver(&self.config, batch, epoch).await?;
            self.session = Some(session);
            match written {
                Written::All => Ok(Outcome::Durable(Durable::promise(batch))),
                Written::Refused(reasons) => {
                    Ok(Outcome::PerRow { rows: reasons.into_iter().map(outcome).collect(), error: None })
                }
                Written::Fenced => {
                    let at = &self.config.server.shown;
                    let message = format!("another process writes {} into {at}", batch.pipeline);
                    Err(SinkError::new(ErrorKind::Fenced, message))
                }
                Written::Changed => Err(SinkError::unavailable("the table is being changed")),
            }
        })
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(check::check(&self.config))
    }
}

fn outcome(refused: Option<String>) -> RowOutcome {
    match refused {
        Some(reason) => RowOutcome::Rejected(SinkError::new(ErrorKind::RejectedRow, reason)),
        None => RowOutcome::Untried,
    }
}
