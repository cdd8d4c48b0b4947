//! The embedded SQLite.

use std::path::Path;

use muster_tests::Home;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags};

use super::store::{self, Asked, Rows, Store, as_answers, query};
use super::{alarms, backfill, scene};

struct Sqlite;

/// The rows of a question to a database file.
pub(super) fn ask(file: &Path, sql: &str) -> Rows {
    let database = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the file");
    let mut statement = match database.prepare(sql) {
        Ok(statement) => statement,
        // A table is made with its first row.
        Err(error) if error.to_string().contains("no such table") => return Rows::default(),
        Err(error) => panic!("{sql}: {error}"),
    };
    let columns = statement.column_count();
    let cell = |value| match value {
        Value::Null => String::new(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => text,
        Value::Blob(_) => panic!("bytes in {sql}"),
    };
    let rows = statement.query_map([], |row| (0..columns).map(|at| row.get(at).map(cell)).collect());
    rows.expect("rows").map(|row| row.expect("a row")).collect()
}

/// The answer of an SQLite file to a query of a target that keeps such files.
pub(super) fn answer<S: Store>(file: &Path, name: &str, asked: &Asked) -> Rows {
    let (since, until) = (asked.since_ms.to_string(), asked.until_ms.to_string());
    let words = match name {
        "uptime" => vec![
            ("(julianday('now') - 2440587.5 - 7) * 86400000", since.as_str()),
            ("(julianday('now') - 2440587.5) * 86400000", until.as_str()),
            ("meter-1", asked.client.as_str()),
        ],
        _ => vec![
            ("unixepoch('now', '-7 days') * 1000", since.as_str()),
            ("(unixepoch('now') + 1) * 1000", until.as_str()),
        ],
    };
    as_answers(name, ask(file, &query::<S>(name, "sql", &words)), ms)
}

/// The same of the query as it is shipped.
pub(super) fn shipped<S: Store>(file: &Path, name: &str) -> Rows {
    as_answers(name, ask(file, &store::shipped::<S>(name, "sql")), ms)
}

/// Times are numbers here.
fn ms(text: &str) -> i64 {
    text.parse().expect("milliseconds")
}

/// Columns of a table.
pub(super) fn rows(file: &Path, table: &str, columns: &[&str]) -> Rows {
    ask(file, &format!("SELECT \"{}\" FROM {table}", columns.join("\", \"")))
}

impl Store for Sqlite {
    const NAME: &'static str = "sqlite";
    const MIGRATES: bool = false;

    async fn answer(&self, home: &Home, name: &str, asked: &Asked) -> Option<Rows> {
        Some(answer::<Self>(&home.data().join("devices.db"), name, asked))
    }

    async fn shipped(&self, home: &Home, name: &str) -> Option<Rows> {
        Some(shipped::<Self>(&home.data().join("devices.db"), name))
    }

    async fn rows(&self, home: &Home, table: &str, columns: &[&str]) -> Rows {
        rows(&home.data().join("devices.db"), table, columns)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_as_the_log_does() {
    scene::play(Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn is_filled_from_a_moment_of_the_past() {
    backfill::play(Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn has_one_row_an_alarm() {
    alarms::play(Sqlite).await;
}
