//! What the webhook sink makes of rows: bodies, headers and addresses by templates, CloudEvents, and what it refuses,
//! each seen by a receiver on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

mod support;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use expect_test::{Expect, expect};
use muster_core::clock::ManualClock;
use muster_core::event::NewEvent;
use muster_core::value::{Row, Value};
use muster_sinks::database::Databases;
use muster_sinks::{ErrorKind, Outcome, Sink, SinkEnv, SinkError};
use support::{batch, opened, publish, refused, row};

/// What came, as text: the request's line, the headers that matter, the body.
type Came = Arc<Mutex<String>>;

async fn take(State(came): State<Came>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) {
    let mut came = came.lock().unwrap();
    came.push_str(&format!("{method} {uri}\n"));
    let dull = ["host", "user-agent", "accept", "content-length", "webhook-timestamp", "idempotency-key"];
    for (name, value) in headers.iter().filter(|(name, _)| !dull.contains(&name.as_str())) {
        came.push_str(&format!("{name}: {}\n", value.as_bytes().escape_ascii()));
    }
    came.push_str(&String::from_utf8_lossy(&body));
    came.push_str("\n\n");
}

struct Receiver {
    came: Came,
    origin: String,
}

impl Receiver {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let came = Came::default();
        let router = Router::new().fallback(take).with_state(came.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { came, origin }
    }

    async fn sink(&self, path: &str, options: &[(&str, &str)]) -> Result<Box<dyn Sink>, SinkError> {
        let env = SinkEnv {
            data_dir: "/nowhere".into(),
            databases: Databases::default(),
            clock: ManualClock::at(7_000),
        };
        let url = format!("{}{path}", self.origin);
        let url = [("url", &*url)];
        let options = if options.iter().any(|(name, _)| *name == "url") {
            options.to_vec()
        } else {
            [&url, options].concat()
        };
        opened("webhook", ("hot", None), &env, &options).await
    }
}

fn hot() -> (NewEvent, Row) {
    let json = r#"{"clientid":"pump/7 ü","temp":41.5,"m":{"a":[1]},"say":"\"hi\"\n","gone":null}"#;
    (publish("pump/7 ü", "x", 1_700_000_000_042), row(json))
}

async fn check(path: &str, options: &[(&str, &str)], rows: Vec<(NewEvent, Row)>, expected: Expect) {
    let receiver = Receiver::start().await;
    let mut sink = receiver.sink(path, options).await.unwrap();
    assert_eq!(refused(sink.deliver(&batch("hot", 0, rows)).await), [""; 0]);
    expected.assert_eq(receiver.came.lock().unwrap().trim_end());
}

