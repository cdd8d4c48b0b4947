//! `muster rules explain`: what each rule does, for people or as JSON.

use std::io::{self, Write as _};
use std::path::PathBuf;

use muster_rules::explain::{Explanation, Goes, OptionShown, Payload, Reach, Reads, RowColumn, Woken};
use muster_sinks::COMMON;

use super::layout::{Layout, clauses};
use super::{read, tell_errors};
use crate::cli::failed_output;
use crate::error::{Error, ErrorKind};

/// Explains every rule and alarm of the files; what has errors is told of on stderr and left out.
pub(super) fn explain(paths: &[PathBuf], json: bool) -> Result<(), Error> {
    let files = read(paths)?;
    let texts = files.iter().map(|file| (file.name.as_str(), file.text.as_str()));
    let (statements, diagnostics) = muster_rules::parse_files(texts);
    let all = muster_rules::explain::explain(&statements, &diagnostics);
    let text = if json {
        let json = serde_json::to_string_pretty(&all);
        json.map_err(|error| Error::because(ErrorKind::Start, "cannot write JSON", error))?
    } else {
        all.iter().map(in_words).collect::<Vec<_>>().join("\n").trim_end().to_owned()
    };
    if !text.is_empty() {
        writeln!(io::stdout().lock(), "{text}").or_else(failed_output)?;
    }
    match tell_errors(&diagnostics) {
        0 => Ok(()),
        errors => Err(Error::new(ErrorKind::Negative, super::count(errors, "error"))),
    }
}

fn in_words(it: &Explanation) -> String {
    let mut out = Layout::default();
    out.line(&format!("{} {}  ({}:{})", it.kind, it.name, it.file, it.line));
    if let Some(comment) = &it.comment {
        out.entry("", comment);
    }
    out.table(
        if it.kind == "alarm" { "raised by" } else { "reads" },
        &it.reads.iter().map(source).collect::<Vec<_>>(),
    );
    if it.waits.is_none() && it.kind == "rule" {
        out.table("wakes on", &it.wakes.iter().map(woken).collect::<Vec<_>>());
    }
    if let Some(waits) = &it.waits {
        let missing = format!("when none of them comes within {}", duration(waits.grace_ms));
        out.entry("", &missing);
        out.table("after", &waits.after.iter().map(source).collect::<Vec<_>>());
    }
    out.table("looks at", &looks(it));
    let costs = it.costs.iter().map(|fact| (fact.name.replace('_', " "), fact.text.clone()));
    out.table("costs", &costs.collect::<Vec<_>>());
    if let Some(rows) = it.rows {
        let rows = if rows == "one_an_element" { "one row for each element" } else { "one row, or none" };
        out.entry("makes", rows);
        let widest = it.row.iter().map(|column| column.name.chars().count()).max().unwrap_or_default();
        out.table("row", &it.row.iter().map(|it| column(it, widest)).collect::<Vec<_>>());
    }
    goes(&mut out, it);
    for (n, clause) in clauses(&it.sql).iter().enumerate() {
        out.entry(if n == 0 { "sql" } else { "" }, clause);
    }
    for warning in &it.warnings {
        let help = warning.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
        out.entry("warning", &format!("{}:{}: {}{help}", warning.line, warning.column, warning.message));
    }
    out.finish()
}

fn source(reads: &Reads) -> (String, String) {
    let text = match reads.reach {
        Reach::Topic => "published messages of one topic".to_owned(),
        Reach::Topics => "published messages, topics by wildcards".to_owned(),
        Reach::AllTopics => "every published message, apart from topics that begin with $".to_owned(),
        Reach::Event => "events".to_owned(),
        Reach::Events => format!("events by wildcards: {}", reads.events.join(", ")),
        Reach::Nothing => "never matches".to_owned(),
    };
    (format!("\"{}\"", reads.from), text)
}

fn woken(it: &Woken) -> (String, String) {
    let topics: Vec<_> = it.topics.iter().map(|topic| format!("\"{topic}\"")).collect();
    (it.event.to_owned(), topics.join(" or "))
}

fn looks(it: &Explanation) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    if !it.columns.is_empty() {
        rows.push(("columns".to_owned(), it.columns.join(", ")));
    }
    let Payload { access, paths } = &it.payload;
    let text = match (*access, paths.is_empty()) {
        ("json", false) => format!("as JSON: {}", paths.join(", ")),
        ("json", true) => "as JSON, by functions".to_owned(),
        ("raw", _) => "as it came".to_owned(),
        _ => "no".to_owned(),
    };
    rows.push(("payload".to_owned(), text));
    rows
}

