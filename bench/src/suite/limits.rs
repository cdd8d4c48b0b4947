//! What the machine gives when nobody is in the way: the disk, memory, loopback, PostgreSQL's COPY, SQLite's INSERT, a
//! producer of Kafka. They take turns in rounds, after the scenarios.

use std::collections::BTreeMap;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::SinkExt as _;
use tokio::time::Instant;

use crate::counts::histogram;
use crate::echo;
use crate::load::pipeline::postgres;
use crate::report::{Results, Spread};

use super::contender::start_listening;
use super::kafka::{self, produce_rate};
use super::{LIMITS, own, pipeline, url_of};

/// How long each limit is measured in each round.
const TIME: Duration = Duration::from_secs(1);
/// Rows that are handed to PostgreSQL at a time.
const COPY_BLOCK_ROWS: u64 = 1_000;
/// Rows of one transaction of SQLite, as the script that is measured beside Muster writes them.
const INSERT_ROWS: i64 = 10_000;
/// As the scenario `publish`: clients, packets of each on the way, and their bytes.
const ECHO: (usize, usize, usize) = (100, 20, 256);

/// By name, with its unit in the name.
type Found = BTreeMap<String, Vec<f64>>;

pub(super) async fn run(place: &Path, rounds: usize, results: &mut Results) -> anyhow::Result<()> {
    let mut found = Found::new();
    let begun = Instant::now();
    results.not_had.remove(LIMITS);
    let server = own("postgres").await;
    let kafka = own("kafka").await.map(Arc::new);
    if let Some(kafka) = &kafka
        && let Err(error) = kafka::prepare(kafka).await
    {
        results.missing(LIMITS, "Kafka", &format!("{error:#}"));
    }
    for round in 1..=rounds {
        eprintln!("limits {round}/{rounds}");
        if let Err(error) = of_the_machine(place, &mut found).await {
            results.missing(LIMITS, "the machine", &format!("round {round}: {error:#}"));
        }
        if let Some(server) = &server {
            let rate = copy_rate(&url_of(server)).await;
            add(results, &mut found, "COPY into PostgreSQL, the pipeline's table, rows a second", rate);
        }
        if let Some(kafka) = kafka.clone() {
            let rate = tokio::task::spawn_blocking(move || produce_rate(&kafka)).await?;
            let name = "librdkafka's plain producer into Kafka, messages of 256 B a second";
            add(results, &mut found, name, rate);
        }
    }
    for (name, missing) in [("PostgreSQL", server.is_none()), ("Kafka", kafka.is_none())] {
        if missing {
            results.missing(LIMITS, name, "it is not installed, or did not start");
        }
    }
    // Blocking, since it waits for their ends.
    let _ended = tokio::task::spawn_blocking(|| drop((server, kafka))).await;
    let limits = found.into_iter().map(|(name, values)| (name, Spread::of(values))).collect();
    results.set_limits(limits, begun.elapsed());
    Ok(())
}

fn add(results: &mut Results, found: &mut Found, name: &str, rate: anyhow::Result<f64>) {
    match rate {
        Ok(rate) => found.entry(name.to_owned()).or_default().push(rate),
        Err(error) => results.missing(LIMITS, name, &format!("{error:#}")),
    }
}

async fn of_the_machine(place: &Path, found: &mut Found) -> anyhow::Result<()> {
    let (syncs, p50_us, p99_us) = sync_rate(place)?;
    for (name, value) in [
        ("fdatasync of 4 KiB, a second", syncs),
        ("fdatasync of 4 KiB, p50, ms", p50_us as f64 / 1e3),
        ("fdatasync of 4 KiB, p99, ms", p99_us as f64 / 1e3),
        ("sequential write, MB a second", sequential_write(place)?),
        ("memcpy, MB a second", memcpy()),
        (
            "echo on loopback, 100 clients, 20 of 256 B on the way of each, packets a second",
            echo_rate().await?,
        ),
        ("INSERT into SQLite, 10,000 rows a synced transaction, rows a second", insert_rate(place)?),
    ] {
        found.entry(name.to_owned()).or_default().push(value);
    }
    Ok(())
}

