//! `muster sinks` and `muster migrate`: what an operator learns of a sink before the first row, in words; the same
//! questions for each kind. A new kind is a row in `KINDS`.

use std::net::SocketAddr;

use muster_test_servers::{Server, free_address};
use muster_tests::webhook::Webhook;
use muster_tests::{Home, PATIENCE, until};
use serde_json::Value;

/// A kind of sink whose target is asked.
struct Kind {
    name: &'static str,
    /// The server in `tests/servers`; none where the test itself is the target.
    server: Option<&'static str>,
    /// The options of a sink whose target is at an address.
    options: fn(SocketAddr) -> String,
    /// What `INTO` says.
    into: &'static str,
    /// How many steps `muster migrate` takes at a new target, at least; none where there are none.
    steps: Option<usize>,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "webhook",
        server: None,
        options: |at| {
            format!("url = 'http://{at}/hook', header.Authorization = 'Bearer hunter2', timeout_ms = 2000")
        },
        into: "target",
        steps: None,
    },
    Kind {
        name: "influxdb",
        server: Some("influxdb"),
        options: |at| {
            let login = "username = 'muster', password = 'muster-secret'";
            format!("url = 'http://{at}', api = 'v1', database = 'fleet', {login}, timeout_ms = 2000")
        },
        into: "target",
        steps: Some(1),
    },
    Kind {
        name: "postgres",
        server: Some("postgres"),
        options: |at| format!("url = 'postgres://postgres:hunter2@{at}/postgres', connect_timeout_ms = 2000"),
        into: "target.device_messages",
        steps: Some(3),
    },
    Kind {
        name: "kafka",
        server: Some("kafka"),
        options: |at| format!("brokers = '{at}', create_topics = 'true', timeout_ms = 3000"),
        into: "target.device_messages",
        steps: None,
    },
    Kind {
        name: "clickhouse",
        server: Some("clickhouse"),
        options: |at| format!("url = 'http://{at}', user = 'muster', password = 'secret', timeout_ms = 5000"),
        into: "target.device_messages",
        steps: Some(3),
    },
    Kind {
        name: "mongodb",
        server: Some("mongodb"),
        options: |at| {
            format!("url = 'mongodb://muster:secret@{at}/fleet?authSource=admin', timeout_ms = 3000")
        },
        into: "target.device_messages",
        steps: Some(3),
    },
];

impl Kind {
    fn home(&self, at: SocketAddr) -> Home {
        Home::with_rules(&format!(
            "CREATE SINK target TYPE {} WITH ({});\n\
             CREATE RULE all_messages INTO {} AS SELECT * FROM \"sensors/#\";\n",
            self.name,
            (self.options)(at),
            self.into
        ))
    }
}

