//! What is said of a variety of rules.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
use expect_test::{Expect, expect};

use super::*;

fn explained(text: &str) -> Vec<Explanation> {
    let (statements, diagnostics) = crate::parse("rules/t.sql", text);
    assert!(!diagnostics.iter().any(Diagnostic::is_error), "{diagnostics:?}");
    explain(&statements, &diagnostics)
}

/// The part of an explanation that is derived, a line a fact.
fn check(text: &str, expected: Expect) {
    let mut out = String::new();
    for it in explained(text) {
        out.push_str(&format!("{} {} line {}\n", it.kind, it.name, it.line));
        for reads in &it.reads {
            out.push_str(&format!("  reads {} {:?} {}\n", reads.from, reads.reach, reads.events.join(" ")));
        }
        for woken in &it.wakes {
            out.push_str(&format!("  wakes {} {}\n", woken.event, woken.topics.join(" ")));
        }
        out.push_str(&format!("  looks {}\n", it.columns.join(" ")));
        out.push_str(&format!("  payload {} {}\n", it.payload.access, it.payload.paths.join(" ")));
        for fact in &it.costs {
            out.push_str(&format!("  {}: {}\n", fact.name, fact.text));
        }
        for column in &it.row {
            let RowColumn { name, ty, absent, null, constant } = column;
            let absent = if *absent { " absent" } else { "" };
            let null = if *null { " null" } else { "" };
            let constant = constant.as_ref().map(|it| format!(" = {it}")).unwrap_or_default();
            out.push_str(&format!("  row {name} {}{absent}{null}{constant}\n", ty.name()));
        }
        for warning in &it.warnings {
            out.push_str(&format!("  warning {}:{} {}\n", warning.line, warning.column, warning.message));
        }
    }
    let out: String = out.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    expected.assert_eq(&out);
}

