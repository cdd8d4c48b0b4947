//! What a rule will do, said before it does it: what wakes it, what it looks at, what that costs, what its rows look
//! like and where they go. It reads programs and runs none; how it is shown is the caller's business.

use std::sync::Arc;

use muster_core::event::{Column, EventKind, EventKinds};
use muster_core::value::Value;
use serde::Serialize;

mod costs;
mod narrow;
mod sources;
mod types;
mod walk;

pub use costs::Fact;
pub use sources::{Reach, Reads, Woken};
pub use types::Type;

use crate::ast::{AlarmDef, Name, Options, Rule, SinkDef, Source, Span, Statement, Target, Trigger};
use crate::diagnostic::{Diagnostic, Problem, Severity};
use crate::plan;
use crate::program::source::Wants;
use crate::rule::RuleProgram;
use crate::syntax::Mode;
use walk::{Out, Seen, Walk};

/// Everything that can be said of a rule or an alarm. Serialised, it is what `--json` prints: fields are added, never
/// renamed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// `rule` or `alarm`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// The file, and the line where the name stands.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// What `COMMENT ON RULE` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The statement in its usual form, on one line.
    pub sql: String,
    /// What FROM names; of an alarm, what raises it.
    pub reads: Vec<Reads>,
    /// The events that wake it.
    pub wakes: Vec<Woken>,
    /// How long an alarm waits and for what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits: Option<Waits>,
    /// Columns that it looks at.
    pub columns: Vec<String>,
    /// How far it looks into payloads.
    pub payload: Payload,
    /// What it costs, each with a name that stays.
    pub costs: Vec<Fact>,
    /// How many rows an event makes: `none_or_one`, or `one_an_element` of a list; none for an alarm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<&'static str>,
    /// The row's columns in order.
    pub row: Vec<RowColumn>,
    /// Where it goes.
    pub targets: Vec<Goes>,
    /// Its options as written.
    pub options: Vec<OptionShown>,
    /// What is suspicious about it.
    pub warnings: Vec<Warning>,
}

/// The two sides of an alarm on absence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waits {
    /// What starts the wait.
    pub after: Vec<Reads>,
    /// The events that start it.
    pub after_wakes: Vec<Woken>,
    /// For how long, in milliseconds.
    pub grace_ms: u64,
}

/// How far payloads are looked into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Payload {
    /// `none`: not looked at. `raw`: as it came, never parsed. `json`: parsed.
    pub access: &'static str,
    /// Ways into the JSON, in the order in which they are looked at.
    pub paths: Vec<String>,
}

/// One column of the row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RowColumn {
    /// Its name.
    pub name: String,
    /// Its type, as far as it is known.
    #[serde(rename = "type")]
    pub ty: Type,
    /// Whether it may be missing from a row.
    pub absent: bool,
    /// Whether it may be JSON null.
    pub null: bool,
    /// Its value, where that is always the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constant: Option<serde_json::Value>,
}

/// A target.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Goes {
    /// `sink` or `republish`.
    pub to: &'static str,
    /// The sink's name; the topic's template of a republish.
    pub name: String,
    /// The table, topic or collection in the sink, where one is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// What the sink is, where its declaration is among the files; `sqlite` for the embedded one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sink_kind: Option<String>,
    /// Options: of a republish all; of a sink none, since they may be secrets.
    pub options: Vec<OptionShown>,
}

/// An option as it is written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OptionShown {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: serde_json::Value,
}

/// A warning and its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is suspicious.
    pub message: String,
    /// What to write instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// The sink that exists without being declared.
const EMBEDDED: &str = "sqlite";

/// Explains every rule and alarm of `statements`, which were read together; `diagnostics` are what was said of them
/// then, of which each warning is put beside what it is about.
pub fn explain(statements: &[Statement], diagnostics: &[Diagnostic]) -> Vec<Explanation> {
    let around = Around { statements, diagnostics };
    let one = |statement: &Statement| match statement {
        Statement::CreateRule(rule) => around.rule(rule, statement),
        Statement::CreateAlarm(alarm) => around.alarm(alarm, statement),
        Statement::CreateSink(_) | Statement::CommentOnRule { .. } => None,
    };
    statements.iter().filter_map(one).collect()
}

