//! The tables of `migrations/clickhouse`. ClickHouse has no transaction over statements: each step may be taken twice,
//! and is written down after it was taken.

use std::collections::BTreeSet;

use super::client::Client;
use super::config::Config;
use crate::error::SinkError;
use crate::migrate::{Migrate, Migration};
use crate::sink::BoxFuture;
use muster_core::clock::SharedClock;

const STEPS: &[(u32, &str, &str)] = &[
    (1, "device status", include_str!("../../../migrations/clickhouse/0001_device_status.sql")),
    (2, "device history", include_str!("../../../migrations/clickhouse/0002_device_history.sql")),
    (3, "device messages", include_str!("../../../migrations/clickhouse/0003_device_messages.sql")),
    (
        4,
        "device history duration",
        include_str!("../../../migrations/clickhouse/0004_device_history_duration.sql"),
    ),
    (5, "device alarms", include_str!("../../../migrations/clickhouse/0005_device_alarms.sql")),
];

/// Which steps were taken.
const VERSIONS: &str = "CREATE TABLE IF NOT EXISTS _muster_migrations (version UInt32, name String, \
     applied_at DateTime DEFAULT now()) ENGINE = ReplacingMergeTree ORDER BY version";

pub(super) struct Schema {
    config: Config,
    clock: SharedClock,
    client: Option<Client>,
}

impl Schema {
    pub(super) fn new(config: Config, clock: SharedClock) -> Self {
        Self { config, clock, client: None }
    }

    fn client(&mut self) -> Result<&Client, SinkError> {
        match &mut self.client {
            Some(client) => Ok(client),
            none => Ok(none.insert(Client::new(&self.config, self.clock.clone())?)),
        }
    }
}

impl Migrate for Schema {
    fn migrations(&self) -> Vec<Migration> {
        STEPS.iter().map(|(version, name, text)| Migration::new(*version, *name, *text)).collect()
    }

    fn applied(&mut self) -> BoxFuture<'_, Result<Vec<u32>, SinkError>> {
        Box::pin(async move {
            let client = self.client()?;
            let database = "database = currentDatabase()";
            let sql =
                format!("SELECT name FROM system.tables WHERE {database} AND name = '_muster_migrations'");
            if client.ask(&sql).await?.is_empty() {
                return Ok(Vec::new());
            }
            let rows = client.ask("SELECT version FROM _muster_migrations").await?;
            let version = |cells: &Vec<serde_json::Value>| cells.first()?.as_u64()?.try_into().ok();
            let versions: BTreeSet<u32> = rows.iter().filter_map(version).collect();
            Ok(versions.into_iter().collect())
        })
    }

    fn apply<'a>(&'a mut self, migration: &'a Migration) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            let client = self.client()?;
            client.run(VERSIONS).await?;
            for statement in statements(&migration.text) {
                client.run(statement).await?;
            }
            let row = serde_json::json!({"version": migration.version, "name": migration.name});
            let sql = "INSERT INTO _muster_migrations (version, name) FORMAT JSONEachRow";
            client.insert(sql, &[], row.to_string().into_bytes()).await
        })
    }
}

/// The statements of a file: each ends with a semicolon at the end of a line.
fn statements(text: &str) -> impl Iterator<Item = &str> {
    let has_sql =
        |part: &&str| part.lines().any(|line| !line.trim().is_empty() && !line.trim().starts_with("--"));
    text.split_inclusive(";\n").map(|part| part.trim_end().trim_end_matches(';')).filter(has_sql)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_taken_apart_at_their_semicolons() {
        let parts: Vec<_> = statements("-- a; b\nCREATE x;\n-- c\nCREATE y\n;\n\n-- end\n").collect();
        assert_eq!(parts, ["-- a; b\nCREATE x", "-- c\nCREATE y\n"]);
        assert!(STEPS.iter().zip(1..).all(|((version, ..), at)| *version == at));
    }
}
