//! What operators ask of a server with many connected clients, and how long they wait: pages, searches, kicks and
//! subscriptions in bulk; and what a flood of wrong passwords takes from devices that publish meanwhile.
//! `bench/clients` builds what it needs and starts it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a tool that says by a panic what is wrong"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use muster_tests::mqtt::{Client, Connect, Version};
use muster_tests::muster::http_client;
use muster_tests::wait::{PATIENCE, until};
use muster_tests::{Home, Muster};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

const USAGE: &str =
    "usage: bench-clients [--clients N] [--repeats N] [--bulk N] [--good N] [--attackers N] [--seconds N]";

/// Clients that connect at a time.
const CONNECTING_MAX: usize = 64;
/// Files that this program and the server need besides their connections.
const SPARE_FILES: u64 = 512;

/// What is measured.
#[derive(Debug, Clone, Copy)]
struct Load {
    clients: usize,
    repeats: usize,
    /// Clients that are kicked, and subscriptions that are made, by one request.
    bulk: usize,
    /// Devices that publish while wrong passwords come.
    good: usize,
    attackers: usize,
    time: Duration,
}

/// How long each time of one thing took, sorted.
struct Line {
    name: String,
    took: Vec<Duration>,
}

#[tokio::main]
async fn main() {
    let load = arguments();
    raise_limit(load);
    let lines = many_clients(load).await;
    println!(
        "{} connected clients, {} repeats; load and server on the same machine.\n",
        load.clients, load.repeats
    );
    println!("| request | p50 | p99 | slowest | repeats |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for line in &lines {
        let of = |percent| at(&line.took, percent);
        println!("| {} | {} | {} | {} | {} |", line.name, of(50), of(99), of(100), line.took.len());
    }
    flood(load).await;
}

fn arguments() -> Load {
    let mut load = Load {
        clients: 10_000,
        repeats: 200,
        bulk: 1_000,
        good: 1_000,
        attackers: 200,
        time: Duration::from_secs(10),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse::<usize>().ok()).filter(|value| *value > 0);
        let Some(value) = value else { usage() };
        match name.as_str() {
            "--clients" => load.clients = value,
            "--repeats" => load.repeats = value,
            "--bulk" => load.bulk = value,
            "--good" => load.good = value,
            "--attackers" => load.attackers = value,
            "--seconds" => load.time = Duration::from_secs(value as u64),
            _ => usage(),
        }
    }
    load.bulk = load.bulk.min(load.clients);
    load
}

fn usage() -> ! {
    eprintln!("{USAGE}");
    std::process::exit(2)
}

/// A connection is a file, here and in the server, which inherits the limit.
fn raise_limit(load: Load) {
    let wanted = load.clients.max(load.good + load.attackers) as u64 + SPARE_FILES;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    let raised = Rlimit { current: Some(wanted), maximum: maximum.map(|it| it.max(wanted)) };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        eprintln!("{wanted} open files are needed and cannot be had ({error}): ulimit -n {wanted}");
        std::process::exit(1);
    }
}

/// Percentile of what is sorted, in words.
fn at(took: &[Duration], percent: usize) -> String {
    let at = took.len().saturating_sub(1) * percent / 100;
    took.get(at).map_or_else(|| "-".to_owned(), |it| format!("{:.1} ms", it.as_secs_f64() * 1e3))
}

fn device(number: usize) -> String {
    format!("device-{number:05}")
}

/// Connects devices, many at a time, and gives them in the order of their numbers.
async fn connect(
    broker: SocketAddr,
    numbers: impl Iterator<Item = usize>,
    said: fn(&mut Connect),
) -> Vec<Client> {
    let mut clients = Vec::new();
    let mut connecting = JoinSet::new();
    for number in numbers {
        if connecting.len() >= CONNECTING_MAX {
            clients.extend(connecting.join_next().await.map(|it| it.expect("a client")));
        }
        connecting.spawn(async move {
            let mut connect = Connect::new(Version::V4, &device(number));
            said(&mut connect);
            let (client, _, code) = Client::greet(broker, &connect).await.expect("CONNACK");
            assert_eq!(code, 0, "a good device is let in");
            (number, client)
        });
    }
    clients.extend(connecting.join_all().await);
    clients.sort_by_key(|(number, _)| *number);
    clients.into_iter().map(|(_, client)| client).collect()
}

async fn many_clients(load: Load) -> Vec<Line> {
    let home = Home::new();
    let most = load.clients.max(load.good + load.attackers) + load.bulk;
    let muster = home.start_with(&["--set", &format!("mqtt.connections_max={most}")]).await;
    let began = Instant::now();
    let mut clients = connect(muster.mqtt, 0..load.clients, |_| {}).await;
    let took = began.elapsed();
    eprintln!("{} clients connected in {:.1} s", load.clients, took.as_secs_f64());
    let http = http_client();
    let last_page = (load.clients / 100).clamp(1, 90);
    let page = format!("/api/v5/clients?limit=100&page={last_page}");
    let mut lines = vec![
        get(&http, &muster, load, page, 100.min(load.clients)).await,
        // One device in ten thousand, and one in ten.
        get(&http, &muster, load, "/api/v5/clients?like_clientid=00042".to_owned(), 1).await,
        get(&http, &muster, load, "/api/v5/clients?like_clientid=7&limit=100".to_owned(), 1).await,
        get(&http, &muster, load, "/api/v5/clients/device-00001".to_owned(), 0).await,
    ];
    lines.push(subscribe(&http, &muster, load).await);
    lines.push(kick(&http, &muster, load, &mut clients).await);
    muster.stop().await;
    lines
}

