//! What a target refuses, and what an operator does about it: dead letters looked at, delivered after all and
//! discarded; pipelines halted, over a restart too, and sent to another place in the log.

use axum::http::StatusCode;
use bytes::Bytes;
use muster_tests::mqtt::{Client, Version};
use muster_tests::webhook::Webhook;
use muster_tests::{Home, Muster, PATIENCE, until};
use serde_json::Value;

use crate::common::{pipeline, until_delivered};

fn home(hook: &Webhook) -> Home {
    Home::with_rules(&format!(
        "CREATE SINK hook TYPE webhook WITH (url = '{}');\n\
         CREATE RULE telemetry INTO sqlite.telemetry, hook AS\n\
         SELECT payload.n AS n, uuid_v4() AS id FROM \"sensors/+/up\";\n",
        hook.url()
    ))
}

async fn publish(muster: &Muster, range: std::ops::Range<usize>) {
    let mut client = Client::connect(muster.mqtt, Version::V5, "device").await;
    let count = range.len();
    let payloads = range.map(|n| Bytes::from(format!("{{\"n\":{n}}}")));
    assert_eq!(client.publish_all("sensors/a/up", payloads, 50).await.acked, count);
}

/// What `muster ARGUMENTS` prints about the running platform; `Err` with everything where it fails.
async fn muster(home: &Home, muster: &Muster, arguments: &[&str]) -> Result<String, String> {
    let http = muster.http.to_string();
    let mut command = home.command(&[arguments, &["--http", &http]].concat());
    let output = command.output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    if output.status.success() { Ok(stdout) } else { Err(stdout + &stderr) }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_target_refused_is_looked_at_and_delivered_after_all() {
    let hook = Webhook::start().await;
    let home = home(&hook);
    let platform = home.start().await;
    hook.answer(StatusCode::UNPROCESSABLE_ENTITY);
    publish(&platform, 0..3).await;
    until("three rows are refused", PATIENCE, async || {
        (pipeline(&platform, "telemetry", "hook").await["dead"] == 3).then_some(())
    })
    .await;

    let listed = muster(&home, &platform, &["dead-letters", "list", "--json", "--rule", "telemetry"]).await;
    let letters: Vec<Value> =
        listed.unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<_> = letters.iter().map(|letter| letter["row"]["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [0, 1, 2]);
    let id = letters[1]["id"].to_string();
    let shown = muster(&home, &platform, &["dead-letters", "show", &id]).await.unwrap();
    for part in ["telemetry > hook", "422", r#""n":1"#, r#""topic":"sensors/a/up""#] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let by_rest = platform.json(&format!("/api/v1/dead-letters/{id}")).await;
    assert_eq!((&by_rest["row"]["n"], &by_rest["columns"]["clientid"]), (&1.into(), &"device".into()));

    // Nothing changes for all of them unless that was said, and what is refused again stays.
    let unsaid = muster(&home, &platform, &["dead-letters", "replay"]).await.unwrap_err();
    assert!(unsaid.contains("--all"), "{unsaid}");
    let again = muster(&home, &platform, &["dead-letters", "replay", "--all"]).await.unwrap();
    assert_eq!(again.trim(), "0 delivered, 3 still dead");
    assert_eq!(
        muster(&home, &platform, &["dead-letters", "discard", "--id", &id]).await.unwrap().trim(),
        "1 dead letters discarded"
    );
    hook.answer(StatusCode::OK);
    let replayed = muster(&home, &platform, &["dead-letters", "replay", "--sink", "hook"]).await.unwrap();
    assert_eq!(replayed.trim(), "2 delivered, 0 still dead");

    let numbers: Vec<_> = hook.rows().iter().map(|row| row["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [0, 2]);
    let books = pipeline(&platform, "telemetry", "hook").await;
    assert_eq!((&books["matched"], &books["delivered"], &books["dead"]), (&3.into(), &2.into(), &1.into()));
    assert_eq!(platform.json("/api/v1/dead-letters").await["meta"]["count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_sinks_of_a_rule_have_the_same_row() {
    let hook = Webhook::start().await;
    let home = home(&hook);
    let platform = home.start().await;
    publish(&platform, 0..200).await;
    until_delivered(&platform, "telemetry", "hook", 200).await;
    let rows = home.until_lines("SELECT n, id FROM telemetry ORDER BY n", 200).await;
    let mut posted: Vec<_> = hook
        .rows()
        .iter()
        .map(|row| (row["n"].as_u64(), format!("{}|{}", row["n"], row["id"].as_str().unwrap())))
        .collect();
    posted.sort();
    let posted: Vec<_> = posted.into_iter().map(|(_, line)| line).collect();
    assert_eq!(rows, posted, "chance was asked once for both");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlives_a_crash_and_a_reset_delivers_again() {
    let hook = Webhook::start().await;
    let home = home(&hook);
    let platform = home.start().await;
    publish(&platform, 0..10).await;
    until_delivered(&platform, "telemetry", "hook", 10).await;
    let hook_only = ["--rule", "telemetry", "--sink", "hook"];
    let paused = muster(&home, &platform, &[&["pipelines", "pause"], &hook_only[..]].concat()).await.unwrap();
    assert!(paused.contains("paused"), "{paused}");
    publish(&platform, 10..20).await;
    until_delivered(&platform, "telemetry", "sqlite", 20).await;
    platform.kill().await;

    let platform = home.start().await;
    publish(&platform, 20..30).await;
    until_delivered(&platform, "telemetry", "sqlite", 30).await;
    let status = pipeline(&platform, "telemetry", "hook").await;
    assert_eq!((&status["state"], hook.rows().len()), (&"paused".into(), 10), "{status}");
    muster(&home, &platform, &[&["pipelines", "resume"], &hook_only[..]].concat()).await.unwrap();
    until_delivered(&platform, "telemetry", "hook", 30).await;

    let reset = [&["pipelines", "reset"], &hook_only[..], &["--to", "earliest"]].concat();
    muster(&home, &platform, &reset).await.unwrap();
    until_delivered(&platform, "telemetry", "hook", 60).await;
    let numbers: Vec<_> = hook.rows().iter().map(|row| row["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..30).chain(0..30).collect::<Vec<_>>());
    let wrong = [&["pipelines", "reset"], &hook_only[..], &["--to", "999999"]].concat();
    let refused = muster(&home, &platform, &wrong).await.unwrap_err();
    assert!(refused.contains("is not in the log"), "{refused}");
    let unknown = muster(&home, &platform, &["pipelines", "pause", "--rule", "nobody"]).await.unwrap_err();
    assert!(unknown.contains("no such pipeline"), "{unknown}");
}
