//! Who writes a pipeline, and how far it is: taking it over from whoever had it, and committing. It runs on a thread
//! that may block.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};

use super::client::{Client, Job, Record};
use super::config::Config;
use super::errors;
use super::memory::{PARTITION, Reader, Remembered};
use super::topics::{self, Use};
use crate::error::{ErrorKind, SinkError};
use crate::sink::{Checkpoint, PipelineId};

/// Our word that we own a pipeline, as of the last transaction whose outcome we know.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pipeline: PipelineId,
    /// Transactional id and key of the checkpoint.
    id: String,
    epoch: u64,
    /// Tells a takeover of ours whose outcome we never learned from one by somebody else.
    writer: u64,
    pub(super) committed: Option<Checkpoint>,
}

impl Owner {
    /// Takes `pipeline` over: ends the transaction that was under way, keeps whoever had the pipeline from writing, and
    /// finds what was committed last. `before` is what we knew, if we had it: then nobody else may have had it since.
    pub(super) fn take_over(
        config: &Config,
        pipeline: &PipelineId,
        before: Option<&Self>,
        job: &Job,
    ) -> Result<(Client, Self), SinkError> {
        let mut client = Client::new(&config.producer(pipeline), job.clock())?;
        let topic = config.checkpoint_topic.as_str();
        if topics::ensure(&mut client, config, topic, Use::Checkpoints, job)?.is_none() {
            return Err(topics::missing(config, topic, Use::Checkpoints));
        }
        let id = config.transactional_id(pipeline);
        let _turn = Turn::take(&id, || job.go_on(client.context(), "end what was under way before"))?;
        let reader = Reader::new(&config.reader(pipeline), &client, topic, &id, job)?;
        match before {
            None => topics::must_be_kept(config, topic, job)?,
            // Whoever has the pipeline now is not to be disturbed by our coming back.
            Some(before) => before.is_still_seen(reader.glance()?)?,
        }
        client.init_transactions(job)?;
        let found = reader.read()?;
        drop(reader);
        if let Some(before) = before {
            before.is_still(found)?;
        }
        let epoch = found.map_or(0, |found| found.epoch) + 1;
        let committed = found.and_then(|found| found.checkpoint);
        let writer = match before {
            Some(before) => before.writer,
            None => chance()?,
        };
        let owner = Self { pipeline: pipeline.clone(), id, epoch, writer, committed };
        client.begin()?;
        owner.write(&client, config, committed, 0, job)?;
        if let Some((_, code)) = client.settle(job, true)?.first() {
            return Err(errors::of_code(*code, format!("Kafka did not take a checkpoint: {code}")));
        }
        client.commit(job)?;
        Ok((client, owner))
    }

    /// Sends the checkpoint in the transaction that was begun, as record number `place` of its batch.
    pub(super) fn write(
        &self,
        client: &Client,
        config: &Config,
        checkpoint: Option<Checkpoint>,
        place: usize,
        job: &Job,
    ) -> Result<(), SinkError> {
        let value = Remembered { epoch: self.epoch, writer: self.writer, checkpoint }.encode(&self.pipeline);
        let record = Record::with_opaque_to(&config.checkpoint_topic, place).partition(PARTITION);
        match client.send(record.key(self.id.as_bytes()).payload(value.as_bytes()), job)? {
            None => Ok(()),
            Some(code) => Err(errors::of_code(code, format!("a checkpoint cannot be sent: {code}"))),
        }
    }

    /// Whether somebody has taken the pipeline over, after the broker said that our transaction is not welcome: it says
    /// the same where a transaction has only taken too long.
    pub(super) fn after_fence(
        &self,
        client: &Client,
        config: &Config,
        fence: SinkError,
        job: &Job,
    ) -> SinkError {
        let reader =
            Reader::new(&config.reader(&self.pipeline), client, &config.checkpoint_topic, &self.id, job);
        match reader.and_then(|reader| reader.glance()).and_then(|found| self.is_still_seen(found)) {
            Ok(()) => SinkError::unavailable("Kafka has ended the transaction").caused_by(fence),
            Err(error) => error,
        }
    }

    /// What was committed must be what was tried.
    pub(super) fn must_be_at(&self, tried: Checkpoint) -> Result<(), SinkError> {
        if self.committed == Some(tried) {
            return Ok(());
        }
        let message = format!("the checkpoint of {} was moved by somebody else", self.pipeline);
        Err(SinkError::new(ErrorKind::Fenced, message))
    }

    /// As far as can be seen without waiting: our own last word may be behind a transaction of somebody else.
    fn is_still_seen(&self, found: Option<Remembered>) -> Result<(), SinkError> {
        if found.is_some_and(|found| found.epoch > self.epoch) { self.is_still(found) } else { Ok(()) }
    }

    fn is_still(&self, found: Option<Remembered>) -> Result<(), SinkError> {
        let epoch = found.map_or(0, |found| found.epoch);
        if epoch > self.epoch && found.is_some_and(|found| found.writer != self.writer) {
            let message = format!(
                "another process delivers {} under the transactional id `{}`",
                self.pipeline, self.id
            );
            let hint = "stop one of the two, then resume; where both are wanted, e.g. two installations with equal \
                        names of rules, give one of them another `transactional_id`";
            return Err(SinkError::new(ErrorKind::Fenced, message).with_hint(hint));
        }
        if epoch < self.epoch {
            let message =
                format!("Kafka has lost the checkpoint of {}: was its topic deleted?", self.pipeline);
            let hint =
                "after a resume the pipeline begins as a new one; what it delivered before comes again";
            return Err(SinkError::new(ErrorKind::Fatal, message).with_hint(hint));
        }
        Ok(())
    }
}

/// How long to wait before looking again whether it is our turn.
const LOOK: Duration = Duration::from_millis(50);

static TAKING: (Mutex<BTreeSet<String>>, Condvar) = (Mutex::new(BTreeSet::new()), Condvar::new());

/// The right to take over under an id. What nobody waits for any more ends soon, but not at once: were it still about
/// to take over, it would fence off whoever came after it in this very process.
struct Turn(String);

impl Turn {
    /// Waits until nobody else in this process takes over under `id`, or until `go_on` says that it is of no use.
    fn take(id: &str, go_on: impl Fn() -> Result<(), SinkError>) -> Result<Self, SinkError> {
        let (taking, changed) = &TAKING;
        let mut busy = taking.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            go_on()?;
            if busy.insert(id.to_owned()) {
                return Ok(Self(id.to_owned()));
            }
            (busy, _) = changed.wait_timeout(busy, LOOK).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (taking, changed) = &TAKING;
        taking.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
        changed.notify_all();
    }
}

fn chance() -> Result<u64, SinkError> {
    let mut bytes = [0; 8];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| SinkError::unavailable("the system has no randomness to give"))?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn one_at_a_time_takes_over_under_an_id() {
        let patient = || Ok(());
        let first = Turn::take("a", patient).unwrap();
        let asked = Cell::new(0);
        let impatient = || {
            asked.set(asked.get() + 1);
            if asked.get() < 3 { Ok(()) } else { Err(SinkError::unavailable("nobody waits any more")) }
        };
        assert!(Turn::take("a", impatient).is_err());
        assert_eq!(asked.get(), 3, "it waits as long as somebody waits for it");
        let other = Turn::take("b", patient).unwrap();
        let second = std::thread::spawn(|| Turn::take("a", || Ok(())).is_ok());
        drop(first);
        assert!(second.join().unwrap());
        drop((Turn::take("a", patient).unwrap(), other));
    }
}