async fn get(http: &reqwest::Client, muster: &Muster, load: Load, path: String, at_least: usize) -> Line {
    let mut took = Vec::new();
    for _ in 0..load.repeats {
        let began = Instant::now();
        let answer = http.get(format!("http://{}{path}", muster.http)).send().await.expect("an answer");
        let (status, body) = (answer.status().as_u16(), answer.bytes().await.expect("a body"));
        took.push(began.elapsed());
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        let shown = body["data"].as_array().map_or(0, Vec::len);
        assert!(status == 200 && shown >= at_least, "{path}: {status}, {shown} clients");
    }
    took.sort_unstable();
    Line { name: format!("`GET {path}`"), took }
}

async fn post(http: &reqwest::Client, muster: &Muster, path: &str, body: &Value) -> (u16, Duration) {
    let began = Instant::now();
    let answer =
        http.post(format!("http://{}{path}", muster.http)).json(body).send().await.expect("an answer");
    let status = answer.status().as_u16();
    answer.bytes().await.expect("a body");
    (status, began.elapsed())
}

/// Subscriptions of one device, made by one request and ended by another.
async fn subscribe(http: &reqwest::Client, muster: &Muster, load: Load) -> Line {
    let path = "/api/v5/clients/device-00001";
    let filters: Vec<_> = (0..load.bulk).map(|n| json!({"topic": format!("bulk/{n}/+"), "qos": 1})).collect();
    let filters = Value::Array(filters);
    let mut took = Vec::new();
    for _ in 0..(load.repeats / 2).max(3) {
        let (status, time) = post(http, muster, &format!("{path}/subscribe/bulk"), &filters).await;
        assert_eq!(status, 200, "{} subscriptions", load.bulk);
        took.push(time);
        let (status, _) = post(http, muster, &format!("{path}/unsubscribe/bulk"), &filters).await;
        assert_eq!(status, 204);
    }
    took.sort_unstable();
    Line { name: format!("`POST /clients/ID/subscribe/bulk` of {}", load.bulk), took }
}

/// Devices that are kicked and come back.
async fn kick(http: &reqwest::Client, muster: &Muster, load: Load, clients: &mut [Client]) -> Line {
    let ids = json!((0..load.bulk).map(device).collect::<Vec<_>>());
    let mut took = Vec::new();
    for _ in 0..(load.repeats / 2).max(3) {
        let (status, time) = post(http, muster, "/api/v5/clients/kickout/bulk", &ids).await;
        assert_eq!(status, 204);
        took.push(time);
        let back = connect(muster.mqtt, 0..load.bulk, |_| {}).await;
        for (place, client) in clients.iter_mut().zip(back) {
            *place = client;
        }
        until("all are back", PATIENCE, async || {
            let page = muster.json("/api/v5/clients?limit=1").await;
            (page["meta"]["count"] == load.clients).then_some(())
        })
        .await;
    }
    took.sort_unstable();
    Line { name: format!("`POST /clients/kickout/bulk` of {}", load.bulk), took }
}

/// Good devices publish one message after another, first alone, then while others try passwords.
async fn flood(load: Load) {
    let home = Home::new();
    let muster = home.start().await;
    for (user, password) in [("device", "secret"), ("victim", "another")] {
        let path = "/api/v5/authentication/password_based%3Abuilt_in_database/users";
        let user = json!({"user_id": user, "password": password});
        let (status, body) = muster.send("POST", path, user).await;
        assert_eq!(status, 201, "{body}");
    }
    let mut devices = connect(muster.mqtt, 0..load.good, |connect| {
        connect.username = Some("device".to_owned());
        connect.password = Some("secret".to_owned());
    })
    .await;
    let alone = publish_for(&mut devices, load.time).await;
    let (stop, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut attackers = JoinSet::new();
    for number in 0..load.attackers {
        let (stop, refused, broker) = (Arc::clone(&stop), Arc::clone(&refused), muster.mqtt);
        attackers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let mut connect = Connect::new(Version::V5, &format!("bad-{number}"));
                connect.username = Some("victim".to_owned());
                connect.password = Some(format!("guess-{}", refused.fetch_add(1, Ordering::Relaxed)));
                let (_, _, code) = Client::greet(broker, &connect).await.expect("CONNACK");
                assert_ne!(code, 0, "a wrong password is refused");
            }
        });
    }
    let flooded = publish_for(&mut devices, load.time).await;
    stop.store(true, Ordering::Relaxed);
    attackers.join_all().await;
    muster.stop().await;
    println!(
        "\n{} devices publish with QoS 1, one message at a time each, {} s; {} wrong logins from {} connections.\n",
        load.good,
        load.time.as_secs(),
        refused.load(Ordering::Relaxed),
        load.attackers
    );
    println!("| devices publish | publishes | ack p50 | ack p99 | slowest |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for (name, took) in [("alone", alone), ("while wrong passwords come", flooded)] {
        println!("| {name} | {} | {} | {} | {} |", took.len(), at(&took, 50), at(&took, 99), at(&took, 100));
    }
}

/// Each device publishes one message after another; how long each took, sorted.
async fn publish_for(devices: &mut Vec<Client>, time: Duration) -> Vec<Duration> {
    let start = Instant::now();
    let mut publishing = JoinSet::new();
    for mut device in devices.drain(..) {
        publishing.spawn(async move {
            let mut took = Vec::new();
            let payloads =
                std::iter::from_fn(|| (start.elapsed() < time).then(|| bytes::Bytes::from_static(b"{}")));
            let progress = device.publish_timed("good/up", payloads, 1, &mut |it| took.push(it)).await;
            assert_eq!(progress.sent, progress.acked, "every publish of a good device is acknowledged");
            (device, took)
        });
    }
    let mut all = Vec::new();
    for (device, took) in publishing.join_all().await {
        devices.push(device);
        all.extend(took);
    }
    all.sort_unstable();
    all
}
