//! What only ClickHouse does, against its engine (tests/servers/clickhouse) and, where it can, against an old server as
//! well (tests/servers/clickhouse18); the contract suite tests what every sink must do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

mod clickhouse_support;
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use clickhouse_support::{Fixture, LoseAnswers, row};
use expect_test::expect;
use muster_core::value::Value;
use muster_sinks::{ErrorKind, Outcome, RowOutcome, SinkSpec, migrator};

/// The answers to one row each: `ok`, or the reason.
fn outcomes(outcome: Outcome) -> String {
    match outcome {
        Outcome::Durable(durable) => format!("durable {:?}\n", durable.notes()),
        Outcome::PerRow { rows, error } => {
            assert!(error.is_none());
            let word = |row: &RowOutcome| match row {
                RowOutcome::Durable => "durable".into(),
                RowOutcome::Rejected(error) => error.in_words(),
                RowOutcome::Untried => "untried".into(),
            };
            rows.iter().map(|row| word(row) + "\n").collect()
        }
    }
}

const ONCE: &str = "ORDER BY tuple() SETTINGS non_replicated_deduplication_window = 100";

#[tokio::test]
async fn every_type_holds_what_was_given() {
    let Some(fixture) = Fixture::new("clickhouse") else { return };
    let int = |int: i64| Value::Int(int);
    let cases: Vec<(&str, Value)> = vec![
        ("Bool", true.into()),
        ("Int8", int(-128)),
        ("UInt8", int(255)),
        ("Int64", int(i64::MIN)),
        ("UInt64", u64::MAX.into()),
        ("Int128", "-170141183460469231731687303715884105728".into()),
        ("UInt128", "340282366920938463463374607431768211455".into()),
        ("Int256", "-57896044618658097711785492504343953926634992332820282019728792003956564819968".into()),
        ("UInt256", "115792089237316195423570985008687907853269984665640564039457584007913129639935".into()),
        ("Float32", Value::Float(1.5)),
        ("Float64", Value::Float(-0.1)),
        ("Float64", Value::Float(f64::INFINITY)),
        ("Decimal(9, 2)", "1234567.89".into()),
        ("Decimal(38, 10)", "-1234567890123456789012345678.0123456789".into()),
        ("String", "quote \" back \\ line \n é".into()),
        ("FixedString(4)", "abcd".into()),
        ("Date", int(1_700_000_000_000)),
        ("Date32", "1900-01-01".into()),
        ("DateTime", int(1_700_000_000_999)),
        ("DateTime('Asia/Tokyo')", int(1_700_000_000_000)),
        ("DateTime64(3, 'UTC')", int(1_700_000_000_123)),
        ("DateTime64(3, 'UTC')", int(7)),
        ("DateTime64(3, 'UTC')", int(-1)),
        ("DateTime64(3, 'UTC')", "2299-12-31T23:59:59.999Z".into()),
        ("DateTime64(9, 'UTC')", "2024-05-06T07:08:09.123456789+02:00".into()),
        ("UUID", "61f0c404-5cb3-11e7-907b-a6006ad3dba0".into()),
        ("IPv4", "1.2.3.4".into()),
        ("IPv6", "2001:db8::1".into()),
        ("Enum8('on' = 1, 'it\\'s' = 2)", "it's".into()),
        ("LowCardinality(Nullable(String))", Value::Null),
        ("Nullable(Int8)", Value::Null),
        ("Array(Nullable(Int8))", vec![int(1), Value::Null].into()),
        ("Map(String, Int64)", row([("a", int(1)), ("b", int(2))]).into()),
        ("Map(UInt8, Array(String))", row([("7", vec![Value::from("x")].into())]).into()),
        ("Tuple(a Int8, b String)", row([("b", "x".into()), ("a", int(1))]).into()),
        ("Tuple(Int8, String)", vec![int(1), "x".into()].into()),
        ("JSON", row([("a", row([("b", vec![int(1), int(2)].into())]).into())]).into()),
        ("Variant(Int64, String)", "x".into()),
        ("SimpleAggregateFunction(max, Int64)", int(5)),
    ];
    let columns: Vec<_> = cases.iter().zip(0..).map(|((kind, _), at)| format!("c{at} {kind}")).collect();
    fixture.run(&format!("CREATE TABLE t ({}) ENGINE = MergeTree {ONCE}", columns.join(", "))).await;
    let names: Vec<_> = (0..cases.len()).map(|at| format!("c{at}")).collect();
    let given = names.iter().zip(&cases).map(|(name, (_, value))| (name.as_str(), value.clone())).collect();
    let mut sink = fixture.opened("t", &[]).await;
    assert_eq!(outcomes(sink.deliver(&fixture.batch("t", vec![given])).await.unwrap()), "durable []\n");
    let mut said = String::new();
    for (name, (kind, _)) in names.iter().zip(&cases) {
        said += &format!("{kind}: {}\n", fixture.ask(&format!("SELECT toString({name}) FROM t")).await);
    }
    expect![[r#"
        Bool: true
        Int8: -128
        UInt8: 255
        Int64: -9223372036854775808
        UInt64: 18446744073709551615
        Int128: -170141183460469231731687303715884105728
        UInt128: 340282366920938463463374607431768211455
        Int256: -57896044618658097711785492504343953926634992332820282019728792003956564819968
        UInt256: 115792089237316195423570985008687907853269984665640564039457584007913129639935
        Float32: 1.5
        Float64: -0.1
        Float64: inf
        Decimal(9, 2): 1234567.89
        Decimal(38, 10): -1234567890123456789012345678.0123456789
        String: quote " back \\ line \n é
        FixedString(4): abcd
        Date: 2023-11-14
        Date32: 1900-01-01
        DateTime: 2023-11-14 22:13:20
        DateTime('Asia/Tokyo'): 2023-11-15 07:13:20
        DateTime64(3, 'UTC'): 2023-11-14 22:13:20.123
        DateTime64(3, 'UTC'): 1970-01-01 00:00:00.007
        DateTime64(3, 'UTC'): 1969-12-31 23:59:59.999
        DateTime64(3, 'UTC'): 2299-12-31 23:59:59.999
        DateTime64(9, 'UTC'): 2024-05-06 05:08:09.123456789
        UUID: 61f0c404-5cb3-11e7-907b-a6006ad3dba0
        IPv4: 1.2.3.4
        IPv6: 2001:db8::1
        Enum8('on' = 1, 'it\'s' = 2): it\'s
        LowCardinality(Nullable(String)): \N
        Nullable(Int8): \N
        Array(Nullable(Int8)): [1,NULL]
        Map(String, Int64): {\'a\':1,\'b\':2}
        Map(UInt8, Array(String)): {7:[\'x\']}
        Tuple(a Int8, b String): (1,\'x\')
        Tuple(Int8, String): (1,\'x\')
        JSON: {"a":{"b":[1,2]}}
        Variant(Int64, String): x
        SimpleAggregateFunction(max, Int64): 5
    "#]]
    .assert_eq(&said);
}

#[tokio::test]
async fn bytes_that_are_no_text_arrive_as_they_are() {
    for server in ["clickhouse", "clickhouse18"] {
        let Some(fixture) = Fixture::new(server) else { continue };
        fixture.run("CREATE TABLE t (a String) ENGINE = MergeTree ORDER BY a").await;
        let mut sink = fixture.opened("t", &[]).await;
        let all: Vec<u8> = (0..=255).collect();
        let rows = vec![row([("a", Bytes::from(all).into())])];
        sink.deliver(&fixture.batch("t", rows)).await.unwrap();
        let hex: String = (0..=255).map(|byte: u8| format!("{byte:02X}")).collect();
        assert_eq!(fixture.ask("SELECT hex(a) FROM t").await, hex, "{server}");
    }
}

#[tokio::test]
async fn bad_rows_are_found_before_anything_is_sent() {
    let Some(fixture) = Fixture::new("clickhouse") else { return };
    fixture.run(&format!("CREATE TABLE t (a UInt8, at DateTime) ENGINE = MergeTree {ONCE}")).await;
    let mut sink = fixture.opened("t", &[]).await;
    let one = |a: i64| row([("a", Value::Int(a))]);
    let rows = vec![one(1), one(256), row([("at", "soon".into())]), row([("b", true.into())])];
    expect![[r#"
        untried
        the column `a` is UInt8 and cannot hold an integer of 3 digits
        the column `at` is DateTime and cannot hold what is no time (whole milliseconds since 1970, or text as 2024-05-06T07:08:09Z)
        the table has no column `b`, and no column `extra` (String, JSON or Map) that would take it
    "#]]
    .assert_eq(&outcomes(sink.deliver(&fixture.batch("t", rows)).await.unwrap()));
    assert_eq!(fixture.ask("SELECT count() FROM t").await, "0");
}

#[tokio::test]
async fn what_the_server_alone_refuses_is_a_refused_batch() {
    let Some(fixture) = Fixture::new("clickhouse") else { return };
    let sql = "CREATE TABLE t (a Int8, CONSTRAINT small CHECK a < 100) ENGINE = MergeTree ORDER BY a";
    fixture.run(sql).await;
    let mut sink = fixture.opened("t", &[]).await;
    let rows = [1, 101].map(|a| row([("a", Value::Int(a))])).to_vec();
    let error = sink.deliver(&fixture.batch("t", rows)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RejectedBatch, "{error}");
    assert!(error.in_words().contains("small"), "{error}");
    assert_eq!(fixture.ask("SELECT count() FROM t").await, "0");
}

#[tokio::test]
async fn a_column_that_is_added_is_seen_before_a_row_dies_of_it() {
    let Some(fixture) = Fixture::new("clickhouse") else { return };
    fixture.run("CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a").await;
    let mut sink = fixture.opened("t", &[]).await;
    fixture.run("ALTER TABLE t ADD COLUMN extra String").await;
    let rows = vec![row([("a", Value::Int(1)), ("b", Value::Int(2))])];
    let said = outcomes(sink.deliver(&fixture.batch("t", rows)).await.unwrap());
    assert!(said.starts_with("durable"), "{said}");
    assert_eq!(fixture.ask("SELECT extra FROM t").await, r#"{"b":2}"#);
    // One that is gone is an error that passes: the next attempt knows the table as it is.
    fixture.run("ALTER TABLE t DROP COLUMN extra").await;
    let batch = fixture.batch("t", vec![row([("a", Value::Int(1)), ("b", Value::Int(2))])]);
    assert_eq!(sink.deliver(&batch).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let said = outcomes(sink.deliver(&batch).await.unwrap());
    assert!(said.starts_with("the table has no column `b`"), "{said}");
}

/// The server had written the batch, and its answer was lost.
#[tokio::test]
async fn a_batch_whose_answer_was_lost_is_there_once() {
    let Some(fixture) = Fixture::new("clickhouse") else { return };
    for (at, (engine, options, plain, with_final)) in [
        (format!("MergeTree {ONCE}"), &[][..], 200, 200),
        (format!("MergeTree PARTITION BY a % 3 {ONCE}"), &[("async_insert", "true")][..], 200, 200),
        ("ReplacingMergeTree ORDER BY a".into(), &[][..], 400, 200),
        ("MergeTree ORDER BY a".into(), &[][..], 400, 400),
        (format!("MergeTree {ONCE}"), &[("deduplicate", "none")][..], 400, 400),
    ]
    .into_iter()
    .enumerate()
    {
        let table = format!("t{at}");
        fixture.run(&format!("CREATE TABLE {table} (a Int64) ENGINE = {engine}")).await;
        let way = LoseAnswers::before(fixture.address()).await;
        let mut options = options.to_vec();
        let url = format!("http://{}", way.address());
        options.push(("url", &url));
        let mut sink = fixture.opened(&table, &options).await;
        let batch = fixture.batch(&table, (0..200).map(|a| row([("a", Value::Int(a))])).collect());
        way.lose(1);
        let error = sink.deliver(&batch).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let notes = outcomes(sink.deliver(&batch).await.unwrap());
        let count = async |sql: &str| fixture.ask(sql).await.parse::<usize>().unwrap();
        assert_eq!(count(&format!("SELECT count() FROM {table}")).await, plain, "{engine} {options:?}");
        let last = if with_final == plain { "" } else { " FINAL" };
        assert_eq!(count(&format!("SELECT count() FROM {table}{last}")).await, with_final, "{engine}");
        assert_eq!(notes.contains("at least once"), with_final == 400, "{engine}: {notes}");
        assert_eq!(notes.contains("FINAL"), with_final != plain, "{engine}: {notes}");
    }
}

/// A reset has rows delivered anew under their ids: that is no repetition.
#[tokio::test]
async fn a_delivery_that_an_operator_wants_anew_is_not_taken_for_a_repetition() {
    let Some(fixture) = Fixture::new("clickhouse") else { return };
    fixture.run(&format!("CREATE TABLE t (a Int64) ENGINE = MergeTree {ONCE}")).await;
    let mut sink = fixture.opened("t", &[]).await;
    let rows = |a| vec![row([("a", Value::Int(a))])];
    sink.deliver(&fixture.batch_counted("t", rows(1), 1)).await.unwrap();
    sink.deliver(&fixture.batch_counted("t", rows(1), 1)).await.unwrap();
    sink.deliver(&fixture.batch_counted("t", rows(2), 2)).await.unwrap();
    assert_eq!(fixture.ask("SELECT groupArray(a) FROM (SELECT a FROM t ORDER BY a)").await, "[1,2]");
}

#[tokio::test]
async fn one_insert_is_one_block() {
    let Some(fixture) = Fixture::new("clickhouse") else { return };
    fixture.run(&format!("CREATE TABLE t (a Int64, b String) ENGINE = MergeTree {ONCE}")).await;
    let mut sink = fixture.opened("t", &[]).await;
    let text = "x".repeat(100);
    let rows = (0..100_000).map(|a| row([("a", Value::Int(a)), ("b", text.as_str().into())])).collect();
    sink.deliver(&fixture.batch("t", rows)).await.unwrap();
    assert_eq!(
        fixture.ask("SELECT rows FROM system.parts WHERE database = currentDatabase() AND table = 't'").await,
        "100000"
    );
}

#[tokio::test]
async fn wrong_credentials_tables_and_databases_are_named() {
    for (server, same) in [("clickhouse", true), ("clickhouse18", false)] {
        let Some(fixture) = Fixture::new(server) else { continue };
        fixture.run("CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a").await;
        let mut said = String::new();
        for (table, options) in [
            ("t", &[("user", "muster"), ("password", "secret5")][..]),
            ("nope", &[("user", "muster"), ("password", "secret")]),
            ("t", &[("database", "nowhere")]),
            ("t", &[("setting.no_such_setting", "1")]),
        ] {
            let mut sink = fixture.sink(table, options);
            let error = match sink.open(&fixture.pipeline(table)).await {
                Err(error) => error,
                Ok(_) => {
                    sink.deliver(&fixture.batch(table, vec![row([("a", Value::Int(1))])])).await.unwrap_err()
                }
            };
            assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
            said += &format!("{} | {}\n", fixture.redacted(&error.in_words()), error.hint());
        }
        assert!(!said.contains("secret5"));
        if same {
            expect![[r#"
                http://SERVER answered with error 516: muster: Authentication failed: password is incorrect, or there is no user with such name. (AUTHENTICATION_FAILED) | correct the sink's `user` and `password`
                there is no table `DATABASE`.`nope` that the sink's user may see | create the table, or run `muster migrate` for ours; see that the user may SELECT and INSERT
                http://SERVER answered with error 81: Database nowhere does not exist. (UNKNOWN_DATABASE) | create the database, or correct `database`
                http://SERVER answered with error 115: Unknown setting 'no_such_setting'. (UNKNOWN_SETTING) | the server does not know a setting: correct `setting.NAME`
            "#]].assert_eq(&said);
        }
    }
}

#[tokio::test]
async fn a_table_that_is_missing_is_found_once_it_is_there() {
    let Some(fixture) = Fixture::new("clickhouse") else { return };
    let mut sink = fixture.sink("t", &[]);
    assert_eq!(sink.open(&fixture.pipeline("t")).await.unwrap_err().kind(), ErrorKind::Misconfigured);
    assert_eq!(sink.check().await.unwrap_err().kind(), ErrorKind::Misconfigured);
    fixture.run("CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a").await;
    sink.check().await.unwrap();
    sink.open(&fixture.pipeline("t")).await.unwrap();
    let batch = fixture.batch("t", vec![row([("a", Value::Int(1))])]);
    sink.deliver(&batch).await.unwrap();
    fixture.run("DROP TABLE t").await;
    assert_eq!(sink.deliver(&batch).await.unwrap_err().kind(), ErrorKind::Misconfigured);
    fixture.run("CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a").await;
    sink.deliver(&batch).await.unwrap();
}

#[tokio::test]
async fn tables_that_forget_are_refused() {
    let Some(fixture) = Fixture::new("clickhouse") else { return };
    fixture.run("CREATE TABLE t (a Int8) ENGINE = Memory").await;
    let error = fixture.sink("t", &[]).open(&fixture.pipeline("t")).await.unwrap_err();
    assert_eq!(error.to_string(), "the table `t` is a Memory: it forgets rows when the server stops");
}

/// Both ways of sending, against a server that checks the checksums of blocks.
#[tokio::test]
async fn rows_travel_compressed_or_plain() {
    for server in ["clickhouse", "clickhouse18"] {
        let Some(fixture) = Fixture::new(server) else { continue };
        fixture.run("CREATE TABLE t (a Int64, b String) ENGINE = MergeTree ORDER BY a").await;
        let mut bytes = Vec::new();
        for compression in ["lz4", "none"] {
            let way = LoseAnswers::before(fixture.address()).await;
            let url = format!("http://{}", way.address());
            let mut sink = fixture.opened("t", &[("compression", compression), ("url", &url)]).await;
            // More than one block of compression.
            let rows =
                (0..20_000).map(|a| row([("a", Value::Int(a)), ("b", "x".repeat(80).as_str().into())]));
            sink.deliver(&fixture.batch("t", rows.collect())).await.unwrap();
            bytes.push(way.sent());
        }
        assert!(bytes[0] * 5 < bytes[1], "{bytes:?}");
        let sql =
            "SELECT concat(toString(count()), ' ', toString(sum(a)), ' ', toString(sum(length(b)))) FROM t";
        assert_eq!(fixture.ask(sql).await, "40000 399980000 3200000", "{server}");
    }
}

#[tokio::test]
async fn migrations_may_be_taken_twice_and_hold_every_event() {
    let Some(fixture) = Fixture::new("clickhouse") else { return };
    fixture.run("SELECT 1").await;
    let options = fixture.options(&[]);
    let spec = SinkSpec { kind: "clickhouse", name: "ops", target: None, rule: "r", options: &options };
    let mut schema = migrator(&spec, &fixture.env()).unwrap().unwrap();
    assert_eq!(schema.applied().await.unwrap(), Vec::<u32>::new());
    let versions =
        |steps: Vec<muster_sinks::migrate::Migration>| steps.iter().map(|it| it.version).collect::<Vec<_>>();
    let taken = muster_sinks::migrate::migrate(&mut *schema, true, |_| {}).await.unwrap();
    assert_eq!((versions(taken), schema.applied().await.unwrap()), (vec![1, 2, 3, 4, 5], vec![]));
    let taken = muster_sinks::migrate::migrate(&mut *schema, false, |_| {}).await.unwrap();
    assert_eq!(
        (versions(taken), schema.applied().await.unwrap()),
        (vec![1, 2, 3, 4, 5], vec![1, 2, 3, 4, 5])
    );
    for step in schema.migrations() {
        schema.apply(&step).await.unwrap();
    }
    assert_eq!(schema.applied().await.unwrap(), [1, 2, 3, 4, 5]);
    assert!(muster_sinks::migrate::migrate(&mut *schema, false, |_| {}).await.unwrap().is_empty());

    let status = |event: &str, seq: i64| {
        row([
            ("event", event.into()),
            ("timestamp", Value::Int(1_700_000_000_000 + seq)),
            ("clientid", "pump-7".into()),
            ("seq", Value::Int(seq)),
            ("client_attrs", row([("floor", Value::Int(3))]).into()),
            ("conn_props", row([("Receive-Maximum", Value::Int(20))]).into()),
        ])
    };
    let mut sink = fixture.opened("device_status", &[]).await;
    for (event, seq) in [("client.connected", 1), ("client.disconnected", 3), ("client.connected", 2)] {
        let batch = fixture.batch("device_status", vec![status(event, seq)]);
        assert_eq!(outcomes(sink.deliver(&batch).await.unwrap()), "durable []\n");
    }
    let sql = "SELECT concat(event, ' ', toString(online), ' ', client_attrs['floor'], ' ', extra, ' ', \
               toString(timestamp)) FROM device_status_now";
    expect![[r#"client.disconnected false 3 {"conn_props":{"Receive-Maximum":20}} 2023-11-14 22:13:20.003"#]]
        .assert_eq(&fixture.ask(sql).await);
    for table in ["device_history", "device_messages"] {
        let mut sink = fixture.opened(table, &[]).await;
        let batch = fixture.batch(table, vec![status("client.connected", 1), status("client.connected", 2)]);
        sink.deliver(&batch).await.unwrap();
        // Long after: the window has forgotten the batch.
        fixture
            .run(&format!("ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 0"))
            .await;
        sink.deliver(&batch).await.unwrap();
        assert_eq!(fixture.ask(&format!("SELECT count() FROM {table}")).await, "4");
        assert_eq!(fixture.ask(&format!("SELECT count() FROM {table}_now")).await, "2");
    }
}

/// An old server takes rows without tokens.
#[tokio::test]
async fn an_old_server_is_written_to_without_tokens() {
    let Some(fixture) = Fixture::new("clickhouse18") else { return };
    let columns = "a Int64, at DateTime, e Enum8('x' = 1), n Nullable(String)";
    fixture.run(&format!("CREATE TABLE t ({columns}) ENGINE = ReplacingMergeTree ORDER BY a")).await;
    let rows = || vec![row([("a", Value::Int(1)), ("at", Value::Int(1_700_000_000_000)), ("e", "x".into())])];
    let mut sink = fixture.opened("t", &[]).await;
    for note in [true, false] {
        let said = outcomes(sink.deliver(&fixture.batch("t", rows())).await.unwrap());
        assert_eq!(said.contains("read it with FINAL"), note, "{said}");
    }
    let sql =
        "SELECT concat(toString(a), ' ', toString(toTimeZone(at, 'UTC')), ' ', toString(e)) FROM t FINAL";
    assert_eq!(fixture.ask(sql).await, "1 2023-11-14 22:13:20 x");
}

/// What a server in trouble says, by a stand-in that says it.
#[tokio::test]
async fn trouble_is_waited_for() {
    let asked = Arc::new(AtomicUsize::new(0));
    let (address, count) = clickhouse_support::stand_in(asked.clone()).await;
    assert_eq!(count, 6);
    let fixture = Fixture::at(address);
    let mut sink = fixture.opened("t", &[]).await;
    let mut said = String::new();
    for _ in 0..count {
        let error = sink.deliver(&fixture.batch("t", vec![row([("a", Value::Int(1))])])).await.unwrap_err();
        said += &format!("{:?} {}\n", error.kind(), fixture.redacted(&error.in_words()));
    }
    assert_eq!(asked.load(Ordering::SeqCst), count);
    expect![[r#"
        Throttled { retry_after: None } http://SERVER answered with error 241: MEMORY_LIMIT_EXCEEDED
        Throttled { retry_after: None } http://SERVER answered with error 252: TOO_MANY_PARTS
        Throttled { retry_after: Some(7s) } http://SERVER answered 503 Service Unavailable
        Throttled { retry_after: None } http://SERVER answered with error 202: TOO_MANY_SIMULTANEOUS_QUERIES
        Unavailable http://SERVER answered with error 242: TABLE_IS_READ_ONLY
        Unavailable http://SERVER answered with error 243: NOT_ENOUGH_SPACE
    "#]]
    .assert_eq(&said);
}

#[tokio::test]
async fn declarations_that_are_wrong_say_so() {
    let fixture = Fixture::at("127.0.0.1:1".parse().unwrap());
    let mut said = String::new();
    for (name, value) in [
        ("url", "clickhouse:8123"),
        ("url", "http://u:secret1@x/"),
        ("url", "http://x/?password=secret2"),
        ("compression", "zstd"),
        ("timeout_ms", "0"),
        ("async_insert", "maybe"),
        ("setting.query", "DROP"),
        ("setting.a b", "1"),
        ("cert_file", "a.pem"),
        ("password", "secret3\n"),
        ("ca_file", "nowhere.pem"),
    ] {
        let options: BTreeMap<_, _> = fixture.options(&[(name, value)]);
        let spec =
            SinkSpec { kind: "clickhouse", name: "ops", target: Some("t"), rule: "r", options: &options };
        let error = match muster_sinks::build(&spec, &fixture.env()) {
            Err(error) => error,
            Ok(mut built) => built.sink.check().await.unwrap_err(),
        };
        said += &format!("{}\n", error.in_words());
    }
    expect![[r#"
        option `url` of the clickhouse sink `ops` must begin with http:// or https://
        option `url` of the clickhouse sink `ops` must not hold credentials: use `user` and `password`
        option `url` of the clickhouse sink `ops` must end before `?`: use `database` and `setting.NAME`
        option `compression` of the clickhouse sink `ops` must be one of `lz4`, `none`
        option `timeout_ms` of the clickhouse sink `ops` must be between 1 and 600000
        option `async_insert` of the clickhouse sink `ops` must be one of `true`, `false`
        option `setting.query` of the clickhouse sink `ops` is the sink's own; it has an option, or cannot be changed
        option `setting.a b` of the clickhouse sink `ops` is no name of a setting
        option `cert_file` of the clickhouse sink `ops` needs `key_file`
        option `password` of the clickhouse sink `ops` holds what a header cannot
        `ca_file` /nowhere/nowhere.pem cannot be read: No such file or directory (os error 2)
    "#]].assert_eq(&said);
    assert!(!said.contains("secret"), "a secret is shown");
}

/// Nobody listens.
#[tokio::test]
async fn a_server_that_is_away_is_unavailable() {
    let fixture = Fixture::at("127.0.0.1:1".parse().unwrap());
    let error = fixture.sink("t", &[]).check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let fixture = Fixture::at(silent.local_addr().unwrap());
    let error = fixture.sink("t", &[("timeout_ms", "50")]).check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.in_words().contains("in time"), "{}", error.in_words());
}
