//! How many messages a second operators publish over REST, one a request and many a request, against the same messages
//! over MQTT with QoS 1 in the same run, in turns. Each answer means that the message is on the disk.
//! `bench/rest` builds what it needs and starts it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a tool that says by a panic what is wrong"
)]

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use muster_tests::mqtt::{Client, Version};
use muster_tests::muster::http_client;
use muster_tests::wait::soon;
use muster_tests::{Home, Muster};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

const USAGE: &str =
    "usage: bench-rest [--rounds N] [--seconds N] [--connections N] [--payload BYTES] [--window N]";

/// How long the load runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(500);

/// The load, equal for all ways.
#[derive(Debug, Clone, Copy)]
struct Load {
    rounds: usize,
    time: Duration,
    connections: usize,
    payload_bytes: usize,
    /// Unacknowledged publishes of one MQTT connection.
    window: usize,
}

/// What stands on a line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Mqtt,
    MqttLone,
    One,
    Bulk(usize),
}

const WAYS: [Way; 5] = [Way::Mqtt, Way::MqttLone, Way::One, Way::Bulk(1_000), Way::Bulk(10_000)];

impl Way {
    fn name(self, load: Load) -> String {
        let connections = load.connections;
        match self {
            Self::Mqtt => format!("MQTT, {connections} connections, {} in flight each", load.window),
            Self::MqttLone => format!("MQTT, {connections} connections, 1 in flight each"),
            Self::One => format!("`POST /publish`, {connections} connections kept open"),
            Self::Bulk(count) => format!("`POST /publish/bulk` of {count}, 2 connections kept open"),
        }
    }
}

/// What one round measured.
#[derive(Debug)]
struct Round {
    per_second: f64,
    /// Of all requests or publishes, sorted.
    latencies: Vec<Duration>,
}

#[tokio::main]
async fn main() {
    let load = arguments();
    // A build folder is on a real disk, where the system's temporary folder may be in memory.
    let program = std::env::current_exe().expect("this program has a path");
    let place: PathBuf = program.parent().expect("a folder").to_owned();
    let mut rounds: Vec<Vec<Round>> = WAYS.iter().map(|_| Vec::new()).collect();
    for number in 1..=load.rounds {
        for (way, rounds) in WAYS.iter().zip(&mut rounds) {
            let home = Home::new_in(&place);
            let muster = home.start().await;
            let round = measure(&muster, *way, load).await;
            eprintln!("round {number}: {:.0} messages a second: {}", round.per_second, way.name(load));
            rounds.push(round);
            muster.stop().await;
        }
    }
    print_table(load, &rounds);
}

fn arguments() -> Load {
    let mut load =
        Load { rounds: 5, time: Duration::from_secs(5), connections: 50, payload_bytes: 256, window: 20 };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse::<usize>().ok()).filter(|value| *value > 0);
        let Some(value) = value else { usage() };
        match name.as_str() {
            "--rounds" => load.rounds = value,
            "--seconds" => load.time = Duration::from_secs(value as u64),
            "--connections" => load.connections = value,
            "--payload" => load.payload_bytes = value,
            "--window" => load.window = value,
            _ => usage(),
        }
    }
    load
}

fn usage() -> ! {
    eprintln!("{USAGE}");
    std::process::exit(2)
}

async fn measure(muster: &Muster, way: Way, load: Load) -> Round {
    match way {
        Way::Mqtt => publish_mqtt(muster, load, load.window).await,
        Way::MqttLone => publish_mqtt(muster, load, 1).await,
        Way::One => {
            let body = json!({"topic": "bench/up", "payload": "x".repeat(load.payload_bytes), "qos": 1});
            publish_rest(muster, load, "/api/v5/publish", body.to_string(), (1, load.connections)).await
        }
        Way::Bulk(count) => {
            let message = json!({"topic": "bench/up", "payload": "x".repeat(load.payload_bytes), "qos": 1});
            let body = serde_json::Value::Array(vec![message; count]).to_string();
            publish_rest(muster, load, "/api/v5/publish/bulk", body, (count, 2)).await
        }
    }
}

