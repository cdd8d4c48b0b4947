//! Rules over REST, as clients of EMQX make, change and remove them.

use muster_tests::mqtt::{Client, Version};
use muster_tests::webhook::Webhook;
use muster_tests::{Home, Muster, PATIENCE, until};
use serde_json::{Value, json};

use crate::common::until_delivered;

const RULES: &str = "/api/v5/rules";

async fn device(muster: &Muster) -> Client {
    Client::connect(muster.mqtt, Version::V5, "device").await
}

async fn publish(device: &mut Client, topic: &str, numbers: std::ops::Range<u64>) {
    for n in numbers {
        device.publish(topic, format!("{{\"n\":{n}}}").as_bytes(), 1, false).await;
    }
}

async fn create(muster: &Muster, rule: Value) -> Value {
    let (status, made) = muster.send("POST", RULES, rule).await;
    assert_eq!(status, 201, "{made}");
    made
}

/// All rules, without how their sinks are doing at the moment.
async fn rules(muster: &Muster) -> Value {
    let mut all = muster.json(RULES).await;
    for rule in all["data"].as_array_mut().expect("a list") {
        rule["action_details"].take();
    }
    all
}

/// What is refused, and that nothing has changed by it.
async fn refused(muster: &Muster, method: &str, path: &str, body: Value) -> (u16, String) {
    let before = rules(muster).await;
    let (status, answer) = muster.send(method, path, body).await;
    assert!(status >= 400 && answer["code"].is_string(), "{status}: {answer}");
    assert_eq!(rules(muster).await, before);
    (status, answer["message"].as_str().expect("a message").to_owned())
}