struct Around<'a> {
    statements: &'a [Statement],
    diagnostics: &'a [Diagnostic],
}

impl Around<'_> {
    fn rule(&self, rule: &Rule, statement: &Statement) -> Option<Explanation> {
        let plan = plan::select(&rule.select, Mode::Extended);
        // What has errors was told of and runs nowhere.
        RuleProgram::compile(rule).ok()?;
        let mut walk = Walk::new(kinds(&plan.wants));
        let row = walk.program(&plan.program);
        let seen = walk.seen;
        let mut spans = vec![rule.name.span, rule.select.span];
        spans.extend(target_spans(&rule.into));
        let mut warnings = self.warnings(&rule.source, &spans);
        warnings.extend(unnamed(rule, &row));
        let costs = costs::of_rule(rule, &plan.wants, &seen, plan.program.foreach.is_some());
        Some(Explanation {
            comment: self.comment(&rule.name.text),
            reads: sources::reads(&rule.select.from),
            wakes: sources::woken(&plan.wants, &rule.select.from),
            waits: None,
            costs,
            rows: Some(if plan.program.foreach.is_some() { "one_an_element" } else { "none_or_one" }),
            row: row.iter().map(shown).collect(),
            targets: self.targets(&rule.into),
            options: options(&rule.options),
            warnings,
            ..base("rule", &rule.name, &rule.source, statement, &seen)
        })
    }

    fn alarm(&self, alarm: &AlarmDef, statement: &Statement) -> Option<Explanation> {
        crate::alarm::AlarmProgram::compile(alarm).ok()?;
        let (of, after, grace_ms) = match &alarm.trigger {
            Trigger::Absence { of, grace_ms, after } => (of, Some(after), *grace_ms),
            Trigger::Presence { of } | Trigger::Flapping { of, .. } => (of, None, 0),
        };
        let names: Vec<_> = of.iter().chain(after.into_iter().flatten()).cloned().collect();
        let (wants, _) = plan::sources(&names);
        let mut walk = Walk::new(kinds(&wants));
        if let Some(condition) = &alarm.condition {
            walk.condition(&plan::condition(condition, &names).0);
        }
        let seen = walk.seen;
        let mut spans = vec![alarm.name.span];
        spans.extend(target_spans(&alarm.into));
        spans.extend(names.iter().map(|name| name.span));
        spans.extend(alarm.condition.iter().map(|expr| expr.span));
        let woken = |from: &Vec<Name>| sources::woken(&plan::sources(from).0, from);
        Some(Explanation {
            reads: sources::reads(of),
            wakes: woken(of),
            waits: after.map(|after| Waits {
                after: sources::reads(after),
                after_wakes: woken(after),
                grace_ms,
            }),
            costs: costs::of_alarm(alarm.condition.as_ref(), &names, &wants, &seen),
            targets: self.targets(&alarm.into),
            options: options(&alarm.options),
            warnings: self.warnings(&alarm.source, &spans),
            ..base("alarm", &alarm.name, &alarm.source, statement, &seen)
        })
    }

    fn comment(&self, name: &str) -> Option<String> {
        self.statements.iter().find_map(|statement| match statement {
            Statement::CommentOnRule { rule, comment } if rule.text == name => Some(comment.clone()),
            _ => None,
        })
    }

    fn targets(&self, targets: &[Target]) -> Vec<Goes> {
        let declared = |name: &str| -> Option<&SinkDef> {
            self.statements.iter().find_map(|statement| match statement {
                Statement::CreateSink(sink) if sink.name.text == name => Some(sink),
                _ => None,
            })
        };
        let one = |target: &Target| match target {
            Target::Sink { sink, table } => Goes {
                to: "sink",
                name: sink.text.clone(),
                table: table.as_ref().map(|table| table.text.clone()),
                sink_kind: declared(&sink.text)
                    .map(|sink| sink.kind.text.clone())
                    .or_else(|| (sink.text == EMBEDDED).then(|| EMBEDDED.to_owned())),
                options: Vec::new(),
            },
            Target::Republish { topic, options: written } => Goes {
                to: "republish",
                name: topic.text.clone(),
                table: None,
                sink_kind: None,
                options: options(written),
            },
        };
        targets.iter().map(one).collect()
    }

    fn warnings(&self, source: &Arc<Source>, spans: &[Span]) -> Vec<Warning> {
        let about = |it: &&Diagnostic| {
            let within =
                |span: &Span| span.start <= it.span.start && it.span.start < span.end.max(span.start + 1);
            it.severity == Severity::Warning && it.source == *source && spans.iter().any(within)
        };
        self.diagnostics.iter().filter(about).map(warning).collect()
    }
}

