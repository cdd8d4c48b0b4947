//! The sink over a real broker and a real log.

use std::sync::Arc;
use std::task::{Context, Poll};

use muster_broker::{Broker, BrokerConfig, Environment, ListenerConfig, Wanted};
use muster_core::clock::SystemClock;
use muster_core::event::{Event, EventKind, NewEvent, proto};
use muster_core::journal::Journal;
use muster_core::log::{LogConfig, RealDisk, Retention};
use muster_core::registry::Registry;
use muster_core::sessions::SessionStore;
use muster_core::value::{Map, Value};
use muster_rules::Republish;
use muster_rules::ast::{Statement, Target};
use muster_sinks::{Batch, BatchRow, Checkpoint, Cursor, Outcome, PipelineId, RowOutcome, Sink as _, Totals};

use super::{REPUBLISH_DEPTH_MAX, RepublishSink, Republisher};

struct Home {
    _dir: tempfile::TempDir,
    journal: Journal,
    broker: Broker,
    id: Arc<PipelineId>,
}

impl Home {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let clock = SystemClock::shared();
        let log = LogConfig { segment_bytes_max: 4096, ..LogConfig::new(dir.path().join("log")) };
        let (journal, _) = Journal::open(log, RealDisk::shared(), clock.clone()).expect("a journal");
        let registry = Registry::open(&dir.path().join("registry.db")).expect("a registry");
        let config = BrokerConfig {
            listeners: vec![ListenerConfig::tcp(([127, 0, 0, 1], 0).into())],
            ..BrokerConfig::default()
        };
        let sessions = SessionStore::open(&dir.path().join("sessions.db")).expect("a store");
        let environment = Environment::open(journal.clone(), registry, sessions, Wanted::none(), clock);
        let broker = Broker::start(config, environment).await.expect("a broker");
        let id = Arc::new(PipelineId::new("r", "republish", ""));
        Self { _dir: dir, journal, broker, id }
    }

    /// A sink as after a start of the process, opened.
    async fn sink(&self, republish: &str) -> RepublishSink {
        let mut sink = self.closed_sink(republish, Some(self.broker.clone()));
        let opened = sink.open(&self.id).await;
        assert!(matches!(opened, Ok(muster_sinks::Memory::None)), "{opened:?}");
        sink
    }

    fn closed_sink(&self, republish: &str, broker: Option<Broker>) -> RepublishSink {
        let text = format!("CREATE RULE r REPUBLISH TO {republish} AS SELECT * FROM \"in\"");
        let (statements, problems) = muster_rules::parse("r.sql", &text);
        let Some(Statement::CreateRule(rule)) = statements.first() else { panic!("{problems:?}") };
        let Some(Target::Republish { topic, options }) = rule.into.first() else { panic!("{rule:?}") };
        let message = Arc::new(Republish::compile(rule, topic, options).expect("a rule"));
        let (arrival, republisher) = Republisher::new();
        arrival.send_replace(broker);
        RepublishSink::new(message, "r", 0, republisher, self.journal.clone())
    }

    /// An event that rules see, in the log.
    async fn event(&self, depth: u32) -> Arc<Event> {
        let republication = proto::Republication { depth, ..Default::default() };
        let message = proto::Message { republication: Some(republication), ..Default::default() };
        let body = proto::Event { message: Some(message), ..Default::default() };
        let event =
            NewEvent { timestamp_ms: 0, kind: EventKind::MessagePublish, topic: "in".to_owned(), body };
        let offset = self.journal.append(event.clone()).await.expect("append").offset;
        Arc::new(event.at(self.journal.log_id(), offset))
    }

    fn batch(&self, rows: Vec<BatchRow>) -> Batch {
        let last = rows.last().expect("a row").cursor();
        let cursor = Cursor { row: last.row + 1, ..last };
        let after = Checkpoint { log_id: self.journal.log_id(), cursor, totals: Totals::default() };
        let picked = (0..u32::try_from(rows.len()).expect("few")).collect();
        Batch::new(self.id.clone(), after, 1, Arc::new(rows), picked)
    }

    /// Topic and payload of what was republished, in the order of the log.
    async fn republished(&self) -> Vec<(String, String)> {
        let mut reader = self.journal.reader(0);
        let end = self.journal.next_offset();
        let mut found = Vec::new();
        while reader.position() < end {
            let batch = reader.next_batch().await.expect("a log");
            let ours =
                batch.events().iter().filter(|it| it.get(muster_core::event::Column::Clientid) == "r".into());
            found.extend(
                ours.map(|it| (it.topic.clone(), String::from_utf8_lossy(&it.payload()).into_owned())),
            );
        }
        found
    }
}

fn row(event: &Arc<Event>, index: u32, n: i64) -> BatchRow {
    let row: Map = [("n", Value::Int(n))].into_iter().collect();
    BatchRow { event: event.clone(), index, row: row.into() }
}

fn set(row: &mut BatchRow, name: &str, value: impl Into<Value>) {
    let mut changed = Map::clone(&row.row);
    changed.insert(name, value);
    row.row = changed.into();
}

fn message(topic: &str, payload: &str) -> (String, String) {
    (topic.to_owned(), payload.to_owned())
}

#[tokio::test]
async fn rows_become_messages_in_order_and_never_twice() {
    let home = Home::new().await;
    let (one, two) = (home.event(0).await, home.event(0).await);
    let first = home.batch(vec![row(&one, 0, 1), row(&one, 1, 2)]);
    let both = home.batch(vec![row(&one, 0, 1), row(&one, 1, 2), row(&two, 0, 3)]);

    let mut sink = home.sink("'out/${n}'").await;
    for batch in [&first, &both, &first] {
        let outcome = sink.deliver(batch).await.expect("an outcome");
        assert!(matches!(outcome, Outcome::Durable(_)), "{outcome:?}");
    }
    // As after a crash between the publish and the commit.
    let mut sink = home.sink("'out/${n}'").await;
    let outcome = sink.deliver(&both).await.expect("an outcome");
    assert!(matches!(outcome, Outcome::Durable(_)), "{outcome:?}");
    let published = ["1", "2", "3"].map(|n| message(&format!("out/{n}"), &format!("{{\"n\":{n}}}")));
    assert_eq!(home.republished().await, published);
}