/// Name and type in front, what else is known behind.
fn column(column: &RowColumn, widest: usize) -> (String, String) {
    let RowColumn { name, ty, absent, null, constant } = column;
    let always = constant.as_ref().map(|constant| format!("always {constant}"));
    let may = match (absent, null) {
        (true, true) => Some("may be absent or null".to_owned()),
        (true, false) => Some("may be absent".to_owned()),
        (false, true) => Some("may be null".to_owned()),
        (false, false) => None,
    };
    let known: Vec<_> = always.into_iter().chain(may).collect();
    (format!("{name:<widest$}  {}", ty.name()), known.join(", "))
}

fn goes(out: &mut Layout, it: &Explanation) {
    let batch = |option: &&OptionShown| COMMON.iter().any(|common| common.name == option.name);
    if it.targets.is_empty() {
        out.entry("goes to", "nowhere: it has no INTO and no REPUBLISH");
    }
    out.table("goes to", &it.targets.iter().map(target).collect::<Vec<_>>());
    if it.kind == "rule" && !it.targets.is_empty() {
        let start = it.options.iter().find(|option| option.name == "start");
        let start = start.map_or_else(
            || "with what comes after it is first loaded (start = 'latest')".to_owned(),
            |start| format!("at {}, the first time it runs", plain(&start.value)),
        );
        out.entry("starts", &start);
        let batches = it.options.iter().filter(batch).map(shown).collect::<Vec<_>>();
        let usual = if batches.is_empty() { "as its sinks say".to_owned() } else { batches.join(", ") };
        out.entry("batches", &usual);
    }
    let others = it.options.iter().filter(|option| !batch(option) && option.name != "start");
    let others: Vec<_> = others.map(shown).collect();
    if !others.is_empty() {
        out.entry("options", &others.join(", "));
    }
}

fn target(it: &Goes) -> (String, String) {
    if it.to == "republish" {
        let options: Vec<_> = it.options.iter().map(shown).collect();
        return (format!("'{}'", it.name), format!("a topic to republish to  {}", options.join(", ")));
    }
    let name = match &it.table {
        Some(table) => format!("{}.{table}", it.name),
        None => it.name.clone(),
    };
    let kind = it.sink_kind.as_deref();
    (
        name,
        kind.map_or_else(
            || "a sink that these files do not declare".to_owned(),
            |kind| format!("sink of type {kind}"),
        ),
    )
}

fn shown(option: &OptionShown) -> String {
    format!("{} = {}", option.name, plain(&option.value))
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), |text| format!("'{text}'"))
}

