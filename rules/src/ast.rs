//! What a rule file says, as a tree: statements, selects, expressions, each with its place in the source. It knows
//! nothing of events and functions; whether names mean something is the plan's business.

use std::collections::BTreeMap;
use std::sync::Arc;

use muster_core::value::Value;

pub use crate::diagnostic::{Source, Span};

/// A name and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Name {
    /// The name.
    pub text: String,
    /// Its place.
    pub span: Span,
}

/// One statement of a rule file.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// `CREATE SINK name TYPE kind WITH (...)`.
    CreateSink(SinkDef),
    /// `CREATE RULE name ... AS SELECT ...`, or a bare SELECT.
    CreateRule(Rule),
    /// `CREATE ALARM name ...`.
    CreateAlarm(AlarmDef),
    /// `COMMENT ON RULE name IS '...'`.
    CommentOnRule {
        /// The rule.
        rule: Name,
        /// What is said of it.
        comment: String,
    },
}

/// A destination that rules can name.
#[derive(Debug, Clone, PartialEq)]
pub struct SinkDef {
    /// How rules call it.
    pub name: Name,
    /// What it is: `postgres`, `kafka`, `webhook` and so on.
    pub kind: Name,
    /// Its options.
    pub options: Options,
    /// The file it stands in, for messages.
    pub source: Arc<Source>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Its name, unique over all files.
    pub name: Name,
    /// Where its rows go.
    pub into: Vec<Target>,
    /// Its options (`start`, `batch_rows` and so on).
    pub options: Options,
    /// What it does.
    pub select: Select,
    /// The file it stands in, for messages.
    pub source: Arc<Source>,
}

/// Where a rule's rows go.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// `sink` or `sink.table`.
    Sink {
        /// The sink.
        sink: Name,
        /// The table, topic or collection in it.
        table: Option<Name>,
    },
    /// `REPUBLISH TO 'topic/${clientid}' [WITH (...)]`.
    Republish {
        /// The topic's template.
        topic: Name,
        /// `payload`, `qos`, `retain` and so on.
        options: Options,
    },
}

/// An alarm: raised when something stays away, or when a condition holds.
#[derive(Debug, Clone, PartialEq)]
pub struct AlarmDef {
    /// Its name.
    pub name: Name,
    /// Where notices go.
    pub into: Vec<Target>,
    /// Its options.
    pub options: Options,
    /// What raises it.
    pub trigger: Trigger,
    /// Which events count.
    pub condition: Option<Expr>,
    /// The file it stands in.
    pub source: Arc<Source>,
}

/// What raises an alarm.
#[derive(Debug, Clone, PartialEq)]
pub enum Trigger {
    /// `ABSENCE OF a, b FOR 60s AFTER c`: nothing of `of` for that long after something of `after`.
    Absence {
        /// What is missed.
        of: Vec<Name>,
        /// The grace time in milliseconds.
        grace_ms: u64,
        /// What starts the wait.
        after: Vec<Name>,
    },
    /// `FLAPPING OF a 5 TIMES IN 10m`: so many of `of` within that time.
    Flapping {
        /// What is counted.
        of: Vec<Name>,
        /// How many are too many.
        times: u64,
        /// Within how many milliseconds.
        window_ms: u64,
    },
    /// `PRESENCE OF a`: raised by each such event.
    Presence {
        /// What raises it.
        of: Vec<Name>,
    },
}

/// `key = value` pairs in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options(pub Vec<OptionEntry>);

/// One option.
#[derive(Debug, Clone, PartialEq)]
pub struct OptionEntry {
    /// Its name.
    pub key: Name,
    /// Its value: a string, number or boolean. A string may hold references such as `${env:NAME}`, which whoever
    /// uses the option resolves.
    pub value: Value,
    /// Where the value stands.
    pub span: Span,
}

impl Options {
    /// The value of an option.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|entry| entry.key.text == key).map(|entry| &entry.value)
    }

    /// Everything as text, as sinks want it.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_json(), str::to_owned);
        self.0.iter().map(|entry| (entry.key.text.clone(), text(&entry.value))).collect()
    }
}

/// `SELECT ... FROM ... WHERE ...` or `FOREACH ... DO ... INCASE ... FROM ... WHERE ...`.
#[derive(Debug, Clone, PartialEq)]
pub struct Select {
    /// What is computed; of a FOREACH, the last one is the list.
    pub items: Vec<Item>,
    /// Set when this is a FOREACH.
    pub foreach: Option<Foreach>,
    /// Topic filters and event topics.
    pub from: Vec<Name>,
    /// The WHERE.
    pub condition: Option<Expr>,
    /// The whole statement's place.
    pub span: Span,
}

