//! Sessions over the end of the process, whether it was stopped or killed: subscriptions, what waits for a client, the
//! handshakes of QoS 2, wills, shared groups, and how long a session lives.

use std::time::Duration;

use bytes::Bytes;
use muster_tests::mqtt::{Client, Connect, VERSIONS, Version, kind, packet};
use muster_tests::{Home, Muster, PATIENCE, until};

mod faithful;
mod kills;
mod many;

/// How the server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndsBy {
    Stop,
    Kill,
}

const ENDS: [EndsBy; 2] = [EndsBy::Stop, EndsBy::Kill];

/// Ends the server and starts it again.
async fn again(home: &Home, muster: Muster, ends_by: EndsBy) -> Muster {
    match ends_by {
        EndsBy::Stop => muster.stop().await,
        EndsBy::Kill => muster.kill().await,
    }
    home.start().await
}

fn kept(version: Version, client_id: &str) -> Connect {
    Connect { clean: false, expiry: 3_600, ..Connect::new(version, client_id) }
}

/// Connects and gives whether the session was there.
async fn connect(muster: &Muster, connect: &Connect) -> (Client, bool) {
    let (client, present, code) = Client::greet(muster.mqtt, connect).await.expect("an answer");
    assert_eq!(code, 0, "{connect:?}");
    (client, present)
}

/// The next message, acknowledged.
async fn take(client: &mut Client, version: Version) -> String {
    let publish = client.expect(kind::PUBLISH).await;
    if publish.first & 0b110 != 0 {
        let ack = packet(kind::PUBACK << 4, &publish.publish_id().to_be_bytes());
        client.send(&ack).await.expect("a connection");
    }
    let (_, payload) = publish.message(version);
    String::from_utf8(payload.to_vec()).expect("text")
}

async fn publish(muster: &Muster, topic: &str, payloads: &[&str], qos: u8) {
    let mut publisher = Client::connect(muster.mqtt, Version::V4, "publisher").await;
    for payload in payloads {
        publisher.publish(topic, payload.as_bytes(), qos, false).await;
    }
    publisher.disconnect().await;
}

