//! Many clients of a library that is not ours, and many connections that send anything at all.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test may fail loudly"
)]

mod support;

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use muster_broker::Limits;
use muster_core::event::EventKind;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use support::{Client, Connect, Harness, PATIENCE, packet};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

const CLIENTS: usize = 50;
const MESSAGES: usize = 200;

/// Publishes all messages with QoS 1 and ends when every one is acknowledged.
async fn publish_all(port: u16, clientid: String) {
    let mut options = MqttOptions::new(&clientid, "127.0.0.1", port);
    options.set_inflight(20);
    let (client, mut events) = AsyncClient::new(options, MESSAGES + 10);
    for at in 0..MESSAGES {
        let topic = format!("load/{clientid}");
        client.publish(topic, QoS::AtLeastOnce, false, at.to_string()).await.unwrap();
    }
    let mut acked = 0;
    while acked < MESSAGES {
        if let Event::Incoming(Packet::PubAck(_)) = timeout(PATIENCE, events.poll()).await.unwrap().unwrap() {
            acked += 1;
        }
    }
    client.disconnect().await.unwrap();
    while timeout(PATIENCE, events.poll()).await.unwrap().is_ok() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_lose_nothing_double_nothing_and_keep_their_order() {
    let limits = Limits { queue_messages_max: CLIENTS * MESSAGES, ..Limits::default() };
    let harness = Harness::with(limits).await;
    let port = harness.addr().port();
    let mut options = MqttOptions::new("subscriber", "127.0.0.1", port);
    options.set_inflight(100);
    let (subscriber, mut incoming) = AsyncClient::new(options, 10);
    subscriber.subscribe("load/+", QoS::AtLeastOnce).await.unwrap();
    while !matches!(incoming.poll().await.unwrap(), Event::Incoming(Packet::SubAck(_))) {}
    let receiving = tokio::spawn(async move {
        let mut got: HashMap<String, Vec<usize>> = HashMap::new();
        let mut count = 0;
        while count < CLIENTS * MESSAGES {
            if let Event::Incoming(Packet::Publish(publish)) =
                timeout(PATIENCE, incoming.poll()).await.unwrap().unwrap()
            {
                let number = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
                got.entry(publish.topic).or_default().push(number);
                count += 1;
            }
        }
        got
    });
    let publishing: Vec<_> =
        (0..CLIENTS).map(|at| tokio::spawn(publish_all(port, format!("c{at}")))).collect();
    for publisher in publishing {
        publisher.await.unwrap();
    }
    let expected: Vec<_> = (0..MESSAGES).collect();
    let mut logged: HashMap<String, Vec<usize>> = HashMap::new();
    for event in harness.events().await.iter().filter(|it| it.kind == EventKind::MessagePublish) {
        let number = std::str::from_utf8(&event.payload()).unwrap().parse().unwrap();
        logged.entry(event.topic.clone()).or_default().push(number);
    }
    assert_eq!(logged.len(), CLIENTS);
    assert!(logged.values().all(|it| *it == expected));
    let dropped = harness.broker.stats().counters;
    assert_eq!(dropped.deliveries_dropped, 0, "{dropped:?}");
    let received = receiving.await.unwrap();
    assert_eq!(received.len(), CLIENTS);
    assert!(received.values().all(|it| *it == expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_hears_everything_while_others_come_and_go() {
    const LISTENERS: usize = 250;
    const ROUNDS: usize = 60;
    let harness = Harness::start().await;
    let addr = harness.addr();
    let mut listeners = Vec::new();
    for at in 0..LISTENERS {
        let mut client = harness.v4(&format!("l{at}")).await;
        client.subscribe(1, &[("news", 0)]).await;
        listeners.push(tokio::spawn(async move {
            for round in 0..ROUNDS {
                assert_eq!(client.message().await.text(), round.to_string());
            }
        }));
    }
    let churn: Vec<_> = (0..4)
        .map(|at| {
            tokio::spawn(async move {
                for round in 0..ROUNDS {
                    let mut client = Client::connected(addr, Connect::v4(&format!("x{at}-{round}"))).await;
                    client.subscribe_amid_messages(1, &[("news", 0), ("$share/g/news", 1)]).await;
                    // Gone without a word.
                    drop(client);
                }
            })
        })
        .collect();
    let mut publisher = harness.v4("p").await;
    for round in 0..ROUNDS {
        publisher.publish1(1, "news", &round.to_string()).await;
    }
    for task in churn.into_iter().chain(listeners) {
        task.await.unwrap();
    }
    assert_eq!(harness.broker.stats().counters.deliveries_dropped_queue_full, 0);
}

/// Bytes that a client might send: packets that are nearly right, and noise.
fn anything() -> impl Strategy<Value = Bytes> {
    let noise = prop::collection::vec(any::<u8>(), 0..80).prop_map(Bytes::from);
    let typed = (any::<u8>(), prop::collection::vec(any::<u8>(), 0..60))
        .prop_map(|(first, body)| packet(first, &body));
    let small =
        (any::<u8>(), prop::collection::vec(0u8..6, 0..20)).prop_map(|(first, body)| packet(first, &body));
    prop_oneof![noise, typed.clone(), typed, small]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_bytes_bring_the_broker_down() {
    let harness = Harness::start().await;
    let mut runner = TestRunner::deterministic();
    let mut witness = harness.v5("witness").await;
    witness.subscribe(1, &[("witness", 1)]).await;
    for round in 0..150u16 {
        let script = prop::collection::vec(anything(), 1..6).new_tree(&mut runner).unwrap().current();
        let clientid = format!("fuzz{}", round % 7);
        let connect = if round % 2 == 0 { Connect::v5(&clientid) } else { Connect::v4(&clientid) };
        let mut client = if round % 5 == 0 {
            Client::socket(harness.addr(), 4).await
        } else {
            Client::connected(harness.addr(), connect).await
        };
        for bytes in script {
            // The server may have closed by now.
            if client.stream.write_all(&bytes).await.is_err() {
                break;
            }
        }
        // The client may already be cut off.
        drop(client.stream.shutdown().await);
        let mut rest = Vec::new();
        timeout(PATIENCE, client.stream.read_to_end(&mut rest)).await.expect("it hangs").ok();
    }
    witness.publish_with(0b010, 9, "witness", &[], b"alive").await;
    let mut kinds = HashSet::new();
    while kinds.len() < 2 {
        kinds.insert(witness.recv().await.first >> 4);
    }
    // Whoever was seen to come was seen to go.
    let mut open = HashSet::new();
    harness.broker.shutdown().await;
    for event in harness.events().await {
        match event.kind {
            EventKind::ClientConnected => assert!(open.insert(event.clientid().to_owned())),
            EventKind::ClientDisconnected => assert!(open.remove(event.clientid())),
            _ => {}
        }
    }
    assert_eq!(open, HashSet::new());
}
