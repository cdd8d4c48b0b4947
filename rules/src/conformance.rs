//! The protocol of the shared conformance cases: one JSON object in, one out. Rules are read as the reference reads
//! them, without our additions.
//!
//! Request: `{"name", "kind": "sql" | "expr" | "parse", "sql" | "expr", "input"}`. Answer: `{"name", "rows"}`,
//! `{"name", "value"}`, `{"name", "parsed": true}` or `{"name", "error": {"stage", "message"}}`. In both,
//! `{"$undefined": true}` stands for an absent value and `{"$bytes": "hex"}` for bytes that are no UTF-8.

use std::fmt::Write as _;

use bytes::Bytes;
use muster_core::clock::SystemClock;
use muster_core::value::{Map, Value};

use crate::plan;
use crate::program::context::EvalContext;
use crate::program::env::{Base, Env};
use crate::program::{eval, json};
use crate::rule::RuleProgram;
use crate::syntax::{self, Mode};

/// Answers one line with one line.
pub fn answer(line: &str) -> String {
    let request = json::decode(&Bytes::copy_from_slice(line.as_bytes())).map(marked);
    let request = match request {
        Ok(Value::Map(request)) => request,
        Ok(_) | Err(_) => Map::new(),
    };
    let mut reply = Map::new();
    reply.insert("name", request.get("name").cloned().unwrap_or_default());
    let mut ctx = EvalContext::new(SystemClock::shared(), 1);
    let result = match request.get("kind").and_then(Value::as_str) {
        Some("sql") => sql(&request, &mut ctx).map(|rows| ("rows", rows)),
        Some("expr") => expr(&request, &mut ctx).map(|value| ("value", value)),
        Some("parse") => parse(&request).map(|()| ("parsed", true.into())),
        _ => Err(("parse", "a request has a kind: sql, expr or parse".to_owned())),
    };
    match result {
        Ok((key, value)) => reply.insert(key, value),
        Err((stage, message)) => {
            let error: Map =
                [("stage", stage.into()), ("message", Value::from(message))].into_iter().collect();
            reply.insert("error", error)
        }
    };
    let mut out = String::new();
    write(&reply.into(), &mut out);
    out
}

type Answer<T> = Result<T, (&'static str, String)>;

fn text<'a>(request: &'a Map, key: &str) -> Answer<&'a str> {
    request
        .get(key)
        .and_then(Value::as_str)
        .ok_or_else(|| ("parse", format!("`{key}` is missing or no UTF-8")))
}

fn parse(request: &Map) -> Answer<()> {
    let select = syntax::select(text(request, "sql")?, Mode::Reference);
    select.map(|_| ()).map_err(|problem| ("parse", problem.message))
}

fn sql(request: &Map, ctx: &mut EvalContext) -> Answer<Value> {
    let select = syntax::select(text(request, "sql")?, Mode::Reference);
    let select = select.map_err(|problem| ("parse", problem.message))?;
    let plan = plan::select(&select, Mode::Reference);
    let from = select.from.iter().map(|name| name.text.clone()).collect();
    let program = RuleProgram::new("test", plan, from);
    let none = Map::new();
    let columns = match request.get("input") {
        Some(Value::Map(columns)) => columns,
        _ => &none,
    };
    let mut rows = Vec::new();
    program.run_on(columns, ctx, &mut rows).map_err(|error| (error.stage.name(), error.message))?;
    Ok(rows.into_iter().map(Value::Map).collect::<Vec<_>>().into())
}

fn expr(request: &Map, ctx: &mut EvalContext) -> Answer<Value> {
    let expr = syntax::expression(text(request, "expr")?, Mode::Reference);
    let expr = expr.map_err(|problem| ("parse", problem.message))?;
    let (node, _) = plan::expression(&expr, Mode::Reference);
    let none = Map::new();
    let columns = match request.get("input") {
        Some(Value::Map(columns)) => columns,
        _ => &none,
    };
    let env = Env { base: Base::Map(columns), over: None, out: None };
    eval::eval(&node, &env, ctx).map_err(|fault| ("select", fault.to_string()))
}

/// Takes the marks of absent values and of bytes for what they stand for.
fn marked(value: Value) -> Value {
    match value {
        Value::Map(map) if map.len() == 1 && map.get("$undefined") == Some(&Value::Bool(true)) => {
            Value::Undefined
        }
        Value::Map(map) if map.len() == 1 && map.contains_key("$bytes") => {
            let digits = map.get("$bytes").and_then(Value::as_str).unwrap_or_default();
            let byte = |at: usize| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
            let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
            Bytes::from(bytes.unwrap_or_default()).into()
        }
        Value::Map(map) => map.into_iter().map(|(key, value)| (key, marked(value))).collect::<Map>().into(),
        Value::Array(items) => items.into_iter().map(marked).collect::<Vec<_>>().into(),
        other => other,
    }
}

/// JSON with marks.
fn write(value: &Value, out: &mut String) {
    match value {
        Value::Undefined => out.push_str("{\"$undefined\":true}"),
        Value::Str(bytes) if std::str::from_utf8(bytes).is_err() => {
            out.push_str("{\"$bytes\":\"");
            for byte in bytes {
                let _ = write!(out, "{byte:02x}");
            }
            out.push_str("\"}");
        }
        Value::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Map(map) => {
            out.push('{');
            for (n, (key, value)) in map.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                Value::str(key).write_json(out);
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
        other => other.write_json(out),
    }
}
