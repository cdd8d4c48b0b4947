//! Values of bound expressions.

use muster_core::value::Value;

use super::context::EvalContext;
use super::env::Env;
use super::{Call, Fault, Node, ops, size, text};
use crate::ast::BinaryOp;
use crate::functions::Args;

type Done<T> = Result<T, Fault>;

/// Longest list that a range may make.
pub const RANGE_ITEMS_MAX: i64 = 100_000;

/// Most characters that one LIKE may look at; without a limit it is the product of the lengths of text and pattern.
pub const LIKE_STEPS_MAX: usize = 20_000_000;

pub(crate) fn eval(node: &Node, env: &Env, ctx: &mut EvalContext) -> Done<Value> {
    match node {
        Node::Const(value) => Ok(value.clone()),
        Node::Raise(message) => Err(Fault(message.to_string().into())),
        Node::Track(track) => env.get(track, ctx),
        Node::Slice(track, from, to) => slice(&env.get(track, ctx)?, *from, *to),
        Node::List(items) => {
            let mut list = Vec::with_capacity(items.len());
            let mut bytes = 0;
            for item in items {
                let value = eval(item, env, ctx)?;
                size::add(&value, 1, &mut bytes)?;
                list.push(value);
            }
            Ok(list.into())
        }
        Node::Call(call) => self::call(call, env, ctx),
        Node::Negate(inner) => ops::negate(&eval(inner, env, ctx)?),
        Node::Plus(inner) => eval(inner, env, ctx),
        Node::Arithmetic(op, left, right) => {
            let left = eval(left, env, ctx)?;
            ops::arithmetic(*op, &left, &eval(right, env, ctx)?)
        }
        Node::Case { branches, otherwise } => {
            for (when, then) in branches {
                if is_true(when, env, ctx)? {
                    return eval(then, env, ctx);
                }
            }
            otherwise.as_ref().map_or(Ok(Value::Undefined), |node| eval(node, env, ctx))
        }
        Node::Switch { operand, branches, otherwise } => {
            for (when, then) in branches {
                let wanted = eval(when, env, ctx)?;
                if ops::same(&wanted, &eval(operand, env, ctx)?) {
                    return eval(then, env, ctx);
                }
            }
            otherwise.as_ref().map_or(Ok(Value::Undefined), |node| eval(node, env, ctx))
        }
        _ => condition(node, env, ctx).map(Value::Bool),
    }
}

/// WHEN: whatever is not true moves on to the next.
fn is_true(node: &Node, env: &Env, ctx: &mut EvalContext) -> Done<bool> {
    match node {
        Node::Call(call) => Ok(self::call(call, env, ctx)? == Value::Bool(true)),
        other => condition(other, env, ctx),
    }
}

/// Whether a condition holds.
pub(crate) fn condition(node: &Node, env: &Env, ctx: &mut EvalContext) -> Done<bool> {
    match node {
        Node::And(left, right) => Ok(condition(left, env, ctx)? && condition(right, env, ctx)?),
        Node::Or(left, right) => Ok(condition(left, env, ctx)? || condition(right, env, ctx)?),
        Node::Not(inner) => match &**inner {
            Node::And(..) | Node::Or(..) | Node::In { .. } | Node::Not(_) => Ok(!condition(inner, env, ctx)?),
            other => Ok(eval(other, env, ctx)? == Value::Bool(false)),
        },
        Node::Compare(op, left, right) => {
            let left = eval(left, env, ctx)?;
            ops::compare(*op, &left, &eval(right, env, ctx)?)
        }
        Node::Matches(left, right) => {
            let left = eval(left, env, ctx)?;
            ops::matches(&left, &eval(right, env, ctx)?)
        }
        Node::In { item, list, negated } => {
            let item = eval(item, env, ctx)?;
            let mut found = false;
            for candidate in list {
                found |= ops::same(&item, &eval(candidate, env, ctx)?);
            }
            Ok(found != *negated)
        }
        Node::Between { item, low, high, negated } => {
            let item = eval(item, env, ctx)?;
            let inside = ops::compare(BinaryOp::Ge, &item, &eval(low, env, ctx)?)?
                && ops::compare(BinaryOp::Le, &item, &eval(high, env, ctx)?)?;
            Ok(!item.is_undefined() && inside != *negated)
        }
        Node::Like { item, pattern, negated } => {
            let item = eval(item, env, ctx)?;
            let pattern = eval(pattern, env, ctx)?;
            if matches!(item, Value::Undefined | Value::Null) || matches!(pattern, Value::Undefined) {
                return Ok(false);
            }
            let (text, pattern) = (text::bytes_of(&item)?, text::bytes_of(&pattern)?);
            Ok(like(&text, &pattern)? != *negated)
        }
        Node::IsNull { item, negated } => {
            Ok(matches!(eval(item, env, ctx)?, Value::Undefined | Value::Null) != *negated)
        }
        other => match eval(other, env, ctx)? {
            Value::Bool(holds) => Ok(holds),
            // A flag that the event does not have is not set.
            Value::Undefined | Value::Null if matches!(other, Node::Track(_)) => Ok(false),
            value => {
                Err(Fault(format!("a condition must be true or false, not {}", value.type_name()).into()))
            }
        },
    }
}

