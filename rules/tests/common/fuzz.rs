//! What is asked of arbitrary rules and payloads; the fuzz targets of `rules/fuzz` and the test that replays their
//! corpus share it. Nothing may panic or hang; what is printed reads back as the same plan, and the same plan on the
//! same event gives the same rows; our reader of JSON agrees with serde_json.

use std::sync::Arc;
use std::time::Duration;

use muster_core::clock::{Clock, SharedClock, SystemClock};
use muster_core::event::{Event, EventKind, NewEvent, proto};
use muster_core::value::{Map, Row, Value};
use muster_rules::ast::{Item, Rule, Statement, Target};
use muster_rules::limits::JSON_NUMBER_BYTES_MAX;
use muster_rules::template::{Context, Missing, Template};
use muster_rules::{AlarmProgram, EvalContext, EvalError, RuleProgram, RuleSet, conformance, parse, secrets};

/// What a rule gets to see where the input has no payload of its own; that of the fixtures.
const PAYLOAD: &[u8] = br#"{"x":1,"i":2,"s":"abc","n":null,"yes":true,"d":1.5,"l":[1,2,3],"m":{"k":"v"},"j":"{\"k\":[7]}","big":123456789012345678901234567890,"num":"10","sensors":[{"id":"a","t":20},{"id":"c"}]}"#;

/// Holds the wall clock still, so that two runs see the same, and lets time limits come twenty times as soon.
struct FastClock(SharedClock);

impl Clock for FastClock {
    fn wall_ms(&self) -> i64 {
        1_700_000_000_123
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic() * 20
    }
}

fn context() -> EvalContext {
    EvalContext::new(Arc::new(FastClock(SystemClock::shared())), 1)
}

/// A rule file or, as in the fixtures, a SELECT or an expression; after the first zero byte the payload.
pub(crate) fn rule(data: &[u8]) {
    let (text, payload) = match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, PAYLOAD),
    };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let is_file = ["SELECT", "FOREACH", "CREATE", "COMMENT", "--"].iter().any(|word| {
        text.trim_start().get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
    });
    if is_file {
        file(text, payload);
    } else {
        file(&format!("SELECT {text} AS v FROM \"t/#\""), payload);
    }
    let _ = conformance::answer(text);
    reference(text, if is_file { "sql" } else { "expr" }, payload);
}

fn file(text: &str, payload: &[u8]) {
    let (statements, problems) = parse("fuzz.sql", text);
    for problem in &problems {
        assert!(problem.line() > 0 && problem.column() > 0);
        assert!(!problem.render(false).is_empty());
    }
    let mut programs = Vec::new();
    for statement in &statements {
        let again = reread(statement);
        if let (Statement::CreateRule(rule), Some(Statement::CreateRule(again))) = (statement, again) {
            programs.extend(run(rule, &again, payload));
        } else if let Statement::CreateAlarm(alarm) = statement
            && let Ok(program) = AlarmProgram::compile(alarm)
        {
            for wants in std::iter::once(program.of()).chain(program.after()) {
                let event = event(EventKind::all().find(|kind| wants.kinds.contains(*kind)), payload);
                let _ = program.holds(&event, &mut context());
            }
        }
    }
    let set = RuleSet::new(programs);
    let event = event(None, payload);
    let mut found: Vec<*const RuleProgram> = Vec::new();
    set.for_each_match(&event, |rule| found.push(rule));
    let wanted: Vec<*const RuleProgram> =
        set.rules().iter().filter(|rule| rule.matches(&event)).map(std::ptr::from_ref).collect();
    found.sort_unstable();
    assert_eq!(found, wanted, "the index and the rules disagree on who wants the event");
}

/// The statement, printed and read again. None where its text is too large for the limits once it is printed.
fn reread(statement: &Statement) -> Option<Statement> {
    let printed = statement.to_string();
    let (mut again, problems) = parse("again.sql", &printed);
    if let Some(problem) = problems.iter().find(|problem| problem.is_error()) {
        // A comment on a rule that stands elsewhere cannot be read alone.
        let alone = matches!(statement, Statement::CommentOnRule { .. });
        let is_limit = ["at most", "nested more than", "longer than"]
            .iter()
            .any(|words| problem.to_string().contains(words));
        assert!(alone || is_limit, "{problem}\nin: {printed}");
        return None;
    }
    assert_eq!(again.len(), 1, "one statement was printed: {printed}");
    let again = again.pop()?;
    assert_eq!(again.to_string(), printed);
    match (statement, &again) {
        (Statement::CreateRule(rule), Statement::CreateRule(again)) => {
            assert_eq!(rule.select, again.select, "reads back differently: {printed}");
            assert_eq!((&rule.into, &rule.options), (&again.into, &again.options), "{printed}");
        }
        (Statement::CreateAlarm(alarm), Statement::CreateAlarm(again)) => {
            assert_eq!((&alarm.trigger, &alarm.condition), (&again.trigger, &again.condition), "{printed}");
        }
        (Statement::CreateSink(sink), Statement::CreateSink(again)) => {
            assert_eq!((&sink.kind, &sink.options), (&again.kind, &again.options), "{printed}");
        }
        (Statement::CommentOnRule { comment, .. }, Statement::CommentOnRule { comment: again, .. }) => {
            assert_eq!(comment, again, "{printed}");
        }
        _ => panic!("another statement was read: {printed}"),
    }
    Some(again)
}

