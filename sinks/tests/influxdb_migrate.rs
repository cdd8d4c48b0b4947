//! `muster migrate` for InfluxDB: databases and retention policies of a real InfluxDB 1, and the requests that
//! InfluxDB 2 alone understands, against a server of the test before the real one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

#[path = "support/influx.rs"]
mod influx;
#[path = "support/influx_sink.rs"]
mod influx_sink;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use expect_test::expect;
use influx::Database;
use influx_sink::{opened, row, target};
use muster_core::value::Value;
use muster_sinks::ErrorKind;
use muster_sinks::migrate::migrate;

async fn migrated(options: &[(&'static str, String)], more: &[(&str, &str)]) -> Vec<u32> {
    let mut target = target(options, more);
    let steps = migrate(target.as_mut(), false, |_| {}).await.unwrap();
    steps.iter().map(|step| step.version).collect()
}

#[tokio::test]
async fn what_a_step_says_is_what_the_options_say() {
    let url = || vec![("url", "http://localhost:8086".to_owned())];
    let v1 = |more: &[(&str, &str)]| target(&url(), &[&[("api", "v1"), ("database", "d b")], more].concat());
    let v2 = |more: &[(&str, &str)]| target(&url(), &[&[("org", "o"), ("bucket", "b")], more].concat());
    let mut said = String::new();
    for target in [
        v1(&[]),
        v1(&[("retention", "30d")]),
        v1(&[("retention", "2w"), ("retention_policy", "brief")]),
        v2(&[("retention", "36h")]),
    ] {
        let [step] = target.migrations().try_into().unwrap();
        said += &format!("{} {}: {}", step.version, step.name, step.text);
    }
    expect![[r#"
        1 database: CREATE DATABASE "d b" WITH DURATION INF
        1 database: CREATE DATABASE "d b" WITH DURATION 30d
        1 database: CREATE DATABASE "d b"; CREATE RETENTION POLICY "brief" ON "d b" DURATION 2w REPLICATION 1
        1 bucket: {
          "orgID": "${org_id}",
          "name": "b",
          "description": "rows of Muster's rules",
          "retentionRules": [{ "type": "expire", "everySeconds": 129600 }]
        }
    "#]]
    .assert_eq(&said);
}

#[tokio::test]
async fn a_database_is_made_once_by_either_api() {
    for v1 in [true, false] {
        let Some(database) = Database::absent() else { return };
        let options = if v1 { database.v1() } else { database.v2() };
        let retention = ("retention", "30d");
        let mut sink = opened(&options, &[]).await;
        let before = sink.came(vec![row([("n", Value::Int(1))])]).await.error.unwrap();
        assert!(before.hint().contains("muster migrate"), "{}", before.hint());
        let mut asked = target(&options, &[retention]);
        assert!(asked.applied().await.unwrap().is_empty());
        assert_eq!(migrate(asked.as_mut(), true, |_| {}).await.unwrap().len(), 1);
        assert!(asked.applied().await.unwrap().is_empty(), "a dry run changes nothing");
        assert_eq!(migrated(&options, &[retention]).await, [1]);
        assert_eq!(migrated(&options, &[retention]).await, [] as [u32; 0]);
        // A step may be taken twice, as after a crash before it was written down.
        let step = asked.migrations().remove(0);
        asked.apply(&step).await.unwrap();
        assert_eq!(asked.applied().await.unwrap().iter().max(), Some(&1));
        let policies = database.points(&format!("SHOW RETENTION POLICIES ON \"{}\"", database.name)).await;
        assert_eq!(policies[0]["duration"], "720h0m0s");
        let now = ("timestamp", "at");
        let mut sink = opened(&options, &[now]).await;
        let now_ms = muster_core::clock::SystemClock::shared().wall_ms();
        sink.came(vec![row([("n", Value::Int(1)), ("at", Value::Int(now_ms))])]).await.all_durable();
        // What is there with another duration is its owner's.
        let error = asked_again(&options).await;
        assert!(
            error.in_words().contains("conflicts") && error.hint().contains("by hand"),
            "{}",
            error.in_words()
        );
    }
}

async fn asked_again(options: &[(&'static str, String)]) -> muster_sinks::SinkError {
    let mut other = target(options, &[("retention", "90d")]);
    let step = other.migrations().remove(0);
    other.apply(&step).await.unwrap_err()
}

#[tokio::test]
async fn a_retention_policy_is_made_beside_the_default() {
    for v1 in [true, false] {
        let Some(database) = Database::absent() else { return };
        let mut options = if v1 { database.v1() } else { database.v2() };
        if v1 {
            options.push(("retention_policy", "brief".into()));
        } else {
            options[1].1 += "/brief";
        }
        for expected in [[1].as_slice(), &[]] {
            assert_eq!(migrated(&options, &[("retention", "48h")]).await, expected);
        }
        let policies = database.points(&format!("SHOW RETENTION POLICIES ON \"{}\"", database.name)).await;
        let brief = policies
            .iter()
            .find(|policy| policy.get("name") != Some(&"autogen".into()) && policy["duration"] == "48h0m0s");
        assert!(brief.is_some_and(|policy| policy["default"] == false), "{policies:?}");
    }
}

#[tokio::test]
async fn who_may_not_is_told_so() {
    let Some(database) = Database::new().await else { return };
    let user = format!("writer-{}", database.name);
    database.query(&format!("CREATE USER \"{user}\" WITH PASSWORD 'x'")).await;
    database.query(&format!("GRANT ALL ON \"{}\" TO \"{user}\"", database.name)).await;
    let mut options = database.v1();
    options[2].1 = format!("{}-other", database.name);
    (options[3].1, options[4].1) = (user, "x".into());
    let mut target = target(&options, &[]);
    let step = target.migrations().remove(0);
    let error = target.apply(&step).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{}", error.in_words());
}

/// Tells `tests/run` that a test passes without having run.
fn not_run(line: &str) {
    eprint!("not run: {line}");
    if let Some(file) = std::env::var_os("E2E_NOT_RUN") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
        std::io::Write::write_all(&mut file, line.as_bytes()).unwrap();
    }
}

/// What InfluxDB 2 has and 1.8 has not: organisations and buckets. Points and Flux go to the real server.
#[derive(Clone)]
struct Two {
    database: Database,
    http: reqwest::Client,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Two {
    async fn start() -> Option<(String, Self)> {
        let database = Database::absent_on("influxdb-flux")?;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let ping = http.get(format!("{}/ping", database.url())).send().await.unwrap();
        if ping.headers()["x-influxdb-version"].to_str().unwrap().starts_with("1.6") {
            not_run("a_bucket_is_made_once: InfluxDB 1.6 has no Flux\n");
            return None;
        }
        let two = Self { database, http, asked: Arc::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/behind", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(two.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Some((url, two))
    }
}

async fn answer(
    State(two): State<Two>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path().strip_prefix("/behind/").unwrap().to_owned();
    let text = String::from_utf8_lossy(&body).into_owned();
    two.asked.lock().unwrap().push(format!("{method} {path}?{}", uri.query().unwrap_or_default()));
    if path == "ping" {
        return (StatusCode::NO_CONTENT, [("x-influxdb-version", "v2.7.11")]).into_response();
    }
    if headers["authorization"] != format!("Token {}", influx::TOKEN).as_str() {
        return (StatusCode::UNAUTHORIZED, r#"{"code":"unauthorized","message":"unauthorized access"}"#)
            .into_response();
    }
    match path.as_str() {
        "api/v2/orgs" if uri.query() == Some("org=my+fleet") => {
            r#"{"links":{},"orgs":[{"id":"00ff","name":"my fleet"}]}"#.into_response()
        }
        "api/v2/orgs" => {
            let said = r#"{"code":"not found","message":"organization name \"x\" not found"}"#;
            (StatusCode::NOT_FOUND, said).into_response()
        }
        "api/v2/buckets" => {
            two.asked.lock().unwrap().push(text);
            let exists = two.database.points("SHOW DATABASES").await;
            if exists.iter().any(|one| one["name"] == two.database.name) {
                let said = r#"{"code":"conflict","message":"bucket with name b already exists"}"#;
                return (StatusCode::UNPROCESSABLE_ENTITY, said).into_response();
            }
            two.database.query(&format!("CREATE DATABASE \"{}\"", two.database.name)).await;
            (StatusCode::CREATED, r#"{"id":"01"}"#).into_response()
        }
        _ => {
            let url = format!("{}/{path}?{}", two.database.url(), uri.query().unwrap_or_default());
            let mut request = two.http.request(method, url).body(body);
            for name in ["authorization", "content-type", "content-encoding"] {
                if let Some(value) = headers.get(name) {
                    request = request.header(name, value);
                }
            }
            let answer = request.send().await.unwrap();
            let (status, text) = (answer.status(), answer.text().await.unwrap());
            if text.contains("no database") {
                let said = r#"{"code":"not found","message":"failed to initialize execute state: could not find bucket"}"#;
                return (StatusCode::NOT_FOUND, said).into_response();
            }
            (status, text).into_response()
        }
    }
}

#[tokio::test]
async fn a_bucket_is_made_once() {
    let Some((url, two)) = Two::start().await else { return };
    let mut options = two.database.v2();
    options[0].1 = url;
    let org = ("org", "my fleet");
    let mut asked = target(&options, &[org, ("retention", "7d")]);
    assert!(asked.applied().await.unwrap().is_empty());
    assert_eq!(migrated(&options, &[org, ("retention", "7d")]).await, [1]);
    assert_eq!(asked.applied().await.unwrap(), [1], "by Flux");
    assert_eq!(migrated(&options, &[org]).await, [] as [u32; 0]);
    // There already, and not written down.
    two.database.query("DROP MEASUREMENT \"_muster_migrations\"").await;
    assert_eq!(migrated(&options, &[org]).await, [1]);
    let said = two.asked.lock().unwrap().join("\n");
    let body = format!("\"orgID\": \"00ff\",\n  \"name\": \"{}\"", two.database.name);
    assert!(said.contains(&body) && said.contains("\"everySeconds\": 604800"), "{said}");
    let write = format!("POST api/v2/write?org=my+fleet&bucket={}&precision=ns", two.database.name);
    assert!(said.contains(&write), "{said}");

    let mut elsewhere = target(&options, &[("org", "elsewhere")]);
    let step = elsewhere.migrations().remove(0);
    let error = elsewhere.apply(&step).await.unwrap_err();
    assert!(error.in_words().contains("no organisation `elsewhere`"), "{}", error.in_words());
}

/// Answers that the real server gives only when it is in trouble.
#[tokio::test]
async fn a_server_that_asks_for_time_gets_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let taken: Arc<Mutex<Vec<(StatusCode, &str)>>> = Arc::default();
    let answers = taken.clone();
    let router = Router::new().fallback(async move || {
        let (status, after) = answers.lock().unwrap().remove(0);
        let mut answer = status.into_response();
        if !after.is_empty() {
            answer.headers_mut().insert("retry-after", after.parse().unwrap());
        }
        answer
    });
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let mut sink = opened(&[("url", url), ("bucket", "b".into())], &[]).await;
    let wait = |seconds| ErrorKind::Throttled { retry_after: Some(Duration::from_secs(seconds)) };
    for (status, after, kind) in [
        (StatusCode::TOO_MANY_REQUESTS, "7", wait(7)),
        (StatusCode::SERVICE_UNAVAILABLE, "9", wait(9)),
        (StatusCode::TOO_MANY_REQUESTS, "Thu, 01 Jan 1970 00:00:00 GMT", wait(0)),
        (StatusCode::TOO_MANY_REQUESTS, "", ErrorKind::Throttled { retry_after: None }),
        (StatusCode::SERVICE_UNAVAILABLE, "", ErrorKind::Unavailable),
        (StatusCode::BAD_GATEWAY, "", ErrorKind::Unavailable),
        (StatusCode::OK, "", ErrorKind::Misconfigured),
        (StatusCode::FOUND, "", ErrorKind::Misconfigured),
    ] {
        taken.lock().unwrap().push((status, after));
        let came = sink.came(vec![row([("n", Value::Int(1))])]).await;
        assert_eq!((came.error.unwrap().kind(), came.refused), (kind, vec![None]), "{status} {after}");
    }
    // A request that is too large is halved until it is not.
    taken.lock().unwrap().push((StatusCode::PAYLOAD_TOO_LARGE, ""));
    taken.lock().unwrap().extend([(StatusCode::NO_CONTENT, ""); 2]);
    sink.came((0..4).map(|n| row([("n", Value::Int(n))])).collect()).await.all_durable();
    assert!(taken.lock().unwrap().is_empty());
}
