//! Requests with an `Idempotency-Key`: published once however often they come, also over kill -9 in the middle.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use muster_core::event::EventKind;
use muster_tests::muster::send_keyed;
use muster_tests::{Home, Muster, PATIENCE, long, seed, until};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const ONE: &str = "/api/v5/publish";
const BULK: &str = "/api/v5/publish/bulk";

async fn post(muster: &Muster, path: &str, key: &str, body: &Value) -> (u16, String, bool) {
    muster.send_keyed(path, key, body).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_again_gets_its_answer_and_publishes_nothing() {
    let home = Home::new();
    let muster = home.start().await;
    let one = json!({"topic": "a", "payload": "1"});
    let many = json!([{"topic": "a", "payload": "2"}, {"topic": "a", "payload": "3"}]);
    let first = post(&muster, ONE, "one", &one).await;
    assert_eq!((first.0, first.2), (202, false), "{first:?}");
    let (again, other) = (post(&muster, ONE, "one", &one).await, post(&muster, ONE, "two", &one).await);
    assert_eq!((again.0, &again.1, again.2), (202, &first.1, true));
    assert_eq!((other.0, other.2), (202, false), "another key is another request");
    let bulk = post(&muster, BULK, "bulk", &many).await;
    assert_eq!((bulk.0, bulk.2), (202, false), "{bulk:?}");

    // The key of another request, and what is no key.
    for (path, body) in [(ONE, json!({"topic": "a", "payload": "x"})), (BULK, json!([one]))] {
        let (status, answer, _) = post(&muster, path, "one", &body).await;
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!((status, &answer["code"]), (422, &json!("IDEMPOTENCY_KEY_REUSED")));
    }
    for key in ["", "a b", &"k".repeat(256)] {
        let (status, answer, _) = post(&muster, ONE, key, &one).await;
        assert!(status == 400 && answer.contains("Idempotency-Key"), "{key:?}: {status} {answer}");
    }
    // What was refused has used up no key.
    let wrong = json!([{"topic": "a", "payload": "4"}, {"topic": "+", "payload": ""}]);
    assert_eq!(post(&muster, BULK, "mended", &wrong).await.0, 400);
    let right = json!([{"topic": "a", "payload": "4"}]);
    assert_eq!(post(&muster, BULK, "mended", &right).await.0, 202);

    // Answers survive the process, however it ends.
    muster.kill().await;
    let muster = home.start().await;
    assert_eq!(post(&muster, BULK, "bulk", &many).await, (bulk.0, bulk.1, true));
    muster.stop().await;
    let log = home.log().await;
    let payloads: Vec<_> = log.publishes().map(|(_, it)| String::from_utf8_lossy(it).into_owned()).collect();
    assert_eq!(payloads, ["1", "1", "2", "3", "4"]);
    assert_eq!(log.of(EventKind::Admin).count(), 4, "one for each request that published");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_its_callers_alone() {
    let home = Home::new();
    let mut callers = Vec::new();
    for name in ["one", "two"] {
        let order = ["key", "add", "--name", name, "--role", "publisher"];
        let output = home.command(&order).output().await.expect("a command");
        let text = String::from_utf8(output.stdout).expect("text");
        let of = |prefix: &str| {
            text.lines().find_map(|it| it.strip_prefix(prefix)).expect("a line").trim().to_owned()
        };
        callers.push((of("key:"), of("secret:")));
    }
    let muster = home.start().await;
    let client = muster_tests::muster::http_client();
    for (n, (id, secret)) in callers.iter().enumerate() {
        let request = client.post(format!("http://{}{ONE}", muster.http)).basic_auth(id, Some(secret));
        let body = json!({"topic": "a", "payload": n.to_string()});
        let answer = request.header("idempotency-key", "same").json(&body).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 202, "caller {n} has not used the key");
    }
    muster.stop().await;
    assert_eq!(home.log().await.publishes().count(), 2);
}

/// Of requests that come at once, one publishes; the others are told to come again, or get its answer.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_first_is_under_way_the_others_are_told_so() {
    let home = Home::new();
    let muster = home.start().await;
    let messages: Vec<_> = (0..5_000).map(|n| json!({"topic": "m", "payload": n.to_string()})).collect();
    let body = Arc::new(json!(messages));
    let mut rounds = 0;
    until("some request comes while another is under way", PATIENCE, async || {
        let mut under_way = JoinSet::new();
        for _ in 0..4 {
            let (server, key, body) = (muster.http, format!("round-{rounds}"), Arc::clone(&body));
            under_way.spawn(async move { send_keyed(server, BULK, &key, &body).await.expect("an answer") });
        }
        rounds += 1;
        let answers = under_way.join_all().await;
        let refused = answers.iter().filter(|(status, ..)| *status == 409).count();
        let mut good = answers.iter().filter(|(status, ..)| *status == 202).map(|(_, body, _)| body);
        let first = good.next().expect("one publishes");
        assert!(good.all(|it| it == first), "all answers are the first one's");
        assert_eq!(answers.iter().filter(|(status, _, again)| *status == 202 && !again).count(), 1);
        (refused > 0).then_some(())
    })
    .await;
    muster.stop().await;
    assert_eq!(home.log().await.publishes().count(), rounds * 5_000);
}