/// What FOREACH does with each element.
#[derive(Debug, Clone, PartialEq)]
pub struct Foreach {
    /// The DO; empty when there is none.
    pub items: Vec<Item>,
    /// The INCASE.
    pub condition: Option<Expr>,
}

/// One item of SELECT, FOREACH or DO.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// `*`.
    Star(Span),
    /// An expression and where its value goes.
    Expr {
        /// The expression.
        expr: Expr,
        /// The target as written; none where the name follows from the expression.
        target: Option<Path>,
    },
}

/// A name with steps into it: `payload.list[1].x`.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    /// The variable.
    pub root: String,
    /// The way into its value.
    pub steps: Vec<Step>,
    /// Its place.
    pub span: Span,
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// `.key`.
    Key(String),
    /// `[n]`, from 1, or from the end when negative.
    Index(i64),
    /// `[0]`: before the first, when assigned to.
    Head,
    /// `[-0]`: after the last, when assigned to.
    Tail,
    /// `[name]`: the index is looked up.
    By(Path),
}

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Its place.
    pub span: Span,
}

/// What an expression is.
#[derive(Debug, Clone, PartialEq)]
pub enum ExprKind {
    /// A number, string or boolean.
    Literal(Value),
    /// A variable or something inside of it.
    Path(Path),
    /// `path[from..to]`.
    Slice(Path, i64, i64),
    /// `[from..to]`.
    Range(i64, i64),
    /// `[a, b]`.
    List(Vec<Expr>),
    /// `name(args)`.
    Call(Name, Vec<Expr>),
    /// `-x`.
    Negate(Box<Expr>),
    /// `+x`.
    Plus(Box<Expr>),
    /// `NOT x`.
    Not(Box<Expr>),
    /// Two operands.
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    /// `x [NOT] IN (a, b)`.
    In {
        /// What is looked for.
        item: Box<Expr>,
        /// Where.
        list: Vec<Expr>,
        /// Whether NOT stands before it.
        negated: bool,
    },
    /// `x [NOT] BETWEEN low AND high`.
    Between {
        /// What is compared.
        item: Box<Expr>,
        /// The lowest.
        low: Box<Expr>,
        /// The highest.
        high: Box<Expr>,
        /// Whether NOT stands before it.
        negated: bool,
    },
    /// `x [NOT] LIKE pattern`.
    Like {
        /// What is compared.
        item: Box<Expr>,
        /// The pattern with `%` and `_`.
        pattern: Box<Expr>,
        /// Whether NOT stands before it.
        negated: bool,
    },
    /// `x IS [NOT] NULL`: absent or JSON null.
    IsNull {
        /// What is tested.
        item: Box<Expr>,
        /// Whether NOT stands before it.
        negated: bool,
    },
    /// `CASE [x] WHEN a THEN b ELSE c END`.
    Case {
        /// What is compared with each WHEN; none when each is a condition.
        operand: Option<Box<Expr>>,
        /// WHEN and THEN.
        branches: Vec<(Expr, Expr)>,
        /// ELSE.
        otherwise: Option<Box<Expr>>,
    },
}

/// An operator between two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BinaryOp {
    /// `OR`.
    Or,
    /// `AND`.
    And,
    /// `=`.
    Eq,
    /// `!=`, `<>`.
    Ne,
    /// `<`.
    Lt,
    /// `<=`.
    Le,
    /// `>`.
    Gt,
    /// `>=`.
    Ge,
    /// `=~`: topic against filter.
    Matches,
    /// `~=`: understood, but always an error when it runs.
    TildeEq,
    /// `+`.
    Add,
    /// `-`.
    Sub,
    /// `*`.
    Mul,
    /// `/`.
    Div,
    /// `div`.
    IntDiv,
    /// `mod`.
    Mod,
    /// `||`.
    Concat,
}

impl BinaryOp {
    /// How it is written.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Or => "OR",
            Self::And => "AND",
            Self::Eq => "=",
            Self::Ne => "<>",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
            Self::Matches => "=~",
            Self::TildeEq => "~=",
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::IntDiv => "div",
            Self::Mod => "mod",
            Self::Concat => "||",
        }
    }

    /// Whether it compares.
    pub const fn is_comparison(self) -> bool {
        matches!(
            self,
            Self::Eq | Self::Ne | Self::Lt | Self::Le | Self::Gt | Self::Ge | Self::Matches | Self::TildeEq
        )
    }

    /// Whether it joins conditions.
    pub const fn is_logical(self) -> bool {
        matches!(self, Self::And | Self::Or)
    }

    /// How tightly it binds.
    pub(crate) const fn precedence(self) -> u8 {
        match self {
            Self::Or => 5,
            Self::And => 10,
            Self::Add | Self::Sub | Self::Concat => 30,
            Self::Mul | Self::Div | Self::IntDiv | Self::Mod => 40,
            _ => 20,
        }
    }
}
