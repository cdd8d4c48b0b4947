//! One producer, asked from a thread that may block: every wait is cut into slices, between which it looks whether
//! anybody still wants the answer, whether its time is over, and what librdkafka says of the brokers. What errors mean.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_core::clock::SharedClock;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};

use super::errors;
use crate::error::SinkError;

/// How long a call blocks that can be taken up again where it stopped.
const SLICE: Duration = Duration::from_millis(100);
/// How long a call blocks at first that begins anew each time, and at most.
const ASK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));
/// How long reports of deliveries are waited for at a time.
const REPORTS: Duration = Duration::from_millis(1);
/// How long to wait before asking again for what the brokers are about to do.
const PAUSE: Duration = Duration::from_millis(20);
/// How long all brokers may be unreachable before it counts.
const DOWN_MAX: Duration = Duration::from_secs(2);
/// Failures that librdkafka tells in passing and that are kept as a reason for what comes of them.
const TROUBLES_MAX: usize = 8;

/// A piece of work on a thread that may block: who waits for it, and how long.
pub(super) struct Job {
    clock: SharedClock,
    deadline: Duration,
    cancelled: Arc<AtomicBool>,
    pub(super) runtime: tokio::runtime::Handle,
}

/// Ends the work when nobody waits for it any more.
pub(super) struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Job {
    /// Work of at most `timeout`, to be begun inside of a runtime.
    pub(super) fn new(clock: SharedClock, timeout: Duration) -> (Self, CancelOnDrop) {
        let cancelled = Arc::new(AtomicBool::new(false));
        let deadline = clock.monotonic().saturating_add(timeout);
        let guard = CancelOnDrop(cancelled.clone());
        (Self { clock, deadline, cancelled, runtime: tokio::runtime::Handle::current() }, guard)
    }

    pub(super) fn clock(&self) -> SharedClock {
        self.clock.clone()
    }

    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_sub(self.clock.monotonic())
    }

    /// Whether to go on waiting for `what`.
    pub(super) fn go_on(&self, context: &Context, what: &str) -> Result<(), SinkError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(SinkError::unavailable("nobody waits for the answer any more"));
        }
        if let Some(error) = context.verdict(self.clock.monotonic()) {
            return Err(error);
        }
        if !self.left().is_zero() {
            return Ok(());
        }
        let mut message = format!("Kafka took too long to {what}");
        if let Some(trouble) = context.last_trouble() {
            message = format!("{message}; the last trouble was: {trouble}");
        }
        Err(SinkError::unavailable(message))
    }
}

/// What librdkafka tells of its own accord.
pub(super) struct Context {
    clock: SharedClock,
    troubles: Mutex<Troubles>,
    /// Records whose fate is not known.
    outstanding: AtomicUsize,
    failed: Mutex<Vec<(usize, RDKafkaErrorCode)>>,
    any_failed: AtomicBool,
}

#[derive(Default)]
struct Troubles {
    last: VecDeque<(RDKafkaErrorCode, String)>,
    all_down_since: Option<Duration>,
}

impl Context {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            troubles: Mutex::default(),
            outstanding: AtomicUsize::new(0),
            failed: Mutex::default(),
            any_failed: AtomicBool::new(false),
        }
    }

    /// What makes further waiting useless, if anything does.
    fn verdict(&self, now: Duration) -> Option<SinkError> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let settled = troubles.last.iter().find(|(code, _)| errors::is_settled(*code));
        if let Some((code, reason)) = settled {
            return Some(errors::of_code(*code, reason.clone()));
        }
        let since = troubles.all_down_since?;
        if now.saturating_sub(since) < DOWN_MAX {
            return None;
        }
        let reason = troubles.last.back().map_or_else(String::new, |(_, reason)| format!(": {reason}"));
        Some(SinkError::unavailable(format!("no broker of Kafka can be reached{reason}")))
    }

    fn last_trouble(&self) -> Option<String> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.last.back().map(|(_, reason)| reason.clone())
    }

    /// Somebody answered.
    fn all_is_well(&self) {
        *self.troubles.lock().unwrap_or_else(PoisonError::into_inner) = Troubles::default();
    }

    fn note(&self, code: RDKafkaErrorCode, reason: &str) {
        tracing::debug!(?code, reason, "Kafka");
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        if code == RDKafkaErrorCode::AllBrokersDown {
            troubles.all_down_since.get_or_insert(self.clock.monotonic());
            return;
        }
        // Each is told twice, and some again and again.
        troubles.last.retain(|(_, before)| before != reason);
        if troubles.last.len() == TROUBLES_MAX {
            troubles.last.pop_front();
        }
        troubles.last.push_back((code, reason.to_owned()));
    }
}

impl ClientContext for Context {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.note(code, reason);
        }
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    /// The place of the record in its batch.
    type DeliveryOpaque = usize;

    fn delivery(&self, delivered: &DeliveryResult<'_>, place: usize) {
        if let Err((error, _)) = delivered {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).push((place, code));
            self.any_failed.store(true, Ordering::Relaxed);
        }
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A producer, and which topics it has seen.
pub(super) struct Client {
    producer: BaseProducer<Context>,
    pub(super) known_topics: HashSet<String>,
}

