//! The Kafka sink against the real broker: what records look like, what is refused, who owns a pipeline, and each row
//! once whatever breaks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

#[path = "support/kafka.rs"]
mod kafka_server;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kafka_server::{Seen, create_topic, delete_topic, fresh, listener, partitions, read_all, tls_file};
use muster_core::clock::SystemClock;
use muster_core::value::{Row, Value};
use muster_sinks::database::Databases;
use muster_sinks::delivery::{
    DeliveryStore, LetterFilter, Pipeline, PipelineConfig, PipelineHandle, PipelineState, Start,
};
use muster_sinks::{
    Batch, BatchRow, Built, Checkpoint, Cursor, ErrorKind, Memory, Outcome, PipelineId, RowOutcome, Sink,
    SinkEnv, SinkError, SinkSpec, Totals, build,
};
use muster_test_servers::{Proxy, Server};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use support::{ByPayload, LOG_ID, MemoryLog, publish, small_batches, until, until_settled};

fn built(brokers: SocketAddr, target: Option<&str>, options: &[(&str, &str)]) -> Built {
    let clock = SystemClock::shared();
    let env = SinkEnv { data_dir: "/nowhere".into(), databases: Databases::default(), clock };
    let mut given: BTreeMap<_, _> =
        options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    given.insert("brokers".into(), brokers.to_string());
    build(&SinkSpec { kind: "kafka", name: "kafka", target, rule: "hot", options: &given }, &env).unwrap()
}

fn sink(brokers: SocketAddr, topic: &str, options: &[(&str, &str)]) -> Box<dyn Sink> {
    built(brokers, Some(topic), options).sink
}

fn pipeline_of(topic: &str) -> PipelineId {
    PipelineId::new("hot", "kafka", topic)
}

/// Batches of one log, each behind the one before.
struct Batches {
    pipeline: Arc<PipelineId>,
    offset: u64,
}

impl Batches {
    fn of(topic: &str) -> Self {
        Self { pipeline: Arc::new(pipeline_of(topic)), offset: 0 }
    }

    /// A batch of one row for each pair of a client and a text.
    fn next(&mut self, rows: &[(&str, &str)]) -> Batch {
        let row = |client: &str, text: &str| -> Row {
            [("clientid", Value::from(client)), ("text", text.into())].into_iter().collect()
        };
        self.rows(rows.iter().map(|(client, text)| (*client, row(client, text))).collect())
    }

    fn rows(&mut self, rows: Vec<(&str, Row)>) -> Batch {
        let rows: Vec<BatchRow> = rows
            .into_iter()
            .map(|(client, row)| {
                let event =
                    publish(client, "x", 1_700_000_000_000 + self.offset as i64).at(LOG_ID, self.offset);
                self.offset += 1;
                BatchRow { event: Arc::new(event), index: 0, row: row.into() }
            })
            .collect();
        let totals = Totals { matched: self.offset, delivered: self.offset, dead: 0 };
        let after = Checkpoint { log_id: LOG_ID, cursor: Cursor::at(self.offset), totals };
        let picked = (0..rows.len() as u32).collect();
        Batch::new(self.pipeline.clone(), after, 1, Arc::new(rows), picked)
    }
}

async fn open(sink: &mut dyn Sink, topic: &str) -> Result<Memory, SinkError> {
    sink.open(&pipeline_of(topic)).await
}

async fn delivered(sink: &mut dyn Sink, batch: &Batch) -> Vec<String> {
    match sink.deliver(batch).await.unwrap() {
        Outcome::Durable(durable) => durable.notes().to_vec(),
        other => panic!("not durable: {other:?}"),
    }
}

/// Delivers again and again, as the engine does; an error that only a person can mend.
async fn insisting(sink: &mut dyn Sink, batch: &Batch) -> Result<(), SinkError> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        match sink.deliver(batch).await {
            Ok(Outcome::Durable(_)) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Fatal => return Err(error),
            other => assert!(tokio::time::Instant::now() < deadline, "{other:?}"),
        }
    }
}

/// Why rows were refused, by their places; the others must be untried.
async fn refused(sink: &mut dyn Sink, batch: &Batch) -> BTreeMap<usize, String> {
    let Outcome::PerRow { rows, error: None } = sink.deliver(batch).await.unwrap() else {
        panic!("not refused")
    };
    let reason = |row: &RowOutcome| match row {
        RowOutcome::Rejected(error) => Some(error.in_words()),
        RowOutcome::Untried => None,
        RowOutcome::Durable => panic!("nothing is durable in a transaction that was taken back"),
    };
    rows.iter().enumerate().filter_map(|(at, row)| Some((at, reason(row)?))).collect()
}