async fn echo_rate() -> anyhow::Result<f64> {
    let running = start_listening(&std::env::current_exe()?, "echo").await?;
    let (clients, window, bytes) = ECHO;
    let rate = echo::rate(running.address, clients, window, bytes, TIME).await;
    running.stop().await;
    Ok(rate?)
}

/// The columns of the pipeline, with SQLite's promises as Muster asks for them.
fn insert_rate(place: &Path) -> anyhow::Result<f64> {
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(place)?;
    let mut db = rusqlite::Connection::open(folder.path().join("limit.db"))?;
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE bench (clientid, topic, p, n, t)",
    )?;
    let (start, mut rows) = (Instant::now(), 0_i64);
    while start.elapsed() < TIME {
        let transaction = db.transaction()?;
        let mut insert = transaction.prepare_cached("INSERT INTO bench VALUES (?1, ?2, ?3, ?4, ?5)")?;
        for row in 0..INSERT_ROWS {
            let (client, topic) = ("bench-publisher-42", "bench/42/up");
            insert.execute((client, topic, row, rows + row, 1_795_000_000_000_000_i64))?;
        }
        drop(insert);
        transaction.commit()?;
        rows += INSERT_ROWS;
    }
    Ok(rows as f64 / start.elapsed().as_secs_f64())
}

fn sync_rate(place: &Path) -> anyhow::Result<(f64, u64, u64)> {
    let mut file = tempfile::tempfile_in(place)?;
    let (start, mut took_us) = (Instant::now(), histogram()?);
    while start.elapsed() < TIME {
        let one = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        took_us.saturating_record(u64::try_from(one.elapsed().as_micros())?.max(1));
    }
    let rate = took_us.len() as f64 / start.elapsed().as_secs_f64();
    Ok((rate, took_us.value_at_quantile(0.5), took_us.value_at_quantile(0.99)))
}

/// One MiB at a time, with one sync at the end.
fn sequential_write(place: &Path) -> anyhow::Result<f64> {
    let mut file = tempfile::tempfile_in(place)?;
    let block = vec![7; 1 << 20];
    let start = Instant::now();
    while start.elapsed() < TIME {
        file.write_all(&block)?;
    }
    file.sync_data()?;
    Ok(file.stream_position()? as f64 / 1e6 / start.elapsed().as_secs_f64())
}

fn memcpy() -> f64 {
    let from = vec![1_u8; 64 << 20];
    let mut to = vec![0_u8; 64 << 20];
    let (start, mut bytes) = (Instant::now(), 0);
    while start.elapsed() < TIME / 2 {
        to.copy_from_slice(std::hint::black_box(&from));
        bytes += std::hint::black_box(&to).len();
    }
    bytes as f64 / 1e6 / start.elapsed().as_secs_f64()
}

async fn copy_rate(url: &str) -> anyhow::Result<f64> {
    let client = postgres(url).await?;
    client.batch_execute(pipeline::CREATE).await?;
    let start = Instant::now();
    let sink = client
        .copy_in::<_, std::io::Cursor<Vec<u8>>>("COPY bench (clientid, topic, p, n, t) FROM STDIN")
        .await?;
    let mut sink = std::pin::pin!(sink);
    let mut rows = 0;
    while start.elapsed() < TIME {
        let mut text = String::new();
        for row in 0..COPY_BLOCK_ROWS {
            let n = rows + row;
            text.push_str(&format!("bench-publisher-{row}\tbench/{row}/up\t{row}\t{n}\t1795000000000000\n"));
        }
        sink.send(std::io::Cursor::new(text.into_bytes())).await?;
        rows += COPY_BLOCK_ROWS;
    }
    sink.as_mut().finish().await?;
    Ok(rows as f64 / start.elapsed().as_secs_f64())
}
