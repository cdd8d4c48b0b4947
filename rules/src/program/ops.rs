//! Comparison, equality and arithmetic as the reference defines them: strings become numbers when compared with
//! numbers, the absent equals nothing but the absent, integers are exact, and what makes no sense is a fault.

use std::cmp::Ordering;

use muster_core::value::{Map, Value};
use num_bigint::BigInt;
use num_traits::{FromPrimitive, Signed, ToPrimitive, Zero};

use super::Fault;
use super::text;
use crate::ast::BinaryOp;

/// Largest integer that arithmetic may produce, in bits.
pub const INTEGER_BITS_MAX: u64 = 65_536;

type Done<T> = Result<T, Fault>;

pub(crate) fn compare(op: BinaryOp, left: &Value, right: &Value) -> Done<bool> {
    use Value::{Bool, Null, Str, Undefined};
    let ordering = match (left, right) {
        (Undefined, Undefined) => Ordering::Equal,
        (Undefined, _) | (_, Undefined) => return Ok(false),
        (l, Str(r)) if is_number(l) => order(l, &text::number(r)?),
        (Str(l), r) if is_number(r) => order(&text::number(l)?, r),
        (Bool(_) | Null, Str(r)) => text::atom(left).as_bytes().cmp(r),
        (Str(l), Bool(_) | Null) => l.as_ref().cmp(text::atom(right).as_bytes()),
        (l, r) => order(l, r),
    };
    Ok(match op {
        BinaryOp::Eq => ordering.is_eq(),
        BinaryOp::Ne => ordering.is_ne(),
        BinaryOp::Lt => ordering.is_lt(),
        BinaryOp::Le => ordering.is_le(),
        BinaryOp::Gt => ordering.is_gt(),
        BinaryOp::Ge => ordering.is_ge(),
        _ => return Err(Fault::new("no comparison")),
    })
}

/// `=~`: a topic against a filter.
pub(crate) fn matches(topic: &Value, filter: &Value) -> Done<bool> {
    match (topic, filter) {
        (Value::Undefined, _) | (_, Value::Undefined) => Ok(false),
        (Value::Str(_), Value::Str(_)) => {
            let (Some(topic), Some(filter)) = (topic.as_str(), filter.as_str()) else { return Ok(false) };
            Ok(muster_core::topic::matches(filter, topic))
        }
        _ => Err(Fault(
            format!(
                "=~ compares a topic with a filter, not {} with {}",
                topic.type_name(),
                filter.type_name()
            )
            .into(),
        )),
    }
}

pub(crate) fn is_number(value: &Value) -> bool {
    matches!(value, Value::Int(_) | Value::BigInt(_) | Value::Float(_))
}

/// Order over all types: number, then boolean and null, then map, then array, then string.
pub(crate) fn order(left: &Value, right: &Value) -> Ordering {
    use Value::{Array, Map, Str};
    match (left, right) {
        (l, r) if is_number(l) && is_number(r) => order_numbers(l, r),
        (Str(l), Str(r)) => l.cmp(r),
        (Array(l), Array(r)) => {
            let parts = l.iter().zip(r).map(|(l, r)| order(l, r)).find(|o| o.is_ne());
            parts.unwrap_or_else(|| l.len().cmp(&r.len()))
        }
        (Map(l), Map(r)) => order_maps(l, r),
        (l, r) => rank(l).cmp(&rank(r)),
    }
}

/// Atoms have an order of their own: false, null, true, undefined.
fn rank(value: &Value) -> u8 {
    match value {
        Value::Int(_) | Value::BigInt(_) | Value::Float(_) => 0,
        Value::Bool(false) => 1,
        Value::Null => 2,
        Value::Bool(true) => 3,
        Value::Undefined => 4,
        Value::Map(_) => 5,
        Value::Array(_) => 6,
        Value::Str(_) => 7,
    }
}

fn order_maps(left: &Map, right: &Map) -> Ordering {
    let sorted = |map: &Map| -> Vec<(String, Value)> {
        let mut pairs: Vec<_> = map.iter().map(|(k, v)| (k.to_owned(), v.clone())).collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs
    };
    let by_size = left.len().cmp(&right.len());
    if by_size.is_ne() {
        return by_size;
    }
    let (left, right) = (sorted(left), sorted(right));
    let keys = left.iter().map(|p| &p.0).cmp(right.iter().map(|p| &p.0));
    let values = || left.iter().zip(&right).map(|(l, r)| order(&l.1, &r.1)).find(|o| o.is_ne());
    keys.then_with(|| values().unwrap_or(Ordering::Equal))
}

fn order_numbers(left: &Value, right: &Value) -> Ordering {
    match (left, right) {
        (Value::Int(l), Value::Int(r)) => l.cmp(r),
        (Value::Float(l), Value::Float(r)) => l.partial_cmp(r).unwrap_or(Ordering::Equal),
        (Value::Float(l), r) => order_float(*l, r),
        (l, Value::Float(r)) => order_float(*r, l).reverse(),
        (l, r) => big(l).cmp(&big(r)),
    }
}

/// A float against an integer, exactly.
fn order_float(float: f64, int: &Value) -> Ordering {
    if let Value::Int(small) = int
        && small.unsigned_abs() < 1 << 53
    {
        #[expect(clippy::cast_precision_loss, reason = "below 2^53 nothing is lost")]
        return float.partial_cmp(&(*small as f64)).unwrap_or(Ordering::Equal);
    }
    let floor = BigInt::from_f64(float.floor()).unwrap_or_default();
    let by_whole = floor.cmp(&big(int));
    if by_whole.is_eq() && float.fract() != 0.0 { Ordering::Greater } else { by_whole }
}

