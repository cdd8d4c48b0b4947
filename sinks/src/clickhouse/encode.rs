//! Values as JSONEachRow has them for a column's type; pure. What a type cannot hold exactly is refused here and not
//! left to the server, which writes 256 into a `UInt8` as 0 and does not say so.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use muster_core::value::{Map, Value};

use super::times::{self, Reason};
use super::types::Type;

/// Appends `value` as `kind` has it. After an error what was appended is of no use.
pub(super) fn write(kind: &Type, value: &Value, out: &mut Vec<u8>) -> Result<(), Reason> {
    match (kind, value) {
        (Type::Nullable(_), Value::Null | Value::Undefined) => {
            out.extend_from_slice(b"null");
            Ok(())
        }
        (Type::Nullable(inner), _) => write(inner, value, out),
        (Type::Other, _) => {
            other(value, out);
            Ok(())
        }
        (_, Value::Null | Value::Undefined) => Err("null".into()),
        (Type::Text, _) => {
            text(value, out);
            Ok(())
        }
        (Type::Fixed(max), _) => fixed(value, *max, out),
        (Type::Int { bits, signed }, _) => integer(value, *bits, *signed, out),
        (Type::Float { bits }, _) => float(value, *bits, out),
        (Type::Decimal { precision, scale }, _) => decimal(value, *precision, *scale, out),
        (Type::Bool, _) => boolean(value, out),
        (Type::Date { wide }, _) => times::date(value, *wide, out),
        (Type::DateTime, _) => times::date_time(value, out),
        (Type::DateTime64 { scale }, _) => times::date_time64(value, *scale, out),
        (Type::Uuid, _) => plain(value, is_uuid, "what is no UUID", out),
        (Type::Ipv4, _) => {
            plain(value, |text| text.parse::<Ipv4Addr>().is_ok(), "what is no IPv4 address", out)
        }
        (Type::Ipv6, _) => plain(value, is_ipv6, "what is no IP address", out),
        (Type::Enum(elements), _) => element(value, elements, out),
        (Type::Array(inner), Value::Array(items)) => list(items.iter().map(|item| (&**inner, item)), out),
        (Type::Map(key, inner), Value::Map(map)) => entries(key, inner, map, out),
        (Type::Tuple(parts), _) => tuple(parts, value, out),
        (Type::Json, _) => json(value, out),
        (Type::Array(_) | Type::Map(..), _) => Err(of_type(value)),
    }
}

/// Text in quotes. Bytes that are no UTF-8 stay as they are: ClickHouse's strings are bytes, in JSON too.
pub(super) fn quoted(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut plain_from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if !matches!(byte, 0..=0x1f | b'"' | b'\\') {
            continue;
        }
        out.extend_from_slice(bytes.get(plain_from..at).unwrap_or_default());
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            _ => drop(write!(out, "\\u{byte:04x}")),
        }
        plain_from = at + 1;
    }
    out.extend_from_slice(bytes.get(plain_from..).unwrap_or_default());
    out.push(b'"');
}

fn of_type(value: &Value) -> Reason {
    match value {
        Value::Array(_) => "an array",
        Value::Int(_) | Value::BigInt(_) => "an integer",
        Value::Map(_) => "a map",
        Value::Bool(_) => "a boolean",
        Value::Float(_) => "a float",
        Value::Str(_) => "this string",
        Value::Null | Value::Undefined => "null",
    }
    .into()
}

/// The text of a number or a boolean, and JSON of a list or a map: what a string column takes.
fn as_text(value: &Value) -> Cow<'_, [u8]> {
    match value {
        Value::Str(bytes) => Cow::Borrowed(bytes),
        Value::Float(float) => Cow::Owned(format!("{float:?}").into_bytes()),
        _ => Cow::Owned(value.to_json().into_bytes()),
    }
}

fn text(value: &Value, out: &mut Vec<u8>) {
    quoted(&as_text(value), out);
}

fn fixed(value: &Value, max: usize, out: &mut Vec<u8>) -> Result<(), Reason> {
    let bytes = as_text(value);
    if bytes.len() > max {
        return Err(format!("a string of {} bytes", bytes.len()).into());
    }
    quoted(&bytes, out);
    Ok(())
}

fn integer(value: &Value, bits: u16, signed: bool, out: &mut Vec<u8>) -> Result<(), Reason> {
    let int = match value {
        Value::Bool(flag) => i64::from(*flag),
        Value::Int(int) => *int,
        _ => {
            let digits = whole(value)?;
            return match fits(&digits, bits, signed) {
                true => {
                    out.extend_from_slice(digits.as_bytes());
                    Ok(())
                }
                false => Err(beyond(&digits)),
            };
        }
    };
    let fits = match (signed, bits) {
        (true, 64..) => true,
        (true, _) => (-1_i64 << (bits - 1)..1_i64 << (bits - 1)).contains(&int),
        (false, 64..) => int >= 0,
        (false, _) => (0..1_i64 << bits).contains(&int),
    };
    if !fits {
        return Err(beyond(&int.to_string()));
    }
    drop(write!(out, "{int}"));
    Ok(())
}