fn base(
    kind: &'static str,
    name: &Name,
    source: &Arc<Source>,
    statement: &Statement,
    seen: &Seen,
) -> Explanation {
    let place = Problem::new(name.span, "").at(source);
    Explanation {
        kind,
        name: name.text.clone(),
        file: source.name.clone(),
        line: place.line(),
        comment: None,
        sql: statement.to_string(),
        reads: Vec::new(),
        wakes: Vec::new(),
        waits: None,
        columns: columns(seen),
        payload: payload(seen),
        costs: Vec::new(),
        rows: None,
        row: Vec::new(),
        targets: Vec::new(),
        options: Vec::new(),
        warnings: Vec::new(),
    }
}

fn kinds(wants: &Wants) -> Vec<EventKind> {
    EventKind::all().filter(|kind| wants.kinds.contains(*kind)).collect()
}

/// Whether events of more than one kind come in.
fn several(kinds: EventKinds) -> bool {
    EventKind::all().filter(|kind| kinds.contains(*kind)).count() > 1
}

fn columns(seen: &Seen) -> Vec<String> {
    let names = seen.columns.iter().filter(|column| **column != Column::Payload).map(|column| column.name());
    names.chain(seen.metadata.then_some("metadata")).map(str::to_owned).collect()
}

fn payload(seen: &Seen) -> Payload {
    let access = match (seen.payload_raw, costs::parses(seen)) {
        (_, true) => "json",
        (true, false) => "raw",
        (false, false) => "none",
    };
    Payload { access, paths: seen.payload_paths.clone() }
}

fn shown(out: &Out) -> RowColumn {
    let constant = out.shape.constant.as_ref().filter(|value| !value.is_undefined()).map(json);
    let Out { name, shape, .. } = out;
    RowColumn { name: name.clone(), ty: shape.ty, absent: shape.absent, null: shape.null, constant }
}

fn json(value: &Value) -> serde_json::Value {
    serde_json::from_str(&value.to_json()).unwrap_or(serde_json::Value::Null)
}

fn options(options: &Options) -> Vec<OptionShown> {
    let shown = |entry: &crate::ast::OptionEntry| OptionShown {
        name: entry.key.text.clone(),
        value: json(&entry.value),
    };
    options.0.iter().map(shown).collect()
}

fn target_spans(targets: &[Target]) -> impl Iterator<Item = Span> {
    targets.iter().map(|target| match target {
        Target::Sink { sink, .. } => sink.span,
        Target::Republish { topic, .. } => topic.span,
    })
}

fn warning(diagnostic: &Diagnostic) -> Warning {
    Warning {
        line: diagnostic.line(),
        column: diagnostic.column(),
        message: diagnostic.message.clone(),
        help: diagnostic.help.clone(),
    }
}

/// Columns whose name was made up.
fn unnamed(rule: &Rule, row: &[Out]) -> Option<Warning> {
    let first = row.iter().find(|out| out.name.starts_with("_v_"))?;
    let place =
        Problem::warning(rule.select.span, format!("the column `{}` has no name of its own", first.name));
    let help = "write AS name behind the expression: the made-up name changes with its place in the rule";
    Some(warning(&place.help(help).at(&rule.source)))
}

#[cfg(test)]
mod tests;
