//! How many QoS 1 publishes a second Muster acknowledges with `durability = always`, against mosquitto under the
//! same load in the same run. `bench/run` builds what it needs and starts it; the table it prints is for the README.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a tool that says by a panic what is wrong"
)]

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use muster_tests::mqtt::{Client, Version};
use muster_tests::wait::{PATIENCE, soon, until};
use muster_tests::{Home, tools};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::Instant;

const USAGE: &str =
    "usage: bench-publish [--rounds N] [--seconds N] [--publishers N] [--payload BYTES] [--window N]";

/// How long the load runs before it is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long the bare disk is measured in each round.
const DISK_TIME: Duration = Duration::from_secs(1);

/// The load, equal for all brokers.
#[derive(Debug, Clone, Copy)]
struct Load {
    rounds: usize,
    time: Duration,
    publishers: usize,
    payload_bytes: usize,
    window: usize,
}

/// What stands on a line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broker {
    Muster,
    MusterWithRule,
    Mosquitto,
    MosquittoPersistent,
}

const BROKERS: [Broker; 4] =
    [Broker::Muster, Broker::MusterWithRule, Broker::Mosquitto, Broker::MosquittoPersistent];

/// Each message becomes a row.
const RULE: &str =
    "CREATE RULE bench INTO sqlite.bench AS SELECT clientid, topic, payload FROM \"bench/+/up\";\n";

impl Broker {
    const fn name(self) -> &'static str {
        match self {
            Self::Muster => "Muster, `durability = always`: an ack means fsynced",
            Self::MusterWithRule => "the same, and a rule writes each message into SQLite meanwhile",
            Self::Mosquitto => "mosquitto, in memory only",
            Self::MosquittoPersistent => "mosquitto, `persistence true`: an ack does not wait for the disk",
        }
    }
}

/// What one round measured.
#[derive(Debug)]
struct Round {
    per_second: f64,
    /// Of all publishes, sorted.
    latencies: Vec<Duration>,
}

#[tokio::main]
async fn main() {
    let load = arguments();
    let Some(mosquitto) = tools::find("mosquitto") else { return };
    let place = place();
    let mut rounds: Vec<Vec<Round>> = BROKERS.iter().map(|_| Vec::new()).collect();
    let mut syncs = Vec::new();
    for number in 1..=load.rounds {
        syncs.push(sync_rate(&place));
        eprintln!("round {number}: {:.0} fdatasync a second", syncs[number - 1]);
        for (broker, rounds) in BROKERS.iter().zip(&mut rounds) {
            let round = measure(*broker, &mosquitto, &place, load).await;
            eprintln!("round {number}: {:.0} publishes a second: {}", round.per_second, broker.name());
            rounds.push(round);
        }
    }
    print_table(load, &rounds, &mut syncs, &place);
}

fn arguments() -> Load {
    let mut load =
        Load { rounds: 5, time: Duration::from_secs(5), publishers: 100, payload_bytes: 256, window: 20 };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse::<usize>().ok()).filter(|value| *value > 0);
        let Some(value) = value else { usage() };
        match name.as_str() {
            "--rounds" => load.rounds = value,
            "--seconds" => load.time = Duration::from_secs(value as u64),
            "--publishers" => load.publishers = value,
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

/// Beside this program: a build folder is on a real disk, where the system's temporary folder may be in memory.
fn place() -> PathBuf {
    let program = std::env::current_exe().expect("this program has a path");
    program.parent().expect("a folder").to_owned()
}

async fn measure(broker: Broker, mosquitto: &Path, place: &Path, load: Load) -> Round {
    let home = Home::new_in(place);
    if matches!(broker, Broker::Muster | Broker::MusterWithRule) {
        if broker == Broker::MusterWithRule {
            home.write_rules("bench.sql", RULE);
        }
        let muster = home.start().await;
        let round = run_load(muster.mqtt, load).await;
        muster.stop().await;
        return round;
    }
    let (mut child, address) = start_mosquitto(mosquitto, home.path(), broker).await;
    let round = run_load(address, load).await;
    child.kill().await.expect("mosquitto can be stopped");
    round
}

async fn start_mosquitto(program: &Path, folder: &Path, broker: Broker) -> (Child, SocketAddr) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.expect("a free port");
    let persistence = broker == Broker::MosquittoPersistent;
    let text = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\npersistence {persistence}\npersistence_location {}/\nlog_type \
         error\nuser root\n",
        address.port(),
        folder.display()
    );
    let config = folder.join("mosquitto.conf");
    std::fs::write(&config, text).expect("a file");
    let child = tools::spawn(tools::command(program).arg("-c").arg(config));
    let open = async || TcpStream::connect(address).await.ok();
    until("mosquitto listens", PATIENCE, open).await;
    (child, address)
}

