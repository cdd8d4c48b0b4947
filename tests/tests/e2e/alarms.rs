//! `CREATE ALARM`: who stays away is told once, wherever the alarm says, over `kill -9` too, and so is the return.

use axum::http::StatusCode;
use bytes::Bytes;
use muster_tests::mqtt::{Client, Version};
use muster_tests::webhook::Webhook;
use muster_tests::{Home, PATIENCE, until};
use serde_json::json;

const TOLD: &str = "SELECT event, kind, severity, clientid FROM alarms ORDER BY offset";
const TIMES: &str =
    "SELECT event, activated_at - since, duration = deactivated_at - since FROM alarms ORDER BY offset";

fn offline(grace: &str, more: &str) -> String {
    format!(
        "CREATE ALARM offline INTO sqlite.alarms{more} WITH (severity = 'critical', \
         message = '${{clientid}} is gone') AS ABSENCE OF \"$events/client/connected\" FOR {grace} \
         AFTER \"$events/client/disconnected\" WHERE clientid <> 'probe';\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absence_is_told_once_to_every_target_and_so_is_its_end() {
    let hook = Webhook::start().await;
    hook.answer(StatusCode::OK);
    let rules = format!(
        "CREATE SINK hook TYPE webhook WITH (url = '{}');\n{}",
        hook.url(),
        offline("300ms", ", hook REPUBLISH TO 'alarms/${clientid}'")
    );
    let home = Home::with_rules(&rules);
    let platform = home.start().await;
    let mut listener = Client::connect(platform.mqtt, Version::V5, "listener").await;
    listener.subscribe("alarms/#", 1).await;
    for name in ["probe", "device"] {
        Client::connect(platform.mqtt, Version::V5, name).await.disconnect().await;
    }
    assert_eq!(home.until_lines(TOLD, 1).await, ["alarm.activated|absence|critical|device"]);
    assert_eq!(home.lines(TIMES), ["alarm.activated|300|null"]);
    let (topic, payload) = listener.expect(3).await.message(Version::V5);
    assert_eq!(topic, "alarms/device");
    assert!(String::from_utf8_lossy(&payload).contains("device is gone"), "{payload:?}");
    let listed = platform.json("/api/v5/alarms?activated=true").await;
    assert_eq!(listed["data"][0]["name"], "offline/device", "{listed}");
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(1), "{listed}");

    let device = Client::connect(platform.mqtt, Version::V5, "device").await;
    let all = home.until_lines(TOLD, 2).await;
    assert_eq!(all[1], "alarm.deactivated|absence|critical|device");
    assert_eq!(home.lines(TIMES)[1], "alarm.deactivated|300|1");
    until("the webhook has both", PATIENCE, async || (hook.rows().len() == 2).then_some(())).await;
    assert_eq!(platform.json("/api/v5/alarms").await["meta"]["count"], 0);
    drop(device);
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_while_the_server_is_dead_is_told_at_the_start_and_once() {
    let home = Home::with_rules(&offline("1s", ""));
    let platform = home.start().await;
    let open = Client::connect(platform.mqtt, Version::V5, "open").await;
    Client::connect(platform.mqtt, Version::V5, "gone").await.disconnect().await;
    let gone = async || platform.json("/api/v1/devices/gone").await["online"] == false;
    until("the end is in the log", PATIENCE, async || gone().await.then_some(())).await;
    platform.kill().await;
    drop(open);

    let platform = home.start().await;
    let mut told = home.until_lines(TOLD, 2).await;
    told.sort();
    let expected = ["alarm.activated|absence|critical|gone", "alarm.activated|absence|critical|open"];
    assert_eq!(told, expected);
    assert_eq!(home.lines(TIMES), ["alarm.activated|1000|null"; 2]);
    platform.kill().await;

    let platform = home.start().await;
    let _back = Client::connect(platform.mqtt, Version::V5, "gone").await;
    let told = home.until_lines(TOLD, 3).await;
    assert_eq!(told[2], "alarm.deactivated|absence|critical|gone");
    platform.stop().await;
    assert_eq!(home.lines(TOLD).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_that_is_removed_ends_and_a_new_one_sees_who_is_gone_already() {
    let home = Home::with_rules(
        "CREATE RULE alarms INTO sqlite.alarms AS SELECT event, offset, kind, severity, clientid, details, \
         activated_at, since, deactivated_at, duration \
         FROM \"$events/sys/alarm_activated\", \"$events/sys/alarm_deactivated\";",
    );
    let platform = home.start().await;
    Client::connect(platform.mqtt, Version::V5, "device").await.disconnect().await;
    let definition = "CREATE ALARM offline AS ABSENCE OF \"$events/client/connected\" FOR 100ms \
                      AFTER \"$events/client/disconnected\";";
    home.write_rules("offline.sql", definition);
    assert_eq!(home.until_lines(TOLD, 1).await, ["alarm.activated|absence|major|device"]);
    std::fs::remove_file(home.rules().join("offline.sql")).expect("the file goes");
    assert_eq!(home.until_lines(TOLD, 2).await[1], "alarm.deactivated|absence|major|device");
    let why = "SELECT details FROM alarms WHERE event = 'alarm.deactivated'";
    assert!(home.lines(why)[0].contains("definition_removed"), "{:?}", home.lines(why));
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_flapping_and_storms() {
    let home = Home::with_rules(
        "CREATE ALARM quiet INTO sqlite.alarms WITH (clientid = 'sensor-+') AS ABSENCE OF \"sensors/+/up\" FOR 200ms \
         AFTER \"sensors/+/up\";\n\
         CREATE ALARM flaps INTO sqlite.flaps WITH (clientid = 'door') AS \
         FLAPPING OF \"$events/client/disconnected\" 3 TIMES IN 30s;\n\
         CREATE ALARM many INTO sqlite.many WITH (clientid = 'm-+', storm_per_minute = 5) AS \
         ABSENCE OF \"$events/client/connected\" FOR 100ms AFTER \"$events/client/disconnected\";\n",
    );
    let platform = home.start().await;
    let mut sensor = Client::connect(platform.mqtt, Version::V5, "sensor-1").await;
    sensor.publish_all("sensors/a/up", [Bytes::from("1")], 1).await;
    assert_eq!(home.until_lines(TOLD, 1).await, ["alarm.activated|silence|major|sensor-1"]);
    sensor.publish_all("sensors/a/up", [Bytes::from("2")], 1).await;
    let told = home.until_lines(TOLD, 3).await;
    assert_eq!(
        told[1..],
        ["alarm.deactivated|silence|major|sensor-1", "alarm.activated|silence|major|sensor-1"]
    );

    for _ in 0..4 {
        Client::connect(platform.mqtt, Version::V5, "door").await.disconnect().await;
    }
    let flaps = "SELECT event, kind, clientid FROM flaps ORDER BY offset";
    assert_eq!(home.until_lines(flaps, 1).await, ["alarm.activated|flapping|door"]);

    for n in 0..20 {
        Client::connect(platform.mqtt, Version::V5, &format!("m-{n}")).await.disconnect().await;
    }
    let storms = "SELECT event FROM many WHERE kind = 'storm' ORDER BY offset";
    assert_eq!(home.until_lines(storms, 1).await, ["alarm.activated"]);
    assert_eq!(home.lines("SELECT count(*) FROM many WHERE kind = 'absence'"), ["5"]);
    let mut back = Vec::new();
    for n in 0..20 {
        back.push(Client::connect(platform.mqtt, Version::V5, &format!("m-{n}")).await);
    }
    assert_eq!(home.until_lines(storms, 2).await, ["alarm.activated", "alarm.deactivated"]);
    home.until_lines("SELECT clientid FROM many WHERE event = 'alarm.deactivated' AND kind = 'absence'", 5)
        .await;
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_ends_an_alarm() {
    let home = Home::with_rules(&offline("100ms", ""));
    let platform = home.start().await;
    Client::connect(platform.mqtt, Version::V5, "device").await.disconnect().await;
    home.until_lines(TOLD, 1).await;
    let path = "/api/v5/alarms/force_deactivate";
    assert_eq!(platform.send("POST", path, json!({"name": "offline/other"})).await.0, 404);
    assert_eq!(platform.send("POST", path, json!({"name": "offline/device"})).await.0, 204);
    assert_eq!(home.until_lines(TOLD, 2).await[1], "alarm.deactivated|absence|critical|device");
    platform.stop().await;
}
