//! Each load for a moment, against the broker that does nothing and against mosquitto where it is installed, so that
//! the generator goes on working; figures are not looked at.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::load::{Load, Shape, connect, traffic};
use crate::null_broker;
use crate::outcome::Outcome;

async fn null_broker() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(null_broker::serve(listener));
    address
}

fn load(broker: SocketAddr) -> Load {
    let (warm_up, time) = (Duration::from_millis(20), Duration::from_millis(100));
    Load { broker, publishers: 4, subscribers: 0, warm_up, time, ..Load::default() }
}

fn assert_none_lost(outcome: &Outcome) {
    assert!(outcome.acked > 0, "{outcome:?}");
    let wrong = [outcome.lost, outcome.duplicated, outcome.refused, outcome.errors];
    assert_eq!(wrong, [0; 4], "{outcome:?}");
}

#[tokio::test]
async fn every_publish_is_acknowledged_once() {
    let broker = null_broker().await;
    for qos in 0..=2 {
        let outcome = traffic("publish", Load { qos, ..load(broker) }, Shape::Publish).await.expect("a run");
        assert_none_lost(&outcome);
        assert_eq!(outcome.sent, outcome.acked);
    }
}

#[tokio::test]
async fn an_open_loop_sends_at_its_rate() {
    let broker = null_broker().await;
    let slow = Load { rate: Some(1_000.0), ..load(broker) };
    let outcome = traffic("publish", slow, Shape::Publish).await.expect("a run");
    assert_none_lost(&outcome);
    // 120 ms at a thousand a second, whatever else this machine does; the edges may count a message less or more.
    assert!((118..=122).contains(&outcome.sent), "{}", outcome.sent);
}

#[tokio::test]
async fn a_given_number_of_messages_is_sent() {
    let broker = null_broker().await;
    let some = Load { messages: Some(25), time: Duration::from_secs(30), ..load(broker) };
    let outcome = traffic("publish", some, Shape::Publish).await.expect("a run");
    assert_eq!((outcome.sent, outcome.acked), (100, 100));
}

#[tokio::test]
async fn clients_come_and_come_back() {
    let broker = null_broker().await;
    for outcome in [
        connect::connect("connect", load(broker), 2).await,
        connect::reconnect("reconnect", load(broker), 4).await,
        connect::idle("idle", load(broker)).await,
    ] {
        let outcome = outcome.expect("a run");
        assert_eq!((outcome.acked, outcome.lost), (4, 0), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_broker_delivers_each_message_once() {
    let Some(mosquitto) = crate::suite::find("mosquitto") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let broker = crate::suite::start_mosquitto(&mosquitto, folder.path(), "").await.expect("mosquitto");
    for (shape, publishers, subscribers) in
        [(Shape::FanIn, 3, 2), (Shape::FanOut, 1, 5), (Shape::PeerToPeer, 4, 4)]
    {
        let rate = Some(500.0);
        let some = Load { publishers, subscribers, rate, ..load(broker.address) };
        let outcome = traffic("deliveries", some, shape).await.expect("a run");
        assert_none_lost(&outcome);
        assert_eq!(outcome.received, outcome.expected, "{shape:?}");
        assert!(outcome.latency.is_some());
    }
}