#[tokio::test]
async fn an_attempt_that_is_dropped_at_any_point_doubles_nothing() {
    let home = Home::new().await;
    let mut expected = Vec::new();
    // Dropped at the start, once a row is in the log, and once all are.
    for appended in [0, 1, 3] {
        let event = home.event(0).await;
        let batch = home.batch((0..3).map(|index| row(&event, index, i64::from(index))).collect());
        let mut sink = home.sink("'out'").await;
        let enough = home.journal.next_offset() + appended;
        {
            let mut attempt = sink.deliver(&batch);
            let mut poll = async || {
                let poll = |cx: &mut Context<'_>| Poll::Ready(attempt.as_mut().poll(cx).is_ready());
                std::future::poll_fn(poll).await
            };
            while !poll().await && home.journal.next_offset() < enough {
                tokio::task::yield_now().await;
            }
        }
        let outcome = sink.deliver(&batch).await.expect("an outcome");
        assert!(matches!(outcome, Outcome::Durable(_)), "{outcome:?}");
        expected.extend((0..3).map(|n| message("out", &format!("{{\"n\":{n}}}"))));
    }
    assert_eq!(home.republished().await, expected);
}

#[tokio::test]
async fn a_row_that_gives_no_message_is_refused_alone() {
    let home = Home::new().await;
    let (event, deep) = (home.event(0).await, home.event(REPUBLISH_DEPTH_MAX).await);
    let mut rows: Vec<_> = (0..5).map(|index| row(&event, index, i64::from(index))).collect();
    let long = "x".repeat(BrokerConfig::default().limits.packet_bytes_max);
    for (at, topic) in [(1, Value::from("")), (2, "$SYS/x".into()), (3, "a".repeat(70_000).into())] {
        set(&mut rows[at], "topic", topic);
    }
    set(&mut rows[0], "topic", "out");
    set(&mut rows[4], "topic", "out");
    set(&mut rows[4], "payload", long);
    rows.push(row(&deep, 0, 9));
    let mut sink = home.sink("'${topic}'").await;
    let Ok(Outcome::PerRow { rows, error: None }) = sink.deliver(&home.batch(rows)).await else {
        panic!("no outcome for each row")
    };
    let reasons = rows.iter().map(|row| match row {
        RowOutcome::Durable => "published".to_owned(),
        RowOutcome::Rejected(error) => error.in_words(),
        RowOutcome::Untried => "untried".to_owned(),
    });
    expect_test::expect![[r#"
        published
        cannot publish to the topic ``: a topic has at least one character
        cannot publish to the topic `$SYS/x`: no message can be published below `$SYS/`
        cannot publish to the topic `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...`: a topic has at most 65535 bytes
        the broker refuses the message: a message of 1048613 bytes is larger than the 1048576 that a packet may have
        republished 16 times already: rules republish in a circle"#]].assert_eq(&reasons.collect::<Vec<_>>().join("\n"));
    assert_eq!(home.republished().await, [message("out", "{\"n\":0,\"topic\":\"out\"}")]);
}

#[tokio::test]
async fn a_log_without_room_delays_rows_and_neither_loses_nor_doubles_one() {
    let home = Home::new().await;
    let event = home.event(0).await;
    let log = home.journal.log();
    let _hold = log.hold("test", 0);
    log.set_retention(Retention { cap_bytes: Some(3 * 4096), ..Retention::default() }).expect("a cap");
    let mut sink = home.sink("'out'").await;
    let (mut expected, mut refused) = (Vec::new(), 0);
    for n in 0..100 {
        let rows = (0..5).map(|index| row(&event, n * 5 + index, i64::from(n * 5 + index)));
        let batch = home.batch(rows.collect());
        expected.extend((0..5).map(|index| message("out", &format!("{{\"n\":{}}}", n * 5 + index))));
        let Err(error) = sink.deliver(&batch).await else { continue };
        assert_eq!(error.kind(), muster_sinks::ErrorKind::Unavailable, "{error}");
        assert!(error.hint().contains("cap_bytes"), "{}", error.hint());
        refused += 1;
        // Once more while it is full; then there is room, for a while.
        assert!(sink.deliver(&batch).await.is_err());
        let cap_bytes = Some(log.stats().bytes + 2 * 4096);
        log.set_retention(Retention { cap_bytes, ..Retention::default() }).expect("a cap");
        // As after a crash, now and then.
        if n % 2 == 0 {
            sink = home.sink("'out'").await;
        }
        loop {
            log.writable().await.expect("room");
            if sink.deliver(&batch).await.is_ok() {
                break;
            }
        }
    }
    assert!(refused > 1, "it was never full");
    assert_eq!(home.republished().await, expected);
}

#[tokio::test]
async fn it_waits_for_the_broker_and_says_when_there_will_be_none() {
    let home = Home::new().await;
    let mut sink = home.closed_sink("'out'", None);
    let error = sink.open(&home.id).await.expect_err("no broker");
    assert_eq!(error.in_words(), "the broker did not start");

    let (arrival, republisher) = Republisher::new();
    let waiting = tokio::spawn(async move { republisher.broker().await.is_some() });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    arrival.send_replace(Some(home.broker.clone()));
    assert!(waiting.await.expect("an answer"));
}
