//! Thousands of real sockets go at once: the devices' ends all close, and then, with as many connected again, the whole
//! process is killed.

use std::collections::HashMap;
use std::time::Duration;

use muster_tests::log::LogContents;
use muster_tests::mqtt::{Client, VERSIONS};
use muster_tests::{Home, Muster, PATIENCE, until};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::books::Books;

const DEVICES: usize = 5_000;
/// Devices that connect at the same time.
const AT_ONCE: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_sockets_at_once() {
    let home = Home::new();
    let muster = home.start().await;
    let empty = muster.memory_bytes();
    let clients = connect(&muster).await;
    until_online(&muster, DEVICES).await;
    let idle = muster.memory_bytes();
    let pulled = Instant::now();
    drop(clients);
    until_online(&muster, 0).await;
    let right = pulled.elapsed();
    let books = Books::of(&LogContents::of_running(&home.data().join("log")));
    assert_eq!(
        books.reasons(),
        HashMap::from([("(came)", DEVICES), ("tcp_closed", DEVICES)]).into_iter().collect()
    );

    let clients = connect(&muster).await;
    until_online(&muster, DEVICES).await;
    let highest = muster.memory_bytes_max();
    muster.kill().await;
    drop(clients);
    let started = Instant::now();
    let muster = home.start().await;
    let again = started.elapsed();
    // Before a listener was open.
    assert_eq!(online(&muster).await, 0);
    muster.stop().await;
    let books = Books::of(&home.log().await);
    let expected = [("(came)", 2 * DEVICES), ("server_restart", DEVICES), ("tcp_closed", DEVICES)];
    assert_eq!(books.reasons(), expected.into_iter().collect());
    assert!(books.devices.values().all(|it| !it.online && (it.connects, it.disconnects) == (2, 2)));
    let mib = |bytes: u64| bytes / (1024 * 1024);
    println!(
        "mass drop: {DEVICES} sockets closed at once, presence right after {:.2} s; killed with as many connected, up \
         again and presence right after {:.2} s; memory {} MiB empty, {} MiB with all connected, {} MiB at most",
        right.as_secs_f64(),
        again.as_secs_f64(),
        mib(empty),
        mib(idle),
        mib(highest)
    );
}

async fn connect(muster: &Muster) -> Vec<Client> {
    let mut tasks = JoinSet::new();
    for first in 0..AT_ONCE {
        let broker = muster.mqtt;
        tasks.spawn(async move {
            let mut clients = Vec::new();
            for number in (first..DEVICES).step_by(AT_ONCE) {
                clients
                    .push(Client::connect(broker, VERSIONS[number % 2], &format!("device-{number}")).await);
            }
            clients
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// How many devices are online, as presence has it.
async fn online(muster: &Muster) -> u64 {
    let page = muster.json("/api/v1/devices?online=true&limit=1").await;
    page["meta"]["count"].as_u64().unwrap_or_else(|| panic!("no count: {page}"))
}

async fn until_online(muster: &Muster, count: usize) {
    let limit = PATIENCE.max(Duration::from_secs(120));
    until(&format!("{count} devices are online"), limit, async || {
        (online(muster).await == count as u64).then_some(())
    })
    .await;
}