/// An integer of any size; zero for anything else.
pub(crate) fn big(value: &Value) -> BigInt {
    match value {
        Value::Int(int) => (*int).into(),
        Value::BigInt(int) => (**int).clone(),
        _ => BigInt::zero(),
    }
}

/// Equality without any coercion, as IN, CASE and contains() see it: `1` is not `1.0`.
pub(crate) fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Array(l), Value::Array(r)) => l.len() == r.len() && l.iter().zip(r).all(|(l, r)| same(l, r)),
        (Value::Map(l), Value::Map(r)) => {
            l.len() == r.len() && l.iter().all(|(key, l)| r.get(key).is_some_and(|r| same(l, r)))
        }
        (l, r) => l == r,
    }
}

pub(crate) fn arithmetic(op: BinaryOp, left: &Value, right: &Value) -> Done<Value> {
    let has_string = matches!(left, Value::Str(_)) || matches!(right, Value::Str(_));
    match op {
        BinaryOp::Concat => concat(left, right),
        BinaryOp::Add if has_string => concat(left, right),
        _ if !is_number(left) || !is_number(right) => Err(Fault(
            format!("cannot compute {} {} {}", left.type_name(), op.text(), right.type_name()).into(),
        )),
        BinaryOp::Div => divide(left, right),
        BinaryOp::IntDiv | BinaryOp::Mod => whole(op, left, right),
        _ => plain(op, left, right),
    }
}

fn concat(left: &Value, right: &Value) -> Done<Value> {
    let (left, right) = (text::bytes_of(left)?, text::bytes_of(right)?);
    let mut out = Vec::with_capacity(left.len() + right.len());
    out.extend_from_slice(&left);
    out.extend_from_slice(&right);
    text::bounded(out.len())?;
    Ok(bytes::Bytes::from(out).into())
}

fn plain(op: BinaryOp, left: &Value, right: &Value) -> Done<Value> {
    if let (Value::Int(l), Value::Int(r)) = (left, right) {
        let small = match op {
            BinaryOp::Add => l.checked_add(*r),
            BinaryOp::Sub => l.checked_sub(*r),
            _ => l.checked_mul(*r),
        };
        if let Some(small) = small {
            return Ok(small.into());
        }
    }
    if matches!(left, Value::Float(_)) || matches!(right, Value::Float(_)) {
        let (l, r) = (float(left)?, float(right)?);
        return finite(match op {
            BinaryOp::Add => l + r,
            BinaryOp::Sub => l - r,
            _ => l * r,
        });
    }
    let (l, r) = (big(left), big(right));
    if l.bits() + r.bits() > INTEGER_BITS_MAX {
        return Err(Fault::new("the result is too large an integer"));
    }
    Ok(Value::big(match op {
        BinaryOp::Add => l + r,
        BinaryOp::Sub => l - r,
        _ => l * r,
    }))
}

fn divide(left: &Value, right: &Value) -> Done<Value> {
    let (l, r) = (float(left)?, float(right)?);
    if r == 0.0 {
        return Err(Fault::new("division by zero"));
    }
    finite(l / r)
}

pub(crate) fn whole(op: BinaryOp, left: &Value, right: &Value) -> Done<Value> {
    if !is_integer(left) || !is_integer(right) {
        return Err(Fault(format!("{} takes integers only", op.text()).into()));
    }
    let (l, r) = (big(left), big(right));
    if r.is_zero() {
        return Err(Fault::new("division by zero"));
    }
    Ok(Value::big(if op == BinaryOp::IntDiv { l / r } else { l % r }))
}

pub(crate) fn is_integer(value: &Value) -> bool {
    matches!(value, Value::Int(_) | Value::BigInt(_))
}

pub(crate) fn negate(value: &Value) -> Done<Value> {
    match value {
        Value::Int(_) | Value::BigInt(_) => Ok(Value::big(-big(value))),
        Value::Float(float) => Ok(Value::Float(-float)),
        other => Err(Fault(format!("cannot negate {}", other.type_name()).into())),
    }
}

/// The number as a double; a fault where it does not fit or is none.
pub(crate) fn float(value: &Value) -> Done<f64> {
    let float = match value {
        #[expect(clippy::cast_precision_loss, reason = "what a double is for")]
        Value::Int(int) => *int as f64,
        Value::BigInt(int) => int.to_f64().unwrap_or(f64::INFINITY),
        Value::Float(float) => *float,
        other => return Err(Fault(format!("expected a number, found {}", other.type_name()).into())),
    };
    if float.is_finite() { Ok(float) } else { Err(Fault::new("the number is too large for a float")) }
}

/// A double as a value; NaN and infinities are faults.
pub(crate) fn finite(float: f64) -> Done<Value> {
    if float.is_finite() {
        Ok(Value::Float(float))
    } else {
        Err(Fault::new("the result is no finite number"))
    }
}

/// A double without fraction as an integer.
pub(crate) fn integral(float: f64) -> Done<Value> {
    BigInt::from_f64(float).map(Value::big).ok_or_else(|| Fault::new("the result is no finite number"))
}

/// `abs` of an integer.
pub(crate) fn magnitude(value: &Value) -> Done<Value> {
    if is_integer(value) {
        Ok(Value::big(big(value).abs()))
    } else {
        Err(Fault::new("abs takes integers only"))
    }
}
