//! Every door is locked, whatever is behind it; what was whispered through one is heard through no other; and who comes
//! in a crowd gets no more than who comes alone.

use std::collections::BTreeSet;
use std::path::Path;

use futures_util::future::join_all;
use muster_tests::mqtt::{Client, Connect, Version};
use muster_tests::muster::http_client;
use muster_tests::wait::soon;
use muster_tests::{Home, Muster, tools};
use reqwest::Method;
use serde_json::{Value, json};

use crate::security_rest::{As, Key, add, ask, until_told};

/// Who may ask without a key, and by which methods.
const OPEN: &[(&str, &[&str])] = &[
    ("/status", &["GET", "HEAD", "OPTIONS", "TRACE"]),
    ("/api/v5/status", &["GET", "HEAD", "OPTIONS", "TRACE"]),
    ("/api/v5/login", &["POST"]),
];

const METHODS: &[&str] = &["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "PROPFIND"];

/// Every text in the source of REST that could be a path.
fn paths_in(folder: &Path, paths: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("the source of REST") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            paths_in(&path, paths);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = std::fs::read_to_string(path).expect("source");
            let could_be = |it: &&str| {
                it.starts_with('/') && it.chars().all(|c| c.is_ascii_alphanumeric() || "/_-{}.*:".contains(c))
            };
            paths.extend(text.split('"').filter(could_be).map(str::to_owned));
        }
    }
}

