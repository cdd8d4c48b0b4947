//! Each load for a moment, against the broker that does nothing and against mosquitto where it is installed, so that
//! the generator goes on working; figures are not looked at.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::client::Target;
use crate::codec::Version;
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
    let target = Arc::new(Target::new(broker, Version::V4));
    Load { target, publishers: 4, subscribers: 0, warm_up, time, ..Load::default() }
}

fn assert_none_lost(outcome: &Outcome) {
    assert!(outcome.complete() && outcome.sent > 0, "{outcome:?}");
    assert_eq!((outcome.due, outcome.refused, outcome.errors), (outcome.sent, 0, 0), "{outcome:?}");
}

#[tokio::test]
async fn every_publish_is_acknowledged_once() {
    let broker = null_broker().await;
    for qos in 1..=2 {
        let outcome = traffic("publish", Load { qos, ..load(broker) }, Shape::Publish).await.expect("a run");
        assert_none_lost(&outcome);
        assert_eq!((Some(outcome.sent), outcome.lost), (outcome.acked, Some(0)));
    }
}

#[tokio::test]
async fn without_acknowledgements_what_was_read_counts() {
    let broker = null_broker().await;
    let outcome = traffic("publish", Load { qos: 0, ..load(broker) }, Shape::Publish).await.expect("a run");
    assert_none_lost(&outcome);
    assert_eq!((outcome.acked, outcome.lost), (None, None));
    let read = outcome.more.values().next().copied();
    assert_eq!(read, Some(outcome.sent as f64));
    assert!(outcome.rate > 0.0, "{outcome:?}");
}

#[tokio::test]
async fn an_open_loop_sends_all_that_is_due() {
    let broker = null_broker().await;
    let slow = Load { rate: Some(1_000.0), ..load(broker) };
    let outcome = traffic("publish", slow, Shape::Publish).await.expect("a run");
    assert_none_lost(&outcome);
    // 120 ms at a thousand a second, whatever else this machine does.
    assert_eq!(outcome.sent, 120);
    assert!(outcome.lag.is_some());
}

/// A broker that lets clients in and then says nothing: each message is due, and none of them is forgotten.
#[tokio::test]
async fn what_never_came_is_counted_with_its_latency() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let broker = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(&[0x20, 2, 0, 0]).await.expect("CONNACK");
            kept.push(stream);
        }
    });
    let drain = Duration::from_millis(300);
    let load = Load { rate: Some(1_000.0), window: 5, drain, ..load(broker) };
    let outcome = traffic("publish", load, Shape::Publish).await.expect("a run");
    assert_eq!((outcome.due, outcome.sent, outcome.acked), (120, 20, Some(0)), "{outcome:?}");
    assert_eq!(outcome.lost, Some(120));
    // Those of the warm-up have no latency; the others waited for as long as the run waits.
    assert!(outcome.latency.expect("of those that were given up").p50_us >= 300_000, "{outcome:?}");
    assert!(!outcome.complete());
}

#[tokio::test]
async fn a_given_number_of_messages_is_sent() {
    let broker = null_broker().await;
    let some = Load { messages: Some(25), time: Duration::from_secs(30), ..load(broker) };
    let outcome = traffic("publish", some, Shape::Publish).await.expect("a run");
    assert_eq!((outcome.sent, outcome.acked), (100, Some(100)));
    assert!(outcome.rate > 0.0, "{outcome:?}");
}

#[tokio::test]
async fn a_given_number_at_a_rate_is_over_when_it_was_sent() {
    let broker = null_broker().await;
    let rate = Some(1_000.0);
    let some = Load { messages: Some(5), rate, time: Duration::from_secs(600), ..load(broker) };
    let outcome = traffic("publish", some, Shape::Publish).await.expect("a run");
    assert_eq!((outcome.due, outcome.acked), (20, Some(20)));
    assert!(outcome.measured_s < 60.0, "{outcome:?}");
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
        assert_eq!((outcome.acked, outcome.lost), (Some(4), Some(0)), "{outcome:?}");
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
