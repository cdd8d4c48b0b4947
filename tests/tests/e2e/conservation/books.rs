//! What was sent, and whether all of it is where it belongs. It must never know a target.

use std::collections::{BTreeSet, HashSet};

use muster_tests::Muster;
use muster_tests::mqtt::Progress;
use serde_json::Value;

use super::target::{Arrived, POISON};

/// One message in so many is refused.
const POISON_EVERY: u64 = 500;
/// How many examples of what is wrong are shown.
const SHOWN: usize = 10;
/// Letters in one answer.
const PAGE: usize = 1_000;

/// A message: who sent it, and the number that no other message of theirs has. What was not acknowledged is never sent
/// again under its number, so each attempt is a message of its own.
pub(super) type Message = (String, u64);

/// What each client has sent, and what of it was acknowledged.
#[derive(Debug, Default)]
pub(super) struct Sent {
    next: Vec<u64>,
    acked: HashSet<Message>,
}

impl Sent {
    pub(super) fn new(clients: usize) -> Self {
        Self { next: vec![0; clients], acked: HashSet::new() }
    }

    /// The number of the next message of a client.
    pub(super) fn next(&self, client: usize) -> u64 {
        self.next[client]
    }

    /// How many messages were sent, whether or not they arrived anywhere.
    pub(super) fn count(&self) -> u64 {
        self.next.iter().sum()
    }

    pub(super) fn acked(&self) -> usize {
        self.acked.len()
    }

    /// Notes how far a series came that began at [`Sent::next`].
    pub(super) fn note(&mut self, client: usize, progress: Progress) {
        let first = self.next[client];
        self.acked.extend((first..first + progress.acked as u64).map(|n| (name(client), n)));
        self.next[client] += progress.sent as u64;
    }

    /// Every message that was ever sent.
    fn all(&self) -> BTreeSet<Message> {
        let of = |(client, next): (usize, &u64)| (0..*next).map(move |n| (name(client), n));
        self.next.iter().enumerate().flat_map(of).collect()
    }
}

/// A client's name.
pub(super) fn name(client: usize) -> String {
    format!("c{client}")
}

/// What a message says.
pub(super) fn payload(client: usize, n: u64) -> String {
    if is_poison(&name(client), n) {
        return format!("{{\"n\":{n},\"v\":\"{POISON}\",\"mark\":\"{POISON}\"}}");
    }
    format!("{{\"n\":{n},\"v\":{n}}}")
}

/// Whether the target, or the rule, is to refuse it.
fn is_poison(client: &str, n: u64) -> bool {
    let number: u64 = client.trim_start_matches('c').parse().expect("one of our clients");
    // Not the same number at each client, and some early ones.
    (n + number * 31 + 7).is_multiple_of(POISON_EVERY)
}

/// The messages of the dead letters of the one rule, each letter once.
pub(super) async fn dead_letters(muster: &Muster) -> Vec<Message> {
    let (mut messages, mut after) = (Vec::new(), 0);
    loop {
        let page = muster.json(&format!("/api/v1/dead-letters?limit={PAGE}&after={after}")).await;
        let letters = page["data"].as_array().expect("letters").clone();
        for letter in &letters {
            after = letter["id"].as_u64().expect("a number");
            let whole = muster.json(&format!("/api/v1/dead-letters/{after}")).await;
            let columns = &whole["columns"];
            let payload = columns["payload"].as_str().expect("a payload");
            let payload: Value = serde_json::from_str(payload).expect("JSON");
            let client = columns["clientid"].as_str().expect("a client").to_owned();
            messages.push((client, payload["n"].as_u64().expect("a number")));
        }
        if letters.len() < PAGE {
            return messages;
        }
    }
}

/// Everything that there is to compare.
pub(super) struct Findings {
    /// What was sent and acknowledged.
    pub(super) sent: Sent,
    /// What the log has.
    pub(super) logged: Vec<Message>,
    /// What the target has.
    pub(super) rows: Vec<Arrived>,
    /// Whether their order counts.
    pub(super) ordered: bool,
    /// What the dead letters hold.
    pub(super) dead: Vec<Message>,
    /// What the pipeline says of itself.
    pub(super) pipeline: Value,
}

