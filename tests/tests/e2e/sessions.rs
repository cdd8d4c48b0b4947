//! Sessions as foreign clients know them: takeover, will, retained messages, sessions that outlive a connection.

use bytes::Bytes;
use muster_tests::mqtt::{self, Client, Connect, Version, kind, packet};
use muster_tests::paho::Paho;
use muster_tests::{Home, need, tools};
use serde_json::json;

use crate::common::{HISTORY, publish, until_history};

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_closes_the_old_session_before_it_opens_the_new() {
    const TIMES: usize = 50;
    let home = Home::with_rules(HISTORY);
    let muster = home.start().await;
    let connect = async |clean| {
        let connect = Connect { clean, ..Connect::new(Version::V5, "twin") };
        let (client, _, code) = Client::greet(muster.mqtt, &connect).await.expect("an answer");
        assert_eq!(code, 0);
        client
    };
    let mut last = connect(true).await;
    for number in 0..TIMES {
        let next = connect(number % 2 == 0).await;
        let goodbye = last.until_closed().await;
        let session_taken_over = 0x8E;
        assert_eq!((goodbye[0].kind(), goodbye[0].reason()), (kind::DISCONNECT, session_taken_over));
        last = next;
    }
    last.disconnect().await;
    // A clean start throws the old session away, another takes it over.
    let pairs = [["connected", "disconnected discarded"], ["connected", "disconnected takenover"]];
    let mut expected = pairs.concat().repeat(TIMES / 2);
    expected.extend(["connected", "disconnected normal"]);
    until_history(&home, "twin", &expected).await;
    // The order in which they came is the order of their sequence numbers, and sessions grow.
    let order = "SELECT event, session, seq FROM history WHERE clientid = 'twin' ORDER BY _event_id";
    let rows = home.lines(order);
    let number = |line: &String, at: usize| -> u64 {
        line.split('|').nth(at).and_then(|text| text.parse().ok()).expect("a number")
    };
    assert!(rows.is_sorted_by(|a, b| number(a, 2) < number(b, 2)), "{rows:?}");
    for pair in rows.chunks(2) {
        assert_eq!(number(&pair[0], 1), number(&pair[1], 1), "{pair:?}");
    }
    let sessions = rows.iter().step_by(2).map(|row| number(row, 1)).collect::<Vec<_>>();
    assert!(sessions.is_sorted_by(|a, b| a < b), "{sessions:?}");
    muster.stop().await;
}

/// Many at once for one id: whoever wins, the history alternates.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_with_one_name_leaves_one_story() {
    const CROWD: usize = 30;
    let home = Home::with_rules(HISTORY);
    let muster = home.start().await;
    let broker = muster.mqtt;
    let crowd = (0..CROWD).map(|_| {
        tokio::spawn(async move {
            let connect = Connect::new(Version::V4, "crowd");
            let (mut client, _, code) = Client::greet(broker, &connect).await.expect("an answer");
            assert_eq!(code, 0);
            client.half_close().await;
            client.until_closed().await;
        })
    });
    for task in crowd.collect::<Vec<_>>() {
        task.await.expect("a client");
    }
    muster.stop().await;
    let events = home.lines("SELECT event FROM history WHERE clientid = 'crowd' ORDER BY _event_id");
    assert_eq!(events, ["client.connected", "client.disconnected"].repeat(CROWD));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_is_published_when_its_owner_vanishes_and_not_when_it_says_goodbye() {
    let python = need!("paho");
    let rules = "CREATE RULE wills INTO sqlite.wills AS SELECT clientid, topic, payload FROM \"will/#\";\n";
    let home = Home::with_rules(&format!("{rules}{HISTORY}"));
    let muster = home.start().await;
    let (mut watcher, _) = Paho::connect(&python, muster.mqtt, json!({"clientid": "watcher"})).await;
    watcher.order(json!({"do": "subscribe", "topics": ["will/#"], "qos": 1})).await;
    watcher.event("subscribed").await;
    for version in [4, 5] {
        let will = |topic: &str| json!({"topic": topic, "payload": "gone", "qos": 1});
        let polite = json!({"clientid": "polite", "version": version, "will": will("will/polite")});
        let (polite, _) = Paho::connect(&python, muster.mqtt, polite).await;
        polite.disconnect().await;
        let rude = json!({"clientid": "rude", "version": version, "will": will("will/rude")});
        let (rude, _) = Paho::connect(&python, muster.mqtt, rude).await;
        rude.vanish().await;
        // The polite one's would have come first.
        let message = watcher.event("message").await;
        assert_eq!((&message["topic"], &message["payload"]), (&json!("will/rude"), &json!("gone")));
    }
    watcher.disconnect().await;
    let rows = home.until_lines("SELECT clientid, topic FROM wills", 2).await;
    assert_eq!(rows, ["rude|will/rude"; 2]);
    muster.stop().await;
}