async fn publish_mqtt(muster: &Muster, load: Load, window: usize) -> Round {
    let mut clients = Vec::new();
    for number in 0..load.connections {
        clients.push(Client::connect(muster.mqtt, Version::V4, &format!("publisher-{number}")).await);
    }
    let mut round = None;
    for time in [WARM_UP, load.time] {
        let start = Instant::now();
        let tasks = clients.drain(..).map(|mut client| {
            tokio::spawn(async move {
                let payload = Bytes::from(vec![b'x'; load.payload_bytes]);
                let payloads = std::iter::from_fn(|| (start.elapsed() < time).then(|| payload.clone()));
                let mut latencies = Vec::new();
                let note = &mut |took| latencies.push(took);
                let progress = client.publish_timed("bench/up", payloads, window, note).await;
                assert_eq!(progress.sent, progress.acked, "the broker went away");
                (client, latencies)
            })
        });
        let mut all = Vec::new();
        let tasks: Vec<_> = tasks.collect();
        for task in tasks {
            let (client, latencies) = soon("the load ends", task).await.expect("a publisher");
            clients.push(client);
            all.extend(latencies);
        }
        round = Some(Round::new(all, 1, start.elapsed()));
    }
    round.expect("it was measured")
}

async fn publish_rest(
    muster: &Muster,
    load: Load,
    path: &str,
    body: String,
    (messages, connections): (usize, usize),
) -> Round {
    let (url, body) = (format!("http://{}{path}", muster.http), Bytes::from(body));
    let clients: Vec<_> = (0..connections).map(|_| http_client()).collect();
    let mut round = None;
    for time in [WARM_UP, load.time] {
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for client in clients.clone() {
            let (url, body) = (url.clone(), body.clone());
            tasks.spawn(async move {
                let mut latencies = Vec::new();
                while start.elapsed() < time {
                    let began = Instant::now();
                    let request = client.post(&url).header("content-type", "application/json");
                    let response = request.body(body.clone()).send().await.expect("an answer");
                    assert_eq!(response.status().as_u16(), 202, "nobody subscribes, all is published");
                    response.bytes().await.expect("a body");
                    latencies.push(began.elapsed());
                }
                latencies
            });
        }
        let all = tasks.join_all().await.into_iter().flatten().collect();
        round = Some(Round::new(all, messages, start.elapsed()));
    }
    round.expect("it was measured")
}

impl Round {
    fn new(mut latencies: Vec<Duration>, messages: usize, took: Duration) -> Self {
        latencies.sort_unstable();
        Self { per_second: (latencies.len() * messages) as f64 / took.as_secs_f64(), latencies }
    }

    fn percentile_ms(&self, percent: usize) -> f64 {
        self.latencies[(self.latencies.len() - 1) * percent / 100].as_secs_f64() * 1e3
    }
}

fn print_table(load: Load, rounds: &[Vec<Round>]) {
    println!(
        "{} B payload, nobody subscribed, `durability = always`; {} rounds of {} s in turns, each with an empty log; \
         {} cores, load and server on the same machine.\n",
        load.payload_bytes,
        load.rounds,
        load.time.as_secs(),
        std::thread::available_parallelism().map_or(0, usize::from),
    );
    println!("| way | messages/s, median | min to max | answer p50 | answer p99 | of MQTT |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    let mut base = None;
    for (way, rounds) in WAYS.iter().zip(rounds) {
        let mut rates: Vec<_> = rounds.iter().map(|round| round.per_second).collect();
        let middle = median(&mut rates);
        let base = *base.get_or_insert(middle);
        let of = |percent| median(&mut rounds.iter().map(|it| it.percentile_ms(percent)).collect::<Vec<_>>());
        println!(
            "| {} | {middle:.0} | {:.0} to {:.0} | {:.1} ms | {:.1} ms | {:.2} |",
            way.name(load),
            rates[0],
            rates[rates.len() - 1],
            of(50),
            of(99),
            middle / base
        );
    }
}

/// Sorts, and gives the middle.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
