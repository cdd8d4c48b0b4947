//! A pipeline into a target that does as the test says, in simulated time.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_core::clock::{Clock, SharedClock};
use muster_sinks::delivery::{
    DeliveryStore, Limits, Pipeline, PipelineConfig, PipelineHandle, Start, Transform, WAIT_MAX,
};
use muster_sinks::{Batch, BoxFuture, Durable, Memory, Outcome, PipelineId, Sink, SinkError};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::{ByPayload, MemoryLog, noise, publish, small_batches};

pub type Answer = Box<dyn FnMut(&Batch) -> Result<Outcome, SinkError> + Send>;

/// A target without a memory that keeps what it was given and answers as it was told.
pub struct Scripted {
    pub given: Arc<Mutex<Vec<Vec<u64>>>>,
    pub answer: Arc<Mutex<Answer>>,
    /// Whether it never answers.
    pub silent: bool,
}

impl Sink for Scripted {
    fn wants_recorded_batches(&self) -> bool {
        false
    }

    fn open<'a>(&'a mut self, _: &'a PipelineId) -> BoxFuture<'a, Result<Memory, SinkError>> {
        Box::pin(async { Ok(Memory::None) })
    }

    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<Outcome, SinkError>> {
        Box::pin(async move {
            self.given.lock().unwrap().push(batch.rows().map(|row| row.offset()).collect());
            if self.silent {
                std::future::pending::<()>().await;
            }
            (self.answer.lock().unwrap())(batch)
        })
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }
}

pub struct TokioClock(pub tokio::time::Instant);

impl Clock for TokioClock {
    fn wall_ms(&self) -> i64 {
        1_000_000 + self.0.elapsed().as_millis() as i64
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

pub struct Bench {
    pub log: MemoryLog,
    pub store: DeliveryStore,
    pub clock: SharedClock,
    pub limits: Limits,
    pub start: Start,
    pub given: Arc<Mutex<Vec<Vec<u64>>>>,
    pub answer: Arc<Mutex<Answer>>,
    pub silent: bool,
    pub paused: bool,
}

impl Bench {
    pub fn new() -> Self {
        Self {
            log: MemoryLog::default(),
            store: DeliveryStore::inline(Path::new(":memory:")),
            clock: Arc::new(TokioClock(tokio::time::Instant::now())),
            limits: small_batches(),
            start: Start::Earliest,
            given: Arc::default(),
            answer: Arc::new(Mutex::new(Box::new(|batch| Ok(Outcome::Durable(Durable::promise(batch)))))),
            silent: false,
            paused: false,
        }
    }

    pub fn with_events(payloads: &[&str]) -> Self {
        let bench = Self::new();
        bench.append(payloads);
        bench
    }

    pub fn append(&self, payloads: &[&str]) {
        for payload in payloads {
            let at_ms = 1000 + self.log.len() as i64;
            self.log.append(if *payload == "noise" { noise(at_ms) } else { publish("a", payload, at_ms) });
        }
    }

    pub fn answer(&self, answer: impl FnMut(&Batch) -> Result<Outcome, SinkError> + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    pub fn run(&self) -> PipelineHandle {
        self.run_rule(Box::new(ByPayload))
    }

    pub fn run_rule(&self, rule: Box<dyn Transform>) -> PipelineHandle {
        let config = PipelineConfig {
            id: PipelineId::new("rule", "sink", ""),
            rule_version: "1".into(),
            start: self.start,
            paused: self.paused,
            limits: self.limits,
            retry_wait_max: WAIT_MAX,
        };
        let sink = Scripted { given: self.given.clone(), answer: self.answer.clone(), silent: self.silent };
        let (log, store, clock) = (Arc::new(self.log.clone()), self.store.clone(), self.clock.clone());
        Pipeline::spawn(config, log, rule, Box::new(sink), store, clock, SmallRng::seed_from_u64(1))
    }

    pub fn given(&self) -> Vec<Vec<u64>> {
        std::mem::take(&mut self.given.lock().unwrap())
    }
}
