//! The InfluxDB sink without an engine: a batch in, what became of each row out.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::sync::Arc;

use muster_core::clock::SystemClock;
use muster_core::event::{EventKind, NewEvent, proto};
use muster_core::value::{Row, Value};
use muster_sinks::database::Databases;
use muster_sinks::migrate::Migrate;
use muster_sinks::{
    Batch, BatchRow, Checkpoint, Cursor, Outcome, PipelineId, RowOutcome, Sink, SinkEnv, SinkError, SinkSpec,
    Totals, build, migrator,
};

pub fn row<const N: usize>(columns: [(&str, Value); N]) -> Row {
    columns.into_iter().collect()
}

fn spec<T>(
    options: &[(&'static str, String)],
    more: &[(&str, &str)],
    make: impl FnOnce(&SinkSpec<'_>, &SinkEnv) -> T,
) -> T {
    let env = SinkEnv {
        data_dir: "/nowhere".into(),
        databases: Databases::default(),
        clock: SystemClock::shared(),
    };
    let given = options.iter().map(|(name, value)| (*name, value.as_str())).chain(more.iter().copied());
    let options: BTreeMap<_, _> = given.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    make(&SinkSpec { kind: "influxdb", name: "tsdb", target: None, rule: "rule", options: &options }, &env)
}

pub fn sink(options: &[(&'static str, String)], more: &[(&str, &str)]) -> Result<Box<dyn Sink>, SinkError> {
    spec(options, more, |spec, env| Ok(build(spec, env)?.sink))
}

pub fn target(options: &[(&'static str, String)], more: &[(&str, &str)]) -> Box<dyn Migrate> {
    spec(options, more, |spec, env| migrator(spec, env).unwrap().unwrap())
}

pub async fn opened(options: &[(&'static str, String)], more: &[(&str, &str)]) -> Opened {
    let mut sink = sink(options, more).unwrap();
    sink.open(&PipelineId::new("rule", "tsdb", "rule")).await.unwrap();
    Opened { sink, rule: "rule".into(), offset: 0 }
}

/// A sink that is open; the events of its batches follow each other.
pub struct Opened {
    pub sink: Box<dyn Sink>,
    pub rule: String,
    pub offset: u64,
}

/// What became of a batch.
#[derive(Debug)]
pub struct Came {
    /// Why each row was refused, if it was.
    pub refused: Vec<Option<String>>,
    pub error: Option<SinkError>,
}

impl Came {
    pub fn all_durable(self) {
        assert!(self.error.is_none(), "{:?}", self.error);
        assert!(self.refused.iter().all(Option::is_none), "{:?}", self.refused);
    }
}

impl Opened {
    /// Delivers `rows`, each of an event of its own; all events are of one millisecond.
    pub async fn came(&mut self, rows: Vec<Row>) -> Came {
        let batch = self.batch(rows);
        match self.sink.deliver(&batch).await {
            Ok(Outcome::Durable(_)) => Came { refused: vec![None; batch.len()], error: None },
            Ok(Outcome::PerRow { rows, error }) => {
                let waits = error.is_some();
                let refused = rows.into_iter().map(|outcome| match outcome {
                    RowOutcome::Durable => None,
                    RowOutcome::Rejected(error) => Some(error.in_words()),
                    RowOutcome::Untried => {
                        assert!(waits, "a row was left without a reason");
                        None
                    }
                });
                Came { refused: refused.collect(), error }
            }
            Err(error) => Came { refused: vec![None; batch.len()], error: Some(error) },
        }
    }

    pub fn batch(&mut self, rows: Vec<Row>) -> Batch {
        let made: Vec<_> = rows.into_iter().map(|row| self.event(row)).collect();
        let after =
            Checkpoint { log_id: 1 << 64, cursor: Cursor::at(self.offset), totals: Totals::default() };
        let picked = (0..made.len() as u32).collect();
        let pipeline = Arc::new(PipelineId::new(self.rule.as_str(), "tsdb", "rule"));
        Batch::new(pipeline, after, 1, Arc::new(made), picked)
    }

    fn event(&mut self, row: Row) -> BatchRow {
        let event = NewEvent {
            timestamp_ms: 1_700_000_000_123,
            kind: EventKind::MessagePublish,
            topic: "t".into(),
            body: proto::Event::default(),
        };
        let event = Arc::new(event.at(1 << 64, self.offset));
        self.offset += 1;
        BatchRow { event, index: 0, row: row.into() }
    }
}
