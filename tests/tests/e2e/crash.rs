//! kill -9: what was acknowledged is there, once, and who was connected is known to be gone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use muster_core::event::EventKind;
use muster_tests::mqtt::{Client, Connect, VERSIONS, Version};
use muster_tests::{Home, PATIENCE, long, need, seed, tools, until};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;

use crate::common::{HISTORY, TELEMETRY, publish, until_history};

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_acknowledged_messages_survive() {
    const ONE_CLIENT: usize = 900;
    const OWN_CLIENTS: usize = 100;
    let program = need!("mosquitto_pub");
    let subscriber = need!("mosquitto_sub");
    let home = Home::with_rules(&format!("{TELEMETRY}{HISTORY}"));
    let muster = home.start().await;

    let mut open = Vec::new();
    for version in VERSIONS {
        open.push(Client::connect(muster.mqtt, version, &format!("open-{version:?}")).await);
    }
    let mut command = tools::mosquitto(&subscriber, muster.mqtt);
    let _open = tools::spawn(command.args(["-i", "open-sub", "-t", "sensors/#", "-q", "1"]));
    until_history(&home, "open-sub", &["connected"]).await;

    let lines: String = (0..ONE_CLIENT).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let mut command = tools::mosquitto(&program, muster.mqtt);
    tools::run_with_input(command.args(["-q", "1", "-i", "bulk", "-t", "sensors/bulk/up", "-l"]), &lines)
        .await;
    for n in ONE_CLIENT..ONE_CLIENT + OWN_CLIENTS {
        publish(&program, &muster, &format!("one-{n}"), "sensors/one/up", &format!("{{\"n\":{n}}}")).await;
    }
    muster.kill().await;

    let muster = home.start().await;
    let rows = home.until_lines("SELECT n FROM telemetry ORDER BY n", ONE_CLIENT + OWN_CLIENTS).await;
    let expected = (0..ONE_CLIENT + OWN_CLIENTS).map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(rows, expected);
    for client_id in ["open-V4", "open-V5", "open-sub"] {
        until_history(&home, client_id, &["connected", "disconnected server_restart"]).await;
    }
    until_history(&home, "bulk", &["connected", "disconnected normal"]).await;
    muster.stop().await;

    let log = home.log().await;
    let mut logged: Vec<u64> = log.publishes().map(|(_, payload)| number(payload)).collect();
    logged.sort_unstable();
    assert_eq!(logged, (0..(ONE_CLIENT + OWN_CLIENTS) as u64).collect::<Vec<_>>());
    let open = |id: &str| {
        let reason = |event: &muster_core::event::Event| match &event.body.detail {
            Some(muster_core::event::proto::event::Detail::Disconnected(it)) => it.reason.clone(),
            _ => String::new(),
        };
        log.of(EventKind::ClientDisconnected)
            .filter(|event| event.clientid() == id)
            .map(reason)
            .collect::<Vec<_>>()
    };
    for client_id in ["open-V4", "open-V5", "open-sub"] {
        assert_eq!(open(client_id), ["server_restart"]);
    }
}

fn number(payload: &[u8]) -> u64 {
    let payload: serde_json::Value = serde_json::from_slice(payload).expect("JSON");
    payload["n"].as_u64().expect("a number")
}

