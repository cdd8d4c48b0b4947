//! What a session remembers of answers about permissions, so that a busy topic costs one look into a small map. It
//! belongs to the session's task, has a bound, and is exact: an answer of an older generation of rules counts for
//! nothing.

use std::time::Duration;

use indexmap::IndexMap;

use crate::access::Action;
use crate::codec::Qos;

/// How answers may be remembered now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caching {
    /// Another number after each change of what decides.
    pub generation: u64,
    /// Answers that one session may remember.
    pub entries_max: usize,
    /// How long; none: until something changes.
    pub ttl: Option<Duration>,
}

/// An answer that a session remembers, for people who look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedAnswer {
    /// What was asked for.
    pub action: Action,
    /// Topic or filter.
    pub topic: String,
    /// The answer.
    pub allow: bool,
    /// How long it has been remembered.
    pub age: Duration,
}

/// The answers of one session.
#[derive(Debug, Default)]
pub struct Cache {
    generation: u64,
    /// In the order of their coming.
    answers: IndexMap<(u8, Box<str>), Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    allow: bool,
    since: Duration,
}

struct Key<'a>(u8, &'a str);

impl std::hash::Hash for Key<'_> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // As the tuple that is stored.
        (self.0, self.1).hash(state);
    }
}

impl indexmap::Equivalent<(u8, Box<str>)> for Key<'_> {
    fn equivalent(&self, key: &(u8, Box<str>)) -> bool {
        self.0 == key.0 && *self.1 == *key.1
    }
}

impl Cache {
    /// The answer, if it still counts.
    pub fn get(&self, caching: &Caching, action: Action, topic: &str, now: Duration) -> Option<bool> {
        if self.generation != caching.generation {
            return None;
        }
        let entry = self.answers.get(&Key(number(action), topic))?;
        let is_fresh = caching.ttl.is_none_or(|ttl| now.saturating_sub(entry.since) < ttl);
        is_fresh.then_some(entry.allow)
    }

    /// Remembers an answer that was found under `caching`, in place of the oldest where there is no room.
    pub fn put(&mut self, caching: &Caching, action: Action, topic: &str, allow: bool, now: Duration) {
        if self.generation != caching.generation {
            self.answers.clear();
            self.generation = caching.generation;
        }
        let key = (number(action), topic.into());
        self.answers.shift_remove(&key);
        if self.answers.len() >= caching.entries_max {
            // A quarter at once, so that a large cache does not move itself for each new topic.
            let surplus = self.answers.len() - caching.entries_max;
            let old = (surplus + 1).max(caching.entries_max / 4).min(self.answers.len());
            self.answers.drain(..old);
        }
        if caching.entries_max > 0 {
            self.answers.insert(key, Entry { allow, since: now });
        }
    }

    /// What it holds that still counts.
    pub fn list(&self, caching: &Caching, now: Duration) -> Vec<CachedAnswer> {
        if self.generation != caching.generation {
            return Vec::new();
        }
        let entries = self.answers.iter().filter_map(|((action, topic), entry)| {
            let age = now.saturating_sub(entry.since);
            let action = action_of(*action);
            let answer = CachedAnswer { action, topic: topic.to_string(), allow: entry.allow, age };
            caching.ttl.is_none_or(|ttl| age < ttl).then_some(answer)
        });
        entries.collect()
    }
}

/// All of an action in one byte.
fn number(action: Action) -> u8 {
    match action {
        Action::Publish { qos, retain } => qos.as_u8() | u8::from(retain) << 2,
        Action::Subscribe { qos } => qos.as_u8() | 1 << 3,
    }
}

fn action_of(number: u8) -> Action {
    let qos = Qos::from_u8(number & 3).unwrap_or_default();
    if number & 1 << 3 == 0 {
        Action::Publish { qos, retain: number & 1 << 2 != 0 }
    } else {
        Action::Subscribe { qos }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PUBLISH: Action = Action::Publish { qos: Qos::AtLeastOnce, retain: false };

    fn caching(generation: u64, entries_max: usize) -> Caching {
        Caching { generation, entries_max, ttl: Some(10 * SECOND) }
    }

    #[test]
    fn an_answer_counts_for_its_action_generation_and_time() {
        let mut cache = Cache::default();
        let now = caching(1, 4);
        cache.put(&now, PUBLISH, "a", true, SECOND);
        assert_eq!(cache.get(&now, PUBLISH, "a", 2 * SECOND), Some(true));
        assert_eq!(cache.get(&now, PUBLISH, "b", 2 * SECOND), None);
        assert_eq!(
            cache.get(&now, Action::Publish { qos: Qos::AtLeastOnce, retain: true }, "a", SECOND),
            None
        );
        assert_eq!(cache.get(&now, Action::Subscribe { qos: Qos::AtLeastOnce }, "a", SECOND), None);
        assert_eq!(cache.get(&now, PUBLISH, "a", 11 * SECOND), None);
        assert_eq!(cache.get(&Caching { ttl: None, ..now }, PUBLISH, "a", 1_000 * SECOND), Some(true));
        assert_eq!(cache.get(&caching(2, 4), PUBLISH, "a", SECOND), None);
        assert!(cache.list(&caching(2, 4), SECOND).is_empty());
        cache.put(&caching(2, 4), PUBLISH, "b", false, SECOND);
        assert_eq!(cache.get(&caching(2, 4), PUBLISH, "a", SECOND), None);
    }

    #[test]
    fn it_holds_what_it_may_and_the_oldest_go() {
        let mut cache = Cache::default();
        let now = caching(0, 3);
        for (at, topic) in ["a", "b", "c", "a", "d"].into_iter().enumerate() {
            cache.put(&now, PUBLISH, topic, true, SECOND * u32::try_from(at).expect("small"));
        }
        let held: Vec<_> = cache.list(&now, 4 * SECOND).into_iter().map(|it| it.topic).collect();
        assert_eq!(held, ["c", "a", "d"]);
        cache.put(&caching(0, 0), PUBLISH, "e", true, SECOND);
        assert!(cache.list(&now, SECOND).is_empty());
    }

    #[test]
    fn actions_come_back_from_their_number() {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            for action in [
                Action::Subscribe { qos },
                Action::Publish { qos, retain: true },
                Action::Publish { qos, retain: false },
            ] {
                assert_eq!(action_of(number(action)), action);
            }
        }
    }
}