async fn until_away(muster: &Muster, client_id: &str) {
    until(&format!("{client_id} is known to be away"), PATIENCE, async || {
        let path = format!("/api/v5/clients/{client_id}");
        let client = muster.json(&path).await;
        (client["connected"] == false).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_and_what_waits_for_a_client() {
    for ends_by in ENDS {
        let home = Home::new();
        let mut muster = home.start().await;
        for version in VERSIONS {
            let (mut client, present) = connect(&muster, &kept(version, &format!("away-{version:?}"))).await;
            assert!(!present);
            assert_eq!(client.subscribe("jobs/+", 1).await, 1);
            client.disconnect().await;
        }
        until_away(&muster, "away-V5").await;
        until_away(&muster, "away-V4").await;
        publish(&muster, "jobs/a", &["1", "2", "3"], 1).await;
        muster = again(&home, muster, ends_by).await;
        publish(&muster, "jobs/b", &["4"], 2).await;
        muster = again(&home, muster, ends_by).await;
        for version in VERSIONS {
            let client_id = format!("away-{version:?}");
            let listed = muster.json(&format!("/api/v5/clients/{client_id}")).await;
            assert_eq!((&listed["connected"], &listed["mqueue_len"]), (&false.into(), &4.into()), "{listed}");
        }
        for version in VERSIONS {
            let client_id = format!("away-{version:?}");
            let (mut client, present) = connect(&muster, &kept(version, &client_id)).await;
            assert!(present, "{ends_by:?}");
            for expected in ["1", "2", "3", "4"] {
                assert_eq!(take(&mut client, version).await, expected, "{ends_by:?} {version:?}");
            }
            client.disconnect().await;
        }
        // Nothing comes twice, and what is new comes too.
        publish(&muster, "jobs/a", &["5"], 1).await;
        for version in VERSIONS {
            let (mut client, _) = connect(&muster, &kept(version, &format!("away-{version:?}"))).await;
            assert_eq!(take(&mut client, version).await, "5");
        }
        muster.stop().await;
    }
}

/// Connected when the server ends, with messages under way: what the client has acknowledged does not come again
/// after a stop, the rest does, under the identifiers that it had.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_to_a_client() {
    let home = Home::new();
    let muster = home.start().await;
    let connection = kept(Version::V4, "slow");
    let (mut client, _) = connect(&muster, &connection).await;
    client.subscribe("t", 1).await;
    publish(&muster, "t", &["a", "b", "c"], 1).await;
    assert_eq!(take(&mut client, Version::V4).await, "a");
    let sent = [client.expect(kind::PUBLISH).await, client.expect(kind::PUBLISH).await];
    until("the acknowledgement has arrived", PATIENCE, async || {
        (muster.json("/api/v5/clients/slow").await["inflight_cnt"] == 2).then_some(())
    })
    .await;
    let muster = again(&home, muster, EndsBy::Stop).await;
    let (mut client, present) = connect(&muster, &connection).await;
    assert!(present);
    for earlier in sent {
        let again = client.expect(kind::PUBLISH).await;
        assert_eq!(again.publish_id(), earlier.publish_id());
        assert_eq!(again.message(Version::V4), earlier.message(Version::V4));
        assert_eq!(again.first & 0b1000, 0b1000, "it says that it may have come before");
        let ack = packet(kind::PUBACK << 4, &again.publish_id().to_be_bytes());
        client.send(&ack).await.expect("a connection");
    }
    publish(&muster, "t", &["d"], 1).await;
    assert_eq!(take(&mut client, Version::V4).await, "d");
    client.disconnect().await;
    muster.stop().await;
}

/// What a client was told about its session counts, also if the server is killed right after.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_does_not_come_back() {
    for version in VERSIONS {
        let home = Home::new();
        let muster = home.start().await;
        let connection = kept(version, "device");
        let (mut client, _) = connect(&muster, &connection).await;
        client.subscribe("stays", 1).await;
        client.subscribe("goes", 1).await;
        client.unsubscribe("goes").await;
        let muster = again(&home, muster, EndsBy::Kill).await;
        publish(&muster, "goes", &["wrong"], 1).await;
        publish(&muster, "stays", &["right"], 1).await;
        let (mut client, present) = connect(&muster, &connection).await;
        assert!(present);
        assert_eq!(take(&mut client, version).await, "right");
        // A clean start, known to the client, ends all of it.
        drop(client);
        let clean = Connect { clean: true, expiry: 0, ..connection.clone() };
        let (_client, present) = connect(&muster, &clean).await;
        assert!(!present);
        let muster = again(&home, muster, EndsBy::Kill).await;
        let (_client, present) = connect(&muster, &connection).await;
        assert!(!present, "{version:?}");
        muster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wills_of_those_whom_a_kill_cut_off() {
    let home =
        Home::with_rules("CREATE RULE wills INTO sqlite.wills AS SELECT clientid, topic FROM \"will/#\";\n");
    let muster = home.start().await;
    let watcher = kept(Version::V4, "watcher");
    let (mut client, _) = connect(&muster, &watcher).await;
    client.subscribe("will/#", 1).await;
    client.disconnect().await;
    let mut open = Vec::new();
    for version in VERSIONS {
        let client_id = format!("cut-{version:?}");
        let will = Some((format!("will/{client_id}"), Bytes::from_static(b"gone"), 1, false));
        let connection = Connect { will: will.clone(), ..Connect::new(version, &client_id) };
        open.push(connect(&muster, &connection).await);
        // One that said goodbye leaves none.
        let polite = Connect { will, client_id: format!("polite-{version:?}"), ..connection };
        connect(&muster, &polite).await.0.disconnect().await;
        until("the goodbye has arrived", PATIENCE, async || {
            let (status, _) = muster.get(&format!("/api/v5/clients/{}", polite.client_id)).await;
            (status == 404).then_some(())
        })
        .await;
    }
    // What is acknowledged after a goodbye is in the log behind it.
    publish(&muster, "else", &["x"], 1).await;
    let muster = again(&home, muster, EndsBy::Kill).await;
    let (mut client, present) = connect(&muster, &watcher).await;
    assert!(present);
    let wills = [client.expect(kind::PUBLISH).await, client.expect(kind::PUBLISH).await];
    let mut topics = wills.map(|it| it.message(Version::V4).0);
    topics.sort();
    assert_eq!(topics, ["will/cut-V4", "will/cut-V5"]);
    drop(client);
    // Once: another end of the process brings none of them again.
    let muster = again(&home, muster, EndsBy::Kill).await;
    // A server that stops says nothing about its devices.
    let will = Some(("will/stopped".to_owned(), Bytes::from_static(b"gone"), 1, false));
    let stopped = Connect { will, ..Connect::new(Version::V5, "stopped") };
    let _stopped = connect(&muster, &stopped).await;
    let muster = again(&home, muster, EndsBy::Stop).await;
    publish(&muster, "will/last", &["x"], 1).await;
    let rows = home.until_lines("SELECT topic FROM wills ORDER BY _event_id", 3).await;
    assert_eq!(rows.last().map(String::as_str), Some("will/last"), "{rows:?}");
    muster.stop().await;
}

/// A will that waits goes on waiting in the next process: it comes after its delay, unless its client does.
#[tokio::test(flavor = "multi_thread")]
async fn wills_that_wait() {
    for ends_by in ENDS {
        let home = Home::new();
        let muster = home.start().await;
        let watcher = kept(Version::V4, "watcher");
        let (mut client, _) = connect(&muster, &watcher).await;
        client.subscribe("will/#", 1).await;
        let delayed = |client_id: &str, will_delay| Connect {
            will: Some((format!("will/{client_id}"), Bytes::from_static(b"gone"), 1, false)),
            will_delay,
            ..kept(Version::V5, client_id)
        };
        for (client_id, delay) in [("late", 3), ("back", 3), ("later", 3_000)] {
            let (client, _) = connect(&muster, &delayed(client_id, delay)).await;
            drop(client);
            until_away(&muster, client_id).await;
        }
        let since = tokio::time::Instant::now();
        let muster = again(&home, muster, ends_by).await;
        let (_back, present) = connect(&muster, &delayed("back", 3)).await;
        assert!(present);
        let (mut client, _) = connect(&muster, &watcher).await;
        let will = client.expect(kind::PUBLISH).await;
        assert_eq!(will.message(Version::V4).0, "will/late", "{ends_by:?}");
        assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
        // Whoever ends its session ends the waiting.
        let (status, _) = muster.send("DELETE", "/api/v5/clients/later", serde_json::Value::Null).await;
        assert_eq!(status, 204);
        let ack = packet(kind::PUBACK << 4, &will.publish_id().to_be_bytes());
        client.send(&ack).await.expect("a connection");
        assert_eq!(take(&mut client, Version::V4).await, "gone");
        muster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_group() {
    for ends_by in ENDS {
        let home = Home::new();
        let muster = home.start().await;
        let members = ["one", "two"].map(|id| kept(Version::V4, id));
        for member in &members {
            let (mut client, _) = connect(&muster, member).await;
            assert_eq!(client.subscribe("$share/g/work", 1).await, 1);
            client.disconnect().await;
            until_away(&muster, &member.client_id).await;
        }
        let work: Vec<_> = (0..10).map(|n| n.to_string()).collect();
        publish(&muster, "work", &work.iter().map(String::as_str).collect::<Vec<_>>(), 1).await;
        let muster = again(&home, muster, ends_by).await;
        let mut done = Vec::new();
        for member in &members {
            let queued =
                muster.json(&format!("/api/v5/clients/{}", member.client_id)).await["mqueue_len"].clone();
            let (mut client, present) = connect(&muster, member).await;
            assert!(present);
            for _ in 0..queued.as_u64().expect("a number") {
                done.push(take(&mut client, Version::V4).await);
            }
            client.disconnect().await;
        }
        done.sort();
        assert_eq!(done, work, "each piece of work is done once: {ends_by:?}");
        muster.stop().await;
    }
}

/// A session's life goes on while the server is down.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_lives_as_long_as_it_was_to() {
    let home = Home::new();
    let muster = Muster::start(home.stepped(&[])).await;
    for (client_id, expiry) in [("short", 60), ("long", 6_000)] {
        let connection = Connect { expiry, ..kept(Version::V5, client_id) };
        let (mut client, _) = connect(&muster, &connection).await;
        client.subscribe("t", 1).await;
        client.disconnect().await;
        until_away(&muster, client_id).await;
    }
    muster.kill().await;
    home.step_clock(100_000);
    let muster = Muster::start(home.stepped(&[])).await;
    let present = async |client_id| connect(&muster, &kept(Version::V5, client_id)).await.1;
    assert!(!present("short").await);
    assert!(present("long").await);
    muster.stop().await;
}

/// Retained messages that a new subscription is owed, and that its client has not taken yet.
#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_on_their_way() {
    let home = Home::new();
    let muster = home.start().await;
    let mut publisher = Client::connect(muster.mqtt, Version::V4, "publisher").await;
    for n in 0..5 {
        publisher.publish(&format!("r/{n}"), b"kept", 1, true).await;
    }
    let connection = kept(Version::V4, "device");
    let (mut client, _) = connect(&muster, &connection).await;
    client.subscribe("r/#", 1).await;
    for _ in 0..5 {
        client.expect(kind::PUBLISH).await;
    }
    let muster = again(&home, muster, EndsBy::Stop).await;
    let (mut client, present) = connect(&muster, &connection).await;
    assert!(present);
    for n in 0..5 {
        let publish = client.expect(kind::PUBLISH).await;
        assert_eq!(publish.message(Version::V4).0, format!("r/{n}"));
        assert_eq!(publish.first & 1, 1, "it is a retained message still");
    }
    muster.stop().await;
}