/// The conservation oracle: whatever the moment of the kill, an acknowledged message is in the database once, an
/// unacknowledged one at most once, nothing else is there, order is kept, and when the faults end, things flow.
#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_moments_lose_nothing_and_double_nothing() {
    const PUBLISHERS: usize = 8;
    let mut random = StdRng::seed_from_u64(seed());
    let rounds = if long() { 60 } else { 5 };
    let home = Home::with_rules(&format!("{TELEMETRY}{HISTORY}"));
    let mut next: [usize; PUBLISHERS] = [0; PUBLISHERS];
    let mut acked: HashSet<(usize, usize)> = HashSet::new();

    for round in 0..rounds {
        let muster = home.start().await;
        let acks = Arc::new(AtomicUsize::new(0));
        let mut publishers = JoinSet::new();
        for (number, first) in next.iter().copied().enumerate() {
            let (broker, acks, window) = (muster.mqtt, Arc::clone(&acks), random.random_range(1..50));
            let version = VERSIONS[number % 2];
            publishers.spawn(async move {
                let mut client = Client::connect(broker, version, &format!("p{number}")).await;
                let payloads = (first..).map(|n| Bytes::from(format!("{{\"n\":{n}}}")));
                let topic = format!("sensors/p{number}/up");
                let count = &mut |_| {
                    acks.fetch_add(1, Ordering::Relaxed);
                };
                (number, client.publish_timed(&topic, payloads, window, count).await)
            });
        }
        let kill_at = random.random_range(1..4_000);
        until("enough acks for a kill", PATIENCE, async || {
            (acks.load(Ordering::Relaxed) >= kill_at).then_some(())
        })
        .await;
        muster.kill().await;
        while let Some(done) = publishers.join_next().await {
            let (number, progress) = done.expect("a publisher");
            acked.extend((next[number]..next[number] + progress.acked).map(|n| (number, n)));
            next[number] += progress.sent;
        }
        eprintln!("round {round}: killed after {kill_at} acks; {} acknowledged so far", acked.len());
        if random.random_bool(0.3) {
            // Once more, while it recovers and catches up.
            home.start().await.kill().await;
        }
    }

    let muster = home.start().await;
    let mut client = Client::connect(muster.mqtt, Version::V5, "last").await;
    client.publish("sensors/last/up", br#"{"n":0}"#, 1, false).await;
    home.until_lines("SELECT n FROM telemetry WHERE clientid = 'last'", 1).await;
    muster.stop().await;

    let mut seen: HashMap<usize, Vec<usize>> = HashMap::new();
    for line in home.lines("SELECT clientid, n FROM telemetry WHERE clientid <> 'last' ORDER BY _event_id") {
        let (client_id, n) = line.split_once('|').expect("two columns");
        let number = client_id.trim_start_matches('p').parse().expect("a publisher");
        seen.entry(number).or_default().push(n.parse().expect("a number"));
    }
    for (number, rows) in &seen {
        assert!(rows.is_sorted_by(|a, b| a < b), "p{number}: once each and in order");
        assert!(rows.iter().all(|n| *n < next[*number]), "p{number}: nothing that was not sent");
    }
    let seen: HashSet<(usize, usize)> =
        seen.into_iter().flat_map(|(number, rows)| rows.into_iter().map(move |n| (number, n))).collect();
    let lost = acked.difference(&seen).collect::<Vec<_>>();
    assert!(lost.is_empty(), "{} acknowledged messages are lost: {lost:?}", lost.len());

    // Each session that was opened was closed, in order, by itself or by the restart.
    for number in 0..PUBLISHERS {
        let events = crate::common::history(&home, &format!("p{number}"));
        assert_eq!(events.len() % 2, 0, "p{number}: {events:?}");
        for pair in events.chunks(2) {
            assert_eq!(pair, ["connected", "disconnected server_restart"], "p{number}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_taken_over_before_the_kill_is_closed_once() {
    let home = Home::with_rules(HISTORY);
    let muster = home.start().await;
    let connect = Connect { clean: false, ..Connect::new(Version::V5, "device") };
    let _old = Client::greet(muster.mqtt, &connect).await.expect("a connection");
    let _new = Client::greet(muster.mqtt, &connect).await.expect("a connection");
    until_history(&home, "device", &["connected", "disconnected takenover", "connected"]).await;
    muster.kill().await;
    let muster = home.start().await;
    let expected = ["connected", "disconnected takenover", "connected", "disconnected server_restart"];
    until_history(&home, "device", &expected).await;
    muster.kill().await;
    let muster = home.start().await;
    let _last = Client::connect(muster.mqtt, Version::V4, "other").await;
    until_history(&home, "other", &["connected"]).await;
    until_history(&home, "device", &expected).await;
    muster.stop().await;
}
