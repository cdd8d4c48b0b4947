//! What operators do with clients: kick, subscribe for them, change their keep-alive, shut them out.

use muster_core::clock::SystemClock;
use muster_core::event::EventKind;
use muster_tests::mqtt::{Client, Connect, VERSIONS, Version, kind};
use muster_tests::{Home, PATIENCE, until};
use serde_json::{Value, json};

use crate::common::{HISTORY, until_history};

#[tokio::test(flavor = "multi_thread")]
async fn kicked_one_by_one_and_in_bulk() {
    let home = Home::with_rules(HISTORY);
    let muster = home.start().await;
    let mut devices = Vec::new();
    for id in ["k0", "k1", "k2"] {
        devices.push(Client::connect(muster.mqtt, Version::V5, id).await);
    }
    assert_eq!(muster.send("DELETE", "/api/v5/clients/k0", Value::Null).await.0, 204);
    assert_eq!(muster.send("DELETE", "/api/v5/clients/k0", Value::Null).await.0, 404);
    let bulk = json!(["k1", "nobody", "k2"]);
    assert_eq!(muster.send("POST", "/api/v5/clients/kickout/bulk", bulk).await.0, 204);
    for device in &mut devices {
        let goodbye = device.until_closed().await;
        assert_eq!((goodbye[0].kind(), goodbye[0].reason()), (kind::DISCONNECT, 0x98));
    }
    for id in ["k0", "k1", "k2"] {
        until_history(&home, id, &["connected", "disconnected kicked"]).await;
    }
    assert_eq!(muster.json("/api/v5/clients").await["meta"]["count"], 0);
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribed_by_proxy_online_and_away() {
    let home = Home::new();
    let muster = home.start().await;
    let mut publisher = Client::connect(muster.mqtt, Version::V5, "publisher").await;
    publisher.publish("kept", b"retained", 1, true).await;
    let kept = Connect { clean: false, expiry: 600, ..Connect::new(Version::V5, "device") };
    let (mut device, _, code) = Client::greet(muster.mqtt, &kept).await.expect("an answer");
    assert_eq!(code, 0);
    let path = "/api/v5/clients/device/subscribe";
    let (status, answer) = muster.send("POST", path, json!({"topic": "kept", "qos": 0})).await;
    assert_eq!((status, &answer["topic"]), (200, &json!("kept")));
    assert_eq!(device.expect(kind::PUBLISH).await.message(Version::V5).1, "retained");
    device.disconnect().await;
    let bulk = json!([{"topic": "a/+", "qos": 1}, {"topic": "b", "qos": 1}]);
    assert_eq!(muster.send("POST", &format!("{path}/bulk"), bulk).await.0, 200);
    publisher.publish("a/1", b"while away", 1, false).await;
    let unsubscribed = muster.send("POST", "/api/v5/clients/device/unsubscribe", json!({"topic": "b"})).await;
    assert_eq!(unsubscribed.0, 204);
    publisher.publish("b", b"not any more", 1, false).await;
    publisher.publish("a/2", b"the last", 1, false).await;
    let list = muster.json("/api/v5/clients/device/subscriptions").await;
    let topics: Vec<_> = list.as_array().expect("a list").iter().map(|it| it["topic"].clone()).collect();
    assert_eq!(topics, ["a/+", "kept"]);
    assert_eq!(muster.json("/api/v5/subscriptions?match_topic=a/9").await["data"][0]["clientid"], "device");
    assert_eq!(muster.json("/api/v5/topics").await["meta"]["count"], 2);
    let (mut device, present, _) = Client::greet(muster.mqtt, &kept).await.expect("an answer");
    assert!(present);
    for expected in ["while away", "the last"] {
        assert_eq!(device.expect(kind::PUBLISH).await.message(Version::V5).1, expected);
    }
    for (path, body, expected) in [
        (path, json!({"topic": "a/#/b"}), 400),
        (path, json!({"topic": "$share/g/a", "nl": 1}), 400),
        ("/api/v5/clients/nobody/subscribe", json!({"topic": "a"}), 404),
        ("/api/v5/clients/nobody/unsubscribe", json!({"topic": "a"}), 404),
        ("/api/v5/clients/nobody/unsubscribe/bulk", json!([{"topic": "a"}]), 404),
    ] {
        assert_eq!(muster.send("POST", path, body.clone()).await.0, expected, "{path} {body}");
    }
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_keepalive_ends_a_silent_connection() {
    let home = Home::with_rules(HISTORY);
    let muster = home.start().await;
    let mut device = Client::connect(muster.mqtt, Version::V5, "silent").await;
    let path = "/api/v5/clients/silent/keepalive";
    let (status, client) = muster.send("PUT", path, json!({"interval": 1})).await;
    assert_eq!((status, &client["keepalive"]), (200, &json!(1)));
    for bad in [json!({}), json!({"interval": -1}), json!({"interval": 65_536})] {
        assert_eq!(muster.send("PUT", path, bad).await.0, 400);
    }
    assert_eq!(device.until_closed().await[0].reason(), 0x8D);
    until_history(&home, "silent", &["connected", "disconnected keepalive_timeout"]).await;
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shut_out_in_each_form_and_after_a_restart() {
    let home = Home::with_rules(HISTORY);
    let muster = home.start().await;
    for (number, (kind, who)) in [
        ("clientid", "b0"),
        ("username", "mallory"),
        ("clientid_re", "^b[0-9]$"),
        ("username_re", "^mal"),
        ("peerhost", "127.0.0.1"),
        ("peerhost_net", "127.0.0.0/8"),
    ]
    .into_iter()
    .enumerate()
    {
        let version = VERSIONS[number % 2];
        let connect = Connect { username: Some("mallory".to_owned()), ..Connect::new(version, "b0") };
        let (mut device, _, code) = Client::greet(muster.mqtt, &connect).await.expect("an answer");
        assert_eq!(code, 0, "{kind}: nobody is shut out yet");
        let ban = json!({"as": kind, "who": who, "reason": "test"});
        let (status, shown) = muster.send("POST", "/api/v5/banned", ban.clone()).await;
        assert_eq!((status, &shown["until"]), (200, &json!("infinity")), "{shown}");
        device.until_closed().await;
        let (_, _, code) = Client::greet(muster.mqtt, &connect).await.expect("an answer");
        assert_eq!(code, if version == Version::V5 { 0x8A } else { 5 }, "{kind}");
        let (status, again) = muster.send("POST", "/api/v5/banned", ban).await;
        assert_eq!((status, &again["code"]), (400, &json!("ALREADY_EXISTS")));
        let path = format!("/api/v5/banned/{kind}/{}", who.replace('/', "%2F").replace('^', "%5E"));
        assert_eq!(muster.send("DELETE", &path, Value::Null).await.0, 204, "{path}");
        assert_eq!(muster.send("DELETE", &path, Value::Null).await.0, 404, "{path}");
    }
    until_history(&home, "b0", &["connected", "disconnected banned"].repeat(6)).await;
    let ban = json!({"as": "clientid", "who": "b0"});
    assert_eq!(muster.send("POST", "/api/v5/banned", ban).await.0, 200);
    muster.stop().await;
    let muster = home.start().await;
    let connect = Connect::new(Version::V5, "b0");
    assert_eq!(Client::greet(muster.mqtt, &connect).await.expect("an answer").2, 0x8A);
    assert_eq!(muster.json("/api/v5/banned").await["meta"]["count"], 1);
    assert_eq!(muster.send("DELETE", "/api/v5/banned", Value::Null).await.0, 204);
    assert_eq!(Client::greet(muster.mqtt, &connect).await.expect("an answer").2, 0);
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_for_later_puts_out_when_it_begins_and_not_before() {
    let home = Home::new();
    let muster = home.start().await;
    let mut device = Client::connect(muster.mqtt, Version::V5, "later").await;
    let mut other = Client::connect(muster.mqtt, Version::V5, "other").await;
    let hour = 3_600;
    let now = SystemClock::shared().wall_ms() / 1_000;
    let far = json!({"as": "clientid", "who": "other", "at": now + hour});
    assert_eq!(muster.send("POST", "/api/v5/banned", far).await.0, 200);
    let ban = json!({"as": "clientid", "who": "later", "at": now + 3});
    assert_eq!(muster.send("POST", "/api/v5/banned", ban).await.0, 200);
    // It can do what it could, and another connection of it may come.
    device.publish("t", b"still here", 1, false).await;
    let goodbye = device.until_closed().await;
    assert_eq!((goodbye[0].kind(), goodbye[0].reason()), (kind::DISCONNECT, 0x98));
    other.publish("t", b"nobody's business", 1, false).await;
    let code = Client::greet(muster.mqtt, &Connect::new(Version::V5, "later")).await.expect("an answer").2;
    assert_eq!(code, 0x8A);
    muster.stop().await;
    let log = home.log().await;
    let mut ended = log.of(EventKind::ClientDisconnected).filter(|it| it.clientid() == "later");
    let at_ms = ended.next().expect("it was put out").timestamp_ms;
    let due_ms = (now + 3) * 1_000;
    assert!((due_ms..due_ms + 10_000).contains(&at_ms), "{} ms after its moment", at_ms - due_ms);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_client_can_be_seen() {
    let home = Home::new();
    let muster = home.start().await;
    let kept = Connect { clean: false, expiry: 600, ..Connect::new(Version::V5, "slow") };
    let (mut device, _, _) = Client::greet(muster.mqtt, &kept).await.expect("an answer");
    device.subscribe("q/#", 1).await;
    let mut publisher = Client::connect(muster.mqtt, Version::V5, "publisher").await;
    for n in 0..3 {
        publisher.publish("q/1", format!("sent {n}").as_bytes(), 1, false).await;
        // It takes them and says nothing.
        device.expect(kind::PUBLISH).await;
    }
    let inflight = "/api/v5/clients/slow/inflight_messages";
    let page = muster.json(&format!("{inflight}?payload=plain&limit=2")).await;
    let payloads = |page: &Value| -> Vec<Value> {
        page["data"].as_array().expect("a list").iter().map(|it| it["payload"].clone()).collect()
    };
    assert_eq!(payloads(&page), ["sent 0", "sent 1"]);
    let first = &page["data"][0];
    assert_eq!(
        (&first["topic"], &first["qos"], &first["from_clientid"]),
        (&json!("q/1"), &json!(1), &json!("publisher"))
    );
    assert_eq!(first["msgid"].as_str().map(str::len), Some(32));
    assert_eq!(page["meta"]["start"], first["inserted_at"]);
    let next =
        format!("{inflight}?payload=plain&position={}", page["meta"]["position"].as_str().expect("one"));
    let rest = muster.json(&next).await;
    assert_eq!((payloads(&rest), &rest["meta"]["start"]), (vec![json!("sent 2")], &first["inserted_at"]));
    let queue = "/api/v5/clients/slow/mqueue_messages";
    let empty = json!({"data": [], "meta": {"start": "none", "position": "none"}});
    assert_eq!(muster.json(queue).await, empty);

    // Away, they wait in the queue, those that were sent in the window.
    device.disconnect().await;
    for payload in [&b"away"[..], &[0xFF, 0]] {
        publisher.publish("q/2", payload, 1, false).await;
    }
    until("both wait", PATIENCE, async || {
        let page = muster.json(queue).await;
        (payloads(&page) == ["YXdheQ==", "/wA="]).then_some(())
    })
    .await;
    let one = muster.json(&format!("{queue}?max_payload_bytes=1&payload=plain")).await;
    assert_eq!((payloads(&one), &one["data"][0]["mqueue_priority"]), (vec![json!("away")], &json!(0)));
    assert_eq!(payloads(&muster.json(&format!("{queue}?payload=none")).await), [Value::Null, Value::Null]);
    assert_eq!(payloads(&muster.json(inflight).await).len(), 3);
    assert_eq!(muster.get("/api/v5/clients/nobody/mqueue_messages").await.0, 404);
    for bad in ["payload=hex", "limit=0", "position=x", "max_payload_bytes=-1"] {
        assert_eq!(muster.get(&format!("{queue}?{bad}")).await.0, 400, "{bad}");
    }
    // Acknowledged, they are gone.
    let (mut device, present, _) = Client::greet(muster.mqtt, &kept).await.expect("an answer");
    assert!(present);
    for _ in 0..5 {
        let id = device.expect(kind::PUBLISH).await.publish_id();
        device
            .send(&muster_tests::mqtt::packet(kind::PUBACK << 4, &id.to_be_bytes()))
            .await
            .expect("it is sent");
    }
    until("nothing waits any more", PATIENCE, async || {
        (muster.json(inflight).await == empty && muster.json(queue).await == empty).then_some(())
    })
    .await;
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_the_way_and_what_waits_is_bounded_as_it_is_set() {
    let home = Home::new();
    home.configure("[mqtt]\ninflight_max = 2\nqueue_messages_max = 3\nqueue_bytes_max = '1KiB'\n");
    let muster = home.start().await;
    let mut device = Client::connect(muster.mqtt, Version::V4, "bounded").await;
    device.subscribe("q/#", 1).await;
    let mut publisher = Client::connect(muster.mqtt, Version::V4, "publisher").await;
    let held = async |which: &str| -> Vec<Value> {
        let page = muster.json(&format!("/api/v5/clients/bounded/{which}_messages?payload=plain")).await;
        page["data"].as_array().expect("a list").iter().map(|it| it["payload"].clone()).collect()
    };
    for n in 0..7 {
        publisher.publish("q/1", format!("sent {n}").as_bytes(), 1, false).await;
    }
    until("two are on the way and the newest three wait", PATIENCE, async || {
        let waits = held("mqueue").await == ["sent 4", "sent 5", "sent 6"];
        (waits && held("inflight").await == ["sent 0", "sent 1"]).then_some(())
    })
    .await;
    // Beside a thousand bytes there is room for one of the small ones.
    let large = "l".repeat(1_010);
    publisher.publish("q/1", large.as_bytes(), 1, false).await;
    until("bytes are bounded, too", PATIENCE, async || {
        (held("mqueue").await == ["sent 6", large.as_str()]).then_some(())
    })
    .await;
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_cursors_meet_everybody_once() {
    let home = Home::new();
    let muster = home.start().await;
    let mut devices = Vec::new();
    for number in 0..25 {
        devices.push(Client::connect(muster.mqtt, Version::V4, &format!("page-{number:02}")).await);
    }
    let ids = |answer: &Value| -> Vec<String> {
        let data = answer["data"].as_array().expect("a list");
        data.iter().map(|it| it["clientid"].as_str().expect("an id").to_owned()).collect()
    };
    let page = muster.json("/api/v5/clients?limit=10&page=3").await;
    assert_eq!(ids(&page), ["page-20", "page-21", "page-22", "page-23", "page-24"]);
    assert_eq!(page["meta"], json!({"page": 3, "limit": 10, "hasnext": false, "count": 25}));
    let (mut seen, mut path) = (Vec::new(), "/api/v5/clients?limit=7".to_owned());
    loop {
        let answer = muster.json(&path).await;
        seen.extend(ids(&answer));
        let Some(cursor) = answer["meta"]["cursor"].as_str() else { break };
        // Who goes from a part that was read moves nobody.
        muster.send("DELETE", &format!("/api/v5/clients/{}", seen[0]), Value::Null).await;
        path = format!("/api/v5/clients?limit=7&cursor={cursor}");
    }
    let expected: Vec<_> = (0..25).map(|number| format!("page-{number:02}")).collect();
    assert_eq!(seen, expected);
    until("the list is without the first", PATIENCE, async || {
        (muster.json("/api/v5/clients").await["meta"]["count"] == 24).then_some(())
    })
    .await;
    muster.stop().await;
}