#[tokio::test]
async fn a_template_makes_body_headers_and_address() {
    let options = [
        ("method", "PUT"),
        (
            "body",
            r#"{"text":"${clientid} says ${say}","temp":${temp},"m":${m},"n":${no},"id":"${event_id}.${rule}"}"#,
        ),
        ("header.X-Temp", "${temp} C"),
        ("header.X-None", "${gone}"),
        ("header.X-Fixed", "costs ${$}5"),
    ];
    let path = "/devices/${clientid}/state?t=${temp}&gone=${gone}";
    check(path, &options, vec![hot()], expect![[r#"
        PUT /devices/pump%2F7%20%C3%BC/state?t=41.5&gone=
        x-temp: 41.5 C
        content-type: application/json
        webhook-id: msg_ABCD0000000000000000000000000000_0_hot
        x-fixed: costs $5
        {"text":"pump/7 ü says \"hi\"\n","temp":41.5,"m":{"a":[1]},"n":null,"id":"ABCD0000000000000000000000000000.hot"}"#]])
    .await;
}

#[tokio::test]
async fn texts_and_lines() {
    let text = [("content_type", "text/plain"), ("body", "${clientid}: ${temp}"), ("batch", "true")];
    check(
        "/",
        &text,
        vec![hot(), hot()],
        expect![[r#"
        POST /
        content-type: text/plain
        webhook-id: batch_ABCD0000000000000000000000000000_0_ABCD0000000000000000000000000001_0_2_hot
        pump/7 ü: 41.5
        pump/7 ü: 41.5"#]],
    )
    .await;
    let lines = [("content_type", "application/x-ndjson"), ("batch", "true"), ("body", r#"{"t":${temp}}"#)];
    check(
        "/",
        &lines,
        vec![hot(), hot()],
        expect![[r#"
        POST /
        content-type: application/x-ndjson
        webhook-id: batch_ABCD0000000000000000000000000000_0_ABCD0000000000000000000000000001_0_2_hot
        {"t":41.5}
        {"t":41.5}"#]],
    )
    .await;
}

#[tokio::test]
async fn cloudevents_in_three_modes() {
    let body = [("body", r#"{"t":${temp}}"#)];
    let structured =
        [&body[..], &[("format", "cloudevents_structured"), ("ce_type", "com.example.${rule}")]].concat();
    check("/", &structured, vec![hot()], expect![[r#"
        POST /
        content-type: application/cloudevents+json
        webhook-id: msg_ABCD0000000000000000000000000000_0_hot
        {"specversion":"1.0","id":"ABCD0000000000000000000000000000.0","source":"/muster/rules/hot","type":"com.example.hot","time":"2023-11-14T22:13:20.042Z","subject":"pump/7 ü","partitionkey":"pump/7 ü","datacontenttype":"application/json","data":{"t":41.5}}"#]])
    .await;
    let binary =
        [&body[..], &[("format", "cloudevents_binary"), ("ce_source", "/plant/${clientid}")]].concat();
    check(
        "/",
        &binary,
        vec![hot()],
        expect![[r#"
        POST /
        ce-specversion: 1.0
        ce-id: ABCD0000000000000000000000000000.0
        ce-source: /plant/pump%252F7%2520%25C3%25BC
        ce-type: muster.message.publish
        ce-time: 2023-11-14T22:13:20.042Z
        ce-subject: pump/7%20%C3%BC
        ce-partitionkey: pump/7%20%C3%BC
        content-type: application/json
        webhook-id: msg_ABCD0000000000000000000000000000_0_hot
        {"t":41.5}"#]],
    )
    .await;
    let text = [("format", "cloudevents_batch"), ("content_type", "text/plain"), ("body", "${say}")];
    check("/", &text, vec![hot()], expect![[r#"
        POST /
        content-type: application/cloudevents-batch+json
        webhook-id: batch_ABCD0000000000000000000000000000_0_ABCD0000000000000000000000000000_0_1_hot
        [{"specversion":"1.0","id":"ABCD0000000000000000000000000000.0","source":"/muster/rules/hot","type":"muster.message.publish","time":"2023-11-14T22:13:20.042Z","subject":"pump/7 ü","partitionkey":"pump/7 ü","datacontenttype":"text/plain","data":"\"hi\"\n"}]"#]])
    .await;
}

#[tokio::test]
async fn rows_that_fit_into_no_request_are_refused_and_others_sent() {
    let receiver = Receiver::start().await;
    let headers = [("header.X-Say", "${say}"), ("idempotency_key", "false")];
    let mut sink = receiver.sink("/d/${clientid}", &headers).await.unwrap();
    let bad = |json: &str| (publish("a", "x", 0), row(json));
    let rows = vec![
        bad(r#"{"clientid":"a","say":"two\r\nInjected: 1"}"#),
        bad(r#"{"clientid":"a","say":"nul\u0000"}"#),
        bad(r#"{"clientid":"..","say":"x"}"#),
        bad(r#"{"clientid":".","say":"x"}"#),
        bad(r#"{"say":"x"}"#),
        bad(r#"{"clientid":"","say":"x"}"#),
        bad(r#"{"clientid":"../..//?#%2e","say":"größe\t1"}"#),
        (
            publish("a", "x", 0),
            [("clientid", Value::Str(vec![0xff].into())), ("say", "x".into())].into_iter().collect(),
        ),
    ];
    let reasons = refused(sink.deliver(&batch("hot", 0, rows)).await).join("\n");
    expect![[r#"
        the header `x-say` cannot hold what the row has for it
        the header `x-say` cannot hold what the row has for it
        the row would make `.` or `..` a part of the address's path
        the row would make `.` or `..` a part of the address's path
        the address needs `clientid`, for which the row has nothing
        the address needs `clientid`, for which the row has nothing"#]]
    .assert_eq(&reasons);
    let came = receiver.came.lock().unwrap().clone();
    let lines: Vec<_> =
        came.lines().filter(|line| line.starts_with("POST") || line.starts_with("x-say")).collect();
    expect![[r#"
        POST /d/..%2F..%2F%2F%3F%23%252e
        x-say: gr\xc3\xb6\xc3\x9fe\t1
        POST /d/%FF
        x-say: x"#]]
    .assert_eq(&lines.join("\n"));
    assert!(!came.contains("njected:") && !came.contains("idempotency-key"), "{came}");
}

#[tokio::test]
async fn addresses_inside_are_refused_when_connecting() {
    let receiver = Receiver::start().await;
    let port = receiver.origin.rsplit_once(':').unwrap().1;
    let refuse = ("private_ranges", "refuse");
    // A name that leads inside: known only once it is resolved.
    let url = format!("http://localhost:{port}/hook?token=hunter2");
    let mut sink = receiver.sink("", &[("url", &url), refuse]).await.unwrap();
    for _ in 0..2 {
        let error = match sink.deliver(&batch("hot", 0, vec![hot()])).await {
            Ok(Outcome::PerRow { error: Some(error), .. }) | Err(error) => error,
            other => panic!("{other:?}"),
        };
        let words = format!("{}; {}", error.in_words(), error.hint());
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{words}");
        assert!(words.contains("not a public one (loopback)") && words.contains("private_ranges"), "{words}");
        assert!(!words.contains("hunter2"), "{words}");
    }
    assert_eq!(sink.check().await.unwrap_err().kind(), ErrorKind::Misconfigured);
    assert_eq!(*receiver.came.lock().unwrap(), "", "nothing was sent");
    // A number is refused at once.
    for host in ["127.0.0.1", "[::1]", "[::ffff:10.0.0.1]", "0x7f000001", "169.254.169.254"] {
        let url = format!("http://{host}:{port}/");
        let error = receiver.sink("", &[("url", &url), refuse]).await.err().unwrap();
        assert!(error.in_words().contains("leads inside"), "{}", error.in_words());
    }
    // Without the guard the same name is fine.
    let mut sink = receiver.sink("", &[("url", &url)]).await.unwrap();
    assert_eq!(refused(sink.deliver(&batch("hot", 0, vec![hot()])).await), [""; 0]);
}

#[tokio::test]
async fn what_is_wrong_is_named_before_the_first_row() {
    let receiver = Receiver::start().await;
    let url = ("url", "https://u:secret1@x.example/${clientid}");
    let plain = ("url", "http://x.example/");
    let mut said = String::new();
    for options in [
        &[("url", "https://${host}/x")][..],
        &[("url", "https://x.example:${port}/x")],
        &[("url", "${url}")],
        &[url, ("batch", "true")],
        &[url, ("format", "xml")],
        &[url, ("format", "cloudevents_binary"), ("batch", "true")],
        &[plain, ("header.X", "${a}"), ("batch", "true")],
        &[plain, ("header.X", "${a}\r\nb: c")],
        &[plain, ("header.Content-Type", "text/plain")],
        &[plain, ("header.webhook-signature", "v1,x")],
        &[plain, ("body", r#"{"a": ${a}"#)],
        &[plain, ("body", r#"{"a": -${a}}"#)],
        &[plain, ("content_type", "text/plain")],
        &[plain, ("content_type", "json")],
        &[plain, ("ce_type", "x")],
        &[plain, ("format", "cloudevents_batch"), ("ce_source", "a b")],
        &[plain, ("method", "GET")],
        &[plain, ("cert_file", "x.pem")],
        &[url, ("key_file", "x.pem")],
        &[plain, ("secret", "whsec_AAAA secret2!")],
        &[plain, ("secret", "AAAA AAAA AAAA AAAA AAAA")],
        &[plain, ("secret", " ")],
        &[plain, ("retry_wait_max_ms", "5")],
    ] {
        said += &(receiver.sink("", options).await.err().unwrap().in_words() + "\n");
    }
    assert!(!said.contains("secret1") && !said.contains("secret2"), "a secret is shown");
    expect![[r#"
        option `url` may hold columns only in its path and its query
        option `url` may hold columns only in its path and its query
        option `url` may hold columns only in its path and its query
        option `url` holds columns, but a batch has many rows
        option `format` must be one of `json`, `cloudevents_structured`, `cloudevents_binary`, `cloudevents_batch`
        option `format` is one event a request; for `batch = 'true'` write `cloudevents_batch`
        option `header.x` holds columns, but a batch has many rows
        option `header.X` holds what a header cannot
        option `header.Content-Type` is the sink's own; write `content_type`
        option `header.webhook-signature` is the sink's own; write `secret`
        option `body` gives no JSON, which `content_type` promises: EOF while parsing an object at line 1 column 10
        option `body` gives no JSON, which `content_type` promises: invalid number at line 1 column 8
        option `content_type` is not of JSON, so the sink needs a `body`
        option `content_type` is no content type, e.g. `application/json`
        option `ce_type` is of no use without a `format` of CloudEvents
        option `ce_source` must be printable ASCII without blanks
        option `method` must be one of `POST`, `PUT`, `PATCH`
        option `cert_file` is of no use with http://
        option `key_file` needs a `cert_file`
        option `secret` must be `whsec_` and base64, e.g. of 32 random bytes
        option `secret` holds more than 4 secrets
        option `secret` must be `whsec_` and base64, e.g. of 32 random bytes
        option `retry_wait_max_ms` must be a whole number between 100 and 86400000
    "#]]
    .assert_eq(&said.replace("of the webhook sink `sink` ", ""));
}
