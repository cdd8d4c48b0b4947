//! A rule on one event: SELECT, then WHERE; or FOREACH, WHERE, then INCASE and DO for each element.

use std::fmt;

use muster_core::value::{Map, Row, Value};

use super::context::EvalContext;
use super::env::{Base, Env, resolved};
use super::eval::{condition, eval};
use super::path::{self, Way};
use super::{Fault, Node, Program, Put, Step, json, size};

/// Most rows that one event may make.
pub const ROWS_MAX: usize = 100_000;

/// Which part of a rule failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// An item of SELECT.
    Select,
    /// The WHERE.
    Where,
    /// An item of FOREACH.
    Foreach,
    /// An item of DO.
    Do,
    /// The INCASE.
    Incase,
}

impl Stage {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Select => "select",
            Self::Where => "where",
            Self::Foreach => "foreach",
            Self::Do => "do",
            Self::Incase => "incase",
        }
    }
}

/// Why a rule failed on an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{stage}: {message}")]
pub struct EvalError {
    /// In which part.
    pub stage: Stage,
    /// Why.
    pub message: String,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name().to_uppercase())
    }
}

fn at(stage: Stage) -> impl Fn(Fault) -> EvalError {
    move |fault| EvalError { stage, message: fault.0.into_owned() }
}

/// A row in the making.
#[derive(Default)]
struct Output {
    row: Map,
    /// Whether the payload in the row came with `*`: the reference treats it differently when it is assigned into.
    star_payload: bool,
}

/// Runs `program` on `base`; whether WHERE held. Rows are added to `rows`, none when it fails.
pub(crate) fn run(
    program: &Program,
    base: Base,
    ctx: &mut EvalContext,
    rows: &mut Vec<Row>,
) -> Result<bool, EvalError> {
    let before = rows.len();
    let result = match &program.foreach {
        None => select(program, base, ctx, rows),
        Some(_) => foreach(program, base, ctx, rows),
    };
    if result.is_err() {
        rows.truncate(before);
    }
    result
}

fn select(
    program: &Program,
    base: Base,
    ctx: &mut EvalContext,
    rows: &mut Vec<Row>,
) -> Result<bool, EvalError> {
    let env = Env { base, over: None, out: None };
    let row = transform(&program.items, &env, ctx, &mut 0).map_err(at(Stage::Select))?;
    if let Some(node) = &program.condition {
        let env = Env { base, over: Some(&row), out: None };
        if !condition(node, &env, ctx).map_err(at(Stage::Where))? {
            return Ok(false);
        }
    }
    rows.push(row);
    Ok(true)
}

/// Adds what the row takes to `bytes`, which stays within the limit for all rows of an event.
fn transform(items: &[Step], env: &Env, ctx: &mut EvalContext, bytes: &mut usize) -> Result<Map, Fault> {
    let mut output = Output { row: Map::with_capacity(items.len()), star_payload: false };
    for item in items {
        match item {
            Step::Star => {
                for (key, value) in env.columns() {
                    size::add(&value, 0, bytes)?;
                    output.row.insert(key, value);
                }
                output.star_payload = true;
            }
            Step::Put(node, put) => {
                let value = eval(node, &Env { out: Some(&output.row), ..*env }, ctx)?;
                size::add(&value, 0, bytes)?;
                assign(&mut output, put, value)?;
            }
        }
    }
    Ok(output.row)
}

/// Puts a value where its item says.
fn assign(output: &mut Output, put: &Put, value: Value) -> Result<(), Fault> {
    let slot = &put.track.slot;
    if put.track.steps.is_empty() {
        output.row.insert(slot.name.clone(), value);
        return Ok(());
    }
    let ways = match &put.track.fixed {
        Some(ways) => ways.to_vec(),
        None => {
            let look = |index: &super::Track| super::env::inside(&Value::Map(output.row.clone()), index);
            resolved(&put.track.steps, &look)
        }
    };
    size::add(&value, ways.len(), &mut 0)?;
    if slot.name.as_ref() == "payload" {
        let known = output.row.contains_key("payload");
        if !known && !put.explicit {
            output.star_payload = true;
        }
        // A payload that stands in the row as it came is decoded and keeps its other fields.
        if put.explicit != output.star_payload
            && let Some(place) = output.row.get_mut("payload")
            && let Value::Str(text) = &place
        {
            *place = json::decode(text).map_err(|fault| Fault(format!("payload is {fault}").into()))?;
        }
    }
    put_into(&mut output.row, &slot.name, &ways, value);
    Ok(())
}

fn put_into(row: &mut Map, name: &str, ways: &[Way], value: Value) {
    if let Some(place) = row.get_mut(name) {
        path::put(place, ways, value);
    } else {
        let mut place = Value::Undefined;
        path::put(&mut place, ways, value);
        row.insert(name, place);
    }
}

fn foreach(
    program: &Program,
    base: Base,
    ctx: &mut EvalContext,
    rows: &mut Vec<Row>,
) -> Result<bool, EvalError> {
    let Some(each) = &program.foreach else { return Ok(false) };
    let (selected, list) = collect(program, base, ctx).map_err(at(Stage::Foreach))?;
    if let Some(node) = &program.condition {
        let env = Env { base, over: Some(&selected), out: None };
        if !condition(node, &env, ctx).map_err(at(Stage::Where))? {
            return Ok(false);
        }
    }
    let mut over = selected;
    let mut bytes = 0;
    for element in list {
        over.insert(each.item.clone(), element);
        let env = Env { base, over: Some(&over), out: None };
        if let Some(node) = &each.condition
            && !condition(node, &env, ctx).map_err(at(Stage::Incase))?
        {
            continue;
        }
        if rows.len() >= ROWS_MAX {
            let message = format!("more than {ROWS_MAX} rows from one event");
            return Err(EvalError { stage: Stage::Do, message });
        }
        let items = if each.items.is_empty() { &[Step::Star][..] } else { &each.items };
        let row = transform(items, &env, ctx, &mut bytes).map_err(at(Stage::Do))?;
        rows.push(row);
    }
    Ok(true)
}

/// The items of FOREACH: what they select, and the list that the last of them is.
fn collect(program: &Program, base: Base, ctx: &mut EvalContext) -> Result<(Map, Vec<Value>), Fault> {
    let mut output = Output::default();
    // Items before the last are columns to those after them.
    let mut columns = Output { row: Map::new(), star_payload: true };
    let (mut list, mut bytes) = (Vec::new(), 0);
    for (n, item) in program.items.iter().enumerate() {
        let Step::Put(node, put) = item else { continue };
        let env = Env { base, over: Some(&columns.row), out: Some(&output.row) };
        let value = eval(node, &env, ctx)?;
        size::add(&value, 0, &mut bytes)?;
        if n + 1 == program.items.len() {
            list = elements(node, &value);
        } else {
            let name = &put.track.slot.name;
            if !put.track.steps.is_empty() && !columns.row.contains_key(name) {
                let column = base.get(&put.track.slot);
                if !column.is_undefined() {
                    columns.row.insert(name.clone(), column);
                }
            }
            assign(&mut columns, put, value.clone())?;
        }
        assign(&mut output, put, value)?;
    }
    Ok((output.row, list))
}

/// A list's elements; a payload that is a JSON list counts as one, anything else has none.
fn elements(node: &Node, value: &Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items.clone(),
        Value::Str(text) if matches!(node, Node::Track(_)) => match json::decode(text) {
            Ok(Value::Array(items)) => items,
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}