/// The exit code of `muster ARGUMENTS`, and what it printed on both streams.
async fn muster(home: &Home, arguments: &[&str]) -> (Option<i32>, String) {
    let output = home.command(arguments).output().await.expect("it starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("text"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_says_whether_it_would_take_rows() {
    for kind in KINDS {
        eprintln!("asking a {} sink", kind.name);
        let hook = Webhook::start().await;
        let server = match kind.server.map(|name| tokio::task::block_in_place(|| Server::own(name))) {
            Some(None) => continue,
            Some(Some(server)) => Some(server),
            None => None,
        };
        let home = kind.home(server.as_ref().map_or(hook.address(), Server::address));
        prepared(kind, &home).await;
        let (code, said) = muster(&home, &["sinks", "check", "target"]).await;
        assert_eq!((code, said.contains(": well")), (Some(0), true), "{}: {said}", kind.name);
        drop((hook, server));
        // The same when nobody is there: in words, and with what to do.
        let (code, said) = muster(&home, &["sinks", "check", "target"]).await;
        assert_eq!((code, said.contains("what to do: ")), (Some(1), true), "{}: {said}", kind.name);
        let secret = ["hunter2", "muster-secret"].iter().any(|secret| said.contains(secret));
        assert!(said.contains("all_messages > target") && !secret, "{}: {said}", kind.name);
    }
}

/// Takes the steps of a new target, and sees that each is taken once.
async fn prepared(kind: &Kind, home: &Home) {
    let migrate = ["migrate", "--sink", "target"];
    let Some(least) = kind.steps else {
        let (code, said) = muster(home, &migrate).await;
        assert_eq!((code, said.contains("nothing to do")), (Some(0), true), "{}: {said}", kind.name);
        return;
    };
    let (code, planned) = muster(home, &["migrate", "--sink", "target", "--dry-run"]).await;
    assert_eq!(code, Some(0), "{}: {planned}", kind.name);
    let steps = planned.lines().filter(|line| line.starts_with("-- 0")).count();
    assert!(steps >= least && planned.contains("nothing was changed"), "{}: {planned}", kind.name);
    let (code, said) = muster(home, &migrate).await;
    let taken = said.lines().filter(|line| line.starts_with('0')).count();
    assert_eq!((code, taken), (Some(0), steps), "{}: {said}", kind.name);
    let (code, again) = muster(home, &migrate).await;
    assert_eq!((code, again.contains("nothing to do")), (Some(0), true), "{}: {again}", kind.name);
}

#[tokio::test(flavor = "multi_thread")]
async fn sinks_are_listed_with_their_rules_and_without_their_secrets() {
    let home = Home::with_rules(
        "CREATE SINK hook TYPE webhook WITH (url = 'http://u:hunter2@127.0.0.1:1/', batch = 'true');\n\
         CREATE SINK unused TYPE sqlite WITH (path = 'other.db');\n\
         CREATE RULE a INTO hook, sqlite.table_a AS SELECT topic FROM \"a\";\n\
         CREATE RULE b INTO hook AS SELECT topic FROM \"b\";\n",
    );
    let (code, text) = muster(&home, &["sinks", "list"]).await;
    let expected = "hook: webhook, ./rules/rules.sql:1\n  batch = true\n  url = ******\n  rule a\n  rule b\n\
                    sqlite: sqlite, exists without being declared\n  rule a > table_a\n\
                    unused: sqlite, ./rules/rules.sql:2\n  path = other.db\n  no rule writes into it\n";
    assert_eq!((code, text.as_str()), (Some(0), expected));
    let (_, text) = muster(&home, &["sinks", "list", "--json"]).await;
    let listed: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(listed[0]["rules"][1]["rule"], "b");
    assert!(!text.contains("hunter"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_checked_is_said_in_words() {
    let home = Home::with_rules(
        "CREATE SINK file TYPE sqlite WITH (path = 'no/such/folder/x.db');\n\
         CREATE SINK broken TYPE webhook WITH (url = '${env:MUSTER_E2E_NOWHERE}');\n",
    );
    for (arguments, code, words) in [
        (&["sinks", "check", "file"][..], 1, "see that the directory exists and may be written"),
        (&["sinks", "check", "broken"], 1, "MUSTER_E2E_NOWHERE is not set"),
        (
            &["sinks", "check", "nobody"],
            2,
            "no rule file declares a sink named `nobody`; declared or in use: broken, file",
        ),
        (&["migrate", "--sink", "nobody"], 2, "no rule file declares a sink named `nobody`"),
        (&["migrate", "--sink", "file"], 0, "a sqlite sink needs no preparation: nothing to do"),
    ] {
        let (got, said) = muster(&home, arguments).await;
        assert_eq!((got, said.contains(words)), (Some(code), true), "{arguments:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_warns_of_a_sink_that_would_not_take_rows_and_does_not_wait_for_it() {
    // Somebody who takes connections and never answers, and somebody who is not there.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let silent_at = silent.local_addr().expect("its address");
    let home = Home::with_rules(&format!(
        "CREATE SINK silent TYPE webhook WITH (url = 'http://{silent_at}/', timeout_ms = 3000);\n\
         CREATE SINK gone TYPE webhook WITH (url = 'http://{}/', timeout_ms = 3000);\n\
         CREATE RULE a INTO silent, gone AS SELECT topic FROM \"a\";\n\
         CREATE RULE b INTO gone AS SELECT topic FROM \"b\";\n",
        free_address()
    ));
    let muster = home.start().await;
    let warnings = || {
        let output = muster.output();
        output.into_iter().filter(|line| line.contains("the sink's check failed")).collect::<Vec<_>>()
    };
    until("both are warned of", PATIENCE, async || (warnings().len() == 2).then_some(())).await;
    let warnings = warnings();
    assert!(warnings.iter().any(|it| it.contains("a > gone") && it.contains("hint=")), "{warnings:#?}");
    assert!(warnings.iter().any(|it| it.contains("a > silent")), "{warnings:#?}");
    let output = muster.output();
    let place = |text: &str| output.iter().position(|line| line.contains(text)).expect("it was printed");
    // `gone` comes first; `silent` keeps the asker waiting, and the doors are open meanwhile.
    assert!(place("http listening") < place("a > silent"), "{output:#?}");
    muster.stop().await;
}