fn duration(ms: u64) -> String {
    if ms.is_multiple_of(1_000) { format!("{} s", ms / 1_000) } else { format!("{ms} ms") }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, expected: Expect) {
        let (statements, diagnostics) = muster_rules::parse("rules/t.sql", text);
        let all = muster_rules::explain::explain(&statements, &diagnostics);
        let text = all.iter().map(in_words).collect::<Vec<_>>().join("\n");
        let long: Vec<_> =
            text.lines().filter(|line| line.chars().count() > super::super::layout::WIDTH).collect();
        assert!(long.is_empty(), "{long:?}");
        expected.assert_eq(&text);
    }

    #[test]
    fn the_examples_in_words() {
        let file = |name| {
            std::fs::read_to_string(format!("{}/../examples/rules/{name}.sql", env!("CARGO_MANIFEST_DIR")))
        };
        let text = ["alerts", "history", "telemetry"].map(|name| file(name).expect("an example")).concat();
        check(
            &text,
            expect![[r#"
                rule hot_sensors  (rules/t.sql:4)
                  reads      "sensors/+/up"  published messages, topics by wildcards
                  wakes on   message.publish  "sensors/+/up"
                  looks at   columns  timestamp, clientid
                             payload  as JSON: temp
                  costs      index wildcard        found by walking the levels of the topic, not by asking each rule
                             payload parsed once   parsed as JSON once an event, however many paths look into it
                             payload must be json  a payload that is no JSON makes the rule fail; the event goes to
                                                   its dead letters
                  makes      one row, or none
                  row        clientid  text
                             temp      any   may be null
                             kind      text  always "hot"
                             at        time
                  goes to    sqlite.alerts         sink of type sqlite
                             'alerts/${clientid}'  a topic to republish to qos = 1, retain = true
                  starts     with what comes after it is first loaded (start = 'latest')
                  batches    as its sinks say
                  sql        CREATE RULE hot_sensors
                             INTO sqlite.alerts
                             REPUBLISH TO 'alerts/${clientid}'
                             WITH (qos = 1, retain = true)
                             AS SELECT clientid, payload.temp AS temp, 'hot' AS kind, timestamp AS at
                             FROM "sensors/+/up"
                             WHERE payload.temp > 40

                rule device_history  (rules/t.sql:11)
                  reads      "$events/client/connected"     events
                             "$events/client/disconnected"  events
                  wakes on   client.connected     "$events/client/connected" or "$events/client_connected"
                             client.disconnected  "$events/client/disconnected" or "$events/client_disconnected"
                  looks at   columns  event, timestamp, clientid, username, session, seq, peername, reason
                             payload  no
                  costs      index event  found by the kind in the event's header; others are not decoded
                  makes      one row, or none
                  row        clientid  text
                             event     text
                             reason    text     may be absent
                             username  text     may be absent
                             peername  text     may be absent
                             session   integer
                             seq       integer
                             at        time
                  goes to    sqlite.device_history  sink of type sqlite
                  starts     with what comes after it is first loaded (start = 'latest')
                  batches    as its sinks say
                  sql        CREATE RULE device_history
                             INTO sqlite.device_history
                             AS SELECT clientid, event, reason, username, peername, session, seq, timestamp AS at
                             FROM "$events/client/connected", "$events/client/disconnected"

                rule telemetry  (rules/t.sql:17)
                  reads      "sensors/+/up"  published messages, topics by wildcards
                  wakes on   message.publish  "sensors/+/up"
                  looks at   columns  timestamp, clientid, topic
                             payload  as JSON: temp, humidity, n
                  costs      index wildcard        found by walking the levels of the topic, not by asking each rule
                             payload parsed once   parsed as JSON once an event, however many paths look into it
                             payload must be json  a payload that is no JSON makes the rule fail; the event goes to
                                                   its dead letters
                  makes      one row, or none
                  row        clientid  text
                             topic     text
                             temp      any   may be absent or null
                             humidity  any   may be absent or null
                             n         any   may be absent or null
                             at        time
                  goes to    sqlite.telemetry  sink of type sqlite
                  starts     with what comes after it is first loaded (start = 'latest')
                  batches    as its sinks say
                  sql        CREATE RULE telemetry
                             INTO sqlite.telemetry
                             AS SELECT clientid, topic, payload.temp AS temp, payload.humidity AS humidity,
                             payload.n AS n, timestamp AS at
                             FROM "sensors/+/up"
            "#]],
        );
    }

    #[test]
    fn everything_at_once_in_words() {
        check(
            r#"CREATE SINK hook TYPE webhook WITH (url = 'http://user:secret@127.0.0.1/');
            CREATE RULE big INTO hook, sqlite.big, lake.raw REPUBLISH TO 'alerts/${clientid}' WITH (qos = 1)
            WITH (start = 'earliest', batch_rows = 50) AS
            FOREACH payload.sensors AS s
            DO clientid, s.id AS id, s.t * 1.8 + 32 AS fahrenheit, 'sensor' AS kind, 60 * 60 AS hour,
               regex_replace(topic, '^a/', '') AS place, jq('.a', payload) AS a, now_timestamp() AS at, upper(topic)
            INCASE s.t > 40 FROM "plants/+/up", "$events/message/dropped", "$events/client_connected" WHERE qos > 0;
            COMMENT ON RULE big IS 'One row for each sensor that is too hot';
            CREATE ALARM offline INTO hook AS
            ABSENCE OF "$events/client/connected" FOR 1500ms AFTER "$events/client/disconnected" WHERE username <> 'probe';
            SELECT * FROM "\#""#
                .replace("\\#", "#")
                .as_str(),
            expect![[r##"
                rule big  (rules/t.sql:2)
                             One row for each sensor that is too hot
                  reads      "plants/+/up"               published messages, topics by wildcards
                             "$events/message/dropped"   events
                             "$events/client_connected"  events
                  wakes on   message.publish   "plants/+/up"
                             message.dropped   "$events/message/dropped" or "$events/message_dropped"
                             client.connected  "$events/client/connected" or "$events/client_connected"
                  looks at   columns  clientid, topic, qos
                             payload  as JSON: sensors
                  costs      index wildcard        found by walking the levels of the topic, not by asking each rule
                             index event           found by the kind in the event's header; others are not decoded
                             events on request     one event for each delivery, written only while a rule wants it:
                                                   message.dropped
                             payload parsed once   parsed as JSON once an event, however many paths look into it
                             payload must be json  a payload of a message that is no JSON makes the rule fail; the
                                                   event goes to its dead letters
                             jq programs           1 jq program, stopped after: 10000 ms
                             regex compiled once   1 regular expression, made ready when the rule is read
                             differs on replay     another value each time it is computed: now_timestamp()
                             rows multiplied       an event makes as many rows as its list has elements, at most
                                                   100000
                             computed once         when the rule is read: 60 * 60 is 3600
                  makes      one row for each element
                  row        clientid        text
                             id              any      may be absent or null
                             fahrenheit      number
                             kind            text     always "sensor"
                             hour            integer  always 3600
                             place           text
                             a               list
                             at              integer
                             _v_fun_upper_9  text
                  goes to    hook                  sink of type webhook
                             sqlite.big            sink of type sqlite
                             lake.raw              a sink that these files do not declare
                             'alerts/${clientid}'  a topic to republish to qos = 1
                  starts     at 'earliest', the first time it runs
                  batches    batch_rows = 50
                  sql        CREATE RULE big
                             INTO hook
                             INTO sqlite.big
                             INTO lake.raw
                             REPUBLISH TO 'alerts/${clientid}'
                             WITH (qos = 1)
                             WITH (start = 'earliest', batch_rows = 50)
                             AS FOREACH payload.sensors AS s
                             DO clientid, s.id AS id, s.t * 1.8 + 32 AS fahrenheit, 'sensor' AS kind, 60 * 60 AS
                             hour, regex_replace(topic, '^a/', '') AS place, jq('.a', payload) AS a, now_timestamp()
                             AS at, upper(topic)
                             INCASE s.t > 40
                             FROM "plants/+/up", "$events/message/dropped", "$events/client_connected"
                             WHERE qos > 0
                  warning    4:13: the column `_v_fun_upper_9` has no name of its own; write AS name behind the
                             expression: the made-up name changes with its place in the rule

                alarm offline  (rules/t.sql:9)
                  raised by  "$events/client/connected"  events
                             when none of them comes within 1500 ms
                  after      "$events/client/disconnected"  events
                  looks at   columns  username
                             payload  no
                  costs      index event  found by the kind in the event's header; others are not decoded
                  goes to    hook  sink of type webhook
                  sql        CREATE ALARM offline
                             INTO hook
                             AS ABSENCE OF "$events/client/connected" FOR 1500ms AFTER "$events/client/disconnected"
                             WHERE username <> 'probe'

                rule t  (rules/t.sql:11)
                  reads      "#"  every published message, apart from topics that begin with $
                  wakes on   message.publish  "#"
                  looks at   columns  event, timestamp, node, id, event_id, offset, clientid, username, session,
                                      seq, peername, peerhost, client_attrs, topic, qos, flags, pub_props,
                                      publish_received_at, metadata
                             payload  as it came
                  costs      index all topics    woken by every published message: `#` leaves nothing out
                             payload not parsed  taken as it came, not parsed
                             all columns         every column of the event is built: by `*`, or by FOREACH without
                                                 DO
                  makes      one row, or none
                  row        event                text     always "message.publish"
                             timestamp            time
                             node                 text
                             id                   text
                             event_id             text
                             offset               integer
                             clientid             text
                             username             text     may be absent
                             session              integer
                             seq                  integer
                             peername             text     may be absent
                             client_attrs         map
                             topic                text
                             qos                  integer
                             payload              text
                             flags                map
                             pub_props            map
                             publish_received_at  time
                             peerhost             text     may be absent
                             metadata             map
                  goes to    nowhere: it has no INTO and no REPUBLISH
                  sql        CREATE RULE t
                             AS SELECT *
                             FROM "#"
            "##]],
        );
    }
}
