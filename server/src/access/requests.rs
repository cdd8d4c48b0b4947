//! Requests whose makers gave them a key, so that the same request again is answered and not done again. A key is
//! stored before anything is done for it, with the place in the log from which on its work would be found; its answer
//! before it is given. It must never know what a request asks for.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_core::clock::SharedClock;
use muster_core::journal::Journal;
use muster_core::registry::{DocumentChange, Registry};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::{Collection, Means};
use crate::error::Error;

/// How long a key is remembered, in milliseconds.
const KEPT_MS: i64 = 24 * 60 * 60 * 1_000;
/// Most keys that are remembered; then the oldest go.
const KEYS_COUNT_MAX: usize = 100_000;
/// Most bytes of answers that are remembered; then the oldest go.
const ANSWERS_BYTES_MAX: usize = 64 << 20;
/// Most keys that one request forgets, so that none waits for many.
const FORGOTTEN_COUNT_MAX: usize = 256;

/// A key of one caller, hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestKey([u8; 32]);

impl RequestKey {
    /// The key that `caller`, known by `means`, wrote.
    pub fn new(means: Means, caller: &str, key: &str) -> Self {
        let means: &[u8] = match means {
            Means::Nothing => b"nothing",
            Means::Key => b"key",
            Means::Token => b"token",
            Means::Local => b"local",
        };
        Self(hash(&[means, caller.as_bytes(), key.as_bytes()]))
    }

    /// The hash.
    pub const fn bytes(&self) -> [u8; 32] {
        self.0
    }

    fn id(&self) -> String {
        hex(&self.0)
    }

