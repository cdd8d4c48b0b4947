//! Topics that somebody wants counted one by one. Which they are is a document of the registry; what is counted is
//! folded from the log, from the offset on at which counting began.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_core::topic;
use serde::{Deserialize, Serialize};

use super::Statistics;
use super::fold::Topic;
use crate::error::Error;

/// Most topics.
pub const TOPICS_MAX: usize = 512;

/// A topic that is counted, as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// Since when.
    pub created_at_ms: i64,
    /// When counting began anew.
    pub reset_at_ms: Option<i64>,
    /// Events before this offset do not count.
    pub from_offset: u64,
}

/// A topic with its numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicNumbers {
    /// The topic.
    pub topic: String,
    /// Since when it is counted.
    pub watched: Watched,
    /// Messages to it, by QoS.
    pub received_by_qos: [u64; 3],
    /// Messages a second, by QoS, between the last two looks.
    pub rates_by_qos: [f64; 3],
}

/// Why a topic is not counted.
#[derive(Debug)]
pub enum TopicError {
    /// It is no topic name.
    Bad(String),
    /// It is counted already.
    Exists,
    /// So many are counted already.
    Full,
    /// It is not counted.
    Unknown,
    /// It cannot be stored.
    Store(Error),
}

/// Two looks at a topic's counters.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Looks {
    at: Duration,
    counts: [u64; 3],
    rates: [f64; 3],
}

impl Looks {
    /// Looks again.
    pub(super) fn look(&mut self, now: Duration, counts: [u64; 3]) {
        let passed = now.saturating_sub(self.at);
        for (rate, (before, after)) in self.rates.iter_mut().zip(self.counts.into_iter().zip(counts)) {
            *rate = super::rate(after.saturating_sub(before), passed);
        }
        (self.at, self.counts) = (now, counts);
    }
}

impl Statistics {
    /// Every topic that is counted, by its name.
    pub fn topics(&self) -> Vec<TopicNumbers> {
        let watched = self.lock_watched().clone();
        watched.into_iter().map(|(topic, watched)| self.numbers(topic, watched)).collect()
    }

    /// One topic.
    pub fn topic(&self, topic: &str) -> Option<TopicNumbers> {
        let watched = self.lock_watched().get(topic).copied()?;
        Some(self.numbers(topic.to_owned(), watched))
    }

    fn numbers(&self, topic: String, watched: Watched) -> TopicNumbers {
        let counted = self.lock_totals().topics.get(&topic).copied().unwrap_or_default();
        let looks = self.lock_looks().get(&topic).copied().unwrap_or_default();
        TopicNumbers { topic, watched, received_by_qos: counted.received_by_qos, rates_by_qos: looks.rates }
    }

    /// Begins to count a topic: each publish whose event is appended from now on.
    ///
    /// # Errors
    /// [`TopicError`]; nothing is counted then.
    pub async fn watch_topic(&self, name: &str) -> Result<(), TopicError> {
        topic::validate_name(name).map_err(|error| TopicError::Bad(error.to_string()))?;
        let _one_at_a_time = self.inner.changing_topics.lock().await;
        {
            let watched = self.lock_watched();
            if watched.contains_key(name) {
                return Err(TopicError::Exists);
            }
            if watched.len() >= TOPICS_MAX {
                return Err(TopicError::Full);
            }
        }
        let now_ms = self.inner.clock.wall_ms();
        let from_offset = self.begin(name);
        let watched = Watched { created_at_ms: now_ms, reset_at_ms: None, from_offset };
        if let Err(error) = self.store(name, &watched).await {
            self.lock_totals().topics.remove(name);
            return Err(TopicError::Store(error));
        }
        self.lock_watched().insert(name.to_owned(), watched);
        Ok(())
    }

    /// Counts a topic anew.
    ///
    /// # Errors
    /// [`TopicError`]; it goes on counting as before then.
    pub async fn reset_topic(&self, name: &str) -> Result<(), TopicError> {
        let _one_at_a_time = self.inner.changing_topics.lock().await;
        let Some(mut watched) = self.lock_watched().get(name).copied() else {
            return Err(TopicError::Unknown);
        };
        let before = self.lock_totals().topics.get(name).copied().unwrap_or_default();
        watched.reset_at_ms = Some(self.inner.clock.wall_ms());
        watched.from_offset = self.begin(name);
        if let Err(error) = self.store(name, &watched).await {
            if let Some(counted) = self.lock_totals().topics.get_mut(name) {
                counted.from_offset = before.from_offset;
                for (count, before) in counted.received_by_qos.iter_mut().zip(before.received_by_qos) {
                    *count += before;
                }
            }
            return Err(TopicError::Store(error));
        }
        self.lock_watched().insert(name.to_owned(), watched);
        self.lock_looks().remove(name);
        Ok(())
    }

    /// Ends counting a topic, or all of them; whether there was one.
    ///
    /// # Errors
    /// [`TopicError::Store`]; it is counted on then.
    pub async fn unwatch_topics(&self, name: Option<&str>) -> Result<bool, TopicError> {
        let _one_at_a_time = self.inner.changing_topics.lock().await;
        let names: Vec<String> = match name {
            Some(name) => {
                self.lock_watched().get_key_value(name).map(|(name, _)| name.clone()).into_iter().collect()
            }
            None => self.lock_watched().keys().cloned().collect(),
        };
        if names.is_empty() {
            return Ok(false);
        }
        let collection = &self.inner.collection;
        let changes = names.iter().map(|name| collection.remove(name)).collect();
        collection.commit(changes).await.map_err(TopicError::Store)?;
        for name in names {
            self.lock_watched().remove(&name);
            self.lock_totals().topics.remove(&name);
            self.lock_looks().remove(&name);
        }
        Ok(true)
    }

    /// Counts from zero. Under the fold's lock, so that it has passed no event that counts.
    fn begin(&self, name: &str) -> u64 {
        let mut totals = self.lock_totals();
        let from_offset = self.inner.journal.next_offset();
        totals.topics.insert(name.to_owned(), Topic { from_offset, received_by_qos: [0; 3] });
        from_offset
    }

    async fn store(&self, name: &str, watched: &Watched) -> Result<(), Error> {
        let collection = &self.inner.collection;
        collection.commit(vec![collection.put(name, watched)?]).await
    }

    /// Looks at every topic, for the rates.
    pub(super) fn look_at_topics(&self, now: Duration) {
        let counts: Vec<_> = {
            let totals = self.lock_totals();
            totals.topics.iter().map(|(name, it)| (name.clone(), it.received_by_qos)).collect()
        };
        let mut looks = self.lock_looks();
        for (name, counts) in counts {
            let first = Looks { at: now, counts, rates: [0.0; 3] };
            looks.entry(name).or_insert(first).look(now, counts);
        }
    }
}

/// The counters of the topics that the registry knows. What was counted before a reset, or of a topic that is not
/// counted any more, is forgotten.
pub(super) fn reconcile(
    watched: &BTreeMap<String, Watched>,
    stored: BTreeMap<String, Topic>,
    next_offset: u64,
) -> BTreeMap<String, Topic> {
    let topic = |name: &String, watched: &Watched| {
        // An offset beyond the log's end is one of another log.
        let from_offset = if watched.from_offset > next_offset { 0 } else { watched.from_offset };
        let same = stored.get(name).filter(|topic| topic.from_offset == from_offset);
        same.copied().unwrap_or(Topic { from_offset, received_by_qos: [0; 3] })
    };
    watched.iter().map(|(name, watched)| (name.clone(), topic(name, watched))).collect()
}
