//! What a rule does, ready to run: names are bound, functions resolved, constants folded. It knows nothing of the text
//! that a rule was written in.

pub(crate) mod context;
pub(crate) mod env;
pub(crate) mod eval;
pub(crate) mod json;
pub(crate) mod ops;
pub(crate) mod path;
pub(crate) mod run;
pub(crate) mod size;
pub(crate) mod source;
pub(crate) mod text;

use std::borrow::Cow;
use std::fmt;

use muster_core::event::Column;
use muster_core::value::Value;

use crate::ast::BinaryOp;
use crate::functions::{Function, Prepared};
use path::Way;

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault(pub(crate) Cow<'static, str>);

impl Fault {
    pub(crate) const fn new(message: &'static str) -> Self {
        Self(Cow::Borrowed(message))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name bound: the event's column where there is one of that name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Slot {
    pub(crate) name: Box<str>,
    pub(crate) column: Option<Column>,
    /// Whether an alias of the rule may stand in front of the column.
    pub(crate) shadowed: bool,
}

/// A step of a bound path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Bound {
    /// Known.
    Way(Way),
    /// Looked up where the path begins.
    By(Track),
}

/// A bound path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Track {
    pub(crate) slot: Slot,
    pub(crate) steps: Vec<Bound>,
    /// The steps, where all of them are known.
    pub(crate) fixed: Option<Box<[Way]>>,
}

/// A bound expression.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Const(Value),
    /// Always fails.
    Raise(Box<str>),
    Track(Track),
    Slice(Track, i64, i64),
    List(Vec<Node>),
    Call(Box<Call>),
    Negate(Box<Node>),
    Plus(Box<Node>),
    Not(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Compare(BinaryOp, Box<Node>, Box<Node>),
    Matches(Box<Node>, Box<Node>),
    Arithmetic(BinaryOp, Box<Node>, Box<Node>),
    In {
        item: Box<Node>,
        list: Vec<Node>,
        negated: bool,
    },
    Between {
        item: Box<Node>,
        low: Box<Node>,
        high: Box<Node>,
        negated: bool,
    },
    Like {
        item: Box<Node>,
        pattern: Box<Node>,
        negated: bool,
    },
    IsNull {
        item: Box<Node>,
        negated: bool,
    },
    Case {
        branches: Vec<(Node, Node)>,
        otherwise: Option<Box<Node>>,
    },
    Switch {
        operand: Box<Node>,
        branches: Vec<(Node, Node)>,
        otherwise: Option<Box<Node>>,
    },
}

/// A call of a function.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) function: &'static Function,
    pub(crate) args: Vec<Node>,
    /// What could be made ready at plan time: a regular expression, a jq program, a date format.
    pub(crate) prepared: Option<Prepared>,
}

/// Prepared parts follow from the arguments.
impl PartialEq for Call {
    fn eq(&self, other: &Self) -> bool {
        self.function.name == other.function.name && self.args == other.args
    }
}

/// Where a value goes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Put {
    pub(crate) track: Track,
    /// Whether it was written, not derived from the expression.
    pub(crate) explicit: bool,
}

/// One item of SELECT, FOREACH or DO.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Star,
    Put(Node, Put),
}

/// A whole rule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Program {
    pub(crate) items: Vec<Step>,
    pub(crate) foreach: Option<Each>,
    pub(crate) condition: Option<Node>,
}

/// What FOREACH does with each element.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Each {
    /// The name under which the element is seen.
    pub(crate) item: Box<str>,
    /// The DO; empty for none.
    pub(crate) items: Vec<Step>,
    pub(crate) condition: Option<Node>,
}