#[test]
fn a_payload_is_parsed_only_where_a_path_leads_into_it() {
    check(
        r#"CREATE RULE raw INTO sqlite AS SELECT clientid, payload, qos FROM "t/1";
           CREATE RULE json INTO sqlite AS SELECT payload.temp AS temp, payload.list[1].x AS x FROM "t/+" WHERE payload.temp > 40;
           CREATE RULE none INTO sqlite AS SELECT topic FROM "\#";
           CREATE RULE again INTO sqlite AS SELECT json_decode(payload) AS all, payload AS p, p.x AS x FROM "t/1""#
            .replace("\\#", "#")
            .as_str(),
        expect![[r#"
            rule raw line 1
              reads t/1 Topic message.publish
              wakes message.publish t/1
              looks clientid qos
              payload raw
              index_exact_topic: found by its topic, in one look
              payload_not_parsed: taken as it came, not parsed
              row clientid text
              row payload text
              row qos integer
            rule json line 2
              reads t/+ Topics message.publish
              wakes message.publish t/+
              looks
              payload json temp list[1].x
              index_wildcard: found by walking the levels of the topic, not by asking each rule
              payload_parsed_once: parsed as JSON once an event, however many paths look into it
              payload_must_be_json: a payload that is no JSON makes the rule fail; the event goes to its dead letters
              row temp any null
              row x any absent null
            rule none line 3
              reads # AllTopics message.publish
              wakes message.publish #
              looks topic
              payload none
              index_all_topics: woken by every published message: `#` leaves nothing out
              payload_not_parsed: not looked at, not parsed
              row topic text
            rule again line 4
              reads t/1 Topic message.publish
              wakes message.publish t/1
              looks
              payload json
              index_exact_topic: found by its topic, in one look
              payload_decoded_again: decoded as a whole, on its own, each time by: json_decode(), p.x
              row all any null
              row p text
              row x any absent null
        "#]],
    );
}

#[test]
fn functions_cost_what_they_cost() {
    check(
        r#"SELECT regex_match(clientid, '^a') AS a, regex_match(topic, payload.re) AS b,
             jq('.x', payload) AS j, jq(payload.p, payload, 50) AS k, now_timestamp() AS now, kv_store_get('a') AS kv,
             format_date('second', 'Z', '%Y', timestamp) AS d, 60 * 60 * 24 AS day, upper('x') || clientid AS u
           FROM "t/1""#,
        expect![[r#"
            rule t line 1
              reads t/1 Topic message.publish
              wakes message.publish t/1
              looks timestamp clientid topic
              payload json re p
              index_exact_topic: found by its topic, in one look
              payload_parsed_once: parsed as JSON once an event, however many paths look into it
              payload_decoded_again: decoded as a whole, on its own, each time by: jq()
              payload_must_be_json: a payload that is no JSON makes the rule fail; the event goes to its dead letters
              jq_programs: 2 jq programs, stopped after: 10000 ms, 50 ms
              jq_dynamic: 1 jq program that only the event knows: made ready then, the last 64 are kept
              regex_compiled_once: 1 regular expression, made ready when the rule is read
              regex_dynamic: 1 regular expression that only the event knows: made ready then, the last 64 are kept
              date_format_read_once: 1 date format, made ready when the rule is read
              differs_on_replay: another value each time it is computed: now_timestamp()
              remembers: rows follow from events before, each sink has a store: kv_store_get()
              computed_once: when the rule is read: 60 * 60 * 24 is 86400, upper('x') is "X"
              row a boolean
              row b boolean
              row j list
              row k list
              row now integer
              row kv any absent null
              row d text
              row day integer = 86400
              row u text
        "#]],
    );
}

#[test]
fn foreach_makes_many_rows() {
    check(
        r#"CREATE RULE each INTO sqlite AS FOREACH payload.sensors AS s DO s.id AS id, clientid, s.t * 2 AS double
             INCASE s.t > 1 AND is_str(s.id) FROM "t/#";
           CREATE RULE plain INTO sqlite AS FOREACH payload AS p FROM "t/1""#,
        expect![[r#"
            rule each line 1
              reads t/# Topics message.publish
              wakes message.publish t/#
              looks clientid
              payload json sensors
              index_wildcard: found by walking the levels of the topic, not by asking each rule
              payload_parsed_once: parsed as JSON once an event, however many paths look into it
              payload_must_be_json: a payload that is no JSON makes the rule fail; the event goes to its dead letters
              rows_multiplied: an event makes as many rows as its list has elements, at most 100000
              row id text
              row clientid text
              row double number
            rule plain line 3
              reads t/1 Topic message.publish
              wakes message.publish t/1
              looks event timestamp node id event_id offset clientid username session seq peername peerhost client_attrs topic qos flags pub_props publish_received_at metadata
              payload json
              index_exact_topic: found by its topic, in one look
              payload_decoded_again: decoded as a whole, on its own, each time by: FOREACH payload
              all_columns: every column of the event is built: by `*`, or by FOREACH without DO
              rows_multiplied: an event makes as many rows as its list has elements, at most 100000
              row event text = "message.publish"
              row timestamp time
              row node text
              row id text
              row event_id text
              row offset integer
              row clientid text
              row username text absent
              row session integer
              row seq integer
              row peername text absent
              row client_attrs map
              row topic text
              row qos integer
              row payload text
              row flags map
              row pub_props map
              row publish_received_at time
              row peerhost text absent
              row metadata map
              row p any null
        "#]],
    );
}

#[test]
fn events_under_both_spellings_and_wildcards() {
    check(
        r#"CREATE RULE old AS SELECT clientid, reason, username, connected_at AS since FROM "$events/client_disconnected";
           CREATE RULE all AS SELECT event, clientid, payload.x AS x FROM "$events/message/+", "t" WHERE username IS NOT NULL"#,
        expect![[r#"
            rule old line 1
              reads $events/client_disconnected Event client.disconnected
              wakes client.disconnected $events/client/disconnected $events/client_disconnected
              looks clientid username connected_at reason
              payload none
              index_event: found by the kind in the event's header; others are not decoded
              row clientid text
              row reason text
              row username text absent
              row since time
            rule all line 2
              reads $events/message/+ Events message.delivered message.acked message.dropped delivery.dropped
              reads t Topic message.publish
              wakes message.publish t
              wakes message.delivered $events/message/delivered $events/message_delivered
              wakes message.acked $events/message/acked $events/message_acked
              wakes message.dropped $events/message/dropped $events/message_dropped
              wakes delivery.dropped $events/message/delivery_dropped $events/delivery_dropped
              looks event clientid username
              payload json x
              index_exact_topic: found by its topic, in one look
              index_event: found by the kind in the event's header; others are not decoded
              events_on_request: one event for each delivery, written only while a rule wants it: message.delivered, message.acked, message.dropped, delivery.dropped
              payload_parsed_once: parsed as JSON once an event, however many paths look into it
              payload_must_be_json: a payload of a message that is no JSON makes the rule fail; the event goes to its dead letters
              row event text
              row clientid text
              row x any absent null
        "#]],
    );
}

#[test]
fn types_follow_from_what_is_known() {
    check(
        r#"SELECT 'hot' AS kind, 1 AS one, qos + 1 AS next, payload.a + 1 AS sum, payload.a * 2 AS product,
             timestamp AS at, payload.flag AS flag, payload.n AS n, payload.o AS o,
             CASE WHEN qos = 0 THEN 'low' WHEN qos = 1 THEN 'mid' END AS level,
             coalesce(payload.name, clientid) AS name, qos > 1 AS high, username, flags.retain AS retain, nothing AS no
           FROM "t/1" WHERE is_bool(payload.flag) AND payload.n = 4 AND payload.o IN (1, 2)"#,
        expect![[r#"
            rule t line 1
              reads t/1 Topic message.publish
              wakes message.publish t/1
              looks timestamp clientid username qos flags
              payload json a flag n o name
              index_exact_topic: found by its topic, in one look
              payload_parsed_once: parsed as JSON once an event, however many paths look into it
              payload_must_be_json: a payload that is no JSON makes the rule fail; the event goes to its dead letters
              row kind text = "hot"
              row one integer = 1
              row next integer
              row sum any
              row product number
              row at time
              row flag boolean
              row n any
              row o any
              row level text absent
              row name any null
              row high boolean
              row username text absent
              row retain any absent null
              row no any absent
              warning 4:107 `nothing` is no column of these events and no alias
        "#]],
    );
}

#[test]
fn a_star_and_what_is_put_inside() {
    check(
        r#"SELECT *, payload.x AS payload.y, clientid AS who.id, upper(clientid) FROM "$events/node/started", "t""#,
        expect![[r#"
            rule t line 1
              reads $events/node/started Event node.started
              reads t Topic message.publish
              wakes message.publish t
              wakes node.started $events/node/started
              looks event timestamp node id event_id offset clientid username session seq peername peerhost client_attrs topic qos flags pub_props publish_received_at version metadata
              payload json x
              index_exact_topic: found by its topic, in one look
              index_event: found by the kind in the event's header; others are not decoded
              payload_parsed_once: parsed as JSON once an event, however many paths look into it
              payload_must_be_json: a payload of a message that is no JSON makes the rule fail; the event goes to its dead letters
              all_columns: every column of the event is built: by `*`, or by FOREACH without DO
              row event text
              row timestamp time
              row node text
              row id text
              row event_id text
              row offset integer
              row clientid text absent
              row username text absent
              row session integer absent
              row seq integer absent
              row peername text absent
              row client_attrs map absent
              row topic text absent
              row qos integer absent
              row payload map
              row flags map absent
              row pub_props map absent
              row publish_received_at time absent
              row peerhost text absent
              row version text absent
              row metadata map
              row who map
              row _v_fun_upper_4 text
              warning 1:1 the column `_v_fun_upper_4` has no name of its own
        "#]],
    );
}

#[test]
fn alarms_wait() {
    let alarm = r#"CREATE SINK ops TYPE webhook WITH (url = '${env:HOOK}');
        CREATE ALARM offline INTO ops AS ABSENCE OF "$events/client/connected" FOR 60s
        AFTER "$events/client/disconnected" WHERE username <> 'probe'"#;
    check(
        alarm,
        expect![[r#"
        alarm offline line 2
          reads $events/client/connected Event client.connected
          wakes client.connected $events/client/connected $events/client_connected
          looks username
          payload none
          index_event: found by the kind in the event's header; others are not decoded
    "#]],
    );
    let all = explained(alarm);
    let waits = all[0].waits.as_ref().unwrap();
    assert_eq!((waits.grace_ms, waits.after[0].events.as_slice()), (60_000, &["client.disconnected"][..]));
    assert_eq!(all[0].targets[0].sink_kind.as_deref(), Some("webhook"));
    assert!(!serde_json::to_string(&all).unwrap().contains("HOOK"), "options of sinks may be secrets");
}

#[test]
fn json_is_stable() {
    let text = r#"CREATE RULE hot INTO sqlite.hot REPUBLISH TO 'hot/${clientid}' WITH (qos = 1) WITH (start = 'earliest', batch_rows = 5) AS
SELECT clientid, payload.temp AS temp FROM "s/+" WHERE payload.temp > 1 AND qos = payload.q;
COMMENT ON RULE hot IS 'The hot ones'"#;
    expect![[r#"
        [
          {
            "kind": "rule",
            "name": "hot",
            "file": "rules/t.sql",
            "line": 1,
            "comment": "The hot ones",
            "sql": "CREATE RULE hot INTO sqlite.hot REPUBLISH TO 'hot/${clientid}' WITH (qos = 1) WITH (start = 'earliest', batch_rows = 5) AS SELECT clientid, payload.temp AS temp FROM \"s/+\" WHERE payload.temp > 1 AND qos = payload.q",
            "reads": [
              {
                "from": "s/+",
                "reach": "topics",
                "events": [
                  "message.publish"
                ]
              }
            ],
            "wakes": [
              {
                "event": "message.publish",
                "topics": [
                  "s/+"
                ],
                "on_request": false
              }
            ],
            "columns": [
              "clientid",
              "qos"
            ],
            "payload": {
              "access": "json",
              "paths": [
                "temp",
                "q"
              ]
            },
            "costs": [
              {
                "name": "index_wildcard",
                "text": "found by walking the levels of the topic, not by asking each rule"
              },
              {
                "name": "payload_parsed_once",
                "text": "parsed as JSON once an event, however many paths look into it"
              },
              {
                "name": "payload_must_be_json",
                "text": "a payload that is no JSON makes the rule fail; the event goes to its dead letters"
              }
            ],
            "rows": "none_or_one",
            "row": [
              {
                "name": "clientid",
                "type": "text",
                "absent": false,
                "null": false
              },
              {
                "name": "temp",
                "type": "any",
                "absent": false,
                "null": true
              }
            ],
            "targets": [
              {
                "to": "sink",
                "name": "sqlite",
                "table": "hot",
                "sink_kind": "sqlite",
                "options": []
              },
              {
                "to": "republish",
                "name": "hot/${clientid}",
                "options": [
                  {
                    "name": "qos",
                    "value": 1
                  }
                ]
              }
            ],
            "options": [
              {
                "name": "start",
                "value": "earliest"
              },
              {
                "name": "batch_rows",
                "value": 5
              }
            ],
            "warnings": []
          }
        ]"#]].assert_eq(&serde_json::to_string_pretty(&explained(text)).unwrap());
}
