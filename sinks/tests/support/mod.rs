//! What the tests of delivery share: a log in memory, a rule that can be told what to do, and conditions to wait for.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod bench;
pub mod simulated;

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_core::event::{Event, EventKind, EventKinds, NewEvent, proto};
use muster_core::value::Row;
use muster_sinks::delivery::{
    Limits, LogReader, LogSource, PipelineHandle, ReadBatch, SourceError, Transform,
};
use muster_sinks::{
    Batch, BatchRow, BoxFuture, Checkpoint, Cursor, Outcome, PipelineId, RowOutcome, SharedRow, Sink,
    SinkEnv, SinkError, SinkSpec, Totals, build,
};
use tokio::sync::watch;

/// The id of every log here: far from 0, so that an id and an offset are never mistaken for each other.
pub const LOG_ID: u128 = 0xabcd_0000_0000_0000_0000_0000_0000_0000;

/// A log in memory; clones share it.
#[derive(Clone)]
pub struct MemoryLog {
    id: u128,
    events: Arc<Mutex<Vec<Arc<Event>>>>,
    end: Arc<watch::Sender<u64>>,
    first: Arc<Mutex<u64>>,
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::with_id(LOG_ID)
    }
}

impl MemoryLog {
    pub fn with_id(id: u128) -> Self {
        Self { id, events: Arc::default(), end: Arc::new(watch::channel(0).0), first: Arc::default() }
    }

    pub fn append(&self, event: NewEvent) -> u64 {
        let mut events = self.events.lock().unwrap();
        let offset = events.len() as u64;
        events.push(Arc::new(event.at(self.id, offset)));
        self.end.send_replace(offset + 1);
        offset
    }

    pub fn drop_before(&self, offset: u64) {
        *self.first.lock().unwrap() = offset;
    }

    pub fn events(&self) -> Vec<Arc<Event>> {
        self.events.lock().unwrap().clone()
    }

    pub fn len(&self) -> u64 {
        *self.end.borrow()
    }
}

impl LogSource for MemoryLog {
    fn log_id(&self) -> u128 {
        self.id
    }

    fn first_offset(&self) -> u64 {
        *self.first.lock().unwrap()
    }

    fn end_offset(&self) -> u64 {
        self.len()
    }

    fn offset_at_time(&self, timestamp_ms: i64) -> Result<u64, SourceError> {
        let events = self.events.lock().unwrap();
        Ok(events.iter().position(|event| event.timestamp_ms >= timestamp_ms).unwrap_or(events.len()) as u64)
    }

    fn reader(&self, offset: u64, kinds: EventKinds) -> Box<dyn LogReader> {
        Box::new(MemoryReader { log: self.clone(), end: self.end.subscribe(), position: offset, kinds })
    }
}

struct MemoryReader {
    log: MemoryLog,
    end: watch::Receiver<u64>,
    position: u64,
    kinds: EventKinds,
}

/// Events in one read: few, so that batches and reads do not end at the same places.
const READ_EVENTS_MAX: u64 = 7;

impl LogReader for MemoryReader {
    fn next(&mut self) -> BoxFuture<'_, Result<ReadBatch, SourceError>> {
        Box::pin(async move {
            let position = self.position;
            let end =
                *self.end.wait_for(|end| *end > position).await.map_err(|error| SourceError(error.into()))?;
            let next_offset = end.min(position + READ_EVENTS_MAX);
            let events = self.log.events.lock().unwrap();
            let events = events[position as usize..next_offset as usize].iter();
            let events = events.filter(|event| self.kinds.contains(event.kind)).cloned().collect();
            self.position = next_offset;
            Ok(ReadBatch { events, next_offset })
        })
    }
}

/// A publish of `client` with `payload`, `at_ms` after 1970.
pub fn publish(client: &str, payload: &str, at_ms: i64) -> NewEvent {
    let client = proto::Client { clientid: client.into(), ..Default::default() };
    let message = proto::Message { payload: payload.to_owned().into(), ..Default::default() };
    NewEvent {
        timestamp_ms: at_ms,
        kind: EventKind::MessagePublish,
        topic: "sensors/1/up".into(),
        body: proto::Event {
            node: "muster@test".into(),
            client: Some(client),
            message: Some(message),
            ..Default::default()
        },
    }
}

/// An event that no rule here wants.
pub fn noise(at_ms: i64) -> NewEvent {
    NewEvent { kind: EventKind::NodeStarted, ..publish("", "", at_ms) }
}