impl Findings {
    /// Checks all of it.
    ///
    /// # Panics
    /// When a message is lost, doubled, invented or out of order, or the books are wrong.
    pub(super) fn check(self) {
        let Self { sent, logged, rows, ordered, dead, pipeline } = self;
        let log: BTreeSet<Message> = logged.iter().cloned().collect();
        assert_eq!(log.len(), logged.len(), "the log has a message twice");
        none("acknowledged and not in the log", sent.acked.iter().filter(|it| !log.contains(*it)));
        none("in the log and never sent", log.difference(&sent.all()));

        let rows = first_of_each(rows);
        let mut seen = BTreeSet::new();
        none("in the target twice", rows.iter().filter(|it| !seen.insert((*it).clone())));
        let poison: BTreeSet<Message> =
            log.iter().filter(|(client, n)| is_poison(client, *n)).cloned().collect();
        let expected: BTreeSet<Message> = log.difference(&poison).cloned().collect();
        none("lost: in the log and not in the target", expected.difference(&seen));
        none("in the target and not to be there", seen.difference(&expected));

        let letters: BTreeSet<Message> = dead.iter().cloned().collect();
        assert_eq!(letters.len(), dead.len(), "a message has two dead letters");
        none("refused and in no dead letter", poison.difference(&letters));
        none("dead and should not be", letters.difference(&poison));
        if ordered {
            let mut last = std::collections::HashMap::new();
            let later =
                |(client, n): &&Message| last.insert(client.clone(), *n).is_some_and(|before| before > *n);
            none("after a later message of the same client", rows.iter().filter(later));
        }

        let books = ["matched", "delivered", "dead", "pending"].map(|name| pipeline[name].as_u64());
        let exact = [log.len(), expected.len(), poison.len(), 0].map(|count| Some(count as u64));
        assert_eq!(books, exact, "matched, delivered, dead, pending: {pipeline}");
    }
}

/// Client and number of a message in the log.
pub(super) fn message((topic, payload): (&str, &[u8])) -> Message {
    let payload: Value = serde_json::from_slice(payload).expect("JSON");
    let client = topic.split('/').nth(1).expect("a client");
    (client.to_owned(), payload["n"].as_u64().expect("a number"))
}

/// The rows without repetitions that their id gives away, in the order of their first arrival.
fn first_of_each(rows: Vec<Arrived>) -> Vec<Message> {
    let mut ids = HashSet::new();
    let news = rows.into_iter().filter(|row| row.id.is_empty() || ids.insert(row.id.clone()));
    news.map(|row| (row.client, row.n)).collect()
}

fn none<'a>(what: &str, found: impl Iterator<Item = &'a Message>) {
    let found: Vec<_> = found.collect();
    assert!(found.is_empty(), "{} {what}: {:?}", found.len(), &found[..found.len().min(SHOWN)]);
}

mod tests {
    use serde_json::json;

    use super::*;

    /// One client has sent four messages, of which the last was not acknowledged, and another one that is poison.
    fn findings() -> Findings {
        let mut sent = Sent::new(2);
        sent.note(0, Progress { sent: 4, acked: 3 });
        sent.note(1, Progress { sent: 463, acked: 463 });
        let of = |client: &str, numbers: std::ops::Range<u64>| {
            numbers.map(|n| (client.to_owned(), n)).collect::<Vec<_>>()
        };
        let logged = [of("c0", 0..4), of("c1", 0..463)].concat();
        let rows = logged.iter().filter(|(client, n)| !is_poison(client, *n));
        let rows = rows.map(|(client, n)| Arrived { client: client.clone(), n: *n, id: String::new() });
        let dead = vec![("c1".to_owned(), 462)];
        let pipeline = json!({"matched": 467, "delivered": 466, "dead": 1, "pending": 0});
        Findings { sent, rows: rows.collect(), logged, ordered: true, dead, pipeline }
    }

    #[test]
    fn the_oracle_sees_each_kind_of_wrong() {
        findings().check();
        type Wrong = fn(&mut Findings);
        let wrongs: [(&str, Wrong); 9] = [
            ("an acknowledged message that is nowhere", |it| drop(it.logged.remove(0))),
            ("a message that nobody sent", |it| it.logged.push(("c0".to_owned(), 4))),
            ("a row that is lost", |it| drop(it.rows.remove(0))),
            ("a row that is there twice", |it| it.rows.push(it.rows[0].clone())),
            ("a row that nobody sent", |it| it.rows.push(Arrived::new("c0", 7))),
            ("rows out of order", |it| it.rows.swap(0, 1)),
            ("a refused row that is nowhere", |it| it.dead.clear()),
            ("a letter for a row that was well", |it| it.dead.push(("c0".to_owned(), 1))),
            ("wrong books", |it| it.pipeline["delivered"] = 467.into()),
        ];
        for (what, wrong) in wrongs {
            let mut findings = findings();
            wrong(&mut findings);
            let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| findings.check())).is_err();
            assert!(seen, "not noticed: {what}");
        }
        let mut repeated = findings();
        repeated.rows.iter_mut().for_each(|row| row.id = format!("{}/{}", row.client, row.n));
        repeated.rows.push(repeated.rows[0].clone());
        repeated.check();
    }
}
