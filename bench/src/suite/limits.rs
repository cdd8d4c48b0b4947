//! What the machine gives when nobody is in the way: the disk, memory, PostgreSQL's COPY, a producer of Kafka. The
//! loopback's limit is the contender that does nothing, in the scenario `publish`.

use std::collections::BTreeMap;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::SinkExt as _;
use muster_test_servers::Server;
use tokio::time::Instant;

use crate::counts::histogram;
use crate::load::pipeline::postgres;
use crate::report::{Results, Spread};

use super::LIMITS;
use super::kafka::{self, produce_rate};

/// How long each limit is measured in each round.
const TIME: Duration = Duration::from_secs(1);
/// Rows of one COPY.
const COPY_ROWS: u64 = 100_000;

/// By name, with its unit in the name.
pub(super) async fn run(place: &Path, rounds: usize, results: &mut Results) -> anyhow::Result<()> {
    let mut found: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut add = |name: &str, value: f64| found.entry(name.to_owned()).or_default().push(value);
    let server = own("postgres").await;
    let kafka = own("kafka").await.map(Arc::new);
    if let Some(kafka) = &kafka
        && let Err(error) = kafka::prepare(kafka).await
    {
        results.missing(LIMITS, "Kafka", &format!("{error:#}"));
    }
    for round in 1..=rounds {
        eprintln!("limits {round}/{rounds}");
        let (syncs, p50_us, p99_us) = sync_rate(place)?;
        add("fdatasync of 4 KiB, a second", syncs);
        add("fdatasync of 4 KiB, p50, ms", p50_us as f64 / 1e3);
        add("fdatasync of 4 KiB, p99, ms", p99_us as f64 / 1e3);
        add("sequential write, MB a second", sequential_write(place)?);
        add("memcpy, MB a second", memcpy());
        if let Some(server) = &server {
            let address = server.address();
            let url = format!("postgres://postgres@{}:{}/postgres", address.ip(), address.port());
            add("COPY into PostgreSQL, rows a second", copy_rate(&url).await?);
        }
        if let Some(kafka) = kafka.clone() {
            match tokio::task::spawn_blocking(move || produce_rate(&kafka)).await? {
                Ok(rate) => add("librdkafka's plain producer into Kafka, messages of 256 B a second", rate),
                Err(error) => results.missing(LIMITS, "Kafka", &format!("{error:#}")),
            }
        }
    }
    for (name, missing) in [("PostgreSQL", server.is_none()), ("Kafka", kafka.is_none())] {
        if missing {
            results.missing(LIMITS, name, "it is not installed, or did not start");
        }
    }
    // Blocking, since it waits for their ends.
    tokio::task::spawn_blocking(|| drop((server, kafka))).await?;
    results.limits = found.into_iter().map(|(name, values)| (name, Spread::of(values))).collect();
    Ok(())
}

/// A server for this run; none where it cannot be installed or does not start.
async fn own(name: &'static str) -> Option<Server> {
    tokio::task::spawn_blocking(move || Server::own(name)).await.ok().flatten()
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
    client
        .batch_execute(
            "DROP TABLE IF EXISTS limit_copy; CREATE TABLE limit_copy (clientid text, topic text, p bigint, n bigint, \
             t bigint)",
        )
        .await?;
    let start = Instant::now();
    let sink = client.copy_in::<_, std::io::Cursor<Vec<u8>>>("COPY limit_copy FROM STDIN").await?;
    let mut sink = std::pin::pin!(sink);
    for block in 0..COPY_ROWS / 1000 {
        let mut text = String::new();
        for row in 0..1000 {
            let n = block * 1000 + row;
            text.push_str(&format!("bench-publisher-{row}\tbench/{row}/up\t{row}\t{n}\t1795000000000000\n"));
        }
        sink.send(std::io::Cursor::new(text.into_bytes())).await?;
    }
    sink.as_mut().finish().await?;
    Ok(COPY_ROWS as f64 / start.elapsed().as_secs_f64())
}