/// A rule by payload: `fail` fails, `none` yields nothing, `N rows` (a number) yields that many rows, `{...}` yields
/// itself, anything else one row that says it.
pub struct ByPayload;

impl Transform for ByPayload {
    fn kinds(&self) -> EventKinds {
        EventKinds::NONE.with(EventKind::MessagePublish)
    }

    fn apply(&mut self, event: &Event, rows: &mut Vec<SharedRow>) -> Result<(), String> {
        let payload = event.payload();
        let payload = std::str::from_utf8(&payload).unwrap();
        let row = |part: i64| -> SharedRow {
            [
                ("clientid", event.clientid().into()),
                ("offset", (event.offset as i64).into()),
                ("part", part.into()),
                ("payload", muster_core::value::Value::from(payload)),
            ]
            .into_iter()
            .collect::<Row>()
            .into()
        };
        match payload {
            "none" => {}
            "fail" => {
                rows.push(row(0));
                return Err("division by zero in SELECT".into());
            }
            _ if payload.starts_with('{') => match muster_core::value::Value::from_json(payload) {
                muster_core::value::Value::Map(map) => rows.push(map.into()),
                other => panic!("{other:?} is no map"),
            },
            _ => match payload.parse() {
                Ok(many) => rows.extend((0..many).map(row)),
                Err(_) => rows.push(row(0)),
            },
        }
        Ok(())
    }
}

/// Limits that make many small batches.
pub fn small_batches() -> Limits {
    Limits {
        batch_rows_max: 10,
        batch_bytes_max: 1 << 20,
        batch_wait: Duration::from_millis(5),
        dead_letters_per_minute_max: 100_000,
    }
}

/// How long a condition is waited for: a machine that is busy with other tests takes its time.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Waits until `condition` holds, and panics with `what` if it does not in time.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + WAIT_MAX;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until `pipeline` has committed everything before `end`.
pub async fn until_settled(pipeline: &PipelineHandle, end: u64) {
    let deadline = tokio::time::Instant::now() + WAIT_MAX;
    while pipeline.status().cursor != end {
        let status = pipeline.status();
        assert!(tokio::time::Instant::now() < deadline, "not settled up to {end}: {status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A batch outside of any pipeline: events from `first` on, with one row each.
pub fn batch(rule: &str, first: u64, rows: Vec<(NewEvent, Row)>) -> Batch {
    let row = |(at, (event, row)): (u64, (NewEvent, Row))| BatchRow {
        event: Arc::new(event.at(LOG_ID, at)),
        index: 0,
        row: row.into(),
    };
    batch_of(rule, (first..).zip(rows).map(row).collect())
}

/// A batch of these rows.
pub fn batch_of(rule: &str, rows: Vec<BatchRow>) -> Batch {
    let end = rows.last().map_or(0, |row| row.offset() + 1);
    let totals = Totals { matched: end, delivered: end, dead: 0 };
    let after = Checkpoint { log_id: LOG_ID, cursor: Cursor::at(end), totals };
    let picked = (0..rows.len() as u32).collect();
    Batch::new(Arc::new(PipelineId::new(rule, "sink", "")), after, 1, Arc::new(rows), picked)
}

/// A sink outside of any pipeline, opened; `INTO sink.target` by `rule`.
pub async fn opened(
    kind: &str,
    (rule, target): (&str, Option<&str>),
    env: &SinkEnv,
    options: &[(&str, &str)],
) -> Result<Box<dyn Sink>, SinkError> {
    let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut sink = build(&SinkSpec { kind, name: "sink", target, rule, options: &options }, env)?.sink;
    sink.open(&PipelineId::new(rule, "sink", "")).await?;
    Ok(sink)
}

/// A row from its JSON.
pub fn row(json: &str) -> Row {
    match muster_core::value::Value::from_json(json) {
        muster_core::value::Value::Map(map) => map,
        other => panic!("{other:?} is no map"),
    }
}

/// The reasons of the rows that were refused.
///
/// # Panics
/// Where there was trouble of another kind.
pub fn refused(outcome: Result<Outcome, SinkError>) -> Vec<String> {
    match outcome {
        Ok(Outcome::Durable(_)) => Vec::new(),
        Ok(Outcome::PerRow { rows, error: None }) => {
            let reason = |row| match row {
                RowOutcome::Rejected(error) => Some(error.in_words()),
                _ => None,
            };
            rows.into_iter().filter_map(reason).collect()
        }
        Ok(Outcome::PerRow { error: Some(error), .. }) | Err(error) => panic!("{}", error.in_words()),
    }
}
