//! Who was here, when, and what happened to a device: by REST, by command, after a crash, and folded anew.

use std::time::Duration;

use muster_tests::mqtt::{Client, Connect, Version};
use muster_tests::{Home, Muster, PATIENCE, need, tools, until};
use serde_json::{Value, json};

use crate::common::publish;

/// Waits until the device is as the REST list says.
async fn until_state(muster: &Muster, clientid: &str, online: bool) -> Value {
    let path = format!("/api/v1/devices/{clientid}");
    until(&format!("{clientid} is online: {online}"), PATIENCE, async || {
        let (status, body) = muster.get(&path).await;
        let device: Value = serde_json::from_str(&body).unwrap_or_default();
        (status == 200 && device["online"] == online).then_some(device)
    })
    .await
}

fn ms(rfc3339: &Value) -> i64 {
    let at: jiff::Timestamp = rfc3339.as_str().expect("a time").parse().expect("RFC 3339");
    at.as_millisecond()
}

/// What a command prints as JSON, a value a line.
async fn printed(home: &Home, arguments: &[&str]) -> Vec<Value> {
    let output = tools::run(&mut home.command(arguments)).await;
    output.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Nobody has to ask twice: what a CONNACK says is so, REST says, too.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_let_in_is_here_at_once() {
    const DEVICES: usize = 40;
    let home = Home::new();
    let muster = home.start().await;
    let mut clients = Vec::new();
    let mut late = 0;
    for number in 0..DEVICES {
        let id = format!("device-{number}");
        clients.push(Client::connect(muster.mqtt, Version::V5, &id).await);
        let (status, body) = muster.get(&format!("/api/v1/devices/{id}")).await;
        late += usize::from(status != 200 || !body.contains("\"online\":true"));
    }
    // It waits for presence half a second and no longer, which a busy machine may exceed now and then.
    assert!(late < DEVICES / 4, "{late} of {DEVICES} were not there yet");
    drop(clients);
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_s_life_is_told_by_rest_and_by_command() {
    let program = need!("mosquitto_pub");
    let home = Home::new();
    let muster = home.start().await;
    publish(&program, &muster, "boiler", "sensors/boiler/up", r#"{"temp": 1}"#).await;
    publish(&program, &muster, "boiler", "other", "two").await;
    let gone = until_state(&muster, "boiler", false).await;
    let mut keeper = Client::connect(muster.mqtt, Version::V5, "keeper").await;
    assert_eq!(keeper.subscribe("a/+", 1).await, 1);
    until_state(&muster, "keeper", true).await;
    // It comes once more, and goes without a word.
    drop(Client::connect(muster.mqtt, Version::V5, "boiler").await);
    let again = until("boiler was here three times", PATIENCE, async || {
        let device = muster.json("/api/v1/devices/boiler").await;
        (device["disconnects"] == 3).then_some(device)
    })
    .await;
    assert_eq!(
        (&again["connects"], &again["connects_last_day"], &again["disconnects_last_day"]),
        (&json!(3), &json!(3), &json!(3))
    );
    assert_eq!((&again["reason"], &again["flapping"]), (&json!("tcp_closed"), &json!(false)));
    assert!(
        again["longest_outage"].as_i64() >= Some(ms(&again["connected_at"]) - ms(&gone["disconnected_at"]))
    );

    let history = muster.json("/api/v1/devices/boiler/history").await;
    let kinds: Vec<_> =
        history["data"].as_array().expect("a list").iter().map(|it| it["kind"].clone()).collect();
    let pair = ["client.disconnected", "client.connected"];
    assert_eq!(kinds, [pair, pair, pair].concat());
    assert_eq!(history["data"][0]["reason"], "tcp_closed");
    assert!(history["data"][0]["duration"].as_i64() >= Some(0));
    let part = muster.json("/api/v1/devices/boiler/history?kind=client.connected&limit=2").await;
    assert_eq!((part["data"].as_array().map(Vec::len), &part["meta"]["hasnext"]), (Some(2), &json!(true)));
    let cursor = &part["meta"]["cursor"];
    let rest =
        muster.json(&format!("/api/v1/devices/boiler/history?kind=client.connected&cursor={cursor}")).await;
    assert_eq!((rest["data"].as_array().map(Vec::len), &rest["meta"]["hasnext"]), (Some(1), &json!(false)));
    let of_keeper = muster.json("/api/v1/devices/keeper/history").await;
    assert_eq!(of_keeper["data"][0]["kind"], "session.subscribed");
    assert_eq!(of_keeper["data"][0]["detail"]["topic"], "a/+");

    let messages = muster.json("/api/v1/devices/boiler/messages?topic=sensors/%23").await;
    assert_eq!(messages["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(messages["data"][0]["payload"], r#"{"temp": 1}"#);
    let first = muster.json("/api/v1/devices/boiler/messages?limit=1").await;
    assert_eq!(first["meta"]["hasnext"], true);
    let next = format!("/api/v1/devices/boiler/messages?cursor={}", first["meta"]["cursor"]);
    assert_eq!(muster.json(&next).await["data"][0]["payload"], "two");

    for wrong in [
        "devices?sort=weight",
        "devices?order=up",
        "devices?offline_longer_than=long",
        "devices?cursor=x",
        "devices/boiler/history?kind=message.publish",
        "devices/boiler/history?from=noon",
        "devices/boiler/messages?topic=a/%23/b",
        "presence?at=noon",
        "presence/timeline?bucket=90s",
        "presence/timeline?from=1970-01-01T00:00:00Z&bucket=1m",
    ] {
        let (status, body) = muster.get(&format!("/api/v1/{wrong}")).await;
        let name = wrong.split(['?', '=']).nth(1).expect("a parameter");
        assert_eq!(status, 400, "{wrong}: {body}");
        assert!(body.contains(name) || wrong.ends_with("bucket=1m"), "{wrong}: {body}");
    }
    assert_eq!(muster.get("/api/v1/devices/nobody/history").await.0, 404);

    let list = muster.json("/api/v1/devices?sort=disconnects&order=desc&limit=1").await;
    assert_eq!((&list["data"][0]["clientid"], &list["meta"]["count"]), (&json!("boiler"), &json!(2)));
    let cursor = list["meta"]["cursor"].as_str().expect("more");
    let list = muster.json(&format!("/api/v1/devices?sort=disconnects&order=desc&cursor={cursor}")).await;
    assert_eq!(list["data"][0]["clientid"], "keeper");
    let of_command = printed(&home, &["devices", "--offline", "--json"]).await;
    assert_eq!((of_command.len(), &of_command[0]["clientid"]), (1, &json!("boiler")));
    let device = printed(&home, &["device", "boiler", "--limit", "2", "--json"]).await.remove(0);
    assert_eq!(device["device"]["connects"], 3);
    assert_eq!(device["history"], json!([history["data"][0], history["data"][1]]));
    let went =
        history["data"].as_array().into_iter().flatten().filter(|it| it["kind"] == "client.disconnected");
    let last = went.clone().next().expect("it went")["at"].as_str().expect("a time");
    let part = ["device", "boiler", "--kind", "client.disconnected", "--json"];
    let ends = printed(&home, &part).await.remove(0);
    assert_eq!(ends["history"], json!(went.collect::<Vec<_>>()));
    let since = printed(&home, &[&part[..], &["--from", last]].concat()).await.remove(0);
    assert_eq!(since["history"], json!([ends["history"][0]]));
    let before = printed(&home, &[&part[..], &["--to", last]].concat()).await.remove(0);
    assert_eq!(before["history"].as_array().map(Vec::len), ends["history"].as_array().map(|it| it.len() - 1));
    let wrong = home.command(&["device", "boiler", "--kind", "conected"]).output().await.expect("it runs");
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("client.connected, client.disconnected"));
    let text = tools::run(&mut home.command(&["device", "boiler"])).await;
    assert!(
        text.contains("boiler is offline (tcp_closed) since") && text.contains("3, 3 in the last day"),
        "{text}"
    );
    let unknown = home.command(&["device", "nobody"]).output().await.expect("it runs");
    assert_eq!(unknown.status.code(), Some(1));
    drop(keeper);
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_here_is_known_after_a_crash_and_when_folded_anew() {
    let home = Home::new();
    let muster = home.start_with(&["--set", "journal.heartbeat=200ms"]).await;
    let mut clients = Vec::new();
    for name in ["a", "b", "c"] {
        clients.push(Client::connect(muster.mqtt, Version::V4, name).await);
        until_state(&muster, name, true).await;
    }
    clients.remove(0).disconnect().await;
    let a = until_state(&muster, "a", false).await;
    let gone = ms(&a["disconnected_at"]);
    let at = async |muster: &Muster, moment: i64| {
        let answer = muster.json(&format!("/api/v1/presence?at={moment}")).await;
        (answer["count"].clone(), answer["data"].clone())
    };
    assert_eq!(at(&muster, gone - 1).await, (json!(3), json!(["a", "b", "c"])));
    assert_eq!(at(&muster, gone).await, (json!(2), json!(["b", "c"])));
    let page = muster.json(&format!("/api/v1/presence?at={}&limit=2", gone - 1)).await;
    let next = format!("/api/v1/presence?at={}&cursor={}", gone - 1, page["meta"]["cursor"]);
    assert_eq!(muster.json(&next).await["data"], json!(["c"]));

    // Nothing happens, and the log shows that the node lives; then the plug is pulled.
    let alive = until("a second of signs of life", Duration::from_secs(30), async || {
        let shown = tools::run(&mut home.command(&["log", "cat", "--event", "node.alive", "--json"])).await;
        let last: Value = serde_json::from_str(shown.lines().last()?).ok()?;
        let at = last["timestamp"].as_i64()?;
        (at > gone + 1_000).then_some(at)
    })
    .await;
    muster.kill().await;
    let killed = jiff::Timestamp::now().as_millisecond();
    let muster = home.start().await;
    let b = until_state(&muster, "b", false).await;
    assert_eq!(b["reason"], "server_restart");
    let told = ms(&b["disconnected_at"]);
    assert!((alive..=killed).contains(&told), "{alive} <= {told} <= {killed}");
    assert_eq!(at(&muster, told - 1).await.0, json!(2));
    assert_eq!(at(&muster, told).await.0, json!(0));
    let timeline = muster.json("/api/v1/presence/timeline?bucket=1h").await;
    let sum = |name: &str| {
        let all = timeline["data"].as_array().expect("buckets");
        all.iter().map(|it| it[name].as_i64().expect("a number")).sum::<i64>()
    };
    assert_eq!((sum("connects"), sum("disconnects")), (3, 3));
    assert_eq!(
        timeline["data"].as_array().and_then(|all| all.last()).map(|it| &it["online"]),
        Some(&json!(0))
    );

    let running = home.command(&["presence", "rebuild"]).output().await.expect("it runs");
    assert_eq!(running.status.code(), Some(3), "{running:?}");
    muster.stop().await;
    let tables = || {
        ["devices", "_muster_sessions", "_muster_minutes", "_muster_device_events", "_muster_history"]
            .map(|table| home.lines(&format!("SELECT * FROM {table}")))
    };
    let before = tables();
    assert!(before.iter().take(3).all(|rows| !rows.is_empty()), "{before:?}");
    let said = tools::run(&mut home.command(&["presence", "rebuild"])).await;
    assert!(said.contains("3 devices, 0 of them online"), "{said}");
    assert_eq!(tables(), before);
    let moment = jiff::Timestamp::from_millisecond(gone - 1).expect("a time").to_string();
    let shown = printed(&home, &["presence", "at", &moment, "--json"]).await.remove(0);
    assert_eq!((&shown["count"], &shown["data"]), (&json!(3), &json!(["a", "b", "c"])));
    let buckets = printed(&home, &["presence", "timeline", "--bucket", "1h", "--json"]).await;
    assert_eq!(buckets.iter().filter_map(|it| it["connects"].as_i64()).sum::<i64>(), 3);
}

/// Waits until the device has an alarm that is on, and gives its alarms.
async fn until_alarm(muster: &Muster, clientid: &str) -> Value {
    let path = format!("/api/v1/devices/{clientid}");
    until(&format!("{clientid} has an alarm"), PATIENCE, async || {
        let (status, body) = muster.get(&path).await;
        let device: Value = serde_json::from_str(&body).unwrap_or_default();
        (status == 200 && device["alarms"][0].is_object()).then(|| device["alarms"].clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_stands_beside_its_device_over_a_broken_file_a_change_of_rules_and_folding_anew() {
    let alarm = |name: &str, whom: &str| {
        format!(
            "CREATE ALARM {name} INTO sqlite.alarms WITH (severity = 'critical') AS ABSENCE OF \
             \"$events/client/connected\" FOR 100ms AFTER \"$events/client/disconnected\" WHERE clientid {whom};\n"
        )
    };
    let offline = alarm("offline", "<> 'sign'");
    let home = Home::with_rules(&offline);
    home.write_rules("sign.sql", &alarm("sign", "= 'sign'"));
    let muster = home.start().await;
    let visit = async |muster: &Muster, name: &str| {
        Client::connect(muster.mqtt, Version::V5, name).await.disconnect().await;
        until_alarm(muster, name).await
    };
    let alarms = visit(&muster, "gone").await;
    assert_eq!((&alarms[0]["name"], &alarms[0]["severity"]), (&json!("offline"), &json!("critical")));
    let gone = muster.json("/api/v1/devices/gone").await;
    assert_eq!(ms(&alarms[0]["activated_at"]), ms(&gone["disconnected_at"]) + 100);
    visit(&muster, "quiet").await;
    let keeper = Client::connect(muster.mqtt, Version::V5, "keeper").await;
    assert_eq!(until_state(&muster, "keeper", true).await["alarms"], json!([]));
    let listed = muster.json("/api/v1/devices").await;
    assert_eq!(listed["data"][0]["alarms"], alarms, "{listed}");
    let text = tools::run(&mut home.command(&["devices"])).await;
    let of = |name: &str| text.lines().find(|line| line.starts_with(name)).expect("a line").to_owned();
    assert!(of("gone").ends_with("normal (alarm: offline)") && !of("keeper").contains("alarm"), "{text}");
    let text = tools::run(&mut home.command(&["device", "gone"])).await;
    assert!(text.contains("offline (critical) since "), "{text}");

    // What operators say of alarms.
    let listed = muster.json("/api/v1/alarms?clientid=gone").await;
    let path = format!("/api/v1/alarms/{}/acknowledge", listed["data"][0]["id"]);
    assert_eq!(muster.send("POST", &path, json!({"comment": "on my way"})).await.0, 204);
    let silence = json!({"name": "offline", "clientid": "quiet*", "for": "1h", "comment": "works"});
    assert_eq!(muster.send("POST", "/api/v1/alarms/silences", silence).await.0, 201);
    drop(keeper);
    until_alarm(&muster, "keeper").await;
    muster.kill().await;

    // The file cannot be read at the start. A rule that changes ends nothing that may be defined there.
    home.write_rules("rules.sql", &format!("{offline}CREATE RULE"));
    let muster = home.start().await;
    let rule = json!({"id": "r", "sql": "SELECT clientid FROM \"a\"", "actions": ["sqlite:r"]});
    assert_eq!(muster.send("POST", "/api/v5/rules", rule).await.0, 201);
    assert_eq!(muster.send("DELETE", "/api/v5/rules/r", Value::Null).await.0, 204);
    // Who has heard of this has heard of the change before.
    visit(&muster, "sign").await;
    assert_eq!(until_alarm(&muster, "gone").await, alarms);
    home.write_rules("rules.sql", &offline);
    let back = Client::connect(muster.mqtt, Version::V5, "gone").await;
    until("the alarm is over", PATIENCE, async || {
        (muster.json("/api/v1/devices/gone").await["alarms"] == json!([])).then_some(())
    })
    .await;
    drop(back);
    until_alarm(&muster, "gone").await;
    muster.stop().await;
    let ends = home.lines("SELECT clientid FROM _muster_alarm_history WHERE deactivated_at IS NOT NULL");
    assert_eq!(ends, ["gone"]);

    let tables = || {
        [
            "devices",
            "_muster_alarms",
            "_muster_alarm_history",
            "_muster_alarm_silences",
            "_muster_device_events",
        ]
        .map(|table| home.lines(&format!("SELECT * FROM {table}")))
    };
    let before = tables();
    assert_eq!([before[2].len(), before[3].len()], [5, 1], "{before:?}");
    let seen = home.lines("SELECT clientid FROM _muster_alarm_history WHERE comment = 'on my way'");
    assert_eq!(seen, ["gone"]);
    let said = tools::run(&mut home.command(&["presence", "rebuild"])).await;
    assert!(said.contains("4 devices, 0 of them online"), "{said}");
    assert_eq!(tables(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_comes_and_goes_is_flapping() {
    let home = Home::new();
    let muster = home.start().await;
    for round in 1..=5 {
        let connect = Connect::new(Version::V5, "nervous");
        drop(Client::greet(muster.mqtt, &connect).await.expect("a connection"));
        until("it is gone", PATIENCE, async || {
            let (status, body) = muster.get("/api/v1/devices/nervous").await;
            let device: Value = serde_json::from_str(&body).unwrap_or_default();
            (status == 200 && device["disconnects"] == round).then_some(())
        })
        .await;
        let flapping = muster.json("/api/v1/devices?flapping=true").await;
        assert_eq!(flapping["data"].as_array().map(Vec::len), Some(usize::from(round == 5)));
    }
    let listed = tools::run(&mut home.command(&["devices", "--flapping"])).await;
    assert!(listed.contains("nervous") && listed.contains("(flapping)"), "{listed}");
    muster.stop().await;
}
