//! Statements as text. What is printed reads back as the same tree.

use std::fmt::{self, Display, Formatter};

use muster_core::value::Value;

use crate::ast::{
    AlarmDef, BinaryOp, Expr, ExprKind, Item, Name, Options, Path, Rule, Select, SinkDef, Statement, Step,
    Target, Trigger,
};
use crate::program::text;
use crate::syntax::is_bare_name;

/// How tightly what is no operator binds.
const ATOM: u8 = 60;
const UNARY: u8 = 50;
const COMPARISON: u8 = 20;
const NOT: u8 = 15;

fn name(text: &str, f: &mut Formatter<'_>) -> fmt::Result {
    if is_bare_name(text) { f.write_str(text) } else { quoted(text, f) }
}

/// In double quotes, or in single ones where a double quote stands alone inside: those come in pairs within their own
/// kind of quotes.
fn quoted(text: &str, f: &mut Formatter<'_>) -> fmt::Result {
    let alone = text.split(|c| c != '"').any(|run| run.len() % 2 == 1);
    let quote = if alone { '\'' } else { '"' };
    write!(f, "{quote}{text}{quote}")
}

fn listed<T>(
    items: &[T],
    f: &mut Formatter<'_>,
    mut write: impl FnMut(&T, &mut Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            f.write_str(", ")?;
        }
        write(item, f)?;
    }
    Ok(())
}

fn literal(value: &Value, f: &mut Formatter<'_>) -> fmt::Result {
    match value {
        Value::Str(bytes) => write!(f, "'{}'", String::from_utf8_lossy(bytes)),
        Value::Float(float) => f.write_str(&text::shortest(*float)),
        other => f.write_str(&other.to_json()),
    }
}

impl Display for Path {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        name(&self.root, f)?;
        for step in &self.steps {
            match step {
                Step::Key(key) => {
                    f.write_str(".")?;
                    name(key, f)?;
                }
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Head => f.write_str("[0]")?,
                Step::Tail => f.write_str("[-0]")?,
                Step::By(path) => write!(f, "[{path}]")?,
            }
        }
        Ok(())
    }
}

fn precedence(expr: &Expr) -> u8 {
    match &expr.kind {
        ExprKind::Binary(op, ..) => op.precedence(),
        ExprKind::Not(_) => NOT,
        ExprKind::In { .. } | ExprKind::Between { .. } | ExprKind::Like { .. } | ExprKind::IsNull { .. } => {
            COMPARISON
        }
        ExprKind::Negate(_) | ExprKind::Plus(_) => UNARY,
        // A CASE as an operand is an addition of ours and reads better in parentheses.
        ExprKind::Case { .. } => 0,
        _ => ATOM,
    }
}

/// The operand, in parentheses unless it binds more tightly than `outer`.
struct Operand<'a>(&'a Expr, u8);

impl Display for Operand<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if precedence(self.0) > self.1 { write!(f, "{}", self.0) } else { write!(f, "({})", self.0) }
    }
}

const fn not(negated: bool) -> &'static str {
    if negated { "NOT " } else { "" }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ExprKind::Literal(value) => literal(value, f),
            ExprKind::Path(path) => write!(f, "{path}"),
            ExprKind::Slice(path, from, to) => write!(f, "{path}[{from}..{to}]"),
            ExprKind::Range(from, to) => write!(f, "[{from}..{to}]"),
            ExprKind::List(items) => {
                f.write_str("[")?;
                listed(items, f, |item, f| write!(f, "{item}"))?;
                f.write_str("]")
            }
            ExprKind::Call(function, args) => {
                write!(f, "{}(", function.text)?;
                listed(args, f, |arg, f| write!(f, "{arg}"))?;
                f.write_str(")")
            }
            // The blank keeps two minus signs from becoming a comment.
            ExprKind::Negate(inner) => write!(f, "- {}", Operand(inner, UNARY - 1)),
            ExprKind::Plus(inner) => write!(f, "+ {}", Operand(inner, UNARY - 1)),
            ExprKind::Not(inner) => write!(f, "NOT {}", Operand(inner, NOT - 1)),
            ExprKind::Binary(op, left, right) => {
                let own = op.precedence();
                // Comparisons do not chain, everything else leans to the left.
                let left_limit = if op.is_comparison() { own } else { own - 1 };
                write!(f, "{} {} {}", Operand(left, left_limit), op.text(), Operand(right, own))
            }
            ExprKind::In { item, list, negated } => {
                write!(f, "{} {}IN (", Operand(item, COMPARISON), not(*negated))?;
                listed(list, f, |item, f| write!(f, "{item}"))?;
                f.write_str(")")
            }
            ExprKind::Between { item, low, high, negated } => write!(
                f,
                "{} {}BETWEEN {} AND {}",
                Operand(item, COMPARISON),
                not(*negated),
                Operand(low, COMPARISON),
                Operand(high, COMPARISON)
            ),
            ExprKind::Like { item, pattern, negated } => {
                write!(
                    f,
                    "{} {}LIKE {}",
                    Operand(item, COMPARISON),
                    not(*negated),
                    Operand(pattern, COMPARISON)
                )
            }
            ExprKind::IsNull { item, negated } => {
                write!(f, "{} IS {}NULL", Operand(item, COMPARISON), not(*negated))
            }
            ExprKind::Case { operand, branches, otherwise } => {
                f.write_str("CASE")?;
                if let Some(operand) = operand {
                    write!(f, " {operand}")?;
                }
                for (when, then) in branches {
                    write!(f, " WHEN {when} THEN {then}")?;
                }
                if let Some(otherwise) = otherwise {
                    write!(f, " ELSE {otherwise}")?;
                }
                f.write_str(" END")
            }
        }
    }
}

