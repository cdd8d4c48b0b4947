//! The webhook sink against a real server on loopback that fails in every manner.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_core::clock::SystemClock;
use muster_sinks::database::Databases;
use muster_sinks::delivery::{
    DeliveryStore, LetterFilter, Pipeline, PipelineConfig, PipelineHandle, PipelineState, Start,
};
use muster_sinks::{PipelineId, SinkEnv, SinkSpec, build};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use support::{ByPayload, MemoryLog, publish, until};

/// A request as it came in.
#[derive(Clone)]
struct Received {
    headers: HeaderMap,
    body: String,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

type Answer = Box<dyn FnMut(usize, &Received) -> Response + Send>;

/// A receiver that answers as the test says.
#[derive(Clone)]
struct Receiver {
    received: Arc<Mutex<Vec<Received>>>,
    answer: Arc<Mutex<Answer>>,
    address: SocketAddr,
}

impl Receiver {
    async fn start(answer: impl FnMut(usize, &Received) -> Response + Send + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer: Answer = Box::new(answer);
        let receiver = Self { received: Arc::default(), answer: Arc::new(Mutex::new(answer)), address };
        let router = Router::new().route("/hook", post(take)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        receiver
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

async fn take(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> Response {
    let request = Received { headers, body: String::from_utf8(body.to_vec()).unwrap() };
    let number = {
        let mut received = receiver.received.lock().unwrap();
        received.push(request.clone());
        received.len() - 1
    };
    (receiver.answer.lock().unwrap())(number, &request)
}

fn ok() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

struct Running {
    pipeline: PipelineHandle,
    log: MemoryLog,
    store: DeliveryStore,
}

fn deliver(url: String, options: &[(&str, &str)], log: MemoryLog, store: DeliveryStore) -> Running {
    let clock = SystemClock::shared();
    let env = SinkEnv { data_dir: "/nowhere".into(), databases: Databases::default(), clock: clock.clone() };
    let mut options: BTreeMap<String, String> =
        options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    options.insert("url".into(), url);
    let spec = SinkSpec { kind: "webhook", name: "ops", target: None, rule: "hot", options: &options };
    let built = build(&spec, &env).unwrap();
    let config = PipelineConfig {
        id: PipelineId::new("hot", "ops", built.target),
        rule_version: "1".into(),
        retry_wait_max: muster_sinks::delivery::WAIT_MAX,
        start: Start::Earliest,
        paused: false,
        limits: built.limits,
    };
    let rng = SmallRng::seed_from_u64(1);
    let source = Arc::new(log.clone());
    let pipeline =
        Pipeline::spawn(config, source, Box::new(ByPayload), built.sink, store.clone(), clock, rng);
    Running { pipeline, log, store }
}

fn webhook(receiver: &Receiver, options: &[(&str, &str)], rows: usize) -> Running {
    let log = MemoryLog::default();
    for at in 0..rows {
        log.append(publish(["a", "b", "c"][at % 3], "hello", at as i64));
    }
    let url = format!("http://{}/hook", receiver.address);
    deliver(url, options, log, DeliveryStore::inline(Path::new(":memory:")))
}

impl Running {
    async fn settled(&self) {
        until("everything to be settled", async || self.pipeline.status().cursor == self.log.len()).await;
    }
}

#[tokio::test]
async fn a_row_is_a_signed_request() {
    let receiver = Receiver::start(|_, _| ok()).await;
    let secret = format!("whsec_{}", STANDARD.encode("0123456789abcdef0123456789abcdef"));
    let running = webhook(&receiver, &[("secret", &secret), ("header.X-Team", "ops")], 2);
    running.settled().await;
    let received = receiver.received();
    assert_eq!(received.len(), 2);
    assert_eq!(received[1].body, r#"{"clientid":"b","offset":1,"part":0,"payload":"hello"}"#);
    assert_eq!(received[1].header("webhook-id"), "msg_ABCD0000000000000000000000000001_0_hot");
    assert_eq!(received[1].header("content-type"), "application/json");
    assert_eq!(received[1].header("x-team"), "ops");
    let (id, at) = (received[1].header("webhook-id"), received[1].header("webhook-timestamp"));
    let signed = format!("{id}.{at}.{}", received[1].body);
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"0123456789abcdef0123456789abcdef");
    let signature = received[1].header("webhook-signature").strip_prefix("v1,").unwrap();
    ring::hmac::verify(&key, signed.as_bytes(), &STANDARD.decode(signature).unwrap()).unwrap();
}

#[tokio::test]
async fn trouble_is_tried_again_with_the_same_id_and_in_order() {
    let receiver = Receiver::start(|number, _| match number {
        0 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        1 => StatusCode::REQUEST_TIMEOUT.into_response(),
        2 => StatusCode::TOO_EARLY.into_response(),
        _ => ok(),
    })
    .await;
    let running = webhook(&receiver, &[], 5);
    running.settled().await;
    let ids: Vec<_> = receiver.received().iter().map(|one| one.header("webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), 8);
    assert!(ids[..4].iter().all(|id| *id == ids[0]), "{ids:?}");
    assert!(ids[3..].is_sorted(), "{ids:?}");
    let status = running.pipeline.status();
    assert_eq!((status.delivered, status.dead, status.failures), (5, 0, 0), "{status:?}");
    assert!(status.last_error.unwrap().contains("answered 425"), "the last trouble is kept");
}

#[tokio::test]
async fn a_refused_row_alone_goes_to_the_dead_letters() {
    let receiver = Receiver::start(|_, request| match request.body.contains(r#""offset":3,"#) {
        true => (StatusCode::UNPROCESSABLE_ENTITY, "temp is missing").into_response(),
        false => ok(),
    })
    .await;
    let running = webhook(&receiver, &[], 7);
    running.settled().await;
    assert_eq!(receiver.received().len(), 7);
    let status = running.pipeline.status();
    assert_eq!((status.matched, status.delivered, status.dead), (7, 6, 1));
    let letters = running.store.letters(LetterFilter::default(), 10).await.unwrap();
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    let reason = format!("http://{} answered 422 Unprocessable Entity: temp is missing", receiver.address);
    assert_eq!((letter.cursor.offset, letter.reason.as_str()), (3, reason.as_str()));
    assert!(letter.row_json.as_ref().unwrap().contains(r#""offset":3"#));
}

#[tokio::test]
async fn a_refused_batch_is_halved_down_to_the_row() {
    let receiver = Receiver::start(|_, request| match request.body.contains(r#""offset":5,"#) {
        true => StatusCode::BAD_REQUEST.into_response(),
        false => ok(),
    })
    .await;
    let running = webhook(&receiver, &[("batch", "true")], 16);
    running.settled().await;
    let status = running.pipeline.status();
    assert_eq!((status.matched, status.delivered, status.dead), (16, 15, 1));
    let accepted: usize = receiver
        .received()
        .iter()
        .filter(|one| !one.body.contains(r#""offset":5,"#))
        .map(|one| serde_json::from_str::<Vec<serde_json::Value>>(&one.body).unwrap().len())
        .sum();
    assert_eq!(accepted, 15, "each row once");
}

#[tokio::test]
async fn retry_after_is_obeyed() {
    let receiver = Receiver::start(|number, _| match number {
        0 => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "3600")]).into_response(),
        _ => ok(),
    })
    .await;
    let running = webhook(&receiver, &[], 1);
    until("the refusal", async || running.pipeline.status().state == PipelineState::Retrying).await;
    let status = running.pipeline.status();
    let now_ms = SystemClock::shared().wall_ms();
    let wait_ms = status.next_attempt_at_ms.unwrap() - now_ms;
    assert!((3_500_000..3_700_000).contains(&wait_ms), "{wait_ms}");
    // An operator who knows better ends the wait.
    running.pipeline.resume();
    running.settled().await;
}

#[tokio::test]
async fn gone_holds_until_an_operator_resumes() {
    let receiver = Receiver::start(|number, _| match number {
        0 => StatusCode::GONE.into_response(),
        _ => ok(),
    })
    .await;
    let running = webhook(&receiver, &[], 3);
    until("the hold", async || running.pipeline.status().state == PipelineState::Paused).await;
    let status = running.pipeline.status();
    assert_eq!((status.matched, status.pending, receiver.received().len()), (3, 3, 1), "{status:?}");
    running.pipeline.resume();
    running.settled().await;
    assert_eq!(running.pipeline.status().delivered, 3);
}

#[tokio::test]
async fn what_is_wrong_with_the_address_kills_no_row() {
    for (status, hint) in [
        (StatusCode::UNAUTHORIZED, "header.Authorization"),
        (StatusCode::NOT_FOUND, "options"),
        (StatusCode::FOUND, "redirects are not followed"),
    ] {
        let receiver = Receiver::start(move |number, _| match number {
            0 => (status, [("location", "/elsewhere")]).into_response(),
            _ => ok(),
        })
        .await;
        let running = webhook(&receiver, &[], 2);
        until("the trouble", async || running.pipeline.status().state == PipelineState::Stalled).await;
        let found = running.pipeline.status().hint.unwrap();
        assert!(found.contains(hint), "{status}: {found}");
        running.settled().await;
        assert_eq!((running.pipeline.status().delivered, running.pipeline.status().dead), (2, 0));
    }
}

#[tokio::test]
async fn nobody_listens_and_then_somebody_does() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let log = MemoryLog::default();
    log.append(publish("a", "hello", 0));
    let url = format!("http://user:hunter2@{address}/hook?token=hunter3");
    let running = deliver(url, &[], log, DeliveryStore::inline(Path::new(":memory:")));
    until("the trouble", async || running.pipeline.status().last_error.is_some()).await;
    let said = format!("{:?}", running.pipeline.status());
    assert!(said.contains("cannot be reached"), "{said}");
    assert!(!said.contains("hunter"), "a secret is shown: {said}");

    let receiver =
        Receiver { received: Arc::default(), answer: Arc::new(Mutex::new(Box::new(|_, _| ok()))), address };
    let router = Router::new().route("/hook", post(take)).with_state(receiver.clone());
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    running.settled().await;
    assert_eq!(receiver.received()[0].header("authorization"), "Basic dXNlcjpodW50ZXIy");
}

#[tokio::test]
async fn an_answer_that_never_comes_is_given_up() {
    // Takes connections and says nothing.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let log = MemoryLog::default();
    log.append(publish("a", "hello", 0));
    let running = deliver(url, &[("timeout_ms", "50")], log, DeliveryStore::inline(Path::new(":memory:")));
    until("the timeout", async || running.pipeline.status().failures >= 2).await;
    assert!(running.pipeline.status().last_error.unwrap().contains("did not answer in time"));
    running.pipeline.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn many_in_flight_keep_the_order_of_each_client() {
    let mut failures = 6;
    let receiver = Receiver::start(move |number, _| {
        if number % 3 == 1 && failures > 0 {
            failures -= 1;
            return StatusCode::BAD_GATEWAY.into_response();
        }
        ok()
    })
    .await;
    let running = webhook(&receiver, &[("in_flight", "8")], 90);
    running.settled().await;
    assert_eq!(running.pipeline.status().delivered, 90);
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for request in receiver.received() {
        let row: serde_json::Value = serde_json::from_str(&request.body).unwrap();
        let (client, offset) =
            (row["clientid"].as_str().unwrap().to_owned(), row["offset"].as_i64().unwrap());
        // A retry may repeat the offset that failed; nothing may come before it is through.
        let before = last.insert(client, offset);
        assert!(
            before.is_none_or(|before| offset == before || offset == before + 3),
            "{before:?} then {offset}"
        );
    }
}

#[tokio::test]
async fn a_batch_is_the_same_batch_after_a_crash() {
    let receiver = Receiver::start(|_, _| StatusCode::SERVICE_UNAVAILABLE.into_response()).await;
    let first = webhook(&receiver, &[("batch", "true"), ("batch_wait_ms", "0")], 10);
    until("the first attempt", async || !receiver.received().is_empty()).await;
    let Running { pipeline, log, store } = first;
    pipeline.kill().await;
    // More is there by the time of the second attempt, and would make another batch.
    for at in 10..30 {
        log.append(publish("a", "hello", at));
    }
    *receiver.answer.lock().unwrap() = Box::new(|_, _| ok());
    let before = receiver.received().len();
    let url = format!("http://{}/hook", receiver.address);
    let second = deliver(url, &[("batch", "true"), ("batch_wait_ms", "0")], log, store);
    second.settled().await;
    let received = receiver.received();
    let (first, again) = (&received[0], &received[before]);
    assert_eq!(first.header("webhook-id"), again.header("webhook-id"));
    assert_eq!(first.body, again.body);
}
