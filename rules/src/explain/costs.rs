//! What a rule costs, as facts under names that stay.

use std::collections::BTreeSet;

use serde::Serialize;

use super::several;
use super::sources::{self, Reach};
use super::walk::Seen;
use crate::ast::{Expr, ExprKind, Item, Name, Rule};
use crate::limits::{PREPARED_MAX, ROWS_MAX};
use crate::plan;
use crate::program::Node;
use crate::program::source::Wants;
use crate::program::text::shorten;
use crate::syntax::Mode;

/// Something that a rule costs, or that costs nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// Its name; it stays.
    pub name: &'static str,
    /// What it means for this rule.
    pub text: String,
}

fn fact(name: &'static str, text: impl Into<String>) -> Fact {
    Fact { name, text: text.into() }
}

/// Whether payloads are parsed as JSON, by a path or by a function.
pub(super) fn parses(seen: &Seen) -> bool {
    !seen.payload_paths.is_empty() || !seen.decodes.is_empty()
}

pub(super) fn of_rule(rule: &Rule, wants: &Wants, seen: &Seen, foreach: bool) -> Vec<Fact> {
    let mut facts = index(&rule.select.from, wants);
    facts.extend(of_payload(wants, seen));
    facts.extend(of_functions(seen));
    if seen.star {
        facts.push(fact(
            "all_columns",
            "every column of the event is built: by `*`, or by FOREACH without DO",
        ));
    }
    if foreach {
        let text = format!("an event makes as many rows as its list has elements, at most {ROWS_MAX}");
        facts.push(fact("rows_multiplied", text));
    }
    facts.extend(folded(&expressions(rule)));
    facts
}

pub(super) fn of_alarm(condition: Option<&Expr>, from: &[Name], wants: &Wants, seen: &Seen) -> Vec<Fact> {
    let mut facts = index(from, wants);
    if condition.is_some() {
        facts.extend(of_payload(wants, seen));
    }
    facts.extend(of_functions(seen));
    let conditions: Vec<_> = condition.into_iter().collect();
    facts.extend(folded(&conditions));
    facts
}

/// How its events are found among all others.
fn index(from: &[Name], wants: &Wants) -> Vec<Fact> {
    let reads = sources::reads(from);
    let has = |reach: Reach| reads.iter().any(|it| it.reach == reach);
    let mut facts = Vec::new();
    if has(Reach::AllTopics) {
        facts.push(fact("index_all_topics", "woken by every published message: `#` leaves nothing out"));
    } else if has(Reach::Topics) {
        facts.push(fact(
            "index_wildcard",
            "found by walking the levels of the topic, not by asking each rule",
        ));
    } else if has(Reach::Topic) {
        facts.push(fact("index_exact_topic", "found by its topic, in one look"));
    }
    if has(Reach::Event) || has(Reach::Events) {
        facts.push(fact("index_event", "found by the kind in the event's header; others are not decoded"));
    }
    let on_request = sources::woken(wants, from).into_iter().filter(|it| it.on_request).map(|it| it.event);
    let on_request = on_request.collect::<Vec<_>>().join(", ");
    if !on_request.is_empty() {
        let text = format!("one event for each delivery, written only while a rule wants it: {on_request}");
        facts.push(fact("events_on_request", text));
    }
    facts
}

fn of_payload(wants: &Wants, seen: &Seen) -> Vec<Fact> {
    let mut facts = Vec::new();
    let messages = super::kinds(wants).iter().any(|kind| kind.is_message());
    if !messages {
        return facts;
    }
    if !seen.payload_paths.is_empty() {
        let text = "parsed as JSON once an event, however many paths look into it";
        facts.push(fact("payload_parsed_once", text));
    }
    if !seen.decodes.is_empty() {
        let text = format!("decoded as a whole, on its own, each time by: {}", seen.decodes.join(", "));
        facts.push(fact("payload_decoded_again", text));
    }
    if !parses(seen) {
        let text =
            if seen.payload_raw { "taken as it came, not parsed" } else { "not looked at, not parsed" };
        facts.push(fact("payload_not_parsed", text));
    } else if !seen.payload_paths.is_empty() {
        let only = if several(wants.kinds) { " of a message" } else { "" };
        let text = format!(
            "a payload{only} that is no JSON makes the rule fail; the event goes to its dead letters"
        );
        facts.push(fact("payload_must_be_json", text));
    }
    facts
}

