//! The platform in this process, with a foreign MQTT client in front and SQLite behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

use std::collections::BTreeSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster::config::{Config, Layers};
use muster::platform::Platform;
use muster_core::clock::SystemClock;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

const RULES: &str = r#"
CREATE RULE telemetry INTO sqlite.telemetry AS SELECT clientid, payload.n AS n FROM "sensors/+/up";
CREATE RULE history INTO sqlite.history AS SELECT clientid, event, reason, seq
FROM "$events/client/connected", "$events/client/disconnected";
"#;

struct Home {
    dir: TempDir,
}

impl Home {
    fn with_rules(text: &str) -> Self {
        let home = Self { dir: tempfile::tempdir().expect("a folder") };
        std::fs::create_dir(home.rules()).expect("rules");
        std::fs::write(home.rules().join("one.sql"), text).expect("write");
        home
    }

    fn rules(&self) -> PathBuf {
        self.dir.path().join("rules")
    }

    fn config(&self) -> Config {
        self.config_with(&[])
    }

    fn config_with(&self, more: &[(&str, &str)]) -> Config {
        let mut layers = Layers::default();
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        for (key, value) in [
            ("data", text(self.dir.path().join("data"))),
            ("rules", text(self.rules())),
            ("mqtt.listen", "127.0.0.1:0".to_owned()),
            ("http.listen", "127.0.0.1:0".to_owned()),
        ] {
            layers.add_flag("test", key, value).expect(key);
        }
        for (key, value) in more {
            layers.add_flag("test", key, (*value).to_owned()).expect(key);
        }
        Config::from_layers(&layers).expect("a configuration")
    }

    async fn start(&self) -> Platform {
        Platform::start(self.config(), SystemClock::shared()).await.expect("a platform")
    }

    /// Rows as text, columns joined by a space; none while the table is not there.
    fn rows(&self, sql: &str) -> Vec<String> {
        let read = || -> Result<Vec<String>, rusqlite::Error> {
            let db = rusqlite::Connection::open(self.dir.path().join("data/muster.db"))?;
            let mut statement = db.prepare(sql)?;
            let columns = statement.column_count();
            let rows = statement.query_map([], |row| {
                let cells = (0..columns).map(|at| match row.get_ref(at).expect("a cell") {
                    rusqlite::types::ValueRef::Null => "-".to_owned(),
                    rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                    other => other.as_str().expect("text").to_owned(),
                });
                Ok(cells.collect::<Vec<_>>().join(" "))
            })?;
            rows.collect()
        };
        read().unwrap_or_default()
    }

    async fn until_rows(&self, sql: &str, expected: &[&str]) {
        until(sql, async || (self.rows(sql) == expected).then_some(())).await;
    }
}

/// Looks again and again until there is an answer.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let looked = timeout(PATIENCE, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    looked.await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

async fn get(platform: &Platform, path: &str) -> (u16, String) {
    static PROVIDER: std::sync::Once = std::sync::Once::new();
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let url = format!("http://{}{path}", platform.http_address());
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let response = client.get(url).header("accept", "application/json").send().await.expect("an answer");
    (response.status().as_u16(), response.text().await.expect("a body"))
}

async fn json(platform: &Platform, path: &str) -> Value {
    let (status, body) = get(platform, path).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).expect("JSON")
}

struct Client {
    client: AsyncClient,
    eventloop: EventLoop,
}

impl Client {
    async fn connect(platform: &Platform, clientid: &str) -> Self {
        let address = platform.mqtt_address();
        let mut options = MqttOptions::new(clientid, address.ip().to_string(), address.port());
        options.set_credentials("ann", "secret");
        let (client, eventloop) = AsyncClient::new(options, 100);
        let mut it = Self { client, eventloop };
        it.until(|packet| matches!(packet, Packet::ConnAck(_))).await;
        it
    }

    async fn until(&mut self, wanted: impl Fn(&Packet) -> bool) {
        let found = timeout(PATIENCE, async {
            loop {
                match self.eventloop.poll().await.expect("a connection") {
                    Event::Incoming(packet) if wanted(&packet) => return,
                    _ => {}
                }
            }
        });
        found.await.expect("the packet in time");
    }