impl Display for Item {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Star(_) => f.write_str("*"),
            Self::Expr { expr, target: None } => write!(f, "{expr}"),
            Self::Expr { expr, target: Some(target) } => write!(f, "{expr} AS {target}"),
        }
    }
}

fn items(items: &[Item], f: &mut Formatter<'_>) -> fmt::Result {
    listed(items, f, |item, f| write!(f, "{item}"))
}

fn topics(names: &[Name], f: &mut Formatter<'_>) -> fmt::Result {
    listed(names, f, |topic, f| quoted(&topic.text, f))
}

impl Display for Select {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if self.foreach.is_some() { "FOREACH " } else { "SELECT " })?;
        items(&self.items, f)?;
        if let Some(each) = &self.foreach {
            if !each.items.is_empty() {
                f.write_str(" DO ")?;
                items(&each.items, f)?;
            }
            if let Some(condition) = &each.condition {
                write!(f, " INCASE {condition}")?;
            }
        }
        f.write_str(" FROM ")?;
        topics(&self.from, f)?;
        match &self.condition {
            Some(condition) => write!(f, " WHERE {condition}"),
            None => Ok(()),
        }
    }
}

impl Display for Options {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        f.write_str(" WITH (")?;
        listed(&self.0, f, |entry, f| {
            option_key(&entry.key.text, f)?;
            f.write_str(" = ")?;
            literal(&entry.value, f)
        })?;
        f.write_str(")")
    }
}

/// Anything but a word is in quotes here; a point parts two words, in quotes or not.
fn option_key(key: &str, f: &mut Formatter<'_>) -> fmt::Result {
    for (n, word) in key.split('.').enumerate() {
        if n > 0 {
            f.write_str(".")?;
        }
        let bare = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let is_bare = word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.chars().all(bare);
        if is_bare { f.write_str(word)? } else { quoted(word, f)? }
    }
    Ok(())
}

fn targets(targets: &[Target], f: &mut Formatter<'_>) -> fmt::Result {
    for target in targets {
        match target {
            Target::Sink { sink, table } => {
                f.write_str(" INTO ")?;
                name(&sink.text, f)?;
                if let Some(table) = table {
                    for part in table.text.split('.') {
                        f.write_str(".")?;
                        name(part, f)?;
                    }
                }
            }
            Target::Republish { topic, options } => write!(f, " REPUBLISH TO '{}'{options}", topic.text)?,
        }
    }
    Ok(())
}

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateSink(SinkDef { name: sink, kind, options, .. }) => {
                f.write_str("CREATE SINK ")?;
                name(&sink.text, f)?;
                f.write_str(" TYPE ")?;
                name(&kind.text, f)?;
                write!(f, "{options}")
            }
            Self::CreateRule(Rule { name: rule, into, options, select, .. }) => {
                f.write_str("CREATE RULE ")?;
                name(&rule.text, f)?;
                targets(into, f)?;
                // Options straight after a REPUBLISH would be its own.
                if matches!(into.last(), Some(Target::Republish { options, .. }) if options.0.is_empty())
                    && !options.0.is_empty()
                {
                    f.write_str(" WITH ()")?;
                }
                write!(f, "{options} AS {select}")
            }
            Self::CreateAlarm(AlarmDef { name: alarm, into, options, trigger, condition, .. }) => {
                f.write_str("CREATE ALARM ")?;
                name(&alarm.text, f)?;
                targets(into, f)?;
                write!(f, "{options} AS ")?;
                match trigger {
                    Trigger::Absence { of, grace_ms, after } => {
                        f.write_str("ABSENCE OF ")?;
                        topics(of, f)?;
                        write!(f, " FOR {grace_ms}ms AFTER ")?;
                        topics(after, f)?;
                    }
                    Trigger::Flapping { of, times, window_ms } => {
                        f.write_str("FLAPPING OF ")?;
                        topics(of, f)?;
                        write!(f, " {times} TIMES IN {window_ms}ms")?;
                    }
                    Trigger::Presence { of } => {
                        f.write_str("PRESENCE OF ")?;
                        topics(of, f)?;
                    }
                }
                match condition {
                    Some(condition) => write!(f, " WHERE {condition}"),
                    None => Ok(()),
                }
            }
            Self::CommentOnRule { rule, comment } => {
                f.write_str("COMMENT ON RULE ")?;
                name(&rule.text, f)?;
                write!(f, " IS '{comment}'")
            }
        }
    }
}

/// A comparison is never printed without its operator; kept here so that a new one cannot be forgotten.
const _: () = assert!(BinaryOp::Eq.precedence() == COMPARISON);