async fn run_load(broker: SocketAddr, load: Load) -> Round {
    let mut clients = Vec::new();
    for number in 0..load.publishers {
        clients.push(Client::connect(broker, Version::V4, &format!("publisher-{number}")).await);
    }
    let (clients, _, _) = publish_for(clients, WARM_UP, load).await;
    let (clients, latencies, took) = publish_for(clients, load.time, load).await;
    let per_second = latencies.len() as f64 / took.as_secs_f64();
    for client in clients {
        client.disconnect().await;
    }
    Round { per_second, latencies }
}

/// All clients publish for a time, and wait for their last acks.
async fn publish_for(
    clients: Vec<Client>,
    time: Duration,
    load: Load,
) -> (Vec<Client>, Vec<Duration>, Duration) {
    let start = Instant::now();
    let tasks = clients.into_iter().enumerate().map(|(number, mut client)| {
        tokio::spawn(async move {
            let topic = format!("bench/{number}/up");
            let payload = Bytes::from(vec![b'x'; load.payload_bytes]);
            let mut latencies = Vec::new();
            let payloads = std::iter::from_fn(|| (start.elapsed() < time).then(|| payload.clone()));
            let progress =
                client.publish_timed(&topic, payloads, load.window, &mut |took| latencies.push(took)).await;
            assert_eq!(progress.sent, progress.acked, "the broker went away");
            (client, latencies)
        })
    });
    let (mut clients, mut all) = (Vec::new(), Vec::new());
    for task in tasks.collect::<Vec<_>>() {
        let (client, latencies) = soon("the load ends", task).await.expect("a publisher");
        clients.push(client);
        all.extend(latencies);
    }
    let took = start.elapsed();
    all.sort_unstable();
    (clients, all, took)
}

/// What the disk gives when nobody is in the way: appends of 4 KiB, each followed by fdatasync.
fn sync_rate(place: &Path) -> f64 {
    let mut file = tempfile::tempfile_in(place).expect("a file");
    let (start, mut syncs) = (Instant::now(), 0_u32);
    while start.elapsed() < DISK_TIME {
        file.write_all(&[0; 4096]).expect("room on the disk");
        file.sync_data().expect("a sync");
        syncs += 1;
    }
    f64::from(syncs) / start.elapsed().as_secs_f64()
}

fn print_table(load: Load, rounds: &[Vec<Round>], syncs: &mut [f64], place: &Path) {
    println!(
        "{} publishers, QoS 1, {} B payload, {} in flight each, nobody subscribed; {} rounds of {} s in turns; {} \
         cores, load and broker on the same machine; {} on {}.\n",
        load.publishers,
        load.payload_bytes,
        load.window,
        load.rounds,
        load.time.as_secs(),
        std::thread::available_parallelism().map_or(0, usize::from),
        file_system(place),
        std::env::consts::ARCH,
    );
    println!("| broker | publishes/s, median | min to max | ack p50 | ack p99 | of mosquitto |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    let rates = |rounds: &[Round]| rounds.iter().map(|round| round.per_second).collect::<Vec<_>>();
    // In memory, its fastest.
    let base = median(&mut rates(&rounds[BROKERS.len() - 2]));
    for (broker, rounds) in BROKERS.iter().zip(rounds) {
        let mut rates = rates(rounds);
        let middle = median(&mut rates);
        let percentile = |percent: usize| {
            let mut all = rounds.iter().map(|round| {
                round.latencies[(round.latencies.len() - 1) * percent / 100].as_secs_f64() * 1000.0
            });
            median(&mut all.by_ref().collect::<Vec<_>>())
        };
        println!(
            "| {} | {middle:.0} | {:.0} to {:.0} | {:.1} ms | {:.1} ms | {:.2} |",
            broker.name(),
            rates[0],
            rates[rates.len() - 1],
            percentile(50),
            percentile(99),
            middle / base,
        );
    }
    let middle = median(syncs);
    println!(
        "\nBare disk: {middle:.0} fdatasync of 4 KiB a second ({:.0} to {:.0}).",
        syncs[0],
        syncs[syncs.len() - 1]
    );
}

/// Sorts, and gives the middle.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The type of the file system below a path.
fn file_system(place: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let holding = mounts.filter(|(folder, _)| place.starts_with(folder));
    holding.max_by_key(|(folder, _)| folder.len()).map_or("unknown", |(_, kind)| kind).to_owned()
}