fn beyond(digits: &str) -> Reason {
    format!("{} integer of {} digits", if digits.starts_with('-') { "a negative" } else { "an" }, {
        digits.trim_start_matches('-').len()
    })
    .into()
}

/// The digits of a whole number, whatever it came as, without leading zeros.
fn whole(value: &Value) -> Result<Cow<'_, str>, Reason> {
    match value {
        Value::BigInt(int) => Ok(int.to_string().into()),
        Value::Float(float) if float.is_finite() && float.fract() == 0.0 => {
            Ok(format!("{:.0}", float + 0.0).into())
        }
        Value::Str(_) => {
            let text = value.as_str().ok_or_else(|| of_type(value))?;
            let digits = text.strip_prefix('-').unwrap_or(text);
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err("a string that is no whole number".into());
            }
            let trimmed = digits.trim_start_matches('0');
            Ok(match (trimmed, text.starts_with('-')) {
                ("", _) => "0".into(),
                (trimmed, true) => format!("-{trimmed}").into(),
                (trimmed, false) => trimmed.into(),
            })
        }
        Value::Float(_) => Err("a number with a fraction".into()),
        _ => Err(of_type(value)),
    }
}

/// Whether a whole number is within a type of `bits` bits.
fn fits(digits: &str, bits: u16, signed: bool) -> bool {
    let (negative, digits) = digits.strip_prefix('-').map_or((false, digits), |digits| (true, digits));
    if negative && !signed {
        return false;
    }
    let most: Cow<'_, str> = match (bits, signed) {
        (256, false) => {
            "115792089237316195423570985008687907853269984665640564039457584007913129639935".into()
        }
        (256, true) if negative => {
            "57896044618658097711785492504343953926634992332820282019728792003956564819968".into()
        }
        (256, true) => "57896044618658097711785492504343953926634992332820282019728792003956564819967".into(),
        (_, false) => (u128::MAX >> (128 - bits)).to_string().into(),
        (_, true) => ((u128::MAX >> (129 - bits)) + u128::from(negative)).to_string().into(),
    };
    (digits.len(), digits) <= (most.len(), &most)
}

fn float(value: &Value, bits: u16, out: &mut Vec<u8>) -> Result<(), Reason> {
    let float = match value {
        Value::Int(int) => {
            drop(write!(out, "{int}"));
            return Ok(());
        }
        Value::BigInt(int) => {
            drop(write!(out, "{int}"));
            return Ok(());
        }
        Value::Bool(flag) => {
            out.push(b'0' + u8::from(*flag));
            return Ok(());
        }
        Value::Float(float) => *float,
        Value::Str(_) => value
            .as_str()
            .and_then(|text| text.parse().ok())
            .ok_or(Reason::from("a string that is no number"))?,
        _ => return Err(of_type(value)),
    };
    if float.is_finite() {
        if bits == 32 && (float as f32).is_infinite() {
            return Err("a number beyond 32 bits".into());
        }
        drop(write!(out, "{float:?}"));
    } else {
        out.extend_from_slice(match float {
            _ if float.is_nan() => b"\"nan\"",
            f64::INFINITY => b"\"inf\"",
            _ => b"\"-inf\"",
        });
    }
    Ok(())
}

/// A float is rounded to the scale, since it is no exact number anyway; text and integers must fit.
fn decimal(value: &Value, precision: u8, scale: u8, out: &mut Vec<u8>) -> Result<(), Reason> {
    let (precision, scale) = (usize::from(precision), usize::from(scale));
    let number: Cow<'_, str> = match value {
        Value::Int(int) => int.to_string().into(),
        Value::BigInt(int) => int.to_string().into(),
        Value::Float(float) if float.is_finite() => format!("{float:.scale$}").into(),
        Value::Str(_) => value.as_str().ok_or_else(|| of_type(value))?.into(),
        _ => return Err(of_type(value)),
    };
    let digits = number.strip_prefix('-').unwrap_or(&number);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return Err("a string that is no decimal number".into());
    }
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    if fraction.len() > scale {
        return Err(format!("a number with {} digits behind the point", fraction.len()).into());
    }
    if whole.len() > precision.saturating_sub(scale) {
        return Err(format!("a number with {} digits before the point", whole.len()).into());
    }
    let sign = if number.starts_with('-') { "-" } else { "" };
    let whole = if whole.is_empty() { "0" } else { whole };
    let point = if fraction.is_empty() { "" } else { "." };
    // In quotes, so that no reader of JSON takes it for a double.
    drop(write!(out, "\"{sign}{whole}{point}{fraction}\""));
    Ok(())
}

