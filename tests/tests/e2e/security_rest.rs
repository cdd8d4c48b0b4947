//! Who may manage, from outside: keys over their whole life, people, roles, and what must never be answered.

use std::time::Duration;

use muster_tests::muster::http_client;
use muster_tests::{Home, Muster, PATIENCE, tools, until};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

/// Paths that are there in any case, one of each kind.
const PATHS: &[&str] = &[
    "/metrics",
    "/api/v5/clients",
    "/api/v5/stats",
    "/api/v5/rules",
    "/api/v5/api_key",
    "/api/v5/users",
    "/api/v1/pipelines",
    "/api/v1/dead-letters",
    "/api/v1/replays",
    "/api/v1/devices",
    "/api/v1/log",
    "/api/openapi.json",
    "/api/docs",
    "/api/v4/clients",
    "/api/v5/nothing",
    "/nothing",
];

pub(crate) struct Key {
    pub(crate) key: String,
    pub(crate) secret: String,
}

/// `muster ARGUMENTS` that prints a key.
pub(crate) async fn key(home: &Home, arguments: &[&str]) -> Key {
    let output = tools::run(&mut home.command(arguments)).await;
    let lines: Vec<_> =
        output.lines().filter(|line| line.starts_with("key: ") || line.starts_with("secret: ")).collect();
    let [key, secret] = lines[..] else { panic!("not two lines: {output}") };
    let (key, secret) = (key.strip_prefix("key: "), secret.strip_prefix("secret: "));
    Key { key: key.expect("a key").to_owned(), secret: secret.expect("a secret").to_owned() }
}

pub(crate) async fn add(home: &Home, name: &str, role: &str) -> Key {
    key(home, &["key", "add", "--name", name, "--role", role]).await
}