/// Two requests of 2,000 messages at a time, the process killed at some moment while they are under way, and both sent
/// again until they are answered: each message is in the log once.
#[tokio::test(flavor = "multi_thread")]
async fn kills_in_the_middle_lose_nothing_and_double_nothing() {
    const MESSAGES: usize = 2_000;
    /// What a message takes in the log, about.
    const RECORD_BYTES: u64 = 180;
    let mut random = StdRng::seed_from_u64(seed());
    let rounds = if long() { 60 } else { 6 };
    let home = Home::new();
    let mut cut_short = 0;
    for round in 0..rounds {
        let muster = home.start().await;
        let bodies = ["x", "y"].map(|name| {
            let payload = |n: usize| format!("{round}-{name}-{n}");
            Arc::new(json!(
                (0..MESSAGES).map(|n| json!({"topic": name, "payload": payload(n)})).collect::<Vec<_>>()
            ))
        });
        let mut requests = JoinSet::new();
        for (name, body) in bodies.iter().enumerate() {
            let (server, key, body) = (muster.http, format!("{round}-{name}"), Arc::clone(body));
            requests.spawn(async move { send_keyed(server, BULK, &key, &body).await.is_ok() });
        }
        let enough = log_bytes(&home) + random.random_range(0..2 * MESSAGES as u64 * RECORD_BYTES);
        while log_bytes(&home) < enough && !requests.is_empty() {
            while requests.try_join_next().is_some() {}
            tokio::task::yield_now().await;
        }
        muster.kill().await;
        let answered = requests.join_all().await.into_iter().filter(|it| *it).count();
        let mut muster = home.start().await;
        if random.random_bool(0.3) {
            // Once more, while it looks for what it has published.
            let (key, patience) = (format!("{round}-0"), Duration::from_millis(random.random_range(1..50)));
            drop(tokio::time::timeout(patience, send_keyed(muster.http, BULK, &key, &bodies[0])).await);
            muster.kill().await;
            muster = home.start().await;
        }
        for (name, body) in bodies.iter().enumerate() {
            let key = format!("{round}-{name}");
            let (status, answer, _) = post(&muster, BULK, &key, body).await;
            let outcomes: Vec<Value> = serde_json::from_str(&answer).expect("a list");
            assert_eq!((status, outcomes.len()), (202, MESSAGES));
            assert_eq!(post(&muster, BULK, &key, body).await, (status, answer, true));
        }
        cut_short += usize::from(muster.output().iter().any(|it| it.contains("were published already")));
        eprintln!(
            "round {round}: {answered} of 2 answered before the kill; {cut_short} rounds cut short so far"
        );
        muster.stop().await;
    }
    let log = home.log().await;
    let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
    for (_, payload) in log.publishes() {
        *seen.entry(payload.to_vec()).or_default() += 1;
    }
    assert_eq!(seen.len(), rounds * 2 * MESSAGES, "each is there");
    assert!(seen.values().all(|count| *count == 1), "none is doubled");
    assert!(cut_short > 0, "no kill was in the middle of a request");
}

fn log_bytes(home: &Home) -> u64 {
    let files = std::fs::read_dir(home.data().join("log")).into_iter().flatten().flatten();
    files.filter_map(|it| it.metadata().ok()).map(|it| it.len()).sum()
}