/// A device in a hurry: it publishes, says goodbye and closes, without waiting for its acks, which then meet a closed
/// socket. What it said counts all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_goodbye_counts_though_the_acks_find_nobody() {
    const TIMES: usize = 20;
    const MESSAGES: u16 = 1_000;
    let rules = "CREATE RULE all INTO sqlite.everything AS SELECT topic FROM \"#\";\n";
    let home = Home::with_rules(&format!("{rules}{HISTORY}"));
    let muster = home.start().await;
    for number in 0..TIMES {
        // 3.1.1 knows no receive maximum, so that more may be sent than the broker reads ahead.
        let version = Version::V4;
        let will = Some(("will".to_owned(), Bytes::from_static(b"gone"), 1, false));
        let connect = Connect { will, ..Connect::new(version, &format!("hasty-{number}")) };
        let (mut client, _, _) = Client::greet(muster.mqtt, &connect).await.expect("a connection");
        let publishes = |ids: std::ops::RangeInclusive<u16>| -> Vec<u8> {
            ids.flat_map(|id| mqtt::publish(version, "data", b"x", 1, false, id)).collect()
        };
        client.send(&publishes(1..=MESSAGES / 2)).await.expect("a connection");
        client.expect(kind::PUBACK).await;
        let rest = [publishes(MESSAGES / 2 + 1..=MESSAGES), packet(kind::DISCONNECT << 4, &[])].concat();
        client.send(&rest).await.expect("a connection");
    }
    home.until_lines("SELECT clientid FROM history WHERE reason IS NOT NULL", TIMES).await;
    muster.stop().await;
    let reasons = home.lines("SELECT reason, count(*) FROM history WHERE reason IS NOT NULL GROUP BY reason");
    assert_eq!(reasons, [format!("normal|{TIMES}")]);
    let topics = home.lines("SELECT topic, count(*) FROM everything GROUP BY topic");
    assert_eq!(topics, [format!("data|{}", TIMES * usize::from(MESSAGES))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_outlive_the_process() {
    let publisher = need!("mosquitto_pub");
    let subscriber = need!("mosquitto_sub");
    let home = Home::new();
    let muster = home.start().await;
    for (topic, payload) in [("state/a", "1"), ("state/b", "2"), ("state/a", "3"), ("é/x", "4")] {
        let mut command = tools::mosquitto(&publisher, muster.mqtt);
        tools::run(command.args(["-q", "1", "-r", "-t", topic, "-m", payload])).await;
    }
    let mut clear = tools::mosquitto(&publisher, muster.mqtt);
    tools::run(clear.args(["-q", "1", "-r", "-n", "-t", "state/b"])).await;
    let retained = async |broker, version: &str| {
        let mut command = tools::mosquitto(&subscriber, broker);
        command.args(["-V", version, "-t", "#", "-q", "1", "-C", "2", "-F", "%t %p %r", "-W", "30"]);
        let output = tools::run(&mut command).await;
        let mut lines = output.lines().map(str::to_owned).collect::<Vec<_>>();
        lines.sort();
        lines
    };
    for version in ["mqttv311", "mqttv5"] {
        assert_eq!(retained(muster.mqtt, version).await, ["state/a 3 1", "é/x 4 1"]);
    }
    muster.stop().await;
    let muster = home.start().await;
    assert_eq!(retained(muster.mqtt, "mqttv311").await, ["state/a 3 1", "é/x 4 1"]);
    muster.kill().await;
    let muster = home.start().await;
    assert_eq!(retained(muster.mqtt, "mqttv5").await, ["state/a 3 1", "é/x 4 1"]);
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persistent_session_gets_what_came_while_it_was_away() {
    let publisher = need!("mosquitto_pub");
    let subscriber = need!("mosquitto_sub");
    let python = need!("paho");
    let home = Home::with_rules(HISTORY);
    let muster = home.start().await;

    // 3.1.1 by mosquitto: subscribe, go, miss three messages, come back for them.
    let mut subscribe = tools::mosquitto(&subscriber, muster.mqtt);
    tools::run(subscribe.args(["-c", "-i", "away4", "-q", "1", "-t", "news/#", "-E"])).await;
    // 5 by paho.
    let options = json!({"clientid": "away5", "version": 5, "clean": false, "expiry": 300});
    let (mut paho, connected) = Paho::connect(&python, muster.mqtt, options.clone()).await;
    assert_eq!(connected["session_present"], false);
    paho.order(json!({"do": "subscribe", "topics": ["news/#"], "qos": 1})).await;
    paho.event("subscribed").await;
    paho.disconnect().await;
    until_history(&home, "away5", &["connected", "disconnected normal"]).await;

    for n in 0..3 {
        publish(&publisher, &muster, "editor", "news/today", &n.to_string()).await;
    }
    let mut collect = tools::mosquitto(&subscriber, muster.mqtt);
    collect.args(["-c", "-i", "away4", "-q", "1", "-t", "news/#", "-C", "3", "-W", "30", "-F", "%p"]);
    assert_eq!(tools::run(&mut collect).await.lines().collect::<Vec<_>>(), ["0", "1", "2"]);
    let (mut paho, connected) = Paho::connect(&python, muster.mqtt, options).await;
    assert_eq!(connected["session_present"], true);
    for n in 0..3 {
        assert_eq!(paho.event("message").await["payload"], n.to_string());
    }
    paho.disconnect().await;

    // A clean start forgets.
    let options = json!({"clientid": "away5", "version": 5, "clean": true});
    let (paho, connected) = Paho::connect(&python, muster.mqtt, options).await;
    assert_eq!(connected["session_present"], false);
    paho.disconnect().await;
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_quality_of_service_arrives_as_the_lower_of_the_two() {
    let python = need!("paho");
    let home = Home::new();
    let muster = home.start().await;
    for version in [4, 5] {
        for subscribed in 0..3 {
            let options = json!({"clientid": format!("sub{version}{subscribed}"), "version": version});
            let (mut paho, _) = Paho::connect(&python, muster.mqtt, options).await;
            paho.order(json!({"do": "subscribe", "topics": ["q/#"], "qos": subscribed})).await;
            assert_eq!(paho.event("subscribed").await["codes"], json!([subscribed]));
            for published in 0..3 {
                let payload = format!("{published}");
                paho.order(json!({"do": "publish", "topic": "q/x", "payload": payload, "qos": published}))
                    .await;
                let message = paho.event("message").await;
                assert_eq!(message["payload"], payload);
                assert_eq!(message["qos"], published.min(subscribed), "{published} to {subscribed}");
                assert_eq!(message["retain"], false);
            }
            paho.disconnect().await;
        }
    }
    muster.stop().await;
}