fn boolean(value: &Value, out: &mut Vec<u8>) -> Result<(), Reason> {
    let flag = match value {
        Value::Bool(flag) => *flag,
        Value::Int(int @ 0..=1) => *int == 1,
        Value::Str(_) if value.as_str() == Some("true") => true,
        Value::Str(_) if value.as_str() == Some("false") => false,
        _ => return Err(of_type(value)),
    };
    out.extend_from_slice(if flag { b"true" } else { b"false" });
    Ok(())
}

/// Text that must be of a form.
fn plain(
    value: &Value,
    good: impl Fn(&str) -> bool,
    otherwise: &'static str,
    out: &mut Vec<u8>,
) -> Result<(), Reason> {
    let text = value.as_str().filter(|text| good(text)).ok_or(otherwise)?;
    quoted(text.as_bytes(), out);
    Ok(())
}

fn is_uuid(text: &str) -> bool {
    let hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let lengths = text.split('-').map(str::len);
    hex(&text.replace('-', "")) && (lengths.clone().eq([8, 4, 4, 4, 12]) || lengths.eq([32]))
}

fn is_ipv6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok() || text.parse::<Ipv4Addr>().is_ok()
}

/// By name, or by number.
fn element(value: &Value, elements: &[(String, i64)], out: &mut Vec<u8>) -> Result<(), Reason> {
    let named = value.as_str();
    let found =
        elements.iter().find(|(name, number)| Some(&**name) == named || value.as_i64() == Some(*number));
    let (name, _) = found.ok_or("what is no element of it")?;
    quoted(name.as_bytes(), out);
    Ok(())
}

fn list<'a>(items: impl Iterator<Item = (&'a Type, &'a Value)>, out: &mut Vec<u8>) -> Result<(), Reason> {
    out.push(b'[');
    for (at, (kind, item)) in items.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(kind, item, out)?;
    }
    out.push(b']');
    Ok(())
}

fn entries(key: &Type, inner: &Type, map: &Map, out: &mut Vec<u8>) -> Result<(), Reason> {
    out.push(b'{');
    let mut first = true;
    for (name, value) in map.iter().filter(|(_, value)| !value.is_undefined()) {
        // A null that the type does not take is left out, as it would be of a row.
        if matches!(value, Value::Null) && !inner.takes_null() && *inner != Type::Other {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        let start = out.len();
        write(key, &Value::str(name), out)?;
        // Keys are quoted in JSON, whatever they are.
        if out.get(start) != Some(&b'"') {
            out.insert(start, b'"');
            out.push(b'"');
        }
        out.push(b':');
        write(inner, value, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn tuple(parts: &[(Option<String>, Type)], value: &Value, out: &mut Vec<u8>) -> Result<(), Reason> {
    let named: Option<Vec<_>> = parts.iter().map(|(name, kind)| Some((name.as_deref()?, kind))).collect();
    match (value, named) {
        (Value::Map(map), Some(named)) => {
            if let Some(name) = map.keys().find(|key| !named.iter().any(|(name, _)| name == key)) {
                return Err(format!("a map with `{name}`").into());
            }
            let given =
                named.into_iter().map(|(name, kind)| (name, kind, map.get(name).unwrap_or(&Value::Null)));
            fields(given, out)
        }
        (Value::Array(items), Some(named)) if items.len() == named.len() => {
            fields(named.into_iter().zip(items).map(|((name, kind), item)| (name, kind, item)), out)
        }
        (Value::Array(items), None) if items.len() == parts.len() => {
            list(parts.iter().map(|(_, kind)| kind).zip(items), out)
        }
        _ => Err(of_type(value)),
    }
}

fn fields<'a>(
    parts: impl Iterator<Item = (&'a str, &'a Type, &'a Value)>,
    out: &mut Vec<u8>,
) -> Result<(), Reason> {
    out.push(b'{');
    for (at, (name, kind, value)) in parts.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        quoted(name.as_bytes(), out);
        out.push(b':');
        write(kind, value, out)?;
    }
    out.push(b'}');
    Ok(())
}

/// An object: the type takes nothing else.
fn json(value: &Value, out: &mut Vec<u8>) -> Result<(), Reason> {
    match value {
        Value::Map(map) => {
            out.extend_from_slice(map.to_json().as_bytes());
            Ok(())
        }
        Value::Str(_) => {
            let text = value.as_str().map(str::trim).filter(|text| text.starts_with('{'));
            let text = text.filter(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok());
            out.extend_from_slice(text.ok_or("a string that is no JSON object")?.as_bytes());
            Ok(())
        }
        _ => Err(of_type(value)),
    }
}

fn other(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Str(bytes) => quoted(bytes, out),
        _ => out.extend_from_slice(value.to_json().as_bytes()),
    }
}
