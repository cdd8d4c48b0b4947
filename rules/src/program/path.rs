//! Ways into values: getting what stands at the end of a path, and putting a value there. A string on the way that
//! holds JSON is looked into.

use muster_core::value::{Map, Value};

use super::size::VALUE_DEPTH_MAX;
use super::{Fault, json};

/// A step whose index is known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Way {
    /// `.key`.
    Key(Box<str>),
    /// `[n]`.
    Index(i64),
    /// `[0]`.
    Head,
    /// `[-0]`.
    Tail,
    /// An index that is no integer: leads nowhere.
    Nowhere,
}

/// `'a.b'`: the keys between the dots.
pub(crate) fn dotted(text: &str) -> Result<Vec<Way>, Fault> {
    let ways: Vec<_> = text.split('.').take(VALUE_DEPTH_MAX + 1).map(|key| Way::Key(key.into())).collect();
    if ways.len() > VALUE_DEPTH_MAX { Err(Fault::new("the path is too long")) } else { Ok(ways) }
}

/// What stands at the end of `way` in `value`; undefined where it leads nowhere.
pub(crate) fn get(value: &Value, way: &[Way]) -> Value {
    let mut here = value;
    for (n, step) in way.iter().enumerate() {
        let next = match (step, here) {
            (Way::Key(key), Value::Map(map)) => map.get(key),
            (Way::Index(index), Value::Array(items)) => {
                position(items.len(), *index).and_then(|at| items.get(at))
            }
            (_, Value::Str(text)) => {
                let rest = way.get(n..).unwrap_or_default();
                return match json::decode(text) {
                    // A JSON string in a JSON string is looked into as well.
                    Ok(inner) => get(&inner, rest),
                    Err(_) => Value::Undefined,
                };
            }
            _ => None,
        };
        match next {
            Some(next) => here = next,
            None => return Value::Undefined,
        }
    }
    here.clone()
}

/// Where the `index`-th of `len` elements stands, from 1 or from the end.
pub(crate) fn position(len: usize, index: i64) -> Option<usize> {
    match index {
        0 => None,
        1.. => usize::try_from(index - 1).ok().filter(|at| *at < len),
        _ => len.checked_sub(usize::try_from(index.unsigned_abs()).ok()?),
    }
}

/// Puts `value` at the end of `way` in `place`, making maps and lists where there are none.
pub(crate) fn put(place: &mut Value, way: &[Way], value: Value) {
    let Some((step, rest)) = way.split_first() else {
        *place = value;
        return;
    };
    match step {
        Way::Key(key) => {
            if let Value::Map(map) = place {
                if let Some(inner) = map.get_mut(key) {
                    put(inner, rest, value);
                } else {
                    let mut inner = Value::Undefined;
                    put(&mut inner, rest, value);
                    map.insert(key.clone(), inner);
                }
                return;
            }
            let mut inner = get(place, std::slice::from_ref(step));
            put(&mut inner, rest, value);
            let mut map = Map::new();
            map.insert(key.clone(), inner);
            *place = map.into();
        }
        Way::Index(index) => match place {
            Value::Array(items) => {
                if let Some(inner) = position(items.len(), *index).and_then(|at| items.get_mut(at)) {
                    put(inner, rest, value);
                }
            }
            other => {
                let mut inner = get(other, std::slice::from_ref(step));
                put(&mut inner, rest, value);
                *other = vec![inner].into();
            }
        },
        Way::Head | Way::Tail => {
            let mut inner = Value::Undefined;
            put(&mut inner, rest, value);
            match place {
                Value::Array(items) if *step == Way::Head => items.insert(0, inner),
                Value::Array(items) => items.push(inner),
                other => *other = vec![inner].into(),
            }
        }
        Way::Nowhere => {
            if !matches!(place, Value::Array(_)) {
                let mut inner = Value::Undefined;
                put(&mut inner, rest, value);
                *place = vec![inner].into();
            }
        }
    }
}

/// The index that a looked-up value means.
pub(crate) fn by(value: &Value) -> Way {
    match value {
        Value::Int(index) => Way::Index(*index),
        _ => Way::Nowhere,
    }
}
