//! The InfluxDB sink against a real InfluxDB 1, by both of its APIs; only what InfluxDB 2 alone has is played by a
//! server of the test, before the same real one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

#[path = "support/influx.rs"]
mod influx;
#[path = "support/influx_sink.rs"]
mod influx_sink;

use std::collections::BTreeMap;
use std::time::Duration;

use expect_test::expect;
use influx::Database;
use influx_sink::{Came, opened, row, sink};
use muster_core::event::{EventKind, example};
use muster_core::value::{Row, Value};
use muster_sinks::ErrorKind;
use muster_test_servers::Server;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// A moment of which shards know no other.
const NOW_MS: i64 = 1_700_000_000_123;

#[tokio::test]
async fn types_and_times_are_kept_by_both_endpoints() {
    let Some(database) = Database::new().await else { return };
    let columns = || {
        row([
            ("clientid", "pump-1".into()),
            ("at", Value::Int(NOW_MS)),
            ("int", Value::Int(i64::MIN)),
            ("float", Value::Float(4.0)),
            ("tiny", Value::Float(5e-324)),
            ("yes", Value::Bool(true)),
            ("text", "Grüße \"x\"\\\n€".into()),
            ("bytes", Value::Str(vec![0xff, 0].into())),
            ("none", Value::Null),
            ("list", Value::Array(vec![Value::Int(1), Value::Null])),
        ])
    };
    for (options, name) in [(database.v2(), "two"), (database.v1(), "one")] {
        let mut sink = opened(&options, &[("timestamp", "at"), ("measurement", name)]).await;
        sink.came(vec![columns()]).await.all_durable();
        let points = database.points(&format!("SELECT * FROM \"{name}\"")).await;
        let [point] = points.as_slice() else { panic!("{points:?}") };
        let mut point = point.clone();
        assert_eq!(point.remove("name").unwrap(), name);
        assert_eq!(point["tiny"].as_f64().unwrap().to_bits(), 1, "to the last bit");
        point.remove("tiny");
        expect![[r#"{"bytes_base64":"/wA=","clientid":"pump-1","float":4,"int":-9223372036854775808,"list":"[1,null]","rule":"rule","text":"Grüße \"x\"\\\n€","time":1700000000123000000,"yes":true}"#]]
        .assert_eq(&serde_json::to_string(&point).unwrap());
        let types = database.points(&format!("SHOW FIELD KEYS FROM \"{name}\"")).await;
        let types: Vec<_> =
            types.iter().map(|one| format!("{} {}", one["fieldKey"], one["fieldType"])).collect();
        expect![[r#"
            "bytes_base64" "string"
            "float" "float"
            "int" "integer"
            "list" "string"
            "text" "string"
            "tiny" "float"
            "yes" "boolean""#]]
        .assert_eq(&types.join("\n"));
    }
}

/// Events as the broker writes them, by `SELECT *` and with the options as they are.
#[tokio::test]
async fn events_need_no_mapping() {
    let Some(database) = Database::new().await else { return };
    for (name, kinds) in [
        ("device_status", [EventKind::ClientConnected, EventKind::ClientDisconnected].as_slice()),
        ("device_history", &[EventKind::ClientConnected, EventKind::SessionSubscribed]),
        ("device_messages", &[EventKind::MessagePublish]),
    ] {
        let mut sink = opened(&database.v2(), &[("measurement", name)]).await;
        sink.came(kinds.iter().map(|kind| example(*kind, NOW_MS)).collect()).await.all_durable();
        let tags = database.points(&format!("SHOW TAG KEYS FROM {name}")).await;
        let tags: Vec<_> = tags.iter().map(|tag| tag["tagKey"].as_str().unwrap()).collect();
        assert_eq!(tags, ["clientid", "event", "node", "rule"], "{name}");
        let points = database.points(&format!("SELECT * FROM {name}")).await;
        assert_eq!(points.len(), kinds.len(), "{name}");
        for point in points {
            assert!(point.contains_key("seq") && point.contains_key("timestamp"), "{name}: {point:?}");
        }
    }
    let last = database.points("SELECT last(seq), * FROM device_status GROUP BY clientid").await;
    assert_eq!(last.len(), 1);
    assert_eq!(last[0]["event"], "client.disconnected", "the newest of the two");
}

/// Text that line protocol could trip over, in every place where it may stand.
fn nasty(rng: &mut SmallRng) -> String {
    const PARTS: &[&str] = &[
        "a", "\\", "\"", ",", "=", " ", "\n", "\r", "\t", "'", "#", "_", "ä", "😀", "1i", "\\\\", "\\n",
        "time",
    ];
    (0..rng.random_range(0..6)).map(|_| PARTS[rng.random_range(0..PARTS.len())]).collect()
}

#[tokio::test]
async fn nasty_text_comes_back_as_it_went() {
    let seed = 20_240_607;
    eprintln!("SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let Some(database) = Database::new().await else { return };
    for options in [database.v2(), database.v1()] {
        let mut sink = opened(&options, &[("measurement", "x${m}"), ("tags", "tag")]).await;
        let mut rows = Vec::new();
        for number in 0..1_500_i64 {
            let (m, tag, key) = (nasty(&mut rng), nasty(&mut rng), format!("k{}", nasty(&mut rng)));
            let (key_at, text) = (Value::from(key.as_str()), Value::from(nasty(&mut rng)));
            rows.push(row([
                ("m", m.into()),
                ("tag", tag.into()),
                (&key, text),
                ("key", key_at),
                ("number", Value::Int(number)),
            ]));
        }
        let came = sink.came(rows.clone()).await;
        assert!(came.error.is_none(), "{:?}", came.error);
        let points = database.points("SELECT * FROM /.*/").await;
        let mut found: BTreeMap<i64, influx::Point> = BTreeMap::new();
        for point in points {
            assert!(
                found.insert(point["number"].as_i64().unwrap(), point).is_none(),
                "a row became two points"
            );
        }
        let mut written = 0;
        for (number, (row, refused)) in rows.iter().zip(&came.refused).enumerate() {
            let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap();
            let point = found.remove(&(number as i64));
            if let Some(reason) = refused {
                assert!(
                    !reason.contains("InfluxDB refuses"),
                    "what we write the server can read: {reason}: {row:?}"
                );
                assert!(point.is_none(), "refused, and there: {reason}");
                continue;
            }
            written += 1;
            let point = point.unwrap_or_else(|| panic!("durable, and not there: {row:?}"));
            assert_eq!(point["name"], format!("x{}", text("m")));
            assert_eq!(point.get("tag").and_then(|tag| tag.as_str()).unwrap_or_default(), text("tag"));
            assert_eq!(point[text("key")], text(text("key")));
        }
        assert!(found.is_empty() && written > 150, "{written} written, {found:?}");
        database.query("DROP SERIES FROM /.*/").await;
    }
}

#[tokio::test]
async fn the_same_rows_again_are_the_same_points() {
    let Some(database) = Database::new().await else { return };
    let rows = || (0..500).map(|n| row([("clientid", "a".into()), ("n", Value::Int(n))])).collect::<Vec<_>>();
    let mut sink = opened(&database.v2(), &[]).await;
    sink.came(rows()).await.all_durable();
    let first = database.points("SELECT * FROM rule").await;
    assert_eq!(first.len(), 500, "no two rows of a millisecond share a point");
    // As after a crash: a new sink, and other bounds of the batch.
    let mut sink = opened(&database.v1(), &[]).await;
    sink.came(rows()).await.all_durable();
    assert_eq!(database.points("SELECT * FROM rule").await, first);
    // Another rule's row of the same event is another point.
    sink.rule = "other".into();
    sink.came(rows()).await.all_durable();
    assert_eq!(database.count("rule", "n").await, 1_000);
}

#[tokio::test]
async fn a_partial_write_finds_exactly_the_points_that_are_refused() {
    let Some(database) = Database::new().await else { return };
    for options in [database.v2(), database.v1()] {
        database.query("DROP SERIES FROM /.*/").await;
        database.put(&format!("rule,seed=x a=1,b=true {NOW_MS}000000")).await;
        let mut sink = opened(&options, &[("timestamp", "at")]).await;
        let mut bad = BTreeMap::new();
        let rows: Vec<Row> = (0..5_000_i64)
            .map(|n| {
                let (mut a, mut b) = (Value::Float(0.5), Value::Bool(true));
                if n % 701 == 3 {
                    (a, _) = ("text".into(), bad.insert(n, "\"a\" on measurement \"rule\" is type string"));
                } else if n % 997 == 5 {
                    (b, _) = (Value::Int(1), bad.insert(n, "\"b\" on measurement \"rule\" is type integer"));
                } else if n == 4_321 {
                    (a, _) = (Value::Float(f64::INFINITY), bad.insert(n, "infinite"));
                }
                row([
                    ("clientid", "c".into()),
                    ("at", Value::Int(NOW_MS)),
                    ("a", a),
                    ("b", b),
                    ("n", Value::Int(n)),
                ])
            })
            .collect();
        let came = sink.came(rows).await;
        assert!(came.error.is_none(), "{:?}", came.error);
        for (n, refused) in came.refused.iter().enumerate() {
            match (refused, bad.get(&(n as i64))) {
                (Some(reason), Some(expected)) => assert!(reason.contains(expected), "{n}: {reason}"),
                (refused, expected) => assert_eq!((refused, expected), (&None, None), "row {n}"),
            }
        }
        assert_eq!(database.count("rule", "n").await, 5_000 - bad.len() as u64);
    }
}

#[tokio::test]
async fn conflicts_are_of_a_shard_and_rows_of_another_live() {
    let Some(database) = Database::new().await else { return };
    // A field's type holds within a shard: a week by default.
    let month_ms = 30 * 24 * 60 * 60 * 1000;
    database.put(&format!("rule,seed=x a=1 {NOW_MS}000000")).await;
    let mut sink = opened(&database.v2(), &[("timestamp", "at")]).await;
    let at = |n: i64| NOW_MS - (n % 2) * month_ms;
    let rows = (0..40).map(|n| row([("at", Value::Int(at(n))), ("a", "text".into()), ("n", Value::Int(n))]));
    let came = sink.came(rows.collect()).await;
    for (n, refused) in came.refused.iter().enumerate() {
        assert_eq!(refused.is_some(), n % 2 == 0, "row {n}: {refused:?}");
    }
    assert_eq!(database.count("rule", "n").await, 20);
}

#[tokio::test]
async fn rows_that_quarrel_among_themselves_leave_one_side() {
    let Some(database) = Database::new().await else { return };
    let mut sink = opened(&database.v2(), &[]).await;
    let a = |n: i64| if n % 2 == 0 { Value::Float(0.5) } else { "text".into() };
    let came = sink.came((0..20).map(|n| row([("a", a(n)), ("n", Value::Int(n))])).collect()).await;
    assert!(came.error.is_none());
    let refused = came.refused.iter().filter(|refused| refused.is_some()).count();
    assert_eq!(refused, 10);
    assert_eq!(database.count("rule", "n").await, 10);
    // With `floats` a column of 20 and 20.5 is one of floats.
    let mut sink = opened(&database.v2(), &[("floats", "*"), ("measurement", "calm")]).await;
    let a = |n: i64| if n % 2 == 0 { Value::Float(0.5) } else { Value::Int(n) };
    sink.came((0..20).map(|n| row([("a", a(n))])).collect()).await.all_durable();
}

#[tokio::test]
async fn points_that_are_too_old_are_refused_and_the_others_stay() {
    let Some(database) = Database::new().await else { return };
    let policy = format!(
        "CREATE RETENTION POLICY \"brief\" ON \"{}\" DURATION 1h REPLICATION 1 DEFAULT",
        database.name
    );
    database.query(&policy).await;
    let now_ms = muster_core::clock::SystemClock::shared().wall_ms();
    let mut options = database.v1();
    options.push(("retention_policy", "brief".into()));
    let mut bucket = database.v2();
    bucket[1].1 += "/brief";
    for (options, count) in [(options, 90), (bucket, 180)] {
        let mut sink = opened(&options, &[("timestamp", "at"), ("tags", "n")]).await;
        let at = |n: i64| if n % 10 == 0 { NOW_MS + n } else { now_ms };
        let rows = (0..100)
            .map(|n| row([("at", Value::Int(at(n))), ("n", Value::Int(n + count)), ("x", 1.5.into())]));
        let came = sink.came(rows.collect()).await;
        for (n, refused) in came.refused.iter().enumerate() {
            assert_eq!(refused.is_some(), n % 10 == 0, "row {n}: {refused:?}");
            if let Some(reason) = refused {
                assert_eq!(reason, "InfluxDB refuses the point: points beyond retention policy");
            }
        }
        let points = database.points("SELECT x FROM brief.rule").await;
        assert_eq!(points.len() as i64, count);
    }
}

#[tokio::test]
async fn what_is_wrong_with_the_options_kills_no_row() {
    let Some(database) = Database::new().await else { return };
    let with = |mut options: Vec<(&'static str, String)>, name: &str, value: &str| {
        options.iter_mut().find(|(option, _)| *option == name).unwrap().1 = value.into();
        options
    };
    let mut policy = database.v1();
    policy.push(("retention_policy", "none".into()));
    for (options, hint, checked) in [
        (with(database.v2(), "token", "muster:hunter2"), "`token`", true),
        (with(database.v1(), "password", "hunter2"), "`password`", true),
        (with(database.v2(), "bucket", "missing"), "muster migrate", true),
        (with(database.v1(), "database", "missing"), "muster migrate", true),
        (with(database.v2(), "url", &format!("{}/elsewhere", database.url())), "`url`", true),
        // InfluxDB 1 looks for it only where there are points.
        (policy, "retention policy", false),
    ] {
        let mut sink = opened(&options, &[]).await;
        let came = sink.came(vec![row([("n", Value::Int(1))])]).await;
        let error = came.error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{}", error.in_words());
        assert!(error.hint().contains(hint), "{}: {}", error.in_words(), error.hint());
        assert!(!format!("{error:?}").contains("hunter2"), "a secret is shown");
        assert_eq!(came.refused, [None], "the row waits");
        if checked {
            let error = sink.sink.check().await.unwrap_err();
            assert!(error.hint().contains(hint), "{}: {}", error.in_words(), error.hint());
        }
    }
    for options in [database.v2(), database.v1()] {
        opened(&options, &[]).await.sink.check().await.unwrap();
    }
    assert!(database.points("SHOW MEASUREMENTS").await.is_empty(), "to check writes nothing");
}

#[tokio::test]
async fn a_user_who_may_only_read_is_told_so() {
    let Some(database) = Database::new().await else { return };
    let user = format!("reader-{}", database.name);
    database.query(&format!("CREATE USER \"{user}\" WITH PASSWORD 'x'")).await;
    database.query(&format!("GRANT READ ON \"{}\" TO \"{user}\"", database.name)).await;
    let mut options = database.v2();
    options[2].1 = format!("{user}:x");
    let mut sink = sink(&options, &[]).unwrap();
    let error = sink.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(
        error.hint().contains(&format!("may write to the bucket `{}`", database.name)),
        "{}",
        error.hint()
    );
}

#[tokio::test]
async fn compressed_or_not_it_is_the_same() {
    let Some(database) = Database::new().await else { return };
    let rows = || (0..2_000).map(|n| row([("n", Value::Int(n)), ("text", "x".repeat(50).into())])).collect();
    let mut found = Vec::new();
    for gzip in ["true", "false"] {
        let measurement = ("measurement", if gzip == "true" { "small" } else { "large" });
        let mut sink = opened(&database.v2(), &[("gzip", gzip), measurement]).await;
        let Came { refused, error } = sink.came(rows()).await;
        assert!(error.is_none() && refused.iter().all(Option::is_none));
        found.push(database.points(&format!("SELECT n, text FROM {}", measurement.1)).await);
    }
    assert_eq!(found[0].len(), 2_000);
    let times =
        |points: &[influx::Point]| points.iter().map(|point| point["time"].clone()).collect::<Vec<_>>();
    assert_eq!(times(&found[0]), times(&found[1]));
}

/// A server that is not there, is slow, or ends in the middle is waited for, and leaves every row untried.
#[tokio::test]
async fn a_server_that_is_away_is_waited_for() {
    let Some(database) = Database::new().await else { return };
    let proxy = muster_test_servers::Proxy::before(database.address()).await;
    let mut options = database.v2();
    options[0].1 = format!("http://{}", proxy.address());
    let mut sink = opened(&options, &[("timeout_ms", "200")]).await;
    async fn again(sink: &mut influx_sink::Opened) -> Came {
        // The same events each time: an attempt whose answer is lost may have succeeded.
        sink.offset = 7;
        sink.came(vec![row([("n", Value::Int(1))]), row([("n", Value::Int(2))])]).await
    }
    again(&mut sink).await.all_durable();
    proxy.close();
    let came = again(&mut sink).await;
    assert_eq!((came.error.unwrap().kind(), came.refused), (ErrorKind::Unavailable, vec![None, None]));
    proxy.open();
    proxy.delay(Duration::from_millis(300));
    let error = again(&mut sink).await.error.unwrap();
    assert!(error.in_words().contains("did not answer in time"), "{}", error.in_words());
    proxy.delay(Duration::ZERO);
    again(&mut sink).await.all_durable();
    assert_eq!(database.count("rule", "n").await, 2);
}

#[tokio::test]
async fn what_was_acknowledged_survives_the_servers_death() {
    let Some(mut server) = Server::own("influxdb") else { return };
    let database = Database::at(server.address());
    database.query(&format!("CREATE DATABASE \"{}\"", database.name)).await;
    let mut sink = opened(&database.v2(), &[]).await;
    sink.came((0..100).map(|n| row([("n", Value::Int(n))])).collect()).await.all_durable();
    server.kill();
    let error = sink.came(vec![row([("n", Value::Int(100))])]).await.error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    server.start();
    assert_eq!(database.count("rule", "n").await, 100);
    sink.came(vec![row([("n", Value::Int(101))])]).await.all_durable();
}