/// Runs a rule and its reprint on the event that it asks for.
fn run(rule: &Rule, again: &Rule, payload: &[u8]) -> Option<RuleProgram> {
    let program = RuleProgram::compile(rule).expect("what was read without errors compiles");
    let same = RuleProgram::compile(again).expect("what was read without errors compiles");
    assert_eq!(program, same, "another plan: {}", rule.select);
    let event = event(EventKind::all().find(|kind| program.wants().kinds.contains(*kind)), payload);
    let evaluate = |program: &RuleProgram| {
        let (mut ctx, mut rows) = (context(), Vec::new());
        let result = program.run(&event, &mut ctx, &mut rows);
        assert!(result.is_ok() || rows.is_empty(), "a rule that failed left rows");
        (result, rows)
    };
    let (result, rows) = evaluate(&program);
    if !is_late(&result) {
        let (second, same_rows) = evaluate(&same);
        // As text, since a NaN is like no other.
        let same = || result == second && format!("{rows:?}") == format!("{same_rows:?}");
        assert!(is_late(&second) || same(), "other rows: {}", rule.select);
    }
    if let Some(row) = rows.first() {
        show(rule, row);
    }
    let _ = program.run_on(&columns(payload), &mut context(), &mut Vec::new());
    Some(program)
}

fn is_late(result: &Result<(), EvalError>) -> bool {
    result.as_ref().is_err_and(|error| error.message.contains("takes too long"))
}

/// The row as sinks see it: JSON, and the rule's templates.
fn show(rule: &Rule, row: &Row) {
    assert_json(&row.to_json());
    let topics = rule.into.iter().filter_map(|target| match target {
        Target::Republish { topic, .. } => Some(topic.text.as_str()),
        Target::Sink { .. } => None,
    });
    let names = rule.select.items.iter().filter_map(|item| match item {
        Item::Expr { target: Some(path), .. } => Some(path.root.as_str()),
        _ => None,
    });
    let made = names.map(|name| format!("a/${{{name}}}/${{.}}/\"${{{name}.x.1}}\""));
    for template in topics.map(str::to_owned).chain(made) {
        let template_ = Template::new(&template);
        for context in [Context::Text, Context::Json, Context::Url, Context::Topic] {
            let out = template_.render(row, context, Missing::Null);
            let is_level = matches!(context, Context::Topic) && !template.contains(['+', '#']);
            assert!(!is_level || !out.iter().any(|byte| b"+#".contains(byte)), "{template}");
        }
        let _ = template_.parameters(row, |n| format!("${n}"));
        let _ = secrets::resolve(&template, |_| Ok::<_, ()>(String::new()));
    }
}

/// An event of the kind, or a published message.
fn event(kind: Option<EventKind>, payload: &[u8]) -> Event {
    let props = proto::Properties {
        content_type: Some("text/plain".into()),
        user_property: vec![proto::UserProperty { key: "k".into(), value: "v".into() }],
        ..Default::default()
    };
    let body = proto::Event {
        node: "n1".into(),
        client: Some(proto::Client { clientid: "c1".into(), session: 3, seq: 4, ..Default::default() }),
        message: Some(proto::Message {
            payload: payload.to_vec().into(),
            qos: 1,
            props: Some(props),
            ..Default::default()
        }),
        ..Default::default()
    };
    let kind = kind.unwrap_or(EventKind::MessagePublish);
    NewEvent { timestamp_ms: 1_700_000_000_000, kind, topic: "t/a/b".into(), body }.at(7, 42)
}

/// The same text under the reference's own rules.
fn reference(text: &str, kind: &str, payload: &[u8]) {
    let mut request = Map::new();
    request.insert("name", "x");
    request.insert("kind", kind);
    request.insert(kind, text);
    request.insert("input", columns(payload));
    assert_json(&conformance::answer(&request.to_json()));
}

