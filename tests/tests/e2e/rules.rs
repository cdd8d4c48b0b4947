//! A first rule in five minutes: history and telemetry, rule files that change while Muster runs, `rules check`.

use bytes::Bytes;
use muster_tests::mqtt::{Client, Version};
use muster_tests::paho::Paho;
use muster_tests::webhook::Webhook;
use muster_tests::{Home, PATIENCE, need, tools, until};
use serde_json::json;

use crate::common::{HISTORY, pipeline, publish, until_delivered, until_history};

#[tokio::test(flavor = "multi_thread")]
async fn history_and_telemetry_reach_sqlite_and_a_webhook() {
    let publisher = need!("mosquitto_pub");
    let subscriber = need!("mosquitto_sub");
    let python = need!("paho");
    let sqlite3 = need!("sqlite3");
    let hook = Webhook::start().await;
    let home = Home::new();
    home.write_rules(
        "history.sql",
        &format!(
            "CREATE SINK hook TYPE webhook WITH (url = '{}');\n\
             CREATE RULE history INTO sqlite.history, hook AS\n\
             SELECT clientid, username, event, reason, session, seq, timestamp AS at\n\
             FROM \"$events/client/connected\", \"$events/client/disconnected\" WHERE username <> 'probe';\n",
            hook.url()
        ),
    );
    home.write_rules(
        "telemetry.sql",
        "CREATE RULE telemetry INTO sqlite.telemetry, hook AS\n\
         SELECT clientid, topic, payload.temp AS temp, qos FROM \"sensors/+/up\" WHERE payload.temp > 20;\n",
    );
    let muster = home.start().await;

    // Somebody who subscribes gets the messages too.
    let mut command = tools::mosquitto(&subscriber, muster.mqtt);
    command.args(["-i", "watcher", "-t", "sensors/+/up", "-q", "1", "-C", "3", "-F", "%t %p %q"]);
    let watcher = tools::spawn(command.stdout(std::process::Stdio::piped()));
    until("the watcher has subscribed", PATIENCE, async || {
        (muster.json("/api/v5/stats?aggregate=true").await["subscriptions.count"] == 1).then_some(())
    })
    .await;

    publish(&publisher, &muster, "mos", "sensors/kitchen/up", r#"{"temp": 21.5}"#).await;
    publish(&publisher, &muster, "mos", "sensors/cellar/up", r#"{"temp": 9}"#).await;
    publish(&publisher, &muster, "mos", "sensors/kitchen/door/up", r#"{"temp": 99}"#).await;
    let mut probe = tools::mosquitto(&publisher, muster.mqtt);
    tools::run(probe.args(["-i", "probe", "-u", "probe", "-t", "elsewhere", "-m", "x"])).await;
    let options = json!({"clientid": "paho5", "version": 5, "username": "ann"});
    let (mut paho, connected) = Paho::connect(&python, muster.mqtt, options).await;
    assert_eq!(connected["code"], 0);
    paho.order(json!({"do": "publish", "topic": "sensors/attic/up", "payload": "{\"temp\": 30}", "qos": 2}))
        .await;
    assert_eq!(paho.event("published").await["code"], 0);
    paho.vanish().await;

    let seen = tools::output(watcher).await;
    let expected = [
        "sensors/kitchen/up {\"temp\": 21.5} 1",
        "sensors/cellar/up {\"temp\": 9} 1",
        "sensors/attic/up {\"temp\": 30} 1",
    ];
    assert_eq!(seen.lines().collect::<Vec<_>>(), expected);

    until_history(&home, "paho5", &["connected", "disconnected tcp_closed"]).await;
    let rows =
        home.until_lines("SELECT clientid, topic, temp, qos FROM telemetry ORDER BY _event_id", 2).await;
    assert_eq!(rows, ["mos|sensors/kitchen/up|21.5|1", "paho5|sensors/attic/up|30|2"]);
    let users = home.lines("SELECT DISTINCT clientid, username FROM history ORDER BY clientid");
    assert!(
        users.contains(&"paho5|ann".to_owned()) && !users.iter().any(|line| line.contains("probe")),
        "{users:?}"
    );

    // The same as a user would look, while Muster runs.
    let sql = "SELECT count(*) FROM telemetry";
    assert_eq!(tools::run(tools::command(sqlite3).arg(home.database()).arg(sql)).await.trim(), "2");

    let history_rows = home.lines("SELECT event FROM history").len();
    until("all rows at the webhook", PATIENCE, async || {
        (hook.rows().len() == history_rows + 2).then_some(())
    })
    .await;
    let temps = hook.rows().into_iter().filter(|row| row.get("temp").is_some()).collect::<Vec<_>>();
    let expected = json!({"clientid": "mos", "topic": "sensors/kitchen/up", "temp": 21.5, "qos": 1});
    assert_eq!(temps[0], expected);
    until_delivered(&muster, "telemetry", "hook", 2).await;
    muster.stop().await;
}

const ONE: &str = "CREATE RULE one INTO sqlite.one AS SELECT topic FROM \"one/#\";\n";

#[tokio::test(flavor = "multi_thread")]
async fn rule_files_change_while_it_runs() {
    let program = need!("mosquitto_pub");
    let home = Home::new();
    home.write_rules("one.sql", ONE);
    let muster = home.start().await;
    publish(&program, &muster, "a", "one/1", "x").await;
    home.until_lines("SELECT topic FROM one", 1).await;

    // A new file. What was published before it came is not its business.
    publish(&program, &muster, "a", "two/0", "x").await;
    home.write_rules("two.sql", "CREATE RULE two INTO sqlite.two AS SELECT topic FROM \"two/#\";\n");
    let has_rule = async |name: &str| {
        let what = format!("the rule {name} runs");
        until(&what, PATIENCE, async || {
            let all = crate::common::pipelines(&muster).await;
            all.iter().any(|pipeline| pipeline["rule"] == name).then_some(())
        })
        .await;
    };
    has_rule("two").await;
    publish(&program, &muster, "a", "two/1", "x").await;
    assert_eq!(home.until_lines("SELECT topic FROM two", 1).await, ["two/1"]);

    // A broken one: the old rules stay, and the output says where it is wrong.
    home.write_rules("one.sql", "CREATE RULE one INTO sqlite.one AS\nSELECT topic FRM \"one/#\";\n");
    let line = muster.until_printed("one.sql:2:").await;
    assert!(line.contains("one.sql:2:18"), "{line}");
    publish(&program, &muster, "a", "one/2", "x").await;
    publish(&program, &muster, "a", "two/2", "x").await;
    assert_eq!(home.until_lines("SELECT topic FROM one", 2).await, ["one/1", "one/2"]);
    home.until_lines("SELECT topic FROM two", 2).await;

    // A changed one takes its place; events are neither lost nor doubled in the change.
    home.write_rules("one.sql", &ONE.replace("one/#", "uno/#"));
    until("the changed rule runs", PATIENCE, async || {
        publish(&program, &muster, "a", "uno/1", "x").await;
        (!home.lines("SELECT topic FROM one WHERE topic = 'uno/1'").is_empty()).then_some(())
    })
    .await;
    publish(&program, &muster, "a", "one/3", "x").await;
    publish(&program, &muster, "a", "uno/2", "x").await;
    home.until_lines("SELECT topic FROM one WHERE topic = 'uno/2'", 1).await;
    assert_eq!(home.lines("SELECT topic FROM one WHERE topic LIKE 'one/%'"), ["one/1", "one/2"]);

    // A file that goes takes its rules with it.
    std::fs::remove_file(home.rules().join("two.sql")).expect("a file");
    until("the rule two is gone", PATIENCE, async || {
        let all = crate::common::pipelines(&muster).await;
        (!all.iter().any(|pipeline| pipeline["rule"] == "two")).then_some(())
    })
    .await;
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_rules_folder_is_made_with_an_example_that_is_valid() {
    let home = Home::new();
    std::fs::remove_dir(home.rules()).expect("an empty folder");
    let muster = home.start().await;
    muster.stop().await;
    let files = std::fs::read_dir(home.rules()).expect("the folder").count();
    assert_eq!(files, 1);
    tools::run(&mut home.command(&["rules", "check", "rules"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_check_says_offline_what_run_would_say() {
    let home = Home::with_rules(HISTORY);
    let (_, ok) = tools::try_run(&mut home.command(&["rules", "check", "rules"])).await;
    assert!(ok);
    home.write_rules(
        "bad.sql",
        "CREATE RULE bad INTO sqlite.bad AS\nSELECT clientid FROM \"$events/nonsense\";\n",
    );
    for path in ["rules", "rules/bad.sql"] {
        let output = home.command(&["rules", "check", path]).output().await.expect("an end");
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(text.contains("bad.sql:2:"), "{text}");
    }
    let output = home.command(&["rules", "check", "nowhere"]).output().await.expect("an end");
    assert!(!output.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_are_valid() {
    let home = Home::new();
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/rules");
    tools::run(&mut home.command(&["rules", "check", examples])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_whose_rule_changes_stays_in_the_list() {
    // It takes requests and never answers, so that the change waits for the one that is under way.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    let rules = |lanes: u32| {
        format!(
            "CREATE SINK hook TYPE webhook WITH (url = 'http://{address}/');\n\
             CREATE RULE telemetry INTO hook WITH (lanes = {lanes}) AS SELECT payload.n AS n FROM \"up\";\n"
        )
    };
    let home = Home::with_rules(&rules(1));
    let muster = home.start().await;
    let mut client = Client::connect(muster.mqtt, Version::V5, "device").await;
    client.publish_all("up", [Bytes::from("{\"n\":1}")], 1).await;
    until("the row is under way", PATIENCE, async || {
        (pipeline(&muster, "telemetry", "hook").await["pending"] == 1).then_some(())
    })
    .await;
    home.write_rules("rules.sql", &rules(2));
    until("the change is there", PATIENCE, async || {
        // It is in the list at every look.
        (pipeline(&muster, "telemetry", "hook").await["lanes"] == 2).then_some(())
    })
    .await;
    muster.kill().await;
}
