//! Many devices at once: none lost, none twice, each device's order kept, in the log and in the sink.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use muster_tests::Home;
use muster_tests::mqtt::{Client, VERSIONS};
use muster_tests::wait::soon;
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use tokio::task::JoinSet;

use crate::common::{TELEMETRY, until_delivered};

const CLIENTS: usize = 100;
const MESSAGES: usize = 1_000;
/// Of the clients, so many use a library that is not ours.
const FOREIGN: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clients_a_thousand_messages_each() {
    let home = Home::with_rules(TELEMETRY);
    let muster = home.start().await;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let broker = muster.mqtt;
        if number < FOREIGN {
            clients.spawn(async move { soon("all acks", foreign(broker, number)).await });
            continue;
        }
        clients.spawn(async move {
            let mut client = Client::connect(broker, VERSIONS[number % 2], &format!("c{number}")).await;
            let payloads = (0..MESSAGES).map(|n| Bytes::from(format!("{{\"n\":{n}}}")));
            let progress = client.publish_all(&format!("sensors/c{number}/up"), payloads, 16).await;
            assert_eq!(progress.acked, MESSAGES);
            client.disconnect().await;
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("a client");
    }
    until_delivered(&muster, "telemetry", "sqlite", (CLIENTS * MESSAGES) as u64).await;
    muster.stop().await;

    let out_of_order = "SELECT clientid, n FROM (SELECT clientid, n, row_number() OVER (PARTITION BY clientid ORDER \
                        BY _event_id) - 1 AS place FROM telemetry) WHERE n <> place LIMIT 10";
    assert_eq!(home.lines(out_of_order), [""; 0], "order in the sink");
    let sums = home.lines("SELECT count(*), count(DISTINCT clientid) FROM telemetry");
    assert_eq!(sums, [format!("{}|{CLIENTS}", CLIENTS * MESSAGES)]);

    let log = home.log().await;
    let mut next: HashMap<String, usize> = HashMap::new();
    for (topic, payload) in log.publishes() {
        let n = next.entry(topic.to_owned()).or_default();
        assert_eq!(payload, format!("{{\"n\":{n}}}").as_bytes(), "order in the log of {topic}");
        *n += 1;
    }
    assert_eq!(next.len(), CLIENTS);
    assert!(next.values().all(|count| *count == MESSAGES), "{next:?}");
}

async fn foreign(broker: std::net::SocketAddr, number: usize) {
    let mut options = MqttOptions::new(format!("c{number}"), broker.ip().to_string(), broker.port());
    options.set_keep_alive(Duration::from_secs(60));
    let (client, mut events) = AsyncClient::new(options, 10);
    let feed = tokio::spawn(async move {
        let topic = format!("sensors/c{number}/up");
        for n in 0..MESSAGES {
            client
                .publish(&topic, QoS::AtLeastOnce, false, format!("{{\"n\":{n}}}"))
                .await
                .expect("a client");
        }
        client
    });
    let mut acks = 0;
    while acks < MESSAGES {
        if let Event::Incoming(Incoming::PubAck(_)) = events.poll().await.expect("no error") {
            acks += 1;
        }
    }
    let client = feed.await.expect("all were sent");
    client.disconnect().await.expect("a client");
    while events.poll().await.is_ok() {}
}
