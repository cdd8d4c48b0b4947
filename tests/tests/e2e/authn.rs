//! Who may connect: users, tokens, a server that is asked, and what a flood of wrong passwords does to the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use muster_tests::mqtt::{Client, Connect, VERSIONS, Version, kind};
use muster_tests::{Home, Muster, need, tools};
use serde_json::{Value, json};

const USERS: &str = "/api/v5/authentication/password_based%3Abuilt_in_database/users";

fn said(version: Version, client_id: &str, username: &str, password: &str) -> Connect {
    let (username, password) = (Some(username.to_owned()), Some(password.to_owned()));
    Connect { username, password, ..Connect::new(version, client_id) }
}

/// The code of the CONNACK.
async fn code(muster: &Muster, connect: &Connect) -> u8 {
    Client::greet(muster.mqtt, connect).await.expect("CONNACK").2
}

async fn make_user(muster: &Muster, name: &str, password: &str) {
    let (status, body) = muster.send("POST", USERS, json!({"user_id": name, "password": password})).await;
    assert_eq!(status, 201, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_end_anonymous_access_and_survive_a_restart() {
    let home = Home::new();
    let muster = home.start().await;
    for version in VERSIONS {
        assert_eq!(code(&muster, &Connect::new(version, "a")).await, 0, "nobody is asked on loopback");
    }
    make_user(&muster, "ann", "secret").await;
    let expected = |muster: Muster| async move {
        for (version, bad, nobody) in [(Version::V4, 4, 5), (Version::V5, 0x86, 0x87)] {
            assert_eq!(code(&muster, &Connect::new(version, "a")).await, nobody);
            assert_eq!(code(&muster, &said(version, "a", "ann", "wrong")).await, bad);
            assert_eq!(code(&muster, &said(version, "a", "bob", "secret")).await, bad);
            assert_eq!(code(&muster, &said(version, "a", "ann", "secret")).await, 0);
        }
        muster
    };
    let muster = expected(muster).await;
    let again = muster.send("POST", USERS, json!({"user_id": "ann", "password": "x"})).await;
    assert_eq!((again.0, &again.1["code"]), (409, &json!("ALREADY_EXISTS")));
    muster.stop().await;
    let muster = expected(home.start().await).await;

    let (status, user) = muster.send("PUT", &format!("{USERS}/ann"), json!({"password": "new"})).await;
    assert_eq!((status, user), (200, json!({"user_id": "ann", "is_superuser": false})));
    assert_eq!(code(&muster, &said(Version::V5, "a", "ann", "secret")).await, 0x86);
    assert_eq!(code(&muster, &said(Version::V5, "a", "ann", "new")).await, 0);
    assert_eq!(muster.send("DELETE", &format!("{USERS}/ann"), Value::Null).await.0, 204);
    assert_eq!(muster.send("GET", &format!("{USERS}/ann"), Value::Null).await.0, 404);
    for line in muster.output() {
        assert!(!line.contains("secret"), "a password in the log: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_clients_with_right_and_wrong_passwords() {
    let program = need!("mosquitto_pub");
    let home = Home::new();
    let muster = home.start().await;
    make_user(&muster, "ann", "secret").await;
    for version in ["mqttv311", "mqttv5"] {
        for (password, is_right) in [("secret", true), ("wrong", false)] {
            let mut command = tools::mosquitto(&program, muster.mqtt);
            command.args(["-V", version, "-u", "ann", "-P", password, "-q", "1", "-t", "a", "-m", "x"]);
            let (output, ok) = tools::try_run(&mut command).await;
            assert_eq!(ok, is_right, "{version} {password}: {output}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_dialect_has_both_kinds_of_users() {
    let home = Home::new();
    let muster = home.start().await;
    let users = json!([{"username": "ann", "password": "p1"}, {"username": "bob", "password": "p2"}]);
    let (status, made) = muster.send("POST", "/api/v4/auth_username", users).await;
    assert_eq!((status, made), (200, json!({"code": 0, "data": {"ann": "ok", "bob": "ok"}})));
    let made =
        muster.send("POST", "/api/v4/auth_clientid", json!({"clientid": "c1", "password": "p3"})).await;
    assert_eq!(made.1, json!({"code": 0, "data": {"c1": "ok"}}));
    assert_eq!(code(&muster, &said(Version::V4, "x", "ann", "p1")).await, 0);
    assert_eq!(code(&muster, &said(Version::V4, "c1", "whoever", "p3")).await, 0);
    assert_eq!(code(&muster, &said(Version::V4, "c2", "whoever", "p3")).await, 4);
    let gone = muster.send("DELETE", "/api/v4/auth_clientid/c1", Value::Null).await;
    assert_eq!(gone.1, json!({"code": 0}));
    let gone = muster.send("GET", "/api/v4/auth_clientid/c1", Value::Null).await;
    assert_eq!(gone.1["code"], 105);
}

fn token(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT"})), part(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"hush-hush");
    let tag = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes()).as_ref());
    format!("{signed}.{tag}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_in_until_it_expires() {
    let home = Home::new();
    let muster = home.start().await;
    let config = json!({"mechanism": "jwt", "algorithm": "hmac-based", "secret": "hush-hush",
        "verify_claims": {"sub": "${clientid}"}});
    let (status, shown) = muster.send("POST", "/api/v5/authentication", config).await;
    assert_eq!((status, &shown["secret"]), (200, &json!("******")), "{shown}");
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().expect("a time").as_secs()).expect("seconds");
    let good = token(&json!({"sub": "d1", "exp": now + 600}));
    let old = token(&json!({"sub": "d1", "exp": now - 1}));
    assert_eq!(code(&muster, &said(Version::V5, "d1", "u", &good)).await, 0);
    assert_eq!(code(&muster, &said(Version::V5, "d2", "u", &good)).await, 0x86, "the token of another");
    assert_eq!(code(&muster, &said(Version::V5, "d1", "u", &old)).await, 0x86);
    assert_eq!(code(&muster, &said(Version::V5, "d1", "u", "no token")).await, 0x86);
    let short = token(&json!({"sub": "d1", "exp": now + 3}));
    let (mut client, _, code) =
        Client::greet(muster.mqtt, &said(Version::V5, "d1", "u", &short)).await.expect("CONNACK");
    assert_eq!(code, 0);
    let bye = client.expect(kind::DISCONNECT).await;
    assert_eq!(bye.reason(), 0xA0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_asked_and_its_silence_is_no_answer() {
    let judge = |Json(asked): Json<Value>| async move {
        match (asked["u"].as_str(), asked["p"].as_str()) {
            (Some("ann"), Some("secret")) => (StatusCode::OK, r#"{"result":"allow"}"#),
            (Some("ann"), _) => (StatusCode::OK, r#"{"result":"deny"}"#),
            _ => (StatusCode::OK, r#"{"result":"ignore"}"#),
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let serving =
        tokio::spawn(axum::serve(listener, Router::new().route("/auth", post(judge))).into_future());
    let home = Home::new();
    let muster = home.start().await;
    let config = json!({"mechanism": "password_based", "backend": "http", "method": "post",
        "url": format!("http://{address}/auth"), "body": {"u": "${username}", "p": "${password}"}});
    assert_eq!(muster.send("POST", "/api/v5/authentication", config).await.0, 200);
    assert_eq!(code(&muster, &said(Version::V5, "d", "ann", "secret")).await, 0);
    assert_eq!(code(&muster, &said(Version::V5, "d", "ann", "wrong")).await, 0x86);
    assert_eq!(code(&muster, &said(Version::V5, "d", "bob", "secret")).await, 0x86);
    serving.abort();
    let _ = serving.await;
    // Connections that are open may outlive the listener; a new muster has none.
    muster.stop().await;
    let muster = home.start().await;
    assert_eq!(code(&muster, &said(Version::V5, "d", "ann", "secret")).await, 0x86);
    let status = muster.json("/api/v5/authentication/password_based%3Ahttp/status").await;
    assert_eq!((&status["status"], &status["metrics"]["unavailable"]), (&json!("disconnected"), &json!(1)));
}

/// Publishes from many devices; how many were acknowledged, and the 99th percentile of the acks.
async fn publish_from(devices: &mut Vec<Client>, rounds: usize) -> (usize, Duration) {
    let mut running = tokio::task::JoinSet::new();
    for mut device in devices.drain(..) {
        running.spawn(async move {
            let mut took = Vec::with_capacity(rounds);
            let payloads = (0..rounds).map(|_| Bytes::from_static(b"x"));
            let progress = device.publish_timed("t/up", payloads, 1, &mut |it| took.push(it)).await;
            (device, progress.acked, took)
        });
    }
    let (mut acked, mut took) = (0, Vec::new());
    while let Some(done) = running.join_next().await {
        let (device, count, times) = done.expect("no panic");
        devices.push(device);
        acked += count;
        took.extend(times);
    }
    took.sort_unstable();
    (acked, took[took.len() * 99 / 100])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_wrong_passwords_takes_nothing_from_good_devices() {
    let (good, rounds, attackers) = if muster_tests::long() { (1_000, 30, 200) } else { (100, 20, 50) };
    let home = Home::new();
    let muster = home.start().await;
    make_user(&muster, "device", "secret").await;
    make_user(&muster, "victim", "another").await;
    let mut devices = Vec::new();
    for n in 0..good {
        let connect = said(Version::V4, &format!("good-{n}"), "device", "secret");
        let (client, _, code) = Client::greet(muster.mqtt, &connect).await.expect("CONNACK");
        assert_eq!(code, 0);
        devices.push(client);
    }
    let (acked, quiet_p99) = publish_from(&mut devices, rounds).await;
    assert_eq!(acked, good * rounds);

    let stop = Arc::new(AtomicBool::new(false));
    let mut flood = tokio::task::JoinSet::new();
    for n in 0..attackers {
        let (stop, mqtt) = (Arc::clone(&stop), muster.mqtt);
        flood.spawn(async move {
            let mut refused = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let connect = said(Version::V5, &format!("bad-{n}"), "victim", &format!("guess-{refused}"));
                let (_, _, code) = Client::greet(mqtt, &connect).await.expect("CONNACK");
                assert!([0x86, 0x89, 0x97].contains(&code), "code {code:#x}");
                refused += 1;
            }
            refused
        });
    }
    let (acked, flood_p99) = publish_from(&mut devices, rounds).await;
    stop.store(true, Ordering::Relaxed);
    let mut refused = 0;
    while let Some(done) = flood.join_next().await {
        refused += done.expect("no panic");
    }
    assert_eq!(acked, good * rounds, "every publish of a good device is acknowledged");
    assert!(refused > 0);
    println!(
        "{good} devices, QoS 1, one publish at a time each: p99 {:.1} ms alone, {:.1} ms with {refused} wrong logins \
         from {attackers} connections",
        quiet_p99.as_secs_f64() * 1e3,
        flood_p99.as_secs_f64() * 1e3
    );
}