fn of_functions(seen: &Seen) -> Vec<Fact> {
    let mut facts = Vec::new();
    if !seen.jq.is_empty() {
        let limits = seen.jq.iter().map(|limit| match limit {
            Some(ms) => format!("{ms} ms"),
            None => "as long as the event says".to_owned(),
        });
        let (count, limits) = (counted(seen.jq.len(), "jq program"), limits.collect::<Vec<_>>().join(", "));
        facts.push(fact("jq_programs", format!("{count}, stopped after: {limits}")));
    }
    let ready = |name, what: &str, count: usize| {
        let text = format!("{}, made ready when the rule is read", counted(count, what));
        (count > 0).then(|| fact(name, text))
    };
    let dynamic = |name, what: &str, count: usize| {
        let what = counted(count, what);
        let text =
            format!("{what} that only the event knows: made ready then, the last {PREPARED_MAX} are kept");
        (count > 0).then(|| fact(name, text))
    };
    facts.extend(dynamic("jq_dynamic", "jq program", seen.jq_dynamic));
    facts.extend(ready("regex_compiled_once", "regular expression", seen.regexes));
    facts.extend(dynamic("regex_dynamic", "regular expression", seen.regexes_dynamic));
    facts.extend(ready("date_format_read_once", "date format", seen.dates));
    facts.extend(dynamic("date_format_dynamic", "date format", seen.dates_dynamic));
    let named =
        |names: &BTreeSet<&str>| names.iter().map(|name| format!("{name}()")).collect::<Vec<_>>().join(", ");
    if !seen.volatile.is_empty() {
        let text = format!("another value each time it is computed: {}", named(&seen.volatile));
        facts.push(fact("differs_on_replay", text));
    }
    if !seen.remembers.is_empty() {
        let text =
            format!("rows follow from events before, each sink has a store: {}", named(&seen.remembers));
        facts.push(fact("remembers", text));
    }
    for why in &seen.raises {
        facts.push(fact("always_fails", why.clone()));
    }
    facts
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn expressions(rule: &Rule) -> Vec<&Expr> {
    fn of_item(item: &Item) -> Option<&Expr> {
        match item {
            Item::Expr { expr, .. } => Some(expr),
            Item::Star(_) => None,
        }
    }
    let select = &rule.select;
    let mut found: Vec<_> = select.items.iter().filter_map(of_item).collect();
    if let Some(each) = &select.foreach {
        found.extend(each.items.iter().filter_map(of_item));
        found.extend(&each.condition);
    }
    found.extend(&select.condition);
    found
}

/// What was computed when the rule was read.
fn folded(expressions: &[&Expr]) -> Option<Fact> {
    let mut parts = Vec::new();
    for expr in expressions {
        find_folded(expr, &mut parts);
    }
    parts.dedup();
    (!parts.is_empty()).then(|| fact("computed_once", format!("when the rule is read: {}", parts.join(", "))))
}

fn find_folded(expr: &Expr, found: &mut Vec<String>) {
    let trivial = matches!(
        &expr.kind,
        ExprKind::Literal(_)
            | ExprKind::Path(_)
            | ExprKind::Negate(_)
            | ExprKind::Plus(_)
            | ExprKind::List(_)
    );
    // On its own it is the same node: names cannot be in it.
    if !trivial
        && let (Node::Const(value), problems) = plan::expression(expr, Mode::Extended)
        && problems.is_empty()
    {
        found.push(format!("{expr} is {}", shorten(value.to_json().as_bytes())));
        return;
    }
    for inner in parts(expr) {
        find_folded(inner, found);
    }
}

/// The expressions right inside of one.
fn parts(expr: &Expr) -> Vec<&Expr> {
    match &expr.kind {
        ExprKind::Literal(_) | ExprKind::Path(_) | ExprKind::Slice(..) | ExprKind::Range(..) => Vec::new(),
        ExprKind::List(items) | ExprKind::Call(_, items) => items.iter().collect(),
        ExprKind::Negate(a) | ExprKind::Plus(a) | ExprKind::Not(a) | ExprKind::IsNull { item: a, .. } => {
            vec![a]
        }
        ExprKind::Binary(_, a, b) | ExprKind::Like { item: a, pattern: b, .. } => vec![a, b],
        ExprKind::In { item, list, .. } => std::iter::once(&**item).chain(list).collect(),
        ExprKind::Between { item, low, high, .. } => vec![item, low, high],
        ExprKind::Case { operand, branches, otherwise } => {
            let branches = branches.iter().flat_map(|(when, then)| [when, then]);
            operand.as_deref().into_iter().chain(branches).chain(otherwise.as_deref()).collect()
        }
    }
}