pub(super) type Record<'a> = rdkafka::producer::BaseRecord<'a, [u8], [u8], usize>;

impl Client {
    pub(super) fn new(config: &ClientConfig, clock: SharedClock) -> Result<Self, SinkError> {
        let producer: BaseProducer<Context> =
            config.create_with_context(Context::new(clock)).map_err(errors::of_creation)?;
        Ok(Self { producer, known_topics: HashSet::new() })
    }

    pub(super) fn context(&self) -> &Context {
        self.producer.context()
    }

    pub(super) fn native(&self) -> &rdkafka::client::Client<Context> {
        self.producer.client()
    }

    /// Hands `record` to librdkafka; what it says against the record itself.
    pub(super) fn send(
        &self,
        mut record: Record<'_>,
        job: &Job,
    ) -> Result<Option<RDKafkaErrorCode>, SinkError> {
        let context = self.context();
        context.outstanding.fetch_add(1, Ordering::Relaxed);
        loop {
            let (error, back) = match self.producer.send(record) {
                Ok(()) => return Ok(None),
                Err(refused) => refused,
            };
            let code = error.rdkafka_error_code();
            if code != Some(RDKafkaErrorCode::QueueFull) {
                context.outstanding.fetch_sub(1, Ordering::Relaxed);
                return match code {
                    Some(code) if errors::is_about_the_record(code) => Ok(Some(code)),
                    _ => Err(errors::of(error, "take a record")),
                };
            }
            record = back;
            self.producer.poll(REPORTS);
            job.go_on(context, "take records")?;
        }
    }

    /// Lets some time pass, and takes note of what librdkafka has to tell meanwhile.
    pub(super) fn pause(&self) {
        self.producer.poll(PAUSE);
    }

    /// Waits until the fate of every record is known, or until one has failed and `at_once` is set; which failed.
    pub(super) fn settle(
        &self,
        job: &Job,
        at_once: bool,
    ) -> Result<Vec<(usize, RDKafkaErrorCode)>, SinkError> {
        let context = self.context();
        while context.outstanding.load(Ordering::Relaxed) > 0 {
            if at_once && context.any_failed.load(Ordering::Relaxed) {
                break;
            }
            self.producer.poll(REPORTS);
            job.go_on(context, "write the records")?;
        }
        context.any_failed.store(false, Ordering::Relaxed);
        let mut failed = context.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_empty() {
            context.all_is_well();
        }
        Ok(std::mem::take(&mut *failed))
    }

    /// Before a batch: what was told since the last one may be over.
    pub(super) fn forget_troubles(&self) {
        self.producer.poll(REPORTS);
        self.context().all_is_well();
    }

    pub(super) fn init_transactions(&self, job: &Job) -> Result<(), SinkError> {
        self.patiently(job, "prepare transactions", || self.producer.init_transactions(SLICE))
    }

    pub(super) fn begin(&self) -> Result<(), SinkError> {
        self.producer.begin_transaction().map_err(|error| errors::of(error, "begin a transaction"))
    }

    pub(super) fn commit(&self, job: &Job) -> Result<(), SinkError> {
        self.patiently(job, "commit a transaction", || self.producer.commit_transaction(SLICE))
    }

    /// Takes back what was sent since [`Client::begin`], and forgets what became of it.
    pub(super) fn abort(&self, job: &Job) -> Result<(), SinkError> {
        self.patiently(job, "take a transaction back", || self.producer.abort_transaction(SLICE))?;
        self.settle(job, false)?;
        Ok(())
    }

    /// Asks again and again what begins anew each time.
    pub(super) fn ask<T>(
        &self,
        job: &Job,
        what: &str,
        mut call: impl FnMut(Duration) -> Result<T, KafkaError>,
    ) -> Result<T, SinkError> {
        let mut slice = ASK.0;
        loop {
            match call(slice.min(job.left().max(REPORTS))) {
                Ok(answer) => {
                    self.context().all_is_well();
                    return Ok(answer);
                }
                Err(error) if errors::is_waiting(&error) => {}
                Err(error) => return Err(errors::of(error, what)),
            }
            slice = (slice * 2).min(ASK.1);
            self.producer.poll(SLICE);
            job.go_on(self.context(), what)?;
        }
    }

    fn patiently(
        &self,
        job: &Job,
        what: &str,
        mut call: impl FnMut() -> Result<(), KafkaError>,
    ) -> Result<(), SinkError> {
        loop {
            match call() {
                Ok(()) => {
                    self.context().all_is_well();
                    return Ok(());
                }
                Err(error) if errors::is_waiting(&error) => {}
                Err(error) => return Err(errors::of(error, what)),
            }
            self.producer.poll(REPORTS);
            job.go_on(self.context(), what)?;
        }
    }
}