fn call(call: &Call, env: &Env, ctx: &mut EvalContext) -> Done<Value> {
    let value = run(call, env, ctx)?;
    match &value {
        Value::Str(text) => text::bounded(text.len())?,
        Value::Array(_) | Value::Map(_) => size::add(&value, 0, &mut 0)?,
        _ => {}
    }
    Ok(value)
}

fn run(call: &Call, env: &Env, ctx: &mut EvalContext) -> Done<Value> {
    let mut values = [const { Value::Undefined }; 4];
    if let Some(values) = values.get_mut(..call.args.len()) {
        for (value, arg) in values.iter_mut().zip(&call.args) {
            *value = eval(arg, env, ctx)?;
        }
        return (call.function.run)(Args { values, prepared: call.prepared.as_ref(), env: *env, ctx });
    }
    let values = call.args.iter().map(|arg| eval(arg, env, ctx)).collect::<Done<Vec<_>>>()?;
    (call.function.run)(Args { values: &values, prepared: call.prepared.as_ref(), env: *env, ctx })
}

/// `[from..to]`.
pub(crate) fn range(from: i64, to: i64) -> Done<Value> {
    if to < from.saturating_sub(1) {
        return Err(Fault::new("the range ends before it begins"));
    }
    if to.saturating_sub(from) >= RANGE_ITEMS_MAX {
        return Err(Fault::new("the range is too long"));
    }
    Ok((from..=to).map(Value::Int).collect::<Vec<_>>().into())
}

/// `list[from..to]`: both ends belong to it, counted from 1 or from the end.
fn slice(value: &Value, from: i64, to: i64) -> Done<Value> {
    let Value::Array(items) = value else {
        return Err(Fault(format!("a range needs a list, not {}", value.type_name()).into()));
    };
    let len = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let place = |index: i64| match index {
        0 => Err(Fault::new("a range counts from 1")),
        1.. => Ok(index),
        _ => Ok(len + index + 1),
    };
    let (first, last) = (place(from)?, place(to)?);
    if first < 1 || last < first - 1 {
        return Err(Fault::new("the range ends before it begins"));
    }
    let first = usize::try_from(first - 1).unwrap_or(usize::MAX);
    let count = usize::try_from(last).unwrap_or(0).saturating_sub(first);
    Ok(items.iter().skip(first).take(count).cloned().collect::<Vec<_>>().into())
}

/// `%` stands for anything, `_` for one character; works on characters where the text is UTF-8.
fn like(text: &[u8], pattern: &[u8]) -> Done<bool> {
    let chars = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().collect::<Vec<_>>();
    let (text, pattern) = (chars(text), chars(pattern));
    let (mut t, mut p) = (0, 0);
    // Where to go on after the last `%`: one character further each time.
    let mut retry = None;
    let mut steps = 0;
    while t < text.len() {
        steps += 1;
        if steps > LIKE_STEPS_MAX {
            return Err(Fault::new("LIKE takes too many steps on this text"));
        }
        match pattern.get(p) {
            Some('%') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(c) if *c == '_' || text.get(t) == Some(c) => {
                t += 1;
                p += 1;
            }
            _ => match retry {
                Some((after, from)) => {
                    retry = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
                None => return Ok(false),
            },
        }
    }
    Ok(pattern.get(p..).unwrap_or_default().iter().all(|c| *c == '%'))
}