fn columns(payload: &[u8]) -> Map {
    let payload = Value::Str(payload.to_vec().into());
    [("topic", Value::from("t/a/b")), ("payload", payload)].into_iter().collect()
}

fn assert_json(text: &str) {
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        assert!(error.to_string().contains("recursion limit"), "no JSON, {error}: {text}");
    }
}

/// Arbitrary bytes as a JSON payload, beside what serde_json makes of them.
pub(crate) fn json(data: &[u8]) {
    thread_local! {
        static PROGRAM: RuleProgram = compile(
            r#"SELECT json_decode(payload) AS v, payload.a AS a, payload[1] AS first, payload[-1] AS last FROM "t/#""#,
        );
    }
    let mut rows = Vec::new();
    let result = PROGRAM.with(|program| program.run_on(&columns(data), &mut context(), &mut rows));
    let theirs = serde_json::from_slice::<serde_json::Value>(data);
    match (rows.pop(), theirs) {
        (None, Err(_)) => assert!(result.is_err()),
        (None, Ok(_)) => assert!(has_long_number(data), "refused what serde_json takes: {result:?}"),
        (Some(_), Err(error)) => {
            let error = error.to_string();
            let is_limit = error.contains("recursion limit") || error.contains("number out of range");
            assert!(is_limit, "taken where serde_json says: {error}");
        }
        (Some(row), Ok(theirs)) => {
            let ours = row.get("v").cloned().unwrap_or_default();
            assert_same(&ours, &theirs);
            let picked = |name: &str| row.get(name).cloned().unwrap_or_default();
            match &ours {
                Value::Map(map) => assert_eq!(picked("a"), map.get("a").cloned().unwrap_or_default()),
                Value::Array(items) => {
                    assert_eq!(picked("first"), items.first().cloned().unwrap_or_default());
                    assert_eq!(picked("last"), items.last().cloned().unwrap_or_default());
                }
                _ => {}
            }
            let printed = ours.to_json();
            let again = PROGRAM.with(|program| {
                let _ = program.run_on(&columns(printed.as_bytes()), &mut context(), &mut rows);
                rows.pop().and_then(|mut row| row.remove("v"))
            });
            assert_eq!(again, Some(ours), "printed as {printed}");
        }
    }
}

fn compile(text: &str) -> RuleProgram {
    let (statements, problems) = parse("fuzz.sql", text);
    assert!(problems.is_empty(), "{problems:?}");
    match statements.first() {
        Some(Statement::CreateRule(rule)) => RuleProgram::compile(rule).expect("it was read without errors"),
        other => panic!("no rule: {other:?}"),
    }
}

fn has_long_number(data: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
    data.split(|byte| !is_part(byte)).any(|run| run.len() > JSON_NUMBER_BYTES_MAX)
}

/// Holds our value against serde_json's, which keeps no integer beyond 64 bits and may round the last digit of a float.
fn assert_same(ours: &Value, theirs: &serde_json::Value) {
    use serde_json::Value as Theirs;
    let near = |ours: f64| {
        let theirs = theirs.as_f64().unwrap_or(f64::NAN);
        (ours - theirs).abs() <= theirs.abs() * 1e-13 + f64::MIN_POSITIVE
    };
    let same = match (ours, theirs) {
        (Value::Null, Theirs::Null) => true,
        (Value::Bool(ours), Theirs::Bool(theirs)) => ours == theirs,
        // `-0` is an integer to us.
        (Value::Int(ours), Theirs::Number(number)) => {
            number.as_i64() == Some(*ours) || (*ours == 0 && near(0.0))
        }
        (Value::BigInt(ours), Theirs::Number(number)) if number.is_u64() => {
            ours.to_string() == number.to_string()
        }
        (Value::BigInt(ours), Theirs::Number(_)) => ours.to_string().parse().is_ok_and(near),
        (Value::Float(ours), Theirs::Number(_)) => near(*ours),
        (Value::Str(ours), Theirs::String(theirs)) => ours.as_ref() == theirs.as_bytes(),
        (Value::Array(ours), Theirs::Array(theirs)) => {
            ours.iter().zip(theirs).for_each(|(ours, theirs)| assert_same(ours, theirs));
            ours.len() == theirs.len()
        }
        (Value::Map(ours), Theirs::Object(theirs)) => {
            for (key, ours) in ours.iter() {
                assert_same(ours, theirs.get(key).unwrap_or_else(|| panic!("a key of its own: {key:?}")));
            }
            ours.len() == theirs.len()
        }
        _ => false,
    };
    assert!(same, "{ours:?} is not {theirs:?}");
}
