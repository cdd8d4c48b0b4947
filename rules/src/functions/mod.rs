//! The functions of rule SQL: one row each in the table of its group, with the number of its arguments and whether its
//! value follows from them alone. They are pure but for what [`EvalContext`] gives them; they do no input or output.

mod bits;
mod context;
mod convert;
mod date;
mod encode;
mod jq;
mod maps;
mod math;
mod misc;
mod nulls;
mod sprintf;
mod strings;

use std::sync::Arc;

use bytes::Bytes;
use muster_core::value::Value;

use crate::program::Fault;
use crate::program::context::EvalContext;
use crate::program::env::Env;
use crate::program::text;

pub use convert::DECIMALS_MAX;
pub use date::FORMAT_BYTES_MAX;
pub use encode::INFLATED_BYTES_MAX;
pub use jq::{JQ_BYTES_MAX, JQ_CALLS_MAX, JQ_ITEMS_MAX, JQ_OUTPUTS_MAX, JQ_TIME_DEFAULT_MS};
pub use strings::{REGEX_BACKTRACKS_MAX, REGEX_BYTES_MAX, REGEX_TIME_MAX_MS};

/// What a value follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// From the arguments alone.
    Pure,
    /// From the event, too; without a value in conditions.
    Context,
    /// From the clock or chance, too.
    Volatile,
    /// From events before this one: it writes or reads what evaluation remembers.
    Remembers,
}

/// What can be made ready before there is an event.
#[derive(Debug, Clone)]
pub(crate) enum Prepared {
    Regex(Arc<fancy_regex::Regex>),
    Jq(Arc<jq::Filter>),
    Date(Arc<date::Format>),
}

type Run = fn(Args) -> Result<Value, Fault>;
type Prepare = fn(&[Option<&Value>]) -> Result<Option<Prepared>, Fault>;

/// A function.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) min: usize,
    pub(crate) max: usize,
    /// How a call is written.
    pub(crate) usage: &'static str,
    pub(crate) effect: Effect,
    pub(crate) prepare: Option<Prepare>,
    pub(crate) run: Run,
}

/// A function whose value follows from its arguments.
const fn pure(name: &'static str, min: usize, max: usize, usage: &'static str, run: Run) -> Function {
    Function { name, min, max, usage, effect: Effect::Pure, prepare: None, run }
}

/// A function of the event.
const fn of_event(name: &'static str, min: usize, max: usize, usage: &'static str, run: Run) -> Function {
    Function { effect: Effect::Context, ..pure(name, min, max, usage, run) }
}

/// A function of the clock or of chance.
const fn volatile(name: &'static str, min: usize, max: usize, usage: &'static str, run: Run) -> Function {
    Function { effect: Effect::Volatile, ..pure(name, min, max, usage, run) }
}

/// One call: arguments and surroundings.
pub(crate) struct Args<'a> {
    pub(crate) values: &'a [Value],
    pub(crate) prepared: Option<&'a Prepared>,
    pub(crate) env: Env<'a>,
    pub(crate) ctx: &'a mut EvalContext,
}

impl<'a> Args<'a> {
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// An argument; undefined where there is none.
    pub(crate) fn get(&self, n: usize) -> &'a Value {
        self.values.get(n).unwrap_or(&Value::Undefined)
    }

    /// A string argument as bytes; a boolean counts as its word.
    pub(crate) fn bytes(&self, n: usize) -> Result<Bytes, Fault> {
        match self.get(n) {
            Value::Str(bytes) => Ok(bytes.clone()),
            value @ Value::Bool(_) => Ok(Bytes::from_static(text::atom(value).as_bytes())),
            other => Err(wrong("a string", other)),
        }
    }

    /// A string argument as text.
    pub(crate) fn text(&self, n: usize) -> Result<&'a str, Fault> {
        match self.get(n) {
            Value::Str(bytes) => {
                std::str::from_utf8(bytes).map_err(|_| Fault::new("the string is not UTF-8"))
            }
            value @ Value::Bool(_) => Ok(text::atom(value)),
            other => Err(wrong("a string", other)),
        }
    }

    /// An integer argument that fits 64 bits.
    pub(crate) fn int(&self, n: usize) -> Result<i64, Fault> {
        match self.get(n) {
            Value::Int(int) => Ok(*int),
            Value::BigInt(_) => Err(Fault::new("the integer is too large")),
            other => Err(wrong("an integer", other)),
        }
    }

    /// A list argument.
    pub(crate) fn list(&self, n: usize) -> Result<&'a [Value], Fault> {
        match self.get(n) {
            Value::Array(items) => Ok(items),
            other => Err(wrong("a list", other)),
        }
    }
}

/// A fault about an argument's type.
pub(crate) fn wrong(wanted: &str, found: &Value) -> Fault {
    Fault(format!("expected {wanted}, found {}", found.type_name()).into())
}

const TABLES: &[&[Function]] = &[
    context::TABLE,
    nulls::TABLE,
    math::TABLE,
    bits::TABLE,
    convert::TABLE,
    strings::TABLE,
    sprintf::TABLE,
    maps::TABLE,
    encode::TABLE,
    date::TABLE,
    jq::TABLE,
    misc::TABLE,
];

/// Functions of the reference that Muster does not have, each with the reason.
const UNAVAILABLE: &[(&str, &str)] = &[
    ("term_encode", ERLANG),
    ("term_decode", ERLANG),
    ("proc_dict_put", ERLANG),
    ("proc_dict_get", ERLANG),
    ("proc_dict_del", ERLANG),
    ("schema_decode", SCHEMA),
    ("schema_encode", SCHEMA),
    ("schema_check", SCHEMA),
    ("schema_encode_and_tag", SCHEMA),
    ("schema_decode_tagged", SCHEMA),
    ("avro_encode", SCHEMA),
    ("avro_decode", SCHEMA),
    ("sparkplug_encode", SCHEMA),
    ("sparkplug_decode", SCHEMA),
    ("spb_encode", SCHEMA),
    ("spb_decode", SCHEMA),
    ("spb_zip_kvs", SCHEMA),
    ("ai_completion", "rules do no input or output; do this behind a webhook sink"),
    ("contains_topic", "there are no topic lists in events; use topic =~ 'filter'"),
    ("contains_topic_match", "there are no topic lists in events; use topic =~ 'filter'"),
];

const ERLANG: &str = "it is about Erlang terms and processes; use json_encode, json_decode or kv_store_put";
const SCHEMA: &str = "there is no schema registry yet; decode JSON with json_decode, binary with subbits";

/// What a name and a number of arguments mean.
pub(crate) enum Found {
    Function(&'static Function),
    /// Known, but not here; why.
    Unavailable(&'static str),
    /// Known with another number of arguments; how it is written.
    WrongCount(&'static str),
    Unknown,
}

/// The function of this name for so many arguments.
pub(crate) fn find(name: &str, args: usize) -> Found {
    let all = || TABLES.iter().flat_map(|table| table.iter()).filter(|function| function.name == name);
    if let Some(function) = all().find(|function| (function.min..=function.max).contains(&args)) {
        return Found::Function(function);
    }
    match (all().next(), UNAVAILABLE.iter().find(|(known, _)| *known == name)) {
        (Some(function), _) => Found::WrongCount(function.usage),
        (None, Some((_, why))) => Found::Unavailable(why),
        (None, None) => Found::Unknown,
    }
}

/// Every function's name.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    TABLES.iter().flat_map(|table| table.iter()).map(|function| function.name)
}

/// Every function's name and how a call is written, for the reference page.
pub fn usages() -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLES.iter().flat_map(|table| table.iter()).map(|function| (function.name, function.usage))
}
