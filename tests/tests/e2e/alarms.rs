//! `CREATE ALARM`: who stays away is told once, wherever the alarm says, over `kill -9` too, and so is the return.

use axum::http::StatusCode;
use bytes::Bytes;
use muster_tests::mqtt::{Client, Version};
use muster_tests::webhook::Webhook;
use muster_tests::{Home, Muster, PATIENCE, tools, until};
use serde_json::{Value, json};

const TOLD: &str = "SELECT event, kind, severity, clientid FROM alarms ORDER BY offset";
const TIMES: &str = "SELECT event, activated_at - since >= 300, duration = deactivated_at - since FROM alarms ORDER BY offset";

fn offline(grace: &str, more: &str) -> String {
    format!(
        "CREATE ALARM offline INTO sqlite.alarms{more} WITH (severity = 'critical', \
         message = '${{clientid}} is gone') AS ABSENCE OF \"$events/client/connected\" FOR {grace} \
         AFTER \"$events/client/disconnected\" WHERE clientid <> 'probe';\n"
    )
}

/// What REST lists, once it is so many alarms.
async fn until_listed(platform: &Muster, path: &str, count: usize) -> Value {
    until(&format!("{path} lists {count}"), PATIENCE, async || {
        let listed = platform.json(&format!("/api/{path}")).await;
        (listed["data"].as_array().map(Vec::len) == Some(count)).then_some(listed)
    })
    .await
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
    assert_eq!(home.lines(TIMES), ["alarm.activated|1|"]);
    let (topic, payload) = listener.expect(3).await.message(Version::V5);
    assert_eq!(topic, "alarms/device");
    assert!(String::from_utf8_lossy(&payload).contains("device is gone"), "{payload:?}");
    let listed = until_listed(&platform, "v5/alarms?activated=true", 1).await;
    assert_eq!(listed["data"][0]["name"], "offline/device", "{listed}");

    let device = Client::connect(platform.mqtt, Version::V5, "device").await;
    let all = home.until_lines(TOLD, 2).await;
    assert_eq!(all[1], "alarm.deactivated|absence|critical|device");
    assert_eq!(home.lines(TIMES)[1], "alarm.deactivated|1|1");
    until("the webhook has both", PATIENCE, async || (hook.rows().len() == 2).then_some(())).await;
    until_listed(&platform, "v5/alarms", 0).await;
    let over = until_listed(&platform, "v5/alarms?activated=false", 1).await;
    assert!(over["data"][0]["duration"].as_i64() >= Some(300), "{over}");
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
    assert_eq!(home.lines(TIMES), ["alarm.activated|1|"; 2]);
    // Its connection ended with the server, and the grace time began with the next one.
    let open = "SELECT activated_at - since > 1000 FROM alarms WHERE clientid = 'open'";
    assert_eq!(home.lines(open), ["1"]);
    platform.kill().await;

    let platform = home.start().await;
    let _back = Client::connect(platform.mqtt, Version::V5, "gone").await;
    let told = home.until_lines(TOLD, 3).await;
    assert_eq!(told[2..], ["alarm.deactivated|absence|critical|gone"]);
    platform.stop().await;
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
         CREATE ALARM many INTO sqlite.many REPUBLISH TO 'alarms/${clientid}' \
         WITH (clientid = 'm-+', storm_per_minute = 5) AS \
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

    let mut listener = Client::connect(platform.mqtt, Version::V5, "listener").await;
    listener.subscribe("alarms/#", 1).await;
    for n in 0..20 {
        Client::connect(platform.mqtt, Version::V5, &format!("m-{n}")).await.disconnect().await;
    }
    let storms = "SELECT DISTINCT event FROM many WHERE kind = 'storm' ORDER BY event";
    assert_eq!(home.until_lines(storms, 1).await, ["alarm.activated"]);
    assert_eq!(home.lines("SELECT count(*) FROM many WHERE kind = 'absence'"), ["5"]);
    // Its topic has the alarm's name where a client's would be.
    let mut topics = Vec::new();
    for _ in 0..6 {
        topics.push(listener.expect(3).await.message(Version::V5).0);
    }
    assert_eq!(topics.iter().filter(|it| it.starts_with("alarms/m-")).count(), 5, "{topics:?}");
    assert!(topics.contains(&"alarms/many".to_owned()), "{topics:?}");
    listener.disconnect().await;
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
async fn flapping_is_counted_over_kills_and_stops() {
    let home = Home::with_rules(
        "CREATE ALARM flaps INTO sqlite.alarms AS FLAPPING OF \"$events/client/disconnected\" 6 TIMES IN 1h;",
    );
    // Five times, twice in a run, with either end of a run. The engine may have stored them, or not.
    let mut flapped = 0;
    for is_killed in [true, false, true] {
        let platform = home.start().await;
        for _ in 0..if flapped < 4 { 2 } else { 1 } {
            Client::connect(platform.mqtt, Version::V5, "door").await.disconnect().await;
            flapped += 1;
            until("presence has counted", PATIENCE, async || {
                let device = platform.json("/api/v1/devices/door").await;
                (device["disconnects"] == flapped && device["online"] == false).then_some(())
            })
            .await;
        }
        if is_killed { platform.kill().await } else { platform.stop().await }
    }
    let platform = home.start().await;
    until("there is an alarm", PATIENCE, async || {
        // Five are not six.
        assert_eq!(platform.json("/api/v1/alarms").await["data"], json!([]));
        let metrics = platform.get("/metrics").await.1;
        metrics.contains("muster_alarms_active{name=\"flaps\",severity=\"major\"} 0").then_some(())
    })
    .await;
    Client::connect(platform.mqtt, Version::V5, "door").await.disconnect().await;
    assert_eq!(home.until_lines(TOLD, 1).await, ["alarm.activated|flapping|major|door"]);
    let listed = until_listed(&platform, "v1/alarms?active=true", 1).await;
    let metrics = platform.get("/metrics").await.1;
    assert!(metrics.contains("muster_alarms_active{name=\"flaps\",severity=\"major\"} 1"), "{metrics}");
    platform.kill().await;

    // It is the same alarm, and it stays.
    let platform = home.start().await;
    Client::connect(platform.mqtt, Version::V5, "door").await.disconnect().await;
    Client::connect(platform.mqtt, Version::V5, "window").await.disconnect().await;
    until("it was heard", PATIENCE, async || {
        let pipelines = crate::common::pipelines(&platform).await;
        (platform.json("/api/v1/devices/window").await["online"] == false
            && pipelines.iter().all(|it| it["lag_events"] == 0))
        .then_some(())
    })
    .await;
    let again = until_listed(&platform, "v1/alarms", 1).await;
    assert_eq!(
        (&again["data"][0]["id"], &again["data"][0]["active"]),
        (&listed["data"][0]["id"], &listed["data"][0]["active"])
    );
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

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_say_of_alarms_is_kept() {
    let home = Home::with_rules(&offline("100ms", ""));
    let platform = home.start().await;
    let silence = json!({"name": "offline", "clientid": "quiet-*", "for": "1h", "comment": "works"});
    let (status, made) = platform.send("POST", "/api/v1/alarms/silences", silence).await;
    assert_eq!(status, 201, "{made}");
    for name in ["loud", "quiet-1"] {
        Client::connect(platform.mqtt, Version::V5, name).await.disconnect().await;
    }
    let listed = until_listed(&platform, "v1/alarms?active=true", 2).await;
    let of = |listed: &Value, clientid: &str| {
        let all = listed["data"].as_array().expect("a list");
        all.iter().find(|it| it["clientid"] == clientid).expect("an alarm").clone()
    };
    assert_eq!(of(&listed, "quiet-1")["details"]["silenced"], true, "{listed}");
    let loud = of(&listed, "loud");
    assert_eq!((&loud["severity"], &loud["message"]), (&json!("critical"), &json!("loud is gone")));
    let path = format!("/api/v1/alarms/{}/acknowledge", loud["id"]);
    assert_eq!(platform.send("POST", &path, json!({"comment": "on my way"})).await.0, 204);
    assert_eq!(platform.send("POST", "/api/v1/alarms/1/acknowledge", json!({})).await.0, 404);
    let seen = until_listed(&platform, "v1/alarms?acknowledged=true", 1).await;
    assert_eq!(
        (&seen["data"][0]["comment"], &seen["data"][0]["clientid"]),
        (&json!("on my way"), &json!("loud"))
    );
    for wrong in [json!({"for": "long"}), json!({"for": "0s"}), json!({"for": "400d"}), json!({"name": "x"})]
    {
        assert_eq!(platform.send("POST", "/api/v1/alarms/silences", wrong).await.0, 400);
    }
    // The table got the loud one alone.
    assert_eq!(home.until_lines(TOLD, 1).await, ["alarm.activated|absence|critical|loud"]);
    platform.kill().await;

    let platform = home.start().await;
    until_listed(&platform, "v1/alarms?acknowledged=true", 1).await;
    let silences = until_listed(&platform, "v1/alarms/silences", 1).await;
    Client::connect(platform.mqtt, Version::V5, "quiet-2").await.disconnect().await;
    let listed = until_listed(&platform, "v1/alarms?active=true", 3).await;
    assert_eq!(of(&listed, "quiet-2")["details"]["silenced"], true, "{listed}");
    let url = format!("http://{}", platform.http);
    let text = tools::run(&mut home.command(&["alarms", "list", "--url", &url])).await;
    assert!(text.contains("loud is gone") && text.contains("quiet-2 is gone"), "{text}");
    let text = tools::run(&mut home.command(&["alarms", "silences", "--url", &url])).await;
    assert!(text.contains("quiet-*") && text.contains("works"), "{text}");
    let end = format!("/api/v1/alarms/silences/{}", silences["data"][0]["id"]);
    assert_eq!(platform.send("DELETE", &end, json!({})).await.0, 204);
    until_listed(&platform, "v1/alarms/silences", 0).await;
    assert_eq!(platform.send("DELETE", &end, json!({})).await.0, 404);
    Client::connect(platform.mqtt, Version::V5, "quiet-3").await.disconnect().await;
    assert_eq!(home.until_lines(TOLD, 2).await[1], "alarm.activated|absence|critical|quiet-3");
    let back = Client::connect(platform.mqtt, Version::V5, "quiet-3").await;
    until_listed(&platform, "v5/alarms?activated=false", 1).await;
    assert_eq!(platform.send("DELETE", "/api/v5/alarms", json!({})).await.0, 204);
    until_listed(&platform, "v5/alarms?activated=false", 0).await;
    until_listed(&platform, "v1/alarms?active=true", 3).await;
    drop(back);
    platform.stop().await;
}
