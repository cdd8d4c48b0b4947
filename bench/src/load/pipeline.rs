//! The way of messages from a publisher to a table: all are published, then the table is read until nothing comes any
//! more, and each message is looked for.

use std::io;
use std::time::Duration;

use tokio::time::sleep;

use super::{Load, Shape, traffic};
use crate::clock::now_us;
use crate::counts::{histogram, summary};
use crate::outcome::{Latency, Outcome};

/// How often rows are counted; a rate can be too small by as much, never too large.
const LOOK: Duration = Duration::from_millis(100);
/// A pipeline that brings no row for so long is over.
const STALLED: Duration = Duration::from_secs(8);

/// Where the rows arrive.
#[derive(Debug, Clone)]
pub(crate) enum Sink {
    /// A connection string, and a table with columns p, n, t and, for latencies, `arrived timestamptz`.
    Postgres { url: String, table: String },
    /// A file, and a table with columns p and n.
    Sqlite { file: std::path::PathBuf, table: String },
}

/// What the sink says at the end.
#[derive(Debug, Default)]
struct Arrived {
    rows: u64,
    distinct: u64,
    latency: Option<Latency>,
}

pub(crate) async fn pipeline(name: &str, load: Load, sink: &Sink) -> io::Result<Outcome> {
    let (watched, start, cpu) = (load.watched.clone(), now_us(), load.watched.cpu_s());
    let published =
        traffic(name, Load { warm_up: Duration::ZERO, subscribers: 0, ..load }, Shape::Publish).await?;
    let published_us = now_us();
    let (mut rows, mut since) = (0, now_us());
    loop {
        let now_there = sink.count().await.map_err(io::Error::other)?;
        if now_there != rows {
            (rows, since) = (now_there, now_us());
        }
        if rows >= published.acked || now_us() - since > STALLED.as_micros() as u64 {
            break;
        }
        sleep(LOOK).await;
    }
    let seconds = (since - start) as f64 / 1e6;
    let cpu = watched.cpu_s().zip(cpu).map(|(after, before)| after - before);
    let arrived = sink.arrived().await.map_err(io::Error::other)?;
    let mut outcome = Outcome {
        unit: "rows".to_owned(),
        rate: arrived.distinct as f64 / seconds,
        measured_s: seconds,
        expected: published.acked,
        received: arrived.rows,
        lost: published.acked.saturating_sub(arrived.distinct),
        duplicated: arrived.rows - arrived.distinct,
        latency: arrived.latency,
        ..published
    };
    let publishing_s = (published_us - start) as f64 / 1e6;
    outcome.more.insert("published a second".to_owned(), outcome.acked as f64 / publishing_s);
    outcome.set_server(cpu, arrived.distinct, watched.peak_bytes());
    Ok(outcome)
}

impl Sink {
    async fn count(&self) -> anyhow::Result<u64> {
        match self {
            Self::Postgres { url, table } => {
                let row =
                    postgres(url).await?.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await?;
                Ok(u64::try_from(row.get::<_, i64>(0))?)
            }
            Self::Sqlite { file, table } => Ok(sqlite(file, &format!("SELECT count(*) FROM {table}"))?.0),
        }
    }

    async fn arrived(&self) -> anyhow::Result<Arrived> {
        match self {
            Self::Postgres { url, table } => {
                let sql = format!(
                    "SELECT p::bigint, n::bigint, (extract(epoch FROM arrived) * 1e6)::bigint - t::bigint FROM {table}"
                );
                let rows = postgres(url).await?.query(&sql, &[]).await?;
                let (mut seen, mut latencies) = (std::collections::HashSet::new(), histogram()?);
                for row in &rows {
                    seen.insert((row.get::<_, i64>(0), row.get::<_, i64>(1)));
                    latencies.saturating_record(u64::try_from(row.get::<_, i64>(2)).unwrap_or(1).max(1));
                }
                let (rows, distinct) = (rows.len() as u64, seen.len() as u64);
                Ok(Arrived { rows, distinct, latency: summary(&latencies) })
            }
            Self::Sqlite { file, table } => {
                let sql =
                    format!("SELECT sum(c), count(*) FROM (SELECT count(*) c FROM {table} GROUP BY p, n)");
                let (rows, distinct) = sqlite(file, &sql)?;
                Ok(Arrived { rows, distinct, latency: None })
            }
        }
    }
}

pub(crate) async fn postgres(url: &str) -> anyhow::Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    // It ends with the client.
    tokio::spawn(connection);
    Ok(client)
}

/// The first and the second number of the only row; no rows where there is no table yet.
fn sqlite(file: &std::path::Path, sql: &str) -> anyhow::Result<(u64, u64)> {
    use rusqlite::{Connection, OpenFlags};
    let Ok(db) = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY) else {
        return Ok((0, 0));
    };
    db.busy_timeout(Duration::from_secs(5))?;
    let mut statement = match db.prepare(sql) {
        Err(error) if error.to_string().contains("no such table") => return Ok((0, 0)),
        statement => statement?,
    };
    let number = |row: &rusqlite::Row<'_>, at| row.get::<_, Option<i64>>(at).ok().flatten().unwrap_or(0);
    let two = statement.query_row([], |row| Ok((number(row, 0), number(row, 1))))?;
    Ok((u64::try_from(two.0)?, u64::try_from(two.1)?))
}