fn texts(seen: &[Seen]) -> Vec<String> {
    let text = |seen: &Seen| serde_json::from_str::<serde_json::Value>(&seen.value).unwrap()["text"].clone();
    seen.iter().map(|seen| text(seen).as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_come_out_as_they_went_in_whatever_packs_them() {
    let Some(server) = Server::shared("kafka") else { return };
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        for delivery in ["exactly_once", "at_least_once"] {
            let topic = fresh(codec);
            let options = [("compression", codec), ("delivery", delivery), ("partitions", "5")];
            let mut sink = sink(server.address(), &topic, &options);
            let once = delivery == "exactly_once";
            let memory = open(&mut *sink, &topic).await.unwrap();
            assert_eq!(memory, if once { Memory::Fresh } else { Memory::None });
            let mut batches = Batches::of(&topic);
            let long = "temperature ".repeat(2_000);
            let batch = batches.next(&[("a", "1"), ("b", &long), ("", "nobody's"), ("a", "2")]);
            assert_eq!(delivered(&mut *sink, &batch).await, [format!("created the topic `{topic}`")]);
            assert_eq!(partitions(server.address(), &topic), 5);
            let seen = read_all(server.address(), &topic);
            assert_eq!(seen.len(), 4, "{codec} {delivery}");
            let of_a: Vec<_> = seen.iter().filter(|seen| seen.key.as_deref() == Some("a")).cloned().collect();
            assert_eq!(texts(&of_a), ["1", "2"]);
            assert_eq!(of_a[0].partition, of_a[1].partition);
            assert_eq!(of_a[0].value, r#"{"clientid":"a","text":"1"}"#);
            assert_eq!(of_a[1].timestamp_ms, 1_700_000_000_003);
            let headers = &of_a[1].headers;
            assert_eq!(headers["muster-event-id"], "ABCD0000000000000000000000000003");
            assert_eq!((headers["muster-offset"].as_str(), headers["muster-row"].as_str()), ("3", "0"));
            assert_eq!(
                (headers["muster-event"].as_str(), headers["muster-rule"].as_str()),
                ("message.publish", "hot")
            );
            assert_eq!(headers["content-type"], "application/json");
            assert!(texts(&seen).contains(&long));
            assert!(seen.iter().any(|seen| seen.key.is_none()), "no client, no key");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_keys_and_values_come_from_columns() {
    let Some(server) = Server::shared("kafka") else { return };
    let name = fresh("template");
    let (topic, brokers) = (format!("{name}.${{region}}"), server.address());
    let options = [("topic", topic.as_str()), ("key", "${place.room}"), ("value", "${text}!")];
    let mut sink = built(brokers, None, &options).sink;
    open(&mut *sink, &name).await.unwrap();
    let row = |region: Value, text: &str| -> Row {
        let place: Row = [("room", Value::from("hall"))].into_iter().collect();
        [("region", region), ("place", place.into()), ("text", text.into())].into_iter().collect()
    };
    let mut batches = Batches::of(&name);
    let good = batches.rows(vec![("a", row("eu".into(), "1")), ("b", row("us".into(), "2"))]);
    let notes = delivered(&mut *sink, &good).await;
    assert_eq!(notes, [format!("created the topic `{name}.eu`"), format!("created the topic `{name}.us`")]);
    let seen = read_all(brokers, &format!("{name}.us"));
    let [seen] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!((seen.key.as_deref(), seen.value.as_str()), (Some("hall"), "2!"));
    assert_eq!(seen.headers["content-type"], "text/plain; charset=utf-8");
    let mut lacking = row("eu".into(), "3");
    lacking.remove("place");
    let bad = batches.rows(vec![
        ("a", row("eu".into(), "4")),
        ("a", lacking),
        ("a", row(Value::Undefined, "5")),
        ("a", row("a/b".into(), "6")),
    ]);
    let reasons: Vec<_> = refused(&mut *sink, &bad).await.into_iter().collect();
    let expected = [
        (1, "the key needs the column `place.room`, which the row does not have".to_owned()),
        (2, "the topic needs the column `region`, which the row does not have".to_owned()),
        (3, format!("the topic `{name}.a/b` has a `/`; Kafka takes letters, digits, `.`, `_` and `-`")),
    ];
    assert_eq!(reasons, expected);
    assert_eq!(read_all(brokers, &format!("{name}.eu")).len(), 1, "nothing of the refused batch is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_events_in_both_modes() {
    let Some(server) = Server::shared("kafka") else { return };
    let id = "ABCD0000000000000000000000000000.0";
    let source = "/muster/rules/hot";
    let topic = fresh("structured");
    let mut structured = sink(server.address(), &topic, &[("format", "cloudevents_structured")]);
    open(&mut *structured, &topic).await.unwrap();
    delivered(&mut *structured, &Batches::of(&topic).next(&[("pump-7", "1")])).await;
    let seen = read_all(server.address(), &topic).remove(0);
    assert_eq!(seen.headers["content-type"], "application/cloudevents+json");
    let expected = serde_json::json!({
        "specversion": "1.0", "id": id, "source": source, "type": "muster.message.publish",
        "subject": "pump-7", "partitionkey": "pump-7",
        "time": "2023-11-14T22:13:20.000Z", "datacontenttype": "application/json",
        "data": {"clientid": "pump-7", "text": "1"}
    });
    assert_eq!(serde_json::from_str::<serde_json::Value>(&seen.value).unwrap(), expected);
    let topic = fresh("binary");
    let mut binary = sink(server.address(), &topic, &[("format", "cloudevents_binary")]);
    open(&mut *binary, &topic).await.unwrap();
    delivered(&mut *binary, &Batches::of(&topic).next(&[("pump-7", "1")])).await;
    let seen = read_all(server.address(), &topic).remove(0);
    assert_eq!(seen.value, r#"{"clientid":"pump-7","text":"1"}"#);
    let attribute = |name: &str| seen.headers[&format!("ce_{name}")].clone();
    assert_eq!([attribute("id"), attribute("source"), attribute("subject")], [id, source, "pump-7"]);
    assert_eq!([attribute("specversion"), attribute("type")], ["1.0", "muster.message.publish"]);
    assert_eq!(attribute("time"), "2023-11-14T22:13:20.000Z");
    assert_eq!(seen.headers["content-type"], "application/json");
}

struct Running {
    pipeline: PipelineHandle,
    log: MemoryLog,
    store: DeliveryStore,
    _dir: tempfile::TempDir,
}

impl Running {
    fn start(built: Built, log: MemoryLog) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = DeliveryStore::open(&dir.path().join("delivery.db")).unwrap();
        let pipeline = Self::spawn(built, &log, &store, 1);
        Self { pipeline, log, store, _dir: dir }
    }

    fn spawn(built: Built, log: &MemoryLog, store: &DeliveryStore, seed: u64) -> PipelineHandle {
        let config = PipelineConfig {
            id: PipelineId::new("hot", "kafka", built.target),
            rule_version: "1".into(),
            retry_wait_max: Duration::from_millis(500),
            start: Start::Earliest,
            paused: false,
            limits: small_batches(),
        };
        let (source, rng) = (Arc::new(log.clone()), SmallRng::seed_from_u64(seed));
        let clock = SystemClock::shared();
        Pipeline::spawn(config, source, Box::new(ByPayload), built.sink, store.clone(), clock, rng)
    }

    async fn letters(&self) -> Vec<(u64, String)> {
        let letters = self.store.letters(LetterFilter::default(), 100).await.unwrap();
        letters.into_iter().map(|letter| (letter.cursor.offset, letter.reason)).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_is_refused_alone() {
    let Some(server) = Server::shared("kafka") else { return };
    let large = "y".repeat(5_000);
    for delivery in ["exactly_once", "at_least_once"] {
        // By the broker, which refuses all records that came with it and names none.
        for (limit, sinks_limit) in [("2000", "1000000"), ("1000000", "2000")] {
            let topic = fresh("large");
            create_topic(server.address(), &topic, 1, &[("max.message.bytes", limit)]).await;
            let log = MemoryLog::default();
            for at in 0..20 {
                log.append(publish("a", if at == 7 { &large } else { "small" }, 1_700_000_000_000));
            }
            let options = [("delivery", delivery), ("max_message_bytes", sinks_limit)];
            let running = Running::start(built(server.address(), Some(&topic), &options), log);
            until_settled(&running.pipeline, running.log.len()).await;
            let letters = running.letters().await;
            let [(7, reason)] = letters.as_slice() else { panic!("{delivery} {limit}: {letters:?}") };
            assert!(
                reason.contains("MessageSizeTooLarge") || reason.contains("`max_message_bytes`"),
                "{reason}"
            );
            let mut offsets: Vec<u64> = read_all(server.address(), &topic)
                .iter()
                .map(|seen| seen.headers["muster-offset"].parse().unwrap())
                .collect();
            if delivery == "at_least_once" {
                offsets.sort_unstable();
                offsets.dedup();
            }
            assert_eq!(offsets, (0..20).filter(|at| *at != 7).collect::<Vec<_>>(), "{delivery} {limit}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_from_the_future_are_refused_and_no_others() {
    let Some(server) = Server::shared("kafka") else { return };
    let future_ms = SystemClock::shared().wall_ms() + 7_200_000;
    for delivery in ["exactly_once", "at_least_once"] {
        // One alone the broker does not name, several it does.
        for bad in [&[7][..], &[3, 7, 8, 19]] {
            let topic = fresh("future");
            create_topic(server.address(), &topic, 1, &[("message.timestamp.after.max.ms", "3600000")]).await;
            let log = MemoryLog::default();
            for at in 0..20 {
                let at_ms = if bad.contains(&at) { future_ms } else { 1_700_000_000_000 };
                log.append(publish("a", "text", at_ms));
            }
            let running =
                Running::start(built(server.address(), Some(&topic), &[("delivery", delivery)]), log);
            until_settled(&running.pipeline, running.log.len()).await;
            let letters = running.letters().await;
            assert_eq!(letters.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), bad, "{delivery}");
            assert!(letters.iter().all(|(_, why)| why.contains("set the clocks right")), "{letters:?}");
            let seen = read_all(server.address(), &topic);
            let mut offsets: Vec<u64> =
                seen.iter().map(|seen| seen.headers["muster-offset"].parse().unwrap()).collect();
            offsets.sort_unstable();
            offsets.dedup();
            let good: Vec<_> = (0..20).filter(|at| !bad.contains(at)).collect();
            assert_eq!(offsets, good, "{delivery} {bad:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_stalls_and_goes_on_once_it_is_there() {
    let Some(server) = Server::shared("kafka") else { return };
    create_topic(server.address(), "by_hand", 1, &[("cleanup.policy", "compact")]).await;
    let topic = fresh("missing");
    let log = MemoryLog::default();
    log.append(publish("a", "hello", 1_700_000_000_000));
    let options = [("create_topics", "false"), ("checkpoint_topic", "by_hand")];
    let running = Running::start(built(server.address(), Some(&topic), &options), log);
    until("the stall", async || running.pipeline.status().state == PipelineState::Stalled).await;
    let status = running.pipeline.status();
    assert!(status.last_error.as_ref().unwrap().contains(&format!("no topic `{topic}`")), "{status:?}");
    let mut other = sink(server.address(), &topic, &options);
    let error = other.check().await.unwrap_err();
    assert!(error.hint().contains("create it"), "{}", error.hint());
    create_topic(server.address(), &topic, 1, &[]).await;
    until_settled(&running.pipeline, 1).await;
    other.check().await.unwrap();
    assert_eq!(read_all(server.address(), &topic).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_takes_over_where_the_first_was_and_the_first_is_fenced() {
    let Some(server) = Server::shared("kafka") else { return };
    let topic = fresh("fenced");
    let mut batches = Batches::of(&topic);
    let mut first = sink(server.address(), &topic, &[]);
    assert_eq!(open(&mut *first, &topic).await.unwrap(), Memory::Fresh);
    let batch = batches.next(&[("a", "1")]);
    delivered(&mut *first, &batch).await;
    let mut second = sink(server.address(), &topic, &[]);
    assert_eq!(open(&mut *second, &topic).await.unwrap(), Memory::At(batch.after));
    let late = batches.next(&[("a", "2")]);
    for _ in 0..2 {
        let error = first.deliver(&late).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced, "{}", error.in_words());
        assert!(error.hint().contains("`transactional_id`"), "{}", error.hint());
    }
    assert_eq!(read_all(server.address(), &topic).len(), 1);
    delivered(&mut *second, &late).await;
    assert_eq!(texts(&read_all(server.address(), &topic)), ["1", "2"]);
    let mut another = sink(server.address(), &topic, &[("transactional_id", "other")]);
    assert_eq!(open(&mut *another, &topic).await.unwrap(), Memory::Fresh, "another installation");
    delivered(&mut *second, &batches.next(&[("a", "3")])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_must_be_kept_and_may_not_vanish_unseen() {
    let Some(server) = Server::shared("kafka") else { return };
    let (topic, checkpoints) = (fresh("kept"), fresh("checkpoints"));
    create_topic(server.address(), &checkpoints, 1, &[("cleanup.policy", "delete")]).await;
    let options = [("checkpoint_topic", checkpoints.as_str())];
    let mut first = sink(server.address(), &topic, &options);
    let error = open(&mut *first, &topic).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(
        error.in_words().contains("would be forgotten") && error.hint().contains("cleanup.policy=compact")
    );
    delete_topic(server.address(), &checkpoints).await;
    let gone = async || read_all_is_empty(server.address(), &checkpoints);
    until("the topic to be gone", gone).await;
    assert_eq!(open(&mut *first, &topic).await.unwrap(), Memory::Fresh, "made as it must be");
    let mut batches = Batches::of(&topic);
    delivered(&mut *first, &batches.next(&[("a", "1")])).await;
    delete_topic(server.address(), &checkpoints).await;
    until("the topic to be gone", gone).await;
    let batch = batches.next(&[("a", "2")]);
    let error = insisting(&mut *first, &batch).await.unwrap_err();
    assert!(error.in_words().contains("has lost the checkpoint"), "{}", error.in_words());
}

fn read_all_is_empty(brokers: SocketAddr, topic: &str) -> bool {
    partitions(brokers, topic) == 0
}

/// The future of a delivery is dropped at any moment, as it is when a pipeline is stopped in a hurry.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_nobody_waits_for_is_there_once_or_not_at_all() {
    let Some(server) = Server::shared("kafka") else { return };
    let seed = 7;
    eprintln!("SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let topic = fresh("dropped");
    let mut batches = Batches::of(&topic);
    let mut sink = sink(server.address(), &topic, &[]);
    open(&mut *sink, &topic).await.unwrap();
    let mut expected = Vec::new();
    for round in 0..15 {
        let rows: Vec<String> = (0..50).map(|at| format!("{round}-{at}")).collect();
        let batch = batches.next(&rows.iter().map(|row| ("a", row.as_str())).collect::<Vec<_>>());
        expected.extend(rows);
        let wait = Duration::from_micros(rng.random_range(0..30_000));
        let done = tokio::time::timeout(wait, sink.deliver(&batch)).await;
        if !matches!(done, Ok(Ok(Outcome::Durable(_)))) {
            // Another sink, as after a restart, or the same again.
            if rng.random_bool(0.3) {
                sink = self::sink(server.address(), &topic, &[]);
                match open(&mut *sink, &topic).await.unwrap() {
                    Memory::At(checkpoint) if checkpoint == batch.after => continue,
                    _ => {}
                }
            }
            insisting(&mut *sink, &batch).await.unwrap();
        }
    }
    assert_eq!(texts(&read_all(server.address(), &topic)), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_come_in_and_what_is_said_to_those_who_may_not() {
    let Some(server) = Server::shared("kafka") else { return };
    let sasl = listener(&server, "sasl");
    let user =
        [("security_protocol", "sasl_plaintext"), ("username", "muster"), ("password", "muster-secret")];
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let topic = fresh("sasl");
        let mut options = user.to_vec();
        options.push(("sasl_mechanism", mechanism));
        works(sasl, &topic, &options, &server).await;
        options[2] = ("password", "wrong-hush");
        let error = fails(sasl, &topic, &options).await;
        assert!(error.hint().contains("`password`"), "{}", error.hint());
        assert!(error.in_words().to_lowercase().contains("authentication"), "{}", error.in_words());
    }
    let guest = [
        ("security_protocol", "sasl_plaintext"),
        ("sasl_mechanism", "PLAIN"),
        ("username", "guest"),
        ("password", "guest-secret"),
    ];
    let error = fails(sasl, &fresh("guest"), &guest).await;
    assert!(error.hint().contains("let the user write"), "{} {}", error.in_words(), error.hint());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_the_right_authority_and_with_another() {
    let Some(server) = Server::shared("kafka") else { return };
    let file = |name| tls_file(&server, name);
    let (ca, other, cert, key) = (file("ca.pem"), file("server.pem"), file("client.pem"), file("client.p8"));
    let tls = listener(&server, "tls");
    let own =
        [("security_protocol", "ssl"), ("ca_file", ca.as_str()), ("cert_file", &cert), ("key_file", &key)];
    let mut with_password = own.to_vec();
    with_password.push(("key_password", "key-secret"));
    works(tls, &fresh("tls"), &with_password, &server).await;
    let sasl = [
        ("security_protocol", "sasl_ssl"),
        ("ca_file", ca.as_str()),
        ("sasl_mechanism", "SCRAM-SHA-512"),
        ("username", "muster"),
        ("password", "muster-secret"),
    ];
    works(listener(&server, "sasl_tls"), &fresh("tls"), &sasl, &server).await;
    let error = fails(tls, &fresh("tls"), &[("security_protocol", "ssl"), ("ca_file", &other)]).await;
    assert!(error.hint().contains("`ca_file`"), "{} {}", error.in_words(), error.hint());
    with_password[1] = ("ca_file", "/nowhere/ca.pem");
    let error = fails(tls, &fresh("tls"), &with_password).await;
    assert!(error.in_words().contains("`ca_file` failed"), "{}", error.in_words());
}

async fn works(brokers: SocketAddr, topic: &str, options: &[(&str, &str)], server: &Server) {
    let mut sink = sink(brokers, topic, options);
    sink.check().await.unwrap();
    open(&mut *sink, topic).await.unwrap();
    delivered(&mut *sink, &Batches::of(topic).next(&[("a", "1")])).await;
    assert_eq!(read_all(server.address(), topic).len(), 1);
}

/// Both ways in are refused, at once and in words, without the password.
async fn fails(brokers: SocketAddr, topic: &str, options: &[(&str, &str)]) -> SinkError {
    let mut sink = sink(brokers, topic, options);
    let start = tokio::time::Instant::now();
    let checked = sink.check().await.unwrap_err();
    let opened = open(&mut *sink, topic).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    for error in [&checked, &opened] {
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{}", error.in_words());
        assert!(!error.in_words().contains("hush"), "{}", error.in_words());
    }
    opened
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_are_away_are_told_soon() {
    let nobody = muster_test_servers::free_address();
    let topic = fresh("away");
    let mut sink = sink(nobody, &topic, &[]);
    let start = tokio::time::Instant::now();
    let error = open(&mut *sink, &topic).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.in_words());
    assert!(error.in_words().contains("no broker of Kafka can be reached"), "{}", error.in_words());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

/// The broker is killed, connections are cut and held, and the pipeline is killed, all at random.
#[tokio::test(flavor = "multi_thread")]
async fn each_row_once_and_in_order_whatever_breaks() {
    let Some(mut server) = Server::own("kafka") else { return };
    let seed = std::env::var("MUSTER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    eprintln!("SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let proxy = Proxy::at(listener(&server, "proxy"), listener(&server, "behind")).await;
    let topic = fresh("broken");
    let sink = || built(proxy.address(), Some(&topic), &[("timeout_ms", "5000"), ("compression", "lz4")]);
    let mut running = Running::start(sink(), MemoryLog::default());
    let mut sent = 0;
    for round in 0..12 {
        for _ in 0..rng.random_range(20..200) {
            running.log.append(publish(
                &format!("client-{}", sent % 7),
                &format!("text {sent}"),
                1_700_000_000_000,
            ));
            sent += 1;
        }
        match round % 8 {
            1 | 4 | 6 => proxy.cut(),
            3 => {
                server.kill();
                server.start();
            }
            5 => {
                proxy.hold();
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..3_000))).await;
                proxy.open();
            }
            7 => {
                running.pipeline.kill().await;
                running.pipeline = Running::spawn(sink(), &running.log, &running.store, round);
            }
            _ => {}
        }
        // Not a wait for anything: it moves the trouble to another moment.
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
        let status = running.pipeline.status();
        assert_eq!(status.matched, status.delivered + status.dead + status.pending, "{status:?}");
    }
    until_settled(&running.pipeline, running.log.len()).await;
    let status = running.pipeline.status();
    assert_eq!((status.delivered, status.dead), (sent, 0), "{status:?}");
    let seen = read_all(server.address(), &topic);
    let places: Vec<u64> = seen.iter().map(|seen| seen.headers["muster-offset"].parse().unwrap()).collect();
    assert_eq!(places.len() as u64, sent, "each row once");
    assert_eq!(places.iter().copied().collect::<BTreeSet<_>>().len() as u64, sent);
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for (seen, place) in seen.into_iter().zip(places) {
        let before = last.insert(seen.key.unwrap(), place);
        assert!(before.is_none_or(|before| before < place), "the rows of one client in order");
    }
}