async fn problems(muster: &Muster) -> Vec<String> {
    let problems = muster.json("/api/v1/pipelines").await["problems"].clone();
    problems.as_array().expect("a list").iter().map(|it| it.as_str().expect("a text").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_made_changed_and_removed() {
    let hook = Webhook::start().await;
    let sink = format!("CREATE SINK hook TYPE webhook WITH (url = '{}', batch_wait_ms = 1);", hook.url());
    let home = Home::with_rules(&sink);
    let muster = home.start().await;
    let mut device = device(&muster).await;

    let sql = "SELECT payload.n AS n, topic FROM \"t/#\"";
    let actions = json!(["sqlite:made", "http:hook"]);
    let made = create(&muster, json!({"id": "r-1", "name": "One", "sql": sql, "actions": actions})).await;
    for (field, value) in [
        ("id", json!("r-1")),
        ("name", json!("One")),
        ("sql", json!(sql)),
        ("from", json!(["t/#"])),
        ("actions", actions),
        ("enable", json!(true)),
        ("description", json!("")),
        ("metadata", json!({})),
    ] {
        assert_eq!(made[field], value, "{field}: {made}");
    }
    assert_eq!(made["created_at"], made["last_modified_at"]);
    let details = made["action_details"].as_array().expect("a list");
    assert_eq!((&details[0]["type"], &details[0]["name"]), (&json!("sqlite"), &json!("made")));
    assert_eq!((&details[1]["type"], &details[1]["name"]), (&json!("webhook"), &json!("hook")));

    // It runs as soon as it is answered.
    publish(&mut device, "t/1", 0..3).await;
    assert_eq!(home.until_lines("SELECT n FROM made ORDER BY n", 3).await, ["0", "1", "2"]);
    until_delivered(&muster, "r-1", "hook", 3).await;
    assert_eq!(hook.rows().len(), 3);

    // A part of it is changed, the rest stays.
    let patch = json!({"sql": "SELECT payload.n * 10 AS n FROM \"t/#\"", "description": "ten times"});
    let (status, changed) = muster.send("PUT", &format!("{RULES}/r-1"), patch).await;
    assert_eq!(
        (status, &changed["name"], &changed["description"]),
        (200, &json!("One"), &json!("ten times"))
    );
    assert_eq!(changed["created_at"], made["created_at"]);
    publish(&mut device, "t/1", 3..4).await;
    assert_eq!(home.until_lines("SELECT n FROM made ORDER BY n", 4).await, ["0", "1", "2", "30"]);

    // What was shown can be sent back.
    let shown = muster.json(&format!("{RULES}/r-1")).await;
    let (status, back) = muster.send("PUT", &format!("{RULES}/r-1"), shown).await;
    assert_eq!(status, 200, "{back}");

    // Disabled, it stays, and what comes meanwhile waits in the log.
    let (status, off) = muster.send("PUT", &format!("{RULES}/r-1"), json!({"enable": false})).await;
    assert_eq!((status, &off["enable"], &off["from"]), (200, &json!(false), &json!(["t/#"])));
    publish(&mut device, "t/1", 4..5).await;
    assert!(muster.json("/api/v1/pipelines").await["data"].as_array().is_some_and(Vec::is_empty));
    let (status, _) = muster.send("PUT", &format!("{RULES}/r-1"), json!({"enable": true})).await;
    assert_eq!(status, 200);
    assert_eq!(home.until_lines("SELECT n FROM made ORDER BY n", 5).await.last().expect("a row"), "40");

    let (status, body) = muster.send("DELETE", &format!("{RULES}/r-1"), Value::Null).await;
    assert_eq!((status, body), (204, Value::Null));
    for (method, body) in [("GET", Value::Null), ("PUT", json!({})), ("DELETE", Value::Null)] {
        let (status, answer) = muster.send(method, &format!("{RULES}/r-1"), body).await;
        assert_eq!((status, answer), (404, json!({"code": "NOT_FOUND", "message": "Rule Id Not Found"})));
    }
    assert_eq!(muster.json(RULES).await["meta"]["count"], 0);
    muster.stop().await;
    let log = home.command(&["log", "cat", "--event", "admin", "--json"]).output().await.expect("its output");
    let log = String::from_utf8(log.stdout).expect("text");
    for (action, times) in [("rules.create", 1), ("rules.update", 4), ("rules.delete", 1)] {
        assert_eq!(log.matches(&format!("\"action\":\"{action}\"")).count(), times, "{action}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_survives_a_kill() {
    let home = Home::new();
    let muster = home.start().await;
    let rule = |id: &str| json!({"id": id, "sql": "SELECT payload.n AS n FROM \"t\"", "actions": ["sqlite"]});
    create(&muster, rule("gone")).await;
    create(&muster, rule("off")).await;
    create(&muster, rule("kept")).await;
    assert_eq!(muster.send("PUT", &format!("{RULES}/off"), json!({"enable": false})).await.0, 200);
    assert_eq!(muster.send("DELETE", &format!("{RULES}/gone"), Value::Null).await.0, 204);
    let before = muster.json(RULES).await;
    muster.kill().await;

    let muster = home.start().await;
    let after = muster.json(RULES).await;
    let fields = |list: &Value| {
        let rules = list["data"].as_array().expect("a list").clone();
        rules
            .into_iter()
            .map(|mut rule| {
                rule["action_details"].take();
                rule
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(fields(&after), fields(&before));
    assert_eq!(after["meta"]["count"], 2);
    publish(&mut device(&muster).await, "t", 0..2).await;
    home.until_lines("SELECT n FROM kept", 2).await;
    assert_eq!(home.lines("SELECT n FROM off"), Vec::<String>::new());
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_wins_and_its_rules_are_read_only() {
    let home = Home::with_rules("\n  CREATE RULE filed INTO sqlite.t AS SELECT 1 AS x FROM \"a\";");
    home.write_rules("words.sql", "COMMENT ON RULE filed IS 'of a file';");
    let muster = home.start().await;
    let filed = muster.json(&format!("{RULES}/filed")).await;
    assert_eq!(filed["sql"], "SELECT 1 AS x FROM \"a\"");
    assert_eq!((&filed["actions"], &filed["description"]), (&json!(["sqlite:t"]), &json!("of a file")));
    let metadata = &filed["metadata"];
    assert_eq!(
        (&metadata["source"], &metadata["line"], &metadata["read_only"]),
        (&json!("file"), &json!(2), &json!(true))
    );
    for (method, path, body) in [
        ("PUT", format!("{RULES}/filed"), json!({"enable": false})),
        ("DELETE", format!("{RULES}/filed"), Value::Null),
        ("POST", RULES.to_owned(), json!({"id": "filed", "sql": "SELECT 1 FROM \"a\""})),
    ] {
        let (status, message) = refused(&muster, method, &path, body).await;
        assert!(status == 400 && message.contains("rules.sql:2"), "{status}: {message}");
    }

    create(&muster, json!({"id": "both", "sql": "SELECT 1 AS rest FROM \"a\"", "actions": ["sqlite:u"]}))
        .await;
    home.write_rules("both.sql", "CREATE RULE both INTO sqlite.u AS SELECT 1 AS file FROM \"a\";");
    let hidden = until("the file takes over", PATIENCE, async || {
        problems(&muster).await.into_iter().find(|it| it.starts_with("rest:both:"))
    })
    .await;
    assert!(hidden.contains("both.sql:1 has a rule of this name"), "{hidden}");
    assert_eq!(muster.json(&format!("{RULES}/both")).await["metadata"]["source"], "file");
    publish(&mut device(&muster).await, "a", 0..1).await;
    assert_eq!(home.until_lines("SELECT file FROM u", 1).await, ["1"]);
    let (status, _) = muster.send("DELETE", &format!("{RULES}/both"), Value::Null).await;
    assert_eq!(status, 204, "the one made over REST can still be removed");
    assert_eq!(problems(&muster).await, Vec::<String>::new());
    assert_eq!(refused(&muster, "DELETE", &format!("{RULES}/both"), Value::Null).await.0, 400);
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_waits_for_a_sink_that_its_file_takes_away() {
    let hook = Webhook::start().await;
    let sink = format!("CREATE SINK hook TYPE webhook WITH (url = '{}', batch_wait_ms = 1);", hook.url());
    let home = Home::with_rules("CREATE RULE other INTO sqlite.t AS SELECT 1 AS x FROM \"a\";");
    home.write_rules("sink.sql", &sink);
    let muster = home.start().await;
    create(&muster, json!({"id": "r", "sql": "SELECT payload.n AS n FROM \"a\"", "actions": ["hook"]})).await;
    let mut device = device(&muster).await;
    publish(&mut device, "a", 0..1).await;
    until_delivered(&muster, "r", "hook", 1).await;

    home.write_rules("sink.sql", "-- no sink any more");
    let told = async || problems(&muster).await.into_iter().find(|it| it.starts_with("rest:r:1:1: error"));
    let problem = until("the rule cannot run", PATIENCE, told).await;
    assert!(problem.contains("there is no sink for \"hook\""), "{problem}");
    let rule = muster.json(&format!("{RULES}/r")).await;
    assert_eq!((&rule["enable"], &rule["problems"]), (&json!(true), &json!([problem])));
    publish(&mut device, "a", 1..2).await;
    // Others can be made meanwhile.
    create(&muster, json!({"name": "more", "sql": "SELECT 1 FROM \"b\"", "actions": ["sqlite:u"]})).await;

    home.write_rules("sink.sql", &sink);
    until("what waited arrives", PATIENCE, async || (hook.rows().len() == 2).then_some(())).await;
    until_delivered(&muster, "r", "hook", 2).await;
    assert_eq!(problems(&muster).await, Vec::<String>::new());

    // Files with errors change nothing, and do not keep rules from being changed.
    home.write_rules("broken.sql", "CREATE RULE broken AS SELEC");
    until("the file is looked at", PATIENCE, async || {
        problems(&muster).await.iter().any(|it| it.contains("broken.sql")).then_some(())
    })
    .await;
    assert_eq!(muster.send("DELETE", &format!("{RULES}/more"), Value::Null).await.0, 204);
    assert!(problems(&muster).await.iter().any(|it| it.contains("broken.sql")), "still told");
    publish(&mut device, "a", 2..3).await;
    until_delivered(&muster, "r", "hook", 3).await;
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_and_nothing_changes() {
    let home = Home::new();
    let muster = home.start().await;
    let select = "SELECT 1 AS x FROM \"a\"";
    create(&muster, json!({"id": "r", "sql": select, "actions": ["sqlite:t"]})).await;
    for (body, want) in [
        (json!({"id": "r", "sql": select}), "rule id already exists"),
        (json!({"id": "", "sql": select}), "empty rule id is not allowed"),
        (json!({"id": "a b", "sql": select}), "begins with a letter or digit"),
        (json!({"name": "x"}), "`sql` is missing"),
        (json!({"id": "s", "sql": select, "enabled": true}), "did you mean `enable`?"),
        (json!({"id": "s", "sql": select, "enable": 1}), "`enable` is true or false"),
        (json!({"id": "s", "sql": ""}), "rest:s:1:1: error: "),
        (json!({"id": "s", "sql": "SELECT x\nFRM \"a\""}), "rest:s:2:5: error: expected FROM, found `\"a\"`"),
        (json!({"id": "s", "sql": "SELECT uper(x) FROM \"a\""}), "did you mean upper()?"),
        (json!({"id": "s", "sql": "SELECT 1 FROM \"$events/client/conected\""}), "$events/client/connected"),
        (json!({"id": "s", "sql": "CREATE SINK x TYPE webhook"}), "rest:s:1:1: error: "),
        (json!({"id": "s", "sql": select, "actions": ["webhook:none"]}), "actions[0]: there is no sink"),
        (json!({"id": "s", "sql": select, "actions": ["sqlite:t", "sqlite:t"]}), "twice"),
        (json!({"id": "s", "sql": select, "actions": ["sqlite:devices"]}), "is kept by Muster itself"),
        (
            json!({"id": "s", "sql": select, "actions": [{"function": "console"}]}),
            "there is no console action",
        ),
        // Wrong is wrong, also where it does not run.
        (json!({"id": "s", "sql": "SELECT", "enable": false}), "rest:s:1:"),
    ] {
        let (status, message) = refused(&muster, "POST", RULES, body).await;
        assert!(status == 400 && message.contains(want), "{status}: {message}\nwanted: {want}");
    }
    for (body, want) in [
        (json!({"sql": "SELECT"}), "rest:r:1:"),
        (json!({"id": "other"}), "cannot be changed"),
        (json!({"actions": {}}), "`actions` is a list"),
    ] {
        let (status, message) = refused(&muster, "PUT", &format!("{RULES}/r"), body).await;
        assert!(status == 400 && message.contains(want), "{status}: {message}\nwanted: {want}");
    }
    for (content_type, body, status, want) in [
        ("text/plain", "{}", 415, "content-type:application/json Required"),
        ("application/json; charset=utf-8", "{", 400, "no JSON"),
        ("application/json", "[]", 400, "no JSON object"),
        ("application/json", &format!("{{\"sql\":\"{}\"}}", "x".repeat(2 << 20)), 413, "EXCEED_LIMIT"),
    ] {
        let (found, answer) = muster.send_raw("POST", RULES, content_type, body).await;
        assert!(found == status && answer.contains(want), "{found}: {answer}");
    }
    for query in ["enable=maybe", "page=0", "limit=10001", "match_from=a%23"] {
        let (status, answer) = muster.send("GET", &format!("{RULES}?{query}"), Value::Null).await;
        assert_eq!((status, &answer["code"]), (400, &json!("INVALID_PARAMETER")), "{query}");
    }
    assert_eq!(muster.send("PATCH", RULES, json!({})).await.0, 405);
    // An id that nobody chose.
    let named = create(&muster, json!({"name": "my-rule", "sql": select})).await;
    let other = create(&muster, json!({"name": "my rule", "sql": select})).await;
    assert_eq!(named["id"], "my-rule");
    assert!(other["id"].as_str().is_some_and(|id| id.starts_with("rule_")), "{other}");
    for (query, ids) in [
        ("like_id=r", &["my-rule", "r", "rule_"][..]),
        ("action=sqlite:t", &["r"]),
        ("limit=1&page=2", &["r"]),
        ("enable=false", &[]),
    ] {
        let found = muster.json(&format!("{RULES}?{query}")).await;
        let found = found["data"].as_array().expect("a list").clone();
        let id = |rule: &Value| rule["id"].as_str().expect("an id").to_owned();
        assert_eq!(found.len(), ids.len(), "{query}");
        assert!(found.iter().map(id).zip(ids).all(|(id, want)| id.starts_with(want)), "{query}: {found:?}");
    }
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_follow_what_is_published() {
    let home = Home::with_rules("CREATE RULE filed INTO sqlite.f AS SELECT payload.n AS n FROM \"t\";");
    let muster = home.start().await;
    let sql = "SELECT payload.n AS n FROM \"t\" WHERE payload.n > 1";
    let actions = json!(["sqlite:a", "sqlite:b"]);
    create(&muster, json!({"id": "r", "sql": sql, "actions": actions})).await;
    let mut device = device(&muster).await;
    publish(&mut device, "t", 0..4).await;
    device.publish("t", b"no JSON", 1, false).await;
    publish(&mut device, "elsewhere", 0..4).await;
    let metrics = async |rule: &str| {
        let all = muster.json(&format!("{RULES}/{rule}/metrics")).await;
        assert_eq!((&all["id"], &all["node_metrics"][0]["metrics"]), (&json!(rule), &all["metrics"]));
        all["metrics"].clone()
    };
    let until_success = async |rule: &str, rows: u64| {
        until("the rows are counted", PATIENCE, async || {
            let now = metrics(rule).await;
            (now["actions.success"] == rows && now["matched"].as_u64() > Some(0)).then_some(now)
        })
        .await
    };
    let now = until_success("r", 4).await;
    for (name, value) in [
        ("matched", 5),
        ("passed", 2),
        ("failed", 3),
        ("failed.exception", 1),
        ("failed.no_result", 2),
        ("actions.total", 4),
        ("actions.failed", 0),
        ("actions.failed.out_of_service", 0),
        ("actions.discarded", 0),
    ] {
        assert_eq!(now[name], value, "{name}: {now}");
    }
    assert!(now["matched.rate"].is_number() && now["matched.rate.last5m"].is_number(), "{now}");
    let filed = until_success("filed", 4).await;
    assert_eq!((&filed["matched"], &filed["passed"], &filed["failed"]), (&json!(5), &json!(4), &json!(1)));
    let all = muster.json("/api/v5/metrics?aggregate=true").await;
    assert_eq!((&all["rules.matched"], &all["actions.success"]), (&json!(10), &json!(8)));

    let zero = |metrics: &Value| {
        let fields = metrics.as_object().expect("an object");
        fields.values().all(|it| it.as_f64() == Some(0.0))
    };
    let (status, _) = muster.send("PUT", &format!("{RULES}/r/metrics/reset"), json!({})).await;
    assert_eq!(status, 204);
    let now = metrics("r").await;
    assert!(zero(&now), "{now}");
    publish(&mut device, "t", 2..3).await;
    assert_eq!(until_success("r", 2).await["matched"], 1);
    muster.send("PUT", &format!("{RULES}/r"), json!({"enable": false})).await;
    let now = metrics("r").await;
    assert!(zero(&now), "a rule that is disabled begins anew: {now}");
    for path in ["nobody/metrics", "nobody/metrics/reset"] {
        let method = if path.ends_with("reset") { "PUT" } else { "GET" };
        assert_eq!(muster.send(method, &format!("{RULES}/{path}"), Value::Null).await.0, 404, "{path}");
    }
    // A restart counts anew, too, although the books go on.
    muster.kill().await;
    let muster = home.start().await;
    let now = muster.json(&format!("{RULES}/filed/metrics")).await["metrics"].clone();
    assert!(zero(&now), "{now}");
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_republishes() {
    let home = Home::new();
    let muster = home.start().await;
    let args = json!({"topic": "out/${clientid}", "qos": 1, "payload": "n is ${n}", "user_properties": ""});
    let actions = json!([{"function": "republish", "args": args}, "sqlite:t"]);
    let sql = "SELECT clientid, payload.n AS n FROM \"in\"";
    let made = create(&muster, json!({"id": "r", "sql": sql, "actions": actions})).await;
    assert_eq!(made["actions"], actions);
    let mut watcher = Client::connect(muster.mqtt, Version::V5, "watcher").await;
    watcher.subscribe("out/#", 1).await;
    let mut device = device(&muster).await;
    publish(&mut device, "in", 7..8).await;
    let (topic, payload) = watcher.expect(3).await.message(Version::V5);
    assert_eq!((topic.as_str(), &payload[..]), ("out/device", &b"n is 7"[..]));
    let circle = json!({"id": "back", "sql": "SELECT * FROM \"out/+\"", "actions": [
        {"function": "republish", "args": {"topic": "in"}}
    ]});
    let (status, message) = refused(&muster, "POST", RULES, circle).await;
    assert!(status == 400 && message.contains("republish in a circle: back -> r -> back"), "{message}");
    let bad = json!({"actions": [{"function": "republish", "args": {"topic": "a/#"}}]});
    assert_eq!(refused(&muster, "PUT", &format!("{RULES}/r"), bad).await.0, 400);
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_tried_out() {
    let home =
        Home::with_rules("CREATE RULE filed INTO sqlite.f AS SELECT payload.n AS n, nothing FROM \"t\";");
    let muster = home.start().await;
    let message =
        |payload: &str| json!({"event_type": "message_publish", "topic": "t/1", "payload": payload});
    for (sql, payload, want) in [
        (
            "SELECT payload.cmd AS cmd FROM \"t/#\" WHERE cmd.info = 'tt'",
            r#"{"cmd":{"info":"tt"}}"#,
            json!({"cmd": {"info": "tt"}}),
        ),
        (
            "SELECT 1-1 AS a, 7 div 2 AS b, -7 mod 2 AS c, 4/2 AS d FROM \"t/#\"",
            "",
            json!({"a": 0, "b": 3, "c": -1, "d": 2.0}),
        ),
        (
            "SELECT payload.a[1] AS first, payload.a[-1] AS last, payload.a[9] AS none FROM \"t/#\"",
            r#"{"a":[1,2]}"#,
            json!({"first": 1, "last": 2, "none": "undefined"}),
        ),
        (
            "SELECT payload.x, payload.y FROM \"t/#\"",
            r#"{"x":1,"y":2,"z":3}"#,
            json!({"payload": {"x": 1, "y": 2}}),
        ),
        (
            "SELECT CASE WHEN payload.x > 1 THEN 'big' ELSE 'small' END AS size FROM \"t/#\"",
            r#"{"x":2}"#,
            json!({"size": "big"}),
        ),
        (
            "SELECT topic(2) AS level, upper('a') || 'b' AS text, payload FROM \"t/+\"",
            "raw",
            json!({"level": "1", "text": "Ab", "payload": "raw"}),
        ),
        (
            "SELECT metadata.rule_id AS id, qos, flags.retain AS retain FROM \"t/1\"",
            "",
            json!({"id": "sql_tester", "qos": 1, "retain": false}),
        ),
        (
            "FOREACH payload.s AS s DO s.n AS n, clientid INCASE s.n > 1 FROM \"t/#\"",
            r#"{"s":[{"n":1},{"n":2}]}"#,
            json!([{"n": 2, "clientid": "sensor-1"}]),
        ),
        ("FOREACH payload.s AS s FROM \"t/#\"", r#"{"s":[]}"#, json!([])),
    ] {
        let body = json!({"sql": sql, "context": message(payload)});
        assert_eq!(muster.send("POST", "/api/v5/rule_test", body).await, (200, want), "{sql}");
    }
    for (body, status, code) in [
        (json!({"sql": "SELECT 1 FROM \"u\"", "context": message("")}), 412, "NOT_MATCH"),
        (json!({"sql": "SELECT 1 FROM \"t/1\" WHERE 1 = 2", "context": message("")}), 412, "NOT_MATCH"),
        (json!({"sql": "SELECT payload.x FROM \"t/1\"", "context": message("{")}), 400, "BAD_REQUEST"),
        (json!({"sql": "SELEC", "context": message("")}), 400, "BAD_REQUEST"),
        (json!({"context": message("")}), 400, "BAD_REQUEST"),
        (json!({"sql": "SELECT 1 FROM \"t\"", "context": []}), 400, "BAD_REQUEST"),
    ] {
        let (found, answer) = muster.send("POST", "/api/v5/rule_test", body.clone()).await;
        assert_eq!((found, &answer["code"]), (status, &json!(code)), "{body}: {answer}");
    }

    create(&muster, json!({"id": "r", "sql": "SELECT reason FROM \"$events/client/disconnected\""})).await;
    let test =
        async |rule: &str, body: Value| muster.send("POST", &format!("{RULES}/{rule}/test"), body).await;
    let gone = json!({"context": {"event_type": "client_disconnected", "reason": "kicked"}});
    assert_eq!(test("r", gone.clone()).await, (200, json!({"reason": "kicked"})));
    assert_eq!(
        test("filed", json!({"context": {"topic": "t", "payload": {"n": 1}}})).await,
        (200, json!({"n": 1, "nothing": "undefined"}))
    );
    assert_eq!(test("filed", gone).await.0, 412);
    assert_eq!(test("r", json!({"stop_action_after_template_rendering": false})).await.0, 400);
    let (status, answer) = test("nobody", json!({})).await;
    assert_eq!((status, &answer["code"]), (404, &json!("RULE_NOT_FOUND")));
    assert_eq!(home.lines("SELECT n FROM f"), Vec::<String>::new(), "no sink is asked");

    // Every example of the list of events can be tried as it stands.
    for event in muster.json("/api/v5/rule_events").await.as_array().expect("a list") {
        let (status, row) =
            muster.send("POST", "/api/v5/rule_test", json!({"sql": event["sql_example"]})).await;
        assert_eq!(status, 200, "{event}: {row}");
    }
    let engine = muster.json("/api/v5/rule_engine").await;
    assert_eq!(muster.send("PUT", "/api/v5/rule_engine", engine.clone()).await, (200, engine));
    muster.stop().await;
}