    fn from_id(id: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if id.len() != 64 || !id.is_ascii() {
            return None;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(id.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

/// SHA-256 over parts, each with its length, so that no two lists of parts are one.
pub fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP's status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Where in the log to look for what an earlier attempt did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Search {
    /// Nothing is before this.
    pub from: u64,
    /// Nothing is from here on.
    pub until: u64,
}

/// What a key stands for.
#[derive(Debug)]
pub enum Begun {
    /// Nothing is done yet, or not all: look, do the rest, and say what was answered.
    Do(UnderWay),
    /// This was answered.
    Again(Answer),
    /// An earlier request with the key is not at its end.
    UnderWay,
    /// The key was given to another request.
    Other,
}

/// As it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    /// What was asked, hashed.
    request: String,
    /// Which log the place is in.
    log: String,
    from: u64,
    at_ms: i64,
    answer: Option<StoredAnswer>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct StoredAnswer {
    status: u16,
    bytes: usize,
}

#[derive(Debug, Clone)]
struct Entry {
    request: [u8; 32],
    from: u64,
    at_ms: i64,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    UnderWay,
    /// It ended without an answer that is kept: by a crash, or because the log took not all of it.
    Unanswered {
        until: u64,
    },
    Answered(StoredAnswer),
}

#[derive(Debug, Default)]
struct Known {
    keys: HashMap<RequestKey, Entry>,
    /// Those that are not under way, oldest first.
    ended: BTreeSet<(i64, RequestKey)>,
    answers_bytes: usize,
}

impl Known {
    fn end(&mut self, key: RequestKey, mut entry: Entry, state: State) {
        entry.state = state;
        self.ended.insert((entry.at_ms, key));
        if let State::Answered(answer) = state {
            self.answers_bytes += answer.bytes;
        }
        self.keys.insert(key, entry);
    }

    fn take(&mut self, key: &RequestKey) -> Option<Entry> {
        let entry = self.keys.remove(key)?;
        self.ended.remove(&(entry.at_ms, *key));
        if let State::Answered(answer) = entry.state {
            self.answers_bytes -= answer.bytes;
        }
        Some(entry)
    }

    /// The oldest, as far as their time is over or there are too many.
    fn forget(&mut self, now_ms: i64, keys_max: usize, bytes_max: usize) -> Vec<RequestKey> {
        let mut forgotten = Vec::new();
        while let Some((at_ms, key)) = self.ended.first().copied() {
            let is_over = at_ms.saturating_add(KEPT_MS) <= now_ms;
            let are_too_many = self.keys.len() > keys_max || self.answers_bytes > bytes_max;
            if forgotten.len() >= FORGOTTEN_COUNT_MAX || !(is_over || are_too_many) {
                break;
            }
            self.take(&key);
            forgotten.push(key);
        }
        forgotten
    }
}

/// All keys that are remembered.
#[derive(Debug)]
pub struct Requests {
    known: Mutex<Known>,
    stored: Collection<Stored>,
    answers: Collection<String>,
    journal: Journal,
    clock: Clock,
    storing: tokio::sync::Mutex<()>,
}

struct Clock(SharedClock);

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl Requests {
    /// Reads what is stored. What an earlier process left without an answer is in the log before its end now.
    ///
    /// # Errors
    /// The registry cannot be read, or holds what this program does not understand.
    pub fn load(registry: &Registry, journal: &Journal, clock: &SharedClock) -> Result<Self, Error> {
        let stored = Collection::<Stored>::new("requests", registry);
        let mut known = Known::default();
        let (log, next) = (format!("{:032x}", journal.log_id()), journal.next_offset());
        for (id, found) in stored.load()? {
            let parsed = RequestKey::from_id(&id).zip(RequestKey::from_id(&found.request));
            let Some((key, RequestKey(request))) = parsed else {
                tracing::warn!(id, "a remembered request cannot be understood; it is forgotten");
                continue;
            };
            // Another log has none of its work.
            let (from, until) = if found.log == log { (found.from, next) } else { (0, 0) };
            let state = found.answer.map_or(State::Unanswered { until }, State::Answered);
            let entry = Entry { request, from, at_ms: found.at_ms, state };
            known.end(key, entry, state);
        }
        let answers = Collection::new("request_answers", registry);
        let (journal, clock) = (journal.clone(), Clock(clock.clone()));
        let storing = tokio::sync::Mutex::new(());
        Ok(Self { known: Mutex::new(known), stored, answers, journal, clock, storing })
    }

    /// What is to be done for a request with this key; `request` is what it asks, hashed. Where something is, the key
    /// is durable when this returns.
    ///
    /// # Errors
    /// The registry refused; nothing is to be done then.
    pub async fn begin(self: &Arc<Self>, key: RequestKey, request: [u8; 32]) -> Result<Begun, Error> {
        // What is stored changes in the order in which what is known does.
        let _in_order = self.storing.lock().await;
        let now_ms = self.clock.0.wall_ms();
        let (under_way, forgotten) = {
            let mut known = self.known();
            let found = known.keys.get(&key).filter(|it| it.at_ms.saturating_add(KEPT_MS) > now_ms).cloned();
            let (entry, search, is_reserved) = match found {
                Some(entry) if entry.request != request => return Ok(Begun::Other),
                Some(Entry { state: State::UnderWay, .. }) => return Ok(Begun::UnderWay),
                Some(Entry { state: State::Answered(answer), .. }) => {
                    drop(known);
                    return self.answered(&key, answer);
                }
                Some(entry @ Entry { state: State::Unanswered { until }, from, .. }) => {
                    (Entry { state: State::UnderWay, ..entry }, Search { from, until }, true)
                }
                None => {
                    let from = self.journal.next_offset();
                    let entry = Entry { request, from, at_ms: now_ms, state: State::UnderWay };
                    (entry, Search { from, until: from }, false)
                }
            };
            known.take(&key);
            known.keys.insert(key, entry.clone());
            let forgotten = known.forget(now_ms, KEYS_COUNT_MAX, ANSWERS_BYTES_MAX);
            (UnderWay { requests: Arc::clone(self), key, entry, search, is_reserved }, forgotten)
        };
        self.reserve(under_way, &forgotten).await.map(Begun::Do)
    }

    async fn reserve(&self, mut it: UnderWay, forgotten: &[RequestKey]) -> Result<UnderWay, Error> {
        let mut changes = self.removed(forgotten);
        changes.push(self.stored.put(&it.key.id(), &self.as_stored(&it.entry, None))?);
        self.stored.commit(changes).await?;
        it.is_reserved = true;
        Ok(it)
    }

    fn answered(&self, key: &RequestKey, answer: StoredAnswer) -> Result<Begun, Error> {
        let body = self.answers.one(&key.id())?;
        // One that was forgotten meanwhile is as one whose time was over.
        Ok(body.map_or(Begun::UnderWay, |body| Begun::Again(Answer { status: answer.status, body })))
    }

    fn removed(&self, keys: &[RequestKey]) -> Vec<DocumentChange> {
        let ids = keys.iter().map(RequestKey::id);
        ids.flat_map(|id| [self.stored.remove(&id), self.answers.remove(&id)]).collect()
    }

    fn as_stored(&self, entry: &Entry, answer: Option<StoredAnswer>) -> Stored {
        let log = format!("{:032x}", self.journal.log_id());
        Stored { request: hex(&entry.request), log, from: entry.from, at_ms: entry.at_ms, answer }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being done. Dropped without an answer, the next one with its key does what is left.
#[derive(Debug)]
pub struct UnderWay {
    requests: Arc<Requests>,
    key: RequestKey,
    entry: Entry,
    search: Search,
    /// Whether it is stored: else nothing was done for it.
    is_reserved: bool,
}

impl UnderWay {
    /// Where an earlier attempt's work would be.
    pub const fn search(&self) -> Search {
        self.search
    }

    /// Remembers what is about to be answered. Where that cannot be stored, the same request again finds all of its
    /// work done.
    pub async fn answer(self, answer: &Answer) {
        let stored = StoredAnswer { status: answer.status, bytes: answer.body.len() };
        let requests = Arc::clone(&self.requests);
        let id = self.key.id();
        let document = requests.stored.put(&id, &requests.as_stored(&self.entry, Some(stored)));
        let changes =
            document.and_then(|document| Ok(vec![document, requests.answers.put(&id, &answer.body)?]));
        let committed = match changes {
            Ok(changes) => requests.stored.commit(changes).await,
            Err(error) => Err(error),
        };
        match committed {
            Ok(()) => {
                let mut known = requests.known();
                known.end(self.key, self.entry.clone(), State::Answered(stored));
            }
            Err(error) => {
                tracing::warn!(%error, "the answer to a request with a key could not be remembered")
            }
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut known = self.requests.known();
        let is_under_way = known.keys.get(&self.key).is_some_and(|it| matches!(it.state, State::UnderWay));
        if !is_under_way {
            return;
        }
        if self.is_reserved {
            let until = self.requests.journal.next_offset();
            known.end(self.key, self.entry.clone(), State::Unanswered { until });
        } else {
            known.keys.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use muster_core::clock::ManualClock;
    use muster_core::log::{LogConfig, RealDisk};

    use super::*;

    struct Home {
        dir: tempfile::TempDir,
        clock: Arc<ManualClock>,
        journal: Journal,
    }

    impl Home {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            let clock = ManualClock::at(1_000_000);
            let log = LogConfig::new(dir.path().join("log"));
            let (journal, _) = Journal::open(log, RealDisk::shared(), clock.clone()).expect("a journal");
            Self { dir, clock, journal }
        }

        fn load(&self) -> Arc<Requests> {
            let registry = Registry::open(&self.dir.path().join("registry.db")).expect("a registry");
            let clock: SharedClock = self.clock.clone();
            Arc::new(Requests::load(&registry, &self.journal, &clock).expect("requests"))
        }
    }

    fn key(caller: &str) -> RequestKey {
        RequestKey::new(Means::Key, caller, "k")
    }

    async fn begin(requests: &Arc<Requests>, caller: &str, request: u8) -> Begun {
        requests.begin(key(caller), [request; 32]).await.expect("stored")
    }

    #[tokio::test]
    async fn an_answer_is_given_again_also_by_the_next_process() {
        let home = Home::new();
        let requests = home.load();
        let Begun::Do(under_way) = begin(&requests, "me", 1).await else { panic!("nothing to do") };
        assert!(matches!(begin(&requests, "me", 1).await, Begun::UnderWay));
        assert!(matches!(begin(&requests, "me", 2).await, Begun::Other));
        assert!(matches!(begin(&requests, "you", 2).await, Begun::Do(_)), "another caller's key is another");
        let answer = Answer { status: 202, body: "[1]".to_owned() };
        under_way.answer(&answer).await;
        for requests in [requests, home.load()] {
            assert!(matches!(begin(&requests, "me", 1).await, Begun::Again(it) if it == answer));
            assert!(matches!(begin(&requests, "me", 2).await, Begun::Other));
        }
        home.clock.advance(Duration::from_hours(24));
        assert!(matches!(begin(&home.load(), "me", 2).await, Begun::Do(_)), "its time is over");
    }

    #[tokio::test]
    async fn what_has_no_answer_is_looked_for_from_where_it_began() {
        let home = Home::new();
        let requests = home.load();
        let Begun::Do(under_way) = begin(&requests, "me", 1).await else { panic!("nothing to do") };
        let from = under_way.search().from;
        assert_eq!(under_way.search(), Search { from, until: from }, "nobody was here before");
        for _ in 0..3 {
            let event = muster_core::event::NewEvent {
                timestamp_ms: 0,
                kind: muster_core::event::EventKind::MessagePublish,
                topic: "t".to_owned(),
                body: muster_core::event::proto::Event::default(),
            };
            home.journal.append(event).await.expect("an event");
        }
        // As after a crash, and as after a failure.
        let Begun::Do(again) = begin(&home.load(), "me", 1).await else { panic!("nothing to do") };
        assert_eq!(again.search(), Search { from, until: from + 3 });
        drop(under_way);
        let Begun::Do(again) = begin(&requests, "me", 1).await else { panic!("nothing to do") };
        assert_eq!(again.search(), Search { from, until: from + 3 });
    }

    #[test]
    fn the_oldest_make_room() {
        let mut known = Known::default();
        for at_ms in 0..5 {
            let state = State::Answered(StoredAnswer { status: 200, bytes: 10 });
            let entry = Entry { request: [0; 32], from: 0, at_ms, state };
            known.end(key(&at_ms.to_string()), entry, state);
        }
        let names = |it: Vec<RequestKey>| {
            let name = |key_: &RequestKey| (0..5).find(|n: &i32| key(&n.to_string()) == *key_);
            it.iter().filter_map(name).collect::<Vec<_>>()
        };
        assert_eq!(names(known.forget(5, 4, 100)), [0], "one too many");
        assert_eq!(names(known.forget(5, 4, 20)), [1, 2], "too many bytes");
        assert_eq!(names(known.forget(3 + KEPT_MS, 4, 100)), [3], "their time is over");
        assert_eq!((known.answers_bytes, known.keys.len(), known.ended.len()), (10, 1, 1));
    }
}
