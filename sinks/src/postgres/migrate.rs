//! The tables of a PostgreSQL target, made step by step. Which steps were taken stands in `_muster_migrations`, beside
//! the tables.

use super::client::{Connection, outside, quote};
use super::config::Server;
use super::deliver::LOCK_NUMBER;
use crate::error::SinkError;
use crate::migrate::{Migrate, Migration};
use crate::registry::{Options, SinkEnv};
use crate::sink::BoxFuture;

/// Number, words and text of each step; the last only with `timescale = 'true'`.
const STEPS: &[(u32, &str, &str)] = &[
    (1, "bookkeeping", include_str!("../../../migrations/postgres/0001_bookkeeping.sql")),
    (2, "device_status", include_str!("../../../migrations/postgres/0002_device_status.sql")),
    (3, "device_history", include_str!("../../../migrations/postgres/0003_device_history.sql")),
    (4, "device_messages", include_str!("../../../migrations/postgres/0004_device_messages.sql")),
    (
        5,
        "device_history_duration",
        include_str!("../../../migrations/postgres/0005_device_history_duration.sql"),
    ),
    (6, "device_alarms", include_str!("../../../migrations/postgres/0006_device_alarms.sql")),
    (TIMESCALE, "timescale", include_str!("../../../migrations/postgres/1000_timescale.sql")),
];
/// Far from the others, so that steps to come find room before it.
const TIMESCALE: u32 = 1000;

const VERSIONS: &str = "CREATE TABLE IF NOT EXISTS _muster_migrations \
    (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())";

struct Schema {
    server: Server,
    timescale: bool,
    connection: Option<Connection>,
}

/// The schema of the sink that `options` declare.
pub(super) fn migrator(options: &Options<'_>, env: &SinkEnv) -> Result<Box<dyn Migrate>, SinkError> {
    let server = Server::parse(options, env)?;
    let timescale = options.one_of("timescale", &[("true", true), ("false", false)])?;
    Ok(Box::new(Schema { server, timescale, connection: None }))
}

impl Schema {
    async fn connection(&mut self) -> Result<&mut Connection, SinkError> {
        let kept = self.connection.take().filter(|connection| !connection.is_closed());
        let connection = match kept {
            Some(connection) => connection,
            None => Connection::open(&self.server).await?,
        };
        Ok(self.connection.insert(connection))
    }
}

impl Migrate for Schema {
    fn migrations(&self) -> Vec<Migration> {
        let steps = STEPS.iter().filter(|(version, ..)| *version != TIMESCALE || self.timescale);
        let text = |text: &str| match &self.server.schema {
            Some(schema) => format!("SET LOCAL search_path TO {}, public;\n{text}", quote(schema)),
            None => text.to_owned(),
        };
        steps.map(|(version, name, sql)| Migration::new(*version, *name, text(sql))).collect()
    }

    fn applied(&mut self) -> BoxFuture<'_, Result<Vec<u32>, SinkError>> {
        Box::pin(async move {
            let doing = "looking for the steps that were taken";
            let connection = self.connection().await?;
            let there = "SELECT to_regclass('_muster_migrations') IS NOT NULL";
            if !connection.ask(doing, there, &[]).await?.first().is_some_and(|row| row.get(0)) {
                return Ok(Vec::new());
            }
            let taken = "SELECT version FROM _muster_migrations ORDER BY version";
            let taken = connection.ask(doing, taken, &[]).await?;
            Ok(taken.iter().filter_map(|row| u32::try_from(row.get::<_, i32>(0)).ok()).collect())
        })
    }

    fn apply<'a>(&'a mut self, migration: &'a Migration) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            let connection = self.connection().await?;
            let taken = apply(connection, migration).await;
            if taken.is_err() {
                // Its transaction goes with it.
                self.connection = None;
            }
            taken
        })
    }
}

/// The step and the note that it was taken, in one transaction; whoever else is at it waits.
async fn apply(connection: &mut Connection, migration: &Migration) -> Result<(), SinkError> {
    let doing = "taking a step of the schema";
    let Migration { version, name, text } = migration;
    let begin = format!(
        "BEGIN; SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock({LOCK_NUMBER}); {VERSIONS}"
    );
    connection.batch(doing, &begin).await.map_err(outside)?;
    let number = i32::try_from(*version).unwrap_or(i32::MAX);
    let note =
        "INSERT INTO _muster_migrations (version, name) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING 1";
    if connection.ask(doing, note, &[&number, name]).await?.is_empty() {
        // Another process has taken it meanwhile.
        connection.batch(doing, "ROLLBACK").await.map_err(outside)?;
        return Ok(());
    }
    connection.batch(doing, &format!("{text};\nCOMMIT")).await.map_err(|trouble| {
        let error = outside(trouble);
        let hint = error.hint().to_owned();
        SinkError::new(error.kind(), format!("step {version} ({name}) failed"))
            .caused_by(error)
            .with_hint(hint)
    })?;
    Ok(())
}
