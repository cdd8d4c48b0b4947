//! Rules without a platform: `muster rules explain`, `test` and `run`, the last on a log that a platform has written
//! and may still write.

use std::process::{Output, Stdio};

use bytes::Bytes;
use muster_tests::mqtt::{Client, Version};
use muster_tests::{Home, Muster, PATIENCE, tools, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/rules");

const HOT: &str = r#"
CREATE RULE hot INTO sqlite.hot AS
SELECT clientid, payload.temp AS temp, topic FROM "sensors/+/up" WHERE payload.temp > 40;
CREATE RULE came INTO sqlite.came AS
SELECT clientid, event FROM "$events/client/connected";
"#;

struct Told {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Told {
    fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }
}

async fn ask(home: &Home, arguments: &[&str]) -> Told {
    let Output { status, stdout, stderr } = home.command(arguments).output().await.expect("an end");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Told { code: status.code(), out: text(stdout), err: text(stderr) }
}

/// A platform that has seen two clients: ten measurements, a payload that is no JSON, and other topics.
async fn with_history() -> (Home, Muster) {
    let home = Home::with_rules(HOT);
    let muster = home.start().await;
    let mut boiler = Client::connect(muster.mqtt, Version::V5, "boiler-1").await;
    let payloads = (0..10).map(|n| Bytes::from(format!(r#"{{"temp":{}}}"#, 36 + n)));
    boiler.publish_all("sensors/boiler-1/up", payloads, 5).await;
    boiler.publish("sensors/boiler-1/up", b"boiling", 1, false).await;
    boiler.publish("elsewhere", b"{}", 1, false).await;
    let mut other = Client::connect(muster.mqtt, Version::V5, "boiler-2").await;
    other.publish("sensors/boiler-2/up", br#"{"temp":99}"#, 1, false).await;
    (home, muster)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_recorded_events_are_those_that_pipelines_deliver() {
    let (home, muster) = with_history().await;
    let run = ["rules", "run", "rules/rules.sql", "--from", "data"];
    // Beside the running platform.
    let beside = ask(&home, &run).await;
    assert_eq!(beside.code, Some(0), "{}", beside.err);
    let rows = beside.json();
    let of = |rule: &str| rows.iter().filter(|row| row["rule"] == rule).cloned().collect::<Vec<_>>();
    assert_eq!((of("hot").len(), of("came").len()), (6, 2), "{}", beside.out);
    let first = &of("hot")[0];
    assert_eq!(
        first["row"],
        serde_json::json!({"clientid": "boiler-1", "temp": 41, "topic": "sensors/boiler-1/up"})
    );
    assert!(
        first["time"].as_str().is_some_and(|time| time.ends_with('Z')) && first["offset"].is_u64(),
        "{first}"
    );
    assert!(
        beside.err.contains("SELECT: payload is not JSON") && beside.err.contains("hot: offset "),
        "{}",
        beside.err
    );
    let numbers = |line: &str| line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>();
    let summary = beside.err.lines().find(|line| line.starts_with("hot ")).map(numbers);
    assert_eq!(summary, Some(["12", "6", "6", "1"].map(str::to_owned).to_vec()), "{}", beside.err);

    let delivered = until("the table has them", PATIENCE, async || {
        let lines = home.lines("SELECT clientid, temp, topic FROM hot ORDER BY temp");
        (lines.len() == 6).then_some(lines)
    })
    .await;
    let shown = |row: &Value| {
        let row = &row["row"];
        format!(
            "{}|{}|{}",
            row["clientid"].as_str().unwrap_or_default(),
            row["temp"],
            row["topic"].as_str().unwrap_or_default()
        )
    };
    assert_eq!(of("hot").iter().map(shown).collect::<Vec<_>>(), delivered);

    muster.stop().await;
    // Nothing was locked or changed, and the log's own directory will do as well.
    let stopped = ask(&home, &["rules", "run", "rules/rules.sql", "--from", "data/log"]).await;
    assert_eq!(stopped.out, beside.out);
    assert_eq!(stopped.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_events_are_selected() {
    let (home, muster) = with_history().await;
    muster.stop().await;
    let run = async |more: &[&str]| {
        let told = ask(&home, &[&["rules", "run", "rules/rules.sql", "--from", "data"], more].concat()).await;
        assert_eq!(told.code, Some(0), "{}", told.err);
        told
    };
    let hot = run(&["--rule", "hot"]).await.json();
    assert_eq!(hot.len(), 6);
    let offset = |at: usize| hot[at]["offset"].as_u64().expect("an offset").to_string();
    let part = run(&["--rule", "hot", "--since", &offset(1), "--until", &offset(4), "--json"]).await.json();
    assert_eq!(part, hot[1..4]);
    assert_eq!(run(&["--rule", "hot", "--limit", "2"]).await.json(), hot[..2]);
    assert_eq!(run(&["--rule", "hot", "--client", "boiler-2"]).await.json(), hot[5..]);
    assert_eq!(run(&["--until", "2001-01-01T00:00:00Z"]).await.out, "");
    assert_eq!(run(&["--since", "2001-01-01T00:00:00Z"]).await.json().len(), 8);

    let table = run(&["--rule", "hot", "--table", "--client", "boiler-2"]).await.out;
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(
        lines[0] == "hot"
            && lines[1].starts_with("offset")
            && lines[3].ends_with("boiler-2  99    sensors/boiler-2/up"),
        "{table}"
    );

    let summary = run(&["--summary", "--json"]).await;
    let [all] = summary.json().try_into().expect("one line");
    let all: Value = all;
    assert_eq!((&all["rules"][0]["rows"], &all["rules"][1]["rows"]), (&6.into(), &2.into()), "{all}");
    assert!(all["decoded"].as_u64() < all["events"].as_u64(), "what no rule wants is not decoded: {all}");

    for (arguments, code, part) in [
        (
            &["rules", "run", "rules/rules.sql", "--from", "data", "--rule", "hto"][..],
            2,
            "there are: hot, came",
        ),
        (&["rules", "run", "rules/none.sql", "--from", "data"], 2, "none.sql"),
        (&["rules", "run", "rules/rules.sql", "--from", "nowhere"], 3, "nowhere"),
        (&["rules", "run", "rules/rules.sql", "--from", "data", "--since", "noon"], 2, "write an offset"),
    ] {
        let told = ask(&home, arguments).await;
        assert!(
            told.code == Some(code) && told.err.contains(part),
            "{arguments:?}: {:?} {}",
            told.code,
            told.err
        );
    }
}

/// A rule that makes more rows than anybody reads.
const FLOOD: &str = r#"CREATE RULE flood AS FOREACH [1..100000] AS n DO n, clientid FROM "sensors/#""#;

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_and_a_closed_pipe_end_it_in_order() {
    let (home, muster) = with_history().await;
    std::fs::write(home.path().join("flood.sql"), FLOOD).expect("a file");
    let run = ["rules", "run", "flood.sql", "--from", "data"];
    let mut child = tools::spawn(home.command(&run).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    out.read_line(&mut line).await.expect("the first row");
    let id = child.id().expect("it runs").cast_signed();
    kill_process(Pid::from_raw(id).expect("a process id"), Signal::INT).expect("a signal reaches it");
    // It hangs in its output until somebody reads on.
    let drain = async {
        let mut bytes = 0;
        let mut buffer = vec![0; 1 << 20];
        while let Ok(read @ 1..) = out.read(&mut buffer).await {
            bytes += read;
        }
        bytes
    };
    let (bytes, ended) = tokio::join!(drain, child.wait_with_output());
    let Output { status, stderr, .. } = ended.expect("its end");
    let err = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(0), "{err}");
    assert!(bytes > 0 && err.contains("stopped before the end") && err.contains("flood "), "{err}");

    // `| head`.
    let mut child = tools::spawn(home.command(&run).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    out.read_line(&mut line).await.expect("the first row");
    drop(out);
    let Output { status, stderr, .. } = child.wait_with_output().await.expect("its end");
    let err = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(0), "{err}");
    assert!(!err.contains("muster:") && err.contains("events read"), "{err}");
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_pass_their_cases() {
    let told = ask(&Home::new(), &["rules", "test", EXAMPLES]).await;
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.err);
    assert_eq!(told.out, "18 passed, 0 failed\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn cases_that_fail_and_files_that_are_wrong_are_told_apart() {
    let home = Home::with_rules(HOT);
    home.write_rules(
        "rules.test.jsonl",
        r#"# good, bad, good
{"name":"hot","rule":"hot","event":{"topic":"sensors/a/up","clientid":"a","payload":{"temp":41}},"rows":[{"clientid":"a","temp":41,"topic":"sensors/a/up"}]}
{"name":"wrong type","rule":"hot","event":{"topic":"sensors/a/up","clientid":"a","payload":{"temp":41}},"rows":[{"clientid":"a","temp":41.0}]}
"#,
    );
    let told = ask(&home, &["rules", "test", "rules"]).await;
    assert_eq!(told.code, Some(1), "{}", told.out);
    let expected = "rules/rules.test.jsonl:3: wrong type (rule hot) failed
  temp
    - expected 41.0 (float)
    + got      41 (integer)
  topic
    - expected nothing (absent)
    + got      \"sensors/a/up\" (string)
rules/rules.sql: note: the rule `came` has no cases
1 passed, 1 failed
";
    assert_eq!(told.out, expected);
    let one = ask(&home, &["rules", "test", "rules/rules.test.jsonl", "--filter", "hot", "--json"]).await;
    let lines = one.json();
    assert_eq!(lines[0]["passed"], true);
    assert_eq!(lines[1]["differences"][0]["at"], "temp");
    assert_eq!(lines.last().expect("a summary")["failed"], 1);
    assert_eq!(ask(&home, &["rules", "test", "rules", "--filter", "hto"]).await.code, Some(2));

    home.write_rules(
        "rules.test.jsonl",
        "{\"rule\":\"cold\",\"event\":{},\"no_match\":true}\n{\"event\":{}\n",
    );
    let told = ask(&home, &["rules", "test", "rules"]).await;
    assert_eq!(told.code, Some(2), "{}", told.out);
    assert!(
        told.out.contains("rules/rules.test.jsonl:1:9: error: the rule file has no rule `cold`"),
        "{}",
        told.out
    );
    assert!(told.out.contains("rules/rules.test.jsonl:2:"), "{}", told.out);
    home.write_rules("lonely.test.jsonl", "");
    let told = ask(&home, &["rules", "test", "rules"]).await;
    assert!(told.code == Some(2) && told.err.contains("lonely.test.jsonl has no rule file"), "{}", told.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_explained() {
    let home = Home::with_rules(HOT);
    let told = ask(&home, &["rules", "explain", "rules", "--json"]).await;
    let all: Value = serde_json::from_str(&told.out).expect("JSON");
    assert_eq!(
        (told.code, &all[0]["name"], &all[0]["payload"]["access"]),
        (Some(0), &"hot".into(), &"json".into())
    );
    let words = ask(&home, &["rules", "explain", EXAMPLES]).await;
    assert!(words.code == Some(0) && words.out.contains("rule hot_sensors"), "{}", words.out);
    home.write_rules("bad.sql", "CREATE RULE bad AS SELECT nope( FROM \"t\"");
    let told = ask(&home, &["rules", "explain", "rules"]).await;
    assert_eq!(told.code, Some(1));
    assert!(told.err.contains("bad.sql:1:") && told.out.contains("rule hot "), "{}{}", told.out, told.err);
}