    async fn publish(&mut self, topic: &str, payload: &str) {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await.expect("room");
        self.until(|packet| matches!(packet, Packet::PubAck(_))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_device_to_rows_and_to_rest() {
    let home = Home::with_rules(RULES);
    let platform = home.start().await;
    let mut device = Client::connect(&platform, "a/b").await;
    for n in 0..5 {
        device.publish("sensors/a/up", &format!("{{\"n\":{n}}}")).await;
    }
    home.until_rows("SELECT n FROM telemetry ORDER BY n", &["0", "1", "2", "3", "4"]).await;
    home.until_rows("SELECT clientid, online, connects FROM devices", &["a/b 1 1"]).await;

    let clients = json(&platform, "/api/v5/clients?like_clientid=a&conn_state=connected").await;
    assert_eq!(clients["data"][0]["clientid"], "a/b", "{clients}");
    assert!(clients["meta"].get("count").is_none(), "{clients}");
    let client = json(&platform, "/api/v5/clients/a%2Fb").await;
    assert_eq!((&client["username"], &client["proto_ver"]), (&"ann".into(), &4.into()), "{client}");
    let (status, body) = get(&platform, "/api/v5/clients/nobody").await;
    assert_eq!(
        (status, body.as_str()),
        (404, r#"{"code":"CLIENTID_NOT_FOUND","message":"Client ID not found"}"#)
    );
    let (status, body) = get(&platform, "/api/v5/nothing").await;
    assert_eq!((status, body.as_str()), (404, r#"{"code":"NOT_FOUND","message":"Request Path Not Found"}"#));
    let (status, body) = get(&platform, "/api/v5/clients?page=0").await;
    assert_eq!(
        (status, body.as_str()),
        (400, r#"{"code":"INVALID_PARAMETER","message":"page_limit_invalid"}"#)
    );
    assert_eq!(json(&platform, "/api/v5/stats?aggregate=true").await["connections.count"], 1);
    assert_eq!(json(&platform, "/api/v5/metrics").await[0]["messages.qos1.received"], 5);
    assert_eq!(json(&platform, "/api/v1/devices/a%2Fb").await["online"], true);
    assert_eq!(json(&platform, "/api/v1/devices?online=false").await["meta"]["count"], 0);
    // The log can be read beside the platform that writes it.
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_muster"))
        .args(["log", "cat", "--json", "--data"])
        .arg(&home.config().data)
        .output()
        .expect("the binary");
    let shown = String::from_utf8(output.stdout).expect("text");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_muster"))
        .args(["log", "cat", "--event", "message.publish", "--topic", "sensors/#", "--client", "a/b"])
        .args(["--from", "1970-01-01T00:00:00Z", "--limit", "3", "--data"])
        .arg(&home.config().data)
        .output()
        .expect("the binary");
    let selected = String::from_utf8(output.stdout).expect("text");
    assert_eq!(selected.lines().filter(|line| line.contains("message.publish")).count(), 3, "{selected}");
    assert_eq!(selected.lines().count(), 3, "{selected}");
    let count = |event: &str| {
        shown.lines().filter(|line| line.starts_with(&format!("{{\"event\":\"{event}\""))).count()
    };
    assert_eq!((count("message.publish"), count("client.connected")), (5, 1), "{shown}");
    let pipelines = json(&platform, "/api/v1/pipelines?rule=telemetry").await;
    assert_eq!(pipelines["data"][0]["matched"], 5, "{pipelines}");
    let (_, metrics) = get(&platform, "/metrics").await;
    assert!(metrics.contains("\nmuster_mqtt_received_messages_total{qos=\"1\"} 5\n"), "{metrics}");

    platform.stop("test").await.expect("in order");
    assert_eq!(
        home.rows("SELECT event, reason FROM history ORDER BY seq"),
        ["client.connected -", "client.disconnected server_shutting_down"]
    );
    assert_eq!(home.rows("SELECT online, reason FROM devices"), ["0 server_shutting_down"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_change_while_running() {
    let home = Home::with_rules(RULES);
    let platform = home.start().await;
    let mut device = Client::connect(&platform, "a").await;
    device.publish("other/1", "x").await;
    let file = home.rules().join("two.sql");
    let rule = |filter: &str| format!("CREATE RULE two INTO sqlite.two AS SELECT topic FROM \"{filter}\";\n");

    std::fs::write(&file, rule("other/#")).expect("write");
    until("the new rule runs", async || (platform.pipelines().rules() == 3).then_some(())).await;
    device.publish("other/2", "x").await;
    home.until_rows("SELECT topic FROM two", &["other/2"]).await;

    // A sink that is not there: what runs goes on, and the place is told.
    std::fs::write(&file, rule("other/#").replace("sqlite.", "nowhere.")).expect("write");
    until("the problem is told", async || {
        platform.pipelines().problems().iter().any(|it| it.contains("two.sql:1:22: error")).then_some(())
    })
    .await;
    device.publish("other/3", "x").await;
    home.until_rows("SELECT topic FROM two ORDER BY topic", &["other/2", "other/3"]).await;

    // Removed and brought back, it goes on from its cursor: what came between is delivered.
    std::fs::remove_file(&file).expect("remove");
    until("the rule is gone", async || (platform.pipelines().rules() == 2).then_some(())).await;
    device.publish("other/4", "x").await;
    std::fs::write(&file, rule("other/#")).expect("write");
    home.until_rows("SELECT topic FROM two ORDER BY topic", &["other/2", "other/3", "other/4"]).await;
    platform.stop("test").await.expect("in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_told_and_leaves_the_log_in_order() {
    let home = Home::with_rules(RULES);
    let other = Home::with_rules("");
    let running = other.start().await;
    let mut config = home.config();
    config.http.listen = running.http_address();
    let Err(error) = Platform::start(config, SystemClock::shared()).await else {
        panic!("the port is taken")
    };
    assert!(error.to_string().contains(&running.http_address().to_string()), "{error}");
    let log = muster_core::log::LogConfig::new(home.dir.path().join("data/log"));
    let (_, report) =
        muster_core::log::Log::open(log, muster_core::log::RealDisk::shared(), SystemClock::shared())
            .expect("free");
    assert!(report.clean, "{report:?}");
    running.stop("test").await.expect("in order");
}

/// kill -9 of the real binary: whoever was connected is known to be gone, before anybody can come again.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_leaves_no_device_online() {
    let home = Home::with_rules(RULES);
    let config = home.config();
    let mut process = std::process::Command::new(env!("CARGO_BIN_EXE_muster"))
        .args(["run", "--mqtt", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"])
        .arg(&config.data)
        .arg("--rules")
        .arg(&config.rules)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the binary");
    let mut line = String::new();
    let mut output = std::io::BufReader::new(process.stdout.take().expect("a pipe"));
    std::io::BufRead::read_line(&mut output, &mut line).expect("a line");
    let address = line.trim_end().strip_prefix("mqtt listening on mqtt://").expect("the address");
    let (host, port) = address.rsplit_once(':').expect("host:port");
    let options = MqttOptions::new("gone", host, port.parse().expect("a port"));
    let (client, eventloop) = AsyncClient::new(options, 10);
    let mut device = Client { client, eventloop };
    device.until(|packet| matches!(packet, Packet::ConnAck(_))).await;
    device.publish("sensors/a/up", r#"{"n":1}"#).await;
    process.kill().expect("killed");
    process.wait().expect("its end");

    let platform = home.start().await;
    assert_eq!(home.rows("SELECT online, reason FROM devices"), ["0 server_restart"]);
    home.until_rows("SELECT n FROM telemetry", &["1"]).await;
    home.until_rows(
        "SELECT event, reason FROM history ORDER BY seq",
        &["client.connected -", "client.disconnected server_restart"],
    )
    .await;
    platform.stop("test").await.expect("in order");
    assert!(Path::new(&config.data).join("log").is_dir());
}

/// A receiver of webhooks at `address`, and what it got in the field `n`.
async fn receiver(address: std::net::SocketAddr) -> Arc<Mutex<BTreeSet<u64>>> {
    let got = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = got.clone();
    let take = async move |body: String| {
        let mut numbers = Vec::new();
        for line in body.lines().filter(|line| !line.is_empty()) {
            collect_numbers(&serde_json::from_str(line).expect("JSON"), &mut numbers);
        }
        seen.lock().expect("a lock").extend(numbers);
    };
    let listener = tokio::net::TcpListener::bind(address).await.expect("the port is free again");
    let app = axum::Router::new().fallback(take);
    tokio::spawn(async move { axum::serve(listener, app).await });
    got
}

fn collect_numbers(value: &Value, numbers: &mut Vec<u64>) {
    match value {
        Value::Array(all) => all.iter().for_each(|it| collect_numbers(it, numbers)),
        Value::Object(fields) => {
            numbers.extend(fields.get("n").and_then(Value::as_u64));
            fields.values().for_each(|it| collect_numbers(it, numbers));
        }
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_segments_go_only_after_everybody_has_read_them() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = port.local_addr().expect("an address");
    drop(port);
    let home = Home::with_rules(&format!(
        "CREATE SINK hook TYPE webhook WITH (url = 'http://{address}/');\n\
         CREATE RULE telemetry INTO sqlite.telemetry, hook AS SELECT payload.n AS n FROM \"sensors/#\";"
    ));
    let settings = [
        ("journal.segment_bytes_max", "16KiB"),
        ("journal.retention_bytes", "48KiB"),
        ("journal.cap_bytes", "64MiB"),
        ("delivery.retry_wait_max", "100ms"),
    ];
    let config = home.config_with(&settings);
    let platform = Platform::start(config.clone(), SystemClock::shared()).await.expect("a platform");
    let log = platform.journal().log().clone();
    let first = log.first_offset();
    let mut device = Client::connect(&platform, "a").await;
    let filler = "x".repeat(1_000);
    let mut sent = 0;
    let mut publish = async |count: u64| {
        for n in sent..sent + count {
            device.publish("sensors/a", &format!("{{\"n\":{n},\"filler\":\"{filler}\"}}")).await;
        }
        sent += count;
        sent
    };

    // The webhook's target is down: it alone holds the log back, and nothing goes.
    publish(100).await;
    until("everybody else has moved on", async || {
        log.stats().slowest_hold.filter(|(name, _)| name.contains("hook"))
    })
    .await;
    let sent = publish(50).await;
    home.until_rows("SELECT count(*), max(n) FROM telemetry", &[&format!("{sent} {}", sent - 1)]).await;
    let stats = log.stats();
    assert_eq!(stats.first_offset, first, "{stats:?}");
    assert!(stats.bytes > 100 * 1024, "{stats:?}");

    let told = json(&platform, "/status?format=json").await["log"].clone();
    assert!(told["slowest_hold"]["name"].as_str().is_some_and(|name| name.contains("hook")), "{told}");
    assert_eq!((&told["cap_bytes"], &told["cap_alarm"]), (&(64 << 20).into(), &false.into()), "{told}");
    let (_, metrics) = get(&platform, "/metrics").await;
    assert!(metrics.contains("\nmuster_log_cap_bytes 67108864\n"), "{metrics}");

    // It is back: it gets everything, and only then the oldest goes.
    let got = receiver(address).await;
    let all = |sent: u64| (0..sent).collect::<BTreeSet<_>>();
    until("every row has arrived", async || (*got.lock().expect("a lock") == all(sent)).then_some(())).await;
    let missed = log.next_offset();
    let sent = timeout(PATIENCE, async {
        loop {
            let sent = publish(1).await;
            // In this order: holds move on meanwhile, and what is gone then may be more.
            let first = log.first_offset();
            let slowest = log.stats().slowest_hold.expect("a hold").1;
            assert!(first <= slowest, "{first} is the first, and {slowest} is needed");
            if first >= missed {
                return sent;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let sent = sent.await.expect("old segments go");
    until("every row has arrived", async || (*got.lock().expect("a lock") == all(sent)).then_some(())).await;
    home.until_rows("SELECT count(*), max(n) FROM telemetry", &[&format!("{sent} {}", sent - 1)]).await;

    // What retention has left is a log like any other.
    drop(log);
    platform.stop("test").await.expect("in order");
    let platform = Platform::start(config, SystemClock::shared()).await.expect("a platform");
    let mut device = Client::connect(&platform, "a").await;
    device.publish("sensors/a", &format!("{{\"n\":{sent}}}")).await;
    home.until_rows("SELECT count(*), max(n) FROM telemetry", &[&format!("{} {sent}", sent + 1)]).await;
    platform.stop("test").await.expect("in order");
}
