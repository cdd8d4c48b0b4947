//! How large and how deep values may become. A payload is small and a rule is short, but what a rule builds of the two
//! is neither by itself: `pad()` makes megabytes of one number, a store remembers the last event's value inside of
//! this one's, and a list in a payload multiplies everything by its length.

use bytes::Bytes;
use muster_core::value::{Map, Value};

use super::Fault;

/// Deepest nesting of a value that a rule builds. Values are walked by recursion.
pub const VALUE_DEPTH_MAX: usize = 512;

/// Most bytes of memory that a value which a rule builds, all rows of one event, or all constants of one rule may take.
pub const VALUE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Adds what a value takes to `total`. Refuses it where that is too much, or where the value is too deep to stand
/// `levels` below another.
pub(crate) fn add(value: &Value, levels: usize, total: &mut usize) -> Result<(), Fault> {
    let depth = VALUE_DEPTH_MAX.checked_sub(levels).ok_or_else(too_deep)?;
    count(value, depth, total)
}

/// How many bytes a value takes that was found to be small enough.
pub(crate) fn of(value: &Value) -> usize {
    let mut total = 0;
    match count(value, VALUE_DEPTH_MAX, &mut total) {
        Ok(()) => total,
        Err(_) => VALUE_BYTES_MAX,
    }
}

fn count(value: &Value, depth: usize, total: &mut usize) -> Result<(), Fault> {
    let own = match value {
        Value::Str(text) => text.len(),
        Value::BigInt(int) => usize::try_from(int.bits() / 8).unwrap_or(usize::MAX),
        Value::Map(map) => map.keys().map(str::len).sum(),
        _ => 0,
    };
    *total = total.saturating_add(own).saturating_add(size_of::<Value>());
    if *total > VALUE_BYTES_MAX {
        return Err(Fault::new("the rule makes too much of one event"));
    }
    let below = || depth.checked_sub(1).ok_or_else(too_deep);
    match value {
        Value::Array(items) if !items.is_empty() => {
            let depth = below()?;
            items.iter().try_for_each(|item| count(item, depth, total))
        }
        Value::Map(map) if !map.is_empty() => {
            let depth = below()?;
            map.values().try_for_each(|item| count(item, depth, total))
        }
        _ => Ok(()),
    }
}

fn too_deep() -> Fault {
    Fault::new("the value is nested too deeply")
}

/// A copy that keeps nothing alive that its strings were cut from.
pub(crate) fn own(value: &Value) -> Value {
    match value {
        Value::Str(text) => Bytes::copy_from_slice(text).into(),
        Value::Array(items) => items.iter().map(own).collect::<Vec<_>>().into(),
        Value::Map(map) => map.iter().map(|(key, value)| (key, own(value))).collect::<Map>().into(),
        other => other.clone(),
    }
}
