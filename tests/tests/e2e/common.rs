//! Rules and questions that several tests share.

use std::path::Path;

use muster_tests::{Home, Muster, PATIENCE, tools, until};
use serde_json::Value;

/// Telemetry with a number `n` in each payload.
pub(crate) const TELEMETRY: &str = r#"
CREATE RULE telemetry INTO sqlite.telemetry AS
SELECT clientid, payload.n AS n, topic
FROM "sensors/+/up";
"#;

/// Who came and went.
pub(crate) const HISTORY: &str = r#"
CREATE RULE history INTO sqlite.history AS
SELECT clientid, event, reason, session, seq, timestamp AS at
FROM "$events/client/connected", "$events/client/disconnected";
"#;

/// Runs `mosquitto_pub` for one message at QoS 1.
pub(crate) async fn publish(program: &Path, muster: &Muster, client_id: &str, topic: &str, payload: &str) {
    let mut command = tools::mosquitto(program, muster.mqtt);
    tools::run(command.args(["-q", "1", "-i", client_id, "-t", topic, "-m", payload])).await;
}

/// The events of one client in the history, oldest first: `event` without its `client.`, then the reason, if any.
pub(crate) fn history(home: &Home, client_id: &str) -> Vec<String> {
    let select = |columns: &str| {
        home.lines(&format!("SELECT {columns} FROM history WHERE clientid = '{client_id}' ORDER BY seq"))
    };
    let lines = select("event, reason");
    // The column comes with the first reason.
    let lines = if lines.is_empty() { select("event") } else { lines };
    let short = |line: String| line.replace("client.", "").replace('|', " ").trim().to_owned();
    lines.into_iter().map(short).collect()
}

/// Waits until the history of a client reads as expected.
pub(crate) async fn until_history(home: &Home, client_id: &str, expected: &[&str]) {
    let mut last = Vec::new();
    let what = format!("the history of {client_id} reads {expected:?}");
    let reads = async || {
        let now = history(home, client_id);
        if now != last {
            eprintln!("history of {client_id}: {now:?}");
            last.clone_from(&now);
        }
        (now == expected).then_some(())
    };
    until(&what, PATIENCE, reads).await;
}

/// All pipelines, by REST.
pub(crate) async fn pipelines(muster: &Muster) -> Vec<Value> {
    let answer = muster.json("/api/v1/pipelines").await;
    let list = answer.get("data").unwrap_or(&answer).as_array().expect("a list of pipelines").clone();
    for pipeline in &list {
        let number = |name: &str| pipeline[name].as_u64().unwrap_or_else(|| panic!("{name} of {pipeline}"));
        assert_eq!(
            number("matched"),
            number("delivered") + number("dead") + number("pending"),
            "nothing is dropped in silence: {pipeline}"
        );
    }
    list
}

/// The pipeline from a rule to a sink.
pub(crate) async fn pipeline(muster: &Muster, rule: &str, sink: &str) -> Value {
    let all = pipelines(muster).await;
    let found = all.iter().find(|pipeline| pipeline["rule"] == rule && pipeline["sink"] == sink);
    found.unwrap_or_else(|| panic!("no pipeline from {rule} to {sink}: {all:#?}")).clone()
}

/// Waits until a pipeline has delivered so many rows and owes none.
pub(crate) async fn until_delivered(muster: &Muster, rule: &str, sink: &str, rows: u64) {
    let what = format!("{rule} delivers {rows} rows to {sink}");
    until(&what, PATIENCE, async || {
        let it = pipeline(muster, rule, sink).await;
        (it["delivered"] == rows && it["pending"] == 0).then_some(())
    })
    .await;
}
