//! `examples/rest/walk` says what stands beside it: the whole of managing devices, from an empty server, by curl and
//! mosquitto's clients.

use std::path::Path;

use expect_test::expect_file;
use muster_tests::{Home, need, tools};

const WALK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/rest/walk");

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