/// A path with something in the place of its parameters.
fn filled(path: &str) -> String {
    path.split('/').map(|part| if part.starts_with('{') { "a" } else { part }).collect::<Vec<_>>().join("/")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_every_path_but_status_refuses() {
    let home = Home::new();
    let ops = add(&home, "ops", "administrator").await;
    let muster = home.start().await;
    let document = ask(&muster, As::Key(&ops), "GET", "/api/openapi.json", Value::Null).await.json();
    let described = document["paths"].as_object().expect("paths");
    let mut paths: BTreeSet<_> = described.keys().cloned().collect();
    assert!(paths.len() > 20, "{paths:?}");
    let mut named = BTreeSet::new();
    paths_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/src/rest"), &mut named);
    assert!(named.len() > 60, "{named:?}");
    for prefix in ["", "/api/v5", "/api/v4", "/api/v1"] {
        paths.extend(named.iter().map(|path| format!("{prefix}{path}")));
    }
    let client = http_client();
    let mut asked = 0;
    for path in &paths {
        let path = filled(path);
        for name in METHODS {
            if OPEN.iter().any(|(open, methods)| *open == path && methods.contains(name)) {
                continue;
            }
            let method = Method::from_bytes(name.as_bytes()).expect("a method");
            let request = client.request(method, format!("http://{}{path}", muster.http)).send();
            let answer = soon("an answer", request).await.expect("an answer");
            assert_eq!(answer.status().as_u16(), 401, "{name} {path}");
            assert!(answer.headers().contains_key("www-authenticate"), "a browser asks: {name} {path}");
            asked += 1;
        }
    }
    println!("{asked} requests without a key for {} paths were refused", paths.len());
    for (path, _) in &OPEN[..2] {
        let request = client.get(format!("http://{}{path}", muster.http)).send();
        assert_eq!(soon("an answer", request).await.expect("an answer").status().as_u16(), 200, "{path}");
    }
    muster.stop().await;
}

const PASSWORD: &str = "password-of-a-person-4711";

/// Somebody who may manage keys.
async fn log_in(home: &Home, muster: &Muster) -> String {
    let add = &mut home.command(&["user", "add", "--name", "ann", "--role", "administrator"]);
    tools::run_with_input(add, PASSWORD).await;
    until_told(home, "users.create", 1).await;
    let body = json!({"username": "ann", "password": PASSWORD});
    let given = ask(muster, As::Nobody, "POST", "/api/v5/login", body).await;
    given.json()["token"].as_str().unwrap_or_else(|| panic!("no token: {}", given.text)).to_owned()
}

const SINKS: &str = r#"
CREATE SINK hook TYPE webhook WITH (url = 'http://127.0.0.1:9/in?token=secret-in-a-url-4711',
  secret = 'whsec_c2VjcmV0LW9mLWEtd2ViaG9vay00NzExLTAxMjM0NTY3ODk=');
CREATE SINK lake TYPE clickhouse WITH (url = 'http://127.0.0.1:9', database = 'fleet', user = 'muster',
  password = 'password-of-clickhouse-4711');
CREATE RULE all INTO hook, lake.events AS SELECT clientid, topic FROM "t/#";
"#;

/// What was said to the server and is not to be heard again.
const SECRETS: &[&str] = &[
    PASSWORD,
    "secret-in-a-url-4711",
    "c2VjcmV0LW9mLWEtd2ViaG9vay00NzEx",
    "secret-of-a-webhook-4711",
    "password-of-clickhouse-4711",
    "password-of-a-device-4711",
    "password-of-an-old-device-4711",
    "secret-of-tokens-4711",
    "header-of-a-server-4711",
    "field-of-a-server-4711",
    "wrong-password-4711",
    "password-of-another-4711",
];

/// Tells the server every kind of secret that it takes over REST; those that it drew itself.
async fn whisper(muster: &Muster, token: &str) -> Vec<String> {
    let users = "/api/v5/authentication/password_based%3Abuilt_in_database/users";
    let mut drawn = Vec::new();
    for (path, body) in [
        (users, json!({"user_id": "dev", "password": "password-of-a-device-4711"})),
        ("/api/v4/auth_username", json!({"username": "old", "password": "password-of-an-old-device-4711"})),
        (
            "/api/v5/authentication",
            json!({"mechanism": "jwt", "from": "password", "algorithm": "hmac-based",
                "secret": "secret-of-tokens-4711", "secret_base64_encoded": false}),
        ),
        (
            "/api/v5/authentication",
            json!({"mechanism": "password_based", "backend": "http", "method": "post",
                "url": "http://127.0.0.1:9/check", "headers": {"authorization": "header-of-a-server-4711"},
                "body": {"u": "${username}", "k": "field-of-a-server-4711"}}),
        ),
        (
            "/api/v5/users",
            json!({"username": "bob", "password": "password-of-another-4711", "role": "viewer"}),
        ),
        ("/api/v5/api_key", json!({"name": "app", "role": "viewer"})),
    ] {
        let answer = ask(muster, As::Token(token), "POST", path, body).await;
        assert!((200..300).contains(&answer.status), "{path}: {} {}", answer.status, answer.text);
        for secret in SECRETS {
            assert!(!answer.text.contains(secret), "{path} answers {secret}");
        }
        if let Some(secret) =
            serde_json::from_str::<Value>(&answer.text).unwrap_or_default()["api_secret"].as_str()
        {
            drawn.push(secret.to_owned());
        }
    }
    assert_eq!(drawn.len(), 1, "the secret of a key is shown once");
    drawn
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_heard_nowhere_again() {
    let home = Home::with_rules(SINKS);
    let muster = home.start_with(&["--log", "debug"]).await;
    let token = log_in(&home, &muster).await;
    let mut secrets = whisper(&muster, &token).await;
    secrets.push(token.clone());
    secrets.extend(SECRETS.iter().map(|it| (*it).to_owned()));
    // Somebody uses them, rightly and wrongly.
    for password in ["password-of-a-device-4711", "wrong-password-4711"] {
        let said = Connect {
            username: Some("dev".to_owned()),
            password: Some(password.to_owned()),
            ..Connect::new(Version::V5, "dev")
        };
        if let Ok((mut client, ..)) = Client::greet(muster.mqtt, &said).await
            && password.starts_with("password")
        {
            client.publish("t/1", b"{}", 1, false).await;
        }
    }
    let wrong = Key { key: "app".to_owned(), secret: "wrong-password-4711".to_owned() };
    assert_eq!(ask(&muster, As::Key(&wrong), "GET", "/api/v5/stats", Value::Null).await.status, 401);
    muster.until_printed("lake").await;

    let document = ask(&muster, As::Token(&token), "GET", "/api/openapi.json", Value::Null).await.json();
    let paths = document["paths"].as_object().expect("paths").iter();
    let paths = paths.filter(|(_, it)| it.get("get").is_some()).map(|(path, _)| path.clone());
    let mut heard = Vec::new();
    let known = [
        "/api/v5/authentication/jwt",
        "/api/v5/authentication/password_based%3Ahttp",
        "/api/v5/authentication/password_based%3Abuilt_in_database/users/dev",
        "/api/v5/api_key/app",
        "/api/v4/auth_username",
        "/api/v4/auth_username/old",
        "/api/v1/pipelines",
        "/api/v1/dead-letters",
        "/metrics",
    ];
    for path in paths.filter(|path| !path.contains('{')).chain(known.map(str::to_owned)) {
        let answer = ask(&muster, As::Token(&token), "GET", &path, Value::Null).await;
        assert!(answer.status < 500, "{path}: {}", answer.text);
        heard.push((path, answer.text));
    }
    let found = |path: &str| heard.iter().any(|(it, text)| it == path && text.contains("******"));
    assert!(found("/api/v5/authentication/jwt"), "it is there, and masked: {heard:#?}");
    for command in [
        &["log", "cat", "--json"][..],
        &["log", "cat"],
        &["config", "show"],
        &["key", "list"],
        &["user", "list"],
        &["sinks", "list"],
    ] {
        let (output, _) = tools::try_run(&mut home.command(command)).await;
        heard.push((command.join(" "), output));
    }
    let (_, printed, _) = muster.interrupt().await;
    assert!(printed.iter().any(|line| line.contains("DEBUG")), "all is told in the log");
    heard.push(("the server's log".to_owned(), printed.join("\n")));
    for (place, text) in &heard {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{secret} in {place}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_gets_one_key_and_no_more_guesses() {
    let home = Home::new();
    let muster = home.start().await;
    let token = log_in(&home, &muster).await;
    let create = (0..30).map(async |_| {
        let body = json!({"name": "app", "role": "viewer"});
        ask(&muster, As::Token(&token), "POST", "/api/v5/api_key", body).await
    });
    let answers = join_all(create).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|it| it.status == 200);
    assert_eq!(made.len(), 1, "{:?}", answers.iter().map(|it| it.status).collect::<Vec<_>>());
    for answer in refused {
        assert!([400, 409].contains(&answer.status) && answer.text.contains("already"), "{}", answer.text);
    }
    let all = ask(&muster, As::Token(&token), "GET", "/api/v5/api_key", Value::Null).await.json();
    assert_eq!(all.as_array().expect("a list").len(), 1, "{all}");
    let made = made[0].json();
    let text = |name: &str| made[name].as_str().expect("a text").to_owned();
    let key = Key { key: text("api_key"), secret: text("api_secret") };
    assert_eq!(ask(&muster, As::Key(&key), "GET", "/api/v5/stats", Value::Null).await.status, 200);

    // Guesses that come at once are as many as guesses that come one after the other.
    let guesses = (0..60).map(async |n| {
        let body = json!({"username": "ann", "password": format!("a guess {n}")});
        ask(&muster, As::Nobody, "POST", "/api/v5/login", body).await.status
    });
    let answers = join_all(guesses).await;
    let count = |status| answers.iter().filter(|it| **it == status).count();
    assert_eq!((count(401), count(429)), (20, 40), "{answers:?}");
    let right = json!({"username": "ann", "password": PASSWORD});
    assert_eq!(ask(&muster, As::Nobody, "POST", "/api/v5/login", right).await.status, 429);
    muster.stop().await;
}
