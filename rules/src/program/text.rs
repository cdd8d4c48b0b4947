//! Values as text and text as numbers, the way rule SQL does it.

use std::borrow::Cow;

use bytes::Bytes;
use muster_core::value::{Map, Value};
use num_bigint::BigInt;

use super::Fault;

/// Longest string that an expression may build.
pub const STRING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Refuses lengths beyond [`STRING_BYTES_MAX`].
pub(crate) fn bounded(len: usize) -> Result<(), Fault> {
    if len <= STRING_BYTES_MAX { Ok(()) } else { Err(Fault::new("the string is too long")) }
}

/// The words for booleans, null and the absent.
pub(crate) fn atom(value: &Value) -> &'static str {
    match value {
        Value::Bool(true) => "true",
        Value::Bool(false) => "false",
        Value::Null => "null",
        _ => "undefined",
    }
}

/// A string that stands where a number is needed: an integer, else a float with digits on both sides of its point.
pub(crate) fn number(text: &[u8]) -> Result<Value, Fault> {
    let fault = || Fault(format!("'{}' is no number", shorten(text)).into());
    let text = std::str::from_utf8(text).map_err(|_| fault())?;
    if let Some(int) = parse_int(text) {
        return Ok(int);
    }
    parse_float(text).map(Value::Float).ok_or_else(fault)
}

pub(crate) fn parse_int(text: &str) -> Option<Value> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty()
        || !digits.bytes().all(|b| b.is_ascii_digit())
        || digits.len() > crate::syntax::INTEGER_DIGITS_MAX
    {
        return None;
    }
    if let Ok(int) = text.parse::<i64>() {
        return Some(int.into());
    }
    text.strip_prefix('+').unwrap_or(text).parse::<BigInt>().ok().map(Value::big)
}

pub(crate) fn parse_float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (whole, rest) = unsigned.split_once('.')?;
    let (fraction, exponent) = rest.split_once(['e', 'E']).map_or((rest, None), |(f, e)| (f, Some(e)));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let exponent_ok = exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e)));
    if !digits(whole) || !digits(fraction) || !exponent_ok {
        return None;
    }
    text.parse::<f64>().ok().filter(|float| float.is_finite())
}

/// A float with at most `decimals` digits after its point and no zeros at the end, but one digit at least.
pub(crate) fn float(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    if !text.contains('.') {
        return format!("{text}.0");
    }
    let cut = text.trim_end_matches('0');
    if cut.ends_with('.') { format!("{cut}0") } else { cut.to_owned() }
}

/// Decimals of a float in `str()` and templates.
pub(crate) const FLOAT_DECIMALS: usize = 10;

/// What `str()` makes of a value, as bytes.
pub(crate) fn bytes_of(value: &Value) -> Result<Cow<'_, [u8]>, Fault> {
    Ok(match value {
        Value::Str(bytes) => Cow::Borrowed(bytes.as_ref()),
        Value::Undefined | Value::Null | Value::Bool(_) => Cow::Borrowed(atom(value).as_bytes()),
        Value::Int(int) => Cow::Owned(int.to_string().into_bytes()),
        Value::BigInt(int) => Cow::Owned(int.to_string().into_bytes()),
        Value::Float(value) => Cow::Owned(float(*value, FLOAT_DECIMALS).into_bytes()),
        Value::Array(items) => match printable(items) {
            Some(text) => Cow::Owned(text.into_bytes()),
            None => Cow::Owned(json(value)?.into_bytes()),
        },
        Value::Map(_) => Cow::Owned(json(value)?.into_bytes()),
    })
}

/// `str()` as a value.
pub(crate) fn str_of(value: &Value) -> Result<Value, Fault> {
    match value {
        Value::Str(_) => Ok(value.clone()),
        other => Ok(Bytes::from(bytes_of(other)?.into_owned()).into()),
    }
}

/// A list of printable code points is a text to the reference.
fn printable(items: &[Value]) -> Option<String> {
    if items.is_empty() {
        return None;
    }
    let code = |item: &Value| match item {
        Value::Int(int) => u32::try_from(*int)
            .ok()
            .and_then(char::from_u32)
            .filter(|c| matches!(*c, '\t'..='\r' | '\u{1b}' | ' '..='~' | '\u{8}' | '\u{a0}'..)),
        _ => None,
    };
    items.iter().map(code).collect()
}

/// Compact JSON with keys in byte order.
pub(crate) fn json(value: &Value) -> Result<String, Fault> {
    let mut out = String::new();
    write_json(value, &mut out)?;
    Ok(out)
}

fn write_json(value: &Value, out: &mut String) -> Result<(), Fault> {
    match value {
        Value::Map(map) => {
            out.push('{');
            for (n, (key, value)) in sorted(map).into_iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                Value::str(key).write_json(out);
                out.push(':');
                write_json(value, out)?;
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write_json(item, out)?;
            }
            out.push(']');
        }
        Value::Undefined => out.push_str("\"undefined\""),
        Value::Float(value) => out.push_str(&shortest(*value)),
        other => other.write_json(out),
    }
    bounded(out.len())
}

/// The shortest text that reads back as the same double, always with a point.
pub(crate) fn shortest(value: f64) -> String {
    let text = format!("{value:?}");
    match text.split_once('e') {
        Some((mantissa, exponent)) if !mantissa.contains('.') => format!("{mantissa}.0e{exponent}"),
        _ => text,
    }
}

/// A map's pairs, keys in byte order.
pub(crate) fn sorted(map: &Map) -> Vec<(&str, &Value)> {
    let mut pairs: Vec<_> = map.iter().collect();
    pairs.sort_unstable_by(|a, b| a.0.cmp(b.0));
    pairs
}

/// The head of a text, for messages.
pub(crate) fn shorten(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut head: String = text.chars().take(40).collect();
    if head.len() < text.len() {
        head.push_str("...");
    }
    head
}
