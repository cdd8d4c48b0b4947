//! The event log with compressed segments: whoever reads it need not know.

use bytes::Bytes;
use muster_tests::mqtt::{Client, VERSIONS};
use muster_tests::{Home, PATIENCE, tools, until};

const MESSAGES: usize = 3_000;

fn settings(home: &Home, compress: &str) {
    let text = format!("[journal]\nsegment_bytes_max = '64KiB'\ncompress_after = '0s'\n{compress}\n");
    std::fs::write(home.path().join("muster.toml"), text).unwrap();
}

/// Replays everything into a table of its own.
async fn replay(home: &Home, name: &str) {
    let rule = format!(
        "CREATE RULE {name} INTO sqlite.{name} WITH (start = 'earliest') AS \
         SELECT payload.n AS n FROM \"sensors/+/up\";"
    );
    home.write_rules(&format!("{name}.sql"), &rule);
    let rows = home.until_lines(&format!("SELECT n FROM {name} ORDER BY n"), MESSAGES).await;
    assert_eq!(rows, (0..MESSAGES).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_log_is_read_by_whoever_reads_it() {
    let home = Home::new();
    settings(&home, "compress = 'zstd'\ncompress_level = 5");
    let muster = home.start().await;
    let mut device = Client::connect(muster.mqtt, VERSIONS[0], "boiler").await;
    let payloads = (0..MESSAGES).map(|n| {
        let text =
            format!("{{\"n\":{n},\"temperature\":{}.5,\"pressure\":1013,\"unit\":\"celsius\"}}", n % 40);
        Bytes::from(text)
    });
    assert_eq!(device.publish_all("sensors/boiler/up", payloads, 50).await.acked, MESSAGES);
    let segments = until("all but the newest segment are compressed", PATIENCE, async || {
        let log = muster.json("/api/v1/log").await;
        let number = |name: &str| log[name].as_u64().unwrap_or_else(|| panic!("{name} of {log}"));
        let compressed = number("segments_compressed");
        (compressed >= 4 && compressed + 1 == number("segments")).then_some(compressed)
    })
    .await;

    let stats = tools::run(&mut home.command(&["log", "stats"])).await;
    assert!(stats.contains(&format!("{segments} of {} segments", segments + 1)), "{stats}");
    let ratio = stats.split("ratio ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let ratio: f64 = ratio.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("a ratio: {stats}"));
    assert!(ratio > 2.0, "{stats}");
    let cat = ["log", "cat", "--event", "message.publish", "--json"];
    assert_eq!(tools::run(&mut home.command(&cat)).await.lines().count(), MESSAGES);
    replay(&home, "early").await;
    muster.kill().await;

    // Whoever wants no compression any more still reads what is compressed.
    settings(&home, "");
    let muster = home.start().await;
    replay(&home, "late").await;
    muster.stop().await;
    let verified = tools::run(&mut home.command(&["log", "verify"])).await;
    assert!(verified.contains("are good"), "{verified}");
    assert_eq!(home.log().await.publishes().count(), MESSAGES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_level_that_cannot_be_is_refused() {
    let home = Home::new();
    for (setting, why) in [
        ("compress_level = 20", "`20` is no whole number from 1 to 19"),
        ("compress = 'gzip'", "`gzip` is none of none, zstd"),
    ] {
        settings(&home, setting);
        let (output, ok) = tools::try_run(&mut home.command(&["run"])).await;
        assert!(!ok && output.contains(why), "{output}");
    }
}
