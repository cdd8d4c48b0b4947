//! Functions about what is absent, null or empty, and tests of types.

use muster_core::value::{Map, Value};

use super::{Args, Function, pure, wrong};
use crate::ast::BinaryOp;
use crate::program::{Fault, json, ops};

pub(super) const TABLE: &[Function] = &[
    pure("is_null", 1, 1, "is_null(x)", |args| test(args, Value::is_undefined)),
    pure("is_not_null", 1, 1, "is_not_null(x)", |args| test(args, |x| !x.is_undefined())),
    pure("is_null_var", 1, 1, "is_null_var(x)", |args| test(args, absent)),
    pure("is_not_null_var", 1, 1, "is_not_null_var(x)", |args| test(args, |x| !absent(x))),
    pure("is_str", 1, 1, "is_str(x)", |args| test(args, |x| matches!(x, Value::Str(_)))),
    pure("is_bool", 1, 1, "is_bool(x)", |args| test(args, |x| matches!(x, Value::Bool(_)))),
    pure("is_int", 1, 1, "is_int(x)", |args| test(args, ops::is_integer)),
    pure("is_float", 1, 1, "is_float(x)", |args| test(args, |x| matches!(x, Value::Float(_)))),
    pure("is_num", 1, 1, "is_num(x)", |args| test(args, ops::is_number)),
    pure("is_map", 1, 1, "is_map(x)", |args| test(args, |x| matches!(x, Value::Map(_)))),
    pure("is_array", 1, 1, "is_array(x)", |args| test(args, |x| matches!(x, Value::Array(_)))),
    pure("is_empty", 1, 1, "is_empty(x)", is_empty),
    pure("coalesce", 1, 2, "coalesce(a, b) or coalesce([a, b, c])", |args| first(args, Value::is_undefined)),
    pure("coalesce_ne", 1, 2, "coalesce_ne(a, b) or coalesce_ne([a, b, c])", |args| {
        first(args, |x| match x {
            Value::Undefined => true,
            Value::Str(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        })
    }),
    pure("eq", 2, 2, "eq(a, b)", |args| Ok(eq(args.get(0), args.get(1)).into())),
];

fn test(args: Args, holds: fn(&Value) -> bool) -> Result<Value, Fault> {
    Ok(holds(args.get(0)).into())
}

fn absent(value: &Value) -> bool {
    matches!(value, Value::Undefined | Value::Null)
}

fn is_empty(args: Args) -> Result<Value, Fault> {
    let value = args.get(0);
    let empty = match value {
        Value::Array(items) => items.is_empty(),
        Value::Map(map) => map.is_empty(),
        Value::Str(text) if text.is_empty() => true,
        Value::Str(text) => json::decode(text)? == Value::Map(Map::new()),
        other => return Err(wrong("a string, list or map", other)),
    };
    Ok(empty.into())
}

fn first(args: Args, skip: fn(&Value) -> bool) -> Result<Value, Fault> {
    let values = if args.len() == 1 { args.list(0)? } else { args.values };
    Ok(values.iter().find(|value| !skip(value)).cloned().unwrap_or_default())
}

/// Equality that knows `1 = 1.0` but turns no string into a number.
fn eq(left: &Value, right: &Value) -> bool {
    let same_kind = std::mem::discriminant(left) == std::mem::discriminant(right);
    if same_kind || (ops::is_number(left) && ops::is_number(right)) {
        return ops::compare(BinaryOp::Eq, left, right).unwrap_or(false);
    }
    false
}