pub(crate) enum As<'a> {
    Nobody,
    Key(&'a Key),
    Token(&'a str),
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.text).unwrap_or_default();
        body["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

pub(crate) async fn ask(muster: &Muster, who: As<'_>, method: &str, path: &str, body: Value) -> Answer {
    let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
    let mut request = http_client().request(method, format!("http://{}{path}", muster.http));
    request = match who {
        As::Nobody => request,
        As::Key(key) => request.basic_auth(&key.key, Some(&key.secret)),
        As::Token(token) => request.bearer_auth(token),
    };
    if !body.is_null() {
        request = request.json(&body);
    }
    let response = tokio::time::timeout(PATIENCE, request.send()).await.expect("in time").expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, text: response.text().await.expect("a body") }
}

/// Waits until the log tells of the `count`th `action`: from then on the server goes by it.
pub(crate) async fn until_told(home: &Home, action: &str, count: usize) -> String {
    until(&format!("{count} {action} in the log"), PATIENCE, async || {
        let events = tools::run(&mut home.command(&["log", "cat", "--json"])).await;
        (events.matches(action).count() >= count).then_some(events)
    })
    .await
}

async fn expect_status(muster: &Muster, key: &Key, status: u16) {
    let answer = ask(muster, As::Key(key), "GET", "/api/v5/stats", Value::Null).await;
    assert_eq!(answer.status, status, "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_a_key() {
    let home = Home::new();
    let muster = home.start().await;
    let open = ask(&muster, As::Nobody, "GET", "/api/v5/stats", Value::Null).await;
    assert_eq!(open.status, 200, "no key yet, and this machine: {}", open.text);

    let ops = add(&home, "ops", "administrator").await;
    until_told(&home, "keys.create", 1).await;
    expect_status(&muster, &ops, 200).await;
    for path in PATHS {
        let refused = ask(&muster, As::Nobody, "GET", path, Value::Null).await;
        assert_eq!((refused.status, refused.code().as_str()), (401, "AUTHORIZATION_HEADER_ERROR"), "{path}");
        assert!(refused.headers.contains_key("www-authenticate"), "{path}");
    }
    for path in ["/status", "/api/v5/status"] {
        assert_eq!(ask(&muster, As::Nobody, "GET", path, Value::Null).await.status, 200, "{path}");
    }
    let wrong = Key { key: ops.key.clone(), secret: "wrong".to_owned() };
    let unknown = Key { key: "nobody".to_owned(), secret: ops.secret.clone() };
    for wrong in [&wrong, &unknown] {
        let refused = ask(&muster, As::Key(wrong), "GET", "/api/v5/stats", Value::Null).await;
        assert_eq!((refused.status, refused.code().as_str()), (401, "BAD_API_KEY_OR_SECRET"));
    }
    let refused = ask(&muster, As::Key(&ops), "GET", "/api/v5/api_key", Value::Null).await;
    assert_eq!((refused.status, refused.code().as_str()), (401, "API_KEY_NOT_ALLOW"));

    // Another secret, and none at all.
    let rotated = key(&home, &["key", "rotate", "ops"]).await;
    until_told(&home, "keys.rotate", 1).await;
    expect_status(&muster, &rotated, 200).await;
    expect_status(&muster, &ops, 401).await;
    let brief = key(&home, &["key", "add", "--name", "brief", "--role", "viewer", "--expires", "1ms"]).await;
    until_told(&home, "keys.create", 2).await;
    expect_status(&muster, &brief, 401).await;

    // They survive a restart, in silence.
    let (status, mut printed, _) = muster.interrupt().await;
    assert!(status.success());
    let muster = home.start().await;
    expect_status(&muster, &rotated, 200).await;
    let list = tools::run(&mut home.command(&["key", "list"])).await;
    assert!(list.contains("ops") && list.contains("expired"), "{list}");
    // A command on this machine needs no key.
    let http = muster.http.to_string();
    tools::run(&mut home.command(&["pipelines", "list", "--http", &http])).await;
    tools::run(&mut home.command(&["key", "revoke", "ops"])).await;
    let events = until_told(&home, "keys.delete", 1).await;
    expect_status(&muster, &rotated, 401).await;
    printed.extend(muster.output());
    let shown = tools::run(&mut home.command(&["config", "show"])).await;
    muster.stop().await;

    let everything = [printed.join("\n"), events, list, shown].join("\n");
    for secret in [&ops.secret, &rotated.secret, &brief.secret] {
        assert!(!everything.contains(secret.as_str()), "a secret was printed");
        for entry in files(&home.data()) {
            let bytes = std::fs::read(&entry).expect("a file");
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "a secret is in {}", entry.display());
        }
    }
}

fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_end_where_they_end() {
    let home = Home::new();
    let viewer = add(&home, "viewer", "viewer").await;
    let publisher = add(&home, "publisher", "publisher").await;
    let muster = home.start().await;
    let refused = async |key: &Key, method: &str, path: &str| {
        let answer = ask(&muster, As::Key(key), method, path, json!({})).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "UNAUTHORIZED_ROLE"), "{method} {path}");
    };
    assert_eq!(ask(&muster, As::Key(&viewer), "GET", "/api/v5/clients", Value::Null).await.status, 200);
    for (method, path) in [
        ("POST", "/api/v5/rules"),
        ("POST", "/api/v5/publish"),
        ("DELETE", "/api/v5/clients/a"),
        ("POST", "/api/v1/pipelines/pause"),
        ("DELETE", "/api/v1/dead-letters?all=true"),
    ] {
        refused(&viewer, method, path).await;
        refused(&publisher, method, if path.ends_with("/publish") { "/api/v5/publish/x" } else { path })
            .await;
    }
    refused(&publisher, "GET", "/api/v5/clients").await;
    let publish = ask(&muster, As::Key(&publisher), "POST", "/api/v5/publish", json!({})).await;
    assert!(![401, 403].contains(&publish.status), "{}", publish.text);
    let metrics = ask(&muster, As::Key(&viewer), "GET", "/metrics", Value::Null).await.text;
    assert!(metrics.contains("muster_rest_refused_requests_total{reason=\"role\"} 11"), "{metrics}");
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_log_in_and_make_keys() {
    const PASSWORD: &str = "correct horse battery";
    let home = Home::new();
    let muster = home.start().await;
    let add = &mut home.command(&["user", "add", "--name", "ann", "--role", "administrator"]);
    tools::run_with_input(add, PASSWORD).await;
    let login = async |password: &str| {
        let body = json!({"username": "ann", "password": password});
        ask(&muster, As::Nobody, "POST", "/api/v5/login", body).await
    };
    until_told(&home, "users.create", 1).await;
    let given = login(PASSWORD).await;
    assert_eq!(given.status, 200, "{}", given.text);
    let token = given.json()["token"].as_str().expect("a token").to_owned();
    let ann = async |method: &str, path: &str, body: Value| {
        ask(&muster, As::Token(&token), method, path, body).await
    };
    let made = ann("POST", "/api/v5/api_key", json!({"name": "app", "role": "viewer"})).await;
    assert_eq!(made.status, 200, "{}", made.text);
    let made = made.json();
    assert_eq!((&made["expired_at"], &made["enable"]), (&json!("infinity"), &json!(true)), "{made}");
    let text = |name: &str| made[name].as_str().expect("a text").to_owned();
    let app = Key { key: text("api_key"), secret: text("api_secret") };
    let asked = async |status| {
        let answer = ask(&muster, As::Key(&app), "GET", "/api/v5/stats", Value::Null).await;
        assert_eq!(answer.status, status, "{}", answer.text);
    };
    asked(200).await;
    let shown = ann("GET", "/api/v5/api_key/app", Value::Null).await;
    assert!(shown.json()["name"] == "app" && !shown.text.contains(&app.secret), "{}", shown.text);
    assert_eq!(ann("PUT", "/api/v5/api_key/app", json!({"enable": false})).await.status, 200);
    asked(401).await;
    assert_eq!(ann("PUT", "/api/v5/api_key/app", json!({"enable": true})).await.status, 200);
    asked(200).await;
    let past = json!({"expired_at": "2020-01-01T00:00:00Z"});
    assert_eq!(ann("PUT", "/api/v5/api_key/app", past).await.json()["expired"], true);
    asked(401).await;
    assert_eq!(ann("DELETE", "/api/v5/api_key/app", Value::Null).await.status, 204);
    assert_eq!(ann("GET", "/api/v5/api_key/app", Value::Null).await.status, 404);

    // What would break a header, a line of a log or a path is no name.
    for name in ["", "a\r\nSet-Cookie: x=1", "../app", "a/b", "a b", "\u{0}"] {
        let answer = ann("POST", "/api/v5/api_key", json!({"name": name})).await;
        assert_eq!(answer.status, 400, "{name:?}");
    }
    assert_eq!(ann("GET", "/api/v5/api_key/a%0d%0aSet-Cookie:%20x=1", Value::Null).await.status, 404);

    let change = json!({"old_pwd": PASSWORD, "new_pwd": "another horse"});
    assert_eq!(ann("POST", "/api/v5/users/ann/change_pwd", change).await.status, 204);
    let ended = ann("GET", "/api/v5/users", Value::Null).await;
    assert_eq!((ended.status, ended.code().as_str()), (401, "BAD_TOKEN"), "with the password");
    let fresh = login("another horse").await.json()["token"].as_str().expect("a token").to_owned();
    let out = ask(&muster, As::Token(&fresh), "POST", "/api/v5/logout", json!({"username": "ann"})).await;
    assert_eq!(out.status, 204, "{}", out.text);
    assert_eq!(ask(&muster, As::Token(&fresh), "GET", "/api/v5/users", Value::Null).await.status, 401);

    // Too many wrong passwords: even the right one waits, and a right key does not.
    let mut answers = Vec::new();
    for _ in 0..25 {
        answers.push(login("wrong password").await);
    }
    assert_eq!(answers[0].code(), "BAD_USERNAME_OR_PWD");
    let last = answers.last().expect("answers");
    assert!(last.status == 429 && last.headers.contains_key("retry-after"), "{}", last.text);
    assert_eq!(login("another horse").await.status, 429);
    let late = key(&home, &["key", "add", "--name", "late", "--role", "viewer"]).await;
    until_told(&home, "keys.create", 2).await;
    expect_status(&muster, &late, 200).await;

    let output = muster.output().join("\n");
    let events = tools::run(&mut home.command(&["log", "cat", "--json"])).await;
    assert!(events.contains("keys.create") && events.contains("users.change_pwd"), "{events}");
    for secret in [PASSWORD, "another horse", &token, &fresh, &app.secret] {
        assert!(!output.contains(secret) && !events.contains(secret), "a secret was printed");
    }
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_only_this_machine_is_answered() {
    let home = Home::new();
    let muster = home.start().await;
    for (name, value, status) in [
        ("host", "evil.example", 403),
        ("host", "localhost", 200),
        ("origin", "http://evil.example", 403),
        ("origin", "null", 403),
        ("origin", "http://localhost:3000", 200),
        ("x-forwarded-for", "192.0.2.1", 403),
        ("authorization", "Basic eDp5", 401),
        ("authorization", "nonsense", 401),
    ] {
        let request = http_client().get(format!("http://{}/api/v5/stats", muster.http)).header(name, value);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status, "{name}: {value}");
    }
    muster.stop().await;

    // On every address of the machine it starts, with a warning; those of other machines would be refused.
    let everywhere = home.command(&["run", "--mqtt", "127.0.0.1:0", "--http", "0.0.0.0:0"]);
    let muster = Muster::start(everywhere).await;
    muster.until_printed("there is no API key yet").await;
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_and_bodies_of_attackers() {
    let home = Home::new();
    let ops = add(&home, "ops", "administrator").await;
    let muster = home.start().await;
    for path in [
        "/api/v5/../../etc/passwd",
        "/api/v5/%2e%2e/%2e%2e/etc/passwd",
        "/status/..%2fapi/v5/clients",
        "/status/../api/v5/clients",
        "/status%2f..%2fapi/v5/clients",
        "//api/v5/clients",
        "/api/docs/..%2f..%2f..%2fetc%2fpasswd",
        "/api/docs/%2e%2e/%2e%2e/registry.db",
        "/api/docs/../../etc/passwd",
        "/api/docs/%252e%252e/%252e%252e/etc/passwd",
        "/api/docs/....//....//etc/passwd",
        "/api/docs/..%5c..%5cetc%5cpasswd",
        "/api/docs/%00/../etc/passwd",
        "/api/docs//etc/passwd",
    ] {
        for (who, auth) in [("nobody", None), ("ops", Some(&ops))] {
            let (status, body) = raw(&muster, path, auth).await;
            assert!(!body.contains("root:") && !body.contains("SQLite format"), "{path}");
            if who == "nobody" {
                assert_eq!(status, 401, "{path}");
            } else {
                assert!((400..500).contains(&status), "{path}: {status}");
            }
        }
    }
    let before = muster.memory_bytes();
    let body = format!("{{\"name\":\"{}\"}}", "x".repeat(10 << 20));
    for _ in 0..10 {
        let request = http_client().post(format!("http://{}/api/v5/rules", muster.http));
        let request =
            request.basic_auth(&ops.key, Some(&ops.secret)).header("content-type", "application/json");
        // Who is refused may see the connection end before the rest of the body is taken.
        if let Ok(answer) = request.timeout(Duration::from_secs(30)).body(body.clone()).send().await {
            assert_eq!(answer.status().as_u16(), 413);
        }
    }
    let after = muster.memory_bytes();
    assert!(after.saturating_sub(before) < 64 << 20, "{before} bytes of memory became {after}");
    assert_eq!(ask(&muster, As::Key(&ops), "GET", "/api/v5/stats", Value::Null).await.status, 200);
    muster.stop().await;
}

/// A GET whose path no client has tidied up.
async fn raw(muster: &Muster, path: &str, key: Option<&Key>) -> (u16, String) {
    use base64::Engine as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(muster.http).await.expect("a connection");
    let authorization = key.map_or_else(String::new, |Key { key, secret }| {
        let shown = base64::engine::general_purpose::STANDARD.encode(format!("{key}:{secret}"));
        format!("authorization: Basic {shown}\r\n")
    });
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{authorization}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time").expect("read");
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer: {text}")), text)
}
