//! The walks of `examples` say what stands beside them: the whole of managing devices, from an empty server, by curl
//! and mosquitto's clients; and who is missing.

use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;

use expect_test::expect_file;
use muster_tests::{Home, muster, need, tools};

const WALK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/rest/walk");
const ALARMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/alarms/walk");

#[tokio::test(flavor = "multi_thread")]
async fn every_topic_from_an_empty_server() {
    for tool in ["curl", "mosquitto_pub", "mosquitto_sub", "sqlite3"] {
        need!(tool);
    }
    let home = Home::new();
    let muster = home.start().await;
    let (key, secret) = home.add_key("walk", "administrator").await;
    let mut walk = tools::command(Path::new(WALK));
    walk.current_dir(home.path())
        .env("KEY", key)
        .env("SECRET", secret)
        .env("HTTP", format!("http://{}", muster.http))
        .env("MQTT_PORT", muster.mqtt.port().to_string())
        .env("DATABASE", home.database());
    let said = tools::run(&mut walk).await;
    // `UPDATE_EXPECT=1` writes it anew.
    expect_file!["../../../examples/rest/walk.expected"].assert_eq(&said);
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_missing_and_who_is_told() {
    for tool in ["mosquitto_sub", "sqlite3", "python3"] {
        need!(tool);
    }
    let home = Home::new();
    let platform = home.start().await;
    // As an operator has it: a command of this name.
    symlink(muster::binary(), home.path().join("muster")).expect("a link");
    let path = format!("{}:{}", home.path().display(), std::env::var("PATH").expect("a path"));
    // Free a moment ago; the receiver of the walk wants to know it beforehand.
    let hook = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
    let mut walk = home.command_of(Path::new(ALARMS), &[]);
    walk.env("PATH", path)
        .env("HTTP", format!("http://{}", platform.http))
        .env("MQTT_PORT", platform.mqtt.port().to_string())
        .env("HOOK_PORT", hook.port().to_string())
        .env("ABSENT", "1s");
    let said = tools::run(&mut walk).await;
    expect_file!["../../../examples/alarms/walk.expected"].assert_eq(&said);
    platform.stop().await;
}
