//! A REPUBLISH of a rule becomes a pipeline. Its name does not hang on the topic, so that a corrected topic goes on
//! where the wrong one was.

use std::sync::Arc;
use std::time::Duration;

use muster_rules::ast::{Name, Options, Rule};
use muster_rules::{Diagnostic, Republish, RuleProgram, Severity};
use muster_sinks::delivery::{DEAD_LETTERS_PER_MINUTE, Limits};
use muster_sinks::{PipelineId, limits, retry_wait_max};

use super::plan::{Identity, Outlet, Planned, START};

/// What stands in the place of a sink's name.
pub(super) const SINK: &str = "republish";

/// A message should not wait long for others: while one batch is on its way to the disk, the next gathers anyway.
const LIMITS: Limits = Limits {
    batch_rows_max: 1_000,
    batch_bytes_max: 1 << 20,
    batch_wait: Duration::from_millis(2),
    dead_letters_per_minute_max: DEAD_LETTERS_PER_MINUTE,
};

/// The pipeline of the REPUBLISH that is `number` of those of its rule, from 0.
pub(super) fn planned(
    rule: &Rule,
    (topic, options): (&Name, &Options),
    number: u32,
    program: &Arc<RuleProgram>,
    rule_version: &str,
) -> Result<(PipelineId, Planned), Vec<Diagnostic>> {
    let message = Arc::new(Republish::compile(rule, topic, options)?);
    let mut rule_options = rule.options.to_map();
    let start = rule_options.remove(START);
    let limits = limits(&rule_options, LIMITS).map_err(|name| vec![wrong(rule, name)])?;
    let retry_wait_max = retry_wait_max(&rule_options).map_err(|name| vec![wrong(rule, name)])?;
    let mut sink_options = options.to_map();
    // No option has this name.
    sink_options.insert("topic".to_owned(), topic.text.clone());
    let identity = Identity {
        select: rule.select.clone(),
        rule_options: rule.options.clone(),
        kind: SINK.to_owned(),
        sink_options,
    };
    let target = if number == 0 { String::new() } else { (number + 1).to_string() };
    let id = PipelineId::new(&rule.name.text, SINK, target);
    let outlet = Outlet::Republish { message, number };
    let (program, rule_version) = (program.clone(), rule_version.to_owned());
    // One lane: messages leave in the order of the log.
    let lanes = 1;
    Ok((id, Planned { program, outlet, limits, retry_wait_max, lanes, identity, start, rule_version }))
}

fn wrong(rule: &Rule, name: &str) -> Diagnostic {
    let entry = rule.options.0.iter().find(|entry| entry.key.text == name);
    Diagnostic {
        severity: Severity::Error,
        source: rule.source.clone(),
        span: entry.map_or(rule.name.span, |entry| entry.span),
        message: format!("the option `{name}` must be a whole number, and no smaller than makes sense"),
        help: None,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use muster_core::clock::ManualClock;
    use muster_sinks::SinkEnv;

    use crate::pipelines::{RuleFile, plan};

    /// The pipelines planned, then what is wrong.
    fn check(text: &str, expect: Expect) {
        let env =
            SinkEnv { data_dir: "/nowhere".into(), databases: Default::default(), clock: ManualClock::at(0) };
        let (plan, diagnostics) = plan(&[RuleFile { name: "r.sql".to_owned(), text: text.to_owned() }], &env);
        let pipelines = plan.pipelines.keys().map(ToString::to_string);
        let lines: Vec<_> = pipelines.chain(diagnostics.iter().map(ToString::to_string)).collect();
        expect.assert_eq(&lines.join("\n"));
    }

    #[test]
    fn each_republish_is_a_pipeline_beside_those_into_sinks() {
        check(
            "CREATE RULE a INTO sqlite, REPUBLISH TO 'b/${clientid}' WITH (qos = 1), REPUBLISH TO 'c'\n\
             WITH (payload = '${payload}') WITH (batch_rows = 7) AS SELECT * FROM \"a/#\";",
            expect![[r#"
                a > republish
                a > republish.2
                a > sqlite.a"#]],
        );
    }

    #[test]
    fn what_is_wrong_has_its_place() {
        check(
            "CREATE SINK republish TYPE sqlite;\n\
             CREATE RULE a REPUBLISH TO 'b/#' AS SELECT * FROM \"a\";\n\
             CREATE RULE c REPUBLISH TO 'c' WITH (qso = 1) AS SELECT * FROM \"a\";\n\
             CREATE RULE d REPUBLISH TO 'c' WITH (qos = 1) WITH (batch_rows = 0) AS SELECT * FROM \"a\";",
            expect![[r#"
                r.sql:2:28: error: `+` and `#` are for filters, not for the name of a topic; write the topic of a message, e.g. 'alerts/${clientid}'
                r.sql:3:38: error: REPUBLISH has no option `qso`; did you mean `qos`?
                r.sql:1:13: error: no sink can be named `republish`; REPUBLISH TO 'topic' is known by it where pipelines are shown; give yours another name
                r.sql:4:66: error: the option `batch_rows` must be a whole number, and no smaller than makes sense"#]],
        );
    }

    #[test]
    fn what_a_message_is_made_of_is_part_of_the_pipelines_identity() {
        let identity = |text: &str| {
            let env = SinkEnv {
                data_dir: "/nowhere".into(),
                databases: Default::default(),
                clock: ManualClock::at(0),
            };
            let file = RuleFile { name: "r.sql".to_owned(), text: text.to_owned() };
            let (mut plan, diagnostics) = plan(&[file], &env);
            assert!(diagnostics.is_empty(), "{diagnostics:?}");
            plan.pipelines.pop_first().expect("a pipeline").1.identity
        };
        let one = identity("CREATE RULE a REPUBLISH TO 'b' AS SELECT * FROM \"a\";");
        assert!(one == identity("CREATE RULE a\nREPUBLISH TO 'b'\nAS SELECT * FROM \"a\";"));
        assert!(one != identity("CREATE RULE a REPUBLISH TO 'c' AS SELECT * FROM \"a\";"));
        assert!(one != identity("CREATE RULE a REPUBLISH TO 'b' WITH (qos = 1) AS SELECT * FROM \"a\";"));
    }
}
