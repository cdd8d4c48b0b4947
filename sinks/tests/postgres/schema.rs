//! `muster migrate`, and what `SELECT *` makes of the tables.

use std::collections::BTreeMap;

use muster_core::event::{Event, EventKind, NewEvent, proto};
use muster_sinks::migrate::{Migrate, migrate};
use muster_sinks::{SinkSpec, migrator};

use crate::db::{Db, LOG_ID, batch_at, durable, env, options, pipeline};

fn schema(url: &str, more: &[(&str, &str)]) -> Box<dyn Migrate> {
    let mut options: BTreeMap<_, _> = options(more);
    options.insert("url".into(), url.into());
    let spec = SinkSpec { kind: "postgres", name: "pg", target: None, rule: "rule", options: &options };
    migrator(&spec, &env()).unwrap().unwrap()
}

#[tokio::test]
async fn steps_are_taken_once() {
    let Some(db) = Db::new("").await else { return };
    let mut target = schema(&db.url(), &[]);
    let taken = async |dry_run, target: &mut Box<dyn Migrate>| {
        let steps = migrate(&mut **target, dry_run, |_| {}).await.unwrap();
        steps.iter().map(|step| format!("{} {}", step.version, step.name)).collect::<Vec<_>>().join(", ")
    };
    let all = "1 bookkeeping, 2 device_status, 3 device_history, 4 device_messages, 5 device_history_duration, \
               6 device_alarms";
    assert_eq!(taken(true, &mut target).await, all);
    assert_eq!(
        db.text("SELECT count(*) FROM pg_class WHERE relname LIKE '%device_%'").await,
        "0",
        "a dry run"
    );
    assert_eq!(taken(false, &mut target).await, all);
    assert_eq!(taken(false, &mut target).await, "");
    assert_eq!(
        db.text("SELECT version, name FROM _muster_migrations ORDER BY 1").await.replace('\n', ", "),
        all
    );
    let hypertables = schema(&db.url(), &[("timescale", "true")]).migrations();
    assert_eq!((hypertables.len(), hypertables[6].name.as_str()), (7, "timescale"));
}

#[tokio::test]
async fn two_at_once_are_harmless() {
    let Some(db) = Db::new("CREATE SCHEMA \"My schema\"").await else { return };
    let more = [("schema", "My schema")];
    let (mut one, mut other) = (schema(&db.url(), &more), schema(&db.url(), &more));
    let (a, b) = tokio::join!(migrate(&mut *one, false, |_| {}), migrate(&mut *other, false, |_| {}));
    a.unwrap();
    b.unwrap();
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'My schema'";
    assert_eq!(db.text(tables).await, "6");
}

#[tokio::test]
async fn a_step_that_fails_leaves_nothing() {
    let Some(db) = Db::new("CREATE TABLE device_history (mine int)").await else { return };
    let mut target = schema(&db.url(), &[]);
    let error = migrate(&mut *target, false, |_| {}).await.unwrap_err();
    assert!(error.in_words().contains("step 3 (device_history) failed"), "{}", error.in_words());
    assert!(error.in_words().contains("\"device_history\" already exists"), "{}", error.in_words());
    assert_eq!(target.applied().await.unwrap(), [1, 2]);
    db.client.batch_execute("DROP TABLE device_history").await.unwrap();
    assert_eq!(migrate(&mut *target, false, |_| {}).await.unwrap().len(), 4);
}

fn event(kind: EventKind, seq: u64, detail: Option<proto::event::Detail>) -> Event {
    let client = proto::Client {
        clientid: "pump-7".into(),
        username: Some("u".into()),
        session: 3,
        seq,
        peername: "10.0.0.1:5000".into(),
        sockname: "10.0.0.2:1883".into(),
        proto_name: "MQTT".into(),
        proto_ver: 5,
        ..Default::default()
    };
    let flags = 1_700_000_000_000;
    let message = (kind == EventKind::MessagePublish).then(|| proto::Message {
        payload: vec![0, 0xff, b'x'].into(),
        qos: 1,
        retain: true,
        publish_received_at_ms: flags,
        ..Default::default()
    });
    let body = proto::Event { node: "muster@test".into(), client: Some(client), message, detail };
    NewEvent { timestamp_ms: 1_700_000_000_000, kind, topic: "sensors/7".into(), body }.at(LOG_ID, seq)
}

#[tokio::test]
async fn select_star_fits_into_the_tables_as_they_are() {
    let Some(db) = Db::new("").await else { return };
    migrate(&mut *schema(&db.url(), &[]), false, |_| {}).await.unwrap();
    use proto::event::Detail;
    let connected = Detail::Connected(proto::Connection {
        keepalive_seconds: 60,
        connected_at_ms: 1_700_000_000_000,
        receive_maximum: 10,
        ..Default::default()
    });
    let disconnected = Detail::Disconnected(proto::Disconnection {
        reason: "normal".into(),
        connected_at_ms: 1_700_000_000_000,
        disconnected_at_ms: 1_700_000_001_000,
        ..Default::default()
    });
    let came = event(EventKind::ClientConnected, 7, Some(connected));
    let went = event(EventKind::ClientDisconnected, 8, Some(disconnected));
    let said = event(EventKind::MessagePublish, 9, None);
    for (table, events) in [
        ("device_status", vec![&came, &went]),
        ("device_history", vec![&came, &went]),
        ("device_messages", vec![&said]),
    ] {
        let mut sink = db.sink_into(table, &[]);
        sink.check().await.unwrap();
        let id = muster_sinks::PipelineId { target: table.into(), ..pipeline() };
        sink.open(&id).await.unwrap();
        let mut rows = batch_at(7, events.into_iter().map(Event::columns).collect());
        rows.pipeline = std::sync::Arc::new(id);
        durable(&mut sink, &rows).await;
    }
    let status =
        "SELECT clientid, online, reason, keepalive, seq, extra->'receive_maximum' FROM device_status";
    assert_eq!(db.text(status).await, "pump-7 f normal 60 8 -");
    let history = "SELECT event, proto_ver, extra->'receive_maximum' FROM device_history ORDER BY seq";
    assert_eq!(db.text(history).await, "client.connected 5 10\nclient.disconnected 5 -");
    let messages = "SELECT topic, qos, retain, payload, \"offset\", extra FROM device_messages";
    assert_eq!(db.text(messages).await, "sensors/7 1 t \\x00ff78 9 -");
}
